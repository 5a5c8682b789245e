"""Packed rows: examples that share a row see themselves alone, in values, gradients, losses and whole training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import zoo
from test_contract import VARIANTS, attached, close, enable_checkpointing, leave_start, make_method, switch_off_dropout
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertForTokenClassification,
    DataCollatorWithFlattening,
    PreTrainedModel,
)
from transformers.masking_utils import find_packed_sequence_indices

import prefixtune as pt
from prefixtune import layout, packing, tasks
from prefixtune.attention import AttentionCall
from prefixtune.errors import ConfigError, ModelError
from prefixtune.positions import first_position
from prefixtune.tasks.loading import load_base, window
from prefixtune.training import RunConfig
from prefixtune.training.bench import Bench, read_data
from prefixtune.training.trainer import PrefixTrainer, build_trainer

# torch's scheduler and accelerate warn of each other's use; nothing of ours can change it.
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

REFUSED = ("deberta", "deberta-v2")
PACKABLE = [
    a for a in zoo.ARCHITECTURES if a.kind in ("decoder", "encoder") and a.name not in (*REFUSED, "umt5-encoder")
]
SOME = [zoo.BY_NAME[name] for name in ("gpt2", "llama", "mistral", "gemma2", "bert", "roberta", "modernbert")]
LENGTHS = (5, 1, 14, 9)  # beyond the window of 8; one example of a single token


def texts(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, zoo.VOCABULARY, (length,), generator=generator) for length in lengths]


def packed(model: PreTrainedModel, examples: list[Tensor]) -> dict[str, Tensor]:
    features = [{"input_ids": ids.tolist(), "labels": ids.tolist()} for ids in examples]
    row = packing.pack(features, first=first_position(model), shifted=False)
    del row["labels"]
    return row


def run(model: PreTrainedModel, row: dict[str, Tensor]) -> Any:
    """The model over a packed row, as our own training and evaluation call it."""
    with packing.declare():
        return model(**row)


def alone(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(input_ids=ids[None], attention_mask=torch.ones_like(ids[None])).logits[0]


def gradients(model: PreTrainedModel, logits: Tensor) -> dict[str, Tensor]:
    """Of a loss that weighs every logit differently."""
    generator = torch.Generator().manual_seed(3)
    model.zero_grad()
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close_all(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    assert ours.keys() == reference.keys() and ours
    for name, gradient in reference.items():
        close(ours[name], gradient, 1e-4)


# --- the seam ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", PACKABLE, ids=lambda a: a.name)
def test_a_packed_row_is_its_examples_one_by_one(architecture: zoo.Architecture, variant: str) -> None:
    model = attached(architecture, variant)
    together = run(model, packed(model, texts())).logits[0]
    apart = torch.cat([alone(model, ids) for ids in texts()])
    close(together, apart)
    close_all(gradients(model, together), gradients(model, apart))


@pytest.mark.parametrize("architecture", [a for a in PACKABLE if a.kind == "encoder"], ids=lambda a: a.name)
def test_a_gate_that_reads_the_mean_reads_that_of_its_own_example(architecture: zoo.Architecture) -> None:
    model = attached(architecture, "adaptive-mean")
    together = run(model, packed(model, texts())).logits[0]
    close(together, torch.cat([alone(model, ids) for ids in texts()]))


@pytest.mark.parametrize("architecture", PACKABLE, ids=lambda a: a.name)
def test_without_a_prefix_a_packed_row_is_the_base_model_one_by_one(architecture: zoo.Architecture) -> None:
    base, model = architecture.make(), attached(architecture, "p_tuning_v2")
    with torch.no_grad(), pt.using(model, None):
        together = run(model, packed(model, texts())).logits[0]
        close(together, torch.cat([alone(base, ids) for ids in texts()]))


@pytest.mark.parametrize("lengths", [(6, 6, 6), (1, 1), (70, 3, 41)], ids=str)
@pytest.mark.parametrize("variant", ["p_tuning_v2", "adaptive-token", "zero_init", "content"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "distilbert"])
def test_lengths_equal_single_and_long_make_no_difference(name: str, variant: str, lengths: tuple[int, ...]) -> None:
    """Equal lengths need no padding inside; beside 70 tokens a short prefix is joined rather than merged."""
    if name == "distilbert" and max(lengths) > 64:
        lengths = (60, 3, 41)
    model = attached(zoo.BY_NAME[name], variant)
    together = run(model, packed(model, texts(lengths))).logits[0]
    apart = torch.cat([alone(model, ids) for ids in texts(lengths)])
    close(together, apart)
    close_all(gradients(model, together), gradients(model, apart))


@pytest.mark.parametrize("architecture", SOME, ids=lambda a: a.name)
def test_every_example_of_a_packed_row_has_its_own_prefix(architecture: zoo.Architecture) -> None:
    model = attached(architecture, "p_tuning_v2")
    pt.attach(model, make_method("adaptive-first", length=7), name="other")  # of another length and position offset
    leave_start(model)
    names = ["other", None, "default", "other"]
    with pt.using(model, names):
        together = run(model, packed(model, texts())).logits[0]
    parts = []
    for name, ids in zip(names, texts(), strict=True):
        with pt.using(model, name):
            parts.append(alone(model, ids))
    close(together, torch.cat(parts))
    close_all(gradients(model, together), gradients(model, torch.cat(parts)))


@pytest.mark.parametrize("variant", ["adaptive-first", "prefix_tuning"])
@pytest.mark.parametrize("architecture", SOME, ids=lambda a: a.name)
def test_a_packed_row_has_the_same_gradients_with_gradient_checkpointing(
    architecture: zoo.Architecture, variant: str
) -> None:
    found = []
    for checkpointing in (False, True):
        model = attached(architecture, variant)
        switch_off_dropout(model)
        if checkpointing:
            enable_checkpointing(model)
        model.train()
        logits = run(model, packed(model, texts())).logits
        model(input_ids=texts()[2][None])  # another forward before the backward, not packed
        found.append(gradients(model, logits))
    close_all(found[1], found[0])


def test_a_prefix_that_scrolls_out_of_the_window_does_so_in_each_example() -> None:
    model = zoo.BY_NAME["mistral"].make()
    pt.attach(model, pt.PTuningV2(length=4, window="scroll"))
    leave_start(model)
    with torch.no_grad():
        together = run(model, packed(model, texts((20, 12)))).logits[0]
        close(together, torch.cat([alone(model, ids) for ids in texts((20, 12))]))


@pytest.mark.parametrize("reads", ["token", "first", "mean"])
def test_the_gates_of_a_packed_row_are_those_of_its_examples(reads: str) -> None:
    model = attached(zoo.BY_NAME["bert"], f"adaptive-{reads}")
    with packing.declare():
        together = pt.gates(model, **packed(model, texts()))["encoder"]
    apart = [pt.gates(model, input_ids=ids[None])["encoder"] for ids in texts()]
    close(together, torch.cat(apart))


def calls_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[AttentionCall]:
    calls: list[AttentionCall] = []
    bank = model.get_submodule("prefixtune")
    with bank.watched(lambda prefix, slot, call: calls.append(call)), torch.no_grad():
        run(model, inputs)
    return calls


def test_the_mask_of_the_whole_row_is_never_made() -> None:
    windowed, keys = (4, 1, 14, 14), (4, 1, 1, 14)
    for name, mask in (("llama", None), ("mistral", windowed), ("gemma2", windowed), ("bert", keys)):
        model = attached(zoo.BY_NAME[name], "p_tuning_v2")
        for call in calls_of(model, packed(model, texts())):
            assert (call.query.shape[0], call.query.shape[2], call.key.shape[2]) == (4, 14, 14)
            assert (None if call.mask is None else tuple(call.mask.shape)) == mask, name


def test_only_attention_sees_more_than_the_real_tokens() -> None:
    model = attached(zoo.BY_NAME["llama"], "adaptive-token")
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, args, out: seen.append(args[0].numel() // args[0].shape[-1]))
    run(model, packed(model, texts()))
    assert set(seen) == {sum(LENGTHS)}


def test_the_limit_of_learned_positions_is_that_of_an_example_not_of_the_row() -> None:
    model = attached(zoo.BY_NAME["gpt2"], "p_tuning_v2")  # 128 positions, 4 of them the prefix's
    with torch.no_grad():
        assert run(model, packed(model, texts((124, 124, 30)))).logits.shape[1] == 278
        with pytest.raises(ConfigError, match="reach position 128, but GPT2Model has 128 positions"):
            run(model, packed(model, texts((30, 125))))


def test_a_packed_forward_leaves_no_trace_on_the_next_one() -> None:
    model = attached(zoo.BY_NAME["mistral"], "p_tuning_v2")
    inputs = zoo.inputs_for(zoo.BY_NAME["mistral"], length=14)
    with torch.no_grad():
        before = model(**inputs).logits
        run(model, packed(model, texts()))
        assert torch.equal(model(**inputs).logits, before)
        with pytest.raises(IndexError):
            run(model, packed(model, [ids + 1000 for ids in texts()]))
        assert torch.equal(model(**inputs).logits, before)


# --- who says that a row is packed -------------------------------------------------------------------------------

RESTART, LEAP = [*range(5), *range(4)], [*range(5), *range(100, 104)]
AGAIN = [*range(3), *range(6)]


def placed(*rows: list[int], first: int = 0) -> dict[str, Tensor]:
    """Rows of nine tokens at these positions, without a mask."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, zoo.VOCABULARY, (len(rows), 9), generator=generator)
    return {"input_ids": ids, "position_ids": torch.tensor(rows) + first}


@pytest.mark.parametrize("rows", [[RESTART], [LEAP], [RESTART, AGAIN]], ids=["restart", "leap", "two rows"])
@pytest.mark.parametrize("options", [{}, {"use_cache": False}], ids=["", "no cache"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "bert", "modernbert"])
def test_without_a_prefix_nothing_but_our_own_layouts_packs(
    name: str, options: dict[str, bool], rows: list[list[int]]
) -> None:
    """Transformers takes texts apart in causal masks alone, and only where there is no cache."""
    architecture = zoo.BY_NAME[name]
    inputs = placed(*rows if architecture.kind == "decoder" else [[at % 60 for at in row] for row in rows])
    base, model = architecture.make(), attached(architecture, "p_tuning_v2")
    with torch.no_grad():
        expected = base(**inputs, **options)
        for bare in (None, [None] * len(rows)):
            with pt.using(model, bare):
                out = model(**inputs, **options)
            assert torch.equal(out.logits, expected.logits)
            assert out.keys() == expected.keys()


@pytest.mark.parametrize("positions", [RESTART, [*range(5), *range(40, 44)]], ids=["restart", "leap"])
@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert"])
def test_an_encoder_takes_no_text_apart_unless_it_is_told(name: str, positions: list[int]) -> None:
    model = attached(zoo.BY_NAME[name], "adaptive-token")
    inputs = placed(positions, positions, first=first_position(model))
    with torch.no_grad():
        close(model(**inputs).logits, model(**inputs, attention_mask=torch.ones(2, 9).long()).logits, 0)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_decoder_under_a_prefix_takes_apart_what_transformers_does_without_a_cache(name: str) -> None:
    model = attached(zoo.BY_NAME[name], "p_tuning_v2")
    inputs = placed(RESTART)
    with torch.no_grad():
        close(model(**inputs).logits[0], torch.cat([alone(model, ids) for ids in inputs["input_ids"][0].split([5, 4])]))


@pytest.mark.parametrize("rows", [[LEAP], [LEAP, RESTART]], ids=["one row", "two rows"])
def test_positions_that_leap_in_a_decoder_are_refused_under_a_prefix_and_served_with_a_mask(
    rows: list[list[int]],
) -> None:
    model = attached(zoo.BY_NAME["llama"], "p_tuning_v2")
    inputs = placed(*rows)
    with pytest.raises(ConfigError, match="positions leap to 100 .* give an attention_mask of ones for one text"):
        model(**inputs)
    with torch.no_grad():
        (row,) = model(input_ids=inputs["input_ids"][:1], position_ids=inputs["position_ids"][:1],
                       attention_mask=torch.ones(1, 9).long()).logits  # fmt: skip
        close(row[:5], alone(model, inputs["input_ids"][0, :5]))


# --- what cannot be packed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_relative_positions_over_the_whole_row_are_refused(name: str) -> None:
    model = attached(zoo.BY_NAME[name], "p_tuning_v2")
    with pytest.raises(ModelError, match="pad the examples instead"):
        run(model, packed(model, texts()))


def test_two_packed_rows_are_refused() -> None:
    model = attached(zoo.BY_NAME["llama"], "p_tuning_v2")
    row = packed(model, texts())
    with pytest.raises(ConfigError, match="2 rows in which positions start again; pack all examples into one row"):
        model(**{name: value.repeat(2, 1) for name, value in row.items()})


def test_heads_of_different_prefixes_over_one_row_are_refused() -> None:
    model = BertForTokenClassification(zoo.BY_NAME["bert"].make().config)
    for name in ("one", "two"):
        pt.attach(model, make_method("p_tuning_v2"), name=name)
    row = packed(model, texts())
    with pt.using(model, "one"):
        assert run(model, row).logits.shape[:2] == (1, sum(LENGTHS))
    with pt.using(model, ["one", "two", "one", "two"]), pytest.raises(ConfigError, match="names 4 rows but the batch"):
        run(model, row)


def test_roberta_positions_that_begin_in_the_padding_are_refused() -> None:
    model = attached(zoo.BY_NAME["roberta"], "p_tuning_v2")
    row = packed(model, texts())
    assert int(row["position_ids"].min()) == 1  # the test model's padding index is 0
    with pytest.raises(ConfigError, match="begin at 0, but this model's first position is 1"):
        run(model, {"input_ids": row["input_ids"], "position_ids": row["position_ids"] - 1})


@pytest.mark.parametrize("architecture", [a for a in zoo.ARCHITECTURES if a.kind != "vision"], ids=lambda a: a.name)
def test_a_forward_proves_which_models_pack(architecture: zoo.Architecture) -> None:
    model = attached(architecture, "adaptive-token")
    assert (layout.refusal(model) is None) == (architecture in PACKABLE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_proof_knows_the_rounding_of_other_dtypes(dtype: torch.dtype) -> None:
    for name in ("llama", "gemma2", "bert"):
        assert layout.refusal(attached(zoo.BY_NAME[name], "p_tuning_v2", dtype)) is None, name


def test_the_proof_finds_a_model_whose_tokens_meet_outside_attention() -> None:
    model = attached(zoo.BY_NAME["llama"], "p_tuning_v2")
    mixing = model.model.layers[0].mlp
    mixing.register_forward_hook(lambda m, args, out: out + out.roll(1, dims=1) * out.new_tensor([0.1]))
    assert "computes something else in a packed row" in str(layout.refusal(model))


def test_a_model_without_a_prefix_is_padded() -> None:
    pads, packs = (lambda features: {}), (lambda features: {})
    model = zoo.BY_NAME["llama"].make()
    assert layout.choose(model, pads, packs, shifted=True).collate is pads
    with pytest.raises(ConfigError, match="packing='always': without a prefix"):
        layout.choose(model, pads, packs, shifted=True, wanted="always")
    pt.attach(model, make_method("p_tuning_v2"))
    assert layout.choose(model, pads, packs, shifted=True, wanted="always").collate is packs
    assert layout.choose(model, pads, packs, shifted=True, wanted="never").collate is pads


# --- the arithmetic ----------------------------------------------------------------------------------------------


def test_examples_are_found_where_transformers_finds_them() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 0, 1, 7, 8, 9, 10, 3]])
    found, reference = packing.find(positions), find_packed_sequence_indices(positions)
    assert found is not None and reference is not None
    assert torch.equal(found.places // found.longest, reference[0])
    assert found.lengths == (3, 1, 2, 4, 1)
    assert packing.find(torch.arange(9)[None]) is None


def test_a_packed_batch_is_the_one_of_transformers_collator() -> None:
    features = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9], "labels": [8, 9]}]
    ours, theirs = packing.pack(features, first=0, shifted=True), DataCollatorWithFlattening()(features)
    for name in ("input_ids", "labels", "position_ids"):
        assert torch.equal(ours[name], theirs[name])


def test_taking_a_row_apart_is_undone_and_has_exact_gradients() -> None:
    found = packing.find(torch.tensor([[0, 1, 2, 0, 0, 1]]))
    assert found is not None
    row = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(found.row(found.rows(row)), row)
    weight = found.real[:, :, None, None].double() if found.real is not None else torch.ones(1)
    assert torch.autograd.gradcheck(lambda x: found.row(found.rows(x).sin() * weight), row)


# --- logits only where there is a label --------------------------------------------------------------------------


@pytest.mark.parametrize("packs", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt"])
def test_logits_where_labels_are_give_the_loss_of_all_logits(name: str, packs: bool) -> None:
    model = attached(zoo.BY_NAME[name], "adaptive-token")
    features = [
        {"input_ids": ids.tolist(), "labels": [-100] * (len(ids) // 2) + ids.tolist()[len(ids) // 2 :]}
        for ids in texts((5, 4, 14, 9))
    ]
    ids = nn.utils.rnn.pad_sequence([torch.tensor(f["input_ids"]) for f in features], batch_first=True)
    labels = nn.utils.rnn.pad_sequence([torch.tensor(f["labels"]) for f in features], True, -100)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(f["labels"])) for f in features], batch_first=True).long()
    padded = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    loss = model(**padded).loss  # transformers' own
    loss.backward()
    reference = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    batch = packing.pack(features, first=0, shifted=True) if packs else padded
    inputs = layout.Layout(dict, shifted=True, picks=layout.picks_logits(model)).aligned(batch)
    targets = inputs.pop("labels")
    logits = model(**inputs).logits
    predicted = int(labels[:, 1:].ne(-100).sum())
    assert logits.shape[1] == (predicted if packs else int(labels[:, 1:].ne(-100).any(0).sum()))
    ours = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    close(ours, loss)
    model.zero_grad()
    ours.backward()
    close_all({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, reference)


def test_a_model_that_cannot_leave_out_logits_gives_them_all() -> None:
    model = attached(zoo.BY_NAME["bert"], "p_tuning_v2")
    assert not layout.picks_logits(model)
    batch = {"input_ids": torch.ones(1, 3).long(), "labels": torch.tensor([[-100, 1, 2]])}
    aligned = layout.Layout(dict, shifted=True, picks=False).aligned(batch)
    assert "logits_to_keep" not in aligned and aligned["labels"].tolist() == [[1, 2, -100]]


# --- training and evaluation -------------------------------------------------------------------------------------


def rows_of(task: str) -> list[dict[str, Any]]:
    if task == "tagging":
        return tiny.capitals(48, 1)
    letters = "abcdefg"
    return [{"source": letters[: 1 + i % 7], "target": letters[i % 3 : i % 3 + 1 + i % 5]} for i in range(48)]


def config(tmp_path: Path, task: str, model: str, **options: Any) -> RunConfig:
    data = tiny.jsonl(tmp_path / "rows.jsonl", rows_of(task))
    shape: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 1e-2, "logging_steps": 1, "base_dropout": False}
    return RunConfig(
        model=model, task=task, train=data, method="adaptive", output=str(tmp_path / "out"), **(shape | options)
    )


def trainer_of(run: RunConfig) -> PrefixTrainer:
    task, data = read_data(run)
    torch.manual_seed(0)
    model, tokenizer = load_base(run.model, task, dropout=False)
    pt.attach(model, make_method("adaptive-token"))
    bench = Bench(model, tokenizer, task, data, window(model, tokenizer, 4), tasks.Decoding(), batch_size=8)
    return build_trainer(run, bench, None)


MAKE = {"gpt2": tiny.decoder, "llama": tiny.llama, "bert": tiny.encoder}
RUNS = [
    ("text2text", "gpt2", {"loss": "sentence_sum", "lr": 1e-3, "gradient_accumulation": 3}),
    ("text2text", "llama", {}),
    ("tagging", "bert", {"gradient_checkpointing": True}),
]


@pytest.mark.parametrize(("task", "base", "options"), RUNS, ids=lambda value: value if isinstance(value, str) else "")
def test_packed_training_is_padded_training(tmp_path: Path, task: str, base: str, options: dict[str, Any]) -> None:
    folder = MAKE[base](tmp_path / "base")
    found = []
    for wanted in ("always", "never"):
        trainer = trainer_of(config(tmp_path, task, folder, packing=wanted, **options))
        batch = next(iter(trainer.get_train_dataloader()))
        assert (len(batch["input_ids"]) == 1) == (wanted == "always")
        assert layout.examples(batch) == 8
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        norms = [entry["grad_norm"] for entry in trainer.state.log_history if "loss" in entry]
        found.append(torch.tensor([losses, norms]))
    assert found[0].shape[1] == 12 // options.get("gradient_accumulation", 1)
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-3)
    assert found[0][0, -1] < found[0][0, 0]


def test_packing_is_on_by_default_where_it_is_exact(tmp_path: Path) -> None:
    trainer = trainer_of(config(tmp_path, "tagging", tiny.encoder(tmp_path / "base")))
    assert len(next(iter(trainer.get_train_dataloader()))["input_ids"]) == 1


def test_packing_always_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    run = config(tmp_path, "text2text", tiny.encoder_decoder(tmp_path / "base"), packing="always")
    with pytest.raises(ConfigError, match="packing='always': this task's labels do not stand at tokens of one row"):
        trainer_of(run)
    with pytest.raises(ConfigError, match="unknown packing 'alway'; did you mean 'always'"):
        config(tmp_path, "tagging", "m", packing="alway")


@pytest.mark.parametrize(("task", "base"), [("text2text", "gpt2"), ("tagging", "bert")])
def test_evaluation_over_packed_rows_is_that_over_padded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, base: str
) -> None:
    trainer = trainer_of(config(tmp_path, task, MAKE[base](tmp_path / "base")))
    kind, data = read_data(config(tmp_path, task, str(tmp_path / "base")))
    model, tokenizer = load_base(str(tmp_path / "base"), kind)
    model = trainer.model
    assert isinstance(model, PreTrainedModel)
    shapes: list[int] = []
    model.register_forward_pre_hook(lambda m, args, kwargs: shapes.append(len(kwargs["input_ids"])), with_kwargs=True)

    def predicted() -> Any:
        shapes.clear()
        return kind.predict(
            model, tokenizer, data.train, window(model, tokenizer, 4), batch_size=8,
            decoding=tasks.Decoding(), answered=task == "tagging",
        )  # fmt: skip

    ours = predicted()
    assert set(shapes) == {1}
    monkeypatch.setattr(layout, "refusal", lambda model: "no")
    reference = predicted()
    assert 8 in shapes
    assert ours.loss == pytest.approx(reference.loss, rel=1e-5)
    assert ours.answers == reference.answers


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks by the older name
def test_a_model_without_a_prefix_and_one_in_pefts_wrapper_train_on_padded_rows(tmp_path: Path) -> None:
    import peft

    run = config(tmp_path, "text2text", tiny.llama(tmp_path / "base"))
    task, data = read_data(run)
    model, tokenizer = load_base(run.model, task, dropout=False)
    features = task.features(data.train, model, tokenizer, window(model, tokenizer, 0))
    given = trainer_of(run).args
    adapter = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(run.model), adapter)
    losses = []
    for subject in (model, wrapped, wrapped.get_base_model()):
        rows = task.layout(subject, tokenizer)
        trainer = PrefixTrainer(
            judge=None, sentence_sum=False, layout=rows, model=subject, args=given, train_dataset=features
        )
        batch = next(iter(trainer.get_train_dataloader()))
        assert len(batch["input_ids"]) == 8
        loss = trainer.compute_loss(subject, dict(batch))
        close(loss, subject(**batch).loss)
        losses.append((loss.item(), "logits_to_keep" in rows.aligned(batch)))
    assert [picked for _, picked in losses] == [True, False, True]  # a wrapper is not asked to leave logits out
    assert losses[1][0] == pytest.approx(losses[2][0], rel=1e-5)
