"""Sentences about a strategy: what its looks established, what explore cut and chose, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.quantity import Missing, Quantity, finite
from touchline.core.units import hours_unit, percent, plural
from touchline.report.findings.scores import LIMITS
from touchline.report.formatting import Scale, capital, join_names
from touchline.report.report import Statement
from touchline.report.strategy import ContrastCourse, StrategyReport, TakenLook, contrast_words, sides_words
from touchline.statistics.conclusions import Conclusion, Verdict
from touchline.strategy.costs import promised_power
from touchline.strategy.decisions import StopReason
from touchline.strategy.group_sequential import GIVEN_UP

LOOKS, CUTS, STRATEGY_COST = "Contrasts at their looks", "Explore", "Cost of the strategy"
_RUNS_TOLD = 6


def strategy_findings(report: StrategyReport, scale: Scale, device: str) -> Iterator[Statement]:
    """Yield every contrast with its last look, then cuts, choice and cost.

    Args:
        report: the strategy.
        scale: the format of scores.
        device: name of the devices, `GPU`.
    """
    for course in report.courses:
        yield course_statement(report, course, scale)
    if report.is_confirming and not report.courses:
        yield Statement(topic=LOOKS, text=waiting_words(report), shown=Conclusion.NOT_TESTABLE)
    yield from _explored(report)
    yield from _cost(report, device)


def course_statement(report: StrategyReport, course: ContrastCourse, scale: Scale) -> Statement:
    """Return what is known of one contrast after its last look."""
    shown = Conclusion.HIGHER if course.verdict is Verdict.ESTABLISHED else Conclusion.NOT_ESTABLISHED
    if not course.looks:
        text = f"{capital(contrast_words(course.contrast))}: no look has been taken yet; {next_look_words(report)}."
        return Statement(topic=LOOKS, text=text, shown=Conclusion.NOT_TESTABLE, where=("ledger.jsonl",))
    last = course.looks[-1]
    text = f"{claim(report, course, last, scale)}.{_promise(report, course, last, scale)}{_diverged(last, scale)}"
    return Statement(topic=LOOKS, text=text, shown=shown, where=("ledger.jsonl",))


def claim(report: StrategyReport, course: ContrastCourse, look: TakenLook, scale: Scale) -> str:
    """Return the verdict of a look with the difference and its repeated interval."""
    seeds, found = report.planned.seeds, look.found
    used = f"{len(found.pairs)} of {plural(len(seeds), 'seed')}"
    place = f"look {look.number} of {len(report.planned.looks)}"
    match found.verdict:
        case Verdict.ESTABLISHED:
            return f"Established at {place} ({used}): {_difference(course, look, scale)}"
        case Verdict.OUT_OF_REACH:
            return f"Given up as out of reach at {place} ({used}): {_difference(course, look, scale)}"
        case Verdict.NOT_ESTABLISHED:
            return f"Not established at the last look ({used}): {_difference(course, look, scale)}"
        case _:
            return f"Undecided after {place} ({used}): {_difference(course, look, scale)}"


def _difference(course: ContrastCourse, look: TakenLook, scale: Scale) -> str:
    """Return `rank 64 scores 3.1 points above rank 4 (repeated 95% interval +0.4 to +5.8)`."""
    found, ends = look.found, interval_words(look, scale)
    interval = f" (repeated 95% interval {ends})" if ends else " (no interval: the seeds do not differ)"
    if found.verdict is not Verdict.ESTABLISHED:
        return f"{contrast_words(course.contrast)}, {scale.difference(found.difference)}{interval}"
    level, against = sides_words(course.contrast)
    return f"{level} scores {scale.size(abs(found.difference))} above {against}{interval}"


def interval_words(look: TakenLook, scale: Scale) -> str:
    """Return the repeated confidence interval of a look: `+0.4 to +5.8`. Empty without one."""
    ends = look.interval(scale)
    return "" if ends is None else scale.ends(*ends)


def _promise(report: StrategyReport, course: ContrastCourse, look: TakenLook, scale: Scale) -> str:
    promised = scale.size(report.planned.detect)
    match course.verdict:
        case Verdict.OUT_OF_REACH:
            return (
                f" By the rule stated beforehand, which gives up a true difference of {promised} in up to "
                f'{100 * GIVEN_UP:.0f} of 100 such experiments, in more where items vary; that is not "no difference".'
            )
        case Verdict.NOT_ESTABLISHED:
            power = promised_power(report.planned, len(report.courses))
            shown = (
                f"How often the design shows {promised} is not known, as the spread between seeds was not"
                if power is None
                else f"The design shows a true difference of {promised} in at most {100 * power:.0f} of 100 such "
                "experiments, by the spread between seeds that it counted on"
            )
            return f' {shown}; this is not "no difference".'
        case Verdict.UNDECIDED:
            budget = report.stop is not None and report.stop.reason is StopReason.BUDGET
            return (
                " The budget stopped the strategy before the next look."
                if budget
                else f" {capital(next_look_words(report))}."
            )
        case _:
            return ""


def next_look_words(report: StrategyReport) -> str:
    """Return `the next look needs 4 seeds per condition`."""
    taken, looks = report.looks_taken, report.planned.looks
    if taken >= len(looks):
        return "all looks have been taken"
    return f"the {'next' if taken else 'first'} look needs {looks[taken]} seeds per condition"


def _diverged(look: TakenLook, scale: Scale) -> str:
    """Return the runs that diverged and count as 0, by the rule stated beforehand."""
    names = [name for pair in look.found.pairs for name in pair.diverged]
    if not names:
        return ""
    counts = "counts" if len(names) == 1 else "count"
    return f" {join_names(names)} diverged and {counts} as {diverged_score(scale)}, by the rule stated beforehand."


def diverged_score(scale: Scale) -> str:
    """Return the score that a run which diverged counts as."""
    return "0" if scale.share else "0, or as the look's lowest score if that is below 0"


def waiting_words(report: StrategyReport) -> str:
    """Return the state of explore before it has chosen, or that it found nothing to confirm."""
    if report.chosen is not None:
        return "Explore chose no condition: no other run than the reference had a finite loss at its end."
    points = 0 if report.planned.explore is None else len(report.planned.explore.at)
    cut = f", {plural(len(report.cut), 'run')} cut" if report.cut else ""
    return (
        f"Explore has not chosen yet ({len(report.cuts)} of {plural(points, 'point')} decided{cut}): nothing is tested."
    )


# ---- explore ---------------------------------------------------------------------------------------------------------


def _explored(report: StrategyReport) -> Iterator[Statement]:
    if report.planned.explore is None:
        return
    for number, cut in enumerate(report.cuts, 1):
        kept, gone = len(cut.kept), len(cut.cut)
        names = f": {join_names(list(cut.cut), _RUNS_TOLD)}" if gone else ""
        yield Statement(
            topic=CUTS,
            text=f"At step {cut.step:,} (point {number} of {len(report.planned.explore.at)}) "
            f"{plural(kept + gone, 'run')} {'was' if kept + gone == 1 else 'were'} compared by validation loss; "
            f"{gone} cut{names}.",
            where=("ledger.jsonl",),
        )
    if report.chosen is not None and not report.chosen:
        yield Statement(topic=CUTS, text=waiting_words(report), where=("ledger.jsonl",))
    if report.chosen:
        losses = {each.run: each.loss for each in report.final_losses}
        best = [f"{name} ({_loss(losses.get(name))})" for name in report.chosen]
        after = "" if report.is_confirming else " No claim about scores follows: nothing was planned to confirm it."
        yield Statement(
            topic=CUTS,
            text=f"Chosen by final validation loss, not by score: {join_names(best)}, of "
            f"{plural(len(report.final_losses), 'run')} that were not cut.{after}",
            where=("ledger.jsonl",),
        )
    if report.cut:
        yield Statement(
            topic=LIMITS,
            text="1 run was cut before the end: its final loss and score are unknown, and it enters no test, no effect "
            "and no best of several."
            if len(report.cut) == 1
            else f"{len(report.cut)} runs were cut before the end: their final losses and scores are unknown, and they "
            "enter no test, no effect and no best of several.",
        )


def _loss(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4g} nats"


# ---- cost ------------------------------------------------------------------------------------------------------------


def _cost(report: StrategyReport, device: str) -> Iterator[Statement]:
    spent = finite(report.cost.spent)
    if isinstance(spent, Missing):
        return
    unit, so_far = hours_unit(device), "" if report.stop is not None else " so far"
    for fixed, what in _designs(report):
        known = finite(fixed)
        if isinstance(known, Missing) or known.value <= 0:
            continue
        yield Statement(
            topic=STRATEGY_COST,
            text=f"Measured{so_far}: {spent.value:.3g} {unit}; {what} {_predicted(known)}, so that this is "
            f"{_share(spent, known)} of it.",
            where=("plan.json", "ledger.jsonl"),
        )


def _designs(report: StrategyReport) -> Iterator[tuple[Quantity | Missing, str]]:
    yield report.cost.without_stopping, f"the same phases without {report.stopping} are predicted to take"
    if report.planned.explore is not None and report.is_confirming:
        runs = plural(report.cost.grid_runs, "run")
        yield report.cost.grid, f"the full grid, every condition with all seeds ({runs}), is predicted to take"


def _predicted(value: Quantity) -> str:
    ends = "" if value.low is None or value.high is None else f" [{value.low:.3g}, {value.high:.3g}]"
    return f"{value.value:.3g}{ends}"


def _share(spent: Quantity, fixed: Quantity) -> str:
    """Return measured over predicted hours with the ends that the prediction's interval gives: `39% [31, 48]`."""
    share = percent(spent.value / fixed.value, 0)
    if not fixed.low or not fixed.high:
        return share
    return f"{share} [{100 * spent.value / fixed.high:.0f}, {100 * spent.value / fixed.low:.0f}]"


# ---- the bottom line -------------------------------------------------------------------------------------------------


def strategy_answer(report: StrategyReport, scale: Scale) -> tuple[str, Conclusion | None, Sequence[str]]:
    """Return the topic, the conclusion and the forms of the bottom line, the longest first.

    Args:
        report: the strategy.
        scale: the format of scores.
    """
    if not report.is_confirming:
        return CUTS, None, (_explore_answer(report),)
    if not report.courses:
        return LOOKS, Conclusion.NOT_TESTABLE, (waiting_words(report),)
    if report.looks_taken == 0:
        text = f"Nothing is established yet: {next_look_words(report)}."
        return LOOKS, Conclusion.NOT_TESTABLE, (text,)
    if len(report.courses) == 1:
        (course,) = report.courses
        last = course.looks[-1]
        shown = Conclusion.HIGHER if course.verdict is Verdict.ESTABLISHED else Conclusion.NOT_ESTABLISHED
        return LOOKS, shown, (f"{claim(report, course, last, scale)}.", f"{_brief(course, last, scale)}.")
    established = [each for each in report.courses if each.verdict is Verdict.ESTABLISHED]
    if established:
        sides = [_brief(each, each.looks[-1], scale) for each in established]
        rest = _others(report, established)
        return (
            LOOKS,
            Conclusion.HIGHER,
            (
                f"Established: {join_names(sides)}.{rest}",
                f"Established: {join_names([contrast_words(each.contrast) for each in established])}.{rest}",
                f"{len(established)} of {len(report.courses)} contrasts are established.{rest}",
            ),
        )
    return (
        LOOKS,
        Conclusion.NOT_ESTABLISHED,
        (
            f"None of {len(report.courses)} contrasts is established after look {report.looks_taken} of "
            f"{len(report.planned.looks)}.{_others(report, ())}",
        ),
    )


def _brief(course: ContrastCourse, look: TakenLook, scale: Scale) -> str:
    """Return `rank 64 above rank 4 by 3.1 points (+0.4 to +5.8, look 2)`."""
    ends = interval_words(look, scale)
    numbers = f"({f'{ends}, ' if ends else ''}look {look.number})"
    if look.found.verdict is not Verdict.ESTABLISHED:
        return (
            f"{contrast_words(course.contrast)} {look.found.verdict.value}: "
            f"{scale.difference(look.found.difference)} {numbers}"
        )
    level, against = sides_words(course.contrast)
    return f"{level} above {against} by {scale.size(look.found.difference)} {numbers}"


def _others(report: StrategyReport, named: Sequence[ContrastCourse]) -> str:
    """Return the number of further contrasts by verdict."""
    rest = [each.verdict for each in report.courses if each not in named]
    counts = [f"{rest.count(verdict)} {verdict.value}" for verdict in Verdict if verdict in rest]
    return f" {'Others' if named else 'Of them'}: {join_names(counts)}." if counts else ""


def _explore_answer(report: StrategyReport) -> str:
    if not report.chosen:
        return waiting_words(report)
    losses = {each.run: each.loss for each in report.final_losses}
    names = [f"{name} ({_loss(losses.get(name))})" for name in report.chosen]
    return f"Lowest final validation loss of the runs that were not cut: {join_names(names)}. No score is claimed."
