"""The command line: what it prints, and that bad input is one clear line, exit code 2 and nothing half-written."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cyclopts
import pytest
import tiny
import yaml

from prefixtune import cli, methods
from prefixtune.cli import main, train
from prefixtune.cli.options import column_names, parameters_of, parse_structured, with_parameters


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two base models and data for all tasks."""
    folder = tmp_path_factory.mktemp("place")
    tiny.encoder(folder / "bert")
    tiny.decoder(folder / "gpt2", initializer_range=0.3)
    for name, make in (("classes", tiny.first_letter), ("tags", tiny.capitals), ("texts", tiny.doubled)):
        tiny.jsonl(folder / f"{name}.jsonl", make(32, 1))
    return folder


def flags(place: Path, output: Path, *changes: str) -> list[str]:
    """A good command line for a classification run; a flag in `changes` replaces its own."""
    argv = {
        "--model": str(place / "bert"), "--task": "classification", "--train": str(place / "classes.jsonl"),
        "--method": "adaptive", "--length": "3", "--epochs": "1", "--output": str(output),
    }  # fmt: skip
    kept = [word for flag, value in argv.items() if flag not in changes for word in (flag, value)]
    return ["train", *kept, *changes]


def texts(place: Path) -> list[str]:
    """The changes that make it a text-to-text run on a decoder."""
    return ["--task", "text2text", "--model", str(place / "gpt2"), "--train", str(place / "texts.jsonl")]


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """A prefix for classification and two for text to text, trained by command line."""
    assert main(flags(place, place / "classes", "--eval", str(place / "classes.jsonl"))) == 0
    short = ["--method", "p_tuning_v2", "--max-new-tokens", "4"]
    for name, seed in (("one", "1"), ("two", "2")):
        assert main(flags(place, place / name, *texts(place), *short, "--seed", seed)) == 0
    return place


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a bad command line is answered with."""
    capsys.readouterr()
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("prefixtune: ")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--method", "adaptiv"], "unknown method 'adaptiv'; did you mean 'adaptive'"),
        (["--task", "tagging_"], "unknown task 'tagging_'; did you mean 'tagging'"),
        (["--lenght", "4"], 'Unknown option: "--lenght". Did you mean "--length"?'),
        (["--gate-inputs", "first"], 'Did you mean "--gate-input"?'),
        (["--gate-input", "firs"], "gate_input='firs' is unknown; did you mean 'first'"),
        (["--length", "0"], "length=0"),
        (["--length", "many"], "'many' is no whole number"),
        (["--lengths", "3,4,5"], "lengths has 3 entries but encoder has 2 layers"),
        (["--loss", "sum"], "unknown loss 'sum'"),
        (["--train", "missing.jsonl"], "there is no file 'missing.jsonl'"),
        (["--columns", "text=body"], "no column 'body' to use as 'text'"),
        (["--columns", "texts=label"], "no column 'texts'; did you mean 'text'"),
        (["--columns", "text"], "expected name=value pairs"),
        (["--metric", "accuracy"], "name it with --eval"),
        (["--model", "no-such-model"], "cannot load the model 'no-such-model'"),
        (["--lr", "fast"], 'unable to convert "fast" into float'),
        (["--seed"], "requires an argument"),
        (["--lr", "1", "--lr", "2"], "--lr specified multiple times"),
        (["--schedule", "linaer"], "linaer"),
        (["--seed", "1", "run.yaml"], "the run file comes first: prefixtune train run.yaml"),
    ],
)
def test_bad_training_input_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], complaint: str
) -> None:
    output = tmp_path / "out"
    line = refused(flags(place, output, *change), capsys)
    assert complaint.replace('"', "") in line.replace('"', "")
    assert not output.exists()


def test_mean_gates_on_a_causal_model_are_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(place, tmp_path / "out", *texts(place), "--gate-input", "mean")
    assert "gate_input='mean' reads the whole input" in refused(argv, capsys)


def test_a_length_that_does_not_fit_the_positions_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "96" in refused(flags(place, tmp_path / "out", *texts(place), "--position-offset", "200"), capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ('{"text": "a", "label": "low"}\n{"text": "b" "label": 1}\n', "line 2: not valid JSON"),
        ("", "is empty"),
        ('{"txt": "a", "label": "low"}\n', "no column 'text'; did you mean 'txt'"),
        ('{"text": "a", "label": "lower"}\n', "the label 'lower' was not seen in training; did you mean 'low'"),
    ],
)
def test_bad_development_data_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, complaint: str
) -> None:
    (tmp_path / "dev.jsonl").write_text(rows)
    line = refused(flags(place, tmp_path / "out", "--eval", str(tmp_path / "dev.jsonl")), capsys)
    assert complaint in line and "dev.jsonl" in line


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["trian"], "Did you mean"),
        (["train", "--model", "m", "--lenght", "4"], "no method given; name one with --method: adaptive, cartridge"),
        (["train", "nowhere.yaml"], "cannot read the run file 'nowhere.yaml'"),
        (["train", "--method", "adaptive"], "--model requires an argument"),
        (["generate", "--model", "m"], "give one text with --prompt, or a file of texts with --input"),
        (["generate", "--prompt", "a"], "no model given; name one with --model"),
        (["generate", "--prefix", "a=", "--prompt", "p"], "expected FOLDER or NAME=FOLDER"),
        (["generate", "--prefix", "a=x", "a=y", "--prompt", "p"], "two prefixes are called 'a'"),
        (["evaluate", "--prefix", "p"], "requires an argument"),
        (["inspect", "no-such-folder"], "'no-such-folder' is neither a folder nor a hub id"),
    ],
)
def test_bad_command_lines_are_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], complaint: str) -> None:
    assert complaint in refused(argv, capsys).replace('"', "")


def test_an_export_format_that_is_not_there_is_answered_with_what_is(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["export", str(trained / "one"), "--to", "vllm", "--output", str(tmp_path / "x")], capsys)
    assert "vllm" in line and "peft" in line


def test_a_prefix_of_another_base_model_is_one_line_that_names_both(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny.decoder(tmp_path / "other", n_layer=3)
    line = refused(["generate", "--model", other, "--prefix", str(trained / "one"), "--prompt", "a"], capsys)
    assert str(trained / "gpt2") in line and "other" in line


@pytest.mark.parametrize("damage", ["truncated", "not json", "gone"])
def test_a_damaged_prefix_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = Path(shutil.copytree(trained / "one", tmp_path / "broken"))
    if damage == "truncated":
        whole = (folder / "prefix.safetensors").read_bytes()
        (folder / "prefix.safetensors").write_bytes(whole[:-100])
    elif damage == "not json":
        (folder / "prefix_config.json").write_text('{"method": ')
    else:
        (folder / "prefix.safetensors").unlink()
    for argv in (["inspect", str(folder)], ["generate", "--prefix", str(folder), "--prompt", "a"]):
        assert "broken" in refused(argv, capsys)


def test_prefixes_of_different_tasks_are_not_mixed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "--model", str(trained / "gpt2"), "--prefix", str(trained / "one"), str(trained / "classes")]
    assert "prefixes of different tasks" in refused([*argv, "--prompt", "a"], capsys)


def test_a_classification_prefix_generates_nothing(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["generate", "--prefix", str(trained / "classes"), "--prompt", "a"], capsys)
    assert "was trained for classification, which generates nothing" in line


def test_an_unseen_label_in_evaluation_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.jsonl(tmp_path / "data.jsonl", [{"text": "a", "label": "middle"}])
    line = refused(["evaluate", "--prefix", str(trained / "classes"), "--data", data], capsys)
    assert "data.jsonl, line 1: the label 'middle' was not seen in training" in line


def test_options_that_only_sampling_reads_need_sampling(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "--prefix", str(trained / "one"), "--prompt", "a", "--temperature", "0.5"]
    assert "add --sample" in refused(argv, capsys)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--beams", "0"], "beams is 0; expected at least 1"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0; expected at least 1"),
        (["--sample", "--temperature", "0"], "temperature is 0.0; expected a number above 0"),
        (["--sample", "--top-p", "2"], "top_p is 2.0; expected a probability above 0, at most 1"),
        (["--batch-size", "0"], "batch_size is 0; expected at least 1"),
        (["--batch-size", "-1"], "batch_size is -1; expected at least 1"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_a_number_that_cannot_be_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], command: str, words: list[str], complaint: str
) -> None:
    what = ["--prompt", "a"] if command == "generate" else ["--data", str(trained / "texts.jsonl")]
    assert complaint in refused([command, "--prefix", str(trained / "one"), *what, *words], capsys)


def test_the_console_command_exits_with_2_and_without_a_traceback(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "prefixtune", "train", "--method", "adaptve"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("prefixtune: unknown method 'adaptve'; did you mean 'adaptive'")
    assert len(done.stderr.splitlines()) == 1


# --- configuration -----------------------------------------------------------------------------------------------


def test_flags_override_the_file_and_the_run_records_both(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "model": str(place / "bert"), "task": "classification", "train": str(place / "classes.jsonl"), "epochs": 3,
        "method": "adaptive", "gate-input": "first", "token_gate": True, "lengths": [2, 5], "seed": 7, "eval": None,
        "columns": {"label": "label"}, "base_dropout": False,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    argv = ["train", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "out"), "--epochs", "1", "--no-layer-gate"]
    assert main(argv) == 0
    ran = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
    expected = {
        "epochs": 1.0, "gate_input": "first", "layer_gate": False, "token_gate": True, "lengths": [2, 5], "seed": 7,
        "columns": {"label": "label"}, "base_dropout": False, "lr": 5e-3,
    }  # fmt: skip
    assert {key: ran[key] for key in expected} == expected

    # The record is a run file in its turn, and makes the same prefix.
    assert main(["train", str(tmp_path / "out" / "run.yaml"), "--output", str(tmp_path / "again")]) == 0
    once, again = (json.loads((tmp_path / name / "prefix_config.json").read_text()) for name in ("out", "again"))
    assert once["sha256"] == again["sha256"]


def test_a_key_the_run_does_not_know_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("method: adaptive\nlearning_rte: 3\ngate_inputs: first\n")
    line = refused(["train", str(tmp_path / "run.yaml")], capsys)
    assert "run.yaml: unknown key 'learning_rte'" in line
    (tmp_path / "run.yaml").write_text("- method\n")
    assert "expected a mapping of options, got a list" in refused(["train", str(tmp_path / "run.yaml")], capsys)
    (tmp_path / "run.yaml").write_text("method: [adaptive\n")
    assert "is not valid YAML" in refused(["train", str(tmp_path / "run.yaml")], capsys)


@pytest.mark.parametrize("name", methods.names())
def test_help_shows_every_option_of_the_method_with_its_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    import dataclasses

    assert main(["train", "--method", name, "--help"]) == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(methods.find(name)):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert "counted from 0. Default: all." in " ".join(shown.replace("│", "").split())


@pytest.mark.parametrize("command", ["evaluate", "generate", "inspect", "export", "train"])
def test_every_option_of_every_command_has_a_text(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    import cyclopts

    from prefixtune.cli import _app

    arguments = _app([])[command].assemble_argument_collection(parse_docstring=True)
    assert isinstance(arguments, cyclopts.ArgumentCollection)
    assert [argument.name for argument in arguments if argument.show and not argument.parameter.help] == []


def test_the_help_knows_the_methods_without_importing_them() -> None:
    assert train.method_names() == methods.names()


@pytest.mark.parametrize(
    ("text", "single", "value"),
    [
        ("3,4,5", False, [3, 4, 5]),
        ("[3, 4]", False, [3, 4]),
        ("encoder,decoder", False, ["encoder", "decoder"]),
        ("7", False, [7]),
        ("7", True, 7),
        ("encoder=3,decoder=4", True, {"encoder": 3, "decoder": 4}),
        ('{"encoder": [1, 2]}', False, {"encoder": [1, 2]}),
        ("source=mr, target=ref", False, {"source": "mr", "target": "ref"}),
        ("none", False, None),
        ("end_token=#,separator=~,b=%", False, {"end_token": "#", "separator": "~", "b": "%"}),
        ('end_token="\\n",warmup=0.5,c=yes,d=none', False, {"end_token": "\n", "warmup": 0.5, "c": True, "d": None}),
    ],
)
def test_lists_and_mappings_are_one_word(text: str, single: bool, value: object) -> None:
    assert parse_structured(text, "--x", single=single, mapping=False) == value


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--seed", "-1"], "seed is -1; expected a whole number from 0 to 4294967295"),
        (["--seed", "99999999999999999999"], "seed is 99999999999999999999; expected"),
        (["--length", "2.5"], "Invalid value for --length: '2.5' is no whole number"),
        (["--batch-size", "7.6"], "Invalid value for --batch-size: '7.6' is no whole number"),
        (["--epochs", "inf"], "epochs is inf; expected a number above 0"),
        (["--lr", "inf"], "lr is inf; expected a number above 0"),
        (["--length-penalty", "nan"], "length_penalty is nan; expected a number"),
        (["--max-steps", "3", "--warmup", "3"], "warmup is 3.0 but the run has 3 steps"),
        (["--data-format", "jsnl"], "--data-format 'jsnl' is unknown; did you mean 'jsonl'"),
        (["--model", "nope"], "cannot load the model 'nope': there is no such folder here"),
    ],
)
def test_a_value_that_no_run_can_have_is_one_line_and_leaves_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert complaint in refused(flags(place, tmp_path / "out", *words), capsys)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_of_the_output_is_told_before_the_work(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").write_text("mine")
    folder, below = str(tmp_path), str(tmp_path / "notes" / "x")
    evaluate = ["evaluate", "--prefix", str(trained / "classes"), "--data", "not read"]
    generate = ["generate", "--prefix", "not read", "--prompt", "a"]
    for argv in ([*evaluate, "--output"], [*evaluate, "--predictions"], [*generate, "--output"]):
        assert f"{argv[-1]} {folder} is a folder; expected a file to write" in refused([*argv, folder], capsys)
        assert "notes is a file; expected a folder" in refused([*argv, below], capsys)
    assert "notes is a file; expected a folder" in refused(flags(trained, Path(below)), capsys)
    for argv in (["export", str(trained / "one"), "--to", "peft"], ["probe", "--prefix", "x", "--data", "y"]):
        assert "notes is a file; expected a folder" in refused([*argv, "--output", str(tmp_path / "notes")], capsys)
    assert (tmp_path / "notes").read_text() == "mine"


def test_an_empty_prompt_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "--model", str(place / "gpt2"), "--prompt", ""]
    assert "prompt 1 is empty; expected at least one token" in refused(argv, capsys)


def test_an_empty_run_file_and_a_resume_of_nothing_are_told_as_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("")
    assert "expected a mapping of options, got an empty file" in refused(["train", str(tmp_path / "run.yaml")], capsys)
    line = refused(["train", "--output", str(tmp_path / "nothing"), "--resume"], capsys)
    assert "nothing holds no run; name its folder, or a --method" in line


@pytest.mark.parametrize("text", ["text=0,label=yes", '{"text": 0, "label": "yes"}', "{text: 0, label: yes}"])
def test_names_of_columns_stay_as_they_are_written(text: str) -> None:
    assert column_names(text) == {"text": "0", "label": "yes"}


# --- the other commands ------------------------------------------------------------------------------------------


def test_evaluate_prints_the_metrics_as_json_and_nothing_else(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, answers = str(trained / "classes.jsonl"), tmp_path / "answers.jsonl"
    argv = ["evaluate", "--model", str(trained / "bert"), "--prefix", str(trained / "classes"), "--data", data]
    capsys.readouterr()
    assert main([*argv, "--output", str(tmp_path / "m.json"), "--predictions", str(answers)]) == 0
    printed = json.loads(capsys.readouterr().out)
    reported = json.loads((trained / "classes" / "metrics.json").read_text())["eval"]
    assert printed == pytest.approx(reported, rel=1e-5)
    assert json.loads((tmp_path / "m.json").read_text())["accuracy"] == printed["accuracy"]
    labels = [json.loads(line)["label"] for line in Path(data).read_text().splitlines()]
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert printed["accuracy"] == sum(a == b for a, b in zip(labels, found, strict=True)) / len(labels)


def test_evaluate_renames_columns_as_training_did(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"phrase": row["text"], "class": row["label"]} for row in tiny.first_letter(16)]
    data = tiny.jsonl(tmp_path / "rows.jsonl", rows)
    argv = flags(place, tmp_path / "out", "--train", data, "--test", data, "--columns", "text=phrase,label=class")
    assert main(argv) == 0
    capsys.readouterr()
    assert main(["evaluate", "--prefix", str(tmp_path / "out"), "--data", data]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == pytest.approx(json.loads((tmp_path / "out" / "metrics.json").read_text())["test"], rel=1e-5)


def test_a_renamed_column_goes_before_one_that_has_its_new_name(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "x", "0": row["text"], "label": row["label"]} for row in tiny.first_letter(16)]
    data = tiny.jsonl(tmp_path / "rows.jsonl", rows)
    argv = flags(place, tmp_path / "out", "--train", data, "--test", data, "--columns", "text=0", "--lr", "0.1")
    assert main(argv) == 0
    capsys.readouterr()
    assert main(["evaluate", "--prefix", str(tmp_path / "out"), "--data", data]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == pytest.approx(json.loads((tmp_path / "out" / "metrics.json").read_text())["test"], rel=1e-5)


def test_a_line_of_prompts_ends_at_a_line_feed_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeffab\u2028c\r\nd\n".encode())
    argv = ["generate", "--prefix", str(trained / "one"), "--input", str(tmp_path / "p.txt")]
    capsys.readouterr()
    assert main(argv) == 0
    found = [json.loads(line)["source"] for line in capsys.readouterr().out.split("\n") if line]
    assert found == ["ab\u2028c", "d"]
    (tmp_path / "p.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert "p.txt is not UTF-8 text" in refused(argv, capsys)


def test_generate_without_a_prefix_is_the_base_model(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompts = tiny.jsonl(tmp_path / "in.jsonl", [{"source": "abc"}, {"source": "d"}])
    capsys.readouterr()
    assert main(["generate", "--model", str(place / "gpt2"), "--input", prompts, "--max-new-tokens", "5"]) == 0
    found = [json.loads(line)["(base model)"] for line in capsys.readouterr().out.splitlines()]
    model, tokenizer = (auto.from_pretrained(place / "gpt2") for auto in (AutoModelForCausalLM, AutoTokenizer))
    for text, answer in zip(("abc", "d"), found, strict=True):
        ids = tokenizer(text)["input_ids"]
        new: list[int] = []
        while len(new) < 5 and tokenizer.eos_token_id not in new:  # greedy, one token at a time
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        assert answer == tokenizer.decode(new, skip_special_tokens=True).strip()


def test_several_prefixes_answer_in_one_batch_what_each_answers_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tiny.jsonl(tmp_path / "in.jsonl", [{"source": text} for text in ("a", "bcd", "d" * 30)])
    common = ["generate", "--model", str(trained / "gpt2"), "--input", prompts, "--max-new-tokens", "6"]

    def answers(*prefixes: str) -> list[dict[str, str]]:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        assert main([*common, "--prefix", *prefixes, "--bare", "--output", str(output)]) == 0
        return [json.loads(line) for line in output.read_text().splitlines()]

    one, two = f"x={trained / 'one'}", f"y={trained / 'two'}"
    together, first, second = answers(one, two), answers(one), answers(two)
    assert [row["source"] for row in together] == ["a", "bcd", "d" * 30]
    assert together == [a | b for a, b in zip(first, second, strict=True)]
    assert set(together[0]) == {"source", "x", "y", "(base model)"}


def test_generate_shows_answers_side_by_side(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "--prefix", str(trained / "one"), f"other={trained / 'two'}", "--prompt", "a", "--bare"]
    capsys.readouterr()
    assert main(argv) == 0
    shown = capsys.readouterr().out
    for column in ("prompt", "one", "other", "(base model)"):
        assert column in shown


def test_sampling_follows_its_seed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def drawn(seed: str) -> str:
        capsys.readouterr()
        argv = ["generate", "--prefix", str(trained / "one"), "--prompt", "a", "--sample", "--temperature", "2.0"]
        assert main([*argv, "--seed", seed, "--max-new-tokens", "20"]) == 0
        return capsys.readouterr().out

    assert drawn("1") == drawn("1") != drawn("2")


def test_inspect_says_what_a_folder_holds_without_its_base_model(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Path(shutil.copytree(trained / "classes", tmp_path / "alone"))
    capsys.readouterr()
    assert main(["inspect", str(alone)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    stored = json.loads((alone / "metrics.json").read_text())["parameters"]["stored"]
    for fact in ("adaptive", "encoder: 2 layers of 3", f"{stored:,}", "classification", "2: high, low", "bert"):
        assert fact in shown


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT's own
def test_export_makes_a_checkpoint_that_peft_answers_alike_with(trained: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    import prefixtune as pt

    output = tmp_path / "peft"
    argv = ["export", str(trained / "one"), "--to", "peft", "--model", str(trained / "gpt2"), "--output", str(output)]
    assert main(argv) == 0
    ids = torch.tensor([[5, 6, 7]])
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(trained / "gpt2"), str(output))
    ours = pt.load(AutoModelForCausalLM.from_pretrained(trained / "gpt2"), trained / "one").eval()
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.allclose(ours(ids).logits, expected, atol=1e-5)


def test_a_disk_that_is_full_is_one_line(
    place: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x.json")

    monkeypatch.setitem(cli._COMMANDS, "demo", full)
    assert refused(["demo"], capsys).startswith("prefixtune: runs/x.json: No space left on device; free some space, or")


@pytest.mark.parametrize("value", ["- item", "->", "-x", "--"])
def test_a_value_that_begins_with_a_dash_is_told_how_to_give(
    value: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["generate", "--prefix", "p", "--prompt", value], capsys)
    assert line.endswith("A value that begins with a dash is given as " + shlex.quote(f"--prompt={value}"))
    assert "begins with a dash" not in refused(["generate", "--prompt", "--model", "m"], capsys)


def test_a_methods_option_may_be_a_choice_or_a_row_of_words(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(kw_only=True)
    class Own:
        kind: Literal["soft", "hard"] = "soft"
        """How."""
        other: Literal["soft", "hard"] | None = None
        """Or not."""
        tags: tuple[str, ...] = ()
        """Which."""

    found: list[dict[str, Any]] = []

    def run(**options: Any) -> None:
        found.append(options)

    app = cyclopts.App()
    app.default(with_parameters(run, parameters_of(Own, cyclopts.Group("own"))))
    app(["--kind", "hard", "--other", "soft", "--tags", "x,2"], exit_on_error=False, result_action="return_value")
    assert found == [{"kind": "hard", "other": "soft", "tags": ["x", "2"]}]
    with pytest.raises(cyclopts.CycloptsError, match="(?s)Choose from.*hard"):
        app(["--kind", "hrad"], exit_on_error=False, print_error=False, result_action="return_value")


def test_an_interrupted_command_says_so_and_exits_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli._COMMANDS, "demo", interrupted)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "prefixtune: interrupted\n"
