"""Rules on settings that are incompatible with a GPU, a dtype or a number of CPU cores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.estimate.gpus import Gpu
from touchline.lint.arithmetic import arithmetic
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView
from touchline.spec.partial import StatedTraining

_FLASH: Final = re.compile(r"flash|\bfa[23]\b", re.IGNORECASE)


def _old(gpu: Gpu | None) -> bool:
    """Return True if the GPU is of a generation without bfloat16 units: T4, V100."""
    return gpu is not None and gpu.peak_tflops is None


def _on_processor(stated: StatedTraining) -> bool:
    return stated.device is not None and stated.device.value.lower().startswith("cpu")


def _flash(stated: StatedTraining) -> bool:
    return stated.attention is not None and _FLASH.search(stated.attention.value) is not None


@rule("TR050", Severity.WARNING)
def bfloat16_on_old_gpu(view: TrainingView) -> Iterator[Violation]:
    """Report bfloat16 on a GPU that only emulates it."""
    dtype, gpu = view.stated.dtype, view.around.gpu
    if dtype is None or gpu is None or _on_processor(view.stated):
        return
    if dtype.value == "bfloat16" and _old(gpu):
        yield Violation(message=f"a {gpu.name} does not support bfloat16; expected float16 or float32", at=dtype)


@rule("TR051", Severity.ERROR)
def flash_attention_unavailable(view: TrainingView) -> Iterator[Violation]:
    """Report flash attention on an older GPU, on a CPU or in float32."""
    stated, gpu = view.stated, view.around.gpu
    attention, dtype = stated.attention, stated.dtype
    if attention is None or not _flash(stated):
        return
    why, severity = None, Severity.ERROR
    if _on_processor(stated):
        why = "it needs a GPU, and the training is on the CPU"
    elif gpu is not None and _old(gpu):
        why = f"it needs a GPU of the Ampere generation or later, not a {gpu.name}"
    elif dtype is not None and dtype.value == "float32" and not dtype.is_default and stated.quantization_bits is None:
        why, severity = "it computes in 16 bits alone, and the training is in float32", Severity.WARNING
    if why is not None:
        hint = f"{attention.key.rpartition('.')[2]}: sdpa"
        yield Violation(message=f"{attention.value}: {why}", at=attention, hint=hint, severity=severity)


@rule("TR052", Severity.ERROR)
def tf32_unavailable(view: TrainingView) -> Iterator[Violation]:
    """Report tf32 on an older GPU or on a CPU."""
    tf32, gpu = view.stated.tf32, view.around.gpu
    if tf32 is None or not tf32.value or not traits_of(view.stated.backend).hf_loop:
        return
    if _old(gpu) or _on_processor(view.stated):
        where = "a CPU" if gpu is None or _on_processor(view.stated) else f"a {gpu.name}"
        yield Violation(
            message=f"{where} does not support tf32, so the trainer refuses to start", at=tf32, hint="tf32: false"
        )


@rule("TR053", Severity.ERROR)
def full_training_of_quantized_base(view: TrainingView) -> Iterator[Violation]:
    """Report full training of a base in 4 or 8 bits."""
    method, bits = view.stated.method, view.stated.quantization_bits
    if method is not None and bits is not None and method.value == "full" and bits.value in (4, 8):
        yield Violation(
            message=f"a base in {bits.value} bits cannot be fully trained: quantized weights have no gradient",
            at=bits,
            hint="train an adapter, or do not quantize",
        )


@rule("TR054", Severity.ERROR)
def float16_refused(view: TrainingView) -> Iterator[Violation]:
    """Report float16 where the trainer does not support it."""
    stated = view.stated
    if stated.dtype is None or stated.dtype.value != "float16":
        return
    if traits_of(stated.backend).refuses_float16:
        yield Violation(
            message=f"{stated.backend}'s recipes refuse fp16; expected bf16 or fp32",
            at=stated.dtype,
            hint="dtype: bf16",
        )
    elif traits_of(stated.backend).hf_loop and _on_processor(stated):
        yield Violation(message="float16 with loss scaling needs a GPU; expected bf16 or neither", at=stated.dtype)


@rule("TR055", Severity.WARNING)
def more_workers_than_cpus(view: TrainingView) -> Iterator[Violation]:
    """Report more data-loading processes than CPU cores."""
    workers, cpus = view.stated.data_workers, view.around.cpus
    if workers is None or cpus is None or workers.is_default:
        return
    devices = arithmetic(view).devices.low
    if workers.value * devices > cpus:
        each = f" ({workers.value} × {devices} devices)" if devices > 1 else ""
        yield Violation(
            message=f"{workers.value * devices}{each} processes that load data, and the job has {cpus} cores",
            at=workers,
            hint=f"{workers.key.rpartition('.')[2]}: {max(cpus // devices - 1, 0)}",
        )
