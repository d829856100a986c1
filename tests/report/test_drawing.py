"""Figures are drawn in a process of their own: whatever happens to it, the report is there and says what is missing."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.results.made_seed002 import make

from touchline.report.local.draw_process import draw

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

PNG = b"\x89PNG\r\n"
SPEC: dict[str, object] = {
    "data": {"values": [{"a": 1}]},
    "mark": "point",
    "encoding": {"x": {"field": "a", "type": "quantitative"}},
}
FAKE = """
import ctypes, os, signal, sys, time
count = 0
def javascript_bundle(snippet):
    return "window.drawn = 1;"
def vegalite_to_png(spec, scale):
    global count
    count += 1
    if count > {good}:
        {fate}
    print("a library that talks")
    return b"\\x89PNG\\r\\n" + str(count).encode()
"""
FATES = {
    "aborts": ("os.abort()", "SIGABRT"),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "traps": ("os.kill(os.getpid(), signal.SIGTRAP)", "SIGTRAP"),
    "faults": ("ctypes.string_at(0)", "SIGSEGV"),
    "raises": ("raise RuntimeError('no font\\n\\tat all')", "exit code 1 (at all)"),
    "lacks memory": ("raise MemoryError", "exit code 1 (MemoryError)"),
    "leaves": ("sys.exit(7)", "exit code 7"),
    "hangs": ("time.sleep(600)", "did not answer for {patience} s"),
}
"""What may become of the process that draws, and what is said of it."""


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the same size and second are not told apart by what Python keeps of them."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


def fake(folder: Path, fate: str, good: int = 0) -> str:
    """A drawing library with a fate after some good figures; gives the search path that finds it first."""
    (folder / "vl_convert.py").write_text(FAKE.format(fate=fate, good=good))
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_whatever_becomes_of_the_process_what_was_drawn_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (fate, said) in FATES.items():
        monkeypatch.setenv("PYTHONPATH", fake(tmp_path, fate, good=1))
        # A busy machine may need long for the first figure; only one that hangs uses up the patience.
        for patience in (3, 12, 48) if name == "hangs" else (48,):
            drawn = draw({"first": SPEC, "second": SPEC, "third": SPEC}, script=True, silence_seconds=patience)
            if drawn.pictures:
                break
        assert drawn.pictures == {"first": PNG + b"1"}, name
        assert drawn.script == "window.drawn = 1;", name
        assert said.format(patience=patience) in drawn.fault, (name, drawn.fault)
        assert "\n" not in drawn.fault


def test_nothing_is_left_behind_of_a_process_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of what it started itself."""
    told = tmp_path / "pid"
    child = f"import subprocess; open({str(told)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    monkeypatch.setenv("PYTHONPATH", fake(tmp_path, f"{child}; time.sleep(600)"))
    for patience in (3, 12, 48):
        assert "did not answer" in draw({"one": SPEC}, silence_seconds=patience).fault
        if told.exists():
            break
    deadline = time.monotonic() + 60
    while _runs(int(told.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_everything_is_drawn_where_nothing_goes_wrong() -> None:
    drawn = draw({"one": SPEC, "two": SPEC}, script=True)
    assert drawn.fault == ""
    assert set(drawn.pictures) == {"one", "two"}
    assert all(picture.startswith(PNG) for picture in drawn.pictures.values())
    assert drawn.script is not None
    assert "vegaEmbed" in drawn.script
    assert draw({}).fault == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("seed"))


def report(folder: Path, out: Path, limit_kib: int | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """`touchline report`, in a shell whose memory may be limited."""
    before = "" if limit_kib is None else f"ulimit -v {limit_kib}; "
    words = [sys.executable, "-m", "touchline.cli.main", "report", str(folder), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **env}
    environment |= {"XDG_CACHE_HOME": str(out.parent / "cache"), "TOUCHLINE_CACHE_DIR": str(out.parent / "cache")}
    shell = ["bash", "-c", f'{before}exec "$@"', "bash", *words]
    return subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v binds on Linux alone")
def test_limited_memory_costs_the_figures_and_not_the_report(folder: Path, tmp_path: Path) -> None:
    """The library's engine aborts below some 10 GB of address space; with more, the same report draws again."""
    for limit in (900_000, 4_000_000):
        done = report(folder, tmp_path / "out", limit)
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "out" / "RESULTS.md").read_text()
        page = (tmp_path / "out" / "report.html").read_text()
        # The page draws by itself where its program could be put together.
        draws = len(page) > 600_000
        for place in (text, done.stderr, *([] if draws else [page])):
            assert re.search(r"Figures are off: the process that draws them .*(killed by SIG|exit code)", place)
        assert "figures/" not in text
        assert not list((tmp_path / "out" / "figures").glob("*.png"))
        assert "## Training results" in text
        assert ('data-spec="spec-' in page) is draws
    done = report(folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "Figures are off" not in text + (tmp_path / "out" / "report.html").read_text()
    pictures = re.findall(r"\((figures/[^)]+)\)", text)
    assert pictures
    assert all((tmp_path / "out" / picture).read_bytes().startswith(PNG) for picture in pictures)


def test_a_report_whose_drawing_is_killed_half_way_keeps_the_rest(folder: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    done = report(folder, tmp_path / "out", PYTHONPATH=fake(library, "os.kill(os.getpid(), signal.SIGKILL)", good=1))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "RESULTS.md").read_text()
    assert f"killed by {signal.Signals.SIGKILL.name}" in text
    pictures = re.findall(r"\((figures/[^)]+)\)", text)
    assert len(pictures) == 1
    assert {path.name for path in (tmp_path / "out" / "figures").glob("*.png")} == {
        Path(each).name for each in pictures
    }
    # The page draws by itself, and its program was there before the process died.
    assert "window.drawn = 1;" in (tmp_path / "out" / "report.html").read_text()
