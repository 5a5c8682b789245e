"""The demo from start to end, on the console."""

from __future__ import annotations

import json
import time
from pathlib import Path

from transformers.utils import logging

from prefixtune.checkpoint import write_whole
from prefixtune.demo.answers import teach_decoder
from prefixtune.demo.encoder import minilm, teach_encoder
from prefixtune.demo.plan import Plan
from prefixtune.demo.screen import Screen


def tell(output: Path, plan: Plan) -> None:
    """Both parts, and the numbers in `metrics.json`."""
    screen = Screen()
    minilm()  # nothing is trained before everything is there
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
