"""Every `touchline ...` that a report, hint, help text, template or document prints is parsed by the real CLI.

Strings are taken from the syntax trees of all sources, with a placeholder for what is filled in; nothing is run.
"""

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tools import docs

pytestmark = pytest.mark.planning

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "touchline"
FILLED = "\ufffc"
"""Stands for what is filled in, until it is tried as a text or as a number."""
PROSE = frozenset(
    {
        *("cannot", "does", "engine", "freezes", "has", "imported", "is", "needs", "never", "passes", "plans"),
        *("predicts", "reads", "runs", "sets", "torch", "with", "writes"),
    }
)
"""Words that follow the name where a sentence or a list of packages begins with it."""
ENDS = re.compile(r"`|\n|;|\||&&|#|\)|, |: |(?<=\w)\. |(?<=\w)\.$|</|,$|:$| \(| <- | -> |\*\*")
PLACEHOLDERS = ("X", "1", "a=1", "x.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class Printed:
    """A command as it stands in a text."""

    where: str
    words: str
    is_code: bool
    """Whether it stands between backticks, so that every word belongs to it."""
    is_first: bool
    """Whether it stands where a command begins: a line, a code span, behind a colon."""


def mentions(text: str, where: str) -> Iterator[Printed]:
    """Yield what follows the program's name, up to where a sentence goes on."""
    for match in re.finditer(r"(?<![\w./-])touchline(?=[ \t])", text):
        rest = re.sub(r"\\\n[> ]*", " ", text[match.end() :])
        end = ENDS.search(rest)
        words = (rest[: end.start()] if end else rest).strip()
        before = text[: match.start()]
        is_code = before.endswith("`") and bool(end) and end is not None and end.group() == "`"
        # A line of a page may begin in the middle of a sentence; one of a template is a command.
        begins = {".j2": r"(?:^|`|[:;$>] |\n)\s*\Z", ".md": r"(?:`|\$ )\Z"}
        is_first = re.search(begins.get(Path(where).suffix, r"(?:\A|`|[:;$>] )\Z"), before) is not None
        yield Printed(where=where, words=words, is_code=is_code, is_first=is_first)


def texts_of_source(source: str, path: str) -> Iterator[tuple[str, str]]:
    """Yield every string of a module with its place; values that are filled in become a placeholder."""
    tree = ast.parse(source)
    inner = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else FILLED for each in node.values]
            yield "".join(map(str, parts)), f"{path}:{node.lineno}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value, f"{path}:{node.lineno}"
        elif isinstance(node, ast.List | ast.Tuple | ast.Call) and (words := _listed(node)):
            yield words, f"{path}:{node.lineno}"


def _listed(node: ast.List | ast.Tuple | ast.Call) -> str:
    """Return a command that is given word by word: `["touchline", "run", ...]`."""
    elements = node.args if isinstance(node, ast.Call) else node.elts
    first = elements[0] if elements else None
    if not (isinstance(first, ast.Constant) and first.value == "touchline") or len(elements) < 2:
        return ""
    words = [
        each.value if isinstance(each, ast.Constant) else FILLED
        for each in elements
        if not isinstance(each, ast.Starred)
    ]
    return " ".join(str(word) for word in words) if all(isinstance(word, str) for word in words) else ""


def texts_of_page(text: str, path: str) -> Iterator[tuple[str, str]]:
    """Yield a template or a Markdown page, its own placeholders replaced."""
    text = re.sub(r"\{%.*?%\}|\{#.*?#\}", "", text, flags=re.DOTALL)
    yield re.sub(r"\{\{.*?\}\}", FILLED, text, flags=re.DOTALL), path


def everything() -> Iterator[Printed]:
    for path in sorted(SOURCES.rglob("*.py")):
        for text, where in texts_of_source(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))):
            yield from mentions(text, where)
    pages = [
        *SOURCES.rglob("*.j2"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*"),
        *ROOT.glob("*.md"),
    ]
    for path in sorted(page for page in pages if page.suffix in (".j2", ".md", ".yaml")):
        for text, where in texts_of_page(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))):
            yield from mentions(text, where)


def fault_of(printed: Printed) -> str | None:
    """Return what the CLI has against a command; None if it takes it, or if it is a sentence about touchline."""
    first = re.match(r"[^\s'\"]+", printed.words)
    word = "" if first is None else first.group()
    is_known = any(path[:1] == (word,) for path in commands())
    is_word = re.fullmatch(r"[a-z]+", word) is not None and word not in PROSE
    return _tried(printed) if is_known or word.startswith("-") or (printed.is_first and is_word) else None


def _tried(printed: Printed) -> str | None:
    try:
        words = shlex.split(printed.words)
    except ValueError:
        words = printed.words.split()
    words = [word for word in words if word not in ("...", "[...]", "…", "[OPTIONS]", "COMMAND", "[ARGS]...")]
    faults = []
    for value in PLACEHOLDERS:
        own = [_filled(word, value) for word in words]
        shortest = len(own) if printed.is_code else 1
        for end in range(len(own), shortest - 1, -1):
            if any(word.startswith("-") for word in own[end:]):
                break
            is_cut = end < len(own) and printed.is_first
            fault = f"no command {own[end]!r}" if is_cut and _is_group(own[:end]) else _parsed(own[:end])
            if fault is None:
                return None
            faults.append(fault)
    return faults[0] if faults else "no words"


def _filled(word: str, value: str) -> str:
    word = re.sub(r"<[\w ./-]+>|\[[\w=.|\]-]+\]?|\b[A-Z][A-Z_]{1,}\b", FILLED, word) if FILLED not in word else word
    return word.replace(FILLED, value)


def _parsed(words: list[str]) -> str | None:
    """Parse words without running anything. Return what is wrong with them."""
    path, rest = (), list(words)
    known = commands()
    while getattr(known[path], "commands", None) is not None:
        if not rest or rest[0] in ("--help", "-h", "--version"):
            return None
        default = getattr(known[path], "default", None)
        if (*path, rest[0]) not in known and default is not None:
            rest = [default, *rest]
        if (*path, rest[0]) not in known:
            return f"no command {rest[0]!r}"
        path, rest = (*path, rest[0]), rest[1:]
    if not rest or rest[0] in ("--help", "-h"):
        return None
    try:
        known[path].make_context("touchline", list(rest))
    except Exception as fault:  # noqa: BLE001 (the parser's classes are not importable in every version of typer)
        if type(fault).__name__ == "MissingParameter":
            # Unknown options are refused before: what is left is a command's name with options, without its subject.
            return None
        return f"{type(fault).__name__}: {getattr(fault, 'message', fault)}"
    return None


def _is_group(words: list[str]) -> bool:
    found = commands().get(tuple(words))
    return getattr(found, "commands", None) is not None and getattr(found, "default", None) is None


@functools.cache
def commands() -> dict[tuple[str, ...], Any]:
    return dict(docs.commands())


@pytest.mark.slow
def test_every_printed_command_is_parsed() -> None:
    """A flag that was renamed, or never was, is found wherever it is printed."""
    found: dict[tuple[str, bool], Printed] = {(each.words, each.is_code): each for each in everything()}
    assert len(found) > 150
    faults = {each: fault for each in found.values() if (fault := fault_of(each))}
    assert [f"{each.where}: touchline {each.words}: {fault}" for each, fault in faults.items()] == []


@pytest.mark.parametrize(
    "text",
    [
        *("hint: touchline evaluate . --epoks all", "`touchline evaluate`, then `touchline evalute .`"),
        *("touchline prepare DIR --run RUN --acept", "use `touchline report --deeper`", "touchline frobnicate ."),
        "touchline models fetch X",
    ],
)
def test_wrong_commands_are_found(text: str) -> None:
    """A checker that finds nothing would pass everything."""
    assert any(fault_of(each) for each in mentions(text, "here"))


def test_right_commands_and_sentences_pass() -> None:
    """Options between words, placeholders, continued lines, sentences about touchline."""
    text = (
        "touchline evaluate . --epochs all; touchline evaluate . --epoch 0, and `touchline report --deep` reads them. "
        f"touchline never runs it. `touchline prepare DIR --run RUN --accept`\n"
        f"$ touchline plan \\\n>  {FILLED} train.epochs=2"
    )
    assert [fault for each in mentions(text, "here") if (fault := fault_of(each))] == []


SOURCE_OF_THE_PROJECT = re.compile(
    r"seeds? (?:project|document|repo|kit|system|00\d)|table of seed|DESIGN\.md|"
    r"seeds' (?:table|kit|config|script|own|users)"
)
"""Documents that this project was made from: a user has none of them, and `seed` means a random seed."""


@pytest.mark.slow
def test_no_message_names_what_the_project_was_made_from() -> None:
    """A table is called by what it holds, not by the document that it came from."""
    texts = [
        each
        for path in sorted(SOURCES.rglob("*.py"))
        for each in texts_of_source(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]
    pages = [*SOURCES.rglob("*.j2"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    texts += [(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))) for page in pages]
    assert [where for text, where in texts if SOURCE_OF_THE_PROJECT.search(text)] == []
    assert SOURCE_OF_THE_PROJECT.search("the table of seed 003, for one A100, allows 4")
