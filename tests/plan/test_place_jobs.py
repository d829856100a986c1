"""Jobs to place: those of a plan, and those of JOBS.json with every fault at once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from tests.cases import refusal
from tests.run.made_plans import CPU, GPU, made_control, made_memory, made_plan, made_run
from typer.testing import CliRunner

from touchline.core.quantity import Missing, Quantity
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.requests import Cluster
from touchline.experiment.value_types import SlurmSite
from touchline.plan.jobs import place_jobs, upper_minutes
from touchline.plan.local.job_list import read_jobs
from touchline.plan.placement.placing import place
from touchline.plan.placement.problem import Minutes, PlaceJob

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
    caught = refusal(place_jobs, plan, SlurmSite())
    assert "a and 1 more (no evidence)" in caught.message
    assert "evaluate a and 1 more (nothing measured)" in caught.message


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


# ---- JOBS.json -------------------------------------------------------------------------------------------------------


GOOD = [
    {"id": "a", "minutes": {"value": 60, "low": 50, "high": 80}},
    {"id": "b", "after": ["a"], "gpus": 2, "cpus": 4, "memory_gb": 16, "minutes": 30},
]


def written(folder: Path, content: object) -> Path:
    path = folder / "jobs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def faults(folder: Path, content: object, cluster: Cluster | None = None) -> list[tuple[str, str, str | None]]:
    path, machines = written(folder, content), cluster or Cluster(gpus=4)
    caught = refusal(lambda: place(read_jobs(path), machines, deadline_minutes=None))
    assert "Traceback" not in str(caught)
    return [(finding.code, finding.message, finding.hint) for finding in caught.findings]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_list_and_an_object_with_jobs_are_one(tmp_path: Path, wrapped: bool) -> None:
    jobs = read_jobs(written(tmp_path, {"jobs": GOOD} if wrapped else GOOD))
    assert jobs == [
        PlaceJob(id="a", minutes=Minutes(value=60, low=50, high=80)),
        PlaceJob(id="b", after=("a",), gpus=2, cpus=4, memory_gb=16, minutes=Minutes(value=30)),
    ]


def test_all_faults_of_a_file_come_at_once(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        [
            {"id": "a", "gpu": 1, "minutes": {"value": 60, "hihg": 70}},
            {"id": "", "gpus": 1.5, "after": "a", "minutes": {"value": -1}},
            {"gpus": "2", "memory_gb": True},
            7,
        ],
    )
    assert {code for code, _, _ in found} == {"PL103"}
    assert ("PL103", "job 'a': unknown key 'gpu'", "did you mean 'gpus'?") in found
    assert ("PL103", "job 'a': unknown key 'hihg'", "did you mean 'high'?") in found
    said = " / ".join(message for _, message, _ in found)
    for words in (
        "job number 2: id: expected text that is not empty",
        "gpus: expected a whole number, got 1.5",
        'after: expected a list, ["a", "b"], got "a"',
        "minutes.value: expected 0",
        "job number 3: id is missing",
        "minutes is missing",
        'gpus: expected a whole number, got "2"',
        "memory_gb: expected a number, got true",
        "job number 4: a job: expected an object, got 7",
    ):
        assert words in said, words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("[{]", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('[{"id": "a", "minutes": NaN}]', "NaN is not a number"),
        ('{"job": []}', 'holds {"job": []}'),
        ('[{"id": "\\ud800", "minutes": 5}]', "Half of a surrogate pair"),
        ('"jobs"', 'holds "jobs"'),
        (json.dumps([GOOD[0]] * 5001), "lists 5,001 jobs"),
    ],
    ids=["empty", "broken", "deep", "nan", "key", "half", "text", "many"],
)
def test_a_file_that_is_no_list_of_jobs(tmp_path: Path, text: str, words: str) -> None:
    [(code, message, _)] = faults(tmp_path, text)
    assert code == "PL100"
    assert words in message


def test_all_faults_of_the_jobs_come_at_once(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        [
            {"id": "train_a", "minutes": 5},
            {"id": "train_a", "minutes": 5},
            {"id": "b", "after": ["trian_a"], "minutes": 5},
            {"id": "c", "after": ["d"], "minutes": 5},
            {"id": "d", "after": ["e"], "minutes": 5},
            {"id": "e", "after": ["c"], "minutes": 5},
            {"id": "wide", "gpus": 5, "cpus": 40, "memory_gb": 300, "minutes": 5},
            {"id": "low", "minutes": {"value": 5, "low": 6}},
            {"id": "high", "minutes": {"value": 5, "high": 4}},
            {"id": "pin", "pin": 9, "minutes": 5},
            {"id": "none", "pin": 0, "gpus": 0, "minutes": 5},
        ],
        Cluster(gpus=8, gpus_per_node=4, cpus=32, memory_gb=240),
    )
    assert sorted(code for code, _, _ in found) == 2 * ["PL103"] + 3 * ["PL105"] + 5 * ["PL107"]
    assert [hint for _, message, hint in found if "trian_a" in message] == ["did you mean 'train_a'?"]
    messages = [message for _, message, _ in found]
    assert "3 jobs depend on each other and can never start: 'c' after 'd' after 'e' after 'c'" in messages
    assert any("a node has 240 GiB of memory" in message for message in messages)


@pytest.mark.parametrize(
    "text", ['"gpus": 1' + 400 * "0", '"pin": 1' + 400 * "0", '"minutes": 1e400', '"memory_gb": 1e300']
)
def test_numbers_beyond_measure_are_faults(tmp_path: Path, text: str) -> None:
    minutes = "" if "minutes" in text else ', "minutes": 5'
    found = faults(tmp_path, f'[{{"id": "a", {text}{minutes}}}]')
    assert {code for code, _, _ in found} <= {"PL103", "PL107"}
    assert all("a number that is too large" in message for _, message, _ in found)


@pytest.mark.parametrize(
    ("job", "cluster", "deadline", "code"),
    [
        (PlaceJob(id="a", minutes=Minutes(value=float("nan"))), Cluster(gpus=1), None, "PL103"),
        (PlaceJob(id="a", minutes=Minutes(value=-1.0)), Cluster(gpus=1), None, "PL103"),
        (PlaceJob(id="a", minutes=Minutes(value=1), after=("a",)), Cluster(gpus=1), None, "PL105"),
        (None, Cluster(gpus=1), None, "PL100"),
        (PlaceJob(id="a", minutes=Minutes(value=1)), Cluster(gpus=0), None, "PL111"),
        (PlaceJob(id="a", minutes=Minutes(value=1)), Cluster(gpus=1, gpus_per_node=0), None, "PL111"),
        (PlaceJob(id="a", minutes=Minutes(value=1)), Cluster(gpus=1), -5.0, "PL111"),
    ],
)
def test_what_is_no_placement_is_refused_from_python_too(
    job: PlaceJob | None, cluster: Cluster, deadline: float | None, code: str
) -> None:
    caught = refusal(place, [] if job is None else [job], cluster, deadline_minutes=deadline)
    assert {finding.code for finding in caught.findings} == {code}


def test_the_command_answers_in_json_and_in_words(tmp_path: Path) -> None:
    from touchline.cli.cluster import place as command

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(written(tmp_path, GOOD)), "--gpus", "4", "--deadline", "2h", "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["verdict"], answer["makespan_minutes"], answer["lower_bound_minutes"]) == ("fits", 90, 90)
    assert [slot["id"] for slot in answer["schedule"]] == ["a", "b"]
    path = written(tmp_path, [*GOOD, {"id": "\x1b[31mred", "minutes": 5}])
    result = CliRunner().invoke(app, [str(path), "--gpus", "4", "--deadline", "1h"])
    assert result.exit_code == 0, result.output
    assert "impossible: no schedule ends within 1:00:00 as predicted: the longest chain: a, b" in result.stdout
    assert "\x1b" not in result.stdout
