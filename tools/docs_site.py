"""Write the docs as plain Markdown into build/docs, with pages from outside docs/, for any generator of sites.

python -m tools.docs_site    write build/docs, and build/mkdocs.yml with the navigation (`make site`)
"""

from __future__ import annotations

import argparse
import json
import os
import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from touchline.lint import rule as rule_pages

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RULE_PAGES = "src/touchline/lint/pages"
UNSEARCHED = ("decisions/", "rules/", "architecture.md")
"""Pages that the search leaves out; the list of all rules stays in it."""
RULES = "rules/README.md"
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_NOTE = re.compile(r"\A<!--.*?-->\s*", re.DOTALL)
"""The note above a generated page, which would hide its title."""
_FENCE = re.compile(r"^(```+[a-z]+) .*$", re.MULTILINE)
_LIST = re.compile(r"^((?!- |\d+\. |[|>#\s]).+)\n(?=- |1\. )", re.MULTILINE)
"""A line of a paragraph right above a list, which Python-Markdown takes for a part of the paragraph."""
_BLOCK = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)
_SEVERITY = re.compile(r"^Severity: (\w+)$", re.MULTILINE)


def write(target: Path) -> None:
    """Write every page and picture into `target`/docs, and `target`/mkdocs.yml."""
    folder = target / "docs"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder)
    for page in sorted(DOCS.rglob("*.md")):
        name = page.relative_to(DOCS).as_posix()
        (folder / name).write_text(page_text(name, page.read_text(encoding="utf-8")), encoding="utf-8")
    for code in rule_pages.all_codes():
        name = f"rules/{code}.md"
        (folder / name).write_text(page_text(name, rule_text(code)), encoding="utf-8")
    configuration = {"INHERIT": os.path.relpath(ROOT / "mkdocs.yml", target), "nav": navigation()}
    # JSON is YAML.
    (target / "mkdocs.yml").write_text(json.dumps(configuration, indent=1), encoding="utf-8")


def rule_text(code: str) -> str:
    """Return the page of a rule with its severity, its subject and the way back to the list."""
    page = rule_pages.load_page(code)
    subject = rule_pages.SUBJECTS[code[:2]]
    severity = f'<span class="severity {page.severity}">{page.severity}</span>'
    back = f"[All codes](README.md) > [{code[:2]}: {subject}](README.md#{_anchor(f'{code[:2]}: {subject}')})"
    return _SEVERITY.sub(f"{severity} {back}", page.text, count=1)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def page_text(name: str, text: str) -> str:
    """Return a page whose links hold inside the site, whose fences name a language alone, with its place in the search.

    Args:
        name: path of the page in docs.
        text: Markdown of the page.

    Raises:
        FileNotFoundError: a link leads to no file of the repository.
    """
    here = posixpath.dirname(name)

    def inside(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join("docs", here, target))
        if re.match(r"[a-z]+:", target) or path.startswith("docs/"):
            return match.group()
        if path.startswith(RULE_PAGES):
            path = f"docs/rules/{posixpath.basename(path)}"
            return f"[{text}]({posixpath.relpath(path, posixpath.join('docs', here))}{anchor or ''})"
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{name}: {target}")
        # A file of the repository that is not a page: its path says where it is.
        return text if text.strip("`") == path else f"{text} (`{path}`)"

    text = _outside_blocks(_LINK, inside, _FENCE.sub(r"\1", _NOTE.sub("", text)))
    text = _outside_blocks(_LIST, r"\1\n\n", text)
    if name == RULES:
        return f"---\nsearch:\n  boost: 0.3\n---\n\n{text}"
    return f"---\nsearch:\n  exclude: true\n---\n\n{text}" if name.startswith(UNSEARCHED) else text


def _outside_blocks(pattern: re.Pattern[str], replacement: Any, text: str) -> str:
    parts, last = [], 0
    for block in _BLOCK.finditer(text):
        parts += [pattern.sub(replacement, text[last : block.start()]), block.group()]
        last = block.end()
    return "".join([*parts, pattern.sub(replacement, text[last:])])


def navigation() -> list[Any]:
    """Return the navigation of mkdocs.yml, with the rules by subject and the decisions."""
    nav: list[Any] = YAML(typ="rt").load(ROOT / "mkdocs.yml")["nav"]
    rules: list[Any] = [RULES]
    for letters, subject in rule_pages.SUBJECTS.items():
        pages = [rule_pages.load_page(code) for code in rule_pages.all_codes() if code.startswith(letters)]
        found = [{f"{page.code} ({page.severity}): {page.name}": f"rules/{page.code}.md"} for page in pages]
        rules += [{f"{letters}: {subject}": found}] if found else []
    decisions = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / "decisions").glob("[0-9]*.md"))
    more = {"Rules": rules, "Developers": decisions}
    return [{title: [*pages, *more.get(title, [])]} for entry in nav for title, pages in entry.items()]


def main() -> int:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", type=Path, nargs="?", default=ROOT / "build", help="folder (default: build)")
    write(parser.parse_args().target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
