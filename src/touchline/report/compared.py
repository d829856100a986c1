"""Comparison of several experiments: one table of differing settings, one of scores on the same items.

The first experiment is the reference. Runs are matched by condition and seed, never by name alone. Scores are compared
if both runs answered the same items. Otherwise the row has the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchline.core.quantity import Measured
from touchline.core.status import RunStatus
from touchline.core.table import Cell, Column, Section, Table, Value, present, table_of
from touchline.core.units import Scale, between, plural
from touchline.report.formatting import p_number
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Comparison

_VALUES = 6
"""Values of a setting that are shown of one experiment."""
_NOTE = (
    "Differences are those of two checkpoints on the same items, p values adjusted over the rows of one task and one "
    "experiment. Whether a setting does better takes training seeds within one experiment."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentSummary:
    """Experiment, as input of a comparison."""

    label: str
    """Label of the experiment; unique among those compared."""
    root: str
    """Folder, as the user gave it."""
    origin: str
    """`planned by touchline 0.1.0`, or `found: run folders that touchline did not make`."""
    date: str
    """ISO date of the plan, or of the first log; empty when unknown."""
    runs: tuple[RunResult, ...]
    """Results, in the plan's order."""
    settings: dict[str, dict[str, str]]
    """Resolved settings by run, as text by dotted key."""
    unread: tuple[str, ...] = ()
    """Descriptions of inputs that could not be read."""
    left_out: tuple[str, ...] = ()
    """Runs that a strategy cut: they have no final result to compare."""


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
class SettingRow:
    """Setting that differs between experiments."""

    key: str
    """Dotted key of experiment.yaml, or another property: `versions.torch`, `device`, `test split`."""
    values: tuple[tuple[str, ...] | None, ...]
    """Values among the runs, by experiment; None if unknown."""


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
