"""Forwards that Ctrl-C broke off, that overlap in two threads or run again in a backward, copies of a model and of a
cache, and caches of other kinds: nothing is left behind, nothing is taken along that should not be."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from test_contract import attached, close, enable_checkpointing, generate, logits
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

import prefixtune as pt

LLAMA, MISTRAL, T5 = zoo.BY_NAME["llama"], zoo.BY_NAME["mistral"], zoo.BY_NAME["t5"]


# Ctrl-C


def hooks(model: PreTrainedModel) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def break_off(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    """A forward that ends in the second layer, as Ctrl-C would end it."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(**inputs)
    handle.remove()


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("then", ["run", "detach"])
def test_a_forward_that_was_broken_off_leaves_nothing_behind(checkpointed: bool, then: str) -> None:
    model, inputs = LLAMA.make(), zoo.inputs_for(LLAMA)
    if checkpointed:
        newer = "activation_checkpointing_enable"
        getattr(model, newer if newer in dir(model) else "gradient_checkpointing_enable")({"use_reentrant": False})
    bare, before = logits(model, inputs), hooks(model)
    pt.attach(model, pt.AdaptivePrefix(length=3))
    expected = logits(model, inputs)
    model.train()
    functions = [vars(layer).get("_gradient_checkpointing_func") for layer in model.model.layers]
    break_off(model, inputs)
    if then == "run":
        out = model(**inputs)
        out.logits.sum().backward()
        close(out.logits.detach(), expected)
    pt.detach(model)
    assert [vars(layer).get("_gradient_checkpointing_func") for layer in model.model.layers] == functions
    assert hooks(model) == before
    close(logits(model.eval(), inputs), bare, 0)


# Two threads


def checkpointing_functions(model: PreTrainedModel) -> list[Any]:
    return [vars(layer)["_gradient_checkpointing_func"] for layer in model.model.layers]


def step(model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    """The loss and its gradients, which are not gathered in the parameters that threads share."""
    loss = model(input_ids=ids, labels=ids).loss
    return [loss.detach(), *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


@pytest.mark.parametrize("inner", [True, False], ids=["one within the other", "one after the other"])
def test_checkpointed_forwards_that_overlap_in_two_threads_are_right_and_leave_nothing_behind(inner: bool) -> None:
    """A begins, B begins, one ends, the other ends."""
    model, ids = attached(LLAMA, "p_tuning_v2"), zoo.inputs_for(LLAMA)["input_ids"]
    enable_checkpointing(model)
    model.train()
    texts = {"A": ids[:1], "B": ids[1:, :4]}
    alone = {name: step(model, text) for name, text in texts.items()}
    functions = checkpointing_functions(model)
    begun, ended = {name: threading.Event() for name in texts}, {name: threading.Event() for name in texts}
    found: dict[str, list[Tensor]] = {}

    def hold(*_: Any) -> None:
        name = threading.current_thread().name
        if not begun[name].is_set():
            begun[name].set()
            waits = {"A": ended["B"] if inner else begun["B"], "B": begun["A"] if inner else ended["A"]}
            assert waits[name].wait(20)

    def run() -> None:
        name = threading.current_thread().name
        assert name == "A" or begun["A"].wait(20)
        found[name] = step(model, texts[name])
        ended[name].set()

    handle = model.model.embed_tokens.register_forward_hook(hold)
    threads = [threading.Thread(target=run, name=name) for name in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    assert checkpointing_functions(model) == functions
    for name, text in texts.items():
        for ours, again, expected in zip(found[name], step(model, text), alone[name], strict=True):
            close(ours, expected, 1e-5)
            close(again, expected, 0)


# A forward that runs again in a backward


def recomputed(model: PreTrainedModel) -> Tensor:
    """A loss with a checkpoint around the whole model, which runs again in the backward."""
    ids = zoo.inputs_for(LLAMA)["input_ids"]
    return checkpoint(lambda text: model(input_ids=text, labels=text).loss, ids, use_reentrant=False)


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def two_prefixes() -> PreTrainedModel:
    model = attached(LLAMA, "p_tuning_v2")
    pt.attach(model, pt.PTuningV2(length=4), name="second")
    return model.train()


@pytest.mark.parametrize("then", ["nothing", "other", "bare"])
def test_a_checkpoint_around_the_model_is_refused_behind_its_using(then: str) -> None:
    model = two_prefixes()
    model(input_ids=zoo.inputs_for(LLAMA)["input_ids"])  # under the newest
    with pt.using(model, "default"):
        loss = recomputed(model)
    with pytest.raises(pt.ConfigError, match="call backward inside the using.* of its forward, or checkpoint its lay"):
        if then == "nothing":
            loss.backward()
        with pt.using(model, "second" if then == "other" else None):
            loss.backward()
    assert gradients(model) == {}
    with pt.using(model, "second"):
        model(input_ids=zoo.inputs_for(LLAMA)["input_ids"]).logits.sum().backward()
    assert {name.split(".")[2] for name in gradients(model)} == {"prefix_second"}


def test_a_checkpoint_around_the_model_is_refused_where_another_prefix_came_between() -> None:
    model = attached(LLAMA, "p_tuning_v2").train()
    loss = recomputed(model)
    pt.attach(model, pt.PTuningV2(length=4), name="second")
    with pytest.raises(pt.ConfigError, match="call backward inside the using"):
        loss.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_around_the_model_changes_no_gradient_inside_its_using(reentrant: bool) -> None:
    model, ids = two_prefixes(), zoo.inputs_for(LLAMA)["input_ids"]
    for name in ("default", "second", "default"):
        with pt.using(model, name):
            model(input_ids=ids, labels=ids).loss.backward()
            expected = gradients(model)
            embedded = model.get_input_embeddings()(ids).requires_grad_()
            checkpoint(
                lambda text: model(inputs_embeds=text, labels=ids).loss, embedded, use_reentrant=reentrant
            ).backward()
        found = gradients(model)
        assert found.keys() == expected.keys() and found
        for parameter, gradient in expected.items():
            close(found[parameter], gradient, 1e-6)


def test_a_checkpoint_around_the_model_needs_no_using_where_nothing_else_was_trained() -> None:
    model, ids = attached(LLAMA, "p_tuning_v2").train(), zoo.inputs_for(LLAMA)["input_ids"]
    recomputed(model).backward()
    pt.attach(model, pt.PTuningV2(length=4), name="second")
    gradients(model)
    with pt.using(model, None):
        logits(model.eval(), {"input_ids": ids})  # no gradient comes of that
    model.train()(input_ids=ids, labels=ids).loss.backward()
    expected = gradients(model)
    recomputed(model).backward()
    for parameter, gradient in gradients(model).items():
        close(gradient, expected[parameter], 1e-6)


# Copies of a model


def test_a_copy_made_inside_using_chooses_for_itself() -> None:
    model, inputs = attached(LLAMA, "p_tuning_v2"), zoo.inputs_for(LLAMA)
    pt.attach(model, pt.PTuningV2(length=2), name="second")
    newest = logits(model, inputs)
    with pt.using(model, "default"):
        twin = copy.deepcopy(model)
    close(logits(twin, inputs), newest, 0)
    found: list[Tensor] = []

    def elsewhere() -> None:
        with pt.using(twin, None):
            found.append(logits(twin, inputs))

    with pt.using(model, "default"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    with pt.using(model, None):
        close(found[0], logits(model, inputs), 0)


@pytest.mark.parametrize("variant", ["p_tuning_v2", "prefix_tuning", "adaptive-first"])
def test_a_pickled_model_answers_and_detaches_like_its_original(variant: str) -> None:
    model, inputs = attached(LLAMA, variant), zoo.inputs_for(LLAMA)
    ours = logits(model, inputs)
    generate(model, inputs)
    twin = pickle.loads(pickle.dumps(model))  # noqa: S301 - what was written a moment ago
    close(logits(twin, inputs), ours, 0)
    pt.detach(twin)
    close(logits(twin, inputs), logits(LLAMA.make(), inputs), 0)
    close(logits(model, inputs), ours, 0)


@pytest.mark.parametrize(
    "outlive",
    [
        "twin = copy.deepcopy(model); pt.detach(model)",
        "kept = pickle.dumps(model); pt.detach(model); twin = pickle.loads(kept)",
    ],
)
def test_a_model_that_outlives_its_original_keeps_its_padding_mask_under_a_static_cache(outlive: str) -> None:
    """`generate` makes the masks of a static cache before the first forward. In a process without other models."""
    script = f"""
import copy, pickle, torch, zoo, prefixtune as pt, test_contract as t
llama = zoo.BY_NAME["llama"]
before = t.registered_names()
model, inputs = t.attached(llama, "p_tuning_v2"), zoo.pad(zoo.inputs_for(llama), "left", 3)
dynamic = t.generate(model, inputs)
{outlive}
assert torch.equal(t.generate(twin, inputs, cache_implementation="static", disable_compile=True), dynamic)
pt.detach(twin)
assert t.registered_names() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent)


def test_a_model_that_is_spread_over_devices_is_refused_in_one_line() -> None:
    model = LLAMA.make()
    model.lm_head.to("meta")
    with pytest.raises(pt.ModelError, match="spread over cpu, meta, but a prefix needs its model on one device"):
        pt.attach(model, pt.PTuningV2(length=2))
    assert pt.prefixes(model) == []


# Caches


def gated_by_the_first_token() -> PreTrainedModel:
    model = attached(LLAMA, "adaptive-first")
    with torch.no_grad():  # far from one another, so that a wrong row shows
        for name, parameter in model.prefixtune.named_parameters():
            if "token_gate" in name:
                parameter.mul_(10)
    return model


def continued(model: PreTrainedModel, ids: Tensor, cache: DynamicCache) -> Tensor:
    return logits(model, {"input_ids": ids}, past_key_values=cache)[:, -1]


def test_a_first_gate_follows_a_copy_of_its_cache_and_the_cache_s_rows() -> None:
    model, ids = gated_by_the_first_token(), zoo.inputs_for(LLAMA)["input_ids"]
    text, more = ids[:, :4], ids[:, 4:]
    cache = DynamicCache(config=model.config)
    logits(model, {"input_ids": text}, past_key_values=cache)
    whole = logits(model, {"input_ids": ids})[:, -1]
    assert (whole[0] - whole[1]).abs().max() > 1e-2
    close(continued(model, more, copy.deepcopy(cache)), whole)
    cache.batch_select_indices(torch.tensor([1, 0]))
    close(continued(model, more.flip(0), copy.deepcopy(cache)), whole.flip(0))
    cache.reorder_cache(torch.tensor([1, 0]))
    close(continued(model, more, copy.deepcopy(cache)), whole)
    cache.batch_repeat_interleave(2)
    close(continued(model, more.repeat_interleave(2, 0), copy.deepcopy(cache)), whole.repeat_interleave(2, 0))
    cache.batch_select_indices(torch.tensor([2]))
    close(continued(model, more[1:], cache), whole[1:])


def test_a_cache_that_a_first_gate_has_read_is_freed_with_its_last_user() -> None:
    model, ids = gated_by_the_first_token(), zoo.inputs_for(LLAMA)["input_ids"]
    gc.collect()
    gc.disable()
    try:
        cache = DynamicCache(config=model.config)
        logits(model, {"input_ids": ids}, past_key_values=cache)
        twins = [copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))]  # noqa: S301 - written a moment ago
        alive = [weakref.ref(each) for each in (cache, *twins)]
        twins[0].batch_select_indices(torch.tensor([1]))
        assert [len(each.layers[0].keys) for each in (cache, *twins)] == [2, 1, 2]
        twins.clear()
        del cache
        assert [each() for each in alive] == [None, None, None]
    finally:
        gc.enable()


def test_a_first_gate_waits_for_the_first_token_where_a_chunk_is_all_padding() -> None:
    model = gated_by_the_first_token()
    padded = zoo.pad(zoo.inputs_for(LLAMA), "left", 6)
    padded["attention_mask"][1] = 1
    options = {"return_dict_in_generate": True, "output_logits": True}
    whole, in_chunks = (
        torch.stack(generate(model, padded, **options, **more).logits) for more in ({}, {"prefill_chunk_size": 4})
    )
    close(in_chunks, whole)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("method", ["first", "scroll", "plain"])
def test_a_static_cache_of_a_sliding_window_is_a_dynamic_one(method: str, padding: int) -> None:
    model = MISTRAL.make()  # window 8
    torch.manual_seed(1)
    made = {
        "first": pt.AdaptivePrefix(length=4, gate_input="first", token_gate_std=2.0),
        "scroll": pt.PTuningV2(length=4, window="scroll"),
        "plain": pt.PTuningV2(length=4),
    }
    pt.attach(model, made[method])
    inputs = zoo.inputs_for(MISTRAL, length=20)
    if padding:
        inputs = zoo.pad(inputs, "left", padding)
        inputs["attention_mask"][1] = 1
    options = {"return_dict_in_generate": True, "output_logits": True}
    kinds = ({}, {"cache_implementation": "static", "disable_compile": True})
    dynamic, static = (torch.stack(generate(model, inputs, **options, **kind).logits) for kind in kinds)
    close(static, dynamic)


# Padding


@pytest.mark.parametrize("offset", [0, 4])
def test_padding_on_the_left_moves_no_relative_bias_of_a_prefix(offset: int) -> None:
    model = T5.make()
    torch.manual_seed(1)
    pt.attach(model, pt.PTuningV2(length=4, sites=["encoder"], position_offset={"encoder": offset}))
    inputs = zoo.inputs_for(T5)
    close(logits(model, zoo.pad(inputs, "left", 6)), logits(model, inputs), 1e-5)
