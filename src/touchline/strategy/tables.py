"""Tables of a strategy: every look with its numbers, the scores it is based on, and the losses that cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.core.quantity import Missing
from touchline.core.scale import Scale
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present, table_of
from touchline.core.text import capital
from touchline.core.units import plural
from touchline.statistics.conclusions import Verdict
from touchline.strategy.decisions import Cut, StopReason
from touchline.strategy.report import ContrastCourse, StrategyReport, TakenLook
from touchline.strategy.sentences import diverged_score

_POINTS = 100.0
_MARKS = {Verdict.ESTABLISHED: Mark.GOOD, Verdict.OUT_OF_REACH: Mark.QUIET, Verdict.UNDECIDED: Mark.WARN}
_SAME = Missing(missing="the seeds do not differ")


def strategy_section(report: StrategyReport, explored: Mapping[str, str], scale: Scale) -> Section:
    """Return cuts and looks of a strategy.

    Args:
        explored: conditions of explore by run.
        scale: the format of scores.
    """
    return Section(
        title="Strategy",
        paragraphs=tuple(_paragraphs(report, scale)),
        tables=present(
            looks_table(report, scale),
            _seeds_table(report, scale),
            _losses_table(report, explored),
        ),
        figures=("strategy",),
    )


def _paragraphs(report: StrategyReport, scale: Scale) -> Iterator[str]:
    if report.planned.explore is not None and report.chosen is None and report.stop is None:
        yield report.waiting
    if report.is_confirming:
        looks = report.planned.looks
        seeds = ", ".join(str(each) for each in looks)
        yield (
            f"Confirm tests {plural(len(report.courses), 'contrast')} on fresh seeds, at "
            f"{plural(len(looks), 'look')} with {seeds} seeds per condition, to detect a difference of "
            f"{scale.size(report.planned.detect)}. The one-sided level for all contrasts and looks is 2.5%. "
            f"{_reason(report)}"
        )


def _reason(report: StrategyReport) -> str:
    if report.stop is None:
        return f"{capital(report.next_look)}."
    if report.stop.reason is StopReason.BUDGET:
        return "The budget stopped the strategy, because the next runs were predicted to exceed it."
    left = len(report.planned.looks) - report.looks_taken
    rest = f" {plural(left, 'look')} of the design {'was' if left == 1 else 'were'} not needed." if left else ""
    return f"All contrasts are decided.{rest}"


# ---- looks -----------------------------------------------------------------------------------------------------------


def looks_table(report: StrategyReport, scale: Scale) -> Table | None:
    """Return a row for every contrast and look, with all numbers that the verdict is based on."""
    columns = (
        *(Column("contrast"), Column("look", numeric=True), Column("seeds", numeric=True)),
        Column(f"difference{' (points)' if scale.share else ''}", key="difference", numeric=True),
        Column("corrected", numeric=True, note="Difference without what the choice of claims adds on average"),
        Column("error", numeric=True, is_wide=True, note="Standard error over seeds"),
        Column("wide error", numeric=True, is_wide=True, note="Standard error with the variation between items"),
        Column("items", numeric=True, is_wide=True, note="Independent test items or clusters"),
        *(Column("t", numeric=True, is_wide=True), Column("bound", numeric=True, is_wide=True)),
        Column("level", numeric=True, is_wide=True, note="Share of the one-sided level of 2.5%, by Holm's rule"),
        Column("futility", numeric=True, is_wide=True, note="At or below it the contrast is given up"),
        *(Column("repeated 95% interval"), Column("verdict")),
    )
    rows = [_look_row(course, look, scale) for course in report.courses for look in course.looks]
    within, whole = (" within -100 to +100 points", ", the interval whole") if scale.share else ("", "")
    note = (
        "Difference: mean over the seeds of the next table. Error: standard error over seeds. Wide error: also "
        "with the variation between test items and of diverged runs. t: the smaller one of both errors. With fewer "
        "items than seeds, the t of the wide error is that with the same p value. Corrected: estimate of claims alone "
        "(Troendle and Yu 1999). Established: t reaches the bound of the planned looks and the row's level. Given up: "
        f"t is at or below futility. Interval: what t at the bound allows{within}, valid over all looks. Every number "
        f"is in ledger.jsonl{whole}."
    )
    return table_of(columns, rows, "Looks", notes=(note,))


def _look_row(course: ContrastCourse, look: TakenLook, scale: Scale) -> tuple[Value, ...]:
    found, interval = look.found, look.interval(scale)
    ends = None if interval is None else " to ".join(_points(end, scale) for end in interval)
    return (
        *(course.words, look.number, len(found.pairs), Cell(_points(found.difference, scale), found.difference)),
        None if found.corrected is None else Cell(_points(found.corrected, scale), found.corrected),
        *(_size(found.error, scale), None if found.wide_error is None else _size(found.wide_error, scale)),
        *(found.units, _SAME if found.t is None else _number(found.t), _number(found.bound)),
        f"{_POINTS * found.level:.4g}%" if found.level else None,
        None if found.futility is None else _number(found.futility),
        *(_SAME if ends is None else ends, Cell(found.verdict.value, mark=_MARKS.get(found.verdict))),
    )


def _seeds_table(report: StrategyReport, scale: Scale) -> Table | None:
    """Return the mean scores of both sides for every seed, from which every look can be computed again."""
    columns = (
        *(Column("contrast"), Column("seed", numeric=True), Column("from look", numeric=True)),
        *(Column("mean at the level", numeric=True), Column("mean against", numeric=True)),
        *(Column(f"difference{' (points)' if scale.share else ''}", numeric=True), Column("diverged")),
    )
    rows = [row for course in report.courses for row in _seed_rows(course, scale)]
    note = "Mean: over test items and conditions of a side. Column `from look`: the first look with that seed."
    return table_of(columns, rows, "Scores by seed", notes=(note,))


def _seed_rows(course: ContrastCourse, scale: Scale) -> Iterator[tuple[Value, ...]]:
    first: dict[int, int] = {}
    for look in course.looks:
        for pair in look.found.pairs:
            first.setdefault(pair.seed, look.number)
    for pair in course.looks[-1].found.pairs if course.looks else ():
        names = ", ".join(pair.diverged)
        diverged = Cell(f"{names}: counts as {diverged_score(scale)}", mark=Mark.WARN) if names else None
        yield (
            *(course.words, Cell(str(pair.seed), pair.seed), first[pair.seed]),
            *(Cell(_mean(pair.level, scale), pair.level), Cell(_mean(pair.against, scale), pair.against)),
            *(Cell(_exact(pair.difference, scale), pair.difference), diverged),
        )


def _points(value: float, scale: Scale, digits: int = 2) -> str:
    """Return a difference in points with its sign."""
    return f"{round(_POINTS * value, digits) + 0.0:+.{digits}f}" if scale.share else f"{value:+.5g}"


def _exact(difference: float, scale: Scale) -> str:
    """Return a difference with enough digits to repeat the test."""
    if not scale.share:
        return f"{difference:+.7g}"
    text = _points(difference, scale, 4).rstrip("0").rstrip(".")
    return "0" if text in ("+0", "-0") else text


def _size(value: float, scale: Scale) -> Cell:
    return Cell(f"{_POINTS * value:.3f}" if scale.share else f"{value:.5g}", value)


def _mean(value: float, scale: Scale) -> str:
    """Return a mean with enough digits to repeat the test."""
    return f"{_POINTS * value:.4f}".rstrip("0").rstrip(".") + "%" if scale.share else f"{value:.7g}"


def _number(value: float) -> Cell:
    return Cell(f"{value:.4g}", value)


# ---- explore ---------------------------------------------------------------------------------------------------------


def _losses_table(report: StrategyReport, explored: Mapping[str, str]) -> Table | None:
    """Return the validation losses by which explore cut and chose."""
    points = {_point_label(place, cut): cut.losses for place, cut in enumerate(report.cuts, 1)}
    if report.final_losses:
        points["final"] = report.final_losses
    at = [{each.run: each.loss for each in losses} for losses in points.values()]
    columns = (
        *(Column("run", code=True), Column("condition")),
        *(Column(label, numeric=True) for label in points),
        Column("outcome"),
    )
    rows = [
        (run, condition, *(_loss(losses, run) for losses in at), _outcome(report, run))
        for run, condition in explored.items()
    ]
    note = "Validation loss in nats per label token at each point. A loss that is not finite ranks last."
    return table_of(columns, rows, "Explore", by_run=True, notes=(note,))


def _point_label(place: int, cut: Cut) -> str:
    """Return `step 40`, or `point 1` where runs have other numbers of steps."""
    steps = {each.step or cut.step for each in cut.losses}
    return f"step {cut.step:,}" if steps == {cut.step} else f"point {place}"


def _loss(losses: Mapping[str, float | None], run: str) -> Value:
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
