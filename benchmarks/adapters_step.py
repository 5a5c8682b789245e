"""A training step of the `adapters` library, on demand: a worker of `train_step.py --adapters PYTHON`.

The library is pinned to an older transformers, so it needs an interpreter of its own: an environment with
`torch==2.13.0`, then `adapters==1.3.0`. This file imports nothing of ours. It answers every line of its input with one
line: processor seconds of forward and backward, and of the optimiser. Its arguments are the model's shape, the batch
and the prefix length, as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import adapters
import torch
import transformers as tf


def main() -> None:
    """Serve steps until the input ends."""
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**given["config"]))
    adapters.init(model)
    model.add_adapter("prefix", config=adapters.PrefixTuningConfig(prefix_length=given["length"], flat=given["flat"]))
    model.train_adapter("prefix")
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(given["config"]["vocab_size"], (given["rows"], given["tokens"]), generator=generator)
    for _ in sys.stdin:
        start = time.process_time()
        model(input_ids=ids, labels=ids).loss.backward()
        middle = time.process_time()
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps([middle - start, time.process_time() - middle]), flush=True)


if __name__ == "__main__":
    main()
