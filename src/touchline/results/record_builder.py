"""Builder of history records from our own runs: measurements, workload, timings and planned values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from numpy.random import PCG64, Generator

from touchline.core.levels import STAGE
from touchline.core.quantity import Aggregation, Measured, Missing, Quantity
from touchline.data.metrics import Metrics, steady_steps
from touchline.data.metrics_file import METRICS, read_metrics
from touchline.experiment.plan import Plan, PlannedRun
from touchline.history.adding import record_of_run
from touchline.history.facts import facts_of_settings
from touchline.history.files import LoggedRun, find_runs
from touchline.history.reading import ScoreFacts, SourcedText, pack_item_scores, pack_outcomes, validation_points
from touchline.history.record import DatasetFacts, PredictedFacts, RunRecord, WorkFacts
from touchline.plan.identity import condition_digest
from touchline.results.run_result import RunResult
from touchline.results.scored import SEED, last_of_each, scored_run
from touchline.statistics.own_score import is_binary, run_scores

_PLANNED = "as planned"


def record_of_own(plan: Plan, run: PlannedRun, folder: Path, result: RunResult | None = None) -> RunRecord | Missing:
    """Build the record of a run; a failed run yields a record of its failure."""
    if run.train is None or run.batches is None:
        return Missing(missing="a control is not trained")
    files = [folder / METRICS] if (folder / METRICS).is_file() else sorted(folder.glob("slurm-*.out"))
    found = [each for each in find_runs(files) if isinstance(each, LoggedRun)] if files else []
    if not found:
        return Missing(missing="not measured")
    record = record_of_run(found[-1])
    if not isinstance(record, RunRecord):
        return Missing(missing=record.reason)
    metrics = read_metrics(folder / METRICS)
    record = _measured(_completed(record, plan, run), run, metrics, plan.machine.slots)
    if metrics.validations:
        points = validation_points([(row.step, row.loss) for row in metrics.validations])
        record = replace(record, validation=points)
    return record if result is None else _evaluated(record, result)


def _evaluated(record: RunRecord, result: RunResult) -> RunRecord:
    record = replace(record, scores=tuple(score_facts(result)))
    if isinstance(result.evaluate_seconds, Missing) or not result.evaluations:
        return record
    samples = Quantity(value=len(result.evaluations[-1].samples), unit="items", where="eval/")
    work = replace(record.work, evaluation_seconds=result.evaluate_seconds, evaluation_samples=samples)
    return replace(record, work=work)


def _epoch_tokens(run: PlannedRun, *, packed: bool) -> Measured:
    if isinstance(run.packing, Missing):
        return run.packing
    side = run.packing.packed if packed else run.packing.unpacked
    return Quantity(value=side.padded_tokens, unit="tokens", token_unit="padded", method=_PLANNED)


def score_facts(result: RunResult) -> Iterator[ScoreFacts]:
    """Yield the scores of a run's last checkpoint, the experiment's own task first."""
    for is_own, records in ((True, result.evaluations), (False, result.other_evaluations)):
        for evaluation in last_of_each(records).values():
            scored = scored_run(result, evaluation)
            binary = is_binary([scored])
            (score,), _ = run_scores([scored], binary=binary, rng=Generator(PCG64(SEED)))
            yield ScoreFacts(
                # Of several test sets the one of the claims goes by the task's name, as in other experiments.
                task=evaluation.task if is_own else evaluation.label,
                score=evaluation.score,
                checkpoint=evaluation.checkpoint,
                value=Quantity(
                    value=score.value,
                    unit="1",
                    low=score.low,
                    high=score.high,
                    coverage=score.coverage,
                    aggregation="mean",
                    method=score.method,
                    where=f"eval/{evaluation.log}",
                ),
                items=score.items,
                comparable=scored.comparable,
                outcomes=pack_outcomes([value == 1.0 for value in scored.scores])
                if binary
                else Missing(missing="an item can be partly correct"),
                item_scores=Missing(missing="every item is correct or wrong (see outcomes)")
                if binary
                else pack_item_scores(scored.scores),
            )


def _measured(record: RunRecord, run: PlannedRun, metrics: Metrics, slots: int) -> RunRecord:
    """Add measurements of all rows and the predictions made before the run, one of several in `slots`."""
    predicted = PredictedFacts(
        seconds_per_step=run.seconds_per_step,
        # Of the steps alone, as the rows measure it.
        train_seconds=run.time_parts.get("training", run.train_seconds),
        peak_memory=run.peak_memory,
        disk=run.disk,
        packed_tokens=_epoch_tokens(run, packed=True),
        unpacked_tokens=_epoch_tokens(run, packed=False),
    )
    record = replace(record, predicted=predicted, work=work_facts(run, metrics))
    if not metrics.attempts:
        return record
    record = replace(record, started_unix=metrics.attempts[0].time_unix)
    attempt = metrics.attempts[-1]
    adapter_dtype = SourcedText(value=attempt.adapter_dtype)
    record = replace(record, training=replace(record.training, adapter_dtype=adapter_dtype))
    machine = record.machine
    if attempt.device_kind == "cpu":
        machine = replace(
            machine,
            gpu=Missing(missing="trained on a CPU"),
            gpu_memory=Missing(missing="trained on a CPU"),
            processor=SourcedText(value=attempt.device, where=METRICS),
            threads=Quantity(value=attempt.threads, unit="1", where=METRICS),
            at_once=_number(slots, "1"),
        )
    steps = steady_steps(metrics.steps)
    costs = record.costs
    if steps:
        median = statistics.median(row.seconds for row in steps)
        pace = Quantity(
            value=median,
            unit="s",
            aggregation="median",
            where=METRICS,
            method=f"{len(steps)} steps after each attempt's first, without validation and saving",
        )
        costs = replace(costs, seconds_per_step_without_pauses=pace)
    return replace(record, machine=machine, costs=costs)


def _completed(record: RunRecord, plan: Plan, run: PlannedRun) -> RunRecord:
    assert run.train is not None
    assert run.batches is not None
    model, batches = plan.models[run.model], run.batches
    mean = batches.real_tokens / batches.num_examples if batches.num_examples else None
    return replace(
        record,
        origin="touchline",
        name=run.name,
        experiment=plan.experiment,
        run=run.name,
        run_digest=run.digest,
        task=plan.task,
        control=run.control,
        seed=run.seed,
        stage=next((level.value for level in run.levels if level.factor == STAGE), None),
        position=plan.runs.index(run),
        condition=condition_digest(plan, run),
        model=replace(
            record.model,
            name=SourcedText(value=model.name),
            parameters=_number(model.num_parameters, "parameters"),
            layers=_number(model.num_layers, "1"),
            hidden_size=_number(model.hidden_size, "1"),
            vocab_size=_number(model.vocab_size, "1"),
        ),
        training=replace(
            record.training,
            **facts_of_settings(run.train, _number),
        ),
        batching=replace(
            record.batching,
            max_seq_len=_number(run.train.max_seq_len, "tokens"),
            mean_tokens=_number(mean, "tokens") if mean else Missing(missing="no examples"),
            longest_tokens=_number(batches.longest_example_tokens, "tokens"),
        ),
        packing=replace(
            record.packing,
            examples=_number(batches.num_examples, "examples"),
        ),
        course=replace(record.course, epochs=_number(run.train.epochs, "epochs")),
        dataset=DatasetFacts(
            name=SourcedText(value=PurePath(run.dataset).name, method=_PLANNED),
            sha256=SourcedText(value=plan.datasets[run.dataset].all_files[0].sha256, method=_PLANNED),
            examples=_number(batches.num_examples, "examples"),
        ),
    )


def _number(value: float, unit: str) -> Measured:
    return Quantity(value=value, unit=unit, method=_PLANNED)


def work_facts(run: PlannedRun, metrics: Metrics) -> WorkFacts:
    """Return the mean step, the largest micro-batch, and start-up, validation and saving times."""
    steps = steady_steps(metrics.steps)
    if not steps:
        return WorkFacts()
    rows, width = _largest(run, metrics)
    last = metrics.attempts[-1]
    uncompiled = Missing(missing="not compiled before the first step")
    squares = [row.squared_widths for row in steps if row.squared_widths is not None]
    return WorkFacts(
        micro_batches=_mean_quantity([row.micro_batches for row in steps], "1"),
        padded_tokens=_mean_quantity([row.padded_tokens for row in steps], "tokens"),
        squared_widths=_mean_quantity(squares, "1") if len(squares) == len(steps) else Missing(missing="not counted"),
        label_tokens=_mean_quantity([row.target_tokens for row in steps], "tokens"),
        steps=_row_quantity(len(steps), "1"),
        largest_rows=rows,
        largest_width=width,
        largest_label_tokens=_most_labels(metrics),
        startup_seconds=_row_quantity(last.setup_seconds - last.compile_seconds, "s"),
        validation_seconds=_median_quantity([row.seconds for row in metrics.timed_validations], "s"),
        validation_tokens=_median_quantity([float(row.target_tokens) for row in metrics.validations], "tokens"),
        saving_seconds=_median_quantity([row.seconds for row in metrics.checkpoints], "s"),
        compile_seconds=_row_quantity(last.compile_seconds, "s") if last.compiled_shapes else uncompiled,
        compiled_shapes=_row_quantity(last.compiled_shapes, "shapes") if last.compiled_shapes else uncompiled,
        side_by_side=_row_quantity(1 + max(len(row.cohort) for row in metrics.attempts), "runs"),
    )


def _largest(run: PlannedRun, metrics: Metrics) -> tuple[Measured, Measured]:
    """Return rows and width of the largest micro-batch; with equal widths the width is squares over tokens."""
    counted = [row for row in metrics.steps if row.squared_widths]
    if not counted:
        # Older rows: examples side by side, as planned.
        if run.batches is None:
            return Missing(missing="no batches"), Missing(missing="no batches")
        rows = min(run.batches.micro_batch_size, run.batches.num_examples)
        return _row_quantity(rows, "1"), _row_quantity(-(-run.batches.largest_micro_batch_tokens // rows), "tokens")
    step = max(counted, key=lambda row: row.padded_tokens / row.micro_batches)
    width = math.ceil((step.squared_widths or 0) / step.padded_tokens)
    return _row_quantity(max(round(step.padded_tokens / step.micro_batches / width), 1), "1"), _row_quantity(
        width, "tokens"
    )


def _most_labels(metrics: Metrics) -> Measured:
    most = max(-(-row.target_tokens // row.micro_batches) for row in metrics.steps)
    return Quantity(value=most, unit="tokens", where=METRICS, method="of the step with most, shared among its passes")


def _mean_quantity(values: Sequence[float], unit: str) -> Measured:
    if not values:
        return Missing(missing="not measured")
    return _row_quantity(statistics.fmean(values), unit, "mean")


def _median_quantity(values: Sequence[float], unit: str) -> Measured:
    if not values:
        return Missing(missing="did not happen")
    return _row_quantity(statistics.median(values), unit, "median")


def _row_quantity(value: float, unit: str, aggregation: Aggregation | None = None) -> Quantity:
    return Quantity(value=value, unit=unit, aggregation=aggregation, where=METRICS)
