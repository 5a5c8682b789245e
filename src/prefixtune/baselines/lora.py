"""LoRA: low-rank updates of the attention's projections, by PEFT (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from prefixtune.errors import ConfigError
from prefixtune.training.baseline import Budgeted, share_units

_MORE_DEFAULTS = {
    "albert": ("query", "value"),
    "camembert": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
    "modernbert": ("Wqkv",),
    "pegasus": ("q_proj", "v_proj"),
    "mbart": ("q_proj", "v_proj"),
}
"""Queries and values, as in PEFT's table, where it has no such architecture."""


@dataclass(kw_only=True)
class Lora(Budgeted):
    """PEFT's LoRA, put into the model in place. The rank is given, or solved for the budget."""

    rank: int | None = None
    """Rank of every update. Default: what the budget pays for; what is left makes the top layers one larger."""

    scaling: int = 2
    """Factor of every update: alpha / rank."""

    dropout: float = 0.0
    """Dropout on the input of every update while training."""

    targets: Sequence[str] | None = None
    """Names of the modules that are updated, e.g. q_proj,v_proj. Default: PEFT's for the architecture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"rank={self.rank}: expected at least 1")

    def insert(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if importlib.util.find_spec("peft") is None:
            raise ConfigError("lora is PEFT's: pip install 'prefixtune[export]'")
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import cast_adapter_dtype

        found = self._modules(model)
        costs = [sum(module.weight.shape) for module in found.values()]
        units = [self.rank] * len(costs) if self.rank else share_units(costs, self.budget(model), "a LoRA")
        ranks = {name: rank for name, rank in zip(found, units, strict=True) if rank}
        common = min(ranks.values())
        config = LoraConfig(
            r=common,
            lora_alpha=self.scaling * common,
            rank_pattern={name: rank for name, rank in ranks.items() if rank != common},
            alpha_pattern={name: self.scaling * rank for name, rank in ranks.items() if rank != common},
            lora_dropout=self.dropout,
            target_modules=list(ranks),
            fan_in_fan_out=any(isinstance(found[name], Conv1D) for name in ranks),
        )
        inject_adapter_in_model(config, model)
        cast_adapter_dtype(model, "default")  # to float32 from 16 bits, as PEFT does where it makes the model

    def _modules(self, model: PreTrainedModel) -> dict[str, nn.Linear | Conv1D]:
        """The target modules by path, in the order of the model."""
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

        kind = model.config.model_type
        endings = self.targets or DEFAULTS.get(kind) or _MORE_DEFAULTS.get(kind)
        if endings is None:
            raise ConfigError(
                f"no default LoRA targets are known for {kind!r}; name them in Python: Lora(targets=['q_proj', ...])"
            )
        after_dot = tuple(f".{ending}" for ending in endings)
        found = {
            path: module
            for path, module in model.named_modules()
            if path.endswith(after_dot) and isinstance(module, nn.Linear | Conv1D)
        }
        if not found:
            raise ConfigError(f"targets: {type(model).__name__} has no linear module called {' or '.join(endings)}")
        return found
