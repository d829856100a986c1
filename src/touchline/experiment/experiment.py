"""Settings of experiment.yaml, key by key; those under `train` are in `training`, those under `data` in `data_config`.

The dataclasses mirror the file; a key's docstring is its reference page. Words and reasons
of defaults are in `settings`. Bounds are annotations, checked when a file is read; what concerns two keys at
once is checked in `__post_init__`.
"""

from __future__ import annotations

import copy
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import Parameter, Signature
from pathlib import PurePath
from typing import Annotated, ClassVar, Final, Literal, Required, TypedDict, Unpack, get_type_hints

from annotated_types import Ge, Gt, Le, MinLen

from touchline.experiment.data_config import DATASET_KEYS, TRAINING_KEYS, DataConfig, is_test
from touchline.experiment.strategy import StrategyConfig
from touchline.experiment.training import (
    CheckpointConfig,
    CheckpointInterval,
    CheckpointKind,
    LoraConfig,
    TrainConfig,
)
from touchline.experiment.value_types import NonNegativeInt, PositiveFloat, PositiveInt, Quantization, Text

MAX_NEW_TOKENS: Final = 24
CPU = "cpu"
"""The value of `compute.gpu` that plans for CPUs."""
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_]+")


def as_written(name: str) -> str:
    """Return a field's name as written in the file, without the underscore after a Python keyword."""
    return name.rstrip("_")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One run in a chain. Other settings are the experiment's `data` and `train`."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "alias_generator": as_written,
        "serialize_by_alias": True,
    }

    name: Text
    """Name of the stage; other stages refer to it."""
    parent: Text | None = None
    """Earlier stage that it continues from. The first stage has none and starts from the base model."""
    continue_: Literal["adapter", "merge"] | None = None
    """`adapter` trains the parent's adapter further. `merge` merges it into the base and trains a new one."""
    parent_checkpoint: Literal["last", "best"] = "last"
    """Parent checkpoint to continue from: the last epoch's, or the one with the lowest validation loss."""
    model: Text | None = None
    """Base model, the same for all stages of a chain."""
    data: dict[str, object] = field(default_factory=dict)
    """Differences from the experiment's `data`, `{path: data/easy.json}`."""
    train: dict[str, object] = field(default_factory=dict)
    """Differences from the experiment's `train`, `{epochs: 2}`."""


def task_file_stem(task: str) -> str:
    """Return the file name of a task: its name, or its path with `-` for characters other than a letter, digit
    or `_`; `tasks/mine.py@name` gives `tasks-mine-py-name`."""
    return _NOT_IN_A_NAME.sub("-", task).strip("-").casefold()


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Evaluation after training, on the test split."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    epochs: Literal["last", "all"] | tuple[NonNegativeInt, ...] = "last"
    """Epochs whose checkpoints are evaluated: the last, all, or a list counted from 0."""
    samples: Literal["all"] | PositiveInt = "all"
    """Number of test items per test set, from the first on, the same for every run. A smaller test set is used
    whole."""
    batch_size: PositiveInt | Literal["auto"] = 64
    """Maximum number of prompts per batch, reduced if their tokens would not fit into memory. `auto` takes as many as
    the device computes well, so that short prompts get larger batches. In bfloat16 some answers depend on it, in
    float32 none do. Compare bfloat16 scores only at one batch size."""
    max_new_tokens: PositiveInt = MAX_NEW_TOKENS
    """Longest answer in tokens."""
    metric: Text | None = None
    """Primary metric if the experiment's task has several: a scorer's name, `scorer.key` for a scorer with several
    scores, `exact match` or `match` for a ready-made task (default: the first). It changes no score, so you can set it
    after the evaluation."""
    labels: tuple[Text | int, ...] = ()
    """Labels of `task: classification`, listed in the task's own prompt (default: all answers of the dataset)."""
    tasks: tuple[Text, ...] = ()
    """Further tasks for the same checkpoints. Either a ready-made task, which uses the test split with its own prompt,
    or an Inspect task in a file of yours, `tasks/mine.py` or `tasks/mine.py@name`, relative to experiment.yaml. As with
    `task`, only the evaluation process runs such a file, and its first score counts. `samples` limits its items too.
    Its own decoding settings take precedence."""
    temperature: Annotated[float, Ge(0)] = 0.0
    """Sampling temperature. 0 is greedy decoding."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Sample only from the likeliest tokens that together have this probability. It needs a temperature above 0."""
    repeats: PositiveInt = 1
    """Answers sampled per item. The score of an item is their mean. It needs a temperature above 0, because greedy
    answers are identical."""
    seed: NonNegativeInt = 0
    """Sampling seed, the same for every run. A sampled token depends on it, the item, the repeat and the model's
    probabilities, not on the other prompts of the batch."""
    max_error_rate: Annotated[float, Ge(0), Le(1)] = 0.0
    """Fraction of answers that may fail to be generated or scored; they count as wrong. Above it the evaluation fails
    and gives no scores."""
    cluster: Text | None = None
    """Dataset column that groups dependent test items, such as those from one template or source document. Intervals
    and tests then use clusters instead of items. An item without a value is its own cluster. Items of your own Inspect
    task state it as `cluster` in their metadata. It changes no score, so you can set it after the evaluation."""
    quantization: Quantization = "none"
    """Quantization of the base model on which all runs and controls are scored: none, or `nf4` or `int8` by
    bitsandbytes if the base does not fit the GPU. One value per experiment, because scores on different ones cannot be
    compared. Adapters are not merged into a quantized base."""

    def __post_init__(self) -> None:
        if not self.temperature and (self.repeats > 1 or self.top_p < 1):
            key = "repeats above 1" if self.repeats > 1 else "top_p below 1"
            raise ValueError(f"a temperature above 0 with {key}, because greedy decoding does not sample")
        names = [task_file_stem(task) for task in self.tasks]
        if len({str(label).strip().casefold() for label in self.labels} - {""}) < len(self.labels):
            raise ValueError("non-empty labels that differ in more than case")
        if len(set(names)) < len(names):
            raise ValueError("each task once, and files whose paths differ in more than punctuation")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationCompute:
    """Resources of an evaluation job that differ from those of a training job."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    gpus: PositiveInt | None = None
    """GPUs per evaluation (default: 1, or none if the runs use CPUs). Several GPUs hold a model that is too large for
    one."""
    partition: Text | None = None
    """`--partition` of evaluations (default: that of training jobs)."""
    constraint: Text | None = None
    """`--constraint` of evaluations (default: that of training jobs). It also replaces `slurm.gpu_type`, so that
    evaluations can use another type of GPU."""
    time_limit: Text | None = None
    """Time limit of one evaluation, `1h` (default: the estimate's upper end, at least 15 min; none on this machine)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """Machine and jobs."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    executor: Literal["local", "slurm"] = "local"
    """Where jobs run: on this machine, or through SLURM."""
    gpus_per_run: NonNegativeInt = 1
    """GPUs per run. Several GPUs train in data parallel: each takes every n-th micro-batch of a step.
    `global_batch_size` stays as written, so it must be a multiple. Without a GPU, runs use the CPU, as many at a time
    as `slots` says. With `gpu: cpu` it is the number of processes that share the CPU. More than the trainer supports is
    an error."""
    gpu: Text = "auto"
    """GPU to plan for: `auto` for the one in this machine, a name such as `A100-80GB` for another machine, `cpu` for
    CPUs. Required on a cluster, unless the user's `slurm.gpu_type` is set."""
    deadline: Text | None = None
    """Deadline for all runs, `30min` or `6h`. The plan is compared with it."""
    time_limit: Text | None = None
    """Time limit of one training job, `6h` (default: the estimate's upper end and time to save, at least 15 min; none
    on this machine)."""
    partition: Text | None = None
    """`--partition` of the jobs (default for this key and the next ones: the user's config file)."""
    account: Text | None = None
    """`--account` of the jobs."""
    qos: Text | None = None
    """`--qos` of the jobs."""
    constraint: Text | None = None
    """`--constraint` of the jobs."""
    cpus_per_run: PositiveInt | None = None
    """CPUs per run (default: the user's config file, else from processes and data workers)."""
    memory_gb_per_run: PositiveFloat | None = None
    """Host memory per run, in GiB (default: the user's config file, else the estimate)."""
    cohorts: Literal["auto", "always", "never"] = "auto"
    """Whether runs that share base, data, target modules, micro-batch and steps train together in one process. `auto`
    groups them if the lower bound of the predicted speed-up exceeds 1.15, `always` wherever memory fits. Losses equal
    those of separate runs up to rounding."""
    slots: Literal["auto"] | PositiveInt = "auto"
    """Runs trained at once on this machine's CPU, each with its share of the threads. `auto` takes several if a probe
    measured that they are faster and memory fits. All runs of an experiment use the same number of threads, because it
    affects rounding. Evaluations follow one at a time with all threads. GPUs and cluster jobs have no slots."""
    evaluation: EvaluationCompute = field(default_factory=EvaluationCompute)
    """Resources of evaluation jobs."""

    def __post_init__(self) -> None:
        if self.evaluation.gpus is not None and not self.gpus:
            raise ValueError("no evaluation.gpus if the runs use CPUs, because their evaluations do too")

    @property
    def gpus(self) -> int:
        """GPUs that a job asks for; None if it is planned for the CPU."""
        return 0 if self.plans_for_cpu else self.gpus_per_run

    @property
    def evaluation_gpus(self) -> int:
        """GPUs that the job of an evaluation asks for."""
        return (self.evaluation.gpus or 1) if self.gpus else 0

    @property
    def plans_for_cpu(self) -> bool:
        """Return whether the CPU is written as the device."""
        return self.gpu.lower() == CPU


class ExperimentKeys(TypedDict, total=False):
    """Keys of an experiment written in Python: those of the file, with lists and mappings as Python has them."""

    name: Required[str]
    question: str
    task: str
    models: Sequence[str]
    data: Required[Mapping[str, object]]
    train: Mapping[str, object]
    stages: Sequence[Mapping[str, object]]
    factors: Mapping[str, Sequence[object]]
    pairs: Sequence[Mapping[str, object]]
    exclude: Sequence[Mapping[str, object]]
    seeds: Sequence[int]
    controls: Sequence[Literal["base", "noop", "shuffled"]]
    strategy: Mapping[str, object] | None
    evaluate: Mapping[str, object]
    compute: Mapping[str, object]
    run_names: str | None
    allow: Sequence[str]


class _Origin:
    """Slots of an experiment that are no keys of its file."""

    __slots__ = ("_folder", "_written")
    _folder: str
    _written: dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True, init=False, repr=False)
class Experiment(_Origin):
    """Question, design and recipe."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    name: Text
    """Short name, also used for the folder."""
    question: str = ""
    """Question that the experiment answers, and heading of the report."""
    task: Text = "exact_match"
    """Task that prompts and scores the models. Ready-made tasks: `exact_match` for any dataset; `classification`, which
    reads one of the dataset's labels from the answer; `number` and `choice`, which read a number or a letter;
    `capitalization`. Or an Inspect task in a file of yours, `tasks/mine.py` or `tasks/mine.py@name`, relative to
    experiment.yaml. Its first score is the primary metric, unless `evaluate.metric` names another. If its function has
    an argument `data`, it gets the path of a JSON Lines file with the test items as prompted in training, for
    `json_dataset`. Without that argument the file brings its own items. Such a file is code: the plan shows it with its
    hash, and only the evaluation process runs it."""
    models: tuple[Text, ...] = ()
    """Base models: folders under `models_dir`, or paths."""
    data: DataConfig
    """Dataset."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Training."""
    stages: tuple[StageConfig, ...] = ()
    """Chain of runs, in order, instead of one. Levels of factors apply to all of them."""
    factors: dict[str, Annotated[list[object], MinLen(1)]] = field(default_factory=dict)
    """Factors, crossed: a dotted key of this file and its levels."""
    pairs: tuple[dict[str, object], ...] = ()
    """Settings that vary together. Each entry is one level of one factor."""
    exclude: tuple[dict[str, object], ...] = ()
    """Combinations to leave out. A run that matches every key of an entry is not made."""
    seeds: Annotated[tuple[NonNegativeInt, ...], MinLen(1)] = (1,)
    """Training seeds: every condition runs once per seed."""
    controls: tuple[Literal["base", "noop", "shuffled"], ...] = ()
    """`base`: each base model is evaluated without training. `noop`: each base model is evaluated again through a fresh
    adapter that changes nothing, and must score the same. `shuffled`: the first condition and seed of each base model
    and dataset is also trained on shuffled answers. Its gain comes from the form of the answers, not from their
    content."""
    strategy: StrategyConfig | None = None
    """Two phases instead of all runs at once. Explore stops conditions early by validation loss; confirm adds seeds to
    contrasts until they are settled. Without it every condition runs with every seed."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Evaluation."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """Machine and executor."""
    run_names: str | None = None
    """Pattern of the run names, `{model_size}_rank{lora_rank}` (default: made from the factors)."""
    allow: tuple[Text, ...] = ()
    """Codes of checks whose errors do not stop this experiment, `[EV201]`. They are still shown."""

    def __init__(self, *, folder: str | PurePath | None = None, **keys: Unpack[ExperimentKeys]) -> None:
        """Make an experiment of the keys of its file, as keywords; groups are mappings.

            Experiment(name="ranks", models=["SmolLM2-135M-Instruct"], data={"path": "../words.csv"},
                       train={"epochs": 2, "lora": {"dropout": 0.1}}, factors={"train.lora.rank": [4, 16]})

        Args:
            folder: where its experiment.yaml is written (default: a folder of its name, in the current one); paths in
                the experiment are relative to it.
            keys: the keys of experiment.yaml; docs/reference/experiment.md has each with its unit and default.

        Raises:
            InputError: keys or values are wrong; all are listed.
        """
        from touchline.experiment.read import read_keys

        experiment, written = read_keys(keys)
        for item in fields(Experiment):
            object.__setattr__(self, item.name, getattr(experiment, item.name))
        object.__setattr__(self, "_folder", experiment.name if folder is None else str(folder))
        object.__setattr__(self, "_written", written)

    @property
    def folder(self) -> str:
        """Return the folder of its experiment.yaml, as the user gave it."""
        return getattr(self, "_folder", self.name)

    @property
    def written(self) -> dict[str, object]:
        """Return the keys and values of its experiment.yaml; defaults that were not written are not among them."""
        if (found := getattr(self, "_written", None)) is not None:
            return copy.deepcopy(found)
        from touchline.experiment.validate import adapter

        data: dict[str, object] = json.loads(adapter(Experiment).dump_json(self, exclude_defaults=True))
        return data

    def to_yaml(self) -> str:
        """Return the text of its experiment.yaml."""
        from touchline.experiment.write import to_yaml

        return to_yaml(self.written)

    def with_values(self, values: Mapping[str, object], *, folder: str | PurePath | None = None) -> Experiment:
        """Return the experiment with values set by their dotted keys: `{"train.epochs": 2, "seeds": [1, 2]}`.

        Args:
            values: what to set; a factor is set by `factors.train.lora.rank`.
            folder: another folder (default: the same one).

        Raises:
            InputError: keys or values are wrong; all are listed.
        """
        from touchline.experiment.read import with_keys

        return with_keys(self, values, self.folder if folder is None else folder)

    def __reduce__(self) -> tuple[Callable[..., Experiment], tuple[str, dict[str, object]]]:
        return _again, (self.folder, self.written)

    def __repr__(self) -> str:
        factors = (f"{key} {list(levels)}" for key, levels in self.factors.items())
        parts = (f"models {list(self.models)}", *factors, f"seeds {list(self.seeds)}", f"folder {self.folder!r}")
        return f"<Experiment {self.name!r}: {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.to_yaml())}</pre>"


def _again(folder: str, written: dict[str, object]) -> Experiment:
    """Return an experiment that was copied or pickled."""
    return Experiment(folder=folder, **written)  # type: ignore[arg-type]


def _default_of(item: Field[object]) -> object:
    if item.default_factory is not MISSING:
        return {}
    return Parameter.empty if item.default is MISSING else item.default


def _signature() -> Signature:
    """Return the keywords of an experiment with their defaults, as editors and notebooks show them."""
    hints = get_type_hints(ExperimentKeys)
    given = [
        Parameter(item.name, Parameter.KEYWORD_ONLY, default=_default_of(item), annotation=hints[item.name])
        for item in fields(Experiment)
    ]
    folder = Parameter("folder", Parameter.KEYWORD_ONLY, default=None, annotation=str | PurePath | None)
    return Signature([*given, folder])


Experiment.__signature__ = _signature()  # type: ignore[attr-defined]


def with_fields(experiment: Experiment, **values: object) -> Experiment:
    """Return the experiment with fields replaced by values that are valid already."""
    made = object.__new__(Experiment)
    for item in fields(Experiment):
        object.__setattr__(made, item.name, values.get(item.name, getattr(experiment, item.name)))
    return made


__all__ = [
    "CPU",
    "DATASET_KEYS",
    "TRAINING_KEYS",
    "CheckpointConfig",
    "CheckpointInterval",
    "CheckpointKind",
    "ComputeConfig",
    "DataConfig",
    "EvaluateConfig",
    "Experiment",
    "ExperimentKeys",
    "LoraConfig",
    "StageConfig",
    "TrainConfig",
    "as_written",
    "is_test",
    "with_fields",
]
