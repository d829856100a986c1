"""The verbs of touchline, one function each, in the order in which people use them. Start reading here.

    check     experiments, configs, scripts, data -> findings   what would fail after hours in the queue
    plan      experiment.yaml -> plan.json, runs_plan.md        nothing is queued, nothing is trained
    prepare   plan.json -> one folder a run                     configs and scripts that you could have typed
    run       train what is missing, evaluate, report           safe to kill and to call again, always
    submit    the same handed to SLURM, without waiting         drops what it cannot take; call it again
    resume    go on with the plan after anything                a kill, a reboot, a closed terminal
    status    how every run stands now                          `cancel` asks runs to save and end
    place     jobs on GPUs before a deadline                    `optimize` says what would help to make it
    doctor    what is missing on this machine and its cluster
    evaluate  checkpoints -> genuine .eval logs                 again and later
    results   what was measured, and what is missing and why    from the files alone
    collect   runs_status.yaml, run_metrics.yaml                what the runs taught goes into the history
    report    RESULTS.md, report.html                       of any folder with logs and checkpoints, too
    compare   two experiments or more, side by side         paired where the items are the same
    export    metrics.jsonl -> the tracker of your choice   idempotent; from the login node
    clean     what may be deleted without loss              shows; acts when told to
    demo      all of it, on a small real model
    pack      lengths -> rows, by a trainer's own batching      `pack_write` hands them over, `pack_check` tries a model
    history_* any training log -> what it really says, and a folder of records that later plans are made from

Each verb takes values and gives values; it prints nothing. What is slow takes `say`, which hears of progress, and what
decides things on the way takes `tell`, which hears them in a sentence.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.api.history import (
    history_add,
    history_calibration,
    history_export,
    history_list,
    history_read,
    history_rebuild,
    history_show,
)
from touchline.api.outcomes import clean, compare, export, report
from touchline.api.packing import pack, pack_check, pack_write
from touchline.api.placement import optimize, place
from touchline.core.callbacks import MessageCallback, ProgressCallback, ignore_message
from touchline.core.errors import InputError, PolicyError
from touchline.core.files import read_text_bounded, write_if_changed
from touchline.data.create import create_capitalization
from touchline.data.user_config import UserConfig
from touchline.results import collecting
from touchline.results.collect import collect_results
from touchline.results.collected import RunMetrics
from touchline.results.frame import Results
from touchline.results.run_result import RunResult
from touchline.run import launching
from touchline.run import selection as running
from touchline.run.folders import ExperimentFolder, is_experiment
from touchline.run.model_download import EXPORTABLE, get_model
from touchline.run.planning import (
    LoadedPlan,
    accept_edits,
    commit_plan,
    read_planned,
    refuse_edits,
    refuse_findings,
    resolve,
)
from touchline.run.preparing import write_folders
from touchline.run.selection import JobProgressCallback
from touchline.run.submitted import Submitted
from touchline.spec.bounds import SIZE_LIMIT_BYTES
from touchline.spec.read import read_experiment
from touchline.statistics.conclusions import Analysis

if TYPE_CHECKING:
    from touchline.core.finding import Finding
    from touchline.history.probe import ProbeReport
    from touchline.lint.check import CheckReport
    from touchline.lint.local.fixing import Changes
    from touchline.lint.selection import CheckRequest
    from touchline.plan.estimate_result import EstimateAnswer
    from touchline.plan.local.estimating import EstimateRequest
    from touchline.plan.placement.types import Placement
    from touchline.results.live import LiveRun
    from touchline.run.allocation import PlaceRequest
    from touchline.run.first_experiment import Start
    from touchline.slurm.doctor import DoctorReport
    from touchline.spec.plan import Plan

__all__ = [
    "clean",
    "compare",
    "export",
    "history_add",
    "history_calibration",
    "history_export",
    "history_list",
    "history_read",
    "history_rebuild",
    "history_show",
    "optimize",
    "pack",
    "pack_check",
    "pack_write",
    "place",
    "report",
]


def check(
    paths: Sequence[Path],
    settings: UserConfig,
    request: CheckRequest | None = None,
    on_message: MessageCallback = ignore_message,
) -> tuple[CheckReport, list[Finding]]:
    """Find what is wrong with experiments, configs, scripts and data, all faults in one pass.

    Args:
        paths: files and folders.
        settings: where models and caches are.
        request: the machine to check for, and which findings count; the machine here and all when None.
        on_message: receives a line before the code of a task file runs; only a file that is named itself is run.

    Returns:
        What was found, and the findings with the fixes that they have.

    Raises:
        InputError: a path does not exist, or an option is wrong.
    """
    from touchline.lint.local.checking import check_paths
    from touchline.lint.selection import CheckRequest

    return check_paths(paths, settings, request or CheckRequest(), on_message)


def check_fix(
    paths: Sequence[Path],
    settings: UserConfig,
    request: CheckRequest,
    on_message: MessageCallback = ignore_message,
    *,
    write: bool,
) -> Changes:
    """Make the changes that have one safe answer, or only tell what they would be.

    Raises:
        InputError: a path does not exist, or an option is wrong.
        HostError: a file may not be written.
    """
    from touchline.lint.local.checking import check_paths
    from touchline.lint.local.fixing import fix

    return fix(check_paths(paths, settings, request, on_message)[1], write=write)


def init(
    target: Path | None,
    settings: UserConfig,
    *,
    data: Path,
    input_columns: Sequence[str] = (),
    output_column: str | None = None,
    model: str | None = None,
    name: str | None = None,
) -> Start:
    """Write a commented experiment.yaml for the user's own dataset, and give its path.

    Raises:
        InputError: data or model cannot be used.
        PolicyError: there is an experiment.yaml already.
    """
    from touchline.run.first_experiment import start

    return start(
        target,
        settings,
        data=data,
        input_columns=input_columns,
        output_column=output_column,
        model=model,
        name=name,
    )


def plan(
    source: Path,
    settings: UserConfig,
    overrides: Sequence[str] = (),
    *,
    allow: Sequence[str] = (),
    accept: bool = False,
    dry_run: bool = False,
    on_progress: ProgressCallback | None = None,
    measure: Callable[[Plan, ExperimentFolder], bool] | None = None,
) -> LoadedPlan:
    """Resolve an experiment and write its plan.

    Args:
        source: experiment.yaml or its folder.
        settings: where models and caches are.
        overrides: dotted `key=value`; those of the last plan when there are none.
        allow: codes of checks whose errors do not stop it, besides those that the file allows.
        accept: plan again even where runs have started; what those have made is moved aside.
        dry_run: write nothing.
        on_progress: receives how many rows are tokenised, of how many, where their lengths are not known yet.
        measure: gets the plan before it is written, and measures what is not known; True where it has to be made again.

    Raises:
        InputError: with every fault of the file, the models and the data.
        PlanDriftError: a run that has started would become another one.
    """
    folder = ExperimentFolder(source)
    old = folder.read_plan()
    text = read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES)
    chosen = tuple(overrides or (old.overrides if old is not None else ()))
    loaded = read_experiment(text, str(folder.yaml), chosen)
    if allow:
        codes = ", ".join(dict.fromkeys([*loaded.experiment.allow, *allow]))
        others = (override for override in chosen if not override.startswith("allow="))
        loaded = read_experiment(text, str(folder.yaml), (*others, f"allow=[{codes}]"))
    accepted = {run.name: run.accepted for run in old.runs if run.accepted} if old is not None else {}
    new, notes = resolve(loaded, folder, settings, old, accepted, on_progress)
    if measure is not None and measure(new, folder):
        new, notes = resolve(loaded, folder, settings, old, accepted, on_progress)
    return commit_plan(folder, old, new, accept=accept, dry_run=dry_run, notes=notes)


def prepare(source: Path, settings: UserConfig, *, run: str | None = None, accept: bool = False) -> LoadedPlan:
    """Write the folders of the plan's runs; with `accept`, take over what was edited in one run's setup_finetune.yaml.

    Raises:
        PlanDriftError: an edit that was not accepted, or a file that only touchline writes was changed.
        InputError: no plan, no such run, an edited file with faults, or what `check` finds now.
    """
    planned = read_planned(source)
    running.selected(planned.plan, run)
    if accept:
        if run is None:
            raise InputError("--accept is for one run", hint="touchline prepare DIR --run RUN --accept")
        planned = accept_edits(planned, settings, run)
    else:
        refuse_findings(planned, settings)
    return _prepared(planned, settings, only=run, accepted=accept)


def run(
    source: Path,
    settings: UserConfig,
    overrides: Sequence[str] = (),
    *,
    only: str | None = None,
    allow: Sequence[str] = (),
    retry: bool = False,
    probe: bool = True,
    on_progress: JobProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> list[RunResult]:
    """Plan, prepare, train what is not trained, evaluate what is not evaluated, report. Does nothing twice.

    With `probe`, some steps are measured first of each model of which nothing is known on this machine.

    Raises:
        PolicyError: another command is at work on this folder.
        RunsFailedError: some runs did not end well; the others did and are reported.
        KeyboardInterrupt: after the running jobs have saved.
    """
    from touchline.run.probe_run import measure_unknown

    with running.experiment_lock(ExperimentFolder(source)) as lock:
        measure = partial(measure_unknown, settings=settings, on_message=on_message) if probe else None
        plan(source, settings, overrides, allow=allow, measure=measure)
        planned = _prepared(read_planned(source), settings, accepted=False)
        return _worked(planned, settings, only, on_progress, on_message, lock=lock, retry=retry)


def submit(
    source: Path,
    settings: UserConfig,
    *,
    only: str | None = None,
    retry: bool = False,
    on_progress: ProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> list[Submitted]:
    """Hand to SLURM what is not trained or not evaluated and not in the queue, and come back; call it again any time.

    Args:
        source: experiment.yaml or its folder, planned.
        settings: where models are, and what the cluster wants.
        only: one run; all when None.
        retry: also what failed twice the same way.
        on_progress: receives how many jobs are handed over, of how many.
        on_message: receives what is done about jobs that failed.

    Raises:
        PolicyError: the plan is for this machine, or another command is at work on this folder.
    """
    with running.experiment_lock(ExperimentFolder(source)) as lock:
        planned = prepare(source, settings)
        if planned.plan.executor != "slurm":
            raise PolicyError(
                "this plan runs on this machine",
                expected="compute.executor: slurm",
                hint=f"touchline plan {shlex.quote(str(source))} compute.executor=slurm",
            )
        runs = running.selected(planned.plan, only)
        return launching.submit(planned, runs, settings, on_message, lock=lock, retry=retry, on_progress=on_progress)[1]


def resume(
    source: Path,
    settings: UserConfig,
    *,
    only: str | None = None,
    retry: bool = False,
    on_progress: JobProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> list[RunResult]:
    """Go on with the plan as it is after anything: a kill, a reboot, a closed terminal; nothing is done twice.

    Raises:
        InputError: there is no plan yet.
        PolicyError: another command is at work on this folder.
        RunsFailedError: some runs did not end well; the others did and are reported.
    """
    with running.experiment_lock(ExperimentFolder(source)) as lock:
        planned = prepare(source, settings)
        return _worked(planned, settings, only, on_progress, on_message, lock=lock, retry=retry)


def status(
    source: Path, settings: UserConfig, *, look: bool = True, on_message: MessageCallback | None = None
) -> list[LiveRun]:
    """How every run stands at this moment, from its folder and one look at the queue.

    Args:
        source: experiment.yaml or its folder, planned.
        settings: what the cluster wants.
        look: ask the executor too.
        on_progress: receives why the queue could not be asked.
    """
    if not is_experiment(source):
        from touchline.report.local.foreign import snapshot

        found = snapshot(source)
        if on_message is not None:
            on_message(found.note)
        return list(found.runs)
    from touchline.results.watching import status as look_at

    return look_at(source, settings, look=look, on_message=on_message)


def cancel(source: Path, settings: UserConfig, *, only: str | None = None) -> list[str]:
    """Ask the jobs of a run, or of all, to save and end, and take what waits out of the queue; give their names.

    Raises:
        InputError: no plan, or no such run.
    """
    planned = read_planned(source)
    return launching.cancel(planned, running.selected(planned.plan, only), settings)


def evaluate(
    source: Path,
    settings: UserConfig,
    *,
    only: str | None = None,
    epochs: str | None = None,
    on_progress: JobProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> list[RunResult]:
    """Evaluate what is trained and not evaluated yet, now or later.

    Args:
        source: experiment.yaml or its folder.
        settings: where models and caches are.
        only: one run; all when None.
        epochs: `last`, `all` or numbers from 0, instead of what experiment.yaml says.
        on_progress: called as the work advances.

    Raises:
        PolicyError: another command is at work on this folder.
        RunsFailedError: an evaluation did not end well.
    """
    with running.experiment_lock(ExperimentFolder(source)) as lock:
        planned = prepare(source, settings)
        return _worked(planned, settings, only, on_progress, on_message, lock=lock, train=False, epochs=epochs)


def place_experiment(
    source: Path, settings: UserConfig, request: PlaceRequest, *, plot: Path | None = None
) -> tuple[Placement, list[Path], list[str]]:
    """Place what is left of an experiment, and write the scripts that carry it out when the request names a kind.

    Returns:
        The placement, the files written (the one to submit first), and what the reader should know.

    Raises:
        InputError: there is no plan, nothing is left, or the cluster is too small for a job.
    """
    from touchline.api.placement import place_planned

    return place_planned(prepare(source, settings), settings, request, plot=plot)


def doctor(folder: Path, settings: UserConfig) -> DoctorReport:
    """Look at Python, folders, GPUs and SLURM, and at what of the settings will not do there; nothing is changed."""
    from touchline.run.doctor import run_doctor
    from touchline.slurm.local.commands import RealCommands

    return run_doctor(settings, folder, RealCommands())


def results(source: Path) -> Results:
    """Return what is known of every run and how it stands, read from the files; also of folders of other tools.

    Raises:
        InputError: there is neither an experiment nor any run.
    """
    if not is_experiment(source):
        from touchline.report.local.gathering import gather

        return Results(gather(source).runs)
    planned = read_planned(source)
    return Results(collect_results(planned.plan, planned.folder.root))


def analyses(source: Path, found: Sequence[RunResult]) -> tuple[Analysis, ...]:
    """Return the tests of the results, as the report makes them; one for each task and score."""
    from touchline.report.analyses import analyses as analyses_of

    if not is_experiment(source):
        from touchline.report.local.gathering import gather

        gathered = gather(source)
        return analyses_of(found, gathered.factors, gathered.datasets)
    planned = read_planned(source)
    return analyses_of(found, planned.plan.factors, {run.name: run.dataset for run in planned.plan.runs})


def collect(source: Path, settings: UserConfig, *, out: Path | None = None) -> tuple[list[RunMetrics], list[str]]:
    """Write runs_status.yaml and each run's run_metrics.yaml, and keep what the runs taught; any time, again and again.

    Args:
        source: experiment.yaml or its folder, or a folder that another tool made, into which nothing is written.
        settings: where the history is.
        out: where the files of another tool's folder are written; None: nowhere.

    Returns:
        What was measured of every run, and what could not be kept.

    Raises:
        InputError: there is neither an experiment nor any run; `out` was given for an experiment, which has its place.
    """
    if not is_experiment(source):
        from touchline.report.local import foreign

        return foreign.collect(source, out)
    if out is not None:
        raise InputError("--out is for folders that another tool made; an experiment's files lie in its own folder")
    planned = read_planned(source)
    found = collect_results(planned.plan, planned.folder.root)
    metrics = collecting.write_collected(planned, found)
    _, notes = collecting.learn(planned, found, settings)
    return metrics, notes


def demo(
    target: Path,
    settings: UserConfig,
    *,
    probe: bool = True,
    on_progress: JobProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> tuple[Path, list[RunResult]]:
    """The example `capitalization`, run in `target`; give the report's path and the results.

    Raises:
        PolicyError: `target` holds another experiment.
        HostError: a package that trains, or the one that brings the model, is not installed.
    """
    example = resources.files("touchline.examples") / "capitalization" / "experiment.yaml"
    yaml = target / "experiment.yaml"
    if not yaml.exists():
        write_if_changed(yaml, example.read_text())
    for model in read_experiment(read_text_bounded(yaml, SIZE_LIMIT_BYTES), str(yaml)).experiment.models:
        if model in EXPORTABLE:
            get_model(model, settings)
    create_capitalization(target / "data", word_length=8, num_words=2000, train_fraction=0.8, seed=14)
    found = run(target, settings, probe=probe, on_progress=on_progress, on_message=on_message)
    return target / "RESULTS.md", found


def estimate(request: EstimateRequest, settings: UserConfig) -> EstimateAnswer:
    """Memory, largest micro-batch and time of a training that nobody has planned yet.

    Raises:
        InputError: with every option that is wrong.
    """
    from touchline.plan.local.estimating import estimate as answer

    return answer(request, settings)


def probe(
    source: Path,
    settings: UserConfig,
    *,
    run: str | None = None,
    limit_bytes: int | None = None,
    on_message: MessageCallback | None = None,
) -> ProbeReport:
    """Real steps of a run at its longest batch, on this machine: the largest micro-batch that fits, and its speed.

    Args:
        source: experiment.yaml or its folder.
        settings: where models, caches and the history are.
        run: which run; the one with the most memory when None.
        limit_bytes: what a try may take of the machine's memory; most of what is free when None.
        on_progress: receives of each try.

    Raises:
        InputError: no plan, no such run, or one that trains nothing.
        HostError: the packages that train are not installed.
        RunsFailedError: no step could be made at all.
    """
    from touchline.run.probe_run import heaviest, probe_run

    planned = read_planned(source)
    chosen = running.selected(planned.plan, run)[0] if run is not None else heaviest(planned.plan)
    return probe_run(planned, chosen, settings, limit_bytes=limit_bytes, on_message=on_message)


def _prepared(planned: LoadedPlan, settings: UserConfig, *, only: str | None = None, accepted: bool) -> LoadedPlan:
    """Write the runs' folders, and what is known of them."""
    runs = running.selected(planned.plan, only)
    for each in () if accepted else runs:
        refuse_edits(planned, each)
    notes = write_folders(planned, runs, settings)
    collecting.write_collected(planned, collect_results(planned.plan, planned.folder.root))
    return replace(planned, notes=(*planned.notes, *notes))


def _worked(
    planned: LoadedPlan,
    settings: UserConfig,
    only: str | None,
    on_progress: JobProgressCallback | None,
    on_message: MessageCallback,
    *,
    lock: int,
    retry: bool = False,
    train: bool = True,
    epochs: str | None = None,
) -> list[RunResult]:
    """Do the work, report and collect; then say what did not end well."""
    runs = running.selected(planned.plan, only)
    done = launching.work(
        planned, runs, settings, on_progress, on_message, lock=lock, retry=retry, train=train, epochs=epochs
    )
    source = planned.folder.yaml
    # The report names the files that collecting writes.
    collect(source, settings)
    found = list(report(source, cache=settings.cache_dir).report.runs)
    if done.stopped:
        raise launching.failure_of(done)
    return found
