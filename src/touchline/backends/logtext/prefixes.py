"""Prefixes of a line: ranks, time stamps, levels, modules, bullets."""

from __future__ import annotations

import re

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
