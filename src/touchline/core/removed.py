"""What version 0.1.0 had and this one has not: refused by its name, never as an unknown word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from touchline.core.errors import InputError


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
    """Its kind."""
    name: str
    """Its name: `history replay`, `check --sarif`, `evaluate.general`."""
    instead: str
    """What to use instead; empty if there is nothing."""

    def __str__(self) -> str:
        name = self.name.split()[-1] if self.kind is RemovedKind.OPTION else self.name
        return f"`{name}` was removed after 0.1.0{f'; use {self.instead}' if self.instead else ''}"


REMOVED = tuple(
    Removed(RemovedKind(kind), name, instead)
    for kind, name, instead in (
        ("option", "check --sarif", "--json"),
        ("extra", "trackers", "the extra wandb or tensorboard"),
        ("extra", "trackio", "the extra wandb or tensorboard"),
        ("extra", "mlflow", "the extra wandb or tensorboard"),
        ("export target", "trackio", "wandb or tensorboard"),
        ("export target", "mlflow", "wandb or tensorboard"),
        ("key", "evaluate.general", "an Inspect task under evaluate.tasks"),
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
    """Refuse a command line with a removed command or option.

    Args:
        words: the words after `touchline`.

    Raises:
        InputError: one is removed.
    """
    for row in REMOVED:
        *path, last = row.name.split()
        if row.kind is RemovedKind.COMMAND and list(words[: len(path) + 1]) == [*path, last]:
            raise InputError(str(row))
        options = [word.partition("=")[0] for word in words[len(path) :]]
        if row.kind is RemovedKind.OPTION and list(words[: len(path)]) == path and last in options:
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
