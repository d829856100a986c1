"""Completion of run names in a shell. It reads plan.json alone, with nothing that takes time to import."""

from __future__ import annotations

from pathlib import Path

import typer

from touchline.core.errors import TouchlineError
from touchline.core.files import read_bytes
from touchline.core.json_text import parse_json
from touchline.core.text import has_control

_LIMIT_BYTES = 32 << 20
"""Largest plan that a key press waits for."""


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the planned runs of the experiment on the command line that begin with `incomplete`; none without one."""
    # Behind an option that still lacks its value, arguments are not assigned yet.
    words = [ctx.params.get("source"), *(word for word in ctx.args if not word.startswith("-"))]
    source = next((word for word in words if word is not None), None)
    if source is None:
        return []
    path = Path(source).expanduser()
    plan = (path if path.is_dir() else path.parent) / "plan.json"
    try:
        names = [run["name"] for run in parse_json(read_bytes(plan, _LIMIT_BYTES))["runs"]]
    except (TouchlineError, OSError, ValueError, KeyError, TypeError):
        return []  # the command itself reports what is wrong
    return [name for name in names if isinstance(name, str) and name.startswith(incomplete) and not has_control(name)]
