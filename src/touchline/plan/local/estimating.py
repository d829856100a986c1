"""`touchline estimate`: from options to a training setup, then to memory, micro-batch and time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from touchline.backends.facts import MemoryCoefficients
from touchline.backends.planning import resolve_adapter_dtype
from touchline.backends.registry import backend_names, get_backend, memory_coefficients, memory_names
from touchline.core.errors import InputError
from touchline.core.estimate import (
    Attention,
    Dtype,
    LossKind,
    MemoryEstimate,
    MemoryVerdict,
    Method,
    TrainingSetup,
)
from touchline.core.finding import Finding, Severity
from touchline.core.machine import TargetMachine
from touchline.core.near import near_names
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.shape import ENDS, ModelShape
from touchline.core.units import GIB, plural
from touchline.data.public import is_dynamic_4_bit, is_stored_in_4_bits
from touchline.data.requests import EstimateRequest
from touchline.data.shapes import load_shape
from touchline.data.user_config import UserConfig
from touchline.estimate.coefficients import VARIANT_BYTES
from touchline.estimate.disk import saved_adapter_bytes
from touchline.estimate.evidence_used import evidence_line
from touchline.estimate.gpus import Gpu
from touchline.estimate.local.past_runs import PastRuns, past_runs
from touchline.estimate.memory import batch_of, largest_micro_batch, most, most_that_could_fit
from touchline.estimate.parts import after_init_bytes
from touchline.estimate.run_time import run_seconds
from touchline.estimate.spreads import widths_of
from touchline.estimate.time import StepTime, seconds_per_step
from touchline.estimate.work import StepWork
from touchline.experiment.training import DEFAULT_BACKEND, TrainConfig
from touchline.plan.context import PlanningContext, estimate_memory, past_runs_used
from touchline.plan.estimate_result import EstimateAnswer, MemoryAnswer
from touchline.plan.local.lengths import outgrown_by, read_lengths
from touchline.plan.local.target import target_named

_ASIDE = (*ENDS, "output", "embed_out")


def estimate(request: EstimateRequest, settings: UserConfig) -> EstimateAnswer:
    """Estimate memory, largest micro-batch and time. Raises InputError: with every option that is wrong."""
    machine, gpu, notes = _device(request)
    lengths = _lengths(request)
    if isinstance(lengths, np.ndarray):
        beyond = int((lengths > request.seq_len).sum())
        notes += [f"{beyond} of {plural(len(lengths), 'length')} cut at {request.seq_len}: --seq-len"] if beyond else []
        widths = widths_of(np.minimum(lengths, request.seq_len), request.micro_batch_size)
        count = request.examples or len(lengths)
        request = replace(request, seq_len=int(widths.max()), mean_length=float(widths.mean()), examples=count)
    setup, coefficients = _setup(request, settings, machine, [lengths] if isinstance(lengths, Finding) else [])
    assert not isinstance(lengths, Finding)
    rows, width = request.micro_batch_size, request.seq_len
    batch = batch_of(rows, width, request.label_fraction)
    outgrown = outgrown_by(lengths, longest=width, mean=request.mean_length, count=request.examples, rows=rows)
    past = _past(request, setup, settings)
    context = PlanningContext(
        machine=machine,
        gpu=gpu or Missing(missing="unknown GPU"),
        shapes={},
        memory_points=past.memory,
        past_runs=past.runs,
        other_runs=past.others,
    )
    memory = estimate_memory(setup, batch, context, outgrown=outgrown, with_what_ifs=True)
    assert isinstance(memory, MemoryEstimate)
    step = _step(request, setup, machine, past)
    timed = None if isinstance(step, Missing) else step.estimate.evidence
    used = past_runs_used(context, (setup,), timed, memory.process.evidence)
    return EstimateAnswer(
        model=setup.shape.name,
        source=setup.shape.source,
        parameters=setup.shape.num_parameters,
        trained_parameters=setup.trained_parameters,
        settings=_settings(request, setup, machine, gpu),
        padded_tokens=batch.tokens,
        memory=MemoryAnswer(
            allocated_gib=memory.allocated.quantity(),
            reserved_gib=memory.reserved.quantity(),
            process_gib=memory.process.quantity(),
            breakdown=dict(memory.breakdown),
            after_init_gib=_after_init(setup, coefficients),
            capacity_gib=memory.capacity_gib,
            verdict=memory.verdict,
            assumption=memory.assumption,
            what_ifs=memory.what_ifs,
        ),
        largest_micro_batch=_largest(setup, request, coefficients, context),
        seconds_per_step=step if isinstance(step, Missing) else step.estimate.quantity(),
        steps=_steps(request),
        total_seconds=_total(request, step),
        adapter_size=_adapter_size(setup),
        notes=(*notes, *_notes(request, setup), evidence_line(used)),
        past_runs=used,
    )


def _lengths(request: EstimateRequest) -> NDArray[np.int64] | Finding | None:
    """Return the lengths of the examples, or what is wrong with them; shape [examples]. None if they are not given."""
    if request.lengths is None:
        return None
    if request.mean_length is not None:
        return _fault("--lengths", "--lengths and --mean-length are both given, expected one of them")
    found = read_lengths(request.lengths)
    if isinstance(found, str):
        return _fault("--lengths", f"--lengths {request.lengths}: {found}", "--lengths 120,340,95, or a file of these")
    return found


def _setup(
    request: EstimateRequest, settings: UserConfig, machine: TargetMachine, known: Sequence[Finding]
) -> tuple[TrainingSetup, MemoryCoefficients]:
    faults = list(known)
    for option, value, allowed in (
        ("--method", request.method, get_args(Method)),
        ("--base-dtype", request.base_dtype or "float32", get_args(Dtype)),
        ("--adapter-dtype", request.adapter_dtype or "float32", get_args(Dtype)),
        ("--attention", request.attention, get_args(Attention)),
        ("--backend", request.backend, memory_names()),
        ("--adapter", request.adapter, tuple(VARIANT_BYTES)),
        ("--loss", request.loss or "full", get_args(LossKind)),
    ):
        if value not in allowed:
            faults.append(_wrong(option, value, allowed))
    if request.method != "full" and request.rank < 1:
        faults.append(_fault("--rank", f"--rank is {request.rank}, expected 1 or more"))
    if request.mean_length is not None and request.mean_length > request.seq_len:
        problem = f"--mean-length is {request.mean_length:g}, above --seq-len {request.seq_len}"
        faults.append(_fault("--mean-length", problem, f"--seq-len {math.ceil(request.mean_length)}"))
    if request.image_tokens > request.seq_len:
        problem = f"--image-tokens is {request.image_tokens}, above --seq-len {request.seq_len}"
        faults.append(_fault("--image-tokens", problem, f"--seq-len {request.image_tokens + request.seq_len}"))
    shape: ModelShape | None = None
    try:
        shape = load_shape(request.model, settings.models_dir)
    except InputError as fault:
        faults += fault.findings or [_fault("--model", fault.message, fault.hint)]
    if shape is not None:
        faults += _target_faults(request, shape)
    if faults or shape is None:
        raise InputError(plural(len(faults), "invalid option"), findings=faults)
    coefficients = memory_coefficients(request.backend)
    assert isinstance(coefficients, MemoryCoefficients)
    # An adapter on weights stored in 4 bits is QLoRA.
    method = "qlora" if request.method == "lora" and is_stored_in_4_bits(request.model) else request.method
    full = method == "full"
    targets = request.target_modules
    if targets is None:
        targets = tuple(linear.name for linear in shape.linears)
    targets = () if full else targets
    own = _planned(request, method, shape, machine, coefficients)
    values = {
        "method": method,
        "base_dtype": request.base_dtype or own.base_dtype,
        "adapter_dtype": request.adapter_dtype or own.adapter_dtype,
        "attention": own.attention if request.attention == "fused" else request.attention,
        "loss": request.loss,
    }
    setup = TrainingSetup(
        shape=shape,
        backend=request.backend,
        rank=0 if full else request.rank,
        target_modules=tuple(name for name in targets if not (coefficients.whole_ends and name in ENDS)),
        whole_modules=tuple(name for name in targets if coefficients.whole_ends and name in ENDS),
        variant=request.adapter,
        dropout=coefficients.dropout if request.lora_dropout is None else request.lora_dropout,
        optimizer=request.optimizer,
        gradient_checkpointing=request.gradient_checkpointing,
        compiled=request.compiled,
        accumulates=request.gradient_accumulation_steps > 1,
        padded=_padded(request),
        release=request.release or own.release,
        nested_scales=own.nested_scales,
        dynamic_4bit=method == "qlora" and is_dynamic_4_bit(request.model),
        image_tokens=request.image_tokens,
        **values,  # type: ignore[arg-type]
    )
    return setup, coefficients


def _planned(
    request: EstimateRequest, method: str, shape: ModelShape, machine: TargetMachine, coefficients: MemoryCoefficients
) -> TrainingSetup:
    """Return the setup that a plan with the requested trainer has; for one that plans nothing, by its coefficients."""
    plans = request.backend in backend_names()
    backend = get_backend(request.backend if plans else DEFAULT_BACKEND)
    train = TrainConfig(
        method="full" if method == "full" else "lora",
        base_dtype=request.base_dtype if request.base_dtype in ("float32", "bfloat16") else "auto",  # type: ignore[arg-type]
        quantization="nf4" if method == "qlora" else "none",
    )
    train = resolve_adapter_dtype(train, machine, backend.capabilities)
    found = backend.setup(train, shape, machine, request.seq_len)
    able, asked = backend.capabilities.values, {"method": train.method, "quantization": train.quantization}
    if plans and all(value in able.get(key, (value,)) for key, value in asked.items()):
        return found
    slow = machine.kind == "gpu" and machine.base_dtype == "float32"
    base: Dtype = request.base_dtype or ("float16" if slow else "bfloat16")  # type: ignore[assignment]
    # Autocast trains no float16 weights: their gradients cannot be scaled.
    whole: Dtype = "float32" if base == "float16" else base
    adapter = whole if method == "full" else coefficients.adapter_dtype
    return replace(found, base_dtype=base, adapter_dtype=adapter, release=None, nested_scales=None)


def _padded(request: EstimateRequest) -> bool | None:
    """Return whether a batch holds sequences of different lengths. None if the mean length is not given."""
    if request.micro_batch_size == 1:
        return False
    return None if request.mean_length is None else request.mean_length < request.seq_len


def _target_faults(request: EstimateRequest, shape: ModelShape) -> Iterable[Finding]:
    known = [linear.name for linear in shape.linears]
    for wanted in request.target_modules or () if request.method != "full" else ():
        if wanted not in known and wanted not in _ASIDE:
            yield _wrong("--target-modules", wanted, tuple(known))


def _device(request: EstimateRequest) -> tuple[TargetMachine, Gpu | None, list[str]]:
    """Return the target machine, its GPU type, and a note if there is none. Raises InputError: an unknown name."""
    target = target_named(request.gpu, "--gpu")
    machine, found = target.machine, target.gpu
    if not isinstance(found, Missing):
        return machine, found, []
    if machine.kind == "gpu":
        return machine, None, [f"no verdict: {found.missing}"]
    if request.gpu == "cpu":
        return machine, None, []
    return machine, None, ["no GPU found, so this is for the CPU; --gpu A100-80GB estimates for another machine"]


def _settings(
    request: EstimateRequest, setup: TrainingSetup, machine: TargetMachine, gpu: Gpu | None
) -> dict[str, str]:
    shown = {
        "backend": setup.backend,
        "version": setup.release or "",
        "method": setup.method,
        "rank": str(setup.rank),
        "targets": ",".join(setup.target_modules),
        "base": setup.base_dtype,
        "adapter": setup.adapter_dtype,
        "optimizer": setup.optimizer,
        "checkpointing": "yes" if setup.gradient_checkpointing else "no",
        "attention": setup.attention,
        "compiled": "yes" if setup.compiled else "no",
        "loss": setup.loss or "",
        "adapter type": setup.variant if setup.variant != "lora" else "",
        "dropout": f"{setup.dropout:g}" if setup.dropout else "",
        "micro-batch": f"{request.micro_batch_size} x {request.seq_len}",
        "mean length": "" if request.mean_length is None else f"{request.mean_length:g}",
        "accumulation": str(request.gradient_accumulation_steps),
        "machine": machine.name if gpu is None else gpu.name,
    }
    return {name: value for name, value in shown.items() if value}


def _after_init(setup: TrainingSetup, coefficients: MemoryCoefficients) -> Quantity:
    value = after_init_bytes(setup, coefficients) / GIB
    return Quantity(value=value, unit="GiB", phase="after_init", kind="allocated", method="weights, adapter and tables")


def _largest(
    setup: TrainingSetup,
    request: EstimateRequest,
    coefficients: MemoryCoefficients,
    context: PlanningContext,
) -> Quantity | Missing:
    width, share, points, gpu = request.seq_len, request.label_fraction, context.memory_points, context.gpu
    if context.machine.kind == "cpu":

        def verdict(rows: int) -> MemoryVerdict | None:
            found = estimate_memory(setup, batch_of(rows, width, share), context)
            return None if isinstance(found, Missing) else found.verdict

        fits = most(lambda rows: verdict(rows) is MemoryVerdict.FITS)
        could = most(lambda rows: verdict(rows) is not MemoryVerdict.OOM)
    elif isinstance(gpu, Missing):
        return gpu
    else:
        fits = largest_micro_batch(setup, width, share, gpu, coefficients=coefficients, evidence=points)
        could = most_that_could_fit(setup, width, share, gpu, coefficients=coefficients, evidence=points)
    words = "largest that fits, and largest that might fit"
    return Quantity(value=fits, unit="rows", low=fits, high=max(fits, could), method=words)


def _adapter_size(setup: TrainingSetup) -> Quantity | Missing:
    if setup.method == "full":
        return Missing(missing="full fine-tuning has no adapter")
    size = saved_adapter_bytes(setup)
    return Quantity(value=size / 1e6, unit="MB", method="adapter_model.safetensors, by its format")


def _past(request: EstimateRequest, setup: TrainingSetup, settings: UserConfig) -> PastRuns:
    if not request.evidence:
        return past_runs(settings, {setup.backend}, {setup.shape.name})
    # The readers of every trainer's logs are loaded when there is a log to read, and not before.
    from touchline.plan.local.stating import past_runs_with

    return past_runs_with(request.evidence, request.evidence_facts, setup, settings)


def _step(request: EstimateRequest, setup: TrainingSetup, machine: TargetMachine, past: PastRuns) -> StepTime | Missing:
    if request.mean_length is None:
        return Missing(missing="the mean length is not given: --mean-length (for packed sequences use --seq-len)")
    rows, passes = request.micro_batch_size, request.gradient_accumulation_steps
    tokens = rows * request.mean_length * passes
    tower = setup.shape.vision
    # One image per sequence.
    patches = 0 if tower is None else request.image_tokens * tower.patches_per_token
    work = StepWork(
        micro_batches=passes,
        tokens=tokens,
        squares=tokens * request.mean_length,
        label_tokens=tokens * request.label_fraction,
        patches=rows * passes * patches,
        patch_squares=rows * passes * patches**2,
    )
    return seconds_per_step(setup, work, machine=machine, points=past.time)


def _steps(request: EstimateRequest) -> Measured:
    if request.examples is None:
        return Missing(missing="the number of examples is not given: --examples")
    a_step = request.micro_batch_size * request.gradient_accumulation_steps
    return Quantity(value=-(-request.examples // a_step) * request.epochs, unit="steps", method="rounded up each epoch")


def _total(request: EstimateRequest, step: StepTime | Missing) -> Measured:
    steps = _steps(request)
    if isinstance(steps, Missing):
        return steps
    if isinstance(step, Missing):
        return step
    return run_seconds(step.estimate, int(steps.value)).total.quantity()


def _notes(request: EstimateRequest, setup: TrainingSetup) -> Iterable[str]:
    if setup.method != request.method:
        yield f"{request.model} is stored in 4 bits: estimated as --method {setup.method}"
    if setup.shape.extrapolated is not None:
        yield f"extrapolated: {setup.shape.extrapolated}"
    if request.mean_length is None:
        yield "lengths are not given, so reserved memory is that of rows of one length: --mean-length or --lengths"


def _wrong(option: str, value: str, allowed: tuple[str, ...]) -> Finding:
    near = near_names(value, allowed, most=1)
    message = f"{option} is {value!r}, expected one of {', '.join(allowed)}"
    return _fault(option, message, f"did you mean {near[0]}?" if near else None)


def _fault(option: str, message: str, hint: str | None = None) -> Finding:
    return Finding(code="ME010", severity=Severity.ERROR, subject=option, message=message, hint=hint)
