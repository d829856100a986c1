"""`touchline watch`: a live view of the runs of many experiments, and the verbs that its keys call."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from touchline.cli.output import print_output

if TYPE_CHECKING:
    from touchline.data.user_config import UserConfig
    from touchline.results.watching import Snapshot

REFRESH_SECONDS = 5.0
"""Seconds between two reads of an experiment."""
_PIPE_COLUMNS = 120
"""Width of a frame that no terminal shows."""
_LAST_LINES = 20
"""Lines of a command's output that hold its error."""


def watch(
    sources: Annotated[
        Optional[list[Path]],  # noqa: UP045 (typer reads the annotation when the command is built)
        typer.Argument(
            metavar="[EXPERIMENT]...",
            help="experiment.yaml, its folder, or a folder with experiments in it (default: the current folder).",
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=1, help="Seconds between two reads.")
    ] = REFRESH_SECONDS,
    no_queue: Annotated[bool, typer.Option("--no-queue", help="Read only the run folders, not the SLURM queue.")] = (
        False
    ),
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False,
) -> None:
    """Watch runs live; keys show logs, cancel and resume.

    Press ? for the keys. Leaving with q stops no run.
    """
    from touchline.core.errors import HostError, InputError, install_hint, quoted
    from touchline.data.user_config import load_settings

    chosen = find_experiments(sources or [Path()])
    settings = load_settings()
    reader = Reader(chosen, settings, look=not no_queue)
    if once:
        _print_frame(reader)
        return
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        asked = " ".join(quoted(str(source)) for source in sources or [])
        hint = f"touchline watch {asked} --once" if asked else "touchline watch --once"
        raise InputError("watch needs a terminal", expected="a terminal, or --once", hint=hint)
    try:
        from touchline.cli.watch_app import WatchApp
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise HostError(
            "watch needs the package textual, which is not installed",
            expected="touchline status --watch, which needs no further package, or:",
            hint=install_hint("watch"),
        ) from error
    app = WatchApp(reader, settings, interval)
    app.run()
    raise typer.Exit(app.return_code or 0)


def find_experiments(paths: Sequence[Path]) -> list[Path]:
    """Return the experiments at these paths; a folder without an experiment of its own stands for those in it.

    Raises:
        InputError: a path does not exist, or nothing is in the only folder.
    """
    from touchline.core.errors import InputError, quoted
    from touchline.run.folders import is_experiment

    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{quoted(str(path))} does not exist", expected="experiments, or a folder with some")
        inside = [] if is_experiment(path) else sorted(file.parent for file in path.glob("*/experiment.yaml"))
        found += inside or [path]
    return list(dict.fromkeys(found))


class Reader:
    """Repeated reads of several experiments; what cannot be read yields its reason."""

    def __init__(self, sources: Sequence[Path], settings: UserConfig, *, look: bool) -> None:
        self.sources = tuple(sources)
        self._settings, self._look = settings, look
        self._open: dict[Path, Callable[[], Snapshot]] = {}

    def read(self, source: Path) -> Snapshot | str:
        """Return the state of the runs of an experiment, or the reason why it cannot be read."""
        from touchline.cli.watching import snapshots
        from touchline.core.errors import TouchlineError

        try:
            if source not in self._open:
                self._open[source] = snapshots(source, self._settings, look=self._look)
            return self._open[source]()
        except TouchlineError as error:
            return error.message
        except OSError as error:
            return f"{error.strerror or error}: {error.filename or source}"


def _print_frame(reader: Reader) -> None:
    from touchline.cli.watch_text import Watched, lines

    watched = [Watched(source=source) for source in reader.sources]
    for each in watched:
        each.take(reader.read(each.source))
    head, below = lines(watched, shutil.get_terminal_size((_PIPE_COLUMNS, 24)).columns)
    for line in (head, *below):
        print_output(line.text)


def cancel_run(source: Path, settings: UserConfig, run: str) -> str:
    """Cancel the jobs of a run; return what was done."""
    from touchline import api

    names = api.cancel(source, settings, only=run)
    return f"cancel requested: {', '.join(names)}" if names else f"{run} has no active or queued job"


class Resuming:
    """Resume of a run by a command of its own, which outlives the view."""

    def __init__(self, source: Path, run: str) -> None:
        """Start the command; its output goes to a file in the experiment's folder."""
        import os

        from touchline.core.files import open_append
        from touchline.run.folders import ExperimentFolder

        self.run = run
        folder = ExperimentFolder(source)
        folder.run(run)
        folder.internal.mkdir(parents=True, exist_ok=True)
        self.output = folder.internal / f"resume-{run}.log"
        with os.fdopen(open_append(self.output), "ab") as stream:
            self._process = subprocess.Popen(  # noqa: S603 (our own words)
                [sys.executable, "-m", "touchline.cli.main", "resume", str(folder.yaml), "--run", run],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> str | None:
        """Return what the command ended with; None while it runs."""
        from touchline.run.tails import last_lines

        code = self._process.poll()
        if code is None:
            return None
        if code == 0:
            return f"resumed {self.run}: done"
        said = [line for line in last_lines(self.output, _LAST_LINES)[0] if line.strip()]
        why = next((line for line in reversed(said) if line.startswith("error:")), said[-1] if said else "no output")
        return f"resume of {self.run} ended with exit code {code}: {why}"


def resume_run(source: Path, settings: UserConfig, run: str) -> str | Resuming:
    """Submit a run again, or resume it on this machine; return what was done, or the command that does it."""
    from touchline import api
    from touchline.run.folders import ExperimentFolder

    if ExperimentFolder(source).planned().executor == "local":
        return Resuming(source, run)
    jobs = api.submit(source, settings, only=run)
    said = [" ".join(part for part in (job.job, job.word, job.job_id, job.reason) if part) for job in jobs]
    return "; ".join(said) if said else f"nothing to submit: {run} is trained and evaluated"
