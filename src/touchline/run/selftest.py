"""Self-test of a node: what it computes is right, what fits into its memory, and how fast it is.

Every check runs in another process: those of the trainer's program in one that is started again after a crash, and each
try of memory and speed in its own. Tries are stored in the history like those of a probe, so that plans for this kind
of machine are based on them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from touchline import __version__
from touchline.backends.registry import get_backend
from touchline.core.estimate import Estimate, MemoryEstimate
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.units import GIB, format_bytes
from touchline.data.machine import machine_here
from touchline.data.user_config import UserConfig
from touchline.estimate.bracket import Search, Trial, search
from touchline.estimate.gpus import Gpu, find_gpu
from touchline.experiment.experiment import LoraConfig, TrainConfig
from touchline.history.history import store_record
from touchline.history.probe import ProbeOutcome, ProbeRequest, ProbeTry
from touchline.history.probes import probe_record
from touchline.history.record import RunRecord
from touchline.history.selftest import NodeCheck, Section, SelftestReport, StepCheck, Verdict
from touchline.plan.context import estimate_memory
from touchline.plan.local.context import formula_context
from touchline.run.probe_run import busy_load
from touchline.run.probing import free_host_bytes, require_packages, try_batch
from touchline.run.progress import JobProgress
from touchline.run.selftest_loads import (
    LADDER_SIZES,
    LADDER_WIDTH,
    PACKED,
    RUNGS,
    SHAPES,
    SHORT,
    MeasuredBatch,
    MeasuredModel,
    read_model,
    write_public_model,
)
from touchline.run.selftest_steps import step_checks

ProgressRows = Callable[[Sequence[JobProgress]], None]
"""Called with the row of the self-test."""

RANK = 16
LEARNING_RATE = 2e-4
"""Rate of its tries, on which speed and memory do not depend."""
COHORT = 4
"""Runs that are timed side by side."""
BEYOND = 1.25
"""Factor on the upper end of an estimate above which a measured memory fails its check: 5% of all measurements lie
above that end itself."""
LORA_FLOPS = 4
"""FLOPs per parameter of the base and token: 2/3 of the usual 6, since the frozen base has no weight gradients."""
_NEEDS_GPU = Missing(missing="needs a GPU")
_TIMEOUT_SECONDS = {"cpu": 300.0, "gpu": 180.0}
_TIMED_STEPS = {"cpu": 6, "gpu": 20}
_BUDGET_SECONDS = 4.0
_FIRST_SECONDS = {"cpu": 4.0, "gpu": 8.0}
"""Expected seconds of a check, for the time left before the first one ended."""
_MOST_TRIES = 6


def selftest(
    settings: UserConfig,
    *,
    quick: bool = False,
    model: Path | None = None,
    on_progress: ProgressRows | None = None,
) -> SelftestReport:
    """Check this node. What it lacks is a check that was not run, with the reason.

    Args:
        settings: user config with the history.
        quick: shorter set: under ten minutes on a GPU, under two on a CPU of two cores.
        model: folder of a model; memory and speed are measured on it instead of on random weights of public shapes.
        on_progress: receives one row, with the time left.

    Raises:
        InputError: the folder holds no model.
        HostError: the training packages are not installed, or the history is not writable.
    """
    require_packages()
    began = time.monotonic()
    machine = machine_here(1)
    with tempfile.TemporaryDirectory(prefix="touchline-selftest-") as folder:
        node = _Node(settings, machine, quick, Path(folder), model)
        progress = _Progress(on_progress, node)
        checks: list[NodeCheck] = []
        for check in node.checks():
            checks.append(check)
            progress.ended(check)
    progress.close()
    return SelftestReport(
        touchline_version=__version__,
        machine=machine.key,
        quick=quick,
        seconds=time.monotonic() - began,
        checks=tuple(checks),
    )


class _Node:
    """Node under test."""

    def __init__(
        self, settings: UserConfig, machine: TargetMachine, quick: bool, folder: Path, model: Path | None
    ) -> None:
        self._settings = settings
        self._quick = quick
        self._folder = folder
        self._machine = machine
        self.kind = machine.kind
        self._limit_bytes = free_host_bytes()
        if model is None:
            self.sizes = [write_public_model(label, name, folder, settings) for label, name in SHAPES.items()]
        else:
            self.sizes = [read_model(model)]
        self._tries: dict[ProbeRequest, ProbeTry] = {}
        # A CPU trains the smallest one in seconds, the others in minutes.
        self._here = self.sizes if self.kind == "gpu" else self.sizes[:1]

    @property
    def count(self) -> int:
        """Return the expected number of checks; a ladder may end earlier."""
        ladders = len(self._ladders) * (_MOST_TRIES + 1) if self.kind == "gpu" else len(RUNGS[self._quick]) + 1
        gpu_loads = 1 + len(PACKED["gpu", self._quick])
        timed = len(self._here) * len(self.loads()) + (len(self.sizes) - len(self._here)) * gpu_loads
        return len(StepCheck) + ladders + timed + len(self._sampled)

    @property
    def _ladders(self) -> Sequence[MeasuredModel]:
        """Return the second size and the last: small enough to have a ladder, large enough to matter."""
        return self._here if len(self._here) == 1 else self._here[1 : 2 if self._quick else None : 2]

    def checks(self) -> Iterator[NodeCheck]:
        """Run the checks one after the other."""
        broken = False
        for check in step_checks(tuple(StepCheck), self._folder):
            broken = broken or (check.name == StepCheck.DEVICE and check.verdict is Verdict.FAILED)
            yield check
        if broken:
            reason = Missing(missing="the device check failed")
            yield _not_run(Section.MEMORY, "ladder of micro-batches", reason)
            yield _not_run(Section.SPEED, "training steps", reason)
            return
        yield from self._memory()
        yield from self._speed()

    # ---- memory ------------------------------------------------------------------------------------------------------

    def _memory(self) -> Iterator[NodeCheck]:
        if self.kind == "gpu":
            for size in self._ladders:
                yield from self._largest(size)
            return
        (size,) = self._here
        for rows in RUNGS[self._quick]:
            yield self._rung(size, rows)[0]
        yield _not_run(Section.MEMORY, "largest micro-batch", _NEEDS_GPU)

    def _largest(self, size: MeasuredModel) -> Iterator[NodeCheck]:
        """Search the largest micro-batch that fits on the GPU; one that does not is out of memory for real."""
        fitting = [rows for rows in LADDER_SIZES if self._fits(self._estimate(size, self._ladder_load(rows)))]
        predicted = max(fitting, default=None)
        rungs: list[NodeCheck] = []

        def try_one(rows: int) -> Trial:
            check, fits = self._rung(size, rows)
            rungs.append(check)
            return Trial(size=rows, tokens=rows * LADDER_WIDTH[self.kind], fits=fits, tokens_per_second=None)

        found: Search = search(LADDER_SIZES, predicted, try_one)
        yield from sorted(rungs, key=lambda rung: len(rung.name))
        name = f"{size.label}, largest micro-batch"
        figures = {"largest": _count(found.largest, found.ended.value)}
        estimates = {"largest": _count(predicted, "none is predicted to fit")}
        verdict = Verdict.OK if found.largest is not None else Verdict.FAILED
        yield NodeCheck(
            section=Section.MEMORY,
            name=name,
            verdict=verdict,
            figures=figures,
            estimates=estimates,
            message=found.ended.value,
        )

    def _ladder_load(self, rows: int) -> MeasuredBatch:
        return MeasuredBatch(name="ladder", rows=rows, width=LADDER_WIDTH[self.kind])

    def _rung(self, size: MeasuredModel, rows: int) -> tuple[NodeCheck, bool]:
        """Measure the memory of a micro-batch. Return the check, and whether it fits."""
        load = self._ladder_load(rows)
        name = f"{size.label}, {rows} x {load.width:,}"
        estimate = self._estimate(size, load)
        if not isinstance(estimate, Missing) and self.kind == "cpu" and self._exceeds(estimate):
            needs, free = estimate.process.value * GIB, self._limit_bytes
            reason = Missing(missing=f"needs about {format_bytes(needs)}, {format_bytes(free)} are free")
            return _not_run(Section.MEMORY, name, reason), False
        one = self._try(size, load, steps=_TIMED_STEPS["cpu"] if self.kind == "cpu" else None)
        fits = one.outcome is ProbeOutcome.FITS
        figures, estimates, beyond = _memory_figures(one, estimate, self.kind)
        verdict, message = Verdict.OK, ""
        if beyond:
            verdict, message = Verdict.FAILED, f"more than {BEYOND:g} times the upper end of the estimate"
        elif one.outcome.out_of_memory:
            message = f"{one.outcome.value.replace('_', ' ')}: {one.message}"
            if not isinstance(estimate, Missing) and self._holds(estimate):
                verdict = Verdict.FAILED
        elif not fits:
            verdict, message = Verdict.FAILED, one.message
        return NodeCheck(
            section=Section.MEMORY, name=name, verdict=verdict, figures=figures, estimates=estimates, message=message
        ), fits

    def _estimate(self, size: MeasuredModel, load: MeasuredBatch) -> MemoryEstimate | Missing:
        """Estimate by formulas only: what past runs taught is no proof of them."""
        train = self._train(load)
        setup = get_backend(train.backend).setup(train, size.shape, self._machine, load.width)
        return estimate_memory(setup, load.batch, formula_context(self._machine, {size.label: size.shape}))

    def _fits(self, estimate: MemoryEstimate | Missing) -> bool:
        if isinstance(estimate, Missing) or isinstance(estimate.capacity_gib, Missing):
            return False
        return estimate.process.value <= estimate.capacity_gib.value

    def _holds(self, estimate: MemoryEstimate) -> bool:
        """Return True if even the upper end is within the memory."""
        capacity = estimate.capacity_gib
        return not isinstance(capacity, Missing) and BEYOND * estimate.process.high <= capacity.value

    def _exceeds(self, estimate: MemoryEstimate) -> bool:
        return estimate.process.low * GIB > self._limit_bytes

    # ---- speed -------------------------------------------------------------------------------------------------------

    def loads(self) -> tuple[MeasuredBatch, ...]:
        """Return the micro-batches whose speed is measured."""
        return (SHORT[self.kind], *PACKED[self.kind, self._quick])

    def _speed(self) -> Iterator[NodeCheck]:
        for size in self._here:
            for load in self.loads():
                own = self._timed(size, load)
                yield own
                if load is self.loads()[0] and size in self._sampled:
                    yield self._together(size, load, own)
        for size in self.sizes[len(self._here) :]:
            for load in (SHORT["gpu"], *PACKED["gpu", self._quick]):
                yield _not_run(Section.SPEED, f"{size.label}, {load.name}", _NEEDS_GPU)

    @property
    def _sampled(self) -> Sequence[MeasuredModel]:
        """Return the sizes at which runs side by side are timed: in a quick test every second one."""
        return self._here[1::2] if self._quick and len(self._here) > 1 else self._here

    def _timed(self, size: MeasuredModel, load: MeasuredBatch, side_by_side: int = 1) -> NodeCheck:
        together = f", {side_by_side} side by side" if side_by_side > 1 else ""
        name = f"{size.label}, {load.name}{together}"
        one = self._try(size, load, steps=_TIMED_STEPS[self.kind], side_by_side=side_by_side)
        if one.outcome.out_of_memory:
            return _not_run(Section.SPEED, name, Missing(missing="needs more memory than there is"))
        seconds, rate = one.seconds_per_step, one.tokens_per_second
        if seconds is None or rate is None or one.answer is None or one.answer.work is None:
            return NodeCheck(section=Section.SPEED, name=name, verdict=Verdict.FAILED, message=one.message)
        figures: dict[str, Measured] = {
            "speed": Quantity(value=rate, unit="tokens/s", token_unit="real", aggregation="median"),
            "step": Quantity(value=seconds, unit="s", aggregation="median"),
            "MFU": self._mfu(rate, one.answer.work.base_parameters),
        }
        load_1min = busy_load(one)
        busy = "" if load_1min is None else f"busy: load {load_1min:.1f}"
        return NodeCheck(section=Section.SPEED, name=name, verdict=Verdict.OK, figures=figures, message=busy)

    def _together(self, size: MeasuredModel, load: MeasuredBatch, own: NodeCheck) -> NodeCheck:
        """Time runs side by side, against the step of one of them."""
        check = self._timed(size, load, side_by_side=COHORT)
        alone, beside = (each.figures.get("speed") for each in (own, check))
        if not isinstance(alone, Quantity) or not isinstance(beside, Quantity):
            return check
        gain = Quantity(
            value=beside.value / alone.value, unit="times", method="tokens/s side by side over those of one"
        )
        return replace(check, figures={**check.figures, "gain": gain})

    def _mfu(self, rate: float, parameters: int) -> Measured:
        """Return the used share of the peak throughput."""
        if self.kind == "cpu":
            return Missing(missing="the peak of a CPU is not known")
        gpu = find_gpu(self._machine.name)
        if not isinstance(gpu, Gpu) or gpu.peak_tflops is None:
            return Missing(missing=f"the peak of {self._machine.name} is not known")
        share = rate * LORA_FLOPS * parameters / (gpu.peak_tflops * 1e12)
        return Quantity(value=100 * share, unit="%", method=f"{LORA_FLOPS} FLOPs per parameter and token")

    # ---- tries -------------------------------------------------------------------------------------------------------

    def _train(self, load: MeasuredBatch) -> TrainConfig:
        examples = load.rows * load.examples_per_row
        return TrainConfig(
            learning_rate=LEARNING_RATE,
            global_batch_size=examples,
            micro_batch_size=examples,
            max_seq_len=load.width,
            packed=load.examples_per_row > 1,
            lora=LoraConfig(rank=RANK),
        )

    def _try(
        self,
        size: MeasuredModel,
        load: MeasuredBatch,
        *,
        steps: int | None = None,
        side_by_side: int = 1,
    ) -> ProbeTry:
        """Run steps in a separate process, once for equal requests, and store what they show in the history."""
        request = ProbeRequest(
            model=size.model,
            train=self._train(load),
            seed=1,
            weights="real" if size.real else "random",
            width=load.width,
            label_tokens=load.batch.label_tokens,
            examples_per_row=load.examples_per_row,
            side_by_side=side_by_side,
        )
        if steps is not None:
            request = replace(request, steps=steps, budget_seconds=_BUDGET_SECONDS)
        if (known := self._tries.get(request)) is not None:
            return known
        one, fault = try_batch(
            request,
            load.rows * load.examples_per_row,
            load.batch,
            self._limit_bytes,
            _TIMEOUT_SECONDS[self.kind],
        )
        if fault is not None:
            one = replace(one, message=fault.message)
        record = probe_record(request, one, size.shape, self._machine)
        if isinstance(record, RunRecord):
            store_record(self._settings.history_dir, record)
        self._tries[request] = one
        return one


class _Progress:
    """Row of the self-test, with the time left by the checks so far."""

    def __init__(self, on_progress: ProgressRows | None, node: _Node) -> None:
        self._on_progress = on_progress
        self._done, self._total = 0, node.count
        self._first_seconds = _FIRST_SECONDS[node.kind]
        self._began = time.monotonic()
        self._show("starting")

    def ended(self, check: NodeCheck) -> None:
        """Count a check."""
        self._done += 1
        self._show(check.name)

    def close(self) -> None:
        """Remove the row."""
        if self._on_progress is not None:
            self._on_progress([])

    def _show(self, text: str) -> None:
        if self._on_progress is None:
            return
        total = max(self._total, self._done)
        pace = (time.monotonic() - self._began) / self._done if self._done else self._first_seconds
        left = Quantity(value=pace * (total - self._done), unit="s")
        self._on_progress([JobProgress(name="selftest", done=self._done, total=total, text=text, left=left)])


def _memory_figures(
    one: ProbeTry, estimate: MemoryEstimate | Missing, kind: str
) -> tuple[dict[str, Measured], dict[str, Measured], bool]:
    """Return measured and estimated memory by kind, and whether one is far above its estimate."""
    memory = None if one.answer is None else one.answer.memory
    figures: dict[str, Measured] = {}
    estimates: dict[str, Measured] = {}
    beyond = False
    for name in ("process",) if kind == "cpu" else ("allocated", "reserved"):
        size = None if memory is None else getattr(memory, f"{name}_bytes")
        if size is not None:
            figures[name] = Quantity(value=size / GIB, unit="GiB", phase="step", aggregation="peak")
        if isinstance(estimate, Missing):
            estimates[name] = estimate
            continue
        predicted: Estimate = getattr(estimate, name)
        estimates[name] = predicted.quantity()
        beyond = beyond or (size is not None and size / GIB > BEYOND * predicted.high)
    return figures, estimates, beyond


def _count(number: int | None, reason: str) -> Measured:
    return Missing(missing=reason) if number is None else Quantity(value=number, unit="examples")


def _not_run(section: Section, name: str, reason: Missing) -> NodeCheck:
    return NodeCheck(section=section, name=name, verdict=Verdict.NOT_RUN, reason=reason)
