"""Completion of run names in a shell. It reads plan.json alone, with nothing that takes time to import."""

from __future__ import annotations

import json
from pathlib import Path

import typer

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
        if plan.stat().st_size > _LIMIT_BYTES:
            return []
        names = [run["name"] for run in json.loads(plan.read_bytes())["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # what is broken is told by the command itself
    return [name for name in names if isinstance(name, str) and name.startswith(incomplete)]
