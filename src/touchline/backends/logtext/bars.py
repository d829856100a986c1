"""tqdm's progress bars, as they are redrawn in a log: `Epoch 1:  60%|██████    | 6/10 [00:16<00:11,  2.89s/it]`.

The rate that a bar shows is smoothed and may count skipped batches; only its counts and its clock are read.
Source: tqdm.std.tqdm.format_meter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.observation import ProgressBarEvent

_BAR = re.compile(
    rb"(\d{1,3})%\|[^|\r\n]{0,300}\| *(\d{1,12})/(\d{1,12}) \[((?:\d{1,5}:)?\d{1,3}:\d{2}|\d{1,4} days?, [\d:]+)"
    rb"(?:<|, *[\d.?]+ ?(?:it/s|s/it))"
)
_COUNTER = re.compile(rb"(?:^|[ :])(\d{1,12})it \[((?:\d{1,5}:)?\d{1,3}:\d{2}), ")
_LABEL_BYTES = 120


def may_hold_bar(line: bytes) -> bool:
    """Return True if a line may hold a bar: a cheap test before `read_bars`."""
    return b"%|" in line or b"it [" in line


def read_bars(line: bytes, number: int) -> Iterator[ProgressBarEvent]:
    """Yield the bars on one line, in order; sizes such as `1.2M/5.0M` are downloads, not steps."""
    end = 0
    for match in _BAR.finditer(line):
        label = line[max(end, match.start() - _LABEL_BYTES) : match.start()]
        yield ProgressBarEvent(_text(label), int(match.group(2)), int(match.group(3)), _seconds(match.group(4)), number)
        end = match.end()
    if end == 0:
        for match in _COUNTER.finditer(line):
            label = line[max(end, match.start() - _LABEL_BYTES) : match.start()]
            yield ProgressBarEvent(_text(label), int(match.group(1)), None, _seconds(match.group(2)), number)
            end = match.end()


def _text(label: bytes) -> str:
    # A bar that follows another on one line begins after the other's bracket.
    return (
        label.rpartition(b"/s]")[2].rpartition(b"it]")[2].decode("utf-8", "replace").strip().removesuffix(":").strip()
    )


def _seconds(clock: bytes) -> float:
    days, _, rest = clock.rpartition(b", ")
    seconds = 86400.0 * int(days.split()[0]) if days else 0.0
    total = 0
    for part in rest.split(b":"):
        total = total * 60 + int(part)
    return seconds + total
