"""A task of the user's own as the experiment's: real Inspect, on the tiny model."""

from dataclasses import replace
from pathlib import Path

import pytest
from inspect_ai.log import read_eval_log
from tests.evaluate.test_further_tasks import go, write_task
from tests.evaluate.tiny_evaluation import write_run

from touchline.core.errors import PlanDriftError, RunsFailedError, TouchlineError
from touchline.data.evaluations import finished_evaluation, read_evaluation_config, read_evaluations
from touchline.data.scores import EvaluationRecord
from touchline.data.task_files import resolve_task
from touchline.evaluate.records import shared_difference, turns_difference
from touchline.experiment.experiment import EvaluateConfig
from touchline.results.collect import with_metric

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)

BODY = """from inspect_ai.dataset import json_dataset
from helpers import share


@scorer(metrics={"overlap": [mean()], "length": [mean()]})
def rouge():
    async def score(state, target):
        text = state.output.completion
        return Score(value={"overlap": share(text, target.text), "length": len(text)}, answer=text)
    return score


@task
def words(data):
    return Task(dataset=json_dataset(data), solver=generate(), scorer=[rouge(), match()])
"""
HELPERS = "def share(a, b):\n    return (1 + len(a)) / (2 + len(a) + len(b))\n"


def own(experiment: Path, body: str = BODY, **settings: object) -> None:
    """Have the control evaluated on a task file of its own."""
    name = write_task(experiment, body)
    (experiment / "tasks" / "helpers.py").write_text(HELPERS)
    config = read_evaluation_config(experiment / "tiny_base" / "eval.yaml")
    changed = replace(EvaluateConfig(batch_size=8, max_new_tokens=6), **settings)
    task = resolve_task(name, experiment)
    write_run(experiment, replace(config, task=name, own=task, evaluate=changed))


def record_of(experiment: Path) -> EvaluationRecord:
    config = read_evaluation_config(experiment / "tiny_base" / "eval.yaml")
    found = finished_evaluation(experiment / "tiny_base", config, "base", None)
    assert found is not None
    return found


def test_its_first_score_is_the_primary_one_and_its_items_are_those_of_the_test_split(experiment: Path) -> None:
    """With its own names, values that are not 0 or 1, every other score and metric kept, and training's prompts."""
    own(experiment)
    go(experiment)
    record = record_of(experiment)
    assert (record.task, record.score, len(record.samples)) == ("tasks/mine.py", "rouge.overlap", 6)
    assert [sample.id for sample in record.samples] == [f"test-{n}" for n in range(6)]
    assert set(record.samples[0].scores) == {"rouge.overlap", "rouge.length", "match"}
    assert any(sample.score not in (0.0, 1.0) for sample in record.samples)
    assert {(each.score, each.name) for each in record.metrics} == {
        ("rouge.overlap", "mean"),
        ("rouge.length", "mean"),
        ("match", "accuracy"),
        ("match", "stderr"),
    }
    means = {each.score: each.value for each in record.metrics if each.name == "mean"}
    assert means["rouge.overlap"] == pytest.approx(sum(s.score for s in record.samples) / 6)
    assert record.prompt_difference is None
    log = read_eval_log(str(experiment / "tiny_base" / "eval" / record.log))
    assert log.status == "success"
    assert log.samples[0].messages[0].text.startswith("Capitalize the given word: ")
    # Another score of it becomes the primary one without evaluating anything again.
    config = read_evaluation_config(experiment / "tiny_base" / "eval.yaml")
    for name, note in (("match", None), ("rouge.length", None), ("bleu", "no score 'bleu'")):
        (chosen,), told = with_metric([record], replace(config, evaluate=replace(config.evaluate, metric=name)))
        assert (told is None) == (note is None), name
        assert chosen.score == (record.score if note else name)
        assert chosen.settings_sha256 == record.settings_sha256
        assert [s.score for s in chosen.samples] == [s.scores[chosen.score] for s in record.samples]


def test_other_code_than_planned_is_refused_also_in_a_module(experiment: Path) -> None:
    """And nothing of it has run."""
    own(experiment)
    mark = experiment / "ran"
    (experiment / "tasks" / "helpers.py").write_text(f"open({str(mark)!r}, 'w')\n{HELPERS}")
    with pytest.raises(PlanDriftError, match=r"helpers\.py.*differs from the planned file"):
        go(experiment)
    assert not mark.exists()
    assert not list((experiment / "tiny_base" / "eval").glob("*.eval"))


def test_what_fails_while_it_runs_is_told_in_words(experiment: Path) -> None:
    """An exception at import, in the task, in the scorer; a score that is not there; text as a score."""
    cases = (
        (BODY.replace("@task", "1 / 0\n\n\n@task"), {}, "line 32: ZeroDivisionError"),
        (BODY.replace("    return Task", "    len(5)\n    return Task"), {}, "TypeError"),
        (
            BODY.replace("return Score(value={", "raise RuntimeError('no judge')\n        return Score(value={"),
            {},
            "no judge",
        ),
        (BODY, {"metric": "bleu"}, "no score 'bleu'"),
    )
    for body, settings, message in cases:
        own(experiment, body, **settings)
        with pytest.raises(TouchlineError) as caught:
            go(experiment)
        assert message in caught.value.message, (message, caught.value.message)
        assert isinstance(caught.value, RunsFailedError) or caught.value.exit_code == 2
    assert read_evaluations(experiment / "tiny_base") == []


def test_a_prompt_that_training_did_not_teach_is_recorded(experiment: Path) -> None:
    """A system turn, another template; items of its own with training's prompt pass."""
    sample = "Sample(input='Capitalize the given word: ' + w, target=w)"
    same = f"@task\ndef words():\n    return Task(dataset=[{sample} for w in WORDS], scorer=match())\n"
    cases = (
        (same, None),
        (BODY.replace("solver=generate()", "solver=[system_message('Be brief'), generate()]"), "system turn is none"),
        (same.replace("' + w,", "' + w + ' ',"), None),
        (
            same.replace("Capitalize the given word: ", "Say in capitals: "),
            "training prompts 'Capitalize the given word",
        ),
    )
    for body, difference in cases:
        own(experiment, body)
        go(experiment)
        found = record_of(experiment).prompt_difference
        assert (found is None) == (difference is None), (body, found)
        assert difference is None or difference in str(found)


def test_prompts_are_compared_turn_by_turn_and_by_what_they_share() -> None:
    """Each way in which two prompts may differ has its own words."""
    asked = [("user", "Capitalize: word")]
    assert turns_difference(asked, asked) is None
    cases = (
        ([("system", "Be brief"), *asked], "system turn is none, the task's is 'Be brief'"),
        ([("user", "a"), ("assistant", "A"), *asked], "training prompts have 1 turn, the task's have 3 turns"),
        ([("user", "Capitalize: word ")], "different white space"),
        ([("user", "Capitalise: word")], "training prompts 'Capitalize: word', the task 'Capitalise: word'"),
    )
    for other, message in cases:
        assert message in str(turns_difference(asked, other))
    words = ["apple", "pear", "plum", "fig", "lime", "date"]
    trained = [[("user", f"Word {word}?")] for word in words]
    assert shared_difference(trained, trained[:3], ("Word ", "?")) is None
    bare = [[("user", word)] for word in words]
    assert shared_difference(bare, bare, ("", "")) is None
    told = [[("user", f"Write {word} please")] for word in words]
    assert "the task begins each prompt with 'Write '" in str(shared_difference(bare, told, ("", "")))
    ended = [[("user", f"{word} please")] for word in words]
    assert "the task ends each prompt with ' please'" in str(shared_difference(bare, ended, ("", "")))
