"""Next steps, computed: missing and suspicious results, seeds and items that settle open comparisons, untried levels.

Each step gives the numbers that justify it. Commands are relative to the experiment's folder.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterator, Sequence

from touchline.core.levels import SEEDS, factor_words, level_words
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.core.text import capital, join_names
from touchline.core.units import Scale, plural
from touchline.plan.design import seed_numbers
from touchline.report.appendix import evaluation_by_hand, every_epoch, with_setting
from touchline.report.facts import (
    AnswerCounts,
    answer_counts,
    is_asked_about,
    is_base_control,
    lowest,
    relative,
    risen,
    scale_of,
)
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult, StepCurves
from touchline.statistics.closed_forms import (
    POWER,
    detectable_errors,
    items_for_paired_difference,
    smallest_seed_difference,
)
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, Contrast, FactorEffect, NextStep
from touchline.statistics.own_score import FEWEST_UNITS, LEVEL

_FALLING = 0.99  # Ratio of the last validation loss to the one before it, below which the loss is still falling
_VANISHED = 0.05  # Share of its peak below which a learning rate has almost no effect
_MANY, _FLOOR = 0.05, 0.05
"""Thresholds for inspection: share of answers that are empty, truncated or failed, and a low score."""


def next_steps(
    gathered: ReportInputs, analyses: Sequence[Analysis], decided: Sequence[NextStep] = ()
) -> tuple[NextStep, ...]:
    """Return the next steps, the most useful first: those of a strategy are `decided`."""
    main = analyses[0] if analyses else None
    found = [*decided, *_unfinished(gathered), *_answers(gathered, main), *_checkpoints(gathered), *_controls(gathered)]
    found += design_steps(gathered, main)
    return (*found, *_epochs(gathered))


def _unfinished(gathered: ReportInputs) -> Iterator[NextStep]:
    planned = gathered.plan is not None
    diverged = () if gathered.strategy is None else gathered.strategy.diverged
    left = [
        run.name
        for run in gathered.runs
        if run.outcome is not TrainingOutcome.COMPLETE
        and run.cut_after_step is None
        and run.name not in diverged
        and not run.status.is_complete
    ]
    failed = [run.name for run in gathered.runs if run.status is RunStatus.FAILED]
    if failed:
        log = shlex.quote(failed[0])
        why = f"{join_names(failed)} failed."
        yield NextStep(title="Find out why runs failed", why=why, command=f"tail -n 40 {log}/slurm-*.out")
    if left and planned and (gathered.strategy is None or gathered.strategy.has_ended):
        why = f"{plural(len(left), 'run')} of {len(gathered.runs)} not complete: {join_names(left)}."
        yield NextStep(title="Finish what is not finished", why=why, command="touchline resume .")
    open_ = [
        run.name
        for run in gathered.runs
        if is_asked_about(run) and run.outcome is TrainingOutcome.COMPLETE and not run.evaluations
    ]
    if open_:
        yield NextStep(
            title="Evaluate what is trained",
            why=f"{join_names(open_)}: trained and not evaluated. Begin with the last epoch of each; losses alone do "
            "not say which run does the task better.",
            command="touchline evaluate ." if planned else evaluation_by_hand(gathered, open_[0]),
        )


def _answers(gathered: ReportInputs, analysis: Analysis | None) -> Iterator[NextStep]:
    if analysis is None:
        return
    spoiled = [
        answer_count
        for answer_count in answer_counts(gathered.runs)
        if answer_count.answers and _spoiled(answer_count) / answer_count.answers > _MANY
    ]
    asked = {run.name for run in gathered.runs if is_asked_about(run)}
    own = [score for score in analysis.scores if score.run in asked]
    floor = own and all(score.value <= _FLOOR for score in own)
    if not spoiled and not floor:
        return
    why = []
    if spoiled:
        worst = max(spoiled, key=lambda each: _spoiled(each) / each.answers)
        why.append(
            f"{worst.run} ({worst.checkpoint}): {_spoiled(worst):,} of {plural(worst.answers, 'answer')} empty, cut or "
            f"not generated{f', and {len(spoiled) - 1} evaluations more with many' if len(spoiled) > 1 else ''}."
        )
    if floor:
        best = scale_of(analysis).value(max(score.value for score in own))
        why.append(f"No fine-tuned run scores above {best}: at the bottom of the scale no difference can show.")
    name = shlex.quote(f"{(spoiled[0].run if spoiled else own[0].run)}/eval")
    yield NextStep(title="Read the answers", why=" ".join(why), command=f"inspect view --log-dir {name}")


def _spoiled(each: AnswerCounts) -> int:
    # An answer can be both empty and cut.
    return min(each.answers, each.empty + each.errors + (each.cut or 0))


def _checkpoints(gathered: ReportInputs) -> Iterator[NextStep]:
    broken = [
        f"{checkpoint.run}/{checkpoint.name}"
        for checkpoint in gathered.verification.checkpoints
        if not checkpoint.sound
    ]
    if broken:
        yield NextStep(
            title="Check corrupt checkpoints",
            why=f"{join_names(broken)}: reading every value, and not headers alone, shows what else is wrong."
            if gathered.verification.depth == "headers"
            else f"{join_names(broken)} cannot be loaded as they are.",
            command="touchline report . --deep" if gathered.verification.depth == "headers" else None,
        )


def _controls(gathered: ReportInputs) -> Iterator[NextStep]:
    asked = [run for run in gathered.runs if is_asked_about(run)]
    bases = {run.model for run in gathered.runs if is_base_control(run)}
    without = [model for model in dict.fromkeys(run.model for run in asked) if model not in bases]
    if without:
        yield NextStep(
            title="Evaluate the base models",
            why=f"{join_names(without)}: no untrained control was evaluated, so that the gain over the base model "
            "is unknown.",
            command=None if gathered.plan is None else with_setting(gathered.plan, "controls", "[base]"),
        )


def _epochs(gathered: ReportInputs) -> Iterator[NextStep]:
    falling = [run for run in gathered.runs if _still_falling(run)]
    if falling:
        run = falling[0]
        last, before = run.validation_losses[-1], run.validation_losses[-2]
        also = f" So was that of {plural(len(falling) - 1, 'other run')}." if len(falling) > 1 else ""
        yield NextStep(
            title="Train for longer",
            why=f"The validation loss of {run.name} was still falling at the end. It is {last.loss:.4g} at "
            f"step {last.step:,}, {relative(last.loss, before.loss)} than at step {before.step:,}.{also} More epochs, "
            "or a larger dataset, give it more steps.",
        )
        yield from _schedule(gathered, falling)
    rising = [run for run in gathered.runs if risen(run) is not None and len(run.evaluations) < 2]
    if rising:
        names = [run.name for run in rising]
        yield NextStep(
            title="Compare the epochs",
            why=f"The validation loss rose again in {join_names(names)}: an earlier epoch may do better. Evaluate "
            "every epoch, and choose by validation loss.",
            command=None if gathered.plan is None else every_epoch(gathered.plan),
        )


def _schedule(gathered: ReportInputs, falling: Sequence[RunResult]) -> Iterator[NextStep]:
    """Yield another schedule, if the loss was still falling while the learning rate was almost zero."""
    ended = [
        run
        for run in falling
        if isinstance(run.curves, StepCurves)
        and run.curves.learning_rate[-1] < _VANISHED * max(run.curves.learning_rate)
    ]
    if ended:
        rates = ended[0].curves.learning_rate if isinstance(ended[0].curves, StepCurves) else ()
        plan = gathered.plan
        tried = {run.train.schedule for run in plan.runs if run.train is not None} if plan is not None else set()
        others = [each for each in ("cosine", "constant", "linear") if each not in tried]
        named = f" Tried: {join_names(sorted(tried))}; not tried: {join_names(others)}." if tried and others else ""
        yield NextStep(
            title="Try another learning rate schedule",
            why=f"The learning rate of {ended[0].name} fell from {max(rates):.3g} to {rates[-1]:.2g} while its "
            f"validation loss was still falling.{named}",
            command=with_setting(plan, "train.schedule", others[0]) if plan is not None and tried and others else None,
        )


def _still_falling(run: RunResult) -> bool:
    if run.outcome is not TrainingOutcome.COMPLETE or len(run.validation_losses) < 3:
        return False
    last, before = run.validation_losses[-1], run.validation_losses[-2]
    best = lowest(run.validation_losses)
    return best is not None and best.step == last.step and before.step > 0 and last.loss < _FALLING * before.loss


WANTED_SEEDS = 3  # Minimum useful number of seeds. With fewer, hardly any value is outside the interval
MOST_SEEDS, MOST_ITEMS = 20, 100_000
"""Limits above which a recommendation is not practical and the sentence says so."""
_SAME = 1e-9  # Difference between mean scores that is only rounding
_WIDE = 2.0  # Ratio between adjacent levels above which an untried level in between is suggested


def design_steps(gathered: ReportInputs, analysis: Analysis | None) -> Iterator[NextStep]:
    """Yield steps about the design. Without scores, only the untried levels."""
    if analysis is not None:
        asked = {run.name for run in gathered.runs if is_asked_about(run)}
        is_full = all(score.saturated for score in analysis.scores if score.run in asked)
        # Near the top of the scale more seeds or items of the same test show nothing.
        yield from () if is_full else (*_seeds(gathered, analysis), *_items(analysis))
        yield from _saturated(analysis)
    yield from _neighbours(gathered, analysis)


def _seeds(gathered: ReportInputs, analysis: Analysis) -> Iterator[NextStep]:
    open_ = [
        (effect, contrast)
        for effect in analysis.effects
        for contrast in effect.contrasts
        if contrast.value is not None and contrast.shown in (Conclusion.NOT_ESTABLISHED, Conclusion.NOT_TESTABLE)
    ]
    if not open_:
        return
    scale = scale_of(analysis)
    used = sorted({run.seed for run in gathered.runs if is_asked_about(run)})
    single = [contrast for _, contrast in open_ if contrast.seeds <= 1]
    if single:
        shown = [_contrast_words(contrast, scale) for contrast in single]
        wanted = sorted(seed_numbers(used, max(len(used), WANTED_SEEDS)))
        why = (
            f"One seed describes these checkpoints, not the setting: {join_names(shown, 3)}. With {WANTED_SEEDS} "
            f"seeds differences of {_seed_words(WANTED_SEEDS)} standard deviations between seeds would show."
        )
        yield NextStep(title=f"Repeat with {WANTED_SEEDS} seeds", why=why, command=_seeds_command(gathered, wanted))
        return
    largest = max(open_, key=lambda each: abs(each[1].value or 0.0))[1]
    if largest.value == 0:
        return
    needed = seeds_needed(largest, analysis.effects_family)
    if needed is not None and needed > largest.seeds:
        yield NextStep(
            title=f"Repeat with {needed} seeds",
            why=f"The difference of {_contrast_words(largest, scale)} is not established with {largest.seeds} "
            f"seeds; if it is as large as it looks, {needed} would show it at 80% power.",
            command=_seeds_command(gathered, sorted(seed_numbers(used, max(len(used), needed)))),
        )


def seeds_needed(contrast: Contrast, family: int = 1) -> int | None:
    """Return the number of seeds per level that would show a contrast of this size, given the current spread.

    Args:
        family: number of contrasts that Holm's adjustment is over; its first step counts.
    """
    test, wide = contrast.test, contrast.with_items
    if not contrast.value or test is None or wide is None or wide.error <= 0 or wide.units < FEWEST_UNITS:
        return None
    # More seeds of the same items leave the variation between items as it is.
    over_items = max(wide.error**2 - test.error**2, 0.0)
    for seeds in range(max(contrast.seeds, 2), MOST_SEEDS + 1):
        freedom = min(seeds, wide.units) - 1
        errors = detectable_errors(freedom, power=POWER, coverage=1 - LEVEL / max(family, 1))
        error = math.sqrt(test.error**2 * contrast.seeds / seeds + over_items)
        if errors is not None and errors * error <= abs(contrast.value):
            return seeds
    return None


def is_limited_by_items(contrast: Contrast) -> bool:
    """Return True if the items vary more than the seeds, so that more seeds of the same items show little."""
    test, wide = contrast.test, contrast.with_items
    return test is not None and wide is not None and wide.error**2 > 2 * test.error**2


def _items(analysis: Analysis) -> Iterator[NextStep]:
    if not analysis.binary:
        return
    items = {score.run: score.items for score in analysis.scores}
    open_ = [comparison for comparison in analysis.comparisons if comparison.shown is Conclusion.NOT_ESTABLISHED]
    pairs = [
        (each, needed) for each in open_ if (needed := items_needed(each, items.get(each.run, 0), analysis.family))
    ]
    if not pairs:
        return
    each, needed = min(pairs, key=lambda pair: pair[1])
    scale = scale_of(analysis)
    size = "more than 100,000" if needed > MOST_ITEMS else f"about {needed:,}"
    yield NextStep(
        title="Test on more items",
        why=f"{each.run} differs from {each.difference.control} by {scale.difference(each.difference.value)} on "
        f"{items[each.run]:,} items, which is not established. If as many items flip, {size} would show a "
        "difference of that size at 80% power.",
    )


def items_needed(each: Comparison, items: int, family: int = 1) -> int | None:
    """Return the number of items that would show a difference of this size. None if gains and losses are equal.

    Args:
        family: number of comparisons that Holm's adjustment is over; its first step counts.
    """
    difference = each.difference
    if items == 0 or difference.gained == difference.lost:
        return None
    flips = (difference.gained + difference.lost) / items
    coverage = 1 - LEVEL / max(family, 1)
    size = abs(difference.value)
    return max(items_for_paired_difference(size, max(flips, size), coverage=coverage), items)


def _saturated(analysis: Analysis) -> Iterator[NextStep]:
    full = [score for score in analysis.scores if score.saturated]
    if not full:
        return
    scale = scale_of(analysis)
    rest = [score.run for score in analysis.scores if not score.saturated]
    also = f" Still with headroom: {join_names(rest)}." if rest else ""
    yield NextStep(
        title="Make the test harder",
        why=f"{join_names([f'{score.run} ({scale.value(score.value)})' for score in full], 3)}: near the top of the "
        f"scale, where a better run could hardly show it.{also}",
    )


def _neighbours(gathered: ReportInputs, analysis: Analysis | None) -> Iterator[NextStep]:
    """Yield untried levels near the best ones, or in the widest gap if nothing was scored."""
    effects = {} if analysis is None else {effect.factor: effect for effect in analysis.effects}
    for factor, levels in gathered.factors.items():
        effect, tried = effects.get(factor), _numbers(levels)
        if factor in ("models", SEEDS) or tried is None or len(tried) < 2 or (analysis is not None and effect is None):
            continue
        best = None if effect is None else _best_level(effect)
        new = untried_between(tried, best)
        if new is None:
            continue
        name, added = factor_words(factor), ", ".join(_short(level) for level in sorted({*tried, new}))
        if min(tried) < new < max(tried):
            low, high = max(level for level in tried if level < new), min(level for level in tried if level > new)
            why = f"Nothing was tried between {name} {_short(low)} and {_short(high)}"
        else:
            end = new / 2 if new > max(tried) else new * 2
            why = f"{capital(name)} {_short(end)} is the end of what was tried and has the highest mean score"
        shown = effect is not None and any(
            contrast.shown in (Conclusion.HIGHER, Conclusion.LOWER) for contrast in effect.contrasts
        )
        why += (
            "; a difference between the levels is established."
            if shown
            else f"; no effect of the {name} is established yet, so that seeds come first."
            if effect is not None
            else "; what is trained comes first, since no score says yet whether it matters."
        )
        command = None if gathered.plan is None else with_setting(gathered.plan, f"factors.{factor}", f"[{added}]")
        yield NextStep(title=f"Try {level_words(factor, _short(new))}", why=why, command=command)


def untried_between(tried: Sequence[float], best: float | None) -> float | None:
    """Return a level near the best one: in the middle of a wide gap, else one step beyond the end. None if all are
    tried.

    Levels on a geometric scale (ranks, learning rates) are halved and doubled. Whole numbers stay whole. If the best
    level is unknown, the widest gap is used.
    """
    ordered = sorted(tried)
    if ordered[0] <= 0:
        return None
    whole = all(level == int(level) for level in ordered)
    place = None if best is None else ordered.index(best)
    gaps = [(low, high) for low, high in itertools.pairwise(ordered) if best is None or best in (low, high)]
    low, high = max(gaps, key=lambda pair: pair[1] / pair[0])
    if high / low > _WIDE:
        middle = math.sqrt(low * high)
        return float(2 ** round(math.log2(middle))) if whole else float(f"{middle:.1g}")
    if place == len(ordered) - 1:
        return ordered[-1] * 2
    if place == 0 and (not whole or ordered[0] % 2 == 0):
        return ordered[0] / 2
    return None


def _contrast_words(contrast: Contrast, scale: Scale) -> str:
    value = 0.0 if contrast.value is None else contrast.value
    return (
        f"{level_words(contrast.factor, contrast.level)} against {level_words(contrast.factor, contrast.reference)} "
        f"({scale.difference(value)})"
    )


def _seeds_command(gathered: ReportInputs, seeds: Sequence[int]) -> str | None:
    return None if gathered.plan is None else with_setting(gathered.plan, "seeds", str(list(seeds)))


def _seed_words(seeds: int) -> str:
    units = smallest_seed_difference(seeds)
    return "any" if units is None else f"{units:.1f}"


def _numbers(levels: Sequence[str]) -> list[float] | None:
    try:
        known = [float(level) for level in levels]
    except ValueError:
        return None
    return known if all(math.isfinite(level) for level in known) else None


def _best_level(effect: FactorEffect) -> float | None:
    """Return the level with the highest mean score. None if two share it."""
    by_level: dict[str, list[float]] = {}
    for point in effect.points:
        by_level.setdefault(point.level, []).append(point.score)
    means = {level: math.fsum(scores) / len(scores) for level, scores in by_level.items()}
    if not means:
        return None
    best = max(means.values())
    levels = [level for level, mean in means.items() if math.isclose(mean, best, abs_tol=_SAME)]
    return float(levels[0]) if len(levels) == 1 else None


def _short(value: float) -> str:
    return f"{value:g}"
