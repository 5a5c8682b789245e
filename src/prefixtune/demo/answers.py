"""Part two: one frozen decoder, two prefixes for two tasks, and then both and the bare model in one batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed

import prefixtune as pt
from prefixtune.checkpoint import read_prefix
from prefixtune.demo import runs
from prefixtune.demo.plan import Plan
from prefixtune.demo.screen import Screen
from prefixtune.demo.world import TASKS, task_rows
from prefixtune.evaluation import positions_taken
from prefixtune.prefix import Method
from prefixtune.tasks import Decoding, Window
from prefixtune.tasks.decoding import generate_batch
from prefixtune.tasks.loading import window
from prefixtune.tasks.text2text import Text2Text
from prefixtune.training.bench import Bench, read_data
from prefixtune.training.config import RunConfig

DECODER = Path(__file__).parent / "decoder"
NEW_TOKENS = 72
LEARNING_RATE = {"guide": 1e-2, "review": 1e-1}


def methods() -> dict[str, Method]:
    """A method for each task: two kinds of prefix, of different lengths, can share a batch."""
    return {"guide": pt.PrefixTuning(length=8, hidden=64), "review": pt.PTuningV2(length=16)}


@dataclass(frozen=True)
class Scored:
    """How close answers are to their references: sacrebleu's BLEU (0 to 100) and the share of exact matches."""

    bleu: float
    exact: float


def teach_decoder(screen: Screen, output: Path, plan: Plan) -> dict[str, Any]:
    """Train and save both prefixes, take them out, load them again, and answer in one batch; returns the numbers."""
    tokenizer = AutoTokenizer.from_pretrained(DECODER)
    model = AutoModelForCausalLM.from_pretrained(DECODER, dtype=torch.float32)
    tests = {task: task_rows(task, plan.test_records, 2, held_out=True) for task in TASKS}
    prompts = [row["source"] + Text2Text().separator for row in tests["guide"]]
    fingerprint = _logits(model, tokenizer, prompts[0])
    _introduce(screen, plan)

    costs = {task: _train(screen, output, plan, task, method, model, tokenizer) for task, method in methods().items()}
    bare_again = torch.equal(_logits(model, tokenizer, prompts[0]), fingerprint)
    for task in TASKS:
        pt.load(model, output / "prefixes" / task, name=task)
    columns = [*TASKS, None]
    with screen.waiting("answering"):
        replies = answer_in_one_batch(model, tokenizer, prompts, columns)
    found: dict[str, Any] = {"base_restored_after_detach": bare_again, "rows_in_the_batch": len(prompts) * len(columns)}
    for task, rows in tests.items():
        references = [row["target"] for row in rows]
        stored = sum(tensor.numel() for tensor in read_prefix(output / "prefixes" / task)[1].values())
        found[task] = {
            "before": vars(score([reply[None] for reply in replies], references)),
            "after": vars(score([reply[task] for reply in replies], references)),
            "trained": costs[task].trained,
            "stored": stored,
            "base": costs[task].base,
            "seconds": round(costs[task].seconds, 1),
        }
    _show(screen, plan, tests, replies)
    _report(screen, found)
    return found


def _train(
    screen: Screen, output: Path, plan: Plan, task: str, method: Method, model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> runs.Trained:  # fmt: skip
    """Attach, train, save, detach: the model is left as it came."""
    train = runs.write_rows(output / "data" / f"{task}-train.jsonl", task_rows(task, plan.records, 1, held_out=False))
    runs.write_rows(output / "data" / f"{task}-test.jsonl", task_rows(task, plan.test_records, 2, held_out=True))
    with runs.scratch() as scratch:
        config = RunConfig(
            model=str(DECODER), task="text2text", train=str(train), method=method.name(), output=scratch, name=task,
            lr=LEARNING_RATE[task], max_steps=plan.decoder_steps, batch_size=16,
        )  # fmt: skip
        kind, data = read_data(config)
        set_seed(config.seed)
        pt.attach(model, method, name=task)
        room = window(model, tokenizer, positions_taken(model, task))
        bench = Bench(model, tokenizer, kind, data, room, Decoding(), config.eval_batch_size)
        cost = runs.train(screen, f"{task:<6}  {type(method).__name__}", config, bench)
    pt.save(model, output / "prefixes" / task, name=task, metadata={"task": kind.metadata()})
    pt.detach(model)
    return cost


def answer_in_one_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], names: list[str | None]
) -> list[dict[str | None, str]]:
    """Every prompt under every prefix (None: the bare model): one batch, and each row has its own prefix."""
    rows = [(prompt, name) for prompt in prompts for name in names]
    ids = tokenizer([prompt for prompt, _ in rows])["input_ids"]
    model.eval()
    with torch.no_grad(), pt.using(model, [name for _, name in rows]):
        answers = iter(generate_batch(model, tokenizer, ids, Window(), Decoding(max_new_tokens=NEW_TOKENS)))
    return [{name: next(answers) for name in names} for _ in prompts]


def score(answers: list[str], references: list[str]) -> Scored:
    import sacrebleu

    exact = sum(a == b for a, b in zip(answers, references, strict=True)) / len(references)
    return Scored(round(sacrebleu.corpus_bleu(answers, [references]).score, 2), round(exact, 4))


def _logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits


def _introduce(screen: Screen, plan: Plan) -> None:
    screen.say(
        "A Llama of a million parameters, pretrained by this project on text that it wrote itself, about places to "
        "eat. Given the record of a place it writes on about it in any way it knows: a postcard, an advert, the news. "
        f"Two prefixes teach it what is wanted, each from {plan.records} examples: a [bold]guide[/] book's entry, or "
        "a guest's [bold]review[/]."
    )


def _show(
    screen: Screen, plan: Plan, tests: dict[str, list[dict[str, str]]], replies: list[dict[str | None, str]]
) -> None:
    rows = (len(TASKS) + 1) * len(replies)
    screen.say(
        f"Saved, taken out, loaded again. Now {len(replies)} records with unseen names, each under both prefixes and "
        f'none: {rows} rows in one batch, [cyan]using(model, \\["guide", "review", None, ...])[/].'
    )
    for index in range(min(plan.shown_records, len(replies))):
        pairs = [("record", Text(tests["guide"][index]["source"], style="bold"))]
        pairs.append(("bare", Text(" / ".join(replies[index][None].splitlines()), style="dim")))
        for task, wanted in tests.items():
            reply, reference = replies[index][task], wanted[index]["target"]
            pairs.append((task, Text(reply, style="green").append(" ✓" if reply == reference else "")))
            pairs += [] if reply == reference else [("wanted", Text(reference, style="yellow"))]
        screen.pairs(pairs)


def _report(screen: Screen, found: dict[str, Any]) -> None:
    rows = []
    for task in TASKS:
        row = found[task]
        before, after = row["before"], row["after"]
        rows.append(
            (
                task,
                f"{before['bleu']:.1f} → [bold green]{after['bleu']:.1f}[/]",
                f"{100 * before['exact']:.0f} → [bold green]{100 * after['exact']:.0f} %[/]",
                f"{row['trained']:,}",
                f"{row['stored']:,}",
                f"{100 * row['stored'] / row['base']:.2f} %",
                f"{row['seconds']:.0f} s",
            )
        )
    screen.table(("prefix", "BLEU", "exact", "trained", "stored", "of base", "time"), rows)
    if found["base_restored_after_detach"]:
        screen.say("Taken out, the prefixes left no trace: the decoder's logits are bit for bit those it came with.")
