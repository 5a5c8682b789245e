"""Baselines: each against something outside (PEFT, embeddings put in front by hand, a formula), all through one run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_contract import enable_checkpointing, switch_off_dropout
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import prefixtune as pt
from prefixtune import baselines, methods
from prefixtune.bank import bank_of, names_in
from prefixtune.baselines.infix import PLACE
from prefixtune.errors import ConfigError
from prefixtune.tasks import Decoding
from prefixtune.tasks.decoding import generate_batch
from prefixtune.tasks.loading import load_base
from prefixtune.tasks.tagging import Tagging
from prefixtune.tasks.task import Window
from prefixtune.tasks.text2text import Text2Text
from prefixtune.training import RunConfig
from prefixtune.training.adaptation import Adaptation, Prefixed
from prefixtune.training.bench import read_data
from prefixtune.training.run import fit

# torch's scheduler and accelerate warn of each other's use; nothing of ours can change it.
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

TAGS = Tagging(labels=("O", "B-NAME"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base models by name."""
    folder = tmp_path_factory.mktemp("bases")
    tiny.encoder(folder / "bert", hidden_size=64)
    tiny.decoder(folder / "gpt2", initializer_range=0.3)
    tiny.llama(folder / "llama")
    tiny.encoder_decoder(folder / "bart")
    return folder


def base(folder: Path, name: str) -> tuple[PreTrainedModel, Any]:
    model, tokenizer = load_base(str(folder / name), TAGS if name == "bert" else Text2Text())
    return model.eval(), tokenizer


def adapted(folder: Path, name: str, kind: str, **options: Any) -> PreTrainedModel:
    """A base model under a fresh baseline."""
    torch.manual_seed(0)
    model, tokenizer = base(folder, name)
    baselines.find(kind)(**options).attach(model, tokenizer)
    return model.eval()


def inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two rows, one padded on the right."""
    ids = torch.tensor([[2, 9, 12, 7, 11, 3], [2, 8, 5, 3, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (torch.arange(6) < torch.tensor([[6], [4]])).long()}
    return batch | ({"decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else {})


def trained(model: PreTrainedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- what is trained ---------------------------------------------------------------------------------------------


def test_every_file_is_a_baseline_with_the_name_of_its_file() -> None:
    assert set(baselines.names()) >= {
        "full", "ft_top", "adapter", "lora", "prompt_tuning", "infix", "linear_probe",
    }  # fmt: skip
    assert all(baselines.find(name).name() == name for name in baselines.names())
    with pytest.raises(ConfigError, match="unknown baseline 'lorra'; did you mean 'lora'"):
        baselines.find("lorra")


def test_run_options_and_baseline_options_never_share_a_name() -> None:
    ours = {field.name for field in dataclasses.fields(RunConfig)}
    for name in baselines.names():
        assert ours.isdisjoint({field.name for field in dataclasses.fields(baselines.find(name))})


def test_the_linear_probe_is_the_head_alone(folder: Path) -> None:
    assert trained(adapted(folder, "bert", "linear_probe")) == {"classifier.weight", "classifier.bias"}
    with pytest.raises(ConfigError, match="linear_probe trains a new head alone, and GPT2LMHeadModel has none"):
        adapted(folder, "gpt2", "linear_probe")


@pytest.mark.parametrize(
    ("name", "last", "after"),
    [
        ("bert", "bert.encoder.layer.1.", ("classifier.",)),
        ("gpt2", "transformer.h.1.", ("transformer.ln_f.", "transformer.wte.")),  # the embeddings are tied
        ("llama", "model.layers.1.", ("model.norm.", "lm_head.")),
        ("bart", "model.decoder.layers.1.", ("model.shared.",)),  # its layernorm_embedding runs before the blocks
    ],
)
def test_ft_top_is_the_top_blocks_what_runs_after_them_and_the_head(
    folder: Path, name: str, last: str, after: tuple[str, ...]
) -> None:
    plain, _ = base(folder, name)
    expected = {key for key, _ in plain.named_parameters() if key.startswith((last, *after))}
    assert trained(adapted(folder, name, "ft_top", blocks=1)) == expected
    with pytest.raises(ConfigError, match="blocks=3: .* has 2"):
        adapted(folder, name, "ft_top", blocks=3)


# --- adapters and LoRA -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "bart"])
@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_a_fresh_one_changes_nothing_and_a_trained_one_does(folder: Path, name: str, kind: str) -> None:
    plain, _ = base(folder, name)
    torch.manual_seed(0)
    model = adapted(folder, name, kind, percent=3)
    plain.load_state_dict(model.state_dict(), strict=False)  # the new head
    batch = inputs(model)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, plain(**batch).logits)
    loss = model(**batch).logits.square().mean()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad.sign() * 0.1
        assert not torch.allclose(model(**batch).logits, plain(**batch).logits, atol=1e-3)


def test_an_adapter_is_the_formula_after_its_block(folder: Path) -> None:
    model, (plain, _) = adapted(folder, "llama", "adapter", percent=3), base(folder, "llama")
    first = model.get_submodule("prefixtune_baseline.0")
    with torch.no_grad():
        first.up.weight.normal_()
    with torch.no_grad():
        ours = model(**inputs(model), output_hidden_states=True).hidden_states[1]
        h = plain(**inputs(model), output_hidden_states=True).hidden_states[1]
        mean, deviation = h.mean(-1, keepdim=True), h.var(-1, unbiased=False, keepdim=True)
        normed = (h - mean) / (deviation + 1e-5).sqrt()
        by_hand = h + torch.relu(normed @ first.down.weight.T + first.down.bias) @ first.up.weight.T
    assert torch.allclose(ours, by_hand, atol=1e-5)
    assert not torch.allclose(ours, h, atol=1e-2)


@pytest.mark.parametrize("kind", ["adapter", "lora"])
@pytest.mark.parametrize(("percent", "parameters"), [(3, None), (10, None), (0.1, 5000)])
def test_a_budget_is_met_within_five_percent(folder: Path, kind: str, percent: float, parameters: int | None) -> None:
    plain, _ = base(folder, "bert")
    asked = parameters or percent / 100 * sum(p.numel() for p in plain.parameters())
    model = adapted(folder, "bert", kind, percent=percent, parameters=parameters)
    added = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "classifier" not in name)
    assert abs(added - asked) <= 0.05 * asked


@pytest.mark.parametrize("kind", ["adapter", "lora"])
@pytest.mark.parametrize("like", ["adaptive", "p_tuning_v2"])
def test_a_budget_by_length_is_the_size_of_the_prefix(folder: Path, kind: str, like: str) -> None:
    other, _ = base(folder, "bert")
    pt.attach(other, methods.find(like)(length=8))
    asked = sum(p.numel() for p in bank_of(other).get("default").parameters())
    model = adapted(folder, "bert", kind, length=8, like=like)
    added = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "classifier" not in name)
    assert abs(added - asked) <= 0.05 * asked
    with pytest.raises(ConfigError, match="expected one of them"):
        adapted(folder, "bert", kind, length=8, parameters=1000)
    with pytest.raises(ConfigError, match="unknown like 'adaptiv'.*adaptive"):
        adapted(folder, "bert", kind, length=8, like="adaptiv")
    with pytest.raises(ConfigError, match="there is no length; give length"):
        adapted(folder, "bert", kind, like="p_tuning_v2")


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_a_budget_below_the_smallest_is_refused_with_the_smallest(folder: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"a budget of 10 numbers cannot be made: the smallest has 1[0-9]{2}"):
        adapted(folder, "bert", kind, parameters=10)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT's use of transformers
def test_lora_is_pefts_own(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    ours = adapted(folder, "llama", "lora", rank=3)
    torch.manual_seed(0)
    plain, _ = base(folder, "llama")
    theirs = get_peft_model(plain, LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"]))
    assert {f"base_model.model.{name}" for name in trained(ours)} == trained(theirs)
    with torch.no_grad():
        for (_, a), (_, b) in zip(_lora_b(ours), _lora_b(theirs), strict=True):
            b.normal_()
            a.copy_(b)
        for (_, a), (_, b) in zip(_lora_b(ours, "lora_A"), _lora_b(theirs, "lora_A"), strict=True):
            a.copy_(b)
        batch = inputs(ours)
        assert torch.equal(ours(**batch).logits, theirs.eval()(**batch).logits)


def _lora_b(model: Any, part: str = "lora_B") -> list[tuple[str, Tensor]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if part in name]


# --- prompt tuning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_prompt_tuning_is_the_embeddings_in_front_by_hand(folder: Path, name: str) -> None:
    model, (plain, _) = adapted(folder, name, "prompt_tuning", length=3), base(folder, name)
    prompt = model.get_parameter("prefixtune_baseline.embedding")
    batch = inputs(model)
    embeds = torch.cat([prompt.expand(2, -1, -1), plain.get_input_embeddings()(batch["input_ids"])], dim=1)
    mask = torch.cat([torch.ones(2, 3, dtype=torch.long), batch["attention_mask"]], dim=1)
    with torch.no_grad():
        theirs = plain(inputs_embeds=embeds, attention_mask=mask).logits[:, 3:]
        assert torch.allclose(model(**batch).logits, theirs, atol=1e-5)


def test_prompt_tuning_of_an_encoder_stands_behind_its_first_token(folder: Path) -> None:
    model, (plain, _) = adapted(folder, "bert", "prompt_tuning", length=3), base(folder, "bert")
    plain.load_state_dict(model.state_dict(), strict=False)
    batch = inputs(model)
    words = plain.get_input_embeddings()(batch["input_ids"])
    prompt = model.get_parameter("prefixtune_baseline.embedding").expand(2, -1, -1)
    embeds = torch.cat([words[:, :1], prompt, words[:, 1:]], dim=1)
    mask = torch.cat([torch.ones(2, 3, dtype=torch.long), batch["attention_mask"]], dim=1)
    with torch.no_grad():
        theirs = plain(inputs_embeds=embeds, attention_mask=mask).logits[:, [0, 4, 5, 6, 7, 8]]
        assert torch.allclose(model(**batch).logits, theirs, atol=1e-5)


def test_the_decoder_of_an_encoder_decoder_reads_the_virtual_tokens(folder: Path) -> None:
    model, (plain, _) = adapted(folder, "bart", "prompt_tuning", length=3), base(folder, "bart")
    batch = inputs(model)
    table = plain.get_encoder().embed_tokens
    prompt = model.get_parameter("prefixtune_baseline.embedding").expand(2, -1, -1)
    embeds = torch.cat([prompt, table(batch["input_ids"])], dim=1)
    mask = torch.cat([torch.ones(2, 3, dtype=torch.long), batch["attention_mask"]], dim=1)
    with torch.no_grad():
        theirs = plain(inputs_embeds=embeds, attention_mask=mask, decoder_input_ids=batch["decoder_input_ids"]).logits
        assert torch.allclose(model(**batch).logits, theirs, atol=1e-5)
        ours = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=5)
        by_hand = plain.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=5)
    assert torch.equal(ours, by_hand)


PROMPTS = [[40, 50, 60, 70], [45, 55]]


def greedy_by_hand(model: PreTrainedModel, prompt: list[int], steps: int, **more: Any) -> list[int]:
    """The likeliest token, again and again, without a cache."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), **more).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("kind", ["prompt_tuning", "infix", "adapter", "lora"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_generation_in_a_padded_batch_is_the_row_alone(folder: Path, name: str, kind: str, beams: int) -> None:
    options = {"percent": 3.0} if kind in ("adapter", "lora") else {"length": 3}
    model = adapted(folder, name, kind, **options)
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(folder / name, eos_token=None, pad_token="<pad>")
    how = Decoding(beams=beams, max_new_tokens=5)
    together = generate_batch(model, tokenizer, PROMPTS, Window(), how)
    alone = [generate_batch(model, tokenizer, [prompt], Window(), how)[0] for prompt in PROMPTS]
    assert together == alone
    if beams == 1 and kind != "infix":
        words = [tokenizer.decode(greedy_by_hand(model, prompt, 5), skip_special_tokens=True) for prompt in PROMPTS]
        assert together == [word.strip() for word in words]
    if beams == 1 and kind == "infix":
        place = [torch.tensor([len(prompt) - 1]) for prompt in PROMPTS]
        by_hand = [greedy_by_hand(model, p, 5, **{PLACE: at}) for p, at in zip(PROMPTS, place, strict=True)]
        assert together == [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in by_hand]


def test_prompt_tuning_starts_as_words(folder: Path) -> None:
    model = adapted(folder, "gpt2", "prompt_tuning", length=5, init="text:ab")
    table = model.get_input_embeddings().weight
    _, tokenizer = base(folder, "gpt2")
    ids = tokenizer("ab")["input_ids"]
    assert torch.equal(model.get_parameter("prefixtune_baseline.embedding"), table[(ids * 3)[:5]])
    with pytest.raises(ConfigError, match="init='word' is unknown"):
        adapted(folder, "gpt2", "prompt_tuning", init="word")


# --- infix -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_infix_reaches_the_last_source_token_and_the_target_and_nothing_before(folder: Path, name: str) -> None:
    model, (plain, _) = adapted(folder, name, "infix", length=3, hidden=None), base(folder, name)
    batch = inputs(model)
    place = torch.tensor([3, 2])
    with torch.no_grad():
        ours, theirs = model(**batch, **{PLACE: place}).logits, plain(**batch).logits
    for row, (first, end) in enumerate(((3, 6), (2, 4))):
        assert torch.allclose(ours[row, :first], theirs[row, :first], atol=1e-5)
        for position in range(first, end):
            assert not torch.allclose(ours[row, position], theirs[row, position], atol=1e-2)


def test_an_infix_is_a_cache_filled_in_the_middle(folder: Path) -> None:
    """[x; INFIX; y] by transformers' own cache: run x, put the infix's keys and values behind it, go on with y."""
    from transformers import DynamicCache

    model, (plain, _) = adapted(folder, "llama", "infix", length=3, hidden=8), base(folder, "llama")
    prefix = bank_of(model).get("infix")
    ids, source = torch.tensor([[2, 9, 12, 7, 11, 3]]), 4
    cache = DynamicCache()
    with torch.no_grad():
        plain(input_ids=ids[:, : source - 1], past_key_values=cache)
        for layer, slot in enumerate(prefix.slots.values()):
            key, value = prefix.keys_values(slot)
            cache.update(key[None], value[None], layer)
        theirs = plain(input_ids=ids[:, source - 1 :], past_key_values=cache).logits
        ours = model(input_ids=ids, **{PLACE: torch.tensor([source - 1])}).logits[:, source - 1 :]
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("hidden", [8, None])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_infix_has_the_same_gradients_with_gradient_checkpointing(
    folder: Path, name: str, hidden: int | None
) -> None:
    found = []
    for checkpointing in (False, True):
        model = adapted(folder, name, "infix", length=3, hidden=hidden)
        switch_off_dropout(model)
        if checkpointing:
            enable_checkpointing(model)
        model.train()
        batch = inputs(model)
        loss = model(**batch, **{PLACE: torch.tensor([3, 2])}).logits.pow(2).mean()
        with torch.no_grad():  # another forward before the backward, with another place
            model(**batch, **{PLACE: torch.tensor([0, 0])})
        loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for parameter, gradient in found[0].items():
        assert gradient.abs().max() > 0, parameter
        assert torch.allclose(found[1][parameter], gradient, rtol=1e-4, atol=1e-7), parameter


def test_the_place_of_an_infix_is_the_end_of_the_source_in_the_labels(folder: Path) -> None:
    model, tokenizer = base(folder, "gpt2")
    task = baselines.find("infix")().fitted(Text2Text())
    features = [
        {"input_ids": [7, 8, 9, 10], "labels": [-100, -100, 9, 10]},
        {"input_ids": [7, 8], "labels": [-100, 8]},
    ]
    assert task.collator(model, tokenizer)(features)[PLACE].tolist() == [1, 0]


def test_an_infix_is_refused_where_it_has_no_place(folder: Path) -> None:
    with pytest.raises(ConfigError, match="expected a decoder-only model"):
        adapted(folder, "bart", "infix")
    with pytest.raises(ConfigError, match="expected text2text, not tagging"):
        baselines.find("infix")().fitted(TAGS)
    model = adapted(folder, "gpt2", "infix", length=2)
    with pytest.raises(ConfigError, match="expected use_cache=True"):
        model.generate(input_ids=torch.tensor([PROMPTS[0]]), max_new_tokens=2, use_cache=False, do_sample=False)


# --- whole runs --------------------------------------------------------------------------------------------------


def run(folder: Path, tmp_path: Path, task: str, adaptation: Adaptation, **options: Any) -> dict[str, Any]:
    make, name = {"tagging": (tiny.capitals, "bert"), "text2text": (tiny.doubled, "gpt2")}[task]
    files = {
        role: tiny.jsonl(tmp_path / f"{role}.jsonl", make(count, seed))
        for role, count, seed in (("train", 64, 1), ("eval", 24, 2), ("test", 24, 3))
    }
    shape = {"epochs": 4, "batch_size": 16, "lr": 1e-2, "max_new_tokens": 4, "output": str(tmp_path / "out")}
    model = str(folder / name)
    config = RunConfig(model=model, task=task, method=adaptation.kind(), **(files | shape | options))
    prepared, data = read_data(config)
    return fit(config, adaptation, prepared, data, resume=True)


CASES = [
    ("tagging", "full", {}), ("tagging", "ft_top", {"blocks": 1}), ("tagging", "adapter", {"percent": 3}),
    ("tagging", "lora", {"rank": 2}), ("tagging", "prompt_tuning", {}), ("tagging", "linear_probe", {}),
    ("text2text", "infix", {"hidden": None}), ("text2text", "lora", {"rank": 2}), ("text2text", "full", {}),
    ("text2text", "prompt_tuning", {}),
]  # fmt: skip


@pytest.mark.parametrize(("task", "kind", "options"), CASES)
def test_a_baseline_is_trained_chosen_and_scored_like_a_prefix(
    folder: Path, tmp_path: Path, task: str, kind: str, options: dict[str, Any]
) -> None:
    import json

    found = run(folder, tmp_path, task, baselines.find(kind)(**options))
    history = [json.loads(line) for line in (tmp_path / "out" / "log_history.jsonl").read_text().splitlines()]
    seen = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    assert len(seen) == 4
    assert found["eval"]["loss"] == pytest.approx(seen[found["best_step"]], rel=1e-5)  # the best one came back
    assert min(seen.values()) < seen[min(seen)] or kind == "linear_probe"
    assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".json", ".yaml", ".jsonl", ".png"}
    plain, _ = base(folder, "bert" if task == "tagging" else "gpt2")
    size = sum(parameter.numel() for parameter in plain.parameters())
    assert found["parameters"]["base"] == size
    if kind == "full":
        assert found["parameters"]["stored_percent"] == 100


def test_full_fine_tuning_moves_every_weight_that_has_a_gradient(folder: Path, tmp_path: Path) -> None:
    model, _ = base(folder, "llama")
    baselines.find("full")().attach(model, None)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model(input_ids=torch.arange(20).view(2, 10)).logits.square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_baseline_that_was_killed_resumes_to_the_same_numbers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefixtune.training.bench import Bench

    lora = baselines.find("lora")(rank=2, dropout=0.1)
    whole = run(folder, tmp_path, "tagging", lora)
    real, calls = Bench.measure, []

    def killed(self: Bench, *args: Any, **more: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Bench, "measure", killed)
        run(folder, tmp_path, "tagging", lora, output=str(tmp_path / "broken"))
    again = run(folder, tmp_path, "tagging", lora, output=str(tmp_path / "broken"))
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}


def test_the_same_seed_gives_every_adaptation_the_same_head_and_the_same_batches(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefixtune.methods.p_tuning_v2 import PTuningV2
    from prefixtune.training.trainer import PrefixTrainer

    seen: list[list[list[int]]] = []
    heads: list[Tensor] = []
    real = PrefixTrainer.training_step

    def noted(self: PrefixTrainer, model: Any, batch: dict[str, Tensor], items: Any = None) -> Tensor:
        if len(heads) < len(seen):
            head = bank_of(model).heads_of("default") if names_in(model) else model
            heads.append(head.get_parameter("classifier.weight").detach().clone())
        # One batch as the tokens in it: a prefix's may come packed, without the padding.
        seen[-1].append(sorted(batch["input_ids"][batch["input_ids"] != 0].tolist()))
        return real(self, model, batch, items)

    monkeypatch.setattr(PrefixTrainer, "training_step", noted)
    for number, adaptation in enumerate((Prefixed(PTuningV2(length=2)), baselines.find("linear_probe")())):
        seen.append([])
        run(folder, tmp_path, "tagging", adaptation, epochs=1, output=str(tmp_path / f"out-{number}"))
    assert torch.equal(*heads)
    assert len(seen[0]) == 4 and seen[0] == seen[1]


def test_nothing_of_a_baseline_is_left_in_another_model_of_the_class(folder: Path) -> None:
    adapted(folder, "gpt2", "prompt_tuning", length=2)
    plain = AutoModelForCausalLM.from_pretrained(folder / "gpt2")
    assert "generate" not in vars(plain) and "save_pretrained" not in vars(plain)
