"""RESULTS.md: seven sections in their order, every absent figure with its reason, and no foreign text as markup."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import some
from tests.report import made_gathered as made
from tests.report.test_golden import CASES, text_of

from touchline.core.finding import Severity
from touchline.core.notes import Note
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.report.build import build_report
from touchline.report.figures import Chart
from touchline.report.markdown import results_markdown
from touchline.report.report import EstimateRow, Report
from touchline.results.report_inputs import Issue, ReportInput, ReportInputs
from touchline.results.run_result import RunResult

pytestmark = pytest.mark.planning

SECTIONS = (
    "## Overview",
    "## Checkpoint verification",
    "## Training results",
    "## Key findings",
    "## Storage",
    "## Issues and notes",
    "## Next steps",
    "## Appendix: commands",
)
HOSTILE = "</script><script>alert(1)</script> | `x` [a](http://evil) ![b](//c) *d* \x1b[31m\n# heading"


def markdown(gathered: ReportInputs) -> str:
    return results_markdown(build_report(gathered), ())


def tables(text: str) -> list[list[str]]:
    """Every table as its lines."""
    found: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("| "):
            if not inside:
                found.append([])
            found[-1].append(line)
        inside = line.startswith("| ")
    return found


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def assert_whole(text: str) -> None:
    """The seven sections in order, tables whose rows have as many cells as their heads, fences that end."""
    places = [text.index(f"\n{section}\n") for section in SECTIONS]
    assert places == sorted(places)
    for rows in tables(text):
        assert len({cells(row) for row in rows}) == 1, rows
    assert len(re.findall(r"^\s*```+", text, re.MULTILINE)) % 2 == 0
    assert not re.search(r"\b(nan|inf)\b", text)
    assert "None" not in text.replace("None.\n", "")
    assert "Missing(" not in text
    assert "touchline report" in text


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_report_is_whole(case: str) -> None:
    assert_whole(text_of(case))


def test_foreign_text_is_text() -> None:
    """Names, reasons, lines of logs, facts: nothing becomes a heading, a link, HTML or the end of a fence."""
    hostile = made.run("1B_rank4", HOSTILE, rank=HOSTILE, evaluations=[made.record("x", HOSTILE, made.rights(3, 4))])
    hostile = replace(
        hostile,
        notes=(Note.stated(HOSTILE),),
        train_seconds=Missing(missing=HOSTILE),
        attempt_list=(made.attempt(HOSTILE, JobState.TIMEOUT, HOSTILE),),
    )
    gathered = replace(
        made.gathered(
            [hostile],
            issues=[
                Issue(
                    weight=Severity.ERROR,
                    subject=HOSTILE,
                    title=HOSTILE,
                    text=HOSTILE,
                    lines=("````", "```", HOSTILE),
                    where=f"{HOSTILE}:12",
                )
            ],
            sources=[ReportInput(kind=HOSTILE, name=HOSTILE, facts=((HOSTILE, HOSTILE),))],
            files={"1B_rank4": (("log", HOSTILE), ("metrics", "../../etc/passwd"))},
        ),
        experiment=HOSTILE,
        date=HOSTILE,
    )
    text = markdown(gathered)
    prose, outside = [], True
    fence = ""
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,})", line)
        if mark and (outside or mark[1] == fence):
            fence, outside = mark[1], not outside
        elif outside:
            prose.append(line)
    assert outside
    body = re.sub(r"`[^`]*`", "", "\n".join(prose))
    assert not re.search(r"(?<!\\)<", body)
    assert not re.search(r"(?<!\\)\]\((?!#|[A-Za-z0-9_])", body)
    assert not re.search(r"(?<!\\)\]\(http", body)
    assert "(../" not in body
    assert "\x1b" not in text
    assert "# heading" not in [line.strip() for line in prose]
    for rows in tables("\n".join(prose)):
        assert len({cells(row) for row in rows}) == 1, rows


def test_figures_stand_in_their_sections_and_their_absence_has_its_reason() -> None:
    """Pictures are relative, captions below; without them the note stands in the overview."""
    report = build_report(made.sweep([85], [93]))
    charts = [
        Chart(name=name, section=name, title=f"The {name}", caption=f"What {name} shows.", spec={})
        for name in ("findings", "training", "estimates")
    ]
    text = results_markdown(report, charts)
    for chart in some(charts):
        assert f"![{chart.title}](figures/{chart.name}.png)\n\n{chart.caption}\n" in text
    assert text.index("figures/training.png") < text.index("## Key findings") < text.index("figures/findings.png")
    off = results_markdown(report, (), "Figures are off: the extra `report` is not installed.")
    assert "Figures are off" in off
    assert "figures/" not in off


def test_many_checkpoints_are_counted_and_not_laid_out() -> None:
    """A checkpoint every fifty steps is no table of forty columns."""
    checkpoints = tuple(made.checkpoint("1B_rank4", f"step_{step}") for step in range(50, 1050, 50))
    text = markdown(replace(made.sweep([85], [93]), verification=replace(made.NOTHING, checkpoints=checkpoints)))
    assert "| `1B_rank4` | 20 | 0 | 0 |" in text


def test_estimates_beside_what_was_measured() -> None:
    """Held, missed, and not judged with the reason."""
    report = build_report(made.sweep([85], [93]))
    planned = Quantity(value=280.0, unit="s", low=200.0, high=300.0, coverage=0.9)
    rows = (
        estimate("1B_rank4_s1", "training", planned, Quantity(value=281.0, unit="s"), True),
        estimate("1B_rank64_s1", "training", planned, Quantity(value=500.0, unit="s"), False),
        estimate("1B_rank4_s1", "evaluation", Missing(missing="no evidence"), Quantity(value=30.0, unit="s"), None),
        estimate("1B_rank4_s1", "peak memory", Quantity(value=1.0, unit="GiB"), Quantity(value=1.0, unit="GiB"), None),
    )
    text = results_markdown(replace(report, estimates=rows), ())
    assert_whole(text)
    assert "| training | 2 | 1 of 2 | 1.39 |" in text
    assert "| `1B_rank4_s1` | training | 4:40 (3:20 to 5:00) | 4:41 | yes |" in text
    assert "| `1B_rank64_s1` | training | 4:40 (3:20 to 5:00) | 8:20 | **no** |" in text
    assert "| `1B_rank4_s1` | evaluation | n/a (no evidence) | 30.0 s | - (no estimate) |" in text
    assert "| `1B_rank4_s1` | peak memory | 1 GiB | 1 GiB | - (another kind of memory) |" in text


def estimate(run: str, what: str, predicted: object, measured: object, inside: bool | None) -> EstimateRow:
    return EstimateRow(run=run, quantity=what, predicted=predicted, measured=measured, inside=inside)  # type: ignore[arg-type]


def test_issues_of_one_kind_stand_together() -> None:
    """A thousand runs that nobody started are one line."""
    runs = [
        replace(
            made.run(f"run_{number}", status=RunStatus.PLANNED, seconds=None, steps=None),
            outcome=TrainingOutcome.NOT_STARTED,
            job_state=None,
        )
        for number in range(1000)
    ]
    text = markdown(made.gathered(runs))
    assert_whole(text)
    assert text.count("### ℹ Not started") == 1
    assert "and 980 more: The run has not been started; it has no result yet." in text


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_is_missing_a_report_is_whole(seed: int) -> None:
    """Any field of any run may be absent or not a number; the text keeps its form, and the same input its text."""
    rng = np.random.Generator(np.random.PCG64(seed))
    gathered = made.gathered([_spoiled(run, rng) for run in (*made.sweep([85], [93]).runs, *made.seed_002().runs)])
    report: Report = build_report(gathered)
    text = results_markdown(report, ())
    assert_whole(text)
    assert results_markdown(build_report(gathered), ()) == text


def _spoiled(run: RunResult, rng: np.random.Generator) -> RunResult:
    """Each figure of a run absent or not a number with some chance."""
    changes: dict[str, object] = {}
    for name in (
        *("train_seconds", "validation_seconds", "evaluate_seconds", "final_train_loss", "final_val_loss"),
        *("tokens_per_second", "peak_memory", "adapter_size"),
    ):
        value = getattr(run, name)
        if rng.random() < 0.3:
            changes[name] = Missing(missing="lost")
        elif rng.random() < 0.2 and isinstance(value, Quantity):
            changes[name] = replace(value, value=math.nan)
    if rng.random() < 0.3:
        changes |= {"evaluations": (), "exact_match": None, "match": None}
    if rng.random() < 0.3:
        changes |= {"attempt_list": (), "steps_done": None, "steps_planned": None}
    if rng.random() < 0.3:
        changes["validation_losses"] = made.points((0, math.nan), (5, 0.1), (9, math.inf))
    return replace(run, **changes)  # type: ignore[arg-type]
