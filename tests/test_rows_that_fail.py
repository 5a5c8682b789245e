"""What cannot be run or diverges leaves the rest of an experiment whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from test_reproduce import Fake, tiny_experiment

from prefixtune import reproduce
from prefixtune.errors import ConfigError, ModelError
from prefixtune.reproduce import caption, runner, table
from prefixtune.reproduce.experiment import Base, Cell, Trained
from prefixtune.reproduce.options import Options
from prefixtune.tasks import find
from prefixtune.tasks.loading import check_class

FT = Trained(name="FT", kind="full", recipe={"lr": 1e-3})
APT = Trained(name="APT", kind="adaptive", options={"length": 4}, recipe={"lr": 1e-2})
WIDE = Trained(name="P 1.5x", kind="p_tuning_v2", options={"length": 6}, recipe={"lr": 1e-2}, stretch=1.5)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tiny.place(tmp_path / "place")


class Chooser(Fake):
    """Development scores by the rate and the length."""

    def __init__(self, scores: dict[Any, float]) -> None:
        super().__init__()
        self.scores = scores

    def __call__(self, config: Any, what: Any, task: Any, data: Any, **options: Any) -> dict[str, Any]:
        found = super().__call__(config, what, task, data, **options)
        return {**found, "eval": {"f1": self.scores[what.kind(), what.options()["length"]]}}


def run(place: Path, output: Path, base: str = "bert", **options: Any) -> runner.Findings:
    asked = Options(model=str(place / base), data=[str(place)], **options)
    return runner.run("fake", asked, output, resume=(output / runner.RECORD).is_file(), command=["x"])


def test_a_corpus_that_the_base_has_no_head_for_is_left_out_before_anything_is_trained(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.encoder_decoder(place / "bart")
    both = tiny_experiment(arms=lambda _: (FT,), corpora=("e2e", "conll04"), recipe=lambda _: {"metric": "loss"})
    monkeypatch.setattr(reproduce, "find", lambda name: both)
    fake = Fake()

    def fit(config: Any, what: Any, task: Any, data: Any, **more: Any) -> dict[str, Any]:
        found = fake(config, what, task, data, **more)
        return {**found, "tests": {name: {"bleu_e2e": 0.5} for name in data.tests}}

    monkeypatch.setattr(runner, "fit", fit)
    found = run(place, tmp_path / "out", "bart")
    assert {task.kind for task in fake.tasks} == {"text2text"}
    assert "transformers has no bart model ForTokenClassification, as tagging needs" in found.left_out["conll04"]
    assert any(line.startswith("Left out: conll04: ") for line in table.caption(found))
    with pytest.raises(ModelError, match="transformers has no bart model ForTokenClassification"):
        run(place, tmp_path / "alone", "bart", corpora=["conll04"])


@pytest.mark.parametrize("kind", ["spans", "choice"])
def test_a_head_that_no_encoder_decoder_has_is_told_without_its_weights(tmp_path: Path, kind: str) -> None:
    folder = Path(tiny.encoder_decoder(tmp_path / "bart"))
    (folder / "model.safetensors").unlink()
    options = {"spans": {"labels": ("a", "b"), "count": 1}, "choice": {"count": 2}}[kind]
    with pytest.raises(ModelError, match="an encoder-decoder; its text has no one summary"):
        check_class(str(folder), find(kind)(**options))


def test_a_row_whose_trials_all_diverge_is_left_out_and_the_others_stay(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda _: (APT, FT)))
    fake = Fake(diverges=0.1)

    def fit(config: Any, *rest: Any, **more: Any) -> dict[str, Any]:
        fake.diverges = config.lr if "apt" in config.output else None
        return fake(config, *rest, **more)

    monkeypatch.setattr(runner, "fit", fit)
    rates = {"APT": [1e-2, 1e-1], "FT": [1e-3, 1e-2]}
    for _ in range(2):  # also when it is resumed
        found = run(place, tmp_path / "out", lr=rates, corpora=["conll04"])
        apt, ft = found.rows
        assert apt.reason == "training diverged with all 2 settings; give lower --lr" and not apt.runs
        assert len(ft.runs) == 1 and ft.chosen is not None and ft.chosen.recipe == {"lr": 1e-2}
    with pytest.raises(ConfigError, match="no row has a run: APT: training diverged with all 2 settings"):
        run(place, tmp_path / "alone", lr={"APT": [1e-2, 1e-1]}, methods=["APT"], corpora=["conll04"])


def test_rows_of_one_size_by_their_names_that_chose_other_lengths_say_so(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda _: (APT, WIDE)))
    apart = {("adaptive", 4): 0.9, ("adaptive", 8): 0.1, ("p_tuning_v2", 6): 0.1, ("p_tuning_v2", 12): 0.9}
    told = "conll04: rows chose lengths that do not go together, so that they are not of one size: APT 4, P 1.5x 12."
    for scores, said in ((apart, True), (apart | {("adaptive", 4): 0.1, ("adaptive", 8): 0.9}, False)):
        monkeypatch.setattr(runner, "fit", Chooser(scores))
        found = run(place, tmp_path / str(said), lengths=[4, 8], corpora=["conll04"])
        assert (told in table.caption(found)) is said


def test_a_model_for_bertscore_is_refused_where_no_text_is_generated(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "find", lambda name: tiny_experiment(arms=lambda _: (FT,)))
    with pytest.raises(ConfigError, match="--bertscore .*: no corpus here has texts to generate; leave it out"):
        run(place, tmp_path / "out", corpora=["conll04"], bertscore=str(place / "bert"))
    assert not (tmp_path / "out" / runner.RECORD).exists()


def test_a_row_that_fails_on_one_corpus_is_told_with_it() -> None:
    cells = [Cell(corpus, None, Base("bert", False, len)) for corpus in ("rte", "conll04")]
    rows = [runner.Row(cells[0], APT), runner.Row(cells[1], APT, reason="no"), runner.Row(cells[0], FT, reason="x")]
    rows.append(runner.Row(cells[1], FT, reason="x"))
    found = runner.Findings(None, rows, {}, {}, [])  # type: ignore[arg-type]
    assert caption._absent_rows(found) == ["Left out: APT (conll04): no", "Left out: FT: x"]
