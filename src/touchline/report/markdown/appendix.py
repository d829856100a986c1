"""Appendix of RESULTS.md: commands, data sources, datasets and models, and provenance; links to files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jinja2.filters import do_urlencode

from touchline.core.markup import code, escape, fence, table
from touchline.core.table import table_markdown
from touchline.report.figures import Chart
from touchline.report.report import Command, Report
from touchline.report.tables.runs import settings_section

_RUNS_TOLD = 100
"""Maximum number of runs whose files are listed. With more, the folders follow one pattern."""
_FILES_TOLD = 4


def appendix_section(report: Report) -> Iterator[str]:
    """Yield settings, commands, files, sources and provenance."""
    if report.settings:
        yield "## Appendix: settings\n"
        yield from map(table_markdown, settings_section(report).tables)
    if report.definition:
        yield "## Appendix: experiment.yaml\n"
        yield fence([report.definition.rstrip("\n")], "yaml")
    yield "## Appendix: commands\n"
    yield "To be typed in the experiment's folder.\n"
    groups: dict[str, list[Command]] = {}
    for command in report.commands:
        groups.setdefault(command.group, []).append(command)
    for group, commands in groups.items():
        yield f"### {escape(group)}\n"
        yield fence([line for each in commands for line in (f"# {each.text}", each.command)], "bash")
    yield "## Appendix: data sources\n"
    yield from _files(report)
    if report.sources:
        yield "## Appendix: datasets and models\n"
        for kind in dict.fromkeys(source.kind for source in report.sources):
            of_it = [source for source in report.sources if source.kind == kind]
            names = list(dict.fromkeys(name for source in of_it for name, _ in source.facts))
            yield table(
                (escape(kind), *(escape(name) for name in names)),
                [(code(source.name), *(_fact(dict(source.facts).get(name)) for name in names)) for source in of_it],
            )
    yield "## Appendix: provenance\n"
    yield table(("what", "value"), [(escape(what), escape(value)) for what, value in report.provenance])


def _files(report: Report) -> Iterator[str]:
    """Yield, by run, the files that its figures were read from."""
    rows = []
    for facts in report.facts[:_RUNS_TOLD]:
        kinds: dict[str, list[str]] = {}
        for what, path in facts.files:
            kinds.setdefault(what, []).append(path)
        parts = [
            f"{escape(what)} {', '.join(link(path) for path in paths[:_FILES_TOLD])}"
            + (f" and {len(paths) - _FILES_TOLD} more" if len(paths) > _FILES_TOLD else "")
            for what, paths in kinds.items()
        ]
        rows.append((code(facts.run), "; ".join(parts) or "n/a (no file was found)"))
    yield table(("run", "files"), rows)
    if len(report.facts) > _RUNS_TOLD:
        yield f"{len(report.facts) - _RUNS_TOLD:,} more runs have the same files in their folders.\n"
    yield (
        "Losses, steps, speed and memory come from the metrics (of foreign trainers from the log), times of attempts "
        "from their start and exit files, scores from the evaluation logs, sizes from the files themselves.\n"
    )


def _fact(value: str | None) -> str:
    if value is None:
        return "-"
    is_hash = len(value) == 64 and all(letter in "0123456789abcdef" for letter in value)
    return code(value[:16]) if is_hash else escape(value)


_LINKABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_LINKED = re.compile(r"(?<=[^!\\])\]\((?!figures/|report\.html|samples\.jsonl)([A-Za-z0-9_][A-Za-z0-9._/-]*)\)")
_LINKS_SHOWN = 3


def link(path: str) -> str:
    """Return a relative link to a file, or code if its name is not safe in a link."""
    if _LINKABLE.fullmatch(path) and ".." not in path:
        return f"[{escape(path)}]({path})"
    return code(path)


def rebased(text: str, base: str) -> str:
    """Return the text with its links to the experiment's files adjusted to another folder.

    Args:
        text: a report; links to files beside it are unchanged.
        base: the experiment's folder as seen from the report's.
    """
    return text if base == "." else _LINKED.sub(lambda found: f"]({do_urlencode(base)}/{found[1]})", text)


def sources(paths: Sequence[str]) -> str:
    """Return ` (from a, b and 3 more)`. Empty if there are none."""
    if not paths:
        return ""
    unique = list(dict.fromkeys(paths))
    links = ", ".join(link(path) for path in unique[:_LINKS_SHOWN])
    more = f" and {len(unique) - _LINKS_SHOWN} more" if len(unique) > _LINKS_SHOWN else ""
    return f" (from {links}{more})"


def figures(charts: Sequence[Chart], *sections: str) -> list[str]:
    """Return the pictures of a section, each with its caption."""
    return [
        f"![{escape(chart.title)}](figures/{chart.name}.png)\n\n{escape(chart.caption)}\n"
        for chart in charts
        if chart.section in sections and _LINKABLE.fullmatch(chart.name)
    ]
