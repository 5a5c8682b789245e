"""CUDA's part of the merged attention, with the written formula in the place of torch's operations for CUDA.

No GPU is needed, so none is measured: what is held here is what those operations are given and what is made of their
answers (their signatures, alignments, groups of heads, log-sum-exp in padded rows), not the operations themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from test_kernel import GATES, HEADS, SCALE, D, T, call, formula, masks, same, tensors, with_gradients
from torch import Tensor

from prefixtune import attention, flash, products
from prefixtune.kernel import merged_attention


def scores(query: Tensor, key: Tensor, bias: Tensor | None, causal: bool, scale: float) -> Tensor:
    found = query.double() @ key.double().mT * scale
    found = found if bias is None else found + bias
    return found.masked_fill(~torch.ones(found.shape[-2:], dtype=torch.bool).tril(), -math.inf) if causal else found


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool, scale: float) -> Any:
    found = scores(query, key, bias, causal, scale)
    lse = found.logsumexp(-1)
    out = (found - lse[..., None]).exp() @ value.double()
    return out.transpose(1, 2).contiguous().transpose(1, 2).to(query.dtype), lse


def attend_back(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, bias: Tensor | None,
    causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients as FlashAttention has them, algorithm 4: from the output and log-sum-exp that it is given."""
    weight = (scores(query, key, bias, causal, scale) - lse[..., None]).exp()
    d_score = weight * (grad.double() @ value.double().mT - (grad * out).double().sum(-1, keepdim=True)) * scale
    made = d_score @ key.double(), d_score.mT @ query.double(), weight.mT @ grad.double()
    return made[0].to(query.dtype), made[1].to(key.dtype), made[2].to(value.dtype)


def checked(query: Tensor, key: Tensor, value: Tensor) -> None:
    for x in (query, key, value):
        assert x.shape[-1] % 8 == 0 and x.stride(-1) == 1, "CUDA takes aligned heads alone"


class Operations:
    """Stand-ins, with the signatures of torch's own; each call is counted."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _scaled_dot_product_efficient_attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None, compute_log_sumexp: bool,
        dropout_p: float = 0.0, is_causal: bool = False, *, scale: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        self.calls.append("efficient")
        checked(query, key, value)
        self._checked_bias(query, key, attn_bias)
        assert compute_log_sumexp and dropout_p == 0.0
        out, lse = attend(query, key, value, attn_bias, is_causal, scale)
        return out, self._padded(lse), torch.empty(()), torch.empty(())

    def _scaled_dot_product_efficient_attention_backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None, out: Tensor,
        logsumexp: Tensor, philox_seed: Tensor, philox_offset: Tensor, dropout_p: float, grad_input_mask: list[bool],
        is_causal: bool = False, *, scale: float,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        self.calls.append("efficient backward")
        checked(query, key, value)
        self._checked_bias(query, key, attn_bias)
        assert logsumexp.shape[-1] % 32 == 0 and logsumexp[..., query.shape[2] :].isposinf().all()
        assert grad_input_mask == [True, True, True, False]
        lse = logsumexp[..., : query.shape[2]]
        return *attend_back(grad_out, query, key, value, out, lse, attn_bias, is_causal, scale), None

    def _scaled_dot_product_flash_attention(
        self, query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False,
        return_debug_mask: bool = False, *, scale: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        self.calls.append("flash")
        checked(query, key, value)
        assert query.dtype != torch.float32 and not return_debug_mask
        assert query.shape[2] == key.shape[2] or not is_causal
        out, lse = attend(query, *flash._by_head(query, key, value), None, is_causal, scale)
        return out.contiguous(), lse, None, None, query.shape[2], key.shape[2], torch.empty(2), torch.empty(()), None

    def _scaled_dot_product_flash_attention_backward(
        self, grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor,
        cum_seq_q: None, cum_seq_k: None, max_q: int, max_k: int, dropout_p: float, is_causal: bool,
        philox_seed: Tensor, philox_offset: Tensor, *, scale: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        self.calls.append("flash backward")
        assert (max_q, max_k) == (query.shape[2], key.shape[2]) and logsumexp.is_contiguous()
        d_query, *rest = attend_back(
            grad_out, query, *flash._by_head(query, key, value), out, logsumexp, None, is_causal, scale
        )
        return d_query, *(flash._by_group(x, given) for x, given in zip(rest, (key, value), strict=True))

    @staticmethod
    def _padded(lse: Tensor) -> Tensor:
        return torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=math.inf)

    @staticmethod
    def _checked_bias(query: Tensor, key: Tensor, bias: Tensor | None) -> None:
        if bias is not None:
            assert bias.shape == (*query.shape[:3], key.shape[2]) and bias.stride(-1) == 1
            assert all(stride % 16 == 0 for stride in bias.stride()[:-1]), "rows of a bias start at aligned places"


NAMES = [name for name in vars(Operations) if name.startswith("_scaled")]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operations]:
    """Tensors of the CPU go where CUDA's would."""
    made = Operations()
    monkeypatch.setattr(flash, "on_cpu", lambda x: False)
    monkeypatch.setattr(flash, "_has_flash", lambda device: True)
    monkeypatch.setitem(flash._SIZES, "cpu", 8)
    for name in NAMES:
        monkeypatch.setattr(torch.ops.aten, name, getattr(made, name))
    yield made


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("heads", HEADS)
def test_the_memory_efficient_attention_gives_the_formula(heads: str, gate: str, mask: str, cuda: Operations) -> None:
    inputs, how = tensors(HEADS[heads], GATES[gate]), masks()[mask]
    same(with_gradients(merged_attention, inputs, *how, SCALE), with_gradients(formula, inputs, *how), 1e-11)
    assert {"efficient", "efficient backward"} == set(cuda.calls)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("heads", HEADS)
def test_flash_attention_in_half_precision_is_near_the_formula(
    heads: str, gate: str, causal: bool, cuda: Operations
) -> None:
    exact = tensors(HEADS[heads], GATES[gate], keys=T)
    half = tuple(None if x is None else x.detach().half().requires_grad_() for x in exact)
    rounded = tuple(None if x is None else x.detach().double().requires_grad_() for x in half)
    same(
        with_gradients(merged_attention, half, None, causal, SCALE), with_gradients(formula, rounded, None, causal),
        2e-2,
    )  # fmt: skip
    assert {"flash", "flash backward"} == set(cuda.calls)


def test_flash_attention_is_left_where_it_has_no_mask_no_float32_and_no_ragged_causality(cuda: Operations) -> None:
    query, key = torch.empty(1, 2, 4, D), torch.empty(1, 2, 4, D)
    for given, other, mask, causal, expected in (
        (query.half(), key.half(), None, True, True),
        (query.bfloat16(), key[:, :, :3].bfloat16(), None, False, True),
        (query.half(), key[:, :, :3].half(), None, True, False),
        (query, key, None, True, False),
        (query.half(), key.half(), torch.zeros(1, 1, 4, 4), False, False),
        (torch.empty(1, 2, 4, 264).half(), torch.empty(1, 2, 4, 264).half(), None, True, False),
    ):
        assert flash._flashes(given, other, mask, causal) == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_stand_ins_have_the_arguments_of_torchs_operations(name: str) -> None:
    import inspect

    ours = list(inspect.signature(getattr(Operations(), name)).parameters)
    theirs = [argument.name for argument in getattr(torch.ops.aten, name).default._schema.arguments]
    assert [argument.rstrip("_") for argument in theirs] == ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", ["all", "causal", "bool", "bias"])
@pytest.mark.parametrize("gate", GATES)
def test_shapes_types_and_devices_fit_cudas_operations(
    gate: str, mask: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own operations for CUDA, on tensors without numbers."""
    monkeypatch.setattr(flash, "_has_flash", lambda device: True)
    given, (seen, causal) = tensors((4, 2), GATES[gate], sizes=(8, 8)), masks()[mask]
    for table, entry in ((flash._SIZES, 8), (products.BLOCK, 2**24)):
        monkeypatch.setitem(table, "meta", entry)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # which has no word for this device
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    inputs = [x if x is None else torch.empty(x.shape, device="meta", dtype=dtype).requires_grad_() for x in given]
    seen = seen if seen is None else torch.empty(seen.shape, device="meta", dtype=seen.dtype)
    out, *made = with_gradients(merged_attention, tuple(inputs), seen, causal, SCALE)
    assert out.shape == (2, T, 4, 8) and out.is_contiguous()
    for x, its in zip([x for x in inputs if x is not None], made, strict=True):
        assert (its.shape, its.dtype, its.device.type) == (x.shape, dtype, "meta")


# --- trials ------------------------------------------------------------------------------------------------------


class Clock:
    """Each way's calls take the seconds that the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self, device: torch.device) -> float:
        return self.now

    def way(self, seconds: float, factor: float = 1.0) -> Any:
        def run(x: Tensor, y: Tensor | None) -> Tensor:
            self.now += seconds
            return x * x * factor

        return run


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("mask", ["all", "causal", "bool", "infinite"])
@pytest.mark.parametrize("gate", GATES)
def test_joined_and_merged_attention_stand_a_trial(
    gate: str, mask: str, trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another device than the CPU: a warning, which is an error here, would say that they differ."""
    seen, causal = masks()[mask]
    given, key, value, factor = call(gate, mask=seen, causal=causal)
    monkeypatch.setattr(attention, "TRIALS", attention.Trials(attention.synchronised))
    with torch.set_grad_enabled(trained):
        first = attention._wins_its_trial(given, key, value, factor)
        assert attention._wins_its_trial(given, key, value, factor) == first
        longer = attention._wins_its_trial(given, torch.cat([key] * 3, 1), torch.cat([value] * 3, 1), None)
    assert isinstance(longer, bool)
    assert len(attention.TRIALS.found) == 2


def leaf() -> Tensor:
    return torch.linspace(1, 2, 5).requires_grad_()


@pytest.mark.parametrize(("seconds", "wins"), [(1.0, True), (3.0, False)])
def test_the_faster_of_two_equal_ways_is_taken_and_tried_once(seconds: float, wins: bool) -> None:
    clock, given = Clock(), leaf()
    trials = attention.Trials(clock)
    assert trials.wins("kind", clock.way(seconds), clock.way(2.0), (given, None)) == wins
    spent = clock.now
    assert trials.wins("kind", clock.way(seconds), clock.way(2.0), (given, None)) == wins
    assert clock.now == spent and given.grad is None
    trials.wins("another kind", clock.way(seconds), clock.way(2.0), (given, None))
    assert clock.now > spent


@pytest.mark.parametrize("factor", [1.01, math.nan])
def test_a_faster_way_with_other_numbers_loses_with_a_warning(factor: float) -> None:
    clock = Clock()
    with pytest.warns(UserWarning, match="gave numbers that are off by up to .* joined to the keys instead"):
        assert not attention.Trials(clock).wins("kind", clock.way(1.0, factor), clock.way(2.0), (leaf(), None))


def test_a_faster_way_with_other_gradients_loses_with_a_warning() -> None:
    clock = Clock()
    detached = clock.way(1.0)

    def way(x: Tensor, y: Tensor | None) -> Tensor:
        return detached(x, y).detach() + 0 * x

    with pytest.warns(UserWarning, match="gave numbers that are off"):
        assert not attention.Trials(clock).wins("kind", way, clock.way(2.0), (leaf(), None))


@pytest.mark.parametrize(
    ("said", "told"), [(["CUDA error: no kernel image\nmore"], "CUDA error: no kernel image"), ([], "RuntimeError")]
)
def test_a_way_that_fails_loses_with_a_warning_that_says_why(said: list[str], told: str) -> None:
    def way(x: Tensor, y: Tensor | None) -> Tensor:
        raise RuntimeError(*said)

    clock = Clock()
    with pytest.warns(UserWarning, match=rf"failed \({told}\)"):
        assert not attention.Trials(clock).wins("kind", way, clock.way(2.0), (leaf(), None))
