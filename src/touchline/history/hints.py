"""Words that only a training prints, without saying which: with them a bar without a label may count training steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.backends.logtext.reader import LogReader, Row
from touchline.core.observation import Event, Observation

_HINT = re.compile(
    r"trainer\.train\(|_inner_training_loop|_maybe_log_save_evaluate|Trainer\.tokenizer is now deprecated"
    r"|is incompatible with gradient checkpointing|No label_names provided|TrainingArguments\("
    r"|should probably TRAIN this model|Checkpoint destination directory|fast tokenizer, using the `__call__` method"
)


class HintLines:
    """Reads one file's hints; the first is enough."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("trainer", "_inner_training_loop", "_fast_inner_training_loop", "_maybe_log_save_evaluate"),
            *("label_names", "trainingarguments", "probably", "incompatible", "__call__"),
        }
    )

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._seen = False

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Events of one line."""
        if not self._seen and _HINT.search(text):
            self._seen = True
            yield Observation(name="trainer", value="generic", line=number, certain=False)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Nothing."""
        del row, text, number
        return iter(())


READERS: tuple[type[LogReader], ...] = (HintLines,)
