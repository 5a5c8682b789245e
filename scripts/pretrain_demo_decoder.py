"""Pretrain the small decoder that the demo ships: a tokenizer and a Llama of a million parameters.

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
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefixtune.demo.world import documents, new_place, record

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
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.08,  # 1 / sqrt(width); at the usual 0.02 so narrow a model learns to copy far later
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


@torch.no_grad()
def copying(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 64) -> float:
    """How often the model's best guess is right, inside held-out names that it reads for the second time."""
    rng = random.Random(SEED + 3)
    right = total = 0
    for _ in range(count):
        place = new_place(rng, held_out=True)
        known, again = record(place, rng) + "\nname: The", place.name.removeprefix("The")
        start, tail = tokenizer(known).input_ids, tokenizer(again, add_special_tokens=False).input_ids
        guesses = model(input_ids=torch.tensor([start + tail])).logits[0, len(start) - 1 : -1].argmax(-1).tolist()
        right += sum(guess == token for guess, token in zip(guesses, tail, strict=True))
        total += len(tail)
    return right / total


class Steps:
    """Optimisers and their schedules over `total` steps, up to the rate `lr` and down again.

    Muon for the matrices: a small model learns to copy from a record in half the steps that AdamW takes. AdamW for the
    rest, embeddings among it.
    """

    def __init__(self, model: torch.nn.Module, lr: float, total: int) -> None:
        self.model = model
        apart = {name for name, p in model.named_parameters() if p.ndim != 2 or re.search("embed|shared", name)}
        matrices = [p for name, p in model.named_parameters() if name not in apart]
        others = [p for name, p in model.named_parameters() if name in apart]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.schedules = [
            torch.optim.lr_scheduler.OneCycleLR(o, lr, total_steps=total, pct_start=0.05, cycle_momentum=False)
            for o in self.optimizers
        ]

    def step(self, loss: torch.Tensor) -> None:
        """One step down this loss."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    steps, start = Steps(model, args.lr, args.steps), time.monotonic()
    data = batches(blocks(tokenizer, SEED + 2, args.length), args.batch)
    for step, ids in enumerate(itertools.islice(data, args.steps), 1):
        loss = model(input_ids=ids, labels=ids).loss
        steps.step(loss)
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.monotonic() - start:.0f} s", flush=True)
        if step % 250 == 0 or step == args.steps:
            loss, copied = held_out_loss(model, tokenizer, args.length), copying(model, tokenizer)
            print(f"  held out: loss {loss:.4f}, name tokens copied {copied:.2f}", flush=True)


def write(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, facts: dict[str, object], folder: Path) -> None:
    """Weights in float16, tokenizer, config and the facts; the folder appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    model.half().save_pretrained(draft)
    model.config.dtype = torch.float32  # what `dtype="auto"` computes in, whatever the file stores
    model.config.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    (draft / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n")
    draft.chmod(0o755)
    for file in draft.iterdir():
        file.chmod(0o644)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(draft, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the folder to write; replaced if it exists")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=8, help="blocks a step")
    parser.add_argument("--length", type=int, default=256, help="tokens a block")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = train_tokenizer()
    model = new_model(tokenizer)
    pretrain(model, tokenizer, args)
    facts = {
        "parameters": model.num_parameters(),
        "tokens": args.steps * args.batch * args.length,
        "held_out_loss": round(held_out_loss(model, tokenizer, args.length), 4),
        "held_out_name_tokens_copied": round(copying(model, tokenizer), 4),
        "uniform_loss": round(math.log(len(tokenizer)), 4),
        "seed": SEED,
    }
    write(model, tokenizer, facts, args.output)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
