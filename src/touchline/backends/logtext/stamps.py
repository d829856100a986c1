"""Wall-clock times at the beginning of lines, in the forms that loggers and `date` print.

Zones are not read: a log's own times are compared with each other only.
"""

from __future__ import annotations

import datetime
import re

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_CLOCK = r"(?P<H>\d{2}):(?P<M>\d{2}):(?P<S>\d{2})"
_ISO = rf"(?P<y>20\d\d)[-/](?P<m>\d{{2}})[-/](?P<d>\d{{2}})[T _-]{_CLOCK}"
_AMERICAN = rf"(?P<m>\d{{2}})/(?P<d>\d{{2}})/(?P<y>20\d\d)[, ]+{_CLOCK}"
_DATE = (
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +(?:(?P<d>\d{1,2}) +)?(?P<b>[A-Z][a-z]{2}) +(?:(?P<d2>\d{1,2}) +)?"
    rf"(?:(?P<y>20\d\d) +)?{_CLOCK}(?: +(?:AM|PM))?(?: +[A-Z]{{2,5}})?(?: +(?P<y2>20\d\d))?"
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
