"""Lines of Megatron-LM, GPT-NeoX and what is built on them. An iteration is an optimizer step.

While the loss scale is sought, steps are skipped and no loss is printed. Source: megatron/training/training.py
(training_log); it divides bytes by 2**20.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.events import to_sign
from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader, memory
from touchline.backends.logtext.parts import NUMBER, to_number
from touchline.core.observation import Event, SignKind

_LOSS = Figure(name="loss")
_BATCH = Figure(name="global_batch_size")
_NAN_STEPS = re.compile(rf"number of nan iterations: +(?P<count>{NUMBER})")


class MegatronLines(FormReader):
    """Reader of one file's lines."""

    trainer = "megatron"
    words = frozenset({"iteration", "iterations", "loss", "datetime"})
    forms = (
        Form(
            hint="elapsed time per iteration",
            pattern=re.compile(r"\biteration +(?P<step>\d+)/ *(?P<steps_total>\d+) (?P<rest>\|.*\|.*)$"),
            figures={
                "lm loss": _LOSS,
                "lm_loss": _LOSS,
                "lm-loss": _LOSS,
                "memory(GiB)": memory("reserved", "GiB"),
                "loss": _LOSS,
                "steps_total": Figure(name="steps_total"),
                "global batch size": _BATCH,
                "gloabl batch size": _BATCH,
                "elapsed time per iteration (ms)": Figure(name="step_seconds", scale=1e-3, aggregation="mean"),
            },
            pairs=re.compile(rf"\| *(?P<name>[A-Za-z_][\w ()/-]*?): +(?P<value>{VALUE}) *(?=\||$)"),
            names_trainer=True,
        ),
        Form(
            hint="validation loss at",
            pattern=re.compile(
                r"validation loss at (?:iteration (?P<step>\d+)|the end of training)\b.*?\blm[ _-]loss(?: value)?: *"
                rf"(?P<eval_loss>{VALUE})"
            ),
        ),
        Form(
            hint="memory (MB)",
            pattern=re.compile(
                rf"\[Rank \d+\] \(after \d+ iterations\) memory \(MB\) \|.*?max allocated: (?P<allocated>{NUMBER}) \|"
                rf".*?max reserved: (?P<reserved>{NUMBER})"
            ),
            figures={
                "allocated": memory("allocated", "GiB", scale=1 / 1024),
                "reserved": memory("reserved", "GiB", scale=1 / 1024),
            },
        ),
        Form(hint="after training", pattern=re.compile(r"\[after training is done\] datetime:"), sign=SignKind.TRAINED),
    )

    def row(
        self,
        form: Form,
        found: list[tuple[Figure, str]],
        text: str,
        number: int,
        *,
        step: int | None,
        epoch: float | None = None,
    ) -> Iterator[Event]:
        """Yield the events of a row; one without a loss may count steps whose loss is not a number."""
        yield from super().row(form, found, text, number, step=step, epoch=epoch)
        nan_steps = _NAN_STEPS.search(text)
        if nan_steps is not None and to_number(nan_steps["count"]) and all(each.name != "loss" for each, _ in found):
            yield to_sign(SignKind.NOT_A_NUMBER, text, number, step)


FORMS: tuple[type[FormReader], ...] = (MegatronLines,)
