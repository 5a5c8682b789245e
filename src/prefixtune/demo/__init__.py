"""The demo: `prefixtune demo` trains an APT prefix on an encoder and two prefixes on a small decoder, offline."""

from __future__ import annotations

import os
from pathlib import Path

from prefixtune.demo.plan import Plan

__all__ = ["Plan", "run"]


def run(output: str | os.PathLike[str] = "demo-output", plan: Plan | None = None) -> None:
    """Run the demo and leave its data, prefixes, metrics and the picture of the gates in `output`.

    Args:
        output: a folder; what an earlier run of the demo left in it is replaced.
        plan: how much is trained and tested; the default takes about two minutes on two cores.

    Raises:
        ConfigError: the MiniLM encoder, a metric or matplotlib is not installed; the line says what installs it.
    """
    # Read when torch loads. Waiting threads spin by default, and on a machine that has other work to do the demo then
    # takes several times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from prefixtune.demo.story import tell

    tell(Path(output), plan or Plan())
