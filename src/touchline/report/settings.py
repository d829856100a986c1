"""Table of settings in a report: from the plan, or from the files of other trainers' runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from touchline.plan.settings import collect_settings, setting_rows
from touchline.plan.settings_table import Origin, RunSetting, Scalar
from touchline.report.comparing.settings import COLLECTED
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult


def report_settings(gathered: ReportInputs) -> tuple[RunSetting, ...]:
    """Return the settings of every run, as planned or as logged."""
    if gathered.plan is not None:
        return collect_settings(gathered.plan)
    return setting_rows({run.name: dict(_logged(run)) for run in gathered.runs}, _is_logged)


def _is_logged(key: str, values: Sequence[Scalar]) -> tuple[Origin, str | None]:
    del key, values
    return Origin.LOGGED, None


def _logged(run: RunResult) -> Iterator[tuple[str, Scalar]]:
    for key, value in run.settings.items():
        if value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            yield COLLECTED.get(key, key), value
