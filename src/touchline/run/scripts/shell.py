"""The one way by which a value gets into a shell script, and the other by which it gets behind `#SBATCH`."""

from __future__ import annotations

import re
import shlex

from touchline.core.errors import InputError
from touchline.core.text import has_control, one_line

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=,-]+")


class SlurmValueError(InputError):
    """A value that cannot stand on an #SBATCH line."""


def quote(value: str) -> str:
    """A value as one word of a shell command, whatever it holds."""
    return shlex.quote(value)


def slurm_value(value: str) -> str:
    r"""A value as it may stand behind `#SBATCH --option=`, quoted as sbatch reads it.

    sbatch's quotes are not a shell's: a backslash escapes in single quotes too, so `'a'"'"'b'` and `'a\b'` would lose
    what a shell keeps.

    Raises:
        SlurmValueError: it holds a newline or another control character, which would end the line or forge another.
    """
    _refuse_control(value)
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def slurm_line(option: str) -> str:
    """An option of the user's as it stands behind `#SBATCH `, `--mail-type=FAIL`: unchanged, on one line.

    Raises:
        SlurmValueError: it holds a newline or another control character, or does not begin with a dash.
    """
    _refuse_control(option)
    if not option.startswith("-"):
        raise SlurmValueError(f"{option!r} cannot stand behind #SBATCH", expected="an option, such as --mail-type=FAIL")
    return option


def comment(value: str) -> str:
    """A value as it may stand in a comment: on one line."""
    return one_line(value)


def docstring(value: str) -> str:
    """A value as it may stand in a Python docstring."""
    return comment(value).replace("\\", "\\\\").replace('"', '\\"')


def _refuse_control(value: str) -> None:
    if has_control(value):
        raise SlurmValueError(f"{value!r} cannot stand on an #SBATCH line", expected="text without control characters")
