"""Hooks of MkDocs for the docs site: pages from outside docs/, the navigation, Markdown as other hosts read it.

`make site` builds the site; mkdocs.yml names this file.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
RULE_PAGES = "src/touchline/lint/pages"
SECTIONS = {"Start": ".", "Guides": "guides", "Concepts": "concepts", "Reference": "reference", "Design": "decisions"}
"""Section of the navigation -> folder whose pages all stand in it."""
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_NOTE = re.compile(r"\A<!--.*?-->\s*", re.DOTALL)
"""The note above a generated page, behind which MkDocs finds no title."""
_FENCE = re.compile(r"^(```+[a-z]+) .*$", re.MULTILINE)
_LIST = re.compile(r"^((?!- |\d+\. |[|>#\s]).+)\n(?=- |1\. )", re.MULTILINE)
"""A line of a paragraph right above a list, which MkDocs takes for a part of the paragraph."""
_BLOCK = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the pages that the navigation does not name to the section of their folder."""
    navigation: list[dict[str, list[Any]]] = config.nav or []  # type: ignore[assignment]
    entries = [entry for section in navigation for pages in section.values() for entry in pages]
    named = {page for entry in entries for page in (entry.values() if isinstance(entry, dict) else [entry])}
    docs = Path(config.docs_dir)
    for section in navigation:
        for title, pages in section.items():
            folder = docs / SECTIONS[title] if title in SECTIONS else None
            found = sorted(folder.glob("*.md")) if folder is not None else []
            pages += [name for page in found if (name := page.relative_to(docs).as_posix()) not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the rules, which are beside their code."""
    for path in sorted((ROOT / RULE_PAGES).glob("*.md")):
        files.append(File.generated(config, f"rules/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text with links that hold inside the site, and with fences that name a language alone."""
    here = posixpath.dirname(page.file.src_uri)

    def inside(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join("docs", here, target))
        if re.match(r"[a-z]+:", target) or path.startswith("docs/"):
            return match.group()
        if path.startswith(RULE_PAGES):
            path = f"docs/rules/{posixpath.basename(path)}"
            return f"[{text}]({posixpath.relpath(path, posixpath.join('docs', here))}{anchor or ''})"
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{page.file.src_uri}: {target}")
        # A file of the repository that is no page: its path says where it is.
        return text if text.strip("`") == path else f"{text} (`{path}`)"

    text = _outside_blocks(_LINK, inside, _FENCE.sub(r"\1", _NOTE.sub("", markdown)))
    return _outside_blocks(_LIST, r"\1\n\n", text)


def _outside_blocks(pattern: re.Pattern[str], replacement: Any, text: str) -> str:
    parts, last = [], 0
    for block in _BLOCK.finditer(text):
        parts += [pattern.sub(replacement, text[last : block.start()]), block.group()]
        last = block.end()
    return "".join([*parts, pattern.sub(replacement, text[last:])])
