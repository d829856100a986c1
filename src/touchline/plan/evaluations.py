"""Predicted memory of each run's evaluation, and what to type where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import memory_coefficients
from touchline.backends.training_limits import MOST_DEVICES
from touchline.core.catalog import DatasetInfo
from touchline.core.estimate import Dtype, MemoryEstimate, MemoryVerdict, TrainingSetup
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.estimate.evaluation_memory import EvaluationWork, evaluation_memory
from touchline.experiment.answer_batches import SHARING_EVALUATIONS
from touchline.experiment.defaults import DEFAULT_BACKEND
from touchline.experiment.experiment import ComputeConfig, EvaluateConfig, LoraConfig
from touchline.experiment.plan import PlannedRun
from touchline.experiment.quantization import Quantization
from touchline.experiment.test_sets import asked_items, further_sets
from touchline.plan.context import PlanningContext
from touchline.plan.times import count_evaluations, spanning_memory

_SMALLER: tuple[Quantization, ...] = ("int8", "nf4")
"""Stored forms that a remedy may name, the most exact first."""


def with_evaluation_memory(
    runs: Sequence[PlannedRun],
    datasets: Mapping[str, DatasetInfo],
    lengths: Mapping[str, ExampleLengths],
    context: PlanningContext,
    compute: ComputeConfig,
) -> list[PlannedRun]:
    """Return the runs with the predicted memory of their evaluations.

    Args:
        datasets: datasets by path.
        lengths: token lengths of each run's examples, by run; not those of a control whose lengths are unknown.
        context: machine and dimensions of the models.
        compute: machine and resources of the jobs.
    """
    of_model = {model: sum(run.model == model for run in runs) for model in {run.model for run in runs}}
    known: dict[tuple[object, ...], MemoryEstimate | Missing] = {}
    found = []
    for run in runs:
        # On this machine one process evaluates all runs of a base.
        together = of_model[run.model] if compute.executor == "local" else 1
        counted = lengths.get(run.name)
        ends = () if counted is None or counted.ends is None else counted.ends
        works = [_work(run, datasets[run.dataset], each, together) for each in (counted, *ends)]
        lora = run.no_op if run.train is None else run.train.lora
        key = (run.model, run.evaluate.quantization, lora, *works)
        if key not in known:
            shape = context.shapes.get(run.model, Missing(missing="its dimensions were not read"))
            first, *others = (_predicted(shape, run.evaluate, lora, work, context, compute) for work in works)
            known[key] = spanning_memory(first, others)
        found.append(replace(run, evaluate_memory=known[key]))
    return found


def _work(
    run: PlannedRun, dataset: DatasetInfo, lengths: ExampleLengths | None, together: int
) -> EvaluationWork | Missing:
    tests = (*(split for split in dataset.splits if split.name == "test"), *further_sets(dataset))
    items = max((split.num_examples for split in tests), default=0)
    if lengths is None or not items:
        return Missing(missing="there are no test items" if lengths is not None else "prompt lengths are unknown")
    adapters = 0 if run.no_op is None else 1
    if run.train is not None and run.train.saves == "adapter":
        adapters = min(SHARING_EVALUATIONS, together * count_evaluations(run.evaluate, run.train))
    return EvaluationWork(
        prompt_tokens=int(max(lengths.prompt.max(), lengths.asked.prompt.max())),
        max_new_tokens=run.evaluate.max_new_tokens,
        answers=run.evaluate.repeats * asked_items(run.evaluate, items),
        batch_size=run.evaluate.batch_size,
        adapters=adapters,
        is_counted=lengths.of_tests is not None,
    )


def _predicted(
    shape: ModelShape | Missing,
    evaluate: EvaluateConfig,
    lora: LoraConfig | None,
    work: EvaluationWork | Missing,
    context: PlanningContext,
    compute: ComputeConfig,
) -> MemoryEstimate | Missing:
    # Evaluations load models by the libraries of the default trainer.
    coefficients = memory_coefficients(DEFAULT_BACKEND)
    for each in (shape, work, coefficients):
        if isinstance(each, Missing):
            return each
    assert isinstance(shape, ModelShape)
    assert isinstance(work, EvaluationWork)
    assert not isinstance(coefficients, Missing)
    machine = context.machine.whole
    gpu = None if isinstance(context.gpu, Missing) or compute.evaluation.constraint is not None else context.gpu

    def memory(quantization: Quantization, gpus: int) -> MemoryEstimate:
        setup = _setup(shape, quantization, lora if work.adapters else None, machine.base_dtype)
        return evaluation_memory(setup, work, coefficients=coefficients, machine=machine, gpu=gpu, gpus=gpus)

    gpus = max(compute.evaluation_gpus, 1)
    planned = memory(evaluate.quantization, gpus)
    if gpu is None and machine.kind == "gpu" and compute.evaluation.constraint is not None:
        why = Missing(missing="compute.evaluation.constraint may give another GPU than the planned one")
        return replace(planned, capacity_gib=why)
    if planned.verdict is not MemoryVerdict.OOM or machine.kind == "cpu":
        return planned

    def remedies() -> Iterator[str]:
        for more in range(gpus + 1, MOST_DEVICES + 1):
            if memory(evaluate.quantization, more).verdict is MemoryVerdict.FITS:
                yield f"compute.evaluation.gpus={more}"
                break
        if evaluate.quantization == "none":
            smaller = (form for form in _SMALLER if memory(form, gpus).verdict is MemoryVerdict.FITS)
            yield from (f"evaluate.quantization={form}" for form in list(smaller)[:1])

    return replace(planned, remedies=tuple(remedies()))


def _setup(shape: ModelShape, quantization: Quantization, lora: LoraConfig | None, dtype: Dtype) -> TrainingSetup:
    """Return the base as an evaluation loads it, with the shape of its adapters."""
    return TrainingSetup(
        shape=shape,
        backend=DEFAULT_BACKEND,
        method="qlora" if quantization == "nf4" else "lora",
        rank=0 if lora is None else lora.rank,
        target_modules=() if lora is None else tuple(lora.target_modules),
        base_dtype=dtype,
        adapter_dtype="float32" if lora is None else lora.resolved_dtype,
        int8_base=quantization == "int8",
        nested_scales=True if quantization == "nf4" else None,
    )
