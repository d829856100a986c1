"""Files of a run folder: editable settings, trainer config, scripts for bash and the scheduler, evaluation."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import jinja2

from touchline.backends.registry import get_backend
from touchline.core.text import escape
from touchline.experiment.anchors import drop_unset_files, from_run_folder, placed_data
from touchline.experiment.evaluation import (
    BASE_CHECKPOINT,
    NO_OP_CHECKPOINT,
    EvaluationConfig,
    EvaluationTask,
    asked_epochs,
    decoding_text,
    further_sets,
    labels_of,
    planned_model,
)
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import RunKind
from touchline.experiment.validate import adapter
from touchline.experiment.value_types import Site
from touchline.experiment.write import to_yaml
from touchline.plan.settings import nested_settings
from touchline.run.scripts.header import (
    comment,
    docstring,
    evaluation_header,
    parent_name,
    quote,
    slurm_value,
    training_header,
)
from touchline.slurm.job_view import EVALUATION_SCRIPT, TRAINING_SCRIPT


def run_files(plan: Plan, run: PlannedRun, site: Site) -> dict[str, str]:
    """Return every generated file of a run folder, by name.

    Raises:
        SlurmValueError: a setting is not valid on an #SBATCH line.
    """
    python = interpreter(plan, site)
    values: dict[str, object] = {"plan": plan, "run": run, "site": site, "python": python, "parent": parent_name(run)}
    values["decoding"] = decoding_text(run.evaluate)
    config = evaluation_config(plan, run)
    values["further"] = config.tasks
    files = {
        "eval.yaml": _evaluation(config),
        "eval.py": template("eval.py.j2").render(values),
        EVALUATION_SCRIPT: template("eval.slurm.j2").render(
            values, script=EVALUATION_SCRIPT, header=evaluation_header(plan, run, site)
        ),
    }
    if run.kind is RunKind.FINE_TUNED and run.train is not None:
        backend = get_backend(run.train.backend)
        cohort = plan.cohort_of(run.name)
        files |= {
            "setup_finetune.yaml": setup_text(run),
            **backend.files(run, plan, python),
            TRAINING_SCRIPT: template("finetune.slurm.j2").render(
                values,
                script=TRAINING_SCRIPT,
                header=training_header(plan, run, site),
                command=" ".join(quote(word) for word in backend.command(python)),
                cohort=() if cohort is None else [name for name in cohort.runs if name != run.name],
            ),
        }
    return files


def interpreter(plan: Plan, site: Site) -> str:
    """Return the Python of the scripts: on a cluster that of the user config, else this one."""
    return site.slurm.python if plan.executor != "local" and site.slurm.python is not None else site.python


def setup_text(run: PlannedRun) -> str:
    """Return setup_finetune.yaml: the run's own settings, for the user to edit and accept."""
    header = (
        f"# Settings of run {run.name}. To change them, edit this file and accept the change, which re-plans "
        f"this run only:\n#   touchline prepare .. --run {run.name} --accept\n# Until then they are not used.\n"
    )
    return header + to_yaml(nested_settings(run))


def evaluation_config(plan: Plan, run: PlannedRun) -> EvaluationConfig:
    """Return the content of a run's eval.yaml."""
    dataset = plan.datasets[run.dataset]
    test = next((split.sha256 for split in dataset.splits if split.name == "test"), "")
    return EvaluationConfig(
        experiment=plan.experiment,
        run=run.name,
        run_digest=run.digest,
        task=plan.task,
        date=plan.date,
        model=planned_model(plan.models[run.model]),
        data=placed_data(run, from_run_folder),
        data_sha256=test,
        images_sha256=run.images_sha256.get("test"),
        evaluate=run.evaluate,
        control=run.kind is RunKind.CONTROL,
        no_op=run.no_op,
        own=None if plan.own_task is None else _from_run(plan.own_task),
        labels=labels_of(plan.labels, run.dataset, run.data, run.evaluate),
        tasks=(
            *_further_sets(plan, run),
            *(_from_run(task) for task in plan.further_tasks if task.name in run.evaluate.tasks),
        ),
        gpus=max(plan.compute.evaluation_gpus, 1),
        train_epochs=None if run.train is None else run.train.epochs,
    )


def _further_sets(plan: Plan, run: PlannedRun) -> Iterator[EvaluationTask]:
    """Yield the experiment's own task on each test set after the one named first."""
    own = EvaluationTask(name=plan.task) if plan.own_task is None else _from_run(plan.own_task)
    for each in further_sets(plan.datasets[run.dataset]):
        images = run.images_sha256.get(f"test.{each.name}")
        yield replace(own, test_set=each.name, data_sha256=each.sha256, images_sha256=images)


def _from_run(task: EvaluationTask) -> EvaluationTask:
    """Return a task with paths relative to a run folder."""
    if task.file is None:
        return task
    modules = {from_run_folder(path): sha256 for path, sha256 in task.modules.items()}
    return replace(task, file=from_run_folder(task.file), modules=modules)


def _evaluation(config: EvaluationConfig) -> str:
    header = "# Resolved settings of this run's evaluation. eval.py reads this file.\n"
    data = json.loads(adapter(EvaluationConfig).dump_json(config))
    drop_unset_files(data["data"])
    if config.images_sha256 is None:
        del data["images_sha256"]
    for task in (data["own"], *data["tasks"]):
        # Only the further test sets have these keys.
        for key in ("test_set", "data_sha256", "images_sha256") if task is not None else ():
            if task[key] is None:
                del task[key]
    return header + to_yaml(data)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("touchline.run.scripts", "templates"),
        autoescape=False,  # noqa: S701 (shell and Python, not HTML: every value passes one of the filters below)
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[[str], str]] = {
        "q": quote,
        "sbatch": slurm_value,
        "comment": comment,
        "md": escape,
        "doc": docstring,
        "py": repr,
    }
    environment.filters |= filters
    return environment


def template(name: str) -> jinja2.Template:
    """Return one of our templates."""
    return _environment().get_template(name)


def experiment_files(plan: Plan) -> dict[str, str]:
    """Return README.md and submit_all.sh, by name."""
    return {"README.md": readme_text(plan), "submit_all.sh": submit_text(plan)}


def submit_text(plan: Plan) -> str:
    """Return submit_all.sh: every training after its parent, then the evaluations."""
    return template("submit_all.sh.j2").render(
        plan=plan,
        trained=parents_first([run for run in plan.runs if run.kind is RunKind.FINE_TUNED]),
        checkpoints={run.name: wanted_checkpoints(run) for run in plan.runs},
    )


def wanted_checkpoints(run: PlannedRun) -> list[str]:
    """Return the names of the checkpoints requested by `evaluate.epochs`, whether they exist or not."""
    if run.train is None:
        return [BASE_CHECKPOINT if run.no_op is None else NO_OP_CHECKPOINT]
    return [f"epoch_{epoch}" for epoch in asked_epochs(run.evaluate.epochs, run.train.epochs)]


def parents_first(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs in plan order, each after its parent; cycles are left out."""
    names = {run.name for run in runs}
    waiting, done, order = list(runs), set[str](), list[PlannedRun]()
    while waiting:
        ready = [run for run in waiting if run.link is None or run.link.parent in done or run.link.parent not in names]
        if not ready:
            return order
        order += ready
        done |= {run.name for run in ready}
        waiting = [run for run in waiting if run.name not in done]
    return order


def readme_text(plan: Plan) -> str:
    """Return README.md of the experiment."""
    verb = "run" if plan.executor == "local" else "submit"
    return template("README.md.j2").render(plan=plan, verb=verb)
