"""Commands of a shell script, read line by line: words, groups, and the operator that follows each.

A reader for checks, not an interpreter: quotes, continuations and substitutions are kept together, heredocs and
comments are left out, and nothing is expanded. What it cannot read as a shell would is read as words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

PIPES = ("|", "|&")
_JOINTS = (*PIPES, "&&", "||")
_NESTED = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_TOKEN = re.compile(
    rf"""(?P<blank>[ \t\r]+|\\\r?\n)
    |(?P<comment>\#[^\n]*)
    |(?P<end>\n)
    |(?P<redirect>(?:\d|&)?(?:<<<|<<-|<<|<&|<>|>>|>&|>\||[<>])(?!\())
    |(?P<operator>&&|\|\||\|&|;;&|;;|;&|[;&|()])
    |(?P<word>(?:[^\s'"\\;&|()<>`$]|\\.|'[^']*'|"(?:[^"\\]|\\.)*"|`[^`]*`|\$'(?:[^'\\]|\\.)*'|\$\{{[^}}\n]{{0,200}}\}}
        |\${_NESTED}|[<>]{_NESTED}|(?<==){_NESTED}|\$)+)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r"'(?P<single>[^']*)'|\"(?P<double>(?:[^\"\\]|\\.)*)\"|\\(?P<escaped>.)", re.DOTALL)
_SINGLE = re.compile(r"'[^']*'|\\.", re.DOTALL)
_DOUBLE = re.compile(r'"[^"]*"')
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(?:\[[^\]]*\])?\+?=.*", re.DOTALL)
_OPENING = frozenset({"{", "if", "for", "select", "while", "until", "case"})
_LISTING = frozenset({"for", "select", "case"})
_CLOSING = frozenset({"}", "fi", "done", "esac"})
_BETWEEN = frozenset({"then", "do", "else", "elif", "!", "time", "function"})


@dataclass(frozen=True, slots=True)
class ShellWord:
    """Word of a shell script."""

    raw: str
    line: int

    @property
    def text(self) -> str:
        """Text without its quotes; substitutions stay as they are written."""
        return _QUOTED.sub(_unquoted, self.raw)

    @property
    def is_literal(self) -> bool:
        """Return True if the shell leaves it as it is: no variable, command or pattern."""
        expanded = _SINGLE.sub("", self.raw)
        return re.search(r"[$`]|[<>]\(", expanded) is None and re.search(r"[*?\[~(]", _DOUBLE.sub("", expanded)) is None


def _unquoted(match: re.Match[str]) -> str:
    return match["single"] or match["double"] or (match["escaped"] or "").strip("\n")


@dataclass(kw_only=True, slots=True, eq=False)
class ShellGroup:
    """Commands that are one: a subshell, a block, a loop, a condition, a function."""

    kind: str
    """`(`, `{`, `if`, `for`, `while`, `case`, ..."""
    parent: ShellGroup | None
    after: str = ""
    """Operator behind it: `|`, `&&`, `||`, `&`, or empty."""
    in_background: bool = False
    """Whether the list of commands that it is part of ends with `&`."""


@dataclass(kw_only=True, slots=True, eq=False)
class ShellCommand:
    """Simple command with its place in a script."""

    parent: ShellGroup | None
    line: int
    words: list[ShellWord] = field(default_factory=list)
    """The command's name and its arguments; empty if only variables are set."""
    assignments: list[ShellWord] = field(default_factory=list)
    """Words `NAME=value` before it."""
    outputs: list[ShellWord] = field(default_factory=list)
    """Files that it writes by a redirection."""
    after: str = ""
    """Operator behind it: `|`, `&&`, `||`, `&`, or empty."""
    in_background: bool = False
    """Whether the list of commands that it is part of ends with `&`."""

    @property
    def name(self) -> str:
        """The command's name without folders; empty if only variables are set."""
        return self.words[0].text.rpartition("/")[2] if self.words else ""

    @property
    def around(self) -> tuple[ShellCommand | ShellGroup, ...]:
        """The command and the groups around it, the innermost first."""
        found: list[ShellCommand | ShellGroup] = [self]
        while (group := found[-1].parent) is not None:
            found.append(group)
        return tuple(found)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the groups around it, the innermost first."""
        return tuple(each.kind for each in self.around if isinstance(each, ShellGroup))


class _Reader:
    def __init__(self) -> None:
        self.commands: list[ShellCommand] = []
        self.hidden: set[int] = set()
        self._group: ShellGroup | None = None
        self._command: ShellCommand | None = None
        self._levels: list[list[ShellCommand | ShellGroup]] = [[]]
        self._redirect = ""
        self._is_function = False
        self._delimiters: list[tuple[str, bool]] = []

    def read(self, text: str) -> None:
        at, line = 0, 1
        while at < len(text):
            match = _TOKEN.match(text, at)
            token = text[at] if match is None else match[0]
            kind = "word" if match is None else match.lastgroup
            at += len(token)
            if kind == "word":
                self.hidden.update(range(line + 1, line + token.count("\n") + 1))
                self._word(ShellWord(token, line))
            elif kind == "redirect":
                self._redirect = token.lstrip("0123456789&")
            elif kind in ("operator", "end"):
                self._operator(token)
            line += token.count("\n")
            if kind == "end" and self._delimiters:
                end = self._heredocs_end(text, at)
                after = line + text.count("\n", at, end)
                self.hidden.update(range(line, after))
                at, line = end, after
        self._finish("")

    def _word(self, word: ShellWord) -> None:
        if self._redirect:
            if self._redirect in ("<<", "<<-"):
                self._delimiters.append((word.text, self._redirect == "<<-"))
            elif self._redirect.startswith(">") and self._command is not None:
                self._command.outputs.append(word)
            self._redirect = ""
            return
        if self._command is None:
            if word.raw in _BETWEEN:
                return
            if word.raw in _CLOSING:
                self._close()
                return
            if word.raw in _OPENING:
                self._open(word.raw)
                if word.raw not in _LISTING:
                    return
            self._command = ShellCommand(parent=self._group, line=word.line)
        is_assignment = not self._command.words and _ASSIGNMENT.fullmatch(word.raw)
        (self._command.assignments if is_assignment else self._command.words).append(word)

    def _operator(self, sign: str) -> None:
        if sign == "(":
            self._is_function = self._command is not None  # `name () {`
            self._command = None
            if not self._is_function:
                self._open("(")
        elif sign == ")":
            kind = None if self._group is None else self._group.kind
            if kind == "case":  # a pattern
                self._command = None
            elif kind == "(":
                self._close()
        else:
            self._finish(sign if sign in _JOINTS or sign == "&" else "")

    def _open(self, kind: str) -> None:
        self._group = ShellGroup(kind="function" if self._is_function and kind == "{" else kind, parent=self._group)
        self._is_function = False
        self._levels[-1].append(self._group)
        self._levels.append([])

    def _close(self) -> None:
        self._finish("")
        if self._group is not None:
            self._group = self._group.parent
            self._levels.pop()

    def _finish(self, sign: str) -> None:
        """End the current command with an operator; without one it is that of the group that has just ended."""
        level = self._levels[-1]
        if self._command is not None:
            self.commands.append(self._command)
            level.append(self._command)
            self._command = None
        if not level or not sign:
            return
        level[-1].after = sign
        for place in range(len(level) - 1, -1, -1) if sign == "&" else ():
            level[place].in_background = True
            if place and level[place - 1].after not in _JOINTS:
                break

    def _heredocs_end(self, text: str, at: int) -> int:
        """Return the end of the heredocs that the line just ended has begun."""
        for delimiter, strips in self._delimiters:
            while at < len(text):
                end = text.find("\n", at)
                end = len(text) if end < 0 else end
                line = text[at:end].rstrip("\r")
                at = min(end + 1, len(text))
                if (line.lstrip("\t") if strips else line) == delimiter:
                    break
        self._delimiters.clear()
        return at


def read_shell(text: str) -> tuple[tuple[ShellCommand, ...], frozenset[int]]:
    """Return a script's commands in order, and the lines that are inside a heredoc or a quoted word."""
    reader = _Reader()
    reader.read(text)
    return tuple(reader.commands), frozenset(reader.hidden)
