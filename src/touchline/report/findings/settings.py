"""Sentences about settings: contrasts of factors and their interactions, with the test over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.core.levels import factor_words, level_words
from touchline.core.quantity import Quantity
from touchline.core.scale import Scale
from touchline.core.text import join_names
from touchline.core.units import plural
from touchline.report.findings.confounds import ALPHA
from touchline.report.findings.scores import ALONE, POWER_WORDS, sentence
from touchline.report.formatting import family_words, p_text, scale_of
from touchline.statistics.conclusions import (
    Analysis,
    Conclusion,
    Contrast,
    FactorEffect,
    Interaction,
    SeedTest,
    SeedTestKind,
)
from touchline.statistics.own_score import LEVEL
from touchline.statistics.statements import Statement


def factor_findings(analysis: Analysis, ties: Mapping[str, str]) -> Iterator[Statement]:
    """Yield every contrast of every factor with its conclusion over seeds, then the interactions.

    Args:
        analysis: the statistical analysis.
        ties: by factor: the setting tied to it by design and not part of a level, `alpha = 2 x rank`.
    """
    for effect in analysis.effects:
        for contrast in effect.contrasts:
            yield contrast_statement(effect, contrast, analysis, ties.get(effect.factor, ""))
    yield from interaction_findings(analysis)


def contrast_statement(effect: FactorEffect, contrast: Contrast, analysis: Analysis, tie: str = "") -> Statement:
    """Return the statement of one contrast."""
    scale = scale_of(analysis)
    level, reference = (pair_words(effect, each, tie) for each in (contrast.level, contrast.reference))
    with_tie = f" (with {tie})" if tie else ""
    also = (
        f" It changes together with {join_names([factor_words(other) for other in effect.confounded_with])}, so that "
        "this is the effect of both."
        if effect.confounded_with
        else ""
    )
    if contrast.value is None:
        why = contrast.reason or "no condition was evaluated at both"
        text = f"A difference between {level} and {reference}{with_tie} is not established: {why}.{also}"
        return Statement(topic=effect.factor, text=text, shown=Conclusion.NOT_TESTABLE)
    numbers = contrast_numbers(contrast, scale, family_words(analysis, analysis.effects_family, "contrast"))
    if contrast.is_shown:
        text = f"{capital_level(level)} scores {contrast.shown.value} than {reference}{with_tie}: {numbers}."
    else:
        text = (
            f"A difference between {level} and {reference}{with_tie} is not established: {numbers}."
            f"{_because(contrast)}{_short_of(contrast, scale)}{_smallest_effect(contrast, scale)}"
        )
    return Statement(topic=effect.factor, text=text + also, shown=contrast.shown)


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


def interaction_findings(analysis: Analysis) -> Iterator[Statement]:
    """Yield effects that differ between levels of another factor. One sentence covers those not established."""
    scale = scale_of(analysis)
    for interaction in analysis.interactions:
        if interaction.difference.is_shown:
            yield interaction_statement(
                interaction, scale, family_words(analysis, analysis.interactions_family, "interaction")
            )
    open_ = [interaction for interaction in analysis.interactions if not interaction.difference.is_shown]
    for pair in dict.fromkeys((each.factor, each.other_factor) for each in open_):
        own = [each for each in open_ if (each.factor, each.other_factor) == pair]
        widest = max(own, key=lambda each: abs(each.effect - each.other_effect))
        words = tuple(factor_words(factor) for factor in pair)
        more = "" if len(own) == 1 else f"; the largest of {len(own)}"
        numbers = contrast_numbers(
            widest.difference, scale, family_words(analysis, analysis.interactions_family, "interaction")
        )
        text = (
            f"That the effect of the {words[0]} differs between levels of the {words[1]} is not established: "
            f"{_effects_words(widest, scale)}, a difference of {numbers}{more}."
        )
        one_seed = " One seed: this describes these checkpoints, not the settings."
        yield Statement(
            topic=pair[0],
            text=text + (one_seed if widest.difference.test is None else ""),
            shown=widest.difference.shown,
        )


def interaction_statement(each: Interaction, scale: Scale, family: str) -> Statement:
    """Return the statement of an effect that differs between two levels of another factor."""
    numbers = contrast_numbers(each.difference, scale, family)
    text = (
        f"The effect of the {factor_words(each.factor)} differs with the {factor_words(each.other_factor)}: "
        f"{_effects_words(each, scale)}, a difference of {numbers}."
    )
    return Statement(topic=each.factor, text=text, shown=each.difference.shown)


def _effects_words(each: Interaction, scale: Scale) -> str:
    """Return `rank 64 against rank 4 gives +8.0 points with 1B and -2.0 points with 3B`."""
    found = each.difference
    return (
        f"{level_words(found.factor, found.level)} against {level_words(found.factor, found.reference)} gives "
        f"{scale.difference(each.effect)} with {level_words(each.other_factor, each.other_level)} and "
        f"{scale.difference(each.other_effect)} with {level_words(each.other_factor, each.other_reference)}"
    )


def contrast_numbers(contrast: Contrast, scale: Scale, family: str) -> str:
    """Return the difference, interval, test and p values as text, as computed by scipy from the seeds' means.

    Args:
        contrast: with a value.
        scale: the format of scores.
        family: the family of Holm's adjustment, `2 contrasts`.
    """
    value = scale.difference(0.0 if contrast.value is None else contrast.value)
    over = f", averaged over {contrast.strata} conditions" if contrast.strata > 1 else ""
    test, wide = contrast.test, contrast.with_items
    if test is None or wide is None:
        items = (
            f" (by the items alone {scale.ends(contrast.items_low, contrast.items_high)})"
            if contrast.items_low is not None and contrast.items_high is not None
            else ""
        )
        return f"{value}{items} over {plural(contrast.seeds, 'training seed')}{over}"
    if contrast.low is None or contrast.high is None or contrast.p_value is None or contrast.p_adjusted is None:
        return (
            f"{value} over {seeds_words(test)}{over}; the seeds' means do not differ, so that no t-test over them is "
            f"defined; by the variation between items {scale.ends(wide.low, wide.high)}, {p_text(wide.p_adjusted)} "
            f"after Holm over {family}"
        )
    statistic, freedom = test.statistic or 0.0, test.freedom or 0.0
    return (
        f"{value} ({scale.ends(contrast.low, contrast.high)}; {test.kind.value} over {seeds_words(test)}{over}; "
        f"t = {statistic:.3g}, {freedom:.3g} degree{'' if freedom == 1 else 's'} of freedom, "
        f"{p_text(contrast.p_value)}; {p_text(contrast.p_adjusted)} after Holm over {family})"
    )


def seeds_words(test: SeedTest) -> str:
    """Return `3 training seeds` of both levels, or `3 and 2 training seeds`."""
    one, other = len(test.means), len(test.reference_means)
    if test.kind is SeedTestKind.PAIRED:
        return plural(one, "training seed")
    return f"{one} and {other} training seeds"


def _smallest_effect(contrast: Contrast, scale: Scale) -> str:
    if not isinstance(contrast.smallest, Quantity):
        return ""
    if scale.share and contrast.smallest.value > 1:
        return f" {contrast.seeds} seeds, spread as these are, could have shown no difference at all."
    return (
        f" {contrast.seeds} seeds, spread as these are, would have shown {scale.size(contrast.smallest.value)} "
        f"{POWER_WORDS}."
    )


def _because(contrast: Contrast) -> str:
    """Return the reason why the contrast is not established. With several seeds it is the minimum detectable
    difference.
    """
    return f" {sentence(contrast.reason)}" if contrast.reason and contrast.test is None else ""


def _short_of(contrast: Contrast, scale: Scale) -> str:
    """Return the explanation of a p value below 5% beside `not established`."""
    wide = contrast.with_items
    if contrast.p_value is None or contrast.p_adjusted is None or wide is None or contrast.p_value >= LEVEL:
        return ""
    if contrast.p_adjusted >= LEVEL:
        return ALONE
    return (
        f" The seeds alone would show it; with the variation between items the interval is "
        f"{scale.ends(wide.low, wide.high)}, {p_text(wide.p_adjusted)} after Holm."
    )


def capital_level(text: str) -> str:
    """Return a setting for the beginning of a sentence. A model's name is unchanged."""
    return text[:1].upper() + text[1:] if text[:1].islower() and " " in text else text
