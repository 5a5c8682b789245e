"""The demo from start to end, on the console."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

from transformers.utils import logging

from prefixtune.checkpoint import write_whole
from prefixtune.demo.answers import teach_decoder
from prefixtune.demo.encoder import minilm, teach_encoder
from prefixtune.demo.plan import Plan
from prefixtune.demo.screen import Screen
from prefixtune.errors import ConfigError

LIBRARIES = {"seqeval": "metrics", "sacrebleu": "metrics", "rouge_score": "metrics", "matplotlib": "plots"}
"""What the demo imports late, and the extra it comes with: nothing is trained before everything is there."""


def check_libraries() -> None:
    """Raise ConfigError when a library of the extras is missing."""
    for module, extra in LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"the demo needs {module}, which is missing: pip install 'prefixtune[{extra}]'")


def tell(output: Path, plan: Plan) -> None:
    """Both parts, and the numbers in `metrics.json`."""
    screen = Screen()
    minilm()
    check_libraries()
    start = time.monotonic()
    bars_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        screen.title("1  An encoder learns to read")
        encoder = teach_encoder(screen, output, plan)
        screen.title("2  A decoder serves two tasks in one batch")
        decoder = teach_decoder(screen, output, plan)
    finally:
        if bars_shown:
            logging.enable_progress_bar()
    seconds = round(time.monotonic() - start, 1)
    numbers = {"encoder": encoder, "decoder": decoder, "seconds": seconds}
    write_whole({output / "metrics.json": (json.dumps(numbers, indent=2) + "\n").encode()})
    screen.say(
        f"{seconds:.0f} s in all. Data, prefixes, numbers and picture are in [cyan]{output}/[/]; look inside a prefix "
        f"with [cyan]prefixtune inspect {output / 'prefixes' / 'parcels'}[/]."
    )
