"""Probe: real optimizer steps on this machine, each micro-batch size in a new process.

A new process, because an exhausted allocator spoils the next try, and because a process can be killed. Its resident set
is monitored from outside and limited, so that a try on a CPU cannot take the machine down. Only a regular answer counts
as a fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from touchline.core.callbacks import MessageCallback
from touchline.core.errors import HostError, InputError, RunsFailedError, TouchlineError, install_hint
from touchline.core.estimate import MicroBatch
from touchline.core.units import format_bytes
from touchline.data.machine import absent_packages
from touchline.estimate.bracket import SearchStop, Trial, search
from touchline.history.probe import ProbeFault, ProbeOutcome, ProbeReport, ProbeRequest, ProbeTry
from touchline.run.probe_try import gpu_in_use_bytes, run_try, steps_beside

Keep = Callable[[ProbeTry], None]
"""Callback for each ended try, so that a later Ctrl-C loses none."""

TIMEOUT_SECONDS = 1800.0
"""Timeout of a try, which loads a model and runs three steps; a slower micro-batch is useless."""
_NEEDED = ("torch", "transformers", "peft")


def probe(
    request: ProbeRequest,
    batches: Mapping[int, MicroBatch],
    *,
    predicted: int | None,
    host_limit_bytes: int,
    timeout_seconds: float = TIMEOUT_SECONDS,
    on_message: MessageCallback | None = None,
    keep: Keep | None = None,
    command: Sequence[str] | None = None,
) -> ProbeReport:
    """Find the largest micro-batch size that fits, and where speed saturates, with at most six tries.

    Args:
        request: common request of all tries; rows, width and labels are set per try.
        batches: allowed micro-batch sizes, each with its largest micro-batch.
        predicted: largest size predicted to fit; None if unknown.
        host_limit_bytes: host memory limit of a try; by default `host_memory.free_host_bytes()`.
        timeout_seconds: timeout of a try.
        on_message: called with progress messages.
        keep: called with each try as soon as it has ended.
        command: program that tries; the trainer's own if None.

    Raises:
        InputError: the model cannot be loaded, or the adapter does not fit it.
        HostError: the training packages are not installed.
        RunsFailedError: the first try failed for another reason.
    """
    if command is None:
        require_packages()
    tries: list[ProbeTry] = []

    def try_one(size: int) -> Trial:
        batch = batches[size]
        if on_message is not None:
            on_message(f"try {len(tries) + 1}: micro-batch {size}, {batch.rows} × {batch.width:,} tokens")
        one, fault = try_batch(request, size, batch, host_limit_bytes, timeout_seconds, command)
        if fault is not None and not any(one.answer for one in tries):
            raise _error(fault)
        tries.append(one)
        if on_message is not None:
            on_message(f"  {describe(one)}")
        if keep is not None:
            keep(one)
        return Trial(
            size=size,
            tokens=batch.tokens,
            fits=one.outcome is ProbeOutcome.FITS,
            tokens_per_second=one.tokens_per_second,
        )

    found = search(tuple(batches), predicted, try_one)
    unproven = found.ended in (SearchStop.BRACKETED, SearchStop.NONE_FITS) and not _proven(tries)
    return ProbeReport(
        request=request,
        predicted=predicted,
        sizes=tuple(sorted(batches)),
        tries=tuple(tries),
        largest=found.largest,
        recommended=found.recommended,
        ended=f"{found.ended.value}{'; that was no lack of memory' if unproven else ''}",
    )


def try_batch(
    request: ProbeRequest,
    size: int,
    batch: MicroBatch,
    host_limit_bytes: int,
    timeout_seconds: float = TIMEOUT_SECONDS,
    command: Sequence[str] | None = None,
    *,
    slots: int = 1,
    threads: int | None = None,
) -> tuple[ProbeTry, ProbeFault | None]:
    """Try one micro-batch in a separate process. Return the try, and the error that prevented it.

    Args:
        request: request; rows, width and labels are those of the micro-batch.
        size: micro-batch size, in examples.
        batch: micro-batch.
        host_limit_bytes: host memory limit.
        timeout_seconds: timeout.
        command: program that tries; the trainer's own if None.
        slots: processes that do the same steps beside each other; of one of them the steps are timed.
        threads: compute threads of each on a CPU; all if None.
    """
    wanted = replace(
        request,
        rows=batch.rows,
        width=batch.width,
        label_tokens=batch.label_tokens,
        gpu_in_use_before_bytes=gpu_in_use_bytes(),
    )
    with steps_beside(wanted, slots - 1, threads or 1, command) as are_beside:
        ended = run_try(wanted, host_limit_bytes, timeout_seconds, command, threads=threads)
        if not are_beside():
            ended = replace(ended, outcome=ProbeOutcome.CRASHED, message="a process beside it has ended")
    one = ProbeTry(
        micro_batch_size=size,
        batch=batch,
        outcome=ended.outcome,
        wall_seconds=ended.wall_seconds,
        seen_bytes=ended.seen_bytes,
        limit_bytes=host_limit_bytes,
        answer=ended.answer,
        message=ended.message,
    )
    return one, ended.fault


def describe(one: ProbeTry) -> str:
    """Format a try as a line: `fits, 2.31 GiB (process), 0.412 s per step, 9,942 tokens/s`."""
    if one.outcome is not ProbeOutcome.FITS or one.answer is None:
        return f"{one.outcome.value.replace('_', ' ')}: {one.message}"
    memory = one.answer.memory
    words = [one.outcome.value]
    for kind in ("allocated", "reserved", "process"):
        size = getattr(memory, f"{kind}_bytes", None)
        if size is not None:
            words.append(f"{format_bytes(size)} ({kind})")
    if one.seconds_per_step is not None and one.tokens_per_second is not None:
        words.append(f"{one.seconds_per_step:.3g} s per step, {one.tokens_per_second:,.0f} tokens/s")
    return ", ".join(words)


def _proven(tries: Sequence[ProbeTry]) -> bool:
    """Return True if the smallest size that did not fit ran out of memory."""
    unfit = [one for one in tries if one.outcome is not ProbeOutcome.FITS]
    return bool(unfit) and min(unfit, key=lambda one: one.micro_batch_size).outcome.out_of_memory


def _error(fault: ProbeFault) -> TouchlineError:
    kinds: dict[str, type[TouchlineError]] = {"input": InputError, "environment": HostError}
    return kinds.get(fault.kind, RunsFailedError)(fault.message, expected=fault.expected, hint=fault.hint)


def require_packages() -> None:
    """Refuse to start without the training packages.

    Raises:
        HostError: one is not installed.
    """
    absent = absent_packages(_NEEDED)
    if absent:
        raise HostError(
            f"training steps need {', '.join(absent)}, which this environment has not", hint=install_hint("train")
        )
