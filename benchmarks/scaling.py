"""How the cost of a prefix grows: `python benchmarks/scaling.py`, with exponents and the plot `scaling.png`.

One axis at a time is doubled, the others stay: prefix length P, tokens a text T, texts a batch B, layers L, and N, the
number of prefixes in one batch. Measured are a training step (forward and backward) and a decoding step (one token a
row behind T cached ones) of a Llama of width 256 with random weights, in float32, on one thread: processor time, the
fastest of interleaved repetitions. An exponent is the slope of a line through the upper half of the points in
logarithms: 1 is linear, 0 is constant. A second table has, at the upper end of each axis, the time over that of the
frozen floor (training) or the bare model (decoding), and over that of PEFT's prefix, which cannot be mixed in a batch.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import matplotlib
import numpy as np
import peft
import report
import torch
import transformers as tf
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
TITLES = {
    "P": "prefix length P",
    "T": "tokens a text T",
    "B": "texts a batch B",
    "L": "layers L",
    "N": "prefixes in a batch of 32",
}


def model(point: Point) -> tf.PreTrainedModel:
    """The base model."""
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(
        tf.LlamaConfig(
            hidden_size=256, intermediate_size=688, num_hidden_layers=point.L, num_attention_heads=4,
            num_key_value_heads=4, vocab_size=WORDS, max_position_embeddings=4096,
        )
    )  # fmt: skip


def prefixed(point: Point, kind: type[pt.PTuningV2] | type[pt.AdaptivePrefix]) -> tf.PreTrainedModel:
    """The model with N prefixes."""
    base = model(point)
    for number in range(point.N):
        pt.attach(base, kind(length=point.P), name=str(number))
    return base


def names(point: Point) -> str | list[str]:
    """Which prefix each row has."""
    return "0" if point.N == 1 else [str(row * point.N // point.B) for row in range(point.B)]


def training(made: tf.PreTrainedModel, point: Point) -> Callable[[], None]:
    """A training step."""
    ids = torch.randint(WORDS, (point.B, point.T), generator=torch.Generator().manual_seed(1))
    made.train()

    def step() -> None:
        made(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    return step


def decoding(made: tf.PreTrainedModel, point: Point) -> Callable[[], None]:
    """A decoding step."""
    made.eval()
    cache = tf.DynamicCache(config=made.config)
    with torch.no_grad():
        made(input_ids=torch.ones(point.B, point.T, dtype=torch.long), past_key_values=cache)
    ids = torch.ones(point.B, 1, dtype=torch.long)

    def step() -> None:
        with torch.no_grad():
            made(input_ids=ids, past_key_values=cache)
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
    "training, PEFT prefix": lambda point: training(peft_prefixed(point), point),
    "decoding, bare model": lambda point: decoding(model(point), point),
    "decoding, P-Tuning v2": lambda point: under(prefixed(point, pt.PTuningV2), point, decoding),
    "decoding, APT": lambda point: under(prefixed(point, pt.AdaptivePrefix), point, decoding),
    "decoding, PEFT prefix": peft_decoding,
}


def measure(point: Point, repetitions: int) -> dict[str, float]:
    """Seconds of every quantity at one point."""
    made = {name: make for name, make in QUANTITIES.items() if point.N == 1 or not name.endswith("PEFT prefix")}
    steps, order = {name: make(point) for name, make in made.items()}, random.Random(0)
    fastest = dict.fromkeys(steps, float("inf"))
    for _ in range(repetitions + 1):
        for name in order.sample(list(steps), len(steps)):
            start = time.process_time()
            steps[name]()
            fastest[name] = min(fastest[name], time.process_time() - start)
    return fastest


def exponent(xs: tuple[int, ...], ys: list[float]) -> float:
    """The slope of the upper half in logarithms."""
    half = len(xs) // 2
    return float(np.polyfit(np.log(xs[half - 1 :]), np.log(ys[half - 1 :]), 1)[0])


def plot(found: dict[str, dict[str, list[float]]]) -> None:
    """Time against each axis, training above decoding."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    figure, panels = plt.subplots(2, len(AXES), figsize=(4 * len(AXES), 7), sharex="col", squeeze=False)
    colours = {"frozen floor": "0.4", "bare model": "0.4", "P-Tuning v2": "C0", "APT": "C1", "PEFT prefix": "C2"}
    for column, (axis, values) in enumerate(AXES.items()):
        for name, times in found[axis].items():
            kind, way = name.split(", ")
            panel = panels[0 if kind == "training" else 1, column]
            panel.loglog(values, [t * 1000 for t in times], "o-", color=colours[way], label=way, markersize=4)
            panel.set_ylabel(f"{kind} step, ms" if column == 0 else "")
            panel.grid(True, which="major", alpha=0.3)
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        panels[1, column].set_xlabel(TITLES[axis])
        panels[1, column].set_xticks(values, [str(value) for value in values])
        panels[1, column].xaxis.set_minor_locator(NullLocator())
    for row in panels:
        row[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(PLOT, dpi=80)


def upper_ends(found: dict[str, dict[str, list[float]]]) -> str:
    """Every step over the floor of its kind and over PEFT's prefix, at the last point of each axis."""
    floors = {"training": "training, frozen floor", "decoding": "decoding, bare model"}

    def cell(axis: str, name: str) -> str:
        last = {way: times[-1] for way, times in found[axis].items()}
        kind = name.partition(",")[0]
        others = (floors[kind], f"{kind}, PEFT prefix")
        return ", ".join(f"{last[name] / last[other]:.2f}" for other in others if {name, other} <= set(last))

    head = ["step", *(f"{axis} = {values[-1]}" for axis, values in AXES.items())]
    return report.table(head, [[name, *(cell(axis, name) for axis in AXES)] for name in QUANTITIES])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions of each point")
    parser.add_argument("--dry", action="store_true", help="print only, and leave RESULTS.md as it is")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    found: dict[str, dict[str, list[float]]] = {}
    for axis, values in AXES.items():
        start = replace(Point(), B=32) if axis == "N" else Point()
        times = [measure(replace(start, **{axis: value}), given.repetitions) for value in values]
        found[axis] = {name: [each[name] for each in times] for name in times[-1]}
        print(axis, {name: f"{exponent(values, ys):.2f}" for name, ys in found[axis].items()}, flush=True)
    fitted = partial(_cell, found)
    lines = [[name, *(fitted(axis, name) for axis in AXES)] for name in QUANTITIES]
    head = ["step", *(f"{axis} = {values[0]} to {values[-1]}" for axis, values in AXES.items())]
    body = (
        f"`python benchmarks/scaling.py`. {report.machine()}\n\nExponents, and milliseconds at both ends; "
        f"elsewhere P=32, T=128, B=8 (32 for N), L=4, N=1.\n\n{report.table(head, lines)}\n"
        f"At the upper ends, time over the floor's, and over that of PEFT's prefix:\n\n{upper_ends(found)}\n"
        f"![scaling]({PLOT.name})"
    )
    if not given.dry:
        plot(found)
        report.write(SECTION, body)


def _cell(found: dict[str, dict[str, list[float]]], axis: str, name: str) -> str:
    if name not in found[axis]:
        return ""
    ys = found[axis][name]
    return f"{exponent(AXES[axis], ys):.2f} ({ys[0] * 1000:.0f} to {ys[-1] * 1000:.0f} ms)"


if __name__ == "__main__":
    main()
