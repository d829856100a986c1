"""NeMo. Source: nemo/lightning/pytorch/callbacks/progress_printer.py."""

from __future__ import annotations

import re

from touchline.backends.logtext.numbers import NUMBER, to_count, to_number
from touchline.core.observation import Event
from touchline.history.generic_voice import Voice

_F = rf"(?:{NUMBER}|(?i:nan|-?inf))"


class Nemo:
    """NeMo's printed rows; it counts the steps before a row. Its bars are read with those of others."""

    _ROW = re.compile(
        r"Training epoch (?P<epoch>\d+), iteration \d+/(?P<last>\d+) \| (?P<rest>.*reduced_train_loss: .*)$"
    )
    _FIELD = re.compile(rf"(?:^|\| )(?P<name>[\w ]+?): (?P<value>{_F})(?= \||\s*$)")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        match = self._ROW.search(text) if "reduced_train_loss: " in text else None
        if match is None:
            return None
        fields = {field["name"]: field["value"] for field in self._FIELD.finditer(match.group("rest"))}
        before = to_number(fields.get("global_step"))
        step = to_count(before + 1) if before is not None else None
        seconds = to_number(fields.get("train_step_timing in s"))
        return [
            *self._voice.loss(fields.get("reduced_train_loss"), number, text, trainer="nemo", step=step),
            *self._voice.eval_loss(fields.get("val_loss"), number, step=step),
            *self._voice.once("global_batch_size", to_count(fields.get("global_batch_size")), number),
            *self._voice.measured("step_seconds", seconds, number, "s", step=step),
        ]


VENDORS: tuple[type[Nemo], ...] = (Nemo,)
"""In the order in which they are asked."""
WORDS: frozenset[str] = frozenset({"reduced_train_loss"})
"""Words of their lines."""
