"""Generation in batches: prompts of similar length together, padded on the left for decoders."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prefixtune.errors import DataError, ModelError
from prefixtune.tasks.task import Decoding, Window, batches_by_length, tell_once

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


def reserve(model: PreTrainedModel, window: Window, decoding: Decoding) -> int:
    """Positions to keep free behind a prompt: room for the answer, but never more than half of what there is."""
    if model.config.is_encoder_decoder or window.positions is None:
        return 0
    return min(decoding.max_new_tokens, window.positions // 2)


def most_new_tokens(model: PreTrainedModel, window: Window, decoding: Decoding, length: int) -> int:
    """The most tokens generated behind a prompt of `length` tokens. Raises DataError where it leaves no room."""
    if model.config.is_encoder_decoder:
        return decoding.max_new_tokens if window.targets is None else min(decoding.max_new_tokens, window.targets)
    if window.positions is None:
        return decoding.max_new_tokens
    most = min(decoding.max_new_tokens, window.positions - length)
    if most < 1:
        raise DataError(
            f"a prompt has {length} tokens, but the model has room for {window.positions} beside the prefix, "
            "the answer included; shorten the prompt or use a shorter prefix"
        )
    return most


def by_room(
    model: PreTrainedModel, window: Window, decoding: Decoding, prompts: Sequence[list[int]], rows: Sequence[int]
) -> list[list[int]]:
    """The rows of a batch by how long their answers may be, so that no answer depends on the prompts beside it."""
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(most_new_tokens(model, window, decoding, len(prompts[row])), []).append(row)
    return list(found.values())


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], window: Window,
    decoding: Decoding, batch_size: int, end: int | None = None,
) -> list[str]:  # fmt: skip
    """One answer a prompt, in the order given. Sampling is seeded, and leaves the global random state as it was."""
    import torch

    training, answers = model.training, [""] * len(prompts)
    model.eval()
    try:
        with seeded(decoding), torch.no_grad():
            for batch in batches_by_length([{"input_ids": prompt} for prompt in prompts], batch_size):
                for rows in by_room(model, window, decoding, prompts, batch):
                    texts = generate_batch(model, tokenizer, [prompts[row] for row in rows], window, decoding, end)
                    for row, text in zip(rows, texts, strict=True):
                        answers[row] = text
    finally:
        model.train(training)
    return answers


@contextlib.contextmanager
def seeded(decoding: Decoding) -> Iterator[None]:
    """Sampling draws from its own seed inside, and the global random state is as it was behind."""
    import torch

    with torch.random.fork_rng(enabled=decoding.sample):
        if decoding.sample:
            torch.manual_seed(decoding.decode_seed)
        yield


def generate_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], window: Window,
    decoding: Decoding, end: int | None = None,
) -> list[str]:  # fmt: skip
    """One answer a prompt, all in one batch, up to the token `end` or another that ends the model's texts.

    All may be as long as the one to the longest prompt (`by_room` says which belong together).
    """
    ids, mask = padded(prompts, tokenizer.pad_token_id, left=not model.config.is_encoder_decoder)
    width = 0 if model.config.is_encoder_decoder else ids.shape[1]
    most = most_new_tokens(model, window, decoding, width)
    generator: Any = model  # generation is a mixin that the base class of all models does not know
    ids, mask = ids.to(model.device), mask.to(model.device)
    ahead = read_once(model, ids, mask, decoding)
    cache = {} if ahead is None else {"past_key_values": ahead}
    options = _generation_options(model, tokenizer, decoding, end)
    out = generator.generate(input_ids=ids, attention_mask=mask, max_new_tokens=most, **cache, **options)
    return [text.strip() for text in tokenizer.batch_decode(answered(out, width, end), skip_special_tokens=True)]


def answered(out: torch.Tensor, width: int, end: int | None) -> list[list[int]]:
    """What was generated behind a prompt of `width` tokens (0: an encoder-decoder's start) and before the end token.

    The end token need not be one that a tokenizer leaves out when it decodes.
    """
    rows: list[list[int]] = out[:, width or 1 :].tolist()
    return [ids[: ids.index(end)] if end in ids else ids for ids in rows]


def ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: int | None) -> list[int]:
    """The tokens that end an answer: the model's own, and what training ended every target with."""
    own: int | list[int] | None = model.generation_config.eos_token_id
    known = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id, end]
    return list(dict.fromkeys(token for token in known if token is not None))


ALIKE = 0.999
"""From which cosine on two tokens have the same output weights, up to their rounding."""


def tell_of_unlearned_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: int) -> None:
    """A warning where the output weights of the end token are those of other tokens too, as in rows never trained.

    Then no hidden state makes the end likelier than they are, so neither a prefix nor a LoRA can learn to stop.
    """
    from torch.nn.functional import cosine_similarity

    head = model.get_output_embeddings()
    if head is None:
        return
    weight = head.weight.detach()
    if end >= len(weight):
        raise ModelError(
            f"the end token {tokenizer.convert_ids_to_tokens(end)!r} has the id {end}, but the model has {len(weight)} "
            "tokens; resize its embeddings or name another as end_token"
        )
    if not weight.is_floating_point():  # quantised
        return
    own = weight[end : end + 1].float()
    # In pieces, because vocabularies are large and 16-bit numbers too coarse for this.
    alike = sum(int((cosine_similarity(some.float(), own) > ALIKE).sum()) for some in weight.split(4096)) - 1
    if alike > 0:
        tell_once(
            f"the base never learned its end token {tokenizer.convert_ids_to_tokens(end)!r}: {alike} other tokens have "
            "the same output weights, so answers will not end; name a token that it ends texts with as end_token"
        )


def read_once(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, decoding: Decoding) -> DynamicCache | None:
    """The cache of all of a prompt `[B, T]` but its last token, a copy for each beam: `[B * beams, G, T - 1, D]`.

    `generate` reads a prompt once for every beam, although the beams part only behind it. None where it may go its own
    way: one beam, a prompt of one token, an encoder-decoder (its encoder runs once anyway), a model that names another
    kind of cache or none.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if decoding.beams == 1 or model.config.is_encoder_decoder or int(mask.sum(1).min()) < 2:
        return None
    wanted = model.generation_config  # of which transformers itself passes over "hybrid"
    if wanted.use_cache is False or wanted.cache_implementation not in (None, "hybrid"):
        return None
    cache = DynamicCache(config=model.config.get_text_config())
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    body = model.base_model
    read = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1], "past_key_values": cache, "use_cache": True}
    if "position_ids" in inspect.signature(body.forward).parameters:  # as `generate` counts: padding does not
        read["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, :-1]
    body(**read)
    cache.batch_repeat_interleave(decoding.beams)
    return cache


NEUTRAL = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": None, "bad_words_ids": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "exponential_decay_length_penalty": None,
    "early_stopping": False, "num_return_sequences": 1, "sequence_bias": None, "guidance_scale": None,
}  # fmt: skip
"""What a base's generation_config.json may ask for and `Decoding` does not say: answers depend on nothing else."""


def _generation_options(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoding: Decoding, end: int | None
) -> dict[str, Any]:
    options: dict[str, Any] = NEUTRAL | {
        "num_beams": decoding.beams, "do_sample": decoding.sample, "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": ends(model, tokenizer, end) or None,
    }  # fmt: skip
    if decoding.beams > 1:
        options["length_penalty"] = decoding.length_penalty
    if decoding.sample:
        options |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0, "min_p": None}
        options |= {"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
    return options


def padded(prompts: Sequence[list[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask `[B, T]`."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if left else slice(0, len(prompt))
        ids[row, place] = torch.tensor(prompt)
        mask[row, place] = 1
    return ids, mask
