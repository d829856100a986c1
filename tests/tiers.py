"""How much `make test` and `make test-all` try."""

import os

THOROUGH = os.environ.get("TOUCHLINE_THOROUGH") == "1"
"""Set by `make test-all`."""


def examples(few: int) -> int:
    """Return the examples that a property is tried on: `few`, or four times as many in `make test-all`."""
    return 4 * few if THOROUGH else few
