"""Table of all runs, and the figures at the top of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from touchline.core.finding import Severity
from touchline.core.levels import SEEDS
from touchline.core.quantity import Missing
from touchline.core.status import RunStatus
from touchline.plan.settings import LEADING, setting_cell
from touchline.plan.settings_table import RunSetting
from touchline.report.colors import SeriesColor
from touchline.report.facts import generalization_gap, is_asked_about, seeds_of
from touchline.report.formatting import (
    Scale,
    count,
    device_title,
    factor_words,
    is_at_least,
    level_of,
    p_number,
    p_text,
    scale_of,
)
from touchline.report.page.cells import Cell, Column, Notes, PageTable, TableRow, plain, table_of
from touchline.report.report import Report, RunFacts
from touchline.results.run_result import RunResult
from touchline.results.verification_types import MissingCheckpoint, VerifiedCheckpoint
from touchline.statistics.conclusions import Analysis, Comparison, Conclusion, RunScore

_GOOD = (RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT)
_BAD = (RunStatus.FAILED, RunStatus.INTERRUPTED)
_MARKS = {"sound": "✓", "broken": "✗", "missing": "!", "planned": "·"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Figure at the top of the page."""

    value: str
    """Value of the figure."""
    label: str
    """Label of the figure."""
    kind: str = ""
    """`bad` or `warn` if it needs attention."""
    run: str | None = None
    """Run of the figure."""


def cards(report: Report) -> tuple[Card, ...]:
    """Return the completed runs, the highest score and its difference from its control, the cost, and the warnings."""
    made = [Card(value=f"{report.completed:,}/{len(report.runs):,}", label="runs complete")]
    if report.analyses:
        made += _score_cards(report, report.analyses[0])
    hours = report.device_hours
    if not isinstance(hours, Missing):
        planned = report.device_hours_planned
        said = "" if isinstance(planned, Missing) else f" (planned {planned.value:.3g})"
        made.append(Card(value=f"{'≥ ' if is_at_least(hours) else ''}{hours.value:.3g}", label=f"device-hours{said}"))
    for weight, noun, kind in ((Severity.ERROR, "error", "bad"), (Severity.WARNING, "warning", "warn")):
        number = sum(issue.weight is weight for issue in report.issues)
        if number:
            made.append(Card(value=f"{number:,}", label=noun if number == 1 else f"{noun}s", kind=kind))
    return tuple(made)


def _seed(run: RunResult, seeds: Mapping[str, int]) -> Cell:
    """Return a training's seed. Empty if no file contains it."""
    if not is_asked_about(run):
        return plain("–", -1)
    seed = seeds.get(run.name)
    return Cell(text="n/a", sort=-1, title="not reported") if seed is None else plain(str(seed), seed)


def _score_cards(report: Report, analysis: Analysis) -> list[Card]:
    asked = {run.name for run in report.runs if is_asked_about(run)}
    scale = scale_of(analysis)
    best = max((s for s in analysis.scores if s.run in asked), key=lambda score: score.value, default=None)
    if best is None:
        return []
    made = [Card(value=scale.value(best.value), label=f"highest: {best.run}", run=best.run)]
    compared = next((each for each in analysis.comparisons if each.run == best.run), None)
    if compared is not None:
        found = compared.difference
        ends = scale.ends(found.low, found.high)
        made.append(Card(value=scale.difference(found.value), label=f"over its control, {ends}", run=best.run))
    return made


def runs_table(report: Report, inks: Mapping[str, SeriesColor]) -> PageTable | None:
    """Return a row for every run: hyperparameters, score, difference to its control, losses."""
    analysis = report.analyses[0] if report.analyses else None
    scores = {} if analysis is None else {score.run: score for score in analysis.scores}
    compared = {} if analysis is None else {each.run: each for each in analysis.comparisons}
    scale = Scale(share=True) if analysis is None else scale_of(analysis)
    settings = _hyperparameters(report)
    several = len({run.model for run in report.runs}) > 1
    seeds = seeds_of(report.runs)
    notes = Notes()
    rows = [
        TableRow(
            run=run.name,
            cells=(
                Cell(text=run.name, ink=inks[run.name].number, title="; ".join((facts.settings, *facts.notes))),
                *([plain(run.model)] if several else []),
                *(_setting(run, key, setting) for key, setting in settings.items()),
                _seed(run, seeds),
                _status(run),
                _score_cell(scores.get(run.name), scale, notes),
                *_difference_cells(compared.get(run.name), facts, scale, notes),
                notes.measured(run.final_train_loss, unit=False, digits=3),
                notes.measured(run.final_val_loss, unit=False, digits=3),
                notes.measured(generalization_gap(run), unit=False, digits=3),
            ),
        )
        for run, facts in zip(report.runs, report.facts, strict=True)
    ]
    columns = (
        Column(label="Run"),
        *([Column(label="Model")] if several else []),
        *(
            Column(label=_short_name(key), numeric=_is_numeric(rows, index), title=key)
            for index, key in enumerate(settings, 2 if several else 1)
        ),
        Column(label="Seed", numeric=True),
        Column(label="Status"),
        Column(
            label=analysis.score.capitalize() if analysis is not None else "Score",
            numeric=True,
            title="With its 95% interval",
        ),
        Column(
            label=f"Δ control{' (points)' if scale.share else ''}",
            numeric=True,
            title="Difference to the control on the same items, with its interval",
        ),
        Column(label="p (Holm)", numeric=True, title="Exact McNemar test, adjusted over the family"),
        Column(label="Train loss", numeric=True, title="Nats per label token, over the last steps"),
        Column(label="Val. loss", numeric=True, title="Nats per label token, the last one"),
        Column(label="Gap", numeric=True, title="Generalization gap: validation loss minus training loss"),
    )
    return table_of(columns, rows, notes, limit=None)


def costs_table(report: Report, inks: Mapping[str, SeriesColor]) -> PageTable | None:
    """Return a row for every run: device time, speed, memory, checkpoints."""
    checkpoints = _by_run(report)
    notes = Notes()
    rows = [
        TableRow(
            run=run.name,
            cells=(
                Cell(text=run.name, ink=inks[run.name].number),
                notes.measured(facts.device_hours, unit=False, digits=3),
                notes.measured(facts.tokens_per_second_per_gpu),
                notes.measured(run.peak_memory),
                _checkpoint_cell(checkpoints.get(run.name, ())),
                notes.measured(run.adapter_size),
            ),
        )
        for run, facts in zip(report.runs, report.facts, strict=True)
    ]
    columns = (
        Column(label="Run"),
        Column(
            label=f"{device_title(report.device)}-hours",
            numeric=True,
            title="Of all attempts at the training and of all evaluations",
        ),
        Column(label="Speed", numeric=True, title="Tokens per second and device"),
        Column(label="Peak memory", numeric=True),
        Column(label="Checkpoints"),
        Column(label="Adapter", numeric=True),
    )
    return table_of(columns, rows, notes, limit=None)


_ALWAYS = tuple(key for key in LEADING if key != "train.max_seq_len")
"""Hyperparameters that the table of runs shows even if they do not vary."""
_SHORT = {"train.global_batch_size": "Batch", "train.epochs": "Epochs"}


def _hyperparameters(report: Report) -> dict[str, RunSetting | None]:
    """Return the settings that are columns: the most important ones, and the factors of the design.

    A level that is not a setting of the experiment, such as a stage, is shown unchanged. The seed has a column of its
    own.
    """
    known = {each.key: each for each in report.settings}
    varied = [key for key, levels in report.factors.items() if len(levels) > 1 and key not in ("models", SEEDS)]
    keys = [key for key in _ALWAYS if key in known or key in report.factors]
    return {key: known.get(key) for key in dict.fromkeys((*keys, *varied))}


def _setting(run: RunResult, key: str, setting: RunSetting | None) -> Cell:
    """Return a run's value of a setting; a dash if a run that trains nothing does not have it."""
    text = level_of(run, key)
    if setting is not None and is_asked_about(run):
        text = setting_cell(setting, run.name)
    if text is None or text == "-":
        return plain("–", "")
    try:
        return plain(text, float(text))
    except ValueError:
        return plain(text)


def _short_name(key: str) -> str:
    return _SHORT.get(key) or factor_words(key).capitalize()


def _is_numeric(rows: Sequence[TableRow], index: int) -> bool:
    return all(isinstance(row.cells[index].sort, float) or row.cells[index].sort == "" for row in rows)


def _status(run: RunResult) -> Cell:
    kind = "" if run.status in _GOOD else "bad" if run.status in _BAD else "warn"
    tries = count(run.attempts, "attempt")
    done = (
        f", {run.steps_done:,} of {run.steps_planned:,} steps"
        if run.steps_done is not None and run.steps_planned
        else ""
    )
    return Cell(text=run.status.value, kind=kind, title="; ".join((tries + done, *map(str, run.notes))))


def _score_cell(score: RunScore | None, scale: Scale, notes: Notes) -> Cell:
    if score is None:
        return notes.missing("not evaluated")
    told = (
        score.method
        if score.proportion is None
        else (f"{score.proportion.k:,} of {score.proportion.n:,} items; interval: {score.method}")
    )
    if score.saturated:
        told += "; near the top of the scale: a better run could hardly show it"
    ends = "–".join(scale.bounds(score.low, score.high))
    return Cell(text=scale.value(score.value), sort=score.value, title=told, below=f"[{ends}]")


def _difference_cells(each: Comparison | None, facts: RunFacts, scale: Scale, notes: Notes) -> tuple[Cell, Cell]:
    if each is None:
        empty = plain("–", "") if facts.control is None else notes.missing("not compared with its control")
        return empty, empty
    found = each.difference
    ends = f"{scale.change(found.low)}, {scale.change(found.high)}"
    text = scale.change(found.value)
    told = f"against {found.control}: {found.gained:,} items gained, {found.lost:,} lost; {each.shown.words}"
    established = each.shown in (Conclusion.HIGHER, Conclusion.LOWER)
    p_value = p_number(found.p_adjusted)
    return (
        Cell(text=text, sort=found.value, title=told, kind="" if established else "quiet", below=f"[{ends}]"),
        Cell(text=p_value, sort=found.p_adjusted, title=f"before Holm: {p_text(found.p_value)}"),
    )


def all_checkpoints(report: Report) -> tuple[VerifiedCheckpoint | MissingCheckpoint, ...]:
    """Return the verified checkpoints, then the missing ones."""
    return (*report.verification.checkpoints, *report.verification.missing)


def _by_run(report: Report) -> dict[str, list[VerifiedCheckpoint | MissingCheckpoint]]:
    made: dict[str, list[VerifiedCheckpoint | MissingCheckpoint]] = {}
    for each in all_checkpoints(report):
        made.setdefault(each.run, []).append(each)
    return made


def _checkpoint_cell(own: Sequence[VerifiedCheckpoint | MissingCheckpoint]) -> Cell:
    if not own:
        return plain("–", -1)
    marks = [_mark(each) for each in own]
    kind = "bad" if "✗" in marks or "!" in marks else "good" if set(marks) == {"✓"} else ""
    told = "; ".join(f"{each.name}: {checkpoint_words(each)}" for each in own)
    many = len(marks) > 8
    text = f"{marks.count('✓')} of {len(marks)} ✓" if many else " ".join(marks)
    return Cell(text=text, sort=marks.count("✓"), title=told, kind=kind)


def _mark(each: VerifiedCheckpoint | MissingCheckpoint) -> str:
    if isinstance(each, MissingCheckpoint):
        return _MARKS["planned" if each.expected else "missing"]
    return _MARKS["sound" if each.sound else "broken"]


def checkpoint_words(each: VerifiedCheckpoint | MissingCheckpoint) -> str:
    """Return the status of a checkpoint, such as `truncated: ...` or `missing (disk quota)`."""
    if isinstance(each, MissingCheckpoint):
        return f"{'not there' if each.expected else 'missing'} ({each.reason})"
    return "sound" if each.sound else "; ".join(f"{fault.code}: {fault.message}" for fault in each.faults)
