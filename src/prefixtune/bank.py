"""The bank: every prefix that is in a model, which one each row uses, and the seats that lead there."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import nn

from prefixtune import geometry
from prefixtune.attention import AttentionCall
from prefixtune.errors import ConfigError, near_miss
from prefixtune.geometry import Geometry
from prefixtune.heads import BANK
from prefixtune.prefix import Prefix, Slot
from prefixtune.seam import Group, Stack
from prefixtune.seat import seam

SEAM = "prefixtune_"
"""Attention functions are registered as `prefixtune_sdpa` and `prefixtune_eager`."""

Watcher = Callable[[Prefix, Slot, AttentionCall], None]


Choice = tuple[str | None, ...] | str | None
"""The prefix of every row, or one for each."""


class Default(Enum):
    """What is chosen outside `using`: the prefix that came last. An enum, because its members survive a deep copy."""

    NEWEST = "newest"


_banks: WeakSet[Bank] = WeakSet()
"""All that need our attention functions: of attached models, of their copies, of unpickled ones."""


class Bank(nn.Module):
    """All prefixes of one model, by name, as a child module of it: so devices, dtypes and optimisers find them."""

    def __init__(self, shape: Geometry) -> None:
        super().__init__()
        self.geometry = shape
        self.entries = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        self.metadata: dict[str, dict[str, Any]] = {}  # what a saved prefix said of its task, by name
        self.active: str | None = None
        self.stacks: list[Stack] = []
        self.watchers: list[Watcher] = []
        self.undo: list[Callable[[], object]] = []
        self.configs: list[tuple[Any, str | None, str]] = []  # config, its own attention, ours
        self._chosen: Sequence[str | None] | str | Default | None = Default.NEWEST
        self._chooser_thread: int | None = None
        self._ran: set[Choice] = set()  # under what a backward may run again, since `using` began: two at most

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle of the model takes: neither what is chosen just now nor who watches."""
        return vars(self) | {"_chosen": Default.NEWEST, "_chooser_thread": None, "_ran": set(), "watchers": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy or an unpickled model needs the names at once: `generate` makes its masks before any forward."""
        super().__setstate__(state)
        self.register()

    def register(self) -> None:
        """Our attention functions are registered from now on, until the last bank leaves."""
        geometry.register(SEAM, seam)
        _banks.add(self)

    def leave_register(self) -> None:
        """They stay registered as long as any other model needs them."""
        _banks.discard(self)
        if not _banks:
            geometry.unregister(SEAM)

    @property
    def names(self) -> list[str]:
        """The names of the prefixes, in the order they came."""
        return [_outer_name(key) for key in self.entries]

    def get(self, name: str) -> Prefix:
        """The prefix called `name`. Raises ConfigError with the near miss."""
        if name not in self.names:
            raise ConfigError(f"no prefix is called {name!r}{near_miss(name, self.names)}")
        return cast(Prefix, self.entries[_inner_key(name)])

    def add(self, name: str, prefix: Prefix, heads: nn.ModuleDict) -> None:
        """Take a prefix in and make it the one that every row uses."""
        self.entries[_inner_key(name)] = prefix
        self.heads[_inner_key(name)] = heads
        self.active = name
        self._ran.clear()  # what trains from now on is another

    def remove(self, name: str) -> None:
        """Take a prefix out; the newest of the others becomes the one in use."""
        self.get(name)
        del self.entries[_inner_key(name)]
        del self.heads[_inner_key(name)]
        self.metadata.pop(name, None)
        if self.active == name:
            self.active = self.names[-1] if self.names else None
        self._ran.clear()

    def heads_of(self, name: str) -> nn.ModuleDict:
        """The task heads that belong to the prefix `name`, by their place in the model."""
        return cast(nn.ModuleDict, self.heads[_inner_key(name)])

    def parts(self, name: str) -> dict[str, list[nn.Parameter]]:
        """What is trained of the prefix `name`, by what it is: `Prefix.parts`, and the head."""
        return self.get(name).parts() | {"head": list(self.heads_of(name).parameters())}

    @contextmanager
    def choose(self, chosen: Sequence[str | None] | str | None) -> Iterator[None]:
        """Use a prefix for every row, or one for each; None is the bare base model."""
        thread = threading.get_ident()
        if self._chooser_thread not in (None, thread):
            raise ConfigError(
                "another thread is inside using(model, ...); run one batch at a time, with a prefix a row"
            )
        for name in [chosen] if chosen is None or isinstance(chosen, str) else chosen:
            if name is not None:
                self.get(name)
        if not isinstance(chosen, str) and chosen is not None and not len(chosen):
            raise ConfigError("using(model, []) names no prefix; give one name, or one (or None) for each row")
        before = self._chosen, self._chooser_thread, self._ran
        self._chosen, self._chooser_thread, self._ran = chosen, thread, set()
        try:
            yield
        finally:
            ran = self._ran
            self._chosen, self._chooser_thread, self._ran = before
            self._remember(*ran)

    @contextmanager
    def watched(self, watcher: Watcher) -> Iterator[None]:
        """Show every attention under a prefix to `watcher`."""
        self.watchers.append(watcher)
        try:
            yield
        finally:
            self.watchers.remove(watcher)

    def _in_use(self) -> Sequence[str | None] | str | None:
        return self.active if isinstance(self._chosen, Default) else self._chosen

    def _remember(self, *choices: Choice) -> None:
        for choice in choices:
            if len(self._ran) < 2:  # more would say no more
                self._ran.add(choice)

    def begin(self, module: nn.Module) -> None:
        """A forward of a stack begins. Raises ConfigError in a backward that runs it under who knows what.

        Such is that of a checkpoint around the whole model; layers that checkpoint themselves do not come here. What is
        in use must be all that forwards ran under since `using` began, or ever outside of it.
        """
        chosen = self._in_use()
        choice = chosen if chosen is None or isinstance(chosen, str) else tuple(chosen)
        again = torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1  # the number of a backward
        if again and self._ran != {choice}:
            raise ConfigError(
                f"a backward runs {type(module).__name__} again, maybe under another prefix than before; call "
                "backward inside the using(model, ...) of its forward, or checkpoint its layers instead: "
                "gradient_checkpointing_enable()"
            )
        if not again and (module.training or torch.is_grad_enabled()):
            self._remember(choice)

    def bare(self, batch: int) -> bool:
        """Whether no row of a batch has a prefix; False where the names are not for as many rows."""
        chosen = self._in_use()
        names = [chosen] if chosen is None or isinstance(chosen, str) else chosen
        return batch % len(names) == 0 and all(name is None for name in names)

    def row_names(self, batch: int) -> dict[str | None, list[int] | None]:
        """The rows of each name in use; None instead of rows means all of them.

        A batch that is a multiple of the names has them in runs: beams and returned sequences repeat each row.
        """
        chosen = self._in_use()
        if chosen is None or isinstance(chosen, str):
            return {chosen: None}
        if batch % len(chosen):
            raise ConfigError(
                f"using(model, [...]) names {len(chosen)} rows but the batch has {batch}; expected one name for each "
                "row, or one name for the whole batch"
            )
        if len(set(chosen)) == 1:
            return {chosen[0]: None}
        names = [chosen[row * len(chosen) // batch] for row in range(batch)]
        # In one expression, because torch.compile loses what is appended to a list in a dict.
        return {name: [row for row in range(batch) if names[row] == name] for name in dict.fromkeys(names)}

    def groups(self, batch: int, device: torch.device) -> list[Group]:
        """The prefixes in use and their rows, for the seam."""
        return [
            Group(None if name is None else self.get(name), None if rows is None else torch.tensor(rows, device=device))
            for name, rows in self.row_names(batch).items()
        ]

    def head_rows(self, name: str, batch: int) -> list[tuple[nn.Module | None, list[int]]]:
        """The head of each row at one place in the model; None is the model's own."""
        return [
            (None if prefix is None else dict(self.heads_of(prefix).items()).get(name), rows or [])
            for prefix, rows in self.row_names(batch).items()
        ]

    def keep_names(self) -> None:
        """Put our attention names back where they went missing: another model with the same config was detached."""
        for config, own, ours in self.configs:
            if config._attn_implementation_internal == own:
                config._attn_implementation_internal = ours


def _inner_key(name: str) -> str:
    """A prefix's key in a ModuleDict, which reserves some names for itself ('keys', 'items', ...)."""
    return f"prefix_{name}"


def _outer_name(key: str) -> str:
    return key.removeprefix("prefix_")


def check_name(name: str) -> str:
    """`name`, if it can be a folder's name and cannot leave its folder."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", name):
        raise ConfigError(
            f"{name!r} cannot name a prefix; expected letters, digits, '-' and '_' (at most 128), e.g. 'e2e'"
        )
    return name


def bank_of(model: nn.Module) -> Bank:
    """The bank of an attached model. Raises ConfigError when nothing is attached."""
    bank = model._modules.get(BANK)
    if not isinstance(bank, Bank):
        raise ConfigError(f"{type(model).__name__} has no prefix attached; call attach(model, method) or load first")
    return bank


def base_size(model: nn.Module) -> int:
    """How many parameters a model has beside its prefixes and their heads."""
    return sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith(f"{BANK}."))


def names_in(model: nn.Module) -> list[str]:
    """The names of the prefixes in `model`; none when nothing is attached."""
    bank = model._modules.get(BANK)
    return bank.names if isinstance(bank, Bank) else []
