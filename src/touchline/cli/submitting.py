"""`touchline submit`: in a terminal, the totals of the jobs and a question before the first one."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.completing import complete_run
from touchline.cli.output import confirm, print_json, print_status, print_table

if TYPE_CHECKING:
    from touchline.run.budget import JobTotals


def submit(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")],
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", autocompletion=complete_run, help="Only this run.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Also retry runs that failed twice with the same error.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Submit without asking, as outside a terminal.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Submit unfinished runs to SLURM and return.

    In a terminal it shows the totals of the jobs and asks first."""
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.core.callbacks import ProgressCallback
    from touchline.data.user_config import load_settings
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
    from touchline.core.units import measured, plural

    kinds = f"{plural(totals.trainings, 'training')}, {plural(totals.evaluations, 'evaluation')}"
    print_status(f"{plural(totals.trainings + totals.evaluations, 'job')}: {kinds}")
    print_status(f"predicted: {measured(totals.device_hours)} of devices")
    print_status(f"by their time limits, at most: {measured(totals.limit_hours)} of devices")
    confirm("Submit?")
