"""Gates that are made again in the backward: autograd's own values and gradients, and what is no longer kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from transformers import PreTrainedModel

import prefixtune as pt
from prefixtune import attention, gating, packing
from prefixtune.gating import Origin, token_gate
from prefixtune.kernel import merged_attention
from prefixtune.methods import adaptive

B, T, D, P = 2, 5, 6, 3


def written_out(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, layer_gate: Tensor | None, origin: Origin | None = None
) -> Tensor:
    """The same gate by torch's own operations, which keep what they need."""
    logit = hidden @ weight
    alpha = torch.sigmoid(logit if bias is None else logit + bias)
    return alpha if layer_gate is None else layer_gate * alpha


def inputs(bias: bool = True, layer_gate: bool = True) -> list[Tensor | None]:
    """hidden, weight, bias, layer_gate."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return [normal(B, T, D), normal(D, P), normal(P) if bias else None, normal() if layer_gate else None]


def with_gradients(gate: Tensor, given: list[Tensor | None]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, gate.numel(), dtype=gate.dtype).view_as(gate)
    return [gate, *torch.autograd.grad(gate, [x for x in given if x is not None], weights)]


def same(ours: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(ours) == len(wanted)
    for got, expected in zip(ours, wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer_gate", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_the_written_gate(bias: bool, layer_gate: bool) -> None:
    given = inputs(bias, layer_gate)
    same(with_gradients(token_gate(*given), given), with_gradients(written_out(*given), given))
    assert torch.autograd.gradcheck(lambda *x: token_gate(*x), given)


def test_a_layer_gate_of_zero_still_learns() -> None:
    given = inputs()
    given[3] = torch.zeros((), dtype=torch.float64, requires_grad=True)
    same(with_gradients(token_gate(*given), given), with_gradients(written_out(*given), given))


def test_hidden_states_that_a_norm_made_are_made_again_from_what_it_read() -> None:
    norm, given = nn.LayerNorm(D).double().requires_grad_(False), inputs()
    read = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    hidden = norm(read)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gate = token_gate(hidden, *given[1:], Origin(read, norm))
    assert [x.data_ptr() for x in kept if x.shape == read.shape] == [read.data_ptr()]
    assert not any(x.shape == gate.shape for x in kept)
    every = [read, *given[1:]]
    same(with_gradients(gate, every), with_gradients(written_out(norm(read), *given[1:]), every))


@pytest.mark.parametrize("twice", [False, True])
def test_attention_makes_the_gate_again_instead_of_keeping_it(twice: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(B, 2, T, 4), (B, 2, T, 4), (B, 2, T, 4), (2, P, 4), (2, P, 4)]
    others = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    given, results = inputs(), []
    for make in (token_gate, written_out):
        kept: list[Tensor] = []

        def keep(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = merged_attention(*others, make(*given), None, True, 0.5)
        every = [*others, *(x for x in given if x is not None)]
        if twice:
            torch.autograd.grad(out.sum(), every, retain_graph=True)
        results.append(with_gradients(out, every))
        assert any(x.shape == (B, T, P) for x in kept) == (make is written_out)
    same(*results)


def test_a_gate_that_was_worked_on_is_kept() -> None:
    given = inputs()
    assert gating.repeat_of(token_gate(*given)) is not None
    for gate in (token_gate(*given) * 1, token_gate(*given).detach(), written_out(*given), None):
        assert gating.repeat_of(gate) is None


# In a model


def gradients(model: PreTrainedModel, given: dict[str, Any], **options: Any) -> tuple[int, list[Tensor]]:
    """How many bytes the backward of one step needed beside the model's own, and the prefix's gradients."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**given, **options).logits.square().mean().backward()
    prefix = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sum(size for at, size in kept.items() if at not in own), [x.grad for x in prefix if x.grad is not None]


@pytest.fixture
def merging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "merging_pays", lambda *call: True)


def attached(name: str, method: Any) -> PreTrainedModel:
    model = zoo.BY_NAME[name].make().double()
    pt.attach(model, copy.copy(method))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


APT = pt.AdaptivePrefix(length=4, token_gate_std=0.5, token_gate_bias=True)


@pytest.mark.usefixtures("merging")
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_token_gate_keeps_nothing_of_the_texts_size_that_an_ungated_prefix_does_not(name: str) -> None:
    rows, length = 2, 12
    given = zoo.inputs_for(zoo.BY_NAME[name], rows=rows, length=length)
    sizes = {}
    for method in (pt.PTuningV2(length=4), APT):
        torch.manual_seed(0)
        sizes[method.name()] = gradients(attached(name, method).float(), given)[0]
    gate_of_a_layer = rows * length * 4 * 4
    width = zoo.BY_NAME[name].make().config.hidden_size
    # What the lowest layer reads belongs to no norm's gradient, because nothing below has any.
    lowest = rows * length * width * 4
    assert sizes["adaptive"] - sizes["p_tuning_v2"] <= lowest < lowest + gate_of_a_layer


@pytest.mark.usefixtures("merging")
@pytest.mark.parametrize("way", ["padded", "packed", "checkpointed", "rows"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_step_has_the_gradients_of_the_written_gate(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = zoo.BY_NAME[name]
    given = zoo.inputs_for(architecture, rows=2, length=6)
    if way == "padded":
        given = zoo.pad(given, "left", 2)
    if way == "packed":
        first = 0
        ids = torch.cat([given["input_ids"][0], given["input_ids"][1][:4]])[None]
        given = {"input_ids": ids, "position_ids": torch.tensor([[*range(first, 6), *range(first, 4)]])}
    found = []
    for make in (token_gate, written_out):
        monkeypatch.setattr(adaptive, "token_gate", make)
        torch.manual_seed(0)
        model = attached(name, APT)
        if way == "rows":
            torch.manual_seed(1)
            pt.attach(model, pt.PTuningV2(length=2), name="other")
        if way == "checkpointed":
            newer = "activation_checkpointing_enable"
            getattr(model, newer if newer in dir(model) else "gradient_checkpointing_enable")({"use_reentrant": False})
        with packing.declare(), pt.using(model, ["default", "other"] if way == "rows" else "default"):
            found.append(gradients(model, given)[1])
    same(*found)


@pytest.mark.usefixtures("merging")
def test_a_norm_whose_result_somebody_changes_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given, found = zoo.inputs_for(zoo.BY_NAME["llama"]), []
    for make in (token_gate, written_out):
        monkeypatch.setattr(adaptive, "token_gate", make)
        torch.manual_seed(0)
        model = attached("llama", APT)
        for layer in model.model.layers:
            layer.input_layernorm.register_forward_hook(lambda norm, args, output: output * 1.5)
        found.append(gradients(model, given)[1])
    same(*found)


@pytest.mark.usefixtures("merging")
def test_no_hook_stays_on_a_norm_even_after_an_error() -> None:
    model = attached("llama", APT)
    before = hooks_of_norms(model)
    model(**zoo.inputs_for(zoo.BY_NAME["llama"]))
    assert hooks_of_norms(model) == before
    layer = model.model.layers[-1].mlp
    handle = layer.register_forward_pre_hook(lambda module, args: (_ for _ in ()).throw(RuntimeError("stop")))
    with pytest.raises(RuntimeError, match="stop"):
        model(**zoo.inputs_for(zoo.BY_NAME["llama"]))
    handle.remove()
    assert hooks_of_norms(model) == before


def hooks_of_norms(model: PreTrainedModel) -> list[int]:
    found = [len(module._forward_hooks) for module in model.modules() if "norm" in type(module).__name__.lower()]
    assert found
    return found


@pytest.mark.usefixtures("merging")
def test_under_autocast_a_gate_is_made_again_in_autocasts_type(monkeypatch: pytest.MonkeyPatch) -> None:
    given, found = zoo.inputs_for(zoo.BY_NAME["llama"]), []
    for make in (token_gate, written_out):
        monkeypatch.setattr(adaptive, "token_gate", make)
        torch.manual_seed(0)
        model = attached("llama", APT).float()
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(model, given)[1])
    for got, wanted in zip(*found, strict=True):
        assert got.dtype == wanted.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.02 * wanted.abs().max().item())


# Under torch.func


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's own attention under vmap
@pytest.mark.parametrize(
    "method",
    [pt.PTuningV2(length=16), pt.PrefixTuning(length=16, hidden=8), pt.AdaptivePrefix(length=3, token_gate_bias=True)],
    ids=lambda method: method.name(),
)
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_gradients_of_torch_func_are_those_of_autograd(name: str, method: Any) -> None:
    """Of a whole batch, and of each of its examples by itself."""
    model = pt.attach(zoo.BY_NAME[name].make(), method)
    ids = zoo.inputs_for(zoo.BY_NAME[name], length=12)["input_ids"]
    trained = {key: x for key, x in model.named_parameters() if x.requires_grad}

    def loss(given: dict[str, Tensor], rows: Tensor) -> Tensor:
        out = torch.func.functional_call(model, given, (), {"input_ids": rows, "labels": rows})
        return out.loss

    def by_autograd(rows: Tensor) -> dict[str, Tensor]:
        found = torch.autograd.grad(model(input_ids=rows, labels=rows).loss, list(trained.values()))
        return dict(zip(trained, found, strict=True))

    given = {key: x.detach() for key, x in trained.items()}
    whole = torch.func.grad(loss)(given, ids)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(given, ids[:, None])
    for key, expected in by_autograd(ids).items():
        torch.testing.assert_close(whole[key], expected, rtol=1e-4, atol=1e-6)
        for row in range(len(ids)):
            torch.testing.assert_close(each[key][row], by_autograd(ids[row : row + 1])[key], rtol=1e-4, atol=1e-6)
