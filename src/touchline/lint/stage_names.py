"""Stages and experiments in names, and links between stages."""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Final

from touchline.backends.registry import all_traits
from touchline.core.quantity import Missing
from touchline.lint.config_set import FolderView, Sibling, runs_of, stays, together

_NOT_AFTER: Final = "".join(rf"(?<!{word}[ _-])" for traits in all_traits() for word in traits.stage_words)
_STAGE: Final = re.compile(rf"(?<![a-z]){_NOT_AFTER}(?:stage|phase)[ _-]?(\d{{1,2}})(?!\d)", re.I)
_SHORT_STAGE: Final = re.compile(r"(?<![A-Za-z0-9])S(\d)(?![A-Za-z0-9])", re.I)
_EXPERIMENT: Final = re.compile(r"(?<![a-z])(?:exp|experiment)[ _-]?(\d{1,3})(?!\d)", re.I)
_GOES_ON: Final = re.compile(r"curricul|continu|progressive|(?<![a-z])chain(?!-of|_of| of)", re.I)
_ALONE: Final = re.compile(r"sequential|separate|independent|per[ _-]?stage|routed", re.I)
_NAME_KEYS: Final = ("experiment_name", "run_name", "name", "description")
_PARTS: Final = 3


def own_texts(sibling: Sibling) -> tuple[str, ...]:
    """Return a training's names, the most specific first: its file, its folder, its output, its own name."""
    path = PurePath(sibling.path)
    raw = {} if isinstance(sibling.raw, Missing) else sibling.raw
    names = [str(raw[key]) for key in _NAME_KEYS if isinstance(raw.get(key), str)]
    return (path.stem, path.parent.name, "/".join(stays(sibling).split("/")[-_PARTS:]), *names)


def stage_of(sibling: Sibling) -> int | None:
    """Return the stage number in its names. None if there is none, or a name has two."""
    pattern = (_STAGE, _SHORT_STAGE) if goes_on(sibling) else (_STAGE,)
    return next((number for text in own_texts(sibling) if (number := _only(text, *pattern)) is not None), None)


def experiment_of(sibling: Sibling) -> int | None:
    """Return the experiment number in its names."""
    return next((number for text in own_texts(sibling) if (number := _only(text, _EXPERIMENT)) is not None), None)


def stages_in(path: str) -> set[int]:
    """Return the numbers of stages in a path."""
    return {int(number) for number in _STAGE.findall(path)}


def experiments_in(path: str) -> set[int]:
    """Return the numbers of experiments in a path."""
    return {int(number) for number in _EXPERIMENT.findall(path)}


def goes_on(sibling: Sibling) -> bool:
    """Return True if its names indicate a curriculum, a chain or a continuation."""
    return any(_GOES_ON.search(text) for text in own_texts(sibling))


def stands_alone(sibling: Sibling) -> bool:
    """Return True if its names, or those of its data, indicate separate models per stage."""
    data = [source.name.value for source in sibling.stated.sources]
    return any(_ALONE.search(text) for text in (*own_texts(sibling), *data))


def stage_before(view: FolderView, sibling: Sibling) -> Sibling | None:
    """Find the config of the same experiment that is the previous stage."""
    number = stage_of(sibling)
    for other in runs_of(view):
        near = together(view, sibling, other) or PurePath(other.path).parent == PurePath(sibling.path).parent
        same = other.stated.backend == sibling.stated.backend and _without_stage(other) == _without_stage(sibling)
        if number is not None and other is not sibling and near and same and stage_of(other) == number - 1:
            return other
    return None


def parent_of(view: FolderView, sibling: Sibling) -> Sibling | None:
    """Find the training whose output a training continues, by its adapter or its model."""
    outputs = _by_output(view)
    for named in (sibling.stated.parent, sibling.stated.model):
        path = "" if named is None else posixpath.normpath(named.value)
        while path not in ("", "/"):
            found = outputs.get(path)
            if found is not None and found is not sibling:
                return found
            path = posixpath.dirname(path)
    return None


def ancestors_of(view: FolderView, sibling: Sibling) -> Iterator[Sibling]:
    """Yield its parent, the parent's parent and so on, without repetition."""
    seen = {sibling}
    node = parent_of(view, sibling)
    while node is not None and node not in seen:
        seen.add(node)
        yield node
        node = parent_of(view, node)


@functools.lru_cache(maxsize=2)
def _by_output(view: FolderView) -> Mapping[str, Sibling]:
    """Return the trainings by output folder, the first one if several share it."""
    found: dict[str, Sibling] = {}
    for each in runs_of(view):
        found.setdefault(stays(each), each)
    return found


def _only(text: str, *patterns: re.Pattern[str]) -> int | None:
    numbers = {int(number) for pattern in patterns for number in pattern.findall(text)}
    return numbers.pop() if len(numbers) == 1 else None


def _without_stage(sibling: Sibling) -> tuple[str, int | None]:
    """Return the config's name without its stage, and its experiment's number."""
    path = PurePath(sibling.path)
    name = f"{path.parent.name}/{path.stem}" if _STAGE.search(path.parent.name) else path.stem
    return _SHORT_STAGE.sub("#", _STAGE.sub("#", name)), experiment_of(sibling)
