"""The scorer self-test: seed 004's match is caught on the empty string, and our own tasks pass."""

import difflib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.tiers import examples

from touchline.core.finding import Location, Severity
from touchline.experiment.tasks.ready_made import TASKS
from touchline.lint.rule import check_view
from touchline.lint.scoring import (
    NONSENSE,
    ScoringView,
    TaskFileView,
    has_task,
    is_task_file,
    made_up_outputs,
    plain,
    probes_of,
    tried,
)

pytestmark = pytest.mark.planning

ANSWERS = ["none", "no", "two", "left kidney", "instrument-shaft", "The arm holds a needle", "7.5", "Paris"] * 3
TEXTS = st.text(min_size=1).filter(lambda text: text.strip() != "" and plain(text) not in ("", plain(NONSENSE)))


def smart_match(output: str, target: str) -> float:
    """Seed 004's: equal, or a substring either way, or similar."""
    a, b = output.strip().lower(), target.strip().lower()
    return float(a == b or a in b or b in a or difflib.SequenceMatcher(None, a, b).ratio() >= 0.7)


def codes(view: ScoringView) -> set[str]:
    found = check_view(view, Location(path="task.py"), view.task)
    return {finding.code for finding in found if finding.severity is not Severity.INFO}


def view_of(score: object, targets: list[str] = ANSWERS) -> ScoringView:
    """A function of (output, target) tried on some targets."""
    probes = tried(score, targets)  # type: ignore[arg-type]
    return ScoringView(task="t", scorer="s", kind="function", items=len(targets), probes=probes)


def test_seed_004s_match_is_caught_on_the_empty_string() -> None:
    """With the means that make it plain, and its other faults beside."""
    found = {finding.code: finding for finding in check_view(view_of(smart_match), Location(path="x.py"), "t")}
    assert found["EV201"].severity is Severity.ERROR
    assert "scores 1.00 on average" in found["EV201"].message
    assert "EV207" in found


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=examples(25))
@given(st.lists(TEXTS, min_size=5, max_size=12, unique_by=plain))
def test_our_own_tasks_pass_on_whatever_targets(name: str, targets: list[str]) -> None:
    views = list(probes_of(TASKS[name], targets))
    assert views
    assert all(view.probes for view in views)
    for view in views:
        assert codes(view) == set()


def test_our_own_tasks_pass_on_common_answers() -> None:
    views = [view for task in TASKS.values() for view in probes_of(task, ANSWERS)]
    assert len(views) >= len(TASKS) > 1
    for view in views:
        assert view.probes
        assert codes(view) == set()


@parametrize(
    "score, expected",
    (lambda output, target: target in output, set()),
    (lambda output, target: output.strip().lower() == target.strip().lower(), set()),
    (lambda output, target: difflib.SequenceMatcher(None, output, target).ratio(), set()),
    (lambda output, target: output in target, {"EV201"}),
    (lambda output, target: 1 / len(output), {"EV208"}),
    (lambda output, target: True, {"EV201", "EV207"}),
    (lambda output, target: False, {"EV206"}),
    (lambda output, target: output == target.upper(), {"EV206"}),
)
def test_what_is_wrong_is_found_and_what_is_right_is_not(score: object, expected: set[str]) -> None:
    found = codes(view_of(score))
    assert expected <= found
    if not expected:
        assert found == set()


def test_a_scorer_of_distances_is_not_told_to_score_empty_answers_zero() -> None:
    view = view_of(lambda output, target: 1 - difflib.SequenceMatcher(None, output, target).ratio())
    assert view.lower_is_better
    assert "EV201" not in codes(view)


def test_the_same_answers_are_made_up_every_time() -> None:
    assert made_up_outputs(ANSWERS) == made_up_outputs(ANSWERS)
    assert {made.kind for made in made_up_outputs(ANSWERS)} == {
        "right",
        "formatted",
        "empty",
        "shuffled",
        "truncated",
        "wrong",
    }


def test_an_answer_of_another_item_is_never_the_same_answer() -> None:
    """Else a right scorer would be called too kind."""
    targets = ["Yes.", "yes", "no", "NO!"]
    shuffled = [made for made in made_up_outputs(targets) if made.kind == "shuffled"]
    assert len(shuffled) == len(targets)
    for made in shuffled:
        assert plain(made.output) != plain(targets[made.item])


@parametrize(
    "text, expected",
    ("from inspect_ai import task\n@task\ndef a(): ...\n", True),
    ("import inspect_ai\n@inspect_ai.task(name='b')\ndef a(): ...\n", True),
    ("import inspect_ai\ndef a(): ...\n", False),
    ("from celery import task\n@task\ndef a(): ...\n", False),
    ("from inspect_ai import task\n@task\ndef a()\n", True),
    ("", False),
)
def test_a_task_file_is_told_by_its_text(text: str, expected: bool) -> None:
    """A tree holds many Python files that are none."""
    assert is_task_file(text) is expected


def test_a_file_of_hostile_text_is_a_finding_and_no_crash() -> None:
    for text in ("(" * 5000, "\0", "def f(:", "\ud800"):
        view = TaskFileView(path="task.py", text=text)
        assert "EV210" in {finding.code for finding in check_view(view, Location(path="task.py"), "task.py")}


def test_a_task_that_is_made_without_a_decorator_counts() -> None:
    """`words = task(build)`, and tasks that come by a star."""
    import ast

    assert has_task(ast.parse("from inspect_ai import task\nwords = task(build)\n"))
    assert has_task(ast.parse("from words.tasks import *\n"))
    assert not has_task(ast.parse("from inspect_ai import Task\nwords = Task()\n"))
