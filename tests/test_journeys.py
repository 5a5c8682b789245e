"""From training to another program: class names in a pipeline, tokenizers, data as `reproduce` reads them, messages."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from test_reproduce import Fake, tiny_experiment
from tokenizers import Tokenizer

import prefixtune as pt
from prefixtune import evaluation, reproduce
from prefixtune.checkpoint import CONFIG, TENSORS
from prefixtune.cli import main
from prefixtune.errors import CheckpointError, ModelError
from prefixtune.probe import picture
from prefixtune.reproduce import runner, table
from prefixtune.reproduce.options import Options

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")
NAMES = {0: "low", 1: "high"}  # not in the order in which training puts them


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose own head has the classes in another order, and a prefix that was trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = tiny.letter_tokenizer(model_max_length=64)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = tf.BertConfig(vocab_size=len(tokenizer), initializer_range=0.3, id2label=NAMES, **shape)
    config.label2id = {name: index for index, name in NAMES.items()}
    tf.BertForSequenceClassification(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    data = tiny.jsonl(folder / "train.jsonl", tiny.first_letter(64))
    assert main([
        "train", "--model", str(folder / "base"), "--task", "classification", "--method", "p_tuning_v2", "--length",
        "4", "--train", data, "--eval", data, "--epochs", "12", "--batch-size", "8", "--lr", "5e-2",
        "--no-base-dropout", "--output", str(folder / "prefix"),
    ]) == 0  # fmt: skip
    return folder


# --- class names ---------------------------------------------------------------------------------------------------


def test_a_pipeline_names_the_classes_as_the_prefix_was_trained(trained: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    data = str(trained / "train.jsonl")
    assert main(["evaluate", "--prefix", str(trained / "prefix"), "--data", data, "--predictions", str(answers)]) == 0
    told = [json.loads(line) for line in answers.read_text().splitlines()]
    model = tf.AutoModelForSequenceClassification.from_pretrained(trained / "base")
    own = dict(model.config.id2label), dict(model.config.label2id)
    with pytest.warns(UserWarning, match=r"as 'default' was trained, \['high', 'low'\]; they were called \['low'"):
        pt.load(model, trained / "prefix")
    pipe = tf.pipeline("text-classification", model=model, tokenizer=str(trained / "base"), device="cpu")
    texts = [json.loads(line)["text"] for line in Path(data).read_text().splitlines()]
    assert {answer["label"] for answer in pipe(texts)} == {"low", "high"}
    assert [answer["label"] for answer in pipe(texts)] == told
    pt.detach(model)
    assert (model.config.id2label, model.config.label2id) == own


def test_a_base_without_class_names_gets_them_without_a_word(trained: Path, recwarn: pytest.WarningsRecorder) -> None:
    none = {0: "LABEL_0", 1: "LABEL_1"}
    model = tf.AutoModelForSequenceClassification.from_pretrained(trained / "base", id2label=none)
    pt.load(model, trained / "prefix")
    assert model.config.id2label == {0: "high", 1: "low"}
    assert not [one for one in recwarn if "classes" in str(one.message)]
    with pt.using(model, None):
        assert model.config.num_labels == 2


# --- the tokenizer --------------------------------------------------------------------------------------------------


def moved(trained: Path, folder: Path, change: Any) -> str:
    """The base with its tokenizer changed."""
    tf.AutoModelForSequenceClassification.from_pretrained(trained / "base").save_pretrained(folder)
    change(tf.AutoTokenizer.from_pretrained(trained / "base")).save_pretrained(folder)
    return str(folder)


def rotated(tokenizer: tf.PreTrainedTokenizerFast) -> tf.PreTrainedTokenizerFast:
    """Every letter has its neighbour's number."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    letters = [token for token in vocabulary if token not in tiny.SPECIAL]
    numbers = [vocabulary[token] for token in letters]
    state["model"]["vocab"] |= dict(zip(letters, numbers[1:] + numbers[:1], strict=True))
    special = {name: getattr(tokenizer, name) for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    return tf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **special)


def test_another_tokenizer_beside_the_same_weights_is_refused(trained: Path, tmp_path: Path) -> None:
    base = moved(trained, tmp_path / "rotated", rotated)
    with pytest.raises(CheckpointError, match="with another tokenizer: .*rotated's gives a text other tokens"):
        evaluation.load(base, {"default": str(trained / "prefix")})


def test_a_token_that_was_added_since_is_no_other_tokenizer(trained: Path, tmp_path: Path) -> None:
    def grown(tokenizer: Any) -> Any:
        tokenizer.add_special_tokens({"mask_token": "[MASK]"})
        return tokenizer

    base = moved(trained, tmp_path / "grown", grown)
    assert evaluation.load(base, {"default": str(trained / "prefix")}).tokenizer.mask_token == "[MASK]"


def test_a_prefix_that_does_not_say_its_tokenizer_is_loaded(trained: Path, tmp_path: Path) -> None:
    header = json.loads((trained / "prefix" / CONFIG).read_text())
    assert header["metadata"].pop("tokenizer")
    old = tmp_path / "old"
    old.mkdir()
    (old / CONFIG).write_text(json.dumps(header))
    (old / TENSORS).write_bytes((trained / "prefix" / TENSORS).read_bytes())
    assert evaluation.load(moved(trained, tmp_path / "rotated", rotated), {"default": str(old)})


# --- data of a corpus ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`place`, and an APT prefix that `reproduce` trained there."""
    folder = tiny.place(tmp_path_factory.mktemp("reproduced"))
    assert main([
        "reproduce", "apt", "--model", str(folder / "bert"), "--data", f"conll04={folder / 'conll04'}", "--corpora",
        "conll04", "--methods", "APT", "--lengths", "3", "--seeds", "1", "--max-steps", "40", "--eval-every", "20",
        "--lr", "3e-2", "--output", str(folder / "out"),
    ]) == 0  # fmt: skip
    return folder


def test_evaluate_and_probe_read_a_corpus_as_reproduce_does(
    reproduced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = reproduced / "out/runs/conll04/apt/seed-42"
    told = json.loads((run / "metrics.json").read_text())["tests"]["test"]
    data = f"conll04={reproduced / 'conll04'}"
    capsys.readouterr()
    assert main(["evaluate", "--prefix", str(run), "--data", data]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["f1"] == pytest.approx(told["entity_f1"])
    assert main(["evaluate", "--prefix", str(run), "--data", data, "--split", "train"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] != scores["loss"]
    assert main(["probe", "--prefix", str(run), "--data", data, "--by", "label", "--output", str(tmp_path / "p")]) == 0
    assert (tmp_path / "p" / "by-label-encoder.png").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "renamed.json"], "no column 'tokens'; this prefix was trained on the rows that the corpus conll04"),
        (["--data", "conll04=conll04", "--split", "tset"], "--split: conll04 has no part 'tset'; did you mean 'test'"),
        (["--data", "conll04=conll04", "--columns", "tokens=x"], "--columns: the corpus conll04 makes its rows itself"),
        (["--data", "conll04=nowhere"], "'nowhere' is not a local folder"),
        (["--data", "conl04=conll04"], "unknown data set 'conl04'; did you mean 'conll04'"),
    ],
)
def test_data_that_are_not_as_in_training_are_one_line(
    more: list[str], message: str, reproduced: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(reproduced)
    rows = json.loads((reproduced / "conll04/conll04_test.json").read_text())
    (reproduced / "renamed.json").write_text(json.dumps([{"words": row["tokens"], "ner": row["tags"]} for row in rows]))
    run = "out/runs/conll04/apt/seed-42"
    assert main(["evaluate", "--prefix", run, *more]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prefixtune:")]
    assert message in line


def test_the_tags_of_conllpp_are_told_beside_figures_of_conll2003(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.encoder(tmp_path / "bert")
    lines = "".join(f"{word} NN B-NP {tag}\n" for word, tag in (("Aa", "B-PER"), ("bb", "O"), ("Cc", "B-LOC"))) + "\n"
    monkeypatch.setattr(runner, "fit", Fake())
    told = {}
    for names in (("conllpp_train", "conllpp_dev", "conllpp_test"), ("train", "dev", "test")):
        folder = tmp_path / names[0]
        folder.mkdir()
        for number, name in enumerate(names):
            (folder / f"{name}.txt").write_text(lines * (4 + number))
        monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(corpora=("conll2003",)))
        asked = Options(model=str(tmp_path / "bert"), data=[str(folder)], methods=["FT"], lr=[1e-3], seeds=1)
        found = runner.run("fake", asked, tmp_path / f"out-{names[0]}", resume=False, command=["x"])
        told[names[0]] = any("test tags are corrected" in line for line in table.caption(found))
    assert told == {"conllpp_train": True, "train": False}


# --- pictures and messages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("apart", "scale"), [(1e-8, 5e-4), (0.1, 0.1)])
def test_differences_that_are_rounding_are_pale(apart: float, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    own = picture._heat

    def heat(axes: Any, values: Any, colours: str, low: float, high: float, *rest: Any) -> Any:
        seen.extend((-low, high))
        return own(axes, values, colours, low, high, *rest)

    monkeypatch.setattr(picture, "_heat", heat)
    panels = [
        picture.Panel(title=name, layers=[0, 1], gates=[[0.5 + sign * apart, 0.5], [0.5, 0.5]], layer_gates=[1.0, 1.0])
        for name, sign in (("a", 1), ("b", -1))
    ]
    assert picture.groups_png(panels, [[0.5, 0.5], [0.5, 0.5]], "by label").startswith(b"\x89PNG")
    assert seen == pytest.approx([scale] * 4)


def test_a_base_that_a_prefix_names_and_that_is_gone_is_told_with_the_remedy(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefix"
    folder.mkdir()
    for file in (trained / "prefix").iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes().replace(str(trained / "base").encode(), b"gone/base"))
    with pytest.raises(ModelError, match=r"gone/base.*\(the base that .*prefix names; --model names another"):
        evaluation.load(None, {"default": str(folder)})
    with pytest.raises(ModelError) as named:
        evaluation.load("gone/base", {"default": str(folder)})
    assert "--model" not in str(named.value)


def test_a_method_of_ones_own_whose_file_was_not_imported_is_told_so(tmp_path: Path) -> None:
    source = "import prefixtune as pt\nclass Own(pt.PTuningV2):\n    pass\n"
    module = types.ModuleType("journey_own")
    module.__file__ = str(tmp_path / "journey_own.py")
    exec(compile(source, module.__file__, "exec"), vars(module))
    sys.modules["journey_own"] = module
    model = tf.BertModel(tf.BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    pt.attach(model, module.Own(length=2))
    pt.save(model, tmp_path / "prefix")
    header = tmp_path / "prefix" / CONFIG
    header.write_text(header.read_text().replace("journey_own", "journey_gone"))
    pt.detach(model)
    del sys.modules["journey_own"]
    with pytest.raises(CheckpointError, match="one of your own, import its file before loading"):
        pt.load(model, tmp_path / "prefix")
