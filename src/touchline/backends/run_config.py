"""Resolved run as a training process reads it. The file is finetune.yaml of the backend that trains in our own process,
and run.yaml next to the finetune.yaml of any other trainer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.experiment.anchors import drop_unset_files, from_run_folder, placed_data
from touchline.experiment.data_config import DataConfig, is_test
from touchline.experiment.document import parse
from touchline.experiment.evaluation import PlannedModel, planned_model
from touchline.experiment.experiment import as_written
from touchline.experiment.plan import BatchSummary, Plan, PlannedRun
from touchline.experiment.runs import ControlKind
from touchline.experiment.training import TrainConfig
from touchline.experiment.write import to_yaml

FINETUNE_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedBatches:
    """Planned batches. The trainer recomputes them and refuses a difference."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    digest: str
    """`BatchPlan.digest`."""
    steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: int
    """Optimizer steps of one epoch."""
    data_parallel_size: int = 1
    """Processes that share each step, one per device. The file has this key only if there are several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParentConfig:
    """Parent run of a stage. The trainer verifies its artifacts first."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "alias_generator": as_written,
        "serialize_by_alias": True,
    }

    run: str
    """Its name."""
    folder: str
    """Its folder, relative to this run's: `../135M_rank4_easy`."""
    run_digest: str
    """`PlannedRun.digest` of it; a training with another digest is not resumed."""
    continue_: Literal["adapter", "merge"]
    """`adapter`: its adapter is trained further; `merge`: merged into the base, and a new one trained."""
    checkpoint: Literal["last", "best"]
    """Its last epoch's, or the one with the lowest validation loss of those that are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Resolved run: everything that its training needs."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    schema_version: int = FINETUNE_SCHEMA_VERSION
    """Version of this file's form."""
    experiment: str
    """The experiment's name."""
    run: str
    """The run's name."""
    run_digest: str
    """`PlannedRun.digest`; a saved state with another one is not resumed."""
    model: PlannedModel
    """The base."""
    data: DataConfig
    """Dataset, columns, prompt; the path is absolute."""
    data_sha256: str
    """Hash of the dataset's file; another one is refused."""
    images_sha256: dict[str, str] = field(default_factory=dict)
    """Hash of the images of the training and validation split; others are refused. The file has this key only if there
    are images.
    """
    recipe_sha256: str | None = None
    """Hash of the recipe in the run's folder; another one is refused. The file has this key only if there is one."""
    date: str
    """ISO date frozen in the plan, for chat templates that print one."""
    train: TrainConfig
    """The training; nothing in it is `auto` except `base_dtype`, which depends on where it runs."""
    seed: int
    """Order of the examples, a new adapter, dropout."""
    batches: PlannedBatches
    """Planned batches."""
    parent: ParentConfig | None = None
    """Parent run. None if the training starts from the base model."""
    shuffled_labels: bool = False
    """Whether the answers of the training rows are shuffled by `seed`, as a control. The file has this key only if it
    is true.
    """


_ADAPTER = TypeAdapter(RunConfig)


def require_training(run: PlannedRun) -> tuple[TrainConfig, BatchSummary]:
    """Return the training of a run and its batches.

    Raises:
        ValueError: the run trains nothing.
    """
    if run.train is None or run.batches is None:
        raise ValueError(f"run {run.name} is not trained")
    return run.train, run.batches


def run_config(run: PlannedRun, plan: Plan) -> RunConfig:
    """Build the config of a planned run.

    Raises:
        ValueError: the run trains nothing.
    """
    train, batches = require_training(run)
    return RunConfig(
        experiment=plan.experiment,
        run=run.name,
        run_digest=run.digest,
        model=planned_model(plan.models[run.model]),
        data=replace(placed_data(run, from_run_folder), test=None),
        data_sha256=plan.datasets[run.dataset].sha256,
        images_sha256={split: sha256 for split, sha256 in run.images_sha256.items() if not is_test(split)},
        recipe_sha256=None if run.recipe is None else run.recipe.sha256,
        date=plan.date,
        train=train,
        seed=run.seed,
        batches=PlannedBatches(
            digest=batches.digest,
            steps=batches.steps,
            steps_per_epoch=batches.steps_per_epoch,
            data_parallel_size=batches.data_parallel_size,
        ),
        parent=_parent(run, plan),
        shuffled_labels=run.control is ControlKind.SHUFFLED,
    )


def run_config_text(config: RunConfig, header: str) -> str:
    """Return the text of the file: JSON values in YAML's block style, equal numbers for every YAML reader."""
    data = json.loads(_ADAPTER.dump_json(config))
    if config.train.trains_all:
        del data["train"]["lora"], data["train"]["checkpoint"]["save"]
    drop_unset_files(data["data"])
    if config.parent is None:
        del data["parent"]
    if config.recipe_sha256 is None:
        del data["recipe_sha256"]
    if not config.images_sha256:
        del data["images_sha256"]
    if not config.shuffled_labels:
        del data["shuffled_labels"]
    if config.batches.data_parallel_size == 1:
        del data["batches"]["data_parallel_size"]
    return header + to_yaml(data)


def change_comment(run: PlannedRun) -> str:
    """Return the last lines of the header of a trainer's finetune.yaml."""
    return f"""\
# To change the run, edit setup_finetune.yaml and accept it:
#   touchline prepare .. --run {run.name} --accept
"""


def run_yaml(run: PlannedRun, plan: Plan, reader: str) -> dict[str, str]:
    """Return run.yaml, by its name."""
    header = f"# The planned run, resolved: {reader} reads from it the data, the order of the examples and the hashes."
    return {"run.yaml": run_config_text(run_config(run, plan), f"{header}\n")}


def read_run_config(text: str, path: str) -> RunConfig:
    """Read the text of such a file.

    Raises:
        InputError: with every fault.
    """
    return build_run_config(parse(text, path).data, path)


def build_run_config(data: Mapping[str, object], path: str) -> RunConfig:
    """Build the config from the plain data of the file.

    Raises:
        InputError: with every fault.
    """
    try:
        return _ADAPTER.validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        findings = [
            Finding(
                code="BK002",
                severity=Severity.ERROR,
                subject=".".join(str(part) for part in item["loc"]),
                message=item["msg"],
            )
            for item in error.errors()
        ]
        raise InputError(f"{path} is not the config of a run", findings=findings) from None


def _parent(run: PlannedRun, plan: Plan) -> ParentConfig | None:
    parent = None if run.link is None else plan.run(run.link.parent)
    if run.link is None or parent is None:
        return None
    return ParentConfig(
        run=parent.name,
        folder=f"../{parent.name}",
        run_digest=parent.digest,
        continue_=run.link.continue_,
        checkpoint=run.link.parent_checkpoint,
    )
