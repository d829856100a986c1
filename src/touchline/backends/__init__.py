"""One folder a backend; nothing else names them. A folder's `backend.py` holds `BACKEND`, which meets the Protocol."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil

from touchline.backends.protocol import Backend
from touchline.errors import InputFault

__all__ = ["Backend", "backend_names", "get_backend"]


@functools.cache
def backend_names() -> tuple[str, ...]:
    """The backends, by the names of their folders."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


def get_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        InputFault: there is none.
    """
    if name not in backend_names():
        near = difflib.get_close_matches(name, backend_names(), n=1)
        raise InputFault(
            f"there is no backend {name!r}",
            expected=f"one of {', '.join(backend_names())}",
            hint=f"train.backend={near[0] if near else backend_names()[0]}",
        )
    found: Backend = importlib.import_module(f"{__name__}.{name}.backend").BACKEND
    return found
