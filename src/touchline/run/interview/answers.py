"""A question of the interview, its default, and readers of the answers that users type."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from touchline.core.errors import InputError
from touchline.core.quantity import Missing

if TYPE_CHECKING:
    from touchline.experiment.experiment import Experiment
    from touchline.run.interview.interview import Interview


NONE = "none"
"""Answer for nothing."""
CREATE = "create"
"""Answer for the template's example data."""
STUB = "name: x\nmodels: [x]\ndata: {path: x}\n"
"""Experiment that answers are tried on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Default:
    """Default answer."""

    text: str
    """The answer, as a user would type it."""
    reason: str
    """Evidence that it is taken from, in a line."""
    texts: tuple[str, ...] = ()
    """Entries of a list; empty where the answer alone gives them."""


Defaulted = Default | Missing


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Question of the interview, which is also a flag of the command."""

    name: str
    """Name of the answer; the flag with `_` for `-`."""
    metavar: str
    """Placeholder of the flag's value."""
    text: str
    """The question."""
    help: str
    """Help of the flag."""
    default: Callable[[Interview], Defaulted]
    """Returns the default, or why there is none."""
    parse: Callable[[Sequence[str], Interview], object]
    """Reads the answer; raises InputError if it is wrong."""
    choices: Callable[[Interview], Sequence[str]] = lambda _: ()
    """Returns possible answers, each with what it is."""
    is_asked: Callable[[Interview], bool] = lambda _: True
    """Whether the question applies, given the answers before it."""
    is_list: bool = False
    """Whether the flag is repeatable, and an answer a list."""
    key: str | None = None
    """Setting of experiment.yaml that it answers."""

    @property
    def flag(self) -> str:
        """Return the flag."""
        return f"--{self.name.replace('_', '-')}"


# ---- readers of answers ---------------------------------------------------------------------------------------------


def parts_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the entries of a list, separated by commas."""
    parts = tuple(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))
    if not parts:
        raise InputError("the answer is empty")
    return parts


def one_word(texts: Sequence[str]) -> str:
    """Return the only answer."""
    if len(texts) != 1 or not texts[0].strip():
        raise InputError("one answer is needed" if texts else "the answer is empty")
    return texts[0].strip()


def setting_reader(key: str) -> Callable[[Sequence[str], Interview], Any]:
    """Return a reader of a value of experiment.yaml, by the rules of the file."""

    def parse(texts: Sequence[str], _: Interview) -> Any:
        from touchline.experiment.overlay import setting

        return setting(tried(STUB, f"{key}={one_word(texts)}"), key)

    return parse


def tried(text: str, *overrides: str) -> Experiment:
    """Return the experiment that an answer is tried on.

    Raises:
        InputError: the answer is wrong; with the reasons in one line.
    """
    from touchline.experiment.read import read_experiment

    try:
        return read_experiment(text, "answer", overrides).experiment
    except InputError as error:
        reasons = [finding.message for finding in error.findings] or [error.message]
        hint = next((finding.hint for finding in error.findings if finding.hint), None)
        raise InputError("; ".join(dict.fromkeys(reasons)), hint=hint) from None


def fixed_choices(*lines: str) -> Callable[[Interview], Sequence[str]]:
    """Return a function that gives the same choices in every interview."""
    return lambda _: lines


def shown_names(names: Sequence[str], most: int = 6) -> str:
    """Return the first names, and dots if there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def unquoted(text: str) -> str:
    """Return a typed answer without the quotes around it."""
    text = text.strip()
    quoted = re.fullmatch(r"(['\"])(.*)\1", text)
    return text if quoted is None else quoted.group(2)
