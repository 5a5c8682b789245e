"""Bad input of every kind: exit status 2, one line that names it, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_cli import flags, refused, texts
from test_reproduce import tiny_experiment

import prefixtune as pt
from prefixtune import reproduce, tasks
from prefixtune.cli import main
from prefixtune.cli.inspection import describe
from prefixtune.errors import CheckpointError, ConfigError, DataError
from prefixtune.probe.lengths import VariablePrefix, train_command
from prefixtune.reproduce import runner
from prefixtune.reproduce.experiment import Trained, Variable
from prefixtune.reproduce.options import Options
from prefixtune.tasks import Table
from prefixtune.tasks.cells import ordered_labels
from prefixtune.tasks.choice import Choice
from prefixtune.tasks.tagging import Tagging


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three base models, data, and a prefix for text to text."""
    folder = tmp_path_factory.mktemp("place")
    tiny.encoder(folder / "bert")
    tiny.decoder(folder / "gpt2", initializer_range=0.3)
    tiny.encoder_decoder(folder / "bart")
    tiny.jsonl(folder / "classes.jsonl", tiny.first_letter(16, 1))
    tiny.jsonl(folder / "texts.jsonl", tiny.doubled(8, 1))
    assert main(flags(folder, folder / "one", *texts(folder), "--max-new-tokens", "2")) == 0
    return folder


def table(*rows: dict[str, Any]) -> Table:
    return Table("data", list(rows), list(range(1, len(rows) + 1)))


# --- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--layers", "a"], "layers=['a']: expected layers by their numbers"),
        (["--layers", "1.0"], "layers=[1.0]: expected layers by their numbers"),
        (["--layers", "yes"], "layers=[True]: expected layers by their numbers"),
        (["--layers", "1,1"], "layers=[1, 1]: 1 appears twice"),
        (["--lengths", "1.5,2"], "lengths: [1.5, 2] is no list of whole numbers"),
        (["--lengths", "3,x"], "lengths: [3, 'x'] is no list of whole numbers"),
        (["--lengths", "encoder=4"], "lengths: 4 is no list of whole numbers"),
        (["--position-offset", "1.5"], "position_offset=1.5: expected a whole number"),
        (["--position-offset", "encoder=x"], "position_offset='x': expected a whole number"),
        (["--init-std", "nan"], "init_std=nan: expected a number"),
        (["--init-std", "inf"], "init_std=inf: expected a number"),
        (["--init-std", "-1"], "init_std=-1.0: a standard deviation is not negative"),
        (["--layer-gate-start", "nan"], "layer_gate_start=nan: expected a number"),
        (["--part-lr", "keys=inf"], "the rate of keys is 'inf'; expected a number above 0"),
        (["--weight-decay", "inf"], "weight_decay is inf; expected a number"),
        (["--warmup", "inf"], "warmup is inf; expected a number"),
        (["--eval", ""], "eval is empty; expected a name or a path, or leave it out"),
        (["--schedule", "cosine_with_min_lr"], "schedule 'cosine_with_min_lr' needs arguments"),
        (["--schedule", "warmup_stable_decay"], "schedule 'warmup_stable_decay' needs arguments"),
    ],
)
def test_an_option_that_no_prefix_or_run_can_have_is_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert complaint in refused(flags(place, tmp_path / "out", *words), capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"length": "3"}, {"length": 2.5}, {"length": True}, {"layers": 1}, {"layers": [True]}, {"dropout": "0.1"},
        {"sites": 3}, {"sites": ["encoder", "encoder"]}, {"lengths": 3}, {"lengths": [True, 2]},
    ],
)  # fmt: skip
def test_a_method_takes_no_option_of_another_kind(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        pt.PTuningV2(**options)


def test_a_name_that_is_no_text_is_refused(place: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(place / "bert")
    with pytest.raises(ConfigError, match="3 cannot name a prefix"):
        pt.attach(model, pt.PTuningV2(length=2), name=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("separator: null", "the key 'separator' is empty; expected a value, or no such key"),
        ("separator:", "the key 'separator' is empty"),
        ("lr:", "the key 'lr' is empty"),
        ("lr: 0.1\nseed: 1\nlr: 0.2", "the key 'lr' appears twice"),
        ("max-length: 8\nmax_length: 9", "the key 'max_length' appears twice"),
        ("seed: " + "9" * 5000, "is not valid YAML"),
    ],
)
def test_a_run_file_says_each_thing_once_and_no_key_is_empty(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    (tmp_path / "run.yaml").write_text(text + "\n")
    argv = ["train", str(tmp_path / "run.yaml"), *flags(place, tmp_path / "out")[1:]]
    assert complaint in refused(argv, capsys)
    assert not (tmp_path / "out").exists()


def test_a_key_that_takes_none_may_be_empty(place: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("max_length: null\nlayers:\nmax_steps: 1\n")
    assert main(["train", str(tmp_path / "run.yaml"), *flags(place, tmp_path / "out")[1:]]) == 0


# --- where a run is written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["/proc/out", "x" * 300])
def test_an_output_that_cannot_be_made_is_told_before_the_work(
    capsys: pytest.CaptureFixture[str], output: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unread = ["--prefix", "not read", "--data", "not read"]
    for argv in (
        flags(place, Path(output), "--train", "not read"),
        ["evaluate", *unread, "--output", output],
        ["evaluate", *unread, "--predictions", output],
        ["probe", *unread, "--output", output],
        ["export", "not read", "--to", "peft", "--output", output],
    ):
        assert "choose another" in refused(argv, capsys)
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="cannot be made"):
        pt.checkpoint.made_folder(output)


# --- data --------------------------------------------------------------------------------------------------------


def test_faults_of_development_and_test_data_are_told_before_training(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tiny.jsonl(tmp_path / "long.jsonl", [{"source": "a", "target": "t" * 200}])
    for flag in ("--eval", "--test"):
        line = refused(flags(place, tmp_path / "out", *texts(place), flag, bad), capsys)
        assert "long.jsonl: a target has 201 tokens" in line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        ({"²", "1"}, ("1", "²")),
        ({"--1", "1"}, ("--1", "1")),
        ({"9" * 5000, "10"}, ("10", "9" * 5000)),
        ({"10", "-2", "9"}, ("-2", "9", "10")),
    ],
)
def test_only_whole_numbers_are_ordered_as_numbers(names: set[str], ordered: tuple[str, ...]) -> None:
    assert ordered_labels(names) == ordered


@pytest.mark.parametrize("label", ["²", "9" * 5000, "-1"])
def test_a_label_that_is_no_number_of_a_choice_is_refused(label: str) -> None:
    row = {"text": "a", "choices": ["b", "c"], "label": label}
    with pytest.raises(DataError, match="is no number of a choice"):
        Choice(2).prepared(table(row))


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000])
@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_json_that_python_cannot_read_is_named(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / name).write_text(f'{{"text": {value}}}\n' if name.endswith("l") else f'[{{"text": {value}}}]')
    with pytest.raises(DataError, match=rf"{name}.*not valid JSON"):
        tasks.read(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["choice", "tagging", "spans"])
def test_a_field_of_json_that_python_cannot_read_is_named(kind: str) -> None:
    bad = "[" + "9" * 5000 + "]"
    row = {"text": "a", "choices": bad, "spans": bad, "tokens": bad, "tags": "O", "label": "0"}
    with pytest.raises(DataError, match="data, line 1"):
        tasks.find(kind).learn(table(row, {**row, "label": "1"}))


@pytest.mark.parametrize(
    ("entities", "complaint"),
    [
        (5, "expected a list of entities, got '5'"),
        ([{"type": None, "start": 0, "end": 1}], "needs a name as type"),
        ([{"type": "A", "start": 0, "end": 1.7}], "whole numbers as start and end"),
        ([{"type": "A", "start": 0, "end": True}], "whole numbers as start and end"),
        ([{"type": "A", "start": 0, "end": 2}, {"type": "B", "start": 1, "end": 3}], "overlaps another"),
    ],
)
def test_an_entity_that_cannot_be_tagged_is_refused_with_its_row(entities: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=f"data, line 1: .*{complaint}"):
        Tagging.learn(table({"tokens": ["a", "b", "c"], "entities": entities}))


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_comments_of_conll_are_no_words(tmp_path: Path, separator: str) -> None:
    lines = ["# id 1", "# text = a #", "a B-X", "# O", "", "# sent_id = 2", "#b O", "c O"]
    words = [line.replace(" ", separator) if len(line.split()) == 2 else line for line in lines]
    (tmp_path / "data.conll").write_text("\n".join(words) + "\n")
    found = tasks.read(str(tmp_path / "data.conll"))
    assert [row["tokens"] for row in found.rows] == [["a", "#"], ["#b", "c"]]
    assert found.lines == [3, 7]


def test_an_empty_last_choice_of_a_csv_row_is_none(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,choice1,choice2,choice3,label\na,b,c,,1\n")
    read = tasks.read(str(tmp_path / "data.csv"))
    task = Choice.learn(read)
    assert task.prepared(read).rows[0]["choices"] == ["b", "c"]


@pytest.mark.parametrize("flag", ["--train", "--eval"])
def test_an_empty_source_of_an_encoder_decoder_is_named_by_its_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    bad = tiny.jsonl(tmp_path / "bad.jsonl", [{"source": "a", "target": "b"}, {"source": "", "target": "c"}])
    changes = [*texts(place), "--model", str(place / "bart")]
    given = dict(zip(changes[::2], changes[1::2], strict=True)) | {flag: bad}
    words = [word for pair in given.items() for word in pair]
    assert "bad.jsonl, line 2: the source is empty" in refused(flags(place, tmp_path / "out", *words), capsys)
    assert not (tmp_path / "out").exists()


def test_the_end_tokens_that_an_encoder_decoders_head_reads_are_counted_before_training(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*tiny.first_letter(4, 1), {"text": "a<end>b", "label": "a"}]
    given = ["--model", str(place / "bart"), "--train", tiny.jsonl(tmp_path / "rows.jsonl", rows)]
    assert "rows.jsonl, line 5: 1 end tokens, where the others have 0" in refused(
        flags(place, tmp_path / "out", *given), capsys
    )
    given[-1] = tiny.jsonl(tmp_path / "rows.jsonl", rows[:-1])
    told = "reads its end token (0), which its tokenizer sets behind no text"
    assert told in refused(flags(place, tmp_path / "out", *given), capsys)
    assert not (tmp_path / "out").exists()


def test_a_model_without_the_tasks_head_is_named_in_one_short_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.jsonl(tmp_path / "tags.jsonl", [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}])
    given = ["--model", str(place / "bart"), "--train", data, "--task", "tagging"]
    told = refused(flags(place, tmp_path / "out", *given), capsys)
    assert told.endswith("transformers has no bart model ForTokenClassification, as tagging needs; use another base")


# --- headers -----------------------------------------------------------------------------------------------------


def _task(header: dict[str, Any]) -> None:
    header["metadata"]["task"]["colour"] = "red"


def _no_kind(header: dict[str, Any]) -> None:
    del header["metadata"]["task"]["kind"]


def _length(header: dict[str, Any]) -> None:
    header["metadata"]["max_length"] = "q"


def _decoding(header: dict[str, Any]) -> None:
    header["metadata"]["decoding"]["beams"] = "many"


def _metadata(header: dict[str, Any]) -> None:
    header["metadata"] = None


def _offset(header: dict[str, Any]) -> None:
    header["position_offset"] = 3


def _columns(header: dict[str, Any]) -> None:
    header["metadata"]["columns"] = [1]


def _column(header: dict[str, Any]) -> None:
    header["metadata"]["columns"] = {"source": [1]}


def _fingerprints(header: dict[str, Any]) -> None:
    header["base_model"]["fingerprints"] = {"float32": 3}


def _separator(header: dict[str, Any]) -> None:
    header["metadata"]["task"]["separator"] = 3


def _end_token(header: dict[str, Any]) -> None:
    header["metadata"]["task"]["end_token"] = 3


def _target_length(header: dict[str, Any]) -> None:
    header["metadata"]["task"]["max_target_length"] = 2.5


def _beams(header: dict[str, Any]) -> None:
    header["metadata"]["decoding"]["beams"] = 1.5


def _task_number(header: dict[str, Any]) -> None:
    header["metadata"]["task"] = 3


def _offset_text(header: dict[str, Any]) -> None:
    header["position_offset"] = {"decoder": "x"}


def _true_length(header: dict[str, Any]) -> None:
    header["slots"]["decoder.0"] = True


def _no_layer(header: dict[str, Any]) -> None:
    header["slots"]["decoder.first"] = 3


NOT_LOADED = (_metadata, _offset, _fingerprints, _offset_text, _true_length, _no_layer)
NOT_SCORED = (
    _task, _no_kind, _length, _decoding, _columns, _column, _separator, _end_token, _target_length, _beams,
    _task_number,
)  # fmt: skip


@pytest.mark.parametrize("change", [*NOT_LOADED, *NOT_SCORED])
def test_a_header_that_says_nonsense_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], None]
) -> None:
    folder = with_header(place, tmp_path, change)
    assert "restore the" in refused(["evaluate", "--prefix", folder, "--data", str(place / "texts.jsonl")], capsys)
    assert "restore the" in refused(["generate", "--prefix", folder, "--prompt", "a"], capsys)
    if change in NOT_LOADED:
        assert "restore the file" in refused(["inspect", folder], capsys)
    else:
        assert main(["inspect", folder]) == 0


def with_header(place: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """A copy of the prefix with another header."""
    header = json.loads((place / "one" / "prefix_config.json").read_text())
    change(header)
    (folder / "prefix_config.json").write_text(json.dumps(header))
    (folder / "prefix.safetensors").write_bytes((place / "one" / "prefix.safetensors").read_bytes())
    return str(folder)


@pytest.mark.parametrize("key", ["metadata", "position_offset", "prefixtune_version", "stored_parameters"])
def test_a_header_without_what_loading_can_do_without_is_inspected(place: Path, tmp_path: Path, key: str) -> None:
    whole = describe(str(place / "one"))
    changed = {
        "position_offset": {"position offset": "unknown"},
        "prefixtune_version": {"written by": "prefixtune unknown"},
    }
    expected = whole | changed.get(key, {})
    if key == "metadata":
        del expected["task"]
    assert describe(with_header(place, tmp_path, lambda header: header.pop(key))) == expected


@pytest.mark.parametrize(
    ("metadata", "row", "told"),
    [
        ({"task": 3}, "task", "3"),
        ({"task": "summaries"}, "task", '"summaries"'),
        ({"task": {"kind": 3}}, "task", '{"kind": 3}'),
        ({"task": {"kind": "spans", "labels": [1, 2]}}, "labels", "[1, 2]"),
        ({"task": {"kind": "spans", "labels": ["a", "b"]}}, "labels", "2: a, b"),
        ({"metrics": {"eval": "x"}}, "development", '"x"'),
        ({"metrics": {"test": {"f1": None}}}, "test", '{"f1": null}'),
        ({"metrics": {"test": {"f1": 1}}}, "test", "f1 1.0000"),
        ({"metrics": 3}, "test", None),
    ],
)
def test_what_somebody_else_wrote_into_the_metadata_is_shown_as_it_stands(
    place: Path, tmp_path: Path, metadata: dict[str, Any], row: str, told: str | None
) -> None:
    found = describe(with_header(place, tmp_path, lambda header: header.update(metadata=metadata)))
    assert found.get(row) == told


# --- what is said ------------------------------------------------------------------------------------------------


def test_the_command_of_a_variable_prefix_has_no_rate_for_gates() -> None:
    variable = VariablePrefix({"encoder": [1, 2]}, {"encoder": [0.5, 1.0]}, 1.0, 3, 3, every_site=True)
    for rates, told in (({"gates": 0.1, "keys": 0.3}, '{"keys": 0.3}'), ({"gates": 0.1}, None)):
        words = train_command(variable, {"part_lr": rates}, model="m", task="tagging", output="o")
        assert (words[words.index("--part-lr") + 1] if "--part-lr" in words else None) == told


def test_a_row_that_reads_one_which_does_not_fit_the_base_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tiny.place(tmp_path / "place")
    arms = (
        Trained(name="APT", kind="adaptive", options={"length": 2, "gate_input": "mean"}, recipe={"lr": 1e-2}),
        Trained(name="token", kind="adaptive", options={"length": 2}, recipe={"lr": 1e-2}),
        Variable(name="variable", after="APT", recipe={"lr": 1e-2}),
    )
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: arms))
    options = Options(model=str(place / "gpt2"), data=[str(place)], max_steps=1, limit=4)
    found = runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    reason = found.rows[2].reason or ""
    assert "APT, which this row reads, is left out: " in reason and "would leak the future" in reason
    assert "lower --lr" not in reason
