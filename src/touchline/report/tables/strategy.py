"""Tables of a strategy: every look with its numbers, the scores it is based on, the losses that cut, and the cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present, table_of
from touchline.core.units import hours_unit, plural
from touchline.experiment.runs import Phase
from touchline.report.findings.strategy import diverged_score, next_look_words, waiting_words
from touchline.report.formatting import Scale, capital, is_at_least, join_names, scale_or_share
from touchline.report.report import Report
from touchline.report.strategy import ContrastCourse, StrategyReport, TakenLook, condition_words, contrast_words
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import Cut, StopReason

_POINTS = 100.0
_MARKS = {Verdict.ESTABLISHED: Mark.GOOD, Verdict.OUT_OF_REACH: Mark.QUIET, Verdict.UNDECIDED: Mark.WARN}


def strategy_section(report: Report) -> Section | None:
    """Return cuts, looks and cost of a strategy. None without one."""
    found = report.strategy
    if found is None:
        return None
    scale = scale_or_share(report.analyses)
    return Section(
        title="Strategy",
        paragraphs=(*_paragraphs(found, scale), *_continued(found, report.device)),
        tables=present(
            looks_table(found, scale),
            _seeds_table(found, scale),
            _losses_table(found, report.runs),
            _cost_table(found, report.device),
        ),
        figures=("strategy",),
    )


def _paragraphs(report: StrategyReport, scale: Scale) -> Iterator[str]:
    if report.planned.explore is not None:
        kept = report.planned.explore
        others = " of the others" if report.references else ""
        rule = (
            f"the best {100 * kept.keep:g}%{others}, rounded up, continue"
            if kept.policy == "halving"
            else "runs whose validation loss is not above the median continue"
        )
        reference = " The reference is never cut." if report.references else ""
        yield (
            f"Explore trains every condition with one seed; at {plural(len(kept.at), 'point')} {rule}.{reference} It "
            "chooses by validation loss, not by test score."
        )
        if report.chosen is None and report.stop is None:
            yield waiting_words(report)
    if report.is_confirming:
        yield (
            f"Confirm tests {plural(len(report.courses), 'contrast')} on fresh seeds, at {_looks(report)}, to show a "
            f"difference of {scale.size(report.planned.detect)}. The one-sided level of all contrasts and looks "
            f"together is 2.5%. {_reason(report)}"
        )


def _continued(report: StrategyReport, device: str) -> Iterator[str]:
    """Yield every stop for the budget that a larger one lifted, with both budgets."""
    stop, looks = None, 0
    for decision in report.decisions:
        looks += decision.look is not None
        stop = decision.stop or stop
        if decision.continuation is not None and stop is not None:
            after = decision.continuation.budget_device_hours
            when = f"after look {looks} of {len(report.planned.looks)}" if looks else "before the first look"
            yield (
                f"A budget of {_budget(stop.budget_device_hours)} {hours_unit(device)} stopped it {when}, and it was "
                f"continued with {'no budget' if after is None else _budget(after)}. Looks and bounds stayed as "
                "planned."
            )


def _budget(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:.3g}"


def _looks(report: StrategyReport) -> str:
    seeds = [str(each) for each in report.planned.looks]
    return f"{plural(len(seeds), 'look')} with {', '.join(seeds)} seeds per condition"


def _reason(report: StrategyReport) -> str:
    if report.stop is None:
        return f"{capital(next_look_words(report))}."
    if report.stop.reason is StopReason.BUDGET:
        return "It was stopped by its budget: the next runs were predicted to exceed it."
    left = len(report.planned.looks) - report.looks_taken
    return "All contrasts are decided." + (
        f" {plural(left, 'look')} of the design {'was' if left == 1 else 'were'} not needed." if left else ""
    )


# ---- looks -----------------------------------------------------------------------------------------------------------


def looks_table(report: StrategyReport, scale: Scale) -> Table | None:
    """Return a row for every contrast and look, with all numbers that the verdict is based on."""
    unit = "points" if scale.share else ""
    columns = (
        *(Column("contrast"), Column("look", numeric=True), Column("seeds", numeric=True)),
        Column(f"difference{f' ({unit})' if unit else ''}", key="difference", numeric=True),
        Column("error", numeric=True, is_wide=True, note="Standard error over seeds"),
        Column("wide error", numeric=True, is_wide=True, note="Standard error with the variation between items"),
        *(Column("t", numeric=True, is_wide=True), Column("bound", numeric=True, is_wide=True)),
        Column("level", numeric=True, is_wide=True, note="Share of the one-sided level of 2.5%, by Holm's rule"),
        Column("futility", numeric=True, is_wide=True, note="At or below it the contrast is given up"),
        Column("repeated 95% interval"),
        Column("verdict"),
    )
    rows = [_look_row(course, look, scale) for course in report.courses for look in course.looks]
    within, whole = (" within -100 to +100 points", ", the interval whole") if scale.share else ("", "")
    note = (
        "Difference: mean over the seeds of the next table. Error: their standard deviation (n - 1) over the root of "
        "their number. Wide error: with the variation between test items, and where a run diverged at least the error "
        "of that chance; it can only widen. t: difference over the larger error. Established: t reaches the bound, "
        "which follows from the planned looks and the row's level. Given up: t is at or below futility. Interval: "
        f"difference minus and plus the bound times the larger error{within}; it holds over all looks. Every number is "
        f"in ledger.jsonl{whole}."
    )
    return table_of(columns, rows, "Looks", notes=(note,))


def _look_row(course: ContrastCourse, look: TakenLook, scale: Scale) -> tuple[Value, ...]:
    found = look.found
    interval = look.interval(scale)
    return (
        contrast_words(course.contrast),
        look.number,
        len(found.pairs),
        Cell(_points(found.difference, scale), found.difference),
        Cell(_size(found.error, scale), found.error),
        None if found.wide_error is None else Cell(_size(found.wide_error, scale), found.wide_error),
        Missing(missing="the seeds do not differ") if found.t is None else _number(found.t),
        _number(found.bound),
        f"{_POINTS * found.level:.4g}%" if found.level else None,
        None if found.futility is None else _number(found.futility),
        Missing(missing="the seeds do not differ")
        if interval is None
        else " to ".join(_points(end, scale) for end in interval),
        Cell(found.verdict.value, mark=_MARKS.get(found.verdict)),
    )


def _seeds_table(report: StrategyReport, scale: Scale) -> Table | None:
    """Return the mean scores of both sides for every seed, from which every look can be computed again."""
    columns = (
        *(Column("contrast"), Column("seed", numeric=True), Column("from look", numeric=True)),
        *(Column("mean at the level", numeric=True), Column("mean against", numeric=True)),
        *(Column(f"difference{' (points)' if scale.share else ''}", numeric=True), Column("diverged")),
    )
    rows: list[tuple[Value, ...]] = []
    for course in report.courses:
        first: dict[int, int] = {}
        for look in course.looks:
            for pair in look.found.pairs:
                first.setdefault(pair.seed, look.number)
        for pair in course.looks[-1].found.pairs if course.looks else ():
            difference = pair.level - pair.against
            names = ", ".join(pair.diverged)
            diverged = Cell(f"{names}: counts as {diverged_score(scale)}", mark=Mark.WARN) if names else None
            rows.append(
                (
                    *(contrast_words(course.contrast), Cell(str(pair.seed), pair.seed), first[pair.seed]),
                    *(Cell(_mean(pair.level, scale), pair.level), Cell(_mean(pair.against, scale), pair.against)),
                    *(Cell(_exact(difference, scale), difference), diverged),
                )
            )
    note = "Mean: over test items, and over the conditions of a side if it has several. From look: the first with it."
    return table_of(columns, rows, "Scores by seed", notes=(note,))


def _points(value: float, scale: Scale, digits: int = 2) -> str:
    """Return a difference in points with its sign."""
    return f"{round(_POINTS * value, digits) + 0.0:+.{digits}f}" if scale.share else f"{value:+.5g}"


def _exact(difference: float, scale: Scale) -> str:
    """Return a difference with enough digits to repeat the test."""
    if not scale.share:
        return f"{difference:+.7g}"
    text = _points(difference, scale, 4).rstrip("0").rstrip(".")
    return "0" if text in ("+0", "-0") else text


def _size(value: float, scale: Scale) -> str:
    return f"{_POINTS * value:.3f}" if scale.share else f"{value:.5g}"


def _mean(value: float, scale: Scale) -> str:
    """Return a mean with enough digits to repeat the test."""
    return f"{_POINTS * value:.4f}".rstrip("0").rstrip(".") + "%" if scale.share else f"{value:.7g}"


def _number(value: float) -> Cell:
    return Cell(f"{value:.4g}", value)


# ---- explore ---------------------------------------------------------------------------------------------------------


def _losses_table(report: StrategyReport, runs: Sequence[RunResult]) -> Table | None:
    """Return the validation losses by which explore cut and chose."""
    points = [_point_label(place, cut) for place, cut in enumerate(report.cuts, 1)]
    at = [{each.run: each.loss for each in cut.losses} for cut in report.cuts]
    final = {each.run: each.loss for each in report.final_losses}
    explored = [run for run in runs if run.phase is Phase.EXPLORE]
    columns = (
        *(Column("run", code=True), Column("condition")),
        *(Column(label, numeric=True) for label in points),
        *([Column("final", numeric=True)] if final else []),
        Column("outcome"),
    )
    rows = [
        (
            *(run.name, condition_words(run)),
            *(_loss(losses, run.name) for losses in at),
            *([_loss(final, run.name)] if final else []),
            _outcome(report, run.name),
        )
        for run in explored
    ]
    note = "Validation loss in nats per label token, as it was compared. A loss that is not finite is last."
    return table_of(columns, rows, "Explore", by_run=True, notes=(note,))


def _point_label(place: int, cut: Cut) -> str:
    """Return `step 40`, or `point 1` where runs have other numbers of steps."""
    steps = {each.step or cut.step for each in cut.losses}
    return f"step {cut.step:,}" if steps == {cut.step} else f"point {place}"


def _loss(losses: dict[str, float | None], run: str) -> Value:
    if run not in losses:
        return None
    loss = losses[run]
    return Cell("not finite", mark=Mark.BAD) if loss is None else Cell(f"{loss:.5g}", loss)


def _outcome(report: StrategyReport, run: str) -> Cell:
    if run in report.cut:
        return Cell(f"cut after step {report.cut[run]:,}", mark=Mark.QUIET)
    words = ["reference"] if run in report.references else []
    if report.chosen is None:
        return Cell(", ".join([*words, "continues" if report.stop is None else "not decided"]))
    if run in report.chosen:
        return Cell(", ".join([*words, "chosen by validation loss"]), mark=Mark.GOOD)
    return Cell(", ".join(words) or "not chosen")


# ---- cost ------------------------------------------------------------------------------------------------------------


def _cost_table(report: StrategyReport, device: str) -> Table | None:
    """Return what was spent beside what fixed designs are predicted to take."""
    cost = report.cost
    hours = Column(hours_unit(device), numeric=True)
    rows: list[tuple[Value, ...]] = [
        ("measured: all attempts and evaluations" + ("" if report.stop is not None else " so far"), _spent(cost.spent)),
        ("predicted for the same runs", _interval(cost.predicted)),
        (f"predicted without {report.stopping}", _interval(cost.without_stopping)),
    ]
    if report.planned.explore is not None and report.is_confirming:
        what = f"predicted for the full grid: every condition with all seeds, {plural(cost.grid_runs, 'run')}"
        rows.append((what, _interval(cost.grid)))
    if report.planned.budget_device_hours is not None:
        budget = report.planned.budget_device_hours
        rows.append(("budget", Cell(f"{budget:.3g}", budget)))
    note = (
        f"Each with the controls. Without {report.stopping}: {join_names(_whole(report))}."
        f"{' Of cut runs the prediction counts the steps that they have done.' if report.cut else ''}"
    )
    return table_of(("design", hours), rows, "Cost against fixed designs", notes=(note,))


def _whole(report: StrategyReport) -> list[str]:
    """Return the runs of a fixed design with the same phases."""
    explore = ["all runs of explore to the end"] if report.planned.explore is not None else []
    return explore + (["the contrasts' conditions with all seeds"] if report.is_confirming else [])


def _spent(value: Measured) -> Value:
    if isinstance(value, Missing):
        return value
    return Cell(f"{'at least ' if is_at_least(value) else ''}{value.value:.3g}", value.value)


def _interval(value: Measured) -> Value:
    if isinstance(value, Missing):
        return value
    return Cell(f"{value.value:.3g}", value.value, interval=_ends(value), note=value.method or "")


def _ends(value: Quantity) -> str:
    return "" if value.low is None or value.high is None else f"[{value.low:.3g}, {value.high:.3g}]"
