"""Tables of runs and conditions: settings, status, losses, speed, memory, time and disk space."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from touchline.core.levels import SEEDS, factor_words
from touchline.core.quantity import TOKEN_WORDS, Measured, Missing, Quantity, finite
from touchline.core.table import Cell, Column, Section, Table, Value, present, provenance, table_of
from touchline.core.text import join_names
from touchline.core.units import Scale, bare, format_bytes, in_unit, is_at_least, measured, plural
from touchline.experiment.runs import Phase, RunKind
from touchline.experiment.settings import LEADING
from touchline.plan.settings import RunSetting, leading_text, setting_cell, settings_table, varying_table
from touchline.report.facts import (
    RunFacts,
    evaluation_seconds,
    generalization_gap,
    is_asked_about,
    level_of,
    lowest,
    measured_of,
    scale_or_share,
    seeds_of,
)
from touchline.report.report import Report
from touchline.report.tables.conditions import (
    Condition,
    compact,
    conditions,
    difference_cell,
    difference_column,
    p_cell,
    pooled_mean,
    score_cell,
    shown_conditions,
    status_cell,
)
from touchline.results.run_result import RunResult
from touchline.results.verification_types import RunStorage
from touchline.statistics.conclusions import Analysis, Comparison, RunScore

_NOT_REPORTED = Missing(missing="not reported")
_LOSSES: tuple[Callable[[RunResult], Measured], ...] = (
    lambda run: run.final_train_loss,
    lambda run: run.final_val_loss,
    generalization_gap,
)
_TIMES: tuple[Callable[[RunResult], Measured], ...] = (
    lambda run: run.train_seconds,
    lambda run: run.validation_seconds,
    lambda run: run.saving_seconds,
)


def trained_runs(report: Report) -> list[tuple[RunResult, RunFacts]]:
    """Return the runs that train, with their facts."""
    return [
        (run, facts) for run, facts in zip(report.runs, report.facts, strict=True) if run.kind is RunKind.FINE_TUNED
    ]


def is_silent(run: RunResult) -> bool:
    """Return True if nothing was measured of a training."""
    figures = (run.final_train_loss, run.final_val_loss, run.train_seconds, run.tokens_per_second, run.peak_memory)
    return not run.steps_done and not run.attempt_list and all(isinstance(figure, Missing) for figure in figures)


def losses_table(report: Report, most: int | None = None) -> Table | None:
    """Return steps, losses and times of each condition: means over its seeds."""
    shown, rest = shown_conditions(report, most)
    trained = {run.name for run, _ in trained_runs(report) if not is_silent(run)}
    hours = {facts.run: facts.device_hours for facts in report.facts}
    pooled = any(len(each.runs) > 1 for each in shown)
    columns = (
        *(Column("condition" if pooled else "run", code=not pooled), Column("steps", numeric=True)),
        *(Column(label, numeric=True, unit="nats") for label in ("train loss", "val loss")),
        Column("gap", numeric=True, unit="nats", note="Final validation loss minus final training loss"),
        Column("lowest val loss", numeric=True),
        *(Column(label, numeric=True) for label in ("training", "validation", "saving", "evaluation", "all attempts")),
    )
    rows = []
    for each in shown:
        measured: tuple[Value, ...] = (None,) * 8
        if each.runs[0].name in trained:
            losses, times = ([pooled_mean(each, pick) for pick in picks] for picks in (_LOSSES, _TIMES))
            measured = (_steps(each), *losses, _lowest(each), *times)
        spent = pooled_mean(each, lambda run: hours[run.name])
        rows.append((each.name, *measured, pooled_mean(each, evaluation_seconds), _time(spent)))
    unit = "GPU time" if report.device == "GPU" else "device time"
    note = (
        "Losses: nats per label token; train loss over the last steps, val loss at the end. All attempts: "
        f"{unit} with start-up, lost work and evaluations. {'Means over seeds. ' if pooled else ''}"
        "Losses and times are not tested."
    )
    if not trained:
        return None
    notes = (note, *([rest] if rest else []))
    return compact(table_of(columns, rows, "Losses and times", by_run=not pooled, notes=notes))


def _time(hours: Measured) -> Value:
    known = finite(hours)
    if isinstance(known, Missing):
        return known
    seconds = in_unit(known, "s")
    return Cell(measured(seconds) if is_at_least(seconds) else bare(seconds), known.value, note=provenance(known))


def _steps(each: Condition) -> Value:
    texts = {str(getattr(value, "text", value)): value for value in map(steps_value, each.runs)}
    return next(iter(texts.values())) if len(texts) == 1 else join_names(list(texts), 3)


def _lowest(each: Condition) -> Value:
    points = [point for run in each.runs if (point := lowest(run.validation_losses)) is not None]
    if len(points) < len(each.runs):
        return Missing(missing="no validation")
    mean = statistics.fmean(point.loss for point in points)
    step = f" (step {points[0].step:,})" if len(points) == 1 else ""
    return Cell(f"{mean:.4g}{step}", mean)


def runs_in_numbers(report: Report, most: int | None = None) -> Table | None:
    """Return one row per run: score with several seeds, steps, losses, speed, memory, time and disk space."""
    analysis = report.analyses[0] if report.analyses else None
    pooled = analysis is not None and any(len(each.runs) > 1 for each in conditions(report))
    scores, compared = _by_run(analysis)
    scale = scale_or_share(report.analyses)
    storage = {each.run: each for each in report.verification.storage.runs}
    measured = [(run, facts) for run, facts in trained_runs(report) if not is_silent(run)]
    speeds = [facts.tokens_per_second_per_gpu for _, facts in measured]
    token, kind = _shared(speeds, "token_unit"), _shared([run.peak_memory for run, _ in measured], "kind")
    columns = (
        Column("run", code=True),
        *(
            [Column("score", numeric=True), difference_column(scale), Column("gained / lost"), Column("p (Holm)")]
            if pooled
            else []
        ),
        Column("steps", numeric=True),
        *(Column(label, numeric=True, unit="nats") for label in ("train loss", "val loss")),
        Column(
            f"tokens/s{f' ({TOKEN_WORDS[token]})' if token else ''} per {report.device}",
            numeric=True,
            unit=_shared(speeds, "unit") or "",
            digits=3,
            kind=token is None,
        ),
        Column(f"peak memory{f' ({kind})' if kind else ''}", numeric=True, digits=3, kind=kind is None),
        *(Column(label, numeric=True) for label in ("time", "disk")),
        *(Column(label, numeric=True, digits=3) for label in ("as full models", "adapters only")),
    )
    rows: list[tuple[Value, ...]] = []
    for run, facts in list(zip(report.runs, report.facts, strict=True))[:most]:
        own, each = scores.get(run.name), compared.get(run.name)
        gained = None if each is None else f"{each.difference.gained:,} / {each.difference.lost:,}"
        of_score = (own and score_cell(own, scale), difference_cell(each, scale), gained, p_cell(each))
        trains, disk = run.kind is RunKind.FINE_TUNED and not is_silent(run), storage.get(run.name)
        rows.append(
            (
                run.name,
                *(of_score if pooled else ()),
                *((steps_value(run), run.final_train_loss, run.final_val_loss) if trains else (None, None, None)),
                *((facts.tokens_per_second_per_gpu, run.peak_memory) if trains else (None, None)),
                _time(facts.device_hours),
                *((None,) * 3 if disk is None else _disk(disk)),
            )
        )
    left = len(report.runs) - len(rows)
    notes = [" ".join(_legend([run for run, _ in measured], speeds))] if measured else []
    if storage:
        notes.append("As full models: with each adapter merged into its base. Adapters only: they need the base model.")
    notes += [f"{plural(left, 'other run')} in report.html."] if left else []
    return compact(table_of(columns, rows, "Runs", by_run=True, notes=notes))


def _by_run(analysis: Analysis | None) -> tuple[dict[str, RunScore], dict[str, Comparison]]:
    if analysis is None:
        return {}, {}
    return {score.run: score for score in analysis.scores}, {each.run: each for each in analysis.comparisons}


def _disk(disk: RunStorage) -> tuple[Value, ...]:
    others = (disk.full_model_bytes, disk.adapter_only_bytes)
    total = Cell(format_bytes(disk.total_bytes), disk.total_bytes)
    return total, *(value if isinstance(value, Quantity) else None for value in others)


def _shared(values: Iterable[Measured], attribute: str) -> str | None:
    """Return the attribute (`kind`, `token_unit`, `unit`) that all figures of a column share, for its heading."""
    found = {getattr(value, attribute) for value in measured_of(values)}
    return str(found.pop()) if len(found) == 1 and None not in found else None


def _legend(runs: Sequence[RunResult], speeds: Sequence[Measured]) -> Iterator[str]:
    train = _methods([run.final_train_loss for run in runs])
    yield f"Losses are means over the label tokens, in nats. Train loss: {train or 'as logged'}."
    yield f"Val loss: {_methods([run.final_val_loss for run in runs], 2) or 'as logged'}."
    ways = _methods(speeds)
    sums = dict.fromkeys(each.aggregation for each in measured_of(speeds) if each.aggregation)
    how = [*(each for each in sums if each not in ways), *([ways] if ways else [])]
    yield f"Tokens/s: {', '.join(how) or 'as logged'}."
    phases = dict.fromkeys(each.phase for each in measured_of(run.peak_memory for run in runs) if each.phase)
    if phases:
        words = {"step": "while steps ran", "after_init": "after initialization", "eval": "during evaluation"}
        yield f"Peak memory: {', '.join(words[phase] for phase in phases)}."


def _methods(values: Sequence[Measured], most: int = 3) -> str:
    ways = list(dict.fromkeys(each.method for each in measured_of(values) if each.method))
    return "; ".join(ways[:most]) + (" ..." if len(ways) > most else "")


def steps_value(run: RunResult) -> Value:
    """Return `160 of 160`."""
    if run.steps_done is None and run.steps_planned is None:
        return _NOT_REPORTED
    done = "n/a (not reported)" if run.steps_done is None else f"{run.steps_done:,}"
    return Cell(done if run.steps_planned is None else f"{done} of {run.steps_planned:,}", run.steps_done)


_ALWAYS = tuple(key for key in LEADING if key != "train.max_seq_len")
"""Hyperparameters that the table of runs shows even if they do not vary."""
_SHORT = {"train.global_batch_size": "batch", "train.epochs": "epochs"}


def runs_table(report: Report) -> Table | None:
    """Return a row for every run: hyperparameters, status, score, difference from its control, losses."""
    analysis = report.analyses[0] if report.analyses else None
    scores, compared = _by_run(analysis)
    scale = scale_or_share(report.analyses)
    settings = _hyperparameters(report)
    seeds = seeds_of(report.runs)
    rows: list[tuple[Value, ...]] = [
        (
            Cell(run.name, note=facts.settings),
            "control" if run.kind is RunKind.CONTROL or run.control is not None else run.kind.value,
            *(run.model, *(_setting(run, key, each) for key, each in settings.items())),
            *([_phase(report, run)] if report.strategy is not None else []),
            *(_seed(run, seeds), status_cell(run), _score(run, scores.get(run.name), scale)),
            *_compared(compared.get(run.name), facts.control, scale, is_explored=run.phase is Phase.EXPLORE),
            *(run.final_train_loss, run.final_val_loss, generalization_gap(run)),
        )
        for run, facts in zip(report.runs, report.facts, strict=True)
    ]
    score = "score" if analysis is None else analysis.score
    columns = (
        *(Column("run", code=True), Column("type"), Column("model")),
        *(
            Column(_SHORT.get(key) or factor_words(key), key=key, numeric=_is_numeric(rows, place), note=key)
            for place, key in enumerate(settings, 3)
        ),
        *([Column("phase")] if report.strategy is not None else []),
        *(Column("seed", numeric=True), Column("status")),
        Column(f"{score} (95% CI)", key="score", numeric=True),
        difference_column(scale),
        Column("p (Holm)", numeric=True, note="Exact McNemar test, adjusted over the family"),
        Column("train loss", numeric=True, unit="nats", digits=3, note="Nats per label token, over the last steps"),
        Column("val loss", numeric=True, unit="nats", digits=3, note="Nats per label token, the last one"),
        Column("gap", numeric=True, unit="nats", digits=3, note="Validation loss minus training loss"),
    )
    return table_of(columns, rows, by_run=True)


def settings_section(report: Report) -> Section:
    """Return the settings that vary by run, and every setting, given or default."""
    leading = leading_text(report.settings)
    return Section(
        title="Settings",
        paragraphs=(f"{leading}.",) if leading else (),
        tables=present(
            varying_table(report.settings, [run.name for run in report.runs]), settings_table(report.settings)
        ),
    )


def _hyperparameters(report: Report) -> dict[str, RunSetting | None]:
    """Return the settings that are columns: the most important ones, and the factors of the design.

    A level that is not a setting of the experiment, such as a stage, is shown unchanged. The seed has a column of its
    own.
    """
    known = {setting.key: setting for setting in report.settings}
    varied = [key for key, levels in report.factors.items() if len(levels) > 1 and key not in ("models", SEEDS)]
    keys = [key for key in _ALWAYS if key in known or key in report.factors]
    return {key: known.get(key) for key in dict.fromkeys((*keys, *varied))}


def _setting(run: RunResult, key: str, setting: RunSetting | None) -> Value:
    """Return a run's value of a setting; a dash if a run that trains nothing does not have it."""
    text = level_of(run, key)
    if setting is not None and is_asked_about(run):
        text = setting_cell(setting, run.name)
    if text is None or text == "-":
        return None
    try:
        return Cell(text, float(text))
    except ValueError:
        return text


def _is_numeric(rows: list[tuple[Value, ...]], place: int) -> bool:
    return all(row[place] is None or isinstance(row[place], Cell) for row in rows)


def _seed(run: RunResult, seeds: Mapping[str, int]) -> Value:
    """Return a training's seed. Missing if no file contains it."""
    if run.kind is not RunKind.FINE_TUNED:
        return None
    seed = seeds.get(run.name)
    return Missing(missing="not reported") if seed is None else Cell(str(seed), seed)


def _phase(report: Report, run: RunResult) -> Value:
    if run.phase is None or report.strategy is None:
        return None
    if run.name in (report.strategy.chosen or ()):
        return Cell(f"{run.phase.value}, chosen", note="chosen by validation loss")
    return run.phase.value


def _score(run: RunResult, score: RunScore | None, scale: Scale) -> Value:
    return run.score if run.cut_after_step is not None and score is None else score_cell(score, scale)


def _compared(
    each: Comparison | None, control: str | None, scale: Scale, *, is_explored: bool = False
) -> tuple[Value, Value]:
    if each is None:
        empty = None if control is None or is_explored else Missing(missing="not compared with its control")
        return empty, empty
    return difference_cell(each, scale), p_cell(each)
