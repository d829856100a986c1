"""Bottom line: the answer to the experiment's question in at most 40 words, then the caveats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from touchline.core.levels import factor_words
from touchline.core.scale import Scale
from touchline.core.status import TrainingOutcome
from touchline.core.text import join_names
from touchline.core.units import plural
from touchline.report.facts import is_asked_about
from touchline.report.findings.concluded import COMPLETION, FindingInputs, is_complete
from touchline.report.findings.confounds import ties
from touchline.report.findings.scores import CONTROL, control_summary
from touchline.report.findings.settings import (
    capital_level,
    interaction_statement,
    pair_words,
    seeds_words,
)
from touchline.report.formatting import p_text, scale_of
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Conclusion, Contrast, FactorEffect
from touchline.statistics.own_score import LEVEL
from touchline.statistics.statements import Statement

MOST_WORDS = 40
"""Maximum number of words of the answer."""
_CAVEATS = 4
_INTERACTIONS = 2
"""Number of interactions named. If there are more, the largest and their count."""
_ABOUT_CONTROL = ("base", "control", "fine-tun", "finetun", "untrained", "at all")
"""Words in questions about the gain from training, if no factor is named."""


def headline(concluded: FindingInputs) -> tuple[Statement, ...]:
    """Return the answer to the question, then its limits: missing runs, interactions, controls."""
    gathered = concluded.gathered
    runs = {run.name: run for run in gathered.runs}
    incomplete = list(_incomplete(concluded))
    if (decided := concluded.decided) is not None:
        first = decided.answer[0]
        others = list(decided.others) + [
            summary for analysis in concluded.analyses[:1] if (summary := control_summary(analysis, runs)) is not None
        ]
        forms = [each.text for each in decided.answer]
        return (_answer(first.topic, first.shown, *forms), *[*incomplete, *others][:_CAVEATS])
    if not concluded.analyses:
        return (_nothing_scored(gathered.runs), *incomplete)
    main = concluded.analyses[0]
    question = "" if gathered.plan is None else gathered.plan.question
    effects = _asked_first(main.effects, question)
    about_control = _control_answer(main, runs)
    if not effects or (about_control is not None and _is_about_control(question, effects)):
        answer = about_control or _highest(main, runs)
        answers = [_factor_answer(effect, main, ties(gathered)) for effect in effects[:1]]
    else:
        answer, summary = _factor_answer(effects[0], main, ties(gathered)), control_summary(main, runs)
        answers = [summary if summary is not None else _highest(main, runs)]
        answers += [_factor_answer(effect, main, ties(gathered)) for effect in effects[1:]]
    caveats = [*incomplete, *_confounded(effects[:1]), *_differing(main, effects), *answers]
    return (answer, *caveats[:_CAVEATS])


def _asked_first(effects: Sequence[FactorEffect], question: str) -> list[FactorEffect]:
    """Sort the factors that the question names first; base models last, since a larger one is seldom the question."""
    return sorted(effects, key=lambda effect: (not _is_named(effect, question), effect.factor == "models"))


def _is_named(effect: FactorEffect, question: str) -> bool:
    """Return True if the question names the factor, or a setting tied to it."""
    asked = question.casefold()
    return any(
        words in asked
        for factor in (effect.factor, *effect.tied)
        for words in (factor_words(factor).casefold(), factor.rsplit(".", 1)[-1].casefold())
    )


def _is_about_control(question: str, effects: Sequence[FactorEffect]) -> bool:
    asked = question.casefold()
    if any(_is_named(effect, question) for effect in effects if effect.factor != "models"):
        return False
    # If base models are compared with each other, the word alone does not mean the control.
    asks_for = _ABOUT_CONTROL[1:] if any(effect.factor == "models" for effect in effects) else _ABOUT_CONTROL
    return any(words in asked for words in asks_for)


# ------------------------------------------------------------------------------------------------- a factor
def _factor_answer(effect: FactorEffect, analysis: Analysis, tie_of: Mapping[str, str]) -> Statement:
    """Answer whether a factor matters."""
    tie, scale = tie_of.get(effect.factor, ""), scale_of(analysis)
    established = [contrast for contrast in effect.contrasts if contrast.is_shown]
    known = [contrast for contrast in effect.contrasts if contrast.value is not None]
    name = factor_words(effect.factor)
    if established:
        best = max(established, key=lambda each: abs(each.value or 0.0))
        return _established(effect, best, scale, tie, len(effect.contrasts) - 1, len(established) - 1)
    shown = Conclusion.NOT_ESTABLISHED if any(each.test is not None for each in known) else Conclusion.NOT_TESTABLE
    if not known:
        text = (
            f"An effect of the {name} is not established: no two runs that differ in it alone, with a seed in common, "
            "were evaluated on the same items."
        )
        return _answer(effect.factor, shown, text, f"An effect of the {name} is not established.")
    with_tie = f" (with {tie})" if tie else ""
    if len(effect.contrasts) == 1:
        (each,) = known
        level, reference = (pair_words(effect, words, tie) for words in (each.level, each.reference))
        between = f"A difference between {level} and {reference}{with_tie} is not established"
        bare = f"A difference between {level} and {reference} is not established"
    else:
        between = f"An effect of the {name}{with_tie} is not established"
        bare = f"An effect of the {name} is not established"
    values = [each.value or 0.0 for each in known]
    size = _span(min(values), max(values), scale) + (" against the first level" if len(values) > 1 else "")
    return _answer(
        effect.factor,
        shown,
        f"{between}: {size}{_test_words(known, scale)}.",
        f"{bare}: {size}{_test_words(known, scale)}.",
        f"{bare}: {size}.",
        f"An effect of the {name} is not established: {size}.",
    )


def _span(low: float, high: float, scale: Scale) -> str:
    """Return `+8.0 points`, or `-2.0 to +8.0 points`."""
    if scale.difference(low) == scale.difference(high):
        return scale.difference(low)
    return f"{scale.ends(low, high)} points" if scale.share else scale.ends(low, high)


def _established(
    effect: FactorEffect, best: Contrast, scale: Scale, tie: str, others: int, established: int
) -> Statement:
    level, reference = (pair_words(effect, words, tie) for words in (best.level, best.reference))
    claim = f"{capital_level(level)} scores {best.shown.value} than {reference}"
    with_tie = f" (with {tie})" if tie else ""
    numbers = f"{scale.difference(best.value or 0.0)}{_test_words([best], scale)}"
    rest = f" Of {plural(others, 'other level')} {established or 'none'} {_differ(established)}." if others else ""
    name = factor_words(effect.factor)
    return _answer(
        effect.factor,
        best.shown,
        f"{claim}{with_tie}: {numbers}.{rest}",
        f"{claim}: {numbers}.{rest}",
        f"{claim}: {numbers}.",
        f"{claim}: {scale.difference(best.value or 0.0)}.",
        f"Levels of the {name} differ, the most by {numbers}.",
    )


def _differ(number: int) -> str:
    return "differs from it" if number <= 1 else "differ from it"


def _test_words(contrasts: Sequence[Contrast], scale: Scale) -> str:
    """Return ` (+17.4 to +26.0; paired t-test, 3 training seeds, p = 0.004 after Holm)`; of several the smallest p
    value.
    """
    tested = [contrast for contrast in contrasts if contrast.test is not None and contrast.p_adjusted is not None]
    if not tested:
        if any(contrast.test is not None for contrast in contrasts):
            return " (seeds do not differ, so that no t-test is defined)"
        return " with one training seed, which describes these checkpoints and not the setting"
    each = min(tested, key=_claimed_p)
    if each.test is None or each.with_items is None or each.low is None or each.high is None:
        raise TypeError("a p value without a test")
    low, high, widened = each.low, each.high, ""
    if not each.is_shown and (each.p_adjusted or 0.0) < LEVEL:
        # The seeds alone would show it. This text explains why the claim is not made.
        low, high, widened = each.with_items.low, each.with_items.high, " with the variation between items"
    ends = f"{scale.ends(low, high)}; " if len(contrasts) == 1 else ""
    smallest = "" if len(contrasts) == 1 else " at the smallest"
    return (
        f" ({ends}{each.test.kind.value}{widened}, {seeds_words(each.test)}, {p_text(_claimed_p(each))} after "
        f"Holm{smallest})"
    )


def _claimed_p(contrast: Contrast) -> float:
    """Return the adjusted p value that decides: the larger of the two if the wider test fails."""
    by_seeds = 1.0 if contrast.p_adjusted is None else contrast.p_adjusted
    with_items = 1.0 if contrast.with_items is None else contrast.with_items.p_adjusted
    return with_items if by_seeds < LEVEL <= with_items else by_seeds


# ------------------------------------------------------------------------------------------------- controls
def _control_answer(analysis: Analysis, runs: Mapping[str, RunResult]) -> Statement | None:
    """Return the gain from training. None if no run was compared with a control."""
    family = sorted(
        (comparison for comparison in analysis.comparisons if is_asked_about(runs[comparison.run])),
        key=lambda each: each.difference.value,
    )
    if not family:
        return None
    scale, worst = scale_of(analysis), max(each.difference.p_adjusted for each in family)
    higher, lower = (sum(each.shown is shown for each in family) for shown in (Conclusion.HIGHER, Conclusion.LOWER))
    span = _span(family[0].difference.value, family[-1].difference.value, scale)
    if len(family) == 1:
        (each,) = family
        items = next(score.items for score in analysis.scores if score.run == each.run)
        ends = scale.ends(each.difference.low, each.difference.high)
        numbers = f"{span} ({ends}; {p_text(worst)}, {plural(items, 'item')})"
        if each.shown in (Conclusion.HIGHER, Conclusion.LOWER):
            text = f"{each.run} scores {each.shown.value} than its control {each.difference.control}: {numbers}."
        else:
            text = (
                f"A difference between {each.run} and its control {each.difference.control} is not established: "
                f"{numbers}."
            )
        return _answer(CONTROL, each.shown, text)
    if max(higher, lower) == len(family):
        shown = Conclusion.HIGHER if higher else Conclusion.LOWER
        p = p_text(worst).replace("=", "at most")
        text = (
            f"All {len(family)} fine-tuned runs score {shown.value} than their controls: {span}, each {p} after Holm."
        )
        return _answer(CONTROL, shown, text)
    counts = [f"{higher} score higher"] if higher else []
    counts += [f"{lower} score lower"] if lower else []
    open_ = len(family) - higher - lower
    counts += [f"for {open_} a difference is not established"] if open_ else []
    text = f"Of {len(family)} fine-tuned runs against their controls, {join_names(counts)}: {span}."
    return _answer(CONTROL, None if higher or lower else Conclusion.NOT_ESTABLISHED, text)


def _highest(analysis: Analysis, runs: Mapping[str, RunResult]) -> Statement:
    """Return the highest score if nothing was compared with a control."""
    scale = scale_of(analysis)
    asked = [score for score in analysis.scores if is_asked_about(runs[score.run])]
    best = max(asked or analysis.scores, key=lambda score: score.value)
    score = f"{scale.value(best.value)} ({best.run}; {scale.span(best.low, best.high)})"
    text = (
        f"The highest {analysis.score} is {score}. No run was compared with a control, so that the gain from training "
        "is unknown."
        if asked
        else f"Only controls were evaluated; the highest {analysis.score} is {score}: no gain from training is known."
    )
    return _answer(COMPLETION, None, text, f"The highest score is {score}; the gain from training is unknown.")


# ------------------------------------------------------------------------------------------------- caveats
def _confounded(effects: Sequence[FactorEffect]) -> Iterator[Statement]:
    """Yield settings that change together with the levels without being tied by the design."""
    for effect in effects:
        if effect.confounded_with:
            others = join_names([factor_words(other) for other in effect.confounded_with])
            text = f"The {factor_words(effect.factor)} changes together with the {others}: this is the effect of both."
            yield Statement(topic=effect.factor, text=text)


def _differing(analysis: Analysis, effects: Sequence[FactorEffect]) -> Iterator[Statement]:
    """Yield the established interactions. They limit the answer at some levels."""
    order = [effect.factor for effect in effects]
    found = [interaction for interaction in analysis.interactions if interaction.difference.is_shown]
    found.sort(key=lambda each: (order.index(each.factor), -abs(each.difference.value or 0.0)))
    family = plural(analysis.interactions_family, "interaction")
    for each in found[:_INTERACTIONS]:
        yield interaction_statement(each, scale_of(analysis), family)


def _incomplete(concluded: FindingInputs) -> Iterator[Statement]:
    """Yield the missing runs and evaluations."""
    gathered = concluded.gathered
    planned = gathered.plan is not None
    runs = [run for run in gathered.runs if run.cut_after_step is None]
    done = [run for run in runs if is_complete(run, planned=planned)]
    if len(done) == len(runs):
        return
    rest = [run.name for run in runs if not is_complete(run, planned=planned)]
    yield Statement(
        topic=COMPLETION,
        text=f"{len(done)} of {plural(len(runs), 'run')} {'is' if len(done) == 1 else 'are'} complete; not complete: "
        f"{join_names(rest)}.{' The rest of this report is of what is there.' if done else ''}",
    )


def _nothing_scored(runs: Sequence[RunResult]) -> Statement:
    trained = sum(run.outcome is TrainingOutcome.COMPLETE for run in runs)
    done = f"{plural(trained, 'training')} {'is' if trained == 1 else 'are'} complete" if trained else ""
    return Statement(
        topic=COMPLETION,
        text=f"{done or 'Nothing is trained'}, and nothing has been evaluated: no claim about scores can be made.",
        shown=Conclusion.NOT_TESTABLE,
    )


# ------------------------------------------------------------------------------------------------- the limit
def words(text: str) -> int:
    """Return the number of words, counted between white space."""
    return len(text.split())


def _answer(topic: str, shown: Conclusion | None, *forms: str) -> Statement:
    """Return the first form that is short enough. Otherwise truncate long names."""
    text = next((form for form in forms if words(form) <= MOST_WORDS), None)
    if text is None:
        text = " ".join(forms[-1].split()[: MOST_WORDS - 1]) + " ..."
    return Statement(topic=topic, text=text, shown=shown)
