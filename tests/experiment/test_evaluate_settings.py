"""Settings of the evaluation: what is refused, what a hash covers, which tasks are found; nothing is ever run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.cases import parametrize, refusal

from touchline.core.errors import InputError
from touchline.data.evaluations import evaluation_name, is_current, read_evaluations, settings_sha256
from touchline.data.scores import EvaluationRecord
from touchline.data.task_files import is_task_file, resolve_task
from touchline.experiment import evaluation as ev
from touchline.experiment.data_config import DataConfig
from touchline.experiment.experiment import EvaluateConfig, task_file_stem
from touchline.experiment.read import read_experiment

pytestmark = pytest.mark.planning

EXPERIMENT = "name: x\nmodels: [m]\ndata: {path: w.json}\n"
CONFIG = ev.EvaluationConfig(
    experiment="e",
    run="r",
    run_digest="d" * 64,
    task="capitalization",
    date="2026-01-02",
    model=ev.PlannedModel(name="tiny", path="/models/tiny", weights_sha256="a" * 64, tokenizer_sha256="b" * 64),
    data=DataConfig(path="words.json", prompt="Capitalize the given word: {input}"),
    data_sha256="c" * 64,
    evaluate=EvaluateConfig(samples=100, batch_size=8, max_new_tokens=6),
    control=False,
    train_epochs=2,
)
HASH_OF_BEFORE = "7258dd6fb4f9e1220b897de9adda017487da25f4e07229bd14f85ae9e528ca3d"
"""Of the same settings by the release that knew neither sampling nor further tasks."""
OWN = ev.EvaluationTask(name="tasks/mine.py", file="/work/tasks/mine.py", sha256="e" * 64)
READY = ev.EvaluationTask(name="exact_match")
TASK = """from inspect_ai import Task, task
from inspect_ai.dataset import Sample


@task
def words():
    return Task(dataset=[Sample(input="a", target="b")])
"""


def faults(line: str) -> list[tuple[str, str]]:
    caught = refusal(read_experiment, f"{EXPERIMENT}evaluate: {line}\n", "experiment.yaml")
    return [(finding.subject, finding.message) for finding in caught.findings]


def test_defaults_are_greedy_with_one_answer_and_no_error() -> None:
    """What was done before the keys were there."""
    evaluate = read_experiment(EXPERIMENT, "experiment.yaml").experiment.evaluate
    assert (evaluate.temperature, evaluate.top_p, evaluate.repeats, evaluate.max_error_rate) == (0, 1, 1, 0)
    assert (evaluate.tasks, evaluate.cluster) == ((), None)
    assert ev.decoding_text(evaluate, "float32") == "greedy, batch 64, float32, at most 24 new tokens"


def test_sampled_settings_are_read_and_told() -> None:
    """A whole number is a temperature too."""
    text = "{temperature: 1, top_p: 0.9, repeats: 5, seed: 3, max_error_rate: 0.02, tasks: [tasks/a.py@b, number]}"
    evaluate = read_experiment(f"{EXPERIMENT}evaluate: {text}\n", "experiment.yaml").experiment.evaluate
    assert (
        ev.decoding_text(evaluate)
        == "temperature 1, top-p 0.9, 5 answers per item, seed 3, batch 64, at most 24 new tokens"
    )
    assert evaluate.tasks == ("tasks/a.py@b", "number")


def test_what_makes_no_sense_is_refused(subtests: pytest.Subtests) -> None:
    """With the key, and what would be right."""
    for line, subject, words in [
        ("{repeats: 3}", "evaluate", "greedy decoding does not sample"),
        ("{top_p: 0.5}", "evaluate", "a temperature above 0"),
        ("{temperature: -1}", "evaluate.temperature", "at least 0"),
        ("{temperature: .nan}", "evaluate", ""),
        ("{temperature: 1, top_p: 0}", "evaluate.top_p", "more than 0"),
        ("{temperature: 1, top_p: 1.5}", "evaluate.top_p", "at most 1"),
        ("{temperature: 1, repeats: 0}", "evaluate.repeats", "at least 1"),
        ("{max_error_rate: 1.5}", "evaluate.max_error_rate", "at most 1"),
        ("{max_error_rate: some}", "evaluate.max_error_rate", "a number"),
        ("{cluster: ''}", "evaluate.cluster", "not empty"),
        ("{cluster: [doc]}", "evaluate.cluster", "text"),
        ("{tasks: number}", "evaluate.tasks", "a list"),
        ("{tasks: ['']}", "evaluate.tasks.0", "not empty"),
        ("{tasks: [number, number]}", "evaluate", "each task once"),
        ("{tasks: [a/b.py, a-b.py]}", "evaluate", "more than punctuation"),
    ]:
        with subtests.test(line=line, subject=subject):
            found = faults(line)
            assert any(key.startswith(subject) and words in message for key, message in found), found


def test_a_factor_that_meets_repeats_with_greedy_decoding_is_refused() -> None:
    """The combination is impossible although each of the two can be written."""
    text = f"{EXPERIMENT}evaluate: {{temperature: 0.7, repeats: 4}}\nfactors: {{evaluate.temperature: [0, 0.7]}}\n"
    caught = refusal(read_experiment, text, "experiment.yaml")
    assert "greedy decoding does not sample" in str([finding.message for finding in caught.findings])


def test_hashes_of_what_was_evaluated_before_stay() -> None:
    """At their defaults the new keys are in no hash, so that finished evaluations stay finished."""
    assert settings_sha256(CONFIG) == HASH_OF_BEFORE
    with_tasks = replace(CONFIG, evaluate=replace(CONFIG.evaluate, tasks=("tasks/mine.py",)), tasks=(OWN,))
    assert settings_sha256(with_tasks) == HASH_OF_BEFORE
    assert settings_sha256(replace(CONFIG, evaluate=replace(CONFIG.evaluate, seed=9))) == HASH_OF_BEFORE
    # Which items belong together changes no score.
    assert settings_sha256(replace(CONFIG, evaluate=replace(CONFIG.evaluate, cluster="doc"))) == HASH_OF_BEFORE


@parametrize(
    "changes",
    {"temperature": 0.7},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 0.7, "repeats": 2},
    {"temperature": 0.7, "seed": 1},
    {"max_error_rate": 0.1},
    {"batch_size": 9},
    {"samples": "all"},
)
def test_every_setting_that_decides_on_scores_is_in_the_hash(changes: dict[str, object]) -> None:
    """And each changes it in a way of its own."""
    changed = replace(CONFIG, evaluate=replace(CONFIG.evaluate, **changes))
    assert settings_sha256(changed) != HASH_OF_BEFORE
    further = replace(changed.evaluate, temperature=0.8)
    assert settings_sha256(replace(changed, evaluate=further)) != settings_sha256(changed)


def test_a_further_task_is_known_by_its_file_and_not_by_the_data() -> None:
    """Another file is another task; another dataset is the same one, but for a ready-made task, which asks it."""
    other_data = replace(CONFIG, data_sha256="f" * 64)
    assert settings_sha256(CONFIG, OWN) == settings_sha256(other_data, OWN)
    assert settings_sha256(CONFIG, OWN) != settings_sha256(CONFIG, replace(OWN, sha256="0" * 64))
    assert settings_sha256(CONFIG, READY) != settings_sha256(other_data, READY)
    assert len({settings_sha256(CONFIG, task) for task in (None, OWN, READY)}) == 3


@parametrize(
    "task, stem",
    ("capitalization", "capitalization"),
    ("exact_match", "exact_match"),
    ("tasks/mine.py", "tasks-mine-py"),
    ("tasks/mine.py@name", "tasks-mine-py-name"),
    ("../my tasks/ü.py", "my-tasks-py"),
)
def test_files_of_a_task_have_a_plain_name(task: str, stem: str) -> None:
    """No slash, no space; ready-made tasks as ever."""
    assert task_file_stem(task) == stem
    assert evaluation_name(task, "epoch_0") == f"{stem}_epoch_0"


def test_a_record_counts_for_the_task_that_it_is_of() -> None:
    """And for none that is no longer asked for."""
    config = replace(CONFIG, tasks=(OWN,))
    record = EvaluationRecord(
        experiment="e",
        run="r",
        task=OWN.name,
        checkpoint="base",
        log="x.eval",
        log_sha256="0",
        adapter_sha256=None,
        base_sha256="a" * 64,
        data_sha256="0",
        settings_sha256=settings_sha256(config, OWN),
        decoding="greedy",
        seconds=1.0,
        samples=(),
    )
    assert is_current(record, config, None)
    assert not is_current(record, CONFIG, None)
    assert not is_current(replace(record, task="capitalization"), config, None)


def test_scores_of_before_are_still_read(tmp_path: Path) -> None:
    """Without repeats, stops, values and what else came later."""
    place = tmp_path / "eval"
    place.mkdir()
    (place / "capitalization_base.eval").write_bytes(b"log")
    sample = {"id": "test-0", "target": "A", "output": "a", "exact": False, "match": False, "error": None}
    record = {
        "schema_version": 1, "experiment": "e", "run": "r", "task": "capitalization", "checkpoint": "base",
        "log": "capitalization_base.eval", "log_sha256": "0", "adapter_sha256": None, "base_sha256": "a" * 64,
        "data_sha256": "c" * 64, "settings_sha256": HASH_OF_BEFORE, "decoding": "greedy", "seconds": 1.5,
        "samples": [sample],
    }  # fmt: skip
    (place / "capitalization_base.scores.json").write_text(json.dumps(record))
    (found,) = read_evaluations(tmp_path)
    assert is_current(found, CONFIG, None)
    assert (found.repeats, found.score) == (1, "exact match")
    assert (found.samples[0].repeat, found.samples[0].stop, found.samples[0].score) == (0, None, 0.0)
    assert found.samples[0].cluster is None


def test_an_eval_yaml_of_before_is_still_read() -> None:
    """Its form has grown by keys that have defaults."""
    document = json.loads(TypeAdapter(ev.EvaluationConfig).dump_json(CONFIG))
    for key in ("tasks", "no_op"):
        document.pop(key)
    for key in ("tasks", "temperature", "top_p", "repeats", "seed", "max_error_rate", "cluster"):
        document["evaluate"].pop(key)
    assert TypeAdapter(ev.EvaluationConfig).validate_json(json.dumps(document), strict=True) == CONFIG


def test_a_task_file_is_hashed_and_never_run(tmp_path: Path) -> None:
    """It would write a file if it were."""
    path = tmp_path / "tasks" / "mine.py"
    path.parent.mkdir()
    path.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).write_text('')\n{TASK}")
    found = resolve_task("tasks/mine.py", tmp_path)
    assert (found.name, found.file, found.function, found.lines) == ("tasks/mine.py", str(path), None, 9)
    assert resolve_task("tasks/mine.py@words", tmp_path).function == "words"
    before = found.sha256
    path.write_text(path.read_text() + "\n")
    assert resolve_task("tasks/mine.py", tmp_path).sha256 != before
    assert not (tmp_path / "ran").exists()


@parametrize(
    "name, text, words",
    ("mine.py", None, "does not exist"),
    ("mine.txt", "", "no task 'mine.txt'"),
    ("tasks/", None, "not a Python file"),
    ("mine.py", "def f(:\n", "line 1"),
    ("mine.py", "\x00", "mine.py"),
    ("mine.py", "x = 1\n", "no Inspect task"),
    ("mine.py@wrods", TASK, "no task 'wrods'"),
    ("mine.py", TASK + TASK.partition("\n\n\n")[2].replace("words", "more"), "2 tasks"),
    ("mine.py@", "x = 1\n", "no Inspect task"),
    ("mine.py", "(" * 5000, "mine.py"),
)
def test_a_task_file_that_cannot_work_is_told_first(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    """A missing file, no Python, no such task: all in words."""
    if text is not None:
        (tmp_path / name.partition("@")[0]).write_text(text)
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        resolve_task(name, tmp_path)


def test_what_another_module_may_bring_is_left_to_the_evaluation(tmp_path: Path) -> None:
    """The name may come from there; decorators may have a name of their own."""
    (tmp_path / "mine.py").write_text("from helpers import *\n")
    assert resolve_task("mine.py@anything", tmp_path).function == "anything"
    (tmp_path / "own.py").write_text(TASK.replace("@task\n", '@task(name="given")\n'))
    assert resolve_task("own.py@given", tmp_path).function == "given"
    with pytest.raises(InputError, match="no task 'words'"):
        resolve_task("own.py@words", tmp_path)


def test_ready_made_tasks_are_known_by_their_names(tmp_path: Path) -> None:
    """A near miss gets a hint."""
    assert resolve_task("number", tmp_path) == ev.EvaluationTask(name="number")
    assert not is_task_file("number")
    with pytest.raises(InputError, match="exakt"):
        resolve_task("exakt_match", tmp_path)


@parametrize("rate, answers, allowed", (0, 10, 0), (0.29, 100, 29), (0.2, 5, 1), (0.3, 5, 1), (1, 7, 7), (0.1, 0, 0))
def test_a_share_of_errors_is_whole_answers(rate: float, answers: int, allowed: int) -> None:
    """As a person counts, not as binary fractions do."""
    assert ev.errors_allowed(rate, answers) == allowed


def test_a_key_in_the_wrong_place_is_told_its_own() -> None:
    """`labels` and `metric` belong under `evaluate`."""
    for text in ("labels: [a, b]", "data: {path: d.json, labels: [a, b]}"):
        caught = refusal(
            read_experiment,
            f"name: n\nmodels: [m]\ndata: {{path: d.json}}\n{text}\n".replace("data: {path: d.json}\ndata:", "data:"),
            "experiment.yaml",
        )
        assert [finding.hint for finding in caught.findings] == ["did you mean 'evaluate.labels'?"]
