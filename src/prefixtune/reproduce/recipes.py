"""How the papers train: learning rates, epochs, batches, lengths, decoding. Every number has its source beside it.

All arms of a table get the same batches, epochs, loss and decoding (those the paper gives its prefix); an arm of its
own has the learning rate alone. Li & Liang train fine-tuning on WebNLG and DART for 10 epochs of batch 6 instead.
"""

from __future__ import annotations

from typing import Any

from prefixtune.reproduce.experiment import Cell, Settings, Trained, stretched

# --- Prefix-Tuning (Li & Liang 2021, appendix A) --------------------------------------------------------------------

_TABLE_TO_TEXT = {
    "loss": "sentence_sum", "base_dropout": False, "beams": 5, "max_new_tokens": 100, "weight_decay": 0.0,
}  # fmt: skip
_SUMMARISATION = {
    "loss": "sentence_sum", "beams": 6, "length_penalty": 0.8, "max_length": 512, "max_target_length": 100,
    "max_new_tokens": 60, "weight_decay": 0.0,
}  # fmt: skip
_PREFIX = {  # learning rate, epochs, batch, prefix length
    "e2e": (8e-5, 5, 10, 5),
    "webnlg": (5e-5, 5, 5, 5),
    "dart": (5e-5, 10, 5, 10),
    "xsum": (5e-5, 30, 14, 100),
    "xsum_within_news": (5e-5, 30, 36, 80),
    "xsum_news_to_sports": (5e-5, 15, 36, 40),
    "scitldr": (5e-5, 30, 14, 100),  # not in the paper: XSum's
}
_FINE_TUNING = {"e2e": 5e-5, "webnlg": 1e-5, "dart": 1e-5}  # elsewhere BART's own 3e-5
_OTHERS = {
    "e2e": "the paper's adapters have batches of 5",
    "webnlg": "the paper's fine-tuning has 10 epochs of batch 6",
    "dart": "the paper's fine-tuning has batches of 6",
}
SUMMARIES = ("xsum", "xsum_within_news", "xsum_news_to_sports", "scitldr")


def generation(cell: Cell) -> Settings:
    """The corpus's part of Prefix-Tuning's recipe."""
    _, epochs, batch, _ = _PREFIX[cell.corpus or ""]
    common = _SUMMARISATION if cell.corpus in SUMMARIES else _TABLE_TO_TEXT
    return {**common, "epochs": epochs, "batch_size": batch}


def prefix_length(cell: Cell) -> int:
    """The paper's prefix length."""
    return _PREFIX[cell.corpus or ""][3]


def prefix(cell: Cell, name: str = "Prefix", **options: Any) -> Trained:
    """Prefix-Tuning as the paper trains it; its MLP is 512 wide, for summaries 800."""
    hidden = 800 if cell.corpus in SUMMARIES else 512
    shape = {"length": prefix_length(cell), "hidden": hidden, **options}
    return Trained(name=name, kind="prefix_tuning", options=shape, recipe={"lr": _PREFIX[cell.corpus or ""][0]})


def fine_tuning(cell: Cell) -> Trained:
    """Full fine-tuning."""
    return Trained(name="FT", kind="full", recipe={"lr": _FINE_TUNING.get(cell.corpus or "", 3e-5)})


def generation_departures(cell: Cell) -> tuple[str, ...]:
    """Where a cell's rows or scores beside the prefix are not the paper's, for the caption."""
    corpus, told = cell.corpus or "", list(summary_departures(cell))
    if corpus in _OTHERS:
        told.append(f"{corpus}: all rows have the epochs and batches of the prefix; {_OTHERS[corpus]}.")
    if corpus == "dart":
        told.append("dart: bleu is sacrebleu's; the paper's is multi-bleu's, of references cut into words beforehand.")
    return tuple(told)


def summary_departures(cell: Cell) -> tuple[str, ...]:
    """Where the authors' code for summaries has another recipe than the paper's text, which is followed."""
    if cell.corpus not in SUMMARIES:
        return ()
    return (
        f"{cell.corpus}: the authors' code has the mean over a batch's tokens for its loss, targets of at most 60 "
        "tokens, answers of 11 to 62, and ROUGE-2 to choose by.",
    )


def low_data(cell: Cell) -> Settings:
    """Prefix-Tuning's low-data set-up: 200 steps (400 for 500 examples), 100 of them warm-up; dev looked at often."""
    steps = 400 if (cell.size or 0) >= 500 else 200
    recipe = {key: value for key, value in generation(cell).items() if key != "epochs"}
    return {**recipe, "max_steps": steps, "warmup": 100, "eval_every": 20}


# --- P-Tuning v2's and APT's tasks (Liu et al. 2022, the authors' scripts) --------------------------------------------

_P_TUNING_V2 = {  # learning rate, prefix length, epochs, batch: BERT-large, RoBERTa-large
    "boolq": ((5e-3, 40, 100, 32), (7e-3, 8, 100, 32)),
    "cb": ((1e-2, 20, 80, 16), (1e-2, 8, 80, 16)),  # not among the scripts read: COPA's and WSC's neighbourhood
    "copa": ((1e-2, 16, 80, 16), (9e-3, 8, 120, 16)),
    "rte": ((1e-2, 20, 60, 32), (5e-3, 128, 100, 32)),
    "wic": ((1e-2, 20, 80, 16), (1e-2, 8, 50, 32)),  # BERT-large had 1e-4 for its MLP; free vectors get RoBERTa's
    "wsc": ((5e-3, 20, 80, 16), (1e-2, 8, 10, 16)),
    "conll2003": ((3e-2, 11, 30, 16), (3e-2, 11, 30, 16)),  # BERT-large has none: RoBERTa-large's
    "conll04": ((2e-2, 128, 40, 32), (6e-2, 144, 80, 32)),
    "multirc": ((5e-3, 40, 100, 32), (7e-3, 8, 100, 32)),  # not among them: BoolQ's, as long a text; CoNLL-2003's for
    "conllpp": ((3e-2, 11, 30, 16), (3e-2, 11, 30, 16)),  # the other two
    "wnut": ((3e-2, 11, 30, 16), (3e-2, 11, 30, 16)),
    "ontonotes": ((1e-2, 16, 30, 16), (7e-3, 48, 60, 16)),
}
_MOST_TOKENS = dict.fromkeys(_P_TUNING_V2, 128) | dict.fromkeys(("conll2003", "conllpp", "wnut"), 152)
"""Of an input, prefix aside: --max_seq_length of the scripts. There is none for MultiRC, whose texts are longer."""
del _MOST_TOKENS["multirc"]
SUPERGLUE = ("boolq", "copa", "rte", "wic", "wsc")
NER = ("conll2003", "conll04", "ontonotes")
MORE_SUPERGLUE, MORE_NER = ("cb", "multirc"), ("conllpp", "wnut")  # not in APT's tables


AS_LARGE = (
    "1.5 times the length is APT's size where a layer's keys are as wide as its hidden states; with grouped heads it "
    "is less, which the column of stored numbers shows."
)
_CLASSIFIED, _SPANS = ("boolq", "cb", "multirc", "rte"), ("wic", "wsc")
_TWO_LAYERS = ("roberta", "deberta", "electra", "distilbert", "modernbert")  # in transformers' own head
_NEIGHBOUR = {"cb": "near COPA's and WSC's", "multirc": "BoolQ's", "conllpp": "CoNLL-2003's", "wnut": "CoNLL-2003's"}


def departures(cell: Cell) -> tuple[str, ...]:
    """Where a cell's recipe or head is not that of P-Tuning v2's authors, for the caption."""
    corpus, kind = cell.corpus, cell.base.kind
    told = []
    if corpus == "conll04" and "roberta" not in kind:
        told.append("conll04: P-Tuning v2's authors train BERT with a dropout of 0.2, in the base too; here it is 0.1.")
    if corpus in _NEIGHBOUR:
        told.append(f"{corpus}: not among the authors' scripts that were read; the recipe is {_NEIGHBOUR[corpus]}.")
    if corpus == "wic" and "roberta" not in kind:
        told.append("wic: P-Tuning v2's authors train BERT with an MLP at a rate of 1e-4; here without, at RoBERTa's.")
    if corpus == "conll2003" and "roberta" not in kind:
        told.append("conll2003: P-Tuning v2's authors have no recipe for BERT; rate, length and epochs are RoBERTa's.")
    if corpus in _CLASSIFIED and any(name in kind for name in _TWO_LAYERS):
        told.append(
            f"{corpus}: the papers put one linear layer on [CLS]; {kind}'s own head has two layers (on RoBERTa-large "
            "1.05 M numbers), which every row trains and stores."
        )
    if corpus in _SPANS:
        told.append(f"{corpus}: the head reads [CLS] beside the mean state of each marked span, not [CLS] alone.")
    return tuple(told)


def _p_tuning_v2(cell: Cell) -> tuple[float, int, int, int]:
    bert, roberta = _P_TUNING_V2[cell.corpus or ""]
    return roberta if "roberta" in cell.base.kind else bert


def understanding(cell: Cell) -> Settings:
    """The corpus's part of P-Tuning v2's recipe, which APT follows."""
    _, _, epochs, batch = _p_tuning_v2(cell)
    return {"epochs": epochs, "batch_size": batch, **_input(cell)}


def _input(cell: Cell) -> Settings:
    most = _MOST_TOKENS.get(cell.corpus or "")
    return {} if most is None else {"max_length": most}


def understanding_length(cell: Cell) -> int:
    """P-Tuning v2's prefix length."""
    return _p_tuning_v2(cell)[1]


def free_prefix(cell: Cell, name: str, kind: str = "p_tuning_v2", stretch: float = 1.0, **options: Any) -> Trained:
    """P-Tuning v2 or APT at P-Tuning v2's length, `stretch` times; prefix dropout is the usual hidden dropout."""
    shape = {"length": stretched(understanding_length(cell), stretch), "dropout": 0.1, **options}
    return Trained(name=name, kind=kind, options=shape, recipe={"lr": _p_tuning_v2(cell)[0]}, stretch=stretch)


def encoder_fine_tuning() -> Trained:
    """Full fine-tuning of an encoder, at BERT's own learning rate."""
    return Trained(name="FT", kind="full", recipe={"lr": 2e-5})


def few_shot(cell: Cell) -> Settings:
    """16 or 32 examples: the same epochs would be few steps, so steps are given; one batch holds 8 examples."""
    return {"batch_size": 8, "max_steps": 200, "eval_every": 20, **_input(cell)}
