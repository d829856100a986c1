"""Tasks of the user's own: the run's first one, and further ones; their scores, prompts and faults."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from inspect_ai.log import read_eval_log
from tests.cases import parametrize, refusal, some
from tests.evaluate.tiny_evaluation import write_request, write_run

from touchline.core.errors import InputError, PlanDriftError, RunsFailedError, TouchlineError
from touchline.data.evaluations import finished_evaluation, read_evaluation_config, read_evaluations
from touchline.data.scores import EvaluationRecord
from touchline.data.task_files import resolve_task
from touchline.evaluate.inspect_task import planned_items
from touchline.evaluate.process import evaluate
from touchline.evaluate.records import shared_difference, turns_difference
from touchline.evaluate.wanted import read_request
from touchline.experiment.experiment import EvaluateConfig
from touchline.results.collect import with_metric

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


HEAD = """from pathlib import Path

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import Sample, csv_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import CORRECT, Score, accuracy, includes, match, mean, pattern, scorer
from inspect_ai.solver import generate, system_message, use_tools
from inspect_ai.tool import tool

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon"]
SAMPLES = [Sample(id=f"w{i}", input=f"Say {word}", target=word) for i, word in enumerate(WORDS)]


@scorer(metrics=[mean()])
def own(give):
    async def score(state, target):
        return give(state, target)
    return score

"""
JOB = ("tiny_base", "base")


def ask(experiment: Path, *names: str, run: str = "tiny_base", **settings: object) -> None:
    """Have a run evaluated on further tasks too, with these settings."""
    config = read_evaluation_config(experiment / run / "eval.yaml")
    tasks = tuple(resolve_task(name, experiment) for name in names)
    changed = replace(EvaluateConfig(batch_size=8, max_new_tokens=6, tasks=names), **settings)
    write_run(experiment, replace(config, tasks=tasks, evaluate=changed))


def write_task(experiment: Path, body: str, name: str = "tasks/mine.py") -> str:
    path = experiment / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(HEAD + body)
    return name


def task(scorer: str, more: str = "", samples: str = "SAMPLES") -> str:
    return f"@task\ndef words():\n    return Task(dataset={samples}, scorer={scorer}{more})\n"


def go(experiment: Path, *jobs: tuple[str, str]) -> None:
    evaluate(experiment, read_request(write_request(experiment, *(jobs or (JOB,)))))


def records(experiment: Path, run: str = "tiny_base") -> dict[str, EvaluationRecord]:
    return {record.task: record for record in read_evaluations(experiment / run)}


def test_a_task_of_the_users_own_is_evaluated_beside_the_experiments(experiment: Path) -> None:
    """By its own scorer, with its own items, and with a log of its own; read from its own folder."""
    (experiment / "tasks").mkdir()
    (experiment / "tasks" / "words.csv").write_text("input,target,id\nSay a,a,one\nSay b,b,two\nSay c,c,three\n")
    name = write_task(experiment, task("[includes(), match()]", samples="csv_dataset('words.csv')"))
    ask(experiment, name, "exact_match")
    go(experiment)
    found = records(experiment)
    assert list(found) == ["capitalization", "exact_match", "tasks/mine.py"]
    own = found["tasks/mine.py"]
    assert own.score == "includes"
    assert [(sample.id, sample.target) for sample in own.samples] == [("one", "a"), ("two", "b"), ("three", "c")]
    for sample in some(own.samples):
        assert sample.value == float(sample.target in sample.output.lower())
        assert sample.score == sample.value
        assert sample.stop in ("stop", "max_tokens")
    log = read_eval_log(str(experiment / "tiny_base" / "eval" / own.log))
    assert own.log == "tasks-mine-py_base.eval"
    assert log.eval.metadata["task_sha256"] == resolve_task(name, experiment).sha256
    assert log.eval.metadata["settings_sha256"] == own.settings_sha256
    ready = found["exact_match"]
    assert ready.data_sha256 == found["capitalization"].data_sha256
    asked = (read_eval_log(str(experiment / "tiny_base" / "eval" / ready.log)).samples or [])[0].messages[0].text
    assert "Capitalize" not in asked


def test_what_is_finished_stays_and_what_is_new_is_added(experiment: Path) -> None:
    """A task that is asked for later costs its own evaluation alone; all of them together are the job."""
    go(experiment)
    config = read_evaluation_config(experiment / "tiny_base" / "eval.yaml")
    assert finished_evaluation(experiment / "tiny_base", config, "base", None) is not None
    before = records(experiment)["capitalization"]
    ask(experiment, "number", **{"batch_size": 8})
    config = read_evaluation_config(experiment / "tiny_base" / "eval.yaml")
    assert finished_evaluation(experiment / "tiny_base", config, "base", None) is None
    go(experiment)
    found = records(experiment)
    assert found["capitalization"] == before
    assert {sample.parsed for sample in found["number"].samples} == {None}
    assert finished_evaluation(experiment / "tiny_base", config, "base", None) == before
    stamp = (experiment / "tiny_base" / "eval" / found["number"].log).stat().st_mtime_ns
    go(experiment)
    assert (experiment / "tiny_base" / "eval" / found["number"].log).stat().st_mtime_ns == stamp


def test_a_changed_task_file_is_refused_and_nothing_else_is_lost(experiment: Path) -> None:
    """The run's own task is evaluated all the same."""
    name = write_task(experiment, task("match()"))
    ask(experiment, name)
    write_task(experiment, task("match()") + f"\nPath({str(experiment / 'ran')!r}).write_text('')\n")
    with pytest.raises(PlanDriftError, match="differs from the planned file"):
        go(experiment)
    assert list(records(experiment)) == ["capitalization"]
    assert not (experiment / "ran").exists()


def test_scores_of_any_form_become_a_number(experiment: Path) -> None:
    """Letters, truths, mappings."""
    forms = (
        ("0.25", 0.25, "own"),
        ("True", 1.0, "own"),
        ("'P'", 0.5, "own"),
        ("{'quality': 0.75, 'style': 0.1}", 0.75, "own.quality"),
        ("'0.5'", 0.5, "own"),
    )
    names = [
        write_task(experiment, task(f"own(lambda state, target: Score(value={text}))"), f"tasks/form{number}.py")
        for number, (text, _, _) in enumerate(forms)
    ]
    ask(experiment, *names)
    go(experiment)
    found = records(experiment)
    for name, (_, value, score) in zip(names, forms, strict=True):
        assert ({sample.value for sample in found[name].samples}, found[name].score) == ({value}, score)


def test_items_without_a_score_are_errors_and_count_as_wrong(experiment: Path) -> None:
    """One of five has no number; the others do."""
    scorer = "own(lambda state, target: Score(value=float('nan') if target.text == 'beta' else 1))"
    name = write_task(experiment, task(scorer))
    ask(experiment, name)
    with pytest.raises(
        RunsFailedError, match="1 of 5 answers failed, at most 0 may, the first: the scorer gave no number"
    ):
        go(experiment)
    assert "tasks/mine.py" not in records(experiment)
    ask(experiment, name, max_error_rate=0.2)
    go(experiment)
    found = records(experiment)["tasks/mine.py"]
    assert [sample.score for sample in found.samples] == [1, 0, 1, 1, 1]
    assert "no number" in str(found.samples[1].error)


@parametrize(
    "body, fault, words",
    (task("own(lambda state, target: Score(value='what'))"), RunsFailedError, "score 'own' is never a number"),
    (task("None"), InputError, "has no scorer"),
    (task("match()", samples="csv_dataset('go' + 'ne.csv')"), InputError, "line 22: FileNotFoundError"),
    ("from helpers_that_are_not_there import words\n", InputError, "helpers_that_are_not_there"),
    (task("match()", samples="[]"), InputError, "mine.py"),
    ("from json import loads\nraise SystemExit(3)\n" + task("match()"), InputError, "ends the process"),
    (task("match()").replace("return Task(", "return dict("), InputError, "dict"),
)
def test_a_task_that_cannot_work_says_why(experiment: Path, body: str, fault: type[Exception], words: str) -> None:
    """And leaves neither log nor scores of it."""
    ask(experiment, write_task(experiment, body))
    with pytest.raises(fault, match=words):
        go(experiment)
    assert list(records(experiment)) == ["capitalization"]
    assert sorted(path.suffix for path in (experiment / "tiny_base" / "eval").iterdir()) == [".eval", ".json"]


def test_parse_rates_are_those_of_the_scorer(experiment: Path) -> None:
    """A pattern that fits some answers and not others is counted; a scorer that does not read says nothing."""
    ask(
        experiment,
        write_task(experiment, task("pattern(r'^([aeiou])')")),
        write_task(experiment, task("own(lambda s, t: Score(value=1))"), "tasks/b.py"),
    )
    go(experiment)
    found = records(experiment)
    assert {sample.parsed for sample in found["tasks/b.py"].samples} == {None}
    for sample in some(found["tasks/mine.py"].samples):
        assert sample.parsed in (None, sample.output[:1] in tuple("aeiou"))


def test_drawn_answers_with_repeats_are_drawn_again_alike(experiment: Path) -> None:
    """Two processes' worth of the same settings give the same answers; every item has all its repeats, in order."""
    ask(experiment, temperature=1.5, top_p=0.95, repeats=3, seed=4)
    go(experiment)
    first = records(experiment)["capitalization"]
    assert first.repeats == 3
    assert [(sa.id, sa.repeat) for sa in first.samples] == [(f"test-{i}", r) for i in range(6) for r in range(3)]
    assert (
        first.decoding
        == "temperature 1.5, top-p 0.95, 3 answers per item, seed 4, batch 8, float32, at most 6 new tokens"
    )
    per_item = Counter(sample.id for sample in first.samples)
    assert set(per_item.values()) == {3}
    assert any(len({s.output for s in first.samples if s.id == item}) > 1 for item in per_item)
    shutil.rmtree(experiment / "tiny_base" / "eval")
    ask(experiment, temperature=1.5, top_p=0.95, repeats=3, seed=4, batch_size=2)
    go(experiment)
    again = records(experiment)["capitalization"]
    assert [sample.output for sample in again.samples] == [sample.output for sample in first.samples]
    ask(experiment, temperature=1.5, top_p=0.95, repeats=3, seed=5)
    go(experiment)
    (other,) = [each for each in read_evaluations(experiment / "tiny_base") if each.log_sha256 != again.log_sha256]
    assert [sample.output for sample in other.samples] != [sample.output for sample in first.samples]
    assert other.settings_sha256 != first.settings_sha256


def test_a_tasks_own_decoding_goes_first_and_is_recorded(experiment: Path) -> None:
    """Its limit of tokens and its temperature; its epochs too, where the experiment asks for no repeats."""
    more = ", config=GenerateConfig(max_tokens=2, temperature=1.0), epochs=Epochs(2, 'mean')"
    ask(experiment, write_task(experiment, task("match()", more)))
    go(experiment)
    found = records(experiment)
    own = found["tasks/mine.py"]
    assert own.decoding == "temperature 1, 2 answers per item, seed 0, batch 8, float32, at most 2 new tokens"
    assert own.repeats == 2
    assert found["capitalization"].decoding == "greedy, batch 8, float32, at most 6 new tokens"


def test_more_errors_than_may_be_are_a_failure_and_not_a_score(experiment: Path) -> None:
    """Two of five fail in the solver: below the gate they count as wrong, above it there are no scores."""
    solver = ", solver=[fails(), generate()]"
    own = (
        "from inspect_ai.solver import solver\n\n\n@solver\ndef fails():\n    async def solve(state, generate):\n"
        "        if state.sample_id in ('w1', 'w3'):\n            raise ValueError('no such word')\n"
        "        return state\n    return solve\n\n\n"
    )
    name = write_task(experiment, own + task("own(lambda state, target: Score(value=1))", solver))
    ask(experiment, name)
    with pytest.raises(RunsFailedError, match=r"of 5 answers failed, at most 0 may, the first: .*no such word"):
        go(experiment)
    ask(experiment, name, max_error_rate=0.3)
    with pytest.raises(RunsFailedError, match="at least 2 of 5 answers failed, at most 1 may"):
        go(experiment)
    assert "tasks/mine.py" not in records(experiment)
    ask(experiment, name, max_error_rate=0.4)
    go(experiment)
    found = records(experiment)["tasks/mine.py"]
    assert [sample.score for sample in found.samples] == [1, 0, 1, 0, 1]
    assert [sample.error for sample in found.samples].count(None) == 3
    assert found.samples[1].stop is None


def test_prompts_that_do_not_fit_pass_the_gate_of_the_runs_own_task(experiment: Path) -> None:
    """The error is recorded with the item, which counts as wrong; every one of them fails without a gate."""
    ask(experiment, max_new_tokens=500, max_error_rate=1.0)
    go(experiment)
    found = records(experiment)["capitalization"]
    assert all("the prompt has" in str(sample.error) for sample in found.samples)
    assert sum(sample.score for sample in found.samples) == 0
    ask(experiment, max_new_tokens=500)
    with pytest.raises(RunsFailedError, match="the prompt has"):
        go(experiment)


def test_checkpoints_share_the_items_and_settings_of_a_task(experiment: Path) -> None:
    """So that control and run can be compared; their answers differ. As many samples as asked for, the first ones."""
    name = write_task(experiment, task("match()"))
    for run in ("tiny_base", "tiny_rank4"):
        ask(experiment, name, run=run, samples=3)
    go(experiment, JOB, ("tiny_rank4", "epoch_0"))
    base, tuned = records(experiment)[name], records(experiment, "tiny_rank4")[name]
    assert (base.settings_sha256, base.data_sha256) == (tuned.settings_sha256, tuned.data_sha256)
    assert [s.id for s in base.samples] == [s.id for s in tuned.samples] == ["w0", "w1", "w2"]
    assert [s.output for s in base.samples] != [s.output for s in tuned.samples]


def test_tools_are_refused_in_words(experiment: Path) -> None:
    """The provider calls none, and says so before anything is scored."""
    own = (
        "@tool\ndef look():\n    async def execute(word: str) -> str:\n        '''Look.\n\n        Args:\n"
        "            word: it\n        '''\n        return word\n    return execute\n\n\n"
    )
    ask(experiment, write_task(experiment, own + task("match()", ", solver=[use_tools(look()), generate()]")))
    with pytest.raises(RunsFailedError, match="does not call tools"):
        go(experiment)


def test_clusters_come_with_the_scores(experiment: Path) -> None:
    """Of the run's own task from the dataset's column, of one of the user's own from its samples' metadata; the log
    has them too, and an evaluation that is finished stays so when the column is named afterwards."""
    go(experiment)
    before = records(experiment)["capitalization"]
    assert {sample.cluster for sample in before.samples} == {None}
    samples = (
        "[Sample(id=str(i), input='Say a', target='a', metadata={'cluster': c})"
        " for i, c in enumerate(['x', 3, None, ['y'], ' '])]"
    )
    ask(experiment, "exact_match", write_task(experiment, task("match()", samples=samples)), cluster="input")
    go(experiment)
    found = records(experiment)
    assert found["capitalization"] == before
    config = read_evaluation_config(experiment / "tiny_base" / "eval.yaml")
    words = [example.prompt[-1].content.rpartition(" ")[2] for example in planned_items(config)]
    assert [sample.cluster for sample in found["exact_match"].samples] == words
    assert [sample.cluster for sample in found["tasks/mine.py"].samples] == ["x", "3", None, None, None]
    log = read_eval_log(str(experiment / "tiny_base" / "eval" / found["exact_match"].log))
    assert {(sample.metadata or {}).get("cluster") for sample in log.samples or []} == set(words)


def test_a_column_of_clusters_that_is_gone_is_told_before_a_model_is_asked(experiment: Path) -> None:
    """With the columns that there are."""
    ask(experiment, cluster="document")
    assert "columns here: 'input', 'output'" in str(refusal(go, experiment).findings)
    assert not list((experiment / "tiny_base").glob("eval/*.scores.json"))


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
