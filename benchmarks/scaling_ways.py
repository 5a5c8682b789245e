"""What `scaling.py` measures at a point: steps of training and decoding, a step's peak memory, and starting up."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import adapters_peer
import peft
import torch
import transformers as tf
from clock import timed
from train_step import GIVEN_BACK, frozen_floor, resident

import prefixtune as pt

WORDS = 2000


@dataclass(frozen=True)
class Point:
    """Where something is measured."""

    P: int = 32
    T: int = 128
    B: int = 8
    L: int = 4
    N: int = 1


FLOORS = {
    "training": "frozen floor", "peak memory": "frozen floor", "decoding": "bare model", "start-up": "load the base",
}  # fmt: skip
OURS = FREE, GATED = ("P-Tuning v2", "APT")
PEERS = PREFIX, LORA, FULL = ("PEFT prefix", "PEFT LoRA r=8", "full fine-tuning")
ALONE = {("training", LORA), *((kind, way) for kind in FLOORS for way in (PREFIX, FULL)), ("peak memory", LORA)}
"""What cannot be mixed in a batch."""
Attach = Callable[[tf.PreTrainedModel, Point], torch.nn.Module]
Step = Callable[[], float]


def shape(point: Point) -> dict[str, Any]:
    """The base model's."""
    return {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": point.L, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": WORDS, "max_position_embeddings": 4096,
    }  # fmt: skip


def base(point: Point) -> tf.PreTrainedModel:
    """The base model, with random weights."""
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(tf.LlamaConfig(**shape(point)))


def prefixed(kind: type[pt.PTuningV2] | type[pt.AdaptivePrefix]) -> Attach:
    """N prefixes of a method of ours."""

    def attach(model: tf.PreTrainedModel, point: Point) -> torch.nn.Module:
        for number in range(point.N):
            pt.attach(model, kind(length=point.P), name=str(number))
        return model

    return attach


def peft_prefix(model: tf.PreTrainedModel, point: Point) -> torch.nn.Module:
    """PEFT's one prefix for the whole batch."""
    return peft.get_peft_model(model, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=point.P))


def lora(model: tf.PreTrainedModel, point: Point) -> torch.nn.Module:
    """PEFT's LoRA, N of them."""
    made = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=8), adapter_name="0")
    for number in range(1, point.N):
        made.add_adapter(str(number), peft.LoraConfig(task_type="CAUSAL_LM", r=8))
    return made


ATTACH: dict[str, Attach] = {
    "frozen floor": lambda model, point: frozen_floor(model, None),
    "bare model": lambda model, point: model,
    FREE: prefixed(pt.PTuningV2),
    GATED: prefixed(pt.AdaptivePrefix),
    PREFIX: peft_prefix,
    LORA: lora,
    FULL: lambda model, point: model,
}


def names(point: Point) -> str | list[str]:
    """Which prefix each row has."""
    return "0" if point.N == 1 else [str(row * point.N // point.B) for row in range(point.B)]


def under(way: str, made: torch.nn.Module, point: Point, work: Callable[[], None]) -> None:
    """Work with a prefix of ours for each row, or as it is."""
    if way in OURS:
        with pt.using(made, names(point)):
            work()
    else:
        work()


def forward_backward(way: str, point: Point) -> tuple[torch.nn.Module, Callable[[], None]]:
    """A model and a training step of it, without the optimiser."""
    made = ATTACH[way](base(point), point).train()
    ids = torch.randint(WORDS, (point.B, point.T), generator=torch.Generator().manual_seed(1))

    def step() -> None:
        made(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    return made, lambda: under(way, made, point, step)


def training(way: str, point: Point) -> Step:
    """Seconds of a training step."""
    return timed(forward_backward(way, point)[1])


def decoding(way: str, point: Point) -> Step:
    """Seconds of a decoding step, one token a row. PEFT's prefix stands in the cache of its base."""
    made = ATTACH[way](base(point), point).eval()
    prompt, ids = (torch.ones(point.B, count, dtype=torch.long) for count in (point.T, 1))
    mixed = {"adapter_names": names(point)} if way == LORA and point.N > 1 else {}
    cache = tf.DynamicCache(config=made.config)

    def read() -> None:
        made(input_ids=prompt, past_key_values=cache, **mixed)

    with torch.no_grad():
        if way == PREFIX:
            cache, made = made(input_ids=prompt, use_cache=True).past_key_values, made.get_base_model()
        else:
            under(way, made, point, read)

    def step() -> None:
        with torch.no_grad():
            made(input_ids=ids, past_key_values=cache, **mixed)
        cache.crop(-1)

    return timed(lambda: under(way, made, point, step))


def loading(point: Point, folder: Path) -> Callable[[], tf.PreTrainedModel]:
    """The base, from disk."""
    place = folder / f"{point.L}-layers"
    if not place.exists():
        base(point).save_pretrained(place)
    return lambda: tf.LlamaForCausalLM.from_pretrained(place)


def starting(way: str, point: Point, folder: Path) -> Step:
    """Seconds of loading the base, or else of giving N new prefixes (or LoRAs) to a loaded one."""
    load = loading(point, folder)
    if way == FLOORS["start-up"]:
        return timed(load)

    def step() -> float:
        model = load()
        return timed(ATTACH[way])(model, point)

    return step


def peak(way: str, point: Point) -> int:
    """Bytes at most over two steps with AdamW's, less what was resident before the model was made.

    To be run in a process of its own; `train_step.py` says the same of its own.
    """
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    _two_steps(way, replace(point, P=2, T=8, L=1))  # loads the code that is imported on first use
    gc.collect()
    before = resident("VmRSS")
    _two_steps(way, point)
    return resident("VmHWM") - before


def _two_steps(way: str, point: Point) -> None:
    made, step = forward_backward(way, point)
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5) if trained else None
    for _ in range(2):
        step()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()


@contextmanager
def processes() -> Iterator[ProcessPoolExecutor]:
    """A new process for each task, with everything imported, whose allocator gives freed blocks back at once."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        before = dict(os.environ)
        os.environ.update(GIVEN_BACK)  # read by the C library when the server starts, and for nobody else
        try:
            pool.submit(os.getpid).result()  # now the server is there
        finally:
            os.environ.clear()
            os.environ.update(before)
        yield pool


JOBS = {"training": "training", "peak memory": "peak", "decoding": "decoding", "start-up": "starting"}
"""The `adapters` worker's name for each."""


def foreign(kind: str, point: Point, worker: adapters_peer.Worker) -> Step:
    """A quantity of the `adapters` library. Its peak memory needs a worker of its own."""
    job = {"config": shape(point), "length": point.P, "rows": point.B, "tokens": point.T, "prefixes": point.N}
    if kind == "peak memory":
        with adapters_peer.Worker(worker.python, env=GIVEN_BACK) as fresh:
            return partial(float, fresh.begin("peak", **job).ask())
    worker.begin(JOBS[kind], **job)

    def step() -> float:
        answer = worker.ask()
        return float(answer[0] if kind == "training" else answer)  # of training, without the optimiser

    return step


def ways(kind: str, point: Point) -> list[str]:
    """What there is of a kind at a point."""
    peers = {"training": PEERS, "peak memory": PEERS, "decoding": (PREFIX, LORA), "start-up": (PREFIX, LORA)}[kind]
    return [FLOORS[kind], *OURS, *(way for way in peers if point.N == 1 or (kind, way) not in ALONE)]


def steps(
    kind: str, point: Point, folder: Path, pool: ProcessPoolExecutor, worker: adapters_peer.Worker | None
) -> dict[str, Step]:
    """Of each way, what measures it once."""
    found: dict[str, Step] = {}
    for way in ways(kind, point):
        if kind == "peak memory":
            found[way] = partial(float, pool.submit(peak, way, point).result())
        elif kind == "start-up":
            found[way] = starting(way, point, folder)
        else:
            found[way] = {"training": training, "decoding": decoding}[kind](way, point)
    if worker is not None:
        found[adapters_peer.NAME] = foreign(kind, point, worker)
    return found
