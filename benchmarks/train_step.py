"""A training step of each method, as a ratio to the frozen floor: `python benchmarks/train_step.py`.

The floor is what no prefix method can be without: the frozen model's own forward and backward, with the gradient of
the loss with respect to every layer's keys and values, and none with respect to weights. It is measured by an attention
function that is transformers' own sdpa, after it made the keys and values of the first layer require a gradient; from
there every later layer's keys and values get theirs.

The model is an 8-layer Llama of width 512 with random weights (8 heads, MLP 1376, 32000 words), in float32. A step is
forward, cross-entropy and backward; AdamW's step is timed apart, because the floor has none. Methods run interleaved in
random order, one step a round; a ratio is that of one round, and the table has the median and the quartiles over
rounds. Time is that of the processor, on one thread, so that other work on the machine disturbs it less. What disturbs
it still (shared caches and memory) only ever adds time: `fastest` is the ratio of each method's fastest round to the
floor's fastest.

Peak memory is measured in a fresh process for each method: the highest resident size over two steps, less what was
resident before the model was made and after one step of a small one, so that no library's code counts. There, the C
library's allocator gives every freed block of 64 KB or more back at once; left to itself it keeps some, and the same
method differs by 5 % from one process to the next.

A second table of each case has the same times, the optimiser's step included, and the same peaks over those of each
peer: PEFT's prefix and LoRA, full fine-tuning, and the `adapters` library where an interpreter that has it is named
(`--adapters PYTHON`; `adapters_worker.py` says what it measures).

The prefix's own arithmetic is counted in the products of matrices that its formula needs, as a share of the floor's.
Its own state is what it adds to the model and AdamW's moments, which are there in every step; gradients are not
counted, since they come when activations have gone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapters_peer
import peft
import report
import torch
import transformers as tf
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import prefixtune as pt

LAYERS, WIDTH, HEADS, INNER, WORDS, HIDDEN = 8, 512, 8, 1376, 32000, 512
FLOOR = "frozen floor"
PEERS = ("PEFT prefix", "PEFT prefix, MLP", "PEFT LoRA r=8", "full fine-tuning")
SECTION = "Training step"


@dataclass(frozen=True)
class Case:
    """A batch of `rows` texts of `tokens` tokens, and the prefix length."""

    rows: int
    tokens: int
    length: int
    rounds: int = 0

    def __str__(self) -> str:
        return f"{self.rows}x{self.tokens}, P={self.length}"


CASES = (Case(8, 64, 100, rounds=15), Case(4, 256, 20, rounds=9), Case(2, 1024, 128, rounds=5))


SHAPE = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "vocab_size": WORDS,
    "max_position_embeddings": 4096,
    "use_cache": False,
}


SMALL = SHAPE | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}


def base(shape: dict[str, Any] = SHAPE) -> tf.PreTrainedModel:
    """The model that every method starts from."""
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(tf.LlamaConfig(**shape))


def frozen_floor(model: tf.PreTrainedModel, case: Case) -> torch.nn.Module:
    """The model with nothing to train, whose first keys and values require a gradient."""

    def attention(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
    ) -> Any:
        if not key.requires_grad:
            key.requires_grad_()
            value.requires_grad_()
        return sdpa_attention_forward(module, query, key, value, *args, **options)

    ALL_ATTENTION_FUNCTIONS.register("frozen_floor", attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("frozen_floor", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.requires_grad_(False)
    model.set_attn_implementation("frozen_floor")
    return model


def _peft_prefix(model: tf.PreTrainedModel, case: Case, projection: bool) -> torch.nn.Module:
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=case.length,
        prefix_projection=projection,
        encoder_hidden_size=HIDDEN if projection else None,
    )
    return peft.get_peft_model(model, config)


def _lora(model: tf.PreTrainedModel, case: Case) -> torch.nn.Module:
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=8))


def checkpointed(model: torch.nn.Module) -> torch.nn.Module:
    """Activations computed twice instead of kept."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


METHODS: dict[str, Callable[[tf.PreTrainedModel, Case], torch.nn.Module]] = {
    FLOOR: frozen_floor,
    "P-Tuning v2": lambda model, case: pt.attach(model, pt.PTuningV2(length=case.length)),
    "Prefix-Tuning": lambda model, case: pt.attach(model, pt.PrefixTuning(length=case.length, hidden=HIDDEN)),
    "APT": lambda model, case: pt.attach(model, pt.AdaptivePrefix(length=case.length)),
    "PEFT prefix": lambda model, case: _peft_prefix(model, case, projection=False),
    "PEFT prefix, MLP": lambda model, case: _peft_prefix(model, case, projection=True),
    "PEFT LoRA r=8": _lora,
    "full fine-tuning": lambda model, case: model,
    "P-Tuning v2, bf16": lambda model, case: pt.attach(model.bfloat16(), pt.PTuningV2(length=case.length)),
    "APT, bf16": lambda model, case: pt.attach(model.bfloat16(), pt.AdaptivePrefix(length=case.length)),
}
CHECKPOINTED = ", checkpointed"
ROWS = [*METHODS, FLOOR + CHECKPOINTED, "P-Tuning v2" + CHECKPOINTED]
"""What is measured here; `checkpointing.py` has more of the last."""


def adapted(name: str, model: tf.PreTrainedModel, case: Case) -> torch.nn.Module:
    """The model under a method of `METHODS`, or under that and checkpointing."""
    bare = name.removesuffix(CHECKPOINTED)
    found = METHODS[bare](model, case)
    return found if bare == name else checkpointed(found)


def own_arithmetic(name: str, case: Case) -> float | None:
    """The products that a prefix method adds, over those of the floor; None for methods without a prefix.

    Keys and values each take part in 7 products: 2 of the forward, and with the recomputed scores 5 of the backward.
    The MLP's and the gates' weights take part in 3: forward, and the gradients of input and of weight.
    """
    tokens, projections = case.rows * case.tokens, 4 * WIDTH * WIDTH + 3 * WIDTH * INNER
    weights = 4 * tokens * (LAYERS * projections + WORDS * WIDTH)  # forward and the gradient of the input
    attention = 14 * tokens * (case.tokens + 1) / 2 * WIDTH * LAYERS
    prefix = 14 * tokens * case.length * WIDTH * LAYERS
    mlp = 6 * case.length * (WIDTH * HIDDEN + LAYERS * HIDDEN * 2 * WIDTH)
    gates = 6 * tokens * WIDTH * case.length * LAYERS
    extra = {"P-Tuning v2": 0.0, "PEFT prefix": 0.0, "Prefix-Tuning": mlp, "PEFT prefix, MLP": mlp, "APT": gates}
    extra |= {adapters_peer.NAME: 0.0, f"{adapters_peer.NAME}, MLP": mlp}
    return (prefix + extra[name]) / (weights + attention) if name in extra else None


class Trainee:
    """A model under one method, and its optimiser."""

    def __init__(self, name: str, case: Case, shape: dict[str, Any] = SHAPE) -> None:
        model = base(shape)
        given = {id(parameter) for parameter in model.parameters()}
        self.model = adapted(name, model, case).train()
        self.own = [parameter for parameter in self.model.parameters() if id(parameter) not in given]
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5) if trained else None

    def step(self, ids: Tensor) -> tuple[float, float]:
        """Processor seconds of forward and backward, and of the optimiser."""
        start = time.process_time()
        self.model(input_ids=ids, labels=ids).loss.backward()
        middle = time.process_time()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return middle - start, time.process_time() - middle

    def state(self) -> int:
        """Bytes that stay from step to step: what the method added to the model, and the optimiser's moments."""
        moments = [] if self.optimizer is None else [x for each in self.optimizer.state.values() for x in each.values()]
        return sum(x.nbytes for x in (*self.own, *moments))


class Foreign:
    """The `adapters` library in its own interpreter: a step on demand. Its model and batch are the same."""

    def __init__(self, worker: adapters_peer.Worker, name: str, case: Case) -> None:
        self.worker = worker.begin("training", **foreign_job(name, case))

    def step(self, ids: Tensor) -> tuple[float, float]:
        """Processor seconds of forward and backward, and of the optimiser."""
        step, optimizer = self.worker.ask()
        return step, optimizer


FOREIGN = {adapters_peer.NAME: 0, f"{adapters_peer.NAME}, MLP": HIDDEN}
"""The width of its MLP."""


def foreign_job(name: str, case: Case) -> dict[str, Any]:
    """The model, the batch and the prefix, in the worker's words."""
    bare = name.removesuffix(CHECKPOINTED)
    more = {"rows": case.rows, "tokens": case.tokens, "checkpointed": bare != name}
    return {"config": SHAPE, "length": case.length, "hidden": FOREIGN[bare], **more}


def is_foreign(name: str) -> bool:
    """Whether the `adapters` library has to be asked."""
    return name.removesuffix(CHECKPOINTED) in FOREIGN


def batch(case: Case, words: int = WORDS) -> Tensor:
    return torch.randint(words, (case.rows, case.tokens), generator=torch.Generator().manual_seed(1))


Times = dict[str, tuple[float, float]]
"""Of one round: for each method, processor seconds of forward and backward, and of the optimiser."""


def rounds(case: Case, names: list[str], count: int, python: str | None) -> Iterator[Times]:
    """The times of every method, one round after another; the first round warms up and is dropped."""
    with ExitStack() as opened:
        trainees: dict[str, Trainee | Foreign] = {}
        for name in names:
            if is_foreign(name) and python:
                worker = opened.enter_context(adapters_peer.Worker(python, torch.get_num_threads()))
                trainees[name] = Foreign(worker, name, case)
            else:
                trainees[name] = Trainee(name, case)
        ids, order = batch(case), random.Random(0)
        for number in range(count + 1):
            times = {name: trainees[name].step(ids) for name in order.sample(names, len(names))}
            if number:
                yield times


GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}


def peak_memory(name: str, case: Case, python: str | None) -> tuple[int, int | None]:
    """Bytes, measured in a fresh process, and how many of them are `Trainee.state`, where that is known."""
    if is_foreign(name) and python:
        with adapters_peer.Worker(python, torch.get_num_threads(), GIVEN_BACK) as worker:
            return int(worker.begin("peak", **foreign_job(name, case)).ask()), None
    words = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), "--peak-of", name]
    words += map(str, (case.rows, case.tokens, case.length))
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | GIVEN_BACK)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["bytes"], found["state"]


def print_peak(name: str, case: Case) -> None:
    """What the fresh process does."""
    Trainee(name, case, SMALL).step(batch(case, SMALL["vocab_size"]))  # loads the code that is imported on first use
    before = resident("VmRSS")
    trainee, ids = Trainee(name, case), batch(case)
    for _ in range(2):
        trainee.step(ids)
    print(json.dumps({"bytes": resident("VmHWM") - before, "state": trainee.state()}))


def resident(field: str) -> int:
    """Bytes now (VmRSS) or at most (VmHWM). Not getrusage's maximum, which a process inherits from its parent."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def ratios(times: list[Times], name: str, with_optimizer: bool) -> str:
    """Median and quartiles over rounds."""
    each = [(t[name][0] + t[name][1] * with_optimizer) / t[FLOOR][0] for t in times]
    low, middle, high = statistics.quantiles(each, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def fastest(times: list[Times], name: str) -> str:
    """The fastest round of each, whichever they were."""
    return f"{min(t[name][0] for t in times) / min(t[FLOOR][0] for t in times):.3f}"


def measure(case: Case, names: list[str], count: int, memory: bool, python: str | None) -> str:
    """One case as a table."""
    found = {name: peak_memory(name, case, python) for name in names} if memory else {}
    peaks = {name: peak for name, (peak, _) in found.items()}
    times = list(rounds(case, names, count, python))
    rows = []
    for name in names:
        share = own_arithmetic(name, case)
        row = [name, ratios(times, name, False), fastest(times, name), ratios(times, name, True)]
        row.append("" if share is None else f"{share:.1%}")
        if memory:
            state = found[name][1]
            row += [f"{peaks[name] / 2**20:.0f}", f"{peaks[name] / peaks[FLOOR]:.3f}"]
            row.append("" if state is None else f"{state / 2**20:.0f}")
        rows.append(row)
    floor = statistics.median(t[FLOOR][0] for t in times)
    title = f"### {case} ({len(times)} rounds; floor: {floor * 1000:.0f} ms)\n\n"
    head = ["method", "step / floor", "fastest", "step with AdamW / floor", "own arithmetic"]
    head += ["peak MB", "peak / floor", "own state MB"] if memory else []
    first = title + report.table(head, rows)
    peers = [name for name in names if name in PEERS or name in FOREIGN]
    return f"{first}\n{beside(times, peaks, names, peers)}" if peers else first


def beside(times: list[Times], peaks: dict[str, int], names: list[str], peers: list[str]) -> str:
    """The whole step of every method over each peer's, and behind it the peak memory over the peer's."""
    whole = [{name: sum(taken[name]) for name in names} for taken in times]
    rows = []
    for name in names:
        cells = report.versus(whole, name, peers, digits=3)
        known = [f", {peaks[name] / peaks[peer]:.3f}" if peaks else "" for peer in peers]
        rows.append([name, *map("".join, zip(cells, known, strict=True))])
    return report.table(["step with AdamW, peak", *(f"/ {peer}" for peer in peers)], rows)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="rounds, the same for each case")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="which cases, from 0")
    parser.add_argument("--methods", nargs="*", default=ROWS, help=f"of: {', '.join(ROWS)}")
    adapters_peer.add_option(parser)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--dry", action="store_true", help="print only; so does any option that measures less")
    parser.add_argument("--peak-of", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak_of:
        print_peak(given.peak_of[0], Case(*map(int, given.peak_of[1:])))
        return
    names = [FLOOR, *[name for name in given.methods if name != FLOOR], *(FOREIGN if given.adapters else ())]
    before = report.load()
    tables = [
        measure(CASES[i], names, given.rounds or CASES[i].rounds, not given.no_memory, given.adapters)
        for i in given.cases
    ]
    command = f"`python benchmarks/train_step.py` on {given.threads} thread(s)"
    head = f"{command}. {report.machine()} At the start it was {before}.\n\n"
    body = head + adapters_peer.remark(given.adapters) + "\n".join(tables)
    report.finish(SECTION, body, parser, given)


if __name__ == "__main__":
    main()
