"""Evaluations of planned runs: their predicted memory, and the validation before the first step, computed once.

A new adapter changes nothing before its first step, so a run takes this loss over from another run of the experiment
that has computed it. The first runs of a plan compute it, as many as run at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from touchline.backends.planning import MOST_DEVICES
from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import get_backend, memory_coefficients
from touchline.core.catalog import DatasetInfo
from touchline.core.estimate import Dtype, MemoryEstimate, MemoryVerdict, TrainingSetup
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import ModelShape
from touchline.estimate.evaluation_memory import EvaluationWork, evaluation_memory
from touchline.experiment.answer_batches import SHARING_EVALUATIONS
from touchline.experiment.evaluation import asked_items, further_sets
from touchline.experiment.experiment import ComputeConfig, EvaluateConfig
from touchline.experiment.plan import PlannedRun
from touchline.experiment.training import DEFAULT_BACKEND, LoraConfig
from touchline.experiment.value_types import Quantization
from touchline.plan.context import PlanningContext
from touchline.plan.times import count_evaluations, count_validations, spanning_memory

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
        lengths: token lengths of each run's examples, by run; not those of a control whose lengths are unknown.
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
            shape = context.shape_of(run.model)
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


_VALIDATION = "validation"


def without_shared_validation(run: PlannedRun) -> PlannedRun:
    """Return a run that takes the validation before its first step over.

    The upper ends and the time limit stay: the run computes it after all if the others were not trained before.
    """
    part = run.time_parts.get(_VALIDATION)
    if not isinstance(part, Quantity) or run.train is None or run.batches is None:
        return run
    once = part.value / count_validations(run.train, run.batches.steps, run.batches.steps_per_epoch)
    return replace(
        run, train_seconds=_less(run.train_seconds, once), time_parts={**run.time_parts, _VALIDATION: _less(part, once)}
    )


def takes_over(runs: Iterable[PlannedRun], at_once: int) -> tuple[str, ...]:
    """Return the runs that take the validation before their first step over."""
    computed: dict[tuple[object, ...], int] = {}
    found: list[str] = []
    for run in runs:
        key = _key(run)
        if key is None:
            continue
        computed[key] = computed.get(key, 0) + 1
        if computed[key] > at_once:
            found.append(run.name)
    return tuple(found)


def _key(run: PlannedRun) -> tuple[object, ...] | None:
    """Return a key that is equal for runs whose untrained models have the same loss. None if it is a run's own."""
    train, batches = run.train, run.batches
    if train is None or batches is None or run.link is not None or _VALIDATION not in run.time_parts:
        return None
    if not get_backend(train.backend).capabilities.shares_validation or batches.data_parallel_size > 1:
        return None
    lora = None if train.trains_all else train.lora
    if lora is not None and (lora.dora or lora.init in ("pissa", "olora")):
        return None
    # The layout of rows depends on what draws random numbers.
    draws = train.neftune_alpha is not None or (lora is not None and lora.dropout > 0)
    return (
        *(run.model, run.dataset, repr(run.data), batches.micro_batch_size),
        *(train.backend, train.method, None if lora is None else lora.dtype, train.base_dtype, train.attention),
        *(train.quantization, train.kernels, train.compile, train.packed, train.max_seq_len, draws),
    )


def _less(value: Measured, seconds: float) -> Measured:
    if not isinstance(value, Quantity):
        return value
    low = None if value.low is None else max(0.0, value.low - seconds)
    return replace(value, value=value.value - seconds, low=low)
