"""torchtune's environment for tests that train with it: `make torchtune-env`, or the one that the variable names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from touchline.backends.local.environments import find_environment
from touchline.backends.torchtune.external import ENVIRONMENT
from touchline.core.quantity import Missing

MADE_HERE = Path(__file__).resolve().parents[1] / ".venv-torchtune" / "bin" / "python"


def require_torchtune() -> str:
    """Name the environment for this process and give its interpreter; without one the test is skipped, and fails in
    continuous integration."""
    os.environ.setdefault(ENVIRONMENT.python_variable, str(MADE_HERE))
    found = find_environment(ENVIRONMENT)
    if isinstance(found, Missing):
        if os.environ.get("TOUCHLINE_REQUIRE_TORCHTUNE") == "1":
            pytest.fail(f"{found.missing}: make torchtune-env", pytrace=False)
        pytest.skip(f"{found.missing}: make torchtune-env")
    return found.python
