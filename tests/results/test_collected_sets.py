"""What collecting makes of evaluations on test sets with names: which set a record answers, whatever it was called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.run.made_plans import DATA, made_control, made_plan

from touchline.core.catalog import SplitInfo
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import RunStatus
from touchline.data.evaluations import evaluation_name, finished_evaluation, finished_task, settings_sha256
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.experiment.evaluation import EvaluationTask
from touchline.experiment.experiment import DataConfig
from touchline.experiment.plan import Plan
from touchline.results.collect import collect_results
from touchline.results.run_folder import evaluation_settings, read_run_folder
from touchline.results.run_result import RunResult
from touchline.run.scripts.folder import evaluation_config

pytestmark = pytest.mark.planning

HASHES = {"five.json": "5" * 64, "nine.json": "9" * 64, "thirteen.json": "d" * 64}
NAMED = {"5L": "five.json", "9L": "nine.json", "13L": "thirteen.json"}


def plan_of(sets: Mapping[str, str] | str = NAMED) -> Plan:
    """A control on these test sets."""
    test = sets if isinstance(sets, str) else dict(sets)
    files = {"test": sets} if isinstance(sets, str) else sets
    splits = [SplitInfo(name=name, num_examples=2, sha256=HASHES[file]) for name, file in files.items()]
    data = replace(DATA, splits=(replace(splits[0], name="test"),), test_sets=tuple(splits))
    control = replace(made_control(), data=DataConfig(train="train.json", test=test))
    return replace(made_plan(control), datasets={DATA.path: data})


def write(plan: Plan, root: Path, *rights: bool, test_set: str | None = None) -> None:
    """An evaluation of the control on one set; of the first without a name."""
    run = plan.runs[0]
    config = evaluation_config(plan, run)
    task = next((each for each in config.tasks if each.test_set == test_set), None)
    name = evaluation_name(plan.task, "base", config.set_of(task))
    samples = [
        SampleScore(id=f"test-{number}", target="A", output="A", exact=right, match=right)
        for number, right in enumerate(rights)
    ]
    record = EvaluationRecord(
        experiment=plan.experiment, run=run.name, task=plan.task, checkpoint="base", log=f"{name}.eval",
        log_sha256="0" * 64, adapter_sha256=None, base_sha256=config.model.weights_sha256,
        data_sha256=config.on(task).data_sha256, settings_sha256=settings_sha256(config, task), decoding="greedy",
        seconds=3.0, samples=tuple(samples), test_set=config.set_of(task),
    )  # fmt: skip
    place = root / run.name / "eval"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.eval").write_bytes(b"log")
    (place / f"{name}.scores.json").write_bytes(TypeAdapter(EvaluationRecord).dump_json(record))


def written(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*/eval/*.eval"))


def collected(plan: Plan, root: Path) -> RunResult:
    (result,) = collect_results(plan, root)
    return result


def values(result: RunResult) -> dict[str, float | None]:
    return {name: score.value if isinstance(score, Quantity) else None for name, score in result.set_scores.items()}


def all_three(root: Path) -> Plan:
    plan = plan_of()
    write(plan, root, True, True)
    write(plan, root, True, False, test_set="9L")
    write(plan, root, False, False, test_set="13L")
    return plan


def pending(plan: Plan, root: Path) -> list[str | None]:
    """The sets that are not evaluated."""
    run = plan.runs[0]
    config = evaluation_config(plan, run)
    asked: tuple[EvaluationTask | None, ...] = (None, *config.tasks)
    return [config.set_of(each) for each in asked if finished_task(root / run.name, config, each, "base", None) is None]


def is_evaluated(plan: Plan, root: Path) -> bool:
    """What `touchline status` reads from the files' heads."""
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
    """Whichever it is: it is pending alone, and the others are kept."""
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
    plan = plan_of(sets)
    assert pending(plan, tmp_path) == []
    assert is_evaluated(plan, tmp_path)
    result = collected(plan, tmp_path)
    assert values(result) == expected
    assert len(result.earlier_evaluations) == 3 - len(sets)
    assert next(iter(result.evaluations)).test_set == next(iter(sets))


def test_a_single_set_that_gets_a_name_is_not_evaluated_again(tmp_path: Path) -> None:
    before = plan_of("five.json")
    write(before, tmp_path, True, False)
    assert written(tmp_path) == ["capitalization_base.eval"]
    assert collected(before, tmp_path).set_scores == {}
    after = plan_of()
    assert pending(after, tmp_path) == ["9L", "13L"]
    assert values(collected(after, tmp_path)) == {"5L": 0.5, "9L": None, "13L": None}


def test_a_set_that_loses_its_name_is_not_evaluated_again(tmp_path: Path) -> None:
    all_three(tmp_path)
    after = plan_of("nine.json")
    assert is_evaluated(after, tmp_path)
    assert pending(after, tmp_path) == []
    assert collected(after, tmp_path).evaluations[0].label == "capitalization"


def test_another_set_under_an_old_name_is_another_evaluation(tmp_path: Path) -> None:
    plan = plan_of({"5L": "five.json", "9L": "nine.json"})
    write(plan, tmp_path, True, True)
    write(plan, tmp_path, True, False, test_set="9L")
    changed = plan_of({"5L": "five.json", "9L": "thirteen.json"})
    assert pending(changed, tmp_path) == ["9L"]
    result = collected(changed, tmp_path)
    assert values(result) == {"5L": 1.0, "9L": None}
    assert [record.test_set for record in result.earlier_evaluations] == ["9L"]
