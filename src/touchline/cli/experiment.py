"""Commands that plan and run an experiment."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from touchline.cli.commands import Deep, Json, Overrides, Probe, Retry, Run, Source, SourceOrRun, api, stated_pairs
from touchline.cli.output import (
    print_data,
    print_json,
    print_object,
    print_output,
    print_section,
    print_status,
    print_table,
    screen_width,
)
from touchline.cli.progress import ProgressDisplay, progress_bar
from touchline.cli.results import _show
from touchline.core.errors import InputError, quoted
from touchline.core.quantity import Missing
from touchline.core.table import Column
from touchline.core.units import format_bytes
from touchline.data.user_config import load_settings

if TYPE_CHECKING:
    from touchline.results.frame import Results
    from touchline.results.reproduction import Reproduction

Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="CODE", help="Ignore this error code (repeatable; saved in the plan)."),
]
Evidence = Annotated[
    list[Path] | None,
    typer.Option("--evidence", metavar="FILE", help="Log of a past run, kept in the history (repeatable)."),
]
EvidenceFacts = Annotated[
    list[str] | None,
    typer.Option("--evidence-fact", metavar="KEY=VALUE", help="Fact that those logs lack: gpu=H100 (repeatable)."),
]


def plan(
    source: Source,
    overrides: Overrides = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Re-plan started runs; old results move to superseded/.")
    ] = False,
    allow: Allow = None,
    evidence: Evidence = None,
    evidence_facts: EvidenceFacts = None,
    show: Annotated[
        list[str] | None,
        typer.Option("--show", metavar="SECTION", help="Print a section instead of the screen, or all (repeatable)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show; write nothing.")] = False,
    json: Json = False,
) -> None:
    """Check inputs, estimate costs and write the plan."""
    from touchline.api.history import add_evidence
    from touchline.api.planning import next_command
    from touchline.experiment.plan import Plan
    from touchline.plan.sections import check_names, sections
    from touchline.plan.settings import RunSetting, collect_settings

    check_names(show or ())
    settings = load_settings()
    if evidence and dry_run:
        raise InputError(
            "--evidence writes to the history, and --dry-run writes nothing",
            expected="one of them",
            hint=f"touchline history import {' '.join(quoted(str(path)) for path in evidence)}",
        )
    if evidence:
        print_status(add_evidence(evidence, settings.history_dir, stated_pairs(evidence_facts)))
    with progress_bar("tokenizing") as on_progress:
        planned = api.plan(
            source,
            settings,
            overrides or (),
            allow=allow or (),
            accept=accept,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    for note in (*planned.changes, *planned.notes):
        print_status(f"note: {note}")
    if json:
        costs = planned.folder.strategy(planned.plan).costs()
        print_json(
            Plan,
            planned.plan,
            "plan",
            settings=(tuple[RunSetting, ...], collect_settings(planned.plan)),
            marks=(dict[str, str], {**planned.marks}),
            strategy_costs=(type(costs), costs),
        )
        return
    if show:
        for section in sections(planned.plan, show, planned.findings or ()):
            print_section(section)
    else:
        print_output(planned.screen(screen_width()))
    if not dry_run:
        print_status(f"{'wrote' if planned.changed else 'unchanged:'} {planned.folder.plan_json} and runs_plan.md")
    print_status(f"next: {next_command(planned, source, dry_run=dry_run)}")


def prepare(
    source: Source,
    run: Run = None,
    accept: Annotated[bool, typer.Option("--accept", help="Adopt the edits in the run's setup_finetune.yaml.")] = False,
) -> None:
    """Write run folders with configs and job scripts."""
    planned = api.prepare(source, load_settings(), run=run, accept=accept)
    for note in planned.notes:
        print_status(f"note: {note}")
    for each in planned.folder.started_plan().runs:
        if run in (None, each.name):
            print_output(str(planned.folder.run(each.name)))


def run(
    source: Source,
    overrides: Overrides = None,
    run: Run = None,
    allow: Allow = None,
    retry: Retry = False,
    probe: Probe = True,
    json: Json = False,
) -> None:
    """Run all missing steps: plan, train, evaluate, report."""
    _work(api.run, source, json, only=run, overrides=overrides or (), allow=allow or (), retry=retry, probe=probe)


def resume(source: Source, run: Run = None, retry: Retry = False, json: Json = False) -> None:
    """Resume an interrupted experiment."""
    _work(api.resume, source, json, only=run, retry=retry)


def evaluate(
    source: Source,
    run: Run = None,
    epochs: Annotated[
        str | None, typer.Option("--epochs", metavar="last|all|N", help="Epochs whose checkpoints are evaluated.")
    ] = None,
    json: Json = False,
) -> None:
    """Evaluate trained checkpoints without current results."""
    _work(api.evaluate, source, json, only=run, epochs=epochs)


def demo(
    target: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder to create.")] = Path("touchline-demo"),
    probe: Probe = True,
) -> None:
    """Run a small real experiment from plan to report.

    SmolLM2-135M learns to capitalize words, in about four minutes on two cores."""
    print_status(f"experiment: {target / 'experiment.yaml'}. The first call creates model and data.")
    with ProgressDisplay() as bars:
        path, found = api.demo(
            target, load_settings(), probe=probe, on_progress=bars.update, on_message=bars.print_note
        )
    _show(found, False)
    print_output(f"report: {path} and report.html")


def _work(verb: Callable[..., Results], source: Path, json: bool, **options: Any) -> None:
    """Call a verb that works on runs, with their progress; show the results and name the report."""
    with ProgressDisplay() as bars:
        found = verb(source, load_settings(), **options, on_progress=bars.update, on_message=bars.print_note)
    _show(found, json)
    folder = source if source.is_dir() else source.parent
    (print_status if json else print_output)(f"report: {folder / 'RESULTS.md'} and report.html")


def design(
    source: Source,
    detect: Annotated[
        float, typer.Option("--detect", metavar="POINTS", help="Difference to establish, in points.")
    ] = 2.0,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="40gpuh", help="Device-hours to use best: 40gpuh, 40h, 90min.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write seeds and items into experiment.yaml.")] = False,
    json: Json = False,
) -> None:
    """Find how many seeds and test items a difference needs."""
    with progress_bar("planning") as on_progress:
        answer = api.design(source, load_settings(), detect=detect, budget=budget, apply=apply, on_progress=on_progress)
    if json:
        print_object(answer)
    else:
        print_output(answer.experiment)
        for section in answer.sections():
            print_section(section)
        if answer.diff:
            print_data(f"\n{answer.diff}")
    if answer.applied:
        print_status(f"wrote experiment.yaml, next: touchline plan {shlex.quote(str(source))}")
    elif answer.diff:
        print_status("nothing is written without --apply")
    if isinstance(answer.chosen, Missing):
        raise typer.Exit(1)


def reproduce(
    source: SourceOrRun,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Run to reproduce.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to train in (default: EXPERIMENT/reproduced/RUN)."),
    ] = None,
    json: Json = False,
) -> None:
    """Train a finished run again and compare the two.

    Exit code 0: byte-equal or within tolerance; 1: not reproduced; 3: data, model or task changed, nothing was trained.
    The original is only read. After an interruption, rerun the same command.
    """
    with ProgressDisplay() as bars:
        found = api.reproduce(
            source, load_settings(), run=run, out=out, on_progress=bars.update, on_message=bars.print_note
        )
    if json:
        print_object(found)
    else:
        _show_reproduction(found)
    if found.outcome.exit_code:
        raise typer.Exit(found.outcome.exit_code)


def _show_reproduction(found: Reproduction) -> None:
    print_output(f"{found.run}: {found.outcome.value}")
    for reason in found.reasons:
        print_output(f"- {reason}")
    if found.environment:
        print_output("")
        rows = [(each.what, each.original, each.reproduction) for each in found.environment]
        print_table(("different", "original", "reproduction"), rows)
    if found.checks:
        print_output("")
        checks = [(each.what, f"{each.found:.2g}", f"{each.allowed:.2g}") for each in found.checks]
        print_table(("compared", "apart", "allowed"), checks)
    if found.folder:
        print_status(f"reproduction: {found.folder}")


def clean(
    source: Source,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the listed files (default: dry run).")] = False,
    deep: Deep = False,
    json: Json = False,
) -> None:
    """List files that are safe to delete; --delete removes them.

    Corrupt checkpoints with a valid one after them, and leftovers of killed and of finished runs. The only valid copy
    of anything is never listed.
    """
    with progress_bar("checkpoints") as on_progress:
        found = api.clean(source, perform=delete, deep=deep, on_progress=on_progress)
    if json:
        print_object(found)
    elif found.items:
        rows = [(item.path, format_bytes(item.size_bytes), item.why) for item in found.items]
        what = "deleted" if delete else "safe to delete"
        print_table((what, Column("size", numeric=True), Column("why", is_wide=True)), rows)
    for kept in found.kept:
        print_status(f"corrupt and kept: {kept.path} ({', '.join(kept.codes)}): {kept.why}")
    read = "every value was read" if found.depth == "values" else "sizes and headers were read, values with --deep"
    if not found.items:
        print_status(f"nothing to delete ({read})")
    elif delete:
        print_status(f"deleted {len(found.items)} items, freed {format_bytes(found.size_bytes)}")
    else:
        again = f"touchline clean {shlex.quote(str(source))}{' --deep' if deep else ''} --delete"
        print_status(f"{len(found.items)} items to delete, {format_bytes(found.size_bytes)}; dry run ({read})")
        print_status(f"next: {again}")
