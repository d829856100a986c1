"""Lines of PyTorch Lightning: the table of parameters and its last line. Its bars are read with those of others.

Source: lightning/pytorch/utilities/model_summary and loops.
"""

from __future__ import annotations

import re

from touchline.backends.logtext.forms import Form, FormReader
from touchline.backends.logtext.numbers import NUMBER
from touchline.backends.logtext.reader import LoggedTrainer
from touchline.core.observation import SignKind


class LightningLines(FormReader):
    """Reader of one file's lines."""

    trainer = "lightning"
    words = frozenset({"params", "fit"})
    forms = (
        Form(
            hint="Trainable params",
            pattern=re.compile(rf"^\s*(?P<trainable_parameters>{NUMBER} *[KMBT]?)\s+Trainable params\s*$"),
            names_trainer=True,
        ),
        Form(
            hint="Total params",
            pattern=re.compile(rf"^\s*(?P<total_parameters>{NUMBER} *[KMBT]?)\s+Total params\s*$"),
            names_trainer=True,
        ),
        Form(
            hint="`max_epochs=",
            pattern=re.compile(r"`Trainer\.fit` stopped: `max_epochs=(?P<epochs>\d+)` reached"),
            sign=SignKind.TRAINED,
            names_trainer=True,
        ),
        Form(
            hint="`max_steps=",
            pattern=re.compile(r"`Trainer\.fit` stopped: `max_steps=(?P<steps_total>\d+)` reached"),
            sign=SignKind.TRAINED,
            names_trainer=True,
        ),
    )


FORMS: tuple[type[FormReader], ...] = (LightningLines,)
"""Readers of its lines."""
TRAINERS = (LoggedTrainer(name="lightning", precedence=1, bar_key="v_num"),)
"""Names in readings."""
