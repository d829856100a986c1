"""Comparison of experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.quantity import Measured, Missing, Quantity, finite
from touchline.core.text import join_names
from touchline.report.compared import (
    ComparedExperiments,
    ComparedRun,
    ComparedSide,
    ConditionRow,
    ExperimentEffect,
    ExperimentSummary,
    PairedRuns,
    SettingRow,
)
from touchline.report.comparing.matches import (
    Match,
    analysed,
    condition_words,
    conditions_of,
    effect_of,
    last_evaluations,
    matches_of,
    paired,
    scored_run,
    tasks_of,
    unscored,
)
from touchline.report.comparing.settings import DEVICE, matching_keys, setting_rows
from touchline.results.run_result import RunResult

__all__ = ["compare"]


_VALIDATED = frozenset({"validation split (sha256)", "data.prompt", "data.system", "data.input", "data.output"})
"""Settings, besides the model, that determine a loss on the validation split."""


def compare(sides: Sequence[ExperimentSummary]) -> ComparedExperiments:
    """Compare experiments with the first of them.

    Args:
        sides: two or more, each with a label of its own.
    """
    keys = matching_keys(sides)
    rows, same, once = setting_rows(sides, keys)
    conditions = conditions_of(sides, keys)
    matches, refusals = matches_of(sides, conditions, keys)
    pairs: list[PairedRuns] = []
    effects: list[ExperimentEffect] = []
    for side in sides[1:]:
        own = [match for match in matches if match.side is side]
        for task in tasks_of(own):
            found, refused = paired(sides[0], side, own, task)
            pairs += found
            refusals += refused
            effects += effect_of(sides[0], side, own, found, task)
        refusals += unscored(side, own)
    return ComparedExperiments(
        experiments=tuple(
            ComparedSide(
                label=side.label,
                root=side.root,
                origin=side.origin,
                date=side.date,
                question=side.question,
                runs=len(side.runs),
                evaluated=sum(bool(last_evaluations(run)) for run in side.runs),
            )
            for side in sides
        ),
        settings=tuple(rows),
        same_settings=same,
        known_once=tuple(once),
        rows=tuple(
            ConditionRow(
                condition=condition_words(key),
                runs=tuple(tuple(_cell(side, run) for run in runs) for side, runs in zip(sides, by_side, strict=True)),
            )
            for key, by_side in conditions.items()
        ),
        pairs=tuple(pairs),
        refusals=tuple(refusals),
        effects=tuple(effects),
        notes=tuple(_notes(sides, rows, matches)),
    )


def _cell(side: ExperimentSummary, run: RunResult) -> ComparedRun:
    found = next(iter(last_evaluations(run).items()), None)
    score: Measured = Missing(missing="not evaluated")
    if found is not None:
        scored = scored_run(run, found[1], side.label, "", is_reference=False)
        (own,) = analysed([scored], found[0], {}).scores
        value, low, high = own.value, own.low, own.high
        score = Quantity(value=value, unit="1", low=low, high=high, coverage=own.coverage, method=own.method)
    return ComparedRun(
        experiment=side.label,
        run=run.name,
        status=run.status,
        checkpoint=None if found is None else found[1].checkpoint,
        task=None if found is None else found[0][0],
        score=score,
        final_val_loss=finite(run.final_val_loss),
        train_seconds=finite(run.train_seconds),
        tokens_per_second=finite(run.tokens_per_second),
        peak_memory=finite(run.peak_memory),
    )


def _notes(sides: Sequence[ExperimentSummary], rows: Sequence[SettingRow], matches: Sequence[Match]) -> Iterator[str]:
    for side in sides:
        yield from (f"{side.label}: {each}" for each in side.unread)
        if side.left_out:
            yield f"{side.label}: cut by its strategy and not compared: {join_names(side.left_out)}"
        if any(run.phase is not None for run in side.runs):
            yield (
                f"{side.label}: a strategy decided which runs were made; no effect is tested over its seeds, and its "
                "own report has the looks"
            )
    for side in sides[1:]:
        if not any(match.side is side for match in matches):
            yield f"no run of {side.label} is of the same condition as one of {sides[0].label}"
    differing = {row.key for row in rows}
    if _VALIDATED & differing:
        what = join_names(sorted(_VALIDATED & differing))
        yield f"validation losses do not compare, since something else was validated: {what}"
    if DEVICE in differing:
        yield "durations, rates and memory are of different devices"
