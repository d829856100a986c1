"""Rows and bars of NeMo, which counts the steps before a row.

Source: nemo/lightning/pytorch/callbacks/progress_printer.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader
from touchline.backends.logtext.numbers import to_count, to_number
from touchline.backends.logtext.reader import LoggedTrainer

_COUNTED = re.compile(r"\| *(\d+)/\d+ \[")
_ROUNDED = 0.006
"""A number of three digits is off by half of the last one at most."""


class NemoLines(FormReader):
    """Reader of one file's rows."""

    trainer = "nemo"
    words = frozenset({"reduced_train_loss"})
    forms = (
        Form(
            hint="reduced_train_loss: ",
            pattern=re.compile(r"Training epoch \d+, iteration \d+/\d+ (?P<rest>\| .*reduced_train_loss: .*)$"),
            figures={
                "global_step": Figure(name="step"),
                "reduced_train_loss": Figure(name="loss"),
                "val_loss": Figure(name="eval_loss"),
                "global_batch_size": Figure(name="global_batch_size"),
                "train_step_timing in s": Figure(name="step_seconds"),
            },
            pairs=re.compile(rf"\| (?P<name>[\w ]+?): (?P<value>{VALUE})(?= \||\s*$)"),
            step_offset=1,
        ),
    )


def step_of_bar(pairs: Mapping[str, str], text: str) -> int | None:
    """Return the steps done at a bar, whose `global_step` has three digits.

    From 1000 on it is rounded (`2e+3`); then the bar's own counter gives the step, if the two agree.
    """
    printed = pairs.get("global_step")
    before = to_number(printed)
    if before is None:
        return None
    if "e" not in str(printed).lower():
        return to_count(before + 1)
    counted = _COUNTED.findall(text)
    done = int(counted[-1]) if counted else 0
    return done if done and abs(done - 1 - before) <= _ROUNDED * before + 1 else None


FORMS: tuple[type[FormReader], ...] = (NemoLines,)
"""Readers of its lines."""
TRAINERS = (LoggedTrainer(name="nemo", bar_key="reduced_train_loss", step_of_bar=step_of_bar),)
"""Names in readings."""
