"""How much the demo trains and tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The defaults are the demo's two minutes; tests take less.

    Args:
        messages: training messages of the encoder's task.
        test_messages: test messages, all of unseen patterns and names.
        encoder_steps: optimiser steps of the APT prefix.
        records: training records of the decoder's two tasks.
        test_records: test records, all with names that neither pretraining nor training had.
        decoder_steps: optimiser steps of each of the two prefixes.
        shown_messages: test messages whose tags are printed.
        shown_records: test records whose answers are printed.
    """

    messages: int = 1600
    test_messages: int = 250
    encoder_steps: int = 240
    records: int = 1200
    test_records: int = 100
    decoder_steps: int = 300
    shown_messages: int = 2
    shown_records: int = 3
