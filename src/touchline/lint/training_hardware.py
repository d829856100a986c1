"""Rules on the GPU: memory of a training, and dtypes, kernels and data workers that the machine does not support."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.backends.registry import traits_of
from touchline.core.estimate import MemoryVerdict
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.lint.arithmetic import arithmetic
from touchline.lint.limits import Width, fitting, on_processor, pages_out, setup_of, sharing, table_gpu, width_of
from touchline.lint.rule import Violation, rule
from touchline.lint.views import TrainingView


@rule("ME020", Severity.ERROR)
def not_enough_memory(view: TrainingView) -> Iterator[Violation]:
    """Report a training of which not even one sequence fits on the GPU."""
    stated, gpu = view.stated, view.around.gpu
    if view.has_planned_memory or gpu is None or on_processor(stated) or sharing(view) == "sharded":
        return
    width = width_of(view)
    known = Width(tokens=1, reached=True) if isinstance(width, Missing) or not width.reached else width
    found = fitting(view, gpu, 1, known)
    if isinstance(found, Missing) or found.verdict is MemoryVerdict.FITS:
        return
    settings = traits_of(stated.backend).sharding_settings
    alone = sharing(view) == "one" or bool(settings)
    if found.verdict is MemoryVerdict.OOM:
        # A backend's optimizer inside the backward pass, or a paged one, keeps less than the estimate counts.
        sure = alone and found.without_gradients > gpu.capacity_gib and not pages_out(stated)
        severity = Severity.ERROR if sure else Severity.WARNING
    elif alone:
        severity = Severity.WARNING
    else:
        return
    if sharing(view) != "one" and alone:
        devices = f"; its config names neither {' nor '.join(settings)}, so every device holds all weights"
    else:
        devices = "" if alone else "; on several that share the weights it may"
    row = f"one row of {known.tokens:,} tokens" if known.tokens > 1 else "even the shortest row"
    yield Violation(
        message=(
            f"{row} needs {found.low:.0f} to {found.high:.0f} GiB, and a {gpu.name} has {gpu.capacity_gib:.0f}{devices}"
        ),
        at=stated.model,
        severity=severity,
    )


@rule("ME021", Severity.WARNING)
def fits_no_gpu(view: TrainingView) -> Iterator[Violation]:
    """Report a single-device training that fits on no GPU."""
    stated = view.stated
    if view.around.gpu is not None or sharing(view) != "one" or on_processor(stated):
        return
    usual = table_gpu()
    least = fitting(view, usual, 1, Width(tokens=1, reached=True))
    if not isinstance(least, Missing) and least.verdict is MemoryVerdict.OOM and not pages_out(stated):
        yield Violation(
            message=(
                f"the weights and one short row need {least.low:.0f} GiB or more on the job's one GPU, and a "
                f"{usual.name} has {usual.capacity_gib:.0f}"
            ),
            at=stated.model,
            hint="a 4-bit base, several devices that share the weights, or --gpu for the GPU that it has",
        )


@rule("ME022", Severity.INFO)
def memory_not_checked(view: TrainingView) -> Iterator[Violation]:
    """Report memory that could not be estimated."""
    stated = view.stated
    if isinstance(view.model, Missing) or (view.around.gpu is None and view.model.num_parameters is None):
        reason = view.model.missing if isinstance(view.model, Missing) else "its size is not known"
        yield Violation(message=f"memory and batch limits are not checked ({reason})", at=stated.model)
    elif view.around.gpu is not None:
        setup = setup_of(view)
        if isinstance(setup, Missing):
            yield Violation(message=f"memory is not estimated ({setup.missing})", at=stated.model)


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
            hint=workers.line_with(max(cpus // devices - 1, 0)),
        )
