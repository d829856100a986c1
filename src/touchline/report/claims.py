"""Claims: each difference with its interval, its p value, its verdict, and what would establish it; their table.

Items answer for checkpoints, training seeds for settings. With one seed an effect of a setting is not established.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from touchline.core.levels import factor_words, level_words
from touchline.core.quantity import Measured, Missing, Quantity, finite
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present, table_of
from touchline.core.text import join_names
from touchline.core.units import Scale, between, plural
from touchline.report.facts import (
    condition_of,
    condition_words,
    family_words,
    is_asked_about,
    measured_of,
    p_number,
    scale_of,
)
from touchline.report.next_steps import (
    MOST_ITEMS,
    MOST_SEEDS,
    WANTED_SEEDS,
    is_limited_by_items,
    items_needed,
    seeds_needed,
)
from touchline.report.remarks import ALPHA, ties
from touchline.report.report import Claim, Report
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, Contrast, FactorEffect, Interaction
from touchline.statistics.own_score import FEWEST_UNITS, LEVEL

CONTROL = "control"  # Topic
_CONDITIONS = 12
"""Maximum number of conditions that are compared with their control one by one. With more, all runs of a control."""
SAME = 1e-9
_ONE_SEED = Missing(missing="one seed")
_NO_SPREAD = Missing(missing="seeds do not differ")


def claims(gathered: ReportInputs, analyses: Sequence[Analysis], first: Sequence[Claim] = ()) -> tuple[Claim, ...]:
    """Return the first claims, those of a strategy, then contrasts, interactions and comparisons of each analysis."""
    runs, tie = {run.name: run for run in gathered.runs}, ties(gathered)
    found = list(first)
    for place, analysis in enumerate(analyses):
        own = [*_contrasts(analysis, runs, tie), *_interactions(analysis), *_controls(analysis, runs)]
        prefix = f"{analysis.task}, {analysis.score}: " if place else ""
        found += [replace(each, text=prefix + each.text) for each in own]
    return tuple(found)


# ---- settings --------------------------------------------------------------------------------------------------------


def _contrasts(analysis: Analysis, runs: Mapping[str, RunResult], tie_of: Mapping[str, str]) -> Iterator[Claim]:
    scale, full = scale_of(analysis), ceiling(analysis, runs)
    other = "an easier test" if all(score.value < 0.5 for score in analysis.scores) else "a harder test"
    for effect in analysis.effects:
        tie = tie_of.get(effect.factor, "")
        for contrast in effect.contrasts:
            level, reference = (pair_words(effect, each, tie) for each in (contrast.level, contrast.reference))
            text = f"{level} against {reference}{f' (with {tie})' if tie else ''}"
            needed = other if full else _more_seeds(contrast, scale, analysis.effects_family)
            yield _of_contrast(text, effect.factor, contrast, scale, needed)


def _of_contrast(text: str, topic: str, contrast: Contrast, scale: Scale, needed: str) -> Claim:
    estimate, p = deciding(contrast, scale)
    return Claim(
        topic=topic,
        text=text,
        estimate=estimate,
        is_share=scale.share,
        p=p,
        verdict=_verdict(contrast.shown, contrast.value),
        shown=contrast.shown,
        needed="" if contrast.is_shown else needed,
    )


def deciding(contrast: Contrast, scale: Scale) -> tuple[Measured, Measured]:
    """Return the difference with the interval of the test that decides, and the p value of that test after Holm.

    If the seeds alone would show the difference and the variation between items does not allow it, or if the seeds do
    not differ at all, the test with that variation decides. Ends beyond the possible range are not shown.
    """
    if contrast.value is None:
        why = Missing(missing=contrast.reason or "no condition was evaluated at both levels")
        return why, why
    seeds = f"{plural(contrast.seeds, 'training seed')}, {plural(max(contrast.strata, 1), 'condition')}"
    test, wide = contrast.test, contrast.with_items
    if test is None or wide is None:
        return Quantity(value=contrast.value, unit="1", method=seeds), _ONE_SEED
    if contrast.low is None or contrast.high is None or contrast.p_adjusted is None:
        if wide.error <= 0:
            return Quantity(value=contrast.value, unit="1", method=seeds), _NO_SPREAD
        low, high, p, how = wide.low, wide.high, wide.p_adjusted, "variation between items, as seeds do not differ"
    elif contrast.p_adjusted < LEVEL <= wide.p_adjusted:
        low, high, p = wide.low, wide.high, wide.p_adjusted
        how = f"{test.kind.value} with the variation between items"
    else:
        low, high, p, how = contrast.low, contrast.high, contrast.p_adjusted, test.kind.value
    low, high = scale.possible(low, high)
    estimate = Quantity(
        value=contrast.value, unit="1", low=low, high=high, coverage=contrast.coverage, method=f"{how}, {seeds}"
    )
    if wide.units < FEWEST_UNITS:
        return estimate, Missing(missing=contrast.reason)
    return estimate, Quantity(value=p, unit="1", method=f"{how}, after Holm")


def _more_seeds(contrast: Contrast, scale: Scale, family: int) -> str:
    """Return what would establish a contrast: `7 seeds, or a difference of 8.2 points`."""
    if contrast.value is None:
        return "runs that differ in this alone, evaluated on the same items"
    if contrast.test is None:
        return f"{WANTED_SEEDS} or more seeds"
    if contrast.with_items is not None and contrast.with_items.units < FEWEST_UNITS:
        return f"at least {FEWEST_UNITS} test items or clusters"
    if contrast.p_adjusted is None:
        return "seeds that differ, or more test items"
    needed, parts = seeds_needed(contrast, family), []
    if needed is None:
        parts.append("more test items" if is_limited_by_items(contrast) else f"more than {MOST_SEEDS} seeds")
    elif needed > contrast.seeds:
        parts.append(f"{needed} seeds")
    smallest = contrast.smallest
    if isinstance(smallest, Quantity) and (smallest.value <= 1 or not scale.share):
        parts.append(f"a difference of {scale.size(smallest.value)}")
    return ", or ".join(parts)


def pair_words(effect: FactorEffect, level: str, tie: str = "") -> str:
    """Return `rank 64`, with the settings tied to it: `rank 64 with learning rate 1e-4`. A ratio is given once, for
    both.
    """
    at = effect.levels.index(level) if level in effect.levels else len(effect.levels)
    tied = [
        level_words(factor, levels[at])
        for factor, levels in effect.tied_levels.items()
        if at < len(levels) and not (tie and factor == ALPHA)
    ]
    return " with ".join([level_words(effect.factor, level), *([join_names(tied)] if tied else [])])


def _interactions(analysis: Analysis) -> Iterator[Claim]:
    """Yield the established interactions. Of the others of two factors, the largest."""
    scale = scale_of(analysis)
    open_: dict[tuple[str, str], list[Interaction]] = {}
    for each in analysis.interactions:
        if each.difference.is_shown:
            yield _of_contrast(interaction_words(each, scale), each.factor, each.difference, scale, "")
        else:
            open_.setdefault((each.factor, each.other_factor), []).append(each)
    for own in open_.values():
        widest = max(own, key=lambda each: abs(each.effect - each.other_effect))
        more = f" (largest of {len(own)})" if len(own) > 1 else ""
        text = interaction_words(widest, scale) + more
        needed = _more_seeds(widest.difference, scale, analysis.interactions_family)
        yield _of_contrast(text, widest.factor, widest.difference, scale, needed)


def interaction_words(each: Interaction, scale: Scale) -> str:
    """Return `effect of rank 64 with 3B (+8.0 points) against 1B (-2.0 points)`."""
    other = factor_words(each.other_factor)
    return (
        f"effect of {level_words(each.difference.factor, each.difference.level)} at "
        f"{level_words(each.other_factor, each.other_level)} ({scale.difference(each.effect)}) against "
        f"{other + ' ' if each.other_factor != 'models' else ''}{each.other_reference} "
        f"({scale.difference(each.other_effect)})"
    )


# ---- controls --------------------------------------------------------------------------------------------------------


def family_of(analysis: Analysis, runs: Mapping[str, RunResult]) -> list[Comparison]:
    """Return the declared comparisons with controls."""
    return [each for each in analysis.comparisons if is_asked_about(runs[each.run])]


def _controls(analysis: Analysis, runs: Mapping[str, RunResult]) -> Iterator[Claim]:
    """Yield the runs of each condition against their control; with many conditions all runs of a control."""
    family = family_of(analysis, runs)
    several = len({run.model for run in runs.values()}) > 1
    names = {condition_of(runs[each.run]): condition_words(runs[each.run], with_model=several) for each in family}
    groups: dict[tuple[tuple[object, ...], str], list[Comparison]] = {}
    for each in family:
        key = condition_of(runs[each.run]) if len(names) <= _CONDITIONS else ()
        groups.setdefault((key, each.difference.control), []).append(each)
    for (condition, control), own in groups.items():
        name = own[0].run if len(own) == 1 else names.get(condition, f"all {len(own):,} runs")
        yield _against_control(f"{name} against {control}", own, analysis)


def _against_control(text: str, own: Sequence[Comparison], analysis: Analysis) -> Claim:
    """Return one claim of runs against their control: the mean difference, all intervals together, the largest p.

    It is established only if it is for each of them.
    """
    found, scale = [each.difference for each in own], scale_of(analysis)
    estimate = Quantity(
        value=fmean(each.value for each in found),
        unit="1",
        low=min(each.low for each in found),
        high=max(each.high for each in found),
        coverage=found[0].coverage,
        method=found[0].method if len(own) == 1 else f"mean of {len(own)} runs; ends: the lowest and highest of theirs",
    )
    counts = {shown: sum(each.shown is shown for each in own) for shown in (Conclusion.HIGHER, Conclusion.LOWER)}
    shown = next((each for each, number in counts.items() if number == len(own)), Conclusion.NOT_ESTABLISHED)
    some = [f"{number} {each.value}" for each, number in counts.items() if number]
    verdict = _verdict(shown, None if len(own) > 1 else estimate.value)
    if len(own) > 1:
        partly = f" ({', '.join(some)} of {len(own)} runs)" if some else ""
        verdict += f" ({len(own)} of {len(own)} runs)" if shown is not Conclusion.NOT_ESTABLISHED else partly
    return Claim(
        topic=CONTROL,
        text=text,
        estimate=estimate,
        is_share=scale.share,
        p=Quantity(value=max(each.p_adjusted for each in found), unit="1", method="after Holm"),
        verdict=verdict,
        shown=shown,
        needed="" if shown is not Conclusion.NOT_ESTABLISHED else _more_items(own, analysis),
        runs=tuple(each.run for each in own),
    )


def _more_items(own: Sequence[Comparison], analysis: Analysis) -> str:
    """Return what would establish the comparisons: `about 1,200 items, or a difference of 7.2 points`."""
    open_ = [each for each in own if each.shown not in (Conclusion.HIGHER, Conclusion.LOWER)]
    parts, scale = [], scale_of(analysis)
    items = {score.run: score.items for score in analysis.scores}
    if len(open_) == 1 and analysis.binary:
        needed = items_needed(open_[0], items.get(open_[0].run, 0), analysis.family)
        if needed is not None:
            parts.append(f"more than {MOST_ITEMS:,} items" if needed > MOST_ITEMS else f"about {needed:,} items")
    smallest = [each.value for each in measured_of(each.smallest for each in open_)]
    if smallest:
        parts.append(f"a difference of {scale.size(max(smallest))}")
    return ", or ".join(parts)


def _verdict(shown: Conclusion, value: float | None) -> str:
    if shown in (Conclusion.HIGHER, Conclusion.LOWER):
        return f"established: {shown.value}"
    return "tie, not established" if value is not None and abs(value) < SAME else "not established"


def ceiling(analysis: Analysis, runs: Mapping[str, RunResult]) -> str:
    """Return a sentence if all trained runs are at one end of the scale, where a test cannot separate them."""
    own = [score for score in analysis.scores if is_asked_about(runs[score.run])]
    values = [score.value for score in own]
    if not scale_of(analysis).share or len(own) < 2:
        return ""
    for end in (1.0, 0.0):
        if all(math.isclose(value, end, abs_tol=SAME) for value in values):
            return f"All fine-tuned runs score {100 * end:.0f}%: this test cannot separate them."
    if all(score.saturated for score in own):
        least = math.floor(100 * min(values) + SAME)
        return f"All fine-tuned runs score {least}% or more: this test can hardly separate them."
    return ""


_COLUMNS = (
    Column("claim"),
    *(Column("estimate", numeric=True), Column("95% interval", numeric=True), Column("p (Holm)", numeric=True)),
    *(Column("verdict"), Column("needed", note="Seeds or items that would establish the difference")),
)


def claims_section(report: Report, most: int | None = None) -> Section:
    """Return the claims."""
    return Section(
        title="Key findings",
        paragraphs=() if report.claims else ("No claim: no two runs were compared on the same items.",),
        tables=present(claims_table(report, most)),
        figures=("findings",),
    )


def claims_table(report: Report, most: int | None = None) -> Table | None:
    """Return one row per claim, then the tests."""
    shown = list(report.claims)
    if most is not None and len(shown) > most:
        kept = sorted(shown, key=lambda each: each.shown not in (Conclusion.HIGHER, Conclusion.LOWER))[:most]
        shown = [each for each in shown if each in kept]
    notes = [*_notes(report)]
    if left := len(report.claims) - len(shown):
        notes.insert(0, f"{plural(left, 'other claim')} in report.html, with the established ones first here.")
    return table_of(_COLUMNS, map(_row, shown), notes=notes)


def _row(claim: Claim) -> tuple[Value, ...]:
    scale = Scale(share=claim.is_share)
    estimate, p = finite(claim.estimate), finite(claim.p)
    is_established = claim.shown in (Conclusion.HIGHER, Conclusion.LOWER)
    if isinstance(estimate, Missing):
        value: Value = estimate
        interval: Value = None
    else:
        value = Cell(scale.difference(estimate.value), estimate.value, note=estimate.method or "")
        interval = between(estimate.low, estimate.high, scale.change).strip() or None
    return (
        *(claim.text, value, interval),
        Cell(p_number(p.value), p.value, note=p.method or "") if isinstance(p, Quantity) else p,
        Cell(claim.verdict, mark=Mark.GOOD if is_established else Mark.QUIET),
        claim.needed or None,
    )


def _notes(report: Report) -> Iterator[str]:
    if report.analyses:
        yield from [text] if (text := " ".join(_tests(report.analyses[0]))) else []
    if any(len(claim.runs) > 1 for claim in report.claims):
        yield "Several runs: mean difference, the lowest and highest end of their intervals, the largest p."
    if any(map(_is_odd, report.claims)):
        yield "An interval holds for its difference alone and may exclude 0. The verdict follows p, after Holm."


def _is_odd(claim: Claim) -> bool:
    found = claim.estimate
    is_open = claim.shown not in (Conclusion.HIGHER, Conclusion.LOWER)
    ends = (found.low, found.high) if isinstance(found, Quantity) else (None, None)
    return is_open and ends[0] is not None and ends[1] is not None and not ends[0] <= 0 <= ends[1]


def _tests(analysis: Analysis) -> Iterator[str]:
    contrasts = [each for effect in analysis.effects for each in effect.contrasts]
    kinds = list(dict.fromkeys(each.test.kind.value for each in contrasts if each.test is not None))
    if kinds:
        family = family_words(analysis, analysis.effects_family, "contrast")
        yield f"Settings: {' or '.join(kinds)} over the means of the seeds, Holm over {family}."
        wide = any(
            each.p_adjusted is not None
            and each.with_items is not None
            and each.p_adjusted < LEVEL <= each.with_items.p_adjusted
            for each in contrasts
        )
        if wide:
            yield "Where the variation between items takes a claim away, interval and p are of the test with it."
        if any(each.test is not None and each.p_adjusted is None for each in contrasts):
            yield "Seeds that do not differ have no t-test: interval and p are of the variation between items."
    if any(each.difference.test is not None for each in analysis.interactions):
        yield f"Interactions are a family of {analysis.interactions_family:,}."
    if analysis.comparisons:
        test = "exact McNemar test" if analysis.binary else "sign-flip test"
        family = family_words(analysis, analysis.family, "comparison")
        yield f"Against a control: {test} on the same items, Holm over {family}."
