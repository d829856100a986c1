"""Answer to the experiment's question in at most 15 words, then its numbers and limits; of a strategy, its looks'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from touchline.core.levels import factor_words
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import TrainingOutcome
from touchline.core.text import capital, join_names
from touchline.core.units import Scale, between, plural
from touchline.experiment.runs import ControlKind
from touchline.report.claims import CONTROL, SAME, ceiling, family_of, interaction_words, pair_words
from touchline.report.facts import is_asked_about, p_text, scale_of, scale_or_share
from touchline.report.remarks import ties
from touchline.report.report import Answer, Claim
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, FactorEffect, Statement, Verdict
from touchline.strategy import report_sections
from touchline.strategy.report import ContrastCourse, StrategyReport

MOST_WORDS = 15  # Maximum number of words of the answer
_DETAILS = 4
_SHOWN = (Conclusion.HIGHER, Conclusion.LOWER)
_NAMES = 3
_ABOUT_CONTROL = ("base", "control", "fine-tun", "finetun", "untrained", "at all")
"""Words in questions about the gain from training, if no factor is named."""


def answer(
    gathered: ReportInputs, analyses: Sequence[Analysis], claims: Sequence[Claim], decided: Answer | None = None
) -> Answer:
    """Return the answer to the question, with its numbers and its limits: missing runs, interactions, controls.

    Args:
        analyses: their analyses, the experiment's own first.
        decided: answer of a strategy, which holds in place of the analyses'.
    """
    runs = {run.name: run for run in gathered.runs}
    incomplete = list(_incomplete(gathered))
    if decided is not None:
        others = [text for analysis in analyses[:1] if (text := control_line(analysis, runs))]
        return replace(decided, details=(*decided.details, *incomplete, *others))
    if not analyses:
        trained = sum(run.outcome is TrainingOutcome.COMPLETE for run in gathered.runs)
        done = f"{plural(trained, 'run')} {'is' if trained == 1 else 'are'} trained." if trained else ""
        return Answer(
            topic=CONTROL,
            text="Nothing has been evaluated: no claim about scores can be made.",
            details=tuple(text for text in (done, *incomplete) if text),
            shown=Conclusion.NOT_TESTABLE,
        )
    main = analyses[0]
    question = "" if gathered.plan is None else gathered.plan.question
    # Base models come last, since a larger one is seldom the question.
    effects = sorted(main.effects, key=lambda effect: (not _is_named(effect, question), effect.factor == "models"))
    full = ceiling(main, runs)
    control = [text for text in (control_line(main, runs),) if text]
    by_factor = [_numbers(effect, claims) for effect in effects]
    limits = [*incomplete, *_confounded(effects[:1]), *_differing(main, effects)]
    about_control = not effects or (bool(control) and _is_about_control(question, effects))
    if about_control:
        made, details = _about_control(main, runs), [*control, *([full] if full else []), *limits, *by_factor[:1]]
    else:
        made = _about_factor(effects[0], ties(gathered).get(effects[0].factor, ""))
        details = [*by_factor[:1], *control, *limits, *by_factor[1:]]
        family = family_of(main, runs)
        if made.shown in _SHOWN:
            pass
        elif family and all(each.shown is Conclusion.LOWER for each in family):
            made = _about_control(main, runs)
        elif full:
            made = Answer(topic=made.topic, text=full, shown=made.shown)
            details = [f"An effect of the {factor_words(effects[0].factor)} is not established.", *details]
    if not control:
        details.append(_highest(main, runs))
    if made.topic == CONTROL:
        # The answer is not told twice: only its numbers follow.
        span = [f"Difference: {control_span(main, runs)}."] if control else []
        details = [*span, *(text for text in details if text not in control)]
    details = [text for text in dict.fromkeys(details) if text]
    return Answer(topic=made.topic, text=made.text, details=tuple(details[:_DETAILS]), shown=made.shown)


def _is_named(effect: FactorEffect, question: str) -> bool:
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


# ---- a factor --------------------------------------------------------------------------------------------------------


def _about_factor(effect: FactorEffect, tie: str) -> Answer:
    name = factor_words(effect.factor)
    established = [contrast for contrast in effect.contrasts if contrast.is_shown]
    if established:
        best = max(established, key=lambda each: abs(each.value or 0.0))
        level, reference = (pair_words(effect, words, tie) for words in (best.level, best.reference))
        text = f"Established: {level} scores {best.shown.value} than {reference}."
        return short(effect.factor, best.shown, text, f"Established: levels of the {name} differ.")
    known = [contrast for contrast in effect.contrasts if contrast.value is not None]
    shown = Conclusion.NOT_ESTABLISHED if any(each.test is not None for each in known) else Conclusion.NOT_TESTABLE
    if not known:
        return short(effect.factor, shown, f"Not established. No evaluated runs differ in the {name} alone.")
    seeds = max(each.seeds for each in known)
    who = "One seed cannot" if seeds <= 1 else f"{seeds} seeds do not"
    return short(effect.factor, shown, f"Not established. {who} show an effect of the {name}.", "Not established.")


def _numbers(effect: FactorEffect, claims: Sequence[Claim]) -> str:
    """Return `Rank 64 against rank 4 (with alpha = 2 x rank): +22.0 points (+17.4 to +26.0), p = 0.004.`"""
    own = [claim for claim in claims if claim.topic == effect.factor][: len(effect.contrasts)]
    known = [(claim, claim.estimate) for claim in own if isinstance(claim.estimate, Quantity)]
    if not known:
        return ""
    best, found = max(known, key=lambda each: (each[0].shown in _SHOWN, abs(each[1].value)))
    established = sum(claim.shown in _SHOWN for claim, _ in known)
    several = f" {established} of {len(known)} contrasts {'is' if established == 1 else 'are'} established."
    scale = Scale(share=best.is_share)
    ends = between(found.low, found.high, scale.change)
    p = f", {p_text(best.p.value)}" if isinstance(best.p, Quantity) else ""
    numbers = f"{scale.difference(found.value)}{ends}{p}" if abs(found.value) >= SAME else "a tie"
    # The name of a model is unchanged.
    text = best.text if effect.factor == "models" else capital(best.text)
    return f"{text}: {numbers}.{several if len(known) > 1 else ''}"


# ---- controls --------------------------------------------------------------------------------------------------------


def _about_control(analysis: Analysis, runs: Mapping[str, RunResult]) -> Answer:
    family = family_of(analysis, runs)
    if not family:
        return short(CONTROL, None, "The gain from training is unknown: no run was compared with a control.")
    higher, lower = _directions(family)
    shown = Conclusion.HIGHER if higher == len(family) else Conclusion.LOWER if lower == len(family) else None
    if shown is None and not higher and not lower:
        shown = Conclusion.NOT_ESTABLISHED
    text = f"{_counted(family, _their_control(family, runs))}."
    if shown in _SHOWN:
        text = f"Established: {text if len(family) == 1 else text[:1].lower() + text[1:]}"
    return short(CONTROL, shown, text)


def control_line(analysis: Analysis, runs: Mapping[str, RunResult]) -> str:
    """Return how the trained runs compare with their controls, with the range of differences; empty without any."""
    family = family_of(analysis, runs)
    if not family:
        return ""
    return f"{_counted(family, _their_control(family, runs))}: {control_span(analysis, runs)}."


def control_span(analysis: Analysis, runs: Mapping[str, RunResult]) -> str:
    """Return the range of differences from the controls; of one run with its interval and p value."""
    family, scale = family_of(analysis, runs), scale_of(analysis)
    values = sorted(each.difference.value for each in family)
    span = scale.difference(values[0])
    if span != scale.difference(values[-1]):
        span = scale.ends(values[0], values[-1]) + (" points" if scale.share else "")
    if len(family) == 1:
        (each,) = family
        ends = between(each.difference.low, each.difference.high, scale.change)
        span += f"{ends}, {p_text(each.difference.p_adjusted)}"
    return span


def _directions(family: Sequence[Comparison]) -> tuple[int, int]:
    """Return how many runs are established to be higher, and how many lower."""
    higher, lower = (sum(each.shown is shown for each in family) for shown in (Conclusion.HIGHER, Conclusion.LOWER))
    return higher, lower


def _counted(family: Sequence[Comparison], control: str) -> str:
    """Return `Both fine-tuned runs score higher than the untrained model`."""
    total, (higher, lower) = len(family), _directions(family)
    many = {1: family[0].run, 2: "Both fine-tuned runs"}.get(total, f"All {total:,} fine-tuned runs")
    for number, word in ((higher, "higher"), (lower, "lower")):
        if number == total:
            return f"{many} score{'s' if total == 1 else ''} {word} than {control}"
    if not higher and not lower and all(each.difference.value < SAME for each in family):
        who = f"{many} does not score" if total == 1 else "no fine-tuned run scores"
        return f"Not established, and {who} above {control}"
    if not higher and not lower:
        return f"Not established: a difference between {many if total == 1 else 'fine-tuned runs'} and {control}"
    (number, word), *rest = [each for each in ((higher, "higher"), (lower, "lower")) if each[0]]
    also = "".join(f", {other} {direction}" for other, direction in rest)
    return f"{number} of {total} fine-tuned runs score {word} than {control}{also}"


def _their_control(family: Sequence[Comparison], runs: Mapping[str, RunResult]) -> str:
    names = list(dict.fromkeys(each.difference.control for each in family))
    if all(name in runs and runs[name].control in (None, ControlKind.BASE) for name in names):
        return "the untrained model" if len(names) == 1 else "their untrained models"
    return f"the control {names[0]}" if len(names) == 1 else "their controls"


def _highest(analysis: Analysis, runs: Mapping[str, RunResult]) -> str:
    scale = scale_of(analysis)
    asked = [score for score in analysis.scores if is_asked_about(runs[score.run])]
    best = max(asked or analysis.scores, key=lambda score: score.value)
    names = [score.run for score in asked or analysis.scores if abs(score.value - best.value) < SAME]
    ends = scale.value(best.value) + between(best.low, best.high, scale.end)
    tie = f", a tie of {len(names)} runs" if len(names) > 1 else ""
    alone = "" if asked else " Only controls were evaluated."
    return f"Highest {analysis.score}: {ends}, {join_names(names, _NAMES)}{tie}.{alone}"


def _confounded(effects: Sequence[FactorEffect]) -> Iterator[str]:
    """Yield settings that change together with the levels without being tied by the design."""
    for effect in effects:
        if effect.confounded_with:
            others = join_names([factor_words(other) for other in effect.confounded_with])
            yield f"The {factor_words(effect.factor)} changes together with the {others}: this is the effect of both."


def _differing(analysis: Analysis, effects: Sequence[FactorEffect]) -> Iterator[str]:
    """Yield the largest established interaction. It limits the answer at some levels."""
    order = [effect.factor for effect in effects]
    found = [interaction for interaction in analysis.interactions if interaction.difference.is_shown]
    found.sort(key=lambda each: (order.index(each.factor), -abs(each.difference.value or 0.0)))
    for each in found[:1]:
        text = interaction_words(each, scale_of(analysis))
        yield f"The effect of the {factor_words(each.factor)} differs: {text}."


def is_complete(run: RunResult, *, planned: bool) -> bool:
    """Return True if a run is trained and, if planned, evaluated, regardless of its job's exit code."""
    if run.status.is_complete:
        return True
    return not planned and run.outcome is TrainingOutcome.COMPLETE


def _incomplete(gathered: ReportInputs) -> Iterator[str]:
    planned = gathered.plan is not None
    runs = [run for run in gathered.runs if run.cut_after_step is None]
    rest = [run.name for run in runs if not is_complete(run, planned=planned)]
    if rest:
        yield f"Not complete: {join_names(rest, _NAMES)}."


def words(text: str) -> int:
    """Return the number of words, counted between white space."""
    return len(text.split())


def short(topic: str, shown: Conclusion | None, *forms: str) -> Answer:
    """Return the first form that is short enough. Otherwise truncate long names."""
    text = next((form for form in forms if words(form) <= MOST_WORDS), None)
    if text is None:
        text = " ".join(forms[-1].split()[: MOST_WORDS - 1]) + " ..."
    return Answer(topic=topic, text=text, shown=shown)


STRATEGY = "strategy"  # Topic


def strategy_answer(strategy: StrategyReport, analyses: Sequence[Analysis]) -> Answer:
    """Return the answer of the looks with the numbers of the first contrast."""
    first = report_sections.strategy_answer(strategy, scale_or_share(analyses))
    return Answer(topic=STRATEGY, text=_text(strategy), details=(first.text,), shown=first.shown)


def strategy_sentences(strategy: StrategyReport, analyses: Sequence[Analysis], device: str) -> list[Statement]:
    """Return every contrast with its last look, then cuts, choice and cost."""
    return list(report_sections.strategy_sentences(strategy, scale_or_share(analyses), device))


def strategy_claims(strategy: StrategyReport, analyses: Sequence[Analysis]) -> list[Claim]:
    """Return a claim for each contrast that the strategy looks at."""
    return [_claim(strategy, course, scale_or_share(analyses)) for course in strategy.courses]


def _text(strategy: StrategyReport) -> str:
    if not strategy.is_confirming or not strategy.courses:
        if strategy.chosen:
            return "Explore chose by validation loss. No score is claimed."
        if strategy.chosen is None:
            return "Explore has not chosen yet: nothing is tested."
        return "Explore chose no condition: nothing is tested."
    established = [course for course in strategy.courses if course.verdict is Verdict.ESTABLISHED]
    if established:
        level, against = established[0].sides
        more = f" ({len(established)} of {len(strategy.courses)} contrasts)" if len(strategy.courses) > 1 else ""
        text = f"Established: {level} scores higher than {against}{more}."
        return short(STRATEGY, None, text, f"Established: {plural(len(established), 'contrast')}.").text
    if not strategy.looks_taken:
        return f"No contrast is established yet: {strategy.next_look}."
    if strategy.stop is None:
        return f"Not established after look {strategy.looks_taken} of {len(strategy.planned.looks)}."
    return f"Not established: the strategy ended after look {strategy.looks_taken} of {len(strategy.planned.looks)}."


def _claim(strategy: StrategyReport, course: ContrastCourse, scale: Scale) -> Claim:
    needed = strategy.next_look if strategy.stop is None else "a new experiment with fresh seeds"
    if not course.looks:
        nothing = Missing(missing="no look has been taken")
        return Claim(
            topic=STRATEGY, text=course.words, estimate=nothing, is_share=scale.share, p=nothing,
            verdict="not established", shown=Conclusion.NOT_TESTABLE, needed=needed,
        )  # fmt: skip
    last = course.looks[-1]
    low, high = last.interval(scale) or (None, None)
    place = f"look {last.number} of {len(strategy.planned.looks)}"
    is_established = course.verdict is Verdict.ESTABLISHED
    return Claim(
        topic=STRATEGY,
        text=course.words,
        estimate=Quantity(
            value=last.found.difference, unit="1", low=low, high=high, coverage=0.95, method=f"repeated, {place}"
        ),
        is_share=scale.share,
        p=Missing(missing="tested by looks"),
        verdict=f"{'established: higher' if is_established else course.verdict.value}, {place}",
        shown=Conclusion.HIGHER if is_established else Conclusion.NOT_ESTABLISHED,
        needed="" if is_established else needed,
    )
