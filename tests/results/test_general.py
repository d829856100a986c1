"""lm-evaluation-harness: what 0.4.13 wrote is read, compared with the control, and never trusted to be well-formed.

tests/fixtures/lm_eval holds what the harness wrote for a tiny model and two adapters of it: 24 sums to choose from and
12 pages, of which the environment, the tasks' configs and the models' single answers were taken out.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchline.core.errors import InputError
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.data.benchmarks import (
    finished_general,
    general_settings_sha256,
    read_general_marker,
    wants_general,
)
from touchline.data.scores import CheckpointInfo
from touchline.experiment.evaluation import EvaluationConfig, PlannedModel
from touchline.experiment.experiment import DataConfig, EvaluateConfig, GeneralConfig, LoraConfig
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.general import read_general
from touchline.results.harness import read_items, read_results
from touchline.results.report_inputs import GeneralScore
from touchline.results.run_result import RunResult
from touchline.statistics.paired import newcombe_paired
from touchline.statistics.proportion import wilson

pytestmark = pytest.mark.planning

FIXTURE = Path(__file__).parent.parent / "fixtures" / "lm_eval"
RUNS = ("tiny_base", "tiny_rank4", "tiny_rank8")
NOTHING = Missing(missing="not looked at")


def made_result(root: Path, name: str) -> RunResult:
    """A run as `collect` gives it, its last adapter being the one that the fixture scored."""
    control = ControlKind.BASE if name == "tiny_base" else None
    marker = read_general_marker(root / name / "general" / "epoch_0.touchline.json")
    checkpoint = CheckpointInfo(
        name="epoch_0",
        epoch=0,
        step=10,
        complete=True,
        problems=(),
        size_bytes=1,
        adapter_sha256=None if marker is None else marker.adapter_sha256,
        validation_loss=None,
    )
    return RunResult(
        name=name,
        kind=RunKind.FINE_TUNED if control is None else RunKind.CONTROL,
        model="tiny",
        levels=(),
        seed=1,
        status=RunStatus.COMPLETED,
        job_state=None,
        outcome=TrainingOutcome.COMPLETE,
        attempts=1,
        steps_done=None,
        steps_planned=None,
        exact_match=None,
        match=None,
        difference=None,
        train_seconds=NOTHING,
        validation_seconds=NOTHING,
        evaluate_seconds=NOTHING,
        final_train_loss=NOTHING,
        final_val_loss=NOTHING,
        tokens_per_second=NOTHING,
        peak_memory=NOTHING,
        adapter_size=NOTHING,
        checkpoints=() if control is not None else (checkpoint,),
        train_losses=(),
        validation_losses=(),
        evaluations=(),
        control=control,
        notes=(),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of what the harness wrote."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "experiment"))


def results_of(root: Path) -> list[RunResult]:
    return [made_result(root, name) for name in RUNS]


def row(root: Path, run: str, metric: str = "acc", results: list[RunResult] | None = None) -> GeneralScore:
    """One row of what is read."""
    rows = read_general(root, results or results_of(root))
    return next(each for each in rows if (each.run, each.metric) == (run, metric))


def results_file(root: Path, run: str) -> Path:
    return next((root / run / "general").glob("*/results_*.json"))


def changed(path: Path, **changes: object) -> None:
    """Set keys of a results file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def items(root: Path, run: str, metric: str) -> dict[int, float]:
    path = next((root / run / "general").glob("*/samples_sums_*.jsonl"))
    return {row["doc_id"]: row[metric] for row in map(json.loads, path.read_text().splitlines())}


def test_every_run_has_a_row_for_each_metric(root: Path) -> None:
    """In the order of the runs, controls too."""
    rows = read_general(root, results_of(root))
    assert [(each.run, each.task, each.metric) for each in rows] == [
        (run, task, metric)
        for run in RUNS
        for task, metric in (
            ("sums", "acc"),
            ("sums", "acc_norm"),
            ("next_word", "word_perplexity"),
            ("next_word", "bits_per_byte"),
        )
    ]


def test_a_score_has_its_interval_and_its_file(root: Path) -> None:
    """Of right and wrong items Wilson's, since the harness's standard error is too small near the top."""
    score = row(root, "tiny_rank4").score
    assert isinstance(score, Quantity)
    low, high = wilson(11, 24)
    assert (score.value, score.low, score.high) == (pytest.approx(11 / 24), low, high)
    assert score.method == "Wilson, 24 items, 0-shot, lm-eval 0.4.13"
    assert score.where is not None
    assert (root / score.where).is_file()


@pytest.mark.parametrize("run", ["tiny_rank4", "tiny_rank8"])
@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_the_change_is_paired_item_by_item(run: str, metric: str, root: Path) -> None:
    """The same as counting the items by hand."""
    ours, base = items(root, run, metric), items(root, "tiny_base", metric)
    pairs = [(ours[key], base[key]) for key in ours]
    expected = newcombe_paired(
        pairs.count((1.0, 1.0)), pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0)), pairs.count((0.0, 0.0))
    )
    change = row(root, run, metric).change
    assert isinstance(change, Quantity)
    assert (change.value, change.low, change.high) == expected
    assert change.method is not None
    assert "paired on 24 items" in change.method


def test_a_perplexity_is_no_mean_and_has_no_interval(root: Path) -> None:
    """The harness gives no standard error here (`N/A`), and none is made up; lower is better."""
    found = row(root, "tiny_rank4", "bits_per_byte")
    assert isinstance(found.score, Quantity)
    assert isinstance(found.change, Quantity)
    assert (found.score.low, found.change.low) == (None, None)
    assert (found.higher_is_better, row(root, "tiny_rank4", "acc").higher_is_better) == (False, True)
    assert found.score.method == "no interval, 12 items, 0-shot, lower is better, lm-eval 0.4.13"
    assert found.change.value == pytest.approx(6.262008101455738 - base_value(root, "bits_per_byte,none"))


def base_value(root: Path, key: str) -> float:
    return float(json.loads(results_file(root, "tiny_base").read_text())["results"]["next_word"][key])


def test_without_samples_the_harness_s_standard_errors_are_used(root: Path) -> None:
    """As if on other items, which is wider, and said."""
    paired = row(root, "tiny_rank4").change
    for path in root.glob("*/general/*/samples_*"):
        path.unlink()
    found = row(root, "tiny_rank4")
    assert isinstance(paired, Quantity)
    assert isinstance(found.change, Quantity)
    assert isinstance(found.score, Quantity)
    assert found.change.value == pytest.approx(paired.value)
    assert found.change.method == "against tiny_base, as if on other items"
    assert found.score.method is not None
    assert found.score.method.startswith("standard error of the harness, 24 items")
    assert found.score.low is not None
    assert found.score.low == pytest.approx(11 / 24 - 1.959964 * 0.10389457216622949)


def test_the_control_has_no_change(root: Path) -> None:
    """It is what the others are held against; without it nothing is."""
    assert row(root, "tiny_base").change == Missing(missing="it is the control")
    shutil.rmtree(root / "tiny_base")
    assert row(root, "tiny_rank4").change == Missing(missing="its control was not scored")


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("n-samples", {"sums": {"original": 40, "effective": 40}}, "the number of items"),
        ("task_hashes", {"sums": "0" * 64}, "the items"),
        ("n-shot", {"sums": 5}, "the number of examples shown"),
        ("versions", {"sums": 2.0}, "the version of the task"),
        ("chat_template_sha", "1" * 64, "the chat template"),
    ],
)
def test_what_was_asked_otherwise_is_not_compared(key: str, value: object, word: str, root: Path) -> None:
    """And the reason says what differs."""
    changed(results_file(root, "tiny_base"), **{key: value})
    assert row(root, "tiny_rank4").change == Missing(missing=f"not compared with tiny_base: {word} differ")


def test_scores_of_other_weights_are_told_and_left_out(root: Path) -> None:
    """A run that was trained again has no scores yet."""
    results = results_of(root)
    other = replace(results[1].checkpoints[0], adapter_sha256="0" * 64)
    results[1] = replace(results[1], checkpoints=(other,))
    rows = [each for each in read_general(root, results) if each.run == "tiny_rank4"]
    (only,) = rows
    assert isinstance(only.score, Missing)
    assert "its weights differ from the run" in only.score.missing


def test_a_file_that_a_person_put_there_counts(root: Path) -> None:
    """Just the results, straight into `general/`; nothing proves whose weights it is of, and the row says so."""
    file = results_file(root, "tiny_rank4")
    file.rename(root / "tiny_rank4" / "general" / "mine.json")
    shutil.rmtree(root / "tiny_rank4" / "general" / "epoch_0")
    found = row(root, "tiny_rank4")
    assert isinstance(found.score, Quantity)
    assert found.score.value == pytest.approx(11 / 24)
    assert found.score.method is not None
    assert "added by the user" in found.score.method
    assert found.score.where == "tiny_rank4/general/mine.json"


def test_the_newest_of_several_files_counts(root: Path) -> None:
    """By the harness's own date, not by the name."""
    mine = root / "tiny_rank4" / "general" / "a.json"
    shutil.copy(results_file(root, "tiny_rank8"), mine)
    changed(mine, date=2e9)
    assert row(root, "tiny_rank4").score.where == "tiny_rank4/general/a.json"  # type: ignore[union-attr]
    changed(mine, date=1.0)
    assert row(root, "tiny_rank4").score.where != "tiny_rank4/general/a.json"  # type: ignore[union-attr]


def test_of_a_group_the_group_alone_is_shown(root: Path) -> None:
    """Fifty-seven subjects are no table; a filter stands behind its metric."""
    path = results_file(root, "tiny_base")
    results = {
        "all": {"alias": "all", "acc,none": 0.5, "acc_stderr,none": 0.1},
        "one": {"acc,none": 0.4},
        "two": {"acc,none": 0.6},
        "alone": {"exact_match,strict-match": 0.25, "exact_match,flexible-extract": 0.75},
    }
    changed(path, results=results, group_subtasks={"all": ["one", "two"]})
    found = read_results(path)
    assert [(score.task, score.metric, score.value) for score in found.scores] == [
        ("all", "acc", 0.5),
        ("alone", "exact_match (strict-match)", 0.25),
        ("alone", "exact_match (flexible-extract)", 0.75),
    ]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"results": 3}', "[" * 200_000, "\udcff"])
def test_a_broken_file_is_a_row_that_says_so(content: str, root: Path) -> None:
    """Cut in the middle, nested without end, or no text at all: the other runs are read all the same."""
    results_file(root, "tiny_rank4").write_bytes(content.encode(errors="surrogateescape"))
    rows = read_general(root, results_of(root))
    (broken,) = [each for each in rows if each.run == "tiny_rank4"]
    assert isinstance(broken.score, Missing)
    assert "results_2026" in broken.score.missing
    assert len([each for each in rows if each.run == "tiny_rank8"]) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["results", "group_subtasks", "versions", "n-shot", "n-samples", "task_hashes", "date", "higher_is_better"]


@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON), scores=st.dictionaries(st.text(max_size=6), JSON))
def test_whatever_stands_in_a_file_no_traceback_comes(changes: dict[str, object], scores: dict[str, object]) -> None:
    """Either results, every number of them finite, or a fault in words."""
    path = FIXTURE.parent / "not-there.json"
    data = {"results": {"sums": {f"{name},none": value for name, value in scores.items()}}} | changes

    def read(_: Path, __: int) -> str:
        return json.dumps(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("touchline.results.harness.read_text_bounded", read)
        try:
            found = read_results(path)
        except InputError:
            return
        assert all(score.value == score.value and abs(score.value) != float("inf") for score in found.scores)
        for score in found.scores:
            read_items(path, score)


def test_a_task_s_name_leads_nowhere_else(root: Path) -> None:
    """The samples' file is looked for beside the results, whatever the name says."""
    path = results_file(root, "tiny_base")
    changed(path, results={"../epoch_0/sums": {"acc,none": 0.5}})
    (score,) = read_results(path).scores
    assert read_items(path, score) is None


def test_a_line_break_within_an_answer_ends_no_line(root: Path) -> None:
    """The harness writes text as it is, and models write what they like."""
    path = next((root / "tiny_rank4" / "general").glob("*/samples_sums_*"))
    rows = [json.loads(line) | {"resps": "a\u2028b\x85c"} for line in path.read_text().split("\n") if line]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    change = row(root, "tiny_rank4").change
    assert isinstance(change, Quantity)
    assert change.method is not None
    assert "paired on 24 items" in change.method


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    """A folder of somebody else's is no part of the run."""
    target = tmp_path / "elsewhere"
    (root / "tiny_rank4" / "general" / "epoch_0").rename(target)
    (root / "tiny_rank4" / "general" / "epoch_0").symlink_to(target)
    assert [each for each in read_general(root, results_of(root)) if each.run == "tiny_rank4"] == []


def made_config(**changes: object) -> EvaluationConfig:
    config = EvaluationConfig(
        experiment="tiny",
        run="tiny_rank4",
        run_digest="d" * 64,
        task="capitalization",
        date="2026-01-02",
        model=PlannedModel(name="tiny", path="/models/tiny", weights_sha256="b" * 64, tokenizer_sha256="c" * 64),
        data=DataConfig(path="/data/words.json"),
        data_sha256="e" * 64,
        evaluate=EvaluateConfig(general=GeneralConfig(tasks=("sums",), include_path="tasks")),
        control=False,
        train_epochs=3,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "checkpoint", "wanted"),
    [
        (made_config(), "epoch_2", True),
        (made_config(), "epoch_1", False),
        (made_config(control=True, train_epochs=None), "base", True),
        (made_config(control=True, train_epochs=None, no_op=LoraConfig()), "noop", False),
        (made_config(evaluate=EvaluateConfig()), "epoch_2", False),
        (made_config(evaluate=EvaluateConfig(epochs=(1, 0), general=GeneralConfig(tasks=("a",)))), "epoch_1", True),
        (made_config(evaluate=EvaluateConfig(epochs=(1, 0), general=GeneralConfig(tasks=("a",)))), "epoch_2", False),
    ],
)
def test_the_base_and_last_checkpoints_are_scored(config: EvaluationConfig, checkpoint: str, wanted: bool) -> None:
    """Not every epoch, since the harness takes minutes; not the no-op control, which is the base."""
    assert wants_general(config, checkpoint) is wanted


def test_a_changed_task_file_is_another_setting(tmp_path: Path) -> None:
    """Task files are code: with other ones the scores are made again."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums.yaml").write_text("task: sums")
    config = made_config()
    before = general_settings_sha256(config, tmp_path)
    assert general_settings_sha256(config, tmp_path) == before
    (tmp_path / "tasks" / "helper.py").write_text("pass")
    assert general_settings_sha256(config, tmp_path) != before
    limited = made_config(evaluate=EvaluateConfig(general=GeneralConfig(tasks=("sums",), limit=5)))
    assert general_settings_sha256(limited, tmp_path) != before
    with pytest.raises(InputError, match="is not a directory"):
        general_settings_sha256(config, tmp_path / "tasks")


def test_what_is_scored_is_told_by_hashes(tmp_path: Path) -> None:
    """Of these weights, with these settings, and the file is there."""
    folder = tmp_path / "tiny_rank4"
    shutil.copytree(FIXTURE / "tiny_rank4", folder)
    marker = read_general_marker(folder / "general" / "epoch_0.touchline.json")
    assert marker is not None
    evaluate = EvaluateConfig(general=GeneralConfig(tasks=("sums",)))
    model = PlannedModel(name="t", path="/t", weights_sha256=marker.base_sha256, tokenizer_sha256="c" * 64)
    config = made_config(train_epochs=1, evaluate=evaluate, model=model)
    text = (folder / "general" / "epoch_0.touchline.json").read_text()
    fitting = text.replace(marker.settings_sha256, general_settings_sha256(config, tmp_path))
    assert not finished_general(folder, config, "epoch_0", marker.adapter_sha256)
    (folder / "general" / "epoch_0.touchline.json").write_text(fitting)
    assert finished_general(folder, config, "epoch_0", marker.adapter_sha256)
    assert not finished_general(folder, config, "epoch_0", "0" * 64)
    (folder / "general" / "epoch_0" / marker.results).unlink()
    assert not finished_general(folder, config, "epoch_0", marker.adapter_sha256)
