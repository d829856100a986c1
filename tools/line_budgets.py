"""Hold the lines of Python of each room, and of the tests, against budgets.toml.

python tools/line_budgets.py          fail where a room has more lines than its budget, or the rooms' sum has risen
python tools/line_budgets.py --lower  write the lines reached, rounded up to the next 200, where that is less

A budget of a room rises only in a commit that lowers others by as much.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = ROOT / "budgets.toml"
STEP = 200


def lines() -> dict[str, int]:
    """Return the lines of each room and of the tests. Modules of the package itself count as `touchline`."""
    found: dict[str, int] = {}
    package = ROOT / "src" / "touchline"
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        room = parts[0] if len(parts) > 1 else "touchline"
        found[room] = found.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    tests = (ROOT / "tests").rglob("*.py")
    return found | {"tests": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in tests)}


def faults(budgets: dict[str, int], earlier: dict[str, int], found: dict[str, int]) -> list[str]:
    """Return what is over budget, has none, or has risen; empty if nothing."""
    over = [
        f"{room}: {count:,} lines, the budget is {budgets[room]:,}"
        for room, count in found.items()
        if room in budgets and count > budgets[room]
    ]
    unknown = [f"{room}: no budget in budgets.toml" for room in found if room not in budgets]
    now, before = (sum(n for room, n in each.items() if room != "tests") for each in (budgets, earlier))
    risen = [f"the rooms' budgets rose from {before:,} to {now:,}; lower others by as much"] if 0 < before < now else []
    return over + unknown + risen


def _committed() -> dict[str, int]:
    """Return the budgets of the last commit that differ from the file; empty if there are none."""
    for revision in ("HEAD", "HEAD^"):
        shown = subprocess.run(
            ["git", "show", f"{revision}:budgets.toml"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if shown.returncode == 0 and shown.stdout != FILE.read_text(encoding="utf-8"):
            return tomllib.loads(shown.stdout)
    return {}


def main() -> int:
    """Print what is over budget, or lower the budgets. Return the exit code."""
    budgets, found = tomllib.loads(FILE.read_text(encoding="utf-8")), lines()
    if "--lower" in sys.argv:
        reached = {room: -(-count // STEP) * STEP for room, count in found.items()}
        lower = {room: min(count, budgets.get(room, count)) for room, count in reached.items()}
        rows = "".join(f"{room} = {count}\n" for room, count in lower.items())
        head = FILE.read_text(encoding="utf-8").split("\n\n")[0]
        FILE.write_text(f"{head}\n\n{rows}", encoding="utf-8")
        return 0
    told = faults(budgets, _committed(), found)
    print("\n".join(told) or f"budgets: {sum(found.values()) - found['tests']:,} lines, tests {found['tests']:,}")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
