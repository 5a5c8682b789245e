"""Pretrain a small base model on text about things and papers, for measuring: never on E2E.

    python scripts/pretrain_base.py --data DIR --kind decoder --start DECODER --output OUT
    python scripts/pretrain_base.py --data DIR --kind encoder-decoder --output OUT

DIR holds `webnlg2017` and `scitldr`; of both only the training part is read. A decoder goes on from the weights of
`--start` (its own tokenizer is kept) or begins anew; it reads documents end to end. WebNLG's are a record and its text,
the record written in one of three ways by chance, so that the model learns that records are told, not one notation. An
encoder-decoder (BART, three layers each) begins anew and repairs documents: three words in ten are hidden, in runs of
about three, each run behind one mask (text infilling, Lewis et al. 2020, section 2.2).

What comes out is called self-pretrained wherever it is measured; the weights inherit the licences of data and start.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pretrain_demo_decoder import BOS, EOS, PAD, Steps, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from prefixtune import corpora

SEED, VOCABULARY, MASK, IGNORED = 0, 6000, "<mask>", -100
HIDDEN_SHARE, RUN, POOL = 0.3, 3.0, 16


def facts_of(source: str) -> list[tuple[str, str, str]]:
    """The triples of a WebNLG source `| s : p : o | s : p : o`, their names as words."""
    parts = (fact.strip().split(" : ", 2) for fact in source.removeprefix("|").split(" | "))
    return [(_words(s), _camel(p), _words(o)) for s, p, o in parts]


def _words(name: str) -> str:
    return name.strip('"').replace("_", " ")


def _camel(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ")).lower()


def record(source: str, rng: random.Random) -> str:
    """The facts in any order, in one of three notations; the third for facts about one thing only."""
    facts = facts_of(source)
    rng.shuffle(facts)
    subjects = {subject for subject, _, _ in facts}
    notation = rng.randrange(3 if len(subjects) == 1 else 2)
    if notation == 0:
        return " ".join(f"| {s} : {p} : {o}" for s, p, o in facts)
    if notation == 1:
        return " | ".join(f"{s}, {p} : {o}" for s, p, o in facts)
    return ", ".join([f"name[{facts[0][0]}]", *(f"{p}[{o}]" for _, p, o in facts)])


def documents(data: Path, seed: int) -> Iterator[str]:
    """Documents without end, WebNLG's and SciTLDR's in turn as often as they are there, each pass in a new order."""
    triples = corpora.find("webnlg").read(str(data / "webnlg2017")).train.rows
    papers = corpora.find("scitldr").read(str(data / "scitldr")).train.rows
    rng = random.Random(seed)
    while True:
        rows = [*((row, True) for row in triples), *((row, False) for row in papers)]
        rng.shuffle(rows)
        for row, told in rows:
            head = record(row["source"], rng) if told else row["source"]
            tail = row["target"] if isinstance(row["target"], str) else rng.choice(row["target"])
            yield f"{head}\n{tail}"


def new_tokenizer(data: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE of this text, each text between <s> and </s>."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, BOS, EOS, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(itertools.islice(documents(data, SEED), 20_000), trainer)
    ends = [(token, bpe.token_to_id(token)) for token in (BOS, EOS)]
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=BOS, eos_token=EOS, mask_token=MASK, model_max_length=512
    )


def new_decoder(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=2, initializer_range=0.07, max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def new_encoder_decoder(tokenizer: PreTrainedTokenizerFast) -> BartForConditionalGeneration:
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=192, encoder_layers=3, decoder_layers=3, encoder_attention_heads=6,
        decoder_attention_heads=6, encoder_ffn_dim=768, decoder_ffn_dim=768, max_position_embeddings=512, dropout=0.0,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=None, forced_bos_token_id=None,
        init_std=0.07,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def hidden(words: list[str], rng: random.Random) -> str:
    """The words with about three in ten hidden, in runs whose length is about three; a run is one mask."""
    found, place = [], 0
    while place < len(words):
        if rng.random() < HIDDEN_SHARE / RUN:
            place += max(1, round(rng.expovariate(1 / RUN)))
            found.append(MASK)
        else:
            found.append(words[place])
            place += 1
    return " ".join(found)


def blocks(tokenizer: Any, texts: Iterator[str], length: int) -> Iterator[list[int]]:
    """Documents end to end, cut into blocks of `length` tokens."""
    stream: list[int] = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        stream += ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]
        while len(stream) >= length:
            yield stream[:length]
            stream = stream[length:]


def decoder_batches(tokenizer: Any, data: Path, seed: int, args: argparse.Namespace) -> Iterator[dict[str, Tensor]]:
    rows = blocks(tokenizer, documents(data, seed), args.length)
    while True:
        ids = torch.tensor(list(itertools.islice(rows, args.batch)))
        yield {"input_ids": ids, "labels": ids}


def of_similar_length(texts: Iterator[str], size: int, rng: random.Random) -> Iterator[list[str]]:
    """Batches from pools of `POOL` of them, in random order: papers are ten times as long as facts."""
    while True:
        pool = sorted(itertools.islice(texts, POOL * size), key=len)
        batches = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches


def repair_batches(tokenizer: Any, data: Path, seed: int, args: argparse.Namespace) -> Iterator[dict[str, Tensor]]:
    rng = random.Random(seed)
    for clean in of_similar_length(documents(data, seed), args.batch, rng):
        options = {"padding": True, "truncation": True, "max_length": args.length, "return_tensors": "pt"}
        broken = tokenizer([hidden(text.split(" "), rng) for text in clean], **options)
        labels = tokenizer(clean, **options)["input_ids"]
        labels[labels == tokenizer.pad_token_id] = IGNORED
        yield {"input_ids": broken["input_ids"], "attention_mask": broken["attention_mask"], "labels": labels}


def pretrain(model: Any, batches: Iterator[dict[str, Tensor]], args: argparse.Namespace) -> float:
    """Train for `args.steps` steps; the mean loss of the last tenth, in nats a token."""
    steps = Steps(model, args.lr, args.steps)
    model.train()
    losses, start = [], time.monotonic()
    for step, batch in enumerate(itertools.islice(batches, args.steps), 1):
        loss = model(**batch).loss
        steps.step(loss)
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step} loss {sum(losses[-50:]) / 50:.3f} {time.monotonic() - start:.0f} s", flush=True)
    last = losses[-max(len(losses) // 10, 1) :]
    return sum(last) / len(last)


def main() -> None:
    """Pretrain, and write the model with the facts of its making."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with webnlg2017 and scitldr")
    parser.add_argument("--kind", choices=("decoder", "encoder-decoder"), required=True)
    parser.add_argument("--start", help="a decoder to go on from")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write; replaced if it exists")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16, help="blocks or documents a step")
    parser.add_argument("--length", type=int, default=256, help="the most tokens of a block or document")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.start and args.kind != "decoder":
        parser.error("--start goes with --kind decoder")
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(args.start) if args.start else new_tokenizer(args.data)
    if args.kind == "encoder-decoder":
        model: Any = new_encoder_decoder(tokenizer)
        batches = repair_batches(tokenizer, args.data, SEED + 1, args)
    else:
        model = AutoModelForCausalLM.from_pretrained(args.start) if args.start else new_decoder(tokenizer)
        batches = decoder_batches(tokenizer, args.data, SEED + 1, args)
    loss = pretrain(model, batches, args)
    facts = {
        "kind": args.kind, "start": args.start and Path(args.start).name, "parameters": model.num_parameters(),
        "steps": args.steps, "batch": args.batch, "length": args.length, "loss": round(loss, 4),
        "uniform_loss": round(math.log(len(tokenizer)), 4), "text": "WebNLG 2017 and SciTLDR, training parts",
        "seed": SEED,
    }  # fmt: skip
    write(model, tokenizer, facts, args.output)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
