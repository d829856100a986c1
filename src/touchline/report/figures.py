"""Figures as Vega-Lite specs and PNG pictures; without the extra `report` the report says that they are off."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from touchline.domain.results import LossPoint, RunResult

FIGURES_OFF = "Figures are off: the extra `report` is not installed (`pip install 'touchline[report]'`)."
"""What a report says instead of a picture."""
POINTS_LIMIT = 600
"""Points of a line; more than a picture has columns only make it slow, so every n-th is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A picture, or the reason why there is none."""

    png: bytes | None
    """The picture."""
    note: str
    """What it shows, or why it is not there."""


def loss_figure(results: Sequence[RunResult]) -> Figure:
    """Training loss (thin: every step; thick: mean over a window) and validation loss (points) by optimizer step."""
    trained = [result for result in results if result.train_losses]
    if not trained:
        return Figure(png=None, note="No loss has been measured yet.")
    if importlib.util.find_spec("altair") is None or importlib.util.find_spec("vl_convert") is None:
        return Figure(png=None, note=FIGURES_OFF)
    window = _window(trained)
    note = f"Loss by optimizer step: each step (thin), mean over {window} steps (thick), validation (points)."
    return Figure(png=_draw(trained, window), note=note)


def _draw(results: Sequence[RunResult], window: int) -> bytes:
    import altair
    import vl_convert

    rows: list[dict[str, object]] = []
    for result in results:
        smooth = _smoothed(result.train_losses, window)
        for kind, points in (("step", result.train_losses), ("mean", smooth), ("validation", result.validation_losses)):
            rows += [{"run": result.name, "kind": kind, "step": p.step, "loss": p.loss} for p in _thinned(points)]
    color = altair.Color("run:N", title="run", legend=altair.Legend(orient="top"))
    x = altair.X("step:Q", title="optimizer step")
    # Log scales cannot show zero, and losses of a memorised set come close to it.
    positive = all(float(str(row["loss"])) > 0 for row in rows)
    y = altair.Y(
        "loss:Q", title="loss (nats per target token)", scale=altair.Scale(type="log" if positive else "linear")
    )
    base = altair.Chart(altair.InlineData(values=rows)).encode(x=x, y=y, color=color)
    chart = altair.layer(
        base.transform_filter("datum.kind == 'step'").mark_line(opacity=0.25, strokeWidth=1),
        base.transform_filter("datum.kind == 'mean'").mark_line(strokeWidth=2),
        base.transform_filter("datum.kind == 'validation'").mark_point(filled=True, size=50),
    ).properties(width=640, height=340)
    png: bytes = vl_convert.vegalite_to_png(chart.to_json(), scale=2)
    return png


def _window(results: Sequence[RunResult]) -> int:
    return max(1, min(len(result.train_losses) for result in results) // 20)


def _smoothed(points: Sequence[LossPoint], window: int) -> list[LossPoint]:
    """Mean over the last `window` steps, at each step that has as many."""
    losses = [point.loss for point in points]
    return [
        LossPoint(step=points[i].step, loss=sum(losses[i + 1 - window : i + 1]) / window)
        for i in range(window - 1, len(points))
    ]


def _thinned(points: Sequence[LossPoint]) -> list[LossPoint]:
    stride = -(-len(points) // POINTS_LIMIT) or 1
    return [*points[::stride], *([points[-1]] if points and (len(points) - 1) % stride else [])]
