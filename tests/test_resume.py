"""Runs that died at their very end, and runs whose data changed: what resuming takes and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_reproduce import ARMS, Fake, tiny_experiment
from test_training import config, method
from transformers import Trainer

from prefixtune import reproduce
from prefixtune.errors import ConfigError
from prefixtune.reproduce import runner
from prefixtune.reproduce.options import Options
from prefixtune.training import results
from prefixtune.training.bench import Bench
from prefixtune.training.run import train
from prefixtune.training.trainer import build_trainer


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.encoder(tmp_path_factory.mktemp("bert"))


def killed_before_its_best_is_loaded(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_load_best_model", killed)
        with pytest.raises(KeyboardInterrupt):
            train(run, method())


@pytest.mark.parametrize("patience", [None, 2])
def test_a_run_that_died_before_its_best_step_was_loaded_is_finished_with_that_step(
    tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch, patience: int | None
) -> None:
    def measure(self: Bench, table: Any, answered: bool = True) -> dict[str, float]:
        """The second look is the best one."""
        looks.append(1)
        return {"loss": 1.0, "accuracy": {1: 0.5, 2: 0.9}.get(len(looks), 0.1)}

    monkeypatch.setattr(Bench, "measure", measure)
    found, weights = [], []
    for name in ("whole", "died"):
        looks: list[int] = []
        folder = tmp_path / name
        folder.mkdir()
        run = config(folder, "classification", bert, epochs=6, patience=patience)
        if name == "died":
            killed_before_its_best_is_loaded(run, monkeypatch)
            assert len(looks) == (6 if patience is None else 4)
        found.append(train(run, method(), resume=name == "died"))
        weights.append(load_file(Path(run.output) / "prefix.safetensors"))
    assert found[0]["best_step"] == found[1]["best_step"] == 8
    assert found[0]["steps"] == found[1]["steps"] == (24 if patience is None else 16)
    assert all(torch.equal(weights[1][name], weights[0][name]) for name in weights[0])


@pytest.mark.parametrize("left", ["one run", "nothing", "a divergence"])
def test_an_experiment_does_not_mix_runs_over_different_data(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, fake = tiny.place(tmp_path / "place"), Fake(diverges=1e-1 if left == "a divergence" else None)
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: ARMS[:1]))
    monkeypatch.setattr(runner, "fit", fake)
    rates = [1e-1] if left == "a divergence" else [1e-3]
    options = Options(model=str(place / "bert"), data=[str(place)], lr=rates, seeds=2)
    runner.run("fake", options, tmp_path / "out", resume=False, command=["x"])
    runner.run("fake", options, tmp_path / "out", resume=True, command=["x"])
    begun = len(fake.calls)
    if left == "one run":
        shutil.rmtree(tmp_path / "out" / "runs" / "conll04" / "ft" / "seed-43")
    path = place / "conll04" / "conll04_test.json"
    path.write_text(path.read_text().replace("A", "B"))
    with pytest.raises(ConfigError, match="the test test data changed since the run in .*seed-42 began"):
        runner.run("fake", options, tmp_path / "out", resume=True, command=["x"])
    assert len(fake.calls) == begun


def test_a_warm_up_as_long_as_the_epochs_is_refused(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=2, warmup=8)  # four steps an epoch
    with pytest.raises(ConfigError, match=r"warmup is 8 but 2 epochs are 8 steps, so its rate would never be reached"):
        train(run, method())


def test_a_constant_rate_is_warmed_up_to(tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config(tmp_path, "classification", bert, epochs=2, warmup=4, schedule="constant", lr=0.5)
    rates: list[float] = []
    real = build_trainer

    def built(*args: Any) -> Any:
        trainer = real(*args)
        step = trainer.training_step

        def noted(*more: Any, **kwargs: Any) -> Any:
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            return step(*more, **kwargs)

        trainer.training_step = noted
        return trainer

    monkeypatch.setattr("prefixtune.training.trainer.build_trainer", built)
    train(run, method())
    assert rates == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5]


# --- two processes in one folder -------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from prefixtune.training.results import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held(record: Path) -> Iterator[None]:
    """Another process works in the folder of `record`, and is killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(record)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == "held\n"
            yield
        finally:
            process.kill()
            process.wait()


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=1)
    output = Path(run.output)
    with held(output / results.RECORD):
        before = sorted(path for path in output.rglob("*") if path.is_file())
        with pytest.raises(ConfigError, match="another process works in this folder; wait for its end"):
            train(run, method(), resume=True)
        assert sorted(path for path in output.rglob("*") if path.is_file()) == before
    found = train(run, method(), resume=True)  # a killed one holds nothing
    assert found["steps"] == 4
    assert not list(output.rglob("*.lock"))


def test_an_experiment_that_another_process_is_at_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, fake, output = tiny.place(tmp_path / "place"), Fake(), tmp_path / "out"
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda cell: ARMS[:1]))
    monkeypatch.setattr(runner, "fit", fake)
    options = Options(model=str(place / "bert"), data=[str(place)], lr=[1e-3], seeds=1)
    with held(output / runner.RECORD):
        with pytest.raises(ConfigError, match="another process works in this folder"):
            runner.run("fake", options, output, resume=True, command=["x"])
        assert not fake.calls
    assert len(runner.run("fake", options, output, resume=True, command=["x"]).rows) == 1
    assert not list(output.rglob("*.lock"))
