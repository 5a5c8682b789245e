"""Seats in a model: every attention layer gets one, everything is proved, and all of it can be undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefixtune import architectures, geometry, rotary, tiny_input
from prefixtune.bank import SEAM, Bank, bank_of
from prefixtune.errors import ConfigError, ModelError, first_line
from prefixtune.heads import BANK, HeadSwitch, copy_heads, head_names
from prefixtune.prefix import Method, Prefix, Slot, plan, text_starts
from prefixtune.rotary import Rotation
from prefixtune.seam import Stack
from prefixtune.seat import SEAT, Seat


@contextmanager
def entering(model: PreTrainedModel, name: str) -> Iterator[Bank]:
    """The bank of `model`, ready for a prefix called `name`; a failure leaves the model as it was."""
    bank = seat(model)
    try:
        if name in bank.names:
            raise ConfigError(f"{name!r} is already attached; detach it first, or choose another name")
        yield bank
    except BaseException:
        if not bank.names:
            unseat(model)
        raise


def slots_for(method: Method, model: PreTrainedModel, bank: Bank, length: int | None) -> tuple[Slot, ...]:
    """The layers a method's prefix goes to and its length in each, checked against the model and the method."""
    slots = plan(method, bank.geometry, length)
    method.check(slots)
    start = max(text_starts(method, slots).values())
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and start >= limit:
        raise ConfigError(
            f"a prefix of length {max(slot.length for slot in slots)} does not fit {type(model).__name__}, which has "
            f"{limit} positions: behind it text would start at position {start}; expected a start below {limit}, by "
            "length or position_offset"
        )
    return slots


def seat(model: PreTrainedModel) -> Bank:
    """The model's bank; where there is none yet, measure the model, freeze it and give every attention layer a seat."""
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"{type(model).__name__} is no transformers PreTrainedModel; expected the model itself, not a wrapper of it"
        )
    if isinstance(model._modules.get(BANK), Bank):
        return bank_of(model)
    if any(SEAT in vars(module) for module in model.modules()):
        raise ModelError(
            f"{type(model).__name__} shares layers with another model that has a prefix attached; detach it there, or "
            "attach to that model"
        )
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        raise ModelError(
            f"{type(model).__name__} is spread over {', '.join(devices)}, but a prefix needs its model on one device; "
            "load it there, e.g. with device_map={'': 0}"
        )
    undo: list[Callable[[], object]] = []
    try:
        _freeze(model, undo)
        # As it is, before anything is routed; frozen, because torch multiplies trainable matrices another way.
        before = _tiny_output(model)
        undo += architectures.adapt(model)
        bank = Bank(geometry.measure(model))
        bank.undo = undo
        same_kernel = model.config._attn_implementation_internal in ("sdpa", "eager")
        _take_seats(model, bank)
        if same_kernel:
            with bank.choose(None):
                _prove_bare(model, before, _tiny_output(model))
    except BaseException:
        _run_backwards(undo)
        raise
    return bank


def unseat(model: PreTrainedModel) -> None:
    """Take the bank, every seat, hook and name out again, and unfreeze what was not frozen before.

    What undoes each step is kept as a partial over the objects themselves, so that a deep copy of the model undoes
    its own.
    """
    bank = bank_of(model)
    _run_backwards(bank.undo)


def _run_backwards(undo: list[Callable[[], object]]) -> None:
    while undo:
        undo.pop()()


def _take_seats(model: PreTrainedModel, bank: Bank) -> None:
    undo = bank.undo
    bank.register()
    undo.append(bank.leave_register)
    for config in geometry.attention_configs(model):
        own = config._attn_implementation_internal
        # A config shared with another attached model already carries our name: its own kind is the rest of it.
        kind = own.removeprefix(SEAM) if own is not None else None
        ours = SEAM + geometry.attention_kind(model, kind)
        bank.configs.append((config, kind, ours))
        config._attn_implementation_internal = ours
    undo.append(partial(_rename_back, bank))
    model.add_module(BANK, bank)
    undo.append(partial(delattr, model, BANK))
    for path in dict.fromkeys(layer.stack for layer in bank.geometry.layers):
        _seat_stack(model, bank, path)
    for name in head_names(model):
        handle = model.get_submodule(name).register_forward_hook(HeadSwitch(bank, name), with_kwargs=True)
        undo.append(handle.remove)


def _rename_back(bank: Bank) -> None:
    for config, own, _ in bank.configs:
        config._attn_implementation_internal = own


def _freeze(model: PreTrainedModel, undo: list[Callable[[], object]]) -> None:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.requires_grad_(False)
    undo.append(partial(_unfreeze, model, trained))


def _unfreeze(model: PreTrainedModel, trained: dict[str, nn.Parameter]) -> None:
    now = [parameter for name, parameter in model.named_parameters() if name in trained]  # of resized embeddings, say
    for parameter in (*trained.values(), *now):
        parameter.requires_grad_(True)


def _seat_stack(model: PreTrainedModel, bank: Bank, path: str) -> None:
    module = model.get_submodule(path)
    layers = [layer for layer in bank.geometry.layers if layer.stack == path]
    site = "encoder" if layers[0].site == "encoder" else "decoder"
    windows = [layer.window for layer in layers if layer.window is not None]
    stack = Stack(bank, module, site, min(windows, default=None))
    bank.stacks.append(stack)
    bank.undo.append(stack.close)
    bank.undo.append(module.register_forward_pre_hook(stack.enter, with_kwargs=True).remove)
    bank.undo.append(module.register_forward_hook(stack.leave, always_call=True).remove)
    for table in stack.tables:
        bank.undo.append(table.register_forward_pre_hook(stack.move_table, with_kwargs=True).remove)
        bank.undo.append(table.register_forward_hook(stack.shape_table).remove)
    for name in dict.fromkeys(layer.module for layer in layers):
        attention = model.get_submodule(name)
        place = Seat(stack, [layer for layer in layers if layer.module == name])
        vars(attention)[SEAT] = place
        bank.undo.append(partial(delattr, attention, SEAT))
        bank.undo.append(attention.register_forward_pre_hook(place.note_hidden, with_kwargs=True).remove)


def install(model: PreTrainedModel, name: str, prefix: Prefix) -> None:
    """Put a prefix into a seated model under `name` and prove that it reaches every layer it has a slot for."""
    bank = bank_of(model)
    for stack in bank.stacks:
        if prefix.offsets[stack.site] and not stack.can_move:
            raise ConfigError(
                f"{type(stack.module).__name__} gives its tokens no positions that could be moved behind a prefix "
                f"(position_offset={prefix.offsets[stack.site]}); expected position_offset=0"
            )
        _keep_the_future_hidden(model, bank, prefix, stack)
    prefix.to(model.device)
    bank.add(name, prefix, copy_heads(model, head_names(model)))
    bank.train(model.training)
    try:
        if prefix.by_content:
            for stack in bank.stacks:
                _find_rotations(model, bank, name, stack)
            _prove_contents(model, bank, name)
        _prove(model, name)
    except BaseException:
        bank.remove(name)
        raise


def _keep_the_future_hidden(model: PreTrainedModel, bank: Bank, prefix: Prefix, stack: Stack) -> None:
    """Raise ConfigError where a prefix would show a stack's tokens what comes behind them, though no mask says so."""
    layers = [layer for layer in bank.geometry.layers if model.get_submodule(layer.stack) is stack.module]
    reached = {slot.layer for slot in prefix.slots.values()} & {*layers}
    continued = model.can_generate() and not model.config.is_encoder_decoder and "past_key_values" in stack.parameters
    if prefix.reads == "mean" and continued and reached:  # PaliGemma reads a prompt both ways, and then goes on
        raise ConfigError(
            f"gate_input='mean' reads the whole input and would leak the future into {type(stack.module).__name__}, "
            "which generates text; expected 'token', 'first' or 'none'"
        )
    parts = [part for layer in layers for part in model.get_submodule(layer.module).children()]
    if prefix.offsets[stack.site] and any("Compressor" in type(part).__name__ for part in parts):  # DeepSeek-V4
        raise ConfigError(
            f"{type(stack.module).__name__} tells by positions which compressed keys lie behind a token, and tokens "
            f"moved by position_offset={prefix.offsets[stack.site]} would see the future; expected position_offset=0"
        )
    if prefix.offsets[stack.site] and any("recurrent_states" in vars(part) for part in stack.module.modules()):
        raise ConfigError(  # RecurrentGemma
            f"{type(stack.module).__name__} forgets the text before where a position is 0, and would go on from it "
            f"with tokens moved by position_offset={prefix.offsets[stack.site]}; expected position_offset=0"
        )


def _find_rotations(model: PreTrainedModel, bank: Bank, name: str, stack: Stack) -> None:
    """How a rotary embedding turns the queries of each layer that the prefix reaches, by one token at two positions.

    Raises ModelError where queries differ by position in a way that cannot be undone.
    """
    if not stack.takes_positions or stack.position_limit is not None:
        return
    positions = torch.tensor([[0], [7]], device=model.device)
    ids = torch.full_like(positions, tiny_input.some_token(model))
    for module, query, _, given in _queries(
        model, bank, name, lambda: stack.module(input_ids=ids, position_ids=positions)
    ):
        turned = not rotary.same(query)
        layout = rotary.find_layout(query, *given) if turned and given is not None else None
        if not query.any() or (turned and layout is None):  # a query of zeros tells nothing
            raise _cannot_undo(module, bank, name)
        vars(module)[SEAT].layout = layout


def _prove_contents(model: PreTrainedModel, bank: Bank, name: str) -> None:
    """One token all along: where an attention reads the same twice, it has the same content twice.

    So a turn is found, too, that no `position_ids` move. Raises ModelError where one is left.
    """
    for module, query, hidden, given in _queries(model, bank, name, lambda: tiny_input.run_alike(model)):
        layout = vars(module)[SEAT].layout
        if layout is not None and given is not None:
            query = Rotation(*given, layout).undo(query)
        alike = hidden.shape[1] == query.shape[2] > 1 and rotary.same(hidden[:1, None, -2:].transpose(0, 2))
        if alike and not rotary.same(query[:1, :, -2:].transpose(0, 2)):
            raise _cannot_undo(module, bank, name)


Reading = tuple[nn.Module, Tensor, Tensor, tuple[Tensor, Tensor] | None]


def _queries(model: PreTrainedModel, bank: Bank, name: str, run: Callable[[], object]) -> list[Reading]:
    """Of each attention with a slot that `run` reaches: query `[B, H, T, D]`, what it reads `[B, T, d]`, angles."""
    places = {model.get_submodule(slot.layer.module) for slot in bank.get(name).slots.values()}
    read: dict[nn.Module, tuple[Tensor, tuple[Tensor, Tensor] | None]] = {}
    found: dict[nn.Module, Reading] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read[module] = geometry.attention_input(module, args, kwargs), rotary.angles(kwargs.get("position_embeddings"))

    def record(module: nn.Module, query: Tensor, *rest: object) -> None:
        if module in read:
            found[module] = (module, query, *read[module])

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in places]
    try:
        with bank.choose(None):
            geometry.observe(model, run, record)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _cannot_undo(module: nn.Module, bank: Bank, name: str) -> ModelError:
    return ModelError(
        f"{type(module).__name__} turns its queries by position in a way that could not be undone, and "
        f"{bank.get(name).method.name()} is addressed by queries without it; expected another method"
    )


def _prove(model: PreTrainedModel, name: str) -> None:
    """One tiny forward: every slot of the prefix is attended to, once. Raises ModelError with what was missed."""
    bank = bank_of(model)
    reached: list[str] = []
    with bank.watched(lambda prefix, slot, call: reached.append(slot.key)), bank.choose(name):
        tiny_input.run_tiny(model)
    expected = list(bank.get(name).slots)
    if sorted(reached) != sorted(expected):
        raise ModelError(
            f"{type(model).__name__}: the prefix reached {len(set(reached) & set(expected))} of {len(expected)} "
            f"layers (missed: {', '.join(sorted(set(expected) - set(reached))) or 'none'}); it would be partly ignored"
        )


def _prove_bare(model: PreTrainedModel, before: Tensor, now: Tensor) -> None:
    """With no prefix chosen, a seated model computes what it computed before. Raises ModelError if not."""
    if not torch.equal(now.nan_to_num(), before.nan_to_num()):
        gap = (now - before).abs().max().item()
        raise ModelError(
            f"{type(model).__name__} computes something else under a registered attention function (largest difference "
            f"{gap:.2g} without any prefix); its file treats its attention implementation by name"
        )


def _tiny_output(model: PreTrainedModel) -> Tensor:
    """The first output of `model` on the tiny input. Raises ModelError when it does not run on such an input at all."""
    try:
        return tiny_input.run_tiny(model)[0]
    except tiny_input.FAILURES as error:
        raise ModelError(
            f"{type(model).__name__} does not run on the tiny input that attach proves itself with "
            f"({type(error).__name__}: {first_line(error)}); "
            "attach to the part of it that has the attention, e.g. its text model"
        ) from error
