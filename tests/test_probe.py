"""The gate probe: its numbers are the formula's, its lengths sum to the budget, its report needs nothing outside."""

from __future__ import annotations

import csv
import json
import random
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import test_cli
import test_task_forms
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

import prefixtune as pt
from prefixtune import corpora, evaluation, tasks
from prefixtune.bank import bank_of
from prefixtune.checkpoint import read_config
from prefixtune.cli import main
from prefixtune.errors import ConfigError
from prefixtune.probe.lengths import VariablePrefix, share_out, train_command, variable_prefix
from prefixtune.probe.picture import Panel, gates_png
from prefixtune.probe.reading import Group, SiteGates, read_gates
from prefixtune.probe.run import first_rows
from prefixtune.probe.samples import Judged
from prefixtune.tasks import Table

DATA = {"classification": tiny.first_letter, "tagging": tiny.capitals, "text2text": tiny.doubled}
DATA |= {"spans": test_task_forms.marked_letters, "choice": test_task_forms.low_choices}
BASES = {"bert": tiny.encoder, "llama": tiny.llama, "bart": tiny.encoder_decoder}


def spread(model: Any) -> None:
    """Gates that differ from layer to layer, position to position and token to token."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in bank_of(model).get("default").named_parameters():
            if "layer_gate" in name:
                parameter.copy_(0.5 + torch.rand((), generator=generator))
            elif "token_gate" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def prefix_of(folder: Path, base: str, kind: str, method: Any = None, count: int = 10) -> tuple[Path, Table]:
    """A prefix on a tiny base with gates far apart, saved as training would; and the data of its task."""
    rows = DATA[kind](count, 3)
    table = tasks.read(tiny.jsonl(folder / "data.jsonl", rows))
    task = tasks.find(kind).learn(table)
    model, tokenizer = tasks.loading.load_base(BASES[base](folder / base), task)
    torch.manual_seed(1)
    pt.attach(model, method or pt.AdaptivePrefix(length=3), tokenizer=tokenizer)
    spread(model)
    metadata = {"task": task.metadata(), "decoding": {"max_new_tokens": 3}}
    pt.save(model, folder / "prefix", metadata=metadata)
    return folder / "prefix", task.prepared(table)


def loaded_of(folder: Path) -> evaluation.Loaded:
    return evaluation.load(None, {"default": str(folder)}, dtype="float32")


def formula(folder: Path, hidden: Tensor, layer: int, site: str) -> Tensor:
    """`lambda * sigmoid(h W)`, `[T, P]`, from the file on disk (APT, equations 2 and 3)."""
    file = load_file(folder / "prefix.safetensors")
    return file[f"{site}.{layer}.layer_gate"] * torch.sigmoid(hidden @ file[f"{site}.{layer}.token_gate.weight"])


def states_of(model: Any, modules: list[Any], **inputs: Tensor) -> list[Tensor]:
    """What the attention modules read in one forward of one text, `[T, d]` each."""
    seen: list[Tensor] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"])[0].detach())

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def close(found: Tensor, expected: Tensor) -> None:
    assert torch.allclose(found, expected.double(), atol=1e-5), (found - expected).abs().max()


# --- the numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_gates_of_an_encoder_are_the_formula_averaged_over_its_examples_and_its_labels(
    tmp_path: Path, batch_size: int
) -> None:
    folder, table = prefix_of(tmp_path, "bert", "classification")
    loaded = loaded_of(folder)
    model = loaded.model.eval()
    attentions = [layer.attention.self for layer in model.bert.encoder.layer]
    by_example = []
    for row in table.rows:
        inputs = loaded.tokenizer(row["text"], return_tensors="pt")
        states = states_of(model, attentions, **inputs)
        by_example.append(torch.stack([formula(folder, h, i, "encoder").mean(0) for i, h in enumerate(states)]))
    expected = torch.stack(by_example)  # [N, L, P]

    reading = read_gates(loaded, "default", table, by="label", batch_size=batch_size)
    close(reading.overall.sites["encoder"].gate, expected.mean(0))
    assert [group.name for group in reading.groups] == ["high", "low"]
    for group in reading.groups:
        rows = [index for index, row in enumerate(table.rows) if row["label"] == group.name]
        assert 0 < group.count == len(rows) < len(table)
        close(group.sites["encoder"].gate, expected[rows].mean(0))
    site = reading.overall.sites["encoder"]
    close(site.alpha() * site.layer_gate[:, None], site.gate)
    assert ((site.alpha() > 0) & (site.alpha() < 1)).all()
    assert not torch.allclose(site.layer_gate, torch.ones(2, dtype=torch.float64))


def test_the_gates_of_a_tag_are_the_formula_averaged_over_the_first_sub_tokens_of_its_words(tmp_path: Path) -> None:
    folder, table = prefix_of(tmp_path, "bert", "tagging")
    loaded = loaded_of(folder)
    attentions = [layer.attention.self for layer in loaded.model.bert.encoder.layer]
    found: dict[str, list[Tensor]] = {"NAME": [], "O": []}
    for row in table.rows:
        encoded = loaded.tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        states = states_of(loaded.model.eval(), attentions, **encoded)
        gate = torch.stack([formula(folder, h, i, "encoder") for i, h in enumerate(states)])  # [L, T, P]
        words = encoded.word_ids(0)
        for word, tag in enumerate(row["tags"]):
            found["O" if tag == "O" else tag[2:]].append(gate[:, words.index(word)])
    reading = read_gates(loaded, "default", table, by="label", batch_size=4)
    assert [(group.name, group.unit) for group in reading.groups] == [("NAME", "words"), ("O", "words")]
    for group in reading.groups:
        assert group.count == len(found[group.name])
        close(group.sites["encoder"].gate, torch.stack(found[group.name]).mean(0))
    assert reading.overall.count == len(table)


@pytest.mark.parametrize("gate_input", ["token", "first"])
def test_the_gates_of_a_decoder_are_the_mean_of_pt_gates_over_texts_one_by_one(tmp_path: Path, gate_input: str) -> None:
    folder, table = prefix_of(tmp_path, "llama", "text2text", pt.AdaptivePrefix(lengths=[2, 4], gate_input=gate_input))
    loaded = loaded_of(folder)
    task = loaded.tasks["default"]
    assert task is not None
    features = task.features(table, loaded.model, loaded.tokenizer, loaded.window)
    alone = [pt.gates(loaded.model, input_ids=torch.tensor([f["input_ids"]]))["decoder"][0] for f in features]
    reading = read_gates(loaded, "default", table, by="example", batch_size=4)
    site = reading.overall.sites["decoder"]
    assert site.lengths == (2, 4)
    assert site.gate[0, 2:].isnan().all() and not site.gate[1].isnan().any()
    close(site.gate.nan_to_num(), torch.stack(alone).nan_to_num().mean(0))
    assert [group.name for group in reading.groups] == [f"line {line}" for line in table.lines]
    for group, expected in zip(reading.groups, alone, strict=True):
        close(group.sites["decoder"].gate.nan_to_num(), expected.nan_to_num())
    if gate_input == "token":  # and pt.gates is the formula
        attentions = [layer.self_attn for layer in loaded.model.model.layers]
        states = states_of(loaded.model.eval(), attentions, input_ids=torch.tensor([features[0]["input_ids"]]))
        close(alone[0][1].double(), formula(folder, states[1], 1, "decoder").mean(0))


def test_padding_changes_no_gate_at_any_site_of_an_encoder_decoder(tmp_path: Path) -> None:
    folder, _ = prefix_of(tmp_path, "bart", "text2text")
    rows = [{"source": "ab" * n, "target": "c" * (9 - 2 * n)} for n in range(1, 5)]  # long sources, short targets
    table = tasks.read(tiny.jsonl(tmp_path / "more.jsonl", rows))
    loaded = loaded_of(folder)
    together = read_gates(loaded, "default", table, by="example", batch_size=4)
    alone = [read_gates(loaded, "default", one, batch_size=1) for one in (rows_of(table, i) for i in range(4))]
    assert list(together.overall.sites) == ["encoder", "decoder", "cross"]
    for group, single in zip(together.groups, alone, strict=True):
        for site, gates in group.sites.items():
            close(gates.gate, single.overall.sites[site].gate)


def rows_of(table: Table, index: int) -> Table:
    return Table(table.name, table.rows[index : index + 1], table.lines[index : index + 1])


def test_examples_of_one_line_stay_apart(tmp_path: Path) -> None:
    folder, _ = prefix_of(tmp_path, "llama", "text2text")
    loaded = loaded_of(folder)
    raw = tasks.read(tiny.jsonl(tmp_path / "two.jsonl", [{"source": "a", "target": ["b", "cc"]}]))
    task = loaded.tasks["default"]
    assert task is not None
    reading = read_gates(loaded, "default", task.prepared(raw), by="example")
    assert [group.name for group in reading.groups] == ["line 1", "line 1 (2)"]


def test_a_token_gate_behind_a_closed_layer_gate_is_not_told() -> None:
    site = SiteGates((0, 1), (2, 1), torch.tensor([0.0, -2.0]), torch.tensor([[0.0, 0.0], [-1.0, float("nan")]]))
    assert site.alpha()[0].isnan().all()
    assert site.alpha()[1, 0] == 0.5
    assert site.openness().tolist() == [0.0, 1.0]


# --- the variable prefix -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "total", "expected"),
    [
        # The usual textbook table of the Hare quota: ten seats, quotas 4.7, 1.6, 1.58, 1.2, 0.61 and 0.31.
        ([47000, 16000, 15800, 12000, 6100, 3100], 10, [5, 2, 1, 1, 1, 0]),
        ([0.5, 0.25, 0.25], 8, [4, 2, 2]),
        ([1.0, 1.0, 1.0], 4, [2, 1, 1]),  # equal remainders: the lower layer first
        ([0.9, 0.0, 0.6], 1, [1, 0, 0]),
        ([0.1, 0.2], 3, [1, 2]),  # 0.999... and 1.999... in floating point
    ],
)
def test_largest_remainders_by_hand(weights: list[float], total: int, expected: list[int]) -> None:
    assert share_out(weights, total) == expected


def test_lengths_sum_to_the_budget_and_follow_the_order_of_the_gates() -> None:
    draw = random.Random(0)
    for _ in range(300):
        weights = [draw.choice([0.0, draw.random(), 10 * draw.random()]) for _ in range(draw.randint(1, 24))]
        weights[0] += 0.1
        total = draw.randint(1, 400)
        lengths = share_out(weights, total)
        assert sum(lengths) == total
        order = sorted(range(len(weights)), key=lambda place: weights[place])
        assert all(
            lengths[low] <= lengths[high]
            for low, high in zip(order, order[1:], strict=False)
            if weights[low] < weights[high]
        )
        for weight, length in zip(weights, lengths, strict=True):
            assert abs(length - total * weight / sum(weights)) < 1  # never a whole position off its share


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -0.5], [1.0, float("nan")]])
def test_gates_without_a_ratio_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="have no ratio"):
        share_out(weights, 4)


@pytest.mark.parametrize(("ratio", "budget"), [(1.0, 6), (0.75, 5), (1.5, 9), (0.7, 4), (0.01, 1)])
def test_the_budget_is_the_ratio_of_all_positions_halves_up(tmp_path: Path, ratio: float, budget: int) -> None:
    """Four positions in one layer and two in another, all half open: a share of two to one, and none elsewhere."""
    model = pt.attach(tiny_bart(tmp_path), pt.AdaptivePrefix(lengths=[2, 1], sites=["encoder"]))
    gates = {
        "encoder": SiteGates((0,), (4,), torch.tensor([1.0]), torch.tensor([[0.5, 0.5, 0.5, 0.5]])),
        "decoder": SiteGates((1,), (2,), torch.tensor([-1.0]), torch.tensor([[-0.5, -0.5]])),
    }
    found = variable_prefix(Group("(all)", 1, "examples", gates), bank_of(model).geometry, ratio)
    assert (found.fixed, found.budget, found.every_site) == (6, budget, False)
    assert found.weights == {"encoder": [2.0, 0.0], "decoder": [0.0, 1.0]}
    first, second = found.lengths["encoder"][0], found.lengths["decoder"][1]
    assert first + second == budget and found.lengths["encoder"][1] == found.lengths["decoder"][0] == 0
    assert abs(first - 2 * budget / 3) < 1


def tiny_bart(folder: Path) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(tiny.encoder_decoder(folder / "bart"))


# --- the command -------------------------------------------------------------------------------------------------


class Outside(HTMLParser):
    """Collects all that a page would fetch or run, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read_page(path: Path) -> str:
    """The words of a page that is whole in itself."""
    text = path.read_text(encoding="utf-8")
    page = Outside()
    page.feed(text)
    assert all(found.startswith("data:image/png;base64,iVBOR") for found in page.fetched)
    assert not page.tags & {"script", "link", "iframe", "base", "object", "video"}
    for reach in ("http://", "https://", "file:", "url(", "@import"):
        assert reach not in text
    return " ".join(" ".join(page.words).split())


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and data, and an APT prefix for classification trained by command line."""
    folder = tmp_path_factory.mktemp("probe")
    tiny.encoder(folder / "bert")
    tiny.jsonl(folder / "classes.jsonl", tiny.first_letter(24, 1))
    argv = ["--lengths", "2,4", "--eval", str(folder / "classes.jsonl"), "--no-base-dropout", "--seed", "3"]
    assert main(test_cli.flags(folder, folder / "apt", "--lr", "0.1", "--epochs", "2", *argv)) == 0
    return folder


def probe(place: Path, output: Path, *more: str, prefix: str = "apt") -> list[str]:
    data = str(place / "classes.jsonl")
    return ["probe", "--prefix", str(place / prefix), "--data", data, "--output", str(output), *more]


def test_a_probe_leaves_tables_pictures_and_a_report_that_agree(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(probe(place, output, "--model", str(place / "bert"), "--by", "label", "--limit", "20")) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    assert {path.name for path in output.iterdir()} == {
        "report.html", "gates.png", "by-label-encoder.png", "layers.csv", "positions.csv", "gates.json", "lengths.json",
    }  # fmt: skip
    found = json.loads((output / "gates.json").read_text())
    labels = {name: sum(row["label"] == name for row in tiny.first_letter(24, 1)[:20]) for name in ("high", "low")}
    assert {name: group["count"] for name, group in found["groups"].items()} == labels
    stored = load_file(place / "apt" / "prefix.safetensors")
    layers = found["overall"]["sites"]["encoder"]
    assert [layer["layer_gate"] for layer in layers] == pytest.approx(
        [float(stored[f"encoder.{index}.layer_gate"]) for index in range(2)]
    )
    assert [len(layer["gates"]) for layer in layers] == [2, 4]
    assert [layer["gate"] for layer in layers] == pytest.approx([sum(a["gates"]) / len(a["gates"]) for a in layers])
    positions, by_layer = rows_in(output / "positions.csv"), rows_in(output / "layers.csv")
    assert len(positions) == 3 * 6 and len(by_layer) == 3 * 2
    first = [row for row in positions if row["group"] == "(all)" and row["layer"] == "1"]
    assert [float(row["gate"]) for row in first] == pytest.approx(layers[1]["gates"])
    for row in positions:
        assert float(row["gate"]) == pytest.approx(float(row["layer_gate"]) * float(row["alpha"]))

    words = read_page(output / "report.html")
    said = "apt classification accuracy macro_f1 encoder high low wrong right gate_input base_dropout transformers"
    for word in (*said.split(), "development (in training)", "Training", command):
        assert word in words
    assert f"{found['metrics']['accuracy']:.4f}" in words
    assert (output / "report.html").read_text().count("data:image/png") == 3  # gates, labels, curves


def test_the_command_it_prints_trains_the_variable_prefix(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(probe(place, tmp_path / "out", "--budget", "1.5")) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    told = json.loads((tmp_path / "out" / "lengths.json").read_text())
    assert words == told["command"]
    assert words[:2] == ["prefixtune", "train"] and "--lengths" in words
    assert sum(told["lengths"]["encoder"]) == told["positions"] == 9
    assert main([*words[1:-1], str(tmp_path / "variable")]) == 0
    header = read_config(tmp_path / "variable")
    assert header["method"] == "p_tuning_v2"
    kept = {f"encoder.{i}": length for i, length in enumerate(told["lengths"]["encoder"]) if length}
    assert header["slots"] == kept
    record = json.loads((tmp_path / "variable" / "run.json").read_text())["settings"]
    before = json.loads((place / "apt" / "run.json").read_text())["settings"]
    for same in ("model", "train", "eval", "lr", "epochs", "seed", "base_dropout"):
        assert record[same] == before[same]


def test_a_text_to_text_report_shows_the_bare_base_model_beside_the_prefix(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, table = prefix_of(tmp_path, "llama", "text2text", count=4)
    data, output = str(tmp_path / "data.jsonl"), tmp_path / "out"
    assert main(["probe", "--prefix", str(folder), "--data", data, "--output", str(output), "--by", "example"]) == 0
    model, tokenizer = (kind.from_pretrained(tmp_path / "llama") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer(table.rows[0]["source"] + "\n", return_tensors="pt").input_ids
    bare = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    words = read_page(output / "report.html")
    assert "before: base model" in words and "line 1" in words and "TRAIN_FILE" in words
    shown = tokenizer.decode(bare[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert shown and " ".join(shown.split()) in words


@pytest.mark.parametrize("kind", sorted(DATA))
def test_every_task_has_a_report(tmp_path: Path, kind: str) -> None:
    assert set(DATA) == set(tasks.names())
    folder, table = prefix_of(tmp_path, "llama" if kind == "text2text" else "bert", kind, count=4)
    argv = ["--data", str(tmp_path / "data.jsonl"), "--output", str(tmp_path / "out")]
    assert main(["probe", "--prefix", str(folder), *argv]) == 0
    words, row = read_page(tmp_path / "out" / "report.html"), table.rows[0]
    if kind == "spans":
        (start, end), text = row["spans"][0], row["text"]
        assert f"{text[:start]}[{text[start:end]}]{text[end:]}" in words
    if kind == "choice":
        assert f"{row['text']} / 0: {row['choices'][0]} / 1: {row['choices'][1]}" in words


def test_brackets_stand_where_spans_begin_and_end() -> None:
    row = {"text": "Mark told Pete", "spans": [(10, 14), (0, 4)], "text_pair": "abcd", "spans_pair": [(0, 3), (1, 2)]}
    assert Judged(row, "yes", "no").text(99) == "[Mark] told [Pete] / [a[b]c]d"


def test_where_reproduce_read_the_data_the_command_leaves_its_files_to_the_user() -> None:
    variable = VariablePrefix({"encoder": [1, 2]}, {"encoder": [0.5, 1.0]}, 1.0, 3, 3, every_site=True)
    settings = {"train": corpora.part("conll04", "train"), "eval": corpora.part("conll04", "dev"), "lr": 0.5}
    words = train_command(variable, settings, model="m", task="tagging", output="o")
    assert words[words.index("--train") + 1] == "TRAIN_FILE" and words[words.index("--eval") + 1] == "DEV_FILE"
    files = train_command(variable, {"train": "c:train.json"}, model="m", task="tagging", output="o")
    assert files[files.index("--train") + 1] == "c:train.json"


def test_a_report_on_all_sites_of_an_encoder_decoder_names_them_in_the_command(tmp_path: Path) -> None:
    folder, _ = prefix_of(tmp_path, "bart", "text2text", pt.AdaptivePrefix(length=3, sites=["encoder", "cross"]))
    argv = ["--data", str(tmp_path / "data.jsonl"), "--output", str(tmp_path / "out"), "--limit", "3"]
    assert main(["probe", "--prefix", str(folder), *argv]) == 0
    told = json.loads((tmp_path / "out" / "lengths.json").read_text())
    assert sum(sum(lengths) for lengths in told["lengths"].values()) == 12
    command = told["command"]
    assert command[command.index("--sites") + 1] == "encoder,cross"
    assert json.loads(command[command.index("--lengths") + 1]) == told["lengths"]
    train = ["train", *command[2:], "--max-steps", "1", "--max-new-tokens", "2"]
    train[train.index("TRAIN_FILE")] = str(tmp_path / "data.jsonl")
    train[train.index("--output") + 1] = str(tmp_path / "variable")
    assert main(train) == 0
    slots = {f"{site}.{i}": n for site, lengths in told["lengths"].items() for i, n in enumerate(lengths) if n}
    assert read_config(tmp_path / "variable")["slots"] == slots


def test_a_batch_of_nothing_is_one_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(probe(place, tmp_path / "out", "--batch-size", "0")) == 2
    assert "batch_size is 0; expected at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_words_of_the_data_are_words_in_the_report(tmp_path: Path) -> None:
    folder, _ = prefix_of(tmp_path, "bert", "tagging")
    rows = [{"tokens": ["<script>alert(1)</script>", "&amp;", "A"], "tags": ["O", "O", "B-NAME"]}]
    data = tiny.jsonl(tmp_path / "odd.jsonl", rows)
    assert main(["probe", "--prefix", str(folder), "--data", data, "--output", str(tmp_path / "out")]) == 0
    words = read_page(tmp_path / "out" / "report.html")
    assert "<script>alert(1)</script>" in words and "&amp;" in words


def test_names_with_dollar_signs_are_drawn_as_they_are() -> None:
    pytest.importorskip("matplotlib")
    panel = Panel("$5^$", [0], [[0.5]], [1.0])
    assert gates_png([panel], "$x^$").startswith(b"\x89PNG")


def test_a_gate_that_turned_its_sign_and_a_missing_position_are_drawn() -> None:
    image = pytest.importorskip("matplotlib.image")
    import io

    def pixels(value: float) -> Any:
        panel = Panel("encoder", [0, 1], [[0.5, value], [0.25, 0.5]], [1.0, 1.0])
        return image.imread(io.BytesIO(gates_png([panel], "title")))[..., :3]

    turned, missing, whole = pixels(-0.5), pixels(float("nan")), pixels(0.5)
    red = (turned[..., 0] > 0.3) & (turned[..., 1] < 0.1) & (turned[..., 2] < 0.2)
    assert red.sum() > 1000
    changed = abs(missing - whole).sum(-1) > 0.1
    assert changed.sum() > 1000 and abs(missing[changed] - 0xEE / 0xFF).max(-1).min() < 0.01


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--by", "labels"], "labels"),
        (["--limit", "0"], "--limit 0: expected at least 1"),
        (["--budget", "0"], "--budget 0.0: expected a ratio above 0"),
        (["--budget", "nan"], "--budget nan"),
        (["--columns", "text=body"], "no column 'body' to use as 'text'"),
        (["--lenght", "4"], "--lenght"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], complaint: str
) -> None:
    assert complaint in test_cli.refused(probe(place, tmp_path / "out", *change), capsys)
    assert not (tmp_path / "out").exists()


def test_a_full_output_folder_and_missing_data_are_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not empty; choose another folder" in test_cli.refused(probe(place, place), capsys)
    argv = probe(place, tmp_path / "out")
    argv[argv.index("--data") + 1] = "missing.jsonl"
    assert "there is no file 'missing.jsonl'" in test_cli.refused(argv, capsys)


@pytest.mark.parametrize("method", ["p_tuning_v2", "prefix_tuning", "zero_init"])
def test_a_prefix_without_gates_is_refused_by_the_name_of_its_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    from prefixtune import methods

    prefix_of(tmp_path, "bert", "classification", methods.find(method)(length=2))
    argv = ["probe", "--prefix", str(tmp_path / "prefix"), "--data", str(tmp_path / "data.jsonl")]
    line = test_cli.refused([*argv, "--output", str(tmp_path / "out")], capsys)
    assert f"the prefix is of the method {method!r}; probe reads the gates" in line and "adaptive" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "kind", "by", "complaint"),
    [
        ({"token_gate": False, "layer_gate": False}, "classification", None, "neither a token gate nor a layer gate"),
        ({"gate_input": "none"}, "classification", "label", "gate_input='none' the gates read no input"),
        ({"token_gate": False}, "classification", "example", "token_gate=False the gates read no input"),
        ({"gate_input": "first"}, "tagging", "label", "all words of an example share one gate"),
        ({}, "text2text", "label", "text2text has no labels; use --by example"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(
    tmp_path: Path, options: dict[str, Any], kind: str, by: str | None, complaint: str
) -> None:
    base = "llama" if kind == "text2text" else "bert"
    folder, table = prefix_of(tmp_path, base, kind, pt.AdaptivePrefix(length=2, **options))
    with pytest.raises(ConfigError, match=complaint):
        read_gates(loaded_of(folder), "default", table, by=by)


@pytest.mark.parametrize("options", [{"token_gate": False}, {"layer_gate": False}, {"gate_input": "none"}])
def test_one_gate_alone_is_read_too(tmp_path: Path, options: dict[str, Any]) -> None:
    folder, table = prefix_of(tmp_path, "bert", "classification", pt.AdaptivePrefix(length=2, **options))
    site = read_gates(loaded_of(folder), "default", table).overall.sites["encoder"]
    if "layer_gate" in options:
        assert site.layer_gate.tolist() == [1.0, 1.0]
    if "token_gate" in options:
        close(site.alpha(), torch.ones(2, 2))
    assert site.gate.shape == (2, 2)


def test_a_prefix_that_names_no_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.llama(tmp_path / "llama"))
    pt.save(pt.attach(model, pt.AdaptivePrefix(length=2)), tmp_path / "prefix")
    data = tiny.jsonl(tmp_path / "data.jsonl", tiny.doubled(4))
    argv = ["probe", "--prefix", str(tmp_path / "prefix"), "--data", data, "--output", str(tmp_path / "out")]
    assert "does not say which task the prefix was trained for" in test_cli.refused(argv, capsys)


def test_a_record_of_a_run_that_cannot_be_read_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(place / "apt", tmp_path / "broken")
    (tmp_path / "broken" / "log_history.jsonl").write_text('{"loss": \n')
    argv = ["probe", "--prefix", str(tmp_path / "broken"), "--data", str(place / "classes.jsonl")]
    assert "holds a run that cannot be read" in test_cli.refused([*argv, "--output", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()


def test_a_limit_keeps_the_first_rows_and_their_lines() -> None:
    table = Table("data", [{"text": letter} for letter in "abc"], [2, 4, 6])
    assert first_rows(table, 2) == Table("data", [{"text": "a"}, {"text": "b"}], [2, 4])
    assert first_rows(table, None) == table


def test_every_option_of_the_command_has_a_text() -> None:
    from prefixtune.cli import _app

    arguments = _app([])["probe"].assemble_argument_collection(parse_docstring=True)
    assert [argument.name for argument in arguments if argument.show and not argument.parameter.help] == []
