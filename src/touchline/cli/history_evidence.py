"""`touchline history replay` and `touchline history trends`: past runs taken together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from touchline.cli.output import print_object, print_section, print_status

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
History = Annotated[
    Optional[Path],  # noqa: UP045 (typer reads the annotation when the command is built)
    typer.Option("--history", metavar="DIR", help="History folder (default: history_dir in your config)."),
]
_POLICIES = ("median", "halving", "time-limit", "packing", "placement")


def replay(
    policy: Annotated[str, typer.Option("--policy", metavar="POLICY", help=f"One of {', '.join(_POLICIES)}.")],
    history: History = None,
    at: Annotated[
        str,
        typer.Option("--at", metavar="F,F", help="Points of median and halving, as fractions of the steps."),
    ] = "0.25,0.5",
    keep: Annotated[float, typer.Option("--keep", help="Share of the runs that halving keeps at each point.")] = 0.5,
    gpus: Annotated[str, typer.Option("--gpus", metavar="N,N", help="Numbers of GPUs of placement.")] = "2,4,8",
    json: Json = False,
) -> None:
    """Replay a policy over past runs.

    median and halving: later winners that they would have cut, and hours saved. time-limit: runs that a plan's limits
    would have ended, and hours asked for in vain. packing: tokens saved. placement: time saved on several GPUs. Only
    runs that were trained to their end can be replayed.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.data.user_config import load_settings
    from touchline.plan.replay.tables import replay_sections
    from touchline.plan.replay.types import Replay

    points = _fractions(at)
    counts = _counts(gpus)
    folder = history if history is not None else load_settings().history_dir
    with progress_bar("past runs") as on_progress:
        found = api.history_replay(folder, policy, at=points, keep=keep, gpus=counts, on_progress=on_progress)
    if json:
        print_object(Replay, found)
        return
    for section in replay_sections(found):
        print_section(section)


def trends(
    history: History = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", metavar="FILE", help="Write a page (.html) or Markdown (.md)."),
    ] = None,
    json: Json = False,
) -> None:
    """Show scores, costs and estimates over time.

    Best scores with intervals and device-hours of past experiments by base model and task, and how well estimates held
    by trainer and GPU.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.data.user_config import load_settings
    from touchline.plan.trends import Trends
    from touchline.report.trends import trend_sections

    folder = history if history is not None else load_settings().history_dir
    with progress_bar("past runs") as on_progress:
        found, note = api.history_trends(folder, out=out, on_progress=on_progress)
    if json:
        print_object(Trends, found)
    else:
        for section in trend_sections(found):
            print_section(section)
    if note:
        print_status(note)
    if out is not None:
        print_status(f"wrote {out}")


def _fractions(text: str) -> list[float]:
    """Return the numbers of `--at`.

    Raises:
        InputError: one of them is no number.
    """
    from touchline.core.errors import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--at: {text!r}", expected="numbers separated by commas", hint="--at 0.25,0.5") from None


def _counts(text: str) -> list[int]:
    """Return the numbers of `--gpus`.

    Raises:
        InputError: one of them is no whole number.
    """
    from touchline.core.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--gpus: {text!r}", expected="whole numbers separated by commas", hint="--gpus 2,4,8"
        ) from None
