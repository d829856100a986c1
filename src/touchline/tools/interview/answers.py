"""A question of the interview, its default, and readers of the answers that users type."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from touchline.core.errors import InputError
from touchline.core.near import near_names
from touchline.core.quantity import Missing

if TYPE_CHECKING:
    from touchline.experiment.experiment import Experiment
    from touchline.tools.interview.interview import Interview

NONE = "none"
"""Answer for nothing."""
CREATE = "create"
"""Answer for example data."""
_SHORT_KEYS = {"lr": "train.learning_rate", "batch": "train.global_batch_size", "packing": "train.packed"}
STUB = "name: x\nmodels: [x]\ndata: {path: x}\n"
"""Experiment that answers are tried on."""


@dataclass(frozen=True, slots=True)
class Default:
    """Default answer."""

    text: str
    reason: str
    """Evidence that it is taken from, in a line."""
    texts: tuple[str, ...] = ()
    """Entries of a list; empty where the answer alone gives them."""


Defaulted = Default | Missing
Reader = Callable[[Sequence[str], "Interview"], Any]
"""Reads an answer; raises InputError if it is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Question of the interview, which is also a flag of the command."""

    name: str
    """Name of the answer; the flag with `_` for `-`."""
    metavar: str
    text: str
    help: str
    default: Callable[[Interview], Defaulted]
    """Returns the default, or why there is none."""
    parse: Reader
    """Reads the answer; raises InputError if it is wrong."""
    choices: Callable[[Interview], Sequence[str]] = lambda _: ()
    """Returns possible answers, each with what it is."""
    applies: Callable[[Interview], bool] = lambda _: True
    """Whether there is something to answer, given the answers before it."""
    is_asked: bool = True
    """Whether it is asked where it has a default; otherwise the default is taken."""
    is_list: bool = False
    """Whether the flag is repeatable, and an answer a list."""
    key: str | None = None
    """Setting of experiment.yaml that it answers."""

    @property
    def flag(self) -> str:
        """Return the flag."""
        return f"--{self.name.replace('_', '-')}"


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


def setting_reader(key: str, unset: str | None = None) -> Reader:
    """Return a reader of a value of experiment.yaml, by the rules of the file."""

    def parse(texts: Sequence[str], _: Interview) -> Any:
        from touchline.experiment.settings import value_of

        word = one_word(texts)
        return None if word == unset else value_of(tried(STUB, f"{key}={word}"), key)

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


def factors(texts: Sequence[str], _: Interview) -> dict[str, list[object]]:
    """Return the factors of an answer: dotted keys with their levels, a single one where a setting is fixed."""
    found: dict[str, list[object]] = {}
    for word in " ".join(texts).split():
        if word == NONE:
            continue
        name, equals, levels = word.partition("=")
        if not equals or not levels:
            raise InputError(f"{word!r} is not KEY=LEVEL,LEVEL", expected="for example rank=8,32")
        key = _setting_key(name)
        found[key] = tried(f"{STUB}factors:\n  {key}: [{levels}]\n").factors[key]
    return found


def _setting_key(name: str) -> str:
    """Return the dotted key of a setting named by its last part.

    Raises:
        InputError: there is none, or the answer to another question decides it.
    """
    from touchline.experiment.training import TrainConfig
    from touchline.experiment.validate import dotted_keys

    known = dotted_keys(TrainConfig, "train.")
    if name in ("model", "models", "data", "data.path"):
        raise InputError(f"{name!r} varies if you name several", expected="--model A --model B, --data A --data B")
    if name in _SHORT_KEYS or name in known or name.startswith(("data.", "evaluate.")):
        return _SHORT_KEYS.get(name, name)
    ends = [key for key in known if key.endswith(f".{name}")]
    if not ends:
        near = near_names(name, [key.rpartition(".")[2] for key in known])
        raise InputError(f"{name!r} is not a setting", expected=f"one like {near[0]!r}" if near else "such as rank")
    return min(ends, key=len)


def unquoted(text: str) -> str:
    """Return a typed answer without the quotes around it."""
    text = text.strip()
    quoted = re.fullmatch(r"(['\"])(.*)\1", text)
    return text if quoted is None else quoted.group(2)
