"""What holds for every test. Nothing heavy is imported here: the planning tests run where torch is not installed."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tests.forking import server, sitecustomize

from tools.tiny_model import write_tiny_model
from touchline.core.text import valid_utf8

# The machine's load must not decide on a test's verdict, so no example has a deadline; nor must luck decide on whether
# a change lands: there the examples are the same each time, while by hand they are drawn anew.
settings.register_profile("touchline", deadline=None, derandomize=os.environ.get("TOUCHLINE_SAME_EXAMPLES") == "1")
settings.load_profile("touchline")

CORE_ONLY = os.environ.get("TOUCHLINE_CORE_ONLY") == "1"
"""Set by `make quick` and `make test-core`, which run where only the core dependencies are installed."""


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a core-only run where torch is installed, which proves nothing; keep tests out of the user's history.

    A shell starts background commands with SIGINT ignored, and their children inherit that. Tests that send SIGINT need
    the default.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    history = tempfile.TemporaryDirectory(prefix="touchline-test-history-")
    config.add_cleanup(history.cleanup)
    os.environ["TOUCHLINE_HISTORY_DIR"] = history.name
    if (
        sys.platform == "linux"
        and sitecustomize.SERVER not in os.environ
        and importlib.util.find_spec("torch") is not None
    ):
        config.add_cleanup(server.begin())
    if CORE_ONLY and importlib.util.find_spec("torch") is not None:
        raise pytest.UsageError("TOUCHLINE_CORE_ONLY is set, but torch is installed here; run `make test-core`")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave files unopened in a core-only run that hold no planning test: they may import what is not installed."""
    if not CORE_ONLY or collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    return None if "mark.planning" in collection_path.read_text(encoding="utf-8") else True


SECONDS = "touchline/seconds"
"""Where pytest's cache keeps the processor seconds of each file in its last run."""
LONG = 1.0
"""Processor seconds above which a test is no quick one."""
_spent: dict[str, float] = {}
"""Processor seconds of each test, with the processes that it waited for."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put long files first: whole files go to the processes, and a long one must not begin last.

    How long a file takes is known from its last run; in a first run, files with slow tests go first.
    """
    cache = getattr(config, "cache", None)
    last: dict[str, float] = cache.get(SECONDS, {}) if cache else {}
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("thorough")}
    items.sort(key=lambda item: (-round(last.get(_file(item.nodeid), 0.0)), item.path not in slow))


def _file(test: str) -> str:
    return test.split("::")[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Note the processor time before a test's fixtures."""
    item.user_properties.append(("begun", sum(os.times()[:4])))
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Note the processor time after a test."""
    try:
        yield
    finally:
        item.user_properties.append(("ended", sum(os.times()[:4])))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Keep half characters in a failure's text from ending the whole run: it goes from process to process as UTF-8."""
    return _utf8((yield))


def _utf8(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _utf8(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(_utf8, data))
    return valid_utf8(data) if isinstance(data, str) else data


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the processor seconds of each test, from all processes."""
    noted = dict(report.user_properties)
    if report.when == "call" and "ended" in noted:  # not of a subtest
        _spent[report.nodeid] = float(str(noted["ended"])) - float(str(noted["begun"]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Keep the seconds of each file, and what failed; list the tests that are too long for `make quick`."""
    if cache := getattr(config, "cache", None):
        files: dict[str, float] = {}
        for test, seconds in _spent.items():
            files[_file(test)] = round(files.get(_file(test), 0.0) + seconds, 1)
        cache.set(SECONDS, cache.get(SECONDS, {}) | files)
    if shown := os.environ.get("TOUCHLINE_TEST_FAILURES"):
        failed = [each for kind in ("failed", "error") for each in terminalreporter.stats.get(kind, [])]
        lines = [line for each in failed for line in (f"FAILED {each.nodeid}", *each.longreprtext.splitlines()[-40:])]
        Path(shown).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="replace")
    long = sorted(((seconds, test) for test, seconds in _spent.items() if seconds > LONG), reverse=True)
    if CORE_ONLY and long:
        terminalreporter.section(f"above {LONG:g} s of processor time: mark them slow")
        for seconds, test in long:
            terminalreporter.line(f"{seconds:6.1f} s  {test}")


@pytest.fixture(scope="module", autouse=True)
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw figures only for files that name them: each report takes seconds for pictures that no other test sees."""
    with pytest.MonkeyPatch.context() as patch:
        if any(word in request.path.read_text(encoding="utf-8") for word in ("figure", "report.html", ".png")):
            patch.delenv(sitecustomize.NO_FIGURES, raising=False)
        else:
            patch.setenv(sitecustomize.NO_FIGURES, "1")
        sitecustomize.hide_figures()
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama-shaped model in float32; not to be written to."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "Tiny-Instruct")


@pytest.fixture
def started_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs start by themselves: for a test of the start itself, or of the processes that a program starts."""
    monkeypatch.delenv(sitecustomize.SERVER, raising=False)
