"""Score by epoch, if several checkpoints were evaluated."""

from __future__ import annotations

from collections.abc import Mapping

import altair

from touchline.data.scores import EvaluationRecord
from touchline.report.charts.parts import (
    Row,
    colour,
    finished,
    followed,
    number,
    padded,
    rows_of,
    with_controls,
)
from touchline.report.charts.scores import SECTION, control_rows
from touchline.report.colors import MUTED, SeriesColor
from touchline.report.figures import Chart
from touchline.report.formatting import scale_of
from touchline.report.report import Report
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Analysis


def score_by_epoch(report: Report, analysis: Analysis, inks: Mapping[str, SeriesColor]) -> Chart | None:
    """Return the scores of all evaluated checkpoints on the experiment's own task."""
    rows = [row for run in report.runs if len(run.evaluations) > 1 for row in _rows(run, inks)]
    if len({row["epoch"] for row in rows}) < 2:
        return None
    share = scale_of(analysis).share
    scored = [float(str(row["score"])) for row in rows]
    domain, controls, note = with_controls(scored, control_rows(report, analysis), scale_of(analysis))
    y = altair.Y(
        "score:Q",
        title=analysis.score,
        scale=altair.Scale(domain=domain, nice=False),
        axis=altair.Axis(format=".0%" if share else ".3~r", tickCount=6),
    )
    epochs = sorted({float(str(row["epoch"])) for row in rows})
    x = altair.X(
        "epoch:Q",
        title="epochs trained",
        scale=altair.Scale(domain=list(padded(epochs, 0.04)), nice=False),
        axis=altair.Axis(
            tickMinStep=1, format=".3~r", grid=False, values=epochs if len(epochs) <= 20 else altair.Undefined
        ),
    )
    base = rows_of("epochs").encode(
        x=x,
        y=y,
        detail="run:N",
        color=colour(inks, legend=True, lines=True),
        opacity=followed(),
        tooltip=[
            altair.Tooltip("run:N"),
            altair.Tooltip("checkpoint:N"),
            altair.Tooltip("score:Q", format=".1%" if share else ".4~r"),
        ],
    )
    layers = [base.mark_line(strokeWidth=1.8), base.mark_point(filled=True, size=55)]
    data: dict[str, list[Row]] = {"epochs": rows}
    if controls:
        data["controls"] = controls
        dashed = rows_of("controls").mark_rule(strokeDash=[4, 3], strokeWidth=1.2, color=MUTED)
        layers.insert(0, dashed.encode(y="value:Q", opacity=followed()))
    return finished(
        altair.layer(*layers),
        data,
        name="score_by_epoch",
        section=SECTION,
        title="Score by epoch",
        caption=f"Each evaluated checkpoint.{note}",
        height=280,
    )


def _rows(run: RunResult, inks: Mapping[str, SeriesColor]) -> list[Row]:
    epochs = {checkpoint.name: checkpoint.epoch for checkpoint in run.checkpoints}
    return [
        {
            "run": run.name,
            "setting": inks[run.name].label,
            "checkpoint": record.checkpoint,
            "epoch": epoch + 1,
            "score": number(_mean(record)),
        }
        for record in run.evaluations
        if record.samples and (epoch := epochs.get(record.checkpoint, _named(record.checkpoint))) is not None
    ]


def _named(checkpoint: str) -> int | None:
    """Return the epoch in `epoch_2`. None for any other name."""
    word, _, digits = checkpoint.rpartition("_")
    return int(digits) if word == "epoch" and digits.isdecimal() else None


def _mean(record: EvaluationRecord) -> float:
    return sum(sample.score for sample in record.samples) / len(record.samples)
