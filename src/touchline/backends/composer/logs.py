"""Lines of Composer and llm-foundry: a block below `[batch=10/500]:`. It divides sizes by 10**9.

Source: composer/loggers/console_logger.py and callbacks/{speed_monitor,memory_monitor}.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader, memory
from touchline.backends.logtext.numbers import to_count
from touchline.core.observation import Event

_PAIRS = re.compile(rf"\b(?P<name>(?:Train|Eval) [\w/().-]+): (?P<value>{VALUE})(?=\s|$)")
_FIGURES = {
    "Train loss/train/total": Figure(name="loss"),
    "Train throughput/tokens_per_sec": Figure(name="tokens_per_second", token_unit="real"),
    "Train throughput/samples_per_sec": Figure(name="train_samples_per_second", aggregation="mean"),
    "Train trainer/device_train_microbatch_size": Figure(name="micro_batch_size"),
    "Train memory/peak_allocated_mem": memory("allocated", "GB"),
    "Train memory/peak_reserved_mem": memory("reserved", "GB"),
    "Eval metrics/eval/LanguageCrossEntropy": Figure(name="eval_loss"),
}
_ENDLESS = 10**8
"""A total beyond it stands for no limit."""
_HEADER = Form(
    hint="batch=",
    pattern=re.compile(
        r"\[(?:epoch=(?P<of_epoch>\d+)(?:/(?P<of_epochs>\d+))?\]\[)?batch=(?P<step>\d+)/(?P<total>\d+)\]:(?P<rest>.*)$"
    ),
    figures=_FIGURES,
    pairs=_PAIRS,
    opens_block=True,
)


class ComposerLines(FormReader):
    """Reader of one file's lines."""

    trainer = "llm-foundry"
    words = frozenset(
        {
            *("batch", "loss", "tokens_per_sec", "samples_per_sec", "peak_allocated_mem", "peak_reserved_mem"),
            *("device_train_microbatch_size", "languagecrossentropy"),
        }
    )
    forms = (
        _HEADER,
        Form(
            hint=": ",
            pattern=re.compile(r"(?P<rest>.*\b(?:Train|Eval) .*)"),
            figures=_FIGURES,
            pairs=_PAIRS,
            in_block=True,
        ),
    )

    def events(self, form: Form, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line; batches below a header with an epoch are counted within the epoch."""
        if form is not _HEADER:
            yield from super().events(form, match, text, number)
            return
        step, total = int(match["step"]), int(match["total"])
        epoch, epochs = to_count(match["of_epoch"]), to_count(match["of_epochs"])
        if epoch is not None:
            step += max(0, epoch - 1) * total
            yield from self.emitter.once("epochs", epochs, number)
            yield from self.emitter.once("steps_total", epochs * total if epochs else None, number)
        elif total < _ENDLESS:
            yield from self.emitter.once("steps_total", total, number)
        self._block = step
        if found := self.values(form, match):
            yield from self.row(form, found, text, number, step=step)


FORMS: tuple[type[FormReader], ...] = (ComposerLines,)
"""Readers of its lines."""
