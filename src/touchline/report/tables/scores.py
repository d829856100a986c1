"""Tables of scores: by analysis, checkpoint, seed, label, metric and decoding; answers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from touchline.core.levels import factor_words, level_words
from touchline.core.quantity import Missing
from touchline.core.table import Cell, Column, Mark, Section, Table, Value, present, table_of
from touchline.core.text import join_names
from touchline.core.units import Scale, percent, plural
from touchline.data.scores import EvaluationRecord
from touchline.report.facts import AnswerCounts, family_words, p_number, scale_of
from touchline.report.report import Report
from touchline.report.tables import table_from
from touchline.report.tables.conditions import conditions_table
from touchline.results.run_result import RunResult
from touchline.results.set_matrix import set_tables
from touchline.statistics.conclusions import Analysis, Contrast, Interaction
from touchline.statistics.labels import LabelReport

_LABELED_RUNS = 60
_RUN = Column("run", code=True)


def scores_section(report: Report) -> Section:
    """Return the scores of every analysis with what they are computed from."""
    missing = "Nothing has been evaluated yet."
    by_analysis = [conditions_table(report, analysis) for analysis in report.analyses]
    return Section(
        title="Scores",
        paragraphs=() if report.analyses else (missing,),
        tables=present(
            *by_analysis[:1],
            *set_tables(report.runs, report.test_sets),
            _by_checkpoint(report.runs) if report.analyses else None,
            *by_analysis[1:],
            *seed_test_tables(report),
            *label_tables(report.runs, _LABELED_RUNS),
            _metrics(report.runs),
            _answers(report.answers),
        ),
        figures=("findings",),
    )


def _by_checkpoint(runs: Sequence[RunResult]) -> Table | None:
    several = [run for run in runs if len({record.checkpoint for record in run.evaluations}) > 1]
    names = list(dict.fromkeys(record.checkpoint for run in several for record in run.evaluations))
    rows = []
    for run in several:
        scores = {record.checkpoint: _mean(record) for record in run.evaluations}
        rows.append((run.name, *(scores.get(name) for name in names)))
    note = (
        "Means over the test items. The comparisons above are of the last checkpoint of each run, which was chosen "
        "before anything was scored. The best one of this table would be scored too high."
    )
    columns = (_RUN, *(Column(name, numeric=True) for name in names))
    return table_of(columns, rows, "By checkpoint", by_run=True, notes=(note, *_best_checkpoints(several)))


def _best_checkpoints(runs: Sequence[RunResult]) -> Iterator[str]:
    """Yield whether the checkpoint with the lowest validation loss has the best score too."""
    found = []
    for run in runs:
        losses = {each.name: each.validation_loss for each in run.checkpoints if each.validation_loss is not None}
        known = [record for record in run.evaluations if record.checkpoint in losses and record.samples]
        scores = {record.checkpoint: _score(record) for record in known}
        if len(scores) > 1:
            lowest, top = min(scores, key=lambda name: losses[name]), max(scores.values())
            best = [name for name, score in scores.items() if score == top]
            found.append(f"{lowest} in {run.name} (best score{' too' if lowest in best else f': {join_names(best)}'})")
    if found:
        yield f"Lowest validation loss: {'; '.join(found)}."


def _mean(record: EvaluationRecord) -> Value:
    scores = [sample.score for sample in record.samples]
    if not scores:
        return Missing(missing="no items")
    value = _score(record)
    return Cell(percent(value) if min(scores) >= 0 and max(scores) <= 1 else f"{value:.4g}", value)


def _score(record: EvaluationRecord) -> float:
    return statistics.fmean(sample.score for sample in record.samples)


def _metrics(runs: Sequence[RunResult]) -> Table | None:
    rows = [
        (
            run.name,
            record.checkpoint,
            record.label,
            metric.score,
            metric.name,
            Cell(f"{metric.value:.4g}", metric.value),
        )
        for run in runs
        for record in (*run.evaluations, *run.other_evaluations)
        for metric in record.metrics
    ]
    note = "Computed by Inspect. Intervals and tests are of the mean of the primary score over the items."
    columns = (_RUN, "checkpoint", "task", "score", "metric", Column("value", numeric=True))
    return table_of(columns, rows, "Metrics as the tasks declare them", by_run=True, notes=(note,))


def _answers(shown: Sequence[AnswerCounts]) -> Table | None:
    with_parsed = any(each.parsed is not None for each in shown)
    with_truncated = any(each.cut is not None for each in shown)
    parsed = Missing(missing="the task does not parse")
    truncated = Column("truncated", numeric=True, note="Ended by the token limit")
    columns: list[tuple[Column, Callable[[AnswerCounts], Value]]] = [
        (_RUN, lambda each: each.run),
        (Column("task"), lambda each: each.task),
        (Column("checkpoint", code=True), lambda each: each.checkpoint),
        (Column("answers", numeric=True), lambda each: each.answers),
        (Column("empty", numeric=True), lambda each: _suspicious(each.empty)),
        *([(truncated, lambda each: _suspicious(each.cut))] if with_truncated else []),
        (Column("errors", numeric=True, note="Not generated; counted as wrong"), lambda each: _suspicious(each.errors)),
    ]
    if with_parsed:
        read = Column("parsed", numeric=True, note="An answer could be read from them")
        columns.append((read, lambda each: parsed if each.parsed is None else each.parsed))
    notes = (
        *([] if with_truncated else ["Truncation at the token limit was not recorded."]),
        "In bfloat16, answers can depend on the batch size. Compare only runs with equal batch size and dtype.",
    )
    return table_from(shown, columns, "Answers", by_run=True, notes=notes)


def _suspicious(number: int | None) -> Value:
    if number is None:
        return Missing(missing="not recorded")
    return Cell(f"{number:,}", number, mark=Mark.WARN if number else None)


# ---- tables of a classification --------------------------------------------------------------------------------------


_SUMMARY = ("accuracy", "majority baseline", "macro F1", "balanced accuracy", "no label read", "answers")
_LABEL = ("items", "read as it", "right", "precision", "recall", "F1")
_MATRIX_LIMIT = 20  # Maximum number of labels in a matrix. With more, its largest confusions are listed
_NO_LABEL = "none"
_LISTED = 20
_LEGEND = (
    "Majority baseline: what the most frequent label scores as the answer to all. Macro F1 and balanced accuracy: mean "
    "F1 and mean recall over the labels that items have, each label counting alike. An answer from which no label can "
    "be read counts as wrong."
)


def label_tables(runs: Sequence[RunResult], most: int) -> tuple[Table, ...]:
    """Return the scores of each run over all labels, then the labels and confusions of the first `most` runs."""
    found = [(run.name, run.labels) for run in runs if run.labels is not None and run.labels.answers]
    more = f" By label in report.html: {plural(len(found) - most, 'run')}." if len(found) > most else ""
    columns = (Column("run", code=True), *(Column(label, numeric=True) for label in _SUMMARY))
    summary = table_of(
        columns,
        [
            (
                name,
                *map(_share, (each.accuracy, each.majority, each.macro_f1, each.balanced_accuracy)),
                *(each.unread, each.answers),
            )
            for name, each in found
        ],
        "Labels",
        by_run=True,
        notes=(_LEGEND + more,),
    )
    by_run = [table for name, each in found[:most] for table in (_by_label(name, each), _confusion(name, each))]
    return present(summary, *by_run)


def _by_label(run: str, found: LabelReport) -> Table | None:
    rows = [
        (each.label, each.items, each.predicted, each.right, *map(_share, (each.precision, each.recall, each.f1)))
        for each in found.labels
    ]
    return table_of(("label", *(Column(label, numeric=True) for label in _LABEL)), rows, f"{run}: scores by label")


def _confusion(run: str, found: LabelReport) -> Table | None:
    """Return the confusion matrix. With many labels, its most frequent confusions."""
    names = [*(label.label for label in found.labels), _NO_LABEL]
    if len(found.labels) > _MATRIX_LIMIT:
        wrong = [
            (each.label, names[column], number)
            for row, each in enumerate(found.labels)
            for column, number in enumerate(found.confusion[row])
            if number and column != row
        ]
        columns = ("right label", "read as", Column("answers", numeric=True))
        most = sorted(wrong, key=lambda each: -each[2])[:_LISTED]
        return table_of(columns, most, f"{run}: most frequent confusions")
    rows: list[tuple[Value, ...]] = []
    for place, (each, row) in enumerate(zip(found.labels, found.confusion, strict=True)):
        shares = [(1 if place == column else -1) * number / max(each.items, 1) for column, number in enumerate(row)]
        cells = [Cell(f"{number:,}", number, shade=share) for number, share in zip(row, shares, strict=True)]
        rows.append((each.label, *cells))
    return table_of(
        ("right label", *(Column(name, numeric=True) for name in names)),
        rows,
        f"{run}: confusion matrix",
        notes=("Right label by row, label that was read by column.",),
    )


def _share(value: float | None) -> Value:
    """Return a share as a percentage. None where it is not defined."""
    return None if value is None else Cell(percent(value), value)


# ---- tests over training seeds ---------------------------------------------------------------------------------------


_HEADER: Final = (
    *("comparison", "test", "seeds", "means at the level", "means at the reference", "difference"),
    *("95% interval", "t", "df", "p", "p (Holm)", "with items", "shown"),
)
_NUMERIC: Final = ("difference", "t", "df", "p", "p (Holm)")
_CAPTION: Final = (
    "Test: scipy.stats.ttest_rel (paired) or ttest_ind(equal_var=False) (Welch) over the means of the seeds, over "
    "items and conditions. Holm: over all comparisons of one score; interactions, marked x, are a family of their own. "
    "With items: p after Holm with the variation between items in the standard error, which can only widen it; a claim "
    "needs both below 0.05."
)
UNDEFINED: Final = "n/a (seeds do not differ)"


def seed_test_tables(report: Report) -> tuple[Table, ...]:
    """Return a row for every contrast and interaction with two seeds or more; further test sets by themselves."""
    own = [each for each in report.analyses if not each.family_sets]
    further = [each for each in report.analyses if each.family_sets]
    notes: tuple[str, ...] = ()
    if further:
        contrasts = family_words(further[0], further[0].effects_family, "contrast")
        crossed = further[0].interactions_family
        more = f" Interactions, marked x, are another, of {crossed:,}." if crossed else ""
        notes = (
            f"The same contrasts as on the test set named first. They are one family of their own, of {contrasts}."
            f"{more} Columns as above.",
        )
    title = "Tests over training seeds"
    return present(_table(own, title, (_CAPTION,)), _table(further, f"{title}: further test sets", notes))


def _table(analyses: Sequence[Analysis], title: str, notes: tuple[str, ...]) -> Table | None:
    columns = [Column(label, numeric=label in _NUMERIC) for label in _HEADER]
    rows = [
        row
        for number, analysis in enumerate(analyses)
        for row in _rows(analysis, is_main=number == 0 and not analysis.family_sets)
    ]
    return table_of(columns, rows, title, notes=notes)


def _rows(analysis: Analysis, *, is_main: bool) -> Iterator[tuple[Value, ...]]:
    scale = scale_of(analysis)
    prefix = "" if is_main else f"{analysis.task}, {analysis.score}: "
    for effect in analysis.effects:
        for contrast in effect.contrasts:
            words = (
                f"{level_words(contrast.factor, contrast.level)} - {level_words(contrast.factor, contrast.reference)}"
            )
            if contrast.test is not None:
                yield _row(prefix + words, contrast, scale)
    for interaction in analysis.interactions:
        if interaction.difference.test is not None:
            yield _row(prefix + _interaction_words(interaction), interaction.difference, scale)


def _interaction_words(each: Interaction) -> str:
    """Return (rank 64 - rank 4) x (3B - 1B)."""
    found, other = each.difference, each.other_factor
    return (
        f"({factor_words(each.factor)} {found.level} - {found.reference}) x "
        f"({level_words(other, each.other_level)} - {level_words(other, each.other_reference)})"
    )


def _row(what: str, contrast: Contrast, scale: Scale) -> tuple[Value, ...]:
    test, wide = contrast.test, contrast.with_items
    if test is None or wide is None:
        raise TypeError("only what was tested has a row")
    seeds = ", ".join(map(str, test.seeds))
    if test.seeds != test.reference_seeds:
        seeds += f"; {', '.join(map(str, test.reference_seeds))}"
    is_defined = contrast.low is not None and contrast.high is not None
    return (
        what,
        test.kind.value,
        seeds,
        _means(test.means, scale),
        _means(test.reference_means, scale),
        Cell(scale.difference(contrast.value or 0.0), contrast.value or 0.0),
        scale.ends(contrast.low or 0.0, contrast.high or 0.0) if is_defined else UNDEFINED,
        _number(test.statistic),
        _number(test.freedom),
        _p(contrast.p_value),
        _p(contrast.p_adjusted),
        _p(wide.p_adjusted),
        contrast.shown.words,
    )


def _means(values: Sequence[float], scale: Scale) -> str:
    """Return the means with enough digits to repeat the test."""
    return ", ".join(percent(value, 2) if scale.share else f"{value:.6g}" for value in values)


def _number(value: float | None) -> Value:
    return None if value is None else Cell(f"{value:.4g}", value)


def _p(value: float | None) -> Value:
    return None if value is None else Cell(p_number(value), value)
