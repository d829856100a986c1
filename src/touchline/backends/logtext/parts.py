"""Parts of lines: numbers as people print them, progress bars, dictionaries, prefixes, time stamps, secrets.

Of tqdm's bars only counts and clock are read: the rate is smoothed. Source: tqdm.std.tqdm.format_meter.
"""

from __future__ import annotations

import ast
import datetime
import math
import re
from collections.abc import Iterator

from touchline.core.json_text import parse_json
from touchline.core.observation import ProgressBarEvent

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_TIME_OF_DAY = r"(?P<H>\d{2}):(?P<M>\d{2}):(?P<S>\d{2})"
_ISO = rf"(?P<y>20\d\d)[-/](?P<m>\d{{2}})[-/](?P<d>\d{{2}})[T _-]{_TIME_OF_DAY}"
_AMERICAN = rf"(?P<m>\d{{2}})/(?P<d>\d{{2}})/(?P<y>20\d\d)[, ]+{_TIME_OF_DAY}"
_DATE = (
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +(?:(?P<d>\d{1,2}) +)?(?P<b>[A-Z][a-z]{2}) +(?:(?P<d2>\d{1,2}) +)?"
    rf"(?:(?P<y>20\d\d) +)?{_TIME_OF_DAY}(?: +(?:AM|PM))?(?: +[A-Z]{{2,5}})?(?: +(?P<y2>20\d\d))?"
)
_PREFIX = r"[^\w]{0,4}(?:\[?(?:INFO|WARNING|DEBUG|ERROR|WARN)[|: ][^\]>]{0,80}\]? )?[^\w]{0,4}"
_ANYWHERE = 200
_FORMS = (
    re.compile(_PREFIX + r"\[?" + _ISO),
    re.compile(r"\[(?:INFO|WARNING|DEBUG|ERROR)\|" + _ISO),
    re.compile(_PREFIX + r"\[?" + _AMERICAN),
    re.compile(r"[^\n]{0,60}?\b" + _DATE),
)


def read_stamp(text: str) -> float | None:
    """Return the seconds since 1970 of the time at the start of a line, as if in UTC; None if there is none."""
    if not any(character.isdigit() for character in text[:_ANYWHERE]):
        return None
    for form in _FORMS:
        match = form.match(text)
        if match is None:
            continue
        parts = match.groupdict()
        year = parts["y"] or parts.get("y2")
        month = _MONTHS.get(parts["b"].lower(), 0) if parts.get("b") else int(parts["m"])
        day = parts["d"] or parts.get("d2")
        if year is None or day is None:
            continue
        try:
            moment = datetime.datetime(
                int(year), month, int(day), int(parts["H"]), int(parts["M"]), int(parts["S"]), tzinfo=datetime.UTC
            )
        except ValueError:
            continue
        return moment.timestamp()
    return None


_SECRETS = re.compile(
    r"""
      \b(?:hf_[A-Za-z0-9]{16,} | sk-[A-Za-z0-9_-]{16,} | gh[pousr]_[A-Za-z0-9]{20,} | glpat-[\w-]{16,}
        | AKIA[0-9A-Z]{12,} | xox[abprs]-[\w-]{10,} | AIza[\w-]{30,} | eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)
    | (?i:(?<=bearer\s)[\w.~+/=-]{8,})
    """,
    re.VERBOSE,
)
_ASSIGNED = re.compile(
    r"(?i)\b([\w-]*(?:token|api[_-]?key|secret|passwd|password|authorization|wandb_key)[\w-]*['\"]?\s*[=:]\s*['\"]?)"
    r"(?!\s|\d+\b|none\b|null\b|true\b|false\b)([^\s'\",;]{6,})"
)


def redact(text: str) -> str:
    """Return the text without keys, tokens and passwords."""
    return _ASSIGNED.sub(r"\1[redacted]", _SECRETS.sub("[redacted]", text))


_RANK = re.compile(
    r"\[(?:rank|default|Rank ?)?(?P<rank>\d{1,5})\]:? ?|\[\d+,(?P<mpi>\d+)\]<std(?:err|out)>: ?"
    r"|\((?P<actor>[\w .-]*\b(?:pid|ip|rank)=[^()]{1,60})\) ?|\s{0,4}(?P<task>\d{1,5}): "
    r"|[Rr]ank[ _]?(?P<said>\d{1,5}): {0,2}"
)
_STAMP = re.compile(
    r"\[?(?:\d{4}[-/]\d\d[-/]\d\d|\d\d[-/]\d\d)[T ,_]+\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?"
    r"(?: - | ?\| |: |, | )?"
    r"|[EWIF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^\]]{1,120}\] "
    r"|(?:\| *)?(?:TRACE|DEBUG|INFO|SUCCESS|WARNING|ERROR|CRITICAL) *\| *[\w.<>]+:[\w.<>]+:\d+ - "
    r"|\[?(?:ERROR|CRITICAL|FATAL|WARNING|INFO|DEBUG|stderr|STDERR)\b\]?(?::[\w.]+:| ?[:|-])? ?"
    r"|\[[\w./-]+:\d+\] ?"
    r"|\[[a-z]\w{1,20}\] ?(?=\d{4}[-/]\d\d)"
    r"|\d\d/\d\d/\d{4} \d\d:\d\d:\d\d - (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) - [\w.]{1,60} - *"
    r"|[\w.]{1,60} - (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) - "
)
_MOST_PREFIXES = 6
_BOX_LINES = str.maketrans("│║┃\u00a0", "||| ")
_DECORATION = re.compile(
    r"\[(?![^\]]{0,20}(?:\d/|\bep\b|epoch|step|iter|batch|val|eval|test))[\w ./:<>-]{1,40}\]:?\s*"
    r"|(?:\d{1,2}[/.-]\d{1,2}[/.-](?:\d{4}|\d\d),? +)?\d{1,2}:\d\d:\d\d(?:[.,]\d+)?(?: [AP]M)?\s*"
    r"|(?!epoch|step|iter|batch|loss|train|val|eval)[\w.<>]{1,60}(?::[\w.<>]{1,40}){0,2} -\s+(?=\S)"
    r"|\([\w .-]{1,40}\)\s+(?=[A-Za-z\[])"
    r"|(?![\[(+.-])[^\w\s]+\s*|\s+|-{2,}\s*|- ",
    re.IGNORECASE,
)
_MOST_DECORATIONS = 8


def strip_prefix(text: str) -> tuple[str, str]:
    """Return a line's rank, as a word, and the line without ranks, time stamps and levels; its indentation stays."""
    ranks: list[str] = []
    position = 0
    for _ in range(_MOST_PREFIXES):
        if (rank := _RANK.match(text, position)) is not None:
            ranks.extend(word for word in rank.groups() if word)
            position = rank.end()
        elif (stamp := _STAMP.match(text, position)) is not None and stamp.end() > position:
            position = stamp.end()
        else:
            break
    return "/".join(ranks), text[position:]


def strip_decoration(text: str) -> tuple[str, str]:
    """Return a line's rank, and the line without anything that loggers and scripts print before it."""
    rank, rest = strip_prefix(text.translate(_BOX_LINES))
    for _ in range(_MOST_DECORATIONS):
        match = _DECORATION.match(rest)
        if match is None or match.end() == 0:
            break
        more, rest = strip_prefix(rest[match.end() :])
        rank = rank or more
    return rank, rest.rstrip()


_LIMIT = 1 << 16
_LITERAL_LIMIT = 1 << 13
_WRAPPED = re.compile(
    r"\b(?:np\.|numpy\.|torch\.)?(?:float\d*|int\d*|tensor|array|Tensor)\(\s*([-+\w.]+)\s*(?:,[^()]*)?\)"
)
_NAMES = re.compile(r"(?<=[:\[,] )([-+]?)(nan|inf|None|True|False)(?=\s*[,}\]])")
_NAMED = re.compile(r"nan|inf|None|True|False")
_AS_JSON = {"nan": "NaN", "inf": "Infinity", "None": "null", "True": "true", "False": "false"}


def read_row(text: str) -> dict[str, object] | None:
    """Return the dictionary that a line is, or ends in (`step 3: {...}`), or None. Nothing is evaluated."""
    body = text.rstrip()
    if not body.endswith("}") or len(body) > _LIMIT:
        return None
    start = body.find("{")
    if start < 0 or body.find(":", start) < 0:
        return None
    body = body[start:]
    if "(" in body:
        body = _WRAPPED.sub(r"\1", body)
    for candidate in (body.replace("'", '"'), body) if "'" in body else (body,):
        try:
            found = parse_json(_NAMES.sub(_json_name, candidate) if _NAMED.search(candidate) else candidate)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return _literal(body)


def _json_name(match: re.Match[str]) -> str:
    sign, name = match.groups()
    return ("-" if sign == "-" else "") + _AS_JSON[name]


def _literal(body: str) -> dict[str, object] | None:
    if len(body) > _LITERAL_LIMIT:
        return None
    try:
        found = ast.literal_eval(body)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None


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


NUMBER = r"(?:[-+]?(?:\d{1,3}(?:[,_]\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+(?:[eE][-+]?\d+)?)"
"""A finite number, with or without thousands separators; for building patterns of lines."""
_NUMBER = re.compile(NUMBER)
_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_SIZES_IN_GIB = {"b": 1 / 1024**3, "bytes": 1 / 1024**3, "kib": 1 / 1024**2, "mib": 1 / 1024, "gib": 1.0, "tib": 1024.0}
_CLOCK = re.compile(r"(?:(\d+) days?, )?(?:(\d+):)?(\d{1,3}):(\d{2}(?:\.\d+)?)")


def to_number(value: object) -> float | None:
    """Return a finite number of an int, a float, or text in any form above; None for everything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _finite(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return _finite(float(text.replace(",", "").replace("_", "")))
    if text and text[-1].lower() in _SCALES and _NUMBER.fullmatch(text[:-1]):
        return _finite(float(text[:-1].replace(",", "").replace("_", "")) * _SCALES[text[-1].lower()])
    return None


def _finite(value: float) -> float | None:
    """Return the number as a float; None if it is out of range."""
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def to_count(value: object) -> int | None:
    """Return a whole number of at least 0, or None."""
    number = to_number(value)
    return int(number) if number is not None and number >= 0 and number == int(number) else None


def not_a_number(value: object) -> bool:
    """Return True if a row holds nan or an infinity, as a number or as text."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return isinstance(value, str) and value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")


def to_gib(value: float, unit: str) -> float | None:
    """Return GiB of a size in B, KiB, MiB or GiB; None for GB and MB, whose meaning varies."""
    scale = _SIZES_IN_GIB.get(unit.lower())
    return None if scale is None else value * scale


def to_seconds(text: str) -> float | None:
    """Return the seconds of `41:53`, `1:02:03`, `0:50:01.40`, `1 day, 2:03:04`; None for everything else."""
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = match.groups()
    return int(days or 0) * 86400.0 + int(hours or 0) * 3600.0 + int(minutes) * 60.0 + float(seconds)
