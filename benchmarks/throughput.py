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
from collections.abc import Callable, Iterator
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

import prefixtune as pt
from prefixtune import tasks
from prefixtune.tasks.loading import load_base, window
from prefixtune.training.trainer import EpochSampler, PrefixTrainer, padding_share

SECTION = "Training throughput"
FLOOR = "frozen floor"
PEERS = ["PEFT, default", "PEFT, by length", "LoRA, by length", "full fine-tuning, by length"]
BY_LENGTH = {"train_sampling_strategy": "group_by_length"}
FOREIGN = {"adapters, default": {}, "adapters, by length": BY_LENGTH}
"""How the Trainer draws the batches of the `adapters` library's prefix."""
LENGTH = 16


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

    def __init__(self, trainer: tf.Trainer, steps: int) -> None:
        self.trainer, self.steps = trainer, steps

    def padding(self) -> float:
        """The share of padding in an epoch of batches by length."""
        lengths = [len(feature["input_ids"]) for feature in self.trainer.train_dataset]
        return padding_share(lengths, self.trainer.args.per_device_train_batch_size)

    def time(self) -> float:
        """Processor seconds a useful token over the next steps."""
        model, trainer = self.trainer.model, self.trainer
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad] or [torch.zeros(1)], lr=1e-5)
        batches = iter(trainer.get_train_dataloader())
        next(batches)  # by length, the first batch is the longest
        tokens, start = 0, time.process_time()
        for _ in range(self.steps):
            batch = next(batches)
            tokens += int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum())
            trainer.compute_loss(model, dict(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.process_time() - start) / tokens


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
        tokens = sum(int(batch["attention_mask"].sum()) for batch in drawn)
        sent = [{name: tensor.tolist() for name, tensor in batch.items()} for batch in drawn]
        return (here + float(self.worker.ask(sent))) / tokens


def ways(
    work: Work, steps: int, batch_size: int, folder: str, workers: dict[str, adapters_peer.Worker]
) -> dict[str, Timed]:
    """Every way, its model fresh."""

    def arguments(**options: Any) -> tf.TrainingArguments:
        return tf.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=batch_size, report_to=[], remove_unused_columns=False,
            use_cpu=True, seed=1, label_names=["labels"], dataloader_pin_memory=False, **options,
        )  # fmt: skip

    def ours(change: Callable[[Any], Any], packing: str) -> Timed:
        model, tokenizer = work.load()
        model = change(model)
        features = work.task.features(work.table, model, tokenizer, window(model, tokenizer, LENGTH))
        layout = work.task.layout(model, tokenizer, packing)
        return Timed(
            PrefixTrainer(
                judge=None, sentence_sum=False, layout=layout, model=model, args=arguments(), train_dataset=features
            ),
            steps,
        )

    def plain(change: Callable[[Any], Any], **options: Any) -> tf.Trainer:
        model, tokenizer = work.load()
        features = work.task.features(work.table, model, tokenizer, window(model, tokenizer, LENGTH))
        collator = work.task.collator(model, tokenizer)
        return tf.Trainer(
            model=change(model), args=arguments(**options), train_dataset=features, data_collator=collator
        )

    def theirs(change: Callable[[Any], Any], **options: Any) -> Timed:
        return Timed(plain(change, **options), steps)

    def foreign(name: str, worker: adapters_peer.Worker) -> Timed:
        trainer = plain(lambda model: model, **FOREIGN[name])
        labels = trainer.model.config.num_labels if work.peft_type == "TOKEN_CLS" else 0
        return Foreign(trainer, steps, worker.begin("feeding", folder=work.model, labels=labels, length=LENGTH))

    def prefixed(model: Any) -> Any:
        return pt.attach(model, pt.PTuningV2(length=LENGTH))

    def peft_prefix(model: Any) -> Any:
        config = peft.PrefixTuningConfig(task_type=work.peft_type, num_virtual_tokens=LENGTH)
        return peft.get_peft_model(model, config)

    def lora(model: Any) -> Any:
        return peft.get_peft_model(model, peft.LoraConfig(task_type=work.peft_type, r=8))

    default, *others = PEERS
    changes = (peft_prefix, lora, lambda model: model)
    return {
        default: theirs(peft_prefix),
        **{name: theirs(change, **BY_LENGTH) for name, change in zip(others, changes, strict=True)},
        **{name: foreign(name, worker) for name, worker in workers.items()},
        FLOOR: ours(lambda model: frozen_floor(model, None), "never"),
        "padded": ours(prefixed, "never"),
        "packed": ours(prefixed, "always"),
    }


def measure(work: Work, given: argparse.Namespace) -> str:
    """One task as a table."""
    order = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        foreign = FOREIGN if given.adapters else ()
        workers = {name: opened.enter_context(adapters_peer.Worker(given.adapters)) for name in foreign}
        every = ways(work, given.steps, given.batch_size, folder, workers)
        found: list[dict[str, float]] = []
        for number in range(given.rounds):
            for way in every.values():
                sampler = way.trainer._get_train_sampler()
                if isinstance(sampler, EpochSampler):
                    way.trainer.state.epoch = float(number)
                else:
                    torch.manual_seed(number)
            found.append({name: every[name].time() for name in order.sample(list(every), len(every))})
    lines, compared = [], [FLOOR, *PEERS, *foreign]
    for name in every:
        speed = statistics.median(1 / taken[name] for taken in found)
        lines.append([name, f"{speed:.0f}", *report.versus(found, name, compared)])
        print(work.name, *lines[-1], sep="\t", flush=True)
    head = ["way", "useful tokens/s", *(f"time / {name}" for name in compared)]
    share = f"{every['padded'].padding():.1%} padding in batches by length"
    title = f"### {work.name} ({Path(work.model).name}, batches of {given.batch_size}, P={LENGTH}, {share})"
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
    parser.add_argument("--dry", action="store_true", help="print only, and leave RESULTS.md as it is")
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    tables = [measure(work, given) for work in works(given)]
    head = f"`python benchmarks/throughput.py`. {report.machine()}\n\n{adapters_peer.remark(given.adapters)}"
    body = head + "\n".join(tables)
    if not given.dry:
        report.write(SECTION, body)


if __name__ == "__main__":
    main()
