"""What is run of an experiment, and on which examples: counts, sizes, recipes and rows that do not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import transformers as tf
from test_reproduce import ARMS, BASES, Fake, tiny_experiment

from prefixtune import corpora, reproduce
from prefixtune.cli.reproduce import catalogue
from prefixtune.errors import ConfigError, ModelError
from prefixtune.heads import head_names
from prefixtune.reproduce import plan, recipes, runner, search, table
from prefixtune.reproduce.experiment import Base, Cell, Counted, Trained, Variable, stretched
from prefixtune.reproduce.options import Options
from prefixtune.reproduce.progress import Screen


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.place(tmp_path_factory.mktemp("place"))


def test_the_list_counts_the_runs_that_are_made(tmp_path: Path) -> None:
    for name, *_, told in catalogue()[1]:
        made = plan.Plan(name, reproduce.find(name), Options(model="m"), tmp_path, BASES[0])
        cells = made.cells(dict.fromkeys(made.experiment.corpora))
        assert int(told) == sum(runner._jobs(made, arm) for cell in cells for arm in made.arms(cell)), name


def test_a_row_that_another_one_reads_may_have_its_rates() -> None:
    arms = [Trained(name="A", kind="adaptive", recipe={"lr": 1}), Variable(name="V", after="A", recipe={"lr": 1})]
    chosen = search.chosen_arms(arms, Options(model="m", methods=["V"], lr={"A": [1.0], "V": [2.0]}))
    assert [arm.name for arm in chosen] == ["A", "V"]


def test_a_smoke_run_has_no_more_examples_than_it_reads(tmp_path: Path) -> None:
    for name in reproduce.names():
        options = Options(model="m", quick=True)
        made = plan.Plan(name, reproduce.find(name), options, tmp_path, BASES[0])
        sizes = {cell.size for cell in made.cells(dict.fromkeys(made.experiment.corpora))}
        assert all(size is None or size <= (options.limit or 0) for size in sizes), name


def test_an_experiment_that_no_row_fits_says_so(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = (Trained(name="P", kind="p_tuning_v2", options={"length": 5, "position_offset": 500}, recipe={"lr": 1e-2}),)
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: arms))
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")])
    with pytest.raises(ConfigError, match="no row has a run: P: a prefix of length 5 does not fit"):
        runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])


def test_a_limit_does_not_make_all_subsets_the_same(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(sizes=(10,), subsets=3, seeds=1))
    monkeypatch.setattr(runner, "fit", fake)
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")], methods=["FT"], lr=[1e-3], limit=10)
    runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    drawn = [str(data.train.rows) for data in fake.data]
    assert len(set(drawn)) == len(drawn) == 3


def test_a_text_of_the_recipe_is_a_text(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"""--recipe: end_token is 1; expected a text, as in end_token='"1"'"""):
        Options(model="m", recipe={"end_token": 1})
    assert Options(model="m", recipe={"end_token": "1", "warmup": 3}).changes() == {"end_token": "1", "warmup": 3}


def test_epochs_in_the_place_of_steps_keep_the_share_of_the_warm_up(place: Path, tmp_path: Path) -> None:
    experiment = tiny_experiment(recipe=lambda cell: {"max_steps": 200, "warmup": 50, "batch_size": 8})
    made = plan.Plan("fake", experiment, Options(model="m", epochs=3), tmp_path, BASES[0])
    assert made.recipe(Cell("conll04", None, BASES[0])) == {"warmup": 0.25, "batch_size": 8, "epochs": 3}


def test_a_recipe_is_told_as_few_steps_have_it_and_a_warm_up_that_was_asked_for_is_not_cut(tmp_path: Path) -> None:
    experiment = tiny_experiment(recipe=lambda cell: {"max_steps": 200, "warmup": 100, "eval_every": 20})
    cell = Cell("conll04", None, BASES[0])

    def asked(**options: Any) -> dict[str, Any]:
        return dict(plan.Plan("fake", experiment, Options(model="m", **options), tmp_path, BASES[0]).recipe(cell))

    assert asked(max_steps=4) == {"max_steps": 4, "warmup": 2, "eval_every": 4}
    assert asked(max_steps=100, recipe={"warmup": 99}) == {"max_steps": 100, "warmup": 99, "eval_every": 20}
    with pytest.raises(ConfigError, match="--recipe: warmup 50 leaves none of 4 steps; expected fewer"):
        asked(max_steps=4, recipe={"warmup": 50})


def test_a_recipe_that_depends_on_the_size_is_told_for_each(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe(cell: Cell) -> dict[str, Any]:
        return {"max_steps": 5 if cell.size == 8 else 2, "end_token": "<s>"}

    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(sizes=(4, 6, 8), recipe=recipe))
    monkeypatch.setattr(runner, "fit", Fake())
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")], methods=["FT"], lr=[1e-3])
    told = table.caption(runner.run("fake", options, tmp_path / "out", resume=False, command=["x"]))
    assert "Recipe of conll04, 4, 6 examples: max_steps 2, end_token `'<s>'`." in told
    assert "Recipe of conll04, 8 examples: max_steps 5, end_token `'<s>'`." in told


def test_an_experiment_whose_data_do_not_fit_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.place(tmp_path / "place")
    with open(folder / "e2e" / "devset.csv", "a") as file:
        file.write(f"name[Aa],{'b' * 200}\n")
    arms = (Trained(name="P", kind="p_tuning_v2", options={"length": 5}, recipe={"lr": 1e-2, "max_steps": 1}),)
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(corpora=("e2e",), arms=lambda cell: arms))
    asked = {"model": str(folder / "gpt2"), "data": [str(folder)], "seeds": 1}
    output = tmp_path / "out"
    told = "no row has a run: P: .*a target has 201 tokens .*--recipe max_target_length=N"
    with pytest.raises(ConfigError, match=told):
        runner.run("fake", Options(**asked), output, resume=False, command=["x"])
    assert not list(output.iterdir())
    monkeypatch.setattr(runner, "fit", Fake())
    runner.run("fake", Options(**asked, recipe={"max_target_length": 20}), output, resume=False, command=["x"])
    assert (output / runner.RECORD).is_file()


# --- what is not as in the paper -----------------------------------------------------------------------------------

UNDERSTANDING = (*recipes.SUPERGLUE, *recipes.NER, *recipes.MORE_SUPERGLUE, *recipes.MORE_NER)


@pytest.mark.parametrize(
    ("name", "base", "options", "message"),
    [
        ("prefix_tuning", "bert", {}, "bert reads the whole text at once"),
        ("prefix_tuning", "gpt2", {"recipe": {"schedule": "linaer"}}, "linaer"),
        ("prefix_tuning", "gpt2", {"methods": ["LoRA 0.1 %"]}, "no row has a run: LoRA 0.1 %: a LoRA of a"),
    ],
)
def test_what_is_refused_before_a_run_is_begun_leaves_the_folder_to_the_next_command(
    name: str, base: str, options: dict[str, Any], message: str, place: Path, tmp_path: Path
) -> None:
    asked = Options(model=str(place / base), data=[str(place / "e2e")], corpora=["e2e"], quick=True, **options)
    output = tmp_path / "out"
    with pytest.raises((ConfigError, ModelError), match=message):
        runner.run(name, asked, output, resume=False, command=["x"])
    assert not output.exists() or not list(output.iterdir())


def test_one_draw_of_few_examples_is_told_where_it_is_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(sizes=(4,), seeds=2))
    monkeypatch.setattr(runner, "fit", Fake())
    told = {}
    for subsets in (1, 2):
        data = [str(place / "conll04")]
        options = Options(model=str(place / "bert"), data=data, methods=["FT"], lr=[1e-3], subsets=subsets)
        found = runner.run("fake", options, tmp_path / str(subsets), resume=False, command=["x"])
        told[subsets] = any(line.startswith("All seeds share one draw") for line in table.caption(found))
    assert told == {1: True, 2: False}


def test_subsets_that_are_all_the_same_are_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of one draw would be counted as runs, and the deviation be that of seeds alone."""
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(sizes=(40,), seeds=2))
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")], methods=["FT"], subsets=3)
    with pytest.raises(ConfigError, match="--subsets 3: conll04 has 40 examples to draw 40 from"):
        runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])


def test_a_row_whose_prefix_leaves_no_room_is_left_out_and_the_others_stay(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [
        Trained(name=f"P {length}", kind="p_tuning_v2", options={"length": length}, recipe={"lr": 1e-2})
        for length in (2, 157)
    ]
    recipe = {"max_steps": 1, "batch_size": 8, "eval_every": 1, "max_new_tokens": 3}
    monkeypatch.setattr(
        reproduce, "find", lambda name: tiny_experiment(corpora=("e2e",), arms=lambda _: arms, recipe=lambda _: recipe)
    )
    options = Options(model=str(place / "gpt2"), data=[str(place / "e2e")])
    found = runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    assert [bool(row.runs) for row in found.rows] == [True, False]
    assert any(line.startswith("Left out: P 157: ") and "room for 3" in line for line in table.caption(found))


def test_a_length_that_leaves_no_room_is_out_of_the_search_and_its_row_stays(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [Trained(name="P", kind="p_tuning_v2", options={"length": 2}, recipe={"lr": 1e-2})]
    recipe = {"max_steps": 1, "batch_size": 8, "eval_every": 1, "max_new_tokens": 3}
    monkeypatch.setattr(
        reproduce, "find", lambda name: tiny_experiment(corpora=("e2e",), arms=lambda _: arms, recipe=lambda _: recipe)
    )
    options = Options(model=str(place / "gpt2"), data=[str(place / "e2e")], lengths=[157, 2])
    found = runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    row = found.rows[0]
    assert row.runs and row.chosen is not None and row.chosen.options == {"length": 2}
    assert [one.options["length"] for one, value in row.trials if value is None] == [157]
    told = [line for line in table.caption(found) if line.startswith("Left out: P with lr 0.01, length 157: ")]
    assert len(told) == 1 and "room for 3" in told[0]


def test_a_row_that_cannot_take_a_setting_is_left_out_and_the_others_stay(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [
        Trained(name=kind, kind=kind, options={"length": 2}, recipe={"lr": 1e-2})
        for kind in ("adaptive", "p_tuning_v2")
    ]
    recipe = {"max_steps": 1, "batch_size": 8, "eval_every": 1, "part_lr": {"gates": 0.1}}
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda _: arms, recipe=lambda _: recipe))
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")])
    found = runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    assert [bool(row.runs) for row in found.rows] == [True, False]
    assert "Left out: p_tuning_v2: part_lr: what p_tuning_v2 trains has no gates; it has: " in "\n".join(
        table.caption(found)
    )


def test_rows_that_are_cut_differently_say_so(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = [Trained(name="FT", kind="full", recipe={"lr": 1e-3})]
    arms += [Trained(name="P", kind="p_tuning_v2", options={"length": 139}, recipe={"lr": 1e-2})]
    recipe = {"max_steps": 1, "batch_size": 8, "eval_every": 1, "max_new_tokens": 3}
    told = []
    for shown in (arms, arms[:1]):
        monkeypatch.setattr(
            reproduce, "find",
            lambda name, shown=shown: tiny_experiment(corpora=("e2e",), arms=lambda _: shown, recipe=lambda _: recipe),
        )  # fmt: skip
        options = Options(model=str(place / "gpt2"), data=[str(place / "e2e")])
        found = runner.run("fake", options, tmp_path / str(len(shown)), resume=False, command=["x"])
        told.append([line for line in table.caption(found) if "unequal room" in line])
    assert told[1] == [] and len(told[0]) == 1
    rooms = re.findall(r"(FT|P) ([\d,]+) of ([\d,]+) at (\d+) tokens", told[0][0])
    assert [(name, int(room)) for name, _, _, room in rooms] == [("FT", 160), ("P", 21)]
    assert int(rooms[0][1]) < int(rooms[1][1])


@pytest.mark.parametrize(("dtype", "told"), [("bfloat16", True), ("float32", False)])
def test_rows_over_a_base_of_unequal_precision_say_so(
    dtype: str, told: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"max_steps": 1, "batch_size": 8, "eval_every": 1, "dtype": dtype}
    experiment = tiny_experiment(arms=lambda cell: ARMS[:2], recipe=lambda cell: recipe)
    monkeypatch.setattr(reproduce, "find", lambda name: experiment)
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")], lr=[1e-3])
    lines = table.caption(runner.run("fake", options, tmp_path / "out", resume=False, command=["x"]))
    others = {arm.name for arm in ARMS[:2]} - {"FT"}
    wanted = f"a base of unequal precision: {', '.join(others)} in bfloat16; FT in float32."
    assert any(line.endswith(wanted) for line in lines) is told


@pytest.mark.parametrize(("steps", "warmup"), [(60, 30), (100, 50), (101, 50), (150, 75), (1, 0)])
def test_a_trial_warms_up_for_the_same_share_of_its_steps(
    steps: int, warmup: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    class Noting(Fake):
        def __call__(self, config: Any, *args: Any, **more: Any) -> Any:
            seen[Path(config.output).name] = (config.max_steps, config.warmup)
            return super().__call__(config, *args, **more)

    experiment = tiny_experiment(arms=lambda cell: ARMS[:1], recipe=lambda cell: {"max_steps": 200, "warmup": 100})
    monkeypatch.setattr(reproduce, "find", lambda name: experiment)
    monkeypatch.setattr(runner, "fit", Noting())
    data = [str(place / "conll04")]
    options = Options(model=str(place / "bert"), data=data, lr=[1e-3, 1e-2], trial_steps=steps)
    runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    assert seen == {"trial-1": (steps, warmup), "trial-2": (steps, warmup), "seed-42": (200, 100)}


def test_parameters_of_an_encoder_are_counted_on_its_body(place: Path, tmp_path: Path) -> None:
    options = Options(model=str(place / "bert"), methods=["P-Tuning v2 10", "APT 10", "FT"])
    found = runner.run("prefix_size", options, tmp_path / "out", resume=False, command=["x"])
    stored = {row.arm.name: row.runs[0]["parameters"]["stored"] for row in found.rows}
    layers, width, P = 2, 32, 10
    body = tf.BertModel.from_pretrained(place / "bert")
    assert stored == {
        "P-Tuning v2 10": layers * 2 * P * width,
        "APT 10": layers * (2 * P * width + width * P + 1),
        "FT": sum(parameter.numel() for parameter in body.parameters()),
    }


def departures(corpus: str, kind: str) -> str:
    return " ".join(recipes.departures(Cell(corpus, None, Base(kind, False, len))))


@pytest.mark.parametrize("name", [name for name in reproduce.names() if name.startswith("apt")])
def test_the_caption_tells_once_where_a_recipe_or_a_head_is_not_the_papers(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = reproduce.find(name).departures
    assert told is recipes.departures
    wic = Cell("wic", None, BASES[0])
    fake = tiny_experiment(sizes=(4, 6), departures=lambda cell: told(wic))
    monkeypatch.setattr(reproduce, "find", lambda name: fake)
    monkeypatch.setattr(runner, "fit", Fake())
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")], methods=["FT"], lr=[1e-3])
    lines = table.caption(runner.run("fake", options, tmp_path / "out", resume=False, command=["x"]))
    assert recipes.departures(wic)
    for line in recipes.departures(wic):
        assert lines.count(line) == 1


def test_recipes_that_the_authors_do_not_have_are_told_and_no_others() -> None:
    """By P-Tuning v2's scripts: WiC on BERT with an MLP at 1e-4, CoNLL-2003 on RoBERTa alone."""
    assert "with an MLP at a rate of 1e-4" in departures("wic", "bert")
    assert "RoBERTa's" in departures("conll2003", "bert")
    borrowed = {name for name in UNDERSTANDING if "not among" in departures(name, "bert")}
    assert borrowed == {*recipes.MORE_SUPERGLUE, *recipes.MORE_NER}
    assert "MLP" not in departures("wic", "roberta")
    assert "dropout of 0.2" in departures("conll04", "bert")
    assert not departures("conll2003", "roberta")
    faithful = [name for name in UNDERSTANDING if not departures(name, "bert")]
    assert faithful == ["boolq", "copa", "rte", "ontonotes"]


@pytest.mark.parametrize("kind", ["bert", "albert", "roberta", "xlm-roberta", "deberta-v2", "electra", "distilbert"])
def test_a_head_of_two_layers_is_told_where_there_is_one(kind: str) -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9, "embedding_size": 8}
    model = tf.AutoModelForSequenceClassification.from_config(tf.AutoConfig.for_model(kind, **shape))
    size = sum(p.numel() for name in head_names(model) for p in model.get_submodule(name).parameters())
    assert size in (2 * 8 + 2, 2 * 8 + 2 + 8 * 8 + 8)
    for name in UNDERSTANDING:
        told = departures(name, kind)
        assert ("two layers" in told) == (corpora.find(name).task == "classification" and size > 2 * 8 + 2)
        assert ("marked span" in told) == (corpora.find(name).task == "spans")


@pytest.mark.parametrize(
    ("length", "times", "expected"), [(11, 1.5, 17), (3, 1.5, 5), (5, 1.5, 8), (8, 1.5, 12), (1, 0.2, 1)]
)
def test_a_stretched_length_has_its_halves_rounded_up(length: int, times: float, expected: int) -> None:
    assert stretched(length, times) == expected


@pytest.mark.parametrize("corpus", ["e2e", "webnlg", "dart"])
def test_baselines_whose_batches_are_not_the_papers_are_told_beside_its_figures(corpus: str) -> None:
    cell = Cell(corpus, None, Base("gpt2", False, len))
    told = " ".join(reproduce.find("prefix_tuning").departures(cell))
    others = {"e2e": "adapters have batches of 5", "webnlg": "has 10 epochs of batch 6", "dart": "has batches of 6"}
    assert f"{corpus}: all rows have the epochs and batches of the prefix; " in told and others[corpus] in told
    assert recipes.generation(cell)["batch_size"] == (10 if corpus == "e2e" else 5)
    assert ("multi-bleu" in told) == (corpus == "dart")


def test_a_record_that_was_half_written_is_no_experiment(tmp_path: Path) -> None:
    (tmp_path / f".{runner.RECORD}.ab12").write_text("{")
    for resume in (False, True):
        runner.open_output(tmp_path, {"experiment": "apt"}, resume=resume)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds no experiment"):
        runner.open_output(tmp_path, {"experiment": "apt"}, resume=False)


def test_rows_that_do_not_fit_the_base_count_as_passed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = (
        Trained(name="infix", kind="infix", options={"length": 2}, recipe={"lr": 1e-2}),
        Trained(name="FT", kind="full", recipe={"lr": 1e-3}),
    )
    screens: list[Screen] = []
    monkeypatch.setattr(runner, "Screen", lambda total: screens.append(Screen(total)) or screens[-1])
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: arms))
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")], max_steps=1, seeds=2, limit=4)
    runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    (screen,) = screens
    assert screen.passed == screen.progress.tasks[0].total == screen.progress.tasks[0].completed == 4


# --- rows of their own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("LoRA 1%", "LoRA 1"), ("P", "p"), ("%",)])
def test_rows_that_would_share_a_folder_are_refused(
    names: tuple[str, ...], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [Trained(name=name, kind="full", recipe={"lr": 1e-3}) for name in names]
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: arms))
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")])
    with pytest.raises(ConfigError, match=f"the row '{names[-1]}': the folder of its runs .*; give rows names that"):
        runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    assert not list((tmp_path / "out").rglob("run.json"))


def test_names_in_any_script_have_folders_of_their_own() -> None:
    assert len({plan.slug(name) for name in ("\u03bb=1", "\u03b1=1", "\u524d\u7f00", "\u5fae\u8c03")}) == 4
    assert plan.slug("P-Tuning v2 1.5x") == "p-tuning-v2-1.5x"


@pytest.mark.parametrize("rates", [[1e-3], [1e-3, 1e-2]])
def test_a_finished_run_is_not_taken_for_one_of_other_settings(
    rates: list[float], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment's file was edited, or a newer version has another recipe."""
    length, fake = [4], Fake()

    def arms(cell: Cell) -> list[Trained]:
        return [Trained(name="P", kind="p_tuning_v2", options={"length": length[0]}, recipe={"lr": 1e-3})]

    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=arms))
    monkeypatch.setattr(runner, "fit", fake)
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")], lr=rates)
    runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    runner.run("fake", options, tmp_path / "out", resume=True, command=["x"])
    begun = len(fake.calls)
    length[0] = 16
    with pytest.raises(ConfigError, match="--resume: length is 16 but the run in .* has 4"):
        runner.run("fake", options, tmp_path / "out", resume=True, command=["x"])
    assert len(fake.calls) == begun


def test_what_is_counted_is_counted_again_when_it_changed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = [2]

    def arms(cell: Cell) -> list[Counted]:
        return [Counted(name="P", kind="p_tuning_v2", options={"length": length[0]})]

    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(corpora=(), arms=arms))
    options, stored = Options(model=str(place / "gpt2")), []
    for length[0] in (2, 6):
        found = runner.run("fake", options, tmp_path / "out", resume=length[0] == 6, command=["x"])
        stored.append(found.rows[0].runs[0]["parameters"]["stored"])
    assert stored[1] == 3 * stored[0]


def test_a_line_in_a_rows_name_does_not_split_the_table(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [Trained(name="P|Q", kind="full", recipe={"lr": 1e-3})]
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: arms))
    monkeypatch.setattr(runner, "fit", Fake())
    options = Options(model=str(place / "bert"), data=[str(place / "conll04")])
    page = table.markdown(runner.run("fake", options, tmp_path / "out", resume=False, command=["x"]))
    assert "| P\\|Q | " in page
