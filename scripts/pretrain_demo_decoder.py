"""Pretrain the small decoder that the demo ships: a tokenizer and a Llama of 1.4 million parameters.

    python scripts/pretrain_demo_decoder.py --output src/prefixtune/demo/decoder

It reads nothing: the text comes from prefixtune.demo.world. The script prints two facts that do not depend on the
machine's speed: the held-out loss in nats a token (documents about places whose names were never trained on) and the
loss of a uniform guess, ln(vocabulary). The seed is fixed; on one machine, with one number of threads, two runs give
the same weights, while another processor may round differently and move the loss by a few thousandths.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from prefixtune.demo.world import documents
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 0
VOCABULARY = 1408
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE (any text can be written in it), with <s> before every text as Llama has it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(itertools.islice(documents(SEED), 20_000), trainer)
    bos = (BOS, bpe.token_to_id(BOS))
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=BOS, eos_token=EOS, model_max_length=512, padding_side="left"
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def blocks(tokenizer: PreTrainedTokenizerFast, seed: int, length: int, held_out: bool = False) -> Iterator[list[int]]:
    """Documents end to end, `<s> ... </s> <s> ...`, cut into blocks of `length` tokens."""
    stream: list[int] = []
    for document in documents(seed, held_out):
        stream += [*tokenizer(document).input_ids, tokenizer.eos_token_id]
        while len(stream) >= length:
            yield stream[:length]
            stream = stream[length:]


def batches(rows: Iterator[list[int]], size: int) -> Iterator[torch.Tensor]:
    while True:
        yield torch.tensor(list(itertools.islice(rows, size)))


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, length: int) -> float:
    """Mean loss in nats a token over 64 blocks about places with held-out names."""
    model.eval()
    rows = batches(blocks(tokenizer, SEED + 1, length, held_out=True), 16)
    losses = [model(input_ids=ids, labels=ids).loss.item() for ids in itertools.islice(rows, 4)]
    model.train()
    return sum(losses) / len(losses)


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps, pct_start=0.05, cycle_momentum=False
    )
    start = time.monotonic()
    data = batches(blocks(tokenizer, SEED + 2, args.length), args.batch)
    for step, ids in enumerate(itertools.islice(data, args.steps), 1):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.monotonic() - start:.0f} s", flush=True)
        if step % 500 == 0 or step == args.steps:
            print(f"  held out {held_out_loss(model, tokenizer, args.length):.4f}", flush=True)


def write(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, facts: dict[str, object], folder: Path) -> None:
    """Weights in float16, tokenizer, config and the facts; the folder appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    model.half().save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    (draft / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n")
    draft.chmod(0o755)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(draft, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the folder to write; replaced if it exists")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16, help="blocks a step")
    parser.add_argument("--length", type=int, default=256, help="tokens a block")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = train_tokenizer()
    model = new_model(tokenizer)
    pretrain(model, tokenizer, args)
    facts = {
        "parameters": model.num_parameters(),
        "tokens": args.steps * args.batch * args.length,
        "held_out_loss": round(held_out_loss(model, tokenizer, args.length), 4),
        "uniform_loss": round(math.log(len(tokenizer)), 4),
        "seed": SEED,
    }
    write(model, tokenizer, facts, args.output)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
