"""Pieces of Markdown that RESULTS.md is made of; everything foreign is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from jinja2.filters import do_urlencode

from touchline.core.markup import code, escape
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.report.chart import Chart
from touchline.report.formatting import bare, finite, format_quantity

_LINKABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_LINKED = re.compile(r"(?<=[^!\\])\]\((?!figures/|report\.html|samples\.jsonl)([A-Za-z0-9_][A-Za-z0-9._/-]*)\)")
_LINKS_SHOWN = 3


def cell(value: Measured, digits: int = 4) -> str:
    """A figure for a table, with its interval."""
    return escape(format_quantity(value, digits))


def short(value: Measured, digits: int = 4) -> str:
    """A figure for a table, without its interval."""
    return escape(bare(value, digits))


def number(value: Measured, form: str = ",.0f") -> str:
    """A figure whose unit stands in the table's head."""
    known = finite(value)
    return format(known.value, form) if isinstance(known, Quantity) else escape(str(known))


def link(path: str) -> str:
    """A relative link to a file; as code where its name is not one that a link can hold safely."""
    if _LINKABLE.fullmatch(path) and ".." not in path:
        return f"[{escape(path)}]({path})"
    return code(path)


def rebased(text: str, base: str) -> str:
    """The same text with its links to the experiment's files leading there from another folder.

    Args:
        text: a report; what is written beside it is linked by its own name and stays.
        base: the experiment's folder as seen from the report's.
    """
    return text if base == "." else _LINKED.sub(lambda found: f"]({do_urlencode(base)}/{found[1]})", text)


def sources(paths: Sequence[str]) -> str:
    """` (from a, b and 3 more)`; nothing where there are none."""
    if not paths:
        return ""
    unique = list(dict.fromkeys(paths))
    told = ", ".join(link(path) for path in unique[:_LINKS_SHOWN])
    more = f" and {len(unique) - _LINKS_SHOWN} more" if len(unique) > _LINKS_SHOWN else ""
    return f" (from {told}{more})"


def figures(charts: Sequence[Chart], *sections: str) -> list[str]:
    """The pictures of a section, each with its caption."""
    return [
        f"![{escape(chart.title)}](figures/{chart.name}.png)\n\n{escape(chart.caption)}\n"
        for chart in charts
        if chart.section in sections and _LINKABLE.fullmatch(chart.name)
    ]


def shared(values: Iterable[Measured], attribute: str) -> str | None:
    """What all figures of a column have in common (`kind`, `token_unit`, `unit`), so that its head can say it."""
    found = {getattr(value, attribute) for value in values if not isinstance(value, Missing)}
    return str(found.pop()) if len(found) == 1 and None not in found else None
