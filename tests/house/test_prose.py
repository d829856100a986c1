"""No decision rests on the words of a message that touchline wrote: enums and fields decide, words are for the user.

The checker walks the syntax trees for texts that are looked for in other texts (`startswith`, `in`, `partition`, ...)
and that also stand in a message of the package. Rooms that read what other programs print are left out.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "touchline"

READERS = frozenset({"backends", "evidence", "history", "slurm", "slurmtext"})
"""Rooms that read the texts of other programs."""
SEARCHES = frozenset(
    {"startswith", "endswith", "partition", "rpartition", "removeprefix", "removesuffix", "split", "find", "index"}
)
PATTERNS = frozenset({"match", "search", "fullmatch", "findall", "finditer", "sub"})
PROSE = frozenset({"message", "missing", "hint", "title", "note", "notes"})
"""Attributes that hold words for the user."""

REVIEWED: dict[str, str] = {
    "touchline: error: ": "the protocol between a worker process and its parent, written and read in one module",
    "can't allocate memory": "torch",
    "invalid job id": "SLURM",
    "no such file": "SLURM",
    " by ": "SLURM: CANCELLED by <uid>",
    "os error ": "safetensors",
    "touchline report": "recognizes a report in a file, by the command that wrote it",
    "# Status and measurements of every run": "recognizes runs_status.yaml, by its first line",
    "# How every run of this experiment": "the same, of version 0.1.0",
    "  - name: ": "YAML",
}
"""Texts that are looked for and also stand in a string of the package, each with where they come from."""


def _literals(node: ast.AST, constants: dict[str, list[str]]) -> list[str]:
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return [text for element in node.elts for text in _literals(element, constants)]
    if isinstance(node, ast.Name | ast.Attribute):
        return constants.get(node.id if isinstance(node, ast.Name) else node.attr, [])
    if isinstance(node, ast.JoinedStr):
        return [text for part in node.values for text in _literals(part, constants)]
    return []


def _constants(tree: ast.Module) -> dict[str, list[str]]:
    """Strings of the module-level names of a module."""
    found: dict[str, list[str]] = {}
    for node in tree.body:
        names = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for name in names:
            if isinstance(name, ast.Name) and getattr(node, "value", None) is not None:
                values = ast.walk(node.value)  # type: ignore[attr-defined]
                texts = [each.value for each in values if isinstance(each, ast.Constant)]
                found[name.id] = [text for text in texts if isinstance(text, str)]
    return found


def _looked_for(tree: ast.Module, constants: dict[str, list[str]]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in SEARCHES and not isinstance(node.func.value, ast.Constant):
                yield from ((node.lineno, text) for text in _literals(node.args[0], constants))
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            # A tuple or a set on the right holds whole values; a name may hold a text.
            whole = not isinstance(node.comparators[0], ast.Name | ast.Attribute | ast.Subscript | ast.Call)
            if not whole and isinstance(node.left, ast.Constant | ast.Name | ast.JoinedStr):
                yield from ((node.lineno, text) for text in _literals(node.left, constants))


def _messages(trees: dict[str, ast.Module]) -> list[tuple[str, int, str]]:
    """Strings of the package of more than one word, without docstrings."""
    found = []
    for path, tree in trees.items():
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
                found.append((path, node.lineno, node.value))
    return [row for row in found if " " in row[2].strip()]


def decisions_on_words(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Return the texts of several words that are looked for and stand in a message, with the places that do it."""
    messages = _messages(trees)
    own = {path: _constants(tree) for path, tree in trees.items()}
    public = {name: texts for each in own.values() for name, texts in each.items() if not name.startswith("_")}
    found: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for line, text in _looked_for(tree, public | own[path]) if path.split("/")[0] not in READERS else ():
            if " " not in text or not re.search("[A-Za-z]{2}", text):
                continue
            said = any(text.strip() in message and (at, number) != (path, line) for at, number, message in messages)
            if said:
                found.setdefault(text, []).append(f"{path}:{line}")
    return found


def searches_in_prose(trees: dict[str, ast.Module]) -> list[str]:
    """Return the places that search in an attribute that holds words for the user."""

    def is_prose(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr in PROSE

    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            hit = False
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                hit = node.func.attr in SEARCHES and is_prose(node.func.value)
                hit |= node.func.attr in PATTERNS and any(map(is_prose, node.args))
            elif isinstance(node, ast.Compare):
                hit = any(isinstance(op, ast.In | ast.NotIn) for op in node.ops) and any(
                    map(is_prose, node.comparators)
                )
            if hit:
                found.append(f"{path}:{node.lineno}")
    return found


def _package() -> dict[str, ast.Module]:
    paths = sorted(SOURCE.rglob("*.py"))
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in paths}


def test_no_decision_rests_on_a_message() -> None:
    trees = _package()
    assert len(trees) > 100
    found = decisions_on_words(trees)
    unknown = {text: places for text, places in found.items() if text not in REVIEWED}
    assert unknown == {}, "use an enum or a field, or list a text of another program with where it comes from"
    assert set(REVIEWED) <= set(found), "an entry of the list that is not needed any more"
    # What Inspect says of a cancelled sample, and read errors shown by their first line.
    assert [place.partition(":")[0] for place in searches_in_prose(trees)] == ["evaluate/records.py"]


def test_the_checker_sees_the_decisions_that_were_there() -> None:
    message = 'reason = f"stopped by {signal}"\nnote = "trained on " + device\n'
    for decision in (
        'if end.reason.startswith("stopped by"): ...',
        'machine = note.removeprefix("trained on ")',
        'if "trained on" in note: ...',
        'STOPPED = ("stopped by", "killed")\nif end.reason.startswith(STOPPED): ...',
    ):
        trees = {"results/collect.py": ast.parse(message), "report/build.py": ast.parse(decision)}
        assert decisions_on_words(trees), decision
    for decision in ('x.message.endswith("(allowed)")', '"cut" in x.notes', "_QUOTED.search(x.message)"):
        assert searches_in_prose({"a.py": ast.parse(decision)}), decision
