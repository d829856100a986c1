"""Reader of config.json values, each validated against plausible limits."""

from __future__ import annotations

from collections.abc import Mapping

from touchline.core.text import shorten

LARGEST_WIDTH = 1 << 20
"""Limit on widths, heads and layers. The largest public model has 53,248."""
LARGEST_VOCABULARY = 1 << 27
"""Limit on rows of the embedding. The largest public vocabulary has 262,208."""
LARGEST_CONTEXT = 1 << 30
"""Limit on context length. Public models claim up to ten million."""
LARGEST_MODEL = 10**14
"""Limit on total parameters."""
_SHOWN = 10**18


class ModelConfigError(Exception):
    """config.json without usable dimensions; the message names the key."""


class ModelConfigReader:
    """config.json, or the part that describes the text model."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config

    def __contains__(self, key: str) -> bool:
        """Return True if a key has a value other than `null`."""
        return self._config.get(key) is not None

    def count(self, *keys: str, default: int | None = None, limit: int = LARGEST_WIDTH) -> int:
        """Return a positive integer by the first of its names in the file.

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
            raise ModelConfigError(f"config.json: {key} is {shown(value)}, which is not plausible")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean.

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
        """Return a text, or an empty one."""
        value = self._config.get(key)
        return value if isinstance(value, str) else ""

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the texts of a list, or an empty one."""
        value = self._config.get(key)
        return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else ()

    def list_of(self, key: str) -> list[object]:
        """Return a list, or an empty one."""
        value = self._config.get(key)
        return value if isinstance(value, list) else []

    def is_empty(self, key: str) -> bool:
        """Return True if a list is empty or missing."""
        return self._config.get(key) in (None, [])


def shown(value: object) -> str:
    """Return a value shortened for a message."""
    if isinstance(value, int) and abs(value) > _SHOWN:
        # One of thousands of digits may not even be written out.
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return shorten(repr(value), 40)
