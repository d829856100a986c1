"""Text files of the backends' packages: tables, and programs that are written into run folders."""

from __future__ import annotations

import pkgutil


def package_text(folder: str, name: str) -> str:
    """Return the text of a file of a backend's folder; of `backends/` itself if the folder is empty."""
    data = pkgutil.get_data(f"touchline.backends.{folder}".rstrip("."), name)
    assert data is not None, "a part of this package"
    return data.decode()
