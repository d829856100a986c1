"""Environments of trainers for tests that train with them: those that `make` makes, or those that a variable names."""

import os
import subprocess
from collections.abc import Sequence
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


_VALIDATE = """\
import os, sys
from torchtune._cli.tune import main
for folder in sys.argv[1:]:
    os.chdir(folder)
    sys.modules.pop("run_components", None)
    sys.path[0] = folder
    sys.argv = ["tune", "validate", "finetune.yaml"]
    main()
"""


def assert_torchtune_accepts(folders: Sequence[Path]) -> None:
    """Run `tune validate` in each run folder, one after another in one process: torchtune takes seconds to load."""
    done = subprocess.run(
        [require_trainer("torchtune"), "-c", _VALIDATE, *map(str, folders)],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.count("Config is well-formed!") == len(folders), done.stderr[-2000:]
