"""Shell text as words and operators, with the line and column of each; heredocs and comments are left out.

A reader for checks, not an interpreter: quotes, continuations, substitutions and arrays are kept together, and nothing
is expanded. Source: POSIX.1-2017, Shell Command Language, section 2.3 (token recognition), and bash's additions.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

_DEPTH = 40
_BLANK = " \t\r"
_ENDS = frozenset(" \t\r\n;&|()<>")
_OPERATORS = ("&&", "||", ";;&", ";;", ";&", "|&", "&>>", "&>", ">>", "<<<", "<<-", "<<", ">&", "<&", ">|", "<>")
_REDIRECT = re.compile(r"(?:\d{0,3}|\{\w+\})(?=[<>])")
_EXPANDS = re.compile(r"[*?\[~]")


class ShellParseError(Exception):
    """A text that is nested too deeply."""


@dataclass(frozen=True, slots=True)
class ShellWord:
    """Word of a shell script."""

    raw: str
    """Text as written."""
    text: str
    """Without its quotes; substitutions stay as they are written."""
    is_literal: bool
    """Whether the shell leaves it as it is: no variable, command or pattern."""
    line: int
    """The line, from 1."""
    column: int
    """The column, from 1."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Operator between words."""

    text: str
    """`;`, `&&`, `|`, `\\n`, `(`, `>`, ..."""
    line: int
    """The line, from 1."""


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.tokens: list[ShellWord | Operator] = []
        self.heredocs: list[tuple[str, bool]] = []
        self.heredoc_lines: list[tuple[int, int]] = []
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def place(self, at: int) -> tuple[int, int]:
        line = bisect.bisect_right(self._starts, at)
        return line, at - self._starts[line - 1] + 1

    def read(self) -> None:
        text, end = self.text, len(self.text)
        while self.at < end:
            mark = text[self.at]
            if mark in _BLANK:
                self.at += 1
            elif text.startswith("\\\n", self.at):
                self.at += 2
            elif mark == "#":
                self.at = _line_end(text, self.at)
            elif mark == "\n":
                self._operator("\n")
                self._bodies()
            elif text.startswith(("<(", ">("), self.at):
                self._word()
            elif mark in ";&|()<>":
                self._sign()
            else:
                self._word()

    def _operator(self, sign: str) -> None:
        self.tokens.append(Operator(sign, self.place(self.at)[0]))
        self.at += len(sign)

    def _sign(self) -> None:
        text = self.text
        if text.startswith("((", self.at):
            end = self._balanced(self.at, "(", ")", 0)
            if text.startswith("))", end - 2):  # arithmetic, which holds no commands
                line, column = self.place(self.at)
                raw = text[self.at : end]
                self.tokens.append(ShellWord(raw, raw, False, line, column))
                self.at = end
                return
        sign = next((each for each in _OPERATORS if text.startswith(each, self.at)), text[self.at])
        self._operator(sign)
        if sign in ("<<", "<<-"):
            self._heredoc(strip=sign == "<<-")

    def _heredoc(self, *, strip: bool) -> None:
        while self.text[self.at : self.at + 1] in (" ", "\t"):
            self.at += 1
        if self.at < len(self.text) and self.text[self.at] not in _ENDS:
            self._word()
            last = self.tokens[-1]
            if isinstance(last, ShellWord):
                self.heredocs.append((last.text, strip))

    def _bodies(self) -> None:
        """Pass over the texts of the heredocs that the line just ended has begun."""
        for delimiter, strip in self.heredocs:
            first = self.place(self.at)[0]
            while self.at < len(self.text):
                end = _line_end(self.text, self.at)
                line = self.text[self.at : end].rstrip("\r")
                self.at = min(end + 1, len(self.text))
                if (line.lstrip("\t") if strip else line) == delimiter:
                    break
            self.heredoc_lines.append((first, self.place(max(self.at - 1, 0))[0]))
        self.heredocs.clear()

    def _word(self) -> None:
        text, begun = self.text, self.at
        number = _REDIRECT.match(text, begun)
        if number is not None and number.end() > begun and not text.startswith(("<(", ">("), begun):
            self.at = number.end()  # the descriptor of a redirection says nothing here
            return
        parts: list[str] = []
        literal = True
        while self.at < len(text):
            start, mark = self.at, text[self.at]
            if mark == "\\":
                parts.append("" if text.startswith("\n", start + 1) else text[start + 1 : start + 2])
                self.at = start + 2
            elif mark == "'":
                end = text.find("'", start + 1)
                self.at = len(text) if end < 0 else end + 1
                parts.append(text[start + 1 : self.at - 1])
            elif mark == '"':
                self.at = self._double(start, 0)
                inner = text[start + 1 : self.at - 1]
                literal = literal and "$" not in inner and "`" not in inner
                parts.append(inner)
            elif mark == "$" or mark == "`":
                self.at = self._substitution(start, 0)
                literal = False
                parts.append(text[start : self.at])
            elif mark == "(" and (text[start - 1] in "=@!+*?" and start > begun):
                self.at = self._balanced(start, "(", ")", 0)
                literal = False
                parts.append(text[start : self.at])
            elif mark in "<>" and start == begun and text.startswith("(", start + 1):
                self.at = self._balanced(start + 1, "(", ")", 0)
                literal = False
                parts.append(text[start : self.at])
            elif mark in _ENDS:
                break
            else:
                literal = literal and not _EXPANDS.match(mark)
                parts.append(mark)
                self.at = start + 1
        line, column = self.place(begun)
        self.tokens.append(ShellWord(text[begun : self.at], "".join(parts), literal, line, column))

    def _substitution(self, at: int, depth: int) -> int:
        text = self.text
        if text[at] == "`":
            end = at + 1
            while end < len(text) and text[end] != "`":
                end += 2 if text[end] == "\\" else 1
            return min(end + 1, len(text))
        if text.startswith("$(", at):
            return self._balanced(at + 1, "(", ")", depth)
        if text.startswith("${", at):
            return self._balanced(at + 1, "{", "}", depth)
        if text.startswith("$'", at):
            end = at + 2
            while end < len(text) and text[end] != "'":
                end += 2 if text[end] == "\\" else 1
            return min(end + 1, len(text))
        return at + 1

    def _double(self, at: int, depth: int) -> int:
        """Return the end of a text in double quotes."""
        text, end = self.text, at + 1
        while end < len(text):
            mark = text[end]
            if mark == '"':
                return end + 1
            if mark == "\\":
                end += 2
            elif mark == "`" or text.startswith(("$(", "${"), end):
                end = self._substitution(end, depth + 1)
            else:
                end += 1
        return len(text)

    def _balanced(self, at: int, opens: str, closes: str, depth: int) -> int:
        """Return the end of the bracket that opens at `at`."""
        if depth > _DEPTH:
            raise ShellParseError("substitutions nested too deeply")
        text, end, level = self.text, at, 0
        while end < len(text):
            mark = text[end]
            if mark == opens:
                level += 1
            elif mark == closes:
                level -= 1
                if level == 0:
                    return end + 1
            elif mark == "\\":
                end += 1
            elif mark == "'" and opens == "(":
                found = text.find("'", end + 1)
                end = len(text) if found < 0 else found
            elif mark == '"':
                end = self._double(end, depth + 1) - 1
            elif mark == "`" or text.startswith(("$(", "${"), end):
                end = self._substitution(end, depth + 1) - 1
            elif mark == "#" and opens == "(" and text[end - 1].isspace():
                end = _line_end(text, end) - 1
            end += 1
        return len(text)


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def read_words(text: str) -> tuple[list[ShellWord | Operator], tuple[tuple[int, int], ...]]:
    """Return words and operators, and the first and last line of each heredoc's text.

    Raises:
        ShellParseError: it is nested too deeply.
    """
    reader = _Reader(text)
    reader.read()
    return reader.tokens, tuple(reader.heredoc_lines)
