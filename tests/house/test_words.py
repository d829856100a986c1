"""Docstrings, messages, templates and documents use the words of the glossary, in plain and short sentences.

The list holds words that have a plainer word. Names of variables are not looked at. Sentences are counted in strings
that are not docstrings, and in rule pages.
"""

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

FOR_DEVELOPERS: tuple[str, ...] = ("docs/decisions/",)
"""Pages whose sentences may be less plain. `REPLACED` holds for them too."""

_NOUN = (
    r"(?=[,;:)]|\.(?!\w)|$| (?:of|that|which|whose|is|was|has|had|would|will|may|can|with|without|in|on|at|from|by|"
    r"to|for|and|or|as|needs?|takes?|ends?|stops?|resumes?|continues?|fails?)\b)"
)
DIALECT: dict[str, str] = {
    r"beside": "next to, in addition to",
    r"stands?|stood": "is, is in, gives, is used",
    r"surely": "the upper estimate",
    r"trainings": "runs",
    r"(?:an?|one|each|every|no|this|that|whole|same|another|such) training" + _NOUN: "run",
    r"(?<!there )(?:is|are|was|were) no (?!longer|more|less|fewer|later)[a-z]+": "is not a",
}
"""Private words and forms, looked for in strings that are not docstrings, in pages and documents."""

INVERTED = re.compile(r"(?:Of|From|Among) |What\b(?!.*\?$)(?:\W+[\w'-]+){4}")
"""Beginnings of sentences that put the subject last."""

LONGEST = 25
"""Most words of a sentence."""

ONE_FACT: tuple[str, ...] = ("src/touchline/lint/",)
"""Rooms whose messages hold no semicolon and at most one colon."""

PLAIN: dict[str, str] = {}
"""Texts that hold a form of `DIALECT` or `INVERTED` rightly, each with the reason."""

_REPLACED = {re.compile(rf"(?<![\w-])(?:{words})(?![\w-])", re.IGNORECASE): plain for words, plain in REPLACED.items()}
_DIALECT = {re.compile(rf"(?<![\w-])(?:{words})(?![\w-])", re.IGNORECASE): plain for words, plain in DIALECT.items()}
_SENTENCE = re.compile(r"(?<=[.!?])[)\"'*`]*\s+(?=[A-Z\"`(*\ufffc])|\n")
_PATTERN = re.compile(r"\(\?|\\[\[\](dsw]|\[\^|\|[a-z]+\||\{%|\A[\w/\s-]{150,}\Z")
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


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module that are sentences: no docstrings, patterns, templates and lists of words."""
    without: set[tuple[int, str]] = set()
    for node in ast.walk(ast.parse(source)):
        holds_words = isinstance(node, ast.Attribute) and node.attr == "split"
        if (isinstance(node, ast.Expr) or holds_words) and isinstance(node.value, ast.Constant):
            without.add((node.lineno, node.value.value))
    for part in strings(source):
        if part not in without and " " in part[1].strip() and not _PATTERN.search(part[1]):
            yield part


def prose(text: str) -> str:
    """Return a document with one paragraph, list item or cell of a table per line and without code."""
    text = re.sub(r"^---\n.*?^---\n", "", _BLOCK.sub("", text), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\|.*\|$", lambda row: "\n\n".join(row.group().split("|")), text, flags=re.MULTILINE)
    return re.sub(r"(?<!\n)\n(?!\n|    |\s*(?:[-*] |\d+\. ))", " ", text)


def unplain(text: str) -> Iterator[tuple[str, str]]:
    """Yield the sentences of a text that are not plain, each with the word or form."""
    ours = functools.reduce(lambda left, allowed: left.replace(allowed, "\ufffc"), PLAIN, text)
    for sentence in map(str.strip, _SENTENCE.split(ours)):
        yield from ((found.group(), sentence) for pattern in _DIALECT for found in pattern.finditer(sentence))
        if found := INVERTED.match(sentence.lstrip("-* ")):
            yield f"begins with {found.group()}", sentence
        if (words := len(sentence.split())) > LONGEST:
            yield f"{words} words", sentence


def unplain_sentences(path: Path) -> Iterator[str]:
    """Yield the sentences of a file that are not plain, each with its place. Documents may have long sentences."""
    where = path.relative_to(ROOT).as_posix()
    texts = messages(path.read_text()) if path.suffix == ".py" else [(1, prose(path.read_text()))]
    is_message = path.suffix == ".py" or path.parent.name == "pages"
    for line, text in texts:
        for problem, sentence in unplain(text):
            if is_message or not problem.endswith(" words"):
                yield f"{where}:{line}: {problem!r}: {sentence}"
        is_joined = ";" in text or re.sub(r"\{[^{}]*\}", "", text).count(": ") > 1
        if is_joined and where.startswith(ONE_FACT) and path.suffix == ".py":
            yield f"{where}:{line}: more than one fact: {text}"


def _files(without: tuple[str, ...] = ()) -> list[Path]:
    files = [*SOURCES.rglob("*.py"), *SOURCES.rglob("*.j2"), *SOURCES.rglob("pages/*.md")]
    files += [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    return sorted(path for path in files if not path.relative_to(ROOT).as_posix().startswith(without))


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


@pytest.mark.slow
def test_sentences_are_plain_and_short() -> None:
    assert [found for path in _files(FOR_DEVELOPERS) for found in unplain_sentences(path)] == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("the script stands beside its log and surely fits", ["beside", "stands", "surely"]),
        ("two trainings; a training of 3 epochs, a training run, a training set", ["trainings", "a training"]),
        ("a is no folder. There is no folder. It is no longer there.", ["is no folder"]),
        ("It ends. Of such runs no loss is seen. From Slurm it is read.", ["begins with From ", "begins with Of "]),
        ("What counts is the mean of all. What did the user see here?", ["begins with What counts is the mean"]),
        ("word " * 25 + "end. Next.", ["26 words"]),
        ("word " * 24 + "end. Next.", []),
    ],
)
def test_a_sentence_that_is_not_plain_is_found(text: str, problems: list[str]) -> None:
    assert sorted(problem for problem, _ in unplain(text)) == sorted(problems)


def test_docstrings_and_code_have_no_sentences() -> None:
    source = 'def f():\n    """It stands beside."""\n    x: int\n    """It stands."""\n    return f"a {x} b"\n'
    assert list(messages(source)) == [(5, "a \ufffc b")]
    cells = prose("A\nb.\n\n- c\n  d\n\n```yaml\nstood: 1\n```\n\n| e | f |\n")
    assert [line.strip() for line in cells.split("\n") if line.strip()] == ["A b.", "- c   d", "e", "f"]
