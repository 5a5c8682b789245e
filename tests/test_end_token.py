"""The token that ends a target: written by training, obeyed by generation, doubted where the base never learned it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_training import config, method

import prefixtune as pt
from prefixtune import evaluation, tasks
from prefixtune.errors import ConfigError, DataError, ModelError
from prefixtune.reproduce import derive
from prefixtune.tasks import Decoding, Table
from prefixtune.tasks.decoding import ends, generate, tell_of_unlearned_end
from prefixtune.tasks.loading import load_base, window
from prefixtune.tasks.task import Window, tell_once
from prefixtune.training.run import train

BASES = {"gpt2": tiny.decoder, "llama": tiny.llama, "bart": tiny.encoder_decoder}
LONG = Decoding(max_new_tokens=12)


def table(*rows: dict[str, Any]) -> Table:
    return Table("data", list(rows), list(range(1, len(rows) + 1)))


def text2text(**options: Any) -> Any:
    return tasks.find("text2text").learn(table({"source": "a", "target": "b"}), **options)


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    model, tokenizer = load_base(BASES[request.param](tmp_path), text2text())
    with torch.no_grad():
        for parameter in model.parameters():  # wide enough for answers that are not one token over and over
            parameter.normal_(std=0.4)
    return model.eval(), tokenizer


def test_a_target_ends_with_the_token_that_was_named(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    rows = table({"source": "ab", "target": "xy"})
    (feature,) = text2text(end_token="|").features(rows, model, tokenizer, window(model, tokenizer, 0))
    target = [token for token in feature["labels"] if token != tasks.task.IGNORED]
    assert tokenizer.decode(target) == "xy|"


@pytest.mark.parametrize("row", [0, 1])
def test_an_answer_is_what_the_model_writes_before_the_end_token(base: tuple[Any, Any], row: int) -> None:
    model, tokenizer = base
    prompts = [tokenizer("some words")["input_ids"], tokenizer("other\n")["input_ids"]]
    written = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=12, do_sample=False,
            eos_token_id=None, pad_token_id=1,
        )[0].tolist()  # fmt: skip
        written.append(out[1:] if model.config.is_encoder_decoder else out[len(prompt) :])
    end = written[row][4]
    before = [ids[: ids.index(end)] if end in ids else ids for ids in written]
    assert len(before[row]) <= 4
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    assert generate(model, tokenizer, prompts, Window(), LONG, 2, end) == [
        text.strip() for text in tokenizer.batch_decode(before, skip_special_tokens=True)
    ]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.decoder(tmp_path_factory.mktemp("gpt2"), initializer_range=0.3)


@pytest.fixture(scope="module")
def trained(gpt2: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of two prefixes that answer a letter by itself twice, with different ends."""
    folders = {}
    for name, end in (("bar", "|"), ("own", None)):
        folder = tmp_path_factory.mktemp(name)
        run = config(folder, "text2text", gpt2, epochs=60, lr=5e-2, base_dropout=False, end_token=end)
        assert train(run, method("p_tuning_v2", length=8))["test"]["rougeL"] == 1.0
        folders[name] = run.output
    return folders


def test_a_prefix_learns_to_stop_at_it_and_takes_it_along(gpt2: str, trained: dict[str, str]) -> None:
    loaded = evaluation.load(gpt2, {"bar": trained["bar"]})
    task = loaded.tasks["bar"]
    assert isinstance(task, tasks.text2text.Text2Text)
    assert task.end_token == "|"
    with pt.using(loaded.model, "bar"), torch.no_grad():
        ids = torch.tensor([loaded.tokenizer("c\n")["input_ids"]])
        out = loaded.model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)[0]
    assert loaded.tokenizer.decode(out) == "c\ncc|"
    (answers,) = evaluation.generate(loaded, ["c"], ["bar"], LONG)
    assert answers == {"bar": "cc"}


def test_prefixes_with_different_ends_answer_in_one_call_as_each_alone(gpt2: str, trained: dict[str, str]) -> None:
    loaded = evaluation.load(gpt2, trained)
    prompts = ["a", "b|", "d"]
    alone = {name: evaluation.generate(loaded, prompts, [name], LONG) for name in trained}
    together = evaluation.generate(loaded, prompts, list(trained), LONG)
    assert together == [{name: alone[name][row][name] for name in trained} for row in range(3)]
    assert together[0] == {"bar": "aa", "own": "aa"}


def test_an_ensemble_stops_at_it_too(gpt2: str, trained: dict[str, str]) -> None:
    loaded = evaluation.load(gpt2, {"bar": trained["bar"]})
    prompts = [loaded.tokenizer(letter + "\n")["input_ids"] for letter in "ab"]
    end = loaded.tokenizer("|")["input_ids"][0]
    assert derive.generate(loaded, ["bar"], prompts, LONG, end=end) == ["aa", "bb"]


@pytest.mark.parametrize(("own", "wanted"), [([7, 9], [7, 9, 0, 5]), (7, [7, 0, 5]), (None, [0, 5])])
def test_what_ends_the_models_own_texts_still_ends_an_answer(tmp_path: Path, own: Any, wanted: list[int]) -> None:
    model, tokenizer = load_base(tiny.decoder(tmp_path), text2text())
    model.generation_config.eos_token_id = own
    assert ends(model, tokenizer, 5) == wanted
    assert ends(model, tokenizer, None) == wanted[:-1]


@pytest.mark.parametrize(
    ("end", "said"),
    [("ab", r"'ab' is 2 tokens \(\['a', 'b'\]\); expected one token of the tokenizer, as '<end>'"), ("", "0 tokens")],
)
def test_what_is_not_one_token_is_refused(tmp_path: Path, end: str, said: str) -> None:
    model, tokenizer = load_base(tiny.decoder(tmp_path), text2text())
    with pytest.raises(ConfigError, match=said):
        text2text(end_token=end).features(table({"source": "a", "target": "b"}), model, tokenizer, Window())


def test_a_target_that_holds_it_is_told_with_its_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = load_base(tiny.decoder(tmp_path), text2text())
    rows = table({"source": "a", "target": "b"}, {"source": "a", "target": "b. c"})
    tell_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="prefixtune"):
        text2text(end_token=".").features(rows, model, tokenizer, Window())
    assert caplog.messages == [
        "data: 1 targets hold the end token '.', as data, line 2; no answer will go on behind it"
    ]


def test_a_text_that_is_one_token_goes_before_a_byte_of_that_name() -> None:
    tokenizer = tiny.byte_tokenizer()
    assert tokenizer.get_vocab()["£"] == tokenizer("£")["input_ids"][1]  # the name of a byte that "£" ends with
    with pytest.raises(ConfigError, match="'£' is 2 tokens"):
        text2text(end_token="£").end(tokenizer)
    assert text2text(end_token="\n").end(tokenizer) == tokenizer.get_vocab()["Ċ"]


def test_a_word_that_the_tokenizer_does_not_know_is_refused() -> None:
    tokenizer = tiny.letter_tokenizer()
    with pytest.raises(ConfigError, match="'é' is unknown to the tokenizer"):
        text2text(end_token="é").end(tokenizer)
    assert text2text(end_token="[UNK]").end(tokenizer) == tokenizer.unk_token_id


def test_what_a_model_is_forced_to_write_first_ends_nothing(tmp_path: Path) -> None:
    model, tokenizer = load_base(tiny.encoder_decoder(tmp_path), text2text())
    model.generation_config.forced_bos_token_id = text2text(end_token="|").end(tokenizer)
    with pytest.raises(ConfigError, match=r"end_token '\|' is what this model is forced to write first"):
        text2text(end_token="|").features(table({"source": "a", "target": "b"}), model, tokenizer, Window())


def test_an_end_token_that_the_model_has_no_row_for_is_refused(tmp_path: Path) -> None:
    model, tokenizer = load_base(tiny.decoder(tmp_path), text2text())
    tokenizer.add_tokens(["<over>"])
    with pytest.raises(ModelError, match="'<over>' has the id 258, but the model has 258 tokens; resize"):
        tell_of_unlearned_end(model, tokenizer, text2text(end_token="<over>").end(tokenizer))


def test_an_answer_has_the_room_that_the_decoder_of_an_encoder_decoder_has(tmp_path: Path) -> None:
    model, tokenizer = load_base(tiny.encoder_decoder(tmp_path), text2text())
    room = window(model, tokenizer, 0)
    model.generation_config.eos_token_id = None
    (answer,) = generate(model.eval(), tokenizer, [[40, 41, 42]], room, Decoding(max_new_tokens=500), 1)
    assert len(tokenizer(answer)["input_ids"]) <= 96
    rows = table({"source": "a", "target": "b" * 96})
    with pytest.raises(DataError, match="a target has 97 tokens but the decoder has room for 96"):
        text2text().features(rows, model, tokenizer, room)
    (feature,) = text2text(max_target_length=96).features(rows, model, tokenizer, room)
    with torch.no_grad():
        model(input_ids=torch.tensor([[40]]), labels=torch.tensor([feature["labels"]]))


@pytest.mark.parametrize("separator", ["<end>", " <end>", "\n<end>"])
def test_a_separator_keeps_an_end_token_of_its_own(tmp_path: Path, separator: str) -> None:
    model, tokenizer = load_base(tiny.decoder(tmp_path), text2text())
    task = text2text(separator=separator)
    rows = table({"source": "abc", "target": "xy"}, {"source": "a" * 200, "target": "xy"})
    short, long = task.features(rows, model, tokenizer, window(model, tokenizer, 0))
    assert tokenizer.decode(short["input_ids"]) == f"abc{separator}xy<end>"
    assert tokenizer.decode(long["input_ids"]).endswith(f"a{separator}xy<end>")


def test_an_end_that_the_base_never_learned_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = load_base(tiny.decoder(tmp_path), text2text())
    tell_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="prefixtune"):
        tell_of_unlearned_end(model, tokenizer, 0)
        assert not caplog.messages
        with torch.no_grad():
            model.get_output_embeddings().weight[[7, 9]] = 0.5 * model.get_output_embeddings().weight[0]
        tell_of_unlearned_end(model, tokenizer, 0)
        tell_of_unlearned_end(model, tokenizer, 0)
    assert len(caplog.messages) == 1
    assert "never learned its end token '<end>': 2 other tokens" in caplog.messages[0]
