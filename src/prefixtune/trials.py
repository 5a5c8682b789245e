"""Which of two exact ways is faster on this machine: each is run once for every kind of call, compared and timed.

For devices where no rule was measured beforehand. The choice is kept while the process lives.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from prefixtune.errors import first_line

Way = Callable[..., Tensor]

_REPEATS = 3
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Of the largest number of a result. GPUs multiply float32 in lower precision where they are allowed to."""


class Trials:
    """What was found for each kind of call.

    Args:
        clock: seconds, after everything that was begun on a device has ended.
    """

    def __init__(self, clock: Callable[[torch.device], float]) -> None:
        self.clock = clock
        self.found: dict[Hashable, bool] = {}

    def wins(self, kind: Hashable, way: Way, known: Way, inputs: Sequence[Tensor | None]) -> bool:
        """Whether `way` is faster than `known` for calls of this `kind`; `inputs` are one such call's.

        A way that fails, or that gives other values or gradients, loses, with a warning: once for each kind.
        """
        if kind not in self.found:
            self.found[kind] = self._try(way, known, inputs)
        return self.found[kind]

    def _try(self, way: Way, known: Way, inputs: Sequence[Tensor | None]) -> bool:
        right = _run(known, inputs)
        try:
            found = _run(way, inputs)
        except RuntimeError as error:
            _warn(f"failed ({first_line(error)})")
            return False
        for got, wanted in zip(found, right, strict=True):
            off, most = _largest(got - wanted), _TOLERANCES[wanted.dtype] * _largest(wanted)
            if not off <= most:  # also where one is no number
                _warn(f"gave numbers that are off by up to {off:.3g}, where {most:.3g} is allowed")
                return False
        del found, right
        return self._seconds(way, inputs) < self._seconds(known, inputs)

    def _seconds(self, way: Way, inputs: Sequence[Tensor | None]) -> float:
        """The least of some runs."""
        device = next(x.device for x in inputs if x is not None)
        times = []
        for _ in range(_REPEATS):
            begun = self.clock(device)
            _run(way, inputs)
            times.append(self.clock(device) - begun)
        return min(times)


def _run(way: Way, inputs: Sequence[Tensor | None]) -> list[Tensor]:
    """The output and, where gradients are on, those of every input that asks for one. No graph around is touched."""
    leaves = [None if x is None else x.detach().requires_grad_(x.requires_grad) for x in inputs]
    out = way(*leaves)
    asking = [x for x in leaves if x is not None and x.requires_grad]
    if not out.requires_grad:
        return [out]
    with torch.enable_grad():
        return [out.detach(), *torch.autograd.grad(out, asking, torch.ones_like(out))]


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _warn(what: str) -> None:
    warnings.warn(
        f"merged attention {what} on this device, so prefixes are joined to the keys instead, which is right but may "
        "be slower; please report the device and the versions of torch and CUDA",
        stacklevel=2,
    )


def synchronised(device: torch.device) -> float:
    """Seconds, once the device has done all that was begun on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
