"""Planning a chain: what it says, what its digests hold, and what follows for a stage when its parent changes."""

from pathlib import Path

import pytest
from tests.api.folders import CHAIN, make_chain
from tests.cases import refusal

from touchline import api
from touchline.core.errors import PlanDriftError
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.lint.local.inputs import errors_of

pytestmark = pytest.mark.planning

EASY, HARD = "1M_rank4_easy", "1M_rank4_hard"


def planned(folder: Path, settings: UserConfig, text: str = CHAIN, **options: bool) -> Plan:
    make_chain(folder, text)
    return api.plan(folder, settings, **options).plan  # type: ignore[arg-type]


def digests(plan: Plan) -> dict[str, str]:
    return {run.name: run.digest for run in plan.runs}


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
