"""Progress on a terminal of 80 columns and in a log."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.folders import make_experiment

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.cli import progress
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState
from touchline.data.user_config import UserConfig
from touchline.run.jobs import Job
from touchline.run.loaded_plan import read_planned
from touchline.run.progress import JobProgress, Progress
from touchline.slurm.job_view import JobView

pytestmark = pytest.mark.planning

LEFT = Quantity(value=3723.0, unit="s", low=2000.0, high=90000.0, coverage=0.9)
TOTAL = JobProgress(name="total", done=3, total=120, text="80 queued", left=LEFT, is_total=True)


def _row(name: str, done: int = 3, total: int = 40, text: str = "loss 0.123") -> JobProgress:
    return JobProgress(name=name, done=done, total=total, text=text, left=LEFT)


@given(
    st.lists(
        st.builds(
            _row,
            st.text(min_size=1, max_size=120),
            st.integers(0, 10**7),
            st.integers(0, 10**7),
            st.text(max_size=200),
        ),
        max_size=40,
    ),
    st.integers(40, 200),
    st.integers(5, 60),
)
def test_no_line_is_wider_than_the_terminal_and_the_total_is_last(
    rows: list[JobProgress], width: int, height: int
) -> None:
    """One line per active job, as many as fit, whatever the names are."""
    found = progress.lines(rows, TOTAL, width, height)
    assert all(len(line) <= width for line in found)
    assert len(found) <= height
    assert found[-1].startswith("total")
    assert len(found) == len(rows) + 1 or any("more" in line for line in found)


def test_at_80_columns_name_steps_and_time_left_with_its_interval_are_whole() -> None:
    line, total = progress.lines([_row("1.7B_rank64_lr2e-4_seed3")], TOTAL, 80, 24)
    assert "1.7B_rank64_lr2e-4_seed3" in line
    for text in (line, total):
        assert "1:02:03 left (33:20 to 25:00:00)" in text
    assert "3/40" in line
    assert "3/120" in total


def test_in_a_log_there_is_one_line_per_minute_for_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a line when a job begins or ends, however often the queue looks and however many jobs run."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    assert not sys.stderr.isatty()
    rows = [_row(f"run{number}") for number in range(12)]
    with progress.ProgressDisplay() as bars:
        for tick in range(1200):
            now[0] = 1000.0 + 0.5 * tick
            bars.update([*rows, TOTAL])
        bars.update([*rows[1:], TOTAL])
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.endswith("started")] == [f"run{number}: started" for number in range(12)]
    minutes = [line for line in lines if "elapsed" in line]
    assert len(minutes) == 9
    assert all("3/120 jobs done, 12 active, 80 queued; 1:02:03 left (33:20 to 25:00:00)" in line for line in minutes)
    assert [line for line in lines if ": ended" in line] == [lines[-1]]


class _Heard:
    def __init__(self) -> None:
        self.rows: list[JobProgress] = []

    def __call__(self, rows: object) -> None:
        self.rows = list(rows)  # type: ignore[call-overload]

    @property
    def total(self) -> JobProgress:
        return self.rows[-1]


def _job(root: Path, name: str) -> Job:
    folder = root / name
    return Job(
        name=name, folder=folder, status=folder / "status", script="finetune.slurm", command=("bash",), output="o-{job}"
    )


def test_the_total_counts_down_from_the_plan_as_jobs_end(tmp_path: Path) -> None:
    """Missing trainings and evaluations, each with the plan's time and interval; what waits in a queue is counted."""
    write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")
    root = make_experiment(tmp_path / "tiny")
    settings = UserConfig(
        models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history"
    )
    api.plan(root, settings)
    planned = read_planned(root)
    heard = _Heard()
    watched = Progress(planned, planned.plan.runs, heard, at_once=1, train=True, epochs=None)
    first, second = (run for run in planned.plan.runs if run.batches is not None)
    jobs = [_job(root, first.name), _job(root, second.name)]
    pending = JobView(job_id="7", state=JobState.PENDING, active=True, source="squeue", reason="Resources")
    watched.watch(jobs, {second.name: pending})
    assert [row.name for row in heard.rows] == [first.name, "total"]
    assert (heard.total.done, heard.total.total, heard.total.text) == (0, 5, "1 queued")
    before = heard.total.left
    assert not isinstance(before, Missing)
    assert before.low is not None
    assert before.high is not None
    assert 0 < before.low < before.value < before.high
    watched.watch(jobs[1:], {})
    after = heard.total.left
    assert (heard.total.done, heard.total.total) == (1, 5)
    assert not isinstance(after, Missing)
    assert not isinstance(first.train_seconds, Missing)
    assert 0.9 * first.train_seconds.value <= before.value - after.value <= 1.1 * first.train_seconds.value
    watched.watch([], {})
    assert heard.total.done == 2
