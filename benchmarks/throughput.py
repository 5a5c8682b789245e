"""Useful tokens a second in training on real data:
`python benchmarks/throughput.py --decoder M --e2e DATA --encoder M --conll DATA`.

Useful tokens are those of the texts: padding does not count. Every way is a Trainer that runs some steps on the same
examples, in interleaved rounds, one thread, float32; ratios are of the time a useful token takes, in one round, to the
floor's and to each peer's. Ways:

- *packed* and *padded*: `prefixtune train` as it is, and with `--packing never`; both take texts of similar length;
- *PEFT, default*: its prefix under transformers' Trainer: batches in random order, padded to their longest;
- *PEFT, by length*: the same with the Trainer's own grouping by length; so are *LoRA* (PEFT's, r=8) and *full
  fine-tuning*;
- *adapters*, with `--adapters PYTHON`: that library's prefix on the batches of those two, which are drawn and put
  together here, and the time for it counted (`adapters_peer.py`);
- *frozen floor*: the frozen model alone, with the gradient of keys and values (`train_step.py`), padded.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapters_peer
import peft
import report
import torch
import transformers as tf
from train_step import frozen_floor
from transformers import AutoConfig

import prefixtune as pt
from prefixtune import tasks
from prefixtune.tasks.loading import load_base, window
from prefixtune.tasks.task import Feature
from prefixtune.training import activations
from prefixtune.training.trainer import EpochSampler, PrefixTrainer, padding_share

SECTION = "Training throughput"
FLOOR = "frozen floor"
PEERS = ["PEFT, default", "PEFT, by length", "LoRA, by length", "full fine-tuning, by length"]
BY_LENGTH = {"train_sampling_strategy": "group_by_length"}
FOREIGN = {"adapters, default": {}, "adapters, by length": BY_LENGTH}
"""How the Trainer draws the batches of the `adapters` library's prefix."""
LENGTH = 16
Change = Callable[[Any], Any]
"""What makes of a base the model that is trained."""


@dataclass(frozen=True)
class Work:
    """One task: its data and how its model is loaded."""

    name: str
    task: tasks.Task
    table: tasks.Table
    model: str
    peft_type: str

    def load(self) -> Any:
        """The base model, as its task needs it."""
        return load_base(self.model, self.task, dtype="float32", dropout=False)


def works(given: argparse.Namespace) -> Iterator[Work]:
    """The tasks that data were named for."""
    if given.e2e:
        table = tasks.read(f"{given.e2e}/trainset.csv", columns={"source": "mr", "target": "ref"})
        task = tasks.find("text2text").learn(table)
        yield Work("E2E, text to text", task, task.prepared(table), given.decoder, "CAUSAL_LM")
    if given.conll:
        table = tasks.read(given.conll)
        task = tasks.find("tagging").learn(table)
        yield Work("CoNLL, tagging", task, task.prepared(table), given.encoder, "TOKEN_CLS")


class Timed:
    """One way to train, made to run `steps` steps at a time."""

    def __init__(self, trainer: tf.Trainer, steps: int, before: float = 0.0) -> None:
        self.trainer, self.steps, self.before = trainer, steps, before

    def padding(self) -> float:
        """The share of padding in an epoch of batches by length."""
        lengths = [len(feature["input_ids"]) for feature in self.trainer.train_dataset]
        return padding_share(lengths, self.trainer.args.per_device_train_batch_size)

    def draw(self, number: int) -> None:
        """The batches' order from now on is that of this number."""
        if isinstance(self.trainer._get_train_sampler(), EpochSampler):
            self.trainer.state.epoch = float(number)
        else:
            torch.manual_seed(number)

    def time(self) -> float:
        """Processor seconds a useful token over the next steps."""
        train, batches = self._training(), iter(self.trainer.get_train_dataloader())
        next(batches)  # by length, the first batch is the longest
        start = time.process_time()
        tokens = sum(train(next(batches)) for _ in range(self.steps))
        return (time.process_time() - start) / tokens

    def run(self, epochs: int) -> float:
        """Processor seconds of so many passes over the examples, and of what was before them."""
        train, start = self._training(), time.process_time() - self.before
        for epoch in range(epochs):
            self.draw(epoch)
            for batch in self.trainer.get_train_dataloader():
                train(batch)
        return time.process_time() - start

    def _training(self) -> Callable[[dict[str, Any]], int]:
        """A step over a batch, which answers how many useful tokens it had."""
        model, trainer = self.trainer.model, self.trainer
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad] or [torch.zeros(1)], lr=1e-5)

        def step(batch: dict[str, Any]) -> int:
            trainer.compute_loss(model, dict(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
            return int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum())

        return step


class Foreign(Timed):
    """The `adapters` library's prefix, on batches that a Trainer draws here."""

    def __init__(self, trainer: tf.Trainer, steps: int, worker: adapters_peer.Worker) -> None:
        super().__init__(trainer, steps)
        self.worker = worker

    def time(self) -> float:
        """Processor seconds a useful token over the next steps: here for the batches, there for the steps."""
        batches = iter(self.trainer.get_train_dataloader())
        next(batches)
        start = time.process_time()
        drawn = [next(batches) for _ in range(self.steps)]
        here = time.process_time() - start
        return (here + self._there(drawn)) / sum(int(batch["attention_mask"].sum()) for batch in drawn)

    def run(self, epochs: int) -> float:
        """Processor seconds of so many passes over the examples, here and there."""
        seconds = 0.0
        for epoch in range(epochs):
            self.draw(epoch)
            start = time.process_time()
            drawn = list(self.trainer.get_train_dataloader())
            seconds += time.process_time() - start + self._there(drawn)
        return seconds

    def _there(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> float:
        return float(self.worker.ask([{name: tensor.tolist() for name, tensor in batch.items()} for batch in batches]))


class Maker:
    """Makes the ways to train one task, each with a fresh model."""

    def __init__(self, work: Work, steps: int, batch_size: int, folder: str) -> None:
        self.work, self.steps, self.batch_size, self.folder = work, steps, batch_size, folder

    def _arguments(self, **options: Any) -> tf.TrainingArguments:
        return tf.TrainingArguments(
            output_dir=self.folder, per_device_train_batch_size=self.batch_size, report_to=[],
            remove_unused_columns=False, use_cpu=True, seed=1, label_names=["labels"], dataloader_pin_memory=False,
            **options,
        )  # fmt: skip

    def _features(self, model: Any, tokenizer: Any) -> list[Feature]:
        return self.work.task.features(self.work.table, model, tokenizer, window(model, tokenizer, LENGTH))

    def ours(self, change: Change, packing: str, passes: float = 1) -> Timed:
        """Our Trainer; over more than one pass, frozen layers below the lowest prefix run once for each example."""
        model, tokenizer = self.work.load()
        model = change(model)
        features, layout = self._features(model, tokenizer), self.work.task.layout(model, tokenizer, packing)
        start = time.process_time()
        kept = activations.keep(model, layout, features, batch_size=self.batch_size, passes=passes)
        before = time.process_time() - start
        trainer = PrefixTrainer(
            judge=None, sentence_sum=False, layout=layout, kept=kept, model=model, args=self._arguments(),
            train_dataset=features,
        )  # fmt: skip
        return Timed(trainer, self.steps, before)

    def _plain(self, change: Change, **options: Any) -> tf.Trainer:
        model, tokenizer = self.work.load()
        return tf.Trainer(
            model=change(model), args=self._arguments(**options), train_dataset=self._features(model, tokenizer),
            data_collator=self.work.task.collator(model, tokenizer),
        )  # fmt: skip

    def theirs(self, change: Change, **options: Any) -> Timed:
        """Transformers' own Trainer, with these options."""
        return Timed(self._plain(change, **options), self.steps)

    def foreign(self, worker: adapters_peer.Worker, leave_out: Sequence[int] = (), **options: Any) -> Foreign:
        """The `adapters` library's prefix, but in the layers that are left out, on that Trainer's batches."""
        trainer = self._plain(lambda model: model, **options)
        labels = trainer.model.config.num_labels if self.work.peft_type == "TOKEN_CLS" else 0
        job = {"folder": self.work.model, "labels": labels, "length": LENGTH, "leave_out": list(leave_out)}
        return Foreign(trainer, self.steps, worker.begin("feeding", **job))

    def peft_prefix(self, model: Any) -> Any:
        """PEFT's prefix, which is in every layer."""
        config = peft.PrefixTuningConfig(task_type=self.work.peft_type, num_virtual_tokens=LENGTH)
        return peft.get_peft_model(model, config)

    def lora(self, model: Any, layers: Sequence[int] | None = None) -> Any:
        """PEFT's LoRA in these layers, or in all."""
        chosen = None if layers is None else list(layers)
        config = peft.LoraConfig(task_type=self.work.peft_type, r=8, layers_to_transform=chosen)
        return peft.get_peft_model(model, config)


def prefixed(model: Any, layers: Sequence[int] | None = None) -> Any:
    """The model with our prefix in these layers, or in all."""
    return pt.attach(model, pt.PTuningV2(length=LENGTH, layers=layers))


def called(folder: str) -> str:
    """A base by the name of its folder, its kind and its size."""
    config = AutoConfig.from_pretrained(folder)
    return f"{Path(folder).name}: {config.model_type}, {config.num_hidden_layers} layers of width {config.hidden_size}"


def floor(model: Any) -> Any:
    """The model as `train_step.py` has it for its floor."""
    return frozen_floor(model, None)


def whole(model: Any) -> Any:
    """The model, all of it trained."""
    return model


def ways(maker: Maker, workers: dict[str, adapters_peer.Worker]) -> dict[str, Timed]:
    """Every way, its model fresh."""
    default, *others = PEERS
    changes = (maker.peft_prefix, maker.lora, whole)
    return {
        default: maker.theirs(maker.peft_prefix),
        **{name: maker.theirs(change, **BY_LENGTH) for name, change in zip(others, changes, strict=True)},
        **{name: maker.foreign(worker, **FOREIGN[name]) for name, worker in workers.items()},
        FLOOR: maker.ours(floor, "never"),
        "padded": maker.ours(prefixed, "never"),
        "packed": maker.ours(prefixed, "always"),
    }


def measure(work: Work, given: argparse.Namespace) -> str:
    """One task as a table."""
    order = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        foreign = FOREIGN if given.adapters else ()
        workers = {name: opened.enter_context(adapters_peer.Worker(given.adapters)) for name in foreign}
        every = ways(Maker(work, given.steps, given.batch_size, folder), workers)
        found: list[dict[str, float]] = []
        for number in range(given.rounds):
            for way in every.values():
                way.draw(number)
            found.append({name: every[name].time() for name in order.sample(list(every), len(every))})
    lines, compared = [], [FLOOR, *PEERS, *foreign]
    for name in every:
        speed = statistics.median(1 / taken[name] for taken in found)
        lines.append([name, f"{speed:.0f}", *report.versus(found, name, compared)])
        print(work.name, *lines[-1], sep="\t", flush=True)
    head = ["way", "useful tokens/s", *(f"time / {name}" for name in compared)]
    share = f"{every['padded'].padding():.1%} padding in batches by length"
    title = f"### {work.name} ({called(work.model)}, batches of {given.batch_size}, P={LENGTH}, {share})"
    print(title)
    return f"{title}\n\n" + report.table(head, lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder", help="folder of a decoder, for E2E")
    parser.add_argument("--e2e", help="folder of E2E's CSV files")
    parser.add_argument("--encoder", help="folder of an encoder, for CoNLL")
    parser.add_argument("--conll", help="file of CoNLL columns")
    parser.add_argument("--batch-size", type=int, default=32, help="examples a batch")
    parser.add_argument("--steps", type=int, default=6, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    tables = [measure(work, given) for work in works(given)]
    head = f"`python benchmarks/throughput.py`. {report.machine()}\n\n{adapters_peer.remark(given.adapters)}"
    body = head + "\n".join(tables)
    both = ("decoder", "e2e", "encoder", "conll") if given.e2e and given.conll else ()
    report.finish(SECTION, body, parser, given, both)


if __name__ == "__main__":
    main()
