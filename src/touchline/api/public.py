"""Verbs as Python users call them: paths may be strings, and `settings` is optional."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any

from touchline import api
from touchline.data.user_config import UserConfig, load_settings


@functools.cache
def public_verb(name: str) -> Callable[..., Any]:
    """Return a verb of `touchline.api` with `settings` as an optional keyword and strings accepted as paths.

    Args:
        name: name of the verb.
    """
    verb: Callable[..., Any] = getattr(api, name)
    full = signature(verb)
    paths = {name for name, parameter in full.parameters.items() if "Path" in str(parameter.annotation)}
    public = _without_settings(full)

    @functools.wraps(verb)
    def call(*arguments: Any, settings: UserConfig | None = None, **named: Any) -> Any:
        bound = public.bind(*arguments, **named).arguments
        values = {key: _as_path(value) if key in paths else value for key, value in bound.items()}
        if "settings" in full.parameters:
            values["settings"] = load_settings() if settings is None else settings
        return verb(**values)

    call.__signature__ = _with_optional_settings(public) if "settings" in full.parameters else public  # type: ignore[attr-defined]
    return call


def _without_settings(full: Signature) -> Signature:
    return full.replace(parameters=[each for name, each in full.parameters.items() if name != "settings"])


def _with_optional_settings(public: Signature) -> Signature:
    settings = Parameter("settings", Parameter.KEYWORD_ONLY, default=None, annotation="UserConfig | None")
    return public.replace(parameters=[*public.parameters.values(), settings])


def _as_path(value: Any) -> Any:
    if isinstance(value, str):
        return Path(value)
    if isinstance(value, list | tuple):
        return [_as_path(each) for each in value]
    return value
