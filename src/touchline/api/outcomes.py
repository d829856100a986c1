"""Verbs for results: status, scores, reports, comparisons, exports, audits, logs and clean-up.

Each verb imports what it needs when it is called, to keep other commands fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import MessageCallback, ProgressCallback
from touchline.core.errors import HostError, install_hint
from touchline.results import collecting
from touchline.results.collect import collect_results
from touchline.results.frame import Results
from touchline.results.scored import analyses as analyses_of
from touchline.results.status_files import RunMetrics
from touchline.run.folders import ExperimentFolder, is_experiment
from touchline.run.loaded_plan import no_such_run, read_started

if TYPE_CHECKING:
    import altair

    from touchline.core.table import Section
    from touchline.data.user_config import UserConfig
    from touchline.lint.checked import DataAudit
    from touchline.lint.local.audit import AuditRequest
    from touchline.report.compared import ComparedExperiments
    from touchline.report.local.publishing import Published
    from touchline.report.local.reporting import ReportFiles
    from touchline.report.trackers import Export
    from touchline.results.following import FailedJob, OutputLine
    from touchline.results.live_status import LiveRun
    from touchline.results.report_inputs import ResultsAnswer
    from touchline.results.run_result import RunResult
    from touchline.results.verification import Cleaned
    from touchline.statistics.conclusions import Analysis


def results(source: Path) -> Results:
    """Return the results and the status of every run, read from its files; also for folders of other tools.

    Raises:
        InputError: there is neither an experiment nor any run.
    """
    if not is_experiment(source):
        from touchline.report.local.gathering import collect_report_inputs

        return Results(collect_report_inputs(source).runs)
    planned = read_started(source)
    return Results(collect_results(planned.plan, planned.folder.root))


def results_answer(source: Path, found: Results) -> ResultsAnswer:
    """Return results with their statistical tests, and how far the strategy is.

    Raises:
        InputError: there is no plan.
    """
    from touchline.results.report_inputs import ResultsAnswer
    from touchline.results.set_matrix import set_matrix

    return ResultsAnswer(
        runs=tuple(found),
        analyses=analyses(source, found),
        strategy=ExperimentFolder(source).strategy().status() if is_experiment(source) else None,
        test_sets=set_matrix(found),
    )


def analyses(source: Path, found: Sequence[RunResult]) -> tuple[Analysis, ...]:
    """Return the statistical tests of the report, one analysis per task and score."""
    if not is_experiment(source):
        from touchline.report.local.gathering import collect_report_inputs

        gathered = collect_report_inputs(source)
        return analyses_of(found, gathered.factors)
    planned = read_started(source)
    return analyses_of(found, planned.plan.factors)


def strategy_line(source: Path) -> str:
    """Return how far the strategy of an experiment is, on one line; empty without one.

    Raises:
        InputError: there is no plan.
    """
    status = ExperimentFolder(source).strategy().status() if is_experiment(source) else None
    return "" if status is None else status.line


def strategy_section(source: Path) -> Section | None:
    """Return cuts, looks and cost of an experiment's strategy as in its report. None without a strategy.

    Raises:
        InputError: there is no plan.
    """
    if not is_experiment(source) or read_started(source).plan.strategy is None:
        return None
    from touchline.report.build import build_report
    from touchline.report.local.gathering import collect_report_inputs

    return build_report(collect_report_inputs(source)).strategy_section()


def report(
    source: Path,
    *,
    out: Path | None = None,
    deep: bool = False,
    cache: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> ReportFiles:
    """Write RESULTS.md, report.html, their figures and samples.jsonl.

    Args:
        source: experiment.yaml or its folder, or any folder with logs and checkpoints of runs.
        out: where to write (default: next to the experiment).
        deep: read every value of every checkpoint, not only headers.
        cache: folder for intermediate results (default: none).
        on_progress: receives the number of verified checkpoints and their total.

    Raises:
        InputError: there is neither an experiment nor any run.
        PolicyError: a RESULTS.md exists that touchline did not write.
    """
    from touchline.report.local.reporting import write_report

    return write_report(source, out=out, deep=deep, cache=cache, on_progress=on_progress)


def figures(source: Path) -> dict[str, altair.LayerChart]:
    """Return the figures of the report as altair charts, by their names; nothing is written.

    Args:
        source: experiment.yaml or its folder, or any folder with logs and checkpoints of runs.

    Raises:
        InputError: there is neither an experiment nor any run.
        HostError: altair is not installed.
    """
    from touchline.report.build import build_report
    from touchline.report.charts import charts
    from touchline.report.figures import altair_chart, figures_off
    from touchline.report.local.gathering import collect_report_inputs

    if figures_off():
        raise HostError("altair is not installed (needed for figures)", hint=install_hint("report"))
    return {chart.name: altair_chart(chart) for chart in charts(build_report(collect_report_inputs(source)))}


def data_audit(path: Path, request: AuditRequest | None = None) -> DataAudit:
    """Audit a dataset: duplicates, leaks between splits, labels, encoding, media.

    Args:
        path: JSON, JSONL, CSV or parquet; a folder with `train.jsonl`, `test.jsonl`, ...; an experiment.yaml or the
            its folder.
        request: columns and task.

    Raises:
        InputError: the path or an option is wrong.
        HostError: a file is not readable, or a package is missing.
    """
    from touchline.lint.local.audit import audit

    return audit(path, request)


def logs(
    source: Path,
    settings: UserConfig,
    *,
    run: str | None = None,
    evaluation: bool = False,
    lines: int = 50,
    follow: bool = False,
) -> Iterator[OutputLine]:
    """Yield the last lines of a run's latest log; with `follow`, also new lines until the run ends.

    Args:
        source: experiment.yaml, its folder, or a run's folder.
        settings: how often a queue may be queried.
        run: the run, if `source` is not its folder.
        evaluation: the evaluation's output instead of the training's.
        lines: number of lines to start with.
        follow: continue until the run ends.

    Raises:
        InputError: there is no plan, no such run, or no output to wait for.
    """
    from touchline.results.following import logs as own_logs

    return own_logs(source, settings, run=run, evaluation=evaluation, lines=lines, follow=follow)


def failures(source: Path, settings: UserConfig, *, run: str) -> list[FailedJob]:
    """Return the jobs of a run that have failed attempts, with causes and the lines that show them.

    Raises:
        InputError: there is no plan or no such run.
    """
    from touchline.results import following
    from touchline.results.watching import status

    live = [each for each in status(source, settings) if each.name == run]
    if not live:
        raise no_such_run(run, read_started(source).plan)
    return following.failures(source, live[0])


def compare(sources: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> ComparedExperiments:
    """Compare experiments with the first: differing settings, shared conditions, paired differences.

    Raises:
        InputError: fewer than two experiments, a duplicate, or a folder without an experiment.
    """
    from touchline.report.local.gathering import compare_experiments

    return compare_experiments(sources, on_progress=on_progress)


def export(
    source: Path,
    tracker: str,
    *,
    directory: Path | None = None,
    only: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Export:
    """Export to a tracker the metrics that it does not have yet. Needs no network; can be repeated.

    Args:
        source: experiment.yaml or its folder, planned.
        tracker: `tensorboard` or `wandb`.
        directory: the tracker's folder (default: its own variable, or a folder of the experiment).
        only: one run (default: all).
        on_progress: receives the number of runs exported and their total.

    Raises:
        InputError: there is no plan, no such run or tracker.
        HostError: the tracker's package is not installed, or its folder cannot be written.
        PolicyError: another export to the tracker is active.
    """
    from touchline.report.trackers import export_runs

    return export_runs(read_started(source), tracker, directory=directory, only=only, on_progress=on_progress)


def publish(
    source: Path,
    settings: UserConfig,
    *,
    run: str | None = None,
    out: Path | None = None,
    checkpoint: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> Published:
    """Write a folder for the Hugging Face Hub: a verified checkpoint and its model card. Upload nothing.

    Args:
        source: experiment.yaml, its folder, or the run's folder.
        settings: folders of models and caches, which no published file may name.
        run: the run, if `source` is not its folder.
        out: folder to write (default: `published/RUN` in the experiment).
        checkpoint: the checkpoint (default: the last one).
        license: license of the weights.
        base_model: id of the base model on the Hub (default: the one that touchline knows).

    Raises:
        InputError: there is no such run or checkpoint, or an option is wrong.
        PolicyError: the run is not finished, its checkpoint is not valid, the folder exists, or a file names this
            machine or its user.
        HostError: the folder cannot be written.
    """
    from touchline.report.local.publishing import publish_run

    return publish_run(source, run, settings, out=out, checkpoint=checkpoint, license=license, base_model=base_model)


def clean(
    source: Path, *, perform: bool = False, deep: bool = False, on_progress: ProgressCallback | None = None
) -> Cleaned:
    """List the files of an experiment that are safe to delete; delete them if asked to.

    Args:
        source: experiment.yaml or its folder, planned.
        perform: delete the files.
        deep: read every value of every checkpoint before calling it valid.
        on_progress: receives the number of verified checkpoints and their total.

    Raises:
        InputError: there is no plan.
        PolicyError: runs or another command are active.
    """
    from touchline.results.verification import clean as clean_up

    return clean_up(source, perform=perform, deep=deep, on_progress=on_progress)


def status(
    source: Path, settings: UserConfig, *, look: bool = True, on_message: MessageCallback | None = None
) -> list[LiveRun]:
    """Return the state of every run, from its folder and one query of the queue.

    Args:
        source: experiment.yaml or its folder, planned.
        settings: the cluster's options.
        look: query the executor too.
        on_message: receives the reason if the queue cannot be queried.
    """
    if not is_experiment(source):
        from touchline.report.local.gathering import snapshot

        found = snapshot(source)
        if on_message is not None:
            on_message(found.note)
        return list(found.runs)
    from touchline.results.watching import status as own_status

    return own_status(source, settings, look=look, on_message=on_message)


def collect(source: Path, settings: UserConfig) -> tuple[list[RunMetrics], list[str]]:
    """Write runs_status.yaml and each run's run_metrics.yaml, and add finished runs to the history.

    Args:
        settings: where the history is.

    Returns:
        The metrics of every run, and notes on runs that could not be stored.

    Raises:
        InputError: there is no experiment.
    """
    planned = read_started(source)
    found = collect_results(planned.plan, planned.folder.root)
    metrics = collecting.write_collected(planned, found)
    _, notes = collecting.store_finished_runs(planned, found, settings)
    return metrics, notes
