"""Comparison of experiments: runs are matched by condition and seed, scores are paired on the same items.

The first experiment is the reference. A condition is identified by the settings that vary within an experiment and have
values that the experiments share. Runs of one experiment with the same condition cannot be matched. Prompt and decoding
may differ, since an experiment may be about them; the row then says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from numpy.random import PCG64, Generator

from touchline.core.levels import level_words
from touchline.core.quantity import Measured, Missing, Quantity, finite
from touchline.core.status import RunStatus
from touchline.core.table import Cell, Column, Section, Table, Value, present, table_of
from touchline.core.text import join_names
from touchline.core.units import Scale, between, plural
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.compared_settings import (
    DEVICE,
    MODEL,
    SEED,
    ExperimentSummary,
    SettingRow,
    matching_keys,
    setting_rows,
)
from touchline.report.facts import p_number, scale_of
from touchline.results.run_result import RunResult
from touchline.results.scored import in_order
from touchline.statistics.analysis import TaskScores, analyse_together
from touchline.statistics.conclusions import Analysis, Comparison, ScoredRun

_VALUES = 6  # Values of a setting that are shown of one experiment
_NOTE = (
    "Differences are those of two checkpoints on the same items, p values adjusted over the rows of one task and one "
    "experiment. Whether a setting does better takes training seeds within one experiment."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSide:
    """Summary of one experiment."""

    label: str
    """Label of the experiment."""
    root: str
    """Folder, as the user gave it."""
    origin: str
    """Tool that made the experiment."""
    date: str
    """ISO date; empty when unknown."""
    runs: int
    """Number of runs, controls included."""
    evaluated: int
    """Number of runs with an evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRun:
    """Run of one experiment on one task, and its difference from the matching run of the first experiment."""

    condition: str
    """Condition and seed as text: `SmolLM2-135M-Instruct, rank 64, seed 1`."""
    experiment: str
    """Label of the experiment."""
    run: str
    """Name of the run."""
    status: RunStatus
    """Status of the run."""
    task: str | None
    """Task of the last evaluated checkpoint; None if nothing was evaluated."""
    score: str | None
    """Score of the task."""
    value: Measured
    """Mean score on the task, with its interval."""
    is_share: bool = True
    """Whether the score is a share of right answers."""
    final_val_loss: Measured
    """Last validation loss. Losses are comparable only with the same prompts and data."""
    train_seconds: Measured
    """Wall-clock time of the training steps."""
    peak_memory: Measured
    """Peak memory, with its kind."""
    reference_run: str | None = None
    """Matching run of the first experiment; None of its own runs, and where nothing or several runs match."""
    comparison: Comparison | None = None
    """Difference from it on the same items; None if the two are not compared."""
    not_compared: str = ""
    """Reason why they are not compared."""
    evaluation_differs_in: tuple[str, ...] = ()
    """Prompt and decoding settings that differ and may explain the difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedExperiments:
    """Comparison of all experiments."""

    schema_version: int = 2
    """Version of this format."""
    experiments: tuple[ComparedSide, ...]
    """Experiments; the first is the reference."""
    settings: tuple[SettingRow, ...]
    """Settings that differ, by key."""
    same_settings: int
    """Number of settings that are the same in all experiments that report them."""
    runs: tuple[ComparedRun, ...]
    """Runs by condition, and by task where a run has several."""
    notes: tuple[str, ...]
    """Limitations of the comparison."""

    def sections(self) -> tuple[Section, ...]:
        """Return the experiments, the settings that differ, and the scores."""
        sides = [
            (each.label, each.root, each.runs, each.evaluated, each.date, each.origin) for each in self.experiments
        ]
        numbers = (Column("runs", numeric=True), Column("evaluated", numeric=True))
        words = "settings are the same" if self.settings else "settings are all the same"
        settings = [
            (row.key, *("n/a (not reported)" if each is None else _several(each) for each in row.values))
            for row in self.settings
        ]
        labels = [side.label for side in self.experiments]
        return (
            Section(
                title="Experiments",
                tables=present(table_of(("experiment", "folder", *numbers, "date", "origin"), sides)),
            ),
            Section(
                title="Settings that differ",
                tables=present(table_of(("setting", *labels), settings)),
                lines=(f"{self.same_settings} {words}.",),
            ),
            Section(title=f"Scores, and differences from {labels[0]}", tables=present(_scores(self.runs))),
        )

    def __repr__(self) -> str:
        first, *others = (side.label for side in self.experiments)
        pairs = sum(run.comparison is not None for run in self.runs)
        return f"<comparison with {first!r} of {', '.join(map(repr, others))}: {plural(pairs, 'paired run')}>"

    def _repr_html_(self) -> str:
        from touchline.core.notebook import notebook_html

        return notebook_html("Comparison", (*self.sections(), Section(title="Notes", lines=self.notes)))


def _several(values: Sequence[str]) -> str:
    more = f" and {len(values) - _VALUES} more" if len(values) > _VALUES else ""
    return " | ".join(values[:_VALUES]) + more


def _scores(runs: Sequence[ComparedRun]) -> Table | None:
    """Return a row per run and task; the condition is shown once, without what all conditions share."""
    parts = {run.condition: run.condition.replace(": ", ", ").split(", ") for run in runs}
    shared = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    tasks = list(dict.fromkeys(run.task for run in runs if run.task is not None))
    unit = " (points)" if any(run.is_share for run in runs) else ""
    columns: tuple[Column | str, ...] = (
        *("condition", "experiment", *(["task"] if len(tasks) > 1 else [])),
        *(Column(label, numeric=True) for label in (_score_label(runs), f"difference{unit}", "p (Holm)")),
        "conclusion",
        *(Column(label, numeric=True, is_wide=True) for label in ("validation loss", "training", "memory")),
        Column("run", is_wide=True),
    )
    rows: list[tuple[Value, ...]] = []
    for number, run in enumerate(runs):
        scale = Scale(share=run.is_share)
        difference: Value = None
        p: Value = None
        words = run.not_compared
        if run.comparison is not None:
            each = run.comparison.difference
            difference = Cell(
                scale.change(each.value), each.value, interval=between(each.low, each.high, scale.change).strip()
            )
            p = Cell(p_number(each.p_adjusted), each.p_adjusted)
            words = f"{run.comparison.shown.words} (+{each.gained:,} −{each.lost:,})"
        is_new = number == 0 or runs[number - 1].condition != run.condition
        condition = ", ".join(part for part in parts[run.condition] if part not in shared) if is_new else ""
        rows.append(
            (
                *(Cell(condition), run.experiment, *([run.task] if len(tasks) > 1 else []), scale.quantity(run.value)),
                *(difference, p, words, run.final_val_loss, run.train_seconds, run.peak_memory, run.run),
            )
        )
    return table_of(columns, rows, notes=(_NOTE,))


def _score_label(runs: Sequence[ComparedRun]) -> str:
    scores = dict.fromkeys(run.score for run in runs if run.score is not None)
    return f"{next(iter(scores))} (95%)" if len(scores) == 1 else "score (95%)"


Condition = tuple[tuple[str, str], ...]
"""Identity of a condition: (key, value) pairs, the purpose of a control first."""
Task = tuple[str, str]  # Task and one of its scores
_KIND = "kind"
_KINDS = {"base": "control", "noop": "no-op control", "shuffled": "shuffled labels"}
_DRAWS = 7  # Seed of the bootstrap, so that the same results give the same comparison
_ASKED = ("task", "data.input", "data.output", "data.messages", "data.prompt", "data.system", "evaluate.")
"""Prefixes of keys that determine the prompts and the decoding."""
_VALIDATED = frozenset({"validation split (sha256)", "data.prompt", "data.system", "data.input", "data.output"})
"""Settings, besides the model, that determine a loss on the validation split."""


def compare(sides: Sequence[ExperimentSummary]) -> ComparedExperiments:
    """Compare experiments with the first of them."""
    keys = matching_keys(sides)
    settings, same = setting_rows(sides)
    rows: list[ComparedRun] = []
    pairs: dict[int, tuple[ExperimentSummary, RunResult, RunResult]] = {}
    for key, by_side in _conditions(sides, keys).items():
        references = by_side[0]
        for side, own in zip(sides, by_side, strict=True):
            is_matched = side is not sides[0] and bool(references)
            is_pair = is_matched and len(own) == len(references) == 1
            reason = f"{len(references)} of {sides[0].label} and {len(own)} of {side.label} are of this condition"
            for row in (row for run in own for row in _rows(_words(key), side, run)):
                if is_pair:
                    pairs[len(rows)] = (side, own[0], references[0])
                reference = references[0].name if is_pair else None
                why = reason if is_matched and not is_pair else ""
                rows.append(replace(row, reference_run=reference, not_compared=why))
    _pair(sides[0], rows, pairs)
    return ComparedExperiments(
        experiments=tuple(
            ComparedSide(
                label=side.label,
                root=side.root,
                origin=side.origin,
                date=side.date,
                runs=len(side.runs),
                evaluated=sum(bool(_last_evaluations(run)) for run in side.runs),
            )
            for side in sides
        ),
        settings=tuple(settings),
        same_settings=same,
        runs=tuple(rows),
        notes=tuple(_notes(sides, settings, rows)),
    )


def _conditions(sides: Sequence[ExperimentSummary], keys: Sequence[str]) -> dict[Condition, list[list[RunResult]]]:
    """Return the runs by condition, for each experiment, in the order of the first experiment that has them."""
    found: dict[Condition, list[list[RunResult]]] = {}
    for number, side in enumerate(sides):
        for run in side.runs:
            settings = side.settings.get(run.name, {})
            # A control has no training. Only its model, its data and its purpose identify it.
            is_control = run.kind is RunKind.CONTROL
            asked = [key for key in keys if not (is_control and key.startswith(("train.", SEED)))]
            kind = ((_KIND, (run.control or ControlKind.BASE).value),) if is_control or run.control is not None else ()
            key = (*kind, *((each, settings[each]) for each in asked if each in settings))
            found.setdefault(key, [[] for _ in sides])[number].append(run)
    return found


def _words(key: Condition) -> str:
    kind = "".join(f"{_KINDS[value]}: " for each, value in key if each == _KIND)
    return kind + ", ".join(
        value if each == MODEL else f"seed {value}" if each == SEED else level_words(each, value)
        for each, value in key
        if each != _KIND
    )


def _rows(condition: str, side: ExperimentSummary, run: RunResult) -> Iterator[ComparedRun]:
    """Yield a row per task of a run; one without a score if nothing was evaluated."""
    row = ComparedRun(
        condition=condition,
        experiment=side.label,
        run=run.name,
        status=run.status,
        task=None,
        score=None,
        value=Missing(missing="not evaluated"),
        final_val_loss=finite(run.final_val_loss),
        train_seconds=finite(run.train_seconds),
        peak_memory=finite(run.peak_memory),
    )
    records = _last_evaluations(run)
    for task, record in records.items():
        analysis = _analysed([_scored(run, record, side.label, "", is_reference=False)], task)
        (own,) = analysis.scores
        value = Quantity(
            value=own.value, unit="1", low=own.low, high=own.high, coverage=own.coverage, method=own.method
        )
        yield replace(row, task=task[0], score=task[1], value=value, is_share=scale_of(analysis).share)
    if not records:
        yield row


def _pair(
    first: ExperimentSummary,
    rows: list[ComparedRun],
    pairs: Mapping[int, tuple[ExperimentSummary, RunResult, RunResult]],
) -> None:
    """Put the difference of every pair into its row, or the reason why there is none. A task is one family."""
    families: dict[tuple[str, Task], list[int]] = {}
    for place, (side, run, reference) in pairs.items():
        row = rows[place]
        own, other = _last_evaluations(run), _last_evaluations(reference)
        task = (row.task or "", row.score or "")
        if row.task is None or not other:
            why = f"{reference.name if own else run.name} is not evaluated"
            why = why if own or other else "neither run is evaluated"
        elif task not in other:
            why = f"{first.label} has no {task[1]} of {task[0]}"
        else:
            why = _why_not(side.label, own[task], first.label, other[task]) or ""
        if why:
            rows[place] = replace(row, not_compared=why)
        else:
            families.setdefault((side.label, task), []).append(place)
    for (_, task), places in families.items():
        scored: list[ScoredRun] = []
        for place in places:
            side, run, reference = pairs[place]
            for each, label, is_reference in ((run, side.label, False), (reference, first.label, True)):
                record = _last_evaluations(each)[task]
                scored.append(_scored(each, record, label, str(place), is_reference=is_reference))
        for place, comparison in zip(places, _analysed(scored, task).comparisons, strict=True):
            rows[place] = replace(
                rows[place], comparison=comparison, evaluation_differs_in=_differs_in(first, *pairs[place], task)
            )


def _analysed(runs: Sequence[ScoredRun], task: Task) -> Analysis:
    return analyse_together([TaskScores(task=task[0], score=task[1], runs=runs, rng=Generator(PCG64(_DRAWS)))], {})[0]


def _scored(result: RunResult, record: EvaluationRecord, label: str, pair: str, *, is_reference: bool) -> ScoredRun:
    """Return a run as input of the statistics. Both runs of a pair share a "base model" of their own, so they match."""
    items: dict[str, list[SampleScore]] = {}
    for sample in record.samples:
        items.setdefault(sample.id, []).append(sample)
    return ScoredRun(
        name=f"{label}/{result.name}",
        model=pair,
        dataset=pair,
        is_control=is_reference,
        in_family=not is_reference,
        levels=(),
        seed=result.seed,
        checkpoint=record.checkpoint,
        comparable=record.data_sha256,
        items=tuple(items),
        scores=tuple(sum(sample.score for sample in each) / len(each) for each in items.values()),
    )


def _why_not(label: str, own: EvaluationRecord, first: str, other: EvaluationRecord) -> str | None:
    if own.data_sha256 != other.data_sha256:
        return f"the items differ: {label} and {first} were scored on different test splits"
    mine, yours = ({sample.id: sample.target for sample in each.samples} for each in (own, other))
    if list(mine) != list(yours):
        shared = len(mine.keys() & yours.keys())
        return (
            f"the items differ: {len(mine):,} in {label}, {len(yours):,} in {first}, {shared:,} of them in both; "
            f"evaluate both with the same evaluate.samples"
        )
    return "the items differ: the same names have other answers" if mine != yours else None


def _differs_in(
    first: ExperimentSummary, side: ExperimentSummary, run: RunResult, reference: RunResult, task: Task
) -> tuple[str, ...]:
    """Return the evaluation settings that differ. A hash detects a difference, the settings identify it."""
    own, other = _last_evaluations(run)[task], _last_evaluations(reference)[task]
    if own.settings_sha256 == other.settings_sha256:
        return ()
    mine, yours = side.settings.get(run.name, {}), first.settings.get(reference.name, {})
    known = [key for key in mine.keys() & yours.keys() if key.startswith(_ASKED) and mine[key] != yours[key]]
    if known:
        return tuple(sorted(known))
    # Chat templates may print the date of the plan.
    return ("date",) if mine.get("date") != yours.get("date") else ("something that is not recorded",)


def _last_evaluations(run: RunResult) -> dict[Task, EvaluationRecord]:
    """Return the last checkpoint's evaluation for each task and score, the experiment's own task first."""
    # The own task goes by its name alone: test sets that the claims are made on are compared, whatever they are called.
    return {
        (each.task if is_own else each.label, each.score): each
        for is_own, records in ((True, run.evaluations), (False, run.other_evaluations))
        for each in sorted(records, key=lambda each: in_order(each.checkpoint))
        if each.samples
    }


def _notes(
    sides: Sequence[ExperimentSummary], settings: Sequence[SettingRow], rows: Sequence[ComparedRun]
) -> Iterator[str]:
    for side in sides:
        yield from (f"{side.label}: {each}" for each in side.unread)
        if side.left_out:
            yield f"{side.label}: cut by its strategy and not compared: {join_names(side.left_out)}"
        if any(run.phase is not None for run in side.runs):
            yield f"{side.label}: a strategy decided which runs were made; its own report has the looks"
    first = sides[0].label
    for side in sides[1:]:
        own = [row for row in rows if row.experiment == side.label]
        if not any(row.reference_run for row in own):
            yield f"no run of {side.label} is of the same condition as one of {first}"
        if keys := dict.fromkeys(key for row in own for key in row.evaluation_differs_in):
            both = f"{side.label} and {first} were not evaluated alike"
            yield f"{both}, so differences are also those of: {', '.join(keys)}"
    differing = {row.key for row in settings}
    if _VALIDATED & differing:
        what = join_names(sorted(_VALIDATED & differing))
        yield f"validation losses do not compare, since something else was validated: {what}"
    if DEVICE in differing:
        yield "durations, rates and memory are of different devices"
