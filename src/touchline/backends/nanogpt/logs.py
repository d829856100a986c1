"""Lines of nanoGPT, of the speed runs that came from it, and of llm.c: loops that many people copy.

An iteration is an optimizer step. nanoGPT's two losses of an evaluation are both estimates. Sources: nanoGPT/train.py,
modded-nanogpt/train_gpt.py, openai/parameter-golf/train_gpt.py, llm.c/train_gpt2.cu.
"""

from __future__ import annotations

import re

from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader
from touchline.backends.logtext.numbers import NUMBER
from touchline.core.observation import SignKind

_LOSS = Figure(name="loss", certain=False)
_EVAL_LOSS = Figure(name="eval_loss", certain=False)
_PAIRS = re.compile(rf"(?P<name>[a-z_/]+): ?(?P<value>{VALUE})(?P<unit>ms|s)?(?=\s|$)")


class NanoGptLines(FormReader):
    """Reader of one file's lines. The losses are guesses: other loops print the same."""

    trainer = "generic"
    words = frozenset({"iter", "loss", "val_loss", "step_avg", "train_time", "val_bpb", "stopping_early", "trl", "tel"})
    forms = (
        Form(
            hint="iter ",
            pattern=re.compile(rf"^iter (?P<step>\d+): loss (?P<loss>{VALUE}), time {NUMBER}ms(?:, mfu {VALUE}%)?\s*$"),
            after_prefix=True,
            figures={"loss": _LOSS},
        ),
        Form(
            hint=": train loss",
            pattern=re.compile(
                rf"^step (?P<step>\d+): train loss (?P<loss>{VALUE}), val loss (?P<eval_loss>{VALUE})\s*$"
            ),
            after_prefix=True,
            figures={"loss": Figure(name="loss", aggregation="mean", certain=False), "eval_loss": _EVAL_LOSS},
        ),
        Form(
            hint="stopping_early",
            pattern=re.compile(r"^stopping_early: (?P<rest>.*\bstep: ?(?P<step>\d+)/\d+.*)$"),
            after_prefix=True,
            figures={"train_time": Figure(name="train_seconds", aggregation="last")},
            pairs=_PAIRS,
            sign=SignKind.STOPPED,
        ),
        Form(
            hint="s:",
            pattern=re.compile(rf"^s:(?P<step>\d+) trl:(?P<loss>{VALUE})(?= |$)"),
            after_prefix=True,
            figures={"loss": _LOSS},
            step_offset=1,
        ),
        Form(
            hint="s:",
            pattern=re.compile(rf"^s:(?P<step>\d+) tel:(?P<eval_loss>{VALUE})(?= |$)"),
            after_prefix=True,
            figures={"eval_loss": _EVAL_LOSS},
        ),
        Form(
            hint="/",
            pattern=re.compile(
                r"^(?:step: ?)?(?P<step>\d+)/(?P<steps_total>\d+) (?=.*(?:train_time|step_avg|val_bpb))"
                r"(?P<rest>[a-z_/]+: ?\S.*)$"
            ),
            after_prefix=True,
            figures={
                "steps_total": Figure(name="steps_total"),
                "train_loss": _LOSS,
                "loss": _LOSS,
                "val_loss": _EVAL_LOSS,
                "train_time": Figure(name="train_seconds", aggregation="last", certain=False),
                "t": Figure(name="train_seconds", aggregation="last", certain=False),
                "step_avg": Figure(name="step_seconds", aggregation="mean"),
                "tok/s": Figure(name="tokens_per_second", token_unit="padded", certain=False),
            },
            pairs=_PAIRS,
            names_trainer=True,
            certain=False,
        ),
    )

    def values(self, form: Form, match: re.Match[str]) -> list[tuple[Figure, str]]:
        """Return the figures of a line; a time without its unit counts for nothing."""
        found = super().values(form, match)
        return [(figure, text) for figure, text in found if not figure.name.endswith("_seconds") or text.endswith("s")]


FORMS: tuple[type[FormReader], ...] = (NanoGptLines,)
"""Readers of its lines."""
