"""Tables of all runs: settings, status, score and losses; the settings themselves."""

from __future__ import annotations

from collections.abc import Mapping

from touchline.core.levels import SEEDS, factor_words
from touchline.core.quantity import Missing
from touchline.core.table import Cell, Column, Section, Table, Value, present, table_of
from touchline.core.units import Scale
from touchline.experiment.runs import Phase, RunKind
from touchline.experiment.settings import LEADING
from touchline.plan.settings import RunSetting, leading_text, setting_cell, settings_table, varying_table
from touchline.report.facts import generalization_gap, is_asked_about, seeds_of
from touchline.report.formatting import level_of, scale_of
from touchline.report.report import Report
from touchline.report.tables.conditions import difference_cell, difference_column, p_cell, score_cell, status_cell
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Comparison, RunScore

_ALWAYS = tuple(key for key in LEADING if key != "train.max_seq_len")
"""Hyperparameters that the table of runs shows even if they do not vary."""
_SHORT = {"train.global_batch_size": "batch", "train.epochs": "epochs"}


def runs_table(report: Report) -> Table | None:
    """Return a row for every run: hyperparameters, status, score, difference from its control, losses."""
    analysis = report.analyses[0] if report.analyses else None
    scores = {} if analysis is None else {score.run: score for score in analysis.scores}
    compared = {} if analysis is None else {comparison.run: comparison for comparison in analysis.comparisons}
    scale = Scale(share=True) if analysis is None else scale_of(analysis)
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
            Column(_short_name(key), key=key, numeric=_is_numeric(rows, place), note=key)
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


def _short_name(key: str) -> str:
    return _SHORT.get(key) or factor_words(key)


def _seed(run: RunResult, seeds: Mapping[str, int]) -> Value:
    """Return a training's seed. Missing if no file contains it."""
    if run.kind is not RunKind.FINE_TUNED:
        return None
    seed = seeds.get(run.name)
    return Missing(missing="not reported") if seed is None else Cell(str(seed), seed)


def _phase(report: Report, run: RunResult) -> Value:
    """Return the phase of a run, and whether explore chose it."""
    if run.phase is None or report.strategy is None:
        return None
    if run.name in (report.strategy.chosen or ()):
        return Cell(f"{run.phase.value}, chosen", note="chosen by validation loss")
    return run.phase.value


def _score(run: RunResult, score: RunScore | None, scale: Scale) -> Value:
    """Return a run's score; of a cut run the reason why it has none."""
    return run.score if run.cut_after_step is not None and score is None else score_cell(score, scale)


def _compared(
    each: Comparison | None, control: str | None, scale: Scale, *, is_explored: bool = False
) -> tuple[Value, Value]:
    if each is None:
        empty = None if control is None or is_explored else Missing(missing="not compared with its control")
        return empty, empty
    return difference_cell(each, scale), p_cell(each)
