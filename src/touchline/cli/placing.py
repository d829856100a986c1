"""`touchline place` and `touchline optimize`: jobs on GPUs against a deadline, and faster settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from touchline.cli.output import print_data, print_object, print_output, print_status, print_table
from touchline.core.errors import InputError

if TYPE_CHECKING:
    from touchline.core.quantity import Missing
    from touchline.core.table import Value
    from touchline.plan.optimize import Optimization, RunOption
    from touchline.plan.placement.problem import Placement

RENAMED_PLACE = {"--cpus": "--cpus-per-node", "--memory-gb": "--node-memory-gib", "--emit": "--write-scripts"}
"""Old option names -> new names."""

GpusPerNode = Annotated[
    int | None, typer.Option("--gpus-per-node", min=1, help="GPUs per node; jobs never span nodes (default: all).")
]
CpusPerNode = Annotated[
    int | None, typer.Option("--cpus-per-node", min=1, help="CPUs per node (default: not counted).")
]
EvaluationMinutes = Annotated[
    float | None,
    typer.Option("--evaluation-minutes", min=0, metavar="N", help="Minutes per evaluation (default: the prediction)."),
]


def place(
    jobs: Annotated[
        Path,
        typer.Argument(metavar="JOBS.json|EXPERIMENT", help="Job list (id, after, gpus, minutes) or an experiment."),
    ],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Number of GPUs.")],
    gpus_per_node: GpusPerNode = None,
    cpus_per_node: CpusPerNode = None,
    node_memory_gib: Annotated[
        float | None, typer.Option("--node-memory-gib", help="Host memory per node, in GiB (default: not counted).")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option("--deadline", metavar="6h", help="Deadline, counted from the start of the first job.")
    ] = None,
    write_scripts: Annotated[
        Literal["mega"] | None, typer.Option("--write-scripts", help="Write mega_job.slurm.")
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="8h", help="Time limit of mega_job.slurm (default: the deadline).")
    ] = None,
    evaluation_minutes: EvaluationMinutes = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Schedule jobs on GPUs against a deadline."""
    from touchline import api
    from touchline.plan.placement.problem import Cluster, Placement

    cluster = Cluster(gpus=gpus, gpus_per_node=gpus_per_node, cpus=cpus_per_node, memory_gb=node_memory_gib)
    notes: list[str] = []
    files: list[Path] = []
    if jobs.is_dir() or jobs.suffix in (".yaml", ".yml"):
        from touchline.data.user_config import load_settings
        from touchline.plan.local.job_list import parse_deadline
        from touchline.run.allocation import PlaceRequest

        request = PlaceRequest(
            cluster=cluster,
            deadline_minutes=parse_deadline(deadline),
            evaluation_minutes=evaluation_minutes,
            writes_script=write_scripts is not None,
            time_minutes=parse_deadline(time),
        )
        found, files, notes = api.place_experiment(jobs, load_settings(), request)
    else:
        if write_scripts is not None:
            raise InputError("--write-scripts needs an experiment", expected="its folder, or its experiment.yaml")
        found = api.place(jobs, cluster, deadline)
    if json:
        print_object(Placement, found)
    else:
        _show(found)
    for note in notes:
        print_status(f"note: {note}")
    for path in files:
        print_status(f"wrote {path}")


def _show(found: Placement) -> None:
    from touchline.core.quantity import Missing
    from touchline.core.table import Column
    from touchline.core.units import format_minutes as minutes
    from touchline.core.units import percent

    chance = str(found.probability) if isinstance(found.probability, Missing) else percent(found.probability, 0)
    print_output(f"{found.verdict.value}: {found.verdict_reason}")
    print_output(f"the last job ends after {minutes(found.makespan_minutes)}, chance to meet the deadline {chance}")
    print_output(f"bound: no order ends before {minutes(found.lower_bound_minutes)} ({found.bounds[0].why})")
    rows = [
        (
            slot.id,
            minutes(slot.start_minutes),
            minutes(slot.end_minutes),
            ", ".join(map(str, slot.gpus)) or "-",
            str(slot.node),
            str(slot.priority + 1),
        )
        for slot in found.schedule
    ]
    numbers = (Column(label, numeric=True) for label in ("starts", "ends"))
    wide = (Column(label, is_wide=True) for label in ("node", "priority"))
    print_table(("job", *numbers, "GPUs", *wide), rows)
    for note in found.notes:
        print_output(f"- {note}")


RENAMED_OPTIMIZE = {"--cpus": "--cpus-per-node", "--memory-gb": "--node-memory-gib"}
"""Old option names -> new names."""
IMPOSSIBLE = 1
"""Exit code when no order of the jobs meets the deadline, even with every proposal."""


def optimize(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Number of GPUs.")] = 1,
    deadline: Annotated[
        str | None, typer.Option("--deadline", metavar="6h", help="Deadline (default: compute.deadline).")
    ] = None,
    gpus_per_node: GpusPerNode = None,
    cpus_per_node: CpusPerNode = None,
    node_memory_gib: Annotated[
        float | None, typer.Option("--node-memory-gib", min=0.001, help="Host memory per node, in GiB.")
    ] = None,
    evaluation_minutes: EvaluationMinutes = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the changed experiment.yaml.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Suggest faster settings with equivalent results."""
    from touchline import api
    from touchline.core.units import parse_duration, seconds_to_minutes
    from touchline.data.user_config import load_settings
    from touchline.plan.optimize import Optimization
    from touchline.plan.placement.problem import Cluster, DeadlineVerdict, Placement
    from touchline.tools.optimising import OptimiseRequest

    request = OptimiseRequest(
        cluster=Cluster(gpus=gpus, gpus_per_node=gpus_per_node, cpus=cpus_per_node, memory_gb=node_memory_gib),
        deadline_minutes=None if deadline is None else seconds_to_minutes(parse_duration(deadline)),
        evaluation_minutes=evaluation_minutes,
    )
    found = api.optimize(source, load_settings(), request, apply=apply)
    answer = found.answer
    if json:
        print_object(Optimization, answer)
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
    from touchline.core.table import Column
    from touchline.core.units import measured
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
    from touchline.core.units import measured

    return (
        side.verdict.value,
        f"{measured(side.peak_memory, 3)}, {side.memory_basis}",
        f"{measured(side.train_seconds)}, {side.time_basis}",
        f"{side.micro_batch_size} x {side.gradient_accumulation_steps}",
        "yes" if side.gradient_checkpointing else "no",
        "yes" if side.packed else "no",
    )


def _placed(placement: Placement | Missing) -> str:
    from touchline.core.quantity import Missing
    from touchline.core.units import format_minutes

    if isinstance(placement, Missing):
        return f"makespan n/a ({placement.missing})"
    least = format_minutes(placement.lower_bound_minutes)
    return f"{placement.verdict.value}, {placement.verdict_reason} (no order ends before {least})"
