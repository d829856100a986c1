"""One run's folder: settings to edit, the backend's config, scripts for bash and sbatch alike, the evaluation."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import jinja2

from touchline.backends import get_backend
from touchline.domain.evaluation import EvaluationConfig, PlannedModel
from touchline.domain.plan import Plan, PlannedRun
from touchline.domain.runs import RunKind
from touchline.scaffold.shell import comment, docstring, quote, slurm_value
from touchline.spec.settings import nested_settings
from touchline.spec.validate import adapter
from touchline.spec.write import to_yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What the scripts must know of this machine."""

    python: str
    """The interpreter that has touchline, absolute."""


def run_files(plan: Plan, run: PlannedRun, site: Site) -> dict[str, str]:
    """Every file of a run's folder that exists before it starts, by name."""
    values = {"plan": plan, "run": run, "site": site}
    files = {
        "eval.yaml": _evaluation(plan, run),
        "eval.py": _template("eval.py.j2").render(values),
        "eval.slurm": _template("eval.slurm.j2").render(values),
    }
    if run.kind is RunKind.FINE_TUNED and run.train is not None:
        backend = get_backend(run.train.backend)
        command = " ".join(quote(word) for word in backend.command(site.python))
        files |= {
            "setup_finetune.yaml": setup_text(run),
            "finetune.yaml": backend.config_text(run, plan),
            "finetune.slurm": _template("finetune.slurm.j2").render(values, command=command),
        }
    return files


def setup_text(run: PlannedRun) -> str:
    """setup_finetune.yaml: the run's own part of the experiment, for a person to edit and then accept."""
    header = (
        f"# Settings of run {run.name}. You may edit them; then accept the change, which re-plans this run alone:\n"
        f"#   touchline prepare .. --run {run.name} --accept\n"
        "# Until you do, nothing is launched with them. Every key is explained in docs/reference/experiment.md.\n"
    )
    return header + to_yaml(nested_settings(run))


def evaluation_config(plan: Plan, run: PlannedRun) -> EvaluationConfig:
    """What eval.yaml of a run holds."""
    model = plan.models[run.model]
    dataset = plan.datasets[run.dataset]
    test = next((split.sha256 for split in dataset.splits if split.name == "test"), "")
    return EvaluationConfig(
        experiment=plan.experiment,
        run=run.name,
        run_digest=run.digest,
        task=plan.task,
        date=plan.date,
        model=PlannedModel(
            name=model.name,
            path=model.path,
            weights_sha256=model.weights_sha256,
            tokenizer_sha256=model.tokenizer_sha256,
        ),
        data=replace(run.data, path=run.dataset),
        data_sha256=test,
        evaluate=run.evaluate,
        control=run.kind is RunKind.CONTROL,
    )


def _evaluation(plan: Plan, run: PlannedRun) -> str:
    config = evaluation_config(plan, run)
    header = "# Everything that the evaluation of this run needs, resolved; eval.py reads it.\n"
    return header + to_yaml(json.loads(adapter(EvaluationConfig).dump_json(config)))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("touchline.scaffold", "templates"),
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
        "doc": docstring,
        "py": repr,
    }
    environment.filters |= filters
    return environment


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)
