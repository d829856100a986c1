"""Training loops that print steps and losses in words of their own, in many languages; and facts that scripts print.

A loss is taken only from a line that also names a step or an epoch with its number, and that begins with one of them:
what models write does not look like that. Counters that begin again with each epoch are no optimizer steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.domain.observation import Event, Observation, Sign, SignKind
from touchline.evidence.facts import PlainFacts
from touchline.evidence.frameworks import FrameworkLines, is_framework_line
from touchline.evidence.tracebacks import unprefixed
from touchline.logtext.numbers import NUMBER, to_number
from touchline.logtext.reader import LogReader, Row

_STEP = (
    r"(?:global[ _]?steps?|train(?:ing)?[ _]?steps?|steps?|iterations?|iters?|batch(?:es)?|mini-?batch|updates?"
    r"|paso|passo|schritt|étape|etape|pas|шаг|итерация|步数|步骤|步|迭代|ステップ|스텝|단계)"
)
_EPOCH = r"(?:epochs?|ep|época|epoca|époque|epoque|epoche|эпоха|轮次|轮|第|エポック|에포크|에폭)"
_LOSS_WORD = r"(?:loss|pérdida|perdida|perda|perte|verlust|потери|потеря|ошибка|лосс|损失值|损失|損失|ロス|손실)"
_VALIDATION = r"(?:val(?:idation|id)?|eval(?:uation)?|dev|test|验证|驗證|検証|검증|валидаци\w+)"
_OF_VALIDATION = r"(?: (?:de )?(?:validación|validation|validação|validierung|valid|проверки|test))"
_VALUE = rf"(nan|-?inf|{NUMBER})(?![\d.]*[%\w])"
_COUNTED = r"\s*[:=#]?\s*[\[(]?\s*(\d+)(?:\s*(?:/|of|de|из|von|sur)\s*(\d+))?"
_ANCHOR_STEP = re.compile(rf"(?<![\w])({_STEP}){_COUNTED}", re.IGNORECASE)
_ANCHOR_EPOCH = re.compile(rf"(?<![\w])({_EPOCH}){_COUNTED}", re.IGNORECASE)
_PLAIN_FRACTION = re.compile(r"^\W{0,4}(\d+)\s*/\s*(\d+)\b")
_LOSS = re.compile(
    rf"(?P<before>(?:[\w.]+[ _/-]?){{0,2}}?)(?P<word>{_LOSS_WORD})(?P<after>{_OF_VALIDATION})?"
    rf"(?:\s*\([\w .]{{1,20}}\))?[\"']?\s*(?:[:=：]|\bis\b|->)?\s*[\"']?{_VALUE}",
    re.IGNORECASE,
)
_BARE_PAIR = re.compile(rf"\b(train|val|valid)(?:ing|idation)?\s*[:=]\s*{_VALUE}", re.IGNORECASE)
_IS_VALIDATION = re.compile(rf"(?:^|[\W_]){_VALIDATION}|{_VALIDATION}$", re.IGNORECASE)
_NO_TRAINING_LOSS = re.compile(
    r"best|min|final|target|watchdog|threshold|aux|kl|reg|gen|disc|mean|avg.*epoch|ema|teacher|router|balanc",
    re.IGNORECASE,
)
_START = re.compile(
    rf"^\W{{0,8}}(?:{_STEP}|{_EPOCH}|{_LOSS_WORD}|train|\d+\s*/|\w{{0,12}}\W{{0,3}}(?:{_STEP}|{_EPOCH}))", re.IGNORECASE
)
_POSTFIX = re.compile(rf"[,|] *(?:train[ _/]|avr?g?[ _/])?loss[=: ]+{_VALUE}[^\[\]]*\]\s*$", re.IGNORECASE)
_GLOBAL = re.compile(r"global|total|train|updat|iter", re.IGNORECASE)
_LENGTH = 400

CJK_TRIGGERS = (
    "损失",
    "損失",
    "손실",
    "ロス",
    "轮",
    "步",
    "エポック",
    "에포크",
    "학습",
    "训练",
    "学習",
    "模型",
    "样本",
)
"""Pieces of languages that part no words; a line with one of them is offered as well."""


class LoopLines:
    """Reads one file's lines of home-made loops."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("loss", "train_loss", "val_loss", "eval_loss", "training_loss", "avg_loss", "avr_loss", "valid_loss"),
            *("pérdida", "Pérdida", "perda", "perdida", "perte", "verlust", "потери", "Потери", "лосс", "ошибка"),
            *("época", "Época", "эпоха", "Эпоха", "epoch", "epoche", "époque"),
            *CJK_TRIGGERS,
        }
    )

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._last_step = -1
        self._epoch_since = False
        self._per_epoch = False
        self._known = False

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Events of one line."""
        if len(text) > _LENGTH or text.rstrip().endswith("}") or is_framework_line(text):
            return
        if "%|" in text:
            yield from self._bar(text, number)
            return
        body = unprefixed(text)[1].strip()
        epoch, step = _ANCHOR_EPOCH.search(body), _ANCHOR_STEP.search(body)
        if (epoch is None and step is None and _PLAIN_FRACTION.match(body) is None) or not _START.match(body):
            return
        if epoch is not None:
            self._epoch_since = True
        losses = list(_LOSS.finditer(body))
        if not losses:
            losses = list(_BARE_PAIR.finditer(body)) if epoch is not None else []
        yield from self._numbers(body, losses, epoch, step, number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Events of a dictionary of a home-made loop: it has a loss and a step."""
        if any(key in row for key in ("event", "current_steps", "grad_norm", "global_step/max_steps", "learning_rate")):
            if "epoch" in row or "event" in row or "current_steps" in row or "global_step/max_steps" in row:
                return
        step = next((to_number(row[key]) for key in ("global_step", "step", "iter", "iteration") if key in row), None)
        loss = next((row[key] for key in ("loss", "train_loss", "train/loss", "lm_loss") if key in row), None)
        if step is None:
            return
        value = to_number(loss)
        if value is not None:
            yield from self._named(number)
            yield Observation(name="loss", value=value, line=number, unit="nats", step=int(step), certain=False)
        elif loss is not None and str(loss).lower() == "nan":
            yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=text[:300], step=int(step))
        validation = next((to_number(row[key]) for key in ("val_loss", "eval_loss", "valid_loss") if key in row), None)
        if validation is not None:
            yield Observation(name="eval_loss", value=validation, line=number, unit="nats", step=int(step))

    def _numbers(
        self,
        body: str,
        losses: list[re.Match[str]],
        epoch: re.Match[str] | None,
        step: re.Match[str] | None,
        number: int,
    ) -> Iterator[Event]:
        at = self._step(epoch, step)
        done = float(epoch.group(2)) if epoch is not None else None
        for match in losses:
            groups = match.groupdict()
            word = (groups["before"] + groups["word"]) if groups else match.group(1)
            value = match.group(match.lastindex or 0)
            validation = bool(_IS_VALIDATION.search(word)) or bool(groups.get("after"))
            if not validation and _NO_TRAINING_LOSS.search(word):
                continue
            found = to_number(value)
            if found is None:
                if not validation:
                    yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=body[:300], step=at)
                continue
            yield from self._named(number)
            if validation:
                yield Observation(name="eval_loss", value=found, line=number, unit="nats", epoch=done)
            else:
                yield Observation(
                    name="loss", value=found, line=number, unit="nats", step=at, epoch=done, certain=False
                )
                break
        for match in losses[1:]:
            groups = match.groupdict()
            word = (groups["before"] + groups["word"]) if groups else match.group(1)
            found = to_number(match.group(match.lastindex or 0))
            if found is not None and (_IS_VALIDATION.search(word) or groups.get("after")):
                yield Observation(name="eval_loss", value=found, line=number, unit="nats", epoch=done)
        if epoch is not None and epoch.group(3) and losses and int(epoch.group(2)) <= int(epoch.group(3)):
            yield Observation(name="epochs", value=int(epoch.group(3)), line=number, unit="epochs", certain=False)

    def _step(self, epoch: re.Match[str] | None, step: re.Match[str] | None) -> int | None:
        """The optimizer step, where the counter is one of the whole run."""
        if step is None:
            return None
        value = int(step.group(2))
        if epoch is not None and not _GLOBAL.search(step.group(1)):
            return None
        if value < self._last_step and self._epoch_since:
            self._per_epoch = True
        self._last_step = value
        self._epoch_since = epoch is not None
        return None if self._per_epoch else value

    def _bar(self, text: str, number: int) -> Iterator[Event]:
        """The loss that a bar shows behind its clock."""
        if (match := _POSTFIX.search(text)) is None:
            return
        value = to_number(match.group(1))
        if value is not None:
            yield from self._named(number)
            yield Observation(name="loss", value=value, line=number, unit="nats", certain=False)
        else:
            yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=text[-300:])

    def _named(self, number: int) -> Iterator[Event]:
        if not self._known:
            self._known = True
            yield Observation(name="trainer", value="generic", line=number, certain=False)


READERS: tuple[type[LogReader], ...] = (FrameworkLines, LoopLines, PlainFacts)
