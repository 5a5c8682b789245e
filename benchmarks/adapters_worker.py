"""The `adapters` library at work, on demand: a worker of the scripts that take `--adapters PYTHON`.

The library is pinned to an older transformers, so it needs an interpreter of its own: an environment with
`torch==2.13.0`, then `adapters==1.3.0`. This file imports nothing of ours. It answers every line of its input with one
line, both JSON: `{"job": ...}`, with the fields of `Job`, begins a job and is answered by null; any other line is a
question to the job.

adapters 1.3.0 with the transformers it asks for (4.57) computes Llama's prefix wrongly, and without a word:

- sdpa gets no mask where nothing is padded, and then lets token t see the first t of the P + T keys: the last P that it
  should see are missing;
- where something is padded, the mask is boolean with True for visible, and the prefix's part of it is inverted: the
  prefix is not seen;
- the cache is handed down as `past_key_values`, a name that its attention does not know: every step of a generation
  sees the prefix and its own token.

`mend` sets this right, so that what is measured is a prefix; `check` has the differences with and without. BERT is
right as it comes.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers as tf
from adapters.composition import BatchSplit
from adapters.context import ForwardContext
from adapters.models.llama.modeling_llama import LlamaAttentionWithAdapters
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

MASKED = "masked_sdpa"
WORDS = 100
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": WORDS,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What to do, with which model and prefix.

    The model is a Llama of this `config` with random weights, or the one in `folder`: with `labels` a token classifier,
    else a causal language model. `rows` and `tokens` are the batch's where no question brings one.
    """

    name: str
    config: dict[str, Any] | None = None
    folder: str = ""
    labels: int = 0
    length: int = 20
    hidden: int = 0  # of the prefix's MLP; 0: a flat prefix
    leave_out: tuple[int, ...] = ()  # layers without a prefix
    prefixes: int = 1  # each for as many rows of the batch; 0: the bare model
    rows: int = 1
    tokens: int = 1
    queries: int = 1  # of an attention over `tokens` keys
    padded: bool = False
    dtype: str = "float32"
    checkpointed: bool = False


def mend() -> None:
    """Give sdpa a mask of numbers in every forward, and the attention its cache."""
    tf.AttentionInterface.register(MASKED, sdpa_attention_forward)
    tf.AttentionMaskInterface.register(MASKED, eager_mask)
    inner = LlamaAttentionWithAdapters.forward

    def forward(self: torch.nn.Module, *args: Any, past_key_values: Any = None, **options: Any) -> Any:
        return inner(self, *args, **(options | {"past_key_value": past_key_values}))

    LlamaAttentionWithAdapters.forward = forward


def base(job: Job, attention: str = MASKED) -> Any:
    """The model without a prefix."""
    torch.manual_seed(0)
    if job.config is not None:
        return tf.LlamaForCausalLM(tf.LlamaConfig(**job.config, attn_implementation=attention))
    if job.labels:
        rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return tf.AutoModelForTokenClassification.from_pretrained(job.folder, num_labels=job.labels, **rates)
    return tf.AutoModelForCausalLM.from_pretrained(job.folder, attn_implementation=attention)


def prefixed(job: Job, attention: str = MASKED) -> Any:
    """The model with its prefixes, frozen but for them and a classifier's head."""
    return equipped(base(job, attention), job) if job.prefixes else base(job, "sdpa")


def equipped(model: Any, job: Job) -> Any:
    """A model given its prefixes."""
    adapters.init(model)
    options = {"bottleneck_size": job.hidden} if job.hidden else {"flat": True}
    options["leave_out"] = list(job.leave_out)
    names = [str(number) for number in range(job.prefixes)]
    for name in names:
        model.add_adapter(name, config=adapters.PrefixTuningConfig(prefix_length=job.length, **options))
    share = job.rows // job.prefixes
    model.train_adapter("0" if job.prefixes == 1 else BatchSplit(*names, batch_sizes=[share] * job.prefixes))
    return model


def steps(model: Any, batches: list[dict[str, Tensor]], optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """Processor seconds of forward and backward, and of the optimiser, over the batches."""
    back = stepped = 0.0
    for batch in batches:
        start = time.process_time()
        model(**batch).loss.backward()
        middle = time.process_time()
        optimizer.step()
        optimizer.zero_grad()
        back, stepped = back + middle - start, stepped + time.process_time() - middle
    return back, stepped


def trainee(job: Job) -> tuple[Any, torch.optim.Optimizer]:
    """A model ready to train, and its optimiser."""
    model = prefixed(job).train()
    if job.checkpointed:
        model.gradient_checkpointing_enable()
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)


def training(job: Job) -> Callable[[None], tuple[float, float]]:
    """Steps on one batch of random words."""
    model, optimizer = trainee(job)
    assert job.config is not None
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(job.config["vocab_size"], (job.rows, job.tokens), generator=generator)
    return lambda _: steps(model, [{"input_ids": ids, "labels": ids}], optimizer)


def feeding(job: Job) -> Callable[[list[dict[str, Any]]], float]:
    """Steps on the batches that are asked for."""
    model, optimizer = trainee(job)

    def run(batches: list[dict[str, Any]]) -> float:
        return sum(steps(model, [{k: torch.tensor(v) for k, v in batch.items()} for batch in batches], optimizer))

    return run


def peak(job: Job) -> Callable[[None], int]:
    """Bytes at most over two steps, less what was resident before the model was made; `train_step.py` does the same."""

    def measure(_: None) -> int:
        training(replace(job, config=SMALL))(None)  # loads the code that is imported on first use
        before = resident("VmRSS")
        step = training(job)
        for _ in range(2):
            step(None)
        return resident("VmHWM") - before

    return measure


def starting(job: Job) -> Callable[[None], float]:
    """New prefixes for a new model."""

    def measure(_: None) -> float:
        model = base(job)
        start = time.process_time()
        equipped(model, job)
        return time.process_time() - start

    return measure


def resident(field: str) -> int:
    """Bytes now (VmRSS) or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def decoding(job: Job) -> Callable[[None], float]:
    """Steps of one token a row, behind a cache of `tokens`."""
    model, cache = prefixed(job).eval(), tf.DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.ones(job.rows, job.tokens, dtype=torch.long), past_key_values=cache)
    ids = torch.ones(job.rows, 1, dtype=torch.long)

    def step(_: None) -> float:
        start = time.process_time()
        with torch.no_grad():
            model(input_ids=ids, past_key_values=cache)
        cache.crop(-1)
        return time.process_time() - start

    return step


def attending(job: Job) -> Callable[[None], float]:
    """The one layer's attention behind its prefix; forward and backward where there are several queries."""
    model = prefixed(job)
    inner, trained = model.model.layers[0].self_attn, job.queries > 1
    heads, size = model.config.num_attention_heads, inner.head_dim
    query = torch.randn(job.rows, job.queries, heads, size).transpose(1, 2).requires_grad_(trained)
    key, value = (torch.randn(job.rows, heads, job.tokens, size).requires_grad_(trained) for _ in range(2))
    seen = torch.ones(job.tokens, job.tokens, dtype=torch.bool).tril()[-job.queries :].repeat(job.rows, 1, 1, 1)
    if job.padded:
        seen[: job.rows // 2, ..., : job.tokens // 4] = False
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(query.dtype).min)  # what `mend` has the model make
    ids, hidden = torch.ones(job.rows, job.queries, dtype=torch.long), torch.zeros(job.rows, job.queries, heads * size)
    tensors = [query, key, value, *(p for p in model.parameters() if p.requires_grad)]
    grad = torch.randn(job.rows, job.queries, heads, size)

    def attend() -> Tensor:
        with ForwardContext(model, ids):  # makes the prefix of every row
            joined = inner.prefix_tuning(key, value, hidden, mask)
        return sdpa_attention_forward(inner, query, *joined, scaling=inner.scaling)[0]

    def step(_: None) -> float:
        start = time.process_time()
        if trained:
            torch.autograd.grad(attend(), tensors, grad)
        else:
            with torch.no_grad():
                attend()
        return time.process_time() - start

    return step


def generating(job: Job) -> Callable[[dict[str, Any]], float]:
    """Answers to prompts, `rows` at a time in their order, with the model's own `generate`."""
    model = prefixed(job).eval()

    def run(asked: dict[str, Any]) -> float:
        prompts, start = asked["prompts"], time.process_time()
        for first in range(0, len(prompts), job.rows):
            ids, mask = padded(prompts[first : first + job.rows], asked["options"]["pad_token_id"])
            with torch.no_grad():
                model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **asked["options"])
        return time.process_time() - start

    return run


def padded(prompts: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T], padded at the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def check(job: Job) -> Callable[[None], dict[str, Any]]:
    """Versions, and the largest differences in logits on a small Llama, to eager attention without a cache."""
    small = Job("check", config=SMALL, length=6)
    right, plain, mended = prefixed(small, "eager").eval(), prefixed(small, "sdpa").eval(), prefixed(small).eval()
    plain.load_state_dict(right.state_dict())
    mended.load_state_dict(right.state_dict())
    bare = base(small, "eager").eval()
    ids = torch.randint(WORDS, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    seen = mask.bool()

    def off(found: Tensor, to: Tensor) -> float:
        return (found - to)[seen].abs().max().item()

    def measure(_: None) -> dict[str, Any]:
        with torch.no_grad():
            whole, short = right(ids).logits, right(ids, attention_mask=mask).logits
            found = {
                "unpadded": off(plain(ids).logits, whole),
                "padded to bare": off(plain(ids, attention_mask=mask).logits, bare(ids, attention_mask=mask).logits),
                "mended": max(off(mended(ids).logits, whole), off(mended(ids, attention_mask=mask).logits, short)),
                "mended, cached": off(cached(mended, ids, mask), short),
            }
            LlamaAttentionWithAdapters.forward = AS_IT_COMES
            found["cached"] = off(cached(right, ids, mask), short)
        versions = {"adapters": adapters.__version__, "transformers": tf.__version__, "torch": torch.__version__}
        return {"versions": versions, "differences": found}

    return measure


def cached(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """The logits of tokens that are read one by one behind the first five."""
    cache = tf.DynamicCache()
    logits = [model(ids[:, :5], attention_mask=mask[:, :5], past_key_values=cache).logits]
    for place in range(5, ids.shape[1]):
        step = model(ids[:, place : place + 1], attention_mask=mask[:, : place + 1], past_key_values=cache)
        logits.append(step.logits)
    return torch.cat(logits, dim=1)


AS_IT_COMES = LlamaAttentionWithAdapters.forward
JOBS: dict[str, Callable[[Job], Callable[[Any], Any]]] = {
    "training": training,
    "feeding": feeding,
    "peak": peak,
    "decoding": decoding,
    "attention": attending,
    "starting": starting,
    "generating": generating,
    "check": check,
}


def main() -> None:
    """Answer until the input ends; the argument is the number of threads."""
    torch.set_num_threads(int(sys.argv[1]))
    tf.logging.set_verbosity_error()
    mend()
    do: Callable[[Any], Any] = begin
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, dict) and "job" in asked:
            do = begin  # so the last job's model goes before the next one's is made
            do, answer = begin(asked["job"]), None
        else:
            answer = do(asked)
        print(json.dumps(answer), flush=True)


def begin(fields: dict[str, Any]) -> Callable[[Any], Any]:
    """A job, ready to be asked."""
    gc.collect()
    job = Job(**fields)
    torch.set_default_dtype(getattr(torch, job.dtype))
    return JOBS[job.name](job)


if __name__ == "__main__":
    main()
