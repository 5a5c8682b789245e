"""Tiny random base models with tokenizers, on disk as a user's model would be, and toy data that they can learn."""

from __future__ import annotations

import csv
import json
import random
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
CHARACTERS = string.ascii_letters + string.digits + string.punctuation


def letter_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """One token a letter; words split at spaces; `[CLS] a [SEP] b [SEP]`, as BERT writes them."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        **options,
    )  # fmt: skip


def byte_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """One token a byte; no text is lost."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<end>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", **options)


def encoder(folder: Path, **options: Any) -> str:
    """A BERT of two layers."""
    tokenizer = letter_tokenizer(model_max_length=64)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    shape |= {"initializer_range": 0.3, "max_position_embeddings": 64}  # wide weights, so that inputs differ inside
    config = BertConfig(vocab_size=len(tokenizer), **(shape | options))
    return _saved(BertModel, config, tokenizer, folder)


def decoder(folder: Path, **options: Any) -> str:
    """A GPT-2 of two layers that has no pad token, as GPT-2 has none."""
    tokenizer = byte_tokenizer()
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=0, **(shape | options))
    return _saved(GPT2LMHeadModel, config, tokenizer, folder)


def llama(folder: Path) -> str:
    """A Llama of two layers with grouped heads."""
    tokenizer = byte_tokenizer(pad_token="<pad>")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, bos_token_id=None, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    return _saved(LlamaForCausalLM, config, tokenizer, folder)


def encoder_decoder(folder: Path) -> str:
    """A BART of two layers each."""
    tokenizer = byte_tokenizer(pad_token="<pad>")
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=96, bos_token_id=0,
        eos_token_id=0, pad_token_id=1, decoder_start_token_id=0, forced_eos_token_id=None, forced_bos_token_id=None,
    )  # fmt: skip
    return _saved(BartForConditionalGeneration, config, tokenizer, folder)


def _saved(kind: Any, config: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def first_letter(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Classification: a text of one letter over and over is `low` when the letter is of a to d, else `high`."""
    draw = random.Random(seed)
    letters = [draw.choice("abcdwxyz") for _ in range(count)]
    return [{"text": letter * draw.randint(1, 6), "label": "low" if letter <= "d" else "high"} for letter in letters]


def capitals(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Tagging: capital letters are names of one word."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        tokens = [draw.choice("ABCwxyz") * draw.randint(1, 2) for _ in range(draw.randint(3, 8))]
        rows.append({"tokens": tokens, "tags": ["B-NAME" if token[0] in "ABC" else "O" for token in tokens]})
    return rows


def doubled(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Text to text: a letter answers with itself twice."""
    draw = random.Random(seed)
    letters = [draw.choice("abcd") for _ in range(count)]
    return [{"source": letter, "target": letter * 2} for letter in letters]


def place(folder: Path) -> Path:
    """Two base models, and tiny data in the files of CoNLL-2004 and E2E."""
    encoder(folder / "bert")
    decoder(folder / "gpt2", initializer_range=0.3, n_positions=160)
    (folder / "conll04").mkdir()
    (folder / "e2e").mkdir()
    for number, split in enumerate(("train", "dev", "test")):
        rows = capitals(40 if split == "train" else 12, number)
        for row in rows:
            row["tags"] = ["U-Peop" if tag != "O" else tag for tag in row["tags"]]
        (folder / "conll04" / f"conll04_{split}.json").write_text(json.dumps(rows))
    for number, name in enumerate(("trainset", "devset", "testset_w_refs")):
        draw = random.Random(number)
        with open(folder / "e2e" / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["mr", "ref"])
            for _ in range(40 if name == "trainset" else 6):
                dish, shop = draw.choice("abcd"), draw.choice("wxyz")
                writer.writerow([f"name[{shop}], food[{dish}]", f"{shop} has {dish}"])
    return folder
