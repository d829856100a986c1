"""Lines of MLX-LM. It counts the tokens that carry a loss, and prints GB for 10**9 bytes.

Source: mlx_lm/tuner/trainer.py.
"""

from __future__ import annotations

import re

from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader, memory
from touchline.backends.logtext.numbers import NUMBER
from touchline.core.observation import SignKind


class MlxLines(FormReader):
    """Reader of one file's lines. A progress bar without a line's end may stand before a row."""

    trainer = "mlx"
    words = frozenset({"iter", "iters", "loss", "parameters", "weights"})
    forms = (
        Form(
            hint="Train loss",
            pattern=re.compile(
                rf"Iter (?P<step>\d+): Train loss (?P<loss>{VALUE}), (?:Learning Rate {VALUE}, )?"
                rf"It/sec (?P<pace>{NUMBER}), Tokens/sec (?P<rate>{NUMBER})"
                rf"(?:, Trained Tokens (?P<tokens>\d+))?(?:, Peak mem (?P<peak>{NUMBER}) GB)?"
            ),
            figures={
                "rate": Figure(name="tokens_per_second", aggregation="mean", token_unit="label"),
                "pace": Figure(name="train_steps_per_second", aggregation="mean"),
                "tokens": Figure(name="tokens_seen", token_unit="label"),
                "peak": memory("allocated", "GB"),
            },
        ),
        Form(
            hint="Val loss",
            pattern=re.compile(
                rf"Iter (?P<step>\d+): Val loss (?P<eval_loss>{VALUE}), Val took (?P<eval_seconds>{NUMBER})s"
            ),
        ),
        Form(
            hint="Starting training",
            pattern=re.compile(r"^Starting training\.\.\., iters: (?P<steps_total>\d+)\s*$"),
            after_prefix=True,
            sign=SignKind.START,
            names_trainer=True,
        ),
        Form(
            hint="Trainable parameters",
            pattern=re.compile(
                rf"^Trainable parameters: {NUMBER}% \((?P<trainable_parameters>{NUMBER}M)"
                rf"/(?P<total_parameters>{NUMBER}M)\)"
            ),
            after_prefix=True,
        ),
        Form(
            hint="Saved final",
            pattern=re.compile(r"^Saved final (?:adapter )?weights to \S"),
            after_prefix=True,
            sign=SignKind.TRAINED,
        ),
    )


FORMS: tuple[type[FormReader], ...] = (MlxLines,)
"""Readers of its lines."""
