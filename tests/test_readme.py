"""The README does what it says: its blocks run, its tree exists, its table of architectures is the tests' own."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from readme_blocks import BlockError, missing_paths, run, tree_paths

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TABLE = re.compile(r"<!-- contract-table -->\n(.*?)<!-- /contract-table -->", re.DOTALL)

PAIRS = [("name : Blue Spice | food : French", "Blue Spice serves French food ."),
         ("name : The Mill | food : Italian", "The Mill serves Italian food .")]  # fmt: skip
REVIEWS = [("a warm and clever film", "positive"), ("dull and far too long", "negative")]
SENTENCES = [[("Ada", "B-PER"), ("lives", "O"), ("in", "O"), ("Paris", "B-LOC")],
             [("Paris", "B-LOC"), ("thanks", "O"), ("Ada", "B-PER")]]  # fmt: skip


def write_csv(path: Path, columns: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: `my-decoder` and `my-encoder`, tiny and untrained, and a few rows of each kind of data."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = sorted({word for pair in PAIRS + REVIEWS for text in pair for word in text.split()})
    words += sorted({word for sentence in SENTENCES for word, _ in sentence} - set(words))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>"]
    vocabulary = {word: index for index, word in enumerate(special + words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", eos_token="</s>", model_max_length=128,
    )  # fmt: skip
    small = dict(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=160, pad_token_id=0,
    )  # fmt: skip
    decoder = LlamaForCausalLM(LlamaConfig(**small, num_key_value_heads=2, bos_token_id=2, eos_token_id=5))
    encoder = BertModel(BertConfig(**small))
    for name, model in (("my-decoder", decoder), ("my-encoder", encoder)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    for split in ("train", "dev"):
        write_csv(tmp_path / f"restaurants-{split}.csv", ("source", "target"), PAIRS * 4)
        write_csv(tmp_path / f"reviews-{split}.csv", ("text", "label"), REVIEWS * 4)
        conll = "\n\n".join("\n".join(f"{word} {tag}" for word, tag in sentence) for sentence in SENTENCES * 4)
        (tmp_path / f"entities-{split}.conll").write_text(conll + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_block_of_the_readme_runs(reader: Path) -> None:
    from prefixtune.cli import main

    assert run(README.read_text(), main, reader) > 0


def test_the_readme_is_short() -> None:
    assert 0 < len(README.read_text().splitlines()) < 200


def test_the_tree_of_the_readme_names_only_what_exists() -> None:
    assert missing_paths(README.read_text(), ROOT) == []


def test_the_table_of_architectures_is_the_one_the_contract_tests_make() -> None:
    import contract_table  # here, because it builds the whole contract

    stale = "README.md is behind: run python tests/contract_table.py"
    assert TABLE.findall(README.read_text()) == [contract_table.table()], stale


# The harness itself, on pages that must and must not pass.

PYTHON = "```python\n{}\n```\n"
CONSOLE = "```console\n{}\n```\n"


def nothing(argv: list[str]) -> None:
    """A command line that takes everything."""


def test_python_blocks_share_one_namespace(tmp_path: Path) -> None:
    assert run(PYTHON.format("x = 1") + PYTHON.format("assert x == 1"), nothing, tmp_path) == 2


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("text\n\n" + PYTHON.format("x = 1\ny = 1 / 0"), "line 5: ZeroDivisionError"),
        (PYTHON.format("x = ("), "line 1: SyntaxError"),
        ("```\nhello\n```\n", "neither runs nor says why"),
        ("```yaml\na: 1\n```\n", "a block of yaml neither runs"),
        ("<!-- test: skip -->\n" + PYTHON.format("1 / 0"), "a skip needs its reason"),
        ("<!-- test: skp because x -->\n" + PYTHON.format("1 / 0"), "unknown comment"),
        (CONSOLE.format("only output"), "no command in it"),
        (CONSOLE.format("$ rm -r /"), "'rm' is not run here"),
        ("```python\nx = 1\n", "not closed"),
    ],
)
def test_a_broken_page_is_an_error_that_names_its_line(tmp_path: Path, page: str, complaint: str) -> None:
    with pytest.raises(BlockError, match=re.escape(complaint)) as error:
        run(page, nothing, tmp_path)
    assert str(error.value).startswith("line ")


def test_commands_reach_the_command_line_whole(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    page = CONSOLE.format("$ prefixtune train --model M \\\n    --length 16   # a comment\nloss 0.1\n$ prefixtune demo")
    page += "```bash\nprefixtune generate --prompt 'two words' \\\n  --seed 1\n```\n"
    assert run(page, seen.append, tmp_path) == 2
    assert seen == [
        ["train", "--model", "M", "--length", "16"],
        ["demo"],
        ["generate", "--prompt", "two words", "--seed", "1"],
    ]


@pytest.mark.parametrize("outcome", [SystemExit(2), SystemExit("bad input"), ValueError("bad input"), 2])
def test_a_command_that_fails_is_an_error(tmp_path: Path, outcome: Exception | int) -> None:
    def fails(argv: list[str]) -> int:
        if isinstance(outcome, int):
            return outcome
        raise outcome

    with pytest.raises(BlockError, match="line 1: prefixtune train"):
        run(CONSOLE.format("$ prefixtune train"), fails, tmp_path)


def test_a_command_may_leave_with_code_zero(tmp_path: Path) -> None:
    def leaves(argv: list[str]) -> None:
        raise SystemExit(0)

    assert run(CONSOLE.format("$ prefixtune train"), leaves, tmp_path) == 1


def test_a_file_block_is_there_for_the_next(tmp_path: Path) -> None:
    page = "<!-- test: file run.yaml -->\n\n```yaml\na: 1\n```\n"
    run(page, nothing, tmp_path)
    assert (tmp_path / "run.yaml").read_text() == "a: 1\n"


def test_a_skipped_block_does_not_run(tmp_path: Path) -> None:
    assert run("<!-- test: skip because it fails -->\n" + PYTHON.format("1 / 0"), nothing, tmp_path) == 0


def test_a_tree_is_read_in_either_drawing_and_what_is_missing_is_named(tmp_path: Path) -> None:
    plain = "src/\n  a.py     the first\n  sub/     a folder\n    b.py\ntests/   laws"
    drawn = "src/\n├── a.py     # the first\n├── sub/\n│   └── b.py\ntests/"
    assert tree_paths(plain) == tree_paths(drawn) == ["src/", "src/a.py", "src/sub/", "src/sub/b.py", "tests/"]
    (tmp_path / "src" / "sub").mkdir(parents=True)
    (tmp_path / "src" / "a.py").touch()
    assert missing_paths(f"<!-- test: tree -->\n```text\n{plain}\n```\n", tmp_path) == ["src/sub/b.py", "tests/"]
    with pytest.raises(BlockError, match="no block is marked"):
        missing_paths("no tree", tmp_path)
