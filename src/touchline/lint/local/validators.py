"""Backend's own validator, run if it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from touchline.backends.external import Validator
from touchline.backends.local.environments import named_python
from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing
from touchline.experiment.foreign import ForeignDocument

TIMEOUT = 120.0
"""Timeout of a validator in seconds; it may import torch."""


def program_of(validator: Validator) -> Path | None:
    """Return the validator's program: beside the interpreter of the user's own environment, or on the path."""
    named = named_python(validator.trainer, validator.python_variable)
    if named is not None:
        beside = named.path.parent / validator.command[0]
        return beside if os.access(beside, os.X_OK) else None
    found = shutil.which(validator.command[0])
    return None if found is None else Path(found)


def validate(
    validator: Validator, document: ForeignDocument, *, timeout: float = TIMEOUT
) -> tuple[Finding, ...] | Missing:
    """Run a trainer's validator on a config and report its errors as BK030; Missing if it cannot run."""
    refused = validator.refuses(document)
    if refused is not None:
        return Missing(missing=refused)
    program, title = program_of(validator), validator.title
    if program is None:
        return Missing(
            missing=f"{validator.trainer}'s command `{validator.command[0]}` is not here, set "
            f"backends.{validator.trainer}.python in the user's config file"
        )
    path = Path(document.path).resolve()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    try:
        # An empty folder keeps files beside the config from being imported as packages.
        with tempfile.TemporaryDirectory() as nowhere:
            done = subprocess.run(  # noqa: S603 (an argument list; the program is the user's own)
                [str(program), *validator.command[1:], str(path)],
                check=False,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                cwd=nowhere,
                env=environment,
            )
    except subprocess.TimeoutExpired:
        return Missing(missing=f"{title} took longer than {timeout:.0f} s")
    except OSError as error:
        return Missing(missing=f"{title} could not be started: {error.strerror}")
    fault = validator.verdict(done.returncode, done.stdout, done.stderr)
    if fault is None or isinstance(fault, Missing):
        return () if fault is None else fault
    where = Location(path=document.path)
    message = f"{title}: {fault}"
    return (Finding(code="BK030", severity=Severity.ERROR, subject=document.path, message=message, where=where),)
