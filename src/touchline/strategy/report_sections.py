"""Sentences and tables of a strategy: looks with their numbers, cuts, choice, cost, and the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.core.quantity import Missing, Quantity, finite
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present, table_of
from touchline.core.text import capital, join_names
from touchline.core.units import Scale, between, device_hours, hours_unit, percent, plural
from touchline.statistics.closed_forms import most_unseen
from touchline.statistics.conclusions import Conclusion, Statement, Verdict
from touchline.statistics.own_score import FEWEST_UNITS, TOO_FEW
from touchline.strategy.costs import promised_power
from touchline.strategy.decisions import Cut, StopReason
from touchline.strategy.group_sequential import GIVEN_UP
from touchline.strategy.report import ContrastCourse, StrategyReport, TakenLook

LOOKS, CUTS, COST, LIMITS = "Contrasts at their looks", "Explore", "Cost of the strategy", "Limits"
"""Topics."""
_LEDGER = ("ledger.jsonl",)


def strategy_sentences(report: StrategyReport, scale: Scale, device: str) -> Iterator[Statement]:
    """Yield every contrast with its last look, then cuts, choice and cost."""
    for course in report.courses:
        yield course_sentence(report, course, scale)
    if report.is_confirming and not report.courses:
        yield Statement(topic=LOOKS, text=report.waiting, shown=Conclusion.NOT_TESTABLE)
    if report.planned.explore is not None:
        yield from _explored(report)
    yield from _cost(report, device)


# ---- looks -----------------------------------------------------------------------------------------------------------


def course_sentence(report: StrategyReport, course: ContrastCourse, scale: Scale) -> Statement:
    """Return what is known of one contrast after its last look."""
    if not course.looks:
        text = f"{capital(course.words)}: no look yet. {capital(report.next_look)}."
        return Statement(topic=LOOKS, text=text, shown=Conclusion.NOT_TESTABLE, where=_LEDGER)
    last = course.looks[-1]
    text = f"{_claim(report, course, last, scale)}.{_promise(report, course, scale)}{_diverged(last, scale)}"
    return Statement(topic=LOOKS, text=text, shown=_shown(course), where=_LEDGER)


def _shown(course: ContrastCourse) -> Conclusion:
    return Conclusion.HIGHER if course.verdict is Verdict.ESTABLISHED else Conclusion.NOT_ESTABLISHED


def _claim(report: StrategyReport, course: ContrastCourse, look: TakenLook, scale: Scale) -> str:
    used = f"({len(look.found.pairs)} of {plural(len(report.planned.seeds), 'seed')})"
    place = f"look {look.number} of {len(report.planned.looks)}"
    verdict = {
        Verdict.ESTABLISHED: f"Established at {place}",
        Verdict.OUT_OF_REACH: f"Given up as out of reach at {place}",
        Verdict.NOT_ESTABLISHED: "Not established at the last look",
        Verdict.UNDECIDED: f"Undecided after {place}",
    }[look.found.verdict]
    ends, found = look.ends(scale), look.found
    interval = f" (repeated 95% interval {ends})" if ends else " (no interval: the seeds do not differ)"
    level, against = course.sides
    difference = f"{course.words}, {scale.difference(found.difference)}"
    if found.verdict is Verdict.ESTABLISHED:
        difference = f"{level} scores {scale.size(abs(found.difference))} above {against}"
        if found.corrected is not None:
            interval += f", {scale.size(found.corrected)} corrected for the choice of claims"
    return f"{verdict} {used}: {difference}{interval}"


def _promise(report: StrategyReport, course: ContrastCourse, scale: Scale) -> str:
    promised = scale.size(report.planned.detect)
    match course.verdict:
        case Verdict.OUT_OF_REACH:
            return (
                f' This is not "no difference". The planned rule gives up a true difference of {promised} in up to '
                f"{100 * GIVEN_UP:.0f} of 100 experiments, or in more if items vary."
            )
        case Verdict.NOT_ESTABLISHED:
            power = promised_power(report.planned, len(report.courses))
            shown = (
                f"The power for {promised} is unknown, because the spread between seeds was unknown"
                if power is None
                else f"With the planned spread between seeds, the design detects a true difference of {promised} "
                f"in at most {100 * power:.0f} of 100 experiments"
            )
            return f' This is not "no difference". {shown}.'
        case Verdict.UNDECIDED:
            if report.stop is not None and report.stop.reason is StopReason.BUDGET:
                return " The budget stopped the strategy before the next look."
            return f" {capital(report.next_look)}."
        case _:
            return ""


def _diverged(look: TakenLook, scale: Scale) -> str:
    """Return the runs that diverged and count as 0, by the rule stated beforehand."""
    found, names = look.found, [name for pair in look.found.pairs for name in pair.diverged]
    if found.units is not None and found.units < FEWEST_UNITS:
        return f" {plural(found.units, 'independent item or cluster', 'independent items or clusters')}: {TOO_FEW}."
    if found.verdict is Verdict.ESTABLISHED and not names:
        seeds = len(found.pairs)
        unseen = percent(most_unseen(seeds), 0)
        return f" With {seeds} seeds, failures in up to {unseen} of the runs can remain unseen."
    if not names:
        return ""
    counts = "counts" if len(names) == 1 else "count"
    rests = " The claim depends on that." if found.verdict is Verdict.ESTABLISHED else ""
    return f" {join_names(names)} diverged and {counts} as {diverged_score(scale)}, by the planned rule.{rests}"


def diverged_score(scale: Scale) -> str:
    """Return the score that a run which diverged counts as."""
    return "0" if scale.share else "0, or as the look's lowest score if that is below 0"


# ---- explore and cost ------------------------------------------------------------------------------------------------


def _explored(report: StrategyReport) -> Iterator[Statement]:
    if report.chosen is not None:
        after = (
            "" if report.is_confirming else " This is not a claim about scores, because no confirm phase was planned."
        )
        text = (
            f"Chosen by final validation loss, not by score: {_best(report)}, of "
            f"{plural(len(report.final_losses), 'run')} that were not cut.{after}"
        )
        yield Statement(topic=CUTS, text=text if report.chosen else report.waiting, where=_LEDGER)
    if report.cut:
        begin, them, they, enter = (
            ("1 run was", "its final loss and score are", "it", "enters")
            if len(report.cut) == 1
            else (f"{len(report.cut)} runs were", "their final losses and scores are", "they", "enter")
        )
        yield Statement(
            topic=LIMITS,
            text=f"{begin} cut before the end: {them} unknown, and {they} {enter} no test, effect or ranking.",
        )


def _best(report: StrategyReport) -> str:
    losses = {each.run: each.loss for each in report.final_losses}
    found = [(name, losses.get(name)) for name in report.chosen or ()]
    return join_names([f"{name} ({'not finite' if loss is None else f'{loss:.4g} nats'})" for name, loss in found])


def _cost(report: StrategyReport, device: str) -> Iterator[Statement]:
    spent, fixed = finite(report.spent), finite(report.without_stopping)
    if isinstance(spent, Missing) or isinstance(fixed, Missing) or fixed.value <= 0:
        return
    so_far = "" if report.stop is not None else " so far"
    unit = hours_unit(device)
    yield Statement(
        topic=COST,
        text=f"Measured{so_far}: {device_hours(spent, unit)}, {_share(spent, fixed)} of the "
        f"{device_hours(fixed, unit)} predicted without {report.stopping}.",
        where=("plan.json", "ledger.jsonl"),
    )


def _share(spent: Quantity, fixed: Quantity) -> str:
    """Return measured over predicted hours with the ends that the prediction's interval gives: `39% (31 to 48)`."""
    low, high = (spent.value / end if end else None for end in (fixed.high, fixed.low))
    return percent(spent.value / fixed.value, 0) + between(low, high, lambda share: f"{100 * share:.0f}")


# ---- the bottom line -------------------------------------------------------------------------------------------------


def strategy_answer(report: StrategyReport, scale: Scale) -> Statement:
    """Return the answer with its numbers."""
    if not report.is_confirming:
        answer = f"Lowest final validation loss of the runs that were not cut: {_best(report)}. No score is claimed."
        return Statement(topic=CUTS, text=answer if report.chosen else report.waiting)
    shown, text = _looks_answer(report, scale)
    return Statement(topic=LOOKS, text=text, shown=shown)


def _looks_answer(report: StrategyReport, scale: Scale) -> tuple[Conclusion, str]:
    if not report.courses:
        return Conclusion.NOT_TESTABLE, report.waiting
    if report.looks_taken == 0:
        return Conclusion.NOT_TESTABLE, f"No contrast is established yet: {report.next_look}."
    if len(report.courses) == 1:
        (course,) = report.courses
        return _shown(course), f"{_claim(report, course, course.looks[-1], scale)}."
    established = [each for each in report.courses if each.verdict is Verdict.ESTABLISHED]
    verdicts = [each.verdict for each in report.courses if each not in established]
    counts = [f"{verdicts.count(verdict)} {verdict.value}" for verdict in Verdict if verdict in verdicts]
    rest = f" Others: {join_names(counts)}." if counts else ""
    if not established:
        none = f"None of {len(report.courses)} contrasts is established after look {report.looks_taken} of"
        return Conclusion.NOT_ESTABLISHED, f"{none} {len(report.planned.looks)}: {join_names(counts)}."
    return Conclusion.HIGHER, f"Established: {join_names([_brief(each, scale) for each in established])}.{rest}"


def _brief(course: ContrastCourse, scale: Scale) -> str:
    """Return `rank 64 above rank 4 by 3.1 points (+0.4 to +5.8, look 2)`."""
    look = course.looks[-1]
    ends, (level, against) = look.ends(scale), course.sides
    numbers = f"({f'{ends}, ' if ends else ''}look {look.number})"
    return f"{level} above {against} by {scale.size(look.found.difference)} {numbers}"


_POINTS = 100.0
_MARKS = {Verdict.ESTABLISHED: Mark.GOOD, Verdict.OUT_OF_REACH: Mark.QUIET, Verdict.UNDECIDED: Mark.WARN}
_SAME = Missing(missing="the seeds do not differ")


def strategy_section(report: StrategyReport, explored: Mapping[str, str], scale: Scale) -> Section:
    """Return cuts and looks of a strategy."""
    return Section(
        title="Strategy",
        paragraphs=tuple(_paragraphs(report, scale)),
        tables=present(looks_table(report, scale), _seeds_table(report, scale), _losses_table(report, explored)),
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
    return f"{_POINTS * value:.4f}".rstrip("0").rstrip(".") + "%" if scale.share else f"{value:.7g}"


def _number(value: float) -> Cell:
    return Cell(f"{value:.4g}", value)


# ---- explore ---------------------------------------------------------------------------------------------------------


def _losses_table(report: StrategyReport, explored: Mapping[str, str]) -> Table | None:
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
