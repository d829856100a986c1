"""Output of commands: data on stdout, messages on stderr, foreign text without control sequences."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import typer

from touchline.core.errors import TouchlineError, finding_lines, remedy_lines
from touchline.core.json_text import answer, answer_object, json_text
from touchline.core.table import Column, Section, Table, Value, text_lines
from touchline.core.text import valid_utf8, without_controls

if TYPE_CHECKING:
    from pathlib import Path

    from rich.text import Text

    from touchline.core.finding import Finding

_COMMAND = re.compile(r" *(- )?(\w+: )?(touchline|hf|pip|make) ")
"""Beginning of a line that is a command to copy."""

_SCREEN = 80


def print_status(text: str) -> None:
    """Print a message on stderr."""
    _write(sys.stderr, _broken_lines(sys.stderr, text))


def print_output(text: str) -> None:
    """Print text on stdout."""
    print_data(_broken_lines(sys.stdout, text))


def print_data(text: str) -> None:
    """Print text on stdout, as it is where no terminal reads it: JSON, CSV, a diff, a file."""
    _write(sys.stdout, text, "" if text.endswith("\n") else "\n")


def print_now(text: str, end: str = "\n", *, redraws: bool = False) -> None:
    """Print text on stdout at once; it may replace the line that the cursor is on."""
    _write(sys.stdout, without_controls(text), end, before="\r\x1b[K" if redraws else "")
    sys.stdout.flush()


def ask(prompt: str) -> str:
    """Return the line that the user types behind a prompt on stderr.

    Raises:
        EOFError: stdin has ended.
    """
    _write(sys.stderr, without_controls(prompt), "")
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.rstrip("\n")


def confirm(question: str) -> None:
    """Ask the user a question.

    Raises:
        typer.Abort: the answer is no.
    """
    typer.confirm(displayed(question), abort=True, err=True)


def rich_text(text: str) -> Text:
    """Return text for a display that rich draws."""
    from rich.text import Text

    return Text(displayed(text))


def displayed(text: str) -> str:
    """Return text of any origin as a terminal may show it."""
    return valid_utf8(without_controls(text))


def _write(stream: TextIO, text: str, end: str = "\n", *, before: str = "") -> None:
    """Write to stdout or stderr, as nothing else of the commands does. A terminal gets nothing that it would obey."""
    stream.write(f"{before}{displayed(text) if stream.isatty() else valid_utf8(text)}{end}")
    if stream is sys.stderr:
        stream.flush()


def _broken_lines(stream: TextIO, text: str) -> str:
    """Return text without control sequences; a terminal gets it broken between words, commands to copy whole."""
    text = without_controls(text)
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(line if _COMMAND.match(line) else _broken(line, width) for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    """Return a line broken at spaces, what follows indented."""
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def print_json(kind: Any, value: object, key: str, **beside: tuple[Any, object]) -> None:
    """Print `{"schema_version": 1, key: value}`; the values as their dataclasses say.

    Args:
        beside: further keys, each with a type and a value.
    """
    print_data(json_text(answer(**{key: (kind, value)}, **beside)))


def print_object(value: object) -> None:
    """Print a dataclass with its own `schema_version` as one JSON object."""
    print_data(json_text(answer_object(type(value), value)))


def screen_width() -> int:
    """Return the columns of a first screen: at most 80, fewer on a narrower terminal."""
    return min(_SCREEN, shutil.get_terminal_size().columns) if sys.stdout.isatty() else _SCREEN


def print_table(header: Sequence[Column | str], rows: Sequence[Sequence[Value]], title: str | None = None) -> None:
    """Print a table on stdout: within the width of a terminal, full width elsewhere."""
    columns = tuple(Column(each) if isinstance(each, str) else each for each in header)
    print_declared(Table(columns, tuple(tuple(row) for row in rows), title or ""))


def print_declared(table: Table) -> None:
    """Print a declared table on stdout, with its title and notes."""
    if table.title:
        print_output(table.title)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    _write(sys.stdout, without_controls("\n".join(text_lines(table, width))))
    for note in table.notes:
        print_output(note)


def print_section(section: Section) -> None:
    """Print a section on stdout, after an empty line. Print nothing if the section is empty."""
    if section.is_empty:
        return
    print_output(f"\n{section.title}")
    for text in section.paragraphs:
        print_output(text)
    for table in section.tables:
        print_declared(table)
    for sentence, text in section.blocks:
        print_output(f"- {sentence}")
        _write(sys.stdout, without_controls(textwrap.indent(text, "    ")))
    for line in section.lines:
        print_output(f"- {line}")


def print_removed(source: Path) -> None:
    """Name on stderr the settings of an experiment whose results this version no longer shows."""
    from touchline.run.folders import ExperimentFolder, is_experiment
    from touchline.run.recorded import removed_lines

    for line in removed_lines(ExperimentFolder(source)) if is_experiment(source) else ():
        print_status(f"note: {line}")


def show_findings(findings: Sequence[Finding]) -> None:
    """Print a line per finding, with its hint below."""
    for line in finding_lines(findings):
        print_status(line)


def show_error(error: TouchlineError) -> None:
    """Print an error with its findings, the expected value and a hint."""
    show_findings(error.findings)
    print_status(f"error: {error.message}")
    for line in remedy_lines(error):
        print_status(line)
