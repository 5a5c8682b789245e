"""Joined or merged: one attention layer both ways, over shapes: `python benchmarks/attention.py`.

The numbers behind `prefixtune.attention.merging_pays`. *Joined* puts the prefix's keys and values in front of the
tokens' and calls the model's own sdpa with a mask (a gate that differs by position: the formula written out); *merged*
is `prefixtune.kernel`. Training is forward and backward of all inputs; decoding is one query a row, without a gradient.

The peers' layers do the same: PEFT's prefix by its own `get_prompt` in a cache in front of the tokens, and that of the
`adapters` library (`--adapters PYTHON`, see `adapters_worker.py`) by its own layer. Neither has a gate, so a gated row
compares with their prefix as it is. In decoding the tokens' cache is there already, in PEFT's case with the prefix in
it; adding a token to it is left out for all (`decoding.py` has it, where PEFT's copies the prefix, too). LoRA's and
full fine-tuning's attention is the model's own, without a prefix.

Times are of the processor on one thread, float32, 8 heads of size 64, medians of interleaved runs; a ratio is to the
model's own attention without a prefix, or to a peer, in the same round. `--dtype bfloat16` measures another dtype into
a section of its own, and `--device cuda` a GPU, by the clock; there, what is chosen is what a trial found.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import product

import adapters_peer
import peft
import report
import torch
import transformers as tf
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from prefixtune import attention
from prefixtune.attention import AttentionCall
from prefixtune.trials import synchronised

HEADS, SIZE = 8, 64
SECTION = "Joined or merged"
TRAINING = [(8, 64), (32, 64), (4, 256), (16, 256), (4, 512), (2, 1024)]
DECODING = list(product((1, 4, 16, 64), (64, 512)))
GATES = ("none", "sequence", "position")
LENGTHS = (16, 128, 512)
PEFT = "PEFT prefix"
ONE_LAYER = {
    "hidden_size": HEADS * SIZE, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": HEADS,
    "vocab_size": 8,
}  # fmt: skip
REMARK = (
    "Joined, merged and the peers are over the attention without a prefix, which is also LoRA's and full "
    "fine-tuning's; the last columns are what is chosen over the peers. These have no gate: beside a gated prefix "
    "stands theirs without one.\n\n"
)

Way = tuple[Callable[[], Tensor], list[Tensor]]
"""How to attend, and the tensors of which it has a gradient."""


def call_of(rows: int, queries: int, keys: int, padded: bool, trained: bool) -> AttentionCall:
    """One call at the seam, its tensors in memory as a Llama's are: queries `[B, T, H, D]`, keys `[B, G, S, D]`."""
    query = torch.randn(rows, queries, HEADS, SIZE).transpose(1, 2)
    key, value = torch.randn(2, rows, HEADS, keys, SIZE)
    mask = None
    if padded:
        mask = torch.ones(keys, keys, dtype=torch.bool).tril()[-queries:].repeat(rows, 1, 1, 1)
        mask[: rows // 2, ..., : keys // 4] = False
    for tensor in (query, key, value):
        tensor.requires_grad_(trained)
    options = {"scaling": SIZE**-0.5, "dropout": 0.0, "is_causal": None}
    return AttentionCall(
        nn.Module(), query, key, value, mask, options, sdpa_attention_forward, queries > 1 and not padded
    )


def gate_of(kind: str, rows: int, queries: int, length: int) -> Tensor | None:
    """A gate `[B, T|1, P]`, or None."""
    return None if kind == "none" else torch.rand(rows, queries if kind == "position" else 1, length)


def ways(call: AttentionCall, length: int, gate: Tensor | None) -> dict[str, Way]:
    """The four ways of this process."""
    key, value = torch.randn(2, HEADS, length, SIZE)
    tokens, prefix = [call.query, call.key, call.value], [key, value, *([] if gate is None else [gate])]
    for tensor in prefix:
        tensor.requires_grad_(call.query.requires_grad)
    other = replace(call, base=lambda *args, **options: sdpa_attention_forward(*args, **options))  # is never merged
    return {
        "without": (lambda: call.run_base()[0], tokens),
        "joined": (lambda: attention.joint_attention(other, key, value, gate)[0], tokens + prefix),
        "merged": (lambda: attention.merge(call, key, value, gate), tokens + prefix),
        PEFT: pefts(call, length),
    }


def pefts(call: AttentionCall, length: int) -> Way:
    """PEFT's prefix for every row, the cache that puts it in front of the tokens, and sdpa with a mask over both."""
    options = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
    model = peft.get_peft_model(tf.LlamaForCausalLM(tf.LlamaConfig(**ONE_LAYER)), options)
    rows, queries, keys = len(call.query), call.query.shape[2], call.key.shape[2]
    mask = None
    if queries > 1:
        tokens = torch.ones(rows, 1, queries, keys, dtype=torch.bool).tril() if call.mask is None else call.mask
        mask = torch.cat([torch.ones(rows, 1, queries, length, dtype=torch.bool), tokens], dim=-1)

    def cached() -> tuple[Tensor, Tensor]:
        key, value = model.get_prompt(rows).update(call.key, call.value, 0)
        return key, value

    def attend(key: Tensor, value: Tensor) -> Tensor:
        return sdpa_attention_forward(call.module, call.query, key, value, mask, **call.options)[0]

    if queries == 1:
        with torch.no_grad():
            whole = cached()
        return lambda: attend(*whole), []
    prefix = [p for p in model.parameters() if p.requires_grad]
    return lambda: attend(*cached()), [call.query, call.key, call.value, *prefix]


def timed(run: Callable[[], Tensor], tensors: list[Tensor], grad: Tensor, trained: bool) -> Callable[[], float]:
    """Seconds of a way, with its backward where it is trained."""

    def measure() -> float:
        start = now()
        if trained:
            torch.autograd.grad(run(), tensors, grad)
        else:
            with torch.no_grad():
                run()
        return now() - start

    return measure


def rounds(
    call: AttentionCall, length: int, gate: Tensor | None, seconds: float, worker: adapters_peer.Worker | None
) -> list[dict[str, float]]:
    """Seconds of every way, in interleaved rounds, each in an order of its own."""
    rows, queries, trained = len(call.query), call.query.shape[2], call.query.requires_grad
    grad = torch.randn(rows, queries, HEADS, SIZE)
    measures = {name: timed(*way, grad, trained) for name, way in ways(call, length, gate).items()}
    if worker:
        dtype = str(call.query.dtype).removeprefix("torch.")
        shape = {"rows": rows, "tokens": call.key.shape[2], "queries": queries, "padded": call.mask is not None}
        worker.begin("attention", config=ONE_LAYER, length=length, dtype=dtype, **shape)
        measures[adapters_peer.NAME] = worker.ask
    found: list[dict[str, float]] = []
    end, order = now() + seconds, random.Random(0)
    while now() < end or len(found) < 8:
        found.append({name: measures[name]() for name in order.sample(list(measures), len(measures))})
    return found[2:]


def now() -> float:
    """Seconds of the processor; on another device, of the clock, once it has done everything."""
    device = torch.get_default_device()
    return time.process_time() if device.type == "cpu" else synchronised(device)


def title(device: str, dtype: str) -> str:
    """The section's: a processor's numbers in float32 have the plain one."""
    if device != "cpu":
        return f"{SECTION} on {torch.cuda.get_device_name()}, {dtype}"
    return SECTION if dtype == "float32" else f"{SECTION}, {dtype}"


def command(device: str, dtype: str) -> str:
    """What was called, without what is given by itself."""
    given = [("device", device, "cpu"), ("dtype", dtype, "float32")]
    return " ".join(["python benchmarks/attention.py", *(f"--{name} {x}" for name, x, usual in given if x != usual)])


def line(
    label: str, call: AttentionCall, length: int, kind: str, seconds: float, worker: adapters_peer.Worker | None
) -> list[str]:
    """One line of the table."""
    gate = gate_of(kind, call.query.shape[0], call.query.shape[2], length)
    key, value = torch.empty(2, HEADS, length, SIZE)
    chosen = "merged" if attention.merging_pays(call, key, value, gate) else "joined"
    times = rounds(call, length, gate, seconds, worker)
    without = statistics.median(taken["without"] for taken in times) * 1000
    both = [*report.versus(times, "joined", ["without"]), *report.versus(times, "merged", ["without"])]
    others = peers(worker is not None)
    theirs = [ratio for peer in others for ratio in report.versus(times, peer, ["without"])]
    row = [label, str(length), kind, f"{without:.2f}", *both, chosen, *theirs, *report.versus(times, chosen, others)]
    print(*row, sep="\t", flush=True)
    return row


def peers(asked: bool) -> list[str]:
    """Those that have an attention of their own."""
    return [PEFT, adapters_peer.NAME] if asked else [PEFT]


def table(name: str, seconds: float, worker: adapters_peer.Worker | None) -> str:
    """Training, padded or decoding."""
    lines = []
    for (rows, tokens), length, kind in product(DECODING if name == "decoding" else TRAINING, LENGTHS, GATES):
        if name == "decoding" and kind == "position":
            continue  # one position: the same as 'sequence'
        queries = 1 if name == "decoding" else tokens
        call = call_of(rows, queries, tokens, name == "padded", name != "decoding")
        lines.append(line(f"{rows}x{tokens}", call, length, kind, seconds, worker))
    others = peers(worker is not None)
    versus = [f"chosen / {peer}" for peer in others]
    head = ["rows x tokens", "P", "gate", "ms without", "joined", "merged", "chosen", *others, *versus]
    return f"### {name.capitalize()}\n\n" + report.table(head, lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.7, help="processor time for each line")
    parser.add_argument("--only", choices=("training", "padded", "decoding"), help="one of the tables")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    adapters_peer.add_option(parser)
    given = parser.parse_args()
    if given.adapters and given.device != "cpu":
        parser.error(f"--adapters measures on the processor, not on {given.device!r}: leave one of the two out")
    torch.set_num_threads(1)
    torch.set_default_device(given.device)
    torch.set_default_dtype(getattr(torch, given.dtype))
    names = [name for name in ("training", "padded", "decoding") if given.only in (None, name)]
    with ExitStack() as opened:
        worker = opened.enter_context(adapters_peer.Worker(given.adapters)) if given.adapters else None
        tables = [table(name, given.seconds, worker) for name in names]
    body = f"`{command(given.device, given.dtype)}`. {report.machine()}\n\n"
    body += adapters_peer.versions(given.adapters) + REMARK + "\n".join(tables)
    report.finish(title(given.device, given.dtype), body, parser, given, ("device", "dtype"))


if __name__ == "__main__":
    main()
