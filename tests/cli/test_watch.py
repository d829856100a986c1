"""Lines of progress, and the text of the screen of status --watch."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.folders import make_experiment
from tests.cli.made_live import completed, failed, queued, rows, running, snapshot

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.cli import progress
from touchline.cli.main import main
from touchline.cli.watch_text import HEADER, LOSSES, LossCurves, cells, curve, description, lines
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus
from touchline.data.user_config import UserConfig
from touchline.results import watching
from touchline.results.watching import Snapshot
from touchline.run.jobs import Job
from touchline.run.loaded_plan import read_planned
from touchline.run.progress import JobProgress, Progress
from touchline.slurm.job_view import JobView

pytestmark = pytest.mark.planning


FINITE = st.floats(-1e6, 1e6)


def texts(found: Snapshot, width: int, selected: str | None = None, error: str = "") -> list[str]:
    curves = LossCurves()
    curves.add(found.steps)
    head, below = lines(found, error, curves, width, selected)
    return [line.text for line in (head, *below)]


# ---- lines ----------------------------------------------------------------------------------------------------------


@given(
    width=st.integers(40, 200),
    names=st.lists(st.from_regex(r"[0-9A-Za-z_]{1,60}", fullmatch=True), min_size=1, max_size=4, unique=True),
    kind=st.sampled_from([running, queued, failed, completed]),
    steps=st.integers(1, 10**6),
    status=st.sampled_from(RunStatus),
)
def test_lines_of_runs_fit_the_terminal(width: int, names: list[str], kind: object, steps: int, status: object) -> None:
    made = [replace(kind(name), steps_planned=steps, steps_done=steps, status=status) for name in names]  # type: ignore[operator]
    head, below = lines(snapshot("sweep", *made), "", LossCurves(), width)
    shown = [line for line in below if line.run is not None]
    assert [line.run for line in shown] == names
    assert max(len(line.text) for line in (head, *shown)) <= width
    for line in shown:
        assert f"{steps}/{steps}" in line.text


def test_the_columns_are_those_of_status_and_the_narrow_ones_keep_name_status_and_steps() -> None:
    found = snapshot("one", running("8B_rank4"), queued("8B_rank8"), failed("b"), note="no queue")
    wide = texts(found, 160, selected="b", error="it vanished")
    assert wide[0].split() == [*" ".join(HEADER).split()]
    assert wide[1].startswith("one  3 runs: ")
    assert wide[2:4] == ["  error: it vanished", "  no queue"]
    shown = ("  8B_rank4 ", "500/1000", "0.51", "1:00:00 (50:00 to 1:10:00)", "12.5 GiB", "██▅▅▁▁")
    assert all(each in wide[4] for each in shown)
    assert "Priority" in wide[5]
    assert wide[6].startswith(">!b ")
    assert "RN111" in wide[6]
    assert texts(found, 40)[3].split()[:3] == ["8B_rank4", "running", "500/1000"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_state_of_a_strategy_stands_below_its_experiment_and_is_never_cut(width: int) -> None:
    strategy = (
        "strategy: confirm, before look 2 of 3 with 4 seeds; sixteen: undecided; sixty-four: established; 1 run cut; "
        "12 planned runs not started"
    )
    shown = texts(snapshot("one", running("a"), strategy=strategy), width)
    start, run = next(n for n, line in enumerate(shown) if "strategy:" in line), len(shown) - 1
    assert start == 2, "the columns, the heading, the strategy"
    assert " ".join(line.strip() for line in shown[start:run]) == strategy
    assert all(len(line) <= width for line in shown)


def test_foreign_words_cannot_draw_on_the_terminal() -> None:
    bad = "\x1b[2Jx\ny"
    evil = replace(queued("a"), queue_reason=bad)
    shown = [*texts(snapshot(bad, evil, note=bad), 200, error=bad), *description(evil, bad)]
    assert not any(sign in line for line in shown for sign in "\x1b\n")


def test_a_description_names_job_figures_and_findings() -> None:
    said = description(failed("a"), "sweep")
    assert said[0] == "a of sweep: failed, job 75 FAILED"
    assert said[1] == "500/1000 steps · loss 0.51 · 1,234 tokens/s · peak memory 12.5 GiB"
    assert said[2:] == ["error RN111: exit code 1", "  hint: touchline logs exp"]


# ---- curves ---------------------------------------------------------------------------------------------------------


@given(st.lists(FINITE, min_size=1, max_size=100), st.integers(1, 30))
def test_a_curve_is_as_long_as_its_losses_or_its_room_and_has_its_lowest_block(losses: list[float], room: int) -> None:
    drawn = curve(losses, room)
    assert len(drawn) == min(room, len(losses))
    assert "▁" in drawn


@given(st.lists(FINITE, min_size=2, max_size=8, unique=True))
def test_lower_losses_have_blocks_that_are_not_higher(losses: list[float]) -> None:
    drawn = curve(losses)
    order = sorted(range(len(losses)), key=lambda place: losses[place])
    assert sorted(drawn) == [drawn[place] for place in order]
    assert drawn[order[-1]] == "█"


def test_a_few_losses_of_a_long_training_are_no_curve() -> None:
    run = running("a")
    assert cells(run, [2.0, 1.0])[-1] == "-"
    assert cells(replace(run, steps_done=2), [2.0, 1.0])[-1] == "█▁"


def test_a_loss_that_is_not_a_number_is_seen_in_its_place() -> None:
    assert curve([3.0, math.nan, 1.0]) == "█×▁"
    assert curve([math.inf]) == "×"
    assert curve([]) == "-"


def test_a_curve_grows_while_it_is_watched_and_stays_bounded() -> None:
    curves = LossCurves()
    for first in range(1, 5000, 20):
        curves.add({"a": rows([float(5000 - first)] * 40, first=first)})
    kept = curves.of("a")
    assert len(kept) <= LOSSES
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 4900


def test_a_training_that_goes_back_to_a_saved_state_draws_its_new_losses() -> None:
    curves = LossCurves()
    curves.add({"a": rows([9.0, 8.0, 7.0, 6.0])})
    curves.add({"a": rows([5.0], first=3)})
    assert curves.of("a") == [9.0, 8.0, 5.0]


# ---- the command ----------------------------------------------------------------------------------------------------


def test_without_textual_a_line_says_what_the_screen_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And lines follow, as in a pipe."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "textual", None)
    for name in [name for name in sys.modules if name.startswith("textual.") or name == "touchline.cli.watch_app"]:
        monkeypatch.delitem(sys.modules, name)
    shown = [snapshot("one", running("a")), replace(snapshot("one", completed("a")), active=False)]

    class Seen:
        def __init__(self, *_: object, **__: object) -> None: ...

        def now(self) -> Snapshot:
            return shown.pop(0) if len(shown) > 1 else shown[0]

        def is_anything_left(self, found: Snapshot) -> bool:
            return found.active

    monkeypatch.setattr(watching, "Watcher", Seen)
    monkeypatch.setattr(watching, "FILES_SECONDS", 0.01)
    monkeypatch.setattr("touchline.run.folders.is_experiment", lambda source: True)
    monkeypatch.setattr("sys.argv", ["touchline", "status", "one", "--watch"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert "lines only" in printed.err
    assert ".[watch]" in printed.err
    assert "1 run: 1 completed" in printed.out


LEFT = Quantity(value=3723.0, unit="s", low=2000.0, high=90000.0, coverage=0.9)
TOTAL = JobProgress(name="total", done=3, total=120, text="80 queued", left=LEFT, is_total=True)


def _row(name: str, done: int = 3, total: int = 40, text: str = "loss 0.123") -> JobProgress:
    return JobProgress(name=name, done=done, total=total, text=text, left=LEFT)


@given(
    st.lists(
        st.builds(
            _row, st.text(min_size=1, max_size=120), st.integers(0, 10**7), st.integers(0, 10**7), st.text(max_size=200)
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
