"""Commands that show, compare and hand on the results of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.commands import Deep, Json, Run, Source, SourceOrRun, api, complete_run
from touchline.cli.output import (
    print_declared,
    print_json,
    print_object,
    print_output,
    print_removed,
    print_section,
    print_status,
    print_table,
)
from touchline.cli.progress import progress_bar
from touchline.core.quantity import Quantity
from touchline.core.table import Column, Value
from touchline.data.user_config import load_settings

if TYPE_CHECKING:
    from touchline.results.frame import Results


def collect(source: Source, json: Json = False) -> None:
    """Update status files; add finished runs to the history."""
    from touchline.results.status_files import RunMetrics

    found, notes = api.collect(source, load_settings())
    for note in notes:
        print_status(f"note: {note}")
    if json:
        print_json(list[RunMetrics], found, "collected")
        return
    labels = ("training", "s/step", "tokens/s", "peak memory")
    rows: list[tuple[Value, ...]] = []
    for each in found:
        memory = [each.resource_metrics.get(name) for name in ("peak_gpu_memory_gb", "peak_process_memory_gib")]
        facts = (
            each.resource_metrics.get("training_time_minutes"),
            each.performance_metrics.get("seconds_per_step"),
            each.performance_metrics.get("tokens_per_second"),
            next((fact for fact in memory if isinstance(fact, Quantity)), None),
        )
        rows.append((each.run_name, each.status, *(fact if isinstance(fact, Quantity) else None for fact in facts)))
    columns = (Column(label, numeric=True, kind=True, unit="tokens/s" if "/s" in label else "") for label in labels)
    print_table(("run", "status", *columns), rows)


def results(source: Source, json: Json = False) -> None:
    """Print scores, losses, durations and memory per run."""
    found = api.results(source)
    print_removed(source)
    if json:
        print_object(api.results_answer(source, found))
        return
    _show(found, json)
    if line := api.strategy_line(source):
        print_output(line)
    if section := api.strategy_section(source):
        print_section(section)


def _show(found: Results, json: bool) -> None:
    from touchline.results.run_result import RunResult
    from touchline.results.set_matrix import set_matrix, set_tables

    if json:
        print_json(list[RunResult], found, "runs")
        return
    for table in (found.to_table(), *set_tables(found, set_matrix(found))):
        if table is not None:
            print_declared(table)
    for line in found.answer:
        print_output(line)


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT", help="experiment.yaml, its folder, or any folder with logs and checkpoints of runs."
        ),
    ],
    target: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Output folder (default: the experiment's folder).")
    ] = None,
    deep: Deep = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Write RESULTS.md, report.html, figures and samples.jsonl.

    Of a folder that touchline did not make it finds the runs, reads logs and checkpoints, and says what is missing.
    """
    from touchline.report.report import Report

    with progress_bar("verifying checkpoints") as on_progress:
        cache = load_settings().cache_dir
        written = api.report(source, out=target, deep=deep, cache=cache, on_progress=on_progress)
    print_removed(source)
    if json:
        print_json(Report, written.report, "report")
        return
    answer = written.report.answer
    print_output("\n".join((answer.text, *answer.details)))
    if written.note:
        print_status(f"note: {written.note}")
    print_output(f"report: {written.markdown}")
    print_output(f"page: {written.page}")


def compare(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="EXPERIMENT EXPERIMENT...",
            help="Two or more: experiment.yaml, its folder, or a folder with runs that touchline did not make. "
            "The others are compared with the first.",
        ),
    ],
    json: Json = False,
) -> None:
    """Compare experiments: settings, scores, paired differences.

    Scores are compared where both runs answered the same items; where they did not, it says why.
    """
    with progress_bar("reading experiments") as on_progress:
        found = api.compare(sources, on_progress=on_progress)
    if json:
        print_object(found)
        return
    for section in found.sections():
        print_section(section)
    for note in found.notes:
        print_status(f"note: {note}")


def export(
    source: Source,
    to: Annotated[str, typer.Option("--to", metavar="tensorboard|wandb", help="Tracker.")],
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Where the tracker's files go (default: WANDB_DIR, else EXPERIMENT/exports/TRACKER).",
        ),
    ] = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """Export metrics to TensorBoard or W&B.

    Needs no network, and may be called while runs train, as often as you like; nothing is exported twice.
    """
    with progress_bar(f"exporting to {to}") as on_progress:
        done = api.export(source, to, directory=directory, only=run, on_progress=on_progress)
    if json:
        print_object(done)
    else:
        rows = [(each.run, str(each.added), str(each.total)) for each in done.runs]
        print_table(("run", Column("points added", numeric=True), Column("points in all", numeric=True)), rows)
        for each in done.runs:
            if each.command is not None:
                print_output(each.command)
    for reason in done.skipped:
        print_status(f"note: left out {reason}")
    if done.view is not None:
        print_status(f"to look at them: {done.view}")
    elif any(each.command for each in done.runs):
        print_status("To see them, type the commands on a machine with a network. Each uploads one run.")


def publish(
    source: SourceOrRun,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", autocompletion=complete_run, help="Run to publish.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write (default: EXPERIMENT/published/RUN).")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="NAME", help="Checkpoint, such as epoch_0 (default: the last)."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="License of the weights, such as apache-2.0 (default: none)."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="ID", help="Base model's id on the Hub, if touchline does not know it."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a run's weights and model card for the Hub.

    Nothing is uploaded: the command for that is printed. Only a verified checkpoint of a finished run is published.
    """
    found = api.publish(
        source, load_settings(), run=run, out=out, checkpoint=checkpoint, license=license, base_model=base_model
    )
    if json:
        print_object(found)
        return
    for name in found.files:
        print_output(f"{found.folder}/{name}")
    for note in found.notes:
        print_status(f"note: {note}")
    print_status("Nothing was uploaded. To upload, read README.md and type:")
    print_output(found.command)
