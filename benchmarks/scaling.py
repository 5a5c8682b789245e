"""How the cost of a prefix grows: `python benchmarks/scaling.py`, with exponents and the plot `scaling.png`.

One axis at a time is doubled, the others stay: prefix length P, tokens a text T, texts a batch B, layers L, and N, the
number of prefixes in one batch. Measured are a training step (forward and backward) and a decoding step (one token a
row behind T cached ones) of a Llama of width 256 with random weights, in float32, on one thread: processor time, the
fastest of interleaved repetitions. An exponent is the slope of a line through the upper half of the points in
logarithms: 1 is linear, 0 is constant. A second table has, at the upper end of each axis, the time over that of the
frozen floor (training) or the bare model (decoding), and over that of each peer.

Mixed in a batch, N > 1, PEFT's prefix and full fine-tuning cannot be, and PEFT's LoRA only in decoding; the `adapters`
library's prefix can (its BatchSplit). That library's rows need `--adapters PYTHON` (`adapters_peer.py`). LoRA has r=8,
and a fully fine-tuned model decodes as the bare one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import adapters_peer
import numpy as np
import peft
import report
import torch
import transformers as tf
from clock import timed
from scaling_plot import plot
from train_step import frozen_floor

import prefixtune as pt

SECTION = "Scaling"
PLOT = report.HERE / "scaling.png"
WORDS = 2000


@dataclass(frozen=True)
class Point:
    """Where something is measured."""

    P: int = 32
    T: int = 128
    B: int = 8
    L: int = 4
    N: int = 1


AXES = {
    "P": (16, 32, 64, 128, 256, 512),
    "T": (32, 64, 128, 256, 512, 1024),
    "B": (1, 2, 4, 8, 16, 32),
    "L": (2, 4, 8, 16),
    "N": (1, 2, 4, 8, 16, 32),
}
FLOORS = {"training": "frozen floor", "decoding": "bare model"}
PEERS = PREFIX, LORA, FULL = ("PEFT prefix", "PEFT LoRA r=8", "full fine-tuning")


def shape(point: Point) -> dict[str, Any]:
    """The base model's."""
    return {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": point.L, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": WORDS, "max_position_embeddings": 4096,
    }  # fmt: skip


def model(point: Point) -> tf.PreTrainedModel:
    """The base model."""
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(tf.LlamaConfig(**shape(point)))


def prefixed(point: Point, kind: type[pt.PTuningV2] | type[pt.AdaptivePrefix]) -> tf.PreTrainedModel:
    """The model with N prefixes."""
    base = model(point)
    for number in range(point.N):
        pt.attach(base, kind(length=point.P), name=str(number))
    return base


def names(point: Point) -> str | list[str]:
    """Which prefix each row has."""
    return "0" if point.N == 1 else [str(row * point.N // point.B) for row in range(point.B)]


def training(made: torch.nn.Module, point: Point) -> Callable[[], None]:
    """A training step."""
    ids = torch.randint(WORDS, (point.B, point.T), generator=torch.Generator().manual_seed(1))
    made.train()

    def step() -> None:
        made(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    return step


def decoding(made: torch.nn.Module, point: Point, **options: Any) -> Callable[[], None]:
    """A decoding step; `options` go to every forward."""
    made.eval()
    cache = tf.DynamicCache(config=made.config)
    with torch.no_grad():
        made(input_ids=torch.ones(point.B, point.T, dtype=torch.long), past_key_values=cache, **options)
    ids = torch.ones(point.B, 1, dtype=torch.long)

    def step() -> None:
        with torch.no_grad():
            made(input_ids=ids, past_key_values=cache, **options)
        cache.crop(-1)

    return step


def peft_prefixed(point: Point) -> torch.nn.Module:
    """PEFT's one prefix for the whole batch."""
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=point.P)
    return peft.get_peft_model(model(point), config)


def peft_decoding(point: Point) -> Callable[[], None]:
    """A decoding step of PEFT: the base's own, behind a cache that begins with the prefix."""
    made = peft_prefixed(point).eval()
    base, ids = made.get_base_model(), torch.ones(point.B, 1, dtype=torch.long)
    with torch.no_grad():
        cache = made(input_ids=ids.expand(-1, point.T), use_cache=True).past_key_values

    def step() -> None:
        with torch.no_grad():
            base(input_ids=ids, past_key_values=cache)
        cache.crop(-1)

    return step


def lora(point: Point) -> torch.nn.Module:
    """PEFT's LoRA, N of them."""
    made = peft.get_peft_model(model(point), peft.LoraConfig(task_type="CAUSAL_LM", r=8), adapter_name="0")
    for number in range(1, point.N):
        made.add_adapter(str(number), peft.LoraConfig(task_type="CAUSAL_LM", r=8))
    return made


def lora_decoding(point: Point) -> Callable[[], None]:
    """A decoding step of LoRA, with one for each row."""
    chosen = names(point)
    return decoding(lora(point), point, **({} if isinstance(chosen, str) else {"adapter_names": chosen}))


def under(made: tf.PreTrainedModel, point: Point, make: Callable[..., Callable[[], None]]) -> Callable[[], None]:
    """The same with a prefix for each row."""
    with pt.using(made, names(point)):
        step = make(made, point)

    def chosen() -> None:
        with pt.using(made, names(point)):
            step()

    return chosen


QUANTITIES: dict[str, Callable[[Point], Callable[[], None]]] = {
    "training, frozen floor": lambda point: training(frozen_floor(model(point), None), point),
    "training, P-Tuning v2": lambda point: under(prefixed(point, pt.PTuningV2), point, training),
    "training, APT": lambda point: under(prefixed(point, pt.AdaptivePrefix), point, training),
    f"training, {PREFIX}": lambda point: training(peft_prefixed(point), point),
    f"training, {LORA}": lambda point: training(lora(point), point),
    f"training, {FULL}": lambda point: training(model(point), point),
    "decoding, bare model": lambda point: decoding(model(point), point),
    "decoding, P-Tuning v2": lambda point: under(prefixed(point, pt.PTuningV2), point, decoding),
    "decoding, APT": lambda point: under(prefixed(point, pt.AdaptivePrefix), point, decoding),
    f"decoding, {PREFIX}": peft_decoding,
    f"decoding, {LORA}": lora_decoding,
}
ALONE = {f"training, {PREFIX}", f"training, {LORA}", f"training, {FULL}", f"decoding, {PREFIX}"}
"""What cannot be mixed in a batch."""
FOREIGN = {f"{kind}, {adapters_peer.NAME}": kind for kind in FLOORS}
"""The `adapters` library's quantities, and its worker's job for each."""

Axes = Mapping[str, Sequence[int]]
Workers = dict[str, adapters_peer.Worker]
Found = dict[str, dict[str, list[float]]]
"""Seconds of every quantity at each point of each axis."""


def foreign_step(worker: adapters_peer.Worker, job: str, point: Point) -> Callable[[], float]:
    """Seconds of a step of the `adapters` library."""
    worker.begin(job, config=shape(point), length=point.P, rows=point.B, tokens=point.T, prefixes=point.N)

    def step() -> float:
        answer = worker.ask()
        return float(answer[0] if job == "training" else answer)  # of training, without the optimiser

    return step


def measure(point: Point, repetitions: int, workers: Workers) -> dict[str, float]:
    """Seconds of every quantity at one point."""
    made = {name: make for name, make in QUANTITIES.items() if point.N == 1 or name not in ALONE}
    steps = {name: timed(make(point)) for name, make in made.items()}
    steps |= {name: foreign_step(worker, FOREIGN[name], point) for name, worker in workers.items()}
    fastest, order = dict.fromkeys(steps, float("inf")), random.Random(0)
    for _ in range(repetitions + 1):
        for name in order.sample(list(steps), len(steps)):
            fastest[name] = min(fastest[name], steps[name]())
    return fastest


def exponent(xs: Sequence[int], ys: Sequence[float]) -> float:
    """The slope of the upper half in logarithms."""
    half = len(xs) // 2
    return float(np.polyfit(np.log(xs[half - 1 :]), np.log(ys[half - 1 :]), 1)[0])


def exponents(found: Found, axes: Axes, quantities: Iterable[str]) -> str:
    """The exponent along each axis, and milliseconds at both ends."""

    def cell(axis: str, name: str) -> str:
        ys = found[axis].get(name)
        return f"{exponent(axes[axis], ys):.2f} ({ys[0] * 1000:.0f} to {ys[-1] * 1000:.0f} ms)" if ys else ""

    head = ["step", *(f"{axis} = {values[0]} to {values[-1]}" for axis, values in axes.items())]
    return report.table(head, [[name, *(cell(axis, name) for axis in axes)] for name in quantities])


def upper_ends(found: Found, axes: Axes, quantities: Iterable[str], peers: Sequence[str]) -> str:
    """Every step over the floor of its kind and over each peer, at the last point of each axis."""
    rows = []
    for axis, values in axes.items():
        last = {name: times[-1] for name, times in found[axis].items()}
        for name in (name for name in quantities if name in last):
            kind = name.partition(",")[0]
            if kind == "decoding" and axis != "N":
                last[f"decoding, {FULL}"] = last[f"decoding, {FLOORS[kind]}"]
            others = [f"{kind}, {way}" for way in (FLOORS[kind], *peers)]
            ratios = [f"{last[name] / last[other]:.2f}" if other in last else "" for other in others]
            rows.append([f"{axis} = {values[-1]}", name, f"{last[name] * 1000:.0f}", *ratios])
    return report.table(["at", "step", "ms", "/ floor", *(f"/ {peer}" for peer in peers)], rows)


def along(axis: str, values: Sequence[int], repetitions: int, workers: Workers) -> dict[str, list[float]]:
    """Seconds of every quantity that is there from one end of the axis to the other."""
    start = replace(Point(), B=32) if axis == "N" else Point()
    times = [measure(replace(start, **{axis: value}), repetitions, workers) for value in values]
    lasting = {name: [each[name] for each in times] for name in times[-1]}
    print(axis, {name: f"{exponent(values, ys):.2f}" for name, ys in lasting.items()}, flush=True)
    return lasting


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions of each point")
    parser.add_argument("--axes", nargs="*", choices=AXES, help="these axes alone, print only")
    parser.add_argument("--points", type=int, help="so many points of each axis, 2 or more, print only")
    parser.add_argument("--dry", action="store_true", help="print only, and leave RESULTS.md as it is")
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    axes = {axis: AXES[axis][: given.points] for axis in given.axes or AXES}
    with ExitStack() as opened:
        foreign = FOREIGN if given.adapters else {}
        workers = {name: opened.enter_context(adapters_peer.Worker(given.adapters)) for name in foreign}
        found = {axis: along(axis, values, given.repetitions, workers) for axis, values in axes.items()}
    quantities = sorted([*QUANTITIES, *foreign], key=lambda name: not name.startswith("training"))
    peers = [*PEERS, *([adapters_peer.NAME] if foreign else [])]
    body = (
        f"`python benchmarks/scaling.py`. {report.machine()}\n\n{adapters_peer.remark(given.adapters)}"
        "Exponents, and milliseconds at both ends; elsewhere P=32, T=128, B=8 (32 for N), L=4, N=1.\n\n"
        f"{exponents(found, axes, quantities)}\nAt the upper ends, time over the floor's, and over each peer's:\n\n"
        f"{upper_ends(found, axes, quantities, peers)}\n![scaling]({PLOT.name})"
    )
    if given.dry or axes != AXES:
        print(body)
    else:
        plot(found, axes, PLOT)
        report.write(SECTION, body)


if __name__ == "__main__":
    main()
