"""Where a stack of layers is cut: forwards that stop there, and forwards that begin there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prefixtune.geometry import attention_input


@dataclass(frozen=True)
class Cut:
    """Where a stack of blocks is cut: `blocks[lowest]` is the first with a prefix.

    `widths`: how many values each block returns, the hidden state first; None for the hidden state by itself.
    """

    blocks: tuple[nn.Module, ...]
    lowest: int
    widths: tuple[int | None, ...]

    @contextlib.contextmanager
    def watched(self, seen: list[Tensor]) -> Iterator[None]:
        """Within the context, a forward of the model puts the hidden state that enters the cut into `seen`.

        The blocks above the lowest prefix do nothing: what comes of the forward is meaningless.
        """

        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(attention_input(module, args, kwargs))

        handle = self.blocks[self.lowest].register_forward_pre_hook(watch, with_kwargs=True)
        try:
            with self._idle(range(self.lowest + 1, len(self.blocks))):
                yield
        finally:
            handle.remove()

    @contextlib.contextmanager
    def entered(self, states: Tensor, real: Tensor) -> Iterator[None]:
        """Within the context, a forward skips the blocks below the cut and goes on from `states` there.

        states `[N, d]`: of the batch's real tokens, one after another; real, bool, `[B, T]` or with further leading
        axes: where they stand. Padding enters as zeros, which no real token sees.
        """

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            entering = _placed(states, real, attention_input(module, args, kwargs))
            if kwargs.get("hidden_states") is not None:
                return args, kwargs | {"hidden_states": entering}
            return (entering, *args[1:]), kwargs

        handle = self.blocks[self.lowest].register_forward_pre_hook(enter, with_kwargs=True)
        try:
            with self._idle(range(self.lowest)):
                yield
        finally:
            handle.remove()

    @contextlib.contextmanager
    def _idle(self, which: Sequence[int]) -> Iterator[None]:
        """These blocks hand on the hidden state that they are given."""
        before = [(vars(self.blocks[i]), vars(self.blocks[i]).get("forward")) for i in which]
        try:
            for i in which:
                vars(self.blocks[i])["forward"] = _handing_on(self.blocks[i], self.widths[i])
            yield
        finally:
            for own, forward in before:
                own.pop("forward", None)
                if forward is not None:  # a library that moves weights about has put its own there
                    own["forward"] = forward


def _handing_on(block: nn.Module, width: int | None) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = attention_input(block, args, kwargs)
        return hidden if width is None else (hidden, *[None] * (width - 1))

    return forward


def _placed(states: Tensor, real: Tensor, given: Tensor) -> Tensor:
    """The states `[N, d]` of the real tokens in the shape of `given`, `[B, T, d]`."""
    if given.shape[:-1].numel() == len(states):
        return states.view(given.shape)
    placed = states.new_zeros(given.shape)
    placed.view(-1, given.shape[-1])[real.flatten()] = states
    return placed
