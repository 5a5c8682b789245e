"""The few architectures that need code of their own: one small file each, found by the model's `model_type`.

Such a file routes a model's attention through transformers' attention interface; from there on it is like any other.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from transformers import PreTrainedModel

from prefixtune.geometry import attention_configs


def adapt(model: PreTrainedModel) -> list[Callable[[], object]]:
    """Route the attention of `model` where its own code does not; returns what undoes it, in order."""
    undo: list[Callable[[], object]] = []
    for found in pkgutil.iter_modules(__path__):
        file = importlib.import_module(f"{__name__}.{found.name}")
        if any(config.model_type in file.MODEL_TYPES for config in attention_configs(model)):
            undo += file.route(model)
    return undo
