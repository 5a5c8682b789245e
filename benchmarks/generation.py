"""Generating for a whole test set: `python benchmarks/generation.py --model DECODER --data E2E`.

The measured case is E2E's test set: 630 meaning representations, beam 5. Every way generates exactly the same number of
tokens for the same prompts; ways run interleaved in random order, one part of the test set a round, and a ratio is that
of the times of one round, to the bare model and to each peer under the same number of beams. Ways:

- *bare model* and *P-Tuning v2*, *APT*: prefixtune's search, as `prefixtune evaluate` and `generate` run it: prompts of
  similar length in one batch, each prompt read once for all its beams;
- *transformers*, *PEFT prefix* and *PEFT LoRA* (r=8, not merged): `model.generate` over the prompts in their order in
  the file; a fully fine-tuned model generates as the bare one;
- *static cache*: prefixtune's batches, with transformers' static cache instead of the growing one;
- *compiled*: the same under torch.compile, once that has compiled what it needs;
- *adapters prefix*, with `--adapters PYTHON`: `model.generate` of that library, and beside it the bare model under the
  older transformers that it needs (`adapters_peer.py`).

Time is that of the processor, on one thread, float32; the table has medians over rounds.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import adapters_peer
import peft
import report
import torch
import transformers as tf
from clock import timed

import prefixtune as pt
from prefixtune.tasks import Decoding, Window
from prefixtune.tasks.decoding import generate_batch, padded
from prefixtune.tasks.task import batches_by_length

SECTION = "Generation"
BARE = "bare model"
PEERS = ["PEFT prefix", "PEFT LoRA", "bare model, transformers"]
COMPILED = "P-Tuning v2, compiled"
NEW, PART = 40, 126  # five parts of the test set

Prompts = list[list[int]]
Way = Callable[[Prompts, Decoding], float]
"""Answers prompts, and returns processor seconds."""


def prompts_of(data: Path, tokenizer: Any) -> Prompts:
    """The different meaning representations of E2E's test set, as token ids."""
    with open(data / "testset_w_refs.csv", encoding="utf-8-sig", newline="") as file:
        sources = dict.fromkeys(row["mr"] for row in csv.DictReader(file))
    ids = [tokenizer(f"{source}\n")["input_ids"] for source in sources]
    return [prompt[:-1] if prompt[-1] == tokenizer.eos_token_id else prompt for prompt in ids]


def searched(model: Any, tokenizer: Any, decoding: Decoding, rows: int, prompts: Prompts, **options: Any) -> None:
    """prefixtune's own search."""
    for batch in batches_by_length([{"input_ids": prompt} for prompt in prompts], rows):
        generate_batch(model, tokenizer, [prompts[row] for row in batch], Window(), decoding)


def plain(
    model: Any,
    tokenizer: Any,
    decoding: Decoding,
    rows: int,
    prompts: Prompts,
    *,
    by_length: bool = False,
    **options: Any,
) -> None:
    """transformers' `generate` on padded batches."""
    order = list(range(len(prompts)))
    batches = [order[start : start + rows] for start in range(0, len(order), rows)]
    if by_length:
        batches = list(batches_by_length([{"input_ids": prompt} for prompt in prompts], rows))
    for batch in batches:
        ids, mask = padded([prompts[row] for row in batch], tokenizer.pad_token_id, left=True)
        model.generate(
            input_ids=ids, attention_mask=mask, num_beams=decoding.beams, max_new_tokens=decoding.max_new_tokens,
            do_sample=False, pad_token_id=tokenizer.pad_token_id, **options,
        )  # fmt: skip


def ways(load: Callable[[], Any], length: int) -> dict[str, tuple[Callable[..., None], Any, dict[str, Any]]]:
    """Every way: how it generates, its model and its options."""
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
    ours = pt.attach(load(), pt.PTuningV2(length=length)).eval()
    gated = pt.attach(load(), pt.AdaptivePrefix(length=length)).eval()
    static = {"by_length": True, "cache_implementation": "static"}
    compiled = tf.CompileConfig(fullgraph=False, mode="default")  # with breaks: the seam looks at each forward
    compiled._compile_all_devices = True  # type: ignore[assignment]  # transformers compiles on GPUs alone, unless it is told otherwise
    return {
        BARE: (searched, load(), {}),
        "P-Tuning v2": (searched, ours, {}),
        "APT": (searched, gated, {}),
        "P-Tuning v2, transformers": (plain, ours, {}),
        "P-Tuning v2, static cache": (plain, ours, static),
        COMPILED: (plain, ours, {**static, "compile_config": compiled}),
        "bare model, transformers": (plain, load(), {}),
        "PEFT prefix": (plain, peft.get_peft_model(load(), config).eval(), {}),
        "PEFT LoRA": (plain, peft.get_peft_model(load(), peft.LoraConfig(task_type="CAUSAL_LM", r=8)).eval(), {}),
    }


def local_ways(given: argparse.Namespace, tokenizer: Any) -> dict[str, Way]:
    """Every way that runs in this interpreter."""

    def way(run: Callable[..., None], model: Any, options: dict[str, Any]) -> Way:
        def answer(prompts: Prompts, decoding: Decoding) -> None:
            with torch.no_grad():
                run(model, tokenizer, decoding, given.rows, prompts, **options)

        return timed(answer)

    return {name: way(*parts) for name, parts in ways(partial(_loaded, given.model), given.length).items()}


def foreign_ways(workers: dict[str, adapters_peer.Worker], given: argparse.Namespace, tokenizer: Any) -> dict[str, Way]:
    """`generate` in the `adapters` library's interpreters."""

    def way(worker: adapters_peer.Worker, prefixes: int) -> Way:
        worker.begin("generating", folder=given.model, length=given.length, rows=given.rows, prefixes=prefixes)
        tokens = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": tokenizer.pad_token_id}

        def answer(prompts: Prompts, decoding: Decoding) -> float:
            return float(worker.ask({"prompts": prompts, "options": tokens | {"num_beams": decoding.beams}}))

        return answer

    return {name: way(worker, prefixes) for prefixes, (name, worker) in enumerate(workers.items())}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a decoder")
    parser.add_argument("--data", required=True, type=Path, help="folder of E2E's CSV files")
    parser.add_argument("--length", type=int, default=10, help="prefix length")
    parser.add_argument("--rows", type=int, default=32, help="prompts a batch")
    parser.add_argument("--beams", type=int, nargs="*", default=(1, 5), help="beams of the search")
    parser.add_argument("--parts", type=int, default=5, help="how many fifths of the test set, a round each")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()
    tokenizer = tf.AutoTokenizer.from_pretrained(given.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = prompts_of(given.data, tokenizer)
    tokenizer.eos_token = None  # so that no answer ends before its last token
    with ExitStack() as opened:
        workers = adapters_peer.bare_and_prefixed(given.adapters, opened)
        every = local_ways(given, tokenizer) | foreign_ways(workers, given, tokenizer)
        tables = [_table(every, prompts, beams, given.parts) for beams in given.beams]
    intro = (
        f"`python benchmarks/generation.py`: {len(prompts)} prompts, {NEW} tokens each, batches of {given.rows}, "
        f"P={given.length}, {Path(given.model).name}. {report.machine()}\n\n{adapters_peer.remark(given.adapters)}"
    )
    report.finish(SECTION, intro + "\n".join(tables), parser, given, ("model", "data"))


def _loaded(model: str) -> Any:
    """The decoder, without an end: it generates exactly `NEW` tokens whatever it answers."""
    decoder = tf.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    decoder.generation_config.eos_token_id = None
    return decoder


def _table(every: dict[str, Way], prompts: Prompts, beams: int, parts: int) -> str:
    decoding, order = Decoding(beams=beams, max_new_tokens=NEW), random.Random(0)
    found: list[dict[str, float]] = []
    for _ in range(2):  # the first run compiles, the second for other shapes
        every[COMPILED](prompts[:PART], decoding)
    for name in {adapters_peer.BARE, adapters_peer.NAME} & set(every):
        every[name](prompts[:1], decoding)  # loads what is imported on first use
    for part in range(parts):
        chosen = prompts[part * PART : (part + 1) * PART]
        found.append({name: every[name](chosen, decoding) for name in order.sample(list(every), len(every))})
    lines, compared = [], [BARE, *PEERS, *({adapters_peer.NAME} & set(every))]
    for name in every:
        speed = PART * NEW / statistics.median(taken[name] for taken in found)
        lines.append([name, f"{speed:.0f}", *report.versus(found, name, compared)])
        print(beams, *lines[-1], sep="\t", flush=True)
    head = ["way", "tokens/s", f"/ {BARE}, or full fine-tuning", *(f"/ {name}" for name in compared[1:])]
    return f"### {beams} beam{'s' if beams > 1 else ''}\n\n" + report.table(head, lines)


if __name__ == "__main__":
    main()
