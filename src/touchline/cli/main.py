"""`touchline`: every command parses, calls one verb and prints. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from touchline import __version__
from touchline.cli.agents import mcp_app, skill_app
from touchline.cli.backends import backend_app
from touchline.cli.catalog import data_app, models_app
from touchline.cli.checking import RENAMED_CHECK, check
from touchline.cli.cleaning import RENAMED_CLEAN, clean
from touchline.cli.command_classes import (
    AGENTS,
    CLUSTER,
    DATA_AND_MODELS,
    ESTIMATES,
    EXPERIMENT,
    RESULTS,
    GroupedCommands,
    with_old_names,
)
from touchline.cli.comparing import compare
from touchline.cli.completing import complete_run
from touchline.cli.designing import design
from touchline.cli.doctoring import doctor
from touchline.cli.estimating import ESTIMATE_PANELS, RENAMED_ESTIMATE, RENAMED_PROBE, estimate, probe
from touchline.cli.exporting import export
from touchline.cli.history import history_app
from touchline.cli.importing import import_
from touchline.cli.output import (
    print_declared,
    print_json,
    print_object,
    print_output,
    print_removed,
    print_section,
    print_status,
    print_table,
    screen_width,
    show_error,
)
from touchline.cli.packing import pack_app
from touchline.cli.placing import RENAMED_OPTIMIZE, RENAMED_PLACE, optimize, place
from touchline.cli.publishing import publish
from touchline.cli.reporting import report
from touchline.cli.reproducing import reproduce
from touchline.cli.selftesting import selftest
from touchline.cli.starting import INIT_PANELS, init
from touchline.cli.stating import stated_pairs
from touchline.cli.submitting import submit
from touchline.cli.watching import logs, status
from touchline.core.errors import InputError, TouchlineError, quoted

if TYPE_CHECKING:
    from touchline.core.table import Value
    from touchline.results.frame import Results

app = typer.Typer(
    name="touchline",
    cls=GroupedCommands,
    help="Plan, run and report LLM fine-tuning experiments.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print_output(f"touchline {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Plan, run and report LLM fine-tuning experiments."""
    del version


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

Source = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, for example train.epochs=2.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
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
Retry = Annotated[bool, typer.Option("--retry", help="Also retry runs that failed twice with the same error.")]
Probe = Annotated[bool, typer.Option("--probe/--no-probe", help="Measure a few steps of unmeasured models first.")]
Run = Annotated[str | None, typer.Option("--run", metavar="RUN", autocompletion=complete_run, help="Only this run.")]


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
    from touchline import api
    from touchline.api.history import add_evidence
    from touchline.api.planning import next_command
    from touchline.cli.progress import progress_bar
    from touchline.data.user_config import load_settings
    from touchline.experiment.plan import Plan
    from touchline.plan.sections import check_names, sections
    from touchline.plan.settings import collect_settings
    from touchline.plan.settings_table import RunSetting

    check_names(show or ())
    settings = load_settings()
    if evidence and dry_run:
        raise InputError(
            "--evidence writes to the history, and --dry-run writes nothing",
            expected="one of them",
            hint=f"touchline history import {' '.join(quoted(str(path)) for path in evidence)}",
        )
    if evidence:
        print_status(add_evidence(evidence, settings.history_dir, stated_pairs(evidence_facts or [])))
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
    from touchline import api
    from touchline.data.user_config import load_settings

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
    from touchline import api

    _work(api.run, source, json, only=run, overrides=overrides or (), allow=allow or (), retry=retry, probe=probe)


def resume(source: Source, run: Run = None, retry: Retry = False, json: Json = False) -> None:
    """Resume an interrupted experiment."""
    from touchline import api

    _work(api.resume, source, json, only=run, retry=retry)


def cancel(
    source: Source, run: Run = None, every: Annotated[bool, typer.Option("--all", help="Every run.")] = False
) -> None:
    """Cancel runs; running jobs save their state first."""
    from touchline import api
    from touchline.data.user_config import load_settings

    if (run is None) != every:
        raise InputError(
            "no run selected", expected="--run RUN or --all", hint=f"touchline status {quoted(str(source))}"
        )
    names = api.cancel(source, load_settings(), only=run)
    for name in names:
        print_output(name)
    print_status(f"cancelled: {len(names)}" if names else "no active or queued jobs")


def evaluate(
    source: Source,
    run: Run = None,
    epochs: Annotated[
        str | None, typer.Option("--epochs", metavar="last|all|N", help="Epochs whose checkpoints are evaluated.")
    ] = None,
    json: Json = False,
) -> None:
    """Evaluate trained checkpoints without current results."""
    from touchline import api

    _work(api.evaluate, source, json, only=run, epochs=epochs)


def collect(source: Source, json: Json = False) -> None:
    """Update status files; add finished runs to the history."""
    from touchline import api
    from touchline.core.quantity import Quantity
    from touchline.core.table import Column
    from touchline.data.user_config import load_settings
    from touchline.results.collected import RunMetrics

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
    from touchline import api
    from touchline.results.report_inputs import ResultsAnswer

    found = api.results(source)
    print_removed(source)
    if json:
        print_object(ResultsAnswer, api.results_answer(source, found))
        return
    _show(found, json)
    if line := api.strategy_line(source):
        print_output(line)
    if section := api.strategy_section(source):
        print_section(section)


def demo(
    target: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder to create.")] = Path("touchline-demo"),
    probe: Probe = True,
) -> None:
    """Run a small real experiment from plan to report.

    SmolLM2-135M learns to capitalize words, in about four minutes on two cores."""
    from touchline import api
    from touchline.cli.progress import ProgressDisplay
    from touchline.data.user_config import load_settings

    print_status(f"experiment: {target / 'experiment.yaml'}. The first call creates model and data.")
    with ProgressDisplay() as bars:
        path, found = api.demo(
            target, load_settings(), probe=probe, on_progress=bars.update, on_message=bars.print_note
        )
    _show(found, False)
    print_output(f"report: {path} and report.html")


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


def _work(verb: Callable[..., Results], source: Path, json: bool, **options: Any) -> None:
    """Call a verb that works on runs, with their progress; show the results and name the report."""
    from touchline.cli.progress import ProgressDisplay
    from touchline.data.user_config import load_settings

    with ProgressDisplay() as bars:
        found = verb(source, load_settings(), **options, on_progress=bars.update, on_message=bars.print_note)
    _show(found, json)
    folder = source if source.is_dir() else source.parent
    (print_status if json else print_output)(f"report: {folder / 'RESULTS.md'} and report.html")


_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    EXPERIMENT: (init, import_, demo, check, plan, design, prepare, run, resume, evaluate, reproduce, clean),
    RESULTS: (status, logs, results, report, compare, collect, export, publish),
    CLUSTER: (submit, cancel, place, doctor, selftest),
    ESTIMATES: (estimate, probe, optimize),
}
"""Commands in the order of the help."""
_RENAMED = {
    check: RENAMED_CHECK,
    clean: RENAMED_CLEAN,
    estimate: RENAMED_ESTIMATE,
    evaluate: {"--epoch": "--epochs"},
    optimize: RENAMED_OPTIMIZE,
    place: RENAMED_PLACE,
    plan: {"--prior": "--evidence"},
    probe: RENAMED_PROBE,
}
"""Old option names of commands -> new names."""
_PANELS = {estimate: ESTIMATE_PANELS, init: INIT_PANELS}
"""Panels of the options of commands with many."""
for _group, _commands in _COMMANDS.items():
    for _command in _commands:
        # `import` is a word of Python, so its function ends in an underscore.
        _name = _command.__name__.rstrip("_")
        _class = with_old_names(_RENAMED.get(_command, {}), _PANELS.get(_command))
        app.command(_name, rich_help_panel=_group, cls=_class)(_command)
app.add_typer(data_app, name="data", rich_help_panel=DATA_AND_MODELS)
app.add_typer(models_app, name="models", rich_help_panel=DATA_AND_MODELS)
app.add_typer(pack_app, name="pack", rich_help_panel=DATA_AND_MODELS)
app.add_typer(backend_app, name="backend", rich_help_panel=CLUSTER)
app.add_typer(history_app, name="history", rich_help_panel=ESTIMATES)
app.add_typer(skill_app, name="skill", rich_help_panel=AGENTS)
app.add_typer(mcp_app, name="mcp", rich_help_panel=AGENTS)


def main() -> None:
    """Run the command line; turn errors into messages and exit codes, never tracebacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that is not UTF-8, or a sign that the terminal does not know, is shown as its escape.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt  # typer returns this code for Ctrl-C and prints nothing
    except TouchlineError as error:
        show_error(error)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_status("interrupted; rerun the same command to resume")
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read stdout has gone; nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _unexpected(error)
    sys.exit(code if isinstance(code, int) else 0)


def _unexpected(error: Exception) -> int:
    """Print a usage error, an error of the operating system, or an internal error; return the exit code."""
    show = getattr(error, "show", None)
    if callable(show):
        show(file := io.StringIO())
        print_status(file.getvalue().rstrip())
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, OSError):
        print_status(f"error: {error.strerror or error}: {error.filename or ''}")
        return 4
    with tempfile.NamedTemporaryFile("w", prefix="touchline-", suffix=".txt", delete=False) as stream:
        traceback.print_exc(file=stream)
    print_status(f"internal error: {type(error).__name__}: {error}")
    print_status(f"  hint: please report it with {stream.name}")
    return 4


if __name__ == "__main__":
    main()
