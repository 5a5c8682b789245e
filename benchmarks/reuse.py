"""What it saves to run frozen layers once for each example: `python benchmarks/reuse.py --encoder M --conll DATA`.

Training on the first examples of a file, several times over, with a prefix in all layers and in the upper ones only:

- *kept*: what the layers below the lowest prefix make of an example is computed once, as `prefixtune train` has it;
- *run every time*: as under `--activation-cache 0`;
- *its q, k, v kept*: a prefix in every layer, where nothing is below. What the first layer's frozen projections make of
  an example is the same in every epoch, too. It is not in the package; here whole batches of it are kept, every epoch
  in one order, and handed on, which is the least that it can cost;
- *LoRA* (PEFT's, r=8) and, with `--adapters PYTHON`, that library's prefix in the same layers; PEFT's prefix, which is
  in all layers, full fine-tuning, and the frozen floor of `train_step.py`.

Every run starts anew, in interleaved rounds, one thread, float32, base dropout off, batches by length and padded.
Seconds are the processor's, and hold the proof that the model allows it and the filling of the cache; ratios are of
one round, to the same prefix with everything run, to the floor and to each peer: LoRA and `adapters` in the same
layers.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import adapters_peer
import report
import throughput
import torch
import transformers as tf
from torch import Tensor, nn
from transformers import AutoConfig

SECTION = "Frozen layers once for each example"
KEPT, RUN, HANDED, LORA = "kept", "run every time", "its q, k, v kept", "LoRA r=8"
FLOOR, PEFT_PREFIX, FULL = "frozen floor", "PEFT prefix", "full fine-tuning"
PROJECTIONS = ("query", "key", "value")
Way = tuple[int, str]
"""In how many of the upper layers, and what."""


class Handed(nn.Module):
    """A projection that computes each batch of an epoch once and hands that on in the epochs that follow."""

    def __init__(self, inner: nn.Module, batches: int) -> None:
        super().__init__()
        self.inner, self.batches, self.turn = inner, batches, 0
        self.kept: list[Tensor] = []

    def forward(self, hidden: Tensor) -> Tensor:
        """The projection of `hidden` [B, T, d], of which only the first epoch's is read."""
        if len(self.kept) < self.batches:
            self.kept.append(self.inner(hidden))
        self.turn += 1
        return self.kept[(self.turn - 1) % self.batches]


class InOneOrder(throughput.Timed):
    """A way whose epochs have the same batches in the same order."""

    def draw(self, number: int) -> None:
        """The batches of the first epoch."""
        super().draw(0)


class Runs:
    """Every way, made anew for each run."""

    def __init__(self, maker: throughput.Maker, depth: int, epochs: int, worker: adapters_peer.Worker | None) -> None:
        self.maker, self.depth, self.epochs, self.worker = maker, depth, epochs, worker

    def ways(self) -> dict[Way, Callable[[], float]]:
        """What a run of each way took, by how many layers have a prefix or LoRA."""
        plain = {FLOOR: self._floor, PEFT_PREFIX: self._peft_prefix, FULL: self._full, HANDED: self._handed}
        found: dict[Way, Callable[[], float]] = {(self.depth, name): run for name, run in plain.items()}
        for count in (self.depth, self.depth // 2, 1):
            layers = tuple(range(self.depth - count, self.depth))
            if count < self.depth:
                found[count, KEPT] = partial(self._ours, layers, self.epochs)
            found[count, RUN] = partial(self._ours, layers, 1)
            found[count, LORA] = partial(self._lora, layers)
            if self.worker:
                found[count, adapters_peer.NAME] = partial(self._foreign, layers)
        return found

    def _ours(self, layers: Sequence[int], passes: float) -> float:
        way = self.maker.ours(partial(throughput.prefixed, layers=layers), "never", passes)
        assert (way.trainer.kept is not None) == (passes > 1)
        return way.run(self.epochs)

    def _handed(self) -> float:
        way = self.maker.ours(throughput.prefixed, "never")
        first = way.trainer.model.base_model.encoder.layer[0].attention.self
        for name in PROJECTIONS:
            setattr(first, name, Handed(getattr(first, name), len(way.trainer.get_train_dataloader())))
        return InOneOrder(way.trainer, way.steps).run(self.epochs)

    def _lora(self, layers: Sequence[int]) -> float:
        return self.maker.theirs(partial(self.maker.lora, layers=layers), **throughput.BY_LENGTH).run(self.epochs)

    def _foreign(self, layers: Sequence[int]) -> float:
        assert self.worker is not None
        others = [layer for layer in range(self.depth) if layer not in layers]
        return self.maker.foreign(self.worker, others, **throughput.BY_LENGTH).run(self.epochs)

    def _floor(self) -> float:
        return self.maker.ours(throughput.floor, "never").run(self.epochs)

    def _peft_prefix(self) -> float:
        return self.maker.theirs(self.maker.peft_prefix, **throughput.BY_LENGTH).run(self.epochs)

    def _full(self) -> float:
        return self.maker.theirs(throughput.whole, **throughput.BY_LENGTH).run(self.epochs)


def compared(way: Way, depth: int, foreign: bool) -> dict[str, Way]:
    """What a way's time is divided by, in the order of the columns: the same layers where there is a choice."""
    count, _ = way
    same = {RUN: (count, RUN), FLOOR: (depth, FLOOR), PEFT_PREFIX: (depth, PEFT_PREFIX), LORA: (count, LORA)}
    return same | {FULL: (depth, FULL)} | ({adapters_peer.NAME: (count, adapters_peer.NAME)} if foreign else {})


def table(found: Sequence[dict[Way, float]], depth: int, foreign: bool) -> str:
    """A row for each way, with the medians over rounds."""
    rows = []
    for way in found[0]:
        count, name = way
        where = "all layers" if count == depth else f"{count} of {depth} layers, the upper"
        bare = name in (FLOOR, FULL)
        others = compared(way, depth, foreign)
        ratios = [statistics.median(taken[way] / taken[other] for taken in found) for other in others.values()]
        seconds = statistics.median(taken[way] for taken in found)
        rows.append(["" if bare else where, name, f"{seconds:.1f}", *(f"{ratio:.2f}" for ratio in ratios)])
    head = ["in", "way", "seconds", *(f"time / {name}" for name in compared(next(iter(found[0])), depth, foreign))]
    return report.table(head, rows)


def kept_bytes(width: int, size: int = 4) -> str:
    """What is kept of a token."""
    return f"Kept of a token are {width * size} bytes (a state), of the first layer's q, k and v {3 * width * size}."


def measure(given: argparse.Namespace) -> str:
    """The section's body."""
    config = AutoConfig.from_pretrained(given.encoder)
    order, found = random.Random(0), []
    (work,) = throughput.works(argparse.Namespace(e2e=None, encoder=given.encoder, conll=given.conll))
    work = dataclasses.replace(work, table=dataclasses.replace(work.table, rows=work.table.rows[: given.examples]))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        worker = opened.enter_context(adapters_peer.Worker(given.adapters)) if given.adapters else None
        maker = throughput.Maker(work, 0, given.batch_size, folder)
        every = Runs(maker, config.num_hidden_layers, given.epochs, worker).ways()
        for number in range(given.rounds):
            taken = {way: every[way]() for way in order.sample(list(every), len(every))}
            found.append({way: taken[way] for way in every})
            print(number + 1, *(f"{count} {name} {found[-1][count, name]:.1f}" for count, name in every), sep="; ")
    what = f"{len(work.table.rows)} examples, {given.epochs} epochs, batches of {given.batch_size}"
    text = f"{throughput.called(given.encoder)}, {what}, P={throughput.LENGTH}. {kept_bytes(config.hidden_size)}"
    return f"{text}\n\n{table(found, config.num_hidden_layers, bool(given.adapters))}"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="folder of a BERT")
    parser.add_argument("--conll", required=True, help="file of CoNLL columns")
    parser.add_argument("--examples", type=int, default=192, help="how many of them")
    parser.add_argument("--epochs", type=int, default=5, help="passes over them")
    parser.add_argument("--batch-size", type=int, default=32, help="examples a batch")
    parser.add_argument("--rounds", type=int, default=3, help="rounds")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    tables = measure(given)
    body = f"`python benchmarks/reuse.py`. {report.machine()}\n\n{adapters_peer.versions(given.adapters)}{tables}"
    report.finish(SECTION, body, parser, given, ("encoder", "conll"))


if __name__ == "__main__":
    main()
