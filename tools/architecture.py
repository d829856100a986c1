"""Picture of the rooms of touchline, made from the imports of its source: docs/architecture.svg."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "touchline"
ROOMS = (
    *("core", "statistics", "slurm", "experiment", "data", "backends", "history", "estimate", "strategy"),
    *("plan", "lint", "train", "evaluate", "run", "tools", "results", "report", "api", "agent", "cli"),
)
"""Rooms from the bottom up, as pyproject.toml has them for import-linter."""
_CELL = 26
_LEFT = 96
_TOP = 96


def room_imports(source: Path = SOURCE) -> dict[str, set[str]]:
    """Return the rooms that each room imports, imports for type checking included."""
    return {room: set(_imported(source / room)) - {room} for room in ROOMS}


def _imported(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: Sequence[str] = ()
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "touchline" and len(parts) > 1 and parts[1] in ROOMS:
                    yield parts[1]


def picture() -> str:
    """Return the rooms as a matrix in SVG: a dot where the room of the row imports the room of the column."""
    imports = room_imports()
    width, height = _LEFT + _CELL * len(ROOMS) + 16, _TOP + _CELL * len(ROOMS) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-size="13"'
        ' font-family="system-ui, sans-serif">',
        "<title>Which room imports which: every dot lies left of the diagonal, so imports run one way</title>",
        "<style>.t{fill:#1f2328}.d{fill:#2f6f4f}.s{fill:#b9c0c7}.g{stroke:#dfe3e7}",
        "@media (prefers-color-scheme:dark)"
        "{.t{fill:#e6edf3}.d{fill:#7fd1a3}.s{fill:#4b535c}.g{stroke:#333b44}}</style>",
    ]
    for place, room in enumerate(ROOMS):
        x, y = _LEFT + _CELL * place + _CELL // 2, _TOP + _CELL * place + _CELL // 2
        lines.append(f'<text class="t" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{room}</text>')
        lines.append(f'<text class="t" transform="translate({x + 4} {_TOP - 8}) rotate(-60)">{room}</text>')
        lines.append(f'<line class="g" x1="{_LEFT}" y1="{y}" x2="{width - 12}" y2="{y}"/>')
        lines.append(f'<line class="g" x1="{x}" y1="{_TOP}" x2="{x}" y2="{height - 8}"/>')
    for row, room in enumerate(ROOMS):
        y = _TOP + _CELL * row + _CELL // 2
        lines.append(f'<rect class="s" x="{_LEFT + _CELL * row + 8}" y="{y - 5}" width="10" height="10"/>')
        for column, other in enumerate(ROOMS):
            if other in imports[room]:
                lines.append(f'<circle class="d" cx="{_LEFT + _CELL * column + _CELL // 2}" cy="{y}" r="5"/>')
    return "\n".join([*lines, "</svg>"]) + "\n"
