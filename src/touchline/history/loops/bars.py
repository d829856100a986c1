"""Losses that progress bars show: behind their clock (`5.97it/s, loss=0.532]`) or in their label (`loss 0.53:  45%|`).

The bars themselves are read with all others. Their counters are no steps here: most of them count forward passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.emitter import EventEmitter
from touchline.backends.logtext.prefixes import strip_decoration
from touchline.backends.logtext.reader import LoggedTrainer
from touchline.backends.registry import logged_trainers
from touchline.core.observation import Event
from touchline.history.loops.grammar import parse
from touchline.history.loops.vocabulary import Concept, Split, meaning_of
from touchline.history.tracks import is_training_label

_POSTFIX = re.compile(
    r"\[(?:\d+ days?, )?[\d:]{4,11}<(?:[\d:?]{1,11}|\d+ days?, [\d:]+), *(?P<rest>[^\]]*=[^\]]*|[^\]]*loss[^\]]*)\]",
    re.IGNORECASE,
)
_OPEN = re.compile(r"(?:^|[ :])\d+it \[[\d:]{4,11}, *(?P<rest>[^\]]*=[^\]]*)\]")
_PAIR = re.compile(r"(?P<key>[A-Za-z_][\w/ .-]*?) *[=:] *(?P<value>[^,\s=]+)(?=,|\s|$)")
_CLOCK = re.compile(r"\[[\d:]{4,11}<[^\]]*\]")
_LABEL_LENGTH = 200
_READ_ELSEWHERE = re.compile(r"\d\|\d+\|Loss:")
_RICH = re.compile(
    r"^\s*Epoch (?P<epoch>\d+)/(?P<last>-?\d+) +[━╸╺ ]+ *(?P<done>\d+)/(?P<total>\d+) +\d+:\d\d:\d\d +•"
    r" +[\d:-]+ +[\d.]+it/s"
    r" *(?P<rest>.*)$"
)
_EXTRA = {
    "gpt_loss": Split.TRAIN,
    "loss_mean": Split.TRAIN,
    "train_loss_step": Split.TRAIN,
    "reduced_train_loss": Split.TRAIN,
    "loss_step": Split.TRAIN,
    "val_loss_epoch": Split.VALIDATION,
    "val_loss_step": None,
    "train_loss_epoch": None,
}
"""Keys whose meaning differs from that of their words; the mean of an epoch is not the last loss."""

_UNKNOWN = LoggedTrainer(name="generic")


class LossBarReader:
    """Reader of one file's bars with losses."""

    def __init__(self, emitter: EventEmitter) -> None:
        """Start a file."""
        self._emitter = emitter

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line with bars; of several on one line the last one counts."""
        if _READ_ELSEWHERE.search(text):
            return
        if (rich := _RICH.match(text)) is not None:
            pairs = {match["key"]: match["value"] for match in _PAIR.finditer(rich.group("rest"))}
            yield from self._pairs(pairs, text, number)
            return
        matches = list(_POSTFIX.finditer(text)) or list(_OPEN.finditer(text))
        label = _label(text, matches[-1].start() if matches else len(text))
        if is_training_label(label) is False:
            return
        if matches:
            rest = matches[-1].group("rest")
            pairs = {match["key"].strip(): match["value"] for match in _PAIR.finditer(rest)}
            yield from self._pairs(pairs, text[-400:], number)
        yield from self._labelled(label, text, number)

    def _pairs(self, pairs: dict[str, str], text: str, number: int) -> Iterator[Event]:
        named = [trainer for trainer in logged_trainers().values() if trainer.bar_key in pairs]
        trainer = max(named, key=lambda each: each.precedence, default=_UNKNOWN)
        training = validation = None
        for key, value in pairs.items():
            split = _split_of(key)
            if split is Split.TRAIN and (training is None or key in _EXTRA):
                training = value
            elif split is Split.VALIDATION:
                validation = value
        if training is not None:
            step = trainer.step_of_bar(pairs, text) if trainer.step_of_bar is not None else None
            yield from self._emitter.loss(
                training, number, text, trainer=trainer.name, step=step, certain=trainer is not _UNKNOWN
            )
        yield from self._emitter.eval_loss(validation, number, certain=False)

    def _labelled(self, label: str, text: str, number: int) -> Iterator[Event]:
        """Yield a loss and the planned epochs that the label names."""
        parsed = parse(strip_decoration(label)[1]) if label else None
        if parsed is None:
            return
        loss, epoch = parsed.first(Concept.LOSS), parsed.first(Concept.EPOCH)
        if loss is not None and not loss.unit and loss.split is Split.TRAIN:
            yield from self._emitter.loss(loss.value, number, text[-400:], trainer="generic", certain=False)
        if epoch is not None and epoch.total and self._emitter.has_trained:
            yield from self._emitter.once("epochs", epoch.total, number, certain=False)


def _label(text: str, end: int) -> str:
    """Return the text before the last bar that begins before `end`."""
    cut = text.rfind("%|", 0, end)
    if cut < 0:
        return ""
    before = text[max(0, cut - _LABEL_LENGTH) : cut].rstrip("0123456789.").rstrip(" ")
    others = list(_CLOCK.finditer(before))
    return (before[others[-1].end() :] if others else before).removesuffix(":").strip()


def _split_of(key: str) -> Split | None:
    plain = key.strip().lower()
    if plain in _EXTRA:
        return _EXTRA[plain]
    meaning = meaning_of(plain)
    return (meaning.split or Split.TRAIN) if meaning.concept is Concept.LOSS else None
