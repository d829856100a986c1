"""Verbs as Python users call them: experiments and strings for paths, and `settings` is optional."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from os import PathLike
from pathlib import Path
from typing import Any

from touchline import api
from touchline.core.errors import InputError, TouchlineError, with_notes
from touchline.data.user_config import UserConfig, load_settings
from touchline.experiment.experiment import Experiment

SOURCES = frozenset({"source", "sources", "paths"})
"""Parameters that also take an `Experiment`, which stands for its folder."""
_WRITING = frozenset({"check", "design", "optimize", "plan", "run"})
"""Verbs that first write the experiment.yaml of an `Experiment`; the others take what is in its folder."""


@functools.cache
def public_verb(name: str) -> Callable[..., Any]:
    """Return a verb of `touchline.api` with `settings` as an optional keyword, and strings accepted as paths.

    Errors show their findings, the expected value and a hint below the traceback.

    Args:
        name: name of the verb.
    """
    verb: Callable[..., Any] = getattr(api, name)
    full = signature(verb)
    public = _without_settings(full)

    @functools.wraps(verb)
    def call(*arguments: Any, settings: UserConfig | None = None, **named: Any) -> Any:
        bound = public.bind(*arguments, **named).arguments
        try:
            values = {key: _converted(value, full.parameters[key], name) for key, value in bound.items()}
            if "settings" in full.parameters:
                values["settings"] = load_settings() if settings is None else settings
            return verb(**values)
        except TouchlineError as error:
            with_notes(error)
            raise

    call.__signature__ = _with_optional_settings(public) if "settings" in full.parameters else public  # type: ignore[attr-defined]
    return call


def _without_settings(full: Signature) -> Signature:
    return full.replace(parameters=[each for name, each in full.parameters.items() if name != "settings"])


def _with_optional_settings(public: Signature) -> Signature:
    settings = Parameter("settings", Parameter.KEYWORD_ONLY, default=None, annotation="UserConfig | None")
    return public.replace(parameters=[*public.parameters.values(), settings])


def _converted(value: Any, parameter: Parameter, verb: str) -> Any:
    """Return an argument as the verb takes it: paths for strings and experiments, a list for a single one."""
    kind = str(parameter.annotation)
    is_list = kind.startswith("Sequence[")
    if is_list and isinstance(value, str | PathLike | Experiment):
        value = [value]
    if "Path" not in kind or value is None:
        return value
    if is_list and isinstance(value, list | tuple):
        return [_as_path(each, parameter.name, verb) for each in value]
    return _as_path(value, parameter.name, verb)


def _as_path(value: Any, name: str, verb: str) -> Path:
    if isinstance(value, str | PathLike):
        return Path(value)
    if name in SOURCES and isinstance(value, Experiment):
        return api.write_experiment(value) if verb in _WRITING else Path(value.folder) / "experiment.yaml"
    expected = "a path, or an Experiment" if name in SOURCES else "a path"
    raise InputError(f"{name}: {type(value).__name__} is not a path", expected=expected)
