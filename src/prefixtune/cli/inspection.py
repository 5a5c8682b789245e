"""What a prefix folder says about itself, without a base model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from prefixtune.cli.report import scores


def describe(directory: str) -> dict[str, str]:
    """Names and values to show; the folder's two files are read and checked against each other."""
    from prefixtune.checkpoint import local_folder, read_prefix

    header, tensors = read_prefix(local_folder(directory))
    base, metadata = header["base_model"], header["metadata"]
    head = sorted(key.removeprefix("head.") for key in tensors if key.startswith("head."))
    rows = {
        "name": header["name"],
        "method": header["method"],
        "options": ", ".join(f"{key}={value}" for key, value in header["options"].items() if value is not None),
        "lengths": _lengths(header["slots"]),
        "position offset": ", ".join(f"{site} {offset}" for site, offset in header["position_offset"].items()),
        "stored parameters": f"{sum(tensor.numel() for tensor in tensors.values()):,}",
        "task head": ", ".join(head) or "none",
        "base model": f"{base['name']} ({base['model_type']})",
        "base fingerprint": ", ".join(f"{dtype} {digest[:12]}" for dtype, digest in base["fingerprints"].items()),
        "written by": f"prefixtune {header['prefixtune_version']}",
    }
    return {**rows, **_training(metadata)}


def _training(metadata: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    if "task" in metadata:
        task = metadata["task"]
        rows["task"] = task["kind"]
        if task.get("labels"):
            rows["labels"] = f"{len(task['labels'])}: {', '.join(task['labels'])}"
    for role, title in (("eval", "development"), ("test", "test")):
        if role in metadata.get("metrics", {}):
            rows[title] = scores(metadata["metrics"][role])
    return rows


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
