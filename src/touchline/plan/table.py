"""Text of runs_plan.md."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.markup import escape, fence, table
from touchline.plan.sections import Section, folder_lines, revision_rows, sections
from touchline.spec.plan import Plan


def runs_plan_markdown(plan: Plan) -> str:
    """Return the text of runs_plan.md."""
    folders = "```text\n" + "\n".join(folder_lines(plan)).replace("`", "'") + "\n```\n"
    parts = [
        f"# Plan: {escape(plan.experiment)}\n",
        f"{escape(plan.question)}\n" if plan.question else "",
        *(markdown_section(section) for section in sections(plan)),
        "## Folders\n",
        folders,
        "## Revisions\n",
        _table(("#", "date", "what", "runs"), revision_rows(plan)),
    ]
    return "\n".join(part for part in parts if part)


def markdown_section(section: Section) -> str:
    """Return a section in Markdown, or an empty string for an empty section."""
    if section.is_empty:
        return ""
    parts = [f"## {section.title}\n"]
    if section.rows:
        parts.append(_table(section.header, section.rows, section.right))
    for sentence, text in section.blocks:
        parts += [f"{escape(sentence)}\n", fence(text.split("\n"))]
    if section.lines:
        parts.append("\n".join(f"- {escape(line)}" for line in section.lines) + "\n")
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    return table(header, [tuple(escape(cell) for cell in row) for row in rows], right=right)
