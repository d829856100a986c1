"""Folders that another tool made: the status, measurements, logs and deletable files of their runs.

There is no plan, and nothing is written into these folders. All information comes from the inputs of a report.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import InputError, PolicyError, quoted
from touchline.core.files import disk_errors, write_if_changed
from touchline.core.quantity import Missing
from touchline.report.local.gathering import collect_report_inputs
from touchline.results.cleaning import Cleaned, KeptBroken
from touchline.results.collected import RunMetrics, run_metrics
from touchline.results.following import FOLLOW_SECONDS, OutputLine
from touchline.results.live import LiveRun
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.results.runs_status import run_metrics_text, runs_status_text
from touchline.results.watching import Snapshot
from touchline.run.tails import Follower, last_lines

UNKNOWN = "another tool made this folder: no plan, queue and time limit are known; states are those of its logs"
"""Reason why some properties of such runs are unknown."""
_NOT_PLANNED = Missing(missing="nothing was planned here")


def snapshot(source: Path) -> Snapshot:
    """Return the status of the runs in a folder, based on their logs.

    Raises:
        InputError: the folder holds no run.
    """
    found = collect_report_inputs(source)
    runs = tuple(_live(run) for run in found.runs)
    return Snapshot(experiment=found.experiment, runs=runs, note=UNKNOWN, active=False)


def _live(run: RunResult) -> LiveRun:
    return LiveRun(
        name=run.name,
        kind=run.kind,
        status=run.status,
        job_state=run.job_state,
        job=None,
        evaluation=None,
        attempts=run.attempts,
        steps_done=run.steps_done,
        steps_planned=run.steps_planned,
        loss=run.final_train_loss,
        tokens_per_second=run.tokens_per_second,
        memory=run.peak_memory,
        seconds_left=_NOT_PLANNED,
        queue_reason="",
        flags=(),
    )


def collect(source: Path, out: Path | None) -> tuple[list[RunMetrics], list[str]]:
    """Return the measurements of the runs. Write them on request, but never into the folder itself.

    Args:
        source: the folder.
        out: where runs_status.yaml and each run's run_metrics.yaml are written; None: nowhere.

    Raises:
        InputError: the folder holds no run, or `out` is inside it.
    """
    found = collect_report_inputs(source)
    metrics = [run_metrics(run) for run in found.runs]
    if out is None:
        return metrics, [
            f"nothing was written into {quoted(str(source))}, which another tool made; --out DIR writes it there"
        ]
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise InputError(
            f"--out {quoted(str(out))} is in the folder that is read, which another tool made",
            expected="a folder outside it",
            hint=f"--out {quoted(source.resolve().name + '-collected')}",
        )
    with disk_errors("folder", out):
        for run in metrics:
            target = out / run.run_name
            target.mkdir(parents=True, exist_ok=True)
            write_if_changed(target / "run_metrics.yaml", run_metrics_text(run))
        out.mkdir(parents=True, exist_ok=True)
        write_if_changed(out / "runs_status.yaml", runs_status_text(found.experiment, metrics))
    return metrics, [f"written: {quoted(str(out / 'runs_status.yaml'))}"]


def clean(source: Path, *, perform: bool, deep: bool, on_progress: ProgressCallback | None) -> Cleaned:
    """Return the checkpoints that could be deleted.

    Raises:
        InputError: the folder holds no run.
        PolicyError: deletion was requested, but another tool's job may still use the folder.
    """
    if perform:
        raise PolicyError(
            f"{quoted(str(source))} was made by another tool: whether a job still works in it is not known",
            expected="the list without --delete; delete by hand what you do not need",
            hint=f"touchline clean {quoted(str(source))}",
        )
    found = collect_report_inputs(source, deep=deep, on_progress=on_progress)
    items = found.verification.storage.deletable
    going = {item.path for item in items}
    kept = tuple(
        KeptBroken(
            run=item.run,
            path=f"{item.run}/{item.name}",
            codes=tuple(dict.fromkeys(fault.code for fault in item.faults)),
            why="its weights may be of use",
        )
        for item in found.verification.checkpoints
        if not item.sound and f"{item.run}/{item.name}" not in going
    )
    size = sum(item.size_bytes for item in items)
    depth = found.verification.depth
    return Cleaned(experiment=found.experiment, depth=depth, performed=False, items=items, size_bytes=size, kept=kept)


def logs(source: Path, *, run: str | None, lines: int, follow: bool) -> Iterator[OutputLine]:
    """Yield the last lines of a run's newest log and, with `follow`, the lines added later.

    Raises:
        InputError: no run, several runs and no name, an unknown run, or a run without a log.
    """
    path = source / newest_log(collect_report_inputs(source), run)
    yield OutputLine(file=path)
    shown, end = last_lines(path, lines)
    yield from (OutputLine(line=line) for line in shown)
    follower = Follower(path, end)
    while follow:
        more, unfinished = follower.read()
        yield from (OutputLine(line=line) for line in more)
        if unfinished:
            yield OutputLine(unfinished=unfinished)
        if not more:
            time.sleep(FOLLOW_SECONDS)


def newest_log(found: ReportInputs, run: str | None) -> str:
    """Return the newest log of a run, relative to its folder's root."""
    names = [each.name for each in found.runs]
    if run is not None and run not in names:
        raise InputError(f"there is no run {run!r}", expected=f"one of {', '.join(names)}")
    if run is None and len(names) > 1:
        raise InputError(
            "which run?", expected=f"--run with one of {', '.join(names)}", hint=f"--run {quoted(names[0])}"
        )
    chosen = names[0] if run is None else run
    paths = [path for what, path in found.files.get(chosen, ()) if what == "log"]
    if not paths:
        raise InputError(f"{chosen} has no log", hint=f"touchline status {quoted(found.root)}")
    return paths[-1]
