"""Results of an experiment as a table, as rows, and as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from touchline.core.notebook import data_frame
from touchline.core.quantity import Measured, Missing, Quantity, number_of
from touchline.core.table import Column, Section, Table, Value, present, table_of
from touchline.core.text import first_of
from touchline.core.units import Scale, in_unit, plural
from touchline.results.run_result import RunResult

if TYPE_CHECKING:
    import pandas

Cell = str | int | float | None
_SHOWN = 4


class Results(list[RunResult]):
    """Results of every run of an experiment, in the plan's order."""

    answer: tuple[str, ...] = ()
    """Answer of the report with its numbers, where a command wrote one."""

    def to_rows(self) -> list[dict[str, Cell]]:
        """Return one row per run: identity, levels of the factors, score with its interval, losses, time, memory.

        Test sets with names have columns of their own, `score[9L]`, `score_low[9L]`, `score_high[9L]`. Levels are
        numbers where they read as such. Seconds, GiB and tokens/s stand in the names of the columns. None stands for
        what was not measured; `RunResult` has the reason.
        """
        factors = list(dict.fromkeys(level.factor for run in self for level in run.levels))
        return [_row(run, factors) for run in self]

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows of `to_rows` as a DataFrame, indexed by run.

        Raises:
            HostError: pandas is not installed.
        """
        return data_frame(self.to_rows(), index="run")

    def to_table(self) -> Table | None:
        """Return the table that commands and notebooks show; None without runs."""
        metric = next((run.metric for run in self if run.metric is not None), "score")
        means = {run.final_train_loss.method for run in self if isinstance(run.final_train_loss, Quantity)}
        loss = f"train loss ({means.pop()})" if len(means) == 1 and None not in means else "train loss"
        columns = ("run", "status", f"{metric} (95%)", "val loss", "training", Column(loss, is_wide=True))
        rows: list[tuple[Value, ...]] = []
        scale = self._scale()
        for run in self:
            right = run.exact_match if run.metric == "exact match" else None
            score = scale.quantity(run.score, "" if right is None else f"{right.k}/{right.n}")
            trained = (run.final_val_loss, run.train_seconds, run.final_train_loss)
            shown = trained if run.steps_planned is not None else (None, None, None)
            rows.append((run.name, status_words(run), score, *shown))
        return table_of(columns, rows)

    def _scale(self) -> Scale:
        # Who only counts or filters results does not wait for numpy.
        from touchline.results.scored import scale_of_runs

        return scale_of_runs(self)

    def __repr__(self) -> str:
        scale = self._scale()
        scores = (
            run.name if isinstance(run.score, Missing) else f"{run.name} {scale.value(run.score.value)}" for run in self
        )
        return f"<results of {plural(len(self), 'run')}: {first_of(scores, _SHOWN)}>"

    def _repr_html_(self) -> str:
        from touchline.core.notebook import notebook_html

        tables = present(self.to_table())
        return notebook_html(f"Results of {plural(len(self), 'run')}", [Section(title="", tables=tables)])


def status_words(run: RunResult) -> str:
    """Return a run's status, `cut after step 40` if its strategy cut it."""
    return run.status.value if run.cut_after_step is None else f"cut after step {run.cut_after_step:,}"


def _row(run: RunResult, factors: Iterable[str]) -> dict[str, Cell]:
    levels = {level.factor: level.value for level in run.levels}
    low, high = (None, None) if isinstance(run.score, Missing) else (run.score.low, run.score.high)
    return {
        "run": run.name,
        "kind": run.kind.value,
        "model": run.model,
        "seed": run.seed,
        **{factor: _typed(levels[factor]) if factor in levels else None for factor in factors},
        "phase": None if run.phase is None else run.phase.value,
        "cut_after_step": run.cut_after_step,
        "status": run.status.value,
        "metric": run.metric,
        "score": number_of(run.score),
        "score_low": low,
        "score_high": high,
        **{key: value for name, score in run.set_scores.items() for key, value in _on_set(name, score)},
        "train_loss": number_of(run.final_train_loss),
        "validation_loss": number_of(run.final_val_loss),
        "train_seconds": number_of(run.train_seconds),
        "evaluate_seconds": number_of(run.evaluate_seconds),
        "tokens_per_second": number_of(run.tokens_per_second),
        "peak_memory_gib": number_of(in_unit(run.peak_memory, "GiB")),
        "steps": run.steps_done,
    }


def _on_set(name: str, score: Measured) -> Iterator[tuple[str, float | None]]:
    low, high = (None, None) if isinstance(score, Missing) else (score.low, score.high)
    yield from ((f"score[{name}]", number_of(score)), (f"score_low[{name}]", low), (f"score_high[{name}]", high))


def _typed(level: str) -> Cell:
    """Return a level as a number where it reads as one."""
    for kind in (int, float):
        try:
            return kind(level)
        except ValueError:
            continue
    return level
