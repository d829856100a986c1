"""Lines of LitGPT and its forerunners. A step is one of the optimizer, an iteration a forward pass.

Source: litgpt/finetune/lora.py and utils.py (create_finetuning_performance_report). It prints GB for 10**9 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.emitter import EventEmitter
from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader, memory
from touchline.backends.logtext.numbers import NUMBER, to_count
from touchline.backends.logtext.reader import LoggedTrainer
from touchline.core.observation import Event, SignKind

# The validation loss of the last evaluation is repeated in every row, so it is not read there.
_ROW = Form(
    hint="loss train:",
    pattern=re.compile(
        rf"^Epoch \d+ \| iter +\d+ step +(?P<step>\d+) \| loss train: +(?P<loss>{VALUE})(?:, +val: +\S+)? \| iter time:"
    ),
    after_prefix=True,
)
_OLD_ROW = Form(
    hint=", iter time:",
    pattern=re.compile(rf"^iter \d+ step (?P<step>\d+): loss (?P<loss>{VALUE}), iter time: {NUMBER} ?ms"),
    after_prefix=True,
)
_CLOSING = (
    Form(
        hint="raining ",
        pattern=re.compile(rf"^\s*(?:\| - )?Training [Tt]ime *: +(?P<train_seconds>{NUMBER}) ?s\s*$"),
        sign=SignKind.TRAINED,
    ),
    Form(
        hint="emory ",
        pattern=re.compile(rf"^\s*(?:\| - )?Memory [Uu]sed *: +(?P<peak>{NUMBER}) GB\s*$"),
        figures={"peak": memory("allocated", "GB")},
    ),
)
"""Lines that other programs print too: they count in the closing table, or after a row."""


class LitGptLines(FormReader):
    """Reader of one file's lines."""

    trainer = "litgpt"
    words = frozenset({"loss", "time", "tok", "memory", "parameters"})
    forms = (
        _ROW,
        _OLD_ROW,
        Form(
            hint="val loss",
            pattern=re.compile(rf"^(?:step|iter) \d+: val loss (?P<eval_loss>{VALUE}), val time: {NUMBER} ?ms"),
            after_prefix=True,
        ),
        Form(
            hint="Final evaluation",
            pattern=re.compile(rf"^Final evaluation \| val loss: +(?P<eval_loss>{VALUE}) \| val ppl:"),
            after_prefix=True,
        ),
        Form(
            hint="Number of trainable",
            pattern=re.compile(r"^Number of trainable parameters: (?P<trainable_parameters>[\d,]+)\s*$"),
            after_prefix=True,
        ),
        Form(
            hint="Number of non-trainable",
            pattern=re.compile(r"^Number of non-trainable parameters: (?P<frozen>[\d,]+)\s*$"),
            after_prefix=True,
        ),
        *_CLOSING,
        Form(
            hint="Tok/sec",
            pattern=re.compile(rf"^\s*\| - Tok/sec *: +(?P<tokens_per_second>{NUMBER}) tok/s\s*$"),
            figures={"tokens_per_second": Figure(name="tokens_per_second", aggregation="mean", token_unit="padded")},
        ),
    )

    def __init__(self, emitter: EventEmitter) -> None:
        """Start a file."""
        super().__init__(emitter)
        self._has_rows = False
        self._trainable: int | None = None

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Return the events of a line; a closing line counts only in the closing table, or after a row."""
        events = super().line(text, rest, number)
        bare = text.strip()
        if events and not self._has_rows and not bare.startswith("|") and any(f.pattern.match(bare) for f in _CLOSING):
            return None
        return events

    def events(self, form: Form, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line; the frozen parameters follow the trainable ones."""
        self._has_rows = self._has_rows or form in (_ROW, _OLD_ROW)
        groups = match.groupdict()
        if "frozen" not in groups:
            self._trainable = to_count(groups.get("trainable_parameters")) or self._trainable
            yield from super().events(form, match, text, number)
            return
        frozen = to_count(groups["frozen"])
        if frozen is not None and self._trainable is not None:
            yield from self.emitter.once("trainer", self.trainer, number, certain=False)
            yield from self.emitter.once("total_parameters", frozen + self._trainable, number)


FORMS: tuple[type[FormReader], ...] = (LitGptLines,)
"""Readers of its lines."""
TRAINERS = (LoggedTrainer(name="litgpt"),)
"""Names in readings."""
