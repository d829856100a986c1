"""What is known of a task file, and of a dataset's labels, before anything runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cases import refusal

from touchline.core.finding import Severity
from touchline.data.resolving import label_set
from touchline.data.task_files import resolve_task
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import EvaluationTask
from touchline.lint.scoring import prompt_findings

pytestmark = pytest.mark.planning

HEAD = """raise RuntimeError("this file was run")
from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import match, mean, scorer, stderr
from inspect_ai.solver import generate, system_message
import json, helpers
from parts.more import thing


@scorer(metrics=[mean(), stderr()])
def rouge():
    ...


@scorer(metrics={"tone": [mean()], "length": [mean()]})
def judge():
    ...


"""
TASK = """@task
def one(data, limit=3):
    return Task(dataset=json_dataset(data), scorer=[rouge(), match(), judge()])
"""


def write(folder: Path, text: str, name: str = "tasks/mine.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


def test_a_task_file_is_read_whole_and_not_run(tmp_path: Path) -> None:
    """Its scorers with their metrics, the modules beside it, whether it takes the test items, what changes prompts."""
    write(tmp_path, "from parts import other\n", "tasks/helpers.py")
    write(tmp_path, "", "tasks/parts/__init__.py")
    write(tmp_path, "import helpers\n", "tasks/parts/more.py")
    write(tmp_path, "x = 1\n", "tasks/parts/other.py")
    write(tmp_path, "x = 1\n", "tasks/never_imported.py")
    task = resolve_task(write(tmp_path, f"{HEAD}{TASK}"), tmp_path)
    assert task.scorers == ("rouge: mean, stderr", "match", "judge.tone: mean; judge.length: mean")
    assert [Path(name).relative_to(tmp_path / "tasks").as_posix() for name in task.modules] == [
        "helpers.py",
        "parts/__init__.py",
        "parts/more.py",
        "parts/other.py",
    ]
    assert (task.takes_data, task.own_prompt) == (True, ())
    before = task.code_sha256
    write(tmp_path, "x = 2\n", "tasks/parts/other.py")
    after = resolve_task("tasks/mine.py", tmp_path)
    assert (after.sha256, after.code_sha256 == before) == (task.sha256, False)
    system = TASK.replace("scorer=", "solver=[system_message('Be brief'), generate()], scorer=").replace("data, ", "")
    system = system.replace("json_dataset(data)", "[]")
    told = resolve_task(write(tmp_path, HEAD + system, "tasks/system.py"), tmp_path)
    assert (told.takes_data, told.own_prompt) == (False, ("system_message('Be brief')",))
    assert told.prompts == ()
    for built in (
        "f'Capitalise: {w}.'",
        "'Capitalise: ' + w['x'] + '.'",
        "'Capitalise: %s.' % w",
        "'Capitalise: {w}.'.format(w=w)",
        "[ChatMessageUser(content=f'Capitalise: {w}.')]",
        "asked",
    ):
        samples = f"[Sample(input={built}, target=w) for w in 'ab'] + [Sample(f'{{w}}'), Sample('whole')]"
        code = f"asked = 'Capitalise: ' + str(w) + '.'\n{HEAD}{system.replace('[]', samples)}"
        assert resolve_task(write(tmp_path, code, "tasks/written.py"), tmp_path).prompts == ("Capitalise: {}.",), built


def test_what_can_be_seen_to_be_wrong_is_told_before_the_training(tmp_path: Path) -> None:
    """In words, with the line, what was expected, and where there is one what to write instead."""
    cases = (
        ("@task\ndef one(:\n", "tasks/mine.py", "line 21: invalid syntax", None),
        (TASK, "tasks/mine.py@two", "has no task 'two'", "task: tasks/mine.py@one"),
        (TASK.replace("limit=3", "limit"), "tasks/mine.py", "line 21: the task one needs arguments: limit", None),
        (TASK.replace("(data, limit=3)", "(*, wanted, data)"), "tasks/mine.py", "needs arguments: wanted", None),
        (TASK + TASK.replace("one", "two"), "tasks/mine.py", "has 2 tasks", "task: tasks/mine.py@one"),
        (
            TASK.replace("(data)", "('gone.jsonl')"),
            "tasks/mine.py",
            "line 22: data file 'gone.jsonl' does not exist",
            None,
        ),
        (TASK, "tasks/mime.py", "does not exist", "task: tasks/mine.py"),
        (TASK, "tasks/mime.py@one", "does not exist", "task: tasks/mine.py@one"),
        ("def one():\n    ...\n", "tasks/mine.py", "has no Inspect task", None),
        (TASK, "tasks", "no task 'tasks'", None),
    )
    write(tmp_path, "", "tasks/helpers.py")
    write(tmp_path, "", "tasks/parts/more.py")
    for body, name, message, hint in cases:
        write(tmp_path, f"{HEAD}{body}" if "Inspect task" not in message else body)
        caught = refusal(resolve_task, name, tmp_path)
        assert message in caught.message, (name, body)
        assert hint is None or hint in (caught.hint or ""), (name, body)


def dataset(folder: Path, splits: dict[str, list[str]]) -> DataConfig:
    rows = {name: [{"input": f"{name} {n}", "output": x} for n, x in enumerate(la)] for name, la in splits.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(rows))
    return DataConfig(path="data.json")


def test_labels_are_those_of_the_answers_and_counted_by_split(tmp_path: Path) -> None:
    """Spellings count as one, with a warning; the majority is that of the test split."""
    data = dataset(tmp_path, {"train": ["yes", "no", "yes", "Yes "], "test": ["no", "no", "yes"]})
    found, findings = label_set(data, tmp_path)
    assert found.labels == ("no", "yes")
    assert found.counts == {"train": (1, 3), "validation": (0, 0), "test": (2, 1)}
    assert found.majority("test") == ("no", 2, 3)
    assert found.majority("validation") is None
    assert [(each.code, each.severity) for each in findings] == [("EV304", Severity.WARNING)]
    given, findings = label_set(data, tmp_path, ["yes", "no", "maybe"])
    assert given.labels == ("yes", "no", "maybe")


def test_answers_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    """Free text, one label for all, labels told apart by signs alone, and answers that the given labels lack."""
    text = [f"a story about {n}" for n in range(40)]
    cases: tuple[tuple[dict[str, list[str]], list[str | int], str], ...] = (
        ({"train": text, "test": [f"{each}!" for each in text]}, [], "too many for labels"),
        ({"train": ["a", "a"], "test": ["a"]}, [], "only one label"),
        ({"train": ["very good", "very-good"], "test": ["very good"]}, [], "differ only in punctuation"),
        ({"train": ["0", "1"], "test": ["2"]}, [0, 1], "not in evaluate.labels: '2'"),
    )
    for place, (splits, labels, message) in enumerate(cases):
        found, findings = label_set(dataset(tmp_path / str(place), splits), tmp_path / str(place), labels)
        assert found is None, message
        assert any(message in each.message for each in findings if each.severity is Severity.ERROR), message
    data = dataset(tmp_path / "unseen", {"train": ["a", "b"], "test": ["c"]})
    found, (finding,) = label_set(data, tmp_path / "unseen")
    assert found is not None
    assert "without a training row: 'c'" in finding.message


def test_a_prompt_unlike_trainings_is_found_where_it_can_be_known() -> None:
    """A system turn of the task alone is a warning; the same one as training's is not; what is unknown is said."""
    own = EvaluationTask(name="t.py", file="t.py", own_prompt=("system_message('Be brief')",))
    plain, same = DataConfig(path="d.json"), DataConfig(path="d.json", system="Be brief")
    (warned,) = prompt_findings(own, plain, None, is_own=True)
    assert (warned.code, warned.severity) == ("EV305", Severity.WARNING)
    (unknown,) = prompt_findings(own, same, None, is_own=True)
    assert (unknown.code, unknown.severity) == ("EV305", Severity.INFO)
    given = EvaluationTask(name="t.py", file="t.py", takes_data=True)
    assert list(prompt_findings(given, plain, None, is_own=True)) == []
    (built,) = prompt_findings(replace(given, prompts=("Rate: {}",)), plain, None, is_own=True)
    assert (built.severity, built.hint) == (
        Severity.WARNING,
        "use the input of each item as it is: it has training's prompt",
    )
    doubled = EvaluationTask(name="t.py", file="t.py", takes_data=True, own_prompt=own.own_prompt)
    assert [each.severity for each in prompt_findings(doubled, same, None, is_own=True)] == [Severity.WARNING]
    taught = DataConfig(path="d.json", prompt="Capitalize: {input}")
    written = EvaluationTask(name="t.py", file="t.py", prompts=("Capitalise: {}",))
    (other,) = prompt_findings(written, taught, None, is_own=True)
    assert (other.severity, other.hint) == (Severity.WARNING, "data.prompt: 'Capitalise: {input}'")
    assert list(prompt_findings(replace(written, prompts=("Capitalize: {}",)), taught, None, is_own=True)) == []
    (unknown,) = prompt_findings(written, DataConfig(path="d.json", messages="chat"), None, is_own=True)
    assert unknown.severity is Severity.INFO
    assert [each.severity for each in prompt_findings(EvaluationTask(name="number"), taught, None, is_own=False)] == [
        Severity.INFO
    ]
    equal = DataConfig(path="d.json", prompt="{input}")
    assert list(prompt_findings(EvaluationTask(name="number"), equal, None, is_own=False)) == []
