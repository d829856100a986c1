"""Confounders: further differences between two runs that should differ in one factor only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.levels import factor_words
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.text import join_names
from touchline.report.facts import is_asked_about
from touchline.report.findings.pairs import RunPair, pairs_of
from touchline.report.formatting import level_of
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult, Setting
from touchline.statistics.conclusions import FactorEffect
from touchline.statistics.statements import Statement

CHANGE_TIME = (
    ("effective_batch_size", "global batch size"),
    ("batch_size", "micro-batch size"),
    ("gradient_accumulation_steps", "gradient accumulation"),
    ("packed", "packing"),
    ("max_seq_len", "context"),
    ("epochs", "epochs"),
    ("gpus", "GPUs"),
)
"""Settings that change the training time: the name in `RunResult.settings` and the usual name."""
CHANGE_LOSS = (
    ("effective_batch_size", "global batch size"),
    ("learning_rate", "learning rate"),
    ("lora_rank", "rank"),
    ("lora_alpha", "alpha"),
    ("packed", "packing"),
    ("max_seq_len", "context"),
    ("epochs", "epochs"),
)
"""Settings that change the training result. With the same global batch size, the micro-batch size does not."""
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
    """Return a run's rank, from its settings or its level."""
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


def confounded_scores(gathered: ReportInputs, effects: Sequence[FactorEffect]) -> Iterator[Statement]:
    """Yield the settings that differ together with a factor between runs whose scores were compared."""
    for effect in effects:
        factor = effect.factor
        if effect.tied:
            # The statement is about the pair. There are no runs that differ only in the factor.
            continue
        by_level = pairs_of(gathered, factor, _scored) if factor in gathered.factors else {}
        found = [each for pairs in by_level.values() for p in pairs for each in _differing(factor, p, CHANGE_LOSS)]
        if found:
            text = (
                f"Runs of another {factor_words(factor)} differ in {_valued(found)} as well: what the "
                f"{factor_words(factor)} does to the score cannot be separated from that."
            )
            yield Statement(topic=factor, text=text)


def _scored(run: RunResult) -> Measured:
    """Return the score as a measured value, as pairs require."""
    return Quantity(value=1.0, unit="1") if run.evaluations else Missing(missing="not evaluated")


def confounded(factor: str, pairs: Sequence[RunPair], settings: Sequence[tuple[str, str]]) -> str:
    """Return a sentence on the other differences between the runs of the pairs, with their values."""
    found = [each for pair in pairs for each in _differing(factor, pair, settings)]
    tie = _tied_alpha(factor, pairs) if any(key == "lora_alpha" for key, _ in settings) else ""
    return tie + (f" They differ in {_valued(found)} as well, which is confounded with it." if found else "")


def _tied_alpha(factor: str, pairs: Sequence[RunPair]) -> str:
    """Return a sentence if alpha follows the rank in all pairs, so that they differ in both."""
    ratios = {_alpha_per_rank(run) for pair in pairs for run in (pair.run, pair.reference)}
    ratio = ratios.pop() if len(ratios) == 1 else None
    return "" if factor != RANK or ratio is None else f" Alpha is {ratio:g} x rank in each of them."


def _valued(found: Sequence[tuple[str, Setting, Setting]]) -> str:
    """Return `alpha (128 against 8) and context (256 against 512)`."""
    values = dict.fromkeys(f"{words} ({_setting(own)} against {_setting(other)})" for words, own, other in found)
    return join_names(list(values))


def _differing(
    factor: str, pair: RunPair, settings: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, Setting, Setting]]:
    """Yield (setting, value of the run, value of the reference) of each other setting that differs."""
    mine, others = pair.run.settings, pair.reference.settings
    own_ratio, other_ratio = (_alpha_per_rank(run) for run in (pair.run, pair.reference))
    is_tied = own_ratio is not None and own_ratio == other_ratio
    values: set[tuple[Setting, Setting]] = set()
    for key, words in settings:
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
