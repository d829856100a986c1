"""The probe: real optimizer steps on the machine at hand, each micro-batch size in a fresh process.

A fresh one, because what an exhausted allocator leaves behind would spoil the next try, and because a process can be
ended when it takes too much. From outside its resident set is read all the time; what passes the limit is killed, so
that a try on a processor cannot take the machine down. Only an orderly answer counts as a fit.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from touchline.core.callbacks import MessageCallback
from touchline.core.errors import HostError, InputError, RunsFailedError, TouchlineError, install_hint
from touchline.core.estimate import MicroBatch
from touchline.core.units import format_bytes
from touchline.estimate.bracket import SearchStop, Trial, search
from touchline.history.probe import ProbeFault, ProbeOutcome, ProbeReport, ProbeRequest, ProbeTry
from touchline.run.probe_try import gpu_in_use_bytes, run_try

Keep = Callable[[ProbeTry], None]
"""Gets each try as soon as it has ended, so that a later Ctrl-C loses none."""

TIMEOUT_SECONDS = 1800.0
"""A try loads a model and does three steps; what takes longer is of no use as a micro-batch."""
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
    """Find the largest micro-batch size that fits, and where a larger one is no faster, with at most six tries.

    Args:
        request: what all tries have in common; its rows, width and labels are those of the try.
        batches: the micro-batch sizes that are allowed, each with the largest micro-batch that it leads to.
        predicted: the largest size that should fit; none where nobody knows.
        host_limit_bytes: what a try may take of the machine's memory; `host_memory.free_host_bytes()` where nobody
            says otherwise.
        timeout_seconds: how long a try may take.
        on_message: receives how it goes.
        keep: gets each try as soon as it has ended.
        command: the program that tries; the trainer's own where none is given.

    Raises:
        InputError: the model cannot be loaded, or the adapter does not fit it.
        HostError: the packages that train are not installed.
        RunsFailedError: the first try could not be made for another reason.
    """
    if command is None:
        _require_packages()
    tries: list[ProbeTry] = []

    def try_one(size: int) -> Trial:
        batch = batches[size]
        wanted = replace(
            request,
            rows=batch.rows,
            width=batch.width,
            label_tokens=batch.label_tokens,
            gpu_in_use_before_bytes=gpu_in_use_bytes(),
        )
        if on_message is not None:
            on_message(f"try {len(tries) + 1}: micro-batch {size}, {batch.rows} × {batch.width:,} tokens")
        ended = run_try(wanted, host_limit_bytes, timeout_seconds, command)
        if ended.fault is not None and not any(one.answer for one in tries):
            raise _error(ended.fault)
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


def describe(one: ProbeTry) -> str:
    """A try in a line: `fits, 2.31 GiB (process), 0.412 s a step, 9,942 tokens/s`."""
    if one.outcome is not ProbeOutcome.FITS or one.answer is None:
        return f"{one.outcome.value.replace('_', ' ')}: {one.message}"
    memory = one.answer.memory
    words = [one.outcome.value]
    for kind in ("allocated", "reserved", "process"):
        size = getattr(memory, f"{kind}_bytes", None)
        if size is not None:
            words.append(f"{format_bytes(size)} ({kind})")
    if one.seconds_per_step is not None and one.tokens_per_second is not None:
        words.append(f"{one.seconds_per_step:.3g} s a step, {one.tokens_per_second:,.0f} tokens/s")
    return ", ".join(words)


def _proven(tries: Sequence[ProbeTry]) -> bool:
    """Whether the smallest size that did not fit lacked memory."""
    unfit = [one for one in tries if one.outcome is not ProbeOutcome.FITS]
    return bool(unfit) and min(unfit, key=lambda one: one.micro_batch_size).outcome.out_of_memory


def _error(fault: ProbeFault) -> TouchlineError:
    kinds: dict[str, type[TouchlineError]] = {"input": InputError, "environment": HostError}
    return kinds.get(fault.kind, RunsFailedError)(fault.message, expected=fault.expected, hint=fault.hint)


def _require_packages() -> None:
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise HostError(
            f"a probe needs {', '.join(absent)}, which this environment has not", hint=install_hint("train")
        )
