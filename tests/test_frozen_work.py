"""Work that a frozen model makes unnecessary: backwards below the lowest prefix, and layers there in every epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import zoo
from test_contract import close, enable_checkpointing, make_method, switch_off_dropout
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel, TrainerCallback

import prefixtune as pt
from prefixtune import tasks
from prefixtune.bank import bank_of
from prefixtune.layout import Layout
from prefixtune.tasks.loading import load_base, window
from prefixtune.tasks.task import IGNORED, Feature, batches_by_length
from prefixtune.training import RunConfig, activations
from prefixtune.training.bench import Bench, read_data
from prefixtune.training.trainer import PrefixTrainer, build_trainer

# torch's scheduler and accelerate warn of each other's use; nothing of ours can change it.
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")


# --- the backward ------------------------------------------------------------------------------------------------


KINDS = {"mm": "mm", "addmm": "mm", "bmm": "mm", "_scaled_dot_product_flash_attention_for_cpu_backward": "flash"}


class Products(TorchDispatchMode):
    """Counts matrix products, and flash attentions of tokens and prefixes."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = KINDS.get(str(function).split(".")[1])
        if kind is not None:
            self.counts[kind] += 1
        return function(*args, **(kwargs or {}))


def backward_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Counter[str]:
    loss = model(**inputs).logits.square().sum()
    with Products() as seen:
        loss.backward()
    return seen.counts


# Products by weights in the backward: of one layer behind its attention, of its query, key and value, and of the head.
LINEAR = {"bert": (3, 3, 2), "llama": (4, 3, 1), "gpt2": (3, 1, 1)}


@pytest.mark.parametrize("lowest", [0, 1])
@pytest.mark.parametrize("name", LINEAR)
def test_the_backward_ends_at_the_keys_of_the_lowest_prefix(name: str, lowest: int) -> None:
    architecture = zoo.BY_NAME[name]
    model = architecture.make()
    depth = model.config.num_hidden_layers
    pt.attach(model, make_method("p_tuning_v2", layers=range(lowest, depth)))
    model.train()
    switch_off_dropout(model)
    seen = backward_of(model, zoo.inputs_for(architecture))
    behind, qkv, head = LINEAR[name]
    reached = depth - lowest
    # No product makes the gradient of a weight, and q, k and v of the lowest layer have no gradient at all.
    assert seen["mm"] == head + reached * behind + (reached - 1) * qkv
    # Each layer has one for its prefix; one for its tokens only where query, key or value depend on a prefix below.
    assert seen["flash"] == reached + (reached - 1)


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "deberta-v2"])
def test_nothing_below_the_lowest_prefix_and_nothing_of_the_base_has_a_gradient(name: str) -> None:
    architecture = zoo.BY_NAME[name]
    model = architecture.make()
    pt.attach(model, make_method("p_tuning_v2", layers=[1]))
    bank = bank_of(model)
    paths = [layer.module for layer in bank.geometry.layers]
    reached: list[bool] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        reached.append((output if isinstance(output, Tensor) else output[0]).requires_grad)

    for path in paths:
        model.get_submodule(path).register_forward_hook(note)
    model.train()
    model(**zoo.inputs_for(architecture)).logits.square().sum().backward()
    assert reached == [number > 0 for number in range(len(paths))]
    own = {id(parameter) for parameter in bank.parameters()}
    assert all((parameter.grad is not None) == (id(parameter) in own) for parameter in model.parameters())


def test_checkpointing_in_training_leaves_the_backward_where_it_ends(tmp_path: Path) -> None:
    """Trainer lets the embeddings require a gradient then, which would reach down to the first layer."""
    counts = []
    for checkpointing in (False, True):
        trainer = trainer_of(tmp_path, "tagging", activation_cache=0, gradient_checkpointing=checkpointing)
        if checkpointing:
            enable_checkpointing(trainer.model)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        with Products() as seen:
            trainer.compute_loss(trainer.model, batch).backward()
        counts.append(seen.counts["flash"])
    assert counts == [0, 0]  # the last layer alone has a prefix, so no layer's tokens have a backward


# --- layers below the lowest prefix, once instead of in every epoch ----------------------------------------------


BASES = {"bert": tiny.encoder, "gpt2": tiny.decoder, "llama": tiny.llama}
DEPTH = {"bert": {"num_hidden_layers": 3}, "gpt2": {"n_layer": 3}, "llama": {}}


def rows_of(task: str) -> list[dict[str, Any]]:
    if task == "tagging":
        return tiny.capitals(24, 1)
    if task == "classification":
        return tiny.first_letter(24, 1)
    if task == "choice":
        return [{"text": "a" * (1 + i % 4), "choices": ["b" * (1 + i % 3), "cc"], "label": i % 2} for i in range(24)]
    return [{"source": "abcdefg"[: 1 + i % 7], "target": "abc"[i % 3 :] * (1 + i % 3)} for i in range(24)]


def trainer_of(folder: Path, task: str, base: str = "bert", layers: Any = (2,), **options: Any) -> PrefixTrainer:
    """A trainer over 24 toy examples: three batches of 8 an epoch, three epochs."""
    path = folder / base
    if not path.is_dir():
        BASES[base](path, **DEPTH[base])
    data = tiny.jsonl(folder / "rows.jsonl", rows_of(task))
    shape: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 1e-2, "logging_steps": 1, "base_dropout": False}
    run = RunConfig(
        model=str(path), task=task, train=data, method="adaptive", output=str(folder / "out"), **(shape | options)
    )
    task_, data_ = read_data(run)
    torch.manual_seed(0)
    model, tokenizer = load_base(run.model, task_, dropout=run.base_dropout)
    pt.attach(model, make_method("adaptive-token", layers=None if layers is None else list(layers)))
    bench = Bench(model, tokenizer, task_, data_, window(model, tokenizer, 4), tasks.Decoding(), batch_size=8)
    return build_trainer(run, bench, None)


def blocks_of(model: nn.Module) -> nn.ModuleList:
    (blocks,) = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) in (2, 3)]
    return blocks


CASES = [
    ("tagging", "bert", (2,)),
    ("classification", "bert", (1, 2)),
    ("choice", "bert", (1,)),
    ("classification", "gpt2", (1,)),
    ("text2text", "gpt2", (2,)),
    ("text2text", "llama", (1,)),
]


@pytest.mark.parametrize("packing", ["auto", "never"])
@pytest.mark.parametrize(("task", "base", "layers"), CASES)
def test_the_same_batch_has_the_same_loss_and_gradients_bit_for_bit(
    tmp_path: Path, task: str, base: str, layers: tuple[int, ...], packing: str
) -> None:
    trainer = trainer_of(tmp_path, task, base, layers, packing=packing, batch_size=24)
    assert trainer.kept is not None
    model, kept = trainer.model, trainer.kept
    features = kept.numbered()
    (rows,) = batches_by_length(kept.features, 24)
    batch = kept.collate([features[row] for row in rows])
    assert (len(batch["input_ids"]) == 1) == (packing == "auto" and task in ("tagging", "text2text"))
    model.train()
    found = []
    for states in (kept, None):
        trainer.kept = states
        model.zero_grad()
        loss = trainer.compute_loss(model, {k: v for k, v in batch.items() if states or k != activations.EXAMPLES})
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) > 3
    assert all(torch.equal(ours, reference) for ours, reference in zip(*found, strict=True))


RUNS = [
    ("tagging", "bert", {}),
    ("choice", "bert", {"gradient_accumulation": 3}),
    ("text2text", "gpt2", {"loss": "sentence_sum", "lr": 1e-3}),
    ("text2text", "llama", {"packing": "never"}),
]


@pytest.mark.parametrize(("task", "base", "options"), RUNS)
def test_training_without_the_lower_layers_is_training(
    tmp_path: Path, task: str, base: str, options: dict[str, Any]
) -> None:
    found = []
    for budget in (None, 0):
        trainer = trainer_of(tmp_path, task, base, (1,), activation_cache=budget, **options)
        assert (trainer.kept is None) == (budget == 0)
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        found.append(torch.tensor([[entry["loss"], entry["grad_norm"]] for entry in entries]))
    assert len(found[0]) == 9 // options.get("gradient_accumulation", 1)
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert found[0][-1, 0] < found[0][0, 0]


def test_the_lower_layers_run_once_for_each_example_and_the_upper_ones_in_every_step(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "tagging", layers=(1, 2))
    tokens: Counter[int] = Counter()

    def count(number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tokens[number] += output[0].shape[:-1].numel()

        return hook

    for number, block in enumerate(blocks_of(trainer.model)):
        block.attention.register_forward_hook(count(number))
    trainer.train()
    total = sum(len(feature["input_ids"]) for feature in trainer.kept.features)
    assert tokens == {0: total, 1: (1 + 3) * total, 2: 3 * total}  # packed: without padding


def test_training_leaves_nothing_of_the_shortcut_on_the_model(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "tagging")
    model, batch = trainer.model, {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4).long()}

    def hooks() -> list[tuple[int, int, bool]]:
        modules = blocks_of(model)
        return [(len(m._forward_pre_hooks), len(m._forward_hooks), "forward" in vars(m)) for m in modules]

    before = hooks()
    trainer.train()
    assert hooks() == before
    pt.detach(model)
    bare = AutoModel.from_pretrained(tmp_path / "bert").eval()
    with torch.no_grad():
        ours = model.eval().bert(**batch).last_hidden_state
        assert torch.equal(ours, bare(**batch).last_hidden_state)


@pytest.mark.parametrize(("task", "base"), [("tagging", "bert"), ("text2text", "gpt2")])
def test_a_run_that_stops_in_the_middle_of_an_epoch_resumes_to_the_same_bits(
    tmp_path: Path, task: str, base: str
) -> None:
    class Kill(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    options: dict[str, Any] = {"base": base, "eval_every": 4}
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = trainer_of(tmp_path / "whole", task, **options)
    whole.train()
    broken = trainer_of(tmp_path / "broken", task, **options)
    broken.add_callback(Kill())
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = trainer_of(tmp_path / "broken", task, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.kept is not None
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (resumed, whole)]
    assert len(losses[1]) == 9 and losses[0] == losses[1]
    ours, theirs = (dict(bank_of(t.model).named_parameters()) for t in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


REASONS = [
    ({"base_dropout": True}, "base_dropout: false turns it off"),
    ({"activation_cache": 1e-6}, "more than activation_cache=1e-06"),
    ({"gradient_checkpointing": True}, "gradient checkpointing"),
]


@pytest.mark.parametrize(("options", "reason"), REASONS)
def test_layers_that_must_run_in_every_epoch_do_and_one_line_says_why(
    tmp_path: Path, options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(tmp_path, "tagging", **options)
    assert trainer.kept is None
    (line,) = [record.getMessage() for record in caplog.records if record.name == "prefixtune"]
    assert line.startswith("layers below the prefix run in every epoch: ") and reason in line
    trainer.args.max_steps = 1
    trainer.train()


@pytest.mark.parametrize("options", [{"layers": None}, {"epochs": 1}, {"max_steps": 5}, {"activation_cache": 0}])
def test_where_nothing_would_be_saved_nothing_is_kept_or_said(
    tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert trainer_of(tmp_path, "tagging", **options).kept is None
    assert not [record for record in caplog.records if record.name == "prefixtune"]


def found_by_proof(trainer: PrefixTrainer, model: PreTrainedModel) -> bool:
    kept = trainer.kept
    return activations.keep(model, kept.layout, kept.features, batch_size=8, passes=3) is not None


def test_the_proof_finds_a_model_whose_upper_layers_read_more_than_the_layer_below(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "tagging")
    model, memory = trainer.model, {}
    assert found_by_proof(trainer, model)
    lower, _, upper = blocks_of(model)
    lower.register_forward_hook(lambda module, args, output: memory.update(first=output))
    upper.register_forward_hook(lambda module, args, output: output + memory["first"])
    assert not found_by_proof(trainer, model)


def test_the_proof_finds_randomness_that_no_rate_tells_of(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "tagging")
    state = torch.get_rng_state()
    assert found_by_proof(trainer, trainer.model)
    assert torch.equal(torch.get_rng_state(), state)
    blocks_of(trainer.model)[0].register_forward_hook(
        lambda module, args, output: output + torch.rand_like(output) if module.training else output
    )
    assert not found_by_proof(trainer, trainer.model)


def test_noise_in_a_router_below_is_randomness(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "tagging")
    blocks_of(trainer.model)[0].router_jitter_noise = 0.01  # PhiMoE's, in training
    assert not found_by_proof(trainer, trainer.model)


@pytest.mark.parametrize("rope", ["default", "dynamic"])
def test_the_proof_finds_angles_that_depend_on_the_longest_text_of_a_batch(rope: str) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, pad_token_id=0,
        max_position_embeddings=16, rope_parameters={"rope_type": rope, "rope_theta": 1e4, "factor": 4.0},
        initializer_range=0.2,
    )  # fmt: skip
    model = pt.attach(LlamaForCausalLM(config).eval(), pt.PTuningV2(length=2, layers=[2]))
    texts = [torch.randint(3, 60, (length,)).tolist() for length in (5, 6, 7, 8, 5, 6, 7, 8, 40)]
    features = [{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in texts]
    kept = activations.keep(model, Layout(padded, shifted=True, picks=False), features, batch_size=4, passes=3)
    assert (kept is None) == (rope == "dynamic")


def test_a_base_that_is_trained_too_runs_in_every_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of(tmp_path, "tagging")
    blocks_of(trainer.model)[0].output.LayerNorm.weight.requires_grad_(True)
    assert not found_by_proof(trainer, trainer.model)
    assert "not only the prefix is trained" in caplog.text


# Albert runs one block over and over, and an encoder-decoder has two stacks.
CUTTABLE = [a for a in zoo.ARCHITECTURES if a.kind in ("decoder", "encoder") and a.name != "albert"]


def padded(features: Sequence[Feature]) -> dict[str, Tensor]:
    """On the left, where a wrong place is noticed."""
    ids, labels = ([torch.tensor(feature[name]) for feature in features] for name in ("input_ids", "labels"))

    def left(rows: list[Tensor], value: int) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")

    mask = left([torch.ones_like(row) for row in ids], 0)
    return {"input_ids": left(ids, zoo.PAD), "attention_mask": mask, "labels": left(labels, IGNORED)}


@pytest.mark.parametrize("architecture", CUTTABLE, ids=lambda a: a.name)
def test_every_architecture_of_one_stack_can_go_on_from_kept_states(architecture: zoo.Architecture) -> None:
    model = architecture.make()
    pt.attach(model, make_method("p_tuning_v2", layers=[1]))
    switch_off_dropout(model)
    generator = torch.Generator().manual_seed(5)
    texts = [torch.randint(3, zoo.VOCABULARY, (size,), generator=generator).tolist() for size in (5, 9, 2, 7, 12, 3)]
    features = [{"input_ids": text, "labels": [IGNORED, *text[1:]]} for text in texts]  # none predicts a first token
    rows = Layout(padded, shifted=architecture.kind == "decoder", picks=False)
    kept = activations.keep(model, rows, features, batch_size=4, passes=3)
    assert kept is not None
    model.train()
    found = []
    for entered in (kept.entered(model, kept.collate(kept.numbered()[::2])), nullcontext(padded(features[::2]))):
        model.zero_grad()
        with entered as batch:
            logits, labels = activations.run(model, rows, batch)
            logits[labels != IGNORED].square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(found[0]) == 2 + 2 * len(bank_of(model).heads_of("default"))
    for ours, reference in zip(*found, strict=True):
        close(ours, reference, 1e-5)
