"""Facts that people print from their own scripts: `Batch size: 4`, `Total steps: 500`, `16,266 training examples`.

All of them are guesses beside what a trainer says of itself; a line must begin with the words and hold nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.domain.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.evidence.tracebacks import unprefixed
from touchline.logtext.numbers import NUMBER, to_number
from touchline.logtext.reader import Row

_INT = r"(\d{1,3}(?:[,_]\d{3})+|\d+)"
_IS = r"\s*[:=：]\s*"
_EXAMPLES = r"(?:examples|samples|rows|records|conversations|instances|pairs)"
_FACTS: tuple[tuple[str, ObservationName, str], ...] = (
    (
        rf"(?:per[- ]device )?(?:train(?:ing)? )?(?:micro[- ])?batch[ _]size(?: per (?:device|gpu))?{_IS}{_INT}",
        "micro_batch_size",
        "1",
    ),
    (
        rf"(?:gradient[ _]accumulation(?:[ _]steps)?|grad[ _]accum(?:ulation)?(?:[ _]steps)?){_IS}{_INT}",
        "gradient_accumulation_steps",
        "1",
    ),
    (rf"(?:effective|global|total(?: train)?) batch(?:[ _]size)?{_IS}{_INT}", "global_batch_size", "1"),
    (rf"(?:num(?:ber of)?[ _]|total |train(?:ing)? )?epochs{_IS}{_INT}", "epochs", "epochs"),
    (
        rf"(?:total|max|total (?:training|optimization)|estimated total)[ _](?:training )?steps{_IS}{_INT}",
        "steps_total",
        "steps",
    ),
    (
        rf"(?:num(?:ber of)? )?(?:train(?:ing)?|fine-?tuning) (?:{_EXAMPLES}|dataset(?: size)?|set(?: size)?|data){_IS}{_INT}(?: {_EXAMPLES})?",
        "train_examples",
        "rows",
    ),
    (rf"{_INT} (?:train(?:ing)?|fine-?tuning) {_EXAMPLES}(?: loaded)?", "train_examples", "rows"),
    (
        rf"(?:fine-?tuning|training|train)\b[^:=]{{0,30}} on {_INT} (?:training )?{_EXAMPLES}\b.*",
        "train_examples",
        "rows",
    ),
    (
        rf"(?:학습 데이터|训练(?:样本|集|数据)(?:数量?|大小)?|学習データ)(?:数)?{_IS}{_INT}\s*(?:개|条|件|個)?",
        "train_examples",
        "rows",
    ),
    (rf"(?:lora[ _])?(?:rank|r){_IS}{_INT}(?:,.*)?", "lora_rank", "1"),
    (
        rf"(?:max(?:imum)?[ _]seq(?:uence)?[ _]len(?:gth)?|max[ _]length|context length){_IS}{_INT}",
        "max_seq_len",
        "tokens",
    ),
    (rf"(?:num(?:ber of)?|total) gpus?(?: used)?{_IS}{_INT}", "gpus", "1"),
    (rf"trainable param(?:eter)?s{_IS}{_INT}(?:\s*[/(|].*)?", "trainable_parameters", "parameters"),
    (rf"total param(?:eter)?s{_IS}{_INT}(?:\s*[/(|].*)?", "total_parameters", "parameters"),
    (rf"(?:base |peak )?learning[ _]rate{_IS}({NUMBER})", "learning_rate", "1"),
)
_PATTERNS = tuple((re.compile(rf"{pattern}\s*\.*", re.IGNORECASE), name, unit) for pattern, name, unit in _FACTS)
_STARTED = re.compile(rf"fine-?tun\w*_started\b.*\bsamples={_INT}\b", re.IGNORECASE)
_SECONDS = re.compile(
    rf"(?:total )?(?:train(?:ing)?|fine-?tuning) (?:time|took|duration|completed in|finished in)(?: time)?\s*[:=]?\s*({NUMBER})\s*"
    r"(s|sec(?:onds)?|m|min(?:utes)?|h|hours?)\b\.?",
    re.IGNORECASE,
)
_SCALES = {"s": 1.0, "m": 60.0, "h": 3600.0}
_FINAL = re.compile(rf"final (?:train(?:ing)? )?loss{_IS}({NUMBER})\s*\.?", re.IGNORECASE)
_EVALUATION = re.compile(
    rf"(?:final )?(?:eval(?:uation)?|val(?:idation)?) loss{_IS}({NUMBER})\s*\.?"
    rf"|(?:pérdida de validación|perda de validação|perte de validation|验证损失|検証損失|검증 손실){_IS}({NUMBER})",
    re.IGNORECASE,
)
_WEAK = re.compile(
    r"gradient[_ ]checkpointing|Trainer\.(?:tokenizer|train)|TrainingArguments|in _?\w*inner_training_loop|trainer\.train\("
    r"|No label_names provided|Checkpoint destination directory|fast tokenizer, using the `__call__` method"
    r"|should probably TRAIN this model|_maybe_log_save_evaluate",
)
_LENGTH = 300


class PlainFacts:
    """Reads one file's plainly printed facts."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *(
                "batch",
                "batch_size",
                "accumulation",
                "epochs",
                "steps",
                "samples",
                "examples",
                "dataset",
                "rank",
                "lora",
            ),
            *("seq", "seq_length", "length", "gpus", "parameters", "params", "learning", "took", "duration", "final"),
            *(
                "validation",
                "eval",
                "val",
                "time",
                "gradient_checkpointing",
                "trainer",
                "trainingarguments",
                "label_names",
            ),
            *("destination", "tokenizer", "num_epochs", "max_seq_length", "learning_rate", "train", "datos", "loss"),
            *("학습", "训练", "学習", "样本", "验证损失", "pérdida", "Pérdida", "finetuning_started"),
        }
    )

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._weak = False

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Events of one line."""
        if not self._weak and _WEAK.search(text):
            self._weak = True
            yield Observation(name="trainer", value="generic", line=number, certain=False)
        if len(text) > _LENGTH or "%|" in text:
            return
        body = unprefixed(text)[1].strip(" -*•>=#|\t✓✅📊🚀")
        for pattern, name, unit in _PATTERNS:
            if (match := pattern.fullmatch(body)) and (value := to_number(match.group(1))) is not None:
                yield Observation(name=name, value=value, line=number, unit=unit, certain=False)
                break
        if (match := _STARTED.search(text)) and (value := to_number(match.group(1))) is not None:
            yield Observation(name="train_examples", value=value, line=number, unit="rows", certain=False)
        yield from self._sums(body, text, number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Nothing: rows are read elsewhere."""
        del row, text, number
        return iter(())

    @staticmethod
    def _sums(body: str, text: str, number: int) -> Iterator[Event]:
        if (match := _SECONDS.fullmatch(body)) and (value := to_number(match.group(1))) is not None:
            seconds = value * _SCALES[match.group(2)[0].lower()]
            yield Observation(name="train_seconds", value=seconds, line=number, unit="s", certain=False)
            yield Sign(kind=SignKind.TRAINED, line=number, text=text[:300])
        if (match := _FINAL.fullmatch(body)) and (value := to_number(match.group(1))) is not None:
            yield Observation(name="loss", value=value, line=number, unit="nats", aggregation="last", certain=False)
        if match := _EVALUATION.fullmatch(body):
            value = to_number(match.group(1) or match.group(2))
            if value is not None:
                yield Observation(name="eval_loss", value=value, line=number, unit="nats", certain=False)
