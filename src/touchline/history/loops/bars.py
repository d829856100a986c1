"""Losses that progress bars show: behind their clock (`5.97it/s, loss=0.532]`) or in their label (`loss 0.53:  45%|`).

The bars themselves are read with all others. Their counters are no steps here: most of them count forward passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.emitter import EventEmitter
from touchline.backends.logtext.prefixes import strip_decoration
from touchline.core.observation import Event
from touchline.history.loops.grammar import parse
from touchline.history.loops.vocabulary import Concept, Split, meaning_of
from touchline.history.tracks import is_training_label

_POSTFIX = re.compile(
    r"\[(?:\d+ days?, )?[\d:]{4,11}(?:<(?:[\d:?]{1,11}|\d+ days?, [\d:]+))?, *"
    r"(?P<rest>[^\]]*=[^\]]*|[^\]]*loss[^\]]*)\]",
    re.IGNORECASE,
)
_PAIR = re.compile(r"(?P<key>[A-Za-z_][\w/ .-]*?) *[=:] *(?P<value>[^,\s=]+)(?=,|\s|$)")
_CLOCK = re.compile(r"\[[\d:]{4,11}<[^\]]*\]")
_LABEL_LENGTH = 200
_READ_ELSEWHERE = re.compile(r"\d\|\d+\|Loss:")


class LossBarReader:
    """Reader of one file's bars with losses."""

    def __init__(self, emitter: EventEmitter) -> None:
        """Start a file."""
        self._emitter = emitter

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line with bars; of several on one line the last one counts."""
        if _READ_ELSEWHERE.search(text):
            return
        matches = list(_POSTFIX.finditer(text))
        label = _label(text, matches[-1].start() if matches else len(text))
        if is_training_label(label) is False:
            return
        pairs = _PAIR.finditer(matches[-1]["rest"]) if matches else ()
        losses = {
            meaning.split or Split.TRAIN: pair["value"]
            for pair in pairs
            if (meaning := meaning_of(pair["key"])).concept is Concept.LOSS
        }
        if Split.TRAIN in losses:
            yield from self._emitter.loss(losses[Split.TRAIN], number, text[-400:], trainer="generic", certain=False)
        yield from self._emitter.eval_loss(losses.get(Split.VALIDATION), number, certain=False)
        yield from self._labelled(label, text, number)

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
