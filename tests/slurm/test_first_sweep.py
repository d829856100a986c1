"""docs/guides/first-sweep-on-slurm.md on a real SLURM, through torchtune, with a model that a CPU can train."""

import json

import pytest
from tests.slurm.test_run_on_slurm import ON_SLURM, Site, site, until
from tests.tiny_model import write_tiny_words
from tests.trainer_environments import require_trainer

from touchline.data.machine import cpu_name

__all__ = ["site"]
pytestmark = [pytest.mark.slurm, pytest.mark.thorough]
INIT = ("--task", "capitalization", "--model", "Tiny-1M-Instruct", "--vary", "rank=2,4", "--trainer", "torchtune")


def test_from_a_question_to_a_report_through_torchtune(site: Site) -> None:
    """init, check, plan, prepare, submit one, submit all, status, collect, report: torchtune's own runs, evaluated."""
    require_trainer("torchtune")
    words = write_tiny_words(site.root / "words.json", 48, 8, 8)
    folder = site.root / "sweep"
    target = ("--executor", "slurm", "--gpu", "cpu", "--epochs", "2", "--seeds", "1")
    site.call("init", folder, *INIT, *target, "--data", str(words), "--yes")
    site.call("check", folder)
    plan = site.call("plan", folder, ON_SLURM, "--show", "design").stdout
    assert "lora_finetune_single_device" in plan
    site.call("prepare", folder)
    site.call("submit", folder, "--run", "1M_rank2")
    site.call("submit", folder, "--yes")
    until(lambda: {run["status"] for run in site.json("status", folder)["runs"]} == {"completed"})
    site.call("collect", folder)
    site.call("report", folder)
    assert (folder / "report.html").is_file()
    runs = {run["name"]: run for run in site.json("results", folder)["runs"]}
    assert set(runs) == {"1M_rank2", "1M_rank4", "1M_base"}
    assert all(run["evaluations"] for run in runs.values())
    for name in ("1M_rank2", "1M_rank4"):
        assert "tune run" in (folder / name / "finetune.yaml").read_text()
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        assert sum("loss" in row for row in rows) >= 12
        # The name by which times are looked up: the next plan counts on this run's steps.
        assert rows[0]["device"] == cpu_name()
