"""Links and pictures of RESULTS.md."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2.filters import do_urlencode

from touchline.core.text import code, escape
from touchline.report.figures import Chart

_LINKABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_LINKED = re.compile(r"(?<=[^!\\])\]\((?!figures/|report\.html|samples\.jsonl)([A-Za-z0-9_][A-Za-z0-9._/-]*)\)")


def link(path: str) -> str:
    """Return a relative link to a file, or code if its name is not safe in a link."""
    if _LINKABLE.fullmatch(path) and ".." not in path:
        return f"[{escape(path)}]({path})"
    return code(path)


def rebased(text: str, base: str) -> str:
    """Return the text with its links to the experiment's files adjusted to another folder.

    Args:
        text: a report; links to files next to it are unchanged.
        base: the experiment's folder as seen from the report's.
    """
    return text if base == "." else _LINKED.sub(lambda found: f"]({do_urlencode(base)}/{found[1]})", text)


def figures(charts: Sequence[Chart], *sections: str) -> list[str]:
    """Return the pictures of a section, each with its caption."""
    return [
        f"![{escape(chart.title)}](figures/{chart.name}.png)\n\n{escape(chart.caption)}\n"
        for chart in charts
        if chart.section in sections and _LINKABLE.fullmatch(chart.name)
    ]
