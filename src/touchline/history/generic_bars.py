"""Losses that progress bars show: behind their clock (`5.97it/s, loss=0.532]`) or in their label (`loss 0.53:  45%|`).

The bars themselves are read with all others. Their counters are no steps here: most of them count forward passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.numbers import to_count, to_number
from touchline.core.observation import Event
from touchline.history.generic_grammar import parse, said
from touchline.history.generic_vocabulary import Concept, Split, meaning_of
from touchline.history.generic_voice import Voice
from touchline.history.tracks import is_training_label

_POSTFIX = re.compile(
    r"\[(?:\d+ days?, )?[\d:]{4,11}<(?:[\d:?]{1,11}|\d+ days?, [\d:]+), *(?P<rest>[^\]]*=[^\]]*|[^\]]*loss[^\]]*)\]",
    re.IGNORECASE,
)
_OPEN = re.compile(r"(?:^|[ :])\d+it \[[\d:]{4,11}, *(?P<rest>[^\]]*=[^\]]*)\]")
_PAIR = re.compile(r"(?P<key>[A-Za-z_][\w/ .-]*?) *[=:] *(?P<value>[^,\s=]+)(?=,|\s|$)")
_CLOCK = re.compile(r"\[[\d:]{4,11}<[^\]]*\]")
_COUNTED = re.compile(r"\| *(\d+)/\d+ \[")
_ROUNDED = 0.006
"""A number of three digits is off by half of the last one at most."""
_LABEL_LENGTH = 200
_TORCHTUNE = re.compile(r"\d\|\d+\|Loss:")
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


class Bars:
    """Reads one file's bars with losses."""

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Events of a line with bars; of several on one line the last one counts."""
        if _TORCHTUNE.search(text):
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
        trainer = "generic"
        if "reduced_train_loss" in pairs:
            trainer = "nemo"
        elif "v_num" in pairs:
            trainer = "lightning"
        training = validation = None
        for key, value in pairs.items():
            split = _split_of(key)
            if split is Split.TRAIN and (training is None or key in _EXTRA):
                training = value
            elif split is Split.VALIDATION:
                validation = value
        if training is not None:
            at = _nemo_step(pairs.get("global_step"), text) if trainer == "nemo" else None
            yield from self._voice.loss(training, number, text, trainer=trainer, step=at, certain=trainer != "generic")
        yield from self._voice.eval_loss(validation, number, certain=False)

    def _labelled(self, label: str, text: str, number: int) -> Iterator[Event]:
        """A loss and the planned epochs that the label names."""
        parsed = parse(said(label)[1]) if label else None
        if parsed is None:
            return
        loss, epoch = parsed.first(Concept.LOSS), parsed.first(Concept.EPOCH)
        if loss is not None and not loss.unit and loss.split is Split.TRAIN:
            yield from self._voice.loss(loss.value, number, text[-400:], trainer="generic", certain=False)
        if epoch is not None and epoch.total and self._voice.has_trained:
            yield from self._voice.once("epochs", epoch.total, number, unit="epochs", certain=False)


def _nemo_step(printed: str | None, text: str) -> int | None:
    """Steps done by NeMo's `global_step`, which counts those before this one and has three digits.

    From 1000 on it is rounded (`2e+3`); then the bar's own counter gives the step, where the two agree.
    """
    before = to_number(printed)
    if before is None:
        return None
    if "e" not in str(printed).lower():
        return to_count(before + 1)
    counted = _COUNTED.findall(text)
    done = int(counted[-1]) if counted else 0
    return done if done and abs(done - 1 - before) <= _ROUNDED * before + 1 else None


def _label(text: str, end: int) -> str:
    """What stands before the last bar that begins before `end`."""
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
