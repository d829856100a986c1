"""Writing of figures as PNG files."""

from __future__ import annotations

from pathlib import Path

from touchline.core.errors import HostError
from touchline.core.files import write_atomic
from touchline.report.figures import Figure, off_because
from touchline.report.local.draw_process import draw


def write_picture(figure: Figure, path: Path) -> None:
    """Draw a figure into a PNG file.

    Raises:
        HostError: there is nothing to draw, it cannot be drawn, or the file cannot be written.
    """
    if figure.spec is None:
        raise HostError(figure.note)
    drawn = draw({path.name: figure.spec})
    if path.name not in drawn.pictures:
        raise HostError(off_because(drawn.fault))
    write_atomic(path, drawn.pictures[path.name])
