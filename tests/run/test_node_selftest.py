"""The self-test's own arithmetic on a GPU that is made up: ladder, limits, MFU, and what is left in the history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from touchline.core.estimate import MicroBatch
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import GIB
from touchline.data.user_config import UserConfig
from touchline.estimate.local.past_runs import past_runs
from touchline.history.index import load_index
from touchline.history.probe import (
    ProbeAnswer,
    ProbeFault,
    ProbeMachine,
    ProbeMemory,
    ProbeOutcome,
    ProbeRequest,
    ProbeTry,
    ProbeWork,
)
from touchline.history.selftest import NodeCheck, Section, SelftestReport, StepCheck, Verdict
from touchline.run import selftest as under_test
from touchline.run.progress import JobProgress

pytestmark = pytest.mark.planning

GPU = TargetMachine(
    kind="gpu",
    name="NVIDIA H100 80GB HBM3",
    memory=Quantity(value=79.6, unit="GiB"),
    count=1,
    base_dtype="bfloat16",
    source="this machine",
)
PARAMETERS = 1_235_814_400
Allocated = Callable[[ProbeRequest, MicroBatch], float | ProbeOutcome]


def stand_in(allocated_gib: Allocated) -> Callable[..., tuple[ProbeTry, ProbeFault | None]]:
    """A try that computes nothing: 10,000 tokens per second, and the memory that it is told."""

    def try_batch(
        request: ProbeRequest, size: int, batch: MicroBatch, limit: int, timeout: float
    ) -> tuple[ProbeTry, ProbeFault | None]:
        found = allocated_gib(request, batch)
        fits = not isinstance(found, ProbeOutcome)
        taken = int(found * GIB) if not isinstance(found, ProbeOutcome) else 0
        # Side by side, runs share half of the time.
        seconds = batch.tokens / 10_000 * (1 + request.side_by_side) / 2
        answer = ProbeAnswer(
            outcome=ProbeOutcome.FITS if fits else ProbeOutcome.GPU_OOM,
            machine=ProbeMachine(
                device="cuda",
                name=GPU.name,
                memory_bytes=80 * GIB,
                threads=8,
                base_dtype="bfloat16",
                versions={},
                load_1min=None,
            ),
            work=ProbeWork(
                attention="sdpa",
                layout="padded",
                optimizer="AdamW",
                base_parameters=PARAMETERS,
                trainable_parameters=1,
                tokens_per_step=batch.tokens * request.side_by_side,
                examples_per_step=size * request.side_by_side,
            ),
            memory=ProbeMemory(
                loaded_bytes=3 * GIB,
                loading_bytes=None,
                allocated_bytes=taken,
                reserved_bytes=taken,
                process_bytes=taken,
                method="made up",
            )
            if fits
            else None,
            step_seconds=(9.0, seconds, seconds),
            setup_seconds=1.0,
            message="" if fits else "CUDA out of memory",
        )
        one = ProbeTry(
            micro_batch_size=size,
            batch=batch,
            outcome=answer.outcome,
            wall_seconds=1.0,
            seen_bytes=1,
            limit_bytes=limit,
            answer=answer,
            message=answer.message,
        )
        return one, None

    return try_batch


def steps(verdict: Verdict) -> Callable[..., Iterator[NodeCheck]]:
    """The trainer's checks, all with one verdict."""

    def step_checks(names: Sequence[StepCheck], folder: Path) -> Iterator[NodeCheck]:
        yield from (NodeCheck(section=Section.CORRECTNESS, name=name.value, verdict=verdict) for name in names)

    return step_checks


@pytest.fixture
def settings(tmp_path: Path) -> UserConfig:
    return UserConfig(models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, settings: UserConfig) -> Callable[..., SelftestReport]:
    def run(
        allocated: Allocated, verdict: Verdict = Verdict.OK, rows: list[JobProgress] | None = None
    ) -> SelftestReport:
        monkeypatch.setattr(under_test, "machine_here", lambda gpus: GPU)
        monkeypatch.setattr(under_test, "require_packages", lambda: None)
        monkeypatch.setattr(under_test, "step_checks", steps(verdict))
        monkeypatch.setattr(under_test, "try_batch", stand_in(allocated))
        shown = [] if rows is None else rows
        return under_test.selftest(settings, quick=True, on_progress=shown.extend)

    return run


def as_estimated(request: ProbeRequest, batch: MicroBatch) -> float | ProbeOutcome:
    """Some 1.5 GiB a row of the ladder, and no room for more than 32."""
    return ProbeOutcome.GPU_OOM if batch.width == 2048 and batch.rows > 32 else 3 + 1.5 * batch.tokens / 2048


def named(report: SelftestReport, name: str) -> NodeCheck:
    return next(check for check in report.checks if check.name == name)


def test_a_gpu_gets_a_ladder_up_to_what_does_not_fit(on_gpu: Callable[..., SelftestReport]) -> None:
    report = on_gpu(as_estimated)
    rungs = [check for check in report.checks if check.section is Section.MEMORY]
    assert len(rungs) <= 7
    largest = named(report, "1B, largest micro-batch")
    assert largest.figures["largest"] == Quantity(value=32, unit="examples")
    predicted = largest.estimates["largest"]
    assert isinstance(predicted, Quantity)
    assert 8 <= predicted.value <= 64
    unfit = named(report, "1B, 64 x 2,048")
    assert unfit.message == "gpu oom: CUDA out of memory"
    measured, estimated = (each["allocated"] for each in (rungs[0].figures, rungs[0].estimates))
    assert isinstance(measured, Quantity)
    assert isinstance(estimated, Quantity)
    assert {check.name.partition(",")[0] for check in report.checks if check.section is Section.SPEED} >= {
        "135M", "1B", "3B", "8B",
    }  # fmt: skip


def test_mfu_is_four_flops_per_parameter_and_token_over_the_peak(on_gpu: Callable[..., SelftestReport]) -> None:
    check = named(on_gpu(as_estimated), "8B, packed 2,048")
    share = check.figures["MFU"]
    assert isinstance(share, Quantity)
    assert share.value == pytest.approx(100 * 10_000 * 4 * PARAMETERS / 989e12, rel=0.01)


def test_memory_far_above_the_estimate_fails_and_so_does_one_that_must_fit(
    on_gpu: Callable[..., SelftestReport],
) -> None:
    far = on_gpu(lambda request, batch: 70.0)
    assert any(check.verdict is Verdict.FAILED and "1.25 times" in check.message for check in far.checks)
    none = on_gpu(lambda request, batch: ProbeOutcome.GPU_OOM)
    assert named(none, "1B, 1 x 2,048").verdict is Verdict.FAILED
    assert named(none, "1B, largest micro-batch").verdict is Verdict.FAILED
    assert named(none, "8B, short").reason == Missing(missing="needs more memory than there is")


def test_every_try_is_evidence_for_plans_on_that_gpu(
    on_gpu: Callable[..., SelftestReport], settings: UserConfig
) -> None:
    on_gpu(as_estimated)
    past = past_runs(settings, {"peft", "trl"}, {"Llama-3.2-1B"})
    assert {point.machine for point in past.time} == {GPU.name}
    assert {point.setup.shape.name for point in past.time} >= {"Llama-3.2-1B", "Llama-3.1-8B", "SmolLM2-135M"}
    assert len(past.memory) >= len(past.time)


def test_runs_side_by_side_are_timed_and_no_evidence_for_single_ones(
    on_gpu: Callable[..., SelftestReport], settings: UserConfig
) -> None:
    gain = named(on_gpu(as_estimated), "1B, short, 4 side by side").figures["gain"]
    assert isinstance(gain, Quantity)
    assert gain.value == pytest.approx(4 / 2.5)
    together = {row.name for row in load_index(settings.history_dir).rows() if row.name.endswith("4 side by side")}
    assert together
    used = {point.name for point in past_runs(settings, {"peft", "trl"}, {"Llama-3.2-1B"}).time}
    assert used
    assert not used & together


def test_the_time_left_falls_to_nothing(on_gpu: Callable[..., SelftestReport]) -> None:
    rows: list[JobProgress] = []
    report = on_gpu(as_estimated, rows=rows)
    first, last = rows[0].left, rows[-1].left
    assert isinstance(first, Quantity)
    assert isinstance(last, Quantity)
    assert 60 < first.value < 600
    assert last.value < 0.4 * first.value
    assert (rows[0].done, rows[-1].done) == (0, len(report.checks))


def test_on_a_broken_device_nothing_is_measured(on_gpu: Callable[..., SelftestReport], settings: UserConfig) -> None:
    report = on_gpu(as_estimated, verdict=Verdict.FAILED)
    assert report.failed == len(StepCheck)
    reasons = {check.reason for check in report.checks if check.section is not Section.CORRECTNESS}
    assert reasons == {Missing(missing="the device check failed")}
    assert past_runs(settings, {"peft"}, ()).time == ()
