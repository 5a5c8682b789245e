"""The README's table of architectures, made from the contract tests: `python tests/contract_table.py` writes it there.

A cell says for how many methods a law is tested on an architecture (each of APT's gate inputs counts); every one of
those tests runs in `make test`. A gap has its reason below the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import test_contract
import zoo

LAWS = {
    "detached = base": "test_detach_leaves_the_base_model_bit_for_bit_and_without_a_trace",
    "trains": "test_one_step_moves_every_trainable_tensor_and_no_base_tensor_also_after_evaluation",
    "check-pointing": "test_gradients_are_the_same_with_gradient_checkpointing",
    "cache, static cache": "test_cached_generation_is_uncached_generation",
    "beams": "test_beam_search_is_the_same_with_and_without_a_cache",
    "turns": "test_a_conversation_in_turns_is_the_whole_conversation",
    "padding": "test_right_padding_changes_no_logit_of_a_real_token",
    "left padding": "test_left_padding_changes_no_logit_of_a_real_token",
    "mixed batch": "test_a_mixed_batch_is_each_row_under_its_own_prefix",
    "save, load": "test_a_loaded_prefix_gives_bit_equal_logits",
    "= formula": "test_attention_is_the_formula_in_float64_values_and_gradients",
    "= filled cache": "test_a_joint_prefix_is_a_pre_filled_cache",
    "= text in context": "test_a_prefix_from_text_is_the_text_in_the_context",
}

SITES = {
    "decoder": "decoder",
    "encoder": "encoder",
    "vision": "encoder",
    "encoder-decoder": "encoder, decoder, cross",
}


def reason(architecture: zoo.Architecture, law: str) -> str:
    """Why a law is not tested on an architecture."""
    if law == "= filled cache" and architecture.name == "deepseek_v3":
        return "its cache holds latents, not keys and values; the formula and the text in the context stand for it"
    if law == "= filled cache" and architecture.kind == "encoder-decoder":
        return "only its cross-attention, in a test of its own, and its decoder's, against PEFT"
    if law in ("cache, static cache", "beams", "turns", "= filled cache") and architecture.kind in (
        "encoder",
        "vision",
    ):
        return "it does not generate"
    if law == "turns":
        return "its turns are the cached generation"
    if law == "= text in context":
        return "the equality is a causal decoder's: elsewhere text in the context is changed by what follows it"
    if law in ("padding", "left padding") and architecture.kind == "vision":
        return "an image has no padding"
    if law == "check-pointing":
        return "transformers does not offer checkpointing for it"
    raise LookupError(f"no reason is written down why {architecture.name} lacks the law {law!r}")


def tested(test: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """Architecture and method of every case of one contract test."""
    for mark in test.pytestmark:  # type: ignore[attr-defined]
        if mark.name == "parametrize" and mark.args[0] == ("architecture", "variant"):
            for case in mark.args[1]:
                architecture, variant = case.values
                yield architecture.name, variant


def table() -> str:
    """The table in Markdown, with its notes."""
    counts = {law: [name for name, _ in tested(vars(test_contract)[test])] for law, test in LAWS.items()}
    notes: dict[str, int] = {}
    lines = ["| architecture | sites | " + " | ".join(LAWS) + " |", "| --- | --- |" + " --- |" * len(LAWS)]
    for architecture in zoo.ARCHITECTURES:
        cells = []
        for law, names in counts.items():
            count = names.count(architecture.name)
            note = "" if count else notes.setdefault(reason(architecture, law), len(notes) + 1)
            cells.append(str(count) if count else f"[{note}]")
        lines.append(f"| {architecture.name} | {SITES[architecture.kind]} | {' | '.join(cells)} |")
    lines += ["", *(f"[{number}] {text}.  " for text, number in notes.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Put the table between its marks in README.md."""
    path = Path(__file__).resolve().parents[1] / "README.md"
    before = path.read_text()
    mark = re.compile(r"(<!-- contract-table -->\n).*?(<!-- /contract-table -->)", re.DOTALL)
    path.write_text(mark.sub(lambda found: found[1] + table() + found[2], before))


if __name__ == "__main__":
    main()
