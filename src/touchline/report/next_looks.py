"""Recommendations for a strategy: the runs that the next decision needs, and what remains open after its end."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.quantity import Missing, finite
from touchline.core.status import RunStatus
from touchline.core.units import hours_unit, plural
from touchline.report.facts import device_word
from touchline.report.findings.strategy import next_look_words
from touchline.report.formatting import capital, join_names
from touchline.report.report import NextStep
from touchline.report.strategy import StrategyReport, contrast_words
from touchline.results.report_inputs import ReportInputs
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import StopReason

_DONE = (RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT)


def strategy_steps(gathered: ReportInputs, report: StrategyReport) -> Iterator[NextStep]:
    """Yield the next decision with its command, or what its end leaves open.

    Args:
        gathered: the inputs of the report.
        report: the strategy.
    """
    if report.stop is None:
        yield _next_decision(gathered, report)
        return
    open_ = [course for course in report.courses if course.verdict is Verdict.UNDECIDED]
    if report.stop.reason is StopReason.BUDGET:
        yield _budget(gathered, report, [contrast_words(course.contrast) for course in open_])
    missed = [course for course in report.courses if course.verdict is Verdict.NOT_ESTABLISHED]
    if missed:
        names = join_names([contrast_words(course.contrast) for course in missed])
        yield NextStep(
            title="Ask the open contrasts again",
            why=f"{names}: not established with all {plural(len(report.planned.seeds), 'seed')}. Seeds added to this "
            "experiment now would not be part of its design; plan another one with fresh seeds, more of them or more "
            "test items.",
        )
    if not report.is_confirming and report.chosen:
        yield NextStep(
            title="Confirm what explore chose",
            why=f"{join_names(list(report.chosen))}: chosen by validation loss with one seed. A higher score is not "
            "shown by that; `strategy.confirm` with fresh seeds tests it.",
        )


def _next_decision(gathered: ReportInputs, report: StrategyReport) -> NextStep:
    """Return the step that leads to the next point of explore or the next look."""
    working = set() if gathered.strategy is None else {run.name for run in gathered.strategy.state.working}
    left = [run.name for run in gathered.runs if run.name in working and run.status not in _DONE]
    is_local = gathered.plan is None or gathered.plan.compute.executor == "local"
    if report.planned.explore is not None and report.chosen is None:
        points = len(report.planned.explore.at)
        done = len(report.cuts)
        title = f"Train to point {done + 1} of {points}" if done < points else "Finish explore"
        why = "Explore decides when all runs that were not cut have come so far"
    else:
        title = f"Take look {report.looks_taken + 1} of {len(report.planned.looks)}"
        why = capital(next_look_words(report))
    rest = f": {join_names(left)} {'is' if len(left) == 1 else 'are'} not complete" if left else ""
    return NextStep(title=title, why=f"{why}{rest}.", command=f"touchline {'resume' if is_local else 'submit'} .")


def _budget(gathered: ReportInputs, report: StrategyReport, names: list[str]) -> NextStep:
    stop, unit = report.stop, hours_unit(device_word(gathered))
    spent = None if stop is None else stop.spent_device_hours
    if spent is None and not isinstance(known := finite(report.cost.spent), Missing):
        spent = known.value
    used = "" if spent is None else f"{spent:.3g} "
    limit = None if stop is None else stop.budget_device_hours
    of = "" if limit is None else f"of {limit:.3g} "
    more = None if stop is None else stop.next_device_hours
    cost = (
        "; what the next runs would take is not known"
        if more is None
        else f"; the next runs would take {more:.3g} more"
    )
    left = f" Undecided: {join_names(names)}." if names else ""
    is_local = gathered.plan is None or gathered.plan.compute.executor == "local"
    command, then = (
        ("touchline run .", "") if is_local else ("touchline plan .", ": plan it, then `touchline submit .`")
    )
    return NextStep(
        title="Decide on a larger budget",
        why=f"The budget stopped the strategy: {used}{of}{unit} spent{cost}.{left} A larger `strategy.budget` in "
        f"experiment.yaml continues with the planned looks and bounds{then}.",
        command=command,
    )
