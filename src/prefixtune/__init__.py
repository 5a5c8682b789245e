"""prefixtune: adapt a frozen transformer with a prefix, a few learned key/value vectors in every layer.

model = pt.attach(model, pt.PrefixTuning(length=10))
...train...
pt.save(model, "my-prefix")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefixtune.attachment import attach, detach, gates, prefixes, using
    from prefixtune.checkpoint import load, save
    from prefixtune.errors import CheckpointError, ConfigError, DataError, ModelError, PrefixtuneError
    from prefixtune.methods.adaptive import AdaptivePrefix
    from prefixtune.methods.cartridge import Cartridge
    from prefixtune.methods.content import ContentPrefix
    from prefixtune.methods.linear import LinearPrefix
    from prefixtune.methods.p_tuning_v2 import PTuningV2
    from prefixtune.methods.prefix_tuning import PrefixTuning
    from prefixtune.methods.zero_init import ZeroInitPrefix
    from prefixtune.peft_format import from_peft, to_peft

__version__ = "0.1.0"

_HOME = {
    "attach": "attachment",
    "detach": "attachment",
    "gates": "attachment",
    "prefixes": "attachment",
    "using": "attachment",
    "load": "checkpoint",
    "save": "checkpoint",
    "from_peft": "peft_format",
    "to_peft": "peft_format",
    "PrefixtuneError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "ModelError": "errors",
    "AdaptivePrefix": "methods.adaptive",
    "Cartridge": "methods.cartridge",
    "ContentPrefix": "methods.content",
    "LinearPrefix": "methods.linear",
    "PTuningV2": "methods.p_tuning_v2",
    "PrefixTuning": "methods.prefix_tuning",
    "ZeroInitPrefix": "methods.zero_init",
}

__all__ = [
    "AdaptivePrefix",
    "Cartridge",
    "CheckpointError",
    "ConfigError",
    "ContentPrefix",
    "DataError",
    "LinearPrefix",
    "ModelError",
    "PTuningV2",
    "PrefixTuning",
    "PrefixtuneError",
    "ZeroInitPrefix",
    "attach",
    "detach",
    "from_peft",
    "gates",
    "load",
    "prefixes",
    "save",
    "to_peft",
    "using",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import prefixtune` does not import torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'prefixtune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"prefixtune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
