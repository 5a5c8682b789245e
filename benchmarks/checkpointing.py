"""What gradient checkpointing saves, and what it takes: `python benchmarks/checkpointing.py`.

The model, the batches, the floor and the way to measure are those of `train_step.py`, here of each method without and
with transformers' checkpointing (not the reentrant one). Peaks are of two steps with AdamW's, times of forward and
backward, in interleaved rounds; *saved* and *time* are with over without, the last columns what it has with
checkpointing over the checkpointed floor and over each peer's. PEFT's prefix has no row: it refuses checkpointing. The
`adapters` library has one with `--adapters PYTHON` (`adapters_worker.py`).
"""

from __future__ import annotations

import argparse
import statistics

import adapters_peer
import report
import torch
from train_step import CASES, CHECKPOINTED, FLOOR, Case, Times, peak_memory, rounds

SECTION = "Checkpointing"
PEERS = ("PEFT LoRA r=8", "full fine-tuning")
METHODS = (FLOOR, "P-Tuning v2", "Prefix-Tuning", "APT")


def measure(case: Case, count: int, python: str | None) -> str:
    """One case as a table."""
    peers = [*PEERS, adapters_peer.NAME] if python else [*PEERS]
    methods = [*METHODS, *peers]
    names = [name + more for name in methods for more in ("", CHECKPOINTED)]
    peaks = {name: peak_memory(name, case, python)[0] for name in names}
    times = list(rounds(case, names, count, python))
    head = ["method", "peak MB", "with", "saved", "time"]
    head += [f"with, peak and time / {name}" for name in (FLOOR, *peers)]
    rows = []
    for name in methods:
        kept, again = peaks[name], peaks[name + CHECKPOINTED]
        row = [name, f"{kept / 2**20:.0f}", f"{again / 2**20:.0f}", f"{1 - again / kept:.0%}"]
        row.append(f"{ratio(times, name + CHECKPOINTED, name):.2f}")
        for other in (FLOOR, *peers):
            there = other + CHECKPOINTED
            row.append(f"{again / peaks[there]:.3f}, {ratio(times, name + CHECKPOINTED, there):.3f}")
        rows.append(row)
    return f"### {case} ({len(times)} rounds)\n\n" + report.table(head, rows)


def ratio(times: list[Times], name: str, other: str) -> float:
    """The median over rounds of forward and backward."""
    return statistics.median(taken[name][0] / taken[other][0] for taken in times)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each case")
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="which cases, from 0")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tables = "\n".join(measure(CASES[number], given.rounds, given.adapters) for number in given.cases)
    body = f"`python benchmarks/checkpointing.py`. {report.machine()}\n\n"
    body += adapters_peer.versions(given.adapters) + tables
    report.finish(SECTION, body, parser, given)


if __name__ == "__main__":
    main()
