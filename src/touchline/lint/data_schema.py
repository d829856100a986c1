"""Rules on the form of rows, chats, media and splits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.core.near import near_names
from touchline.core.text import first_of
from touchline.core.units import plural
from touchline.data.columns import kind_of, text_of
from touchline.data.text import short
from touchline.lint.data_view import DataRow, DataView, at_file, percent, violation_in_rows
from touchline.lint.rule import Violation, rule
from touchline.statistics.proportion import wilson

_WRITTEN_NULLS = frozenset({"nan", "NaN", "NAN", "<NA>", "#N/A", "NULL", "null", "undefined"})
_RARE_NULLS = frozenset({"N/A", "n/a", "NA", "None", "none", "TODO", "TBD", "???"})
_ALIKE = 0.75
"""Similarity of a misspelled column name and the right one, by difflib's ratio."""
_UNFINISHED = frozenset({"TODO", "TBD", "???"})
_ALL = 4
"""Rows from which a problem of all rows is certain."""
_CHOICES = 2
_ONE_IN = 10
_MOST = 0.9
_FREQUENT = 5
_LONGEST_PATH = 1_000


@rule("DA300", Severity.INFO)
def guessed_columns(view: DataView) -> Iterator[Violation]:
    """Report prompt and answer columns found by their names alone."""
    layout = view.layout
    usual = layout.prompts == ("input",) and layout.answer == "output" and not layout.media and not layout.candidates
    if not layout.stated and not usual and view.count:
        yield Violation(message=f"taken by their names: {layout.named()}", at=at_file(view), subject="columns")


@rule("DA301", Severity.ERROR)
def missing_column_values(view: DataView) -> Iterator[Violation]:
    """Report rows without the prompt or answer column that other rows have."""
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
    """Suggest the column that the rows without `name` have and the others do not."""
    usual = {key for row in view.rows if name in row.values for key in row.values}
    other = sorted({key for row in lacking for key in row.values} - usual)
    if not usual:
        return f"columns here: {', '.join(other[:10])}"
    near = near_names(name, other, most=1, cutoff=0.5) or other[:1]
    return f"these rows have {near[0]!r} instead" if near else None


@rule("DA302", Severity.WARNING)
def mixed_column_types(view: DataView) -> Iterator[Violation]:
    """Report a column with text in some rows and other types in others."""
    layout = view.layout
    for name in dict.fromkeys((*layout.prompts, layout.answer, layout.chat)):
        if name is None:
            continue
        found: defaultdict[str, list[DataRow]] = defaultdict(list)
        for row in view.rows:
            if (value := row.values.get(name)) is not None:
                found[kind_of(value)].append(row)
        if len(found) < 2:
            continue
        ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0] != "text", item[0]))
        listed = ", ".join(f"{kind} in {len(rows):,}" for kind, rows in ordered)
        odd = [row for _, rows in ordered[1:] for row in rows]
        yield violation_in_rows(
            view, odd, f"column {name!r} is of several kinds: {listed}", hint=f"write {name!r} as {ordered[0][0]}"
        )


@rule("DA303", Severity.WARNING)
def empty_prompt(view: DataView) -> Iterator[Violation]:
    """Report empty prompts."""
    if view.layout.kind == "text" or view.layout.template is not None:
        blank = [row for row in view.rows if _blank_input(view, row)] if view.layout.template is not None else []
    else:
        blank = [row for row in view.rows if not row.prompt.strip() and not row.media and row.fault is None]
    if blank:
        severity = Severity.ERROR if len(blank) == view.count >= _ALL else None
        yield violation_in_rows(view, blank, "the prompt is empty", severity=severity)


def _blank_input(view: DataView, row: DataRow) -> bool:
    """Return True if a prompt made from a template contains nothing of the row."""
    texts = [text_of(row.values.get(name)) or "" for name in view.layout.prompts if name in row.values]
    return bool(texts) and not any(text.strip() for text in texts) and not row.media


@rule("DA304", Severity.WARNING)
def empty_answer(view: DataView) -> Iterator[Violation]:
    """Report empty or null answers."""
    name = view.layout.answer
    for split, rows in view.splits.items():
        blank = [row for row in rows if not row.label and row.fault is None and (name is None or name in row.values)]
        if blank:
            severity = Severity.ERROR if len(blank) == len(rows) >= _ALL else None
            message = f"{split}: {'every' if len(blank) == len(rows) > 1 else 'the'} answer is empty"
            yield violation_in_rows(view, blank, message, severity=severity)


@rule("DA305", Severity.WARNING)
def null_as_text(view: DataView) -> Iterator[Violation]:
    """Report answers such as `nan` or `null`: missing values written as text."""
    rare = [row for row in view.rows if row.label in _RARE_NULLS and row.label not in (row.candidates or ())]
    unfinished = [row for row in rare if row.label in _UNFINISHED]
    if rare and (unfinished or not view.closed) and len(rare) * 20 <= view.count:
        severity = Severity.WARNING if unfinished else Severity.INFO
        rows = unfinished or rare
        yield violation_in_rows(view, rows, f"the answer is {short(rows[0].label)}", severity=severity)
    nulls = [row for row in view.rows if row.label in _WRITTEN_NULLS and row.label not in (row.candidates or ())]
    # Repeated answers are intended in code or fixed lists.
    if nulls and len(nulls) * 2 <= view.count:
        total = view.count
        yield violation_in_rows(
            view, nulls, f"the answer is {short(nulls[0].label)}, in {percent(len(nulls), total)} of the rows"
        )


@rule("DA306", Severity.INFO)
def uneven_extra_columns(view: DataView) -> Iterator[Violation]:
    """Report rows whose further columns differ."""
    forms: Counter[frozenset[str]] = Counter(frozenset(row.values) for row in view.rows)
    if len(forms) < 2:
        return
    everywhere = frozenset.intersection(*forms)
    used = {*view.layout.prompts[:1], view.layout.answer, view.layout.chat}
    partly = sorted(frozenset.union(*forms) - everywhere - used)
    if partly:
        listed = first_of(map(repr, partly), 5)
        usual = min(forms, key=lambda form: (-forms[form], sorted(form)))
        odd = [row for row in view.rows if frozenset(row.values) != usual]
        # A misspelled column: few rows have it, and they lack the name that it resembles.
        misspelt = len(odd) * 20 <= view.count and any(
            near_names(name, usual - form, cutoff=_ALIKE)
            for form in forms
            if len(form) == len(usual)
            for name in form - usual
        )
        severity = Severity.WARNING if misspelt else None
        yield violation_in_rows(view, odd, f"columns that only a part of the rows has: {listed}", severity=severity)


@rule("DA389", Severity.WARNING)
def misplaced_cells(view: DataView) -> Iterator[Violation]:
    """Report header rows, swapped cells, and column names with white space around them."""
    first = next(iter(view.rows), None)
    spaced = [name for name in (first.values if first is not None else ()) if name != name.strip()]
    if spaced:
        message = f"the column {spaced[0]!r} has white space around its name"
        yield Violation(message=message, at=at_file(view), subject="columns", hint=f"write {spaced[0].strip()!r}")
    rows = [
        row
        for row in view.rows
        if len(row.values) > 1 and all(isinstance(value, str) and value == name for name, value in row.values.items())
    ]
    if rows:
        yield violation_in_rows(view, rows, "the row is the heading: every cell is its column's name")
    usual = {label for label, count in view.all_labels.items() if count >= _FREQUENT}
    if view.layout.kind == "columns" and sum(view.all_labels[label] for label in usual) >= _MOST * view.count:
        swapped = [row for row in view.rows if row.label and row.label not in usual and row.prompt.strip() in usual]
        if swapped:
            message = f"question and label are swapped: the prompt is {short(swapped[0].prompt)}"
            yield violation_in_rows(view, swapped, message)


@rule("DA395", Severity.WARNING)
def incomplete_row(view: DataView) -> Iterator[Violation]:
    """Report the few rows without images or allowed answers that nearly all others have."""
    layout = view.layout
    if layout.media:
        bare = [row for row in view.rows if not _has_media(view, row)]
        if bare and len(bare) * _ONE_IN <= view.count:
            yield violation_in_rows(view, bare, "the row names no image, video or sound, and the others do")
    if layout.candidates is not None:
        lists = [row for row in view.rows if isinstance(row.values.get(layout.candidates), list)]
        bare = [
            row
            for row in view.rows
            if not isinstance(value := row.values.get(layout.candidates), list) or len(value) < _CHOICES
        ]
        if bare and len(bare) * _ONE_IN <= view.count:
            value = bare[0].values.get(layout.candidates)
            yield violation_in_rows(view, bare, f"no list of allowed answers: {short(repr(value))}")
        twice = [row for row in lists if row.candidates is not None and len({*row.candidates}) < len(row.candidates)]
        if twice:
            again = next(each for each in twice[0].candidates or () if (twice[0].candidates or ()).count(each) > 1)
            yield violation_in_rows(view, twice, f"{short(again)} is allowed twice")


def _has_media(view: DataView, row: DataRow) -> bool:
    if row.media:
        return True
    values = [value for name in view.layout.media if (value := row.values.get(name)) not in (None, "", [])]
    # A picture embedded in the data or at a URL is not a path.
    return any(not isinstance(value, str) or "://" in value or len(value) > _LONGEST_PATH for value in values)


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
        # A column that differs may be shown beside the prompt, such as an image within the row.
        others = ", ".join(map(repr, (*view.layout.media, *view.layout.others)[:5]))
        message = f"all {view.count:,} prompts are {short(first.prompt)}; only {others} distinguish the rows"
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
                f"{name} has {plural(rows, 'row')}: the 95% interval of an accuracy near one half "
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
        hint = "give the folder that the names are relative to: --media-root"
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
    # If most rows have no marker at all, only rows with one define the expected number.
    marked = (
        [count for count in counts if count[1]] if sum(not count[1] for count in counts) * 2 > len(counts) else counts
    )
    odd = [(row, marks, media) for row, marks, media in marked if marks != media]
    if odd and len(odd) * 2 <= len(counts):
        _, marks, media = odd[0]
        message = f"{plural(marks, 'mark')} for {plural(media, 'media file')}"
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


@rule("DA394", Severity.WARNING)
def invalid_media_file(view: DataView) -> Iterator[Violation]:
    """Report media files that are not of their type, or are cut off."""
    media = view.media
    if media is None or not media.broken:
        return
    bad = dict(media.broken)
    rows = [row for row in view.rows if any(path in bad for path in row.media)]
    if rows:
        path = next(path for path in rows[0].media if path in bad)
        yield violation_in_rows(view, rows, f"{path} cannot be read as a picture: {bad[path]}", severity=Severity.ERROR)
