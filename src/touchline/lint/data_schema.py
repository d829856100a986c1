"""Rules on the form of rows, chats, media, encodings and splits, and on duplicate rows within and across splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from touchline.core.finding import Severity
from touchline.core.json_text import has_half_characters
from touchline.core.near import near_names
from touchline.core.text import first_of
from touchline.data import candidates as data_text
from touchline.data.candidates import normal, short
from touchline.data.columns import text_of
from touchline.lint.data_view import DataRow, DataView, at_file, percent, violation_in_rows
from touchline.lint.rule import Violation, rule

_ALL = 4
"""Rows from which a problem of all rows is certain."""
_SOME_ROWS = 4


@rule("DA301", Severity.ERROR)
def _missing_column_values(view: DataView) -> Iterator[Violation]:
    layout = view.layout
    needed = [layout.chat] if layout.kind == "chat" else [*layout.prompts[:1], layout.answer]
    for name in needed:
        lacking = [row for row in view.rows if name is not None and name not in row.values]
        if not lacking or name is None:
            continue
        hint = _instead(view, name, lacking)
        # For files merged from several sources, a column that most rows lack is probably not the intended one.
        certain = len(lacking) * 2 <= view.count or len(lacking) == view.count
        severity = None if certain else Severity.WARNING
        yield violation_in_rows(view, lacking, f"there is no column {name!r}", hint=hint, severity=severity)


def _instead(view: DataView, name: str, lacking: list[DataRow]) -> str | None:
    usual = {key for row in view.rows if name in row.values for key in row.values}
    other = sorted({key for row in lacking for key in row.values} - usual)
    if not usual:
        return f"columns here: {first_of(map(repr, other), 10)}"
    near = near_names(name, other, most=1, cutoff=0.5) or other[:1]
    return f"these rows have {near[0]!r} instead" if near else None


_REFUSED = "fill them in, or remove these rows: touchline init and plan refuse them"


@rule("DA303", Severity.WARNING)
def _empty_prompt(view: DataView) -> Iterator[Violation]:
    if view.layout.kind == "text" or view.layout.template is not None:
        blank = [row for row in view.rows if _blank_input(view, row)] if view.layout.template is not None else []
    else:
        blank = [row for row in view.rows if not row.prompt.strip() and not row.media and row.fault is None]
    if blank:
        severity = Severity.ERROR if len(blank) == view.count >= _ALL else None
        yield violation_in_rows(view, blank, "the prompt is empty", severity=severity, hint=_REFUSED)


def _blank_input(view: DataView, row: DataRow) -> bool:
    texts = [text_of(row.values.get(name)) or "" for name in view.layout.prompts if name in row.values]
    return bool(texts) and not any(text.strip() for text in texts) and not row.media


@rule("DA304", Severity.WARNING)
def _empty_answer(view: DataView) -> Iterator[Violation]:
    name = view.layout.answer
    for split, rows in view.splits.items():
        blank = [row for row in rows if not row.label and row.fault is None and (name is None or name in row.values)]
        if blank:
            severity = Severity.ERROR if len(blank) == len(rows) >= _ALL else None
            message = f"{split}: {'every' if len(blank) == len(rows) > 1 else 'the'} answer is empty"
            yield violation_in_rows(view, blank, message, severity=severity, hint=_REFUSED)


@rule("DA371", Severity.ERROR)
def _constant_prompt(view: DataView) -> Iterator[Violation]:
    if view.layout.kind == "text" or view.count < _SOME_ROWS:
        return
    rows = iter(view.rows)
    first = next(rows)
    if not first.prompt.strip() or len(view.all_labels) < 2:
        return
    if any(row.prompt != first.prompt or row.media for row in rows) or first.media:
        return
    if view.layout.media or len({row.key for row in view.rows}) > 1:
        # A column that differs may be shown beside the prompt, such as an image within the row.
        others = ", ".join(map(repr, (*view.layout.media, *view.layout.others)[:5]))
        message = f"all {view.count:,} prompts are {short(first.prompt)}, and only {others} distinguish the rows"
        yield Violation(message, view.where(first), subject="prompt", severity=Severity.INFO)
        return
    message = f"all {view.count:,} prompts are {short(first.prompt)}, with {len(view.all_labels):,} different answers"
    yield Violation(message, view.where(first), "show the row's input in the prompt", subject="prompt")


@rule("DA373", Severity.ERROR)
def _missing_media_files(view: DataView) -> Iterator[Violation]:
    media = view.media
    if media is None or not (media.missing or media.empty):
        return
    faults = dict.fromkeys(media.missing, "does not exist") | dict.fromkeys(media.empty, "is empty")
    rows = [row for row in view.rows if any(path in faults for path in row.media)]
    if media.root is None:
        message = (
            f"not checked (none of {media.checked:,} media files was found, for example {short(media.missing[0])})"
        )
        hint = "give the folder that the names are relative to with --media-root"
        yield Violation(message, view.where(rows[0]), hint, subject="media", severity=Severity.INFO)
        return
    certain = media.stated or media.empty or len(media.missing) * 2 <= media.checked
    what = [f"{len(media.missing):,} of {media.checked:,} do not exist"] if media.missing else []
    what += [f"{len(media.empty):,} are empty"] if media.empty else []
    example, fault = next(iter(faults.items()))
    message = f"media files under {media.root}: {' and '.join(what)}, for example {short(example)} {fault}"
    yield violation_in_rows(view, rows, message, severity=None if certain else Severity.WARNING)


@rule("DA375", Severity.WARNING)
def _chat_without_answer(view: DataView) -> Iterator[Violation]:
    rows = [row for row in view.rows if row.fault is not None and (view.layout.chat or "") in row.values]
    if rows:
        severity = Severity.ERROR if len(rows) == view.count >= _SOME_ROWS else None
        yield violation_in_rows(view, rows, f"the chat {rows[0].fault}", severity=severity)


@rule("DA376", Severity.WARNING)
def _empty_split(view: DataView) -> Iterator[Violation]:
    for name, rows in view.splits.items():
        if not rows:
            what = "the file has no rows" if name == "all" else f"the split {name} has no rows"
            severity = Severity.ERROR if name in ("all", "train") else None
            yield Violation(what, at_file(view, name), subject=name, severity=severity)


_MANY = 0.02
"""Share of the rows from which duplicates are not an accident."""
_SMALL = 500
"""Number of rows up to which every duplicate counts."""
_LEAKED = 0.10
"""Share of seen rows in a split from which its score is not valid."""
_FEW = 0.01


@rule("DA310", Severity.INFO)
def _duplicate_rows(view: DataView) -> Iterator[Violation]:
    for split, rows in view.splits.items():
        seen: set[tuple[int, str]] = set()
        again: list[DataRow] = []
        for row in rows:
            key = (row.key, row.label)
            if key in seen:
                again.append(row)
            seen.add(key)
        if again:
            # In a small hand-made file each duplicate matters. Large web collections contain some.
            many = len(again) >= _MANY * len(rows) or len(rows) <= _SMALL
            severity = Severity.WARNING if many else None
            share = percent(len(again), len(rows))
            message = f"{split}: {share} of the rows repeat an earlier one, for example {short(again[0].asked)}"
            hint = "remove them, or a random split puts some on both sides" if split == "all" else None
            yield violation_in_rows(view, again, message, severity=severity, hint=hint)


@rule("DA311", Severity.WARNING)
def _conflicting_answers(view: DataView) -> Iterator[Violation]:
    if view.layout.kind == "text" or view.layout.rejected is not None:
        return
    first: dict[int, DataRow] = {}
    other: list[DataRow] = []
    for row in view.rows:
        if row.label and row.prompt.strip():
            earlier = first.setdefault(row.key, row)
            if earlier.label != row.label:
                other.append(row)
    # Another rule reports a single prompt for all rows.
    if not other or len(first) == 1:
        return
    earlier = first[other[0].key]
    message = f"{short(other[0].asked)} has the answers {short(earlier.label)} and {short(other[0].label)}"
    yield violation_in_rows(view, other, message, severity=None if view.short else Severity.INFO)


@rule("DA312", Severity.WARNING)
def _train_test_overlap(view: DataView) -> Iterator[Violation]:
    trained = {row.key for row in view.splits.get(view.trained, ())}
    for name in view.held_out:
        rows = view.splits[name]
        seen = [row for row in rows if row.key in trained]
        if seen and len(trained) > 1:
            severity = Severity.ERROR if len(seen) >= _LEAKED * len(rows) else None
            yield _overlap(view, name, view.trained, seen, severity)
    if view.trained in ("validation", "test") or view.layout.kind == "text":
        return
    validated = {row.key for row in view.splits.get("validation", ())} - trained
    both = [row for row in view.splits.get("test", ()) if row.key in validated]
    if both and len({row.key for row in view.rows}) > 1:
        yield _overlap(view, "test", "validation", both, None)


def _overlap(view: DataView, name: str, other: str, rows: list[DataRow], severity: Severity | None) -> Violation:
    share = percent(len(rows), len(view.splits[name]))
    message = f"{share} of {name} is in {other} too, for example {short(rows[0].asked or rows[0].label)}"
    return violation_in_rows(view, rows, message, severity=severity, hint=f"remove these rows from {name}")


@rule("DA313", Severity.INFO)
def _near_train_test_overlap(view: DataView) -> Iterator[Violation]:
    if not view.held_out or view.layout.kind == "text":
        return
    held = {name: _normal_keys(view.splits[name]) for name in view.held_out}
    wanted = set().union(*held.values())
    exact: set[int] = set()
    near: set[int] = set()
    for row in view.splits.get(view.trained, ()):
        exact.add(row.key)
        if (key := _normal_key(row)) in wanted:
            near.add(key)
    if len(exact) == 1:
        return
    for name, keys in held.items():
        rows = [row for key, found in keys.items() if key in near for row in found if row.key not in exact]
        # A word and its upper-case form are different questions if answers are about letters.
        rows = sorted((row for row in rows if len(row.asked.split()) > 2), key=lambda row: row.number)
        if rows:
            few = len(rows) < _FEW * len(view.splits[name]) and len(view.splits[name]) > _SMALL
            severity = None if few else Severity.WARNING
            share = percent(len(rows), len(view.splits[name]))
            message = (
                f"{share} of {name} is in {view.trained} too except for case, white space or punctuation, for example "
                f"{short(rows[0].asked)}"
            )
            yield violation_in_rows(view, rows, message, severity=severity, hint=f"remove these rows from {name}")


def _normal_keys(rows: Iterable[DataRow]) -> dict[int, list[DataRow]]:
    found: defaultdict[int, list[DataRow]] = defaultdict(list)
    for row in rows:
        found[_normal_key(row)].append(row)
    return dict(found)


def _normal_key(row: DataRow) -> int:
    return hash((normal(row.prompt), row.beside))


_RARE = 0.02
"""Share of the rows under which a few odd characters do no harm."""
_SMALL_FILE = 1_000
"""Rows up to which a single unusual one is reported."""
_AROUND = 12


def _rows_with(view: DataView, odd: Callable[[str], object]) -> list[DataRow]:
    return [row for row in view.rows if odd(row.prompt) or (row.answer is not None and odd(row.answer))]


def _severity(view: DataView, rows: list[DataRow]) -> Severity | None:
    return None if len(rows) >= _RARE * view.count or view.count <= _SMALL_FILE else Severity.INFO


def _around(row: DataRow, piece: str) -> str:
    text = row.prompt if piece in row.prompt else row.answer or ""
    place = text.find(piece)
    return short(text[max(0, place - _AROUND) : place + len(piece) + _AROUND])


@rule("DA360", Severity.WARNING)
def _mojibake(view: DataView) -> Iterator[Violation]:
    for find, words in ((data_text.mojibake, "UTF-8 that was read as another encoding"), (_lost, "lost characters")):
        rows = _rows_with(view, find)
        if rows:
            piece = find(rows[0].prompt) or find(rows[0].answer or "") or ""
            was = data_text.repaired(piece)
            hint = "read the source in its own encoding" if was == piece else f"{short(piece)} was {short(was)}"
            message = f"{words}: {_around(rows[0], piece)}"
            yield violation_in_rows(view, rows, message, hint=hint, severity=_severity(view, rows))


def _lost(text: str) -> str | None:
    return "\ufffd" if "\ufffd" in text else None


@rule("DA364", Severity.ERROR)
def _lone_surrogates(view: DataView) -> Iterator[Violation]:
    rows = _rows_with(view, has_half_characters)
    if rows:
        yield violation_in_rows(view, rows, "lone surrogate: half a character, which UTF-8 cannot encode")
