"""Joined or merged: one attention layer both ways, over shapes: `python benchmarks/attention.py`.

The numbers behind `prefixtune.attention.merging_pays`. *Joined* puts the prefix's keys and values in front of the
tokens' and calls the model's own sdpa with a mask (a gate that differs by position: the formula written out); *merged*
is `prefixtune.kernel`. Training is forward and backward of all inputs; decoding is one query a row, without a gradient.

Times are of the processor on one thread, float32, 8 heads of size 64, medians of interleaved runs; a ratio is to the
model's own attention without a prefix, in the same round. `--dtype bfloat16` measures another dtype into a section of
its own, and `--device cuda` a GPU, by the clock; there, what is chosen is what a trial found.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import report
import torch
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


def ways(call: AttentionCall, length: int, gate: Tensor | None) -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    """The three ways to attend, and the tensors of which each has a gradient."""
    key, value = torch.randn(2, HEADS, length, SIZE)
    tokens, prefix = [call.query, call.key, call.value], [key, value, *([] if gate is None else [gate])]
    for tensor in prefix:
        tensor.requires_grad_(call.query.requires_grad)
    other = replace(call, base=lambda *args, **options: sdpa_attention_forward(*args, **options))  # is never merged
    return {
        "without": (lambda: call.run_base()[0], tokens),
        "joined": (lambda: attention.joint_attention(other, key, value, gate)[0], tokens + prefix),
        "merged": (lambda: attention.merge(call, key, value, gate), tokens + prefix),
    }


def ratios(call: AttentionCall, length: int, kind: str, seconds: float) -> tuple[float, float, float]:
    """Milliseconds without a prefix, and the ratios of joined and merged to it."""
    rows, queries = call.query.shape[0], call.query.shape[2]
    found: list[dict[str, float]] = []
    each = ways(call, length, gate_of(kind, rows, queries, length))
    grad = torch.randn(rows, queries, HEADS, SIZE)
    end = now() + seconds
    while now() < end or len(found) < 8:
        times = {}
        for name, (run, tensors) in each.items():
            start = now()
            if call.query.requires_grad:
                torch.autograd.grad(run(), tensors, grad)
            else:
                with torch.no_grad():
                    run()
            times[name] = now() - start
        found.append(times)
    found = found[2:]
    joined, merged = (statistics.median(t[way] / t["without"] for t in found) for way in ("joined", "merged"))
    return statistics.median(t["without"] for t in found) * 1000, joined, merged


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


def line(label: str, call: AttentionCall, length: int, kind: str, seconds: float) -> list[str]:
    """One line of the table."""
    without, joined, merged = ratios(call, length, kind, seconds)
    gate = gate_of(kind, call.query.shape[0], call.query.shape[2], length)
    key, value = torch.empty(2, HEADS, length, SIZE)
    chosen = "merged" if attention.merging_pays(call, key, value, gate) else "joined"
    row = [label, str(length), kind, f"{without:.2f}", f"{joined:.2f}", f"{merged:.2f}", chosen]
    print(*row, sep="\t", flush=True)
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.7, help="processor time for each line")
    parser.add_argument("--only", choices=("training", "padded", "decoding"), help="one of the tables")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_device(given.device)
    torch.set_default_dtype(getattr(torch, given.dtype))
    head = ["rows x tokens", "P", "gate", "ms without", "joined", "merged", "chosen"]
    tables = []
    for name in ("training", "padded", "decoding"):
        if given.only not in (None, name):
            continue
        lines = []
        for (rows, tokens), length, kind in product(DECODING if name == "decoding" else TRAINING, LENGTHS, GATES):
            if name == "decoding" and kind == "position":
                continue  # one position: the same as 'sequence'
            queries = 1 if name == "decoding" else tokens
            call = call_of(rows, queries, tokens, name == "padded", name != "decoding")
            lines.append(line(f"{rows}x{tokens}", call, length, kind, given.seconds))
        tables.append(f"### {name.capitalize()}\n\n" + report.table(head, lines))
    body = f"`{command(given.device, given.dtype)}`. {report.machine()}\n\n" + "\n".join(tables)
    report.finish(title(given.device, given.dtype), body, parser, given, ("device", "dtype"))


if __name__ == "__main__":
    main()
