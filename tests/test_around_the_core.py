"""What surrounds the prefix: other weights that are trained, own methods, other bases, inputs given as outputs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from safetensors.torch import load_file
from test_contract import P, close, leave_start, logits
from transformers import PreTrainedModel

import prefixtune as pt
from prefixtune.cli import main
from prefixtune.errors import ConfigError, check_characters

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.arange(5, 23).view(2, 9)


def made(config: Any, noise: float = 0.05) -> PreTrainedModel:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def llama() -> PreTrainedModel:
    return made(tf.LlamaConfig(**SMALL))


def with_trained_norms() -> PreTrainedModel:
    model = llama()
    pt.attach(model, pt.PTuningV2(length=P))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.requires_grad_(True)
    return model


def train(model: PreTrainedModel, folder: Path, resume: bool = False) -> tf.Trainer:
    ids = torch.arange(3, 59).view(8, 7)
    options = tf.TrainingArguments(
        str(folder), max_steps=4, save_steps=2, learning_rate=5e-2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    rows = [{"input_ids": row, "labels": row} for row in ids]
    trainer = tf.Trainer(model, options, train_dataset=rows)  # type: ignore[arg-type]
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2") if resume else None)
    return trainer


def test_what_is_trained_beside_a_prefix_resumes_to_the_same_numbers_and_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, resumed = with_trained_norms(), with_trained_norms()
    trainer = train(model, tmp_path)
    assert not caplog.records
    trainer.save_model(str(tmp_path / "final"))
    (record,) = caplog.records
    assert "5 tensors of the model are trained beside it (model.layers.0.input_layernorm.weight" in record.getMessage()
    caplog.clear()
    assert "model.norm.weight" in load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    train(resumed, tmp_path, resume=True)
    assert not caplog.records  # nor does Trainer miss a key
    theirs = dict(resumed.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    assert not torch.equal(theirs["model.norm.weight"], dict(llama().named_parameters())["model.norm.weight"])


OWN = """
from dataclasses import dataclass
from prefixtune import PTuningV2
from prefixtune.prefix import FreePrefix, keys_values_from

@dataclass(kw_only=True)
class Halved(PTuningV2):
    def build(self, slots, start, dtype):
        made = super().build(slots, start, dtype)
        made.__class__ = HalvedPrefix
        return made

    def restore(self, slots, folded):
        return HalvedPrefix(self, slots, keys_values_from(folded, slots))

class HalvedPrefix(FreePrefix):
    def attend(self, call, slot):
        out, weights = super().attend(call, slot)
        return (out + call.run_base()[0]) / 2, weights
"""

GATED = (
    OWN.replace("attend(self, call, slot)", "gate(self, call, slot)")
    .replace("out, weights = super().attend(call, slot)", "wide = 2.0 ** call.query.new_tensor(range(slot.length)) - 1")
    .replace("return (out + call.run_base()[0]) / 2, weights", "return wide.expand(1, 1, -1)")
)
"""A gate alone, by which both ways of a mixed batch have to go."""


def own_method(folder: Path, file: str, text: str = OWN) -> Any:
    """A researcher's own file."""
    (folder / f"{file}.py").write_text(text)
    spec = importlib.util.spec_from_file_location(file, folder / f"{file}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module.Halved


@pytest.mark.parametrize("kind", ["attend", "gate"])
def test_an_own_method_in_an_own_file_is_saved_loaded_and_mixed(kind: str, tmp_path: Path) -> None:
    model, other = llama(), llama()
    method = own_method(tmp_path, f"halved_by_{kind}", OWN if kind == "attend" else GATED)(length=P)
    pt.attach(model, method, name="own")
    pt.attach(model, pt.PTuningV2(length=P), name="free")
    leave_start(model.prefixtune.get("own"))
    with torch.no_grad(), pt.using(model, "own"):
        expected = model(input_ids=IDS).logits
    for second in (None, "free"):
        with torch.no_grad(), pt.using(model, ["own", second]):
            close(model(input_ids=IDS).logits[0], expected[0], 1e-5)
    pt.save(model, tmp_path / "saved", "own")
    pt.load(other, tmp_path / "saved")
    close(other(input_ids=IDS).logits, expected, 0)


@pytest.mark.parametrize("file", ["p_tuning_v2", "__main__"])
def test_a_method_that_another_would_be_loaded_for_is_not_saved(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, file, sys.modules.get(file))
    model = llama()
    pt.attach(model, own_method(tmp_path, file)(length=P))
    with pytest.raises(pt.ConfigError, match=f"Halved would be saved as the method '{file}'.*name"):
        pt.save(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_two_own_methods_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    own_method(tmp_path / "a", "halved_twice")
    model = llama()
    pt.attach(model, own_method(tmp_path / "b", "halved_twice")(length=P))  # defined again: the last one counts
    pt.save(model, tmp_path / "saved")
    both = OWN + "\n@dataclass(kw_only=True)\nclass Another(PTuningV2):\n    pass\n"
    pt.detach(model)
    pt.attach(model, own_method(tmp_path, "halved_thrice", both)(length=P))
    with pytest.raises(pt.ConfigError, match="'halved_thrice' is halved_thrice.* and halved_thrice"):
        pt.save(model, tmp_path / "again")


GROUPS = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}
QWEN = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
OTHERS = {
    "residual": (tf.GPTNeoXConfig, SMALL, {"use_parallel_residual": False}),
    "experts": (tf.MixtralConfig, {**GROUPS, "num_local_experts": 4}, {"num_experts_per_tok": 1}),
    "router": (tf.Qwen3MoeConfig, {**GROUPS, **QWEN}, {"norm_topk_prob": True}),
    "positions": (tf.SmolLM3Config, {**GROUPS, "no_rope_layers": [1, 1]}, {"no_rope_layers": [1, 0]}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_same_weights_routed_or_placed_otherwise_are_another_base(case: str, tmp_path: Path) -> None:
    kind, shape, change = OTHERS[case]
    model, same, other = made(kind(**shape)), made(kind(**shape)), made(kind(**{**shape, **change}))
    other.load_state_dict(model.state_dict())
    inputs = {"input_ids": IDS}
    assert (logits(model, inputs) - logits(other, inputs)).abs().max() > 1e-3
    pt.attach(model, pt.PTuningV2(length=P))
    pt.save(model, tmp_path)
    pt.load(same, tmp_path)
    with pytest.raises(pt.CheckpointError, match=next(iter(change))):
        pt.load(other, tmp_path)


def test_left_padding_in_a_cache_never_counts_where_positions_count_by_padding_id() -> None:
    config = tf.RobertaConfig(**SMALL, max_position_embeddings=64, pad_token_id=0, is_decoder=True)
    model = made(config, noise=0.2)
    pt.attach(model, pt.PTuningV2(length=P))
    text = torch.randint(3, 64, (1, 8))
    padded = torch.nn.functional.pad(text, (3, 0))
    mask = (padded > 0).long()
    with torch.no_grad():
        expected = model(input_ids=text).logits[:, 5:]
        first = model(input_ids=padded[:, :8], attention_mask=mask[:, :8], use_cache=True)
        rest = model(input_ids=padded[:, 8:], attention_mask=mask, past_key_values=first.past_key_values)
    close(rest.logits, expected, 1e-5)


def test_the_weights_of_a_mixed_batch_are_those_of_each_row_alone() -> None:
    model = llama()
    model.set_attn_implementation("eager")
    pt.attach(model, pt.PTuningV2(length=P), name="a")
    pt.attach(model, pt.PTuningV2(length=P + 2), name="b")
    ids = IDS.repeat(2, 1)[:3]

    def weights(names: Any, rows: torch.Tensor) -> Any:
        with torch.no_grad(), pt.using(model, names):
            return model(input_ids=rows, output_attentions=True).attentions

    names = ["a", "b", None]
    together = weights(names, ids)
    for row, name in enumerate(names):
        for mixed, alone in zip(together, weights(name, ids[row : row + 1]), strict=True):
            beyond = mixed.shape[-1] - alone.shape[-1]
            close(mixed[row, ..., beyond:], alone[0], 1e-6)
            assert not mixed[row, ..., :beyond].any()


@pytest.fixture
def trained(tmp_path: Path) -> tuple[str, Path]:
    """A base, and a prefix of it as `train` leaves one."""
    base = tiny.decoder(tmp_path / "base")
    data = tmp_path / "data.jsonl"
    data.write_text('{"source": "a", "target": "b"}\n{"source": "b", "target": "a"}\n')
    told = ["--task", "text2text", "--train", str(data), "--method", "p_tuning_v2", "--length", "2", "--max-steps", "1"]
    assert main(["train", "--model", base, *told, "--output", str(tmp_path / "run")]) == 0
    return base, tmp_path / "run"


@pytest.mark.parametrize("file", ["prefix.safetensors", "prefix_config.json", "run.yaml", "metrics.json"])
def test_no_output_replaces_the_prefix_or_the_base_that_is_read(
    file: str, trained: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = trained
    weights = (Path(base) / "model.safetensors").read_bytes()
    before = (run / file).read_bytes()
    generate = ["generate", "--model", base, "--prefix", f"mine={run}", "--prompt", "a", "--output"]
    assert main([*generate, str(run / file)]) == 2
    assert f"{file} is the file of --prefix" in capsys.readouterr().err
    assert main([*generate, f"{base}/model.safetensors"]) == 2
    assert "model.safetensors is the file of --model" in capsys.readouterr().err
    assert ((run / file).read_bytes(), (Path(base) / "model.safetensors").read_bytes()) == (before, weights)


def test_an_argument_that_is_no_utf_8_is_one_line(
    trained: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = trained
    assert main(["generate", "--model", base, "--prefix", str(run), "--prompt", "caf\udce9"]) == 2
    assert "the argument 'caf\\udce9' is not UTF-8 text" in capsys.readouterr().err
    data = json.dumps({"source": "a", "target": "b"})
    (tmp_path / "one.jsonl").write_text(data)
    told = ["--task", "text2text", "--train", str(tmp_path / "one.jsonl"), "--method", "p_tuning_v2", "--length", "2"]
    output = ["--max-steps", "1", "--output", str(tmp_path / "none")]
    for option in ("--init=text:caf\udce9", "--separator=caf\udce9"):
        assert main(["train", "--model", base, *told, option, *output]) == 2
        assert f"the argument {option!a} is not UTF-8 text" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        check_characters("caf\udce9", "the text")


def change_weights(base: str) -> None:
    model = tf.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    model.save_pretrained(base)


def test_a_run_is_not_resumed_over_other_files_of_its_base(
    trained: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = trained
    (run / "metrics.json").unlink()
    assert main(["train", "--resume", "--output", str(run)]) == 0
    (run / "metrics.json").unlink()
    (Path(base) / "notes.json").write_text("{}")
    assert main(["train", "--resume", "--output", str(run)]) == 0
    change_weights(base)
    assert main(["train", "--resume", "--output", str(run)]) == 2
    assert "files of its base changed since the run" in capsys.readouterr().err


def test_an_encoder_that_reads_its_targets_is_refused_for_writing_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tiny.byte_tokenizer(pad_token="<pad>")
    shape = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 66, "pad_token_id": 1}
    data = tmp_path / "one.jsonl"
    data.write_text(json.dumps({"source": "a", "target": "b"}))
    told = ["--task", "text2text", "--train", str(data), "--method", "p_tuning_v2", "--length", "2", "--max-steps", "1"]
    for is_decoder, code in ((False, 2), (True, 0)):
        base = tmp_path / f"roberta-{is_decoder}"
        tf.RobertaForCausalLM(tf.RobertaConfig(**shape, is_decoder=is_decoder)).save_pretrained(base)
        tokenizer.save_pretrained(base)
        output = ["--output", str(tmp_path / f"run-{is_decoder}")]
        assert main(["train", "--model", str(base), *told, *output]) == code
    assert "roberta reads the whole text at once" in capsys.readouterr().err
