"""Rules on the power of the evaluation: items, seeds, and the data used for selection."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from touchline.core.finding import Location, Severity
from touchline.core.units import plural
from touchline.experiment.test_sets import asked_items
from touchline.lint.design import DesignView, place_of, swept
from touchline.lint.rule import Violation, rule
from touchline.statistics.power import (
    ENOUGH_SEEDS,
    USUAL_FLIPS,
    items_for_paired_difference,
    smallest_seed_difference,
)

_NUMBER = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)[ -]?(?:%|percent(?:age points?)?\b|points?\b|pp\b)",
    re.IGNORECASE,
)
_CHANGE = re.compile(
    r"\b(improv\w*|increas\w*|rais\w*|gain\w*|better|worse|differ\w*|effect\w*|drop\w*|los[es]\w*|lower\w*|higher|"
    r"chang\w*|reduc\w*|add\w*|win\w*)\b",
    re.IGNORECASE,
)
_A_LEVEL = re.compile(r"\b(to|from|of|at|on|with|reach\w*|accuracy of|score of|over|above|below)\s*$", re.IGNORECASE)
_A_CHANGE_OF = re.compile(
    r"\b(gain|improvement|increase|difference|effect|drop|loss|change|reduction)s? of( at least)?\s*$", re.IGNORECASE
)
_A_PART = re.compile(r"^\s*(of\b|out\b|dropout|train\w*|data\b)", re.IGNORECASE)
_LARGEST_EFFECT = 0.5
_FAR_FROM = 2
"""Factor by which the required items are usually underestimated, so that a shortage is certain."""
_FEW_ITEMS = 50
_FEW_VALIDATION_ROWS = 20


@rule("EX108", Severity.INFO)
def _few_seeds(view: DesignView) -> Iterator[Violation]:
    count, strategy = len(view.experiment.seeds), view.experiment.strategy
    if strategy is not None and strategy.confirm is not None:
        return  # its seeds are those of the looks
    if count >= ENOUGH_SEEDS or not any(len(levels) > 1 for levels in swept(view).values()):
        return
    unit, enough = "standard deviations between seeds", f"{ENOUGH_SEEDS} seeds detect {detectable(ENOUGH_SEEDS)}"
    yield Violation(
        message=f"one seed compares checkpoints, not settings ({enough} {unit}, 80% power)"
        if count == 1
        else f"{count} seeds detect {detectable(count)} {unit} ({enough}, 80% power)",
        at=view.where("seeds"),
        subject="seeds",
        # A stated effect refers to the setting, and one seed cannot show it.
        severity=Severity.WARNING if count == 1 and stated_effect(view.experiment.question) is not None else None,
        hint="seeds: [1, 2, 3]" if strategy is None else "strategy.confirm, with fresh seeds",
    )


def detectable(seeds: int) -> str:
    """Return the smallest difference that so many seeds detect, in standard deviations between seeds."""
    return f"{smallest_seed_difference(seeds) or math.inf:.2g}"


@rule("EX109", Severity.WARNING)
def _too_few_items_for_effect(view: DesignView) -> Iterator[Violation]:
    effect, items = stated_effect(view.experiment.question), test_items(view)
    if effect is None or items is None:
        return
    least = items_for_paired_difference(effect, effect)
    usual = items_for_paired_difference(effect, max(effect, USUAL_FLIPS))
    if items < least or items * _FAR_FROM < usual:
        message = f"{items:,} test items cannot show the {100 * effect:g} points of the question (80% power, 5% level)"
        hint = f"evaluate {least:,} items or more, {usual:,} if {100 * max(effect, USUAL_FLIPS):g}% are discordant"
        yield Violation(message, _items_place(view), hint, subject="evaluate.samples")


@rule("EX110", Severity.INFO)
def _minimum_detectable_difference(view: DesignView) -> Iterator[Violation]:
    effect, items = stated_effect(view.experiment.question), test_items(view)
    if items is None or items < 1 or not any(len(levels) > 1 for levels in swept(view).values()):
        return
    from touchline.statistics.power import smallest_in_points

    if effect is None:
        yield Violation(
            f"{plural(items, 'test item')}: the minimum detectable difference of one comparison (80% power) is "
            f"{smallest_in_points(items, USUAL_FLIPS)} if {100 * USUAL_FLIPS:g}% are discordant",
            _items_place(view),
            subject="evaluate.samples",
        )


@rule("EX115", Severity.WARNING)
def _few_test_items(view: DesignView) -> Iterator[Violation]:
    items = test_items(view)
    if items is not None and 0 < items < _FEW_ITEMS:
        message = (
            f"{plural(items, 'test item')}: the 95% interval of a score near 50% is about ±{98 / items**0.5:.0f} points"
        )
        hint = "evaluate: {samples: all}" if _all_test_rows(view) >= _FEW_ITEMS else "add test rows"
        yield Violation(message, _items_place(view), hint, subject="evaluate.samples")


@rule("EX116", Severity.ERROR)
def _best_checkpoint_selection(view: DesignView) -> Iterator[Violation]:
    key = "train.checkpoint.keep"
    place = place_of(view, key) if key in swept(view) else view.where(*key.split("."))
    asked = {run.data.file: (key, place) for run in view.trained if run.train.checkpoint.keep == "best"}
    runs = {run.name: run for run in view.chained}
    for link in (run.link for run in view.chained):
        if link is not None and link.parent_checkpoint == "best":
            index = [stage.name for stage in view.experiment.stages].index(link.stage)
            key = "parent_checkpoint"
            asked.setdefault(runs[link.parent].data.file, (f"stages.{key}", view.where("stages", index, key)))
    for path, (key, place) in asked.items():
        facts = view.dataset(path)
        if facts is None or facts.validation >= _FEW_VALIDATION_ROWS:
            continue
        message = (
            f"{key} is best, and {path} has "
            + (f"only {facts.validation} validation rows" if facts.validation else "no validation rows")
            + " to choose by"
        )
        hint = f"set {key.rpartition('.')[2]}: {'all' if key.endswith('keep') else 'last'}, or add validation rows"
        yield Violation(message, place, hint, subject=key, severity=None if facts.validation == 0 else Severity.WARNING)


@rule("EX119", Severity.ERROR)
def _evaluated_epoch_not_trained(view: DesignView) -> Iterator[Violation]:
    for run in view.trained:
        wanted = run.evaluate.epochs
        if isinstance(wanted, str) or all(epoch < run.train.epochs for epoch in wanted):
            continue
        beyond = ", ".join(str(epoch) for epoch in wanted if epoch >= run.train.epochs)
        message = f"{run.name} has the epochs 0 to {run.train.epochs - 1}, and evaluate.epochs names {beyond}"
        hint = f"evaluate: {{epochs: [{run.train.epochs - 1}]}}, or last"
        yield Violation(message, view.where("evaluate", "epochs"), hint, subject="evaluate.epochs")
        return


def stated_effect(question: str) -> float | None:
    """Parse the effect that a question names, as a share: 0.05 of `improve accuracy by 5 points`. None if none.

    A number counts only beside a word of change, and not where it is a level (`to 90%`) or a part (`5% of the data`).
    """
    for found in _NUMBER.finditer(question):
        before, after = question[: found.start()], question[found.end() :]
        value = float(found[1]) / 100
        level = _A_LEVEL.search(before) is not None and _A_CHANGE_OF.search(before) is None
        if level or _A_PART.match(after) or not 0 < value <= _LARGEST_EFFECT:
            continue
        if _CHANGE.search(before) or _CHANGE.search(after):
            return value
    return None


def test_items(view: DesignView) -> int | None:
    """Return the minimum number of test items of a run. None if unknown."""
    counts: list[int] = []
    for run in view.runs:
        facts, samples = view.dataset(run.data.file), run.evaluate.samples
        if facts is not None:
            counts.append(asked_items(run.evaluate, facts.test))
        elif samples != "all":
            counts.append(samples)
    return min(counts, default=None)


def _all_test_rows(view: DesignView) -> int:
    facts = (view.dataset(run.data.file) for run in view.runs)
    return min((each.test for each in facts if each is not None), default=0)


def _items_place(view: DesignView) -> Location:
    written = view.document.data.get("evaluate")
    return (
        view.where("evaluate", "samples") if isinstance(written, dict) and "samples" in written else view.where("data")
    )
