"""Document printed by `touchline results --json`."""

from __future__ import annotations

from dataclasses import dataclass

from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis

RESULTS_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultsAnswer:
    """Results of an experiment with their statistical tests."""

    schema_version: int = RESULTS_SCHEMA_VERSION
    """Format version."""
    runs: tuple[RunResult, ...]
    """Runs, in plan order."""
    analyses: tuple[Analysis, ...]
    """Analyses of the report: one per task and score, the experiment's own first."""
