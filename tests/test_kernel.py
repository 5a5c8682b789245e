"""The merged attention: the formula in float64, values and gradients; what it keeps and makes; when it is chosen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from prefixtune import attention, flash, kernel, products
from prefixtune.attention import AttentionCall, joint_attention
from prefixtune.kernel import merged_attention

B, T, S, P, D = 2, 3, 5, 4, 6
SCALE = 0.37
GATES = {"no gate": None, "gate": (1, 1), "sequence gate": (B, 1), "token gate": (B, T), "shared token gate": (1, T)}
HEADS = {"heads": (4, 4), "grouped": (4, 2), "one key head": (4, 1)}


def tensors(
    heads: tuple[int, int] = (4, 2),
    gate: tuple[int, int] | None = None,
    sizes: tuple[int, int] = (D, D),
    queries: int = T,
    keys: int = S,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor | None, ...]:
    """query, key, value, prefix_key, prefix_value, gate; queries in memory as layers have them."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    H, G = heads
    Dk, Dv = sizes
    query = normal(B, queries, H, Dk).transpose(1, 2)
    made = [query, normal(B, G, keys, Dk), normal(B, G, keys, Dv), normal(G, P, Dk), normal(G, P, Dv)]
    factor = None if gate is None else torch.sigmoid(normal(*gate, P)) * 1.3
    return tuple(x if x is None else x.detach().requires_grad_() for x in (*made, factor))


def formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    gate: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    scale: float = SCALE,
) -> Tensor:
    """One softmax, term by term, with autograd's own gradients; `[B, T, H, Dv]`."""
    each = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(each, 1), value.repeat_interleave(each, 1)
    prefix_key, prefix_value = prefix_key.repeat_interleave(each, 0), prefix_value.repeat_interleave(each, 0)
    opened = torch.ones(1, 1, 1, dtype=query.dtype) if gate is None else gate
    first = torch.einsum("bhtd,hpd->bhtp", query, prefix_key) * scale * opened[:, None]
    second = torch.einsum("bhtd,bhsd->bhts", query, key) * scale
    if mask is not None and mask.dtype == torch.bool:
        second = second.masked_fill(~mask, -math.inf)
    elif mask is not None:
        second = second + mask
    if causal:
        second = second.masked_fill(~torch.ones(second.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    weights = torch.softmax(torch.cat([first, second], -1), -1)
    length = prefix_key.shape[1]
    through_prefix = torch.einsum("bhtp,hpd->bthd", weights[..., :length] * opened[:, None], prefix_value)
    return through_prefix + torch.einsum("bhts,bhsd->bthd", weights[..., length:], value)


def some_rows(x: Tensor | None, rows: list[int]) -> Tensor | None:
    return x if x is None or len(x) == 1 else x[rows]


def left_padding(rows_without_text: bool = True) -> Tensor:
    """`[B, 1, T, S]`: the first row's first tokens are padding, so that its first query sees no token at all."""
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T).repeat(B, 1, 1, 1)
    mask[0, ..., : S - T + 1 if rows_without_text else 1] = False
    return mask


def masks() -> dict[str, tuple[Tensor | None, bool]]:
    """Mask and causality, under names."""
    some = left_padding()
    lowest = torch.finfo(torch.float64).min
    return {
        "all": (None, False),
        "causal": (None, True),
        "bool": (some, False),
        "shared bool": (some[1:], False),
        "same for all queries": (some[:, :, -1:], False),
        "lowest": (torch.zeros(some.shape, dtype=torch.float64).masked_fill(~some, lowest), False),
        "infinite": (torch.zeros(some.shape, dtype=torch.float64).masked_fill(~some, -math.inf), False),
        "bias": (torch.linspace(-2, 2, 4 * T * S, dtype=torch.float64).view(1, 4, T, S), False),
    }


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of queries even in these small shapes."""
    monkeypatch.setattr(products, "_blocks", lambda heads, count, length, device: [slice(0, 4), slice(4, count)])


def with_gradients(function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...], *rest: Any) -> list[Tensor]:
    """The output and the gradients of everything that has one."""
    out = function(*inputs, *rest)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    return [out, *torch.autograd.grad(out, [x for x in inputs if x is not None and x.requires_grad], weights)]


def same(ours: list[Tensor], reference: list[Tensor], tolerance: float = 1e-12) -> None:
    assert len(ours) == len(reference)
    for got, wanted in zip(ours, reference, strict=True):
        assert got.shape == wanted.shape
        torch.testing.assert_close(got.double(), wanted.double(), rtol=0, atol=tolerance)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("heads", HEADS)
def test_values_and_gradients_are_those_of_the_formula(heads: str, gate: str, mask: str) -> None:
    inputs, rest = tensors(HEADS[heads], GATES[gate]), (*masks()[mask], SCALE)
    same(with_gradients(merged_attention, inputs, *rest), with_gradients(formula, inputs, *rest))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("mask", ["causal", "bool"])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("heads", HEADS)
def test_gradients_are_the_differences_of_the_values(heads: str, gate: str, mask: str) -> None:
    inputs = tensors(HEADS[heads], GATES[gate])
    assert torch.autograd.gradcheck(
        lambda *given: merged_attention(*given, *masks()[mask], SCALE), inputs, fast_mode=True
    )


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("sizes", [(6, 4), (4, 6)])
def test_keys_and_values_may_differ_in_size(sizes: tuple[int, int], gate: str) -> None:
    inputs = tensors(gate=GATES[gate], sizes=sizes)
    ours = with_gradients(merged_attention, inputs, None, True, SCALE)
    same(ours, with_gradients(formula, inputs, None, True, SCALE))
    assert ours[0].is_contiguous()


@pytest.mark.parametrize("gate", ["no gate", "gate", "sequence gate"])
def test_one_query_is_the_formula(gate: str) -> None:
    inputs = tensors(gate=GATES[gate], queries=1)
    rest = (left_padding()[:, :, -1:], False, SCALE)
    same(with_gradients(merged_attention, inputs, *rest), with_gradients(formula, inputs, *rest))


@pytest.mark.parametrize("gate", ["no gate", "gate", "sequence gate"])
@pytest.mark.parametrize("queries", [2 * D, 2 * D + 1, 70])
def test_many_queries_are_the_formula(gate: str, queries: int) -> None:
    inputs = tensors(gate=GATES[gate], queries=queries, keys=queries)
    same(
        with_gradients(merged_attention, inputs, None, True, SCALE),
        with_gradients(formula, inputs, None, True, SCALE),
    )


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "in order": lambda x: x.contiguous(),
    "last axis not dense": lambda x: x.mT.contiguous().mT,
    "part of something larger": lambda x: torch.stack([x, x], -1)[..., 1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gate", GATES)
def test_any_layout_in_memory_gives_the_same(gate: str, layout: str) -> None:
    inputs = tensors(gate=GATES[gate])
    other = tuple(x if x is None else LAYOUTS[layout](x.detach()).requires_grad_() for x in inputs)
    bias = torch.randn(B, 1, T, S, dtype=torch.float64)
    for mask in (bias, bias.mT.contiguous().mT, bias[:, :, :1].expand(-1, -1, T, -1), bias[..., :1].expand_as(bias)):
        rest = (mask, False, SCALE)
        same(with_gradients(merged_attention, other, *rest), with_gradients(formula, inputs, *rest))


@pytest.mark.parametrize("gate", GATES)
def test_an_expanded_gradient_is_taken(gate: str) -> None:
    inputs = tensors(gate=GATES[gate])
    trained = [x for x in inputs if x is not None]
    ours, reference = (f(*inputs, None, True, SCALE).sum() for f in (merged_attention, formula))
    same(list(torch.autograd.grad(ours, trained)), list(torch.autograd.grad(reference, trained)))


@pytest.mark.parametrize("sizes", [(D, D), (6, 4)])
@pytest.mark.parametrize("heads", HEADS)
def test_attention_to_the_prefix_alone_is_the_formula_without_tokens(heads: str, sizes: tuple[int, int]) -> None:
    query, key, value, prefix_key, prefix_value, _ = tensors(HEADS[heads], sizes=sizes)
    inputs = (query, key, value, prefix_key, prefix_value)
    nothing = torch.zeros(1, 1, 1, S, dtype=torch.bool)

    def ours(query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> Tensor:
        alone = kernel.prefix_attention(query, prefix_key, prefix_value, SCALE).transpose(1, 2)
        return alone + 0 * (key.sum() + value.sum())

    same(
        with_gradients(ours, inputs),
        with_gradients(lambda *given: formula(*given, None, nothing, False), inputs),
    )


@pytest.mark.parametrize("gate", GATES)
def test_very_large_scores_do_not_overflow(gate: str) -> None:
    inputs = tuple(
        x if x is None else (x.detach() * (1e3 if i in (0, 3) else 1)).requires_grad_()
        for i, x in enumerate(tensors(gate=GATES[gate]))
    )
    ours = with_gradients(merged_attention, inputs, None, True, SCALE)
    reference = with_gradients(formula, inputs, None, True, SCALE)
    for got, wanted in zip(ours, reference, strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)], ids=str
)
@pytest.mark.parametrize("gate", GATES)
def test_low_precision_stays_near_the_formula(gate: str, dtype: torch.dtype, tolerance: float) -> None:
    inputs = tensors(gate=GATES[gate], dtype=dtype)
    exact = tuple(x if x is None else x.detach().double().requires_grad_() for x in inputs)
    rest = (left_padding(), False, SCALE)
    ours = with_gradients(merged_attention, inputs, *rest)
    assert {x.dtype for x in ours} == {dtype}
    for got, wanted in zip(ours, with_gradients(formula, exact, *rest), strict=True):
        gap = (got.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1)
        assert gap <= tolerance, f"{gap:.3g}"


def prefix_errors(
    function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...], exact: list[Tensor]
) -> list[float]:
    """The relative errors of a prefix's gradients, and its gate's, for a loss that pulls all tokens the same way."""
    return [
        float((got.double() - wanted).norm() / wanted.norm())
        for got, wanted in zip(pulled(function, inputs), exact, strict=True)
    ]


def pulled(function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...]) -> list[Tensor]:
    out = function(*inputs)
    weights = 1 + torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return list(torch.autograd.grad(out, [x for x in inputs[3:] if x is not None], weights.to(out)))


@pytest.mark.parametrize("short", [0, 128], ids=["long prefix", "short prefix"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("gate", GATES)
def test_in_low_precision_many_tokens_add_up_to_gradients_as_near_as_the_formulas_own(
    gate: str, dtype: torch.dtype, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "SHORT", short)
    queries, shape = 4100, GATES[gate]
    low = tensors((2, 1), shape and (shape[0], shape[1] if shape[1] == 1 else queries), queries=queries, dtype=dtype)
    exact = tuple(x if x is None else x.detach().double().requires_grad_() for x in low)
    wanted = pulled(lambda *x: formula(*x, None, False), exact)
    ours = prefix_errors(lambda *x: merged_attention(*x, None, False, SCALE), low, wanted)
    theirs = prefix_errors(lambda *x: formula(*x, None, False), low, wanted)
    for own, other in zip(ours, theirs, strict=True):
        assert own <= 2 * other + torch.finfo(dtype).eps / 8, f"{ours} against {theirs}"


@pytest.mark.parametrize("automatic", [False, True], ids=["cast", "autocast"])
def test_attention_to_the_prefix_alone_adds_up_many_tokens_as_well_in_low_precision(automatic: bool) -> None:
    low = tensors((2, 1), queries=4100, dtype=torch.bfloat16)
    exact = tuple(x if x is None else x.detach().double().requires_grad_() for x in low)
    nothing = torch.zeros(1, 1, 1, S, dtype=torch.bool)
    wanted = pulled(lambda *x: formula(*x, nothing, False), exact)
    given = tuple(x if x is None else x.detach().float().requires_grad_() for x in low) if automatic else low
    with torch.autocast("cpu", torch.bfloat16, enabled=automatic):
        ours = prefix_errors(
            lambda q, k, v, pk, pv, _: kernel.prefix_attention(q, pk, pv, SCALE).transpose(1, 2), given, wanted
        )
    theirs = prefix_errors(lambda *x: formula(*x, nothing, False), low, wanted)
    for own, other in zip(ours, theirs, strict=True):
        assert own <= 2 * other + torch.finfo(torch.bfloat16).eps / 8, f"{ours} against {theirs}"


@pytest.mark.parametrize("gate", GATES)
def test_autocast_computes_in_its_dtype_as_sdpa_does_and_gives_gradients_in_the_inputs(gate: str) -> None:
    inputs = tensors(gate=GATES[gate], dtype=torch.float32)
    low = tuple(x if x is None else x.detach().to(torch.bfloat16).requires_grad_() for x in inputs[:5])
    wanted = with_gradients(merged_attention, (*low, inputs[5]), None, True, SCALE)
    with torch.autocast("cpu", torch.bfloat16):
        ours = with_gradients(merged_attention, inputs, None, True, SCALE)
    assert ours[0].dtype == torch.bfloat16
    assert {x.dtype for x in ours[1:]} == {torch.float32}
    same(ours, wanted, 0.0)


@pytest.mark.parametrize("gate", ["no gate", "sequence gate", "token gate"])
def test_a_part_of_the_gradients_is_that_part_of_all(gate: str) -> None:
    inputs = tensors(gate=GATES[gate])
    every = with_gradients(merged_attention, inputs, None, True, SCALE)[1:]
    for kept in ({0}, {1, 2}, {0, 1, 2}, {3, 4, 5}, {4}):
        some = tuple(x if x is None or i in kept else x.detach() for i, x in enumerate(inputs))
        wanted = [every[i] for i in sorted(kept) if inputs[i] is not None]
        same(with_gradients(merged_attention, some, None, True, SCALE)[1:], wanted)


class Ops(TorchDispatchMode):
    """Every operation of torch, and how many numbers its largest result holds."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[str, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        results = result if isinstance(result, (tuple, list)) else [result]
        size = max(
            (x.untyped_storage().nbytes() // x.element_size() for x in results if isinstance(x, Tensor)), default=0
        )
        name = str(function)
        self.largest[name] = max(self.largest.get(name, 0), size)
        return result


def test_layers_below_the_lowest_prefix_cost_no_flash_backward() -> None:
    inputs = tensors(gate=GATES["token gate"])
    for frozen, expected in ((False, True), (True, False)):
        given = tuple(x.detach() if frozen and i < 3 else x for i, x in enumerate(inputs) if x is not None)
        with Ops() as ops:
            with_gradients(merged_attention, given, None, True, SCALE)
        assert any("flash_attention_for_cpu_backward" in name for name in ops.largest) == expected


@pytest.mark.parametrize("gate", GATES)
def test_nothing_of_size_queries_times_keys_is_kept_or_made(gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys = 256, 256
    monkeypatch.setitem(products.BLOCK, "cpu", 64)  # the least: 64 queries a block
    shape = GATES[gate] and (GATES[gate][0], 1 if GATES[gate][1] == 1 else queries)
    inputs = tensors((4, 4), shape, queries=queries, keys=keys)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), Ops() as ops:
        with_gradients(merged_attention, inputs, None, True, SCALE)
    given = sum(x.numel() for x in inputs if x is not None)
    output, lse = B * 4 * queries * D, B * 4 * queries
    assert sum(x.numel() for x in saved) <= given + output + lse
    assert max(ops.largest.values()) <= max(B * 4 * queries * D, B * queries * P, 4 * 64 * P)
    with Ops() as ops, torch.no_grad():
        formula(*inputs, None, True)
    assert max(ops.largest.values()) >= B * 4 * queries * (P + keys), "the measure sees no scores in the formula either"


def test_the_mask_that_all_layers_share_is_kept_as_it_came() -> None:
    saved: list[Tensor] = []
    mask = left_padding()

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        merged_attention(*tensors(), mask, False, SCALE)
    assert [tensor.data_ptr() for tensor in saved if tensor.shape == mask.shape] == [mask.data_ptr()]


# The choice


def call(gate: str = "no gate", **changes: Any) -> tuple[AttentionCall, Tensor, Tensor, Tensor | None]:
    """A call at the seam of a model that runs sdpa, and the prefix."""
    query, key, value, prefix_key, prefix_value, factor = tensors((4, 2), GATES[gate])
    assert query is not None and key is not None and value is not None
    assert prefix_key is not None and prefix_value is not None
    module = nn.Module()
    module.num_key_value_groups = 2
    options = {"scaling": SCALE, "dropout": 0.0, "is_causal": None} | changes.pop("options", {})
    made = AttentionCall(module, query, key, value, None, options, sdpa_attention_forward, causal=True)
    return dataclasses.replace(made, **changes), prefix_key, prefix_value, factor


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the kernel is called; merging pays at every shape."""
    calls: list[int] = []

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return merged_attention(*args)

    monkeypatch.setattr(kernel, "merged_attention", counted)
    monkeypatch.setattr(attention, "merging_pays", lambda *args: True)
    return calls


BIAS = torch.linspace(-1, 1, 4 * T * S, dtype=torch.float64).view(1, 4, T, S)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask": left_padding(), "causal": False},
        {"causal": False},
        {"options": {"position_bias": BIAS}},
        {"options": {"position_bias": BIAS}, "mask": left_padding(), "causal": False},
    ],
    ids=["causal", "padded", "all", "biased", "biased, padded"],
)
@pytest.mark.parametrize("gate", GATES)
def test_merged_is_joined(gate: str, changes: dict[str, Any], merges: list[int]) -> None:
    given, key, value, factor = call(gate, **changes)
    inputs = tuple(x for x in (given.query, given.key, given.value, key, value, factor) if x is not None)

    def attend(base: Callable[..., Any]) -> list[Tensor]:
        out, weights = joint_attention(dataclasses.replace(given, base=base), key, value, factor)
        assert weights is None or base is not sdpa_attention_forward
        return with_gradients(lambda *_: out, inputs)

    merged = attend(sdpa_attention_forward)
    assert merges == [1]
    joined = attend(lambda *args, **options: sdpa_attention_forward(*args, **options))
    assert merges == [1]
    same(merged, joined, 1e-10)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"dropout": 0.1}},
        {"base": lambda *args, **options: sdpa_attention_forward(*args, **options)},
        {"prefix_mask": torch.ones(B, 1, T, P, dtype=torch.bool)},
        {"options": {"position_bias": BIAS}, "prefix_bias": torch.zeros(1, 4, T, P, dtype=torch.float64)},
        {"options": {"position_bias": BIAS.clone().requires_grad_()}},
        {"mask": BIAS.clone().requires_grad_(), "causal": False},
    ],
    ids=["dropout", "another base", "scrolled prefix", "prefix with positions", "trained bias", "trained mask"],
)
def test_what_the_kernel_cannot_do_is_joined(changes: dict[str, Any], merges: list[int]) -> None:
    given, key, value, factor = call(**changes)
    joint_attention(given, key, value, factor)
    assert not merges


def test_other_devices_are_joined() -> None:
    assert flash.available(torch.empty(1))
    assert not flash.available(torch.empty(1, device="meta"))
    assert not flash.available(torch.empty(1, dtype=torch.int64))


def test_merging_is_chosen_where_it_was_measured_to_pay() -> None:
    def pays(rows: int, queries: int, keys: int, length: int, gate: Tensor | None = None) -> bool:
        shape = {"query": torch.empty(rows, 4, queries, D), "key": torch.empty(rows, 2, keys, D)}
        return attention.merging_pays(call(**shape)[0], torch.empty(2, length, D), torch.empty(2, length, D), gate)

    assert pays(2, 1024, 1024, 16) and pays(8, 64, 64, 100)
    assert not pays(4, 256, 256, 20)
    assert pays(4, 256, 256, 20, torch.empty(4, 256, 20)) and not pays(4, 256, 256, 20, torch.empty(4, 1, 20))
    assert pays(64, 1, 64, 16) and pays(8, 1, 40, 512) and not pays(1, 1, 64, 16) and not pays(1, 1, 512, 128)


def test_in_bfloat16_a_position_gate_over_little_text_is_trained_by_the_formula() -> None:
    def pays(text: int, dtype: torch.dtype = torch.bfloat16, trained: bool = True, length: int = 16) -> bool:
        query, key = (torch.empty(8, heads, text, D, dtype=dtype, requires_grad=trained) for heads in (4, 2))
        gate, prefix = torch.empty(8, text, length), torch.empty(2, length, D)
        return attention.merging_pays(call(query=query, key=key, value=key)[0], prefix, prefix, gate)

    assert not pays(64) and not pays(128) and pays(192) and pays(1024) and pays(64, length=64)
    assert pays(64, trained=False) and pays(64, torch.float32) and pays(64, torch.float16)
    with torch.no_grad():
        assert pays(64)


@pytest.mark.parametrize("copied", [0, 2**15], ids=["a call each", "gathered"])
@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("sizes", [(D, D), (D, 4), (4, D)], ids=str)
def test_rows_of_several_prefixes_are_each_the_formula(
    kind: str, sizes: tuple[int, int], copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "GATHERED", copied)
    mask, causal = masks()[kind]
    generator = torch.Generator().manual_seed(3)
    query, key, value, *_ = (x.detach() for x in tensors(sizes=sizes) if x is not None)
    query, key, value = (torch.cat([x, x + 0.1, x - 0.1]) for x in (query, key, value))  # 6 rows
    mask = mask if mask is None or len(mask) == 1 else torch.cat([mask] * 3)
    prefixes = [
        [torch.randn(2, length, size, generator=generator, dtype=torch.float64) for size in sizes]
        for length in (P, 2, P)
    ]
    gate = torch.rand(1, T, P, generator=generator, dtype=torch.float64)
    rows = [[4, 0], [1], [5]]  # and the rows 2 and 3 without a prefix
    parts = [
        kernel.Part(torch.tensor(r), *prefix, gate if i == 2 else None)
        for i, (r, prefix) in enumerate(zip(rows, prefixes, strict=True))
    ]
    with torch.no_grad():
        found = kernel.mixed_attention(query, key, value, parts, mask, causal, SCALE)
    for row in range(6):
        part = next((part for part in parts if row in part.rows.tolist()), None)
        if part is None and kind in ("infinite", "bool") and row % B == 0:
            continue  # its first query sees nothing at all
        keys, values = (part.key, part.value) if part is not None else (prefixes[0][0][:, :0], prefixes[0][1][:, :0])
        own = [x[[row]] for x in (query, key, value)]
        expected = formula(
            *own, keys, values, None if part is None else part.gate, some_rows(mask, [row]), causal
        )  # fmt: skip
        torch.testing.assert_close(found[[row]], expected, rtol=1e-10, atol=1e-10)
