"""`touchline`: every command parses, calls one verb and prints. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from touchline import __version__
from touchline.cli.agents import mcp_app, skill_app
from touchline.cli.catalog import data_app, models_app, pack_app
from touchline.cli.cluster import backend_app, cancel, doctor, place, selftest, submit
from touchline.cli.commands import (
    AGENTS,
    CLUSTER,
    DATA_AND_MODELS,
    ESTIMATES,
    EXPERIMENT,
    RESULTS,
    GroupedCommands,
    old_names,
    with_old_names,
)
from touchline.cli.estimates import ESTIMATE_PANELS, estimate, optimize, probe
from touchline.cli.experiment import clean, demo, design, evaluate, plan, prepare, reproduce, resume, run
from touchline.cli.history import history_app
from touchline.cli.output import print_output, print_status, show_error
from touchline.cli.results import collect, compare, export, publish, report, results
from touchline.cli.watching import logs, status
from touchline.cli.writing import INIT_PANELS, check, import_, init
from touchline.core.errors import TouchlineError
from touchline.data.requests import EstimateRequest
from touchline.experiment.requests import CheckRequest, OptimiseRequest, PlaceRequest

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

_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    EXPERIMENT: (init, import_, demo, check, plan, design, prepare, run, resume, evaluate, reproduce, clean),
    RESULTS: (status, logs, results, report, compare, collect, export, publish),
    CLUSTER: (submit, cancel, place, doctor, selftest),
    ESTIMATES: (estimate, probe, optimize),
}
"""Commands in the order of the help."""
_RENAMED = {
    check: old_names(CheckRequest),
    clean: {"--perform": "--delete"},
    estimate: old_names(EstimateRequest),
    evaluate: {"--epoch": "--epochs"},
    optimize: old_names(OptimiseRequest),
    place: old_names(PlaceRequest),
    plan: {"--prior": "--evidence"},
    probe: {"--limit-gib": "--memory-limit-gib"},
}
"""Old option names of commands -> new names."""
_PANELS = {estimate: ESTIMATE_PANELS, init: INIT_PANELS}
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
