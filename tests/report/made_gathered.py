"""What a report is made from, out of stated numbers: the runs of a small sweep, as its readers would find them."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from touchline.core.levels import Level
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.data.scores import CheckpointInfo, EvaluationRecord, SampleScore
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.report_inputs import Issue, ReportInput, ReportInputs
from touchline.results.run_result import AttemptResult, LossPoint, RunResult, Setting
from touchline.results.verification_types import (
    CheckpointFault,
    CheckpointKind,
    StorageSummary,
    Verification,
    VerifiedCheckpoint,
)
from touchline.statistics.closed_forms import wilson
from touchline.statistics.conclusions import Proportion

RANK = "train.lora.rank"
TASK = "capitalization"
UNKNOWN = Missing(missing="not reported")
NOTHING = Verification(
    depth="headers",
    checkpoints=(),
    missing=(),
    storage=StorageSummary(bases={}, adapters=(), runs=(), total_bytes=0, forecast=UNKNOWN, deletable=()),
)
Rights = Sequence[bool]


def loss(value: float) -> Quantity:
    return Quantity(value=value, unit="1", aggregation="mean", token_unit="label", method="as logged")


def record(run: str, checkpoint: str, rights: Rights, *, items: str = "a", task: str = TASK) -> EvaluationRecord:
    """An evaluation in which the n-th item is right where `rights` says so; other `items` are of another dataset."""
    return EvaluationRecord(
        experiment="sweep",
        run=run,
        task=task,
        checkpoint=checkpoint,
        log=f"{task}_{checkpoint}.eval",
        log_sha256="0" * 64,
        adapter_sha256=None if checkpoint == "base" else "1" * 64,
        base_sha256="2" * 64,
        data_sha256=items * 64,
        settings_sha256="4" * 64,
        decoding="greedy, batch 64, bfloat16, at most 24 new tokens",
        seconds=30.0,
        samples=tuple(
            SampleScore(
                id=f"{items}-{number}", target="Word", output="Word" if right else "word", exact=right, match=right
            )
            for number, right in enumerate(rights)
        ),
    )


def run(
    name: str,
    model: str = "1B",
    *,
    rank: str | None = "4",
    seed: int = 1,
    evaluations: Sequence[EvaluationRecord] = (),
    train: Measured = UNKNOWN,
    val: Measured = UNKNOWN,
    seconds: float | None = 281.0,
    steps: int | None = 1500,
    status: RunStatus | None = None,
    **changes: object,
) -> RunResult:
    levels = (Level(factor="models", value=model), *([Level(factor=RANK, value=rank)] if rank else []))
    last = evaluations[-1] if evaluations else None
    right = None if last is None else _share([sample.exact for sample in last.samples])
    made = RunResult(
        name=name,
        kind=RunKind.FINE_TUNED,
        model=model,
        levels=levels,
        seed=seed,
        status=status or (RunStatus.TRAINED if last is None else RunStatus.COMPLETED),
        job_state=JobState.COMPLETED,
        outcome=TrainingOutcome.COMPLETE,
        attempts=1,
        attempt_list=() if seconds is None else (attempt("71", seconds=seconds + 20),),
        steps_done=steps,
        steps_planned=steps,
        exact_match=right,
        match=right,
        difference=None,
        train_seconds=UNKNOWN if seconds is None else Quantity(value=seconds, unit="s", aggregation="sum"),
        validation_seconds=UNKNOWN,
        evaluate_seconds=Missing(missing="not evaluated") if last is None else Quantity(value=last.seconds, unit="s"),
        final_train_loss=train,
        final_val_loss=val,
        tokens_per_second=Quantity(value=1224.0, unit="tokens/s", token_unit="real", aggregation="mean"),
        peak_memory=Quantity(value=20.5, unit="GiB", kind="allocated", phase="step", aggregation="peak"),
        adapter_size=UNKNOWN,
        checkpoints=(),
        train_losses=(),
        validation_losses=(),
        evaluations=tuple(evaluations),
        settings={"model": model, "seed": seed, "epochs": 3, "effective_batch_size": 16},
        dataset="words.json",
        notes=(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def control(name: str, model: str = "1B", rights: Rights = (), *, items: str = "a") -> RunResult:
    """A base model, evaluated where there are `rights`."""
    nothing = Missing(missing="nothing is trained")
    made = run(
        name, model, rank=None, evaluations=[record(name, "base", rights, items=items)] if rights else [], seconds=None
    )
    return replace(
        made,
        kind=RunKind.CONTROL,
        control=ControlKind.BASE,
        status=RunStatus.COMPLETED if rights else RunStatus.PLANNED,
        outcome=TrainingOutcome.NOT_STARTED,
        train_seconds=nothing,
        tokens_per_second=nothing,
        peak_memory=nothing,
        steps_done=None,
        steps_planned=None,
    )


def attempt(
    job: str,
    state: JobState = JobState.COMPLETED,
    reason: str = "completed",
    *,
    seconds: float = 300.0,
    superseded: bool = False,
) -> AttemptResult:
    return AttemptResult(
        job_id=job,
        restart=0,
        state=state,
        reason=reason,
        started_unix=1_760_000_000.0,
        seconds=Quantity(value=seconds, unit="s", method="its clock"),
        superseded=superseded,
    )


def saved(name: str, loss: float | None = None) -> CheckpointInfo:
    """A complete checkpoint, with its validation loss."""
    return CheckpointInfo(
        name=name, epoch=2, step=1500, complete=True, problems=(), size_bytes=1, adapter_sha256="1" * 64,
        validation_loss=loss,
    )  # fmt: skip


def told(result: RunResult, **settings: Setting) -> RunResult:
    """A run whose files tell further settings."""
    return replace(result, settings=result.settings | settings)


def gathered(
    runs: Sequence[RunResult],
    *,
    factors: dict[str, tuple[str, ...]] | None = None,
    verification: Verification = NOTHING,
    issues: Sequence[Issue] = (),
    sources: Sequence[ReportInput] = (),
    files: dict[str, tuple[tuple[str, str], ...]] | None = None,
) -> ReportInputs:
    """Runs that touchline did not plan; factors are the levels that they have unless others are given."""
    if factors is None:
        factors = {}
        for each in runs:
            for level in each.levels:
                factors[level.factor] = tuple(dict.fromkeys([*factors.get(level.factor, ()), level.value]))
    return ReportInputs(
        experiment="sweep",
        origin="found: run folders that touchline did not make",
        date="2025-10-18",
        root="sweep",
        plan=None,
        runs=tuple(runs),
        factors=factors,
        verification=verification,
        files=files or {},
        issues=tuple(issues),
        sources=tuple(sources),
    )


def rights(k: int, n: int = 100) -> list[bool]:
    return [number < k for number in range(n)]


def points(*losses: tuple[int, float]) -> tuple[LossPoint, ...]:
    return tuple(LossPoint(step=step, loss=value) for step, value in losses)


def seed_002() -> ReportInputs:
    """The four runs of an example report that drew causal claims from them: one seed, other batch sizes by model."""
    rows = (
        ("1B_rank4", "1B", "4", 1500, 0.00154, 0.02345, 281, 16),
        ("1B_rank64", "1B", "64", 1500, 0.00036, 0.02336, 294, 16),
        ("3B_rank4", "3B", "4", 3000, 0.00031, 0.01656, 1354, 8),
        ("3B_rank64", "3B", "64", 3000, 0.00027, 0.01830, 946, 8),
    )
    runs = [
        run(
            name,
            model,
            rank=rank,
            train=loss(train),
            val=loss(val),
            seconds=float(seconds),
            steps=steps,
            job_state=JobState.FAILED,
            status=RunStatus.TRAINED,
            attempt_list=(attempt("71", JobState.FAILED, "exit code 1", seconds=seconds + 20.0),),
        )
        for name, model, rank, steps, train, val, seconds, _ in rows
    ]
    return gathered([told(each, effective_batch_size=row[-1]) for each, row in zip(runs, rows, strict=True)])


def _share(right: Rights) -> Proportion:
    low, high = wilson(sum(right), len(right))
    return Proportion(k=sum(right), n=len(right), low=low, high=high)


def sweep(low: Sequence[int], high: Sequence[int], *, base: int = 20, n: int = 100) -> ReportInputs:
    """Rank 4 and rank 64, a seed each number of right items; harder items are right in better runs alone."""
    runs = [control("1B_base", rights=rights(base, n))]
    for rank, right in (("4", low), ("64", high)):
        for seed, k in enumerate(right, 1):
            name = f"1B_rank{rank}_s{seed}"
            runs.append(run(name, rank=rank, seed=seed, evaluations=[record(name, "epoch_2", rights(k, n))]))
    return gathered(runs)


def checkpoint(run: str, name: str, *, sound: bool = True) -> VerifiedCheckpoint:
    """A checkpoint, truncated if it is not sound."""
    fault = CheckpointFault(code="truncated", file="adapter_model.safetensors", message="12 of 517 MiB are there")
    return VerifiedCheckpoint(
        run=run, name=name, epoch=2, step=1500, kind=CheckpointKind.ADAPTER, depth="headers", sound=sound,
        faults=() if sound else (fault,), files=(), size_bytes=1, adapter_bytes=1, model_bytes=None, tensors=1,
        dtype="bfloat16", rank=4, validation_loss=None,
    )  # fmt: skip


def factorial(
    rng: np.random.Generator,
    design: dict[str, tuple[str, ...]],
    seeds: int,
    *,
    tied: int = 0,
    with_control: bool = True,
) -> ReportInputs:
    """Runs of every combination of levels and seeds; the last `tied` factors follow the first level for level."""
    keys = list(design)
    crossed = keys[: len(keys) - tied]
    runs: list[RunResult] = [control("1B_base", rights=rights(20, 40))] if with_control else []
    for number, places in enumerate(itertools.product(*(range(len(design[key])) for key in crossed))):
        level_at = dict(zip(crossed, places, strict=True))
        levels = [Level(factor=key, value=design[key][level_at.get(key, places[0])]) for key in keys]
        chance = rng.random()
        for seed in range(1, seeds + 1):
            name = f"run_{number}_s{seed}"
            evaluation = record(name, "epoch_2", [bool(right) for right in rng.random(40) < chance])
            models = [level.value for level in levels if level.factor == "models"]
            each = run(name, models[0] if models else "1B", rank=None, seed=seed, evaluations=[evaluation])
            runs.append(replace(each, levels=(*levels, *(() if models else each.levels))))
    return gathered(runs)


DESIGNS: list[tuple[dict[str, tuple[str, ...]], int]] = [
    ({RANK: ("4", "64")}, 0),
    ({RANK: ("4", "16", "64")}, 0),
    ({RANK: ("4", "64"), "train.learning_rate": ("1e-4", "1e-3")}, 0),
    ({RANK: ("4", "64"), "train.learning_rate": ("1e-4", "1e-3")}, 1),
    ({RANK: ("4", "16", "64"), "train.learning_rate": ("1e-3", "5e-4", "1e-4"), "train.epochs": ("1", "2", "3")}, 2),
    ({"models": ("1B", "3B"), RANK: ("4", "64")}, 0),
    ({"models": ("1B", "3B", "8B"), "train.learning_rate": ("1e-3", "5e-4", "1e-4")}, 1),
    ({"train.lora.target_modules": ('["q_proj", "k_proj"]', '["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]')}, 0),
    ({"data.prompt": ("one two three four five six seven eight nine ten " * 3, "a b c d e f g h i j k l " * 4)}, 0),
    ({"models": ("a base model with a name of many words", "another one with still more of them")}, 0),
    ({}, 0),
]
"""Designs with the number of their factors that follow the first one."""
