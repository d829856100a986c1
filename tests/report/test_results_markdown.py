"""RESULTS.md: one first screen, seven subjects in their order, no absent figure without reason, no foreign markup."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import some
from tests.report import made_gathered as made
from tests.report.made_report import fifty, made_report, thousand
from tests.report.test_golden import CASES, text_of

from touchline.core.finding import Note, Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.core.table import Column, value_text
from touchline.report.build import build_report
from touchline.report.figures import Chart
from touchline.report.markdown import results_markdown
from touchline.report.report import EstimateRow, Report
from touchline.report.tables.training import cost_section
from touchline.results.report_inputs import Issue, ReportInput, ReportInputs
from touchline.results.run_result import RunResult

pytestmark = pytest.mark.planning

SECTIONS = (
    "## Overview",
    "## Key findings",
    "## Issues and notes",
    "## Next steps",
    "## Training results",
    "## Checkpoint verification",
    "## Storage",
    "### Commands",
)
FOLD = "<details>\n<summary>Runs, storage, data, commands</summary>\n"
CHARTS = [
    Chart(name=name, section="training", title=f"The {name}", caption=f"What {name} shows.", spec={})
    for name in ("train_loss", "validation_loss")
]
HOSTILE = "</script><script>alert(1)</script> | `x` [a](http://evil) ![b](//c) *d* \x1b[31m\n# heading"


def markdown(gathered: ReportInputs) -> str:
    return results_markdown(build_report(gathered), ())


def lines(text: str) -> tuple[int, int]:
    open_, folded = text.split(FOLD)
    return len(open_.splitlines()), len(folded.splitlines())


def tables(text: str) -> list[list[str]]:
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


def assert_whole(text: str, most: int = 120) -> None:
    """The answer first, the seven subjects in order, tables whose rows have as many cells as their heads, fences that
    end, and no more lines than a reader takes.
    """
    head = text.split("## Overview")[0]
    assert len(head.splitlines()) <= 10
    (answer,) = re.findall(r"^\*\*Answer:\*\* (.*?)  $", head, re.MULTILINE)
    assert len(answer.split()) <= 15
    places = [text.index(f"\n{section}\n") for section in SECTIONS]
    assert places == sorted(places)
    assert places[-2] < text.index(FOLD) < places[-1]
    assert text.endswith("</details>\n")
    assert lines(text)[0] <= most
    assert lines(text)[1] <= 120
    for rows in tables(text):
        assert len({cells(row) for row in rows}) == 1, rows
    assert len(re.findall(r"^\s*```+", text, re.MULTILINE)) % 2 == 0
    assert not re.search(r"\b(nan|inf)\b", text)
    assert not re.search(r"\[[-+]?\d+(\.\d+)?%?, [-+]?\d", text)
    assert "\n\n\n" not in text
    assert "None" not in re.sub(r"^None\.", "", text, flags=re.MULTILINE)
    assert "Missing(" not in text
    assert "touchline report" in text


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_report_is_whole(case: str) -> None:
    """One seed, all runs at the ceiling, failed runs, folders of other tools, nothing evaluated, nothing at all."""
    assert_whole(text_of(case))


@pytest.mark.parametrize("faults", [False, True])
def test_a_report_of_fifty_runs_is_short(faults: bool) -> None:
    """All rows of conditions, every run in the fold; with faults too."""
    text = results_markdown(made_report(replace(fifty(steps=30, items=40), faults=faults)), CHARTS)
    assert_whole(text, 180)
    assert len(re.findall(r"^\| `[13]B_", text.split(FOLD)[1], re.MULTILINE)) >= 50


def test_of_many_conditions_the_best_the_worst_and_the_controls_are_shown() -> None:
    """A thousand runs: 25 conditions, and where the others are. No claim is lost without a word."""
    report = made_report(thousand(steps=10, items=20))
    text = results_markdown(report, CHARTS)
    assert_whole(text, 180)
    overview = text.split("## Overview")[1].split("## Key findings")[0]
    assert re.search(r"and controls\. (\d+ tie at the top\. )?\d+ other conditions in report\.html\.", overview)
    shown = [row.split(" | ")[0].strip("| `") for row in tables(overview)[0][2:]]
    assert len(shown) == 25
    assert {run.name for run in report.runs if run.name.endswith("_base")} <= set(shown)
    claims = tables(text.split("## Key findings")[1])[0]
    assert f"{len(report.claims) - len(claims) + 2} other claims in report.html" in text


@pytest.mark.parametrize("case", ["one_seed", "three_seeds", "planned", "unfinished", "nothing", "losses"])
def test_the_first_screen_answers(case: str) -> None:
    """What was found, and what to type next, before any training curve."""
    text = text_of(case)
    first = text.split("## Training results")[0]
    assert len(first.splitlines()) <= 60
    assert "**Status:**" in first
    assert "## Next steps\n\n**" in first or "## Next steps\n\nNone." in first
    assert not re.search(r"^touchline run .*=", text, re.MULTILINE)


def test_seeds_of_a_condition_are_one_row_with_their_means() -> None:
    """Mean and Student's interval, as the matrix of test sets has them; runs of an unknown seed stay apart."""
    found = made.sweep([80, 86, 90], [84, 83, 92])
    overview = markdown(found).split("## Overview")[1].split("## Key")[0]
    assert "| rank 4 | fine-tuned | 85.3% (72.8 to 97.8) | 80.00, 86.00, 90.00 | +65.3 |" in overview
    unknown = [replace(run, settings={k: v for k, v in run.settings.items() if k != "seed"}) for run in found.runs]
    overview = markdown(replace(found, runs=tuple(unknown))).split("## Overview")[1].split("## Key")[0]
    assert overview.count("| rank 4 |") == 3


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
    ours = re.compile(r"</?details>|<summary>Runs, storage, data, commands</summary>")
    body = re.sub(r"`[^`]*`", "", "\n".join(ours.sub("", line) for line in prose))
    assert not re.search(r"(?<!\\)<", body)
    assert not re.search(r"(?<!\\)\]\((?!#|[A-Za-z0-9_])", body)
    assert not re.search(r"(?<!\\)\]\(http", body)
    assert "(../" not in body
    assert "\x1b" not in text
    assert "# heading" not in [line.strip() for line in prose]
    for rows in tables("\n".join(prose)):
        assert len({cells(row) for row in rows}) == 1, rows


def test_two_figures_with_captions_and_their_absence_has_its_reason() -> None:
    """Training curves alone, relative, captions below; without them a note."""
    report = build_report(made.sweep([85], [93]))
    other = Chart(name="scores", section="findings", title="Scores", caption="Scores.", spec={})
    text = results_markdown(report, [other, *CHARTS])
    for chart in some(CHARTS):
        assert f"![{chart.title}](figures/{chart.name}.png)\n\n{chart.caption}\n" in text
    assert "figures/scores.png" not in text
    off = results_markdown(report, (), "Figures are off: the extra `report` is not installed.")
    assert "Figures are off" in off
    assert "figures/" not in off


def test_checkpoints_are_one_line_and_faults_a_table() -> None:
    """All valid: one line with their size. Faults: each with its file, and the epochs of the run in the fold."""
    valid = tuple(made.checkpoint("1B_rank4_s1", f"step_{step}") for step in range(50, 1050, 50))
    found = replace(made.sweep([85], [93]), verification=replace(made.NOTHING, checkpoints=valid))
    section = markdown(found).split("## Checkpoint verification")[1].split("## Storage")[0]
    assert section.strip().startswith("✓ All 20 checkpoints are valid, 20 B (sizes and headers were read")
    assert len(section.strip().splitlines()) == 1
    broken = (*valid[:2], made.checkpoint("1B_rank64_s1", "epoch_2", sound=False))
    text = markdown(replace(found, verification=replace(made.NOTHING, checkpoints=broken)))
    assert "| `1B_rank64_s1` | `epoch_2` | truncated | `adapter_model.safetensors` | 12 of 517 MiB are there |" in text
    assert "| `1B_rank64_s1` | ✗ | - | - | corrupt: epoch_2 |" in text.split(FOLD)[1]


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
    (line,) = [line for line in text.splitlines() if line.startswith("**Cost:**")]
    assert line.endswith(
        "1 of 2 predictions held. Outside: training of 1B_rank64_s1 (4:40 predicted, 8:20 measured)."
    ), line
    made_rows = {(row[0], row[1]): row[2:] for row in cost_section(replace(report, estimates=rows)).tables[-1].rows}
    words = {key: [value_text(value, Column("")) for value in row[2:]] for key, row in made_rows.items()}
    assert words == {
        ("1B_rank4_s1", "training"): ["yes"],
        ("1B_rank64_s1", "training"): ["no"],
        ("1B_rank4_s1", "evaluation"): ["- (no estimate)"],
        ("1B_rank4_s1", "peak memory"): ["- (another kind of memory)"],
    }


def test_short_costs_are_in_minutes() -> None:
    """Below a tenth of a device-hour, with the interval in its one form."""
    report = build_report(made.sweep([85], [93]))
    planned = Quantity(value=0.06, unit="h", low=0.03, high=0.16, coverage=0.9)
    short = replace(report, device_hours=Quantity(value=0.045, unit="h"), device_hours_planned=planned, device="CPU")
    assert "**Cost:** 2.7 device-minutes (CPU); predicted 3.6 min (1.8 to 9.6)." in results_markdown(short, ())
    months = replace(planned, value=1234.5, low=900, high=15_000)
    long = replace(report, device_hours=Quantity(value=1.0, unit="h"), device_hours_planned=months, device="GPU")
    assert "**Cost:** 1 GPU-hour; predicted 1,234 h (900 to 15,000)." in results_markdown(long, ())
    assert "**Cost:** 0.2 GPU-hours; predicted 3.6 min (1.8 to 9.6)." in results_markdown(
        replace(short, device="GPU", device_hours=Quantity(value=0.2, unit="h")), ()
    )


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
    assert "Notes in report.html: not started (1,000)." in text
    assert text.count("n/a (not evaluated)") < 60


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
