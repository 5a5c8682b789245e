"""Training runs: what is learned, what is kept, and that a killed run resumes to the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

import prefixtune as pt
from prefixtune import evaluation, methods, tasks
from prefixtune.bank import bank_of
from prefixtune.errors import ConfigError
from prefixtune.packing import declare
from prefixtune.prefix import Method
from prefixtune.training import RunConfig, results
from prefixtune.training.bench import Bench, read_data
from prefixtune.training.run import Diverged, train
from prefixtune.training.trainer import EpochSampler, PrefixTrainer, build_trainer, padding_share

# torch's scheduler and accelerate warn of each other's use; nothing of ours can change it.
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.encoder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.decoder(tmp_path_factory.mktemp("gpt2"), initializer_range=0.3)


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.encoder_decoder(tmp_path_factory.mktemp("bart"))


def config(tmp_path: Path, task: str, model: str, **options: Any) -> RunConfig:
    """A short run on toy data, trained, chosen and tested on three draws of them."""
    make = {"classification": tiny.first_letter, "tagging": tiny.capitals, "text2text": tiny.doubled}[task]
    files = {
        role: tiny.jsonl(tmp_path / f"{role}.jsonl", make(count, seed))
        for role, count, seed in (("train", 64, 1), ("eval", 24, 2), ("test", 24, 3))
    }
    shape = {"epochs": 2, "batch_size": 16, "lr": 3e-2, "max_new_tokens": 4, "output": str(tmp_path / "out")}
    return RunConfig(model=model, task=task, method="adaptive", **(files | shape | options))


def method(name: str = "adaptive", **options: Any) -> Method:
    return methods.find(name)(**({"length": 4} | options))


def history(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(output) / results.HISTORY).read_text().splitlines()]


# --- a whole run -------------------------------------------------------------------------------------------------

CASES = [
    ("classification", "bert", "adaptive", "accuracy", 0.7),
    ("classification", "gpt2", "p_tuning_v2", "accuracy", 0.7),
    ("tagging", "bert", "adaptive", "f1", 0.7),
    ("text2text", "bart", "p_tuning_v2", "bleu", 0.0),
]


@pytest.mark.parametrize(("task", "base", "how", "metric", "least"), CASES)
def test_a_run_learns_its_task_and_evaluate_finds_the_numbers_it_reported(
    tmp_path: Path, request: pytest.FixtureRequest, task: str, base: str, how: str, metric: str, least: float
) -> None:
    model = request.getfixturevalue(base)
    run = config(tmp_path, task, model, epochs=16 if least else 1, base_dropout=False)
    found = train(run, method(how))
    assert found["test"][metric] >= least

    loaded = evaluation.load(model, {"default": run.output})
    data = tasks.read(str(run.test))
    scores, answers = evaluation.evaluate(loaded, "default", data)
    assert scores == pytest.approx(found["test"], rel=1e-5)
    assert len(answers) == len(data) if task != "text2text" else len({row["source"] for row in data.rows})


def test_a_decoder_learns_to_generate_the_target_and_stop(tmp_path: Path, gpt2: str) -> None:
    run = config(tmp_path, "text2text", gpt2, epochs=60, lr=5e-2, base_dropout=False)
    found = train(run, method("p_tuning_v2", length=8))
    assert found["test"]["rougeL"] == 1.0
    loaded = evaluation.load(gpt2, {"default": run.output})
    (answers,) = evaluation.generate(loaded, ["b"], ["default", None], tasks.Decoding(max_new_tokens=8))
    assert answers["default"] == "bb"
    assert answers[None] != "bb"


def test_the_result_folder_holds_the_prefix_the_numbers_and_the_whole_configuration(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=1)
    found = train(run, method(), command=["prefixtune", "train", "--seed", "42"])
    names = {path.name for path in Path(run.output).iterdir()}
    assert names - {results.PLOT} == {
        "prefix.safetensors", "prefix_config.json", "metrics.json", "run.yaml", "run.json", "log_history.jsonl",
    }  # fmt: skip
    record = json.loads((Path(run.output) / "run.json").read_text())
    assert record["seed"] == 42
    assert record["command"] == ["prefixtune", "train", "--seed", "42"]
    assert record["versions"]["torch"] == torch.__version__
    assert record["data"]["train"]["rows"] == 64
    stored = load_file(Path(run.output) / "prefix.safetensors")
    assert found["parameters"]["stored"] == sum(tensor.numel() for tensor in stored.values())
    assert json.loads((Path(run.output) / "metrics.json").read_text()) == found


def test_the_base_model_is_not_written_and_is_far_larger_than_what_is(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=1, keep_checkpoints=True)
    train(run, method())
    base = load_file(Path(bert) / "model.safetensors")
    for path in Path(run.output).rglob("*.safetensors"):
        assert not {name for name in load_file(path) if name.removeprefix("bert.") in base}


# --- choosing ----------------------------------------------------------------------------------------------------


def test_the_prefix_is_of_the_checkpoint_that_is_best_on_development_data(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=6, lr=0.3, metric="accuracy")
    found = train(run, method())
    seen = {entry["step"]: entry["eval_accuracy"] for entry in history(run.output) if "eval_accuracy" in entry}
    assert len(seen) == 6
    assert found["eval"]["accuracy"] == max(seen.values()) == seen[found["best_step"]]
    assert min(seen.values()) < max(seen.values())  # otherwise any checkpoint would have passed


def test_training_stops_when_the_metric_has_not_improved(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=30, lr=1e-9, patience=2)
    assert train(run, method())["steps"] == 3 * 4  # one evaluation that is the best, two that are not


def test_without_development_data_the_last_step_is_kept(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=1, eval=None, test=None)
    found = train(run, method())
    assert found["best_step"] == found["steps"] == 4
    assert "eval" not in found and "test" not in found


def test_text_is_generated_in_training_only_when_a_text_metric_chooses(tmp_path: Path, bart: str) -> None:
    for name, metric in (("loss", None), ("bleu", "bleu")):
        run = config(tmp_path, "text2text", bart, epochs=1, metric=metric, output=str(tmp_path / name))
        found = train(run, method("p_tuning_v2"))
        assert found["chosen_by"] == name
        assert any("eval_bleu" in entry for entry in history(run.output)) == (name == "bleu")


# --- the loss ----------------------------------------------------------------------------------------------------


def trainer_of(run: RunConfig, used: Method | None = None) -> PrefixTrainer:
    from prefixtune.tasks.loading import load_base, window

    task, data = read_data(run)
    torch.manual_seed(0)
    model, tokenizer = load_base(run.model, task, dropout=False)
    pt.attach(model, used or method("p_tuning_v2"))
    bench = Bench(model, tokenizer, task, data, window(model, tokenizer, 4), tasks.Decoding(), batch_size=32)
    return build_trainer(run, bench, "loss")


def first_gradient(run: RunConfig) -> tuple[torch.Tensor, PrefixTrainer]:
    """The gradient of the first step, whole: of the first batch, or of the batches accumulated into it."""
    trainer = trainer_of(run)
    batches = iter(trainer.get_train_dataloader())
    parts, items = trainer.get_batch_samples(batches, run.gradient_accumulation, torch.device("cpu"))
    trainer.current_gradient_accumulation_steps = len(parts)
    for part in parts:
        trainer.training_step(trainer.model, part, items)
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad]), trainer


@pytest.mark.parametrize("loss", ["token_mean", "sentence_sum"])
def test_accumulated_batches_make_the_same_step_as_one_large_batch(tmp_path: Path, gpt2: str, loss: str) -> None:
    rows = [{"source": "a", "target": "b" * (1 + index % 7)} for index in range(12)]
    data = {"train": tiny.jsonl(tmp_path / "rows.jsonl", rows), "loss": loss}
    data |= {"epochs": 1, "test": None}
    whole, _ = first_gradient(config(tmp_path, "text2text", gpt2, **data, batch_size=12))
    parts, _ = first_gradient(config(tmp_path, "text2text", gpt2, **data, batch_size=3, gradient_accumulation=4))
    assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-7)


def test_the_sentence_sum_is_summed_over_tokens_and_averaged_over_sentences(tmp_path: Path, gpt2: str) -> None:
    rows = [{"source": "a", "target": "b"}, {"source": "a", "target": "bcdefg"}]
    data = {"train": tiny.jsonl(tmp_path / "rows.jsonl", rows), "epochs": 1, "test": None, "batch_size": 2}
    tokens, _ = first_gradient(config(tmp_path, "text2text", gpt2, **data, loss="token_mean"))
    sentences, _ = first_gradient(config(tmp_path, "text2text", gpt2, **data, loss="sentence_sum"))
    labels = (1 + 1) + (6 + 1)  # with the end tokens
    assert torch.allclose(sentences, tokens * labels / len(rows), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("task", ["classification", "tagging"])
def test_the_loss_of_a_head_is_that_of_its_model(tmp_path: Path, bert: str, task: str) -> None:
    trainer = trainer_of(config(tmp_path, task, bert))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    with torch.no_grad(), declare():  # rows of tagging are packed
        theirs = trainer.model(**batch).loss
        ours = trainer.compute_loss(trainer.model, dict(batch))
    assert torch.allclose(ours, theirs, rtol=1e-5)


def test_a_batch_in_which_nothing_is_to_be_predicted_has_a_loss_of_zero_and_spoils_no_other(
    tmp_path: Path, bert: str
) -> None:
    rows = [{"tokens": ["Anna", "w"], "tags": ["B-NAME", "O"]}] * 3 + [{"tokens": ["\u3000"], "tags": ["O"]}]
    data = {"train": tiny.jsonl(tmp_path / "rows.jsonl", rows), "test": None, "batch_size": 1}
    run = config(tmp_path, "tagging", bert, **data, epochs=2, logging_steps=1)
    trainer = trainer_of(run)
    batches = [dict(batch) for batch in trainer.get_train_dataloader()]
    (empty,) = [batch for batch in batches if not (batch["labels"] >= 0).any()]
    for count in (None, 0, torch.tensor(0)):
        assert trainer.compute_loss(trainer.model, dict(empty), num_items_in_batch=count) == 0
    train(run, method())
    losses = sorted(entry["loss"] for entry in history(run.output) if "loss" in entry)
    assert len(losses) == 8 and losses[:2] == [0, 0] and losses[2] > 0 and losses[-1] < 10


# --- the order of the data ---------------------------------------------------------------------------------------


LENGTHS = [1 + index % 9 for index in range(1000)]


def sampler(epoch: int, seed: int = 1) -> list[int]:
    features = [{"input_ids": [0] * length} for length in LENGTHS]
    return list(EpochSampler(seed=seed, epoch=lambda: epoch, batch_size=5, dataset=features))


def test_the_order_of_an_epoch_depends_on_the_seed_and_the_epoch_alone() -> None:
    first = sampler(3)
    torch.rand(7)  # whatever happened to the global random state
    assert sampler(3) == first
    assert sampler(4) != first != sampler(3, seed=2)
    assert sorted(first) == list(range(len(LENGTHS)))


def test_batches_hold_examples_of_similar_length() -> None:
    def padding(order: list[int]) -> int:
        batches = [[LENGTHS[i] for i in order[start : start + 5]] for start in range(0, len(order), 5)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(sampler(0)) < padding(list(range(len(LENGTHS)))) / 10


def test_batches_do_not_run_from_long_to_short() -> None:
    """Sorted batches, as transformers gives them, fall in length nearly always; shuffled ones half of the time."""
    order = sampler(0)
    means = [sum(LENGTHS[i] for i in order[start : start + 5]) / 5 for start in range(0, len(order), 5)]
    rises = sum(later > earlier for earlier, later in zip(means, means[1:], strict=False))
    assert means[0] == max(LENGTHS), "the longest batch comes first"
    assert 0.3 < rises / len(means) < 0.6


def test_the_share_of_padding_is_that_of_the_batches() -> None:
    assert padding_share([3] * 40, 8) == 0
    assert padding_share([1, 9], 2) == pytest.approx(1 - 10 / 18)
    assert padding_share([1, 9] * 32, 2) < 0.1, "examples of similar length are batched"


@pytest.mark.parametrize(("spread", "packed"), [(0, False), (6, True)])
def test_tagging_is_packed_where_batches_would_hold_much_padding(
    tmp_path: Path, bert: str, spread: int, packed: bool
) -> None:
    counts = [2 + index % (1 + spread) for index in range(16)]
    rows = [{"tokens": ["A", *"w" * count], "tags": ["B-NAME", *"O" * count]} for count in counts]
    run = config(tmp_path, "tagging", bert, batch_size=16, train=tiny.jsonl(tmp_path / "rows.jsonl", rows))
    batch = next(iter(trainer_of(run).get_train_dataloader()))
    assert ("position_ids" in batch) == packed


# --- learning rates ------------------------------------------------------------------------------------------------


def test_a_part_with_a_rate_of_its_own_moves_that_far_in_the_first_step_and_the_rest_as_far_as_lr_says(
    tmp_path: Path, bert: str
) -> None:
    rates = {"keys": 0.25, "head": 1e-3}
    run = config(
        tmp_path, "classification", bert, max_steps=1, epochs=1, schedule="constant", clip=0.0, lr=1e-2, part_lr=rates
    )
    trainer = trainer_of(run, method(token_gate_std=0.5))
    parts = bank_of(trainer.model).parts("default")
    before = {part: [p.detach().clone() for p in parameters] for part, parameters in parts.items()}
    trainer.train()
    # Adam's first step is the rate, whatever the size of the gradient: Kingma & Ba 2015, section 2.1.
    for part, rate in {"keys": 0.25, "values": 1e-2, "gates": 1e-2, "head": 1e-3}.items():
        moved = max(float((now.detach() - old).abs().max()) for now, old in zip(parts[part], before[part], strict=True))
        assert moved == pytest.approx(rate, rel=1e-2), part


@pytest.mark.parametrize(("part", "has"), [("mlp", "keys, values, gates, head"), ("kys", "did you mean 'keys'")])
def test_a_rate_of_a_part_that_is_not_there_is_named(tmp_path: Path, bert: str, part: str, has: str) -> None:
    with pytest.raises(ConfigError, match=has):
        train(config(tmp_path, "classification", bert, part_lr={part: 0.1}), method())


# --- kill and resume ---------------------------------------------------------------------------------------------

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from prefixtune.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(run: RunConfig, output: Path, *more: str) -> list[str]:
    flags = [
        "--model", run.model, "--task", run.task, "--train", run.train, "--eval", str(run.eval),
        "--test", str(run.test), "--method", "prefix_tuning", "--length", "3", "--hidden", "8", "--dropout", "0.1",
        "--lr", "1e-3", "--part-lr", "mlp=1e-2", "--epochs", "8", "--batch-size", "8",
        "--eval-every", "3", "--logging-steps", "1", "--patience", "50", "--max-new-tokens", "3",
        "--gradient-accumulation", "2",
    ]  # fmt: skip
    return [sys.executable, "-c", SCRIPT, "train", *flags, "--output", str(output), *more]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(tmp_path: Path, gpt2: str) -> None:
    run = config(tmp_path, "text2text", gpt2)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(run, whole), check=True, capture_output=True, timeout=300)

    process = subprocess.Popen(command(run, broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(broken.glob("checkpoints/checkpoint-*/trainer_state.json")):  # in the middle of an epoch of 4 steps
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (broken / "metrics.json").exists()

    resumed = [sys.executable, "-c", SCRIPT, "train", "--output", str(broken), "--resume"]  # its settings are on disk
    subprocess.run(resumed, check=True, capture_output=True, timeout=300)

    ours, theirs = load_file(broken / "prefix.safetensors"), load_file(whole / "prefix.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    numbers = [json.loads((folder / "metrics.json").read_text()) for folder in (broken, whole)]
    for found in numbers:
        found.pop("seconds")
    assert numbers[0] == numbers[1]
    losses = [[entry["loss"] for entry in history(str(folder)) if "loss" in entry] for folder in (broken, whole)]
    assert losses[0] == losses[1]
    assert not (broken / "checkpoints").exists()


def test_a_run_that_died_after_its_last_step_is_finished_by_resuming(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, keep_checkpoints=True)
    found = train(run, method())
    for name in ("metrics.json", "prefix.safetensors", "prefix_config.json"):
        (Path(run.output) / name).unlink()
    again = train(run, method(), resume=True)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_resuming_says_nothing_of_options_that_did_not_change(
    tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = config(tmp_path, "classification", bert, epochs=2)
    real, calls = Bench.measure, []

    def killed(self: Bench, *args: Any, **more: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            train(run, method())
    train(run, method(), resume=True)
    assert "do not match" not in caplog.text


def test_a_run_that_ended_inside_an_epoch_takes_no_step_more_when_it_is_resumed(tmp_path: Path, bert: str) -> None:
    shape: dict[str, Any] = {"max_steps": 6, "schedule": "constant", "eval": None, "keep_checkpoints": True}
    run = config(tmp_path, "classification", bert, **shape)  # four steps an epoch
    found = train(run, method())
    before = load_file(Path(run.output) / "prefix.safetensors")
    for name in ("metrics.json", "prefix.safetensors", "prefix_config.json"):
        (Path(run.output) / name).unlink()
    again = train(run, method(), resume=True)
    assert {**again, "seconds": 0} == {**found, "seconds": 0} and again["steps"] == 6
    after = load_file(Path(run.output) / "prefix.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_patience_that_was_used_up_before_a_kill_stays_used_up(
    tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 30, "lr": 1e-9, "patience": 3}
    whole = train(config(tmp_path, "classification", bert, **options), method())
    real, calls = Bench.measure, []

    def killed(self: Bench, *args: Any, **more: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 4:  # one evaluation that is the best, two of three that are not, and then the end
            raise KeyboardInterrupt
        return real(self, *args, **more)

    run = config(tmp_path, "classification", bert, **options, output=str(tmp_path / "broken"))
    with monkeypatch.context() as patch:
        patch.setattr(Bench, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            train(run, method())
    assert {**train(run, method(), resume=True), "seconds": 0} == {**whole, "seconds": 0}


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((3, "{}"), (6, '{"step'), (9, None)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert results.last_checkpoint(tmp_path) == tmp_path / "checkpoints" / "checkpoint-3"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-3"]


def test_a_run_is_resumed_only_as_the_run_it_is(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=1)
    train(run, method())
    before = (Path(run.output) / "prefix.safetensors").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="already holds a run; continue it with --resume"):
        train(run, method())
    with pytest.raises(ConfigError, match="--resume: epochs is 2 but the run in .* has 1"):
        train(config(tmp_path, "classification", bert, epochs=2), method(), resume=True)
    with pytest.raises(ConfigError, match="--resume: length is 5 but the run in .* has 4"):
        train(run, method(length=5), resume=True)
    assert train(run, method(), resume=True) == results.read_metrics(Path(run.output))  # finished: nothing to do
    assert (Path(run.output) / "prefix.safetensors").stat().st_mtime_ns == before
    tiny.jsonl(tmp_path / "train.jsonl", tiny.first_letter(64, seed=9))
    with pytest.raises(ConfigError, match="the train data changed"):
        train(run, method(), resume=True)


def test_a_run_that_died_before_its_settings_were_written_begins_again(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=1)
    (Path(run.output) / "checkpoints").mkdir(parents=True)
    for left in ("run.json", ".run.json.abc", ".run.yaml.abc"):
        (Path(run.output) / left).write_text("{")
    assert train(run, method(), resume=True)["steps"] > 0


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, epochs=1)
    Path(run.output).mkdir()
    (Path(run.output) / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(ConfigError, match="is not empty and holds no run"):
            train(run, method(), resume=resume)
    assert [path.name for path in Path(run.output).iterdir()] == ["thesis.tex"]


# --- what Trainer offers -------------------------------------------------------------------------------------------


def test_gradient_checkpointing_changes_no_number(tmp_path: Path, bert: str) -> None:
    for name, wanted in (("kept", False), ("twice", True)):
        run = config(tmp_path, "tagging", bert, gradient_checkpointing=wanted, output=str(tmp_path / name))
        train(run, method())
    kept, twice = (load_file(tmp_path / name / "prefix.safetensors") for name in ("kept", "twice"))
    assert all(torch.allclose(kept[name], twice[name], atol=1e-6) for name in kept)


def test_mixed_precision_computes_in_it_and_stores_what_the_base_is_in(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, precision="bf16", epochs=1)
    trainer = trainer_of(run)
    model, _ = trainer._prepare_for_training(4, trainer.get_train_dataloader(), None)
    seen = []
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    trainer.compute_loss(model, dict(next(iter(trainer.get_train_dataloader()))))
    assert torch.bfloat16 in seen
    found = train(run, method())  # the folder holds an empty folder of checkpoints by now, which is nothing to refuse
    loaded = evaluation.load(bert, {"default": run.output})
    scores, _ = evaluation.evaluate(loaded, "default", tasks.read(str(run.test)))
    assert scores == pytest.approx(found["test"], rel=1e-5)  # in the precision it will be used in
    assert {tensor.dtype for tensor in load_file(Path(run.output) / "prefix.safetensors").values()} == {torch.float32}


def test_tensorboard_files_outlive_the_checkpoints(tmp_path: Path, bert: str) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = config(tmp_path, "classification", bert, report_to="tensorboard")
    train(run, method())
    events = EventAccumulator(str(Path(run.output) / "tensorboard")).Reload()
    seen = [entry["eval_loss"] for entry in history(run.output) if "eval_loss" in entry]
    assert [event.value for event in events.Scalars("eval/loss")] == pytest.approx(seen)


def test_a_reporter_that_is_not_there_is_named_before_training(tmp_path: Path, bert: str) -> None:
    run = config(tmp_path, "classification", bert, report_to="tensorbord")
    with pytest.raises(ConfigError, match="tensorbord"):
        train(run, method())
    assert not Path(run.output).exists()


def test_inputs_that_are_cut_are_counted(tmp_path: Path, bert: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": "a" * length, "label": str(length % 2)} for length in (1, 2, 30, 31)]
    run = config(tmp_path, "classification", bert, max_length=8, epochs=1, eval=None, test=None)
    tiny.jsonl(Path(run.train), rows)
    train(run, method())
    assert "train.jsonl: 2 of 4 inputs reach the limit of 8 tokens" in caplog.text


def test_a_run_that_diverges_leaves_no_prefix(tmp_path: Path, gpt2: str) -> None:
    run = config(tmp_path, "text2text", gpt2, lr=1e38, clip=0, epochs=1)
    with pytest.raises(ConfigError, match="training diverged.*lower --lr"):
        train(run, method("p_tuning_v2"))
    assert not (Path(run.output) / "prefix.safetensors").exists()


def test_a_look_without_numbers_is_never_the_best(tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest of logits that are no numbers is the first class, which may well be right."""
    run = config(tmp_path, "classification", bert, lr=1e30, clip=0, max_steps=2, eval_every=1)
    with pytest.raises(Diverged, match="training diverged"):
        train(run, method("linear", dropout=0.0))
    assert not (Path(run.output) / "metrics.json").exists()


def test_a_run_without_matplotlib_says_so_and_goes_on(
    tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = config(tmp_path, "classification", bert, epochs=1)
    train(run, method())
    assert "no plot: pictures need matplotlib" in capsys.readouterr().err
    assert not (Path(run.output) / results.PLOT).exists()


# --- files -------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results.write_text(tmp_path / "a.json", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        results.write_text(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_run_options_and_method_options_never_share_a_name() -> None:
    import dataclasses

    ours = {field.name for field in dataclasses.fields(RunConfig)} | {"resume"}
    for name in methods.names():
        assert ours.isdisjoint({field.name for field in dataclasses.fields(methods.find(name))})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"loss": "sentence_mean"}, "unknown loss 'sentence_mean'; did you mean"),
        ({"precision": "bf32"}, "unknown precision 'bf32'"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"lr": -1.0}, "lr is -1.0; expected a number above 0"),
        ({"part_lr": {"keys": "fast"}}, "the rate of keys is 'fast'; expected a number above 0"),
        ({"eval": None, "metric": "f1"}, "name it with --eval"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(tmp_path: Path, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        config(tmp_path, "classification", "m", **options)


def test_a_metric_of_another_task_is_named_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown metric 'recal' for tagging; did you mean 'recall'"):
        train(config(tmp_path, "tagging", "no-such-model", metric="recal"), method())
    assert not (tmp_path / "out").exists()
