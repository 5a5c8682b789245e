"""A run does what its options say, whatever the base brings along, the prefix is called or the shell is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_cli import refused
from test_training import config, method
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import prefixtune as pt
from prefixtune.cli import report
from prefixtune.errors import ConfigError
from prefixtune.tasks import Decoding, Table, Window
from prefixtune.tasks.classification import Classification
from prefixtune.tasks.decoding import _generation_options, generate
from prefixtune.tasks.loading import load_base
from prefixtune.tasks.tagging import Tagging
from prefixtune.tasks.text2text import Text2Text
from prefixtune.training.bench import Bench
from prefixtune.training.run import train

# torch's scheduler and accelerate warn of each other's use; nothing of ours can change it.
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.encoder(tmp_path_factory.mktemp("bert"))


# --- what a base asks for in generation ------------------------------------------------------------------------------


def answers(folder: str, **how: Any) -> list[str]:
    model, tokenizer = load_base(folder, Text2Text())
    prompts = [tokenizer(text)["input_ids"] for text in ("abc", "de", "wxyz wxyz")]
    return generate(model, tokenizer, prompts, Window(96), Decoding(max_new_tokens=12, **how), batch_size=2)


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_do_not_depend_on_the_bases_generation_config(tmp_path: Path, beams: int) -> None:
    folder = tiny.decoder(tmp_path / "gpt2", initializer_range=0.3)
    plain = answers(folder, beams=beams)
    path = Path(folder, "generation_config.json")
    wishes = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "min_length": 90, "min_new_tokens": 11,
              "early_stopping": True, "bad_words_ids": [[5], [9]], "suppress_tokens": [7]}  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | wishes))
    assert answers(folder, beams=beams) == plain


def test_sampling_draws_from_all_tokens(tmp_path: Path) -> None:
    """transformers would draw from the 50 likeliest."""
    model, tokenizer = load_base(tiny.decoder(tmp_path / "gpt2"), Text2Text())
    options = _generation_options(model, tokenizer, Decoding(sample=True, temperature=1000.0), None)
    torch.manual_seed(0)
    out = model.generate(input_ids=torch.full((600, 2), 65), max_new_tokens=1, **options)
    assert len(out[:, -1].unique()) > 200  # of 258


# --- words of a text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [True, False])
def test_words_are_cut_as_in_a_text_by_byte_level_tokenizers_of_the_generic_class(split: bool) -> None:
    """Llama 3's is one: a pattern, then bytes. Its class takes `add_prefix_space` and does nothing with it."""
    backend = Tokenizer(models.BPE())
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)
    parts = [pre_tokenizers.Split(Regex(" ?[^ ]+"), "isolated"), bytes_alone]
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts) if split else bytes_alone
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = ["x hello"] * 9 + ["x EU rejects German call"] * 9
    backend.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, add_prefix_space=True, pad_token="!")
    words = ["EU", "rejects", "German", "call"]
    table = Table("t", [{"tokens": words, "tags": ["B-A", "O", "O", "O"]}], [1])
    model: Any = None  # which tagging does not ask
    (feature,) = Tagging(labels=("O", "B-A")).features(table, model, tokenizer, Window(None))
    text = tokenizer(" " + " ".join(words), add_special_tokens=False)["input_ids"]
    assert feature["input_ids"] == text
    assert [word for word in feature["words"] if word is not None] == [0, 1, 2, 3]


# --- heads -----------------------------------------------------------------------------------------------------------


def test_a_head_is_trained_in_full_precision_over_a_base_in_16_bits(bert: str) -> None:
    model, _ = load_base(bert, Classification(labels=("a", "b")), dtype="bfloat16")
    ids = torch.arange(4, 20).reshape(2, 8)
    before = model(ids).logits
    pt.attach(model, pt.PTuningV2(length=2, init="zeros"))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert any("classifier" in name for name in trained)
    out = model(ids).logits
    assert out.dtype == before.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained.values())
    with pt.using(model, ["default", None]):
        mixed = model(ids).logits
    assert torch.equal(mixed[1], before[1])
    assert torch.allclose(mixed[0].float(), out[0].float(), atol=0.02)


# --- schedules, decay, names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_plateau_is_where_the_metric_gets_no_better(
    tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    """Fifteen looks, each better than the one before: the rate stays."""
    looks: list[int] = []

    def measure(self: Bench, table: Any, answered: bool = True) -> dict[str, float]:
        looks.append(1)
        return {"loss": 1 / len(looks), "accuracy": len(looks) / 100}

    monkeypatch.setattr(Bench, "measure", measure)
    more = {"metric": metric, "eval_every": 1, "max_steps": 15, "warmup": 0, "logging_steps": 1, "lr": 1e-3}
    run = config(tmp_path, "classification", bert, schedule="reduce_lr_on_plateau", **more)
    train(run, method())
    history = [json.loads(line) for line in (Path(run.output) / "log_history.jsonl").read_text().splitlines()]
    assert {entry["learning_rate"] for entry in history if "learning_rate" in entry} == {1e-3}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"schedule": "reduce_lr_on_plateau", "warmup": 2}, "has no warm-up; leave --warmup out"),
        ({"schedule": "reduce_lr_on_plateau", "eval": None}, "looks at development data; give --eval"),
        ({"schedule": "greedy"}, "schedule 'greedy' has rates of its own"),
        ({"schedule": "polynomial", "lr": 1e-7}, "schedule 'polynomial' needs arguments"),
    ],
)
def test_schedules_that_a_run_could_not_follow_are_refused(
    tmp_path: Path, bert: str, options: dict[str, Any], told: str
) -> None:
    run = config(tmp_path, "classification", bert, max_steps=4, **{"warmup": 0, **options})
    with pytest.raises(ConfigError, match=told):
        train(run, method())
    assert not (Path(run.output) / "run.json").exists()


@pytest.mark.parametrize("name", ["unbiased", "norm"])
def test_the_name_of_a_prefix_takes_no_part_in_its_weight_decay(tmp_path: Path, bert: str, name: str) -> None:
    weights = []
    for called in ("default", name):
        (tmp_path / called).mkdir()
        more = {"name": called, "max_steps": 6, "weight_decay": 5.0, "lr": 1e-2, "eval": None, "test": None}
        run = config(tmp_path / called, "classification", bert, **more)
        train(run, method())
        weights.append(load_file(Path(run.output) / "prefix.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# --- what is told before training, and in which words ----------------------------------------------------------------


@pytest.mark.parametrize("role", ["train", "eval", "test"])
def test_an_empty_source_is_told_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str) -> None:
    base = tiny.decoder(tmp_path / "gpt2")
    files = {name: tiny.jsonl(tmp_path / f"{name}.jsonl", tiny.doubled(8)) for name in ("train", "eval", "test")}
    tiny.jsonl(Path(files[role]), [{"source": "", "target": "aa"}])
    argv = ["train", "--model", base, "--task", "text2text", "--method", "p_tuning_v2", "--length", "2", "--separator",
            "", "--max-steps", "1", "--output", str(tmp_path / "out")]  # fmt: skip
    line = refused([*argv, *(word for name, file in files.items() for word in (f"--{name}", file))], capsys)
    assert f"{role}.jsonl" in line and "the source is empty; expected at least one token" in line
    assert not (tmp_path / "out" / "run.json").exists()


def test_an_output_that_is_this_process_own_goes_behind_what_it_wrote(tmp_path: Path) -> None:
    """`> log` makes /dev/stdout a file; it was replaced, and what stood in it and what came after was lost."""
    script = (
        "from pathlib import Path\nfrom prefixtune.training.results import write_text\n"
        "print('before')\nwrite_text(Path('/dev/stdout'), 'answer\\n')\nprint('after')\n"
    )
    log = tmp_path / "log"
    with log.open("w") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True)
    assert log.read_text() == "before\nanswer\nafter\n"


def test_a_folder_named_like_a_date_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("output: 2026-11-22\nmodel: nowhere\n")
    assert "Traceback" not in refused(["train", str(file)], capsys)


def test_titles_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"trained": 1, "stored": 1, "stored_percent": 1.0, "base": 100}
    found = {"parameters": sizes, "steps": 1, "best_step": 1, "seconds": 1.0}
    for title in ("x[/b]", "x[red]"):
        report.show_run(title, found)
        report.show_facts(title, {"a": "b"})
        report.show_table(title, ["a"], [["wider than the title"]])
        assert capsys.readouterr().out.count(title) == 3
