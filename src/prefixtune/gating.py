"""A gate for every query, made again in the backward instead of being kept: APT's `lambda * sigmoid(h W + b)`.

Kept as torch's own operations keep it, a token gate holds sigmoid's result, its product with lambda and, for the
gradient of W, the hidden states h, which a frozen model has no other need of. Here the gate is one operation that can
repeat itself, and so can h where it came from a norm, which keeps its own input for its own gradient anyway.

Axes: B batch, T queries, d model width, P prefix length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Origin:
    """What hidden states are made of: `hidden = make(source)`, the same bits whenever it is asked."""

    source: Tensor
    make: Callable[[Tensor], Tensor]

    def then(self, step: Callable[[Tensor], Tensor]) -> Origin:
        """The origin of `step(hidden)`."""
        return Origin(self.source, lambda source: step(self.make(source)))


def norms_of(stack: nn.Module) -> list[nn.Module]:
    """The norms in a stack whose result can be computed again: no state that a call moves, no hook that changes it."""
    return [
        module
        for module in stack.modules()
        if "norm" in type(module).__name__.lower()
        and not any(True for _ in module.children())
        and not any(True for _ in module.buffers())
        and not module._forward_hooks
        and not module._forward_pre_hooks
    ]


def normed(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Origin | None:
    """The origin of what `norm` returns for these arguments, where the norm's own gradient keeps its input as it is.

    Of narrower types, norms keep a copy in float32.
    """
    if len(args) != 1 or kwargs or args[0].dtype not in (torch.float32, torch.float64):
        return None
    return Origin(args[0], norm.forward)


def token_gate(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, layer_gate: Tensor | None, origin: Origin | None = None
) -> Tensor:
    """`layer_gate * sigmoid(hidden weight + bias)`, `[B, T, P]`, in autocast's type where that is on.

    hidden `[B, T, d]`, weight `[d, P]`, bias `[P]`, layer_gate `[]`; with an `origin`, `hidden` is not kept either.
    Differentiable once. Source: APT (Zhang et al. 2023, arXiv 2305.15212), equations 2 and 3.
    """
    if not transformed():
        return _TokenGate.apply(hidden, weight, bias, layer_gate, origin)
    dtype = _dtype(hidden, weight)
    logit = hidden.to(dtype) @ weight.to(dtype)
    alpha = torch.sigmoid(logit if bias is None else logit + bias.to(dtype))
    return alpha if layer_gate is None else alpha * layer_gate.to(dtype)


def transformed() -> bool:
    """Whether this runs under `torch.func` (grad, vmap), which cannot see into an operation with its own backward."""
    return torch._C._are_functorch_transforms_active()


def repeat_of(gate: Tensor | None) -> Callable[[], Tensor] | None:
    """What makes this very gate again during the backward; None for a gate that can only be kept."""
    node = None if gate is None else gate.grad_fn
    forward = getattr(type(node), "_forward_cls", None)  # how torch names the Function that a node belongs to
    return None if forward is not _TokenGate else lambda: _TokenGate.again(node)


class _TokenGate(torch.autograd.Function):
    """`token_gate`. Its node in the graph serves `again` to the operation that reads the gate."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        layer_gate: Tensor | None,
        origin: Origin | None,
    ) -> Tensor:
        ctx.dtype = _dtype(hidden, weight)
        ctx.make = None if origin is None else origin.make
        ctx.repeated = None
        ctx.save_for_backward(hidden if origin is None else origin.source.detach(), weight, bias, layer_gate)
        alpha = _alpha(hidden, weight, bias, ctx.dtype)
        return alpha if layer_gate is None else alpha.mul_(layer_gate)

    @staticmethod
    def again(ctx: Any) -> Tensor:
        """The gate `[B, T, P]`. What it takes stays until `backward`, which comes next: checkpointing gives it once."""
        source, weight, bias, layer_gate = ctx.saved_tensors
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            hidden = source if ctx.make is None else ctx.make(source)
            alpha = _alpha(hidden, weight, bias, ctx.dtype)
        ctx.repeated = hidden, alpha, weight, layer_gate
        return alpha if layer_gate is None else alpha * layer_gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.repeated is None:  # what reads the gate had to keep it
            _TokenGate.again(ctx)
        (hidden, alpha, weight, layer_gate), ctx.repeated = ctx.repeated, None
        d_hidden = d_weight = d_bias = d_layer_gate = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[3]:
                d_layer_gate = (grad * alpha).sum().to(layer_gate.dtype)
            d_logit = grad * (alpha - alpha * alpha)
            if layer_gate is not None:
                d_logit.mul_(layer_gate)
            if ctx.needs_input_grad[0]:
                d_hidden = (d_logit @ weight.to(ctx.dtype).mT).to(hidden.dtype)
            if ctx.needs_input_grad[1]:
                d_weight = (hidden.to(ctx.dtype).flatten(0, 1).mT @ d_logit.flatten(0, 1)).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                d_bias = d_logit.sum((0, 1)).to(weight.dtype)
        return d_hidden, d_weight, d_bias, d_layer_gate, None


def _dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Autocast's, where it is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _alpha(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`sigmoid(hidden weight + bias)`, `[B, T, P]`."""
    logit = hidden.to(dtype) @ weight.to(dtype)
    return (logit if bias is None else logit.add_(bias)).sigmoid_()
