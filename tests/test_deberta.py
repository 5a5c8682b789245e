"""DeBERTa v1, v2 and v3 under a prefix, against transformers' own forward and a reference written out here."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from deberta_reference import attention_modules, reference_logits
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DebertaConfig,
    DebertaV2Config,
)
from transformers.models.deberta import modeling_deberta as v1

import prefixtune as pt
from prefixtune.architectures import deberta
from prefixtune.errors import ModelError

TINY = dict(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=40,
    max_position_embeddings=32,
    initializer_range=0.3,  # so that attention is far from uniform
    num_labels=3,
)
RELATIVE = dict(relative_attention=True, position_biased_input=False, pos_att_type="c2p|p2c")
CONFIGS: dict[str, Callable[[], Any]] = {
    "v1": lambda: DebertaConfig(**TINY, **RELATIVE, max_relative_positions=6),
    "v1-c2p": lambda: DebertaConfig(**TINY, **(RELATIVE | {"pos_att_type": "c2p"})),
    "v1-absolute": lambda: DebertaConfig(**TINY, type_vocab_size=2),
    "v2": lambda: DebertaV2Config(**TINY, **RELATIVE, share_att_key=False, conv_kernel_size=3, conv_act="gelu"),
    "v2-p2c": lambda: DebertaV2Config(**TINY, **(RELATIVE | {"pos_att_type": "p2c"}), share_att_key=False),
    "v2-absolute": lambda: DebertaV2Config(**TINY),
    "v3": lambda: DebertaV2Config(
        **TINY, **RELATIVE, share_att_key=True, norm_rel_ebd="layer_norm", position_buckets=4, max_relative_positions=16
    ),
}
WITH_RELATIVE = [name for name in CONFIGS if "absolute" not in name]
DTYPES = [torch.float32, torch.float64]
HEADS: dict[str, Any] = {
    "tokens": AutoModelForTokenClassification,
    "sequence": AutoModelForSequenceClassification,
    "words": AutoModelForMaskedLM,
}
GATES = ["token", "first", "mean", "none"]


@functools.cache
def _built(name: str, head: str) -> nn.Module:
    torch.manual_seed(1)
    model = HEADS[head].from_config(CONFIGS[name]())
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):  # transformers starts them at zero, where a lost one is not missed
                parameter.normal_(std=0.3)
    return model.eval()


def build(name: str, head: str = "tokens", dtype: torch.dtype = torch.float32) -> Any:
    """A fresh copy of a tiny random model."""
    return copy.deepcopy(_built(name, head)).to(dtype)


def batch(rows: int = 3, length: int = 9, side: str = "right") -> dict[str, Tensor]:
    """Rows of falling length, padded."""
    ids = torch.randint(5, 50, (rows, length), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    for row in range(rows):
        padding = slice(length - 2 * row, length) if side == "right" else slice(0, 2 * row)
        mask[row, padding] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def attached(model: Any, method: Any) -> Any:
    """`model` under `method`, every trainable number drawn anew, so that no gate stands at its start."""
    pt.attach(model, method)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in prefix_parameters(model).items():
            spread = 0.3 if "gate" in name else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread)
    return model


def prefix_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The parameters of the one prefix in `model`; those of its task head are left out."""
    return {name: p for name, p in model.named_parameters() if name.startswith("prefixtune.entries.")}


def traces(model: nn.Module) -> dict[str, Any]:
    """What a detach must put back on every module: class, attributes and hooks."""
    return {
        name: (type(module), sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }


@pytest.fixture
def plain_layer_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeBERTa v1 computes its layer norm in float32 even in a float64 model, which would blur every comparison."""

    def forward(self: Any, hidden: Tensor) -> Tensor:
        return nn.functional.layer_norm(hidden, hidden.shape[-1:], self.weight, self.bias, self.variance_epsilon)

    monkeypatch.setattr(v1.DebertaLayerNorm, "forward", forward)


# --- the base model, untouched ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_prefix_the_routed_model_is_the_base_model_to_the_last_bit(name: str, dtype: torch.dtype) -> None:
    model, inputs = build(name, dtype=dtype), batch()
    before = model(**inputs, output_attentions=True, output_hidden_states=True)
    pt.attach(model, pt.PTuningV2(length=3))
    with pt.using(model, None):
        now = model(**inputs, output_attentions=True, output_hidden_states=True)
    assert torch.equal(now.logits, before.logits)
    for mine, own in zip(now.attentions + now.hidden_states, before.attentions + before.hidden_states, strict=True):
        assert torch.equal(mine, own)


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_prefix_training_draws_the_same_dropout(name: str) -> None:
    model, inputs = build(name).train(), batch()
    torch.manual_seed(4)
    before = model(**inputs).logits
    pt.attach(model, pt.PTuningV2(length=3))
    torch.manual_seed(4)
    with pt.using(model, None):
        assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("name", CONFIGS)
def test_zero_init_starts_as_the_base_model(name: str) -> None:
    model, inputs = build(name), batch()
    before = model(**inputs).logits
    assert torch.equal(pt.attach(model, pt.ZeroInitPrefix(length=3))(**inputs).logits, before)


@pytest.mark.parametrize("name", CONFIGS)
def test_detach_leaves_no_trace(name: str) -> None:
    model, inputs = build(name), batch()
    before, logits = traces(model), model(**inputs).logits
    attached(model, pt.PTuningV2(length=3))
    assert not torch.allclose(model(**inputs).logits, logits)
    pt.detach(model)
    assert traces(model) == before
    assert torch.equal(model(**inputs).logits, logits)
    assert all(parameter.requires_grad for parameter in model.parameters())


# --- the formula --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("gate_input", [None, *GATES])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_prefix_adds_gated_content_scores_to_the_softmax_values_and_gradients(
    name: str, gate_input: str | None, side: str, plain_layer_norm: None
) -> None:
    method: Any = pt.PTuningV2(length=3) if gate_input is None else pt.AdaptivePrefix(length=3, gate_input=gate_input)
    base, inputs = build(name, dtype=torch.float64), batch(side=side)
    model = attached(copy.deepcopy(base), method)
    parameters = prefix_parameters(model)
    leaves = {
        name.removeprefix("prefixtune.entries.prefix_default."): p.detach().clone().requires_grad_()
        for name, p in parameters.items()
    }
    placed = dict(inputs)
    if side == "left":  # under a prefix, padding is not counted; the bare model has to be told
        placed["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    got, expected = model(**inputs).logits, reference_logits(base, leaves, gate_input, placed)
    assert got.dtype == torch.float64
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(got[real], expected[real], rtol=0, atol=1e-11)
    assert (expected - base(**inputs).logits)[real].abs().max() > 0.1  # the prefix does something

    direction = torch.randn(got[real].shape, dtype=got.dtype)
    mine = torch.autograd.grad((got[real] * direction).sum(), list(parameters.values()))
    theirs = torch.autograd.grad((expected[real] * direction).sum(), list(leaves.values()))
    for ours, other in zip(mine, theirs, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-10)


def test_the_reference_with_an_empty_prefix_is_the_base_model(plain_layer_norm: None) -> None:
    nothing = torch.zeros(4, 0, 8, dtype=torch.float64)  # [H, P = 0, D]
    empty = {f"free.{kind}.encoder_{layer}": nothing for layer in (0, 1) for kind in ("key", "value")}
    for name in CONFIGS:
        base, inputs = build(name, dtype=torch.float64), batch()
        real = inputs["attention_mask"].bool()
        got = reference_logits(base, empty, None, inputs)[real]
        torch.testing.assert_close(got, base(**inputs).logits[real], rtol=0, atol=1e-11)


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate_input", GATES)
@pytest.mark.parametrize(
    ("name", "side"), [(n, "right") for n in CONFIGS] + [(n, "left") for n in WITH_RELATIVE]
)  # with absolute positions the base model itself counts left padding
def test_padding_changes_nothing(name: str, side: str, gate_input: str, plain_layer_norm: None) -> None:
    model = attached(build(name, dtype=torch.float64), pt.AdaptivePrefix(length=3, gate_input=gate_input))
    inputs = batch(side=side)
    together = model(**inputs).logits
    for ids, mask, padded in zip(inputs["input_ids"], inputs["attention_mask"], together, strict=True):
        alone = model(input_ids=ids[mask.bool()][None]).logits[0]
        torch.testing.assert_close(padded[mask.bool()], alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_mixed_batch_is_each_row_under_its_own_prefix(name: str, plain_layer_norm: None) -> None:
    model, inputs = build(name, dtype=torch.float64), batch(rows=4)
    model = attached(model, pt.AdaptivePrefix(length=3))
    pt.attach(model, pt.PTuningV2(length=5), name="long")
    names = ["default", None, "long", "default"]
    with pt.using(model, names):
        mixed = model(**inputs).logits
    for row, chosen in enumerate(names):
        with pt.using(model, chosen):
            alone = model(**{key: value[row : row + 1] for key, value in inputs.items()}).logits[0]
        torch.testing.assert_close(mixed[row], alone, rtol=0, atol=1e-11)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["tokens", "sequence"])
@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_one_step_moves_the_head_and_the_prefix_and_no_base_weight(name: str, head: str) -> None:
    model, inputs = build(name, head), batch()
    base = {id(parameter): parameter.detach().clone() for parameter in model.parameters()}
    attached(model, pt.AdaptivePrefix(length=3)).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("heads" in name for name in trained) and set(prefix_parameters(model)) < set(trained)

    labels = inputs["input_ids"] % 3 if head == "tokens" else torch.tensor([0, 1, 2])
    optimiser = torch.optim.Adam(trained.values(), lr=1e-2)
    model(**inputs, labels=labels).loss.backward()
    optimiser.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is (name not in trained), name
    pt.detach(model)
    assert all(torch.equal(parameter, base[id(parameter)]) for parameter in model.parameters())


@pytest.mark.parametrize("gate_input", GATES)
@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_gradient_checkpointing_changes_no_gradient(name: str, gate_input: str) -> None:
    model, inputs = attached(build(name), pt.AdaptivePrefix(length=3, gate_input=gate_input)).train(), batch()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            newer = "activation_checkpointing_enable"
            getattr(model, newer if newer in dir(model) else "gradient_checkpointing_enable")({"use_reentrant": False})
        torch.manual_seed(5)
        model(**inputs, labels=inputs["input_ids"] % 3).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in prefix_parameters(model).values()])
        model.zero_grad()
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-7)


# --- options and refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_attention_weights_have_the_prefix_in_front(name: str) -> None:
    model, inputs = attached(build(name), pt.PTuningV2(length=3)), batch()
    B, T = inputs["input_ids"].shape
    mask = inputs["attention_mask"].bool()
    for weights in model(**inputs, output_attentions=True).attentions:
        assert weights.shape == (B, 4, T, 3 + T)
        torch.testing.assert_close(weights.sum(-1), torch.ones(B, 4, T))
        assert (weights[..., :3] > 0).all()
        assert weights[..., 3:].masked_select(~mask[:, None, None]).eq(0).all()  # padding keys


def test_the_weights_of_a_mixed_batch_are_those_of_each_row_alone() -> None:
    model, inputs = attached(build("v3"), pt.PTuningV2(length=3)), batch(rows=2)

    def weights(names: Any) -> Any:
        with torch.no_grad(), pt.using(model, names):
            return model(**inputs, output_attentions=True).attentions

    for mixed, own, bare in zip(weights(["default", None]), weights("default"), weights(None), strict=True):
        torch.testing.assert_close(mixed[0], own[0])
        torch.testing.assert_close(mixed[1, ..., 3:], bare[1])
        assert not mixed[1, ..., :3].any()


def test_a_position_offset_moves_absolute_positions() -> None:
    shifted = attached(build("v1-absolute"), pt.PTuningV2(length=3, position_offset=4))
    model, inputs = attached(build("v1-absolute"), pt.PTuningV2(length=3)), batch(rows=1)
    expected = model(**inputs, position_ids=torch.arange(4, 13)[None]).logits
    torch.testing.assert_close(shifted(**inputs).logits, expected)
    assert not torch.allclose(model(**inputs).logits, expected)


def _mix_heads(model: Any) -> Any:
    config = model.config
    config.talking_head = True
    return AutoModelForTokenClassification.from_config(config).eval()


def _patch_forward(model: Any) -> Any:
    module = attention_modules(model)[1]
    module.forward = functools.partial(type(module).forward, module)
    return model


def _subclass(model: Any) -> Any:
    module = attention_modules(model)[1]
    module.__class__ = type("OtherSelfAttention", (type(module),), {})
    return model


REFUSED: dict[str, tuple[str, Callable[[Any], Any], dict[str, Any], str]] = {
    "talking head": ("v1", _mix_heads, {}, "talking_head=False"),
    "a patched forward": ("v2", _patch_forward, {}, "without patches"),
    "a subclass": ("v1", _subclass, {}, "own DisentangledSelfAttention"),
    "a position among relative ones": ("v3", lambda model: model, {"position_offset": 3}, "position_offset=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_prefix_cannot_join_is_refused_and_the_model_left_as_it_was(case: str) -> None:
    name, change, options, remedy = REFUSED[case]
    model, inputs = change(build(name)), batch()
    before, logits = traces(model), model(**inputs).logits
    with pytest.raises(ModelError, match=remedy):
        pt.attach(model, pt.PTuningV2(length=3, **options))
    assert traces(model) == before
    assert torch.equal(model(**inputs).logits, logits)


def test_layers_shared_with_an_attached_model_are_refused() -> None:
    first, second = build("v3"), build("v3", "sequence")
    second.deberta = first.deberta
    pt.attach(first, pt.PTuningV2(length=3))
    with pytest.raises(ModelError, match="shares layers with another model that has a prefix attached"):
        pt.attach(second, pt.PTuningV2(length=3))
    pt.detach(first)
    pt.attach(second, pt.PTuningV2(length=3))


@pytest.mark.parametrize("name", ["v1", "v3"])
def test_queries_from_elsewhere_are_refused(name: str) -> None:
    model = attached(build(name), pt.PTuningV2(length=3))
    model.deberta.z_steps = 2
    with pytest.raises(ModelError, match="z_steps = 0"):
        model(**batch())


def test_every_attention_of_a_masked_language_model_is_routed_and_both_versions_are_known() -> None:
    for name in CONFIGS:
        model = build(name, "words")
        assert model.config.model_type in deberta.MODEL_TYPES
        undo = deberta.route(model)
        assert len(undo) == 2
        assert all(type(m).__module__ == deberta.__name__ for m in attention_modules(model))
        for step in reversed(undo):
            step()
        assert not any(type(m).__module__ == deberta.__name__ for m in model.modules())
