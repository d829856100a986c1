"""Lines of torchtitan. The peak is the allocator's reserve since the last row, the rate that of one device.

Source: torchtitan/train.py and components/metrics.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.emitter import to_sign
from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader, memory
from touchline.backends.logtext.numbers import NUMBER
from touchline.core.observation import Event, SignKind

_SETTINGS = re.compile(r"(?P<name>local batch size|global batch size|sequence length|total steps) (?P<value>\d+)")
_SETTING_FIGURES = {
    "local batch size": Figure(name="micro_batch_size"),
    "global batch size": Figure(name="global_batch_size"),
    "sequence length": Figure(name="max_seq_len"),
    "total steps": Figure(name="steps_total"),
}
_BEGIN = Form(
    hint="Training starts at step",
    pattern=re.compile(r"Training starts at step (?P<first>\d+)(?:[,.](?P<rest>.*))?$"),
)
_ROW = r"step: +(?P<step>\d+) +loss: +"
_SPEED = rf" .*?memory: +(?P<peak>{NUMBER})GiB\({NUMBER}%\) +(?:tps|wps): +(?P<rate>{NUMBER})"


class TitanLines(FormReader):
    """Reader of one file's lines."""

    trainer = "torchtitan"
    words = frozenset({"loss", "starts", "parameters", "sequence"})
    forms = (
        Form(hint="validate step:", pattern=re.compile(rf"validate {_ROW}(?P<eval_loss>{VALUE}){_SPEED}"), figures={}),
        Form(
            hint="GiB(",
            pattern=re.compile(rf"{_ROW}(?P<loss>{VALUE}){_SPEED}"),
            figures={
                "peak": memory("reserved", "GiB"),
                "rate": Figure(name="tokens_per_second", unit="tokens/s/GPU", token_unit="padded"),
            },
        ),
        _BEGIN,
        Form(
            hint="total parameters",
            pattern=re.compile(r"\bsize: (?P<total_parameters>[\d,]+) total parameters"),
        ),
        Form(
            hint="total steps",
            pattern=re.compile(r"(?P<rest>.*\bsequence length\b.*)"),
            figures=_SETTING_FIGURES,
            pairs=_SETTINGS,
        ),
    )

    def events(self, form: Form, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line; a training that starts after its first step was resumed."""
        if form is not _BEGIN:
            yield from super().events(form, match, text, number)
            return
        first = int(match["first"])
        if first > 1:
            yield to_sign(SignKind.RESUMED, text, number, first - 1)
        else:
            yield to_sign(SignKind.START, text, number)
        for pair in _SETTINGS.finditer(match["rest"] or ""):
            yield from self.emitter.once(_SETTING_FIGURES[pair["name"]].name, int(pair["value"]), number)


FORMS: tuple[type[FormReader], ...] = (TitanLines,)
"""Readers of its lines."""
