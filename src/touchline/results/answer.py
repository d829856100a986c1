"""Answer of `touchline results --json`."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis

RESULTS_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultsAnswer:
    """The results of an experiment, and the tests that were made of them."""

    schema_version: int = RESULTS_SCHEMA_VERSION
    """Version of this form."""
    runs: tuple[RunResult, ...]
    """Every run."""
    analyses: tuple[Analysis, ...]
    """One for each task and score, the experiment's own first; those of the report."""
