"""Plans of controls and of further tasks: digests, files and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.api.folders import CHAIN, EXPERIMENT, environment, make_chain, make_experiment, touchline
from tests.cases import refusal, some

from touchline import api
from touchline.core.errors import PlanDriftError
from touchline.core.quantity import Missing
from touchline.data.evaluations import read_evaluation_config
from touchline.data.user_config import UserConfig
from touchline.experiment.evaluation import EvaluationTask
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind, RunKind
from touchline.lint.local.inputs import errors_of
from touchline.plan import times
from touchline.plan.identity import plan_from_json
from touchline.results.collect import collect_results
from touchline.run.plan_checks import refuse_findings
from touchline.run.scripts.folder import wanted_checkpoints

PLAIN = EXPERIMENT.format(ranks="[2, 4]")
CONTROLLED = PLAIN.replace("controls: [base]", "controls: [base, noop, shuffled]")


def make(folder: Path, text: str, *, n_train: int = 40) -> Path:
    make_experiment(folder, n_train=n_train)
    (folder / "experiment.yaml").write_text(text)
    return folder


def planned(folder: Path, settings: UserConfig, text: str = CONTROLLED) -> Plan:
    return api.plan(make(folder, text), settings).plan


def run_of(plan: Plan, name: str) -> PlannedRun:
    found = plan.run(name)
    assert found is not None
    return found


@pytest.mark.planning
def test_controls_change_nothing_else_of_a_plan(tmp_path: Path, settings: UserConfig) -> None:
    """Equal digests: adding a control later trains nothing again."""
    plain, controlled = planned(tmp_path / "a", settings, PLAIN), planned(tmp_path / "b", settings)
    before = {run.name: run.digest for run in plain.runs}
    after = {run.name: run.digest for run in controlled.runs}
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"1M_noop", "1M_shuffled"}
    assert len(set(after.values())) == len(after)


@pytest.mark.planning
def test_a_shuffled_run_is_planned_like_the_run_that_it_controls(tmp_path: Path, settings: UserConfig) -> None:
    """The same training, order and tokens in all; only which answer stands behind which prompt differs."""
    plan = planned(tmp_path, settings)
    first, shuffled = run_of(plan, "1M_rank2"), run_of(plan, "1M_shuffled")
    assert (shuffled.kind, shuffled.control) == (RunKind.FINE_TUNED, ControlKind.SHUFFLED)
    assert (shuffled.train, shuffled.data, shuffled.seed) == (first.train, first.data, first.seed)
    assert first.batches is not None
    assert shuffled.batches is not None
    assert shuffled.batches.digest == first.batches.digest
    assert shuffled.batches.real_tokens == first.batches.real_tokens
    assert shuffled.digest != first.digest


@pytest.mark.planning
def test_a_no_op_control_has_the_first_adapters_shape(tmp_path: Path, settings: UserConfig) -> None:
    """It trains nothing, and is evaluated at a checkpoint of its own."""
    plan = planned(tmp_path, settings)
    noop, base = run_of(plan, "1M_noop"), run_of(plan, "1M_base")
    assert (noop.kind, noop.train, noop.batches) == (RunKind.CONTROL, None, None)
    assert noop.no_op is not None
    assert noop.no_op.rank == 2
    assert (base.no_op, base.control) == (None, ControlKind.BASE)
    assert (wanted_checkpoints(noop), wanted_checkpoints(base)) == (["noop"], ["base"])


@pytest.mark.planning
def test_another_adapters_shape_is_another_no_op_control(tmp_path: Path, settings: UserConfig) -> None:
    """The base's digest does not hold it."""
    one = planned(tmp_path / "a", settings)
    other = planned(tmp_path / "b", settings, CONTROLLED.replace("[2, 4]", "[3, 4]"))
    assert run_of(one, "1M_noop").digest != run_of(other, "1M_noop").digest
    assert run_of(one, "1M_base").digest == run_of(other, "1M_base").digest


@pytest.mark.planning
def test_each_control_has_the_files_that_it_needs(tmp_path: Path, settings: UserConfig) -> None:
    """And is counted apart from what is asked about."""
    planned(tmp_path, settings)
    assert "2 fine-tuned + 3 controls = 5 runs" in (tmp_path / "runs_plan.md").read_text()
    api.prepare(tmp_path, settings)
    config = (tmp_path / "1M_shuffled" / "finetune.yaml").read_text()
    assert "shuffled_labels: true" in config
    assert "shuffled_labels" not in (tmp_path / "1M_rank2" / "finetune.yaml").read_text()
    assert not (tmp_path / "1M_noop" / "finetune.yaml").exists()


@pytest.mark.planning
def test_a_chain_of_shuffled_stages_goes_on_from_itself(tmp_path: Path, settings: UserConfig) -> None:
    """Its second stage's digest holds the shuffled first one."""
    make_chain(tmp_path, CHAIN.replace("controls: [base]", "controls: [base, shuffled]"))
    plan = api.plan(tmp_path, settings).plan
    easy, hard = run_of(plan, "1M_shuffled_easy"), run_of(plan, "1M_shuffled_hard")
    assert hard.link is not None
    assert hard.link.parent == easy.name
    assert hard.digest != run_of(plan, "1M_rank4_hard").digest
    assert easy.digest != run_of(plan, "1M_rank4_easy").digest


@pytest.mark.planning
def test_a_long_prompt_with_a_long_answer_is_told_before_anything_runs(tmp_path: Path, settings: UserConfig) -> None:
    """As they stand the rows fit; dealt out anew, one may not."""
    make(tmp_path, PLAIN)
    path = tmp_path / "data" / "words.json"
    rows = json.loads(path.read_text())
    # The longest prompt has the shortest answer, so that whatever it is dealt is longer.
    longest = max(rows["train"], key=lambda row: len(row["input"]))
    longest |= {"input": longest["input"] * 3, "output": "A"}
    path.write_text(json.dumps(rows))
    batches = run_of(api.plan(tmp_path, settings).plan, "1M_rank2").batches
    assert batches is not None
    tight = f"max_seq_len: {batches.longest_example_tokens}"
    (tmp_path / "experiment.yaml").write_text(PLAIN.replace("max_seq_len: 128", tight))
    api.plan(tmp_path, settings)
    (tmp_path / "experiment.yaml").write_text(CONTROLLED.replace("max_seq_len: 128", tight))
    (finding,) = errors_of(refusal(api.plan, tmp_path, settings).findings)
    assert (finding.code, finding.subject, finding.runs) == ("DA201", "train.max_seq_len", ("1M_shuffled",))
    assert "with shuffled answers" in finding.message


@pytest.mark.slow
def test_controls_are_trained_evaluated_and_compared(tmp_path: Path, settings: UserConfig) -> None:
    """The whole way, as a person types it; a second time nothing is left to do."""
    text = CONTROLLED.replace("[2, 4]", "[4]").replace("epochs: 2", "epochs: 1")
    folder = make(tmp_path / "tiny", text)
    env = environment(settings.models_dir, settings.cache_dir)
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    results = {result.name: result for result in api.results(folder)}
    assert {name: result.control for name, result in results.items()} == {
        "1M_rank4": None,
        "1M_shuffled": ControlKind.SHUFFLED,
        "1M_base": ControlKind.BASE,
        "1M_noop": ControlKind.NO_OP,
    }
    assert all(len(result.evaluations) == 1 for result in results.values())
    noop, base = results["1M_noop"].evaluations[0], results["1M_base"].evaluations[0]
    assert noop.checkpoint == "noop"
    assert noop.samples == base.samples
    assert [item.name for item in results["1M_noop"].checkpoints] == ["noop"]
    plain, shuffled = results["1M_rank4"], results["1M_shuffled"]
    assert plain.train_losses != shuffled.train_losses
    assert plain.validation_losses[0] == shuffled.validation_losses[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.scores.json")}
    again = touchline("run", str(folder), env=env)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.scores.json")} == before


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


def make_with_tasks(folder: Path, evaluate: str = WITH_TASKS) -> Path:
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
    plain = api.plan(make_with_tasks(tmp_path / "plain", EVALUATE), settings).plan
    folder = make_with_tasks(tmp_path / "tasks")
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
    plain = api.plan(make_with_tasks(tmp_path / "plain", EVALUATE), settings).plan
    folder = make_with_tasks(tmp_path / "x", EVALUATE.replace("12}", "12, cluster: inptu}"))
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
    folder = make_with_tasks(tmp_path / "x", WITH_TASKS.replace("[tasks/mine.py, exact_match]", tasks))
    (finding,) = errors_of(refusal(api.plan, folder, settings).findings)
    assert finding.code == "EX015"
    assert words in finding.message
    assert finding.where is not None
    assert finding.where.line == TEXT[: TEXT.index(EVALUATE)].count("\n") + 1


@pytest.mark.planning
def test_a_task_that_changed_after_the_plan_is_refused_before_the_queue(tmp_path: Path, settings: UserConfig) -> None:
    """And is the plan's again after planning anew."""
    folder = make_with_tasks(tmp_path / "x")
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
        api.plan(make_with_tasks(tmp_path / name, evaluate), settings)
    assert list(dict.fromkeys(counts)) == [12, 36, 150]


@pytest.mark.slow
def test_further_tasks_reach_the_results(tmp_path: Path, settings: UserConfig) -> None:
    """The control alone, evaluated as its script does it; what is missing of a run is said."""
    folder = make_with_tasks(tmp_path / "x")
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
