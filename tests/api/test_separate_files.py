"""Plans of stages and of data in files of their own: digests, files and what is refused."""

import json
import random
import shutil
import string
from pathlib import Path

import pytest
import yaml
from tests.api.folders import CHAIN, environment, make_chain, touchline
from tests.cases import refusal

from touchline import api
from touchline.core.errors import PlanDriftError
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.lint.local.inputs import errors_of
from touchline.run.jobs import evaluation_jobs, training_jobs
from touchline.run.loaded_plan import read_started

pytestmark = pytest.mark.planning


SEPARATE = """\
name: lengths
question: Does training on longer words help?
task: capitalization
models: [Tiny-1M-Instruct]
data:
  train: data/train_5.json
  validation: data/validation.json
  test: {5L: data/test_5.json, 9L: data/test_9.json}
train: {epochs: 1, global_batch_size: 8, learning_rate: 1e-2, max_seq_len: 128, lora: {rank: 4}}
factors:
  data.train: [data/train_5.json, data/train_9.json]
controls: [base]
evaluate: {batch_size: 8, max_new_tokens: 12}
compute: {gpus_per_run: 0}
"""
FIRST, SECOND, BASE = "1M_rank4_train5", "1M_rank4_train9", "1M_base"


def words(count: int, length: int, seed: int) -> list[dict[str, str]]:
    generator = random.Random(f"{seed} {length}")
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(generator.choices(string.ascii_lowercase, k=length))] = None
    return [{"input": word, "output": word.capitalize()} for word in found]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


def make_separate(folder: Path, text: str = SEPARATE) -> Path:
    """Write the experiment's folder with its data; nothing is planned yet."""
    for length in (5, 9):
        rows = words(52, length, 0)
        write(folder / "data" / f"train_{length}.json", rows[:40])
        write(folder / "data" / f"test_{length}.json", rows[40:])
    write(folder / "data" / "validation.json", words(8, 7, 0))
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    return folder


def digests(plan: Plan) -> dict[str, str]:
    return {run.name: run.digest for run in plan.runs}


def test_a_training_file_names_its_runs_and_the_base_is_evaluated_once(settings: UserConfig, tmp_path: Path) -> None:
    plan = api.plan(make_separate(tmp_path), settings).plan
    assert [run.name for run in plan.runs] == [FIRST, SECOND, BASE]
    assert [run.dataset for run in plan.runs[:2]] == ["data/train_5.json", "data/train_9.json"]
    assert [level.factor for level in plan.runs[2].levels] == ["models"]
    info = plan.datasets["data/train_9.json"]
    assert [(file.key, file.path) for file in info.files] == [
        ("data.train", "data/train_9.json"),
        ("data.validation", "data/validation.json"),
        ("data.test.5L", "data/test_5.json"),
        ("data.test.9L", "data/test_9.json"),
    ]
    assert [(each.name, each.num_examples) for each in info.test_sets] == [("5L", 12), ("9L", 12)]
    text = (tmp_path / "runs_plan.md").read_text(encoding="utf-8")
    for file in (file for each in plan.datasets.values() for file in each.files):
        assert file.sha256[:12] in text
    names = api.plan(make_separate(tmp_path, SEPARATE + "run_names: 'on_{data}'\n"), settings).plan.runs
    assert [run.name for run in names[:2]] == ["on_train5", "on_train9"]


def test_a_run_folder_has_the_files_that_its_training_reads(settings: UserConfig, tmp_path: Path) -> None:
    api.plan(make_separate(tmp_path), settings)
    api.prepare(tmp_path, settings)
    training = yaml.safe_load((tmp_path / SECOND / "finetune.yaml").read_text("utf-8"))["data"]
    evaluation = yaml.safe_load((tmp_path / SECOND / "eval.yaml").read_text("utf-8"))["data"]
    own = yaml.safe_load((tmp_path / SECOND / "setup_finetune.yaml").read_text("utf-8"))["data"]
    assert (training["train"], training["validation"]) == ("../data/train_9.json", "../data/validation.json")
    assert evaluation["test"] == {"5L": "../data/test_5.json", "9L": "../data/test_9.json"}
    assert own["test"] == {"5L": "data/test_5.json", "9L": "data/test_9.json"}
    # A test file is no part of a training, and no split is made.
    assert not {"path", "test", "train_fraction", "split_seed"} & training.keys()
    assert not {"path", "train_fraction", "split_seed"} & own.keys()


def test_a_moved_folder_has_the_same_plan(settings: UserConfig, tmp_path: Path) -> None:
    before = api.plan(make_separate(tmp_path / "a"), settings).plan
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert str(tmp_path) not in json.dumps(json.loads((tmp_path / "b" / "plan.json").read_text("utf-8"))["datasets"])
    assert digests(api.plan(tmp_path / "b", settings).plan) == digests(before)


def test_files_outside_the_folder_are_found_from_a_run(settings: UserConfig, tmp_path: Path) -> None:
    folder = make_separate(tmp_path / "exp")
    shutil.move(folder / "data", tmp_path / "data")
    (folder / "experiment.yaml").write_text(SEPARATE.replace("data/", "../data/"), encoding="utf-8")
    api.plan(folder, settings)
    api.prepare(folder, settings)
    training = yaml.safe_load((folder / FIRST / "finetune.yaml").read_text("utf-8"))["data"]
    assert (folder / FIRST / training["train"]).samefile(tmp_path / "data" / "train_5.json")
    assert (folder / FIRST / training["validation"]).samefile(tmp_path / "data" / "validation.json")


@pytest.mark.parametrize(
    ("file", "changes"),
    [("train_9.json", {SECOND}), ("validation.json", {FIRST, SECOND}), ("test_5.json", set()), ("test_9.json", set())],
)
def test_other_content_of_a_file_changes_the_trainings_that_read_it(
    settings: UserConfig, tmp_path: Path, file: str, changes: set[str]
) -> None:
    before = api.plan(make_separate(tmp_path), settings).plan
    write(tmp_path / "data" / file, words(12, 11, 3))
    after = api.plan(tmp_path, settings).plan
    changed = {name for name, digest in digests(before).items() if digests(after)[name] != digest}
    assert changed - {BASE} == changes
    assert json.loads((tmp_path / "plan.json").read_text("utf-8"))["datasets"] != {}
    hashes = [[file.sha256 for file in plan.datasets["data/train_9.json"].files] for plan in (before, after)]
    assert sum(one != other for one, other in zip(*hashes, strict=True)) == 1


def test_a_further_test_set_changes_no_training(settings: UserConfig, tmp_path: Path) -> None:
    before = api.plan(make_separate(tmp_path), settings).plan
    write(tmp_path / "data" / "test_11.json", words(5, 11, 0))
    text = SEPARATE.replace("9L: data/test_9.json", "9L: data/test_9.json, 11L: data/test_11.json")
    (tmp_path / "experiment.yaml").write_text(text, encoding="utf-8")
    after = api.plan(tmp_path, settings).plan
    assert {name: digests(after)[name] for name in (FIRST, SECOND)} == {
        name: digests(before)[name] for name in (FIRST, SECOND)
    }


@pytest.mark.parametrize(("file", "key"), [("train_9.json", "data.train"), ("validation.json", "data.validation")])
def test_a_started_run_refuses_another_file_by_its_key(
    settings: UserConfig, tmp_path: Path, file: str, key: str
) -> None:
    api.plan(make_separate(tmp_path), settings)
    api.prepare(tmp_path, settings)
    (tmp_path / SECOND / "metrics.jsonl").write_text("", encoding="utf-8")
    write(tmp_path / "data" / file, words(40, 11, 3))
    with pytest.raises(PlanDriftError, match=f"the file of {key} changed"):
        api.plan(tmp_path, settings)


def test_a_training_file_has_one_validation_file(settings: UserConfig, tmp_path: Path) -> None:
    levels = "data.train: [data/train_5.json, data/train_9.json]"
    text = SEPARATE.replace(levels, "data.validation: [data/validation.json, data/test_9.json]")
    caught = refusal(api.plan, make_separate(tmp_path, text.replace(", 9L: data/test_9.json", "")), settings)
    said = "is used with data/validation.json and with data/test_9.json"
    assert any(each.code == "EX003" and said in each.message for each in caught.findings)


def test_without_test_rows_trainings_are_planned_where_nothing_is_evaluated(
    settings: UserConfig, tmp_path: Path
) -> None:
    text = SEPARATE.replace("  test: {5L: data/test_5.json, 9L: data/test_9.json}\n", "")
    folder = make_separate(tmp_path, text.replace("controls: [base]\n", "").replace("{batch_size: 8", "{epochs: []"))
    plan = api.plan(folder, settings).plan
    assert [run.name for run in plan.runs] == [FIRST, SECOND]
    assert [split.name for split in plan.datasets["data/train_5.json"].splits] == ["train", "validation"]
    # No job evaluates it either: `place` refused for want of their time, and `submit` started an empty job per run.
    api.prepare(folder, settings)
    listed = (folder / "submit_all.sh").read_text(encoding="utf-8")
    assert (f"\ntrain {FIRST}" in listed, f"\nevaluate {FIRST}" in listed) == (True, False)
    planned = read_started(folder)
    assert (len(training_jobs(planned, plan.runs)), evaluation_jobs(planned, plan.runs)) == (2, [])


def test_stages_have_files_of_their_own(settings: UserConfig, tmp_path: Path) -> None:
    text = SEPARATE.replace("factors:\n  data.train: [data/train_5.json, data/train_9.json]\n", "") + (
        "stages:\n- {name: short}\n"
        "- {name: long, parent: short, continue: adapter,\n"
        "   data: {train: data/train_9.json, validation: data/validation_9.json}}\n"
    )
    write(tmp_path / "data" / "validation_9.json", words(3, 10, 0))
    plan = api.plan(make_separate(tmp_path, text), settings).plan
    counts = {run.name: [each.num_examples for each in plan.datasets[run.dataset].splits] for run in plan.runs}
    assert counts == {"1M_rank4_short": [40, 8, 12], "1M_rank4_long": [40, 3, 12], "1M_base": [40, 8, 12]}


def test_other_controls_go_with_separate_files(settings: UserConfig, tmp_path: Path) -> None:
    text = SEPARATE.replace("controls: [base]", "controls: [base, noop, shuffled]")
    plan = api.plan(make_separate(tmp_path, text), settings).plan
    assert [run.name for run in plan.runs if run.control is not None] == [
        "1M_shuffled_train5",
        "1M_shuffled_train9",
        "1M_base",
        "1M_noop",
    ]


@pytest.mark.slow
@pytest.mark.thorough
def test_a_trained_experiment_moves_publishes_reproduces_and_refuses_other_files(tmp_path: Path, models: Path) -> None:
    """Each run trains on its file and answers the first test set."""
    folder, env = make_separate(tmp_path / "lengths"), environment(models, tmp_path / "cache", tmp_path / "history")
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    answers = [row["output"] for row in json.loads((folder / "data" / "test_5.json").read_text("utf-8"))]
    for name in (FIRST, SECOND, BASE):
        scores = [json.loads(path.read_text("utf-8")) for path in (folder / name / "eval").glob("*.scores.json")]
        assert answers in [[item["target"] for item in each["samples"]] for each in scores]
    report = (folder / "RESULTS.md").read_text(encoding="utf-8")
    assert all(f"data/{file.name}" in report for file in (folder / "data").iterdir())
    copy = shutil.copytree(folder, tmp_path / "moved")
    again = touchline("run", str(copy), env=env)
    assert (again.returncode, "started" in again.stderr) == (0, False)
    published = touchline("publish", str(copy), "--run", SECOND, env=env)
    assert published.returncode == 0, published.stderr
    card = (copy / "published" / SECOND / "README.md").read_text(encoding="utf-8")
    assert all(file in card for file in ("train_9.json", "validation.json"))
    same = touchline("reproduce", str(copy), "--run", SECOND, env=env)
    assert same.returncode == 0, same.stdout + same.stderr
    for file in ("train_9.json", "validation.json", "test_5.json", "test_9.json"):
        before = (copy / "data" / file).read_text()
        write(copy / "data" / file, words(40, 11, 5))
        refused = touchline("evaluate", str(copy), env=env)
        assert refused.returncode == 3
        assert f"data/{file}" in refused.stderr
        (copy / "data" / file).write_text(before)


EASY, HARD = "1M_rank4_easy", "1M_rank4_hard"


def planned(folder: Path, settings: UserConfig, text: str = CHAIN, **options: bool) -> Plan:
    make_chain(folder, text)
    return api.plan(folder, settings, **options).plan  # type: ignore[arg-type]


def run_of(plan: Plan, name: str) -> PlannedRun:
    found = plan.run(name)
    assert found is not None
    return found


def test_the_plan_tells_the_chain(tmp_path: Path, settings: UserConfig) -> None:
    """Parents first, and who continues from whom; planning again changes nothing."""
    plan = planned(tmp_path, settings)
    assert [run.name for run in plan.runs] == [EASY, HARD, "1M_base_easy", "1M_base_hard"]
    text = (tmp_path / "runs_plan.md").read_text()
    assert f" | {EASY} (adapter, last) |" in text.replace("\\_", "_")
    again = api.plan(tmp_path, settings)
    assert not again.changed
    assert again.plan.runs == plan.runs


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("data/easy.json}}", "data/easy.json}, train: {epochs: 2}}", {EASY, HARD}),
        ("learning_rate: 5e-3", "learning_rate: 4e-3", {HARD}),
        ("continue: adapter", "continue: merge", {HARD}),
        ("continue: adapter", "continue: adapter, parent_checkpoint: best", {HARD}),
        ("question: Does it go on?", "question: Does it?", set()),
    ],
)
def test_a_changed_parent_changes_the_stage_and_never_the_other_way(
    tmp_path: Path, settings: UserConfig, old: str, new: str, changed: set[str]
) -> None:
    """A digest holds the parent's, and how it is gone on from."""
    before = digests(planned(tmp_path / "one", settings))
    after = digests(planned(tmp_path / "two", settings, CHAIN.replace(old, new)))
    assert {name for name, digest in before.items() if after[name] != digest} == changed


def test_runs_without_a_parent_have_the_digests_that_they_had(tmp_path: Path, settings: UserConfig) -> None:
    """A first stage is the training that it would be alone."""
    alone = CHAIN.split("stages:")[0].replace("data/hard.json", "data/easy.json")
    before = planned(tmp_path / "alone", settings, alone)
    after = planned(tmp_path / "chain", settings)
    assert run_of(before, "1M_rank4").digest == run_of(after, EASY).digest


def test_a_stage_that_has_started_is_not_turned_into_another_run(tmp_path: Path, settings: UserConfig) -> None:
    """What drifted is its parent, and that is said; accepted, the results of both are moved aside."""
    planned(tmp_path, settings)
    api.prepare(tmp_path, settings)
    (tmp_path / HARD / "metrics.jsonl").write_text("")
    (tmp_path / "experiment.yaml").write_text(CHAIN.replace("data/easy.json}}", "data/easy.json}, train: {epochs: 2}}"))
    with pytest.raises(PlanDriftError, match=f"{HARD}: its parent {EASY} changed"):
        api.plan(tmp_path, settings)
    plan = api.plan(tmp_path, settings, accept=True).plan
    assert set(plan.revisions[-1].runs) == {EASY, HARD}
    assert not (tmp_path / HARD / "metrics.jsonl").exists()


def test_an_accepted_edit_of_a_parent_plans_its_stages_again(tmp_path: Path, settings: UserConfig) -> None:
    """The stage's finetune.yaml asks for the parent's new digest."""
    before = digests(planned(tmp_path, settings))
    api.prepare(tmp_path, settings)
    setup = tmp_path / EASY / "setup_finetune.yaml"
    setup.write_text(setup.read_text().replace("epochs: 1", "epochs: 3"))
    api.prepare(tmp_path, settings, run=EASY, accept=True)
    api.prepare(tmp_path, settings)
    plan = api.plan(tmp_path, settings).plan
    after = digests(plan)
    assert {name for name in before if before[name] != after[name]} == {EASY, HARD}
    assert f'run_digest: "{after[EASY]}"' in (tmp_path / HARD / "finetune.yaml").read_text().split("parent:")[1]


def test_an_edit_that_reshapes_a_parents_adapter_is_refused(tmp_path: Path, settings: UserConfig) -> None:
    """The stage would train an adapter further that has another shape."""
    planned(tmp_path, settings)
    api.prepare(tmp_path, settings)
    setup = tmp_path / EASY / "setup_finetune.yaml"
    setup.write_text(setup.read_text().replace("rank: 4", "rank: 2"))
    caught = refusal(api.prepare, tmp_path, settings, run=EASY, accept=True)
    assert {finding.code for finding in errors_of(caught.findings)} == {"EX128"}


def test_finetune_yaml_names_the_parent(tmp_path: Path, settings: UserConfig) -> None:
    """By folder and digest; a run that starts from the base model has no such key."""
    plan = planned(tmp_path, settings)
    api.prepare(tmp_path, settings)
    text = (tmp_path / HARD / "finetune.yaml").read_text()
    assert text.split("parent:")[1].split("\n  ")[1:] == [
        f'run: "{EASY}"',
        f'folder: "../{EASY}"',
        f'run_digest: "{run_of(plan, EASY).digest}"',
        'continue: "adapter"',
        'checkpoint: "last"\n',
    ]
    assert "parent" not in (tmp_path / EASY / "finetune.yaml").read_text()


def test_faults_of_stages_stop_a_plan_all_at_once_whatever_is_allowed(tmp_path: Path, settings: UserConfig) -> None:
    """Each with its line; nothing is planned from the base model instead."""
    broken = CHAIN.replace("parent: easy", "parent: esay") + "allow: [EX121, EX121]\n"
    broken = broken.replace("controls:", "  - {name: third, parent: hard}\ncontrols:")
    caught = refusal(planned, tmp_path, settings, broken)
    found = {(each.code, each.where.line if each.where else None) for each in errors_of(caught.findings)}
    assert found == {("EX121", 15), ("EX121", 16)}
    assert not (tmp_path / "plan.json").exists()


def test_a_level_that_a_stage_overrides_may_not_reshape_the_adapter(tmp_path: Path, settings: UserConfig) -> None:
    """Seen only when levels and stages come together."""
    text = CHAIN.replace("train: {learning_rate: 5e-3}", "train: {lora: {rank: 4}}")
    (finding,) = errors_of(refusal(planned, tmp_path, settings, text + "factors: {train.lora.rank: [4, 2]}\n").findings)
    assert (finding.code, finding.where and finding.where.line) == ("EX128", 15)


def test_the_whole_takes_no_less_than_its_longest_chain(tmp_path: Path, settings: UserConfig) -> None:
    """However many devices there are, a stage waits for the one before it."""
    plan = planned(tmp_path, settings)
    chain = [run.train_seconds for run in plan.runs if run.train is not None]
    assert isinstance(plan.wall_seconds, Quantity)
    assert all(isinstance(each, Quantity) for each in chain)
    assert plan.wall_seconds.value >= sum(each.value for each in chain if isinstance(each, Quantity))


def test_a_checkpoint_after_a_merge_holds_both_adapters(tmp_path: Path, settings: UserConfig) -> None:
    """Disk is planned for what is saved: the trained adapter by itself, and all of them together."""
    plan = planned(tmp_path, settings, CHAIN.replace("continue: adapter", "continue: merge"))
    easy, hard = (run_of(plan, name).disk for name in (EASY, HARD))
    assert isinstance(easy, Quantity)
    assert isinstance(hard, Quantity)
    assert hard.value > easy.value
