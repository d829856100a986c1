"""Sentences about a strategy: what its looks established, what explore cut and chose, what it cost, the answer."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.quantity import Missing, Quantity, finite
from touchline.core.scale import Scale
from touchline.core.text import capital, join_names
from touchline.core.units import between, device_hours, hours_unit, percent, plural
from touchline.statistics.conclusions import Conclusion, Verdict
from touchline.statistics.own_score import FEWEST_UNITS, TOO_FEW
from touchline.statistics.power import most_unseen
from touchline.statistics.statements import Statement
from touchline.strategy.costs import promised_power
from touchline.strategy.decisions import StopReason
from touchline.strategy.group_sequential import GIVEN_UP
from touchline.strategy.report import ContrastCourse, StrategyReport, TakenLook

LOOKS, CUTS, COST, LIMITS = "Contrasts at their looks", "Explore", "Cost of the strategy", "Limits"
"""Topics."""
_LEDGER = ("ledger.jsonl",)


def strategy_sentences(report: StrategyReport, scale: Scale, device: str) -> Iterator[Statement]:
    """Yield every contrast with its last look, then cuts, choice and cost.

    Args:
        scale: the format of scores.
        device: name of the devices, `GPU`.
    """
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
    """Return the verdict of a look with the difference and its repeated interval."""
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
    """Return the chosen runs with their final losses."""
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
