"""Remarks: what limits the claims and is in no table. Confounded settings, other controls, cut runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from touchline.core.finding import NoteCode
from touchline.core.levels import SEEDS, STAGE, factor_words
from touchline.core.quantity import Quantity, finite
from touchline.core.text import capital, join_names
from touchline.core.units import between, plural
from touchline.experiment.data_config import DATASET_KEYS
from touchline.experiment.runs import ControlKind
from touchline.experiment.settings import CHANGING, COLLECTED_AS
from touchline.report.facts import is_asked_about, level_of, scale_of
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult, Setting
from touchline.statistics.conclusions import Analysis, Comparison, Statement

_WORDS = {
    "train.micro_batch_size": "micro-batch size",
    "train.gradient_accumulation_steps": "gradient accumulation",
    "compute.gpus_per_run": "GPUs",
}
"""Names of settings, where they are others than in a comparison's factors."""
RANK, ALPHA = "train.lora.rank", "train.lora.alpha"


def ties(gathered: ReportInputs) -> dict[str, str]:
    """Return what is tied to a factor by a rule in every run: `alpha = 2 x rank`, by the factor."""
    asked = [run for run in gathered.runs if is_asked_about(run)]
    ranks = {_rank(run) for run in asked}
    ratios = {_alpha_per_rank(run) for run in asked}
    if len(ranks) < 2 or len(ratios) != 1 or None in ratios:
        return {}
    return {RANK: f"alpha = {ratios.pop():g} x rank"}


def _rank(run: RunResult) -> float | None:
    rank = run.settings.get("lora_rank")
    return _number(rank if rank is not None else level_of(run, RANK))


def _alpha_per_rank(run: RunResult) -> float | None:
    alpha = run.settings.get("lora_alpha")
    known, rank = _number(alpha if alpha is not None else level_of(run, ALPHA)), _rank(run)
    return None if known is None or not rank else round(known / rank, 9)


def _number(value: Setting) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def confounders(gathered: ReportInputs, analyses: Sequence[Analysis]) -> Iterator[Statement]:
    """Yield the settings that differ together with a factor between runs that are compared."""
    tied = {effect.factor for analysis in analyses[:1] for effect in analysis.effects if effect.tied}
    for factor in by_setting(gathered.factors):
        # A tied factor is claimed as a pair. There are no runs that differ only in it.
        pairs = () if factor in tied else pairs_of(gathered, factor)
        found = [each for pair in pairs for each in _differing(factor, *pair)]
        if found:
            yield Statement(
                topic=factor,
                text=f"Runs of another {factor_words(factor)} differ in {_valued(found)} as well. Their scores, losses "
                f"and times do not show the effect of the {factor_words(factor)} alone.",
            )


def _valued(found: Sequence[tuple[str, Setting, Setting]]) -> str:
    """Return `alpha (128 against 8) and context (256 against 512)`."""
    values = dict.fromkeys(f"{words} ({_setting(own)} against {_setting(other)})" for words, own, other in found)
    return join_names(list(values))


def _differing(factor: str, run: RunResult, reference: RunResult) -> Iterator[tuple[str, Setting, Setting]]:
    """Yield (setting, value of the run, value of the reference) of each other setting that differs."""
    mine, others = run.settings, reference.settings
    own_ratio, other_ratio = _alpha_per_rank(run), _alpha_per_rank(reference)
    is_tied = own_ratio is not None and own_ratio == other_ratio
    values: set[tuple[Setting, Setting]] = set()
    for setting in CHANGING:
        key, words = COLLECTED_AS[setting], _WORDS.get(setting) or factor_words(setting)
        own, other = mine.get(key), others.get(key)
        if words.replace("-", " ") == factor_words(factor) or own == other:
            continue
        # Alpha that follows the rank is not a confounder, nor is a micro-batch size that differs exactly as the batch
        # size.
        if (key == "lora_alpha" and factor == RANK and is_tied) or (key == "batch_size" and (own, other) in values):
            continue
        values.add((own, other))
        yield words, own, other


def _setting(value: Setting) -> str:
    if value is None:
        return "not reported"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else value


def by_setting(factors: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the factors with two levels or more, settings before base models."""
    varied = [f for f, levels in factors.items() if len(levels) > 1 and f not in (STAGE, SEEDS)]
    return sorted(varied, key=lambda factor: factor == "models")


def pairs_of(gathered: ReportInputs, factor: str) -> Iterator[tuple[RunResult, RunResult]]:
    """Yield a run, and the run at the first level that is otherwise identical. Cut runs, which ended at another step,
    are in none.
    """
    alike: dict[tuple[object, ...], dict[str, RunResult]] = {}
    for run in gathered.runs:
        level = level_of(run, factor)
        if level is None or not is_asked_about(run) or run.cut_after_step is not None or not _is_measured(run):
            continue
        others = tuple((each.factor, each.value) for each in run.levels if each.factor not in (factor, "models", SEEDS))
        model, dataset = "" if factor == "models" else run.model, "" if factor in DATASET_KEYS else run.dataset
        alike.setdefault((model, others, dataset, run.seed), {})[level] = run
    reference, *rest = gathered.factors[factor]
    for level in rest:
        for group in alike.values():
            if level in group and reference in group:
                yield group[level], group[reference]


def _is_measured(run: RunResult) -> bool:
    figures = (run.final_train_loss, run.final_val_loss, run.train_seconds)
    return bool(run.evaluations) or any(isinstance(finite(figure), Quantity) for figure in figures)


CONTROLS, LIMITS = "Other controls", "Limits"


def remarks(
    gathered: ReportInputs, analyses: Sequence[Analysis], first: Sequence[Statement] | None
) -> tuple[Statement, ...]:
    """Return the remarks, by topic: the first ones, decisions of a strategy; None without a strategy."""
    runs = {run.name: run for run in gathered.runs}
    found = list(first or ())
    found += confounders(gathered, analyses)
    for place, analysis in enumerate(analyses):
        own = [*_other_controls(analysis, runs)]
        # Each contrast of a single seed already names it.
        notes = [note for note in analysis.notes if note.code is not NoteCode.ONE_SEED or not analysis.effects]
        own += [Statement(topic=LIMITS, text=sentence(str(note))) for note in notes]
        if place == 0 and first is None:
            own += _one_seed(gathered, analysis)
        prefix = f"{analysis.task}, {analysis.score}: " if place else ""
        found += [Statement(topic=prefix + each.topic, text=each.text, shown=each.shown) for each in own]
    return tuple(found)


def _other_controls(analysis: Analysis, runs: Mapping[str, RunResult]) -> Iterator[Statement]:
    """Yield what a no-op or shuffled control shows. A no-op adapter must score as the base model does."""
    scale = scale_of(analysis)
    for each in analysis.comparisons:
        run, difference = runs[each.run], each.difference
        if is_asked_about(run):
            continue
        gained, lost = ("gained", "lost") if analysis.binary else ("rose", "fell")
        numbers = (
            f"{scale.difference(difference.value)}{between(difference.low, difference.high, scale.change)} against "
            f"{difference.control}; {plural(difference.gained, 'item')} {gained}, {difference.lost:,} {lost}"
        )
        yield Statement(topic=CONTROLS, text=_of_control(run, each, numbers), shown=each.shown)


def _of_control(run: RunResult, each: Comparison, numbers: str) -> str:
    if run.control is not ControlKind.NO_OP:
        return (
            f"Trained on shuffled answers, {each.run} scores {numbers}. As much of a gain is form and not the task. It "
            "is not one of the claims."
        )
    # An issue reports answers that differ although scores do not, since it needs the answers themselves.
    if each.difference.gained == each.difference.lost == 0:
        return f"The no-op adapter {each.run} has the score of {each.difference.control} on every item, as it must."
    return f"The no-op adapter {each.run} adds nothing and does not score as the base does: {numbers}."


def _one_seed(gathered: ReportInputs, analysis: Analysis) -> Iterator[Statement]:
    runs = {run.name: run for run in gathered.runs}
    asked = [runs[score.run] for score in analysis.scores if is_asked_about(runs[score.run])]
    if asked and not analysis.effects and len({run.seed for run in asked}) == 1:
        one = "One seed" if gathered.plan is not None else "One run per setting"
        text = f"{one}: the numbers describe these checkpoints and not another run of the same settings."
        yield Statement(topic=LIMITS, text=text)


def sentence(text: str) -> str:
    """Return the text with a capital letter and a full stop; empty stays empty."""
    stripped = text.strip().rstrip(".")
    return f"{capital(stripped)}." if stripped else ""
