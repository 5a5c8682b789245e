"""The laws every method keeps on every architecture (design: attach, train, generate, save, serve).

A method is in here because its file exists, an architecture because it is a line in `zoo.py`. The reference is always
outside the code under test: the bare model, a pre-filled cache, the formula in float64, the text in the context.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import zoo
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import prefixtune as pt
from prefixtune import methods
from prefixtune.attention import AttentionCall
from prefixtune.prefix import Method, Prefix, Slot

P = 4
TEXT = "w5 w9 w11 w20"
GATE_INPUTS = ("token", "first", "none")


def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0 .. w63 and nothing else."""
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(zoo.VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", unk_token="w0")


def method_variants() -> list[str]:
    """Every method file; a method with gates once for each thing they can read."""
    variants = []
    for name in methods.names():
        fields = {field.name for field in dataclasses.fields(methods.find(name))}
        variants += [f"{name}-{reads}" for reads in GATE_INPUTS] if "gate_input" in fields else [name]
    return variants


def make_method(variant: str, **options: Any) -> Method:
    """A small method of this variant."""
    name, _, reads = variant.partition("-")
    kind = methods.find(name)
    fields = {field.name for field in dataclasses.fields(kind)}
    given: dict[str, Any] = {"length": P}
    if reads:
        given |= {"gate_input": reads, "token_gate_std": 0.3, "layer_gate_start": 0.7}
    if "text" in fields:
        given |= {"text": TEXT}
    if "hidden" in fields:
        given |= {"hidden": 8}
    return kind(**(given | options))


def attached(architecture: zoo.Architecture, variant: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The tiny model under a prefix that has left its start: no gate closed, nothing at zero."""
    model = architecture.make(dtype)
    torch.manual_seed(1)
    pt.attach(model, make_method(variant), tokenizer=tokenizer())
    leave_start(model)
    return model


def leave_start(model: PreTrainedModel) -> None:
    """Move every trainable number, as training would."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def trainable(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """What an optimiser would get."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model: PreTrainedModel, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """The model's first output."""
    with torch.no_grad():
        return model(**inputs, **options).logits


def close(ours: Tensor, reference: Tensor, tolerance: float = 2e-5) -> None:
    """Equal up to rounding: `tolerance` times the largest reference."""
    gap = (ours - reference).abs().max().item()
    assert gap <= tolerance * max(1.0, reference.abs().max().item()), f"largest difference {gap:.3g}"


VARIANTS = method_variants()
JOINT = [variant for variant in VARIANTS if variant in ("p_tuning_v2", "prefix_tuning", "cartridge")]
DECODERS = [a for a in zoo.ARCHITECTURES if a.kind == "decoder"]
GENERATORS = [a for a in zoo.ARCHITECTURES if a.kind in ("decoder", "encoder-decoder")]
TEXTUAL = [a for a in zoo.ARCHITECTURES if a.kind != "vision"]


def every(architectures: list[zoo.Architecture], variants: list[str]) -> Any:
    """Parametrise over architectures x methods, where the method can work at all."""
    pairs = [
        pytest.param(architecture, variant, id=f"{architecture.name}-{variant}")
        for architecture in architectures
        for variant in variants
        if not (variant == "cartridge" and architecture.kind == "vision")  # an image has no text to start from
    ]
    return pytest.mark.parametrize(("architecture", "variant"), pairs)


# 1. attach, then detach


def traces(model: PreTrainedModel) -> dict[str, Any]:
    """Everything that attach could leave behind on a model."""
    return {
        "modules": [(name, type(module)) for name, module in model.named_modules()],
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": {
            name: (len(module._forward_pre_hooks), len(module._forward_hooks), len(module._backward_hooks))
            for name, module in model.named_modules()
        },
        "implementations": {
            name: module.config._attn_implementation_internal
            for name, module in model.named_modules()
            if isinstance(module, PreTrainedModel)
        },
        "trainable": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
    }


def registered_names() -> set[str]:
    """What is registered with transformers at this moment."""
    return {*ALL_ATTENTION_FUNCTIONS._global_mapping, *ALL_MASK_ATTENTION_FUNCTIONS._global_mapping}


@every(zoo.ARCHITECTURES, VARIANTS)
def test_detach_leaves_the_base_model_bit_for_bit_and_without_a_trace(
    architecture: zoo.Architecture, variant: str
) -> None:
    model = architecture.make()
    inputs = zoo.inputs_for(architecture)
    before, found, registered = logits(model, inputs), traces(model), registered_names()
    kind = type(model)
    assert pt.attach(model, make_method(variant), tokenizer=tokenizer()) is model
    assert type(model) is kind
    leave_start(model)
    assert not torch.equal(logits(model, inputs), before), "the prefix does nothing"
    pt.detach(model)
    assert torch.equal(logits(model, inputs), before)
    assert traces(model) == found
    assert registered_names() <= registered  # other tests' models may still be attached in this process


# 2. no-op at the start


@every(zoo.ARCHITECTURES, [v for v in VARIANTS if methods.find(v.partition("-")[0]).starts_as_no_op])
def test_a_method_that_starts_as_a_no_op_is_exactly_the_base_model(
    architecture: zoo.Architecture, variant: str
) -> None:
    model = architecture.make()
    inputs = zoo.inputs_for(architecture)
    before = logits(model, inputs)
    pt.attach(model, make_method(variant))
    assert torch.equal(logits(model, inputs), before)


# 3. one optimiser step


@every(zoo.ARCHITECTURES, VARIANTS)
def test_one_step_moves_every_trainable_tensor_and_no_base_tensor_also_after_evaluation(
    architecture: zoo.Architecture, variant: str
) -> None:
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture)
    logits(model, inputs)  # an evaluation pass first: nothing may be remembered from it
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = trainable(model)
    optimizer = torch.optim.SGD(names.values(), lr=10.0)
    model.train()
    weights = torch.randn(model(**inputs).logits.shape, generator=torch.Generator().manual_seed(3))
    (model(**inputs).logits * weights).sum().backward()
    optimizer.step()
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert names, "nothing is trainable"
    assert moved == names.keys()


# 4. gradient checkpointing


@every([a for a in zoo.ARCHITECTURES if a.make().supports_gradient_checkpointing], VARIANTS)
def test_gradients_are_the_same_with_gradient_checkpointing(architecture: zoo.Architecture, variant: str) -> None:
    inputs = zoo.inputs_for(architecture)
    gradients = []
    for checkpointing in (False, True):
        model = attached(architecture, variant)
        pt.attach(model, make_method(variant), name="other", tokenizer=tokenizer())
        leave_start(model)
        switch_off_dropout(model)
        if checkpointing:
            enable_checkpointing(model)
        model.train()
        with pt.using(model, ["default", "other"]):
            loss = model(**inputs).logits.pow(2).mean()
        with pt.using(model, "other"):  # a second forward before the backward, under another choice
            loss = loss + model(**inputs).logits.pow(2).mean()
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in trainable(model).items()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.abs().max() > 0, name
        close(gradients[1][name], gradient)


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Under the name that this version of transformers gives it."""
    newer = "activation_checkpointing_enable"
    getattr(model, newer if newer in dir(model) else "gradient_checkpointing_enable")()


def switch_off_dropout(model: PreTrainedModel) -> None:
    """Checkpointing replays the random state, but two runs of one model in train mode still differ by it."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


# 5. generation


def generate(model: PreTrainedModel, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """Greedy tokens, none of them ending early."""
    given = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": zoo.PAD} | options
    prompt = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    return model.generate(**prompt, **given)


def greedy_without_cache(model: PreTrainedModel, inputs: dict[str, Tensor], steps: int = 6) -> Tensor:
    """Argmax, one whole forward a token: no cache and none of transformers' generation code."""
    inputs = dict(inputs)
    grown = "input_ids"
    if model.config.is_encoder_decoder:
        grown = "decoder_input_ids"
        start = model.config.decoder_start_token_id
        inputs[grown] = torch.full((len(inputs["input_ids"]), 1), start)
    for _ in range(steps):
        scores = logits(model, inputs, use_cache=False)[:, -1]
        scores[:, model.config.eos_token_id] = -math.inf
        inputs[grown] = torch.cat([inputs[grown], scores.argmax(-1, keepdim=True)], dim=1)
        if not model.config.is_encoder_decoder:
            mask = inputs["attention_mask"]
            inputs["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return inputs[grown]


@every(GENERATORS, VARIANTS)
def test_cached_generation_is_uncached_generation(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture)
    reference = greedy_without_cache(model, inputs)
    assert torch.equal(generate(model, inputs), reference)
    assert torch.equal(generate(model, inputs, use_cache=False), reference)
    assert torch.equal(generate(model, inputs, cache_implementation="static", disable_compile=True), reference)


@every(GENERATORS, VARIANTS)
def test_beam_search_is_the_same_with_and_without_a_cache(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture)
    reference = generate(model, inputs, num_beams=3, use_cache=False)
    assert torch.equal(generate(model, inputs, num_beams=3), reference)


@every(DECODERS, VARIANTS)
def test_a_conversation_in_turns_is_the_whole_conversation(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture, length=12)
    ids, whole = inputs["input_ids"], logits(model, inputs)
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=20)):
        pieces = []
        for start, end in ((0, 5), (5, 6), (6, 12)):
            mask = torch.ones(2, end, dtype=torch.long)
            pieces.append(
                logits(model, {"input_ids": ids[:, start:end], "attention_mask": mask}, past_key_values=cache)
            )
        close(torch.cat(pieces, dim=1), whole)


# 6. padding


@every(TEXTUAL, VARIANTS)
def test_right_padding_changes_no_logit_of_a_real_token(architecture: zoo.Architecture, variant: str) -> None:
    padding_changes_nothing(architecture, variant, "right")


@every(TEXTUAL, VARIANTS)
def test_left_padding_changes_no_logit_of_a_real_token(architecture: zoo.Architecture, variant: str) -> None:
    padding_changes_nothing(architecture, variant, "left")


def padding_changes_nothing(architecture: zoo.Architecture, variant: str, side: str) -> None:
    """Three padding tokens on one side leave the logits of the text alone."""
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture)
    plain, padded = logits(model, inputs), logits(model, zoo.pad(inputs, side, 3))
    close(unpad_if_text(padded, architecture, side), plain)


def unpad_if_text(padded: Tensor, architecture: zoo.Architecture, side: str) -> Tensor:
    """The logits of the real tokens; an encoder-decoder's belong to the decoder's text, which was not padded."""
    return padded if architecture.kind == "encoder-decoder" else zoo.unpad(padded, side, 3)


@every(DECODERS, VARIANTS)
def test_left_padding_changes_no_generated_token(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture)
    plain, padded = generate(model, inputs), generate(model, zoo.pad(inputs, "left", 3))
    assert torch.equal(padded[:, 3:], plain)


# 7. rows


def rows_of(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in inputs.items()}


@every(zoo.ARCHITECTURES, VARIANTS)
def test_a_batch_is_its_rows_one_by_one(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture, rows=3)
    whole = logits(model, inputs)
    for row in range(3):
        close(logits(model, rows_of(inputs, row)), whole[row : row + 1])


@every(zoo.ARCHITECTURES, VARIANTS)
def test_a_mixed_batch_is_each_row_under_its_own_prefix(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    pt.attach(model, make_method("p_tuning_v2", length=7), name="longer")
    inputs = zoo.inputs_for(architecture, rows=4)
    names = ["longer", None, "default", "longer"]
    with pt.using(model, names):
        mixed = logits(model, inputs)
    for row, name in enumerate(names):
        with pt.using(model, name):
            close(mixed[row : row + 1], logits(model, rows_of(inputs, row)))
    bare = architecture.make()
    close(mixed[1:2], logits(bare, rows_of(inputs, 1)))


@every(GENERATORS, VARIANTS)
@pytest.mark.parametrize("beams", [1, 2])
def test_a_mixed_batch_generates_what_each_row_would(architecture: zoo.Architecture, variant: str, beams: int) -> None:
    model = attached(architecture, variant)
    pt.attach(model, make_method("p_tuning_v2", length=7), name="longer")
    inputs = zoo.inputs_for(architecture, rows=3)
    names = ["longer", None, "default"]
    with pt.using(model, names):
        mixed = generate(model, inputs, num_beams=beams)
    for row, name in enumerate(names):
        with pt.using(model, name):
            assert torch.equal(mixed[row : row + 1], generate(model, rows_of(inputs, row), num_beams=beams))


# 8. save and load


@every(zoo.ARCHITECTURES, VARIANTS)
def test_a_loaded_prefix_gives_bit_equal_logits(architecture: zoo.Architecture, variant: str, tmp_path: Any) -> None:
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture)
    trained = logits(model, inputs)
    pt.save(model, tmp_path / "prefix")
    fresh = pt.load(architecture.make(), tmp_path / "prefix")
    assert torch.equal(logits(fresh, inputs), trained)
    assert not trainable(fresh)
    assert {path.name for path in (tmp_path / "prefix").iterdir()} == {"prefix.safetensors", "prefix_config.json"}


# 9. every expected layer: `attach` raises unless each slot was attended to once; here from the outside


@every(zoo.ARCHITECTURES, VARIANTS)
def test_every_layer_of_every_site_sends_a_gradient_to_its_prefix(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    config = model.config
    depth = getattr(config, "num_hidden_layers", 0)
    expected = {"encoder": depth} if architecture.kind in ("encoder", "vision") else {"decoder": depth}
    if architecture.kind == "encoder-decoder":
        if architecture.name == "t5":
            encoder, decoder = config.num_layers, config.num_decoder_layers
        else:
            encoder, decoder = config.encoder_layers, config.decoder_layers
        expected = {"encoder": encoder, "decoder": decoder, "cross": decoder}
    slots = model.prefixtune.get("default").slots
    assert {site: sum(name.startswith(site) for name in slots) for site in expected} == expected
    assert len(slots) == sum(expected.values())
    for name, slot in slots.items():
        key, value = model.prefixtune.get("default").keys_values(slot)
        gradient = torch.autograd.grad(model(**zoo.inputs_for(architecture)).logits.pow(2).sum(), _leaves(key, value))
        assert any(part is not None and part.abs().max() > 0 for part in gradient), name


def _leaves(*tensors: Tensor) -> list[Tensor]:
    """The parameters that tensors were computed from."""
    found, queue = [], [tensor.grad_fn for tensor in tensors]
    leaves = [tensor for tensor in tensors if tensor.grad_fn is None]
    while queue:
        node = queue.pop()
        if node is not None:
            if hasattr(node, "variable"):
                found.append(node.variable)
            queue += [parent for parent, _ in node.next_functions]
    return leaves + found


# 10. the pre-filled cache


@every([a for a in DECODERS if a.name != "deepseek_v3"], JOINT)  # its cache holds latents, not keys and values
def test_a_joint_prefix_is_a_pre_filled_cache(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    inputs = zoo.inputs_for(architecture)  # prefix and text together fit every window in the zoo but Mistral's
    inputs = {name: value[:, :4] for name, value in inputs.items()}
    ours = logits(model, inputs)
    prefix = model.prefixtune.get("default")
    cache = DynamicCache(config=model.config)
    for slot in prefix.slots.values():
        key, value = (tensor.detach().expand(2, -1, -1, -1) for tensor in prefix.keys_values(slot))
        cache.update(key, value, slot.layer.index)
    pt.detach(model)
    mask = torch.ones(2, P + 4, dtype=torch.long)
    close(ours, logits(model, {"input_ids": inputs["input_ids"], "attention_mask": mask}, past_key_values=cache))


# 11. text in the context


@every(DECODERS, JOINT)
def test_a_prefix_from_text_is_the_text_in_the_context(architecture: zoo.Architecture, variant: str) -> None:
    model = architecture.make()
    options = {} if variant == "cartridge" else {"init": f"text:{TEXT}"}
    inputs = {name: value[:, :4] for name, value in zoo.inputs_for(architecture).items()}
    words = tokenizer()(TEXT, return_tensors="pt").input_ids.expand(2, -1)
    context = torch.cat([words, inputs["input_ids"]], dim=1)
    expected = logits(model, {"input_ids": context, "attention_mask": torch.ones_like(context)})[:, P:]
    pt.attach(model, make_method(variant, **options), tokenizer=tokenizer())
    close(logits(model, inputs), expected)


# 12. the formula


def formula(call: AttentionCall, key: Tensor, value: Tensor, gate: Tensor) -> Tensor:
    """Joint attention as the design writes it, `[B, T, H, Dv]`, by einsum, with what a model may add to scores."""
    H, T = call.query.shape[1], call.query.shape[2]
    repeat = H // call.key.shape[1]
    k, v = (x.repeat_interleave(repeat, dim=1) for x in (call.key, call.value))
    pk, pv = (x.repeat_interleave(repeat, dim=0) for x in (key, value))
    if call.mask is None and call.causal:
        k, v = k[:, :, :T], v[:, :, :T]
    score_p = call.scale * torch.einsum("bhtd,hjd->bhtj", call.query, pk) * gate[:, None]
    score_s = call.scale * torch.einsum("bhtd,bhsd->bhts", call.query, k)
    cap = call.options.get("softcap")
    if cap is not None:
        score_p, score_s = (cap * torch.tanh(score / cap) for score in (score_p, score_s))
    if call.options.get("position_bias") is not None:
        score_s = score_s + call.options["position_bias"]
    if call.mask is None and call.causal:
        score_s = score_s.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -math.inf)
    elif call.mask is not None:
        hidden = ~call.mask if call.mask.dtype == torch.bool else call.mask < -1e9
        score_s = score_s.masked_fill(hidden, -math.inf)
    score = torch.cat([score_p, score_s], dim=-1)
    if call.options.get("s_aux") is not None:
        sink = call.options["s_aux"].view(1, H, 1, 1).expand(*score.shape[:3], 1)
        score = torch.cat([score, sink], dim=-1)
    weights = score.softmax(-1)
    n = pk.shape[1]
    out = torch.einsum("bhtj,btj,hjd->bthd", weights[..., :n], gate, pv)
    return out + torch.einsum("bhts,bhsd->bthd", weights[..., n : n + k.shape[2]], v)


def gate_by_hand(prefix: Prefix, slot: Slot, call: AttentionCall, variant: str) -> Tensor:
    """`lambda * sigmoid(h W)`, `[B, T, P]`, from the saved tensors."""
    B, T = call.query.shape[0], call.query.shape[2]
    named = dict(prefix.gates[f"{slot.layer.site}_{slot.layer.index}"].named_parameters())
    weight, reads = named["token_gate.weight"], variant.partition("-")[2]
    assert call.hidden is not None
    real = torch.ones(B, T, dtype=torch.bool) if call.real is None else call.real
    states = {"token": call.hidden, "first": call.hidden[torch.arange(B), real.int().argmax(-1)][:, None]}
    logit = weight[None] if reads == "none" else states[reads] @ weight
    return (named["layer_gate"] * torch.sigmoid(logit)).expand(B, T, -1)


GATED = [variant for variant in VARIANTS if "-" in variant]


@every(zoo.ARCHITECTURES, GATED + ["p_tuning_v2"])
def test_attention_is_the_formula_in_float64_values_and_gradients(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant, torch.float64)
    inputs = zoo.in_dtype(zoo.inputs_for(architecture), torch.float64)
    if architecture.kind in ("encoder", "encoder-decoder"):
        inputs = zoo.pad(inputs, "right", 2)
    seen: list[tuple[Slot, AttentionCall]] = []
    bank = model.prefixtune
    with bank.watched(lambda prefix, slot, call: seen.append((slot, call))), torch.no_grad():
        model(**inputs)
    prefix = bank.get("default")
    parameters = list(trainable(model).values())
    assert {slot.key for slot, _ in seen} == set(prefix.slots)
    for slot, call in seen:
        key, value = prefix.keys_values(slot)
        B, T = call.query.shape[0], call.query.shape[2]
        gate = gate_by_hand(prefix, slot, call, variant) if "-" in variant else torch.ones(B, T, P, dtype=torch.float64)
        query = call.query.clone().requires_grad_(True)
        ours, _ = prefix.attend(dataclasses.replace(call, query=query), slot)
        theirs = formula(dataclasses.replace(call, query=query), key, value, gate)
        real = torch.ones(B, T, dtype=torch.bool) if call.real is None else call.real
        tolerance = 1e-6 if architecture.name == "gemma2" else 1e-10  # Gemma 2's own softmax is float32
        close(ours[real], theirs[real], tolerance)
        weights = torch.randn(ours[real].shape, dtype=torch.float64)
        left, right = (
            torch.autograd.grad((out[real] * weights).sum(), [query, *parameters], allow_unused=True)
            for out in (ours, theirs)
        )
        for mine, reference in zip(left, right, strict=True):
            assert (mine is None) == (reference is None)
            if mine is not None:
                close(mine, reference, tolerance)
