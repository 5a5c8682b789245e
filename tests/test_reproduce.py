"""The papers' experiments: what is declared fits what there is, the search is fair, and a killed one resumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import tiny
import torch
from test_startup import HEAVY, loaded_after, run_cli

from prefixtune import corpora, evaluation, reproduce
from prefixtune.cli import main
from prefixtune.errors import ConfigError
from prefixtune.reproduce import derive, material, picture, plan, runner, search, table
from prefixtune.reproduce.experiment import Base, Cell, Counted, Ensemble, Experiment, Trained, Variable
from prefixtune.reproduce.options import Options
from prefixtune.tasks import Decoding
from prefixtune.training import RunConfig, results
from prefixtune.training.run import Diverged

# torch's scheduler and accelerate warn of each other's use; nothing of ours can change it.
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.place(tmp_path_factory.mktemp("place"))


def flags(place: Path, output: Path, *more: str, model: str = "bert", corpus: str = "conll04") -> list[str]:
    return [
        "--model", str(place / model), "--data", f"{corpus}={place / corpus}", "--output", str(output), "--epochs", "1",
        *more,
    ]  # fmt: skip


# --- what is declared --------------------------------------------------------------------------------------------

BASES = [Base("bert", False, len), Base("roberta", False, len), Base("bart", True, len)]


def cells(experiment: Experiment) -> list[Cell]:
    return [
        Cell(corpus, size, base)
        for corpus in (*experiment.corpora, *experiment.more) or (None,)
        for size in experiment.sizes or (None,)
        for base in BASES
    ]


@pytest.mark.parametrize("name", reproduce.names())
def test_every_experiment_can_be_made(name: str) -> None:
    experiment = reproduce.find(name)
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    assert {*experiment.corpora, *experiment.more} <= set(corpora.names())
    for cell in cells(experiment):
        arms = experiment.arms(cell)
        assert len({plan.slug(arm.name) for arm in arms}) == len(arms), "rows would share a folder"
        assert not any("," in arm.name or ":" in arm.name for arm in arms), "--methods could not name it"
        assert set(experiment.recipe(cell)) <= fields
        seen: list[str] = []
        for arm in arms:
            if isinstance(arm, Trained | Counted):
                assert plan.adaptation(arm.kind, arm.options).kind() == arm.kind
            if isinstance(arm, Trained | Variable):
                assert set(arm.recipe) <= {"lr", "part_lr"}, "the rest is shared by all rows"
            assert search.comes_after(arm) in (None, *seen), "what a row reads is run before it"
            seen.append(arm.name)


@pytest.mark.parametrize("name", reproduce.names())
def test_the_papers_figures_are_of_rows_corpora_and_metrics_that_there_are(name: str) -> None:
    experiment = reproduce.find(name)
    for figure in experiment.figures:
        assert figure.size in (experiment.sizes or (None,))
        for corpus in [figure.corpus] if figure.corpus else experiment.corpora:
            assert corpus in experiment.corpora
            assert figure.metric in corpora.find(corpus).metrics
            assert figure.arm in {arm.name for arm in experiment.arms(Cell(corpus, figure.size, BASES[0]))}


def test_the_papers_own_numbers_are_those_of_its_tables() -> None:
    """Means that the papers print, from the figures here: a slip of the pen would show."""
    from prefixtune.reproduce import papers

    def mean(base: str, arm: str, metric: str) -> float:
        found = [f.value for f in papers.APT if (f.base, f.arm, f.metric) == (base, arm, metric)]
        return round(sum(found) / len(found), 1)

    printed = {
        ("BERT-base", "P-Tuning v2"): (69.2, 86.3), ("BERT-base", "APT"): (70.7, 87.0),
        ("BERT-large", "FT"): (72.1, 89.2), ("BERT-large", "P-Tuning v2"): (74.1, 87.0),
        ("BERT-large", "APT"): (75.9, 88.4), ("RoBERTa-large", "P-Tuning v2"): (80.8, 90.3),
        ("RoBERTa-large", "APT"): (82.3, 90.5),
    }  # fmt: skip
    for (base, arm), means in printed.items():
        assert (mean(base, arm, "accuracy"), mean(base, arm, "entity_f1")) == pytest.approx(means, abs=0.11)
    assert all(figure.unverified for figure in papers.APT)
    assert not any(figure.unverified for figure in papers.TABLE_TO_TEXT)


def test_the_list_and_the_help_load_nothing_heavy() -> None:
    for argv in (["reproduce"], ["reproduce", "--help"], ["reproduce", "list"]):
        loaded, printed = loaded_after(run_cli(*argv))
        assert loaded.isdisjoint(HEAVY)
        assert "prefix_low_data" in printed or "--max-steps" in printed


# --- the search --------------------------------------------------------------------------------------------------

ARMS = (
    Trained(name="FT", kind="full", recipe={"lr": 1e-5}),
    Trained(name="P", kind="p_tuning_v2", options={"length": 4}, recipe={"lr": 1e-2}),
    Trained(name="P 1.5x", kind="p_tuning_v2", options={"length": 6}, recipe={"lr": 1e-2}, stretch=1.5),
    Trained(name="A", kind="adaptive", options={"length": 4}, recipe={"lr": 1e-2}),
    Variable(name="V", after="A", recipe={"lr": 1e-2}),
)


def tiny_experiment(**changes: Any) -> Experiment:
    shape = {"paper": "none", "shows": "nothing", "corpora": ("conll04",), "arms": lambda cell: ARMS, "seeds": 1}
    shape |= {"recipe": lambda cell: {"epochs": 1, "batch_size": 8}}
    return Experiment(**(shape | changes))


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({}, 1),
        ({"trials": 4}, 4),
        ({"lr": ["1e-3", 1e-2, 3e-2]}, 3),
        ({"lr": [1e-3, 1e-2], "lengths": [2, 8, 16]}, 6),
        ({"lr": {"FT": [1e-5, 5e-5], "A": [1e-2, 2e-2]}, "trials": 2}, 2),
        ({"lengths": [2, 8], "trials": 5}, 5),
    ],
)
def test_every_row_gets_the_same_number_of_different_trials(given: dict[str, Any], count: int) -> None:
    options = Options(model="m", **given)
    for arm in ARMS:
        found = search.candidates(arm, tiny_experiment(), options)
        assert len(found) == count == len({one.told() for one in found})


def test_what_is_tried_follows_the_options() -> None:
    def tried(arm: int, **given: Any) -> list[tuple[float, int | None]]:
        found = search.candidates(ARMS[arm], tiny_experiment(), Options(model="m", **given))
        return [(one.recipe["lr"], one.options.get("length")) for one in found]

    assert tried(0) == [(1e-5, None)]  # the recipe's own, where nothing is searched
    assert tried(0, trials=3) == [(1e-5, None), (3e-5, None), (3.33e-6, None)]
    assert tried(1, lr=[1e-3, 1e-2], lengths=[2, 8]) == [(1e-3, 2), (1e-3, 8), (1e-2, 2), (1e-2, 8)]
    assert tried(2, lr=[1e-3], lengths=[2, 8]) == [(1e-3, 3), (1e-3, 12)]  # stretched, as the row is
    assert tried(0, lr=[1e-3, 1e-1], lengths=[2, 8]) == [(1e-3, None), (4.64e-3, None), (2.15e-2, None), (1e-1, None)]


def test_an_unfair_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="every row must get the same number of learning rates"):
        search.count_trials(tiny_experiment(), Options(model="m", lr={"FT": [1e-5], "P": [1e-3, 1e-2]}))
    with pytest.raises(ConfigError, match="--trials 2 is fewer than the 4 that --lr and --lengths make"):
        search.count_trials(tiny_experiment(), Options(model="m", trials=2, lr=[1e-3, 1e-2], lengths=[1, 2]))


def test_steps_of_trials_that_there_are_none_of_are_refused() -> None:
    with pytest.raises(ConfigError, match="--trial-steps shortens trials, and nothing is tried; give --trials"):
        search.count_trials(tiny_experiment(), Options(model="m", lr=[1e-3], trial_steps=5))
    with pytest.raises(ConfigError, match="--trial-steps 0: expected at least 1"):
        Options(model="m", trial_steps=0)


class Fake:
    """In the place of training: dev scores by learning rate, test scores that would choose otherwise."""

    def __init__(self, diverges: float | None = None) -> None:
        self.calls: list[tuple[str, float, set[str], int]] = []
        self.steps: dict[str, int | None] = {}
        self.tasks: list[Any] = []
        self.data: list[Any] = []
        self.diverges = diverges

    def __call__(self, config: RunConfig, what: Any, task: Any, data: Any, **_: Any) -> dict[str, Any]:
        self.tasks.append(task)
        self.data.append(data)
        self.calls.append((config.output, config.lr, set(data.tests), config.seed))
        self.steps[Path(config.output).name] = config.max_steps
        Path(config.output).mkdir(parents=True, exist_ok=True)
        (Path(config.output) / "run.json").write_text(json.dumps({"data": data.facts, "versions": results.versions()}))
        (Path(config.output) / "run.yaml").write_text(json.dumps({**config.settings(), **what.options()}))
        if config.lr == self.diverges:
            raise Diverged
        dev = {1e-3: 0.2, 1e-2: 0.9, 1e-1: 0.1}[config.lr]
        sizes = {"base": 10, "trained": 1, "stored": 1, "stored_percent": 10.0}
        found = {"eval": {"f1": dev}, "chosen_by": "f1", "seconds": 1.0, "parameters": sizes}
        if data.tests:
            found["tests"] = {name: {"entity_f1": 1 - dev} for name in data.tests}
        (Path(config.output) / "metrics.json").write_text(json.dumps(found))
        return found


def run_fake(place: Path, output: Path, monkeypatch: pytest.MonkeyPatch, fake: Fake, **more: Any) -> runner.Findings:
    arms = (ARMS[0], ARMS[1])
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: arms))
    monkeypatch.setattr(runner, "fit", fake)
    options = Options(model=str(place / "bert"), data=[str(place)], lr=[1e-3, 1e-2, 1e-1], seeds=2, **more)
    return runner.run("fake", options, output, resume=False, command=["x"])


def test_development_data_choose_and_trials_never_see_the_test_data(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    found = run_fake(place, tmp_path / "out", monkeypatch, fake)
    for row in found.rows:
        assert row.chosen is not None and row.chosen.recipe == {"lr": 1e-2}  # test scores would choose 1e-1
        assert [one.recipe["lr"] for one, _ in row.trials] == [1e-3, 1e-2, 1e-1]
    trials = [call for call in fake.calls if "trial" in call[0]]
    finals = [call for call in fake.calls if "trial" not in call[0]]
    assert len(trials) == 2 * 3 and all(tests == set() for _, _, tests, _ in trials)
    assert [(rate, tests, seed) for _, rate, tests, seed in finals] == 2 * [
        (1e-2, {"test"}, 42), (1e-2, {"test"}, 43),
    ]  # fmt: skip


def test_trials_can_be_shorter_than_runs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    run_fake(place, tmp_path / "out", monkeypatch, fake, trial_steps=7)
    assert {fake.steps["trial-1"], fake.steps["trial-3"]} == {7}
    assert {fake.steps["seed-42"], fake.steps["seed-43"]} == {None}


@pytest.mark.parametrize("by", ["the experiment", "--recipe"])
def test_what_a_recipe_says_of_the_task_reaches_training(
    by: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"max_target_length": 5, "separator": " => "}
    fake = Fake()
    recipe = said if by == "the experiment" else {"epochs": 1}
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(corpora=("e2e",), recipe=lambda cell: recipe))
    monkeypatch.setattr(runner, "fit", fake)
    options = Options(
        model=str(place / "gpt2"), data={"e2e": str(place / "e2e")}, lr=[1e-3], methods=["FT"],
        recipe=None if by == "the experiment" else said,
    )  # fmt: skip
    runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    assert [(task.max_target_length, task.separator) for task in fake.tasks] == [(5, " => ")]


def test_a_rate_of_a_part_that_the_user_gives_goes_before_the_rows(place: Path, tmp_path: Path) -> None:
    arm = Trained(name="P", kind="p_tuning_v2", recipe={"lr": 0.1, "part_lr": {"keys": 0.3}})
    options = Options(model=str(place / "bert"), data=[str(place)], recipe={"part_lr": {"keys": 0.05}})
    made = plan.Plan("fake", tiny_experiment(arms=lambda cell: [arm]), options, tmp_path, BASES[0])
    data = material.read("conll04", material.Place(str(place / "conll04"), own=True), None)
    (tried,) = search.candidates(arm, made.experiment, options)
    config = made.config(Cell("conll04", None, BASES[0]), arm, data, tried, kind=arm.kind, seed=1, output=tmp_path)
    assert (config.lr, config.part_lr) == (0.1, {"keys": 0.05})


@pytest.mark.parametrize(
    "name", ["max_target_length", "batch_size", "epochs", "warmup", "part_lr", "length_penalty", "seed"]
)
def test_a_word_where_a_number_belongs_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 'abc'; expected"):
        RunConfig(model="m", task="tagging", train="t", method="full", output="o", **{name: "abc"})


@pytest.mark.parametrize("name", ["train_split", "subset", "columns"])
def test_an_option_that_an_experiment_has_no_use_for_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown option '{name}'"):
        Options(model="m", recipe={name: "x"})


def test_rates_of_parts_keep_their_ratio_to_the_rate_that_is_tried(place: Path, tmp_path: Path) -> None:
    arm = Trained(name="P", kind="p_tuning_v2", recipe={"lr": 0.1, "part_lr": {"keys": 0.3}})
    options = Options(model=str(place / "bert"), data=[str(place)], lr=[0.01, 0.1])
    experiment = tiny_experiment(arms=lambda cell: [arm])
    made = plan.Plan("fake", experiment, options, tmp_path, BASES[0])
    data = material.read("conll04", material.Place(str(place / "conll04"), own=True), None)
    configs = [
        made.config(Cell("conll04", None, BASES[0]), arm, data, tried, kind=arm.kind, seed=1, output=tmp_path)
        for tried in search.candidates(arm, experiment, options)
    ]
    rates = [(config.lr, (config.part_lr or {})["keys"]) for config in configs]
    assert rates == [(0.01, pytest.approx(0.03)), (0.1, pytest.approx(0.3))]


def test_a_trial_that_diverges_is_out_of_the_search(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_fake(place, tmp_path / "out", monkeypatch, Fake(diverges=1e-2))
    assert [row.chosen.recipe["lr"] for row in found.rows if row.chosen] == [1e-3, 1e-3]
    assert [value for _, value in found.rows[0].trials] == [0.2, None, 0.1]
    told = json.loads((tmp_path / "out/runs/conll04/ft/trial-2/diverged.json").read_text())
    assert "diverged" in told["reason"]


# --- whole experiments -------------------------------------------------------------------------------------------


def without_time(path: Path) -> list[Any]:
    rows = json.loads((path / table.JSON).read_text())["rows"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_an_experiment_from_the_command_line_to_its_table(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    argv = flags(place, output, "--seeds", "2", "--lr", "1e-2,3e-2", "--lengths", "4", "--corpora", "conll04")
    argv += ["--trial-steps", "2", "--dev-limit", "8"]
    assert main(["reproduce", "apt_variable", *argv]) == 0
    page = (output / table.MARKDOWN).read_text()
    rows = {row["row"]: row for row in json.loads((output / table.JSON).read_text())["rows"]}
    assert list(rows) == ["fixed", "enlarged 1.5x", "APT", "variable", "variable 0.8x"]
    assert all(len(row["scores"]["test"]["entity_f1"]["values"]) == 2 for row in rows.values())
    assert all(len(row["trials"]) == 2 for row in rows.values())
    layers, per = 2, 2 * 32  # a position of a layer: a key and a value of 32 numbers
    head = rows["fixed"]["parameters"]["stored"] - layers * 4 * per
    sizes = {name: (row["parameters"]["stored"] - head) // per for name, row in rows.items()}
    assert (sizes["fixed"], sizes["enlarged 1.5x"], sizes["variable"], sizes["variable 0.8x"]) == (8, 12, 8, 6)
    assert page.startswith(f"# apt_variable\n\n```bash\nprefixtune reproduce apt_variable --model {place / 'bert'} ")
    assert "± " in page and "Changed from the paper's recipe: --dev-limit 8, " in page and "epochs 1.0" in page
    assert "Every row had 2 trials of 2 steps with seed 42" in page
    assert [path.name for path in output.rglob("*.png")] == ["conll04-test.png"]
    assert (output / "conll04-test.png").stat().st_size > 1000
    runs = {path.parent.name for path in (output / "runs/conll04/variable").glob("*/metrics.json")}
    assert runs == {"trial-1", "trial-2", "seed-42", "seed-43"}
    settings = (output / "runs/conll04/variable/seed-42/run.yaml").read_text()
    assert "lengths:" in settings and "prefixtune reproduce" in settings.splitlines()[0]
    assert "APT, section 4.4" in capsys.readouterr().err
    assert not list(output.rglob("checkpoints"))


@pytest.mark.slow
def test_a_killed_experiment_resumes_to_the_same_table(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--seeds", "2", "--methods", "FT,P-Tuning v2", "--lengths", "2", "--trials", "2", "--corpora", "conll04")
    assert main(["reproduce", "apt", *flags(place, tmp_path / "whole", *more)]) == 0
    real, done = runner.fit, []

    def killed(*args: Any, **options: Any) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(args[0].output)
        return real(*args, **options)

    argv = ["reproduce", "apt", *flags(place, tmp_path / "broken", *more)]
    with monkeypatch.context() as patch:
        patch.setattr(runner, "fit", killed)
        assert main(argv) == 130
    assert not (tmp_path / "broken" / table.MARKDOWN).exists()
    assert main(argv) == 2
    assert "continue it with --resume" in capsys.readouterr().err
    again: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(runner, "fit", lambda *args, **options: again.append(args[0].output) or real(*args, **options))
        assert main([*argv, "--resume"]) == 0
    assert len(done) + len(again) == 2 * (2 + 2) and not set(done) & set(again)
    assert without_time(tmp_path / "broken") == without_time(tmp_path / "whole")
    assert main([*argv, "--resume", "--limit", "3"]) == 2
    assert "--resume: limit is 3 but the experiment" in capsys.readouterr().err


@pytest.mark.slow
def test_few_examples_are_run_over_subsets_and_seeds(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    more = ("--sizes", "8,12", "--subsets", "2", "--max-steps", "2", "--recipe", "base_dropout=false", "--beams", "1")
    argv = flags(place, output, *more, "--seeds", "1", "--max-new-tokens", "4", model="gpt2", corpus="e2e")
    assert main(["reproduce", "prefix_low_data", *argv, "--corpora", "e2e", "--methods", "FT,Prefix task words"]) == 0
    rows = json.loads((output / table.JSON).read_text())["rows"]
    assert [(row["size"], row["row"]) for row in rows] == [
        (8, "FT"), (8, "Prefix task words"), (12, "FT"), (12, "Prefix task words"),
    ]  # fmt: skip
    for row in rows:
        assert len(row["scores"]["test"]["bleu_e2e"]["values"]) == 2
    facts = [
        json.loads((output / f"runs/e2e/8-examples/{arm}/subset-{draw}-seed-42/run.json").read_text())["data"]["train"]
        for arm in ("ft", "prefix-task-words")
        for draw in (1, 2)
    ]
    assert facts[0] == facts[2] != facts[1] == facts[3]
    assert facts[0]["rows"] == 8


def test_parameters_are_counted_both_ways_without_data(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert main(["reproduce", "prefix_size", "--model", str(place / "gpt2"), "--output", str(output)]) == 0
    rows = {row["row"]: row["parameters"] for row in json.loads((output / table.JSON).read_text())["rows"]}
    layers, width, P, hidden = 2, 32, 10, 512
    assert rows["Prefix 10"]["stored"] == layers * 2 * P * width  # 24 * 2 * 10 * 1024 = 491,520 on GPT-2 medium
    mlp = P * width + (width * hidden + hidden) + layers * (hidden * 2 * width + 2 * width)
    assert rows["Prefix 10"]["trained"] == mlp
    assert rows["APT 10"]["stored"] == layers * (2 * P * width + width * P + 1)
    assert rows["Embedding only 10"]["stored"] == P * width
    assert rows["FT"]["stored_percent"] == 100
    assert rows["LoRA 0.1 %"] is None  # 0.1 % of this base is less than the smallest LoRA
    assert "Left out: LoRA 0.1 %: a LoRA of a budget of" in (output / table.MARKDOWN).read_text()


def test_a_row_that_does_not_fit_the_base_is_left_out_and_the_others_are_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = {"length": 2}
    arms = (
        Trained(name="mean", kind="adaptive", options={**free, "gate_input": "mean"}, recipe={"lr": 1e-2}),
        Trained(name="token", kind="adaptive", options=free, recipe={"lr": 1e-2}),
        Trained(name="infix", kind="infix", options=free, recipe={"lr": 1e-2}),
    )
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: arms))
    options = Options(model=str(place / "gpt2"), data=[str(place)], max_steps=1, limit=4)
    found = runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    assert [len(row.runs) for row in found.rows] == [0, 1, 0]
    assert "would leak the future" in (found.rows[0].reason or "")
    assert "expected text2text" in (found.rows[2].reason or "")
    assert "mean (conll04) is left out" in capsys.readouterr().err
    assert not (tmp_path / "out/runs/conll04/mean").exists()
    assert "| mean | – |" in table.markdown(found)


# --- ensembles ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members(place: Path, tmp_path_factory: pytest.TempPathFactory) -> evaluation.Loaded:
    """Two prefixes of different seeds in one model."""
    folder = tmp_path_factory.mktemp("ensemble")
    arms = (
        Trained(name="P", kind="p_tuning_v2", options={"length": 3}, recipe={"lr": 1e-1}),
        Ensemble(name="E", members="P"),
    )
    experiment = tiny_experiment(corpora=("e2e",), arms=lambda cell: arms, seeds=2)
    options = Options(model=str(place / "gpt2"), data=[str(place)], max_new_tokens=6, recipe={"base_dropout": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "find", lambda name: experiment)
        found = runner.run("ensemble", options, folder / "out", resume=False, command=["x"])
    assert "bleu_e2e" in found.rows[1].runs[0]["tests"]["test"]
    assert any(line.startswith("E: the runs of all seeds as one predictor") for line in table.caption(found))
    one, two = (folder / f"out/runs/e2e/p/seed-{seed}" for seed in (42, 43))
    assert found.rows[1].runs[0]["parameters"]["stored"] == 2 * found.rows[0].runs[0]["parameters"]["stored"]
    return evaluation.load(str(place / "gpt2"), {"one": str(one), "two": str(two)})


PROMPTS = ["name : w | food : a", "food : b"]


def test_an_ensemble_of_one_is_that_prefix(members: evaluation.Loaded) -> None:
    how = Decoding(max_new_tokens=6)
    ids = [members.tokenizer(prompt + "\n")["input_ids"] for prompt in PROMPTS]
    alone = [answer["one"] for answer in evaluation.generate(members, PROMPTS, ["one"], how)]
    assert derive.generate(members, ["one"], ids, how) == alone


def test_an_ensemble_takes_the_likeliest_token_of_the_mean_logits(members: evaluation.Loaded) -> None:
    import prefixtune as pt

    how, by_hand = Decoding(max_new_tokens=6), []
    prompts = [members.tokenizer(prompt + "\n")["input_ids"] for prompt in PROMPTS]
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(6):
            logits = []
            for name in ("one", "two"):
                with torch.no_grad(), pt.using(members.model, name):
                    logits.append(members.model(input_ids=torch.tensor([ids])).logits[0, -1])
            ids.append(int(torch.stack(logits).mean(0).argmax()))
            if ids[-1] == members.tokenizer.eos_token_id:
                break
        by_hand.append(members.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip())
    assert derive.generate(members, ["one", "two"], prompts, how) == by_hand
    singles = [derive.generate(members, [name], prompts, how) for name in ("one", "two")]
    assert singles[0] != singles[1], "otherwise any rule would have passed"


def test_an_ensemble_refuses_beams(members: evaluation.Loaded) -> None:
    with pytest.raises(ConfigError, match="decodes greedily"):
        derive.generate(members, ["one", "two"], [[5]], Decoding(beams=2))


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("prefix_tunin", [], "unknown experiment 'prefix_tunin'; did you mean 'prefix_tuning'"),
        ("apt", ["--data", "no-such-folder"], "--data: there is no folder 'no-such-folder'"),
        ("apt", ["--corpora", "conll05"], "this experiment has no corpus 'conll05'; did you mean 'conll04'"),
        ("apt", ["--methods", "ATP"], "no row is called 'ATP'; did you mean 'APT'"),
        ("apt", ["--lr", "fast"], "--lr: 'fast' is no learning rate"),
        ("apt", ["--lengths", "0"], "--lengths: 0 is no number of at least 1"),
        ("apt", ["--seeds", "0"], "--seeds 0: expected at least 1"),
        ("apt", ["--recipe", "weight_deca=1"], "--recipe: unknown option 'weight_deca'; did you mean 'weight_decay'"),
        ("apt", ["--corpora", "rte", "--data", "conll04=PLACE/conll04"], "no data given for rte; name its folder with"),
        ("apt", ["--data", "2024"], "--data: there is no folder '2024'"),
        ("apt", ["--lr", '{"FT": []}'], "--lr: an empty list has no learning rate"),
        (
            "prefix_low_data",
            ["--model", "PLACE/gpt2", "--data", "e2e=PLACE/e2e", "--sizes", "8,50"],
            "has 40 examples; 50 were to be drawn",
        ),
        ("apt", ["--recipe", "warmup=abc,max_steps=5"], "--recipe: warmup is 'abc'; expected a number"),
        ("apt", ["--methods", "APT", "--lr", '{"FT": [1e-3]}'], "--lr names 'FT', which --methods leaves out"),
        ("apt", ["--model", ""], "no model given; name one with --model"),
        ("apt", ["--recipe", "warmup=abc"], "--recipe: warmup is 'abc'; expected a number"),
        ("apt", ["--recipe", "metric=bleu"], "unknown metric 'bleu' for"),
        ("apt", ["--model", "no-such-model"], "cannot load the model 'no-such-model'"),
        ("prefix_tuning", ["--data", "e2e=PLACE/conll04"], "holds no files of e2e"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, changes: list[str], complaint: str
) -> None:
    argv = {"--model": str(place / "bert"), "--data": str(place), "--output": str(tmp_path / "out")}
    changes = [change.replace("PLACE", str(place)) for change in changes]
    argv |= dict(zip(changes[::2], changes[1::2], strict=True))
    assert main(["reproduce", name, *(word for pair in argv.items() for word in pair)]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert complaint in told[-1] and len(told) <= 1 + len(reproduce.find("apt").corpora)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_of_a_command_line_is_told_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "nope"]) == 2
    assert "unknown experiment 'nope'" in capsys.readouterr().err
    assert main(["reproduce", "apt"]) == 2
    assert "no model given; name one with --model" in capsys.readouterr().err


def test_a_folder_of_something_else_is_not_written_to(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["reproduce", "apt", *flags(place, tmp_path)]) == 2
    assert "is not empty and holds no experiment" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_corpora_that_are_not_there_are_left_out_with_a_word(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake()
    arms = (Trained(name="P", kind="p_tuning_v2", recipe={"lr": 1e-2}),)
    both = tiny_experiment(arms=lambda cell: arms, corpora=("conll04", "wnut"))
    monkeypatch.setattr(reproduce, "find", lambda name: both)
    monkeypatch.setattr(runner, "fit", fake)
    options = Options(model=str(place / "bert"), data=[str(place)])
    found = runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    assert [row.cell.corpus for row in found.rows] == ["conll04"]
    assert "wnut is left out" in capsys.readouterr().err
    assert any(line.startswith("Left out: wnut") for line in table.caption(found))
    assert "Left out: wnut" in table.markdown(found)
    assert picture.draw(found, tmp_path / "out")


def test_a_corpus_that_the_paper_does_not_have_runs_when_it_is_named_and_only_then(tmp_path: Path) -> None:
    experiment = tiny_experiment(corpora=("conll04",), more=("wnut", "cb"))

    def run_on(**options: Any) -> list[str | None]:
        chosen = Options(model="m", **options)
        places = material.folders(experiment, chosen)
        asked = plan.Plan("fake", experiment, chosen, tmp_path, Base("bert", False, len))
        return [cell.corpus for cell in asked.cells(places)]

    for name in ("conll04", "wnut"):
        (tmp_path / name).mkdir()
    assert run_on(data=[str(tmp_path)]) == ["conll04"]
    assert run_on(data=[str(tmp_path)], corpora=["wnut"]) == ["wnut"]
    assert run_on(data={name: str(tmp_path / name) for name in ("wnut", "conll04")}) == ["conll04", "wnut"]
    with pytest.raises(ConfigError, match="has no corpus 'wnutt'; did you mean 'wnut'"):
        run_on(data=[str(tmp_path)], corpora=["wnutt"])


@pytest.mark.parametrize(("places", "drawn"), [((10, 10), "barh"), ((5, 10), "errorbar")])
def test_a_sweep_of_one_point_is_drawn_as_bars_that_do_not_hide_each_other(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[int, int], drawn: str
) -> None:
    arms = [
        Trained(name=name, kind="p_tuning_v2", recipe={"lr": 1e-2}, series=name, x=x)
        for name, x in zip(("before", "between"), places, strict=True)
    ]
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: arms, axis="length"))
    monkeypatch.setattr(runner, "fit", Fake())
    options = Options(model=str(place / "bert"), data=[str(place)])
    found = runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    axes = MagicMock()
    picture._draw(axes, found, found.rows, "test", "entity_f1")
    assert [name for name in ("barh", "errorbar") if getattr(axes, name).called] == [drawn]
