"""Readers of logs and documents: the backends' own, the scheduler's, and those of no backend."""

from __future__ import annotations

import functools

from touchline.backends.logtext.reader import DocumentReader, LogReader
from touchline.backends.registry import document_readers, log_readers
from touchline.history.failures.reader import Faults
from touchline.history.loops.reader import TrainingLines
from touchline.history.packing_words import PackingLines
from touchline.history.slurm_lines import SlurmLines
from touchline.history.wandb import WandbLines, read_metadata, read_summary

READERS_VERSION = 8
"""Raised when a reader reads something else than before: files are then read again."""


@functools.cache
def line_readers() -> tuple[type[LogReader], ...]:
    """Return the readers of lines; make one instance of each for every file."""
    return (SlurmLines, Faults, PackingLines, WandbLines, TrainingLines, *log_readers())


@functools.cache
def documents() -> tuple[DocumentReader, ...]:
    """Return the readers of state files and configs; the first that knows a document reads it."""
    return (*document_readers(), read_summary, read_metadata)
