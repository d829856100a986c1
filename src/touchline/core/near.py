"""Known names that resemble an unknown one, "did you mean ...?", and names that version 0.1.0 had.

Three questions differ. `near_names` serves closed sets, where anything unknown is wrong. `nearest` counts
slips in the keys of a trainer's arguments. `misspelled` is strict: many unknown names belong to the
user there and are right.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, overload

from touchline.core.errors import InputError

_SHORTEST = 4
"""A shorter name is near to too many others."""
_SUBSTITUTION_FROM = 7
"""In a shorter name another letter makes another word: `top_k`, `top_p`."""
_TWO_FROM = 10
"""A name of so many letters may have two slips."""
_DIGITS = re.compile(r"\d+")


def near_names(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the known names that resemble a name, the nearest first."""
    return difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)


@overload
def did_you_mean(near: Sequence[str], otherwise: str) -> str: ...
@overload
def did_you_mean(near: Sequence[str], otherwise: None = None) -> str | None: ...
def did_you_mean(near: Sequence[str], otherwise: str | None = None) -> str | None:
    """Return `did you mean 'a' or 'b'?`, or what is said where nothing is near."""
    return f"did you mean {' or '.join(map(repr, near))}?" if near else otherwise


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the known names that differ in case and punctuation alone, else those with the fewest slips."""
    bare, allowed = _letters(name), slips_allowed(name)
    best: list[str] = []
    for other in known:
        if _letters(other) == bare:
            return (other,)
        if abs(len(other) - len(name)) > allowed or (other[:1] != name[:1] and other[-3:] != name[-3:]):
            continue
        away = slips(name, other, allowed)
        if away < allowed or (away == allowed and not best):
            best = [] if away < allowed else best
            allowed = away
            best.append(other)
        elif away == allowed:
            best.append(other)
    return tuple(best)


def slips_allowed(name: str) -> int:
    """Return the number of slips that a name of that length may have."""
    return 0 if len(name) < 5 else 1 if len(name) < 9 else 2


def slips(one: str, other: str, limit: int) -> int:
    """Return the letters to add, drop, replace or swap with a neighbor (Damerau-Levenshtein), at most limit + 1."""
    before_last: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        here = [row]
        for column, against in enumerate(other, start=1):
            cost = min(last[column] + 1, here[column - 1] + 1, last[column - 1] + (letter != against))
            if before_last and column > 1 and letter == other[column - 2] and one[row - 2] == against:
                cost = min(cost, before_last[column - 2] + 1)
            here.append(cost)
        if min(here) > limit:
            return limit + 1
        before_last, last = last, here
    return last[-1]


def _letters(name: str) -> str:
    return re.sub(r"[-_. ]", "", name).casefold()


def misspelled(name: str, known: Iterable[str], taken: Collection[str] = ()) -> str | None:
    """Return the one known name that this is a misspelling of. None if there is none, or more than one.

    Numbers are never misspelt here: `llama3_2_1b` and `llama3_2_3b` are two models.

    Args:
        taken: known names that are used already, and so are not what was meant.
    """
    if len(name) < _SHORTEST:
        return None
    away = {other: _slips_between(name, other) for other in known if other not in taken and other != name}
    near = {other: count for other, count in away.items() if count is not None}
    best = [other for other, count in near.items() if count == min(near.values())]
    return best[0] if len(best) == 1 else None


def _slips_between(name: str, other: str) -> int | None:
    """Return the number of slips between two names. None if they are different words."""
    if _DIGITS.findall(name) != _DIGITS.findall(other):
        return None
    if _plain(name) == _plain(other):
        return 0
    shorter = min(len(name), len(other))
    if shorter < _SUBSTITUTION_FROM and len(name) == len(other) and sorted(name) != sorted(other):
        return None
    most = 2 if shorter >= _TWO_FROM else 1
    found = slips(name, other, most)
    return found if found <= most else None


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name).lower()


class RemovedKind(StrEnum):
    """Kind of a removed thing."""

    COMMAND = "command"
    OPTION = "option"
    EXTRA = "extra"
    KEY = "key"
    EXPORT_TARGET = "export target"
    LOG_FORMAT = "log format"
    TRAINER = "trainer"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class Removed:
    """Removed thing."""

    kind: RemovedKind
    name: str
    """Its name: `check --sarif`, `evaluate.general`."""
    instead: str
    """What to use instead; empty if there is nothing."""

    @property
    def typed(self) -> list[str]:
        """Return the words of a command line with it; empty if it is not typed there."""
        return _TYPED.get(self.kind, "").format(self.name).split()

    def __str__(self) -> str:
        words = self.name.split()
        begins = next((place for place, word in enumerate(words) if word.startswith("-")), 0)
        return f"`{' '.join(words[begins:])}` was removed after 0.1.0{f', use {self.instead}' if self.instead else ''}"


_TYPED = {RemovedKind.COMMAND: "{}", RemovedKind.OPTION: "{}", RemovedKind.ADAPTER: "estimate --adapter {}"}
"""Command lines that name a thing of a kind."""
_ADAPTERS = (
    *("adalora", "boft", "c3a", "delora", "fourierft", "gralora", "hira", "loha"),
    *("lokr", "oft", "randlora", "road", "shira", "vblora", "vera", "waveft"),
)
REMOVED = tuple(
    Removed(RemovedKind(kind), name, instead)
    for kind, name, instead in (
        ("option", "check --sarif", "--json"),
        ("option", "report --watch", "touchline status DIR --watch"),
        ("option", "report --every", "touchline status DIR --watch"),
        ("option", "report --parquet", "samples.jsonl"),
        ("extra", "trackers", "the extra wandb or tensorboard"),
        ("extra", "trackio", "the extra wandb or tensorboard"),
        ("extra", "mlflow", "the extra wandb or tensorboard"),
        ("export target", "trackio", "wandb or tensorboard"),
        ("export target", "mlflow", "wandb or tensorboard"),
        ("key", "evaluate.general", "an Inspect task under evaluate.tasks"),
        ("option", "place --correlation", ""),
        ("option", "place --seed", ""),
        ("option", "place --max-array-size", "touchline submit"),
        ("option", "place --emit array", "touchline submit, or --write-scripts mega"),
        ("option", "place --write-scripts array", "touchline submit, or --write-scripts mega"),
        ("option", "history calibration --plot", "--json"),
        ("option", "place --plot", "--json"),
        ("option", "pack --plot", "--json"),
        ("option", "data audit --plot", "--json"),
        ("option", "data audit --scorer", "touchline check FILE.py, which tests a scorer on synthetic answers"),
        ("option", "data audit --task", "touchline data audit experiment.yaml"),
        ("log format", "llm-foundry", "a metrics.csv with step and loss"),
        ("log format", "lightning", "its metrics.csv"),
        ("log format", "nemo", "a metrics.csv with step and loss"),
        ("log format", "torchtitan", "a metrics.csv with step and loss"),
        ("log format", "mlx", "a metrics.csv with step and loss"),
        ("log format", "W&B history as JSON", "a CSV export with a column of steps and one of losses"),
        ("log format", "W&B config.yaml", "--fact KEY=VALUE, or touchline-facts.yaml next to the log"),
        *(("adapter", name, "lora, rslora or dora") for name in _ADAPTERS),
    )
)
"""All removed things but rule codes, which `allow`, `--select` and `--ignore` still accept."""


def find_removed(kind: RemovedKind, name: str) -> Removed | None:
    """Return the removed thing of a name; of a key also that of a part of it. None if there is none."""
    below = f"{name}." if kind is RemovedKind.KEY else name
    rows = (row for row in REMOVED if row.kind is kind)
    return next((row for row in rows if row.name == name or below.startswith(f"{row.name}.")), None)


def refuse_removed(kind: RemovedKind, name: str) -> None:
    """Refuse a removed thing.

    Raises:
        InputError: the name is that of a removed thing.
    """
    if row := find_removed(kind, name):
        raise InputError(str(row))


def refuse_removed_words(words: Sequence[str]) -> None:
    """Refuse a command line with a removed command, option or value.

    Raises:
        InputError: one is removed.
    """
    apart = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for row in (row for row in REMOVED if row.typed):
        begins = next((place for place, word in enumerate(row.typed) if word.startswith("-")), len(row.typed))
        path, option = row.typed[:begins], row.typed[begins:]
        places = range(begins, len(apart) - len(option) + 1)
        if apart[:begins] == path and (not option or any(apart[n : n + len(option)] == option for n in places)):
            raise InputError(str(row))


def drop_removed(settings: dict[str, Any]) -> tuple[Removed, ...]:
    """Take the removed keys out of settings as version 0.1.0 wrote them. Return those that had a value."""
    found = []
    for row in (row for row in REMOVED if row.kind is RemovedKind.KEY):
        *path, last = row.name.split(".")
        node: Any = settings
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.pop(last, None) is not None:
            found.append(row)
    return tuple(found)
