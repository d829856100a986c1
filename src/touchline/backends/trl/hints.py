"""Words that only a training on the Trainer prints: with them a bar without a label may count training steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, Observation

_HINT = re.compile(
    r"trainer\.train\(|_inner_training_loop|_maybe_log_save_evaluate|Trainer\.tokenizer is now deprecated"
    r"|is incompatible with gradient checkpointing|No label_names provided|TrainingArguments\("
    r"|should probably TRAIN this model|Checkpoint destination directory|fast tokenizer, using the `__call__` method"
)


class HintLines:
    """Reader of one file's hints; the first is enough."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("trainer", "_inner_training_loop", "_fast_inner_training_loop", "_maybe_log_save_evaluate"),
            *("label_names", "trainingarguments", "probably", "incompatible", "__call__"),
        }
    )

    def __init__(self) -> None:
        """Start a file."""
        self._seen = False

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line."""
        if not self._seen and _HINT.search(text):
            self._seen = True
            yield Observation(name="trainer", value="generic", line=number, certain=False)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Return no events."""
        del row, text, number
        return iter(())
