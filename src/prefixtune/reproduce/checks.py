"""What an experiment was asked for, looked through before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefixtune.errors import ConfigError
from prefixtune.reproduce import search
from prefixtune.reproduce.experiment import Arm, Cell, Counted, Ensemble, Trained, Variable
from prefixtune.reproduce.material import Material
from prefixtune.reproduce.plan import Plan, adaptation, slug
from prefixtune.training.run import chosen_metric


def check(plan: Plan, cells: Sequence[tuple[Cell, Sequence[Arm]]], materials: Mapping[str, Material]) -> None:
    """Every arm and every run's configuration can be made, before anything is written."""
    if plan.options.bertscore is not None and all(one.task.kind != "text2text" for one in materials.values()):
        raise ConfigError(f"--bertscore {plan.options.bertscore}: no corpus here has texts to generate; leave it out")
    search.check_lengths(plan.experiment, plan.options, [arm for _, arms in cells for arm in arms])
    for cell, arms in cells:
        _check_names(arms)
        for arm in arms:
            if isinstance(arm, Trained | Counted):
                adaptation(arm.kind, arm.options)
            elif isinstance(arm, Ensemble) and (plan.options.changes().get("beams") or 1) != 1:
                raise ConfigError("an ensemble decodes greedily; leave --beams out")
            if isinstance(arm, Trained | Variable):
                _check_configs(plan, cell, arm, materials[cell.corpus or ""])


def _check_names(arms: Sequence[Arm]) -> None:
    """Each row has a folder of its own, or it would report another's runs."""
    by_folder: dict[str, str] = {}
    for arm in arms:
        folder = slug(arm.name)
        if not folder or folder in by_folder:
            taken = f"is that of {by_folder[folder]!r}" if folder else "has none"
            raise ConfigError(
                f"the row {arm.name!r}: the folder of its runs {taken}; give rows names that differ in their letters "
                "or digits"
            )
        by_folder[folder] = arm.name


def _check_configs(plan: Plan, cell: Cell, arm: Trained | Variable, data: Material) -> None:
    share = plan.experiment.dev_share  # are there as many examples?
    drawn = [data.data(tested=False, size=cell.size, draw=draw, dev_share=share) for draw in plan.draws]
    if len(drawn) > 1 and all(one.facts["train"] == drawn[0].facts["train"] for one in drawn):
        raise ConfigError(
            f"--subsets {len(drawn)}: {cell.corpus} has {cell.size} examples to draw {cell.size} from, so that every "
            "subset is the same; give --subsets 1, more data or smaller --sizes"
        )
    for candidate in search.candidates(arm, plan.experiment, plan.options):
        config = plan.config(cell, arm, data, candidate, kind="", seed=plan.seeds[0], output=plan.output)
        chosen_metric(config, data.task)
