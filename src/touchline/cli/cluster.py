"""Commands for jobs and machines: `submit`, `cancel`, `place`, `doctor`, `selftest`, `backend`."""

from __future__ import annotations

import contextlib
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.commands import Json, Retry, Run, Source, api, is_given, parse_deadline, with_request
from touchline.cli.output import confirm, print_json, print_object, print_output, print_status, print_table
from touchline.cli.progress import ProgressDisplay, progress_bar
from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError, quoted
from touchline.core.quantity import Measured, Missing
from touchline.core.table import Column
from touchline.core.units import format_minutes as minutes
from touchline.core.units import format_seconds, measured, percent, plural
from touchline.data.user_config import load_settings
from touchline.experiment.requests import PlaceRequest

if TYPE_CHECKING:
    from touchline.history.probe import NodeCheck, SelftestReport
    from touchline.plan.placement.problem import Placement
    from touchline.run.budget import JobTotals
    from touchline.tools.environments import BackendState


def submit(
    source: Source,
    run: Run = None,
    retry: Retry = False,
    yes: Annotated[bool, typer.Option("--yes", help="Submit without asking, as outside a terminal.")] = False,
    json: Json = False,
) -> None:
    """Submit unfinished runs to SLURM and return.

    In a terminal it shows the totals of the jobs and asks first."""
    from touchline.run.launching import ignore_totals
    from touchline.run.queue import Submitted

    asks = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    bar: list[ProgressCallback | None] = []
    with contextlib.ExitStack() as stack:

        def on_progress(done: int, total: int) -> None:
            # The bar begins behind the answer, which it would redraw.
            if not bar:
                bar.append(stack.enter_context(progress_bar("submitting")))
            if bar[0] is not None:
                bar[0](done, total)

        found = api.submit(
            source,
            load_settings(),
            only=run,
            retry=retry,
            on_progress=on_progress,
            on_totals=_ask_to_submit if asks else ignore_totals,
            on_message=print_status,
        )
    if json:
        print_json(list[Submitted], found, "jobs")
    else:
        print_table(
            ("job", "id", "", "why"), [(each.job, each.job_id or "-", each.word, each.reason) for each in found]
        )
    if not found:
        print_status("nothing to submit: every run is trained and evaluated")
    later = sum(each.word == "later" for each in found)
    if later:
        again = f"touchline submit {shlex.quote(str(source))}"
        if any(each.word in ("refused", "unclear") for each in found):
            print_status(f"{later} jobs not submitted, see above; then rerun: {again}")
        else:
            print_status(f"{later} jobs deferred (queue limit); rerun later: {again}")
    if any(each.word in ("refused", "unclear", "stopped") for each in found):
        raise typer.Exit(1)


def _ask_to_submit(totals: JobTotals) -> None:
    """Show the totals of the jobs and ask.

    Raises:
        typer.Abort: the answer is no.
    """
    kinds = f"{plural(totals.trainings, 'training')}, {plural(totals.evaluations, 'evaluation')}"
    print_status(f"{plural(totals.trainings + totals.evaluations, 'job')}: {kinds}")
    print_status(f"predicted: {measured(totals.device_hours)} of devices")
    print_status(f"by their time limits, at most: {measured(totals.limit_hours)} of devices")
    confirm("Submit?")


def cancel(
    source: Source, run: Run = None, every: Annotated[bool, typer.Option("--all", help="Every run.")] = False
) -> None:
    """Cancel runs; running jobs save their state first."""
    if (run is None) != every:
        raise InputError(
            "no run selected", expected="--run RUN or --all", hint=f"touchline status {quoted(str(source))}"
        )
    names = api.cancel(source, load_settings(), only=run)
    for name in names:
        print_output(name)
    print_status(f"cancelled: {len(names)}" if names else "no active or queued jobs")


@with_request(PlaceRequest, deadline_minutes=parse_deadline, writes_script=is_given, time_minutes=parse_deadline)
def place(
    jobs: Annotated[
        Path,
        typer.Argument(metavar="JOBS.json|EXPERIMENT", help="Job list (id, after, gpus, minutes) or an experiment."),
    ],
    request: PlaceRequest,
    json: Json = False,
) -> None:
    """Schedule jobs on GPUs against a deadline."""
    notes: list[str] = []
    files: list[Path] = []
    if jobs.is_dir() or jobs.suffix in (".yaml", ".yml"):
        found, files, notes = api.place_experiment(jobs, load_settings(), request)
    else:
        if request.writes_script:
            raise InputError("--write-scripts needs an experiment", expected="its folder, or its experiment.yaml")
        found = api.place(jobs, request.cluster, request.deadline_minutes)
    if json:
        print_object(found)
    else:
        _show_placement(found)
    for note in notes:
        print_status(f"note: {note}")
    for path in files:
        print_status(f"wrote {path}")


def _show_placement(found: Placement) -> None:

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


def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Folder of experiments.", show_default=False)
    ] = Path(),
    json: Json = False,
) -> None:
    """Check Python, folders, GPUs, SLURM and your config."""
    report = api.doctor(folder, load_settings())
    if json:
        print_object(report)
    else:
        rows = [(check.name, check.status, check.message) for check in report.checks]
        print_table(("what", "verdict", "result"), rows)
        for check in report.checks:
            if check.hint is not None:
                print_output(f"- {check.name} ({check.status} {check.code}): {check.hint}")
        if not Path(report.config_file).exists():
            print_status(f"no config file at {report.config_file}")
    warnings = sum(check.status == "warning" for check in report.checks)
    print_status(f"{plural(report.errors, 'error')}, {plural(warnings, 'warning')}")
    if report.errors:
        raise typer.Exit(1)


COLUMNS = 80
_VERDICT_COLUMNS = 14
_NAME_COLUMNS = 24


def selftest(json: Json = False) -> None:
    """Verify training, memory and speed on this machine."""
    with ProgressDisplay() as bars:
        report = api.selftest(on_progress=bars.update)
    if json:
        print_object(report)
    else:
        show_report(report)
    if report.failed:
        raise typer.Exit(1)


def show_report(report: SelftestReport) -> None:
    """Print a line per check, and a summary."""
    from touchline.history.probe import Verdict

    print_output(f"touchline {report.touchline_version} on {report.machine}\n")
    for check in report.checks:
        print_output(_check_line(check))
    counts = {verdict: sum(check.verdict is verdict for check in report.checks) for verdict in Verdict}
    words = [f"{number} {verdict.value}" for verdict, number in counts.items()]
    print_output(f"\n{plural(len(report.checks), 'check')}: {', '.join(words)}; {format_seconds(report.seconds)}")


def _check_line(check: NodeCheck) -> str:
    """Return a check within 80 columns: verdict, name, figures or reason."""
    words = [_figure(name, value) for name, value in check.figures.items()]
    words += [check.message] if check.message else []
    words += [check.reason.missing] if check.reason is not None else []
    head = f"{check.verdict.value.ljust(_VERDICT_COLUMNS)}{check.name.ljust(_NAME_COLUMNS)} "
    return textwrap.fill(
        ", ".join(words), COLUMNS, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )


def _figure(name: str, value: Measured) -> str:
    """Return a figure: `loss 1.31 nats`."""
    if isinstance(value, Missing):
        return f"{name} n/a"
    text = f"{value.value:,.0f}" if value.value >= 1000 else f"{value.value:.3g}"
    return f"{name} {text}" + ("" if value.unit == "1" else f" {value.unit}")


backend_app = typer.Typer(
    help="List trainers; install one that needs its own Python.", no_args_is_help=True, rich_markup_mode=None
)


@backend_app.command("list")
def backend_list(json: Json = False) -> None:
    """List the trainers, and whether each can run here."""
    from touchline.tools.environments import BackendState, backend_states

    found = backend_states()
    if json:
        print_json(list[BackendState], list(found), "backends")
    else:
        _show_backends(found)


@backend_app.command("install")
def backend_install(
    name: Annotated[str, typer.Argument(help="A trainer with an environment of its own.")], json: Json = False
) -> None:
    """Make the environment of a trainer, unless it is there."""
    from touchline.tools.environments import BackendState, install_environment

    found = install_environment(name, print_status)
    if json:
        print_json(BackendState, found, "backend")
    else:
        _show_backends((found,))


def _show_backends(found: tuple[BackendState, ...]) -> None:

    rows = [
        (
            each.name,
            "yes" if each.installed else each.problem or "no",
            ", ".join(f"{name} {version}" for name, version in each.versions.items()),
            each.note or "",
            each.python or "-",
        )
        for each in found
    ]
    wide = (Column(label, is_wide=True) for label in ("packages", "remark", "Python"))
    print_table(("backend", "installed", *wide), rows)
