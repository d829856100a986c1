"""Construction of the report: the one object that RESULTS.md and report.html are rendered from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from touchline.core.finding import NoteCode
from touchline.core.machine import machine_text
from touchline.core.quantity import Measured, Missing, Quantity, finite
from touchline.core.status import TrainingOutcome
from touchline.core.text import join_names
from touchline.core.units import bare, plural
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.experiment.settings import COLLECTED
from touchline.plan.notes import design_line
from touchline.plan.settings import Origin, RunSetting, Scalar, collect_settings, setting_rows
from touchline.report.answer import answer, is_complete, strategy_answer, strategy_claims, strategy_sentences
from touchline.report.appendix import commands
from touchline.report.claims import claims
from touchline.report.estimates import estimate_rows
from touchline.report.facts import (
    all_device_hours,
    answer_counts,
    compared_text,
    device_word,
    devices_of,
    measured_of,
    run_facts,
    seeds_of,
    slots_of,
)
from touchline.report.issues import issues
from touchline.report.next_steps import next_steps
from touchline.report.remarks import remarks
from touchline.report.report import PackingRow, Report
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.results.scored import analyses as analyses_of
from touchline.results.set_matrix import set_matrix
from touchline.results.status_files import run_metrics
from touchline.statistics.conclusions import NextStep

_NOTHING_EVALUATED = Missing(missing="nothing was evaluated")
_NOT_RECORDED = Missing(missing="no version was recorded")
_NOT_PLANNED = Missing(missing="not planned by touchline")


def build_report(gathered: ReportInputs) -> Report:
    """Build the report. The same inputs give the same report."""
    plan, runs = gathered.plan, gathered.runs
    analyses = analyses_of(runs, gathered.factors)
    answers = answer_counts(runs)
    facts = run_facts(gathered, analyses[0] if analyses else None)
    estimates = estimate_rows(plan, runs, gathered.verification)
    packing = packing_rows(plan, runs)
    spent = all_device_hours(runs, devices_of(gathered), slots_of(gathered))
    planned_hours = _NOT_PLANNED if plan is None else plan.gpu_hours
    strategy = None if gathered.strategy is None else gathered.strategy.report(spent)
    device = device_word(gathered)
    found = claims(gathered, analyses, [] if strategy is None else strategy_claims(strategy, analyses))
    actions: list[NextStep] = []
    if strategy is not None:
        if not isinstance(strategy.without_stopping, Missing):
            planned_hours = strategy.without_stopping
        is_local = plan is None or plan.compute.executor == "local"
        working = () if gathered.strategy is None else {run.name for run in gathered.strategy.working}
        left = [run.name for run in runs if run.name in working and not is_complete(run, planned=True)]
        actions = list(strategy.next_actions(left, device, is_local=is_local))
    return Report(
        experiment=gathered.experiment,
        question="" if plan is None else plan.question,
        origin=gathered.origin,
        date=gathered.date,
        design=_design(gathered),
        task=_task(gathered),
        decoding=_decoding(runs),
        answer=answer(gathered, analyses, found, None if strategy is None else strategy_answer(strategy, analyses)),
        completed=sum(is_complete(run, planned=plan is not None) for run in runs),
        device_hours=spent,
        device_hours_planned=planned_hours,
        runs=runs,
        metrics=tuple(map(run_metrics, runs)),
        facts=facts,
        factors=gathered.factors,
        analyses=analyses,
        answers=answers,
        verification=gathered.verification,
        claims=found,
        remarks=remarks(
            gathered, analyses, None if strategy is None else strategy_sentences(strategy, analyses, device)
        ),
        packing=packing,
        packing_advice=packing_advice(plan, packing, runs),
        estimates=estimates,
        issues=issues(gathered, analyses, answers),
        next_steps=next_steps(gathered, analyses, actions),
        commands=commands(gathered),
        sources=gathered.sources,
        asked=gathered.asked,
        definition=gathered.definition,
        compared=compared_text(gathered.runs, gathered.factors, seeds_of(runs)),
        device=device,
        settings=report_settings(gathered),
        strategy=strategy,
        test_sets=set_matrix(gathered.runs),
        provenance=tuple(_provenance(gathered)),
    )


def _design(gathered: ReportInputs) -> str:
    """Return the design in one line; empty for runs that touchline did not plan."""
    if gathered.plan is None:
        return ""
    words = "" if gathered.strategy is None else gathered.strategy.design_words()
    return words or design_line(gathered.plan)


def _task(gathered: ReportInputs) -> str:
    if gathered.plan is not None:
        return gathered.plan.task
    tasks = dict.fromkeys(record.task for run in gathered.runs for record in run.evaluations)
    if tasks:
        return join_names(list(tasks))
    datasets = dict.fromkeys(source.name for source in gathered.sources if source.kind == "dataset")
    return f"not evaluated; trained on {join_names(list(datasets))}" if datasets else str(_NOTHING_EVALUATED)


def _decoding(runs: Sequence[RunResult]) -> str:
    ways = list(dict.fromkeys(record.decoding for run in runs for record in run.evaluations))
    return "; ".join(ways[:3]) + (f"; and {len(ways) - 3} more" if len(ways) > 3 else "") or str(_NOTHING_EVALUATED)


def _provenance(gathered: ReportInputs) -> Iterator[tuple[str, str]]:
    yield "origin", gathered.origin
    yield from _stack(gathered)
    plan = gathered.plan
    if plan is None:
        return
    machine = plan.machine
    yield "planned on", plan.date
    yield (
        "planned for",
        f"{machine_text(machine.key)}, {bare(machine.memory, 3)} ({machine.source}); executor {plan.executor}",
    )
    yield "sha256 of experiment.yaml, overrides applied", plan.experiment_sha256
    if plan.overrides:
        yield "overrides", ", ".join(plan.overrides)
    yield "revision of the plan", str(plan.revisions[-1].number) if plan.revisions else "1"
    evidence = (
        f"{plural(len(plan.evidence), 'past run')}: {join_names(plan.evidence)}" if plan.evidence else "no past run"
    )
    yield "estimates are based on", evidence
    yield from _trained_on(gathered)


def _stack(gathered: ReportInputs) -> Iterator[tuple[str, str]]:
    training = {run.name: run.versions for run in gathered.runs if run.kind is RunKind.FINE_TUNED}
    evaluation = {
        f"{run.name} {record.checkpoint}" if len(run.evaluations) > 1 else run.name: record.versions
        for run in gathered.runs
        for record in run.evaluations
    }
    for what, versions in (("training", training), ("evaluation", evaluation)):
        groups: dict[str, list[str]] = {}
        for name, own in versions.items():
            packages = ", ".join(f"{library} {version}" for library, version in own.items())
            groups.setdefault(packages or str(_NOT_RECORDED), []).append(name)
        for packages, names in groups.items():
            yield f"{what} stack", packages if len(groups) == 1 else f"{packages} ({join_names(names)})"


def _trained_on(gathered: ReportInputs) -> Iterator[tuple[str, str]]:
    machines: dict[str, list[str]] = {}
    for run in gathered.runs:
        for note in run.notes:
            if note.code is NoteCode.TRAINED_ON:
                machines.setdefault(str(note.data["machine"]), []).append(run.name)
    for machine, names in machines.items():
        yield "trained on", machine if len(machines) == 1 else f"{machine} ({join_names(names)})"


def report_settings(gathered: ReportInputs) -> tuple[RunSetting, ...]:
    """Return the settings of every run, as planned or as logged."""
    if gathered.plan is not None:
        return collect_settings(gathered.plan)
    return setting_rows(
        {run.name: dict(_logged(run)) for run in gathered.runs}, lambda key, values: (Origin.LOGGED, None)
    )


def _logged(run: RunResult) -> Iterator[tuple[str, Scalar]]:
    for key, value in run.settings.items():
        if value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            yield COLLECTED.get(key, key), value


# ---- packing ---------------------------------------------------------------------------------------------------------


LOW_EFFICIENCY = 80.0  # Share in per cent below which padding costs more than a fifth of the computation
_FASTER = 1.05  # Ratio of examples per second from which one way of packing counts as faster
_WAYS = {"yes": "packed", "no": "not packed"}


def packing_rows(plan: Plan | None, runs: Sequence[RunResult]) -> tuple[PackingRow, ...]:
    """Return a row for each run that trains, in order."""
    planned = {} if plan is None else {run.name: run for run in plan.runs}
    return tuple(_row(run, planned.get(run.name)) for run in runs if run.kind is RunKind.FINE_TUNED)


def _row(run: RunResult, planned: PlannedRun | None) -> PackingRow:
    packed = run.settings.get("packed")
    word = {True: "yes", False: "no"}.get(packed if isinstance(packed, bool) else None)  # type: ignore[arg-type]
    side = None
    if planned is not None and not isinstance(planned.packing, Missing) and word is not None:
        side = planned.packing.packed if word == "yes" else planned.packing.unpacked
    return PackingRow(
        run=run.name,
        packed=word or "n/a (not reported)",
        density=_or_planned(run.packing.density, None if side is None else side.density, "examples/row"),
        efficiency=_or_planned(run.packing.efficiency, None if side is None else side.efficiency, "%"),
        examples_per_second=run.examples_per_second,
        peak_memory=run.peak_memory,
        reason=(planned.packed_reason or "") if planned is not None else "",
    )


def _or_planned(measured: Measured, planned: float | None, unit: str) -> Measured:
    if isinstance(measured, Quantity) or planned is None:
        return measured
    return Quantity(value=planned, unit=unit, method="as the plan computed it")


def packing_advice(plan: Plan | None, rows: Sequence[PackingRow], runs: Sequence[RunResult]) -> tuple[str, ...]:
    """Return advice for the next plan: what was fastest, avoidable padding, and the plan's own advice."""
    lines = list(_fastest(rows, {run.name: run for run in runs})) or list(_filling(rows))
    if plan is not None:
        lines += [line for run in plan.runs if not isinstance(run.packing, Missing) for line in run.packing.advice]
    return tuple(dict.fromkeys(lines))


def _fastest(rows: Sequence[PackingRow], runs: Mapping[str, RunResult]) -> Iterator[str]:
    """Yield the fastest packing and micro-batch of each model that was trained in several ways."""
    tried: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        run, speed = runs[row.run], finite(row.examples_per_second)
        if row.packed in _WAYS and run.outcome is TrainingOutcome.COMPLETE and isinstance(speed, Quantity):
            size = run.settings.get("batch_size")
            way = f"{_WAYS[row.packed]}{'' if size is None else f' with micro-batch {size}'}"
            tried.setdefault(run.model, {}).setdefault(way, []).append(speed.value)
    for model, ways in tried.items():
        means = sorted(((statistics.fmean(speeds), way) for way, speeds in ways.items()), reverse=True)
        if len(means) > 1:
            listed = join_names([f"{mean:.3g} examples/s {way}" for mean, way in means])
            (best, way), (second, _), *_ = means
            advice = f"plan the next runs {way}" if best >= _FASTER * second else "none is clearly faster"
            yield f"{model}: {listed} (means of complete runs, not tested): {advice}."


def _filling(rows: Sequence[PackingRow]) -> Iterator[str]:
    """Yield whether the one way in which all runs were packed can stay."""
    ways = {row.packed for row in rows}
    known = [each.value for each in measured_of(row.efficiency for row in rows)]
    if not known or not ways < _WAYS.keys():
        return
    (way,), worst = ways, min(known)
    positions = f"{worst:.0f}% of the computed positions held a token"
    if worst >= LOW_EFFICIENCY and len(known) == len(rows):
        yield f"All runs {_WAYS[way]}, and at least {positions}: packing can stay as it is."
    elif worst < LOW_EFFICIENCY and way == "no":
        yield f"No run packed, and down to {positions}. Plan once with train.packed: true and compare examples/s."
