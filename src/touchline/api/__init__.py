"""Verbs of touchline, one function each, in the order of use. Start reading here.

    init      answers to an interview     -> experiment.yaml               a commented file to edit
    write_experiment, read_experiment                                      for experiments built in Python
    import_experiment  another tool's     -> experiment.yaml               and what could not be carried over
    check     experiments, configs, data  -> findings                      errors that would show up hours later
    plan      experiment.yaml             -> plan.json, runs_plan.md       starts nothing
    design    experiment.yaml             -> seeds and items, with costs   writes only with `apply`
    prepare   plan.json                   -> one folder per run            configs and job scripts
    run       a plan                      -> trained and scored runs       on this machine; rerun to finish
    submit    a plan                      -> jobs in the cluster's queue   returns at once; rerun to continue
    resume    an interrupted experiment   -> trained and scored runs       keeps the plan as it is
    status    run folders, queue          -> the state of every run        `logs` prints a run's output
    cancel    run folders, queue          -> jobs that save and end
    failures  a run                       -> causes of failed attempts     with the lines that show them
    evaluate  checkpoints                 -> .eval logs                    only those without current results
    collect   run folders                 -> status files, history         the history feeds later plans
    results   run folders                 -> scores, losses, durations     missing values carry a reason
    strategy  the ledger                  -> looks, cuts, verdicts         of a sweep in two phases
    report    run folders                 -> RESULTS.md, report.html       also for folders of other tools
    compare   experiments                 -> paired differences
    figures   run folders                 -> altair charts                 for notebooks
    export    metrics.jsonl               -> a tracker                     `export_follow` while runs train
    publish   a finished run              -> a folder for the Hub          weights and model card; uploads nothing
    approve   a plan                      -> approval.json                 budget of an agent; `approved_budget`
    reproduce a finished run              -> the same, or what differs     trains it again in a folder of its own
    clean     an experiment               -> files safe to delete          deletes only with `delete`
    demo      nothing                     -> a finished small experiment

    estimate  options of a training       -> memory and time               without an experiment
    probe     a planned run               -> measured memory and speed     a few real steps
    optimize  an experiment               -> faster, equivalent settings
    place     jobs, GPUs, a deadline      -> a schedule                    `place_experiment` for a plan
    pack      sequence lengths            -> packed sequences              `pack_write`, `pack_check_isolation`
    history_* training logs               -> run records                   the evidence of later plans; `history` lists
    doctor    this machine, its cluster   -> what is missing
    selftest  this machine                -> checked steps, memory, speed  measurements go to the history

Verbs take and return values and print nothing. `on_progress` receives counts, `on_message` one sentence at a time.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.api.authoring import read_experiment, write_experiment
from touchline.api.by_strategy import active_runs, submit_by_strategy, work_by_strategy
from touchline.api.history import (
    history_calibration,
    history_export,
    history_import,
    history_list,
    history_read,
    history_rebuild,
    history_replay,
    history_show,
    history_trends,
)
from touchline.api.outcomes import (
    analyses,
    clean,
    compare,
    data_audit,
    export,
    export_follow,
    failures,
    figures,
    logs,
    publish,
    report,
    results,
    strategy,
    strategy_section,
)
from touchline.api.sizing import (
    design,
    estimate,
    optimize,
    pack,
    pack_check_isolation,
    pack_write,
    place,
    place_experiment,
    probe,
    selftest,
)
from touchline.core.callbacks import MessageCallback, ProgressCallback, ignore_message
from touchline.core.errors import InputError, PolicyError
from touchline.core.files import read_text_bounded, write_if_changed
from touchline.data.create import create_capitalization
from touchline.data.user_config import UserConfig
from touchline.results import collecting
from touchline.results.collect import collect_results
from touchline.results.collected import RunMetrics
from touchline.results.frame import Results
from touchline.results.strategy import refuse_other_design
from touchline.run import launching
from touchline.run import selection as running
from touchline.run.folders import ExperimentFolder, is_experiment
from touchline.run.model_download import EXPORTABLE, get_model
from touchline.run.planning import (
    LoadedPlan,
    accept_edits,
    commit_plan,
    read_planned,
    read_started,
    refuse_edits,
    refuse_findings,
    resolve,
)
from touchline.run.preparing import write_folders
from touchline.run.selection import JobProgressCallback
from touchline.run.submission import Submitted
from touchline.slurm.schedulers import SCHEDULERS
from touchline.spec.bounds import SIZE_LIMIT_BYTES
from touchline.spec.experiment import Experiment
from touchline.spec.read import read_experiment as read_text

if TYPE_CHECKING:
    from touchline.core.finding import Finding
    from touchline.history.listing import History
    from touchline.lint.check import CheckReport
    from touchline.lint.checked import CheckRequest
    from touchline.lint.local.fixing import Changes
    from touchline.results.live import LiveRun
    from touchline.results.reproduction import Reproduction
    from touchline.run.budget import Approval, Budget
    from touchline.run.first_experiment import Ask, Start
    from touchline.run.imports.importing import ImportReport
    from touchline.slurm.doctor import DoctorReport
    from touchline.spec.plan import Plan

__all__ = [
    "Experiment",
    "analyses",
    "clean",
    "compare",
    "data_audit",
    "design",
    "estimate",
    "export",
    "export_follow",
    "failures",
    "figures",
    "history_calibration",
    "history_export",
    "history_import",
    "history_list",
    "history_read",
    "history_rebuild",
    "history_replay",
    "history_show",
    "history_trends",
    "logs",
    "optimize",
    "pack",
    "pack_check_isolation",
    "pack_write",
    "place",
    "place_experiment",
    "probe",
    "publish",
    "read_experiment",
    "report",
    "results",
    "selftest",
    "strategy",
    "strategy_section",
    "write_experiment",
]


def init(
    target: Path | None,
    settings: UserConfig,
    *,
    data: Path | None = None,
    configs: Sequence[Path] = (),
    input_columns: Sequence[str] = (),
    output_column: str | None = None,
    model: str | None = None,
    name: str | None = None,
    template: str | None = None,
    answers: Mapping[str, Sequence[str]] | None = None,
    ask: Ask | None = None,
    defaults: bool = False,
    replace_existing: bool = False,
) -> Start:
    """Write a commented experiment.yaml from the answers of an interview, or from the stage configs of a project.

    Args:
        target: experiment folder (default: named after the data).
        settings: where models, caches and the history are.
        data: dataset, as the answer `data`.
        configs: stage configs of a project; nothing else is asked then.
        input_columns: columns of the prompt, as the answer `input`.
        output_column: column of the answer, as the answer `output`.
        model: base model, as the answer `model`.
        name: name of the experiment, as the answer `name`.
        template: name of a template: example data and defaults.
        answers: answers by the names of their questions, as typed.
        ask: answers the other questions; None for their defaults.
        defaults: take a default for the dataset too.
        replace_existing: replace an experiment.yaml that is there.

    Raises:
        InputError: answers, data, configs or model cannot be used; with all wrong answers.
        PolicyError: an experiment.yaml exists.
    """
    from touchline.run.first_experiment import Start, start
    from touchline.run.imports.importing import import_stages, stage_notes

    given = {key: tuple(texts) for key, texts in (answers or {}).items()}
    for key, texts in (
        ("data", [] if data is None else [str(data)]),
        ("input", input_columns),
        ("output", [] if output_column is None else [output_column]),
        ("model", [] if model is None else [model]),
        ("name", [] if name is None else [name]),
    ):
        if texts:
            given[key] = tuple(texts)
    has_source = "data" in given or template is not None
    if configs and (has_source or given.keys() - {"model", "name"}):
        raise InputError("give either a dataset or stage configs", expected="--data FILE, or --from FILE")
    if configs:
        only = {key: texts[0] for key, texts in given.items()}
        folder = Path("stages") if target is None else target
        imported = import_stages(configs, folder / "experiment.yaml", model=only.get("model"), name=only.get("name"))
        return Start(path=Path(imported.path), notes=stage_notes(imported))
    if not has_source and ask is None and not defaults:
        raise InputError(
            "give either a dataset or stage configs",
            expected="--data FILE, --from FILE or --template NAME; or --yes for all defaults",
        )
    return start(target, settings, given=given, template=template, ask=ask, replace_existing=replace_existing)


def import_experiment(paths: Sequence[Path], out: Path | None = None, *, model: str | None = None) -> ImportReport:
    """Write the experiment.yaml of another tool's experiment, and return what could not be carried over.

    The kind of the source is found by its content: `experiment_summary.yaml` of cruijff_kit, stage configs of a QLoRA
    project, configs of a trainer (several are a sweep), or the folder of a Hydra multirun.

    Args:
        paths: files of one experiment, or its folder.
        out: the file to write; None for `experiment.yaml` here.
        model: name under models_dir, or a folder; None for that of the source.

    Raises:
        InputError: a file cannot be read, is of no kind or of several, or the files are no one experiment.
        PolicyError: the file to write exists.
    """
    from touchline.run.imports.importing import import_source

    return import_source(paths, out, model=model)


def check(
    paths: Sequence[Path],
    settings: UserConfig,
    request: CheckRequest | None = None,
    on_message: MessageCallback = ignore_message,
) -> tuple[CheckReport, list[Finding]]:
    """Check experiments, configs, scripts and data; report all findings at once.

    Args:
        paths: files and folders.
        settings: where models and caches are.
        request: the target machine and the selected rules (default: this machine, all rules).
        on_message: receives a line before the code of a task file runs; only files named in `paths` are run.

    Returns:
        The report, and the findings with their fixes.

    Raises:
        InputError: a path does not exist, or an option is wrong.
    """
    from touchline.lint.checked import CheckRequest
    from touchline.lint.local.checking import check_paths

    return check_paths(paths, settings, request or CheckRequest(), on_message)


def check_fix(
    paths: Sequence[Path],
    settings: UserConfig,
    request: CheckRequest,
    on_message: MessageCallback = ignore_message,
    *,
    write: bool,
) -> Changes:
    """Apply the fixes that are safe, or only return them as a diff.

    Raises:
        InputError: a path does not exist, or an option is wrong.
        HostError: a file may not be written.
    """
    from touchline.lint.local.checking import check_paths
    from touchline.lint.local.fixing import fix

    return fix(check_paths(paths, settings, request, on_message)[1], write=write)


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
        overrides: dotted `key=value` (default: those of the last plan).
        allow: codes of errors to ignore, besides those that the file ignores.
        accept: re-plan started runs too; their results are moved to superseded/.
        dry_run: write nothing.
        on_progress: receives the number of tokenized examples and their total, if lengths are unknown.
        measure: receives the plan before it is written and measures unknown values. True means "plan again".

    Raises:
        InputError: the file, a model or the data have errors; all are listed.
        PlanDriftError: the plan would change a started run.
    """
    folder = ExperimentFolder(source)
    old = folder.read_plan()
    text = read_text_bounded(folder.yaml, SIZE_LIMIT_BYTES)
    chosen = tuple(overrides or (old.overrides if old is not None else ()))
    loaded = read_text(text, str(folder.yaml), chosen)
    if allow:
        codes = ", ".join(dict.fromkeys([*loaded.experiment.allow, *allow]))
        others = (override for override in chosen if not override.startswith("allow="))
        loaded = read_text(text, str(folder.yaml), (*others, f"allow=[{codes}]"))
    accepted = {run.name: run.accepted for run in old.runs if run.accepted} if old is not None else {}
    new, notes = resolve(loaded, folder, settings, old, accepted, on_progress)
    if measure is not None and measure(new, folder):
        new, notes = resolve(loaded, folder, settings, old, accepted, on_progress)
    return commit_plan(folder, old, new, accept=accept, dry_run=dry_run, notes=notes)


def prepare(source: Path, settings: UserConfig, *, run: str | None = None, accept: bool = False) -> LoadedPlan:
    """Write the folders of the plan's runs. With `accept`, adopt the edits of one run's setup_finetune.yaml.

    Raises:
        PlanDriftError: an edit was not accepted, or a file that only touchline writes was changed.
        InputError: there is no plan or no such run, an edited file is wrong, or `check` finds errors.
    """
    planned = read_planned(source)
    if planned.plan.strategy is not None:
        refuse_other_design(planned)
    active_runs(planned, run)
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
) -> Results:
    """Run all missing steps: plan, prepare, train, evaluate, report. Completed steps are not repeated.

    With `probe`, measure a few steps of each model without measurements on this machine first.

    Raises:
        PolicyError: another command works on this folder.
        RunsFailedError: some runs failed; the others are complete and reported.
        KeyboardInterrupt: raised after the running jobs have saved.
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
    within_budget: bool = False,
    on_progress: ProgressCallback | None = None,
    on_message: MessageCallback = ignore_message,
) -> list[Submitted]:
    """Submit unfinished runs that are not in the queue to SLURM or PBS, and return.

    Args:
        source: experiment.yaml or its folder, planned.
        settings: where models are, and the cluster's options.
        only: one run (default: all).
        retry: also retry runs that failed twice with the same error.
        within_budget: submit only what the approved budget covers.
        on_progress: receives the number of submitted jobs and their total.
        on_message: receives each decision about a failed job.

    Raises:
        PolicyError: the plan is for this machine, is not approved, or another command works on this folder.
    """
    with _locked(source, within_budget) as lock:
        planned = prepare(source, settings)
        if planned.plan.executor == "local":
            raise PolicyError(
                "this plan runs on this machine",
                expected="compute.executor: slurm, or pbs",
                hint=f"touchline plan {shlex.quote(str(source))} compute.executor=slurm",
            )
        if caution := SCHEDULERS[planned.plan.executor].caution:
            on_message(caution)
        runs = active_runs(planned, only)
        if planned.plan.strategy is not None:
            again = partial(_prepared, settings=settings, accepted=False)
            planned, runs = submit_by_strategy(planned, only, on_message, prepare=again)
        return launching.submit(
            planned,
            runs,
            settings,
            on_message,
            lock=lock,
            retry=retry,
            on_progress=on_progress,
            within_budget=within_budget,
        )[1]


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
        planned = prepare(source, settings)
        return _worked(
            planned, settings, only, on_progress, on_message, lock=lock, retry=retry, within_budget=within_budget
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
        settings: where models and caches are.
        run: the run, if `source` is not its folder.
        out: folder of the reproduction (default: reproduced/RUN in the experiment).
        on_progress: called as the work advances.
        on_message: receives what is done after a failure.

    Raises:
        InputError: there is no such run, or a dataset or model is not on this machine.
        PolicyError: the run is not finished, or `out` holds something else.
        RunsFailedError: the training or the evaluation failed.
        KeyboardInterrupt: raised after the running job has saved.
    """
    from touchline.data.checkpoints import training_complete
    from touchline.results.reproduction import Difference, Outcome, Reproduction, compare_runs
    from touchline.run.reproducing import REPRODUCED, changed_inputs, write_reproduction

    folder, old, chosen = running.one_run(source, run)
    if chosen.train is None:
        raise InputError(f"{chosen.name} is a control that trains nothing", expected="a fine-tuned run")
    if not training_complete(folder.run(chosen.name), chosen.digest):
        raise PolicyError(
            f"the training of {chosen.name} is not finished",
            expected="a finished run, which the reproduction is compared with",
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
            reasons=tuple(f"{each.what} is not what was planned; nothing was trained" for each in changed),
            environment=changed,
        )
    planned = write_reproduction(folder, old, chosen, out or folder.root / REPRODUCED / chosen.name)
    with running.experiment_lock(planned.folder) as lock:
        write_folders(planned, planned.plan.runs, settings)
        done = launching.work(planned, planned.plan.runs, settings, on_progress, on_message, lock=lock)
    if done.stopped:
        raise launching.failure_of(done)
    results = (collect_results(old, folder.root), collect_results(done.planned.plan, planned.folder.root))
    first, again = (next(each for each in found if each.name == chosen.name) for found in results)
    return compare_runs(old.experiment, (first, folder.run(chosen.name)), (again, planned.folder.run(chosen.name)))


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
        from touchline.report.local.foreign import snapshot

        found = snapshot(source)
        if on_message is not None:
            on_message(found.note)
        return list(found.runs)
    from touchline.results.watching import status as own_status

    return own_status(source, settings, look=look, on_message=on_message)


def cancel(source: Path, settings: UserConfig, *, only: str | None = None) -> list[str]:
    """Cancel the jobs of a run, or of all: running jobs save their state and end. Return their names.

    Raises:
        InputError: there is no plan or no such run.
    """
    planned = read_planned(source)
    return launching.cancel(planned, active_runs(planned, only), settings)


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
        source: experiment.yaml or its folder.
        settings: where models and caches are.
        only: one run (default: all).
        epochs: `last`, `all` or numbers from 0 (default: those of experiment.yaml).
        within_budget: start only what the approved budget covers.
        on_progress: called as the work advances.

    Raises:
        PolicyError: another command works on this folder, or the plan is not approved.
        RunsFailedError: an evaluation failed.
    """
    with _locked(source, within_budget) as lock:
        planned = prepare(source, settings)
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


def approve(source: Path, device_hours: float) -> Approval:
    """Approve the plan on disk for agents, with a budget of device-hours from now on; replaces an earlier approval.

    Raises:
        InputError: there is no plan, or the hours are not a positive number.
    """
    from touchline.run import budget

    return budget.approve(ExperimentFolder(source), device_hours)


def approved_budget(source: Path) -> Budget:
    """Return whether the plan on disk is approved for agents, and the hours used, reserved and left."""
    from touchline.run.budget import read_budget

    return read_budget(ExperimentFolder(source))


def collect(source: Path, settings: UserConfig, *, out: Path | None = None) -> tuple[list[RunMetrics], list[str]]:
    """Write runs_status.yaml and each run's run_metrics.yaml, and add finished runs to the history.

    Args:
        source: experiment.yaml or its folder, or a folder that another tool made, into which nothing is written.
        settings: where the history is.
        out: where to write the files of another tool's folder (default: nowhere).

    Returns:
        The metrics of every run, and notes on runs that could not be stored.

    Raises:
        InputError: there is neither an experiment nor any run, or `out` was given for an experiment.
    """
    if not is_experiment(source):
        from touchline.report.local import foreign

        return foreign.collect(source, out)
    if out is not None:
        raise InputError("--out is for folders of other tools; an experiment's files are in its own folder")
    planned = read_started(source)
    found = collect_results(planned.plan, planned.folder.root)
    metrics = collecting.write_collected(planned, found)
    _, notes = collecting.store_finished_runs(planned, found, settings)
    return metrics, notes


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
    for model in read_text(read_text_bounded(yaml, SIZE_LIMIT_BYTES), str(yaml)).experiment.models:
        if model in EXPORTABLE:
            get_model(model, settings)
    create_capitalization(target / "data", word_length=8, num_words=1600, train_fraction=0.8, seed=14)
    found = run(target, settings, probe=probe, on_progress=on_progress, on_message=on_message)
    return target / "RESULTS.md", found


def history(settings: UserConfig, history_dir: Path | None = None) -> History:
    """Return the records of past runs, by name; superseded ones are left out.

    Args:
        settings: where the history is.
        history_dir: another history.

    Raises:
        InputError: the history is not a folder.
    """
    from touchline.history.listing import History

    return History(history_list(settings.history_dir if history_dir is None else history_dir).rows())


def doctor(folder: Path, settings: UserConfig) -> DoctorReport:
    """Check Python, folders, GPUs, SLURM and the settings; change nothing."""
    from touchline.run.doctor import run_doctor
    from touchline.slurm.local.commands import RealCommands

    return run_doctor(settings, folder, RealCommands())


def _prepared(planned: LoadedPlan, settings: UserConfig, *, only: str | None = None, accepted: bool) -> LoadedPlan:
    """Write the runs' folders and status files."""
    runs = active_runs(planned, only)
    for planned_run in () if accepted else runs:
        refuse_edits(planned, planned_run)
    notes = write_folders(planned, runs, settings)
    started = read_started(planned.folder.yaml)
    collecting.write_collected(started, collect_results(started.plan, started.folder.root))
    return replace(planned, notes=(*planned.notes, *notes))


@contextmanager
def _locked(source: Path, within_budget: bool) -> Iterator[int]:
    """Hold the experiment lock. Refuse a plan without a valid approval if only approved work may start."""
    folder = ExperimentFolder(source)
    with running.experiment_lock(folder) as lock:
        if within_budget:
            from touchline.run.budget import require_approval

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
    if planned.plan.strategy is not None and train:
        done = work_by_strategy(
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
            active_runs(planned, only),
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
    found = Results(report(source, cache=settings.cache_dir).report.runs)
    if done.stopped:
        raise launching.failure_of(done)
    return found
