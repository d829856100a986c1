"""The values of a config.json, each checked when it is asked for: no number is taken that no model can have."""

from __future__ import annotations

from collections.abc import Mapping

from touchline.core.text import shorten

LARGEST_WIDTH = 1 << 20
"""Past it a width, a number of heads or layers is a mistake in the file: the largest public model has 53,248."""
LARGEST_VOCABULARY = 1 << 27
"""The same for rows of the embedding; the largest public vocabulary has 262,208."""
LARGEST_CONTEXT = 1 << 30
"""The same for tokens of context; public models claim up to ten million."""
LARGEST_MODEL = 10**14
"""The same for all parameters together."""
_SHOWN = 10**18


class ModelConfigError(Exception):
    """A config.json that gives no shape; its text is the reason, and names the key."""


class ModelConfigReader:
    """A config.json, or the part of one that describes the text model."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config

    def __contains__(self, key: str) -> bool:
        """Whether the file gives the key a value; `null` is none."""
        return self._config.get(key) is not None

    def count(self, *keys: str, default: int | None = None, limit: int = LARGEST_WIDTH) -> int:
        """A positive integer by the first of its names that the file has.

        Args:
            keys: names of the same thing, the present one first.
            default: what the model's own config class takes where the file says nothing.
            limit: the largest that is believed.

        Raises:
            ModelConfigError: it is missing without a default, or no positive integer up to the limit.
        """
        key = next((name for name in keys if name in self), None)
        if key is None:
            if default is None:
                raise ModelConfigError(f"config.json: {keys[0]} is missing")
            return default
        value = self._config[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelConfigError(f"config.json: {key} is {shown(value)}, expected a positive integer")
        if value > limit:
            raise ModelConfigError(f"config.json: {key} is {shown(value)}, which no model has")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A yes or no.

        Raises:
            ModelConfigError: it is something else.
        """
        value = self._config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ModelConfigError(f"config.json: {key} is {shown(value)}, expected true or false")
        return value

    def text(self, key: str) -> str:
        """A text; empty where there is none."""
        value = self._config.get(key)
        return value if isinstance(value, str) else ""

    def texts(self, key: str) -> tuple[str, ...]:
        """The texts of a list; empty where there is none."""
        value = self._config.get(key)
        return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else ()

    def list_of(self, key: str) -> list[object]:
        """A list; empty where there is none."""
        value = self._config.get(key)
        return value if isinstance(value, list) else []

    def is_empty(self, key: str) -> bool:
        """Whether a list is empty or not there."""
        return self._config.get(key) in (None, [])


def shown(value: object) -> str:
    """A value as a message may show it: short, whatever it is."""
    if isinstance(value, int) and abs(value) > _SHOWN:
        # One of thousands of digits may not even be written out.
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return shorten(repr(value), 40)
