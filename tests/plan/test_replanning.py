"""What a plan says of its design, of what changed since the last plan, and of what each run may take."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from shutil import rmtree

import pytest
from tests.api.folders import EXPERIMENT
from tests.run.made_plans import GPU, made_control, made_plan, made_run
from tests.tiny_model import write_tiny_words

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.core.estimate import MemoryVerdict
from touchline.core.levels import Level
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.identity import RunMark
from touchline.plan.notes import design_line
from touchline.plan.sections import revision_text, runs_plan_markdown, sections

pytestmark = pytest.mark.planning


def _plan(conditions: list[dict[str, str]], seeds: int = 1) -> Plan:
    runs: list[PlannedRun] = []
    for number, (condition, seed) in enumerate(product(conditions, range(seeds))):
        levels = tuple(Level(factor=factor, value=value) for factor, value in condition.items())
        extra = (Level(factor="seeds", value=str(seed)),) if seeds > 1 else ()
        runs.append(replace(made_run(f"run{number}"), levels=(*levels, *extra)))
    factors: dict[str, dict[str, None]] = {}
    for run in runs:
        for level in run.levels:
            factors.setdefault(level.factor, {})[level.value] = None
    return replace(made_plan(*runs, made_control()), factors={name: tuple(levels) for name, levels in factors.items()})


def test_the_design_sentence_counts_what_is_crossed() -> None:
    """Settings that vary together are one factor: the numbers before the word factorial multiply to the conditions."""
    pairs = [{"models": f"m{i}", "train.learning_rate": f"{r}"} for i, r in enumerate((1, 1, 2, 2, 3, 3))]
    crossed = [{**pair, "rank": rank, "data": data} for pair in pairs for rank in "48" for data in "ab"]
    line = design_line(_plan(crossed))
    assert line.startswith("6 x 2 x 2 factorial (models, rank, data); train.learning_rate varies with models; 24 fine-")
    assert design_line(_plan(pairs)) == (
        "6 levels of models; train.learning_rate varies with models; 6 fine-tuned + 1 control = 7 runs"
    )
    tied = [{"rank": rank, "alpha": str(2 * int(rank))} for rank in ("4", "8")]
    assert design_line(_plan(tied)).startswith("2 levels of rank; alpha varies with rank; 2 fine-tuned")
    full = [{"rank": rank, "rate": rate} for rank in "48" for rate in "123"]
    assert design_line(_plan(full, seeds=2)).startswith("2 x 3 factorial (rank, rate), 2 seeds each; 12 fine-tuned")
    assert design_line(_plan(full[:-1])).startswith("5 conditions of rank, rate, not fully crossed; 5 fine-tuned")
    assert design_line(_plan([{"rank": "4"}])).startswith("one condition; 1 fine-tuned")


def test_memory_is_a_share_of_the_machine_and_jobs_have_time_limits(tiny: tuple[Path, UserConfig]) -> None:
    folder, settings = tiny
    plan = api.plan(folder, settings, dry_run=True).plan
    whole = Quantity(value=80.0, unit="GiB")
    run = plan.runs[0]
    process = replace(run.memory.process, value=40.0, low=38.0, high=42.0)
    half = replace(run, memory=replace(run.memory, process=process))
    on_gpu = replace(plan, runs=(half,), machine=replace(GPU, memory=whole))
    (runs,) = sections(on_gpu, ["runs"])
    memory = str(runs.tables[0].rows[0][5])
    assert "40 GiB (38 to 42), 50%, " in memory
    assert any(verdict.value in memory for verdict in MemoryVerdict)
    assert not [each for each in sections(plan) if each.title == "Time limits" and each.tables]
    cluster = made_plan(compute=ComputeConfig(executor="slurm"))
    text = runs_plan_markdown(cluster)
    assert "## Time limits" in text
    assert "1:30:00" in text, "5,400 s"


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, UserConfig]:
    write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")
    folder = tmp_path / "e"
    folder.mkdir()
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(ranks="[2, 4]"))
    write_tiny_words(folder / "data" / "words.json", 40, 8, 12)
    base = tmp_path / "here"
    return folder, UserConfig(models_dir=tmp_path / "models", cache_dir=base / "cache", history_dir=base / "history")


def test_planning_again_tells_done_new_and_removed(tiny: tuple[Path, UserConfig]) -> None:
    folder, settings = tiny
    first = api.plan(folder, settings)
    api.prepare(folder, settings)
    assert not first.marks
    again = api.plan(folder, settings)
    assert set(again.marks.values()) == {RunMark.TO_DO}
    assert len(again.plan.revisions) == 1, "nothing changed, so nothing is revised"
    names = [run.name for run in first.plan.runs]
    (folder / names[0] / "training.json").write_text("{}")
    (folder / names[0] / "eval").mkdir(exist_ok=True)
    (folder / names[0] / "eval" / "a.eval").write_text("")
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(ranks="[2, 8]"))
    last = api.plan(folder, settings)
    new = [run.name for run in last.plan.runs if run.name not in names]
    assert last.marks[names[0]] is RunMark.DONE
    assert [name for name, mark in last.marks.items() if mark is RunMark.NEW] == new
    revision = last.plan.revisions[-1]
    assert (revision.new, revision.removed) == (tuple(new), (names[1],))
    assert revision_text(revision) == f"new: {new[0]}; removed: {names[1]}"
    assert f"new: {new[0]}; removed: {names[1]}" in (folder / "runs_plan.md").read_text().replace("\\_", "_")
    assert any(f"folder kept and not reported: {names[1]}" in note for note in last.notes)
    rmtree(folder / names[0])
    assert (
        f"the folder of {names[0]} is gone, with its results: the run starts again" in api.plan(folder, settings).notes
    )


def test_a_revision_without_changed_runs_says_so() -> None:
    plan = _plan([{"rank": "4"}])
    from touchline.plan.identity import replanned, revise

    first = revise(None, plan, date="2026-01-01", reason="planned")
    second = revise(first, replace(plan, evidence=("a run",)), date="2026-01-02", reason="re-planned")
    assert revision_text(second.revisions[-1]) == "no run changed; predictions were updated"
    shorter = replace(plan, runs=tuple(replace(run, digest="other", seed=run.seed + 1) for run in plan.runs))
    assert replanned(plan, shorter) == "re-planned from the same experiment.yaml: the seed changed"
    assert replanned(plan, replace(shorter, experiment_sha256="other")) == "re-planned"
