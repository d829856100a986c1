"""torchtune's own check of its configs: where it may run, and its verdict.

`tune validate` imports every component that a config names. It only runs on configs whose components are of packages
that come with torchtune, so a check never imports untrusted modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from touchline.backends.external import Validator
from touchline.backends.torchtune.reading import COMPONENT
from touchline.core.quantity import Missing
from touchline.experiment.foreign import ForeignDocument

_TRUSTED = ("torchtune.", "torch.", "torchao.", "bitsandbytes.")
_FINE = "Config is well-formed!"
_COMPLAINS = "tune validate: error:"
_LONGEST = 400


def _refuses(document: ForeignDocument) -> str | None:
    """Return why the program must not run: it would import a module of the user."""
    own = sorted({name for name in _components(document.data) if not name.startswith(_TRUSTED)})
    return f"tune validate would import {own[0]}" if own else None


def _components(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        if COMPONENT in node:
            yield str(node[COMPONENT])
        for value in node.values():
            yield from _components(value)
    elif isinstance(node, list):
        for value in node:
            yield from _components(value)


def _verdict(status: int, out: str, err: str) -> str | Missing | None:
    """Return the error of a config. None for a valid config; Missing without a verdict."""
    if status == 0 and _FINE in out:
        return None
    lines = [line.strip() for line in err.strip().splitlines() if line.strip()]
    if _COMPLAINS in err:
        complaint = err.partition(_COMPLAINS)[2]
    else:
        last = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)), None)
        if last is None or not _is_of_config(err):
            reason = lines[-1][:_LONGEST] if lines else "no message"
            return Missing(missing=f"tune validate ended with status {status}: {reason}")
        complaint = last
    return " ".join(complaint.split())[:_LONGEST]


def _is_of_config(text: str) -> bool:
    """Return True if a traceback ends in reading the config, and not in an import of torchtune itself."""
    return any(
        mark in text for mark in ("torchtune/config/", "omegaconf/", "yaml/constructor.py", "InstantiationError")
    )


VALIDATOR = Validator(
    trainer="torchtune",
    command=("tune", "validate"),
    python_variable="TOUCHLINE_TORCHTUNE_PYTHON",
    refuses=_refuses,
    verdict=_verdict,
)
"""`tune validate CONFIG`."""
