"""What a prefix folder says about itself, without a base model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from prefixtune.cli.report import scores

_UNKNOWN = "unknown"


def describe(directory: str) -> dict[str, str]:
    """Names and values to show; the folder's two files are read and checked against each other."""
    from prefixtune.checkpoint import local_folder, read_prefix

    header, tensors = read_prefix(local_folder(directory))
    base, offsets = header["base_model"], header.get("position_offset")
    head = sorted(key.removeprefix("head.") for key in tensors if key.startswith("head."))
    rows = {
        "name": header["name"],
        "method": header["method"],
        "options": ", ".join(f"{key}={value}" for key, value in header["options"].items() if value is not None),
        "lengths": _lengths(header["slots"]),
        "position offset": _UNKNOWN if offsets is None else ", ".join(f"{at} {by}" for at, by in offsets.items()),
        "stored parameters": f"{sum(tensor.numel() for tensor in tensors.values()):,}",
        "task head": ", ".join(head) or "none",
        "base model": f"{base['name']} ({base['model_type']})",
        "base fingerprint": ", ".join(f"{dtype} {digest[:12]}" for dtype, digest in base["fingerprints"].items()),
        "written by": f"prefixtune {header.get('prefixtune_version', _UNKNOWN)}",
    }
    return {**rows, **_training(header.get("metadata", {}))}


def _training(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What training wrote; where somebody else wrote something else by these names, that as it stands."""
    rows = {}
    if "task" in metadata:
        task = metadata["task"]
        known = isinstance(task, dict) and isinstance(task.get("kind"), str)
        rows["task"] = task["kind"] if known else _as_it_stands(task)
        if known and task.get("labels"):
            labels = task["labels"]
            named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
            rows["labels"] = f"{len(labels)}: {', '.join(labels)}" if named else _as_it_stands(labels)
    metrics = metadata.get("metrics", {})
    for role, title in (("eval", "development"), ("test", "test")):
        if isinstance(metrics, dict) and role in metrics:
            rows[title] = scores(metrics[role]) if _are_scores(metrics[role]) else _as_it_stands(metrics[role])
    return rows


def _are_scores(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(value, int | float) for value in found.values())


def _as_it_stands(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:200]


def _lengths(slots: Mapping[str, int]) -> str:
    """`encoder: 6 layers of 16`, or the lengths one by one where they differ."""
    by_site: dict[str, dict[int, int]] = {}
    for key, length in slots.items():
        site, _, layer = key.partition(".")
        by_site.setdefault(site, {})[int(layer)] = length
    told = []
    for site, layers in by_site.items():
        counts = Counter(layers.values())
        if len(counts) == 1:
            told.append(f"{site}: {len(layers)} layers of {next(iter(counts))}")
        else:
            told.append(f"{site}: " + ", ".join(f"layer {layer} {length}" for layer, length in sorted(layers.items())))
    return "; ".join(told)
