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
