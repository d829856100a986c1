"""Table of conditions: scores with the seeds of a condition in one row, and what tables of runs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from touchline.core.finding import Severity
from touchline.core.quantity import Measured, Missing, Quantity, finite
from touchline.core.status import RunStatus
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present
from touchline.core.text import capital, join_names
from touchline.core.units import Scale, between, plural
from touchline.experiment.runs import RunKind
from touchline.report.facts import (
    RunFacts,
    condition_of,
    condition_words,
    is_asked_about,
    is_failed_exit,
    measured_of,
    p_number,
    p_text,
    scale_of,
    seeds_of,
)
from touchline.report.report import Report
from touchline.report.tables import table_from
from touchline.results.frame import status_words
from touchline.results.run_result import RunResult
from touchline.results.set_matrix import mean_cell, mean_over_seeds
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, RunScore

_WORST = 6
_SAME = 1e-9
_TASKS = 3
_BAD = (RunStatus.FAILED, RunStatus.INTERRUPTED)
_NOT_EVALUATED = Missing(missing="not evaluated")
_WARNINGS = 5


@dataclass(frozen=True, eq=False, slots=True)
class Condition:
    """Runs that differ in the training seed only."""

    name: str
    runs: tuple[RunResult, ...]

    @property
    def is_control(self) -> bool:
        """Return True if its runs are controls."""
        return not is_asked_about(self.runs[0])


_Shown = tuple[Column, Callable[[Condition], Value]]


def conditions(report: Report) -> list[Condition]:
    """Return the conditions in the order of the runs. Runs without a seed of their own are not pooled."""
    seeds, groups = seeds_of(report.runs), dict[object, list[RunResult]]()
    several = len({run.model for run in report.runs}) > 1
    for run in report.runs:
        key = condition_of(run) if run.kind is RunKind.FINE_TUNED and run.name in seeds else run.name
        same = groups.setdefault(key, [])
        if any(seeds[each.name] == seeds[run.name] for each in same):
            groups[run.name] = [run]
        else:
            same.append(run)
    return [
        Condition(runs[0].name if len(runs) == 1 else condition_words(runs[0], with_model=several), tuple(runs))
        for runs in groups.values()
    ]


def shown_conditions(report: Report, most: int | None) -> tuple[list[Condition], str]:
    """Return the conditions of a table: of more than `most` the best, the worst and controls. And where the others
    are.
    """
    every = conditions(report)
    if most is None or len(every) <= most:
        return every, ""
    scores = {score.run: score.value for analysis in report.analyses[:1] for score in analysis.scores}
    means = {
        each: fmean(own)
        for each in every
        if not each.is_control and (own := [scores[run.name] for run in each.runs if run.name in scores])
    }
    known = sorted(means, key=lambda each: -means[each])
    ties = sum(abs(mean - means[known[0]]) < _SAME for mean in means.values()) if known else 0
    controls = [each for each in every if each.is_control][: most // 2]
    best = most - len(controls) - _WORST
    kept = [*known[:best], *known[max(best, len(known) - _WORST) :]] or every[: best + _WORST]
    left = len(every) - len(kept) - len(controls)
    what = "The best and the worst conditions" if known else "The first conditions"
    tie = f" {ties:,} tie at the top." if ties > 1 else ""
    return [*kept, *controls], f"{what}, and controls.{tie} {plural(left, 'other condition')} in report.html."


def pooled_mean(each: Condition, pick: Callable[[RunResult], Measured]) -> Measured:
    """Return the mean of a figure over the runs of a condition; with a missing one, that one."""
    known = [finite(pick(run)) for run in each.runs]
    missing = next((value for value in known if isinstance(value, Missing)), None)
    if missing is not None or len(known) == 1:
        return missing or known[0]
    numbers = measured_of(known)
    return Quantity(value=fmean(value.value for value in numbers), unit=numbers[0].unit, aggregation="mean")


def compact(table: Table | None) -> Table | None:
    """Return a table without the columns that have no value, and a note with the reason of each."""
    if table is None:
        return None
    empty = {
        column.name: next((str(value) for value in values if isinstance(value, Missing)), "")
        for column, values in zip(table.columns, zip(*table.rows, strict=True), strict=True)
        if all(value is None or isinstance(value, Missing) for value in values)
    }
    reasons: dict[str, list[str]] = {}
    for name, reason in empty.items():
        reasons.setdefault(reason, []).append(name)
    notes = " ".join(f"{capital(join_names(names))}: {reason}." for reason, names in reasons.items() if reason)
    kept = table.only(*(column.name for column in table.columns if column.name not in empty))
    return replace(kept, notes=(*kept.notes, *([notes] if notes else [])))


# ---- scores ----------------------------------------------------------------------------------------------------------


def conditions_table(report: Report, analysis: Analysis | None = None, most: int | None = None) -> Table | None:
    """Return the score of each condition, the means of its seeds, and its difference from the control.

    Args:
        analysis: of a further score; None for the experiment's own.
        most: maximum number of conditions; None for all.
    """
    shown, rest = shown_conditions(report, most)
    main = report.analyses[0] if report.analyses else None
    analysis = analysis or main
    pooled = any(len(each.runs) > 1 for each in shown)
    facts = {each.run: each for each in report.facts}
    columns: list[_Shown] = [(Column("condition" if pooled else "run", code=not pooled), lambda each: each.name)]
    if not pooled:
        columns.append((Column("settings"), lambda each: _settings(each, facts)))
    elif any(each.is_control for each in shown):
        columns.append((Column("type"), lambda each: "control" if each.is_control else "fine-tuned"))
    if len({run.model for each in shown for run in each.runs}) > 1 and not pooled:
        columns.append((Column("model"), lambda each: each.runs[0].model))
    if report.strategy is not None:
        columns.append((Column("phase"), lambda each: each.runs[0].phase and each.runs[0].phase.value))
    if any(not run.status.is_complete for each in shown for run in each.runs):
        columns.append((Column("status"), _status))
    notes = [rest] if rest else []
    if analysis is not None:
        columns += _scores(analysis, shown, pooled=pooled, with_match=analysis is main)
        others = report.analyses[1 : 1 + _TASKS] if analysis is main else ()
        columns += [_other_task(other) for other in others if other.test_set is None]
        notes.append(" ".join(_legend(report, analysis, shown)))
    title = "" if analysis is main or analysis is None else f"Scores: {analysis.task}, {analysis.score}"
    return table_from(shown, columns, title, by_run=not pooled, notes=notes)


def _settings(each: Condition, facts: Mapping[str, RunFacts]) -> str:
    own = facts[each.runs[0].name].settings
    if not each.is_control:
        return own
    return "control" if own == "-" else f"{own} (control)"


def _status(each: Condition) -> Value:
    if len(each.runs) == 1:
        return status_cell(each.runs[0])
    done = sum(run.status.is_complete for run in each.runs)
    return f"{done} of {len(each.runs)} complete"


def _scores(analysis: Analysis, shown: Sequence[Condition], *, pooled: bool, with_match: bool) -> Iterator[_Shown]:
    scale, own = scale_of(analysis), {score.run: score for score in analysis.scores}
    compared = {each.run: each for each in analysis.comparisons}
    yield (
        Column(f"{analysis.score} (95% CI)", key="score", numeric=True),
        lambda each: mean_cell(condition_score(each, own), share=scale.share),
    )
    if pooled:
        seeds = {tuple(run.seed for run in each.runs if run.name in own) for each in shown if len(each.runs) > 1}
        common = ", ".join(map(str, next(iter(seeds)))) if len(seeds) == 1 else ""
        label = f"by seed ({common})" if common else "by seed"
        yield Column(label, numeric=True), lambda each: _by_seed(each, own, scale, named=not common)
    elif len({score.items for score in analysis.scores}) > 1:
        yield Column("items", numeric=True), lambda each: own[each.name].items if each.name in own else None
    runs = [run for each in shown for run in each.runs if run.name in own]
    apart = (run.match is not None and abs(run.match.value - own[run.name].value) > _SAME for run in runs)
    if with_match and analysis.score == "exact match" and any(apart):
        yield Column("normalized match", numeric=True), lambda each: _match(each, scale)
    if not compared:
        return
    if pooled:
        unit = " (points)" if scale.share else ""
        yield (
            Column(f"against its control{unit}", key="difference", numeric=True),
            lambda each: _mean_change(
                [compared[run.name].difference.value for run in each.runs if run.name in compared], scale
            ),
        )
        return
    yield difference_column(scale), lambda each: difference_cell(compared.get(each.name), scale)
    yield (
        Column("gained / lost" if analysis.binary else "rose / fell", numeric=True),
        lambda each: (
            f"{compared[each.name].difference.gained:,} / {compared[each.name].difference.lost:,}"
            if each.name in compared
            else None
        ),
    )


def _mean_change(values: Sequence[float], scale: Scale) -> Value:
    return Cell(scale.change(fmean(values)), fmean(values)) if values else None


def condition_score(each: Condition, own: Mapping[str, RunScore]) -> Measured:
    """Return the score of a run, or the mean of the seeds with Student's interval."""
    found = [
        (
            run.seed,
            Quantity(value=score.value, unit="1", low=score.low, high=score.high, method=score.method)
            if (score := own.get(run.name)) is not None
            else None,
        )
        for run in each.runs
    ]
    mean = mean_over_seeds(found)
    # A cut run has a reason of its own.
    return each.runs[0].score if isinstance(mean, Missing) and each.runs[0].cut_after_step is not None else mean


def _by_seed(each: Condition, own: Mapping[str, RunScore], scale: Scale, *, named: bool) -> Value:
    """Return the means of the seeds with enough digits to repeat the test."""
    if len(each.runs) == 1:
        return None
    values = [
        (run.seed, f"{100 * own[run.name].value:.2f}" if scale.share else f"{own[run.name].value:.6g}")
        for run in each.runs
        if run.name in own
    ]
    return ", ".join(f"{seed}: {text}" if named else text for seed, text in values) or None


def _match(each: Condition, scale: Scale) -> Value:
    found = [run.match.value for run in each.runs if run.match is not None]
    return Cell(scale.value(fmean(found)), fmean(found)) if found else None


def _other_task(analysis: Analysis) -> _Shown:
    scale, own = scale_of(analysis), {score.run: score.value for score in analysis.scores}

    def cell(each: Condition) -> Value:
        found = [own[run.name] for run in each.runs if run.name in own]
        return Cell(scale.value(fmean(found)), fmean(found)) if found else None

    return Column(f"{analysis.task}, {analysis.score}", numeric=True), cell


def _legend(report: Report, analysis: Analysis, shown: Sequence[Condition]) -> Iterator[str]:
    items = {score.items for score in analysis.scores}
    count = f"{items.pop():,} test items" if len(items) == 1 else "Test items as listed"
    yield f"{count}{f' of {analysis.test_set}' if analysis.test_set else ''}; decoding {report.decoding}."
    seeds = {run.seed for each in shown for run in each.runs if not each.is_control}
    methods = "; ".join(dict.fromkeys(score.method for score in analysis.scores))
    if any(len(each.runs) > 1 for each in shown):
        yield f"Interval: Student's t over the means of the seeds; with one run over items ({methods})."
    else:
        yield f"Interval: over items ({methods}){', one seed' if len(seeds) == 1 else ''}."
    paired = "; ".join(dict.fromkeys(each.difference.method for each in analysis.comparisons))
    if paired and not any(len(each.runs) > 1 for each in shown):
        yield f"Against its control: the same items ({paired})."
    checkpoints = {analysis.checkpoints.get(run.name) for each in shown for run in each.runs if not each.is_control}
    checkpoints.discard(None)
    if len(checkpoints) == 1:
        yield f"Checkpoint: {checkpoints.pop()}."


def overview(report: Report) -> tuple[Section, ...]:
    """Return what a notebook shows of a report."""
    heavy = [issue for issue in report.issues if issue.weight is not Severity.INFO]
    more = (f"and {plural(len(heavy) - _WARNINGS, 'more warning')}",) if len(heavy) > _WARNINGS else ()
    warnings = tuple(f"{issue.subject}: {issue.title}. {issue.text}" for issue in heavy[:_WARNINGS])
    return (
        Section(title="", paragraphs=(report.answer.text, *report.answer.details)),
        Section(title="Conditions", tables=present(conditions_table(report))),
        Section(title="Warnings", lines=(*warnings, *more)),
    )


# ---- cells -----------------------------------------------------------------------------------------------------------


def score_cell(score: RunScore | None, scale: Scale) -> Value:
    """Return a run's score with its 95% interval."""
    if score is None:
        return _NOT_EVALUATED
    items = "" if score.proportion is None else f"{score.proportion.k:,} of {score.proportion.n:,} items; interval: "
    ceiling = "; near the top of the scale: a better run could hardly show it" if score.saturated else ""
    interval = between(score.low, score.high, scale.end).strip()
    return Cell(scale.value(score.value), score.value, interval=interval, note=f"{items}{score.method}{ceiling}")


def difference_cell(each: Comparison | None, scale: Scale) -> Value:
    """Return a run's difference from its control with its interval."""
    if each is None:
        return None
    found = each.difference
    return Cell(
        scale.change(found.value),
        found.value,
        mark=None if each.shown in (Conclusion.HIGHER, Conclusion.LOWER) else Mark.QUIET,
        interval=between(found.low, found.high, scale.change).strip(),
        note=f"against {found.control}: {found.gained:,} items gained, {found.lost:,} lost; {each.shown.words}",
    )


def p_cell(each: Comparison | None) -> Value:
    """Return the adjusted p value of a run's comparison with its control."""
    if each is None:
        return None
    found = each.difference
    return Cell(p_number(found.p_adjusted), found.p_adjusted, note=f"before Holm: {p_text(found.p_value)}")


def difference_column(scale: Scale) -> Column:
    """Return the column of differences from the control."""
    unit = " (points)" if scale.share else ""
    note = "Difference from the control on the same items, with its 95% interval"
    return Column(f"against its control{unit}", key="difference", numeric=True, note=note)


def status_cell(run: RunResult) -> Cell:
    """Return the status of a run, with its attempts and steps."""
    mark = None if run.status.is_complete else Mark.BAD if run.status in _BAD else Mark.WARN
    tries = plural(run.attempts, "attempt")
    done = (
        f", {run.steps_done:,} of {run.steps_planned:,} steps"
        if run.steps_done is not None and run.steps_planned
        else ""
    )
    if run.cut_after_step is not None:
        return Cell(status_words(run), mark=Mark.QUIET, note="; ".join((tries + done, *map(str, run.notes))))
    words = run.status.value
    if run.status is RunStatus.TRAINED and is_failed_exit(run):
        words += ", failed exit"
    return Cell(words, mark=mark, note="; ".join((tries + done, *map(str, run.notes))))
