"""From an experiment and its options to the settings of every single run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixtune import baselines, corpora, methods
from prefixtune.errors import ConfigError, PrefixtuneError
from prefixtune.reproduce.experiment import Arm, Base, Cell, Experiment, Trained, Variable
from prefixtune.reproduce.material import Material
from prefixtune.reproduce.options import FIRST_SEED, Options
from prefixtune.reproduce.search import Candidate, chosen_arms
from prefixtune.tasks import Task
from prefixtune.tasks.loading import named_failure, quiet
from prefixtune.training.adaptation import Adaptation, Prefixed
from prefixtune.training.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Plan:
    """An experiment as it was asked for."""

    name: str
    experiment: Experiment
    options: Options
    output: Path
    base: Base

    @property
    def seeds(self) -> list[int]:
        """The random seeds of every row."""
        return [FIRST_SEED + number for number in range(self.options.seeds or self.experiment.seeds)]

    @property
    def draws(self) -> range:
        """The subsets of each size; one where all data are used."""
        return range(self.options.subsets or self.experiment.subsets) if self.experiment.sizes else range(1)

    def cells(self, read: Mapping[str, object]) -> list[Cell]:
        """Every corpus that was `read` and every size, in the order of the experiment."""
        sizes: Sequence[int | None] = self.experiment.sizes and (self.options.sizes or self.experiment.sizes)
        if self.options.quick and not self.options.sizes:
            sizes = sizes[:1]
        every = (*self.experiment.corpora, *self.experiment.more)
        places: list[str | None] = [name for name in every if name in read]
        lengths = None if self.options.lengths is None else tuple(self.options.lengths)
        return [Cell(corpus, size, self.base, lengths) for corpus in (places or [None]) for size in (sizes or [None])]

    def recipe(self, cell: Cell) -> dict[str, Any]:
        """What all rows of a cell share: the paper's recipe, and what the user changed."""
        recipe, changes = self.experiment.recipe(cell), self.options.changes()
        if "epochs" in changes and "max_steps" not in changes:
            steps = recipe.get("max_steps")
            recipe = {name: value for name, value in recipe.items() if name != "max_steps"}
            if steps and recipe.get("warmup", 0) >= 1:  # the same share of the steps that the epochs are
                recipe["warmup"] = recipe["warmup"] / steps
        asked = {**recipe, **changes}
        if "warmup" in changes and _too_long(asked):
            raise ConfigError(
                f"--recipe: warmup {changes['warmup']} leaves none of {asked['max_steps']} steps; expected fewer"
            )
        return _fitting(asked)

    def arms(self, cell: Cell) -> list[Arm]:
        """The arms of a cell that were asked for."""
        return chosen_arms(self.experiment.arms(cell), self.options)

    def folder(self, cell: Cell, arm: Arm, run: str) -> Path:
        """Where one run is kept."""
        size = [] if cell.size is None else [f"{cell.size}-examples"]
        return Path(self.output, "runs", cell.corpus or "no-data", *size, slug(arm.name), run)

    def run_name(self, draw: int, seed: int) -> str:
        """The name of a run among those of its row."""
        return f"seed-{seed}" if len(self.draws) == 1 else f"subset-{draw + 1}-seed-{seed}"

    def together(self, draw: int) -> str:
        """The name of the runs of all seeds as one predictor."""
        return f"subset-{draw + 1}"

    def config(
        self, cell: Cell, arm: Trained | Variable, material: Material, candidate: Candidate, *, kind: str, seed: int,
        output: Path, trial: bool = False,
    ) -> RunConfig:  # fmt: skip
        """The whole configuration of one run: the paper's recipe, the row's, what is tried, what the user changed."""
        settings = {"dtype": "float32", "eval_batch_size": 32, **material.settings, **self.recipe(cell)}
        settings |= {**_rates(arm, candidate), **self.options.changes()}
        if trial and self.options.trial_steps is not None:
            settings = _cut_short(settings, self.options.trial_steps)
        return RunConfig(
            model=self.options.model, task=material.task.kind, train=corpora.part(material.corpus, "train"),
            eval=corpora.part(material.corpus, "dev"), method=kind, output=str(output), seed=seed,
            **_fitting(settings),
        )  # fmt: skip


def _rates(arm: Trained | Variable, candidate: Candidate) -> dict[str, Any]:
    """The row's learning rates under a candidate: those of parts keep their ratio to the rate of all."""
    rates = {**arm.recipe, **candidate.recipe}
    if "part_lr" in rates:
        times = rates["lr"] / arm.recipe["lr"]
        rates["part_lr"] = {part: rate * times for part, rate in rates["part_lr"].items()}
    return rates


def _cut_short(settings: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """A shorter trial of a run: its warm-up is the same share of its steps."""
    whole, warmup = settings.get("max_steps"), settings.get("warmup", 0)
    if whole and warmup >= 1:
        warmup = max(round(warmup * steps / whole), 1)
    return {**settings, "max_steps": steps, "warmup": warmup}


def _fitting(settings: dict[str, Any]) -> dict[str, Any]:
    """Looks at the development data and warm-up within the steps there are, when those were cut short."""
    steps = settings.get("max_steps")
    if steps is not None:
        if settings.get("eval_every"):
            settings["eval_every"] = min(settings["eval_every"], steps)
        if _too_long(settings):
            settings["warmup"] = steps // 2
    return settings


def _too_long(settings: Mapping[str, Any]) -> bool:
    """Whether the warm-up takes all steps there are."""
    warmup, steps = settings.get("warmup", 0), settings.get("max_steps")
    return steps is not None and isinstance(warmup, int | float) and warmup >= max(steps, 1)


def slug(name: str) -> str:
    """A row's name as a folder's."""
    return re.sub(r"(?:[^\w.]|_)+", "-", name.lower()).strip("-.")


def adaptation(kind: str, options: Mapping[str, Any]) -> Adaptation:
    """The method or baseline called `kind`. Raises ConfigError when there is neither."""
    if kind in baselines.names():
        return Checked(baselines.find(kind)(**options))
    return Checked(Prefixed(methods.find(kind)(**options)))


class Unfit(ConfigError):
    """What a row trains cannot be made on this base model."""


@dataclass(frozen=True)
class Checked(Adaptation):
    """Another adaptation; when it does not fit the model, that is told apart from what is wrong with a run."""

    inner: Adaptation

    def kind(self) -> str:
        return self.inner.kind()

    def options(self) -> dict[str, Any]:
        return self.inner.options()

    def attach(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        try:
            self.inner.attach(model, tokenizer)
        except PrefixtuneError as error:
            raise Unfit(str(error)) from error

    def save(self, model: PreTrainedModel, directory: Path, metadata: Mapping[str, Any]) -> int:
        return self.inner.save(model, directory, metadata)

    def positions(self, model: PreTrainedModel) -> int:
        return self.inner.positions(model)

    def fitted(self, task: Task) -> Task:
        try:
            return self.inner.fitted(task)
        except PrefixtuneError as error:
            raise Unfit(str(error)) from error


def with_candidate(arm: Trained, candidate: Candidate) -> Trained:
    """The arm with the options that a candidate changes."""
    return replace(arm, options={**arm.options, **candidate.options})


def read_base(model_id: str) -> Base:
    """What the experiments may ask about the base model. Raises ModelError when there is no such model."""
    from transformers import AutoConfig, AutoTokenizer

    with named_failure(model_id), quiet():
        config = AutoConfig.from_pretrained(model_id)
        tokenizer = AutoTokenizer.from_pretrained(model_id)

    def tokens(text: str) -> int:
        # A decoder's text begins as its tokenizer begins one, and does not end (prefixtune.initialisation).
        ids = tokenizer(text, add_special_tokens=not config.is_encoder_decoder)["input_ids"]
        if len(ids) > 1 and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
            ids = ids[:-1]
        if not ids:
            raise ConfigError(f"{text!r} has no tokens for {model_id}")
        return len(ids)

    return Base(config.model_type, bool(config.is_encoder_decoder), tokens)
