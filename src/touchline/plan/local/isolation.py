"""Isolation self-test in a separate process, because it loads torch and may crash for a broken architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import HostError, InputError, install_hint
from touchline.data.machine import absent_packages
from touchline.data.packing.isolation import IsolationCheck
from touchline.data.worker import told_faults

_PROGRAM = "touchline.train.leaks"
_NEEDED = ("torch", "transformers")
_LIMIT_SECONDS = 600.0
_CHECK = TypeAdapter(IsolationCheck)
_USAGE = 2


def check_isolation(config: Mapping[str, object]) -> IsolationCheck:
    """Check whether examples in one packed sequence attend to each other, in the architecture of a config.json.

    Raises:
        InputError: no small model of it can be made.
        HostError: the packages that train are not installed, or the test did not end.
    """
    absent = absent_packages(_NEEDED)
    if absent:
        raise HostError(
            f"the self-test needs {', '.join(absent)}, which {'are' if len(absent) > 1 else 'is'} not installed",
            hint=install_hint("train"),
        )
    command = [sys.executable, "-m", _PROGRAM]
    try:
        done = subprocess.run(  # noqa: S603 (fixed arguments)
            command, check=False, capture_output=True, text=True, timeout=_LIMIT_SECONDS, input=json.dumps(config)
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"the self-test did not finish within {_LIMIT_SECONDS:.0f} s") from None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    faults = told_faults(done.stderr)
    if done.returncode == _USAGE:
        raise InputError((faults or lines or ["no answer"])[-1])
    try:
        return _CHECK.validate_json(done.stdout.strip().splitlines()[-1])
    except (ValidationError, IndexError):
        last = (faults or lines or ["no word"])[-1]
        raise HostError(f"the self-test failed with exit code {done.returncode}: {last}") from None
