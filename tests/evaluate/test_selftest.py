"""Real scorers of task files on made-up answers, in a process of their own."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.cases import parametrize, write
from tests.run.made_scorers import WORDS, serious

from touchline.core.finding import Severity
from touchline.evaluate import selftest as program
from touchline.lint.local import scoring as launch
from touchline.lint.local.scoring import file_findings

TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import {imports}
from inspect_ai.solver import generate, multiple_choice

print("a task file may print")

@task
def words():
    samples = [Sample(input=f"Capitalize: {{word}}", target=word.capitalize(){more}) for word in {words}]
    return Task(dataset=samples, solver={solver}, scorer={scorer})
"""
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")

OWN = """
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer

@scorer(metrics=[accuracy()])
def within():
    async def score(state, target):
        said = state.output.completion.lower()
        return Score(value=CORRECT if said in target.text.lower() else INCORRECT)

    return score
"""


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program in this process, to import Inspect once only."""

    def started(target: str, timeout: float) -> object:
        del timeout
        return json.loads(json.dumps(asdict(program.self_test(target))))

    monkeypatch.chdir(Path())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(launch, "_started", started)


def task(scorer: str, *, imports: str | None = None, solver: str = "generate()", more: str = "", own: str = "") -> str:
    names = imports or scorer.partition("(")[0]
    return own + TASK.format(imports=names, words=WORDS, solver=solver, scorer=scorer, more=more)


def test_a_file_named_inspect_py_is_tried(tmp_path: Path) -> None:
    """It does not hide the standard module, and its scorers are fine."""
    write(tmp_path / "tasks" / "words" / "inspect.py", task("[match(), includes()]", imports="match, includes"))
    assert list(file_findings(str(tmp_path / "tasks" / "words" / "inspect.py"))) == []


@pytest.mark.usefixtures("in_process")
def test_a_real_scorer_that_takes_an_empty_answer_is_caught(tmp_path: Path) -> None:
    """By its own name, at its file."""
    path = write(tmp_path / "task.py", task("within()", imports="match", own=OWN))
    found = serious(list(file_findings(str(path))))
    assert found["EV201"].severity is Severity.ERROR
    assert "scorer within" in found["EV201"].message
    assert found["EV201"].where.path == str(path)


@pytest.mark.usefixtures("in_process")
def test_forms_choices_and_judges_are_no_false_alarms(tmp_path: Path) -> None:
    """A pattern, multiple choice by its own solver, and a model's verdict, which is not asked for."""
    pattern = task("pattern(r'ANSWER: (.*)')", imports="pattern")
    choices = task("choice()", imports="choice", solver="multiple_choice()", more=", choices=['a', 'b']")
    choices = choices.replace("target=word.capitalize()", "target='AB'[len(word) % 2]")
    choices = choices.replace(str(WORDS), str([*WORDS, *(f"{word}s" for word in WORDS)][20:50]))
    judge = task("model_graded_qa()", imports="model_graded_qa")
    found = {
        name: list(file_findings(str(write(tmp_path / name / "task.py", text))))
        for name, text in (("pattern", pattern), ("choices", choices), ("judge", judge))
    }
    assert {name: [f.code for f in each] for name, each in found.items()} == {
        "pattern": [],
        "choices": ["EV217"],
        "judge": ["EV217"],
    }
    assert "own solver's marks" in found["choices"][0].message


@pytest.mark.usefixtures("in_process")
def test_a_task_that_takes_data_is_tried_on_made_up_items(tmp_path: Path) -> None:
    """The example of the page is; a scorer that reads columns of the user's own items says so."""
    page = (Path(__file__).parents[2] / "docs" / "concepts" / "your-own-metric.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    columns = example.replace("said, right =", "state.metadata['answer']; said, right =")
    found = [list(file_findings(str(write(tmp_path / f"{n}.py", each)))) for n, each in enumerate((example, columns))]
    assert found[0] == []
    assert [each.message for each in found[1]] == [
        "not checked (it raises on made-up items: KeyError: 'answer'): the scorer of rouge, scorer overlap"
    ]


@pytest.mark.usefixtures("in_process")
@parametrize(
    "name, text, code, line",
    ("no_python", "from inspect_ai import task\n\n@task\ndef words()\n", "EV210", 4),
    ("no_module", "import no_such_module_here\n", "EV210", 1),
    ("no_task", "from inspect_ai import Task\n", "EV210", None),
    ("raises", "from inspect_ai import task\n\n@task\ndef words():\n    return 1 / 0\n", "EV210", 5),
    ("column", "from inspect_ai import task\n\n@task\ndef words():\n    return {}['question']\n", "EV210", 5),
    ("file", "from inspect_ai import task\n\n@task\ndef words():\n    open('x.json')\n", "EV210", 5),
    ("exits", "import sys\nsys.exit(3)\n", "EV210", None),
)
def test_a_file_that_fails_is_told_its_line(tmp_path: Path, name: str, text: str, code: str, line: int | None) -> None:
    """Whatever it does when it is imported or built."""
    path = write(tmp_path / f"{name}.py", text)
    found = serious(list(file_findings(str(path))))
    assert code in found
    assert found[code].where.line == line
