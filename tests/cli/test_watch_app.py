"""The screen of `touchline status --watch`, driven by its keys: what it shows and calls, and that it never waits."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.cli.made_live import FakeReader, completed, failed, queued, running, snapshot
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from touchline.cli import watch_app
from touchline.cli.watch_app import Question, WatchApp
from touchline.core.errors import PolicyError

WAIT_SECONDS = 60
Driver = Callable[[WatchApp, Pilot[None]], Coroutine[Any, Any, None]]


def sweep() -> FakeReader:
    return FakeReader(snapshot("one", running("a"), failed("b"), completed("c"), note="no queue"))


def drive(reader: FakeReader, driver: Driver, size: tuple[int, int] = (80, 24)) -> WatchApp:
    """Run the view without a terminal until the driver ends."""
    app = WatchApp(reader, Path("one"), 0.1)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.snapshot.experiment == "one" or app._error)
            await driver(app, pilot)

    asyncio.run(run())
    return app


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await pilot.pause(0.02)


def listed(app: WatchApp) -> list[str]:
    options = app.query_one("#runs", OptionList).options
    return [option.prompt.plain.rstrip() for option in options]  # type: ignore[union-attr]


def said(app: WatchApp, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).content)


def question(app: WatchApp) -> str:
    assert isinstance(app.screen, Question)
    return str(app.screen.query_one(Static).content)


# ---- what is shown --------------------------------------------------------------------------------------------------


def test_runs_stand_below_a_heading_and_the_selected_one_is_described() -> None:
    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        shown = listed(app)
        assert shown[0] == "one  3 runs: 1 running · 1 failed · 1 completed"
        assert shown[1] == "  no queue"
        assert shown[2].startswith("> a ")
        assert shown[3].startswith(" !b ")
        assert "a of one: running, job 76 RUNNING" in said(app, "about")
        await pilot.press("down")
        assert app.selected == "b"
        assert "error RN111: exit code 1" in said(app, "about")
        await pilot.press("up")
        assert app.selected == "a"

    drive(sweep(), driver)


def test_the_selection_stays_at_its_run_while_runs_come_and_go() -> None:
    reader = sweep()

    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        await pilot.press("down")
        reader.found = snapshot("one", queued("new"), running("a"), completed("b"))
        await until(pilot, lambda: "new" in listed(app)[1])
        assert app.selected == "b"
        assert listed(app)[3].startswith("> b ")
        reader.found = snapshot("one", queued("new"))
        await until(pilot, lambda: app.selected == "new")

    drive(reader, driver)


@pytest.mark.parametrize(
    ("error", "words"), [(PolicyError("it vanished"), "it vanished"), (RuntimeError("odd"), "RuntimeError: odd")]
)
def test_a_reading_that_fails_is_a_line_and_may_come_back(error: Exception, words: str) -> None:
    reader = sweep()
    before = reader.found

    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        reader.found = error
        await until(pilot, lambda: f"  error: {words}" in listed(app))
        assert "> a " in listed(app)[3]
        reader.found = before
        await until(pilot, lambda: not any("error: " in line for line in listed(app)))

    drive(reader, driver)


@pytest.mark.parametrize("width", [40, 140])
def test_columns_follow_the_width_of_the_terminal(width: int) -> None:
    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        await pilot.resize_terminal(width, 24)
        await until(pilot, lambda: app._width == width)
        shown = listed(app)
        assert "500/1000" in shown[2]
        assert len(shown[2]) < width
        assert len(said(app, "keys")) <= width
        assert ("1:00:00 (50:00 to 1:10:00)" in shown[2]) == (width == 140)

    drive(sweep(), driver, size=(60, 24))


# ---- commands -------------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []

    def start(source: Path, command: str, run: str) -> str:
        found.append((source.name, command, run))
        return "started"

    monkeypatch.setattr(watch_app, "start_command", start)
    return found


@pytest.mark.parametrize(("key", "command", "run"), [("c", "cancel", "a"), ("r", "resume", "b")])
def test_a_command_asks_with_the_name_of_the_run_and_starts_after_yes_only(
    key: str, command: str, run: str, started: list[tuple[str, str, str]]
) -> None:
    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        await pilot.press(*(["down"] if run == "b" else []), key)
        assert f" {run} of one?" in question(app)
        await pilot.press("enter", "n")
        assert not isinstance(app.screen, Question)
        assert started == []
        await pilot.press(key, "y")
        await until(pilot, lambda: said(app, "said") == "started")
        assert started == [("one", command, run)]

    drive(sweep(), driver)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (["r"], "a is active: nothing to resume"),
        (["down", "down", "r"], "c is completed: nothing to resume"),
        (["down", "down", "c"], "c is completed: nothing to cancel"),
    ],
)
def test_a_verb_that_has_nothing_to_do_says_so_and_asks_nothing(keys: list[str], why: str) -> None:
    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        await pilot.press(*keys)
        assert not isinstance(app.screen, Question)
        assert said(app, "said") == why

    drive(sweep(), driver)


def test_quitting_waits_for_no_queue_that_does_not_answer() -> None:
    reader = sweep()

    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        reader.gate.clear()
        await pilot.pause(0.3)
        await pilot.press("down")
        assert app.selected == "b"
        await pilot.press("q")

    begun = time.monotonic()
    app = drive(reader, driver)
    reader.gate.set()
    assert not app.is_running
    assert time.monotonic() - begun < 50


def test_keys_on_an_experiment_without_runs_do_nothing() -> None:
    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        await pilot.press("l", "c", "r", "enter", "down", "up")
        assert len(app.screen_stack) == 1

    drive(FakeReader(PolicyError("no plan.json")), driver)


def test_keys_typed_in_a_hurry_act_on_the_run_that_they_lead_to_and_only_once(
    started: list[tuple[str, str, str]],
) -> None:
    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        for key in ("down", "c"):
            app.simulate_key(key)
        await until(pilot, lambda: isinstance(app.screen, Question))
        assert " b of one?" in question(app)
        for key in ("y", "y"):
            app.simulate_key(key)
        await until(pilot, lambda: said(app, "said") == "started")
        assert started == [("one", "cancel", "b")]
        assert len(app.screen_stack) == 1

    drive(sweep(), driver)


# ---- logs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["l", "enter"])
def test_logs_are_those_of_the_selected_run(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(WatchApp, "_show_log", lambda self, *words: asked.append(words))

    async def driver(app: WatchApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", key)
        assert asked == [("b",)]

    drive(sweep(), driver)
