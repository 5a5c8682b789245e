"""Base models whose files do not belong together or are broken: one line, and never weights drawn at random."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_cli import refused
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from prefixtune.cli import main
from prefixtune.errors import DataError, ModelError
from prefixtune.tasks import Task
from prefixtune.tasks.classification import Classification
from prefixtune.tasks.loading import load_base
from prefixtune.tasks.spans import Spans
from prefixtune.tasks.tagging import Tagging
from prefixtune.tasks.text2text import Text2Text
from prefixtune.training.trainer import PrefixTrainer

CLASSES = Classification(labels=("a", "b"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two base models that load."""
    folder = tmp_path_factory.mktemp("whole")
    tiny.encoder(folder / "bert")
    tiny.decoder(folder / "gpt2")
    return folder


@pytest.fixture
def bases(whole: Path, tmp_path: Path) -> Path:
    """Copies of them to damage."""
    for name in ("bert", "gpt2"):
        shutil.copytree(whole / name, tmp_path / name)
    return tmp_path


def configure(base: Path, **changes: Any) -> str:
    """The base model with another configuration beside its weights."""
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(base)


# --- weights that do not fit the configuration -----------------------------------------------------------------------


@pytest.mark.parametrize("task", [CLASSES, Tagging(labels=("O", "B-A")), Spans(labels=("a", "b"), count=1)])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"intermediate_size": 40}, "layer.0.intermediate.dense.bias is (48,) in the file of weights, but (40,)"),
        ({"max_position_embeddings": 128}, "position_embeddings.weight is (64, 32) in the file of weights, but (128, "),
        ({"vocab_size": 120}, "word_embeddings.weight is (98, 32) in the file of weights, but (120, 32)"),
    ],
)
def test_weights_of_another_shape_than_the_configuration_are_refused_and_not_drawn_anew(
    bases: Path, task: Task, changes: dict[str, int], told: str
) -> None:
    folder = configure(bases / "bert", **changes)
    with pytest.raises(ModelError) as caught:
        load_base(folder, task)
    assert told in str(caught.value)
    assert "restore the config.json" in str(caught.value)


def test_a_language_model_takes_no_weights_of_another_shape_either(bases: Path) -> None:
    folder = configure(bases / "gpt2", n_positions=200)
    with pytest.raises(ModelError, match=r"wpe.weight is \(96, 32\) in the file of weights, but \(200, 32\)"):
        load_base(folder, Text2Text())


@pytest.mark.parametrize("task", [CLASSES, Tagging(labels=("O", "B-A"))])
def test_the_head_of_another_task_is_no_hindrance_and_the_rest_is_what_the_file_says(bases: Path, task: Task) -> None:
    config = BertConfig.from_pretrained(bases / "bert", num_labels=5)
    BertForSequenceClassification(config).save_pretrained(bases / "bert")
    stored = load_file(bases / "bert" / "model.safetensors")
    model, _ = load_base(str(bases / "bert"), task)
    assert model.classifier.out_features == 2
    found = dict(model.bert.named_parameters(prefix="bert"))
    assert found
    for name, weight in found.items():
        assert torch.equal(weight, stored[name]), name


# --- broken files ------------------------------------------------------------------------------------------------


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"abc")


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"abc")


def _tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"type": "none"}}))


def _sizes(folder: Path) -> None:
    configure(folder, num_attention_heads=0)


@pytest.mark.parametrize("damage", [_cut, _garbage, _pickled, _tokenizer, _sizes])
def test_a_broken_base_model_is_one_line(
    bases: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    damage(bases / "bert")
    data = tiny.jsonl(bases / "classes.jsonl", tiny.first_letter(8))
    argv = ["train", "--model", str(bases / "bert"), "--task", "classification", "--train", data, "--method",
            "p_tuning_v2", "--length", "2", "--output", str(bases / "out")]  # fmt: skip
    line = refused(argv, capsys)
    assert f"cannot load the model {str(bases / 'bert')!r}: " in line
    assert "restore its files, or get them again" in line
    assert not (bases / "out").exists()


# --- tokens without an embedding -------------------------------------------------------------------------------------


def extended(base: Path, add: Callable[[Any], object]) -> str:
    """The base model with a tokenizer that knows more than before, and nothing more in the model."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    add(tokenizer)
    tokenizer.save_pretrained(base)
    return str(base)


@pytest.mark.parametrize("task", [CLASSES, Text2Text()])
@pytest.mark.parametrize("role", ["pad", "eos"])
def test_a_token_of_the_tokenizer_beyond_the_embedding_is_named(bases: Path, task: Task, role: str) -> None:
    folder = extended(bases / "gpt2", lambda known: known.add_special_tokens({f"{role}_token": "[NEW]"}))
    told = rf"the {role} token '\[NEW\]' of the tokenizer is number 258, but the model has 258 embeddings"
    with pytest.raises(ModelError, match=told):
        load_base(folder, task)


def test_a_tokenizer_of_more_words_than_the_model_is_refused_with_both_numbers(bases: Path) -> None:
    folder = extended(bases / "bert", lambda known: known.add_tokens(["dish", "shop"]))
    with pytest.raises(ModelError, match="the tokenizer has 100 tokens, but the model has 98 embeddings; give it"):
        load_base(folder, CLASSES)


def test_a_whole_vocabulary_of_another_model_is_refused(bases: Path) -> None:
    for path in (bases / "gpt2").glob("tokenizer*"):
        shutil.copy(path, bases / "bert" / path.name)
    with pytest.raises(ModelError, match="the tokenizer has 258 tokens, but the model has 98 embeddings"):
        load_base(str(bases / "bert"), CLASSES)


def test_a_special_token_that_no_text_has_may_be_without_an_embedding(bases: Path) -> None:
    """As Gemma 3's for an image: number 262144 of its tokenizer, beside 262144 embeddings in the model of texts."""
    folder = extended(bases / "gpt2", lambda known: known.add_tokens(["<image>"], special_tokens=True))
    model, tokenizer = load_base(folder, Text2Text())
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings + 1


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_a_text_that_has_such_a_token_is_one_line_wherever_it_is_read(
    bases: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Before, torch's IndexError came through, with its traceback."""
    if kind == "bart":
        tiny.encoder_decoder(bases / "bart")
    folder = extended(bases / kind, lambda known: known.add_tokens(["<image>"], special_tokens=True))
    clean = tiny.jsonl(bases / "clean.jsonl", tiny.doubled(8))
    marked = tiny.jsonl(bases / "marked.jsonl", [{"source": "see <image>", "target": "a"}])
    targets = tiny.jsonl(bases / "targets.jsonl", [{"source": "a", "target": "see <image>"}])
    told = "a text has the token '<image>', number 258 of the tokenizer, but the model has 258 embeddings"
    argv = ["train", "--model", folder, "--task", "text2text", "--method", "p_tuning_v2", "--length", "2",
            "--max-steps", "1", "--train"]  # fmt: skip
    for number, data in enumerate((marked, targets)):
        assert told in refused([*argv, data, "--output", str(bases / f"no{number}")], capsys)
    prefix = str(bases / "prefix")
    assert main([*argv, clean, "--output", prefix]) == 0
    assert told in refused(["evaluate", "--prefix", prefix, "--data", marked, "--model", folder], capsys)
    assert told in refused(["generate", "--prefix", prefix, "--prompt", "see <image>", "--model", folder], capsys)
    assert main(["evaluate", "--prefix", prefix, "--data", clean, "--model", folder]) == 0


def test_a_training_that_fails_ends_the_line_of_its_bar(
    bases: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise DataError("no")

    monkeypatch.setattr(PrefixTrainer, "training_step", fail)
    data = tiny.jsonl(bases / "data.jsonl", tiny.doubled(8))
    argv = ["train", "--model", str(bases / "gpt2"), "--task", "text2text", "--method", "p_tuning_v2", "--length", "2",
            "--max-steps", "1", "--train", data, "--output", str(bases / "out")]  # fmt: skip
    assert refused(argv, capsys) == "prefixtune: no"
