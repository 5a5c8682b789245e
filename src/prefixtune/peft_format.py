"""PEFT's prefix-tuning checkpoints, read and written."""
from __future__ import annotations
