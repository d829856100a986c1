"""Notebooks: what their cells printed, as lines of a log, and what their cells were given, as arguments.

Each piece of text stands on the line of the notebook's file on which it begins, so that places are those of an editor.
Code is parsed and never run; what it says is a guess, for a cell may have been edited after it ran.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator, Mapping

_TABLE_ROW = re.compile(r"<tr[^>]*>(.*?)</tr>", re.DOTALL | re.IGNORECASE)
_TABLE_CELL = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>", re.DOTALL | re.IGNORECASE)
_BAR = re.compile(r"\[\s*(\d+)/(\d+) (\d[\d:]*), Epoch [\d./]+\]")
"""The Trainer's bar: what is done, of what, and how long it took."""
_TAG = re.compile(r"<[^>]*>")
_MAGIC = re.compile(r"^\s*[!%].*$", re.MULTILINE)
_ADAPTER_KEYS = frozenset({"r", "lora_alpha", "target_modules"})
_CODE_LIMIT = 1 << 16


def is_notebook(document: object) -> bool:
    """Return True if a parsed JSON file is a notebook."""
    return isinstance(document, Mapping) and isinstance(document.get("cells"), list) and "nbformat" in document


def printed_text(raw: str, document: Mapping[str, object]) -> str:
    """Return the outputs of a notebook as text with as many lines as its file."""
    lines = [""] * (raw.count("\n") + 1)
    at, number = 0, 0
    for text in _outputs(document):
        literal = next((each for each in _literals(text) if raw.find(each, at) >= 0), None)
        if literal is not None:
            found = raw.find(literal, at)
            number += raw.count("\n", at, found)
            at = found
        # Several lines of output on one line of the file part as redrawn bars do.
        piece = text.rstrip("\n").replace("\n", "\r")
        lines[number] = f"{lines[number]}\r{piece}" if lines[number] else piece
    return "\n".join(lines) + "\n"


def arguments(document: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments with plain values that the calls of executed cells were given; of two the later one's."""
    names: dict[str, object] = {}
    found: dict[str, object] = {}
    for cell in _cells(document):
        if cell.get("cell_type") != "code" or cell.get("execution_count") is None:
            continue
        try:
            tree = ast.parse(_MAGIC.sub("pass", _joined(cell.get("source"))[:_CODE_LIMIT]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                names[node.targets[0].id] = _value(node.value, names)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                given = {
                    keyword_.arg: _value(keyword_.value, names)
                    for keyword_ in node.keywords
                    if keyword_.arg is not None
                }
                found |= {key: value for key, value in given.items() if value is not None}
                loads = isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained" and node.args
                if loads and isinstance(name := _value(node.args[0], names), str):
                    found.setdefault("model_name_or_path", name)
    adapter = {key: found.pop(key) for key in _ADAPTER_KEYS if key in found}
    return {**found, **({"lora": adapter} if adapter else {})}


def _value(node: ast.expr, names: Mapping[str, object]) -> object:
    """Return the plain value of an expression: a literal, or a name bound to one; None for all others."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, str | int | float | bool | list) else None


def _outputs(document: Mapping[str, object]) -> Iterator[str]:
    for cell in _cells(document):
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else ():
            if isinstance(output, Mapping):
                yield from _pieces(output)


def _pieces(output: Mapping[str, object]) -> Iterator[str]:
    kind = output.get("output_type")
    if kind == "stream":
        yield from _lines(output.get("text"))
    elif kind == "error":
        yield from _lines(output.get("traceback"))
    else:
        data = output.get("data")
        if isinstance(data, Mapping):
            yield from _table(_joined(data.get("text/html"))) or _lines(data.get("text/plain"))


def _table(text: str) -> list[str]:
    """Return the rows of a table of losses as rows of a log; none if there is no such table."""
    bars = [
        f"{100 * int(done) // max(1, int(total)):3d}%|#| {done}/{total} [{elapsed}<00:00]"
        for done, total, elapsed in _BAR.findall(text[: 1 << 22])
    ]
    rows = [
        [html.unescape(_TAG.sub("", cell)).strip() for cell in _TABLE_CELL.findall(row)]
        for row in _TABLE_ROW.findall(text[: 1 << 22])
    ]
    if not rows or not {"step", "training loss"} <= {name.lower() for name in rows[0]}:
        return []
    keys = [
        {"training loss": "loss", "validation loss": "eval_loss"}.get(name.lower(), name.lower()) for name in rows[0]
    ]
    found = []
    for row in rows[1:]:
        values = {key: cell for key, cell in zip(keys, row, strict=False) if _is_number(cell)}
        if "step" in values:
            found.append(json.dumps({key: float(cell.replace(",", "")) for key, cell in values.items()}))
    return [*bars, *found]


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?[\d,]*\.?\d+(?:[eE][-+]?\d+)?", cell) is not None


def _cells(document: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    cells = document.get("cells")
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, Mapping):
            yield cell


def _lines(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _joined(value: object) -> str:
    return "".join(_lines(value))


def _literals(text: str) -> tuple[str, str]:
    """Return the text as JSON writes it, with and without characters beyond ASCII."""
    return json.dumps(text, ensure_ascii=False), json.dumps(text)
