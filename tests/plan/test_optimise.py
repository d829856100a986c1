"""Ways to train faster: the fastest whose upper memory estimate fits is taken, and the science is never touched."""

from dataclasses import replace

import pytest
from tests.run.made_plans import GPU, made_plan, made_run

from touchline.core.estimate import Estimate, EvidenceLevel, MemoryEstimate, MemoryVerdict
from touchline.core.quantity import Missing, Quantity
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.requests import Cluster
from touchline.experiment.training import CheckpointConfig, CheckpointInterval, TrainConfig
from touchline.experiment.value_types import SlurmSite
from touchline.plan.optimize import (
    CHECKPOINTING,
    CPUS,
    EVERY,
    MEMORY,
    MICRO_BATCH,
    PACKED,
    PlanVariant,
    choose_variant,
    list_variants,
    proposals,
    saving_proposals,
    share_proposals,
)

pytestmark = pytest.mark.planning


def _memory(gib: float, verdict: MemoryVerdict) -> MemoryEstimate:
    found = Estimate(value=gib, unit="GiB", low=gib, high=gib, method="closed form", rung=EvidenceLevel.NOTHING)
    return MemoryEstimate(
        allocated=found,
        reserved=found,
        process=found,
        breakdown={},
        capacity_gib=Quantity(value=80, unit="GiB"),
        verdict=verdict,
        assumption="",
    )


def _run(
    name: str = "a",
    seconds: float = 100,
    *,
    gib: float = 10,
    verdict: MemoryVerdict = MemoryVerdict.FITS,
    digest: str = "1",
) -> PlannedRun:
    run = made_run(name)
    assert run.train is not None
    return replace(
        run,
        train=replace(run.train, gradient_checkpointing=True, micro_batch_size=1),
        train_seconds=Quantity(value=seconds, unit="s", low=seconds, high=seconds),
        memory=_memory(gib, verdict),
        digest=digest,
    )


def _way(*runs: PlannedRun, **changes: object) -> PlanVariant:
    names = {"checkpointing": CHECKPOINTING, "micro": MICRO_BATCH, "packed": PACKED}
    return PlanVariant(changes={names[key]: value for key, value in changes.items()}, plan=made_plan(*runs))


def test_ways_never_touch_what_is_varied_or_what_is_learned() -> None:
    train = TrainConfig(micro_batch_size=1, packed=False, gradient_checkpointing=True)
    every = list_variants(train, ())
    assert len(every) == 7
    assert {key for way in every for key in way} == {CHECKPOINTING, MICRO_BATCH, PACKED}
    assert every[-1] == {CHECKPOINTING: False, MICRO_BATCH: "auto", PACKED: "auto"}
    assert {key for way in list_variants(train, {MICRO_BATCH}) for key in way} == {CHECKPOINTING, PACKED}
    assert list_variants(TrainConfig(), ()) == [{CHECKPOINTING: True}]


def test_the_fastest_way_that_surely_fits_is_taken() -> None:
    before = made_plan(_run(seconds=100))
    tried = [
        _way(_run(seconds=20, digest="2", verdict=MemoryVerdict.UNCERTAIN, gib=90), micro="auto", checkpointing=False),
        _way(_run(seconds=50, digest="3"), micro="auto"),
        _way(_run(seconds=80, digest="4"), checkpointing=False),
    ]
    way, notes = choose_variant(before, tried, ())
    assert way is tried[1]
    assert any("may not fit: UNCERTAIN" in note for note in notes)


def test_of_ways_that_are_as_good_the_one_with_fewer_changes_is_taken() -> None:
    before = made_plan(_run(seconds=100))
    tried = [
        _way(_run(seconds=49.8, digest="2"), micro="auto", packed="auto"),
        _way(_run(seconds=50, digest="3"), micro="auto"),
    ]
    assert choose_variant(before, tried, ())[0] is tried[1]


def test_what_gains_less_than_a_prediction_is_worth_is_left() -> None:
    way, notes = choose_variant(made_plan(_run(seconds=100)), [_way(_run(seconds=97, digest="2"), micro="auto")], ())
    assert way is None
    assert "95%" in notes[-1]


def test_a_way_that_fits_goes_before_one_that_may_not() -> None:
    """An experiment that is planned to fail for memory is slowed down if that makes it fit."""
    before = made_plan(_run(seconds=50, verdict=MemoryVerdict.OOM, gib=100))
    way, _ = choose_variant(before, [_way(_run(seconds=70, digest="2", gib=30), checkpointing=True)], ())
    assert way is not None


def test_without_an_estimate_nothing_is_proposed_and_the_reason_is_told() -> None:
    unknown = replace(_run(), train_seconds=Missing(missing="no GPU like it is known"))
    way, notes = choose_variant(made_plan(unknown), [_way(_run(seconds=1, digest="2"), micro="auto")], ())
    assert way is None
    assert notes == ["no faster settings can be predicted: a (no GPU like it is known)"]
    blind = replace(_run(seconds=1, digest="2"), memory=Missing(missing="no coefficients"))
    way, notes = choose_variant(made_plan(_run()), [_way(blind, micro="auto")], ())
    assert way is None
    assert "its memory is unknown" in notes[0]


def test_each_proposal_says_what_it_does_to_results() -> None:
    both = _way(_run(seconds=20, digest="2"), checkpointing=False, micro="auto")
    first, second = proposals(made_plan(_run(seconds=100)), both)
    assert (first.key, first.before, first.after) == (CHECKPOINTING, "true", "false")
    assert (second.key, second.before, second.after) == (MICRO_BATCH, "1", "auto")
    assert first.effect.startswith("none")
    assert "rounding" in second.effect


# ---- cadence and shares ----------------------------------------------------------------------------------------------


def _saving(seconds_each: float, checkpoint: CheckpointConfig) -> Plan:
    run = _run(seconds=7200)
    assert run.train is not None
    train = replace(run.train, checkpoint=checkpoint)
    spent = Quantity(value=seconds_each * train.epochs, unit="s")
    return made_plan(replace(run, train=train, time_parts={"saving": spent}))


def test_exports_that_come_too_often_go_back_to_the_epochs_ends() -> None:
    often = CheckpointConfig(every=CheckpointInterval(steps=1), resume_minutes=60)
    [found], _ = saving_proposals(_saving(33, often), ())
    assert (found.key, found.before, found.after) == (EVERY, "{steps: 1}", "epoch")
    assert saving_proposals(_saving(33, often), {EVERY})[0] == []


def test_where_no_save_was_measured_nothing_is_proposed() -> None:
    found, notes = saving_proposals(made_plan(_run()), ())
    assert found == []
    assert "no estimate" in notes[0]


def test_cpus_and_memory_are_shared_by_the_runs_of_a_node() -> None:
    """Seed 004 asked for 16 workers in each of four processes on 32 CPUs."""
    plan = made_plan(*(_run(f"exp{n}") for n in range(5)), compute=ComputeConfig(cpus_per_run=16), machine=GPU)
    found = list(share_proposals(plan, Cluster(gpus=4, cpus=32, memory_gb=240), SlurmSite()))
    assert [(each.key, each.before, each.after) for each in found] == [(CPUS, "16", "8"), (MEMORY, "not set", "60")]
    plan = made_plan(_run(), compute=ComputeConfig(cpus_per_run=8, memory_gb_per_run=60), machine=GPU)
    assert list(share_proposals(plan, Cluster(gpus=4, cpus=32, memory_gb=240), SlurmSite())) == []
    assert list(share_proposals(plan, Cluster(gpus=4), SlurmSite())) == []
