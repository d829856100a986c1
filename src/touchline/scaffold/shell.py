"""The one way by which a value gets into a shell script."""

from __future__ import annotations

import re
import shlex

from touchline.errors import InputFault

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class SlurmValueFault(InputFault):
    """A value that cannot stand on an #SBATCH line."""


def quote(value: str) -> str:
    """A value as one word of a shell command, whatever it holds."""
    return shlex.quote(value)


def slurm_value(value: str) -> str:
    """A value as it may stand behind `#SBATCH --option=`.

    Raises:
        SlurmValueFault: it holds a newline or another control character, which would end the line or forge another.
    """
    if _CONTROL.search(value):
        raise SlurmValueFault(f"{value!r} cannot stand on an #SBATCH line", expected="text without control characters")
    return shlex.quote(value)


def comment(value: str) -> str:
    """A value as it may stand in a comment: on one line."""
    return _CONTROL.sub(" ", value)


def docstring(value: str) -> str:
    """A value as it may stand in a Python docstring."""
    return comment(value).replace("\\", "\\\\").replace('"', '\\"')
