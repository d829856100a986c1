"""A trainer's own check of its configs, as a program: `VALIDATOR` of a backend's `validator.py`.

Nothing is run here; `lint/local/validators.py` does that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from touchline.core.quantity import Missing
from touchline.experiment.foreign import ForeignDocument


@dataclass(frozen=True, kw_only=True, slots=True)
class Validator:
    """Program that checks configs."""

    trainer: str
    """The trainer's name, for messages."""
    command: tuple[str, ...]
    """Program and its arguments; the config's path follows."""
    python_variable: str
    """Environment variable with the interpreter of an environment that has the program."""
    refuses: Callable[[ForeignDocument], str | None]
    """Reason not to run it on a config, such as modules that it would import. None if there is none."""
    verdict: Callable[[int, str, str], str | Missing | None]
    """Fault of the config, by exit status, output and errors. None for a valid config; Missing without a verdict."""

    @property
    def title(self) -> str:
        """Return the command as it is typed, without the config."""
        return " ".join(self.command)
