"""Probes and reports of prefixes that moved, came from the hub, or were made by somebody else's code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from test_probe import prefix_of, read_page
from transformers import BartConfig, BartForSequenceClassification, BartModel

import prefixtune as pt
from prefixtune import evaluation
from prefixtune.cli import main
from prefixtune.cli.options import parse_structured
from prefixtune.errors import CheckpointError, ConfigError, ModelError
from prefixtune.probe.lengths import VariablePrefix, train_command, variable_prefix
from prefixtune.probe.reading import Group, SiteGates
from prefixtune.probe.report import read_record
from prefixtune.probe.samples import Judged
from prefixtune.training import results

ONE = VariablePrefix({"encoder": [1, 2]}, {"encoder": [0.5, 1.0]}, 1.0, 3, 3, every_site=True)


def test_padding_changes_no_gate_of_a_classifier_on_an_encoder_decoder() -> None:
    shape = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    torch.manual_seed(0)
    config = BartConfig(vocab_size=64, encoder_attention_heads=4, decoder_attention_heads=4, num_labels=2, **shape)
    model = BartForSequenceClassification(config).eval()
    pt.attach(model, pt.AdaptivePrefix(length=3, token_gate_std=2.0))
    texts = [torch.tensor([[0, 7, 8, 2]]), torch.tensor([[0, 9, 10, 11, 12, 13, 14, 2]])]
    rows = torch.cat([torch.nn.functional.pad(ids, (0, 8 - ids.shape[1]), value=1) for ids in texts])
    together = pt.gates(model, input_ids=rows, attention_mask=rows.ne(1).long())
    for row, ids in enumerate(texts):
        for site, gates in pt.gates(model, input_ids=ids, attention_mask=torch.ones_like(ids)).items():
            assert torch.allclose(together[site][row], gates[0], atol=1e-6), site


def test_a_class_whose_forward_names_no_input_is_what_it_comes_from() -> None:
    class Wrapped(BartForSequenceClassification):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    shape = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    config = BartConfig(vocab_size=64, encoder_attention_heads=4, decoder_attention_heads=4, **shape)
    for kind in (BartForSequenceClassification, Wrapped):
        model = pt.attach(kind(config), pt.PTuningV2(length=2))
        assert pt.bank.bank_of(model).geometry.sites == ("encoder", "decoder", "cross")


def test_a_decoder_that_is_given_its_own_input_is_not_given_the_encoders_mask() -> None:
    config = BartConfig(
        vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=48, decoder_ffn_dim=48,
        encoder_attention_heads=4, decoder_attention_heads=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BartModel(config).eval()
    pt.attach(model, pt.AdaptivePrefix(length=3, token_gate_std=2.0))
    ids, mask = torch.randint(3, 64, (1, 6)), torch.tensor([[1, 1, 1, 0, 0, 0]])
    given = torch.randint(3, 64, (1, 6))
    by_ids = pt.gates(model, input_ids=ids, attention_mask=mask, decoder_input_ids=given)
    states = model.get_decoder().embed_tokens(given)
    by_states = pt.gates(model, input_ids=ids, attention_mask=mask, decoder_inputs_embeds=states)
    assert all(torch.allclose(by_ids[site], by_states[site], atol=1e-6) for site in by_ids)


def test_gates_that_are_no_numbers_have_no_ratio(tmp_path: Path) -> None:
    gate = torch.tensor([[0.5, 0.25, 0.5], [torch.nan, torch.nan, torch.nan]], dtype=torch.float64)
    short = torch.tensor([[0.5, 0.25, 0.5], [0.5, torch.nan, torch.nan]], dtype=torch.float64)
    prefix_of(tmp_path, "bert", "classification", pt.AdaptivePrefix(length=3))
    geometry = pt.bank.bank_of(evaluation.load(None, {"default": str(tmp_path / "prefix")}).model).geometry
    lost = SiteGates((0, 1), (3, 3), torch.ones(2), gate)
    with pytest.raises(ConfigError, match="have no ratio"):
        variable_prefix(Group("all", 1, "examples", {"encoder": lost}), geometry, 1.0)
    fine = SiteGates((0, 1), (3, 1), torch.ones(2), short)  # behind its length a layer has none
    assert variable_prefix(Group("all", 1, "examples", {"encoder": fine}), geometry, 1.0).lengths == {"encoder": [3, 1]}


def test_a_loss_that_is_no_number_is_told_and_not_scored(tmp_path: Path) -> None:
    """The largest of logits that are none is the first class, which may well be right."""
    folder, table = prefix_of(tmp_path, "bert", "classification", count=4)
    loaded = evaluation.load(None, {"default": str(folder)})
    with torch.no_grad():
        loaded.model.base_model.embeddings.LayerNorm.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match=r"data.jsonl: the loss under the prefix 'default' is nan, .*lower learning"):
        evaluation.evaluate(loaded, "default", table)


def test_the_command_has_every_letter_of_a_columns_name() -> None:
    columns = {"text": "text😀", "label": "größe"}
    words = train_command(ONE, {"columns": columns}, model="m", task="classification", output="o")
    given = words[words.index("--columns") + 1]
    assert parse_structured(given, "--columns", single=False, mapping=True, words=True) == columns


def test_a_resumed_run_reads_every_letter_of_a_columns_name(tmp_path: Path) -> None:
    rows = [{"text😀": row["text"], "label": row["label"]} for row in tiny.first_letter(8)]
    data, base, output = tiny.jsonl(tmp_path / "d.jsonl", rows), tiny.encoder(tmp_path / "bert"), tmp_path / "run"
    argv = ["train", "--model", base, "--task", "classification", "--train", data, "--columns", "text=text😀"]
    argv += ["--method", "p_tuning_v2", "--length", "2", "--output"]
    assert main([*argv, str(output), "--max-steps", "1"]) == 0
    assert main(["train", str(output / "run.yaml"), "--output", str(tmp_path / "again")]) == 0
    assert yaml.safe_load((tmp_path / "again" / "run.yaml").read_text())["columns"] == {"text": "text😀"}


def test_the_command_trains_on_the_base_that_was_given() -> None:
    words = train_command(ONE, {"model": "gone", "lr": 0.5}, model="here", task="tagging", output="o")
    assert words[words.index("--model") + 1] == "here"


def test_every_text_of_a_long_example_is_seen() -> None:
    row = {"text": "long " * 200, "text_pair": "Is it question 7?"}
    assert Judged(row, "yes", "no").text(400).endswith(" … / Is it question 7?")
    row = {"text": "a passage", "choices": ["x" * 500, "the last"]}
    assert Judged(row, 0, 1).text(300).endswith(" … / 1: the last")
    row = {"text": "pad " * 300 + "Mark told" + " pad" * 300, "spans": [(1200, 1204)]}
    shown = Judged(row, "yes", "no").text(200)
    assert "[Mark] told" in shown and shown.startswith("… ") and shown.endswith(" …") and len(shown) < 210
    row = {"text": "The start [1]. " + "word " * 200 + "[2] the end"}
    assert Judged(row, "yes", "no").text(100).startswith("The start [1]. word"), "brackets of its own are no marks"
    row = {"text": "[1] " + "word " * 180 + "Mark", "spans": [(904, 908)]}
    shown = Judged(row, "yes", "no").text(400)
    assert shown.endswith("word [Mark]") and len(shown) > 390


def test_a_prefix_of_the_hub_is_called_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = prefix_of(tmp_path, "bert", "classification", count=4)
    cached = tmp_path / "hub" / "snapshots" / ("3f" * 20)
    cached.parent.mkdir(parents=True)
    folder.rename(cached)
    monkeypatch.setattr("prefixtune.checkpoint.snapshot_download", lambda name, **_: str(cached))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert main(["probe", "--prefix", "me/reviews", "--data", str(tmp_path / "data.jsonl"), "--output", str(out)]) == 0
    assert capsys.readouterr().out.strip().endswith("--output reviews-variable")
    words = read_page(out / "report.html")
    assert "Prefix reviews: what its gates open" in words and "3f3f" not in words


@pytest.mark.parametrize("metrics", [{"eval": 0.91}, None, "0.9", [1]])
def test_metrics_that_somebody_else_wrote_are_left_out_of_a_report(tmp_path: Path, metrics: Any) -> None:
    folder, _ = prefix_of(tmp_path, "bert", "classification", count=4)
    header = json.loads((folder / "prefix_config.json").read_text())
    header["metadata"]["metrics"] = metrics
    (folder / "prefix_config.json").write_text(json.dumps(header))
    page = tmp_path / "page.html"
    data = str(tmp_path / "data.jsonl")
    assert main(["evaluate", "--prefix", str(folder), "--data", data, "--report", str(page)]) == 0
    assert "in training" not in read_page(page)


@pytest.mark.parametrize(
    ("file", "text"),
    [(results.RUN, "- 1"), (results.RECORD, "[1]"), (results.HISTORY, "[1]\n"), (results.HISTORY, '{"loss": 1}\n')],
)
def test_a_record_of_another_shape_is_told_by_its_file(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(CheckpointError, match=f"{file} .*restore it"):
        read_record(tmp_path)
