"""Decoding under a prefix, as a ratio to the bare model: `python benchmarks/decoding.py`.

Every way generates the same number of tokens for the same prompts, greedily, with the model's own `generate`; ways run
interleaved in random order, one call a round, and a ratio is of the times of one round: above 1 is slower than the bare
model, or than the peer. The table has medians over rounds. *Mixed* gives each row of the batch one of 4 prefixes of
that length or none; *text in context* is the bare model with as many real tokens in front as the prefix has positions,
which is what a prefix replaces. PEFT puts its prefix into the cache; its LoRA (r=8) runs beside the weights, not merged
into them. A fully fine-tuned model decodes as the bare one. With `--adapters PYTHON` the `adapters` library's prefix is
a row and a peer, and the bare model under the older transformers that it needs is a row (`adapters_peer.py`).

The model is that of `train_step.py`: 8 layers, width 512, random weights, float32. Time is that of the processor, on
one thread.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product

import adapters_peer
import peft
import report
import torch
import transformers as tf
from clock import timed
from torch import Tensor
from train_step import SHAPE, WORDS, base

import prefixtune as pt

SECTION = "Decoding"
BARE = "bare model"
PEERS = ["PEFT prefix", "PEFT LoRA r=8", "text in context"]
LENGTHS, ROWS = (10, 64, 512), (1, 8, 64)
PROMPT, NEW, MIXED = 32, 24, 4
OPTIONS = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0}


@dataclass(frozen=True)
class Case:
    """`rows` prompts of `PROMPT` tokens, and the prefix length."""

    rows: int
    length: int

    def __str__(self) -> str:
        return f"{self.rows} rows, P={self.length}"


def decoder() -> tf.PreTrainedModel:
    """The model of `train_step.py`, with the cache that generation needs."""
    model = base().eval()
    model.config.use_cache = model.generation_config.use_cache = True
    return model


def answer(model: torch.nn.Module, ids: Tensor) -> None:
    """Generate exactly `NEW` tokens a row."""
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **OPTIONS)


def ways(case: Case) -> dict[str, Callable[[Tensor], object]]:
    """Every way to generate under a prefix of this length."""
    bare = decoder()
    ours = pt.attach(decoder(), pt.PTuningV2(length=case.length), name="0")
    gated = pt.attach(decoder(), pt.AdaptivePrefix(length=case.length))
    mixed = decoder()
    for number in range(MIXED):
        pt.attach(mixed, pt.PTuningV2(length=case.length), name=str(number))
    names: list[str | None] = [*map(str, range(MIXED)), None]
    chosen = [names[row % len(names)] for row in range(case.rows)]
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=case.length)
    theirs = peft.get_peft_model(decoder(), config).eval()
    lora = peft.get_peft_model(decoder(), peft.LoraConfig(task_type="CAUSAL_LM", r=8)).eval()
    text = torch.randint(WORDS, (1, case.length), generator=torch.Generator().manual_seed(2))

    def several(ids: Tensor) -> None:
        with pt.using(mixed, chosen):
            answer(mixed, ids)

    return {
        BARE: lambda ids: answer(bare, ids),
        "P-Tuning v2": lambda ids: answer(ours, ids),
        "APT": lambda ids: answer(gated, ids),
        "mixed": several,
        "PEFT prefix": lambda ids: answer(theirs, ids),
        "PEFT LoRA r=8": lambda ids: answer(lora, ids),
        "text in context": lambda ids: answer(bare, torch.cat([text.expand(len(ids), -1), ids], dim=1)),
    }


def foreign_ways(case: Case, workers: dict[str, adapters_peer.Worker]) -> dict[str, Callable[[Tensor], float]]:
    """The same in the `adapters` library's interpreters: processor seconds."""
    given = {"config": SHAPE | {"use_cache": True}, "length": case.length, "rows": case.rows}

    def way(worker: adapters_peer.Worker, prefixes: int) -> Callable[[Tensor], float]:
        worker.begin("generating", prefixes=prefixes, **given)
        return lambda ids: float(worker.ask({"prompts": ids.tolist(), "options": OPTIONS}))

    return {name: way(worker, prefixes) for prefixes, (name, worker) in enumerate(workers.items())}


def measure(case: Case, rounds: int, workers: dict[str, adapters_peer.Worker]) -> list[list[str]]:
    """A line for each way: tokens a second, and the ratios of its time to the bare model's and to each peer's."""
    every = {name: timed(way) for name, way in ways(case).items()} | foreign_ways(case, workers)
    ids, order = torch.randint(WORDS, (case.rows, PROMPT), generator=torch.Generator().manual_seed(1)), random.Random(0)
    found = [{name: every[name](ids) for name in order.sample(list(every), len(every))} for _ in range(rounds + 1)]
    lines, found = [], found[1:]  # the first warms up
    for name in every:
        speed = case.rows * NEW / statistics.median(times[name] for times in found)
        lines.append([str(case), name, f"{speed:.0f}", *report.versus(found, name, compared(workers))])
        print(*lines[-1], sep="\t", flush=True)
    return lines


def compared(workers: dict[str, adapters_peer.Worker]) -> list[str]:
    """What every way is compared with."""
    return [BARE, *PEERS, *([adapters_peer.NAME] if workers else [])]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case")
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="batch sizes")
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS, help="prefix lengths")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    cases = [Case(rows, length) for rows, length in product(given.rows, given.lengths)]
    with ExitStack() as opened:
        workers = adapters_peer.bare_and_prefixed(given.adapters, opened)
        lines = [line for case in cases for line in measure(case, given.rounds, workers)]
    head = [
        "batch",
        "way",
        "tokens/s",
        f"/ {BARE}, or full fine-tuning",
        *(f"/ {name}" for name in compared(workers)[1:]),
    ]
    intro = (
        f"`python benchmarks/decoding.py`: {PROMPT} tokens read and {NEW} generated a row; time as a ratio to the bare "
        f"model's. {report.machine()}\n\n{adapters_peer.remark(given.adapters)}"
    )
    report.finish(SECTION, intro + report.table(head, lines), parser, given)


if __name__ == "__main__":
    main()
