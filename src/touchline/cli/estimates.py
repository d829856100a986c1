"""Commands that estimate or measure memory and time: `estimate`, `probe`, `optimize`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.commands import (
    Json,
    Source,
    api,
    complete_run,
    parse_deadline,
    parse_parts,
    stated_pairs,
    with_request,
)
from touchline.cli.output import print_data, print_json, print_object, print_output, print_status, print_table
from touchline.core.quantity import Missing
from touchline.core.table import Column, Value
from touchline.core.units import GIB, format_bytes, format_minutes, measured
from touchline.data.requests import EstimateRequest
from touchline.data.user_config import load_settings
from touchline.experiment.requests import OptimiseRequest

if TYPE_CHECKING:
    from touchline.history.probe import ProbeReport
    from touchline.plan.estimate_result import EstimateAnswer
    from touchline.plan.optimize import Optimization, RunOption
    from touchline.plan.placement.problem import Placement

ESTIMATE_PANELS = {
    "Model and adapter": "model method rank target_modules adapter lora_dropout base_dtype adapter_dtype",
    "Batch and lengths": "micro_batch_size gradient_accumulation_steps seq_len mean_length lengths label_fraction "
    "image_tokens examples epochs",
    "Trainer and machine": "backend release gpu gradient_checkpointing optimizer loss attention compiled",
}
"""Headings of the help -> options."""


@with_request(EstimateRequest, target_modules=parse_parts, evidence_facts=stated_pairs)
def estimate(request: EstimateRequest, json: Json = False) -> None:
    """Estimate memory, largest micro-batch and step time."""
    answer = api.estimate(request, load_settings())
    if json:
        print_object(answer)
        return
    _show_estimate(answer, "" if request.mean_length or request.lengths else ", rows of one length")


def _show_estimate(answer: EstimateAnswer, alike: str) -> None:

    memory, settings = answer.memory, answer.settings
    print_output(f"{answer.model}: {answer.parameters:,} parameters, {answer.trained_parameters:,} trained")
    rows: list[tuple[Value, ...]] = [
        ("verdict", f"{memory.verdict.value} on {measured(memory.capacity_gib)}"),
        ("allocated", memory.allocated_gib),
        (f"reserved{alike}", memory.reserved_gib),
        (f"process{alike}", memory.process_gib),
        ("before the first step", memory.after_init_gib),
        ("parts, GiB", ", ".join(f"{name} {size:.2f}" for name, size in memory.breakdown.items() if size >= 0.005)),
        ("main assumption", memory.assumption),
        ("largest micro-batch", answer.largest_micro_batch),
        ("time of a step", answer.seconds_per_step),
        ("steps", answer.steps),
        ("time in all", answer.total_seconds),
        ("adapter on disk", answer.adapter_size),
        ("settings", ", ".join(f"{name} {str(value).replace(',', ' ')}" for name, value in settings.items())),
    ]
    known = [row for row in rows if not isinstance(row[1], Missing)]
    heading = f"{answer.padded_tokens:,} computed tokens per micro-batch, 90% intervals"
    print_table(("", Column(heading, interval=True)), known)
    for name, value in rows:
        if isinstance(value, Missing):
            print_output(f"{name}: {value}")
    if memory.what_ifs:
        print_table(
            ("what if", Column("reserved", numeric=True), Column("time of a step", numeric=True)),
            [
                (what.change, f"{what.reserved_gib:.2f} GiB", f"{100 * (what.step_time_factor - 1):+.0f}%")
                for what in memory.what_ifs
            ],
        )
    for note in answer.notes:
        print_status(f"note: {note}")


def probe(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder; planned.")],
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            autocompletion=complete_run,
            help="Which run; the one with the most memory when not given.",
        ),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option("--memory-limit-gib", min=0.1, help="Memory limit of a try (default: most of what is free)."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a few real steps to measure memory and speed."""
    from touchline.history.probe import ProbeReport

    limit_bytes = None if limit is None else int(limit * GIB)
    report = api.probe(source, load_settings(), run=run, limit_bytes=limit_bytes, on_message=print_status)
    if json:
        print_json(ProbeReport, report, "probe")
    else:
        _show_probe(report)
    if report.largest is None:
        raise typer.Exit(1)


def _show_probe(report: ProbeReport) -> None:

    rows = []
    for one in report.tries:
        memory = None if one.answer is None else one.answer.memory
        peak = "-" if memory is None else format_bytes(memory.process_bytes or 0)
        seconds, rate = one.seconds_per_step, one.tokens_per_second
        rows.append(
            (
                str(one.micro_batch_size),
                f"{one.batch.rows} x {one.batch.width:,}",
                one.outcome.value.replace("_", " "),
                peak,
                "-" if seconds is None else f"{seconds:.3g} s",
                "-" if rate is None else f"{rate:,.0f}",
                one.message,
            )
        )
    numbers = (Column(label, numeric=True) for label in ("process memory", "step", "tokens/s"))
    header: tuple[Column | str, ...] = ("micro-batch", "rows x tokens", "outcome", *numbers, "")
    print_table(header, rows, title=f"{report.request.model.name}: predicted {report.predicted or 'nothing'}")
    print_output(f"largest that fits: {report.largest or 'none'}")
    print_output(f"as fast as any larger one: {report.recommended or 'none'}")
    print_output(f"ended: {report.ended}")
    if report.recommended is not None:
        print_output(f"train.micro_batch_size: {report.recommended}")


IMPOSSIBLE = 1
"""Exit code when no order of the jobs meets the deadline, even with every proposal."""


@with_request(OptimiseRequest, deadline_minutes=parse_deadline)
def optimize(
    source: Source,
    request: OptimiseRequest,
    apply: Annotated[bool, typer.Option("--apply", help="Write the changed experiment.yaml.")] = False,
    json: Json = False,
) -> None:
    """Suggest faster settings with equivalent results."""
    from touchline.plan.placement.problem import DeadlineVerdict, Placement

    found = api.optimize(source, load_settings(), request, apply=apply)
    answer = found.answer
    if json:
        print_object(answer)
    else:
        _show_optimization(answer, found.diff)
    if found.diff:
        if apply:
            print_status(f"wrote {found.folder.yaml}, next: touchline plan {shlex.quote(str(source))}")
        else:
            print_status("nothing is written without --apply")
    placed = answer.placement_after
    if isinstance(placed, Placement) and placed.verdict is DeadlineVerdict.IMPOSSIBLE:
        raise typer.Exit(IMPOSSIBLE)


def _show_optimization(answer: Optimization, diff: str) -> None:
    from touchline.plan.optimize import speedup_text

    print_output(answer.experiment)
    if answer.proposals:
        rows = [(each.key, each.before, each.after, each.why, each.effect) for each in answer.proposals]
        wide = (Column("why", is_wide=True), Column("effect on results", is_wide=True))
        print_table(("setting", "now", "proposed", *wide), rows, title="Proposals")
    else:
        print_output("Nothing to propose.")
    sides: list[tuple[Value, ...]] = []
    for run in answer.runs:
        for name, side in ((run.name, run.before), ("", run.after)):
            if not name and run.before == run.after:
                continue
            label = name if name else f"  {run.kept or 'proposed'}"
            sides.append((label, *_cells(side), run.evaluate_seconds if name else ""))
    rest = (Column(label, is_wide=True) for label in ("micro x accumulation", "checkpointing", "packed", "evaluation"))
    columns: tuple[Column | str, ...] = ("run", "fits", "memory", "training", *rest)
    print_table(columns, sides, title="Runs, now and as proposed")
    print_output(f"Training of all runs, one after the other: {measured(answer.training_before)}")
    if answer.proposals:
        speedup = speedup_text(answer.training_before, answer.training_after)
        print_output(f"With the proposals: {measured(answer.training_after)}{f' ({speedup})' if speedup else ''}")
    print_output(f"Now: {_placed(answer.placement_before)}")
    if answer.proposals:
        print_output(f"With the proposals: {_placed(answer.placement_after)}")
    for note in answer.notes:
        print_output(f"- {note}")
    if diff:
        print_data(diff)


def _cells(side: RunOption) -> tuple[Value, ...]:

    return (
        side.verdict.value,
        f"{measured(side.peak_memory, 3)}, {side.memory_basis}",
        f"{measured(side.train_seconds)}, {side.time_basis}",
        f"{side.micro_batch_size} x {side.gradient_accumulation_steps}",
        "yes" if side.gradient_checkpointing else "no",
        "yes" if side.packed else "no",
    )


def _placed(placement: Placement | Missing) -> str:

    if isinstance(placement, Missing):
        return f"makespan n/a ({placement.missing})"
    least = format_minutes(placement.lower_bound_minutes)
    return f"{placement.verdict.value}, {placement.verdict_reason} (no order ends before {least})"
