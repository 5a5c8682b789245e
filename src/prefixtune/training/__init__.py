"""Training: the glue to transformers' Trainer. The configuration can be read without importing torch."""

from __future__ import annotations

from prefixtune.training.config import RunConfig

__all__ = ["RunConfig"]
