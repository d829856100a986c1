"""A shell script's commands: pipelines, groups and what joins them, for checks that ask how a job will end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from touchline.slurm.shell_words import Operator, ShellParseError, ShellWord, read_words

_DEPTH = 40
_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:\[[^\]]*\])?\+?=(?P<value>.*)", re.DOTALL)
_REDIRECTS = frozenset({">", ">>", "<", "<<", "<<-", "<<<", "&>", "&>>", ">&", "<&", ">|", "<>"})
_CLOSING = frozenset({"then", "elif", "else", "fi", "do", "done", "esac", "}"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Simple:
    """Simple command with its words."""

    words: tuple[ShellWord, ...]
    """The command's name and its arguments; empty if only variables are set."""
    assignments: tuple[tuple[str, ShellWord], ...] = ()
    """Variables set before it, each with the whole word `NAME=value`."""
    redirects: tuple[tuple[str, ShellWord], ...] = ()
    """Operator and file of each redirection."""
    line: int
    """The line that it begins in, from 1."""
    column: int
    """The column, from 1."""

    @property
    def name(self) -> str:
        """The command's name without folders; empty if only variables are set."""
        return self.words[0].text.rpartition("/")[2] if self.words else ""

    @property
    def text(self) -> str:
        """The words, joined by blanks."""
        return " ".join(word.raw for word in self.words)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShellGroup:
    """Commands that are one: a subshell, a block, a loop, a condition, a function."""

    kind: str
    """`(`, `{`, `if`, `for`, `while`, `case`, `function`."""
    condition: tuple[Pipeline, ...] = ()
    """What is asked, of `if` and `while`; the words of `for` are left out."""
    body: tuple[Pipeline, ...] = ()
    """Body."""
    line: int
    """The line that it begins in, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """Commands joined by `|`, and how they stand to the next."""

    elements: tuple[Simple | ShellGroup, ...]
    """The commands; one where nothing is piped."""
    joined: str = ""
    """How it follows the one before: `&&`, `||`, or empty."""
    followed: str = ""
    """How the next one follows: `&&`, `||`, or empty."""
    is_background: bool = False
    """Whether the shell continues at once."""

    @property
    def line(self) -> int:
        """The line that it begins in, from 1."""
        return self.elements[0].line


@dataclass(frozen=True, kw_only=True, slots=True)
class ShellStatement:
    """Command with its place in a script."""

    command: Simple
    """The command."""
    pipeline: Pipeline
    """The pipeline that it is of."""
    parents: tuple[tuple[Pipeline, ShellGroup], ...] = ()
    """The groups around it from the outermost on, each with its own pipeline."""
    in_condition: bool = False
    """Whether the command is a question of an `if` or a `while`."""

    @property
    def is_background(self) -> bool:
        """Return True if the script continues without waiting for it."""
        return self.pipeline.is_background or any(pipeline.is_background for pipeline, _ in self.parents)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the groups around it."""
        return tuple(group.kind for _, group in self.parents)


class _Parser:
    def __init__(self, tokens: list[ShellWord | Operator]) -> None:
        self._tokens = tokens
        self._at = 0

    def _peek(self) -> ShellWord | Operator | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _is(self, *signs: str) -> bool:
        token = self._peek()
        return isinstance(token, Operator) and token.text in signs

    def _is_word(self, *words: str) -> bool:
        token = self._peek()
        return isinstance(token, ShellWord) and token.raw in words

    def _skip(self, *signs: str) -> None:
        while self._is(*signs):
            self._at += 1

    def sequence(self, depth: int, ends: frozenset[str]) -> tuple[Pipeline, ...]:
        """Read pipelines up to one of the words or signs in `ends`, which is not consumed."""
        if depth > _DEPTH:
            raise ShellParseError("commands nested too deeply")
        found: list[Pipeline] = []
        joined = ""
        while True:
            self._skip("\n", ";")
            token = self._peek()
            if token is None or (token.raw if isinstance(token, ShellWord) else token.text) in ends:
                return tuple(found)
            before = self._at
            pipeline = self._pipeline(depth, joined)
            if pipeline is None:
                self._at += self._at == before  # a sign without a place here
                joined = ""
                continue
            joined = ""
            background = False
            if self._is("&&", "||"):
                token = self._peek()
                joined = token.text if isinstance(token, Operator) else ""
                self._at += 1
            elif self._is("&"):
                background = True
                self._at += 1
            found.append(replace(pipeline, followed=joined, is_background=background))
            if background:
                self._spread(found)

    @staticmethod
    def _spread(found: list[Pipeline]) -> None:
        """Mark every pipeline of a list as background: `a && b &` starts both there."""
        index = len(found) - 1
        while found[index].joined and index > 0:
            index -= 1
            found[index] = replace(found[index], is_background=True)

    def _pipeline(self, depth: int, joined: str) -> Pipeline | None:
        while self._is_word("!", "time"):
            self._at += 1
        elements: list[Simple | ShellGroup] = []
        while True:
            element = self._element(depth)
            if element is not None:
                elements.append(element)
            if not self._is("|", "|&"):
                break
            self._at += 1
            self._skip("\n")
        if not elements:
            return None
        return Pipeline(elements=tuple(elements), joined=joined)

    def _element(self, depth: int) -> Simple | ShellGroup | None:
        token = self._peek()
        if isinstance(token, Operator):
            if token.text in _REDIRECTS:
                return self._simple()
            return self._block("(", frozenset({")"}), depth, token.line) if token.text == "(" else None
        if token is None:
            return None
        match token.raw:
            case "{":
                return self._block("{", frozenset({"}"}), depth, token.line)
            case "if":
                return self._condition(depth, token.line)
            case "while" | "until":
                return self._loop(depth, token.line)
            case "for" | "select":
                return self._for(depth, token.line)
            case "case":
                return self._case(depth, token.line)
            case "function":
                self._at += 1
                self._at += isinstance(self._peek(), ShellWord)  # its name
                self._skip("(", ")", "\n")
                return self._function(depth, token.line)
            case "[[":
                return self._test()
            case closing if closing in _CLOSING:
                self._at += 1
                return None
        after = self._tokens[self._at + 1 : self._at + 3]
        if [each.text for each in after if isinstance(each, Operator)] == ["(", ")"]:
            self._at += 3
            self._skip("\n")
            return self._function(depth, token.line)
        return self._simple()

    def _function(self, depth: int, line: int) -> ShellGroup | None:
        body = self._element(depth + 1) if depth < _DEPTH else None
        inner = (Pipeline(elements=(body,)),) if body is not None else ()
        return ShellGroup(kind="function", body=inner, line=line)

    def _block(self, kind: str, ends: frozenset[str], depth: int, line: int) -> ShellGroup:
        self._at += 1
        body = self.sequence(depth + 1, ends)
        self._at += 1
        return self._with_redirects(ShellGroup(kind=kind, body=body, line=line))

    def _with_redirects(self, group: ShellGroup) -> ShellGroup:
        while (token := self._peek()) is not None and isinstance(token, Operator) and token.text in _REDIRECTS:
            self._at += 1
            self._at += isinstance(self._peek(), ShellWord)
        return group

    def _condition(self, depth: int, line: int) -> ShellGroup:
        asked: list[Pipeline] = []
        body: list[Pipeline] = []
        ends = frozenset({"then", "elif", "else", "fi"})
        into = asked
        while True:
            self._at += 1  # if, then, elif, else
            into.extend(self.sequence(depth + 1, ends))
            if self._is_word("then", "else"):
                into = body
            elif self._is_word("elif"):
                into = asked
            else:
                self._at += 1  # fi
                break
        return self._with_redirects(ShellGroup(kind="if", condition=tuple(asked), body=tuple(body), line=line))

    def _loop(self, depth: int, line: int) -> ShellGroup:
        self._at += 1
        asked = self.sequence(depth + 1, frozenset({"do"}))
        self._at += 1
        body = self.sequence(depth + 1, frozenset({"done"}))
        self._at += 1
        return self._with_redirects(ShellGroup(kind="while", condition=asked, body=body, line=line))

    def _for(self, depth: int, line: int) -> ShellGroup:
        while (token := self._peek()) is not None and not self._is_word("do", "{"):
            self._at += 1
        end = "done" if isinstance(token, ShellWord) and token.raw == "do" else "}"
        self._at += 1
        body = self.sequence(depth + 1, frozenset({end}))
        self._at += 1
        return self._with_redirects(ShellGroup(kind="for", body=body, line=line))

    def _case(self, depth: int, line: int) -> ShellGroup:
        while self._peek() is not None and not self._is_word("in"):
            self._at += 1
        self._at += 1
        body: list[Pipeline] = []
        while self._peek() is not None and not self._is_word("esac"):
            while self._peek() is not None and not self._is(")") and not self._is_word("esac"):
                self._at += 1
            if self._is(")"):
                self._at += 1
                body.extend(self.sequence(depth + 1, frozenset({";;", ";&", ";;&", "esac"})))
                self._skip(";;", ";&", ";;&", "\n")
        self._at += 1
        return self._with_redirects(ShellGroup(kind="case", body=tuple(body), line=line))

    def _test(self) -> Simple:
        words: list[ShellWord] = []
        while (token := self._peek()) is not None:
            self._at += 1
            if isinstance(token, ShellWord):
                words.append(token)
                if token.raw == "]]":
                    break
            elif token.text == "\n":
                break
        return Simple(words=tuple(words), line=words[0].line, column=words[0].column)

    def _simple(self) -> Simple | None:
        words: list[ShellWord] = []
        assignments: list[tuple[str, ShellWord]] = []
        redirects: list[tuple[str, ShellWord]] = []
        first = self._peek()
        while (token := self._peek()) is not None:
            if isinstance(token, ShellWord):
                match = None if words else _ASSIGNMENT.fullmatch(token.raw)
                if match is not None:
                    assignments.append((match["name"], token))
                else:
                    words.append(token)
                self._at += 1
            elif token.text in _REDIRECTS:
                self._at += 1
                target = self._peek()
                if isinstance(target, ShellWord):
                    redirects.append((token.text, target))
                    self._at += 1
            else:
                break
        if first is None:
            return None
        return Simple(
            words=tuple(words),
            assignments=tuple(assignments),
            redirects=tuple(redirects),
            line=first.line,
            column=first.column if isinstance(first, ShellWord) else 1,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShellText:
    """A shell script's commands."""

    pipelines: tuple[Pipeline, ...]
    """The commands of the script itself, in order."""
    heredocs: tuple[tuple[int, int], ...] = ()
    """First and last line of each heredoc's text."""

    def steps(self) -> Iterator[ShellStatement]:
        """Return every command, in order, those inside groups and functions too."""
        yield from _steps(self.pipelines, (), in_condition=False)


def _steps(
    pipelines: tuple[Pipeline, ...], parents: tuple[tuple[Pipeline, ShellGroup], ...], *, in_condition: bool
) -> Iterator[ShellStatement]:
    for pipeline in pipelines:
        for element in pipeline.elements:
            if isinstance(element, Simple):
                yield ShellStatement(command=element, pipeline=pipeline, parents=parents, in_condition=in_condition)
            else:
                inside = (*parents, (pipeline, element))
                yield from _steps(element.condition, inside, in_condition=True)
                yield from _steps(element.body, inside, in_condition=in_condition)


def assigned(word: ShellWord) -> tuple[str, str] | None:
    """Return name and value of a word `NAME=value`, the value without quotes."""
    match = _ASSIGNMENT.fullmatch(word.text)
    return None if match is None else (match["name"], match["value"])


def read_shell(text: str) -> ShellText:
    """Read a script's commands.

    Raises:
        ShellParseError: it is nested too deeply.
    """
    tokens, heredocs = read_words(text)
    return ShellText(pipelines=_Parser(tokens).sequence(0, frozenset()), heredocs=heredocs)
