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
from tests.report.test_next_steps import checkpoint

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
from touchline.results.verification_types import AdapterSize, MissingCheckpoint, RunStorage, StorageSummary

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


def evaluated() -> ReportInputs:
    """A control and two ranks, evaluated on the same items."""
    runs = [made.control("1B_base", rights=made.rights(20))]
    for rank, k in (("4", 85), ("64", 93)):
        name = f"1B_rank{rank}"
        runs.append(made.run(name, rank=rank, evaluations=[made.record(name, "epoch_2", made.rights(k))]))
    return made.gathered(runs)


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


def test_the_seven_sections_of_a_finished_experiment() -> None:
    """With the bottom line first, and scores with their intervals."""
    text = markdown(evaluated())
    assert_whole(text)
    assert text.startswith("# Experiment report: sweep\n\n**Status:** ✓ All 3 runs are complete")
    assert (
        "| `1B_rank64` | fine-tuned | 1B | rank 64 | 1 | completed | 93.0% [86.3, 96.6] | +73.0 [+62.3, +80.3] |"
    ) in text
    assert "| `1B_base` | control | 1B | - | - | completed | 20.0% [13.3, 28.9] | - |" in text


def test_four_failed_exits_are_four_complete_trainings() -> None:
    """The exit code is reported, not believed; and nothing is called n/a without its reason."""
    text = markdown(made.seed_002())
    assert_whole(text)
    assert "**Status:** ✓ All 4 trainings are complete; 4 jobs of complete trainings ended with a failed exit" in text
    assert "### ℹ Failed exit, complete training" in text
    assert "`1B_rank4`, `1B_rank64`: The job ended as FAILED, but the training is complete, 1,500 of 1,500" in text
    assert "Attempt ended by FAILED" not in text
    assert not re.search(r"\| n/a \|", text)
    assert "| `3B_rank64` | 3B | rank 64 | 3 | 3,000 of 3,000 | 0.00027 | 0.0183 |" in text
    assert "| `3B_rank4` | 22:34 |" in text


def test_nothing_at_all_is_a_report_too() -> None:
    """No run, no plan, no log."""
    text = markdown(made.gathered([]))
    assert_whole(text)
    assert "No checkpoint was found." in text


def test_half_of_the_runs_missing_is_a_report_that_says_so() -> None:
    """One failed, one at work, one not started: their cells give reasons, their names are in the status."""
    there = evaluated()
    failed = made.run("3B_rank4", "3B", status=RunStatus.FAILED, job_state=JobState.OUT_OF_MEMORY)
    failed = replace(
        failed,
        outcome=TrainingOutcome.PARTIAL,
        steps_done=12,
        attempt_list=(made.attempt("9", JobState.OUT_OF_MEMORY, "it did not fit, exit code 79", seconds=33.0),),
    )
    working = replace(
        made.run("3B_rank64", "3B", rank="64", status=RunStatus.RUNNING), outcome=TrainingOutcome.PARTIAL, steps_done=7
    )
    text = markdown(made.gathered([*there.runs, failed, working, made.control("3B_base", "3B")]))
    assert_whole(text)
    assert "**Status:** ✗ 3 of 6 runs complete (1 failed, 1 running, 1 planned)" in text
    assert "- 3 of 6 runs are complete; not complete: 3B\\_rank4" in text.replace("3B_rank4", "3B\\_rank4")
    assert "### ✗ Training failed" in text
    assert "12 of 1,500 steps done. Its last attempt: OUT_OF_MEMORY, it did not fit, exit code 79." in text
    assert "### ⚠ Attempt ended by OUT_OF_MEMORY" in text
    assert "### ℹ At work" in text


def test_losses_that_are_not_numbers_read_as_such() -> None:
    """NaN never stands in a cell."""
    curve = made.points((1, 1.0), (2, math.nan))
    run = made.run("1B_rank4", train=made.loss(math.nan), val=made.loss(math.inf), train_losses=curve)
    text = markdown(made.gathered([replace(run, train_seconds=Quantity(value=math.nan, unit="s"))]))
    assert_whole(text)
    assert "n/a (not a number)" in text
    assert "### ✗ Losses that are not numbers" in text


def test_other_items_in_two_runs_are_refused_by_name() -> None:
    """The row has no difference, and the issue says why."""
    gathered = evaluated()
    other = made.run("1B_rank8", rank="8", evaluations=[made.record("1B_rank8", "epoch_2", made.rights(9), items="b")])
    text = markdown(made.gathered([*gathered.runs, other]))
    assert_whole(text)
    assert "### ⚠ Not compared with 1B_base" in text


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
    report = build_report(evaluated())
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


def test_every_checkpoint_of_a_matrix_has_its_mark() -> None:
    """Sound, broken, lost and not expected, each with the reason beside it."""
    verification = replace(
        made.NOTHING,
        checkpoints=(
            checkpoint("1B_rank4", "epoch_0"),
            checkpoint("1B_rank4", "epoch_10"),
            checkpoint("1B_rank64", "epoch_0", sound=False),
        ),
        missing=(
            MissingCheckpoint(run="1B_rank4", name="epoch_2", reason="keep: best", expected=True),
            MissingCheckpoint(run="1B_rank64", name="epoch_10", reason="not there", expected=False),
        ),
    )
    text = markdown(replace(evaluated(), verification=verification))
    assert_whole(text)
    assert "✗ 2 of 3 checkpoints are valid; 1 planned checkpoint missing." in text
    assert "| run | epoch_0 | epoch_2 | epoch_10 | notes |" in text
    assert "| `1B_rank4` | ✓ | - | ✓ | epoch_2: keep: best |" in text
    assert "| `1B_rank64` | ✗ | - | ○ | corrupt: epoch_0; epoch_10: not there |" in text
    assert "| `1B_rank64` | `epoch_0` | truncated | `adapter_model.safetensors` | 12 of 517 MiB are there |" in text
    assert "### ✗ Checkpoint epoch_0 is corrupt" in text


def test_many_checkpoints_are_counted_and_not_laid_out() -> None:
    """A checkpoint every fifty steps is no table of forty columns."""
    checkpoints = tuple(checkpoint("1B_rank4", f"step_{step}") for step in range(50, 1050, 50))
    text = markdown(replace(evaluated(), verification=replace(made.NOTHING, checkpoints=checkpoints)))
    assert "| `1B_rank4` | 20 | 0 | 0 |" in text


def test_storage_says_what_full_models_and_adapters_take() -> None:
    """Sizes by base and rank, the forecast beside what is there."""
    storage = StorageSummary(
        bases={"3B": Quantity(value=6.1e9, unit="B")},
        adapters=(AdapterSize(model="3B", rank=64, dtype="bfloat16", size_bytes=172_000_000, run="3B_rank64"),),
        runs=(
            RunStorage(
                run="3B_rank64",
                checkpoints=3,
                total_bytes=18_816_000_000,
                checkpoint_bytes=18_816_000_000,
                adapter_bytes=516_000_000,
                full_model_bytes=Quantity(value=18_816_000_000, unit="B"),
                adapter_only_bytes=Quantity(value=516_000_000, unit="B"),
                forecast=Quantity(value=18_800_000_000, unit="B"),
            ),
        ),
        total_bytes=18_816_000_000,
        forecast=Quantity(value=18_800_000_000, unit="B"),
        deletable=(),
    )
    text = markdown(replace(evaluated(), verification=replace(made.NOTHING, storage=storage)))
    assert_whole(text)
    assert "| adapter | 3B | 64 | bfloat16 | 164 MiB |" in text
    assert "| `3B_rank64` | 3 | 17.5 GiB | 17.5 GiB | 17.5 GiB | 492 MiB | 17.5 GiB |" in text
    assert (
        "All runs together take 17.5 GiB; predicted 17.5 GiB (+0.1%). Adapters alone take 492 MiB, 2.7% of the "
        "17.5 GiB of full models for the same checkpoints."
    ) in text


def test_estimates_beside_what_was_measured() -> None:
    """Held, missed, and not judged with the reason."""
    report = build_report(evaluated())
    planned = Quantity(value=280.0, unit="s", low=200.0, high=300.0, coverage=0.9)
    rows = (
        estimate("1B_rank4", "training", planned, Quantity(value=281.0, unit="s"), True),
        estimate("1B_rank64", "training", planned, Quantity(value=500.0, unit="s"), False),
        estimate("1B_rank4", "evaluation", Missing(missing="no evidence"), Quantity(value=30.0, unit="s"), None),
        estimate("1B_rank4", "peak memory", Quantity(value=1.0, unit="GiB"), Quantity(value=1.0, unit="GiB"), None),
    )
    text = results_markdown(replace(report, estimates=rows), ())
    assert_whole(text)
    assert "| training | 2 | 1 of 2 | 1.39 |" in text
    assert "| `1B_rank4` | training | 4:40 (3:20 to 5:00) | 4:41 | yes |" in text
    assert "| `1B_rank64` | training | 4:40 (3:20 to 5:00) | 8:20 | **no** |" in text
    assert "| `1B_rank4` | evaluation | n/a (no evidence) | 30.0 s | - (no estimate) |" in text
    assert "| `1B_rank4` | peak memory | 1 GiB | 1 GiB | - (another kind of memory) |" in text


def estimate(run: str, what: str, predicted: object, measured: object, inside: bool | None) -> EstimateRow:
    return EstimateRow(run=run, quantity=what, predicted=predicted, measured=measured, inside=inside)  # type: ignore[arg-type]


def test_scores_by_checkpoint_where_a_run_has_several() -> None:
    """With the word that the best of them would be scored too high."""
    name = "1B_rank4"
    records = [made.record(name, f"epoch_{epoch}", made.rights(60 + 10 * epoch)) for epoch in range(3)]
    text = markdown(
        made.gathered([made.control("1B_base", rights=made.rights(9)), made.run(name, evaluations=records)])
    )
    assert_whole(text)
    assert "| `1B_rank4` | 60.0% | 70.0% | 80.0% |" in text
    assert "| `1B_rank4` | `epoch_2` | 80.0% [71.1, 86.7] |" in text


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
    gathered = made.gathered([_spoiled(run, rng) for run in (*evaluated().runs, *made.seed_002().runs)])
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
