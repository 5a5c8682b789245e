"""Text to text: `source` -> `target`, on a decoder (loss on the target only) or an encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from prefixtune import metrics
from prefixtune.errors import ConfigError, DataError, ModelError, NoRoom
from prefixtune.tasks.cells import as_text
from prefixtune.tasks.decoding import generate, reserve, tell_of_unlearned_end
from prefixtune.tasks.readers import Table
from prefixtune.tasks.task import (
    IGNORED,
    Decoding,
    Feature,
    Prediction,
    Task,
    Window,
    batch_logits,
    tell_once,
    token_losses,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_SHORTER = "cut targets with max_target_length (reproduce: --recipe max_target_length=N)"


@dataclass(frozen=True)
class Text2Text(Task):
    """One text from another.

    Args:
        separator: what stands between source and target on a decoder.
        max_target_length: the most target tokens trained on, the end token included; None: no bound.
        end_token: what ends a target, a token of the tokenizer; None: the one that the tokenizer names.
    """

    separator: str = "\n"
    max_target_length: int | None = None
    end_token: str | None = None

    kind: ClassVar[str] = "text2text"
    required: ClassVar[tuple[str, ...]] = ("source", "target")
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu", "rouge_score")

    @classmethod
    def learn(cls, table: Table, **options: Any) -> Self:
        table.require(cls.required)
        own = {field.name for field in fields(Text2Text)}
        return cls(**{name: value for name, value in options.items() if name in own})

    def prepared(self, table: Table) -> Table:
        """Rows of one string `source` and one string `target`: a list of targets becomes one row each."""
        table.require(self.required)
        rows, lines = [], []
        for index, row in enumerate(table.rows):
            where = table.where(index)
            targets = row["target"] if isinstance(row["target"], list) else [row["target"]]
            if not targets:
                raise DataError(f"{where}: the list of targets is empty")
            for target in targets:
                rows.append({"source": one_text(row["source"], where), "target": one_text(target, where)})
                lines.append(table.lines[index])
        return Table(table.name, rows, lines)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("bleu", "chrf", "rouge1", "rouge2", "rougeL")

    @property
    def chooses(self) -> str:
        return "loss"  # generating the development set at every evaluation would take longer than training

    def model_class(self, config: PretrainedConfig) -> Any:
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        if reads_all_at_once(config):
            raise ModelError(
                f"{config.model_type} reads the whole text at once, targets too, and so cannot learn to write them; "
                "expected a decoder or an encoder-decoder, or a configuration with is_decoder=True"
            )
        return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM

    def features(
        self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window
    ) -> list[Feature]:
        targets = self._targets(table, model, tokenizer)
        longest = max(len(target) for target in targets)
        if model.config.is_encoder_decoder:
            if window.targets is not None and longest > window.targets:
                raise NoRoom(
                    f"{table.name}: a target has {longest} tokens but the decoder has room for {window.targets} beside "
                    f"the prefix; {_SHORTER}"
                )
            limits = [window.inputs()] * len(table)
            sources = self._told(table.name, [row["source"] for row in table.rows], model, tokenizer, limits)
            _refuse_empty(table, dict(zip((row["source"] for row in table.rows), sources, strict=True)))
            return [{"input_ids": s, "labels": t} for s, t in zip(sources, targets, strict=True)]
        if (room := window.inputs(reserved=longest)) is not None and room < 1:
            raise NoRoom(
                f"{table.name}: a target has {longest} tokens but the model has room for {window.positions} beside the "
                f"prefix; {_SHORTER}"
            )
        # Every source is cut to what its own target leaves, so that a target is never cut by its source.
        texts = [row["source"] for row in table.rows]
        limits = [window.inputs(reserved=len(target)) for target in targets]
        sources = self._told(table.name, texts, model, tokenizer, limits)
        _refuse_empty(table, dict(zip(texts, sources, strict=True)))
        return [
            {"input_ids": source + target, "labels": [IGNORED] * len(source) + target}
            for source, target in zip(sources, targets, strict=True)
        ]

    def training_features(
        self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window
    ) -> list[Feature]:
        """`features`, which tell of sources that were cut, with a word on an end that the base never learned."""
        tell_of_unlearned_end(model, tokenizer, self.end(tokenizer))
        return self.features(table, model, tokenizer, window)

    def prompts(
        self, sources: Sequence[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: Window,
        reserved: int = 0,
    ) -> list[list[int]]:  # fmt: skip
        """Token ids of the inputs, exactly as training saw them; a source that is too long is cut at its end."""
        limits = [window.inputs(reserved)] * len(sources)
        return [prompt for prompt, _ in self._prompts(sources, model, tokenizer, limits)]

    def _told(
        self, name: str, sources: Sequence[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
        limits: Sequence[int | None],
    ) -> list[list[int]]:  # fmt: skip
        """The prompts, with a word on how many sources of the file `name` were cut."""
        found = self._prompts(sources, model, tokenizer, limits)
        if cut := sum(was_cut for _, was_cut in found):
            tell_once(f"{name}: {cut} of {len(found)} sources are longer than there is room for and are cut")
        return [prompt for prompt, _ in found]

    def _prompts(
        self, sources: Sequence[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
        limits: Sequence[int | None],
    ) -> list[tuple[list[int], bool]]:  # fmt: skip
        """Each source as the model reads it, and whether it was cut to its limit."""
        if not model.config.is_encoder_decoder:
            return self._decoder_prompts(sources, tokenizer, limits)
        found = []
        whole = tokenizer(list(sources), verbose=False)["input_ids"]  # or it warns of what is cut here anyway
        for source, ids, limit in zip(sources, whole, limits, strict=True):
            cut = limit is not None and len(ids) > limit
            found.append((tokenizer(source, truncation=True, max_length=limit)["input_ids"] if cut else ids, cut))
        return found

    def _decoder_prompts(
        self, sources: Sequence[str], tokenizer: PreTrainedTokenizerBase, limits: Sequence[int | None]
    ) -> list[tuple[list[int], bool]]:
        """Source and separator; the source alone is cut where both are longer than their limit."""
        after = tokenizer(self.separator, add_special_tokens=False)["input_ids"]
        prompts = []
        encoded = tokenizer([source + self.separator for source in sources], verbose=False)["input_ids"]
        for source, ids, limit in zip(sources, encoded, limits, strict=True):
            whole = _without_end(ids, tokenizer, after)
            cut = limit is not None and len(whole) > limit
            if limit is not None and cut:
                room = max(limit - len(after), 0)
                kept = tokenizer(source, truncation=True, max_length=max(room, 1))["input_ids"]
                whole = _without_end(kept, tokenizer)[:room] + after
            prompts.append((whole, cut))
        return prompts

    def _targets(self, table: Table, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Token ids of the targets, exactly as generation is to write them."""
        end, first = self.end(tokenizer), _forced_first(model)
        if end in first:
            raise ConfigError(
                f"end_token {tokenizer.convert_ids_to_tokens(end)!r} is what this model is forced to write first, so "
                "every answer would be empty; expected another token"
            )
        encoded = tokenizer(text_target=[row["target"] for row in table.rows], add_special_tokens=False)["input_ids"]
        if self.end_token is not None and (within := [i for i, ids in enumerate(encoded) if end in ids]):
            tell_once(
                f"{table.name}: {len(within)} targets hold the end token {self.end_token!r}, as "
                f"{table.where(within[0])}; no answer will go on behind it"
            )
        keep = None if self.max_target_length is None else max(self.max_target_length - 1 - len(first), 0)
        return [[*first, *ids[:keep], end] for ids in encoded]

    def end(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The id of the token that ends a target. Raises ModelError where there is none, ConfigError for no token."""
        if self.end_token is None:
            if tokenizer.eos_token_id is None:
                raise ModelError("the tokenizer has no end token, so generation could not learn to stop; set end_token")
            return int(tokenizer.eos_token_id)
        ids = tokenizer(self.end_token, add_special_tokens=False)["input_ids"]
        unknown = ids == [tokenizer.unk_token_id] and self.end_token != tokenizer.unk_token
        if len(ids) == 1 and not unknown:
            return int(ids[0])
        # A name that no text has (<0x0A>). Byte-level vocabularies name bytes by other letters, none of them ASCII.
        if self.end_token.isascii() and (named := tokenizer.get_vocab().get(self.end_token)) is not None:
            return int(named)
        told = "unknown to the tokenizer" if unknown else f"{len(ids)} tokens ({tokenizer.convert_ids_to_tokens(ids)})"
        raise ConfigError(
            f"end_token {self.end_token!r} is {told}; expected one token of the tokenizer, as "
            f"{tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)!r}"
        )

    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        from transformers import DataCollatorForSeq2Seq

        # Given the model, the collator also shifts the labels into decoder inputs (encoder-decoders only).
        seq2seq = model if model.config.is_encoder_decoder else None
        return DataCollatorForSeq2Seq(tokenizer, model=seq2seq, label_pad_token_id=IGNORED)

    def packer(self, model: PreTrainedModel) -> Any:
        from prefixtune.packing import pack
        from prefixtune.positions import first_position

        if model.config.is_encoder_decoder:
            return None
        return partial(pack, first=first_position(model), shifted=self.shifted(model))

    def shifted(self, model: PreTrainedModel) -> bool:
        return not model.config.is_encoder_decoder

    def predict(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, table: Table, window: Window, *,
        batch_size: int, decoding: Decoding, answered: bool,
    ) -> Prediction:  # fmt: skip
        """The loss over every row; the answers, one for each different source, in order of appearance."""
        features = self.features(table, model, tokenizer, window)
        total, count = 0.0, 0
        layout = self.layout(model, tokenizer)
        for _, logits, labels in batch_logits(model, features, layout.collate, batch_size, layout.aligned):
            loss, labelled = token_losses(logits, labels)
            total, count = total + float(loss), count + int(labelled)
        answers = None
        if answered:
            (answers,) = self.answers_to(model, tokenizer, [table], window, batch_size=batch_size, decoding=decoding)
        return Prediction(loss=total / max(count, 1), answers=answers)

    def answers_to(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tables: Sequence[Table], window: Window, *,
        batch_size: int, decoding: Decoding,
    ) -> list[list[str]]:  # fmt: skip
        """One a source. A source that several tables have (WebNLG's `seen` and `all`) is answered once."""
        sources = list(dict.fromkeys(row["source"] for table in tables for row in table.rows))
        limits = [window.inputs(reserve(model, window, decoding))] * len(sources)
        told = f"{' and '.join(dict.fromkeys(table.name for table in tables))}, to be answered"
        prompts = dict(zip(sources, self._told(told, sources, model, tokenizer, limits), strict=True))
        for table in tables:
            _refuse_empty(table, prompts)
        texts = generate(model, tokenizer, list(prompts.values()), window, decoding, batch_size, self.end(tokenizer))
        found = dict(zip(prompts, texts, strict=True))
        return [[found[source] for source in grouped(table)] for table in tables]

    def answer_count(self, table: Table) -> int:
        return len(grouped(table))

    def score(self, answers: Sequence[str], table: Table) -> dict[str, float]:
        """BLEU and chrF (sacrebleu, 0 to 100), ROUGE F-measures (0 to 1, the best reference counts)."""
        references = list(grouped(table).values())
        return {name: metrics.score(name, answers, references) for name in self.metrics}


def _refuse_empty(table: Table, prompts: Mapping[str, Sequence[int]]) -> None:
    """Raise DataError for a row whose source leaves the model nothing to read."""
    for index, row in enumerate(table.rows):
        if not prompts[row["source"]]:
            raise DataError(f"{table.where(index)}: the source is empty; expected at least one token, or no such row")


def grouped(table: Table) -> dict[str, list[str]]:
    """`{source: its references}`: rows of one source are references of one text."""
    groups: dict[str, list[str]] = {}
    for row in table.rows:
        groups.setdefault(row["source"], []).append(row["target"])
    return groups


def reads_all_at_once(config: PretrainedConfig) -> bool:
    """Whether a model sees the whole text from every place, and so writes none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    says = config.to_dict()
    causal = says.get("is_decoder") or says.get("causal") or config.is_encoder_decoder
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not causal


def one_text(value: Any, where: str) -> str:
    """A source or a target as one text. Raises DataError for what is none."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)  # an article given as its sentences
    return as_text(value, where)


def _forced_first(model: PreTrainedModel) -> list[int]:
    """What generation writes first without being asked: BART's own start, or the language in its multilingual kin."""
    if not model.config.is_encoder_decoder or model.generation_config is None:
        return []
    forced = model.generation_config.forced_bos_token_id
    return [] if forced is None else [forced]


def _without_end(ids: list[int], tokenizer: PreTrainedTokenizerBase, after: Sequence[int] = ()) -> list[int]:
    """Some tokenizers end every text; the target is to follow the source instead.

    The separator `after` keeps an end token of its own.
    """
    end = tokenizer.eos_token_id
    added = _ends(ids, end) > _ends(after, end)
    return ids[:-1] if len(ids) > 1 and added else ids


def _ends(ids: Sequence[int], end: int | None) -> int:
    """How many end tokens stand last."""
    return len(ids) - max((i + 1 for i, token in enumerate(ids) if token != end), default=0)
