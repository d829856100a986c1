"""Further tasks from experiment.yaml to the results: shown with their hash, never run before the evaluation."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.api.folders import EXPERIMENT, environment, make_experiment
from tests.cases import refusal, some

from touchline import api
from touchline.core.errors import PlanDriftError
from touchline.core.quantity import Missing
from touchline.data.evaluations import read_evaluation_config
from touchline.data.user_config import UserConfig
from touchline.experiment.evaluation import EvaluationTask
from touchline.experiment.plan import Plan
from touchline.lint.local.inputs import errors_of
from touchline.plan import times
from touchline.plan.identity import plan_from_json
from touchline.results.collect import collect_results
from touchline.run.plan_checks import refuse_findings

TASK = """from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes

Path(__file__).with_name("ran").write_text("")


@task
def words():
    return Task(dataset=[Sample(input="Say a", target="a"), Sample(input="Say b", target="b")], scorer=includes())
"""
EVALUATE = "evaluate: {batch_size: 8, max_new_tokens: 12}"
WITH_TASKS = "evaluate: {batch_size: 8, max_new_tokens: 12, tasks: [tasks/mine.py, exact_match]}"
TEXT = EXPERIMENT.format(ranks="[2, 4]")


def make(folder: Path, evaluate: str = WITH_TASKS) -> Path:
    make_experiment(folder, n_train=40, n_test=12)
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.py").write_text(TASK)
    (folder / "experiment.yaml").write_text(TEXT.replace(EVALUATE, evaluate))
    return folder


def plan_of(folder: Path) -> Plan:
    return plan_from_json((folder / "plan.json").read_text(), "plan.json")


@pytest.mark.planning
def test_a_plan_shows_the_code_with_its_hash_and_runs_none_of_it(tmp_path: Path, settings: UserConfig) -> None:
    """In plan.json, in runs_plan.md and in every eval.yaml; a training's digest does not depend on it."""
    plain = api.plan(make(tmp_path / "plain", EVALUATE), settings).plan
    folder = make(tmp_path / "tasks")
    plan = api.plan(folder, settings).plan
    own, ready = plan.tasks
    assert (own.name, own.file, own.lines) == ("tasks/mine.py", "tasks/mine.py", 12)
    assert ready == EvaluationTask(name="exact_match")
    assert plan_of(folder).tasks == plan.tasks
    text = (folder / "runs_plan.md").read_text()
    assert own.sha256 is not None
    assert own.sha256[:12] in text
    assert "your own code" in text
    assert "your own code" not in (tmp_path / "plain" / "runs_plan.md").read_text()
    assert [run.digest for run in plan.runs] == [run.digest for run in plain.runs]
    api.prepare(folder, settings)
    for run in some(plan.runs):
        file, other = read_evaluation_config(folder / run.name / "eval.yaml").tasks
        assert (replace(file, file=own.file), other) == plan.tasks
        assert file.file == str(folder / "tasks" / "mine.py")
    script = (folder / "1M_base" / "eval.py").read_text()
    compile(script, "eval.py", "exec")
    assert "run_task(Path(__file__).parent, 'tasks/mine.py')" in script
    assert not (folder / "tasks" / "ran").exists()


@pytest.mark.planning
def test_a_column_of_clusters_is_looked_for_before_anything_is_trained(tmp_path: Path, settings: UserConfig) -> None:
    """With the columns that there are; one that is there changes no training and no score."""
    plain = api.plan(make(tmp_path / "plain", EVALUATE), settings).plan
    folder = make(tmp_path / "x", EVALUATE.replace("12}", "12, cluster: inptu}"))
    (finding,) = errors_of(refusal(api.plan, folder, settings).findings)
    assert finding.code == "DA105"
    assert "'input'" in (finding.hint or "")
    text = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(text.replace("inptu", "input"))
    plan = api.plan(folder, settings).plan
    assert {run.evaluate.cluster for run in plan.runs} == {"input"}
    assert [run.digest for run in plan.runs] == [run.digest for run in plain.runs]


@pytest.mark.planning
@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("[tasks/gone.py]", "does not exist"),
        ("[exakt_match]", "there is no task 'exakt_match'"),
        ("[capitalization]", "is the experiment's own already"),
        ("[tasks/mine.py@wrods]", "has no task 'wrods'"),
    ],
)
def test_a_wrong_task_is_told_with_the_plan(tmp_path: Path, settings: UserConfig, tasks: str, words: str) -> None:
    """As a finding at its place, before anything is trained."""
    folder = make(tmp_path / "x", WITH_TASKS.replace("[tasks/mine.py, exact_match]", tasks))
    (finding,) = errors_of(refusal(api.plan, folder, settings).findings)
    assert finding.code == "EX015"
    assert words in finding.message
    assert finding.where is not None
    assert finding.where.line == TEXT[: TEXT.index(EVALUATE)].count("\n") + 1


@pytest.mark.planning
def test_a_task_that_changed_after_the_plan_is_refused_before_the_queue(tmp_path: Path, settings: UserConfig) -> None:
    """And is the plan's again after planning anew."""
    folder = make(tmp_path / "x")
    planned = api.plan(folder, settings)
    (folder / "tasks" / "mine.py").write_text(TASK + "\n")
    with pytest.raises(PlanDriftError, match=r"the task 'tasks/mine\.py' changed"):
        refuse_findings(planned, settings)
    refuse_findings(api.plan(folder, settings), settings)


@pytest.mark.planning
def test_evaluations_that_ask_more_are_planned_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: UserConfig
) -> None:
    """Repeats and further tasks are answers to write."""
    counts: list[int] = []

    def noted(setup: object, samples: int, *rest: object, **more: object) -> Missing:
        counts.append(samples)
        return Missing(missing="not asked")

    monkeypatch.setattr(times, "evaluation_seconds", noted)
    more = WITH_TASKS.replace("12, ", "12, temperature: 1, repeats: 5, samples: 10, ")
    for name, evaluate in (("a", EVALUATE), ("b", WITH_TASKS), ("c", more)):
        api.plan(make(tmp_path / name, evaluate), settings)
    assert list(dict.fromkeys(counts)) == [12, 36, 150]


@pytest.mark.slow
def test_further_tasks_reach_the_results(tmp_path: Path, settings: UserConfig) -> None:
    """The control alone, evaluated as its script does it; what is missing of a run is said."""
    folder = make(tmp_path / "x")
    plan = api.plan(folder, settings).plan
    api.prepare(folder, settings)
    words = [sys.executable, "-m", "touchline.evaluate", "--experiment", str(folder), "--run", "1M_base"]
    env = environment(settings.models_dir, settings.cache_dir) | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1M_base base/tasks-mine-py: 2/2" in done.stderr
    assert (folder / "tasks" / "ran").exists()
    result = next(each for each in collect_results(plan, folder) if each.name == "1M_base")
    assert [record.task for record in result.evaluations] == ["capitalization"]
    assert [(record.task, record.score) for record in result.other_evaluations] == [
        ("tasks/mine.py", "includes"),
        ("exact_match", "exact match"),
    ]
    assert result.exact_match is not None
    assert result.exact_match.n == 12
    assert not [note for note in result.notes if "not evaluated" in str(note)]
    (folder / "1M_base" / "eval" / "tasks-mine-py_base.scores.json").unlink()
    result = next(each for each in collect_results(plan, folder) if each.name == "1M_base")
    assert "not evaluated: base on tasks/mine.py" in map(str, result.notes)
