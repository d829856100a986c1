"""Quoting of values for shell scripts, `#SBATCH` lines and comments."""

from __future__ import annotations

import re
import shlex

from touchline.core.errors import InputError
from touchline.core.text import has_control, one_line

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=,-]+")


class SlurmValueError(InputError):
    """Value that is not valid on an #SBATCH line."""


def quote(value: str) -> str:
    """Quote a value as one shell word."""
    return shlex.quote(value)


def slurm_value(value: str) -> str:
    r"""Quote a value for `#SBATCH --option=` by sbatch's rules.

    They differ from a shell's: a backslash escapes in single quotes too, so shell quoting of quotes and backslashes
    would lose characters.

    Raises:
        SlurmValueError: it holds a newline or another control character.
    """
    _refuse_control(value)
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def slurm_line(option: str) -> str:
    """Return a user option for `#SBATCH ` (`--mail-type=FAIL`) unchanged, on one line.

    Raises:
        SlurmValueError: it holds a newline or another control character, or does not begin with a dash.
    """
    _refuse_control(option)
    if not option.startswith("-"):
        raise SlurmValueError(f"{option!r} is not an #SBATCH option", expected="an option, such as --mail-type=FAIL")
    return option


def comment(value: str) -> str:
    """Return a value for a one-line comment."""
    return one_line(value)


def docstring(value: str) -> str:
    """Return a value for a Python docstring."""
    return comment(value).replace("\\", "\\\\").replace('"', '\\"')


def _refuse_control(value: str) -> None:
    if has_control(value):
        raise SlurmValueError(f"{value!r} is not an #SBATCH value", expected="text without control characters")
