"""FT-top: fine-tuning of the top blocks, of what comes after them, and of the head (FT-Top2 in Li & Liang 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefixtune.errors import ConfigError
from prefixtune.tiny_input import is_encoder_decoder, run_tiny
from prefixtune.training.baseline import Baseline, blocks, measured


@dataclass(kw_only=True)
class TopFineTuning(Baseline):
    """The top blocks and all that follows: a final norm, the head, or a language model's output embeddings.

    Output embeddings that are tied to the input are trained as the input's, as the authors' code does.
    """

    blocks: int = 2
    """How many of the top blocks are trained (an encoder-decoder's: of the decoder)."""

    def insert(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        layers = measured(model).layers
        if is_encoder_decoder(model):
            layers = tuple(layer for layer in layers if layer.site == "decoder")
        paths = list(blocks(layers))
        if not 1 <= self.blocks <= len(paths):
            raise ConfigError(f"blocks={self.blocks}: {type(model).__name__} has {len(paths)}; expected 1 to that many")
        for path in paths[-self.blocks :]:
            model.get_submodule(path).requires_grad_(True)
        for module in _run_after(model, paths):
            module.requires_grad_(True)
        output = model.get_output_embeddings()
        if output is not None:
            output.requires_grad_(True)


def _run_after(model: PreTrainedModel, paths: Sequence[str]) -> list[nn.Module]:
    """The modules that run after the last block, beside the list of blocks or further out: a norm, a pooler."""
    parts = paths[-1].split(".")
    around = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]  # of the last block
    last = model.get_submodule(paths[-1])
    beside = [child for module in around[:-1] for child in module.children() if all(child is not x for x in around)]
    ran: list[nn.Module] = []
    handles = [
        module.register_forward_hook(lambda module, args, output: ran.append(module)) for module in (*beside, last)
    ]
    try:
        run_tiny(model)
    finally:
        for handle in handles:
            handle.remove()
    ended = max(place for place, module in enumerate(ran) if module is last)  # layers may share one block
    return ran[ended + 1 :]
