"""Print the lowest version of every dependency that pyproject.toml declares, as constraints for pip.

    python tools/lowest.py [EXTRA ...] > lowest.txt

Without extras: the core dependencies. A lower bound that was never released makes pip refuse the file.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)>=(?P<version>[0-9][0-9A-Za-z.]*)")


def lowest(dependencies: list[str]) -> list[str]:
    """Return a `name==version` for each `name>=version`.

    Raises:
        ValueError: a dependency has no lower bound, or more than that.
    """
    constraints = []
    for text in dependencies:
        bound = BOUND.fullmatch(text)
        if bound is None:
            raise ValueError(f"{text}: expected name>=version")
        constraints.append(f"{bound['name']}=={bound['version']}")
    return constraints


def main() -> None:
    """Print the constraints."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = [text for extra in sys.argv[1:] for text in project["optional-dependencies"][extra]]
    print("\n".join(lowest([*project["dependencies"], *extras])))


if __name__ == "__main__":
    main()
