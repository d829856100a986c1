"""Verbs that do the work of a plan: folders, training, evaluation, submission and cancellation of runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.api.outcomes import collect, report
from touchline.api.planning import plan_to_run
from touchline.core.callbacks import MessageCallback, ProgressCallback, ignore_message
from touchline.core.errors import InputError, PolicyError
from touchline.core.files import read_text_bounded, remove_temporaries, write_if_changed
from touchline.data.checkpoints import training_complete
from touchline.data.create import create_capitalization
from touchline.data.user_config import UserConfig
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.read import read_experiment
from touchline.experiment.recorded import override_lines
from touchline.results import collecting, strategy
from touchline.results.collect import collect_results
from touchline.results.frame import Results
from touchline.run import launching
from touchline.run.budget import require_approval
from touchline.run.folders import ExperimentFolder
from touchline.run.loaded_plan import LoadedPlan, experiment_lock, one_run, read_planned, read_started, write_folders
from touchline.run.plan_checks import accept_edits, refuse_absent, refuse_edits, refuse_findings, with_arrivals
from touchline.run.progress import JobProgressCallback
from touchline.run.queue import Submitted
from touchline.run.recorded import recorded_lines
from touchline.tools.environments import EXPORTABLE, get_model

if TYPE_CHECKING:
    from touchline.results.reproduction import Reproduction


def prepare(source: Path, settings: UserConfig, *, run: str | None = None, accept: bool = False) -> LoadedPlan:
    """Write the folders of the plan's runs. With `accept`, adopt the edits of one run's setup_finetune.yaml.

    Raises:
        PlanDriftError: an edit was not accepted, experiment.yaml is another experiment than the plan, or a file that
            only touchline writes was changed.
        InputError: there is no plan or no such run, an edited file is wrong, or `check` finds errors.
    """
    planned = _prepare(source, settings, run=run, accept=accept)
    return replace(planned, notes=(*recorded_lines(planned.folder, planned.plan), *planned.notes))


def _prepare(
    source: Path, settings: UserConfig, *, run: str | None = None, accept: bool = False, approved: bool = False
) -> LoadedPlan:
    """Write the folders of the plan's runs; of an `approved` plan, even if experiment.yaml was edited since."""
    planned = read_planned(source)
    strategy.refuse_other_design(planned)
    strategy.active_runs(planned, run)
    planned = with_arrivals(planned, settings)
    if accept:
        if run is None:
            raise InputError("--accept needs one run", hint="--run RUN --accept")
        planned = accept_edits(planned, settings, run)
    else:
        refuse_findings(planned, settings, approved=approved)
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
) -> Results:
    """Run all missing steps: plan, prepare, train, evaluate, report. Completed steps are not repeated.

    With `probe`, measure a few steps of each model without measurements on this machine first. Without overrides, those
    of the plan on disk are kept while it has unfinished runs.

    Raises:
        PlanDriftError: an override of unfinished runs would be lost, and neither it nor the file was chosen.
        PolicyError: another command works on this folder.
        RunsFailedError: some runs failed; the others are complete and reported.
        KeyboardInterrupt: raised after the running jobs have saved.
    """
    from touchline.tools.probe_run import measure_unknown

    with experiment_lock(ExperimentFolder(source)) as lock:
        measure = partial(measure_unknown, settings=settings, on_message=on_message) if probe else None
        made = plan_to_run(source, settings, overrides, allow=allow, measure=measure)
        for line in (*override_lines(made.plan), *made.changes):
            on_message(line)
        refuse_absent(made.plan, made.folder)
        planned = _prepared(read_planned(source), settings, accepted=False)
        for line in planned.edited:
            on_message(line)
        return _worked(planned, settings, only, on_progress, on_message, lock=lock, retry=retry)


def submit(
    source: Path,
    settings: UserConfig,
    *,
    only: str | None = None,
    retry: bool = False,
    within_budget: bool = False,
    on_progress: ProgressCallback | None = None,
    on_totals: launching.TotalsCallback = launching.ignore_totals,
    on_message: MessageCallback = ignore_message,
) -> list[Submitted]:
    """Submit unfinished runs that are not in the queue to SLURM, and return.

    Args:
        source: experiment.yaml or its folder, planned.
        settings: where models are, and the cluster's options.
        only: one run (default: all).
        retry: also retry runs that failed twice with the same error.
        within_budget: submit only what the approved budget covers.
        on_progress: receives the number of submitted jobs and their total.
        on_totals: receives the totals of the jobs before the first is submitted; raises to submit nothing.
        on_message: receives each decision about a failed job.

    Raises:
        PolicyError: the plan is for this machine, is not approved, or another command works on this folder.
    """
    with _locked(source, within_budget) as lock:
        planned = _to_start(source, settings, on_message, approved=within_budget)
        if planned.plan.executor == "local":
            raise PolicyError(
                "this plan runs on this machine",
                expected="compute.executor: slurm",
                hint="set `executor: slurm` under compute in experiment.yaml, then: touchline plan "
                f"{shlex.quote(str(source))}",
            )
        strategy.active_runs(planned, only)
        again = partial(_prepared, settings=settings, accepted=False)
        planned, runs = strategy.runs_to_submit(planned, only, on_message, prepare=again)
        return launching.submit(
            planned,
            runs,
            settings,
            on_message,
            lock=lock,
            retry=retry,
            on_progress=on_progress,
            on_totals=on_totals,
            within_budget=within_budget,
        )


def resume(
    source: Path,
    settings: UserConfig,
    *,
    only: str | None = None,
    retry: bool = False,
    within_budget: bool = False,
    on_progress: JobProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> Results:
    """Resume an interrupted experiment with its plan unchanged. Completed steps are not repeated.

    With `within_budget`, start only what the approved budget covers.

    Raises:
        InputError: there is no plan.
        PolicyError: another command works on this folder, or the plan is not approved.
        RunsFailedError: some runs failed; the others are complete and reported.
    """
    with _locked(source, within_budget) as lock:
        planned = _to_start(source, settings, on_message, approved=within_budget)
        return _worked(
            planned, settings, only, on_progress, on_message, lock=lock, retry=retry, within_budget=within_budget
        )


def evaluate(
    source: Path,
    settings: UserConfig,
    *,
    only: str | None = None,
    epochs: str | None = None,
    within_budget: bool = False,
    on_progress: JobProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> Results:
    """Evaluate trained checkpoints without current results.

    Args:
        only: one run (default: all).
        epochs: `last`, `all` or numbers from 0 (default: those of experiment.yaml).
        within_budget: start only what the approved budget covers.

    Raises:
        PolicyError: another command works on this folder, or the plan is not approved.
        RunsFailedError: an evaluation failed.
    """
    with _locked(source, within_budget) as lock:
        planned = _to_start(source, settings, on_message, approved=within_budget)
        return _worked(
            planned,
            settings,
            only,
            on_progress,
            on_message,
            lock=lock,
            train=False,
            epochs=epochs,
            within_budget=within_budget,
        )


def reproduce(
    source: Path,
    settings: UserConfig,
    *,
    run: str | None = None,
    out: Path | None = None,
    on_progress: JobProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> Reproduction:
    """Train and evaluate a finished run again in a folder of its own, and compare it with the original.

    A call that was interrupted is resumed by the same call. Parents of a stage are trained again too.

    Args:
        source: experiment.yaml, its folder, or the run's folder; only read.
        run: the run, if `source` is not its folder.
        out: folder of the reproduction (default: reproduced/RUN in the experiment).
        on_message: receives what is done after a failure.

    Raises:
        InputError: there is no such run, or a dataset or model is not on this machine.
        PolicyError: the run is not finished, or `out` holds something else.
        RunsFailedError: the training or the evaluation failed.
        KeyboardInterrupt: raised after the running job has saved.
    """
    from touchline.results.reproduction import Difference, Outcome, Reproduction, compare_runs
    from touchline.tools.reproducing import REPRODUCED, changed_inputs, write_reproduction

    folder, old, chosen = one_run(source, run)
    if chosen.train is None:
        raise InputError(f"{chosen.name} is a control without training", expected="a fine-tuned run")
    if not training_complete(folder.run(chosen.name), chosen.digest):
        raise PolicyError(
            f"the training of {chosen.name} is not finished",
            expected="a finished run to compare the reproduction with",
            hint=f"touchline resume {shlex.quote(str(folder.root))} --run {chosen.name}",
        )
    changed = tuple(
        Difference(what=what, original=planned, reproduction=now)
        for what, planned, now in changed_inputs(old, chosen, folder, settings)
    )
    if changed:
        return Reproduction(
            experiment=old.experiment,
            run=chosen.name,
            folder="",
            outcome=Outcome.INPUTS_CHANGED,
            reasons=tuple(f"{each.what} differs from the plan (no training started)" for each in changed),
            environment=changed,
        )
    planned = write_reproduction(folder, old, chosen, out or folder.root / REPRODUCED / chosen.name)
    with experiment_lock(planned.folder) as lock:
        write_folders(planned, planned.plan.runs, settings)
        done = launching.work(planned, planned.plan.runs, settings, on_progress, on_message, lock=lock)
    if done.stopped:
        raise launching.failure_of(done)
    results = (collect_results(old, folder.root), collect_results(done.planned.plan, planned.folder.root))
    first, again = (next(each for each in found if each.name == chosen.name) for found in results)
    return compare_runs(old.experiment, (first, folder.run(chosen.name)), (again, planned.folder.run(chosen.name)))


def cancel(source: Path, settings: UserConfig, *, only: str | None = None) -> list[str]:
    """Cancel the jobs of a run, or of all: running jobs save their state and end. Return their names.

    Raises:
        InputError: there is no plan or no such run.
    """
    planned = read_planned(source)
    return launching.cancel(planned, strategy.active_runs(planned, only), settings)


def demo(
    target: Path,
    settings: UserConfig,
    *,
    probe: bool = True,
    on_progress: JobProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> tuple[Path, Results]:
    """Run the example experiment `capitalization` in `target`.

    Returns:
        The path of the report, and the results.

    Raises:
        PolicyError: `target` holds another experiment.
        HostError: a package for training, or the one with the model, is not installed.
    """
    example = resources.files("touchline.examples") / "capitalization" / "experiment.yaml"
    yaml = target / "experiment.yaml"
    if not yaml.exists():
        write_if_changed(yaml, example.read_text())
    for model in read_experiment(read_text_bounded(yaml, SIZE_LIMIT_BYTES), str(yaml)).experiment.models:
        if model in EXPORTABLE:
            get_model(model, settings)
    create_capitalization(target / "data", word_length=8, num_words=1600, train_fraction=0.8, seed=14)
    found = run(target, settings, probe=probe, on_progress=on_progress, on_message=on_message)
    return target / "RESULTS.md", found


def _prepared(planned: LoadedPlan, settings: UserConfig, *, only: str | None = None, accepted: bool) -> LoadedPlan:
    """Write the runs' folders and status files."""
    runs = strategy.active_runs(planned, only)
    for planned_run in () if accepted else runs:
        refuse_edits(planned, planned_run)
    edited, others = write_folders(planned, runs, settings)
    started = read_started(planned.folder.yaml)
    collecting.write_collected(started, collect_results(started.plan, started.folder.root))
    return replace(planned, notes=(*planned.notes, *edited, *others), edited=tuple(edited))


def _to_start(source: Path, settings: UserConfig, on_message: MessageCallback, *, approved: bool) -> LoadedPlan:
    """Prepare the plan on disk, and name its overrides."""
    planned = _prepare(source, settings, approved=approved)
    for line in (*recorded_lines(planned.folder, planned.plan), *planned.edited):
        on_message(line)
    return planned


@contextmanager
def _locked(source: Path, within_budget: bool) -> Iterator[int]:
    """Hold the experiment lock. Refuse a plan without a valid approval if only approved work may start."""
    folder = ExperimentFolder(source)
    with experiment_lock(folder) as lock:
        # `status` writes it without the lock, and does without where its file is taken away.
        remove_temporaries(folder.root, ["runs_status.yaml"])
        if within_budget:
            require_approval(folder)
        yield lock


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
    within_budget: bool = False,
) -> Results:
    """Execute the jobs, collect and report; raise if some failed."""
    if train:
        done = strategy.work(
            planned,
            settings,
            only,
            on_progress,
            on_message,
            prepare=partial(_prepared, settings=settings, accepted=False),
            lock=lock,
            retry=retry,
            within_budget=within_budget,
        )
    else:
        done = launching.work(
            planned,
            strategy.active_runs(planned, only),
            settings,
            on_progress,
            on_message,
            lock=lock,
            retry=retry,
            train=train,
            epochs=epochs,
            within_budget=within_budget,
        )
    source = planned.folder.yaml
    # The report names the files that collecting writes.
    collect(source, settings)
    written = report(source, cache=settings.cache_dir).report
    found = Results(written.runs)
    found.answer = written.answer.text, *written.answer.details
    if done.stopped:
        raise launching.failure_of(done)
    return found
