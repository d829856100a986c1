"""The table of all runs, and the figures at the head of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from touchline.domain.analysis import Analysis, Comparison, RunScore, Shown
from touchline.domain.quantity import Missing
from touchline.domain.report import Report, RunFacts, Weight
from touchline.domain.results import RunResult
from touchline.domain.status import RunStatus
from touchline.domain.verification import MissingCheckpoint, VerifiedCheckpoint
from touchline.report.facts import is_asked_about, seeds_of
from touchline.report.inks import Ink
from touchline.report.page.cells import Cell, Column, Notes, PageTable, TableRow, plain, table_of
from touchline.report.words import Scale, count, factor_words, is_at_least, level_of, p_text, scale_of

_GOOD = (RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT)
_BAD = (RunStatus.FAILED, RunStatus.INTERRUPTED)
_MARKS = {"sound": "✓", "broken": "✗", "missing": "!", "planned": "·"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A figure at the head of the page."""

    value: str
    """The figure."""
    label: str
    """What it is."""
    kind: str = ""
    """`bad` or `warn` where it must be heeded."""
    run: str | None = None
    """The run that it is about."""


def cards(report: Report) -> tuple[Card, ...]:
    """How many runs are complete, the highest score, its difference to its control, the cost, the warnings."""
    made = [Card(value=f"{report.completed:,}/{len(report.runs):,}", label="runs complete")]
    if report.analyses:
        made += _score_cards(report, report.analyses[0])
    hours = report.device_hours
    if not isinstance(hours, Missing):
        planned = report.device_hours_planned
        said = "" if isinstance(planned, Missing) else f" (planned {planned.value:.3g})"
        made.append(Card(value=f"{'≥ ' if is_at_least(hours) else ''}{hours.value:.3g}", label=f"device-hours{said}"))
    for weight, noun, kind in ((Weight.ERROR, "error", "bad"), (Weight.WARNING, "warning", "warn")):
        number = sum(issue.weight is weight for issue in report.issues)
        if number:
            made.append(Card(value=f"{number:,}", label=noun if number == 1 else f"{noun}s", kind=kind))
    return tuple(made)


def _seed(run: RunResult, seeds: Mapping[str, int]) -> Cell:
    """A training's seed; of one that no file tells, nothing."""
    if not is_asked_about(run):
        return plain("–", -1)
    seed = seeds.get(run.name)
    return Cell(text="n/a", sort=-1, title="not told") if seed is None else plain(str(seed), seed)


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


def runs_table(report: Report, inks: Mapping[str, Ink]) -> PageTable | None:
    """Every run: settings, scores, losses, cost, checkpoints. Columns that no run has are left out."""
    analysis = report.analyses[0] if report.analyses else None
    scores = {} if analysis is None else {score.run: score for score in analysis.scores}
    compared = {} if analysis is None else {each.run: each for each in analysis.comparisons}
    scale = Scale(share=True) if analysis is None else scale_of(analysis)
    factors = [factor for factor in report.factors if factor != "models"]
    checkpoints = _by_run(report)
    seeds = seeds_of(report.metrics)
    notes = Notes()
    rows = [
        TableRow(
            run=run.name,
            cells=(
                Cell(text=run.name, ink=inks[run.name].number, title="; ".join((facts.settings, *facts.notes))),
                plain(run.model),
                *(_level(run, factor) for factor in factors),
                _seed(run, seeds),
                _status(run),
                *_score_cells(scores.get(run.name), scale, notes),
                *_difference_cells(compared.get(run.name), facts, scale, notes),
                notes.measured(run.final_train_loss, unit=False, digits=3),
                notes.measured(run.final_val_loss, unit=False, digits=3),
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
        Column(label="Model"),
        *(
            Column(label=factor_words(factor).capitalize(), numeric=_numbers(report.factors[factor]), title=factor)
            for factor in factors
        ),
        Column(label="Seed", numeric=True),
        Column(label="Status"),
        Column(label=analysis.score.capitalize() if analysis is not None else "Score", numeric=True),
        Column(label="Interval", numeric=True, title="95 % interval of the score"),
        Column(
            label=f"Δ control{' (pp)' if scale.share else ''}",
            numeric=True,
            title="Difference to the control on the same items, with its interval",
        ),
        Column(label="p (Holm)", numeric=True, title="Exact McNemar test, adjusted over the family"),
        Column(label="Train loss", numeric=True, title="Nats per target token, over the last steps"),
        Column(label="Val. loss", numeric=True, title="Nats per target token, the last one"),
        Column(label="Device-h", numeric=True),
        Column(label="Rate", numeric=True, title="Tokens a second and device"),
        Column(label="Peak memory", numeric=True),
        Column(label="Checkpoints"),
        Column(label="Adapter", numeric=True),
    )
    return table_of(columns, rows, notes, limit=None)


def _level(run: RunResult, factor: str) -> Cell:
    value = level_of(run, factor)
    if value is None:
        return plain("–", "")
    try:
        return plain(value, float(value))
    except ValueError:
        return plain(value)


def _numbers(levels: Sequence[str]) -> bool:
    try:
        return all(float(level) is not None for level in levels)
    except ValueError:
        return False


def _status(run: RunResult) -> Cell:
    kind = "" if run.status in _GOOD else "bad" if run.status in _BAD else "warn"
    tries = count(run.attempts, "attempt")
    done = (
        f", {run.steps_done:,} of {run.steps_planned:,} steps"
        if run.steps_done is not None and run.steps_planned
        else ""
    )
    return Cell(text=run.status.value, kind=kind, title="; ".join((tries + done, *run.notes)))


def _score_cells(score: RunScore | None, scale: Scale, notes: Notes) -> tuple[Cell, Cell]:
    if score is None:
        missing = notes.missing("not evaluated")
        return missing, missing
    told = "" if score.proportion is None else f"{score.proportion.k:,} of {score.proportion.n:,} items"
    if score.saturated:
        told += "; near the top of the scale: a better run could hardly show it"
    value = Cell(text=scale.value(score.value), sort=score.value, title=told)
    return value, Cell(
        text=scale.span(score.low, score.high).removesuffix(" %").replace(" to ", "–"),
        sort=score.low,
        title=score.method,
        kind="quiet",
    )


def _difference_cells(each: Comparison | None, facts: RunFacts, scale: Scale, notes: Notes) -> tuple[Cell, Cell]:
    if each is None:
        empty = plain("–", "") if facts.control is None else notes.missing("not compared with its control")
        return empty, empty
    found = each.difference
    ends = scale.ends(found.low, found.high).replace(" to ", ", ")
    text = f"{scale.difference(found.value).removesuffix(' points')} [{ends}]"
    told = f"against {found.control}: {found.gained:,} items gained, {found.lost:,} lost; {each.shown.value}"
    established = each.shown in (Shown.HIGHER, Shown.LOWER)
    p_value = p_text(found.p_adjusted).removeprefix("p ").removeprefix("= ").replace("< ", "<")
    return (
        Cell(text=text, sort=found.value, title=told, kind="" if established else "quiet"),
        Cell(text=p_value, sort=found.p_adjusted, title=f"before Holm: {p_text(found.p_value)}"),
    )


def all_checkpoints(report: Report) -> tuple[VerifiedCheckpoint | MissingCheckpoint, ...]:
    """Those that were verified, then those that are not there."""
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
    """`sound`, `truncated: ...`, `missing (disk quota)`."""
    if isinstance(each, MissingCheckpoint):
        return f"{'not there' if each.expected else 'missing'} ({each.reason})"
    return "sound" if each.sound else "; ".join(f"{fault.code}: {fault.message}" for fault in each.faults)
