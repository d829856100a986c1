"""Rules on single answers: contained in the prompt, truncated, or unlike the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.core.json_text import parse_json
from touchline.data.text import ends_whole, open_fence, open_thought, short
from touchline.lint.data_view import DataRow, DataView, percent, violation_in_rows
from touchline.lint.rule import Violation, rule

_MARKER = re.compile(
    r"(?:answer|label|response|output|solution|target|ground truth|gold)(?:\s+is)?\s*[:=]\s*$", re.IGNORECASE
)
_BEFORE = 40
_LEAK_ROWS = 4
_LEAK_SHARE = 0.05
_LONG = 50
_CUT_ROWS = 3
_CUT_WORDS = 4
_CUT_LENGTH = 36
_LABELS = 60
_CANNED_LENGTH = 15
_CANNED_ROWS = 4
_CANNED = 0.04
_TELLING = 0.95
_TOLD_ROWS = 20
_MOST = 0.9
_SLOT = re.compile(r"\{\{\s*(\w+)\s*\}\}|\{(\w+)\}")
_SLOTS = frozenset({"input", "text", "question", "context", "instruction", "answer", "prompt", "output", "sentence"})


@rule("DA350", Severity.WARNING)
def prompt_gives_answer(view: DataView) -> Iterator[Violation]:
    """Report prompts that end with the answer or state it."""
    if view.layout.kind == "text" or view.count < _LEAK_ROWS:
        return
    labels = tuple(view.all_labels) if view.closed and len(view.all_labels) <= 50 else ()
    asked = [row for row in view.rows if row.label and row.asked]
    # If the whole prompt is the answer, copying is the task, as in corrections without an error.
    leaks = [row for row in asked if row.label != row.asked.strip() and _tells(row) and not _offers(row, labels)]
    ended = [row for row in leaks if row.asked.rstrip().endswith(row.label) and " " in row.label]
    if len(ended) >= max(_LEAK_ROWS, _LEAK_SHARE * len(asked)) and len(leaks) * 2 < len(asked):
        leaks = ended
    if len(leaks) >= _LEAK_ROWS and (len(leaks) * 2 >= len(asked) or leaks is ended):
        message = (
            f"the prompt ends with the answer, for example {short(leaks[0].asked[-60:])} with {short(leaks[0].label)}"
        )
        yield violation_in_rows(view, leaks, message, hint="end the prompt before the answer")


def _tells(row: DataRow) -> bool:
    answer = row.label
    bare = row.asked.rstrip().rstrip(".!\"'`")
    if bare.endswith(answer) and not bare[: -len(answer)][-1:].isalnum():
        before = bare[: -len(answer)].rstrip()
        # `Correct this: TEXT` without errors ends with the answer too. It then begins a line of its own or follows a
        # colon that names no answer.
        return _MARKER.search(before[-_BEFORE:]) is not None or before[-2:] in ("A:", "A.") or before.endswith("->")
    found = row.asked.rfind(answer)
    return found > 0 and len(answer) > 1 and _MARKER.search(row.asked[max(0, found - _BEFORE) : found]) is not None


def _offers(row: DataRow, labels: tuple[str, ...]) -> bool:
    """Return True if the prompt names other answers too, as choices or as examples."""
    if row.candidates:
        return True
    return any(label != row.label and label not in row.label and label in row.asked for label in labels)


@rule("DA352", Severity.WARNING)
def answers_cut_at_one_length(view: DataView) -> Iterator[Violation]:
    """Report answers cut within a sentence at one common length."""
    found = _cut_at_the_greatest(view) or _cut_at_one(view)
    if found is not None:
        cut, message = found
        yield violation_in_rows(view, cut, message, hint="make them again without the limit")


def _cut_at_the_greatest(view: DataView) -> tuple[list[DataRow], str] | None:
    """Return answers of the maximum length, if nearly all of them stop within a sentence."""
    lengths = Counter(len(row.answer) for row in view.rows if row.answer)
    most = max(lengths, default=0)
    if most < _CUT_LENGTH or lengths[most] < max(_CUT_ROWS, view.count // 100):
        return None
    longest = [row for row in view.rows if row.answer and len(row.answer) == most]
    others = [row for row in view.rows if row.answer and len(row.answer) != most]
    cut = [row for row in longest if not ends_whole(row.answer or "")]
    whole = sum(ends_whole(row.answer or "") for row in others)
    if len({row.label for row in cut}) < _CUT_ROWS or len(cut) * 10 < len(longest) * 7 or whole * 10 < len(others) * 7:
        return None
    # Codes and hashes have one length too. Truncated answers contain words.
    if others or all(row.label.count(" ") >= _CUT_WORDS for row in cut):
        return cut, f"answers stop within a sentence at exactly {most:,} characters, the greatest length"
    return None


def _cut_at_one(view: DataView) -> tuple[list[DataRow], str] | None:
    """Return answers of one length that stop within a sentence, if nearly all others end with a full sentence."""
    worded = [row for row in view.rows if row.label.count(" ") >= _CUT_WORDS]
    cut = [row for row in worded if not ends_whole(row.label)]
    if len(cut) < _CUT_ROWS or len(cut) * 2 > len(worded):
        return None
    length, count = Counter(len(row.answer or "") for row in cut).most_common(1)[0]
    if length < _CUT_LENGTH or count < _CUT_ROWS or count * 10 < len(cut) * 8:
        return None
    return cut, f"answers stop within a sentence at exactly {length:,} characters, where the others end"


@rule("DA353", Severity.INFO)
def answer_ends_mid_sentence(view: DataView) -> Iterator[Violation]:
    """Report long answers that stop within a sentence or a block of code."""
    if view.layout.kind == "text":
        return
    long = [row for row in view.rows if len(row.label) >= _LONG]
    cut = [row for row in long if open_fence(row.label) or open_thought(row.label) or not ends_whole(row.label)]
    if cut and len(cut) * 10 <= len(long):
        message = f"{percent(len(cut), len(long))} of the long answers stop within a sentence or a block of code"
        severity = Severity.WARNING if any(open_thought(row.label) for row in cut) else None
        example = f"for example {short(cut[0].label[-50:])}"
        yield violation_in_rows(view, cut, f"{message}, {example}", severity=severity)


@rule("DA354", Severity.WARNING)
def invalid_json_answer(view: DataView) -> Iterator[Violation]:
    """Report answers that are not valid JSON where the others are."""
    answered = [row for row in view.rows if row.label]
    shaped = [row for row in answered if row.label.startswith(('{"', "[{", '["'))]
    if len(shaped) < _LEAK_ROWS or len(shaped) * 2 < len(answered):
        return
    broken = [row for row in shaped if not _reads(row.label)]
    if broken and len(broken) * 4 <= len(shaped):
        message = f"{percent(len(broken), len(shaped))} of the answers in JSON cannot be read as JSON"
        yield violation_in_rows(view, broken, f"{message}, for example {short(broken[0].label[-50:])}")


def _reads(text: str) -> bool:
    try:
        parse_json(text, allow_half_characters=True)
    except ValueError:
        return False
    return True


@rule("DA387", Severity.WARNING)
def unfilled_placeholder(view: DataView) -> Iterator[Violation]:
    """Report prompts with a template's placeholder not filled in."""
    if view.layout.kind == "text":
        return
    columns = {*_SLOTS, *view.layout.prompts, view.layout.answer or "input"}
    rows: list[DataRow] = []
    first = ""
    for row in view.rows:
        for text in (row.asked, row.label):
            slot = next((m for m in _SLOT.finditer(text) if (m.group(1) or m.group(2)) in columns), None)
            if slot is not None:
                first = first or slot.group()
                rows.append(row)
                break
    if rows:
        yield violation_in_rows(view, rows, f"unfilled placeholder {short(first)} in the text", hint="fill it in")


@rule("DA390", Severity.WARNING)
def uneven_white_space(view: DataView) -> Iterator[Violation]:
    """Report answers of which only some begin or end with white space."""
    answered = [row for row in view.rows if row.label and row.answer is not None]
    if not answered or view.layout.kind == "text":
        return
    rows = [row for row in answered if row.answer != row.label]
    if not rows or len(rows) == len(answered):
        return
    usual = view.closed or view.short
    if len(rows) * 2 > len(answered):
        rows = [row for row in answered if row.answer == row.label]
        message = f"the answer {short(rows[0].label)} has no white space around it, the others do"
    else:
        message = f"white space around the answer {short(rows[0].answer or '')}"
    yield violation_in_rows(view, rows, message, severity=None if usual else Severity.INFO)


@rule("DA392", Severity.WARNING)
def prompt_contains_label(view: DataView) -> Iterator[Violation]:
    """Report data whose prompts nearly all contain their own label and no other."""
    labels = list(view.all_labels)
    rows = [row for row in view.rows if row.label and row.candidates is None]
    if not view.closed or not 2 <= len(labels) <= _LABELS or len(rows) < _TOLD_ROWS:
        return
    if min(map(len, labels)) < 3 or not all(label.replace(" ", "").isalpha() for label in labels):
        return
    anywhere = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(labels, key=len, reverse=True)))})(?!\w)")
    telling = [row for row in rows if set(anywhere.findall(row.asked)) == {row.label}]
    if len(telling) >= _TELLING * len(rows):
        share = percent(len(telling), len(rows))
        message = f"{share} of the prompts contain their own label and no other, for example {short(telling[0].asked)}"
        yield violation_in_rows(view, telling, message, hint="take the label out of the prompt")


@rule("DA393", Severity.WARNING)
def repeated_long_answer(view: DataView) -> Iterator[Violation]:
    """Report one long answer that many rows share while all others differ."""
    labels = view.all_labels
    total = sum(labels.values())
    if view.closed or view.layout.kind == "text" or total < 2 * _CANNED_ROWS:
        return
    ((most, count),) = labels.most_common(1)
    others = Counter({label: n for label, n in labels.items() if label != most})
    apart = sum(1 for n in others.values() if n == 1) >= _MOST * sum(others.values()) > 0
    if len(most) >= _CANNED_LENGTH and " " in most and apart and count >= max(_CANNED_ROWS, _CANNED * total):
        rows = [row for row in view.rows if row.label == most]
        if len({row.key for row in rows}) >= _CANNED_ROWS:
            yield violation_in_rows(view, rows, f"{percent(count, total)} of the answers are {short(most)}")
