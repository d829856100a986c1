"""What collecting makes of scores: own task and others, several answers to an item, and the files they come from."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.api.made_runs import evaluate, train
from tests.report.made_gathered import record, run
from tests.run.made_plans import DATA, made_control, made_plan, made_run

from touchline.core.catalog import SplitInfo
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import RunStatus
from touchline.data.datasets import load_dataset
from touchline.data.evaluations import evaluation_name, finished_evaluation, finished_task, settings_sha256
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import EvaluationTask
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.plan import Plan
from touchline.experiment.runs import RunKind
from touchline.results.collect import collect_results
from touchline.results.run_folder import evaluation_settings, read_run_folder
from touchline.results.run_result import RunResult
from touchline.results.scored import compared
from touchline.run.scripts.folder import evaluation_config
from touchline.statistics.closed_forms import wilson

pytestmark = pytest.mark.planning

TASKS = (EvaluationTask(name="number"), EvaluationTask(name="tasks/a.py", file="/t/a.py", sha256="7" * 64))
SETTINGS = EvaluateConfig(tasks=("number", "tasks/a.py"))


def plan_of(settings: EvaluateConfig = SETTINGS) -> Plan:
    return replace(made_plan(replace(made_control(), evaluate=settings)), tasks=TASKS)


def write(plan: Plan, root: Path, task: EvaluationTask | None, samples: list[SampleScore], **changes: object) -> None:
    """An evaluation of the control on its own task or another one."""
    run, name_of_task = plan.runs[0], plan.task if task is None else task.name
    config = evaluation_config(plan, run)
    name = evaluation_name(name_of_task, "base", config.set_of(task))
    record = EvaluationRecord(
        experiment=plan.experiment, run=run.name, task=name_of_task, checkpoint="base", log=f"{name}.eval",
        log_sha256="0" * 64, adapter_sha256=None, base_sha256=config.model.weights_sha256,
        data_sha256=config.on(task).data_sha256, settings_sha256=settings_sha256(config, task), decoding="greedy",
        seconds=3.0, samples=tuple(samples), test_set=config.set_of(task),
    )  # fmt: skip
    place = root / run.name / "eval"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.eval").write_bytes(b"log")
    text = TypeAdapter(EvaluationRecord).dump_json(replace(record, **changes))  # type: ignore[arg-type]
    (place / f"{name}.scores.json").write_bytes(text)


def sample(item: int, right: bool = True, **changes: object) -> SampleScore:
    made = SampleScore(id=f"test-{item}", target="A", output="A" if right else "b", exact=right, match=right)
    return replace(made, **changes)  # type: ignore[arg-type]


def collected(plan: Plan, root: Path) -> RunResult:
    (result,) = collect_results(plan, root)
    return result


def test_tasks_are_kept_apart_in_the_files_order(tmp_path: Path) -> None:
    plan = plan_of()
    write(plan, tmp_path, TASKS[1], [sample(0, value=0.5), sample(1, value=1.0)], score="f1")
    write(plan, tmp_path, None, [sample(0), sample(1, right=False)])
    result = collected(plan, tmp_path)
    assert [record.task for record in result.evaluations] == ["capitalization"]
    assert [record.task for record in result.other_evaluations] == ["tasks/a.py"]
    assert result.exact_match is not None
    assert (result.exact_match.k, result.exact_match.n) == (1, 2)
    assert "not evaluated: base on number" in map(str, result.notes)
    write(plan, tmp_path, TASKS[0], [sample(0)])
    assert [record.task for record in collected(plan, tmp_path).other_evaluations] == ["number", "tasks/a.py"]


def test_what_is_of_no_task_that_is_asked_for_is_left_out(tmp_path: Path) -> None:
    plan = plan_of()
    write(plan, tmp_path, None, [sample(0)])
    write(plan, tmp_path, TASKS[1], [sample(0, value=1.0)])
    changed = replace(plan, tasks=(TASKS[0], replace(TASKS[1], sha256="8" * 64)))
    assert collected(changed, tmp_path).other_evaluations == ()
    result = collected(replace(plan, tasks=(), runs=(replace(plan.runs[0], evaluate=EvaluateConfig()),)), tmp_path)
    assert result.other_evaluations == ()
    assert len(result.evaluations) == 1
    assert [record.task for record in result.earlier_evaluations] == [TASKS[1].name]
    assert any("with other settings kept" in str(note) for note in result.notes)


def test_several_answers_to_an_item_are_one_observation(tmp_path: Path) -> None:
    plan = replace(plan_of(EvaluateConfig(temperature=0.7, repeats=4)), tasks=())
    answers = [sample(item, right=repeat < 3, repeat=repeat) for item in range(10) for repeat in range(4)]
    write(plan, tmp_path, None, answers, repeats=4)
    found = collected(plan, tmp_path).exact_match
    assert found is not None
    assert (found.k, found.n, found.value) == (30, 40, 0.75)
    narrow, wide = wilson(30, 40), wilson(3, 4)
    assert wide.low < found.low < narrow.low
    assert narrow.high < found.high < wide.high
    assert found.method == "Wilson over 10 items"


def test_errors_and_empty_evaluations_are_told(tmp_path: Path) -> None:
    plan = plan_of()
    write(plan, tmp_path, None, [sample(0, error="out of memory"), sample(1)])
    write(plan, tmp_path, TASKS[0], [])
    assert any("base on capitalization: 1 answers could not" in str(note) for note in collected(plan, tmp_path).notes)
    write(plan, tmp_path, None, [])
    assert collected(plan, tmp_path).exact_match is None


def test_numbers_name_their_file(tmp_path: Path) -> None:
    run = made_run(epochs=1)
    plan = made_plan(run)
    folder = tmp_path / run.name
    folder.mkdir()
    train(plan, run, folder)
    evaluate(plan, run, folder)
    (result,) = collect_results(plan, tmp_path)
    assert [record.checkpoint for record in result.evaluations] == ["epoch_0"]
    figures = {
        "metrics.jsonl": (result.train_seconds, result.final_train_loss, result.tokens_per_second, result.peak_memory),
        "eval/capitalization_epoch_0.scores.json": (result.evaluate_seconds,),
        "epoch_0/adapter_model.safetensors": (result.adapter_size,),
    }
    for where, values in figures.items():
        for value in values:
            assert isinstance(value, Quantity)
            assert value.where == where
            assert (folder / where).is_file()


def test_epochs_come_in_order(tmp_path: Path) -> None:
    run = made_run(epochs=11)
    plan = made_plan(run)
    folder = tmp_path / run.name
    folder.mkdir()
    train(plan, run, folder)
    scores = evaluate(plan, run, folder)
    for epoch in (2, 10):
        shutil.copytree(folder / "epoch_0", folder / f"epoch_{epoch}")
        text = scores.read_text().replace("epoch_0", f"epoch_{epoch}")
        (scores.parent / scores.name.replace("epoch_0", f"epoch_{epoch}")).write_text(text)
        (scores.parent / f"capitalization_epoch_{epoch}.eval").write_bytes(b"log")
    (result,) = collect_results(plan, tmp_path)
    assert [record.checkpoint for record in result.evaluations] == ["epoch_0", "epoch_2", "epoch_10"]


def clustered_plan(root: Path, column: str | None) -> Plan:
    """A control and a trained run on 40 test items of 8 documents, by a dataset that is there."""
    rows = [{"input": f"word {i}", "output": "A", "doc": f"d{i // 5}", "alone": None} for i in range(40)]
    path = root / "words.json"
    path.write_text(json.dumps({"train": [{"input": "a", "output": "A"}], "test": rows}))
    data = load_dataset(DataConfig(path=str(path)), root)
    settings = EvaluateConfig(cluster=column, tasks=("tasks/a.py",))
    plan = made_plan(replace(made_control(), evaluate=settings, dataset=str(path), data=DataConfig(path=str(path))))
    return replace(plan, tasks=TASKS[1:], datasets={str(path): data})


def test_clusters_are_read_from_the_dataset_whenever_they_are_named(tmp_path: Path) -> None:
    """The key may come, change and go after the evaluation, whose settings stay the same."""
    plan = clustered_plan(tmp_path, None)
    answers = [sample(item, right=item < 20) for item in range(40)]
    write(plan, tmp_path, None, answers)
    own = [sample(item, value=float(item % 2), cluster=f"t{item // 2}") for item in range(8)]
    write(plan, tmp_path, TASKS[1], own, score="f1")
    before = collected(plan, tmp_path)
    assert {each.cluster for each in before.evaluations[0].samples} == {None}
    asked = collected(clustered_plan(tmp_path, "doc"), tmp_path)
    assert [each.cluster for each in asked.evaluations[0].samples] == [f"d{item // 5}" for item in range(40)]
    assert asked.other_evaluations == before.other_evaluations
    assert asked.other_evaluations[0].samples[0].cluster == "t0"
    assert before.exact_match is not None
    assert asked.exact_match is not None
    assert asked.exact_match.method == "Wilson over 8 clusters"
    assert asked.exact_match.value == before.exact_match.value
    assert asked.exact_match.low < before.exact_match.low
    assert before.exact_match.high < asked.exact_match.high
    # Scored with a column that is no longer meant.
    write(plan, tmp_path, None, [replace(each, cluster="old") for each in answers])
    assert collected(plan, tmp_path).evaluations == before.evaluations
    assert collected(clustered_plan(tmp_path, "alone"), tmp_path).evaluations == before.evaluations


@pytest.mark.parametrize(
    ("known", "words"), [(None, "items are treated as independent"), ("d1", "clusters are from the evaluation")]
)
def test_clusters_that_cannot_be_read_are_told(tmp_path: Path, known: str | None, words: str) -> None:
    plan = clustered_plan(tmp_path, "doc")
    write(plan, tmp_path, None, [sample(item, cluster=known) for item in range(40)])
    path = Path(plan.runs[0].dataset)
    text = path.read_text()
    for spoiled in (text.replace("word 7", "word 70"), text.replace('"doc"', '"document"'), None):
        path.unlink() if spoiled is None else path.write_text(spoiled)
        result = collected(plan, tmp_path)
        (note,) = [str(note) for note in result.notes if "evaluate.cluster" in str(note)]
        assert words in note
        assert {each.cluster for each in result.evaluations[0].samples} == {known}


def test_one_cluster_alone_says_nothing_of_the_spread(tmp_path: Path) -> None:
    plan = replace(plan_of(EvaluateConfig(cluster="doc")), tasks=())
    write(plan, tmp_path, None, [sample(item, cluster="d1") for item in range(10)])
    found = collected(plan, tmp_path).exact_match
    assert found is not None
    assert (found.k, found.n, found.low, found.high) == (10, 10, 0.0, 1.0)
    assert found.method.startswith("none: one cluster")


def test_a_comparison_by_clusters_is_wider() -> None:
    """The same answers, as 100 items and as 10 documents of 10: four documents gained, one lost."""
    alone, together = (
        compared(
            [
                _answered("1M_rank4", RunKind.FINE_TUNED, 50, clusters),
                _answered("1M_base", RunKind.CONTROL, 20, clusters),
            ]
        )[0].difference
        for clusters in (False, True)
    )
    assert alone is not None
    assert together is not None
    assert alone.value == together.value == pytest.approx(0.3)
    assert together.method == "Newcombe, paired, clusters"
    assert together.low < alone.low
    assert together.high > alone.high
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert together.p_value > alone.p_value


def _answered(name: str, kind: RunKind, right: int, clusters: bool) -> RunResult:
    of = [sample(i, right=i < right, cluster=f"d{i // 10}" if clusters else None) for i in range(100)]
    checkpoint = "base" if kind is RunKind.CONTROL else "epoch_0"
    changes = {"kind": kind, "model": "Tiny-1M-Instruct"}
    return replace(run(name, evaluations=[replace(record(name, checkpoint, [True]), samples=tuple(of))]), **changes)  # type: ignore[arg-type]


def test_the_clusters_that_an_own_task_says_stay(tmp_path: Path) -> None:
    own = EvaluationTask(name="tasks/a.py", file="/t/a.py", sha256="7" * 64)
    plan = replace(made_plan(replace(made_control(), evaluate=EvaluateConfig())), task="tasks/a.py", tasks=(own,))
    write(plan, tmp_path, None, [sample(item, value=1.0, cluster=f"page {item // 2}") for item in range(4)], score="f1")
    (found,) = collected(plan, tmp_path).evaluations
    assert [each.cluster for each in found.samples] == ["page 0", "page 0", "page 1", "page 1"]


# ---- test sets with names --------------------------------------------------------------------------------------------

HASHES = {"five.json": "5" * 64, "nine.json": "9" * 64, "thirteen.json": "d" * 64}
NAMED = {"5L": "five.json", "9L": "nine.json", "13L": "thirteen.json"}


def plan_of_sets(sets: Mapping[str, str] | str = NAMED) -> Plan:
    test = sets if isinstance(sets, str) else dict(sets)
    files = {"test": sets} if isinstance(sets, str) else sets
    splits = [SplitInfo(name=name, num_examples=2, sha256=HASHES[file]) for name, file in files.items()]
    data = replace(DATA, splits=(replace(splits[0], name="test"),), test_sets=tuple(splits))
    control = replace(made_control(), data=DataConfig(train="train.json", test=test))
    return replace(made_plan(control), datasets={DATA.path: data})


def answer(plan: Plan, root: Path, *rights: bool, test_set: str | None = None) -> None:
    """An evaluation of the control on one set; of the first without a name."""
    task = next((each for each in evaluation_config(plan, plan.runs[0]).tasks if each.test_set == test_set), None)
    write(plan, root, task, [sample(number, right) for number, right in enumerate(rights)])


def written(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*/eval/*.eval"))


def values(result: RunResult) -> dict[str, float | None]:
    return {name: score.value if isinstance(score, Quantity) else None for name, score in result.set_scores.items()}


def all_three(root: Path) -> Plan:
    plan = plan_of_sets()
    answer(plan, root, True, True)
    answer(plan, root, True, False, test_set="9L")
    answer(plan, root, False, False, test_set="13L")
    return plan


def pending(plan: Plan, root: Path) -> list[str | None]:
    run = plan.runs[0]
    config = evaluation_config(plan, run)
    asked: tuple[EvaluationTask | None, ...] = (None, *config.tasks)
    return [config.set_of(each) for each in asked if finished_task(root / run.name, config, each, "base", None) is None]


def is_evaluated(plan: Plan, root: Path) -> bool:
    run = plan.runs[0]
    (root / "plan.json").write_text("")
    settings = evaluation_settings(plan, root / "plan.json", root / "no-cache")
    return read_run_folder(plan, run, root / run.name, settings).evaluated


def test_each_set_has_its_score_and_its_log(tmp_path: Path) -> None:
    plan = all_three(tmp_path)
    assert written(tmp_path) == [f"capitalization-{name}_base.eval" for name in ("13L", "5L", "9L")]
    result = collected(plan, tmp_path)
    assert values(result) == {"5L": 1.0, "9L": 0.5, "13L": 0.0}
    assert [record.label for record in result.evaluations] == ["capitalization on 5L"]
    assert [record.label for record in result.other_evaluations] == ["capitalization on 9L", "capitalization on 13L"]
    assert result.score == result.set_scores["5L"]
    assert result.status is RunStatus.COMPLETED
    assert is_evaluated(plan, tmp_path)


@pytest.mark.parametrize("lacking", ["5L", "9L", "13L"])
def test_a_run_that_lacks_a_set_is_not_evaluated(tmp_path: Path, lacking: str) -> None:
    plan = all_three(tmp_path)
    for path in (tmp_path / plan.runs[0].name / "eval").glob(f"*-{lacking}_*"):
        path.unlink()
    assert pending(plan, tmp_path) == [lacking]
    assert not is_evaluated(plan, tmp_path)
    result = collected(plan, tmp_path)
    assert result.status is not RunStatus.COMPLETED
    assert isinstance(result.set_scores[lacking], Missing)
    assert [name for name, value in values(result).items() if value is None] == [lacking]
    config = evaluation_config(plan, plan.runs[0])
    assert finished_evaluation(tmp_path / plan.runs[0].name, config, "base", None) is None


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ({"five": "five.json", "nine": "nine.json", "more": "thirteen.json"}, {"five": 1.0, "nine": 0.5, "more": 0.0}),
        ({"13L": "thirteen.json", "5L": "five.json"}, {"13L": 0.0, "5L": 1.0}),
        ({"9L": "thirteen.json", "13L": "nine.json"}, {"9L": 0.0, "13L": 0.5}),
    ],
    ids=["renamed", "another first, one left out", "names exchanged"],
)
def test_names_may_change_and_nothing_is_evaluated_again(
    tmp_path: Path, sets: dict[str, str], expected: dict[str, float]
) -> None:
    """The rows decide which set a record answers, not what the set was called."""
    all_three(tmp_path)
    plan = plan_of_sets(sets)
    assert pending(plan, tmp_path) == []
    assert is_evaluated(plan, tmp_path)
    result = collected(plan, tmp_path)
    assert values(result) == expected
    assert len(result.earlier_evaluations) == 3 - len(sets)
    assert next(iter(result.evaluations)).test_set == next(iter(sets))


def test_a_single_set_that_gets_a_name_is_not_evaluated_again(tmp_path: Path) -> None:
    before = plan_of_sets("five.json")
    answer(before, tmp_path, True, False)
    assert written(tmp_path) == ["capitalization_base.eval"]
    assert collected(before, tmp_path).set_scores == {}
    after = plan_of_sets()
    assert pending(after, tmp_path) == ["9L", "13L"]
    assert values(collected(after, tmp_path)) == {"5L": 0.5, "9L": None, "13L": None}


def test_a_set_that_loses_its_name_is_not_evaluated_again(tmp_path: Path) -> None:
    all_three(tmp_path)
    after = plan_of_sets("nine.json")
    assert is_evaluated(after, tmp_path)
    assert pending(after, tmp_path) == []
    assert collected(after, tmp_path).evaluations[0].label == "capitalization"


def test_another_set_under_an_old_name_is_another_evaluation(tmp_path: Path) -> None:
    plan = plan_of_sets({"5L": "five.json", "9L": "nine.json"})
    answer(plan, tmp_path, True, True)
    answer(plan, tmp_path, True, False, test_set="9L")
    changed = plan_of_sets({"5L": "five.json", "9L": "thirteen.json"})
    assert pending(changed, tmp_path) == ["9L"]
    result = collected(changed, tmp_path)
    assert values(result) == {"5L": 1.0, "9L": None}
    assert [record.test_set for record in result.earlier_evaluations] == ["9L"]
