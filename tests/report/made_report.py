"""Reports made of seeded numbers: as many runs, steps and items as a test wants, and what goes wrong in real ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from touchline.core.finding import Severity
from touchline.core.levels import Level, settings_words
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.core.units import GIB, MIB
from touchline.data.scores import AskedItem, CheckpointInfo, EvaluationRecord, SampleScore
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.facts import pareto
from touchline.report.report import AnswerCounts, Command, EstimateRow, PackingRow, Report, RunFacts
from touchline.results.report_inputs import Issue, ReportInput
from touchline.results.run_result import LossPoint, RunResult, StepCurves
from touchline.results.scored import analyses
from touchline.results.verification_types import (
    AdapterSize,
    CheckpointFault,
    CheckpointFile,
    CheckpointKind,
    Deletable,
    MissingCheckpoint,
    RunStorage,
    StorageSummary,
    Verification,
    VerifiedCheckpoint,
)
from touchline.statistics.conclusions import Conclusion, Proportion, ScoreDifference
from touchline.statistics.statements import NextStep, Statement

TASK = "capitalization"
RANK = "train.lora.rank"
ALERT = "</script><script>alert(1)</script>"
"""What a model may print."""
_EPOCHS = 3
_MODELS = ("1B", "3B", "8B", "135M", "360M")
_CONTROL_SCORES = (0.205, 0.395, 0.45, 0.1, 0.15)
_HOURS = (0.085, 0.35, 0.9, 0.02, 0.05)
_NONE = Missing(missing="a control is not trained")
_LETTERS = np.array(list("abcdefghiklmnoprstuvw"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Make:
    """What to make a report of."""

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
    seed: int = 7
    """Of all that is random here."""
    epochs_evaluated: int = 1
    """Of the three epochs, how many were evaluated, the last ones."""
    faults: bool = False
    """With NaN losses, runs without evaluation, broken checkpoints and hostile answers."""

    @property
    def settings(self) -> Iterator[tuple[int, str, int]]:
        """(model, rank, seed) of each trained run."""
        return itertools.product(range(self.models), self.ranks, range(self.seeds))


def fifty(*, steps: int = 2000, items: int = 1000) -> Make:
    """Fifty runs: two controls and 48 trained ones."""
    return Make(ranks=("2", "4", "8", "16", "32", "64"), seeds=4, steps=steps, items=items)


def thousand(*, steps: int = 500, items: int = 100) -> Make:
    """A thousand runs: four controls and 996 trained ones."""
    return Make(models=4, ranks=tuple(str(2 * index + 2) for index in range(83)), seeds=3, steps=steps, items=items)


def made_report(make: Make = Make()) -> Report:
    """A report with everything in it; the same `make` gives the same report."""
    rng = np.random.Generator(np.random.PCG64(make.seed))
    words = _words(make.items, rng)
    hard = rng.normal(size=make.items)
    runs = [_control(model, make, words, hard, rng) for model in range(make.models)]
    trained = [_trained(*setting, make, words, hard, rng) for setting in make.settings]
    runs = [run for model in range(make.models) for run in (runs[model], *_of_model(trained, model))]
    if make.faults:
        runs = _spoiled(runs)
    factors = {"models": tuple(_MODELS[: make.models]), RANK: tuple(make.ranks)}
    found = analyses(runs, factors)
    found_by = {each.run: each.difference for each in found[0].comparisons} if found else {}
    runs = [_compared(run, found_by.get(run.name)) for run in runs]
    scores = {score.run: score.value for score in found[0].scores} if found else {}
    hours: dict[str, Measured] = {run.name: _hours(run) for run in runs}
    front = pareto(runs, scores, hours)
    facts = tuple(_facts(run, hours[run.name], run.name in front, make) for run in runs)
    best = max(scores, key=lambda name: scores[name], default="-")
    return Report(
        experiment="cap_8L_llama32_lora_comparison",
        question="Does a higher LoRA rank improve capitalization of unseen words?",
        origin="planned by touchline 0.1.0",
        date="2026-10-18",
        design=(
            f"{make.models} models × {len(make.ranks)} ranks × {make.seeds} seeds + {make.models} controls · "
            f"{make.items:,} shared test items"
        ),
        task=TASK,
        decoding="greedy, batch 64, bfloat16, at most 24 new tokens",
        headline=(
            Statement(
                topic="Against the control",
                text=f"Every fine-tuned run beats its base-model control on the same {make.items} items (all Holm "
                "p < 0.001).",
                shown=Conclusion.HIGHER,
                where=(f"{best}/eval/epoch_2.scores.json",),
            ),
            Statement(
                topic=RANK,
                text="Within a model, ranks differ by less than the seed-to-seed spread: an effect of the rank is not "
                "established.",
                shown=Conclusion.NOT_ESTABLISHED,
            ),
        ),
        completed=sum(run.status is RunStatus.COMPLETED for run in runs),
        device_hours=Quantity(value=math.fsum(_value(hour) for hour in hours.values()), unit="h", aggregation="sum"),
        device_hours_planned=Quantity(value=3.1, unit="h", low=2.4, high=3.9, coverage=0.9),
        runs=tuple(runs),
        metrics=(),
        facts=facts,
        factors=factors,
        analyses=found,
        answers=tuple(_answers(run) for run in runs if run.evaluations),
        verification=_verification(runs, make),
        findings=_findings(best),
        packing=tuple(_packing(run) for run in runs if run.kind is RunKind.FINE_TUNED),
        packing_advice=("Packed rows were 94% full: nothing is to be gained by packing otherwise.",),
        estimates=tuple(row for run in runs for row in _estimates(run, rng)),
        issues=_issues(runs),
        next_steps=(
            NextStep(
                title="Add training seeds",
                why="With two seeds a rank effect under 9.5 points could not have been shown; five seeds show 4.1.",
                command="touchline plan experiment.yaml 'seeds=[0,1,2,3,4]'",
            ),
            NextStep(title="Make the evaluation harder", why="Seven of twelve runs are at 95% or above."),
        ),
        commands=(
            Command(group="View", text="The answers of all runs", command="inspect view --log-dir ."),
            Command(
                group="Retrain", text=f"Train {best} again", command=f"touchline run experiment.yaml --runs {best}"
            ),
        ),
        sources=(
            ReportInput(
                kind="dataset",
                name="data/words.json",
                facts=(
                    ("splits", f"train 16,000, test {make.items:,}"),
                    ("sha256", "5d41402abc4b2a76b9719d911017c592"),
                ),
            ),
            ReportInput(kind="base model", name="1B", facts=(("dtype on disk", "bfloat16"), ("weights", "2.3 GiB"))),
        ),
        asked={record.asked_key: _asked(words) for run in runs for record in run.evaluations},
    )


def _words(count: int, rng: np.random.Generator) -> list[str]:
    letters = rng.choice(_LETTERS, size=(count, 8))
    return ["".join(row[: 4 + index % 5]) for index, row in enumerate(letters)]


def _of_model(trained: Sequence[RunResult], model: int) -> list[RunResult]:
    return [run for run in trained if run.model == _MODELS[model]]


def _samples(
    words: Sequence[str], hard: np.ndarray, ability: float, rng: np.random.Generator
) -> tuple[SampleScore, ...]:
    chance = 1 / (1 + np.exp(-(ability - 1.6 * hard)))
    right = rng.random(len(words)) < chance
    wrong = rng.integers(0, 4, size=len(words))
    made = []
    for index, word in enumerate(words):
        target = word.capitalize()
        slips = (word, word.upper(), f"The word is {word}.", target[:-1])
        output = target if right[index] else slips[wrong[index]]
        exact = output == target
        made.append(
            SampleScore(id=str(index), target=target, output=output, exact=exact, match=exact, stop="stop", parsed=True)
        )
    return tuple(made)


def _asked(words: Sequence[str]) -> dict[str, AskedItem]:
    questions = [f"Capitalize the given word: {word}" for word in words]
    return {
        str(index): AskedItem(question=question, prompt=f"<|user|>\n{question}<|end|>\n<|assistant|>\n")
        for index, question in enumerate(questions)
    }


def _record(run: str, checkpoint: str, samples: tuple[SampleScore, ...]) -> EvaluationRecord:
    return EvaluationRecord(
        experiment="cap",
        run=run,
        task=TASK,
        checkpoint=checkpoint,
        log=f"{checkpoint}.eval",
        log_sha256="0" * 64,
        adapter_sha256=None if checkpoint == "base" else "1" * 64,
        base_sha256="2" * 64,
        data_sha256="3" * 64,
        settings_sha256="4" * 64,
        decoding="greedy, batch 64, bfloat16, at most 24 new tokens",
        seconds=31.5,
        samples=samples,
    )


def _control(model: int, make: Make, words: Sequence[str], hard: np.ndarray, rng: np.random.Generator) -> RunResult:
    name = f"{_MODELS[model]}_base"
    ability = 1.5 * math.log(_CONTROL_SCORES[model] / (1 - _CONTROL_SCORES[model]))
    record = _record(name, "base", _samples(words, hard, ability, rng))
    return _result(
        name=name,
        kind=RunKind.CONTROL,
        model=_MODELS[model],
        levels=(Level(factor="models", value=_MODELS[model]),),
        seed=0,
        evaluations=(record,),
    )


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
    evaluations = tuple(
        _record(name, f"epoch_{epoch}", _samples(words, hard, ability - 0.8 * (_EPOCHS - 1 - epoch), rng))
        for epoch in range(_EPOCHS - make.epochs_evaluated, _EPOCHS)
    )
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
    return _result(
        name=name,
        kind=RunKind.FINE_TUNED,
        model=_MODELS[model],
        levels=(Level(factor="models", value=_MODELS[model]), Level(factor=RANK, value=rank)),
        seed=seed,
        evaluations=evaluations,
        train_losses=_train_losses(make.steps, size, rng),
        curves=_curves(make.steps),
        validation_losses=_validation_losses(make.steps, size, rng),
        checkpoints=checkpoints,
        hours=_HOURS[model] * (1 + 0.01 * size) * (1 + rng.normal(scale=0.004)),
        adapter=_adapter_bytes(model, rank),
        steps=make.steps,
    )


def _adapter_bytes(model: int, rank: str) -> int:
    return int(float(rank) * (4 if model == 0 else 8) * MIB)


def _curves(steps: int) -> StepCurves:
    """Warm-up and a line down to 0; a gradient norm that falls; a speed that varies."""
    numbers = range(1, steps + 1)
    return StepCurves(
        steps=tuple(numbers),
        learning_rate=tuple(1e-3 * min(step / 10, 1 - step / (steps + 1)) for step in numbers),
    )


def _train_losses(steps: int, size: float, rng: np.random.Generator) -> tuple[LossPoint, ...]:
    at = np.arange(1, steps + 1)
    share = at / steps
    level = 2.2 * np.exp(-(7 + 0.7 * size) * share) + 0.03
    loss = level * np.exp(rng.normal(scale=0.22, size=steps) * np.minimum(1, 0.15 + 2 * share))
    return tuple(LossPoint(step=int(step), loss=float(value)) for step, value in zip(at, loss, strict=True))


def _validation_losses(steps: int, size: float, rng: np.random.Generator) -> tuple[LossPoint, ...]:
    every = max(1, steps // 10)
    points = [(0, 2.2), *((step, 0.0) for step in range(every, steps + 1, every))]
    made = []
    for step, _ in points:
        share = step / steps
        value = 2.15 * math.exp(-5.5 * share) + 0.06 + 0.02 * size * max(0.0, share - 0.65)
        made.append(LossPoint(step=step, loss=value * math.exp(rng.normal(scale=0.015))))
    return tuple(made)


def _result(
    *,
    name: str,
    kind: RunKind,
    model: str,
    levels: tuple[Level, ...],
    seed: int,
    evaluations: tuple[EvaluationRecord, ...],
    train_losses: tuple[LossPoint, ...] = (),
    curves: StepCurves | Missing = _NONE,
    validation_losses: tuple[LossPoint, ...] = (),
    checkpoints: tuple[CheckpointInfo, ...] = (),
    hours: float | None = None,
    adapter: int | None = None,
    steps: int | None = None,
) -> RunResult:
    right = sum(sample.exact for sample in evaluations[-1].samples)
    proportion = Proportion(k=right, n=len(evaluations[-1].samples), low=0.0, high=1.0)
    trained = kind is RunKind.FINE_TUNED
    train_loss: Measured = Quantity(value=train_losses[-1].loss, unit="nats", aggregation="mean") if trained else _NONE
    val_loss: Measured = Quantity(value=validation_losses[-1].loss, unit="nats") if trained else _NONE
    return RunResult(
        name=name,
        kind=kind,
        model=model,
        levels=levels,
        seed=seed,
        dataset="data/words.json",
        status=RunStatus.COMPLETED,
        job_state=JobState.COMPLETED,
        outcome=TrainingOutcome.COMPLETE if trained else TrainingOutcome.NOT_STARTED,
        attempts=1,
        steps_done=steps,
        steps_planned=steps,
        exact_match=proportion,
        match=proportion,
        difference=None,
        train_seconds=Quantity(value=3600 * hours, unit="s", where="metrics.jsonl") if hours else _NONE,
        validation_seconds=Quantity(value=12.0, unit="s") if trained else _NONE,
        evaluate_seconds=Quantity(value=31.5, unit="s"),
        final_train_loss=train_loss,
        final_val_loss=val_loss,
        tokens_per_second=Quantity(value=10_250.0, unit="tokens/s", token_unit="real") if trained else _NONE,
        peak_memory=Quantity(value=21.4, unit="GiB", kind="allocated", phase="step") if trained else _NONE,
        adapter_size=Quantity(value=adapter, unit="B") if adapter else _NONE,
        checkpoints=checkpoints,
        train_losses=train_losses,
        curves=curves,
        validation_losses=validation_losses,
        evaluations=evaluations,
        control=None if trained else ControlKind.BASE,
        notes=(),
    )


def _compared(run: RunResult, difference: ScoreDifference | None) -> RunResult:
    return _replaced(run, difference=difference)


def _replaced(run: RunResult, **changes: object) -> RunResult:
    from dataclasses import replace

    return replace(run, **changes)  # type: ignore[arg-type]


def _spoiled(runs: list[RunResult]) -> list[RunResult]:
    """What goes wrong in real experiments, one thing a run."""
    trained = [index for index, run in enumerate(runs) if run.kind is RunKind.FINE_TUNED]
    nan, unevaluated, hostile, failed = trained[0], trained[1], trained[2], trained[3]
    losses = runs[nan].train_losses
    half = len(losses) // 2
    broken = (*losses[:half], *(LossPoint(step=point.step, loss=math.nan) for point in losses[half:]))
    runs[nan] = _replaced(runs[nan], train_losses=broken, final_train_loss=Missing(missing="not a number"))
    no_evaluation = {"evaluations": (), "exact_match": None, "match": None, "status": RunStatus.TRAINED}
    runs[unevaluated] = _replaced(runs[unevaluated], **no_evaluation)
    record = runs[hostile].evaluations[-1]
    first = record.samples[0]
    answers = (
        _sample(first, ALERT),
        _sample(record.samples[1], "<!--<script>"),
        _sample(record.samples[2], "<img src=x onerror=alert(2)>\u2028\x00\u202e ]]>"),
        *record.samples[3:],
    )
    runs[hostile] = _replaced(runs[hostile], evaluations=(_with_samples(record, answers),))
    runs[failed] = _replaced(
        runs[failed],
        **no_evaluation
        | {"status": RunStatus.FAILED, "job_state": JobState.OUT_OF_MEMORY, "outcome": TrainingOutcome.NOT_STARTED},
        train_losses=(),
        curves=Missing(missing="no step has been measured"),
        validation_losses=(),
        checkpoints=(),
        steps_done=0,
        final_train_loss=Missing(missing="no step was done"),
        final_val_loss=Missing(missing="no validation was done"),
        train_seconds=Missing(missing="no step was done"),
        adapter_size=Missing(missing="there is none"),
    )
    return runs


def _sample(sample: SampleScore, output: str) -> SampleScore:
    from dataclasses import replace

    return replace(sample, output=output, exact=False, match=False)


def _with_samples(record: EvaluationRecord, samples: tuple[SampleScore, ...]) -> EvaluationRecord:
    from dataclasses import replace

    return replace(record, samples=samples)


def _hours(run: RunResult) -> Measured:
    if isinstance(run.train_seconds, Missing):
        return run.train_seconds if run.kind is RunKind.FINE_TUNED else Quantity(value=31.5 / 3600, unit="h")
    return Quantity(value=run.train_seconds.value / 3600, unit="h", aggregation="sum")


def _value(quantity: Measured) -> float:
    return 0.0 if isinstance(quantity, Missing) else quantity.value


def _facts(run: RunResult, hours: Measured, is_pareto: bool, make: Make) -> RunFacts:
    trained = run.kind is RunKind.FINE_TUNED
    return RunFacts(
        run=run.name,
        settings=settings_words(run.levels),
        gpus=1,
        device_hours=hours,
        tokens_per_second_per_gpu=run.tokens_per_second,
        control=f"{run.model}_base" if trained else None,
        files=(("metrics", f"{run.name}/metrics.jsonl"), ("evaluation", f"{run.name}/eval/epoch_2.eval")),
        is_pareto=is_pareto,
        notes=("overfitting: validation loss 0.0781 at step 900, 1.8 times as high at the end",)
        if trained and run.seed == 1
        else (),
    )


def _answers(run: RunResult) -> AnswerCounts:
    record = run.evaluations[-1]
    return AnswerCounts(
        run=run.name,
        checkpoint=record.checkpoint,
        task=record.task,
        answers=len(record.samples),
        empty=1 if run.kind is RunKind.CONTROL else 0,
        cut=0,
        errors=0,
        parsed=len(record.samples) - 1,
    )


def _verification(runs: Sequence[RunResult], make: Make) -> Verification:
    trained = [run for run in runs if run.kind is RunKind.FINE_TUNED]
    checkpoints = [_verified(run, info) for run in trained for info in run.checkpoints]
    missing: list[MissingCheckpoint] = []
    if checkpoints:
        last = checkpoints[-1]
        checkpoints[-2] = _faulty(checkpoints[-2])
        checkpoints = checkpoints[:-1]
        missing = [MissingCheckpoint(run=last.run, name=last.name, reason="disk quota", expected=False)]
    storage = tuple(_storage(run, checkpoints) for run in runs)
    return Verification(
        depth="headers",
        checkpoints=tuple(checkpoints),
        missing=tuple(missing),
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
            deletable=tuple(
                Deletable(
                    run=each.run, path=f"{each.run}/{each.name}", size_bytes=each.size_bytes, why="epoch_0 is sound"
                )
                for each in checkpoints
                if not each.sound
            ),
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


def _faulty(checkpoint: VerifiedCheckpoint) -> VerifiedCheckpoint:
    from dataclasses import replace

    fault = CheckpointFault(
        code="truncated", file="adapter_model.safetensors", message="the header asks for 517 MiB, the file has 12 MiB"
    )
    return replace(checkpoint, sound=False, faults=(fault,))


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


def _findings(best: str) -> tuple[Statement, ...]:
    return (
        Statement(
            topic="Against the control",
            text=f"{best} scores highest; it gained 145 items and lost 3 (Holm p < 0.001).",
            shown=Conclusion.HIGHER,
            where=(f"{best}/eval/epoch_2.scores.json",),
        ),
        Statement(
            topic=RANK,
            text="Rank 64 against 4: +5.1 points [-8.0, +18.2] over 2 seeds; not established. The smallest effect that "
            "this design could have shown is 9.5 points.",
            shown=Conclusion.NOT_ESTABLISHED,
        ),
        Statement(topic="Training efficiency", text="The 3B runs took 4.1 times the device time of the 1B runs."),
    )


def _packing(run: RunResult) -> PackingRow:
    return PackingRow(
        run=run.name,
        packed="yes",
        density=Quantity(value=6.4, unit="1"),
        efficiency=Quantity(value=94.1, unit="%"),
        examples_per_second=Quantity(value=151.0, unit="1/s"),
        peak_memory=run.peak_memory,
        reason="predicted to be 3.1 times as fast",
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
    trained = [run for run in runs if run.kind is RunKind.FINE_TUNED]
    if not trained:
        return ()
    return (
        Issue(
            weight=Severity.WARNING,
            subject=trained[-1].name,
            title="checkpoint missing",
            text="The checkpoint of epoch 2 is missing (disk quota). The run was evaluated at epoch 1.",
            lines=("OSError: [Errno 122] Disk quota exceeded: 'epoch_2/adapter_model.safetensors'",),
            where=f"{trained[-1].name}/slurm-4412.out:881",
        ),
        *(
            Issue(weight=Severity.ERROR, subject=run.name, title="failed", text="The job ended by OUT_OF_MEMORY.")
            for run in trained
            if run.status is RunStatus.FAILED
        ),
        Issue(weight=Severity.INFO, subject="experiment", title="two attempts", text="One run was started twice."),
    )
