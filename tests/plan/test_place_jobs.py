"""A plan's runs as jobs: what each holds and waits for, and a word where nobody knows how long one takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.run.made_plans import CPU, GPU, made_control, made_memory, made_plan, made_run

from touchline.core.errors import InputError
from touchline.core.quantity import Missing, Quantity
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.site import SlurmSite
from touchline.plan.jobs import place_jobs, upper_minutes
from touchline.plan.placement.types import Minutes

pytestmark = pytest.mark.planning
UNKNOWN = Missing(missing="no evidence")


def test_every_training_and_every_evaluation_is_a_job() -> None:
    jobs = place_jobs(made_plan(machine=GPU), SlurmSite())
    after = {job.id: job.after for job in jobs}
    assert after == {
        "1M_rank4": (),
        "evaluate 1M_rank4": ("1M_rank4",),
        "1M_rank64": (),
        "evaluate 1M_rank64": ("1M_rank64",),
        "1M_rank4_hard": ("1M_rank4",),
        "evaluate 1M_rank4_hard": ("1M_rank4_hard",),
        "evaluate 1M_base": (),
    }
    minutes = jobs[0].minutes
    assert (minutes.value, minutes.low, minutes.high) == (60, 50, pytest.approx(76.667, abs=1e-3))
    assert upper_minutes(jobs[0]) == minutes.high
    assert all(job.gpus == 1 for job in jobs)


def test_what_is_done_is_no_job_and_nobody_waits_for_it() -> None:
    jobs = place_jobs(made_plan(), SlurmSite(), trainings={"1M_rank4_hard"}, evaluations={"1M_rank4_hard", "1M_base"})
    assert {job.id: job.after for job in jobs} == {
        "1M_rank4_hard": (),
        "evaluate 1M_rank4_hard": ("1M_rank4_hard",),
        "evaluate 1M_base": (),
    }


def test_jobs_hold_what_their_scripts_ask_for() -> None:
    compute = ComputeConfig(gpus_per_run=2, cpus_per_run=8)
    training, evaluation = place_jobs(
        made_plan(made_run(), compute=compute, machine=GPU), SlurmSite(cpus_per_run=4, memory_gb=64)
    )
    assert (training.gpus, training.cpus, training.memory_gb) == (2, 8, 64)
    assert (evaluation.gpus, evaluation.cpus, evaluation.memory_gb) == (1, 8, 64)


def test_on_a_processor_the_predicted_memory_and_its_threads_are_held() -> None:
    compute = ComputeConfig(gpus_per_run=0)
    run = replace(made_run(), evaluate_memory=made_memory(1.75))
    training, evaluation = place_jobs(made_plan(run, compute=compute, machine=CPU), SlurmSite())
    assert (training.gpus, training.cpus, training.memory_gb) == (0, 2, 2.43)
    assert evaluation.memory_gb == 1.75


def test_what_nobody_can_predict_is_told_once_with_its_reason() -> None:
    first = replace(made_run("a"), train_seconds=UNKNOWN, evaluate_seconds=Missing(missing="nothing measured"))
    plan = made_plan(first, replace(first, name="b"), made_control())
    with pytest.raises(InputError) as caught:
        place_jobs(plan, SlurmSite())
    assert "a and 1 more (no evidence)" in caught.value.message
    assert "evaluate a and 1 more (nothing measured)" in caught.value.message


def test_the_users_word_stands_in_for_evaluations_and_limits_for_trainings() -> None:
    first = replace(made_run("a"), train_seconds=UNKNOWN, evaluate_seconds=UNKNOWN)
    plan = made_plan(first, compute=ComputeConfig(time_limit="3h"))
    training, evaluation = place_jobs(plan, SlurmSite(), evaluation_minutes=17)
    assert (training.minutes.value, training.minutes.high) == (180, None)
    assert evaluation.minutes.value == 17


def test_a_job_of_an_evaluation_includes_the_start_of_its_process() -> None:
    spent = Quantity(value=60.0, unit="s", low=30.0, high=120.0)
    run = replace(made_run("a"), evaluate_seconds=spent, evaluate_startup_seconds=replace(spent, value=30.0))
    _, evaluation = place_jobs(made_plan(run), SlurmSite())
    assert (evaluation.minutes.value, evaluation.minutes.high) == (1.5, 4.0)
    # A plan of an earlier version has none.
    _, evaluation = place_jobs(made_plan(replace(run, evaluate_startup_seconds=UNKNOWN)), SlurmSite())
    assert evaluation.minutes.value == 1.0
    _, evaluation = place_jobs(made_plan(run), SlurmSite(), evaluation_minutes=7)
    assert evaluation.minutes == Minutes(value=7)
