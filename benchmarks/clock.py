"""Processor time: what other work on the machine disturbs least."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def timed(work: Callable[P, object]) -> Callable[P, float]:
    """The same work, returning the processor seconds it took."""

    def run(*args: P.args, **options: P.kwargs) -> float:
        start = time.process_time()
        work(*args, **options)
        return time.process_time() - start

    return run
