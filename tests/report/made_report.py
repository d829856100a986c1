"""Reports made of seeded numbers: as many runs, steps and items as a test wants, and what goes wrong in real ones."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tests.report import made_gathered as made

from touchline.core.finding import Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.core.units import GIB, MIB
from touchline.data.scores import AskedItem, CheckpointInfo, EvaluationRecord, SampleScore
from touchline.experiment.runs import RunKind
from touchline.report.build import build_report
from touchline.report.report import EstimateRow, Report
from touchline.results.report_inputs import Issue, ReportInput
from touchline.results.run_result import LossPoint, RunResult, StepCurves
from touchline.results.scored import compared
from touchline.results.verification_types import (
    AdapterSize,
    CheckpointFault,
    CheckpointFile,
    CheckpointKind,
    MissingCheckpoint,
    RunStorage,
    StorageSummary,
    Verification,
    VerifiedCheckpoint,
)

RANK = made.RANK
ALERT = "</script><script>alert(1)</script>"
"""What a model may print."""
_EPOCHS = 3
_MODELS = ("1B", "3B", "8B", "135M", "360M")
_CONTROL_SCORES = (0.205, 0.395, 0.45, 0.1, 0.15)
_HOURS = (0.085, 0.35, 0.9, 0.02, 0.05)
_NONE = Missing(missing="there is no checkpoint")
_LETTERS = np.array(list("abcdefghiklmnoprstuvw"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Make:
    models: int = 2
    """Base models, each with a control."""
    ranks: Sequence[str] = ("4", "16", "64")
    """Levels of the rank."""
    seeds: int = 2
    """Training seeds."""
    steps: int = 1500
    """Optimizer steps of a training."""
    items: int = 200
    """Test items."""
    epochs_evaluated: int = 1
    """Of the three epochs, how many were evaluated, the last ones."""
    faults: bool = False
    """With NaN losses, runs without evaluation, broken checkpoints and hostile answers."""


def fifty(*, steps: int = 2000, items: int = 1000) -> Make:
    """Fifty runs: two controls and 48 trained ones."""
    return Make(ranks=("2", "4", "8", "16", "32", "64"), seeds=4, steps=steps, items=items)


def thousand(*, steps: int = 500, items: int = 100) -> Make:
    """A thousand runs: four controls and 996 trained ones."""
    return Make(models=4, ranks=tuple(str(2 * index + 2) for index in range(83)), seeds=3, steps=steps, items=items)


def made_report(make: Make = Make()) -> Report:
    """A report with everything in it; the same `make` gives the same report."""
    rng = np.random.Generator(np.random.PCG64(7))
    letters = rng.choice(_LETTERS, size=(make.items, 8))
    words = ["".join(row[: 4 + index % 5]) for index, row in enumerate(letters)]
    hard = rng.normal(size=make.items)
    controls = [_control(model, words, hard, rng) for model in range(make.models)]
    trained = [
        _trained(model, rank, seed, make, words, hard, rng)
        for model, rank, seed in itertools.product(range(make.models), make.ranks, range(make.seeds))
    ]
    runs = [run for base in controls for run in (base, *(each for each in trained if each.model == base.model))]
    if make.faults:
        runs = _spoiled(runs)
    runs = compared(runs)
    gathered = made.gathered(
        runs,
        factors={"models": tuple(_MODELS[: make.models]), RANK: tuple(make.ranks)},
        verification=_verification(runs, make),
        issues=_issues(runs),
        sources=(
            ReportInput(
                kind="dataset", name="data/words.json", facts=(("sha256", "5d41402abc4b2a76b9719d911017c592"),)
            ),
            ReportInput(kind="base model", name="1B", facts=(("weights", "2.3 GiB"),)),
        ),
        files={
            run.name: (("metrics", f"{run.name}/metrics.jsonl"), ("evaluation", f"{run.name}/eval/epoch_2.eval"))
            for run in runs
        },
    )
    asked = {record.asked_key: _asked(words) for run in runs for record in run.evaluations}
    report = build_report(replace(gathered, experiment="cap_8L_llama32_lora_comparison", asked=asked))
    return replace(
        report,
        question="Does a higher LoRA rank improve capitalization of unseen words?",
        estimates=tuple(row for run in runs for row in _estimates(run, rng)),
    )


def _asked(words: Sequence[str]) -> dict[str, AskedItem]:
    questions = [f"Capitalize the given word: {word}" for word in words]
    return {
        str(index): AskedItem(question=question, prompt=f"<|user|>\n{question}<|end|>\n<|assistant|>\n")
        for index, question in enumerate(questions)
    }


def _record(
    run: str, checkpoint: str, words: Sequence[str], hard: np.ndarray, ability: float, rng: np.random.Generator
) -> EvaluationRecord:
    chance = 1 / (1 + np.exp(-(ability - 1.6 * hard)))
    right = rng.random(len(words)) < chance
    wrong = rng.integers(0, 4, size=len(words))
    samples = []
    for index, word in enumerate(words):
        target = word.capitalize()
        slips = (word, word.upper(), f"The word is {word}.", target[:-1])
        output = target if right[index] else slips[wrong[index]]
        exact = output == target
        samples.append(
            SampleScore(id=str(index), target=target, output=output, exact=exact, match=exact, stop="stop", parsed=True)
        )
    return replace(made.record(run, checkpoint, ()), samples=tuple(samples))


def _control(model: int, words: Sequence[str], hard: np.ndarray, rng: np.random.Generator) -> RunResult:
    name = f"{_MODELS[model]}_base"
    ability = 1.5 * math.log(_CONTROL_SCORES[model] / (1 - _CONTROL_SCORES[model]))
    control = made.control(name, _MODELS[model], made.rights(1, 1))
    return replace(control, seed=0, evaluations=(_record(name, "base", words, hard, ability, rng),))


def _trained(
    model: int,
    rank: str,
    seed: int,
    make: Make,
    words: Sequence[str],
    hard: np.ndarray,
    rng: np.random.Generator,
) -> RunResult:
    name = f"{_MODELS[model]}_rank{rank}_s{seed}"
    size = math.log2(float(rank))
    ability = 3.2 + 0.35 * size + 1.2 * (model % 3) + rng.normal(scale=0.5)
    evaluations = [
        _record(name, f"epoch_{epoch}", words, hard, ability - 0.8 * (_EPOCHS - 1 - epoch), rng)
        for epoch in range(_EPOCHS - make.epochs_evaluated, _EPOCHS)
    ]
    checkpoints = tuple(
        CheckpointInfo(
            name=f"epoch_{epoch}",
            epoch=epoch,
            step=(epoch + 1) * make.steps // _EPOCHS,
            complete=True,
            problems=(),
            size_bytes=_adapter_bytes(model, rank) + 4000,
            adapter_sha256=f"{epoch}" * 64,
            validation_loss=0.08 + 0.01 * epoch,
        )
        for epoch in range(_EPOCHS)
    )
    train_losses = _train_losses(make.steps, size, rng)
    validation_losses = _validation_losses(make.steps, size, rng)
    return made.run(
        name,
        _MODELS[model],
        rank=rank,
        seed=seed,
        evaluations=evaluations,
        train=Quantity(value=train_losses[-1].loss, unit="nats", aggregation="mean"),
        val=Quantity(value=validation_losses[-1].loss, unit="nats"),
        seconds=3600 * _HOURS[model] * (1 + 0.01 * size) * (1 + rng.normal(scale=0.004)),
        steps=make.steps,
        train_losses=train_losses,
        curves=_curves(make.steps),
        validation_losses=validation_losses,
        checkpoints=checkpoints,
        adapter_size=Quantity(value=_adapter_bytes(model, rank), unit="B"),
    )


def _adapter_bytes(model: int, rank: str) -> int:
    return int(float(rank) * (4 if model == 0 else 8) * MIB)


def _curves(steps: int) -> StepCurves:
    """Warm-up and a line down to 0."""
    numbers = range(1, steps + 1)
    rates = tuple(1e-3 * min(step / 10, 1 - step / (steps + 1)) for step in numbers)
    return StepCurves(steps=tuple(numbers), learning_rate=rates)


def _train_losses(steps: int, size: float, rng: np.random.Generator) -> tuple[LossPoint, ...]:
    at = np.arange(1, steps + 1)
    share = at / steps
    level = 2.2 * np.exp(-(7 + 0.7 * size) * share) + 0.03
    loss = level * np.exp(rng.normal(scale=0.22, size=steps) * np.minimum(1, 0.15 + 2 * share))
    return tuple(LossPoint(step=int(step), loss=float(value)) for step, value in zip(at, loss, strict=True))


def _validation_losses(steps: int, size: float, rng: np.random.Generator) -> tuple[LossPoint, ...]:
    every = max(1, steps // 10)
    found = []
    for step in (0, *range(every, steps + 1, every)):
        share = step / steps
        value = 2.15 * math.exp(-5.5 * share) + 0.06 + 0.02 * size * max(0.0, share - 0.65)
        found.append(LossPoint(step=step, loss=value * math.exp(rng.normal(scale=0.015))))
    return tuple(found)


def _spoiled(runs: list[RunResult]) -> list[RunResult]:
    """What goes wrong in real experiments, one thing a run."""
    trained = [index for index, run in enumerate(runs) if run.kind is RunKind.FINE_TUNED]
    nan, unevaluated, hostile, failed = trained[:4]
    losses = runs[nan].train_losses
    half = len(losses) // 2
    broken = (*losses[:half], *(LossPoint(step=point.step, loss=math.nan) for point in losses[half:]))
    runs[nan] = replace(runs[nan], train_losses=broken, final_train_loss=Missing(missing="not a number"))
    runs[unevaluated] = replace(
        runs[unevaluated], evaluations=(), exact_match=None, match=None, status=RunStatus.TRAINED
    )
    record = runs[hostile].evaluations[-1]
    foreign = (ALERT, "<!--<script>", "<img src=x onerror=alert(2)>\u2028\x00\u202e ]]>")
    answers = [
        replace(sample, output=output, exact=False, match=False)
        for sample, output in zip(record.samples, foreign, strict=False)
    ]
    samples = (*answers, *record.samples[len(answers) :])
    runs[hostile] = replace(runs[hostile], evaluations=(replace(record, samples=samples),))
    runs[failed] = replace(
        runs[failed],
        evaluations=(),
        exact_match=None,
        match=None,
        status=RunStatus.FAILED,
        job_state=JobState.OUT_OF_MEMORY,
        outcome=TrainingOutcome.NOT_STARTED,
        train_losses=(),
        curves=Missing(missing="no step has been measured"),
        validation_losses=(),
        checkpoints=(),
        steps_done=0,
        attempt_list=(),
        final_train_loss=Missing(missing="no step was done"),
        final_val_loss=Missing(missing="no validation was done"),
        train_seconds=Missing(missing="no step was done"),
        adapter_size=Missing(missing="there is none"),
    )
    return runs


def _verification(runs: Sequence[RunResult], make: Make) -> Verification:
    trained = [run for run in runs if run.kind is RunKind.FINE_TUNED]
    *checkpoints, broken, last = [_verified(run, info) for run in trained for info in run.checkpoints]
    fault = CheckpointFault(
        code="truncated", file="adapter_model.safetensors", message="the header asks for 517 MiB, the file has 12 MiB"
    )
    checkpoints.append(replace(broken, sound=False, faults=(fault,)))
    storage = tuple(_storage(run, checkpoints) for run in runs)
    return Verification(
        depth="headers",
        checkpoints=tuple(checkpoints),
        missing=(MissingCheckpoint(run=last.run, name=last.name, reason="disk quota", expected=False),),
        storage=StorageSummary(
            bases={"1B": Quantity(value=2.3 * GIB, unit="B"), "3B": Quantity(value=6.1 * GIB, unit="B")},
            adapters=tuple(
                AdapterSize(
                    model=_MODELS[model],
                    rank=int(rank),
                    dtype="float32",
                    size_bytes=_adapter_bytes(model, rank),
                    run=f"{_MODELS[model]}_rank{rank}_s0",
                )
                for model in range(make.models)
                for rank in make.ranks
            ),
            runs=storage,
            total_bytes=sum(each.total_bytes for each in storage),
            forecast=Quantity(value=1.02 * sum(each.total_bytes for each in storage), unit="B"),
            deletable=(),
        ),
    )


def _verified(run: RunResult, info: CheckpointInfo) -> VerifiedCheckpoint:
    adapter = info.size_bytes - 4000
    return VerifiedCheckpoint(
        run=run.name,
        name=info.name,
        epoch=info.epoch,
        step=info.step,
        kind=CheckpointKind.ADAPTER,
        depth="headers",
        sound=True,
        faults=(),
        files=(
            CheckpointFile(name="adapter_model.safetensors", size_bytes=adapter, role="adapter"),
            CheckpointFile(name="adapter_config.json", size_bytes=4000, role="config"),
        ),
        size_bytes=info.size_bytes,
        adapter_bytes=adapter,
        model_bytes=None,
        tensors=224,
        dtype="float32",
        rank=next((int(level.value) for level in run.levels if level.factor == RANK), None),
        validation_loss=info.validation_loss,
    )


def _storage(run: RunResult, checkpoints: Sequence[VerifiedCheckpoint]) -> RunStorage:
    own = [each for each in checkpoints if each.run == run.name]
    total = sum(each.size_bytes for each in own)
    adapters = sum(each.adapter_bytes or 0 for each in own)
    return RunStorage(
        run=run.name,
        checkpoints=len(own),
        total_bytes=total + 3 * MIB,
        checkpoint_bytes=total,
        adapter_bytes=adapters,
        full_model_bytes=Quantity(value=len(own) * 2.3 * GIB, unit="B") if own else _NONE,
        adapter_only_bytes=Quantity(value=adapters, unit="B") if own else _NONE,
        forecast=Quantity(value=1.02 * total + 3 * MIB, unit="B") if own else _NONE,
    )


def _estimates(run: RunResult, rng: np.random.Generator) -> Iterator[EstimateRow]:
    if run.kind is RunKind.CONTROL or isinstance(run.train_seconds, Missing):
        return
    for quantity, unit, value in (
        ("training", "s", run.train_seconds.value),
        ("seconds per step", "s", 0.21),
        ("peak memory", "GiB", 21.4),
        ("disk", "B", 5e8),
    ):
        said = value * math.exp(rng.normal(scale=0.08))
        low, high = 0.85 * said, 1.18 * said
        yield EstimateRow(
            run=run.name,
            quantity=quantity,
            predicted=Quantity(value=said, unit=unit, low=low, high=high, coverage=0.9),
            measured=Quantity(value=value, unit=unit),
            inside=low <= value <= high,
        )


def _issues(runs: Sequence[RunResult]) -> tuple[Issue, ...]:
    return (
        Issue(
            weight=Severity.WARNING,
            subject=runs[-1].name,
            title="checkpoint missing",
            text="The checkpoint of epoch 2 is missing (disk quota). The run was evaluated at epoch 1.",
            lines=("OSError: [Errno 122] Disk quota exceeded: 'epoch_2/adapter_model.safetensors'",),
            where=f"{runs[-1].name}/slurm-4412.out:881",
        ),
        Issue(weight=Severity.INFO, subject="experiment", title="two attempts", text="One run was started twice."),
    )
