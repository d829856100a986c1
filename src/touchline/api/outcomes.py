"""The verbs for what came out: a report, a comparison, a tracker's copy, and what may be deleted.

What they load takes longer than most commands, so each loads it when it is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import ProgressCallback
from touchline.run.planning import read_planned

if TYPE_CHECKING:
    from touchline.data.user_config import UserConfig
    from touchline.lint.audited import DataAudit
    from touchline.lint.local.audit import AuditRequest
    from touchline.report.compared import ComparedExperiments
    from touchline.report.local.reporting import ReportFiles
    from touchline.report.trackers.exported import Export
    from touchline.results.cleaned import Cleaned
    from touchline.results.following import OutputLine


def report(
    source: Path,
    *,
    out: Path | None = None,
    deep: bool = False,
    parquet: bool = False,
    cache: Path | None = None,
    refresh_seconds: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> ReportFiles:
    """Write RESULTS.md, report.html, their figures and samples.jsonl from what is there.

    Args:
        source: experiment.yaml or its folder, or any folder with logs and checkpoints of runs.
        out: where to write; beside the experiment when None.
        deep: read every value of every checkpoint, not only headers.
        parquet: write the answers as samples.parquet too.
        cache: where what takes long to put together may be kept; none: nowhere.
        refresh_seconds: how often the page loads itself anew while runs are at work; none: never.
        on_progress: receives how many checkpoints are verified, of how many.

    Raises:
        InputError: there is neither an experiment nor any run.
        PolicyError: a RESULTS.md is there that touchline did not write.
    """
    from touchline.report.local.reporting import write_report

    return write_report(
        source,
        out=out,
        deep=deep,
        parquet=parquet,
        cache=cache,
        refresh_seconds=refresh_seconds,
        on_progress=on_progress,
    )


def data_audit(path: Path, request: AuditRequest | None = None, *, plot: Path | None = None) -> DataAudit:
    """Audit a dataset: duplicates, leaks between splits, labels, encoding, media.

    Args:
        path: JSON, JSONL, CSV or parquet; a folder with `train.jsonl`, `test.jsonl`, ...; an experiment.yaml or the
            folder that it is in.
        request: columns, task and scorer.
        plot: where to draw lengths and answers; None: nowhere.

    Raises:
        InputError: the path is nothing of these, or an option is wrong.
        HostError: it may not be read, needs a package that is not installed, or cannot be drawn.
    """
    from touchline.lint.local.audit import audit

    found, rows = audit(path, request)
    if plot is not None:
        from touchline.report.audit import audit_figure
        from touchline.report.figures import Figure
        from touchline.report.local.drawing import write_picture

        empty = Figure(spec=None, note="There are no rows to draw.")
        write_picture(empty if rows is None else audit_figure(rows), plot)
    return found


def logs(
    source: Path,
    settings: UserConfig,
    *,
    run: str | None = None,
    evaluation: bool = False,
    lines: int = 50,
    follow: bool = False,
) -> Iterator[OutputLine]:
    """Yield the last lines of a run's newest output, and with `follow` what is added until the run ends.

    Args:
        source: experiment.yaml, its folder, a run's folder, or a folder that another tool made.
        settings: how often a queue may be asked.
        run: the run, where `source` is not its folder.
        evaluation: the evaluation's output instead of the training's.
        lines: how many lines to begin with.
        follow: go on until the run ends.

    Raises:
        InputError: no plan, no such run, or there is no output and none to wait for.
    """
    from touchline.run.folders import is_experiment

    if is_experiment(source) or (source.resolve().parent / "experiment.yaml").is_file():
        from touchline.results.following import logs as own_logs

        return own_logs(source, settings, run=run, evaluation=evaluation, lines=lines, follow=follow)
    from touchline.report.local.foreign import logs as foreign_logs

    return foreign_logs(source, run=run, lines=lines, follow=follow)


def compare(sources: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> ComparedExperiments:
    """Hold experiments against the first: settings that differ, the same conditions side by side, paired differences.

    Raises:
        InputError: fewer than two, one twice, or one that is none.
    """
    from touchline.report.local.comparing import compare_experiments

    return compare_experiments(sources, on_progress=on_progress)


def export(
    source: Path,
    tracker: str,
    *,
    directory: Path | None = None,
    only: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Export:
    """Hand to a tracker what it does not hold yet of the runs' metrics; without network, again and again.

    Raises:
        InputError: no plan, no such run.
        HostError: the tracker's package is not installed.
        PolicyError: another export to it is at work.
    """
    from touchline.report.trackers.exporting import export_runs

    return export_runs(read_planned(source), tracker, directory=directory, only=only, on_progress=on_progress)


def clean(
    source: Path, *, perform: bool = False, deep: bool = False, on_progress: ProgressCallback | None = None
) -> Cleaned:
    """Find what of an experiment may go without loss, and remove it when asked to.

    Args:
        source: experiment.yaml or its folder, planned, or a folder that another tool made.
        perform: remove it; else it is only shown. Nothing is removed of what another tool made.
        deep: read every value of every checkpoint before one is called sound.
        on_progress: receives how many checkpoints are verified, of how many.

    Raises:
        InputError: there is no plan, and no run of another tool.
        PolicyError: runs are at work, or another command is; or another tool's files should be removed.
    """
    from touchline.run.folders import is_experiment

    if not is_experiment(source):
        from touchline.report.local import foreign

        return foreign.clean(source, perform=perform, deep=deep, on_progress=on_progress)
    from touchline.results.cleaning import clean as clean_up

    return clean_up(source, perform=perform, deep=deep, on_progress=on_progress)
