"""Rules on prompts, chats, media, lengths and the sizes of splits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.data.text import short
from touchline.lint.data_messages import at_file, violation_in_rows
from touchline.lint.data_view import DataView
from touchline.lint.rule import Violation, rule
from touchline.statistics.proportion import wilson

_SOME_ROWS = 4
_SMALL = 100
_MARK = re.compile(r"<(image|video|audio)>")


@rule("DA371", Severity.ERROR)
def constant_prompt(view: DataView) -> Iterator[Violation]:
    """Report rows that all have one prompt and nothing else, but different answers."""
    if view.layout.kind == "text" or view.count < _SOME_ROWS:
        return
    rows = iter(view.rows)
    first = next(rows)
    if not first.prompt.strip() or len(view.all_labels) < 2:
        return
    if any(row.prompt != first.prompt or row.media for row in rows) or first.media:
        return
    if view.layout.media or len({row.key for row in view.rows}) > 1:
        # A column that differs may be what a trainer shows beside the prompt, such as an image within the row.
        others = ", ".join(map(repr, (*view.layout.media, *view.layout.others)[:5]))
        message = f"all {view.count:,} prompts are {short(first.prompt)}; only {others} tell the rows apart"
        yield Violation(message=message, at=view.where(first), subject="prompt", severity=Severity.INFO)
        return
    message = f"all {view.count:,} prompts are {short(first.prompt)}, with {len(view.all_labels):,} different answers"
    yield Violation(message=message, at=view.where(first), subject="prompt", hint="show the row's input in the prompt")


@rule("DA372", Severity.INFO)
def small_held_out_split(view: DataView) -> Iterator[Violation]:
    """Report a validation or test split too small for its score to mean much."""
    for name in view.held_out:
        rows = len(view.splits[name])
        if 0 < rows < _SMALL:
            ends = wilson(round(rows / 2), rows)
            message = (
                f"{name} has {rows:,} row{'s' if rows > 1 else ''}: the 95 % interval of an accuracy near one half "
                f"is {100 * (ends.high - ends.low):.0f} percentage points wide"
            )
            yield Violation(message=message, at=at_file(view, name), subject=name)


@rule("DA373", Severity.ERROR)
def missing_media_files(view: DataView) -> Iterator[Violation]:
    """Report images, videos or sounds that rows name and that do not exist."""
    media = view.media
    if media is None or not media.checked or not (media.missing or media.empty):
        return
    gone = frozenset((*media.missing, *media.empty))
    rows = [row for row in view.rows if any(path in gone for path in row.media)]
    if media.root is None:
        message = (
            f"not checked (none of {media.checked:,} media files was found, for example {short(media.missing[0])})"
        )
        hint = "say which folder the names are relative to, with --media-root"
        yield Violation(message=message, at=view.where(rows[0]), subject="media", hint=hint, severity=Severity.INFO)
        return
    severity = None if media.stated or (len(media.missing) * 2 <= media.checked) else Severity.WARNING
    what = [f"{len(media.missing):,} of {media.checked:,} are not there"] if media.missing else []
    what += [f"{len(media.empty):,} are empty"] if media.empty else []
    example = (*media.missing, *media.empty)[0]
    message = f"media files under {media.root}: {' and '.join(what)}, for example {short(example)}"
    yield violation_in_rows(view, rows, message, severity=severity)


@rule("DA374", Severity.WARNING)
def media_marker_mismatch(view: DataView) -> Iterator[Violation]:
    """Report chats with a different number of `<image>` markers and images."""
    counts = [(row, len(_MARK.findall(row.prompt)), len(row.media)) for row in view.rows if row.media]
    if not any(marks for _, marks, _ in counts):
        return
    # Where most rows have no mark at all, only those with one say how many there ought to be.
    marked = [each for each in counts if each[1]] if sum(not each[1] for each in counts) * 2 > len(counts) else counts
    odd = [(row, marks, media) for row, marks, media in marked if marks != media]
    if odd and len(odd) * 2 <= len(counts):
        _, marks, media = odd[0]
        message = f"{marks} mark{'s' if marks != 1 else ''} for {media} media file{'s' if media != 1 else ''}"
        yield violation_in_rows(view, [row for row, _, _ in odd], message, hint="write one mark for each")


@rule("DA375", Severity.WARNING)
def chat_without_answer(view: DataView) -> Iterator[Violation]:
    """Report chats that do not end with an answer of the assistant."""
    rows = [row for row in view.rows if row.fault is not None and (view.layout.chat or "") in row.values]
    if rows:
        severity = Severity.ERROR if len(rows) == view.count >= _SOME_ROWS else None
        yield violation_in_rows(view, rows, f"the chat {rows[0].fault}", severity=severity)


@rule("DA376", Severity.WARNING)
def empty_split(view: DataView) -> Iterator[Violation]:
    """Report splits without rows."""
    for name, rows in view.splits.items():
        if not rows:
            what = "the file has no rows" if name == "all" else f"the split {name} has no rows"
            severity = Severity.ERROR if name in ("all", "train") else None
            yield Violation(message=what, at=at_file(view, name), subject=name, severity=severity)
