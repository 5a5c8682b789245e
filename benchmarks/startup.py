"""How long things take to start, against what they cannot be without: `python benchmarks/startup.py`.

Every command runs in a fresh interpreter, interleaved in random order; the table has the median of wall-clock seconds
and the median of each round's ratio to its floor. The model is an 8-layer Llama of width 512 with random weights on
disk; the prefix has 20 positions.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import peft
import report
import torch
from train_step import base

import prefixtune as pt

SECTION = "Start-up"
LENGTH = 20
LOAD = (
    "import transformers.utils.logging as l; l.disable_progress_bar(); "
    "from transformers import AutoModelForCausalLM as M; m = M.from_pretrained({base!r}); "
)


NEW, PEFT_NEW = "load the base, attach a new prefix", "load the base, a new prefix of PEFT"
LOADED, PEFT_LOADED = "load the base, load a prefix", "load the base, load a prefix of PEFT"
PEERS = {NEW: PEFT_NEW, LOADED: PEFT_LOADED}
"""Which row of PEFT does the same."""


def commands(folder: Path) -> list[tuple[str, list[str], str | None]]:
    """Name, command, and the name of its floor."""
    base_folder, ours, theirs = (str(folder / name) for name in ("base", "ours", "theirs"))
    torch.manual_seed(0)
    base().save_pretrained(base_folder)
    model = pt.attach(base(), pt.PTuningV2(length=LENGTH))
    pt.save(model, ours)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)
    peft.get_peft_model(base(), config).save_pretrained(theirs)
    load = LOAD.format(base=base_folder)

    def python(code: str) -> list[str]:
        return [sys.executable, "-W", "ignore", "-c", code]

    new = "m = pt.attach(m, pt.PTuningV2(length=20))"
    return [
        ("python -c pass", python("pass"), None),
        ("import prefixtune", python("import prefixtune"), "python -c pass"),
        ("prefixtune --help", [sys.executable, "-m", "prefixtune", "--help"], "python -c pass"),
        ("load the base", python(load), None),
        (NEW, python(f"{load}import prefixtune as pt; {new}"), "load the base"),
        (
            PEFT_NEW,
            python(
                f"{load}import peft; m = peft.get_peft_model(m, peft.PrefixTuningConfig("
                f"task_type='CAUSAL_LM', num_virtual_tokens={LENGTH}))"
            ),
            "load the base",
        ),
        (
            LOADED,
            python(f"{load}import prefixtune as pt; pt.load(m, {ours!r})"),
            "load the base",
        ),
        (
            PEFT_LOADED,
            python(f"{load}import peft; peft.PeftModel.from_pretrained(m, {theirs!r})"),
            "load the base",
        ),
    ]


def seconds(command: Sequence[str]) -> float:
    """Wall-clock time of one command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often every command runs")
    parser.add_argument("--dry", action="store_true", help="print only, and leave RESULTS.md as it is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        every, order = commands(Path(folder)), random.Random(0)
        rounds = [
            {name: seconds(command) for name, command, _ in order.sample(every, len(every))}
            for _ in range(given.rounds + 1)
        ][1:]
    lines = []
    for name, _, floor in every:
        taken = statistics.median(times[name] for times in rounds)
        ratios = ["".join(report.versus(rounds, name, [other] if other else [])) for other in (floor, PEERS.get(name))]
        lines.append([name, f"{taken:.2f}", ratios[0], floor or "", ratios[1]])
        print(*lines[-1], sep="\t")
    body = f"`python benchmarks/startup.py`. {report.machine()}\n\n"
    if not given.dry:
        report.write(SECTION, body + report.table(["what", "seconds", "ratio", "to", "/ PEFT doing the same"], lines))


if __name__ == "__main__":
    main()
