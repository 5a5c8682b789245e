"""The papers' own results, as the tables print them beside ours.

Prefix-Tuning: Li & Liang 2021, tables 1 to 5, GPT-2 medium and large or BART-large. APT: Zhang et al. 2023, tables 1 to
3; those numbers could not be checked against the paper's text and are marked so wherever they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefixtune.reproduce.experiment import Figure

_GPT2, _GPT2_LARGE, _BART = "GPT-2 medium", "GPT-2 large", "BART-large"


def _rows(
    base: str, corpus: str, test: str, metrics: Sequence[str], rows: Mapping[str, Sequence[float]]
) -> list[Figure]:
    return [
        Figure(arm, corpus, test, metric, value, base)
        for arm, values in rows.items()
        for metric, value in zip(metrics, values, strict=True)
    ]


_TABLE_TO_TEXT = {  # E2E: BLEU, NIST, METEOR, ROUGE-L, CIDEr; WebNLG: BLEU seen, unseen, all; DART: BLEU
    _GPT2: {
        "FT": ((68.8, 8.71, 46.1, 71.1, 2.43), (64.7, 26.7, 45.7), 46.2),
        "FT-top2": ((68.1, 8.59, 46.0, 70.8, 2.41), (53.6, 18.9, 36.0), 41.0),
        "Adapter 3 %": ((68.9, 8.71, 46.1, 71.3, 2.47), (60.5, 47.9, 54.8), 45.2),
        "Adapter 0.1 %": ((66.3, 8.41, 45.0, 69.8, 2.40), (54.5, 45.1, 50.2), 42.4),
        "Prefix": ((70.3, 8.82, 46.3, 72.1, 2.46), (62.9, 45.3, 55.0), 46.4),
    },
    _GPT2_LARGE: {
        "FT": ((68.5, 8.78, 46.0, 69.9, 2.45), (65.3, 43.1, 55.5), 47.0),
        "Prefix": ((70.3, 8.85, 46.2, 71.7, 2.47), (63.4, 47.7, 56.3), 46.7),
    },
}
_E2E = ("bleu_e2e", "nist", "meteor_e2e", "rouge_l_e2e", "cider")
TABLE_TO_TEXT = tuple(
    figure
    for base, rows in _TABLE_TO_TEXT.items()
    for figure in (
        *_rows(base, "e2e", "test", _E2E, {arm: row[0] for arm, row in rows.items()}),
        *(
            Figure(arm, "webnlg", test, "bleu_webnlg", value, base)
            for arm, row in rows.items()
            for test, value in zip(("seen", "unseen", "all"), row[1], strict=True)
        ),
        *_rows(base, "dart", "test", ("bleu",), {arm: (row[2],) for arm, row in rows.items()}),
    )
)
_ROUGE = ("rouge1", "rouge2", "rougeL")
SUMMARISATION = tuple(
    _rows(_BART, "xsum", "test", _ROUGE, {
        "FT": (45.14, 22.27, 37.25), "Prefix 2 %": (43.80, 20.93, 36.05), "Prefix 0.1 %": (42.92, 20.03, 35.05),
    })
)  # fmt: skip
UNSEEN_TOPICS = (
    *_rows(_BART, "xsum_news_to_sports", "test", _ROUGE, {
        "FT": (38.15, 15.51, 30.26), "Prefix": (39.23, 16.74, 31.51),
    }),
    *_rows(_BART, "xsum_within_news", "test", _ROUGE, {
        "FT": (39.20, 16.35, 31.15), "Prefix": (39.41, 16.87, 31.47),
    }),
    *(figure for figure in TABLE_TO_TEXT if figure.corpus == "webnlg" and figure.arm in ("FT", "Prefix")),
)  # fmt: skip
PLACEMENT = tuple(
    _rows(_GPT2, "e2e", "test", ("bleu_e2e",), {
        "Prefix": (70.3,),
        "Embedding only 1": (48.1,), "Embedding only 10": (62.2,), "Embedding only 20": (61.9,),
        "Infix 1": (67.9,), "Infix 10": (67.2,), "Infix 20": (66.7,),
    })
)  # fmt: skip

_APT = {
    "BERT-base": {
        "P-Tuning v2": (72.5, 67.4, 71.3, 69.5, 65.4, 89.3, 82.6, 87.1),
        "APT": (72.6, 70.0, 72.7, 71.2, 66.9, 89.7, 84.1, 87.2),
    },
    "BERT-large": {
        "FT": (77.7, 69.0, 70.4, 74.9, 68.3, 92.8, 85.6, 89.2),
        "P-Tuning v2": (75.8, 73.0, 78.3, 75.1, 68.3, 90.2, 84.5, 86.4),
        "APT": (76.0, 79.0, 79.4, 75.1, 70.2, 90.7, 85.8, 88.6),
    },
    "RoBERTa-large": {
        "P-Tuning v2": (84.8, 93.0, 89.5, 73.4, 63.5, 92.8, 88.4, 89.8),
        "APT": (84.8, 94.0, 89.9, 74.6, 68.3, 92.7, 89.0, 89.8),
    },
}
_APT_CORPORA = ("boolq", "copa", "rte", "wic", "wsc", "conll2003", "conll04", "ontonotes")
APT = tuple(
    Figure(arm, corpus, test, metric, values[place], base, unverified=True)
    for base, rows in _APT.items()
    for arm, values in rows.items()
    for place, corpus in enumerate(_APT_CORPORA)
    for test, metric in [("test", "entity_f1") if place > 4 else (None, "accuracy")]
)
APT_FEW_SHOT = tuple(  # the paper's means; its figures by task are not known here
    Figure(arm, None, None, "accuracy", value, "BERT-large", unverified=True, size=16)
    for arm, value in {"FT": 49.4, "P-Tuning v2": 50.8, "APT": 55.0}.items()
)
