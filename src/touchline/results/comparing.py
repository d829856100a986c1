"""Each fine-tuned run against its own control, on the same items."""

from __future__ import annotations

from dataclasses import replace

from touchline.domain.plan import Plan
from touchline.domain.results import Difference, EvaluationRecord, RunResult
from touchline.domain.runs import RunKind
from touchline.statistics import holm, mcnemar_exact, newcombe_paired


def compared(plan: Plan, results: list[RunResult]) -> list[RunResult]:
    """The results with each fine-tuned run's difference to its own control, on the same items."""
    controls = {
        (result.model, plan_run.dataset): result
        for result in results
        if result.kind is RunKind.CONTROL and result.evaluations and (plan_run := plan.run(result.name)) is not None
    }
    raw: dict[str, Difference] = {}
    notes: dict[str, str] = {}
    for result in results:
        run = plan.run(result.name)
        control = controls.get((result.model, run.dataset)) if run is not None else None
        if result.kind is RunKind.CONTROL or not result.evaluations or control is None:
            continue
        difference = _difference(result.evaluations[-1], control.evaluations[-1], control.name)
        if isinstance(difference, str):
            notes[result.name] = difference
        else:
            raw[result.name] = difference
    adjusted = dict(zip(raw, holm([d.p_value for d in raw.values()]), strict=True))
    return [
        replace(
            result,
            difference=replace(raw[result.name], p_adjusted=adjusted[result.name]) if result.name in raw else None,
            notes=(*result.notes, *([notes[result.name]] if result.name in notes else [])),
        )
        for result in results
    ]


def _difference(run: EvaluationRecord, control: EvaluationRecord, name: str) -> Difference | str:
    """The paired difference, or why the two cannot be compared."""
    ids = [sample.id for sample in run.samples]
    if run.data_sha256 != control.data_sha256 or ids != [sample.id for sample in control.samples]:
        return f"not compared with {name}: the items differ"
    if run.settings_sha256 != control.settings_sha256:
        return f"not compared with {name}: prompt or decoding differ"
    pairs = [(a.exact, b.exact) for a, b in zip(run.samples, control.samples, strict=True)]
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    gained, lost = pairs.count((True, False)), pairs.count((False, True))
    value, low, high = newcombe_paired(both, gained, lost, neither)
    p_value = mcnemar_exact(gained, lost)
    return Difference(
        value=value, low=low, high=high, gained=gained, lost=lost, p_value=p_value, p_adjusted=p_value, control=name
    )
