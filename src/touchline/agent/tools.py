"""Tools of the MCP server: each calls verbs and answers in the keys of `--json`, shortened.

A tool that executes (`EXECUTES`) starts nothing itself: it returns `Work`, which the server starts and waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import Field

from touchline import api
from touchline.agent.answers import Data, one_run, section, summary
from touchline.core.catalog import ModelInfo
from touchline.core.errors import InputError, PolicyError, TouchlineError, quoted
from touchline.core.files import read_text_bounded, write_if_changed
from touchline.core.json_text import answer, answer_object
from touchline.core.near import did_you_mean, near_names
from touchline.core.text import without_controls
from touchline.data.models import find_models
from touchline.data.requests import EstimateRequest
from touchline.data.user_config import load_settings
from touchline.experiment.document import SIZE_LIMIT_BYTES
from touchline.experiment.plan import Plan
from touchline.experiment.read import read_experiment
from touchline.experiment.requests import CheckRequest
from touchline.experiment.write import with_values
from touchline.lint.check import CheckReport
from touchline.lint.checked import DataAudit
from touchline.lint.local.checking import is_task_target
from touchline.lint.rule import RulePage, all_codes, load_page
from touchline.plan.estimate_result import EstimateAnswer
from touchline.plan.settings import RunSetting, collect_settings
from touchline.report.compared import ComparedExperiments
from touchline.report.report import Report
from touchline.results.following import FailedJob
from touchline.results.live_status import LiveRun
from touchline.results.report_inputs import ResultsAnswer
from touchline.run.budget import Budget, read_budget, require_approval
from touchline.run.folders import ExperimentFolder, is_experiment

Experiment = Annotated[Path, Field(description="experiment.yaml, or its folder.")]
Run = Annotated[str | None, Field(description="Name of one run.")]
Section = Annotated[str | None, Field(description="One key in full, from `sections` of the summary.")]
Columns = Annotated[str | None, Field(description="Column (default: by the names in the data).")]
Wait = Annotated[float, Field(ge=0, le=3600, description="Seconds to wait for the end; the work continues after that.")]
_PLAN = (
    *("experiment", "question", "task", "executor", "gpus_per_run", "deadline", "factors", "gpu_hours"),
    *("wall_seconds", "disk", "runs"),
)
_PLANNED_RUN = ("name", "kind", "levels", "seed", "train_seconds", "evaluate_seconds", "peak_memory")
_LIVE_RUN = (
    *("name", "kind", "status", "job_state", "attempts", "steps_done", "steps_planned", "loss", "seconds_left"),
    *("queue_reason", "flags", "items_done", "items_planned"),
)
_RESULT = (
    *("name", "kind", "status", "levels", "seed", "metric", "score", "final_train_loss", "final_val_loss"),
    *("train_seconds", "evaluate_seconds"),
)
_MODEL = ("name", "size_label", "path", "architecture", "dtype", "context_length", "findings")
_COMPARED = ("experiments", "settings", "same_settings", "runs", "notes")
_REPORT = (
    *("experiment", "question", "origin", "task", "answer", "completed", "device_hours", "claims", "issues"),
    "next_steps",
)
"""Keys that summaries have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Approved work that a process of its own executes."""

    experiment: Path
    action: Literal["run", "evaluate"]
    run: str | None = None
    retry: bool = False
    """Whether runs that failed twice the same way are started again."""
    epochs: str | None = None
    wait_seconds: float = 0.0


# ------------------------------------------------------------------------------------------------------------- looking


def plan(
    *,
    experiment: Experiment,
    overrides: Annotated[list[str], Field(description="Dotted key=value, such as train.epochs=2.")] = [],  # noqa: B006
    section: Section = None,
    run: Run = None,
) -> Data:
    """Plan an experiment and write nothing: runs, predicted time, memory and disk, and what an approval covers."""
    planned = api.plan(experiment, load_settings(), overrides, dry_run=True)
    full = answer(
        plan=(Plan, planned.plan),
        settings=(tuple[RunSetting, ...], collect_settings(planned.plan)),
        marks=(dict[str, str], {**planned.marks}),
    )
    found = _chosen(full["plan"], _PLAN, _PLANNED_RUN, section, run)
    beside = (
        {}
        if section or run
        else {"marks": full["marks"], "approval": _budget(read_budget(planned.folder, planned.plan))}
    )
    return {
        "schema_version": full["schema_version"],
        "plan": found,
        "notes": [*planned.changes, *planned.warnings, *planned.notes],
        **beside,
    }


def check(
    *,
    paths: Annotated[
        list[Path], Field(description="Experiments, configs, job scripts, datasets, folders.", min_length=1)
    ],
    gpu: Annotated[str, Field(description="Target GPU, such as A100-80GB.")] = "auto",
    section: Section = None,
) -> Data:
    """Find mistakes in experiments, configs of any trainer, job scripts and data before anything is queued."""
    _refuse_code(paths)
    report, _ = api.check(paths, load_settings(), CheckRequest(gpu=gpu))
    full = answer_object(CheckReport, report)
    return _chosen(full, ("schema_version", "findings", "files", "errors", "warnings"), (), section, None)


def explain(
    *,
    code: Annotated[str | None, Field(description="Code of a finding, such as TR010.")] = None,
    experiment: Annotated[Path | None, Field(description="experiment.yaml, or its folder.")] = None,
    run: Run = None,
) -> Data:
    """Explain the code of a finding, or why a run of an experiment failed: its attempts, causes and evidence."""
    if code is not None:
        return _page(code)
    if experiment is None or run is None:
        raise InputError("nothing to explain", expected="code, or experiment and run")

    settings = load_settings()
    live = [each for each in api.status(experiment, settings) if each.name == run]
    found = answer(runs=(list[LiveRun], live), failures=(list[FailedJob], api.failures(experiment, settings, run=run)))
    try:
        found["log"] = logs(experiment=experiment, run=run, lines=20)
    except TouchlineError as error:
        found["log"] = {"missing": error.message}
    return found


def _page(code: str) -> Data:

    known = code.strip().upper()
    if known not in all_codes():
        near = near_names(known, all_codes(), most=3, cutoff=0.4)
        raise InputError(f"unknown code {code!r}", expected="a code that `check` reports", hint=did_you_mean(near))
    return answer(rule=(RulePage, load_page(known)))


def estimate(**options: Any) -> Data:
    """Estimate memory, the largest micro-batch and the time of a training without an experiment."""
    found: Data = answer_object(EstimateAnswer, api.estimate(EstimateRequest(**options), load_settings()))
    return found


def _take_fields(tool: Callable[..., Any], request: type, names: str) -> None:
    hints = get_type_hints(request, include_extras=True)
    defaults = {each.name: each.default for each in fields(request)}
    parameters = []
    for name in names.split():
        kind, option = get_args(hints[name])
        words = f"{option.help[:-1]}: {option.metavar}." if "|" in (option.metavar or "") else option.help
        default = defaults[name]
        typed = Annotated[kind, Field(description=words, ge=option.min, le=option.max)]  # type: ignore[valid-type]
        made = Parameter.empty if default is MISSING else default
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=made, annotation=typed))
    tool.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    tool.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": Data}


_take_fields(
    estimate,
    EstimateRequest,
    "model method rank backend micro_batch_size seq_len mean_length gradient_accumulation_steps gpu "
    "gradient_checkpointing optimizer examples epochs",
)


def status(*, experiment: Experiment, run: Run = None) -> Data:
    """Show the state, progress and time left of every run, and the approved hours; `run` gives one in full."""
    notes: list[str] = []
    full = answer(runs=(list[LiveRun], api.status(experiment, load_settings(), on_message=notes.append)))
    found = _chosen(full, ("schema_version", "runs"), _LIVE_RUN, None, run)
    approval = {"approval": _budget(api.approved_budget(experiment))} if is_experiment(experiment) else {}
    return {**found, "notes": [note for note in notes if note], **approval}


def logs(
    *,
    experiment: Experiment,
    run: Run = None,
    evaluation: Annotated[bool, Field(description="The evaluation's output instead of the training's.")] = False,
    lines: Annotated[int, Field(ge=1, le=500)] = 50,
) -> Data:
    """Return the last lines of a run's newest output."""
    found = list(api.logs(experiment, load_settings(), run=run, evaluation=evaluation, lines=lines))
    return {
        "file": next((str(each.file) for each in found if each.file is not None), None),
        "lines": [without_controls(each.line) for each in found if each.line is not None],
    }


def results(*, experiment: Experiment, run: Run = None, section: Section = None) -> Data:
    """Return scores, losses and durations of every run; `run` gives one in full, `section` the statistical tests."""
    full = answer_object(ResultsAnswer, api.results_answer(experiment, api.results(experiment)))
    return _chosen(full, ("schema_version", "runs"), _RESULT, section, run)


def compare(
    *,
    experiments: Annotated[list[Path], Field(min_length=2, description="Two or more; the first is the reference.")],
    section: Section = None,
) -> Data:
    """Compare experiments: settings that differ, paired differences of scores, and what cannot be compared."""
    full = answer_object(ComparedExperiments, api.compare(experiments))
    return _chosen(full, ("schema_version", *_COMPARED), (), section, None)


def models() -> Data:
    """List the base models on this machine."""
    settings = load_settings()
    full = answer(models=(list[ModelInfo], find_models(settings.models_dir)))
    shown = [{key: each[key] for key in _MODEL if key in each} for each in full["models"]]
    return {**full, "models_dir": str(settings.models_dir), "models": shown}


def data(*, path: Annotated[Path, Field(description="JSON, JSONL, CSV, parquet, or an experiment.yaml.")]) -> Data:
    """Audit a dataset: splits, columns, duplicates, leaks between splits, labels."""
    full = answer_object(DataAudit, api.data_audit(path))
    return summary(full, [key for key in full if key not in ("duplicates", "labels")])


# ------------------------------------------------------------------------------------------------------- writing texts


def init(
    *,
    data: Annotated[Path, Field(description="Dataset: JSON, JSONL, CSV or parquet.")],
    target: Annotated[Path | None, Field(description="Folder to create.")] = None,
    model: Annotated[str | None, Field(description="Base model, by its name on this machine.")] = None,
    name: Annotated[str | None, Field(description="Name of the experiment.")] = None,
    input_column: Columns = None,
    output_column: Columns = None,
) -> Data:
    """Write a commented experiment.yaml for a dataset. Nothing is replaced."""
    started = api.init(
        target,
        load_settings(),
        data=data,
        model=model,
        name=name,
        input_columns=[input_column] if input_column else [],
        output_column=output_column,
    )
    return {"path": str(started.path), "notes": [*started.notes]}


def edit(
    *,
    experiment: Experiment,
    values: Annotated[dict[str, Any], Field(description='Value by dotted key, such as {"train.epochs": 2}.')],
) -> Data:
    """Set values in experiment.yaml, keeping its comments, if the result can be read."""
    path = ExperimentFolder(experiment).yaml
    text = with_values(read_text_bounded(path, SIZE_LIMIT_BYTES), str(path), values)
    read_experiment(text, str(path))
    return {"path": str(path), "changed": write_if_changed(path, text)}


def fix(
    *,
    paths: Annotated[list[Path], Field(description="Experiments, configs, job scripts, folders.", min_length=1)],
    write: Annotated[bool, Field(description="Write the changes; otherwise only show them.")] = False,
) -> Data:
    """Show the safe fixes of what `check` finds, or apply them."""
    _refuse_code(paths)
    changes = api.check_fix(paths, load_settings(), CheckRequest(), write=write)
    return {"files": changes.files, "diff": changes.text, "notes": [*changes.notes], "written": write}


def report(*, experiment: Experiment, section: Section = None) -> Data:
    """Write RESULTS.md and report.html, and return the answer, claims, issues and next steps."""
    written = api.report(experiment, cache=load_settings().cache_dir)
    full = answer(report=(Report, written.report))
    found = _chosen(full["report"], _REPORT, (), section, None)
    return {**full, "report": found, "markdown": str(written.markdown), "page": str(written.page)}


# ----------------------------------------------------------------------------------------------------------- executing


def run(
    *,
    experiment: Experiment,
    run: Run = None,
    retry: Annotated[bool, Field(description="Also start runs that failed twice with the same error.")] = False,
    wait_seconds: Wait = 5.0,
) -> Work:
    """Start the approved plan, or resume it after an interruption: train, evaluate and report what is missing.

    Needs an approval by the user, and starts only what fits into its hours. On SLURM it submits and returns.
    """
    return Work(experiment=experiment, action="run", run=run, retry=retry, wait_seconds=wait_seconds)


def evaluate(
    *,
    experiment: Experiment,
    run: Run = None,
    epochs: Annotated[str | None, Field(description="last, all, or epochs from 0: 0,2.")] = None,
    wait_seconds: Wait = 5.0,
) -> Work:
    """Evaluate trained checkpoints without current results. Needs an approval, as `run` does."""
    return Work(experiment=experiment, action="evaluate", run=run, epochs=epochs, wait_seconds=wait_seconds)


def cancel(*, experiment: Experiment, run: Run = None) -> Data:
    """Ask the jobs of a run, or of all, to save and end. Needs an approval."""
    require_approval(ExperimentFolder(experiment))
    return {"cancelled": api.cancel(experiment, load_settings(), only=run)}


LOOKS: tuple[Callable[..., Any], ...] = (
    *(plan, check, explain, estimate, status, logs, results, compare, models, data),
)
"""Tools that change nothing."""
WRITES: tuple[Callable[..., Any], ...] = (init, edit, fix, report)
"""Tools that write configs and reports, and start nothing."""
EXECUTES: tuple[Callable[..., Any], ...] = (run, evaluate, cancel)
"""Tools that need an approval."""


def _chosen(full: Data, keys: Sequence[str], run_keys: Sequence[str], wanted: str | None, run_name: str | None) -> Data:
    """Return a section or a run in full, else the summary."""
    if run_name is not None:
        return one_run(full, run_name)
    return summary(full, keys, run_keys) if wanted is None else section(full, wanted)


def _budget(value: object) -> Data:

    found: Data = answer_object(Budget, value)
    return found


def _refuse_code(paths: Sequence[Path]) -> None:
    """Refuse task files, whose code a check runs.

    Raises:
        PolicyError: a path names one.
    """
    for path in paths:
        if is_task_target(path):
            raise PolicyError(
                f"{str(path)!r} is a task file, and a check of it runs its code",
                expected="paths that are only read",
                hint=f"the user types: touchline check {quoted(str(path))}",
            )
