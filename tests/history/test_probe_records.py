"""What a probe measured is evidence like any run's: with kinds, units and phases, and current beside other probes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from touchline.core.estimate import MicroBatch
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import GIB
from touchline.experiment.experiment import LoraConfig, TrainConfig
from touchline.history.history import read_record, store_record
from touchline.history.index import load_index
from touchline.history.probe import (
    ProbeAnswer,
    ProbedModel,
    ProbeMachine,
    ProbeMemory,
    ProbeOutcome,
    ProbeRequest,
    ProbeTry,
    ProbeWork,
)
from touchline.history.probes import probe_record
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.history.records import sealed

pytestmark = pytest.mark.planning

CPU = TargetMachine(
    kind="cpu",
    name="a processor",
    memory=Quantity(value=16, unit="GiB"),
    count=1,
    threads=2,
    base_dtype="float32",
    source="this machine",
)
REQUEST = ProbeRequest(
    model=ProbedModel(name="Some-1B", path="/home/somebody/models/Some-1B"),
    train=TrainConfig(
        learning_rate=2e-4, lora=LoraConfig(rank=8, target_modules=("v_proj", "q_proj")), max_seq_len=128
    ),
    seed=1,
    width=64,
    label_tokens=1,
    examples_per_row=2,
    micro_batches_per_step=2,
)


def answer(rows: int, *, cuda: bool = False) -> ProbeAnswer:
    memory = ProbeMemory(
        loaded_bytes=GIB,
        loading_bytes=2 * GIB,
        allocated_bytes=3 * GIB if cuda else None,
        reserved_bytes=4 * GIB if cuda else None,
        process_bytes=5 * GIB,
        method="as made up",
    )
    return ProbeAnswer(
        outcome=ProbeOutcome.FITS,
        machine=ProbeMachine(
            device="cuda" if cuda else "cpu",
            name="a GPU" if cuda else "a processor",
            memory_bytes=16 * GIB,
            threads=2,
            base_dtype="bfloat16",
            versions={"torch": "2.13.0", "peft": "0.21.2"},
            load_1min=0.5,
        ),
        work=ProbeWork(
            attention="eager",
            layout="packed",
            optimizer="AdamW, fused",
            base_parameters=1000,
            trainable_parameters=10,
            tokens_per_step=2 * rows * 64,
            examples_per_step=4 * rows,
        ),
        memory=memory,
        step_seconds=(9.0, 2.0, 4.0),
        setup_seconds=7.0,
        message="",
    )


def attempt(rows: int, outcome: ProbeOutcome = ProbeOutcome.FITS, *, cuda: bool = False) -> ProbeTry:
    return ProbeTry(
        micro_batch_size=2 * rows,
        batch=MicroBatch(rows=rows, width=64, label_tokens=10 * rows),
        outcome=outcome,
        wall_seconds=30.0,
        seen_bytes=GIB,
        limit_bytes=6 * GIB,
        answer=answer(rows, cuda=cuda) if outcome is ProbeOutcome.FITS else None,
        message="" if outcome is ProbeOutcome.FITS else "it took too much",
    )


def record(one: ProbeTry, machine: TargetMachine = CPU) -> RunRecord:
    found = probe_record(REQUEST, one, None, machine)
    assert isinstance(found, RunRecord)
    return found


def value(measured: object) -> float:
    return measured.value


def test_a_try_that_fits_tells_time_memory_and_batch() -> None:
    found = record(attempt(4))
    assert (value(found.costs.seconds_per_step), found.course.outcome.value) == (3.0, "completed")
    assert isinstance(found.costs.tokens_per_second, tuple)
    rates = {rate.token_unit: rate.value for rate in found.costs.tokens_per_second}
    assert rates == {"padded": 2 * 4 * 64 / 3.0, "label": 2 * 4 * 10 / 3.0}
    assert isinstance(found.costs.peak_memory, tuple)
    assert [(peak.kind, peak.phase, peak.value, peak.unit) for peak in found.costs.peak_memory] == [
        ("process", "step", 5.0, "GiB")
    ]
    after = found.costs.memory_after_init
    assert (after.value, after.phase, after.kind) == (1.0, "after_init", "process")
    batching = found.batching
    sizes = (batching.micro_batch_size, batching.gradient_accumulation_steps, batching.global_batch_size)
    assert [value(size) for size in sizes] == [8, 2, 16]
    assert (value(found.packing.sequences), value(batching.longest_tokens), value(batching.max_seq_len)) == (4, 32, 128)
    assert (value(found.training.rank), value(found.training.alpha)) == (8, 16)
    assert isinstance(found.training.target_modules, SourcedText)
    assert found.training.target_modules.value == "q_proj,v_proj"
    assert found.stack.versions == ("peft=0.21.2", "torch=2.13.0")
    assert found.machine.key == CPU.key, "a processor is named with its threads, as a plan names it"
    assert isinstance(found.machine.gpu, Missing)


def test_of_a_gpu_all_three_kinds_of_memory_are_kept_apart() -> None:
    machine = replace(CPU, kind="gpu", name="as planned", threads=None)
    found = record(attempt(4, cuda=True), machine)
    assert isinstance(found.costs.peak_memory, tuple)
    assert {peak.kind: peak.value for peak in found.costs.peak_memory} == {
        "allocated": 3.0,
        "reserved": 4.0,
        "process": 5.0,
    }
    assert isinstance(found.machine.gpu, SourcedText)
    assert found.machine.gpu.value == "a GPU"


def records_of(*tries: ProbeTry) -> list[RunRecord]:
    """Return the records of tries that prove something."""
    found = [probe_record(REQUEST, one, None, CPU) for one in tries]
    return [record for record in found if isinstance(record, RunRecord)]


@pytest.mark.parametrize("outcome", [ProbeOutcome.HOST_OOM, ProbeOutcome.GPU_OOM])
def test_what_does_not_fit_is_evidence_too(outcome: ProbeOutcome) -> None:
    """No peak is made up."""
    (second,) = records_of(attempt(8, outcome))
    assert second.course.outcome.value == outcome.value
    assert second.course.proofs[0].text == "it took too much"
    assert isinstance(second.costs.peak_memory, Missing)
    assert isinstance(second.costs.seconds_per_step, Missing)
    assert second.machine.key == CPU.key


@pytest.mark.parametrize("outcome", [ProbeOutcome.TIMEOUT, ProbeOutcome.CRASHED])
def test_what_proves_nothing_gives_no_record(outcome: ProbeOutcome) -> None:
    assert records_of(attempt(4, outcome)) == []
    assert isinstance(probe_record(REQUEST, attempt(4, outcome), None, CPU), Missing)


def test_the_history_keeps_every_try_and_takes_none_for_a_newer_reading_of_another(tmp_path: Path) -> None:
    records = records_of(attempt(2), attempt(4), attempt(8, ProbeOutcome.HOST_OOM))
    paths = [store_record(tmp_path, each) for each in records]
    assert [read_record(path) for path in paths] == [sealed(each) for each in records]
    assert sorted(row.name for row in load_index(tmp_path).rows()) == [f"probe Some-1B {rows}x64" for rows in (2, 4, 8)]
    assert not any(b"somebody" in path.read_bytes() for path in paths)


def test_a_probe_of_the_same_settings_can_be_compared_with_another() -> None:
    prints = {sealed(record(attempt(rows))).fingerprint for rows in (2, 2, 4)}
    assert len(prints) == 2
    assert sealed(record(attempt(2))).fingerprint_unknown == ("quantization",)
