"""What a report rests on and compares: versions, levels, the data of runs that were not evaluated."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.report import made_gathered as made

from touchline.data.scores import EvaluationRecord
from touchline.data.worker import stack_versions
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.build import build_report
from touchline.report.facts import compared_text
from touchline.report.markdown import results_markdown
from touchline.report.page import report_html
from touchline.report.report import Report
from touchline.results.report_inputs import ReportInput

pytestmark = pytest.mark.planning

OLD = {"python": "3.11.7", "torch": "2.12.0", "peft": "0.20.0"}
NEW = {"python": "3.11.7", "torch": "2.13.0", "peft": "0.20.0", "cuda": "12.4", "driver": "550.54.14"}


def stacks(report: Report) -> list[tuple[str, str]]:
    return [(what, value) for what, value in report.provenance if what.endswith(" stack")]


def scored(run: str, versions: dict[str, str]) -> EvaluationRecord:
    return replace(made.record(run, "epoch_2", made.rights(80)), versions=versions)


def test_versions_are_stated_and_by_run_where_they_differ() -> None:
    """As recorded; what was not recorded says so."""
    for trained, evaluated, wanted in (
        (
            {"a": OLD, "b": OLD},
            {"a": NEW, "b": NEW},
            [
                ("training stack", "python 3.11.7, torch 2.12.0, peft 0.20.0"),
                ("evaluation stack", "python 3.11.7, torch 2.13.0, peft 0.20.0, cuda 12.4, driver 550.54.14"),
            ],
        ),
        (
            {"a": OLD, "b": NEW},
            {"a": {}, "b": {}},
            [
                ("training stack", "python 3.11.7, torch 2.12.0, peft 0.20.0 (a)"),
                ("training stack", "python 3.11.7, torch 2.13.0, peft 0.20.0, cuda 12.4, driver 550.54.14 (b)"),
                ("evaluation stack", "n/a (no version was recorded)"),
            ],
        ),
    ):
        runs = [made.run(name, evaluations=[scored(name, evaluated[name])]) for name in ("a", "b")]
        report = build_report(made.gathered([replace(run, versions=trained[run.name]) for run in runs]))
        assert stacks(report) == wanted
        page = report_html(report, ())
        assert all(value in page for _, value in wanted)


def test_the_driver_is_read_from_the_kernel_and_a_missing_package_is_said(tmp_path: Path) -> None:
    driver = tmp_path / "version"
    lines = {
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC\nGCC": "535.104.05",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build\n": "550.54.14",
        "NVRM version: of another kind\n": None,
        "": None,
    }
    for text, version in lines.items():
        driver.write_text(text)
        assert stack_versions(("pytest", "no-such-package"), "12.4", driver).get("driver") == version
    found = stack_versions(("pytest", "no-such-package"), None, tmp_path / "none")
    assert list(found) == ["python", "pytest", "no-such-package"]
    assert found["no-such-package"] == "not installed"


def test_what_was_compared_names_levels_seeds_and_controls() -> None:
    runs = [
        made.control("1B_base"),
        replace(made.run("1B_shuffled"), kind=RunKind.CONTROL, control=ControlKind.SHUFFLED),
        *(made.run(f"1B_rank{rank}_s{seed}", rank=rank, seed=seed) for rank in ("4", "64") for seed in (1, 2)),
    ]
    factors = {"models": ("1B",), made.RANK: ("4", "64"), "seeds": ("1", "2")}
    seeds = {run.name: run.seed for run in runs}
    assert compared_text(runs, factors, seeds) == (
        "rank 4 and 64; training seeds 1 and 2; controls 1B_base (untrained base model) and 1B_shuffled (trained on "
        "shuffled answers)"
    )
    assert compared_text([made.run("a")], {}, {}) == "nothing varies between the runs"
    report = build_report(made.gathered(runs))
    assert f"**Compared:** {report.compared}" in results_markdown(report, ()).split("## Overview")[0]


def test_runs_that_nobody_evaluated_still_have_a_task() -> None:
    gathered = made.gathered([made.run("a")])
    source = ReportInput(kind="dataset", name="words_8L.json", facts=())
    told = build_report(replace(gathered, sources=(source,)))
    assert told.task == "not evaluated; trained on words_8L.json"
    assert build_report(replace(gathered, sources=())).task == "n/a (nothing was evaluated)"
