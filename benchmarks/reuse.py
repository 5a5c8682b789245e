"""What it saves to run frozen layers once for each example: `python benchmarks/reuse.py --encoder M --conll DATA`.

Runs of `prefixtune train` on the first examples of a file, with a prefix in the upper layers only, with and without
`--activation-cache 0`, and one with a prefix in every layer; in interleaved rounds, one thread, float32, base dropout
off. The seconds are the run's own and hold the filling of the cache; the ratio is of one round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report
import torch
import transformers as tf
from transformers import AutoConfig

import prefixtune as pt
from prefixtune import tasks
from prefixtune.training import RunConfig
from prefixtune.training.run import train

SECTION = "Frozen layers once for each example"
LENGTH = 16


def seconds(
    given: argparse.Namespace, data: Path, layers: Sequence[int] | None, cache: float | None, output: Path
) -> float:
    """The training time of one run."""
    config = RunConfig(
        model=given.encoder, task="tagging", train=str(data), method="p_tuning_v2", output=str(output), lr=1e-2,
        epochs=given.epochs, batch_size=given.batch_size, dtype="float32", base_dropout=False, activation_cache=cache,
    )  # fmt: skip
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        train(config, pt.PTuningV2(length=LENGTH, layers=layers))
    return float(json.loads((output / "metrics.json").read_text())["seconds"])


def measure(given: argparse.Namespace) -> str:
    """The table."""
    depth = AutoConfig.from_pretrained(given.encoder).num_hidden_layers
    choices = [None, tuple(range(depth // 2, depth)), (depth - 1,)]
    kinds = [(layers, cache) for layers in choices for cache in (None, 0.0)][1:]  # nothing is kept below layer 0
    order = random.Random(0)
    found: dict[Any, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        rows = tasks.read(given.conll).rows[: given.examples]
        data = Path(folder, "train.jsonl")
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        for number in range(given.rounds):
            for kind in order.sample(kinds, len(kinds)):
                output = Path(folder, f"{number}-{kinds.index(kind)}")
                found[kind].append(seconds(given, data, *kind, output))
    lines = []
    for layers, cache in kinds:
        floor = found[(layers, 0.0)]
        ratio = statistics.median(mine / other for mine, other in zip(found[(layers, cache)], floor, strict=True))
        name = f"{len(layers)} of {depth} layers, the upper" if layers else "all layers"
        kept = "kept" if cache is None else "run every time"
        lines.append([name, kept, f"{statistics.median(found[(layers, cache)]):.1f}", f"{ratio:.2f}"])
        print(*lines[-1], sep="\t", flush=True)
    what = f"{len(rows)} examples, {given.epochs} epochs, batches of {given.batch_size}, P={LENGTH}"
    head = ["prefix in", "what is below", "seconds", "time / run every time"]
    return f"{Path(given.encoder).name}, {what}.\n\n" + report.table(head, lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="folder of an encoder")
    parser.add_argument("--conll", required=True, help="file of CoNLL columns")
    parser.add_argument("--examples", type=int, default=256, help="how many of them")
    parser.add_argument("--epochs", type=int, default=5, help="passes over them")
    parser.add_argument("--batch-size", type=int, default=32, help="examples a batch")
    parser.add_argument("--rounds", type=int, default=3, help="rounds")
    parser.add_argument("--dry", action="store_true", help="print only, and leave RESULTS.md as it is")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    body = f"`python benchmarks/reuse.py`. {report.machine()}\n\n" + measure(given)
    if not given.dry:
        report.write(SECTION, body)


if __name__ == "__main__":
    main()
