"""The seam, from below: every attention layer that takes a prefix has a `Seat`.

The attention function registered with transformers finds the seat of its module and the forward that its stack has
open, and lets each row's prefix attend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from prefixtune import attention, packing, rotary
from prefixtune.attention import AttentionCall, AttentionFunction, is_causal
from prefixtune.errors import ConfigError, ModelError
from prefixtune.geometry import Layer, attention_input, base_attention
from prefixtune.kernel import Part
from prefixtune.positions import bias_source
from prefixtune.prefix import Prefix, Slot
from prefixtune.rotary import Layout, Rotation
from prefixtune.seam import Forward, Group, Stack

SEAT = "_prefixtune_seat"
"""The attribute by which an attention module knows its seat; gone after detach."""


class Seat:
    """One attention module's place at the seam: its layers, in the order of its turns within a forward."""

    def __init__(self, stack: Stack, layers: Sequence[Layer]) -> None:
        self.stack = stack
        self.layers = tuple(layers)
        self.layout: Layout | None = None  # of its rotary embedding, once a prefix has to undo it

    def note_hidden(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the attention module: what it reads is what token gates read."""
        forward = self.stack.running()
        if forward is not None:
            forward.hidden = attention_input(module, args, kwargs)
            if self.layout is not None and forward.by_content:
                forward.angles = rotary.angles(kwargs.get("position_embeddings"))

    def attend(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """The attention of this layer, each row under its own prefix."""
        forward = self.stack.running()
        if forward is None:
            raise ModelError(
                f"{type(call.module).__name__} ran outside a forward of {type(self.stack.module).__name__}, so it is "
                "unknown which prefix each row has; call the model, not one of its layers"
            )
        turn = forward.turns[call.module]
        forward.turns[call.module] += 1
        layer = self.layers[turn % len(self.layers)]
        name = f"{layer.site}.{layer.index}"
        (hidden, forward.hidden), (normed, forward.normed) = (forward.hidden, None), (forward.normed, None)
        origin = normed[1] if normed is not None and normed[0] is hidden else None
        angles, forward.angles = forward.angles, None
        turned = None if angles is None or self.layout is None else Rotation(*angles, self.layout)
        if call.mask is None and layer.site == "decoder" and call.query.shape[2] < forward.length:
            call = _aligned(call, forward)
        if forward.packing is None:
            _refuse_narrow_mask(call)
            call = replace(call, hidden=hidden, origin=origin, rotation=turned, real=forward.real(call.query.shape[2]))
        else:
            call = packing.taken_apart(replace(call, hidden=hidden, origin=origin, rotation=turned), forward.packing)
            call = replace(call, real=forward.real(call.query.shape[2]))
        if len(forward.groups) > 1 and call.query.shape[0] != forward.batch:
            raise ConfigError(
                f"{type(call.module).__name__} cuts {forward.batch} rows into {call.query.shape[0]} pieces, so a "
                "prefix for each row cannot be told apart there; use one prefix for the whole batch"
            )
        out, weights = self._attend_groups(name, call, forward)
        return (out, weights) if forward.packing is None else (forward.packing.row(out)[None], None)

    def _attend_groups(self, name: str, call: AttentionCall, forward: Forward) -> tuple[Tensor, Tensor | None]:
        if len(forward.groups) == 1:
            return self._attend_group(forward.groups[0], name, call, forward)
        if self._merges(name, call, forward):
            return self._attend_merged(name, call, forward), None
        parts = [self._attend_group(group, name, call, forward) for group in forward.groups]
        order = torch.cat([group.rows for group in forward.groups if group.rows is not None])
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        weights = _beneath_each_other([one for _, one in parts])
        out = torch.cat([out for out, _ in parts]).index_select(0, back)
        return out, None if weights is None else weights.index_select(0, back)

    def _merges(self, name: str, call: AttentionCall, forward: Forward) -> bool:
        """Whether the text's part can be the same for all rows, whatever their prefixes."""
        taken = [found for group in forward.groups if (found := group.at(name)) is not None]
        return (
            not torch.is_grad_enabled()
            and call.query.device.type == "cpu"  # where it was measured to pay
            and attention.can_merge(call)
            and all(prefix.joint and not prefix.drops for prefix, _ in taken)
            and all(scrolled(prefix, slot, forward, self.stack.site) is None for prefix, slot in taken)
            and all(self._prefix_bias(prefix, slot, call, forward) is None for prefix, slot in taken)
        )

    def _attend_merged(self, name: str, call: AttentionCall, forward: Forward) -> Tensor:
        """Every row at once for the text, and each prefix's rows for the prefix."""
        # No gate looks at the text's keys and values, which are many: they need not be picked.
        lean = replace(call, key=call.key[:0], value=call.value[:0], mask=None, options={})
        parts = []
        for group in forward.groups:
            if group.rows is not None and (found := group.at(name)) is not None:
                prefix, slot = found
                gate, own, made = None, lean, group.made.get(name)
                if prefix.gated or self.stack.chooser.watchers:
                    own = self._call_of(group, prefix, slot, lean, forward)
                    gate = prefix.gate(own, slot)
                elif made is not None:
                    own = replace(lean, made=made)
                parts.append(Part(group.rows, *prefix.keys_values_for(slot, own), gate))
        return attention.merge_mixed(call, parts)

    def _attend_group(
        self, group: Group, name: str, call: AttentionCall, forward: Forward
    ) -> tuple[Tensor, Tensor | None]:
        found = group.at(name)
        if found is None:
            return (call if group.rows is None else call.select(group.rows)).run_base()
        prefix, slot = found
        return prefix.attend(self._call_of(group, prefix, slot, call, forward), slot)

    def _call_of(
        self, group: Group, prefix: Prefix, slot: Slot, call: AttentionCall, forward: Forward
    ) -> AttentionCall:
        """The call as a group's prefix sees it: its rows, and what the forward knows of them. Watchers see it too."""
        if prefix.reads == "first" or (prefix.method.window == "scroll" and slot.layer.window is not None):
            self._refuse_chosen_positions(call, forward)
        if prefix.reads == "first":
            if call.hidden is None:
                raise ModelError(
                    f"{type(call.module).__name__} calls its attention more than once for what it reads, so a gate on "
                    "the first token cannot read it; use a method without gates that read the input"
                )
            call = replace(call, start=self.stack.start(forward, slot, call.hidden))
        if call.rotation is not None and not prefix.by_content:  # another group asked for it
            call = replace(call, rotation=None)
        made, mask = group.made.get(slot.key), scrolled(prefix, slot, forward, self.stack.site)
        bias = self._prefix_bias(prefix, slot, call, forward)
        if made is not None or mask is not None or bias is not None:  # a copy of a call takes its time in decoding
            call = replace(call, made=made, prefix_mask=mask, prefix_bias=bias)
        if group.rows is not None:
            call = call.select(group.rows)
        for watch in self.stack.chooser.watchers:
            watch(prefix, slot, call)
        return call

    def _refuse_chosen_positions(self, call: AttentionCall, forward: Forward) -> None:
        """Gemma 4 runs its last layers on those positions alone whose logits are asked for, and does not say on which.

        Raises ConfigError, since the first of them is not the first of the text.
        """
        T = call.query.shape[2]
        if self.stack.site == "decoder" and forward.positions is not None and T < forward.positions.shape[1]:
            raise ConfigError(
                f"{type(call.module).__name__}: this layer runs on chosen positions only ({T} of "
                f"{forward.positions.shape[1]}); expected all of them, or gate_input='token' and window='pinned'"
            )

    def _prefix_bias(self, prefix: Prefix, slot: Slot, call: AttentionCall, forward: Forward) -> Tensor | None:
        """A relative position bias `[B|1, H, T, P]` for a prefix that stands at positions before the text."""
        offset = prefix.offsets[self.stack.site]
        if not offset or call.options.get("position_bias") is None or slot.layer.site == "cross":
            return None
        source = bias_source(call.module, self.stack.module)
        T, past, device = call.query.shape[2], forward.past, call.query.device
        keys = max(past + offset + T, slot.length)  # a prefix may reach past where the text ends
        if forward.mask is None or forward.positions is None:
            bias = source.compute_bias(T, keys, device=device, past_seen_tokens=past + offset)
            return bias[..., : slot.length]
        # Where padding may stand to the left: of every position, and then those where each row's tokens are.
        bias = source.compute_bias(past + T, keys, device=device, past_seen_tokens=offset)
        return bias[0, :, forward.positions, : slot.length].transpose(0, 1)


def _refuse_narrow_mask(call: AttentionCall) -> None:
    """MiniMax's, while it decodes a padded batch, has one column, which would show every key."""
    keys = call.key.shape[2]
    if call.mask is not None and call.mask.shape[-1] < keys:
        raise ModelError(
            f"{type(call.module).__name__} was given {keys} keys and a mask of {call.mask.shape[-1]}, which says of no "
            "key whether it is padding; give rows without padding"
        )


def _aligned(call: AttentionCall, forward: Forward) -> AttentionCall:
    """The call with its mask spelled out where a layer runs on the last positions alone.

    So do Gemma 4's last layers, on those whose logits are asked for, and a missing mask would tell wrong where they
    are. Under the name 'sdpa' Gemma 4 knows, and runs them on all; under ours it does not.
    """
    T, S, seen = call.query.shape[2], call.key.shape[2], forward.past + forward.length
    causal = call.causal or (T == 1 and getattr(call.module, "is_causal", True))
    if call.base is not sdpa_attention_forward or forward.packing is not None or not causal or seen > S:
        return call
    keys = torch.arange(S, device=call.key.device)
    return replace(call, mask=(keys <= keys[seen - T : seen, None])[None, None], causal=False)


def sparse_mask(query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor | None:
    """The mask, and in it which keys a sparse attention chose (`indices` `[B, T, K]`, as DeepSeek-V3.2 has them).

    By the names 'sdpa' and 'eager' such models put that into their mask themselves; under another name they leave it to
    the attention. Raises ModelError where blocks of keys are chosen (MiniMax M3).
    """
    if options.get("block_indices") is not None:
        raise ModelError("this model's attention chooses blocks of keys (block_indices), which no prefix can enter yet")
    indices = options.get("indices")
    if indices is None:
        return mask
    B, T, S = len(query), query.shape[2], key.shape[2]
    left_out = torch.ones(B, T, S, dtype=torch.bool, device=key.device).scatter(-1, indices.long(), False)[:, None]
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=key.device).tril(S - T)
    return mask & ~left_out if mask.dtype == torch.bool else mask.masked_fill(left_out, torch.finfo(mask.dtype).min)


def _beneath_each_other(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Weights `[B, H, T, P + S]` of all groups, for a model that gives them; a shorter prefix has zeros before it."""
    given = [weights for weights in parts if weights is not None]
    if len(given) < len(parts):
        return None
    widest = max(weights.shape[-1] for weights in given)
    return torch.cat([F.pad(weights, (widest - weights.shape[-1], 0)) for weights in given])


def scrolled(prefix: Prefix, slot: Slot, forward: Forward, site: str) -> Tensor | None:
    """`[B, 1, T, P]`: which prefix positions are still inside the sliding window; None when all stay visible.

    `site` is that of the stack, 'encoder' or 'decoder'.
    """
    window = slot.layer.window
    if prefix.method.window != "scroll" or window is None or forward.positions is None:
        return None
    standing = torch.arange(slot.length, device=forward.positions.device)
    distance = forward.positions[:, None, :, None] + prefix.offsets[site] - standing
    return distance < window


def seam(kind: str) -> AttentionFunction:
    """The attention function registered with transformers for models that run `kind`, 'sdpa' or 'eager', without it."""

    def prefix_attention(  # by the interface's own names, by which some models call it
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        base = base_attention(module, kind)
        attention_mask = sparse_mask(query, key, attention_mask, options)
        seat = vars(module).get(SEAT)
        if seat is None:
            return base(module, query, key, value, attention_mask, **options)
        causal = kind == "sdpa" and is_causal(attention_mask, options, module, query.shape[2])
        return seat.attend(AttentionCall(module, query, key, value, attention_mask, options, base, causal))

    return prefix_attention
