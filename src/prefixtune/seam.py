"""The seam, from above: every stack of layers (an encoder, a decoder) has a `Stack` that opens a `Forward` when the
stack is called: which prefix each row of the batch has, where text stands. `seat.py` has the seam from below.

Nothing that was computed from parameters outlives a forward.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache

from prefixtune import packing, starts
from prefixtune.attention import AttentionCall
from prefixtune.errors import ConfigError, ModelError
from prefixtune.gating import Origin, normed, norms_of
from prefixtune.packing import Packing
from prefixtune.positions import (
    first_position,
    has_relative_bias,
    learned_positions,
    movable_tables,
    real_positions,
    text_mask,
)
from prefixtune.prefix import KeysValues, Prefix, Slot

CHECKPOINT = "_gradient_checkpointing_func"
"""The attribute by which transformers' layers know how to checkpoint themselves."""

_binding = threading.Lock()
"""Held while layers get or lose the function by which they checkpoint themselves."""


@dataclass(frozen=True)
class Group:
    """Rows of a batch under one prefix; `prefix` None is the bare base model, `rows` None is the whole batch."""

    prefix: Prefix | None
    rows: Tensor | None
    made: Mapping[str, KeysValues] = field(default_factory=dict)  # what the prefix made ahead for this forward

    def at(self, name: str) -> tuple[Prefix, Slot] | None:
        """Its prefix and the prefix's slot in the layer `name`; None where there is none."""
        slot = None if self.prefix is None else self.prefix.slots.get(name)
        return None if self.prefix is None or slot is None else (self.prefix, slot)

    def ready(self, sites: Sequence[str]) -> Group:
        """The same group, at the start of a forward of a stack that has these sites."""
        return self if self.prefix is None else replace(self, made=self.prefix.made_ahead(sites))


class Chooser(Protocol):
    """Who knows which prefix each row has, and who watches."""

    watchers: list[Callable[[Prefix, Slot, AttentionCall], None]]

    def groups(self, batch: int, device: torch.device) -> list[Group]: ...

    def bare(self, batch: int) -> bool: ...

    def begin(self, module: nn.Module) -> None: ...

    def keep_names(self) -> None: ...


@dataclass
class Forward:
    """One call of a stack while it runs. Over a packed row, an example counts as a row here."""

    groups: list[Group]
    batch: int
    length: int  # tokens of a row
    past: int  # tokens already in the cache
    mask: Tensor | None  # [B, S]: 1 where there is text
    positions: Tensor | None  # [B, T]: of the real tokens, the first at 0; None where no prefix needs them
    cache: Cache | None
    packing: Packing | None = None
    reals: dict[int, Tensor] = field(default_factory=dict)  # `real` of every length asked for, the same in all layers
    turns: Counter[nn.Module] = field(default_factory=Counter)
    hidden: Tensor | None = None  # what the attention module now running reads, [B, T, d]
    normed: tuple[Tensor, Origin] | None = None  # what the last norm returned, and how to make it again
    angles: tuple[Tensor, Tensor] | None = None  # cosines and sines of its rotary embedding, where a prefix undoes it
    starts: dict[str, Tensor] = field(
        default_factory=dict
    )  # by slot: the hidden state of each row's first token, [B, d]

    @property
    def by_content(self) -> bool:
        """Whether a prefix of this forward asks for the angles."""
        return any(group.prefix is not None and group.prefix.by_content for group in self.groups)

    def real(self, length: int) -> Tensor | None:
        """`[B, T]`: True where the `length` queries are text; None when that is everywhere."""
        if self.mask is not None and length not in self.reals:
            self.reals[length] = self.mask[:, -length:].bool()
        return self.reals.get(length)


class Stack:
    """The state of one stack of layers: its hooks, and the forward now running in each thread."""

    def __init__(self, chooser: Chooser, module: nn.Module, site: str, window: int | None = None) -> None:
        self.chooser = chooser
        self.module = module
        self.site = site  # 'encoder' or 'decoder'
        self.window = window  # the narrowest of its sliding windows
        self.sites = ("decoder", "cross") if site == "decoder" else (site,)
        self.first_position = first_position(module)
        self.parameters = tuple(inspect.signature(module.forward).parameters)
        self.takes_positions = "position_ids" in self.parameters
        self.tables = [] if self.takes_positions else movable_tables(module)
        self.can_move = self.takes_positions or bool(self.tables) or has_relative_bias(module)
        self.position_limit = learned_positions(module)
        self._running: dict[int, Forward] = {}
        self._checkpointing: set[int] = set()  # the threads whose forward is checkpointed
        self._bound: list[tuple[nn.Module, Any, Any]] = []  # layer, its own function, ours: as long as any of them is
        self._listening: dict[int, list[RemovableHandle]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle of the model takes: no forward that is running."""
        return vars(self) | {"_running": {}, "_checkpointing": set(), "_listening": {}}

    def running(self) -> Forward | None:
        """The forward now running in this thread."""
        return self._running.get(threading.get_ident())

    @contextmanager
    def reopened(self, forward: Forward) -> Iterator[None]:
        """The same forward again: gradient checkpointing recomputes a layer during the backward."""
        thread = threading.get_ident()
        before = self._running.get(thread)
        self._running[thread] = forward
        try:
            yield
        finally:
            if before is None:
                del self._running[thread]
            else:
                self._running[thread] = before

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of the stack: choose prefixes for the rows and move the positions behind them."""
        self._end(threading.get_ident())  # of a forward that Ctrl-C broke off: torch calls no hook behind that
        self.chooser.keep_names()
        self.chooser.begin(module)
        named = dict(zip(self.parameters, args, strict=False)) | kwargs
        tokens = self._tokens(named)
        packed = self._packing(named, tokens)
        batch = tokens.shape[0] if packed is None else len(packed.lengths)
        groups = [group.ready(self.sites) for group in self.chooser.groups(batch, tokens.device)]
        forward = self._open(groups, named, tokens) if packed is None else _open_packed(groups, packed)
        self._running[threading.get_ident()] = forward
        packing.running.set(packed)
        self._bind_checkpointing(module)
        self._listen_to_norms(module, forward)
        if packed is not None and "use_cache" in self.parameters:
            named["use_cache"] = False  # nothing could go on from the end of several examples
        elif not self.takes_positions or not self._must_place(forward, named):
            return None
        named["position_ids"] = self._moved(forward, self._standing(forward, named))
        return (), named

    def move_table(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of a position table that the stack calls by length: give it positions instead."""
        forward = self.running()
        if forward is None or forward.positions is None or not self._must_place(forward, {}):
            return None
        # Flat, because such tables expect one row of positions for the whole batch.
        return args, kwargs | {"position_ids": self._moved(forward, forward.positions).flatten()}

    def shape_table(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook of the same table: its rows `[B, T, d]` again."""
        forward = self.running()
        if forward is None or forward.positions is None or not self._must_place(forward, {}):
            return None
        return output.view(*forward.positions.shape, -1)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the stack, called after an error too: close the forward."""
        forward = self._end(threading.get_ident())
        if forward is None or output is None:
            return
        if not forward.turns and any(group.prefix is not None for group in forward.groups):
            raise ModelError(
                f"no attention layer of {type(module).__name__} reached the prefix in this forward: the model's "
                "attention implementation was changed after attach; detach, change it, and attach again"
            )
        if forward.starts:
            cache = forward.cache if forward.cache is not None else getattr(output, "past_key_values", None)
            if cache is not None:
                starts.keep(cache, {name: start.detach() for name, start in forward.starts.items()})

    def close(self) -> None:
        """End what is left of any forward: the stack gives its prefixes back."""
        for thread in {*self._running, *self._checkpointing, *self._listening}:
            self._end(thread)

    def _end(self, thread: int) -> Forward | None:
        """Undo what `enter` did in this thread; its forward, if one was running."""
        packing.running.set(None)
        if thread in self._checkpointing:
            with _binding:
                self._checkpointing.discard(thread)
                self._unbind_checkpointing()
        for handle in self._listening.pop(thread, []):
            handle.remove()
        return self._running.pop(thread, None)

    def start(self, forward: Forward, slot: Slot, hidden: Tensor) -> Tensor:
        """The hidden state `[B, d]` of each row's first real token at one layer, kept for a whole generation."""
        if slot.key in forward.starts:
            return forward.starts[slot.key]
        now = _first_real(hidden, None if forward.mask is None else forward.mask[:, -hidden.shape[1] :])
        if forward.past:
            known = starts.kept(forward.cache)
            if slot.key not in known:
                raise ConfigError(
                    "gate_input='first' reads the first token of the text, but this cache was filled without the "
                    "prefix; run the whole text once under the prefix, or use gate_input='token'"
                )
            before = known[slot.key]  # of as many rows, or of fewer: a search copies a cache for its beams
            before = before.repeat_interleave(len(hidden) // len(before), dim=0)
            if forward.mask is None:
                now = before
            else:  # a row that was all padding so far begins here
                now = torch.where(forward.mask[:, : forward.past].any(-1, keepdim=True), before, now)
        forward.starts[slot.key] = now
        return now

    def _tokens(self, named: dict[str, Any]) -> Tensor:
        """The stack's input, `[B, T, ...]`."""
        for name in ("input_ids", "inputs_embeds", "hidden_states", self.parameters[0], "embedding_output"):
            if isinstance(named.get(name), Tensor):
                return named[name]
        raise ModelError(f"{type(self.module).__name__} was called without an input tensor; got {sorted(named)}")

    def _packing(self, named: dict[str, Any], tokens: Tensor) -> Packing | None:
        """How the call is packed; None where the bare model decides for itself, or where its rows are one text each."""
        asked = packing.declared.get() or (self.site == "decoder" and not self.chooser.bare(tokens.shape[0]))
        return packing.recognise(named, tokens, self.first_position) if asked and self.takes_positions else None

    def _open(self, groups: list[Group], named: dict[str, Any], tokens: Tensor) -> Forward:
        cache = named.get("past_key_values")
        past = int(cache.get_seq_length()) if isinstance(cache, Cache) else 0
        T, given = tokens.shape[1], named.get("attention_mask")
        mask = text_mask(given, past, self.window)
        if mask is not None and mask.shape[1] < past + tokens.shape[1]:
            mask = torch.cat([mask.new_ones(len(mask), past + tokens.shape[1] - mask.shape[1]), mask], dim=1)
        if mask is not None and mask.shape[1] > past + tokens.shape[1]:
            mask = mask[:, : past + tokens.shape[1]]
        prefixed = any(group.prefix is not None for group in groups)
        positions = real_positions(tokens, mask, past) if prefixed and tokens.ndim < 4 else None
        known, prepared = named.get("position_ids"), not isinstance(given, Tensor) or given.ndim == 4
        if positions is not None and self.window is not None and prepared and known is not None and known.ndim == 2:
            positions = known.expand_as(positions)  # a prepared mask may not tell of padding that left the window
        known_cache = cache if isinstance(cache, Cache) else None
        return Forward(groups, tokens.shape[0], T, past, mask, positions, known_cache)

    def _must_place(self, forward: Forward, named: dict[str, Any]) -> bool:
        """Whether the model's own positions would be wrong: moved behind a prefix, or counting left padding.

        A rotary query turns with its position, so even a prefix with offset 0 would see padding; learned positions
        move with it in the bare model already.
        """
        if any(self._shifts(forward)):
            return True
        if named.get("position_ids") is not None or forward.mask is None or forward.positions is None:
            return False
        return bool((forward.mask[:, 0] == 0).any())

    def _shifts(self, forward: Forward) -> list[int]:
        """How far each group's tokens stand behind where the bare model has them."""
        return [0 if group.prefix is None else group.prefix.offsets[self.site] for group in forward.groups]

    def _standing(self, forward: Forward, named: dict[str, Any]) -> Tensor:
        """Where the bare model has the tokens, padding not counted: `[B, T]`, or as the caller gave it."""
        given, ids = named.get("position_ids"), named.get("input_ids")
        if given is not None:
            return given
        assert forward.positions is not None
        if self.first_position and isinstance(ids, Tensor):  # RoBERTa counts by padding id, not by mask
            text, mask = ids.ne(self.first_position - 1), forward.mask
            before = forward.past if mask is None else mask[:, : forward.past].sum(-1, keepdim=True)
            return (text.long().cumsum(-1) + before) * text + self.first_position - 1
        return forward.positions + self.first_position

    def _moved(self, forward: Forward, standing: Tensor) -> Tensor:
        """Positions with each row moved behind its prefix. Raises ConfigError past the last learned position."""
        shifts = self._shifts(forward)
        if len(shifts) == 1:
            moved = standing + shifts[0]
        else:
            rows = torch.zeros(forward.batch, 1, dtype=standing.dtype, device=standing.device)
            for group, shift in zip(forward.groups, shifts, strict=True):
                rows[group.rows] = shift
            moved = standing + (rows if forward.packing is None else forward.packing.spread(rows).T)
        length = standing.shape[-1] if forward.packing is None else forward.packing.longest
        limit, most = self.position_limit, forward.past + length + max(shifts) + self.first_position
        if limit is not None and most > limit and int(moved.max()) >= limit:
            raise ConfigError(
                f"the text and its prefix reach position {int(moved.max())}, but {type(self.module).__name__} has "
                f"{limit} positions; shorten the text or the prefix"
            )
        return moved

    def _bind_checkpointing(self, module: nn.Module) -> None:
        """Make every checkpointed layer recompute under the forward it ran in, whatever is chosen by then.

        Layers are shared by the forwards of all threads: the first one binds them, and the last one to end frees them.
        """
        if not module.training or not torch.is_grad_enabled():
            return
        layers = [layer for layer in module.modules() if vars(layer).get(CHECKPOINT) and layer.gradient_checkpointing]
        for layer in layers:
            _refuse_reentrant(vars(layer)[CHECKPOINT])
        with _binding:
            ours = [function for _, _, function in self._bound]
            for layer in layers:
                function = vars(layer)[CHECKPOINT]
                if function not in ours:  # as it is where a forward of another thread runs
                    vars(layer)[CHECKPOINT] = functools.partial(self._checkpointed, function)
                    self._bound.append((layer, function, vars(layer)[CHECKPOINT]))
            if layers:
                self._checkpointing.add(threading.get_ident())

    def _unbind_checkpointing(self) -> None:
        """Give the layers their own functions back, unless a forward of another thread still needs ours."""
        while self._bound and not self._checkpointing:
            layer, function, ours = self._bound.pop()
            if vars(layer)[CHECKPOINT] is ours:  # or somebody has set another since
                vars(layer)[CHECKPOINT] = function

    def _listen_to_norms(self, module: nn.Module, forward: Forward) -> None:
        """Note what norms read, as far as token gates would otherwise keep what they return for the backward."""
        gated = any(group.prefix is not None and group.prefix.reads == "token" for group in forward.groups)
        # Under checkpointing a layer's second run keeps things for a moment only, and it must keep the same things.
        if gated and torch.is_grad_enabled() and threading.get_ident() not in self._checkpointing:
            handles = [norm.register_forward_hook(self._note_norm, with_kwargs=True) for norm in norms_of(module)]
            self._listening[threading.get_ident()] = handles

    def _note_norm(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        forward, origin = self.running(), normed(norm, args, kwargs)
        if forward is not None:
            forward.normed = None if origin is None else (output, origin)

    def _checkpointed(self, function: Callable[..., Any], run: Callable[..., Any], *args: Any) -> Any:
        forward = self.running()
        if forward is None:
            return function(run, *args)
        turns = Counter(forward.turns)

        def rerun(*inner: Any) -> Any:
            now = self.running()
            if now is forward:  # the first time
                return run(*inner)
            with self.reopened(replace(forward, turns=Counter(turns), hidden=None, starts={})):
                return run(*inner)

        return function(rerun, *args)


def _first_real(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """The hidden states `[B, d]` of each row's first token of text, from `[B, T, d]` and the mask `[B, T]`."""
    first = hidden.new_zeros(len(hidden)).long() if mask is None else mask.int().argmax(-1)
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


def _open_packed(groups: list[Group], packed: Packing) -> Forward:
    """The forward of a packed row: to prefixes it looks like its examples, padded on the right."""
    B, T = packed.index.shape
    positions = torch.arange(T, device=packed.index.device).expand(B, T)
    mask = None if packed.real is None else packed.real.long()
    return Forward(groups, B, T, 0, mask, positions, None, packed)


def _refuse_reentrant(function: Callable[..., Any]) -> None:
    if isinstance(function, functools.partial) and function.keywords.get("use_reentrant"):
        raise ConfigError(
            "reentrant gradient checkpointing gives a prefix no gradient in the first layers; enable it with "
            "gradient_checkpointing_kwargs={'use_reentrant': False}"
        )
