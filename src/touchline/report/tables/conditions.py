"""Tables of conditions: scores, losses and times, with the seeds of a condition in one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from touchline.core.finding import Severity
from touchline.core.quantity import Measured, Missing, Quantity, finite
from touchline.core.scale import Scale
from touchline.core.status import RunStatus
from touchline.core.table import Cell, Column, Section, Table, Value, present, table_of
from touchline.core.text import capital, join_names
from touchline.core.units import format_bytes, format_seconds, hours_to_seconds, plural
from touchline.experiment.runs import RunKind
from touchline.report.facts import (
    condition_of,
    condition_words,
    evaluation_seconds,
    generalization_gap,
    is_asked_about,
    lowest,
    seeds_of,
)
from touchline.report.formatting import scale_of
from touchline.report.report import Report, RunFacts
from touchline.report.tables.runs import status_cell
from touchline.report.tables.scores import difference_cell, difference_column, p_cell
from touchline.report.tables.training import is_silent, steps_value, trained_runs
from touchline.results.run_result import RunResult
from touchline.results.set_matrix import mean_cell, mean_over_seeds
from touchline.results.verification_types import RunStorage
from touchline.statistics.conclusions import Analysis, RunScore

MOST_CONDITIONS = 25
"""Maximum number of rows. With more, the best, the worst and the controls."""
_WORST = 6
_TASKS = 3
_ROWS = 50
_DONE = (RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT)
_WARNINGS = 5


@dataclass(frozen=True, slots=True)
class Condition:
    """Runs that differ in the training seed only."""

    name: str
    runs: tuple[RunResult, ...]

    @property
    def is_control(self) -> bool:
        """Return True if its runs are controls."""
        return not is_asked_about(self.runs[0])


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


def _shown(report: Report) -> tuple[list[Condition], str]:
    """Return the conditions of a table, and where the others are."""
    every = conditions(report)
    if len(every) <= MOST_CONDITIONS:
        return every, ""
    scores = {score.run: score.value for analysis in report.analyses[:1] for score in analysis.scores}
    known = [each for each in every if not each.is_control and any(run.name in scores for run in each.runs)]
    known.sort(key=lambda each: -fmean(scores[run.name] for run in each.runs if run.name in scores))
    controls = [each for each in every if each.is_control][: MOST_CONDITIONS // 2]
    best = MOST_CONDITIONS - len(controls) - _WORST
    kept = [*known[:best], *known[max(best, len(known) - _WORST) :]] or every[: best + _WORST]
    left = len(every) - len(kept) - len(controls)
    what = "The best and the worst conditions" if known else "The first conditions"
    return [*kept, *controls], f"{what}, and controls. {plural(left, 'other condition')} in report.html."


# ---- scores ----------------------------------------------------------------------------------------------------------


def conditions_table(report: Report) -> Table | None:
    """Return the score of each condition, the means of its seeds, and its difference from the control."""
    shown, rest = _shown(report)
    analysis = report.analyses[0] if report.analyses else None
    pooled = any(len(each.runs) > 1 for each in shown)
    facts = {each.run: each for each in report.facts}
    columns: list[Column] = [Column("condition" if pooled else "run", code=not pooled)]
    cells: list[Callable[[Condition], Value]] = [lambda each: each.name]

    def add(column: Column, cell: Callable[[Condition], Value]) -> None:
        columns.append(column)
        cells.append(cell)

    if not pooled:
        add(Column("settings"), lambda each: _settings(each, facts))
    elif any(each.is_control for each in shown):
        add(Column("type"), lambda each: "control" if each.is_control else "fine-tuned")
    if len({run.model for each in shown for run in each.runs}) > 1 and not pooled:
        add(Column("model"), lambda each: each.runs[0].model)
    if report.strategy is not None:
        add(Column("phase"), lambda each: None if each.runs[0].phase is None else each.runs[0].phase.value)
    if any(run.status not in _DONE for each in shown for run in each.runs):
        add(Column("status"), _status)
    notes = [rest] if rest else []
    if analysis is not None:
        for column, cell in _scores(analysis, shown, pooled=pooled):
            add(column, cell)
        for other in report.analyses[1 : 1 + _TASKS]:
            if other.test_set is None:
                add(*_other_task(other))
        notes.append(" ".join(_legend(report, analysis, shown)))
    rows = [tuple(cell(each) for cell in cells) for each in shown]
    return table_of(columns, rows, by_run=not pooled, notes=notes)


def _settings(each: Condition, facts: Mapping[str, RunFacts]) -> str:
    own = facts[each.runs[0].name].settings
    if not each.is_control:
        return own
    return "control" if own == "-" else f"{own} (control)"


def _status(each: Condition) -> Value:
    """Return the status of a run, or how many runs of a condition are complete."""
    if len(each.runs) == 1:
        return status_cell(each.runs[0])
    done = sum(run.status in _DONE for run in each.runs)
    return f"{done} of {len(each.runs)} complete"


def _scores(
    analysis: Analysis, shown: Sequence[Condition], *, pooled: bool
) -> Iterator[tuple[Column, Callable[[Condition], Value]]]:
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
    if analysis.score == "exact match" and any(
        run.match is not None and abs(run.match.value - own[run.name].value) > 1e-9 for run in runs
    ):
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


def _other_task(analysis: Analysis) -> tuple[Column, Callable[[Condition], Value]]:
    """Return the mean score of a further task."""
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


# ---- losses and times ------------------------------------------------------------------------------------------------


def losses_table(report: Report) -> Table | None:
    """Return steps, losses and times of each condition: means over its seeds."""
    shown, rest = _shown(report)
    trained = {run.name for run, _ in trained_runs(report) if not is_silent(run)}
    hours = {facts.run: facts.device_hours for facts in report.facts}
    pooled = any(len(each.runs) > 1 for each in shown)
    columns = (
        *(Column("condition" if pooled else "run", code=not pooled), Column("steps", numeric=True)),
        *(Column(label, numeric=True, unit="nats") for label in ("train loss", "val loss")),
        Column("gap", numeric=True, unit="nats", note="Final validation loss minus final training loss"),
        Column("lowest val loss", numeric=True),
        *(Column(label, numeric=True) for label in ("training", "evaluation", "all attempts")),
    )
    rows = []
    for each in shown:
        measured: tuple[Value, ...] = (None,) * 6
        if each.runs[0].name in trained:
            means = [pooled_mean([pick(run) for run in each.runs]) for pick in (_train, _val, generalization_gap)]
            measured = (_steps(each), *means, _lowest(each), pooled_mean([run.train_seconds for run in each.runs]))
        evaluation = pooled_mean([evaluation_seconds(run) for run in each.runs])
        rows.append((each.name, *measured, evaluation, _time([hours[run.name] for run in each.runs])))
    unit = "GPU time" if report.device == "GPU" else "device time"
    note = (
        "Losses: nats per label token; train loss over the last steps, val loss at the end. All attempts: "
        f"{unit} with start-up, lost work and evaluations. {'Means over seeds. ' if pooled else ''}"
        "Losses and times are not tested."
    )
    if not trained:
        return None
    return _compact(table_of(columns, rows, by_run=not pooled, notes=(note, *([rest] if rest else []))))


def _compact(table: Table | None) -> Table | None:
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
    notes = [f"{capital(join_names(names))}: {reason}." for reason, names in reasons.items() if reason]
    kept = table.only(*(column.name for column in table.columns if column.name not in empty))
    return replace(kept, notes=(*kept.notes, *notes))


def _train(run: RunResult) -> Measured:
    return run.final_train_loss


def _val(run: RunResult) -> Measured:
    return run.final_val_loss


def pooled_mean(values: Sequence[Measured]) -> Measured:
    """Return the mean; with a missing value, that value."""
    known = [finite(value) for value in values]
    missing = next((value for value in known if isinstance(value, Missing)), None)
    if missing is not None or len(known) == 1:
        return missing or known[0]
    numbers = [value for value in known if isinstance(value, Quantity)]
    return Quantity(value=fmean(value.value for value in numbers), unit=numbers[0].unit, aggregation="mean")


def _time(hours: Sequence[Measured]) -> Value:
    mean = pooled_mean(hours)
    return mean if isinstance(mean, Missing) else Cell(format_seconds(hours_to_seconds(mean.value)), mean.value)


def _steps(each: Condition) -> Value:
    texts = {str(getattr(value, "text", value)): value for value in map(steps_value, each.runs)}
    return next(iter(texts.values())) if len(texts) == 1 else join_names(list(texts), 3)


def _lowest(each: Condition) -> Value:
    points = [point for run in each.runs if (point := lowest(run.validation_losses)) is not None]
    if len(points) < len(each.runs):
        return Missing(missing="no validation")
    mean = fmean(point.loss for point in points)
    step = f" (step {points[0].step:,})" if len(points) == 1 else ""
    return Cell(f"{mean:.4g}{step}", mean)


# ---- runs ------------------------------------------------------------------------------------------------------------


def every_run_table(report: Report) -> Table | None:
    """Return one row per run: score with several seeds, steps, losses, speed, memory, time and disk space."""
    analysis = report.analyses[0] if report.analyses else None
    pooled = analysis is not None and any(len(each.runs) > 1 for each in conditions(report))
    scores = {} if analysis is None else {score.run: score for score in analysis.scores}
    compared = {} if analysis is None else {each.run: each for each in analysis.comparisons}
    scale = Scale(share=True) if analysis is None else scale_of(analysis)
    storage = {each.run: each for each in report.verification.storage.runs}
    columns = (
        Column("run", code=True),
        *(
            [Column("score", numeric=True), difference_column(scale), Column("gained / lost"), Column("p (Holm)")]
            if pooled
            else []
        ),
        Column("steps", numeric=True),
        *(Column(label, numeric=True, unit="nats") for label in ("train loss", "val loss")),
        Column(f"tokens/s per {report.device}", numeric=True, digits=3, unit="tokens/s"),
        Column("peak memory", numeric=True, digits=3),
        *(Column(label, numeric=True) for label in ("time", "disk")),
        *(Column(label, numeric=True, digits=3) for label in ("as full models", "adapters only")),
    )
    rows: list[tuple[Value, ...]] = []
    for run, facts in list(zip(report.runs, report.facts, strict=True))[:_ROWS]:
        own, each = scores.get(run.name), compared.get(run.name)
        gained = None if each is None else f"{each.difference.gained:,} / {each.difference.lost:,}"
        score = None if own is None else Cell(scale.value(own.value), own.value)
        of_score = (score, difference_cell(each, scale), gained, p_cell(each))
        trains, disk = run.kind is RunKind.FINE_TUNED and not is_silent(run), storage.get(run.name)
        rows.append(
            (
                run.name,
                *(of_score if pooled else ()),
                *((steps_value(run), run.final_train_loss, run.final_val_loss) if trains else (None, None, None)),
                *((facts.tokens_per_second_per_gpu, run.peak_memory) if trains else (None, None)),
                _time([facts.device_hours]),
                *((None,) * 3 if disk is None else _disk(disk)),
            )
        )
    left = len(report.runs) - len(rows)
    notes = ["As full models: with each adapter merged into its base. Adapters only: they need the base model."]
    notes += [f"{plural(left, 'other run')} in report.html."] if left else []
    return _compact(table_of(columns, rows, "Runs", by_run=True, notes=notes))


def _disk(disk: RunStorage) -> tuple[Value, ...]:
    """Return the size of a run's folder, and of its checkpoints in two other forms."""
    others = (disk.full_model_bytes, disk.adapter_only_bytes)
    total = Cell(format_bytes(disk.total_bytes), disk.total_bytes)
    return total, *(value if isinstance(value, Quantity) else None for value in others)


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
