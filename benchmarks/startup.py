"""How long things take to start, against what they cannot be without: `python benchmarks/startup.py`.

Every command runs in a fresh interpreter, interleaved in random order; the table has the median of wall-clock seconds
and the medians of each round's ratios: to its floor, and to each peer that does the same. The model is an 8-layer Llama
of width 512 with random weights on disk; the prefix has 20 positions. Full fine-tuning has no row: its new model and a
saved one are both *load the base*. With `--adapters PYTHON` the `adapters` library is a peer; its floor is the base
under the older transformers that it needs.
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
from dataclasses import dataclass, field
from pathlib import Path

import adapters_peer
import report
from train_step import base

SECTION = "Start-up"
LENGTH = 20
LOAD = (
    "import transformers.utils.logging as l; l.disable_progress_bar(); "
    "from transformers import AutoModelForCausalLM as M; m = M.from_pretrained({base!r}); "
)


FLOOR, BASE, FOREIGN_BASE = "python -c pass", "load the base", "load the base, adapters' interpreter"
PEERS = ("PEFT prefix", "PEFT LoRA r=8")
NEW, SAVED = "load the base, a new {}", "load the base, a saved {}"


@dataclass(frozen=True)
class Way:
    """Code behind the base's loading: a new prefix, writing it, and loading a written one."""

    name: str
    new: str
    write: str
    saved: str
    python: str = sys.executable


def ways(folder: Path, adapters_python: str | None) -> list[Way]:
    """Every library's."""

    def of_peft(name: str, config: str) -> Way:
        new = f"import peft; m = peft.get_peft_model(m, peft.{config})"
        saved = str(folder / name)
        load = f"import peft; peft.PeftModel.from_pretrained(m, {saved!r})"
        return Way(name, new, f"m.save_pretrained({saved!r})", load)

    ours, theirs = str(folder / "ours"), str(folder / "adapters")
    new = f"import prefixtune as pt; m = pt.attach(m, pt.PTuningV2(length={LENGTH}))"
    found = [
        Way("prefix", new, f"pt.save(m, {ours!r})", f"import prefixtune as pt; pt.load(m, {ours!r})"),
        of_peft(PEERS[0], f"PrefixTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens={LENGTH})"),
        of_peft(PEERS[1], "LoraConfig(task_type='CAUSAL_LM', r=8)"),
    ]
    if adapters_python:
        ready, config = "import adapters; adapters.init(m); ", f"prefix_length={LENGTH}, flat=True"
        new = f"{ready}m.add_adapter('p', config=adapters.PrefixTuningConfig({config})); m.train_adapter('p')"
        load = f"{ready}m.load_adapter({theirs!r}, set_active=True)"
        found.append(Way(adapters_peer.NAME, new, f"m.save_adapter({theirs!r}, 'p')", load, adapters_python))
    return found


@dataclass(frozen=True)
class Command:
    """What is run, the name of its floor, and of the row of each peer that does the same."""

    name: str
    words: list[str]
    floor: str = ""
    same: dict[str, str] = field(default_factory=dict)


def commands(folder: Path, adapters_python: str | None) -> list[Command]:
    """All that is timed; what it loads is written to `folder` first."""
    base().save_pretrained(folder / "base")
    load, every = LOAD.format(base=str(folder / "base")), ways(folder, adapters_python)
    for way in every:
        subprocess.run(_python(f"{load}{way.new}; {way.write}", way.python), check=True, capture_output=True)
    found = [
        Command(FLOOR, _python("pass")),
        Command("import prefixtune", _python("import prefixtune"), FLOOR),
        Command("prefixtune --help", [sys.executable, "-m", "prefixtune", "--help"], FLOOR),
        Command(BASE, _python(load)),
    ]
    if adapters_python:
        found.append(Command(FOREIGN_BASE, _python(load, adapters_python), BASE))
    for row in (NEW, SAVED):
        same = {way.name: row.format(way.name) for way in every}
        for way in every:
            code = load + (way.new if row == NEW else way.saved)
            floor = BASE if way.python == sys.executable else FOREIGN_BASE
            found.append(Command(same[way.name], _python(code, way.python), floor, same))
    return found


def _python(code: str, interpreter: str = sys.executable) -> list[str]:
    return [interpreter, "-W", "ignore", "-c", code]


def seconds(command: Sequence[str]) -> float:
    """Wall-clock time of one command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often every command runs")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        every, order = commands(Path(folder), given.adapters), random.Random(0)
        rounds = [
            {command.name: seconds(command.words) for command in order.sample(every, len(every))}
            for _ in range(given.rounds + 1)
        ][1:]
    peers = [*PEERS, *([adapters_peer.NAME] if given.adapters else [])]
    lines = []
    for command in every:
        taken = statistics.median(times[command.name] for times in rounds)
        others = [command.floor, *(command.same.get(peer, "") for peer in peers)]
        ratios = ["".join(report.versus(rounds, command.name, [other] if other else [])) for other in others]
        lines.append([command.name, f"{taken:.2f}", ratios[0], command.floor, *ratios[1:]])
        print(*lines[-1], sep="\t", flush=True)
    body = (
        f"`python benchmarks/startup.py`. {report.machine()} Full fine-tuning starts as *{BASE}* does.\n\n"
        f"{adapters_peer.versions(given.adapters)}"
    )
    head = ["what", "seconds", "ratio", "to", *(f"/ {peer}" for peer in peers)]
    report.finish(SECTION, body + report.table(head, lines), parser, given)


if __name__ == "__main__":
    main()
