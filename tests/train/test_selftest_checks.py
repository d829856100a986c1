"""`touchline selftest` on a CPU: all checks pass, a wrong mask fails, and the next plan uses what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from pydantic import TypeAdapter
from tests.tiny_model import write_tiny_words

from touchline import api
from touchline.cli.selftesting import show_report
from touchline.core.quantity import Missing, Quantity
from touchline.data.user_config import UserConfig, load_settings
from touchline.history.selftest import NodeCheck, Section, SelftestReport, StepCheck, Verdict
from touchline.run.probe_run import unmeasured
from touchline.train.selftest_checks import Checks

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "reference" / "schemas" / "selftest.schema.json"
EXPERIMENT = """
name: after_selftest
task: capitalization
models: [{model}]
data: {{path: words.json}}
train: {{global_batch_size: 8, max_seq_len: 128, packed: false, lora: {{rank: 16}}}}
"""


@dataclass(frozen=True)
class Ran:
    """The command, run once."""

    stdout: str
    stderr: str
    code: int
    settings: UserConfig

    @property
    def report(self) -> SelftestReport:
        return TypeAdapter(SelftestReport).validate_json(self.stdout)


@pytest.fixture(scope="module")
def ran(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    home = tmp_path_factory.mktemp("home")
    environment = {
        **os.environ,
        "HOME": str(home),
        "TOUCHLINE_HISTORY_DIR": str(home / "history"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    words = ["selftest", "--quick", "--json", "--model", str(tiny_model)]
    done = subprocess.run(
        [sys.executable, "-m", "touchline.cli.main", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    settings = UserConfig(models_dir=tiny_model.parent, cache_dir=home / "cache", history_dir=home / "history")
    return Ran(stdout=done.stdout, stderr=done.stderr, code=done.returncode, settings=settings)


@pytest.mark.thorough
def test_every_check_passes_on_a_cpu_and_a_gpus_are_not_run(ran: Ran) -> None:
    report = ran.report
    assert [(check.name, check.message) for check in report.checks if check.verdict is Verdict.FAILED] == []
    assert (ran.code, report.failed, report.quick) == (0, 0, True)
    names = [check.name for check in report.checks]
    assert names[: len(StepCheck)] == list(StepCheck)
    assert {check.section for check in report.checks} == set(Section)
    reasons = {check.name: check.reason for check in report.checks if check.verdict is Verdict.NOT_RUN}
    assert reasons["largest micro-batch"] == Missing(missing="needs a GPU")
    resumed = _named(report, StepCheck.RESUME)
    assert resumed.message == "equal byte for byte"


@pytest.mark.thorough
def test_figures_of_steps_memory_and_speed_have_units_and_estimates(ran: Ran) -> None:
    report = ran.report
    loss, gradient = (_number(report, StepCheck.LLAMA_FLOAT32, name) for name in ("loss", "gradient"))
    assert 0 <= loss.value < 1e-4
    assert 0 < gradient.value < 0.1
    memory = [check for check in report.checks if check.section is Section.MEMORY and check.verdict is Verdict.OK]
    assert len(memory) == 2
    for check in memory:
        measured, estimated = check.figures["process"], check.estimates["process"]
        assert isinstance(measured, Quantity)
        assert isinstance(estimated, Quantity)
        assert measured.unit == estimated.unit == "GiB"
        assert estimated.low is not None
        assert estimated.low <= estimated.value
    speed = [check for check in report.checks if check.section is Section.SPEED]
    assert [check.name for check in speed] == [
        f"Tiny-Instruct, {timed}" for timed in ("short", "short, 4 side by side", "packed 192")
    ]
    for check in speed:
        rate = check.figures["speed"]
        assert isinstance(rate, Quantity)
        assert (rate.unit, rate.token_unit) == ("tokens/s", "real")
        assert rate.value > 0
        assert check.figures["MFU"] == Missing(missing="the peak of a CPU is not known")


@pytest.mark.thorough
def test_the_json_is_as_its_schema_says(ran: Ran) -> None:
    Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(json.loads(ran.stdout))
    assert "selftest: started" in ran.stderr


@pytest.mark.thorough
def test_the_text_has_a_line_per_check_in_eighty_columns(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    show_report(ran.report)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line for line in lines if line in ("Correctness", "Memory", "Speed")] == ["Correctness", "Memory", "Speed"]
    for check in ran.report.checks:
        assert any(line.startswith(check.verdict.value) and check.name in line for line in lines), check.name
    assert f"{len(ran.report.checks)} checks: " in lines[-1]


@pytest.mark.thorough
def test_the_next_plan_on_this_machine_is_based_on_it(ran: Ran, tiny_model: Path, tmp_path: Path) -> None:
    write_tiny_words(tmp_path / "words.json", 24, 4, 4)
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT.format(model=tiny_model), encoding="utf-8")
    without = api.plan(tmp_path / "experiment.yaml", load_settings(), dry_run=True).plan
    assert unmeasured(without, without.runs, load_settings()) == list(without.runs)
    plan = api.plan(tmp_path / "experiment.yaml", ran.settings, dry_run=True).plan
    assert unmeasured(plan, plan.runs, ran.settings) == []
    seconds = plan.runs[0].train_seconds
    assert isinstance(seconds, Quantity)
    assert "probe Tiny-Instruct" in (seconds.where or "")


def _everything_before(segments: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whatever stands before, whoever's it is."""
    width = segments.shape[1]
    return np.tile(np.tril(np.ones((width, width), dtype=np.bool_)), (len(segments), 1, 1))


def test_a_mask_that_shows_packed_examples_each_other_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss hardly changes, and the gradient does."""
    monkeypatch.setattr("touchline.train.target_loss.visible", _everything_before)
    checks = Checks(tmp_path)
    compared = checks.run(StepCheck.LLAMA_FLOAT32)
    assert compared.verdict is Verdict.FAILED
    assert "differs from float32 on the CPU" in compared.message
    isolated = checks.run(StepCheck.PACKED)
    assert isolated.verdict is Verdict.FAILED
    assert "llama, qwen, gemma" in isolated.message


def _named(report: SelftestReport, name: str) -> NodeCheck:
    return next(check for check in report.checks if check.name == name)


def _number(report: SelftestReport, check: str, name: str) -> Quantity:
    value = _named(report, check).figures[name]
    assert isinstance(value, Quantity)
    return value
