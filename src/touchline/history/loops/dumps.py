"""Configurations as programs dump them before a training: `seq_length ........ 1024`, `'lr': 1e-06,`, `epochs: 3`.

A name counts only as a whole, and before the first loss. Dotted dumps come from launchers' argument parsers and are
certain; all others are guesses that give way to what a trainer prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.dicts import read_row
from touchline.backends.logtext.emitter import EventEmitter
from touchline.backends.logtext.prefixes import strip_prefix
from touchline.backends.logtext.reader import Row
from touchline.backends.logtext.settings import SETTING_KEYS, setting_events
from touchline.core.observation import Event

_LENGTH_LIMIT = 400
_FEW = 2
_MEASURED = frozenset({"step", "global_step", "current_steps", "epoch", "train_runtime", "messages", "text", "prompt"})
"""Keys of rows of metrics or of data."""
_LINE_LIMIT = 20_000
_DOTTED = re.compile(r"(?:^|[\s\]])(?P<key>[a-z][\w-]{1,60}) \.{3,} ?(?P<value>\S.*?)\s*$")
_PAIR = re.compile(
    r"^[^\w'\"{(\[]*[{(\[]*'?(?P<key>[A-Za-z]\w{0,60})'?(?:\s*[:=]\s*|\s{2,})(?P<value>['\"]?[^\s'\"{\[][^'\"{\[]*?['\"]?)"
    r"[,;)\]}]*\s*$"
)
_WITHIN = re.compile(r"(?<![\w.])(?P<key>[a-z_]\w{1,60})=(?P<value>'[^']*'|\"[^\"]*\"|[^\s,;()'\"]+)(?=[\s,;)]|$)")
_SOURCE = re.compile(
    r"\s*(?:async )?def \w+\(|\s*class \w+[^:]{0,80}:\s*$|\s*self\.\w+ = |import \w+|from [\w.]+ import "
)
_SOURCE_LINES = 400
_READ_ELSEWHERE = re.compile(
    r"\b(?:v?LLM|sglang|engine|server)\b|TrainingArguments\(|\b[A-Z]{2,6}Config\(|\bLoraConfig\(", re.IGNORECASE
)
"""Lines of servers that generate text, and of arguments that have a reader of their own."""


class DumpReader:
    """Reader of one file's dumped configurations."""

    def __init__(self, emitter: EventEmitter) -> None:
        """Start a file."""
        self._emitter = emitter
        self._source_line = 0

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the settings of a line; none after the first loss, when names stand beside measurements."""
        if _SOURCE.match(text) is not None:
            self._source_line = number
        if self._emitter.has_trained or len(text) > _LINE_LIMIT or "%|" in text or self.is_source(text, number):
            return
        if "...." in text and (match := _DOTTED.search(text)) is not None:
            key = match["key"].replace("-", "_")
            yield from setting_events(self._emitter, key, match["value"], number, certain=True)
            return
        body = strip_prefix(text)[1].strip()
        if body.endswith("}") and "{'" in body and (row := read_row(body)) is not None:
            yield from self.row(row, number)
            return
        if len(body) <= _LENGTH_LIMIT and (match := _PAIR.match(body)) is not None:
            yield from setting_events(self._emitter, match["key"], match["value"].strip().strip("'\""), number)
        elif body.count("=") >= 2 and _READ_ELSEWHERE.search(body) is None:
            pairs = [(match["key"], match["value"].strip("'\"")) for match in _WITHIN.finditer(body)]
            known = [pair for pair in pairs if pair[0] in SETTING_KEYS]
            for key, value in known if len(known) > 1 else ():
                yield from setting_events(self._emitter, key, value, number)

    def row(self, row: Row, number: int) -> Iterator[Event]:
        """Yield the settings of a dictionary that holds several settings and no measurement."""
        keys = {str(key).lower() for key in row}
        if self._emitter.has_trained or len(keys & SETTING_KEYS) < _FEW:
            return
        if any("loss" in key or key in _MEASURED for key in keys):
            return
        for key, value in row.items():
            if isinstance(value, int | float | str):
                yield from setting_events(self._emitter, str(key), str(value), number)

    def is_source(self, text: str, number: int) -> bool:
        """Return True for a line that may be of a program's text, which some programs copy into their logs."""
        if not self._source_line or number - self._source_line >= _SOURCE_LINES or self._emitter.has_trained:
            return False
        return text[:1] in (" ", "\t") or " = " in text or "(" in text or text.rstrip().endswith((":", ","))


WORDS: frozenset[str] = frozenset(re.sub(r"\d+", "", key) for key in SETTING_KEYS) - {"", "dtype", "pretrain"} | {
    *("def", "self", "import")
}
"""Words of their lines."""
