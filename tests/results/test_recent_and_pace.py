"""The end of a metrics file, whatever a kill, a full disk or a stranger did to it, and the time that is left."""

import json
import math
import os
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api import made_runs as made
from tests.run.made_plans import made_plan, made_run

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.metrics import StepRow
from touchline.data.metrics_file import read_metrics
from touchline.results.collect import collect_results
from touchline.results.figures import figures_of_metrics
from touchline.results.run_result import RunFigures
from touchline.run.progress import ENOUGH_STEPS, Pace, combined, measured_pace, steady, tokens_per_second, with_history
from touchline.run.tails import (
    ACTIVE_TAIL_BYTES,
    ENDED_TAIL_BYTES,
    Follower,
    Recent,
    last_lines,
    read_recent,
    read_tail,
    shown,
)

pytestmark = pytest.mark.planning


def recent(path: Path, data: bytes, limit: int = ACTIVE_TAIL_BYTES) -> Recent:
    path.write_bytes(data)
    return read_recent(path, limit)


def test_a_long_file_is_read_at_its_end_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(made.rows([made.START, *made.steps(5000)]))
    seen = read_recent(path, ENDED_TAIL_BYTES)
    assert seen.steps_done == 5000
    assert 2 < len(seen.steps) < 20
    assert not seen.whole
    assert isinstance(seen.peak_memory, Quantity)
    assert seen.peak_memory.kind == "process"


def test_a_file_is_read_again_only_after_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def counted(path: Path, limit_bytes: int) -> tuple[bytes, bool]:
        reads.append(path)
        return read_tail(path, limit_bytes)

    monkeypatch.setattr("touchline.run.tails.read_tail", counted)
    path = tmp_path / "metrics.jsonl"
    made.write_metrics(tmp_path, [made.START, *made.steps(3)])
    assert [read_recent(path, ACTIVE_TAIL_BYTES).steps_done for _ in range(3)] == [3, 3, 3]
    assert reads == [path]
    made.write_metrics(tmp_path, [made.START, *made.steps(4)])
    assert read_recent(path, ACTIVE_TAIL_BYTES).steps_done == 4
    assert read_recent(path, ENDED_TAIL_BYTES).steps_done == 4
    assert reads == [path] * 3


def test_a_resumed_training_goes_on_and_what_is_done_again_does_not_count_twice(tmp_path: Path) -> None:
    again = replace(made.START, event="resume", attempt=2, from_step=5)
    path = tmp_path / "m"
    items = [made.START, *made.steps(9), again]
    assert recent(path, made.rows(items)).steps_done == 5
    seen = recent(path, made.rows([*items, *made.steps(2, first=6, attempt=2)]))
    assert [step.step for step in seen.steps] == [1, 2, 3, 4, 5, 6, 7]
    fresh = recent(path, made.rows([made.START, *made.steps(9), replace(made.START, attempt=2)]))
    assert (fresh.steps, fresh.steps_done) == ((), 0)


@pytest.mark.parametrize("spelt", ["null", "NaN", "Infinity", "-Infinity", "1e999"])
def test_a_loss_that_is_no_number_is_kept_as_such(tmp_path: Path, spelt: str) -> None:
    seen = recent(tmp_path / "m", made.rows(made.steps(1)).replace(b'"loss":1.0', f'"loss":{spelt}'.encode()))
    assert [math.isfinite(step.loss) for step in seen.steps] == [False]
    assert len(read_metrics(tmp_path / "m").steps) == 1


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\n\n\n",
        b"{",
        b'{"event":"step"',
        b'{"event":"step"}\n',
        b'{"event":"step","step":true,"time_unix":1,"loss":1}\n',
        b'{"event":"step","step":1e400,"time_unix":1,"loss":1}\n',
        b'{"event":"step","step":' + b"9" * 5000 + b',"time_unix":1,"loss":1}\n',
        b'{"event":"step","step":-3,"time_unix":1,"loss":1}\n',
        b'{"event":["step"],"step":3}\n',
        b'{"event":{"a":1}}\n',
        b"[1,2,3]\n",
        b"null\n",
        b"\xff\xfe\x00{}\n",
        b"{" * 3000 + b"\n",
        b"x" * 300_000,
    ],
)
def test_what_is_no_row_is_left_out(tmp_path: Path, junk: bytes) -> None:
    assert recent(tmp_path / "m", junk).steps == ()
    good = made.rows([made.START, *made.steps(3)])
    assert recent(tmp_path / "m", good + junk).steps_done in (0, 3)
    assert recent(tmp_path / "m", junk + b"\n" + good).steps_done == 3


@given(st.integers(0, 3000), st.binary(max_size=200))
def test_a_file_cut_anywhere_and_gone_on_with_is_read(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("cut") / "m"
    whole = made.rows([made.START, *made.steps(3)])
    assert recent(path, whole[:cut] + junk + b"\n" + made.rows(made.steps(1, first=4))).steps_done == 4


def test_no_file_a_folder_or_a_pipe_in_its_place_is_empty_and_nothing_waits(tmp_path: Path) -> None:
    assert read_recent(tmp_path / "none", 100) == Recent()
    assert read_recent(tmp_path, 100) == Recent()
    os.mkfifo(tmp_path / "pipe")
    found: list[Recent] = []
    reader = threading.Thread(target=lambda: found.append(read_recent(tmp_path / "pipe", 100)), daemon=True)
    reader.start()
    reader.join(30)
    assert found == [Recent()]


def made_recent(seconds: list[float], attempts: list[int] | None = None) -> Recent:
    numbers = attempts or [1] * len(seconds)
    steps = tuple(
        replace(made.STEP, attempt=numbers[i], step=i + 1, seconds=s, elapsed_seconds=0.0, real_tokens=100)
        for i, s in enumerate(seconds)
    )
    return Recent(steps=steps)


def test_the_first_step_of_an_attempt_sets_no_pace() -> None:
    seen = made_recent([60.0, 2.0, 2.0, 50.0, 2.0], [1, 1, 1, 2, 2])
    assert [step.seconds for step in steady(seen)] == [2.0, 2.0, 2.0]
    assert [step.seconds for step in steady(made_recent([60.0]))] == [60.0]
    # In the middle of a long file the first row in sight is no first step.
    assert len(steady(replace(seen, whole=False))) == 4


def test_one_step_that_was_held_up_does_not_make_the_pace() -> None:
    held_up = measured_pace(made_recent([2.0] * 39 + [3600.0]).steps)
    assert held_up is not None
    assert 2.0 <= held_up.seconds < 2.6


def test_the_measured_interval_holds_the_time_that_steps_then_take() -> None:
    draw = random.Random(5)
    held = 0
    for _ in range(300):
        mean = draw.uniform(0.1, 30)
        times = [mean * draw.lognormvariate(0, 0.15) for _ in range(230)]
        pace = measured_pace(made_recent(times[:30]).steps)
        assert pace is not None
        held += 200 * pace.low <= sum(times[30:]) <= 200 * pace.high
    assert held / 300 >= 0.9


@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=50), st.floats(1e-3, 1e4), st.floats(0.01, 2))
def test_a_pace_is_inside_its_interval_and_between_measured_and_planned(
    seconds: list[float], planned: float, spread: float
) -> None:
    measured = measured_pace(made_recent(seconds).steps)
    plan = Pace(seconds=planned, spread=spread, steps=0)
    both = combined(measured, plan)
    assert measured is not None
    assert both is not None
    assert both.low <= both.seconds <= both.high
    if measured.steps >= ENOUGH_STEPS:
        assert both == measured
    else:
        low, high = sorted((measured.seconds, planned))
        assert low * 0.999 <= both.seconds <= high * 1.001
    assert combined(None, plan) == plan


def test_a_machine_that_does_not_keep_its_pace_makes_the_interval_wider() -> None:
    steps = made_recent([2.0] * 40).steps
    pace = measured_pace(steps)
    assert pace is not None
    same, other = (
        with_history(pace, Recent(steps=(*steps[:-1], replace(steps[-1], step=100, elapsed_seconds=seconds))))
        for seconds in (200.0, 400.0)
    )
    assert same == pace
    assert other is not None
    assert pace.seconds < other.seconds < 4.0
    assert other.spread > pace.spread


def test_without_steps_there_is_no_rate() -> None:
    assert isinstance(tokens_per_second(Recent()), Missing)
    rate = tokens_per_second(made_recent([5.0, 2.0, 2.0]))
    assert isinstance(rate, Quantity)
    assert rate.value == pytest.approx(50.0)


def test_the_last_lines_of_any_file(tmp_path: Path) -> None:
    path = tmp_path / "slurm.out"
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))
    lines, end = last_lines(path, 3)
    assert lines == ["line 99997", "line 99998", "line 99999"]
    assert end == path.stat().st_size
    assert last_lines(path, 0)[0] == []
    assert [shown(text) for text in ("10%|#\r20%|##\r30%|###\r", "plain", "")] == ["30%|###", "plain", ""]
    path.write_text("a\nb")
    assert last_lines(path, 5)[0] == ["a", "b"]
    path.write_text("")
    assert last_lines(path, 5) == ([], 0)
    assert last_lines(tmp_path / "none", 5)[0] == []


def test_what_is_added_comes_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "slurm.out"
    path.write_text("old\n")
    follower = Follower(path, 4)
    assert follower.read() == ([], "")
    with path.open("ab") as stream:
        stream.write(b"caf")
        stream.flush()
        assert follower.read() == ([], "caf")
        stream.write("é".encode()[:1])
        stream.flush()
        assert follower.read() == ([], "caf")
        stream.write("é".encode()[1:] + b" 1%\r 2%\r 3%")
        stream.flush()
        assert follower.read() == ([], " 3%")
        stream.write(b"\r100%\ndone\n")
        stream.flush()
        assert follower.read() == (["100%", "done"], "")
    path.write_text("new\n")
    assert follower.read() == (["new"], "")
    path.unlink()
    assert follower.read() == ([], "")


def test_a_bar_that_is_followed_for_an_hour_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "slurm.out"
    path.write_text("")
    follower = Follower(path, 0)
    with path.open("ab") as stream:
        for number in range(200):
            stream.write(b"x" * 20_000 + b"\r" + json.dumps(number).encode())
            stream.flush()
            lines, now = follower.read()
            assert lines == []
            assert now == str(number)
            assert len(follower._open) < 100_000


NOTHING = Missing(missing="no step has been measured")


def figures(folder: Path, steps: list[StepRow]) -> RunFigures:
    """Figures of rows that were written and read again."""
    made.write_metrics(folder, [made.START, made.VALIDATION, *steps])
    return figures_of_metrics(made_run(), read_metrics(folder / "metrics.jsonl"), NOTHING)


def value(measured: Measured) -> float:
    assert isinstance(measured, Quantity)
    return measured.value


def test_the_first_step_and_smaller_ones_set_no_step_time(tmp_path: Path) -> None:
    first, *rest, last = made.steps(6)
    slow = replace(first, seconds=60.0)
    found = figures(tmp_path, [slow, *rest, replace(last, seconds=0.5, examples=2, real_tokens=20)])
    assert value(found.seconds_per_step) == 2.0
    assert value(found.tokens_per_second) == pytest.approx((4 * 80 + 20) / 8.5)
    assert value(found.examples_per_second) == pytest.approx((4 * 8 + 2) / 8.5)
    assert found.device == "cpu"


def test_a_loss_that_is_not_finite_is_no_figure_and_stays_among_the_rows(tmp_path: Path) -> None:
    *steps, last = made.steps(3)
    found = figures(tmp_path, [*steps, replace(last, loss=math.nan, grad_norm=math.inf)])
    assert isinstance(found.final_train_loss, Missing)
    assert value(found.train_seconds) == last.elapsed_seconds
    assert [epoch.epoch for epoch in found.epochs] == [0]


def test_without_a_step_every_figure_has_the_reason(tmp_path: Path) -> None:
    found = figures(tmp_path, [])
    assert found.train_seconds == found.tokens_per_second == found.seconds_per_step == found.peak_memory == NOTHING
    assert value(found.validation_seconds) == made.VALIDATION.elapsed_seconds
    assert found.device is None


# ---- a metrics.jsonl that is no file, or that nobody may read --------------------------------------------------------


def _folder(path: Path) -> None:
    path.mkdir()


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _forbidden(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path.write_text("{}\n")
    path.chmod(0)


@pytest.mark.parametrize("spoil", [_folder, _link_to_itself, _forbidden])
def test_results_are_collected_all_the_same(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    run = made_run()
    path = tmp_path / run.name / "metrics.jsonl"
    path.parent.mkdir()
    spoil(path)
    metrics = read_metrics(path)
    assert metrics.steps == ()
    assert metrics.unread
    (result,) = collect_results(made_plan(run), tmp_path)
    assert tuple(map(str, result.notes)) == (
        f"steps and losses are unknown: metrics.jsonl cannot be read ({metrics.unread})",
    )
    assert result.final_train_loss == Missing(missing="metrics.jsonl cannot be read")


def test_one_that_is_not_there_has_no_rows_and_no_note(tmp_path: Path) -> None:
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert (metrics.steps, metrics.unread) == ((), None)
    (result,) = collect_results(made_plan(made_run()), tmp_path)
    assert result.notes == ()
