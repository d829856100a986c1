"""The plan: the resolved truth of an experiment, with hashes, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from touchline.core.catalog import DatasetInfo, ModelInfo
from touchline.core.estimate import MemoryEstimate, PackingSummary, PastRunsUsed
from touchline.core.levels import Level
from touchline.core.machine import TargetMachine
from touchline.core.quantity import NO_EVIDENCE, Measured, Missing
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import EvaluationTask, LabelSet
from touchline.experiment.experiment import ComputeConfig, EvaluateConfig
from touchline.experiment.runs import ControlKind, ParentLink, Phase, RunKind
from touchline.experiment.strategy import PlannedStrategy
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.statistics.closed_forms import SpreadInput

PLAN_SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSummary:
    """Planned batch schedule. The trainer recomputes it and raises PlanDriftError if the digest differs."""

    digest: str
    """Hash over every micro-batch's example indices, in order."""
    steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: int
    """Optimizer steps of one epoch."""
    micro_batches: int
    """Forward passes of the whole run."""
    micro_batch_size: int
    """Examples per forward pass, resolved."""
    gradient_accumulation_steps: int
    """Micro-batches per optimizer step and device."""
    global_batch_size: int
    """Examples per optimizer step."""
    num_examples: int
    """Training examples."""
    real_tokens: int
    """Tokens of the training split, without padding, for one epoch."""
    target_tokens: int
    """Label tokens among them."""
    longest_example_tokens: int
    """The longest training example."""
    largest_micro_batch_tokens: int
    """Padded tokens of the largest micro-batch, examples side by side: what decides on memory."""
    data_parallel_size: int = 1
    """Processes that share each step, one per device: micro-batch size x accumulation x these is the global batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeFile:
    """Recipe in a file of the user's: checks only read it, and its trainer alone executes it."""

    path: str
    """Its file, relative if it is in the experiment's folder."""
    sha256: str
    """Hash of the file when it was planned; another one is refused."""
    lines: int
    """Number of lines of the file."""
    keys: tuple[str, ...]
    """Keys of the trainer's config that it reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """Run with all settings resolved; equal `digest` means equal work."""

    name: str
    """Its folder."""
    kind: RunKind
    """Fine-tuned, or a control."""
    model: str
    """Name of its base model, a key of `Plan.models`."""
    dataset: str
    """Path of its dataset, a key of `Plan.datasets`."""
    data: DataConfig
    """Its dataset's columns and prompt, with the task's prompt filled in."""
    train: TrainConfig | None
    """Its training with every `auto` resolved; None for a control."""
    evaluate: EvaluateConfig
    """Its evaluation."""
    seed: int
    """Its seed."""
    levels: tuple[Level, ...]
    """Its level of each factor."""
    batches: BatchSummary | None
    """Its batches; None for a control."""
    packed_reason: str | None
    """Reason for packing or not."""
    train_seconds: Measured
    """Predicted wall time of the training."""
    evaluate_seconds: Measured
    """Predicted wall time of the evaluation."""
    peak_memory: Measured
    """Predicted peak memory of the process: of the GPU, or resident where the CPU trains."""
    disk: Measured
    """Predicted size of what stays on disk."""
    seconds_per_step: Measured = NO_EVIDENCE
    """Predicted time of an optimizer step."""
    time_parts: dict[str, Measured] = field(default_factory=dict)
    """Parts of `train_seconds`: training (its steps), start-up, tokenising, validation, saving."""
    compile_gain: Measured | None = None
    """Predicted: how many times as fast its steps are as uncompiled ones; None if the model is not compiled."""
    fast_dtype_seconds: Measured | None = None
    """Predicted wall time of the training in the dtype that the machine is fast at; None if it trains in it."""
    time_limit_seconds: Measured = NO_EVIDENCE
    """Limit to ask a scheduler for: above the interval's upper end, in whole minutes."""
    memory: MemoryEstimate | Missing = NO_EVIDENCE
    """Allocated, reserved and process memory with the parts, the verdict and what would change it."""
    micro_batch_reason: str | None = None
    """Reason for the micro-batch size; None for a control."""
    learning_rate_reason: str | None = None
    """Origin of a learning rate that was left to `auto`; None for a control, and if it was given."""
    packing: PackingSummary | Missing = NO_EVIDENCE
    """Batching of the examples, packed and unpacked."""
    link: ParentLink | None = None
    """Parent run and way to continue; None if it starts from the base model."""
    evaluate_startup_seconds: Measured = NO_EVIDENCE
    """Predicted time from the start of the evaluation's process to its first prompt, which `evaluate_seconds` leaves
    out; runs on one base share it where they are evaluated in one process."""
    evaluate_memory: MemoryEstimate | Missing = NO_EVIDENCE
    """Memory of its evaluation on each of its devices, with the parts and the verdict."""
    evaluate_limit_seconds: Measured = NO_EVIDENCE
    """Limit to ask a scheduler for, for its evaluation."""
    control: ControlKind | None = None
    """Kind of control; None for other runs."""
    no_op: LoraConfig | None = None
    """Shape of the adapter that a no-op control is evaluated through; None for every other run."""
    images_sha256: dict[str, str] = field(default_factory=dict)
    """Hash of the images of each split, by its name; none without images, and in older plans."""
    recipe: RecipeFile | None = None
    """Recipe that `train.recipe` names by a path; None for every other run."""
    accepted: dict[str, object]
    """Settings that were edited in the run's folder and accepted, by dotted key."""
    phase: Phase | None = None
    """Phase of a strategy; None without one, and for controls."""
    digest: str
    """Hash over everything above that changes the work; drift is a changed digest."""

    @property
    def is_evaluated(self) -> bool:
        """True for a control, and for a run that `evaluate.epochs` names epochs of."""
        return self.train is None or self.evaluate.epochs != ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownExample:
    """The first training row of a dataset as a model sees it."""

    dataset: str
    """Path of the dataset, as the experiment has it."""
    model: str
    """Model whose chat template was used."""
    row: str
    """The row, `train-0`."""
    columns_used: tuple[str, ...]
    """Columns with their use, `question (prompt)`."""
    columns_not_used: tuple[str, ...]
    """Columns that neither prompt nor answer shows."""
    prompt: str
    """The rendered prompt, without a loss; a long one is cut in the middle."""
    label: str
    """The label span: answer and stop token, with a loss."""
    prompt_tokens: int
    """Tokens of the prompt."""
    label_tokens: int
    """Tokens with a loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumption:
    """Setting that was not given, its value, and the reason for it."""

    key: str
    """The dotted key of experiment.yaml."""
    value: str
    """The value, as one would write it."""
    reason: str
    """Reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """A recorded change of the plan."""

    number: int
    """Counts from 1; the first is the plan itself."""
    date: str
    """ISO date."""
    reason: str
    """`planned`, `re-planned: experiment.yaml changed`, `accepted: 135M_rank4 ...`."""
    runs: tuple[str, ...]
    """The runs whose digest changed, new and removed ones included."""
    new: tuple[str, ...] = ()
    """Of these, the runs that the plan before did not have."""
    removed: tuple[str, ...] = ()
    """Of these, the runs that the plan no longer has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cohort:
    """Runs that train side by side on one base, in one job. Each keeps its own folder, metrics and checkpoints."""

    runs: tuple[str, ...]
    """Their names; the job is that of the first one that is not trained yet."""
    gain: Measured
    """Predicted: how many times as fast as one after the other."""
    train_seconds: Measured
    """Predicted wall time of all of them."""
    saved_seconds: Measured = NO_EVIDENCE
    """Predicted wall time that one after the other takes longer."""
    time_limit_seconds: Measured = NO_EVIDENCE
    """Limit to ask a scheduler for."""
    peak_memory: Measured
    """Predicted peak memory of the process."""


class WhyAlone(StrEnum):
    """Reason why runs are not trained side by side."""

    SETTINGS = "settings"
    NO_OTHER = "no other run"
    SLOT = "slot"
    MEMORY = "memory"
    GAIN = "gain"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedAlone:
    """Runs that are trained one after the other."""

    runs: tuple[str, ...]
    """Their names."""
    why: WhyAlone
    """Kind of the reason."""
    reason: str
    """The reason in words."""
    predicted: Cohort | None = None
    """Cohort of some of them that was considered, if any."""


def devices_of(machine: TargetMachine, gpus_per_run: int) -> int:
    """Return the devices that one training uses on a machine: its GPUs, or one CPU."""
    return max(gpus_per_run, 1) if machine.kind == "gpu" else 1


def data_parallel_size(compute: ComputeConfig, machine: TargetMachine | None) -> int:
    """Return the processes of one training: one per GPU, or as many as are written where the CPU is.

    Args:
        compute: resources of the runs.
        machine: the machine that is planned for; None if it is not known.
    """
    if machine is not None and machine.kind == "cpu" and not compute.plans_for_cpu:
        return 1
    return max(compute.gpus_per_run, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The whole plan, as plan.json holds it."""

    schema_version: int = PLAN_SCHEMA_VERSION
    """Version of this file's form."""
    touchline_version: str
    """The version that wrote it."""
    experiment: str
    """The experiment's name."""
    question: str
    """Question."""
    task: str
    """Its task."""
    date: str
    """ISO date of the first plan; chat templates that print a date get this one, in training and evaluation."""
    experiment_sha256: str
    """Hash of experiment.yaml with the overrides applied."""
    overrides: tuple[str, ...]
    """`key=value` given on the command line for this plan; they are not in experiment.yaml."""
    override_dates: dict[str, str] = field(default_factory=dict)
    """ISO date on which each override was given; an older plan lacks them."""
    factors: dict[str, tuple[str, ...]]
    """Factors, with their levels as text."""
    models: dict[str, ModelInfo]
    """The base models by name."""
    datasets: dict[str, DatasetInfo]
    """The datasets by path."""
    runs: tuple[PlannedRun, ...]
    """The runs, fine-tuned first."""
    executor: str
    """Machine and executor."""
    gpus_per_run: int
    """GPUs that one run uses."""
    deadline: str | None
    """Deadline."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """Machine, and the resources of its jobs."""
    tasks: tuple[EvaluationTask, ...] = ()
    """Every task that `evaluate.tasks` names, resolved, and the experiment's own where it is a file; those in files are
    code that the evaluation runs."""
    labels: tuple[LabelSet, ...] = ()
    """The labels of each dataset that a classification is scored on."""
    kept_evaluations: tuple[str, ...] = ()
    """Evaluations by other settings that were there when this was planned, and stay: one line for each kind."""
    machine: TargetMachine
    """The machine that the estimates are for."""
    assumptions: tuple[Assumption, ...]
    """Every setting that was not given."""
    gpu_hours: Measured
    """Predicted hours of devices for everything together, evaluations included."""
    wall_seconds: Measured
    """Predicted time from start to end, with as many runs at once as there are devices."""
    disk: Measured
    """Predicted size on disk of everything together."""
    examples: tuple[ShownExample, ...] = ()
    """One rendered training row per dataset and prompt; none in plans of version 0.1.0."""
    evidence: tuple[str, ...]
    """The past runs that the estimates are based on."""
    past_runs: PastRunsUsed | None = None
    """Past runs that were found, those used for time and for memory, and why not the others; None in older plans."""
    revisions: tuple[Revision, ...]
    """Revisions of the plan, with date and reason."""
    cohorts: tuple[Cohort, ...] = ()
    """Runs that train side by side."""
    strategy: PlannedStrategy | None = None
    """Strategy that decides which of the runs are started; None where all are."""
    alone: tuple[TrainedAlone, ...] = ()
    """Other runs that train, by the reason why they are trained alone."""
    slots_reason: str = ""
    """Why so many runs are trained at once on a CPU (`machine.slots`); empty elsewhere."""
    spread: tuple[SpreadInput, ...] = ()
    """Spread between seeds and between items that the section on power counts on; empty in older plans."""
    file_settings: dict[str, Any] | None = None
    """Settings of experiment.yaml as planned, without overrides; None in plans of version 0.1.0."""
    slots_gain: Measured = NO_EVIDENCE
    """Predicted: how many times as fast all runs are in slots as one after the other with all threads."""

    @property
    def devices(self) -> int:
        """Devices that one training uses: its GPUs, or one CPU."""
        return devices_of(self.machine, self.gpus_per_run)

    @property
    def evaluation_devices(self) -> int:
        """Devices that one evaluation uses: its GPUs, or one CPU."""
        return devices_of(self.machine, self.compute.evaluation_gpus)

    @property
    def data_parallel_size(self) -> int:
        """Processes of one training."""
        return data_parallel_size(self.compute, self.machine)

    @property
    def processes_per_device(self) -> int:
        """Processes of one training that share a device: several only on a CPU."""
        return self.data_parallel_size if self.machine.kind == "cpu" else 1

    @property
    def own_task(self) -> EvaluationTask | None:
        """The experiment's own task where it is a file; None for a ready-made one."""
        return next((task for task in self.tasks if task.name == self.task and task.is_file), None)

    def code_files(self, trained: Iterable[PlannedRun]) -> dict[str, str]:
        """Return the user's files that the tasks, and the trainings of these runs, execute: hash by path."""
        found = {run.recipe.path: run.recipe.sha256 for run in trained if run.recipe is not None}
        for task in self.tasks:
            found |= ({} if task.file is None else {task.file: task.sha256 or ""}) | task.modules
        return found

    @property
    def further_tasks(self) -> tuple[EvaluationTask, ...]:
        """The tasks of `evaluate.tasks`."""
        return tuple(task for task in self.tasks if task.name != self.task)

    @property
    def fine_tuned(self) -> list[PlannedRun]:
        """Return the fine-tuned runs that are not controls."""
        return [run for run in self.runs if run.kind is RunKind.FINE_TUNED and run.control is None]

    def cohort_of(self, name: str) -> Cohort | None:
        """Return the cohort of a run; None if it is trained alone."""
        return next((cohort for cohort in self.cohorts if name in cohort.runs), None)

    def run(self, name: str) -> PlannedRun | None:
        """Return the run of that name; None if there is none."""
        return next((run for run in self.runs if run.name == name), None)
