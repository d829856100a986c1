"""Environments of trainers for tests that train with them: those that `make` makes, or those that a variable names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from touchline.backends.local.environments import find_environment
from touchline.backends.registry import environment_of
from touchline.core.quantity import Missing

ROOT = Path(__file__).resolve().parents[1]


def require_trainer(name: str) -> str:
    """Name a trainer's environment for this process and give its interpreter.

    Without one the test is skipped; where `TOUCHLINE_REQUIRE_<NAME>` is 1, as in continuous integration, it fails.
    """
    environment = environment_of(name)
    os.environ.setdefault(environment.python_variable, str(ROOT / f".venv-{name}" / "bin" / "python"))
    found = find_environment(environment)
    if isinstance(found, Missing):
        if os.environ.get(f"TOUCHLINE_REQUIRE_{name.upper()}") == "1":
            pytest.fail(f"{found.missing}: make {name}-env", pytrace=False)
        pytest.skip(f"{found.missing}: make {name}-env")
    return found.python
