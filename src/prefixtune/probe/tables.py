"""The numbers of a probe as tables: CSV for a spreadsheet, JSON for a program. What does not exist is empty or null."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prefixtune.probe.lengths import RULE, VariablePrefix
from prefixtune.probe.reading import Group, Reading, SiteGates

LAYER_COLUMNS = ("group", "count", "unit", "site", "layer", "length", "layer_gate", "alpha", "gate")
POSITION_COLUMNS = ("group", "site", "layer", "position", "layer_gate", "alpha", "gate")


def layers_csv(reading: Reading) -> str:
    """One row a group, site and layer: lambda, and the means of alpha and of the gate over the layer's positions."""
    return _csv(LAYER_COLUMNS, _layer_rows(reading))


def positions_csv(reading: Reading) -> str:
    """One row a group, site, layer and position."""
    return _csv(POSITION_COLUMNS, _position_rows(reading))


def gates_json(reading: Reading, facts: Mapping[str, Any]) -> str:
    """The same as one object, under the `facts` of the probe."""
    groups = {group.name: _group(group) for group in reading.groups}
    found = {**facts, "overall": _group(reading.overall), "by": reading.by, "groups": groups}
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def lengths_json(variable: VariablePrefix, command: Sequence[str]) -> str:
    """The variable prefix, what it came from, and the command that trains it."""
    found = {
        "lengths": variable.lengths,
        "positions": variable.budget,
        "fixed_positions": variable.fixed,
        "ratio": variable.ratio,
        "weights": variable.weights,
        "rule": RULE,
        "command": list(command),
    }
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def layers_of(site: SiteGates) -> Iterator[dict[str, Any]]:
    """One mapping a layer."""
    alpha = site.alpha().nanmean(1).tolist()
    for place, (layer, gate) in enumerate(zip(site.layers, site.by_layer().tolist(), strict=True)):
        yield {
            "layer": layer, "length": site.lengths[place], "layer_gate": float(site.layer_gate[place]),
            "alpha": _number(alpha[place]), "gate": gate,
        }  # fmt: skip


def _group(group: Group) -> dict[str, Any]:
    sites = {}
    for name, site in group.sites.items():
        alpha, gate = site.alpha().tolist(), site.gate.tolist()
        sites[name] = [
            {**row, "alphas": [_number(a) for a in alpha[place][:length]], "gates": gate[place][:length]}
            for place, (row, length) in enumerate(zip(layers_of(site), site.lengths, strict=True))
        ]
    return {"count": group.count, "unit": group.unit, "sites": sites}


def _layer_rows(reading: Reading) -> Iterator[dict[str, Any]]:
    for group in (reading.overall, *reading.groups):
        for name, site in group.sites.items():
            for row in layers_of(site):
                yield {"group": group.name, "count": group.count, "unit": group.unit, "site": name, **row}


def _position_rows(reading: Reading) -> Iterator[dict[str, Any]]:
    for group in (reading.overall, *reading.groups):
        for name, site in group.sites.items():
            alpha, gate = site.alpha().tolist(), site.gate.tolist()
            for place, (layer, length) in enumerate(zip(site.layers, site.lengths, strict=True)):
                for position in range(length):
                    yield {
                        "group": group.name, "site": name, "layer": layer, "position": position,
                        "layer_gate": float(site.layer_gate[place]), "alpha": _number(alpha[place][position]),
                        "gate": gate[place][position],
                    }  # fmt: skip


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _number(value: float) -> float | None:
    """NaN is no number in JSON and no number in a spreadsheet."""
    return None if math.isnan(value) else value
