"""The variable prefix: P-Tuning v2 with a length of its own in every layer, shared out by APT's gates.

The paper (Zhang et al. 2023, section 4.4) resets the lengths "from the learned gate ratio" and leaves the rounding
open. Here all positions of a budget are shared out over all layers of all sites in proportion to their gates, by the
method of largest remainders: every layer gets the whole part of its share, and the positions that are left go to the
layers with the largest fractions, the lower layer first when fractions are equal. A layer may come out with 0: it is
then left out. A layer whose gate is wider never gets fewer positions, and the lengths sum to the budget exactly.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from prefixtune import corpora
from prefixtune.errors import ConfigError
from prefixtune.geometry import SITES, Geometry
from prefixtune.methods.p_tuning_v2 import PTuningV2
from prefixtune.probe.reading import Group
from prefixtune.training.config import RunConfig

METHOD = PTuningV2.name()
TRAIN_FILE = "TRAIN_FILE"
_FILES = {"train": TRAIN_FILE, "eval": "DEV_FILE"}
RULE = (
    "positions in proportion to each layer's gate (the sum of |gate| over its positions), rounded by largest "
    "remainders, lower layer first on equal remainders, minimum 0"
)
_PARTS = ("keys", "values", "head")
_REPLACED = {"method", "output", "length", "lengths", "layers", "sites"}


@dataclass(frozen=True)
class VariablePrefix:
    """One length for every layer of every site that the probed prefix reaches.

    Args:
        lengths: by site, one for each of the model's layers there.
        weights: what they were shared out by, in the same places.
        ratio: the budget as it was given.
        fixed: how many positions the probed prefix has in all layers together.
        budget: how many the variable prefix has.
        every_site: whether these are all the sites of the model.
    """

    lengths: dict[str, list[int]]
    weights: dict[str, list[float]]
    ratio: float
    fixed: int
    budget: int
    every_site: bool


def check_ratio(ratio: float) -> None:
    """Raise ConfigError when `ratio` is no budget."""
    if not math.isfinite(ratio) or ratio <= 0:
        raise ConfigError(f"--budget {ratio}: expected a ratio above 0; 1 keeps the number of positions")


def variable_prefix(gates: Group, geometry: Geometry, ratio: float) -> VariablePrefix:
    """The lengths that follow from `gates`, `ratio` times as many positions (halves up, at least 1) as it has now."""
    check_ratio(ratio)
    sites = [site for site in SITES if site in gates.sites]
    weights = {site: [0.0] * len(geometry.at(site)) for site in sites}
    for site in sites:
        for layer, weight in zip(gates.sites[site].layers, gates.sites[site].openness().tolist(), strict=True):
            weights[site][layer] = weight
    fixed = sum(sum(found.lengths) for found in gates.sites.values())
    budget = max(math.floor(Fraction(str(ratio)) * fixed + Fraction(1, 2)), 1)
    shares = iter(share_out([weight for site in sites for weight in weights[site]], budget))
    lengths = {site: [next(shares) for _ in weights[site]] for site in sites}
    return VariablePrefix(lengths, weights, ratio, fixed, budget, every_site=set(sites) == set(geometry.sites))


def share_out(weights: Sequence[float], total: int) -> list[int]:
    """`total` whole things in proportion to `weights`, by largest remainders; the arithmetic is exact.

    Raises ConfigError when a weight is negative or not finite, or all are 0.
    """
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ConfigError(f"the gates {list(weights)} have no ratio; expected numbers from 0 up, not all of them 0")
    exact = [Fraction(weight) for weight in weights]
    shares = [total * weight / sum(exact) for weight in exact]
    whole = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda place: (whole[place] - shares[place], place))
    for place in by_remainder[: total - sum(whole)]:
        whole[place] += 1
    return whole


def train_command(
    variable: VariablePrefix, settings: Mapping[str, Any] | None, *, model: str, task: str, output: str
) -> list[str]:
    """The words of the `prefixtune train` command that trains the variable prefix.

    `settings` are those of the run that trained the probed prefix: same data, same seed, same everything but the
    method. None, where no run is recorded: the training file is then left to the user, as `TRAIN_FILE`, and so are the
    files of a run of `prefixtune reproduce`, which reads its corpora another way.
    """
    given = {"task": task, "train": TRAIN_FILE, **(settings or {}), "model": model}
    given |= {role: file for role, file in _FILES.items() if corpora.is_part(given.get(role))}
    words = ["prefixtune", "train"]
    for config in (RunConfig, PTuningV2):
        for setting in dataclasses.fields(config):
            value = _own_rates(given.get(setting.name)) if setting.name == "part_lr" else given.get(setting.name)
            if setting.name not in _REPLACED and value is not None and value != setting.default:
                words += _option(setting.name, value)
    sites = [] if variable.every_site else ["--sites", ",".join(variable.lengths)]
    return [*words, "--method", METHOD, *sites, "--lengths", _lengths(variable.lengths), "--output", output]


def _own_rates(rates: Mapping[str, float] | None) -> dict[str, float] | None:
    """The rates of parts that the variable prefix has: it has no gates."""
    return {part: rate for part, rate in (rates or {}).items() if part in _PARTS} or None


def shell_line(words: Sequence[str]) -> str:
    """The words as one line of a shell, also where one holds a line break."""
    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def _escaped(word: str) -> str:
    return "$'" + "".join(one if one.isprintable() and one not in "\\'" else _code(one) for one in word) + "'"


def _code(one: str) -> str:
    r"""A character as `$'...'` reads it, where `\xa0` is a byte."""
    if one in "\\'":
        return f"\\{one}"
    return f"\\x{ord(one):02x}" if ord(one) < 0x80 else f"\\U{ord(one):08x}"


def _lengths(lengths: Mapping[str, Sequence[int]]) -> str:
    if len(lengths) == 1:
        return ",".join(str(length) for length in next(iter(lengths.values())))
    return json.dumps(dict(lengths), separators=(",", ":"))


def _option(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    word = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return [f"--{flag}={word}"] if word.startswith("-") else [f"--{flag}", word]
