"""Controls from experiment.yaml to the results: planned, trained, evaluated and compared."""

import json
from pathlib import Path

import pytest
from tests.api.folders import CHAIN, EXPERIMENT, environment, make_chain, make_experiment, touchline
from tests.cases import refusal

from touchline import api
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.experiment.runs import ControlKind, RunKind
from touchline.lint.local.inputs import errors_of
from touchline.run.scripts.experiment import wanted_checkpoints

PLAIN = EXPERIMENT.format(ranks="[2, 4]")
CONTROLLED = PLAIN.replace("controls: [base]", "controls: [base, noop, shuffled]")


def make(folder: Path, text: str, *, n_train: int = 40) -> Path:
    make_experiment(folder, n_train=n_train)
    (folder / "experiment.yaml").write_text(text)
    return folder


def planned(folder: Path, settings: UserConfig, text: str = CONTROLLED) -> Plan:
    return api.plan(make(folder, text), settings).plan


def run_of(plan: Plan, name: str) -> PlannedRun:
    found = plan.run(name)
    assert found is not None
    return found


@pytest.mark.planning
def test_controls_change_nothing_else_of_a_plan(tmp_path: Path, settings: UserConfig) -> None:
    """Equal digests: adding a control later trains nothing again."""
    plain, controlled = planned(tmp_path / "a", settings, PLAIN), planned(tmp_path / "b", settings)
    before = {run.name: run.digest for run in plain.runs}
    after = {run.name: run.digest for run in controlled.runs}
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"1M_noop", "1M_shuffled"}
    assert len(set(after.values())) == len(after)


@pytest.mark.planning
def test_a_shuffled_run_is_planned_like_the_run_that_it_controls(tmp_path: Path, settings: UserConfig) -> None:
    """The same training, order and tokens in all; only which answer stands behind which prompt differs."""
    plan = planned(tmp_path, settings)
    first, shuffled = run_of(plan, "1M_rank2"), run_of(plan, "1M_shuffled")
    assert (shuffled.kind, shuffled.control) == (RunKind.FINE_TUNED, ControlKind.SHUFFLED)
    assert (shuffled.train, shuffled.data, shuffled.seed) == (first.train, first.data, first.seed)
    assert first.batches is not None
    assert shuffled.batches is not None
    assert shuffled.batches.digest == first.batches.digest
    assert shuffled.batches.real_tokens == first.batches.real_tokens
    assert shuffled.digest != first.digest


@pytest.mark.planning
def test_a_no_op_control_has_the_first_adapters_shape(tmp_path: Path, settings: UserConfig) -> None:
    """It trains nothing, and is evaluated at a checkpoint of its own."""
    plan = planned(tmp_path, settings)
    noop, base = run_of(plan, "1M_noop"), run_of(plan, "1M_base")
    assert (noop.kind, noop.train, noop.batches) == (RunKind.CONTROL, None, None)
    assert noop.no_op is not None
    assert noop.no_op.rank == 2
    assert (base.no_op, base.control) == (None, ControlKind.BASE)
    assert (wanted_checkpoints(noop), wanted_checkpoints(base)) == (["noop"], ["base"])


@pytest.mark.planning
def test_another_adapters_shape_is_another_no_op_control(tmp_path: Path, settings: UserConfig) -> None:
    """The base's digest does not hold it."""
    one = planned(tmp_path / "a", settings)
    other = planned(tmp_path / "b", settings, CONTROLLED.replace("[2, 4]", "[3, 4]"))
    assert run_of(one, "1M_noop").digest != run_of(other, "1M_noop").digest
    assert run_of(one, "1M_base").digest == run_of(other, "1M_base").digest


@pytest.mark.planning
def test_each_control_has_the_files_that_it_needs(tmp_path: Path, settings: UserConfig) -> None:
    """And is counted apart from what is asked about."""
    planned(tmp_path, settings)
    assert "2 fine-tuned + 3 controls = 5 runs" in (tmp_path / "runs_plan.md").read_text()
    api.prepare(tmp_path, settings)
    config = (tmp_path / "1M_shuffled" / "finetune.yaml").read_text()
    assert "shuffled_labels: true" in config
    assert "shuffled_labels" not in (tmp_path / "1M_rank2" / "finetune.yaml").read_text()
    assert not (tmp_path / "1M_noop" / "finetune.yaml").exists()


@pytest.mark.planning
def test_a_chain_of_shuffled_stages_goes_on_from_itself(tmp_path: Path, settings: UserConfig) -> None:
    """Its second stage's digest holds the shuffled first one."""
    make_chain(tmp_path, CHAIN.replace("controls: [base]", "controls: [base, shuffled]"))
    plan = api.plan(tmp_path, settings).plan
    easy, hard = run_of(plan, "1M_shuffled_easy"), run_of(plan, "1M_shuffled_hard")
    assert hard.link is not None
    assert hard.link.parent == easy.name
    assert hard.digest != run_of(plan, "1M_rank4_hard").digest
    assert easy.digest != run_of(plan, "1M_rank4_easy").digest


@pytest.mark.planning
def test_a_long_prompt_with_a_long_answer_is_told_before_anything_runs(tmp_path: Path, settings: UserConfig) -> None:
    """As they stand the rows fit; dealt out anew, one may not."""
    make(tmp_path, PLAIN)
    path = tmp_path / "data" / "words.json"
    rows = json.loads(path.read_text())
    # The longest prompt has the shortest answer, so that whatever it is dealt is longer.
    longest = max(rows["train"], key=lambda row: len(row["input"]))
    longest |= {"input": longest["input"] * 3, "output": "A"}
    path.write_text(json.dumps(rows))
    batches = run_of(api.plan(tmp_path, settings).plan, "1M_rank2").batches
    assert batches is not None
    tight = f"max_seq_len: {batches.longest_example_tokens}"
    (tmp_path / "experiment.yaml").write_text(PLAIN.replace("max_seq_len: 128", tight))
    api.plan(tmp_path, settings)
    (tmp_path / "experiment.yaml").write_text(CONTROLLED.replace("max_seq_len: 128", tight))
    (finding,) = errors_of(refusal(api.plan, tmp_path, settings).findings)
    assert (finding.code, finding.subject, finding.runs) == ("DA201", "train.max_seq_len", ("1M_shuffled",))
    assert "with shuffled answers" in finding.message


@pytest.mark.slow
def test_controls_are_trained_evaluated_and_compared(tmp_path: Path, settings: UserConfig) -> None:
    """The whole way, as a person types it; a second time nothing is left to do."""
    text = CONTROLLED.replace("[2, 4]", "[4]").replace("epochs: 2", "epochs: 1")
    folder = make(tmp_path / "tiny", text)
    env = environment(settings.models_dir, settings.cache_dir)
    done = touchline("run", str(folder), env=env)
    assert done.returncode == 0, done.stderr
    results = {result.name: result for result in api.results(folder)}
    assert {name: result.control for name, result in results.items()} == {
        "1M_rank4": None,
        "1M_shuffled": ControlKind.SHUFFLED,
        "1M_base": ControlKind.BASE,
        "1M_noop": ControlKind.NO_OP,
    }
    assert all(len(result.evaluations) == 1 for result in results.values())
    noop, base = results["1M_noop"].evaluations[0], results["1M_base"].evaluations[0]
    assert noop.checkpoint == "noop"
    assert noop.samples == base.samples
    assert [item.name for item in results["1M_noop"].checkpoints] == ["noop"]
    plain, shuffled = results["1M_rank4"], results["1M_shuffled"]
    assert plain.train_losses != shuffled.train_losses
    assert plain.validation_losses[0] == shuffled.validation_losses[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.scores.json")}
    again = touchline("run", str(folder), env=env)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.scores.json")} == before
