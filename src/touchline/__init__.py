"""touchline plans, runs and reports LLM fine-tuning experiments.

    import touchline as tl

    exp = tl.Experiment(name="ranks", models=["SmolLM2-135M-Instruct"], data={"path": "words.csv"})
    tl.plan(exp)
    tl.run(exp)
    scores = tl.results(exp).to_frame()

The verbs of the command line are functions of this package, with the same names; `touchline.api` lists them in order.
They take an `Experiment`, or the path of an experiment.yaml or its folder; `settings` defaults to the user's config
file. A verb loads what it needs with its first call.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from inspect import Signature, signature
from types import ModuleType
from typing import Any

__version__ = "0.2.0"
_VERBS: tuple[str, ...] = (
    *(
        "read_experiment",
        "write_experiment",
        "import_experiment",
        "check",
        "plan",
        "design",
        "prepare",
        "run",
        "submit",
        "resume",
        "cancel",
        "status",
    ),
    *("evaluate", "results", "collect", "report", "figures", "compare", "export", "publish", "reproduce", "clean"),
    "demo",
    *("estimate", "probe", "pack", "place", "optimize", "history", "doctor", "selftest"),
)
_CLASSES = {
    "Experiment": "touchline.experiment.experiment",
    **dict.fromkeys(
        ("TouchlineError", "InputError", "PolicyError", "HostError", "RunsFailedError"), "touchline.core.errors"
    ),
}
_ROOMS = ("plan", "run", "results", "report", "evaluate", "estimate", "history")
"""Verbs that are also the names of packages."""

__all__ = ["__version__"]
__all__.extend(("Experiment", *_VERBS))


def _verb(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = importlib.import_module("touchline.api.public").public_verb(name)
    return found


class _VerbAndRoom:
    """A verb whose name is that of a package too: call it, or reach the package's modules as its attributes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, package: ModuleType, kind: type | None = None) -> _VerbAndRoom:
        return self

    def __set__(self, package: ModuleType, module: ModuleType) -> None:
        """Keep the verb when the import system stores the package under its name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _verb(self._name)(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(f"touchline.{self._name}"), name)

    def __repr__(self) -> str:
        return f"<touchline.{self._name}{self.__signature__}>"

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return _verb(self._name).__doc__

    @property
    def __signature__(self) -> Signature:
        return signature(_verb(self._name))


class _Package(ModuleType):
    """This package, with its verbs as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in _VERBS:
            return _verb(name)
        if name in _CLASSES:
            return getattr(importlib.import_module(_CLASSES[name]), name)
        raise AttributeError(f"module 'touchline' has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_VERBS, *_CLASSES})


for _name in _ROOMS:
    setattr(_Package, _name, _VerbAndRoom(_name))
sys.modules[__name__].__class__ = _Package
