"""How the cost of a prefix grows: `python benchmarks/scaling.py`, with exponents and the plot `scaling.png`.

One axis at a time is doubled, the others stay: prefix length P, tokens a text T, texts a batch B, layers L, and N, the
number of prefixes in one batch. Measured are, of a Llama of width 256 with random weights, in float32, on one thread:

- a training step, forward and backward, and a decoding step, one token a row behind T cached ones; from their times
  follows the throughput, tokens a second;
- the peak memory of a training step with AdamW's, each in a process of its own, as in `train_step.py`;
- start-up: the base's loading from disk, and what N new prefixes (or LoRAs) take on top of that.

Times are processor time, the fastest of interleaved repetitions. An exponent is the slope of a line through the upper
half of the points in logarithms: 1 is linear, 0 is constant. A second table has, at the upper end of each axis, the
cost over that of the floor (the frozen floor in training, the bare model in decoding, the base's loading) and over that
of each peer; ratios of throughput are those of time turned over.

Mixed in a batch, N > 1, PEFT's prefix and full fine-tuning cannot be, and PEFT's LoRA only in decoding; the `adapters`
library's prefix can (its BatchSplit). That library's rows need `--adapters PYTHON` (`adapters_peer.py`). LoRA has r=8,
and a fully fine-tuned model decodes and loads as the bare one.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import adapters_peer
import numpy as np
import report
import scaling_ways
import torch
import transformers as tf
from scaling_plot import plot
from scaling_ways import FLOORS, FULL, PEERS, Point, Step

SECTION = "Scaling"
PLOT = report.HERE / "scaling.png"
AXES = {
    "P": (16, 32, 64, 128, 256, 512),
    "T": (32, 64, 128, 256, 512, 1024),
    "B": (1, 2, 4, 8, 16, 32),
    "L": (2, 4, 8, 16),
    "N": (1, 2, 4, 8, 16, 32),
}
UNITS = {"training": ("ms", 1e3), "peak memory": ("MB", 2**-20), "decoding": ("ms", 1e3), "start-up": ("ms", 1e3)}
UNREAD = {"start-up": ("T", "B")}
"""Axes that a kind does not have."""

Axes = Mapping[str, Sequence[int]]
Found = dict[str, dict[str, dict[str, list[float]]]]
"""Of each kind, along each axis, for each way: its cost at every point, in seconds or bytes."""
Measure = Callable[[str, Point], dict[str, Step]]


def along(axis: str, values: Sequence[int], kind: str, repetitions: int, measure: Measure) -> dict[str, list[float]]:
    """The least cost of every way that is there from one end of the axis to the other."""
    start, order = replace(Point(), B=32) if axis == "N" else Point(), random.Random(0)
    points = []
    for value in values:
        steps = measure(kind, replace(start, **{axis: value}))
        least = dict.fromkeys(steps, float("inf"))
        for _ in range(repetitions + 1):
            for way in order.sample(list(steps), len(steps)):
                least[way] = min(least[way], steps[way]())
        points.append(least)
    lasting = {way: [each[way] for each in points] for way in points[-1]}
    print(kind, axis, {way: f"{exponent(values, ys):.2f}" for way, ys in lasting.items()}, flush=True)
    return lasting


def exponent(xs: Sequence[int], ys: Sequence[float]) -> float:
    """The slope of the upper half in logarithms."""
    half = len(xs) // 2
    return float(np.polyfit(np.log(xs[half - 1 :]), np.log(ys[half - 1 :]), 1)[0])


def exponents(found: Mapping[str, Mapping[str, Sequence[float]]], axes: Axes, unit: str, scale: float) -> str:
    """The exponent along each axis, and the values at both ends."""

    def cell(axis: str, way: str) -> str:
        ys = found[axis].get(way)
        return f"{exponent(axes[axis], ys):.2f} ({ys[0] * scale:,.0f} to {ys[-1] * scale:,.0f} {unit})" if ys else ""

    ways = dict.fromkeys(way for axis in found for way in found[axis])
    head = ["way", *(f"{axis} = {axes[axis][0]} to {axes[axis][-1]}" for axis in found)]
    return report.table(head, [[way, *(cell(axis, way) for axis in found)] for way in ways])


def throughput(found: Found, axes: Axes, kind: str) -> dict[str, dict[str, list[float]]]:
    """Tokens a second, from the seconds of steps: a training step has B x T of them, a decoding step B."""

    def tokens(axis: str, value: int) -> int:
        point = replace(Point(B=32) if axis == "N" else Point(), **{axis: value})
        return point.B * (point.T if kind == "training" else 1)

    return {
        axis: {
            way: [tokens(axis, value) / seconds for value, seconds in zip(axes[axis], ys, strict=True)]
            for way, ys in found[kind][axis].items()
        }
        for axis in found[kind]
    }


def upper_ends(found: Found, axes: Axes, peers: Iterable[str]) -> str:
    """Every cost over the floor of its kind and over each peer, at the last point of each axis."""
    rows = []
    for axis, values in axes.items():
        for kind in found:
            last = {way: ys[-1] for way, ys in found[kind].get(axis, {}).items()}
            others = dict.fromkeys([FLOORS[kind], *peers])
            known = last | ({FULL: last[FLOORS[kind]]} if kind == "decoding" and axis != "N" else {})
            for way, cost in last.items():
                ratios = [f"{cost / known[other]:.2f}" if other in known else "" for other in others]
                unit, scale = UNITS[kind]
                rows.append([f"{axis} = {values[-1]}", f"{kind}, {way}", f"{cost * scale:,.0f} {unit}", *ratios])
    return report.table(["at", "way", "cost", "/ floor", *(f"/ {peer}" for peer in peers)], rows)


def body(found: Found, axes: Axes, python: str | None) -> str:
    """The section."""
    peers = [*PEERS, *([adapters_peer.NAME] if python else [])]
    parts = [
        f"`python benchmarks/scaling.py`. {report.machine()}",
        adapters_peer.remark(python).strip(),
        "Exponents, and the values at both ends; elsewhere P=32, T=128, B=8 (32 for N), L=4, N=1.",
    ]
    for kind in found:
        parts += [f"### {kind.capitalize()}", exponents(found[kind], axes, *UNITS[kind])]
        if kind in ("training", "decoding"):
            rates = throughput(found, axes, kind)
            parts += [f"Throughput in {kind}, tokens a second:", exponents(rates, axes, "/s", 1)]
    parts += ["### Upper ends", "Cost over the floor's, and over each peer's.", upper_ends(found, axes, peers)]
    return "\n\n".join(part.strip() for part in [*parts, f"![scaling]({PLOT.name})"] if part)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions of each point")
    parser.add_argument("--kinds", nargs="*", choices=FLOORS, default=list(FLOORS), help="these alone, print only")
    parser.add_argument("--axes", nargs="*", choices=AXES, default=list(AXES), help="these axes alone, print only")
    parser.add_argument("--points", type=int, help="so many points of each axis, 2 or more, print only")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()
    axes = {axis: AXES[axis][: given.points] for axis in given.axes}
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        pool = opened.enter_context(scaling_ways.processes())
        worker = opened.enter_context(adapters_peer.Worker(given.adapters)) if given.adapters else None

        def measure(kind: str, point: Point) -> dict[str, Step]:
            return scaling_ways.steps(kind, point, folder, pool, worker)

        found: Found = {
            kind: {
                axis: along(axis, values, kind, 0 if kind == "peak memory" else given.repetitions, measure)
                for axis, values in axes.items()
                if axis not in UNREAD.get(kind, ())
            }
            for kind in given.kinds
        }
    if report.is_whole(parser, given):
        plot(found, axes, UNITS, PLOT)
    report.finish(SECTION, body(found, axes, given.adapters), parser, given)


if __name__ == "__main__":
    main()
