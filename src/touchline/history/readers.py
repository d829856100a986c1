"""Readers of logs and documents: the backends' own, the scheduler's, and those of no backend."""

from __future__ import annotations

import functools

from touchline.backends.logtext.reader import DocumentReader, LogReader
from touchline.backends.registry import document_readers, log_readers
from touchline.history import faults, generic, packing_words, wandb
from touchline.history.slurm_lines import SlurmLines

READERS_VERSION = 4
"""Raised when a reader reads something else than before: files are then read again."""


@functools.cache
def line_readers() -> tuple[type[LogReader], ...]:
    """Return the readers of lines; make one instance of each for every file."""
    others = (faults, packing_words, wandb, generic)
    return (SlurmLines, *(reader for module in others for reader in module.READERS), *log_readers())


@functools.cache
def documents() -> tuple[DocumentReader, ...]:
    """Return the readers of state files and configs; the first that knows a document reads it."""
    return (*document_readers(), *wandb.DOCUMENTS)
