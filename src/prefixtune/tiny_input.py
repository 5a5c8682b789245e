"""A tiny input that any model takes, and its forward: what is measured and proved is measured and proved on it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from prefixtune.errors import ModelError, PrefixtuneError

FAILURES = (PrefixtuneError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a forward raises on an input that its model cannot take."""


def is_encoder_decoder(model: PreTrainedModel) -> bool:
    """Whether `model` has both stacks. The config alone does not tell: BART's and UMT5's encoders share it."""
    if not model.config.is_encoder_decoder:
        return False
    forwards = [vars(kind)["forward"] for kind in type(model).__mro__ if "forward" in vars(kind)]
    return any("decoder_input_ids" in inspect.signature(forward).parameters for forward in forwards)  # one may hide it


@contextmanager
def quiet_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, the random state untouched, each module's training flag put back."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def tiny_inputs(model: PreTrainedModel, length: int = 3) -> dict[str, Tensor]:
    """The smallest input `model` runs on: `length` tokens (an encoder-decoder's decoder gets one fewer), or an image.

    Unequal lengths tell cross-attention from self-attention at the seam.
    """
    name, device, config = model.main_input_name, model.device, model.config
    if name == "input_ids":
        text = config.get_text_config()
        ids = (torch.arange(length, device=device) % min(text.vocab_size, 5)).view(1, length)
        ids[0, -1] = _end_of_text(text)  # BART's classifier reads the state of the end-of-text token
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    elif name == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = vision.image_size
        height, width = (size, size) if isinstance(size, int) else size
        inputs = {name: torch.zeros(1, vision.num_channels, height, width, device=device, dtype=model.dtype)}
    elif name == "input_features" and config.is_encoder_decoder:
        frames = 2 * config.max_source_positions
        inputs = {name: torch.zeros(1, config.num_mel_bins, frames, device=device, dtype=model.dtype)}
    elif name in model.dummy_inputs:
        inputs = {key: value.to(device) for key, value in model.dummy_inputs.items()}
    else:
        raise ModelError(
            f"{type(model).__name__} reads {name!r}, for which no tiny input is known; "
            "expected input_ids, pixel_values or input_features"
        )
    if is_encoder_decoder(model):
        inputs["decoder_input_ids"] = torch.ones(1, length - 1, dtype=torch.long, device=device)
    return inputs


def _end_of_text(config: PreTrainedConfig) -> int:
    end = getattr(config, "eos_token_id", None)  # MobileBERT's knows of none
    first = end[0] if isinstance(end, list) else end
    return first if isinstance(first, int) and 0 <= first < config.vocab_size else 0


def run_tiny(model: PreTrainedModel) -> Any:
    """The output of `model` on its tiny input, in evaluation mode."""
    with quiet_evaluation(model):
        return _body(model)(**tiny_inputs(model))


def _body(model: PreTrainedModel) -> nn.Module:
    """A classifier on an encoder-decoder makes the decoder's text itself, as long as the encoder's: there, the base."""
    return model.base_model if is_encoder_decoder(model) and model.get_output_embeddings() is None else model


def some_token(model: PreTrainedModel) -> int:
    """The plainest of the first tokens: a padding token's embedding may be all zeros, which tells nothing."""
    embedding = model.get_input_embeddings()
    return int(embedding.weight[:64].abs().sum(-1).argmax()) if isinstance(embedding, nn.Embedding) else 1


def run_alike(model: PreTrainedModel) -> Any:
    """The output of `model` on five times the same token (or an image of one colour), in evaluation mode."""
    inputs = tiny_inputs(model, length=5)
    token = some_token(model)
    alike = {name: torch.full_like(x, token) if name.endswith("input_ids") else x for name, x in inputs.items()}
    with quiet_evaluation(model):
        return _body(model)(**alike)
