"""Docstrings, messages, templates and documents use the words of the glossary.

The list holds words that have one meaning here and a plainer word beside them; words that may be right stay with the
reader. Names of variables are not looked at.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.planning

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "touchline"

REPLACED: dict[str, str] = {
    r"processors?(?!_)": "CPU; in hours: device-hours",
    r"go(?:es|ing)? on|went on|gone on": "resume; continue from a parent stage",
    r"held against": "compared with",
    r"hears?|heard": "read, receive",
    r"tells?|told|telling": "report, print, log, state",
    r"anew": "again; shuffled",
    r"mend(?:s|ed|ing)?": "fix",
    r"nobody|somebody|whoever": "the user, no run, no file",
    r"without a word|in silence": "silently; no exit record",
    r"rests?(?: most)? on|rested on|resting on": "is based on",
    r"may go|may be given back": "can be deleted",
    r"lies? in|lies? beside|lies? under|lying in": "is in",
    r"speaks? of|spoke of|spoken of": "report, mention",
    r"foreseen|foresees?|foresaw": "predicted",
    r"dealt out": "shuffled",
    r"sign of life": "heartbeat",
    r"(?:a|the) fault|faults|faulty": "error, problem, violation",
    r"as far as (?:it is|they are) known": "if known",
    r"(?:sound|broken) checkpoints?|checkpoints? (?:is|are) (?:sound|broken)": "valid, corrupt",
    r"(?:a|the) person": "the user",
    r"sees? each other|see one another": "attend to each other",
    r"(?:steps?|examples?|tokens|seconds|hours|sequences|minutes|GPUs?|rows?) an? "
    r"(?:step|epoch|run|sequence|row|node|second|job)": "per",
}
"""Words as regular expressions, each with the word of the glossary."""

OPENING = re.compile(r"(?:What|How|One|Which|Whether|Everything|Nothing|Whose|Where|Whatever|Who)\b")
"""Words that a function's docstring does not begin with: it begins with a verb."""

ALLOWED: dict[str, str] = {
    "more processors": "SLURM's own message",
    "|config|processor)": "a trainer's own message: the processor of a multimodal model",
    "tests/faults": "a path",
    "data/processor/": "a path of LLaMA-Factory",
    "pictures go through a processor": "transformers' word for what prepares pictures",
    "image processor": "the same",
    "model's processor": "the same",
    "names the processor": "the same",
}
"""Texts that hold a replaced word rightly, each with the reason."""

NOT_YET: tuple[str, ...] = ()
"""Rooms whose words are not all replaced yet."""

_REPLACED = {re.compile(rf"(?<![\w-])(?:{words})(?![\w-])", re.IGNORECASE): plain for words, plain in REPLACED.items()}
_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def openings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of functions that begin with a clause, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if OPENING.match(text):
                yield node.lineno, text.splitlines()[0]


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Yield every string of a module, the fixed parts of f-strings joined, keys and single words included."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\ufffc" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def replaced_words(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line within the text, the word and the word of the glossary."""
    for pattern, plain in _REPLACED.items():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()), match.group(), plain


def problems(path: Path) -> list[str]:
    """List the replaced words of a module, a template or a document."""
    text = path.read_text()
    if path.parent.name == "pages":
        text = _BLOCK.sub(lambda block: "\n" * block.group().count("\n"), text)  # examples of data
    where = path.relative_to(ROOT).as_posix()
    found = []
    for line, part in strings(text) if path.suffix == ".py" else [(1, text)]:
        ours = functools.reduce(lambda left, allowed: left.replace(allowed, "\ufffc"), ALLOWED, part)
        for at, word, plain in replaced_words(ours):
            found.append(f"{where}:{line + at}: {word!r}: {plain}: {ours.splitlines()[at].strip()[:100]}")
    return found


def _files() -> list[Path]:
    files = [*SOURCES.rglob("*.py"), *SOURCES.rglob("*.j2"), *SOURCES.rglob("pages/*.md")]
    files += [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    return sorted(path for path in files if not path.relative_to(SOURCES.parents[1]).as_posix().startswith(NOT_YET))


@pytest.mark.slow
def test_texts_use_the_words_of_the_glossary() -> None:
    files = _files()
    assert len(files) > 300
    assert [problem for path in files for problem in problems(path)] == []


@pytest.mark.slow
def test_docstrings_of_functions_begin_with_a_verb() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in _files()
        if path.suffix == ".py"
        for line, text in openings(path.read_text())
    ]
    assert found == []
