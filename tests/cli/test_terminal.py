"""What commands print on a terminal of 80 and of 120 columns: no line too long, no word broken, no border."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path
from typing import NoReturn

import pytest
from tests.api.folders import environment, make_experiment, tiny_settings
from tests.api.made_runs import finish

from touchline import api
from touchline.cli.main import main
from touchline.core.text import without_controls

pytestmark = [pytest.mark.planning, pytest.mark.slow]

WIDE = 1000
DATA = "one/data/words.json"
COMMANDS = {
    "results": ("results", "one"),
    "check": ("check", "one"),
    "faults": ("check", "bad"),
    "status": ("status", "one"),
    "compare": ("compare", "one", "two"),
    "collect": ("collect", "one"),
    "history list": ("history", "list"),
    "history show": ("history", "show", "1M_rank2"),
    "calibration": ("history", "calibration"),
    "design": ("design", "one"),
    "estimate": ("estimate", "--model", "Tiny-1M-Instruct"),
    "pack": ("pack", DATA, "--max-seq-len", "64", "--tokenizer", "Tiny-1M-Instruct"),
    "models": ("models", "list"),
    "model": ("models", "show", "Tiny-1M-Instruct"),
    "data show": ("data", "show", DATA),
    "data audit": ("data", "audit", DATA),
    "doctor": ("doctor",),
    "place": ("place", "left", "--gpus", "2"),
    "optimize": ("optimize", "one"),
    "backend": ("backend", "list"),
    "skill": ("skill", "list"),
    "rules": ("check", "--explain", "EX1"),
    "help": ("estimate", "--help"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Two finished experiments, one that has not begun, and one with three faults."""
    folder = tmp_path_factory.mktemp("terminal")
    settings = tiny_settings(folder, tiny_model)
    for name, rate in (("one", "1e-2"), ("two", "2e-2")):
        experiment = make_experiment(folder / name)
        yaml = experiment / "experiment.yaml"
        yaml.write_text(yaml.read_text().replace("name: tiny", f"name: {name}").replace("1e-2", rate))
        finish(experiment, settings)
        api.collect(experiment, settings)
    api.plan(make_experiment(folder / "left"), settings)
    bad = make_experiment(folder / "bad") / "experiment.yaml"
    bad.write_text(bad.read_text().replace("learning_rate", "learnin_rate") + "sedes: 3\ncontrolls: base\n")
    return folder


def typed(place: Path, width: int, *words: str) -> tuple[int, str]:
    """Run a command in a terminal of so many columns; return its exit code and what is on the terminal."""
    child, terminal = pty.fork()
    if child == 0:
        _become(place, width, words)
    printed = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        printed += part
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    lines = without_controls(printed.decode().replace("\r\n", "\n")).split("\n")
    return os.waitstatus_to_exitcode(status), "\n".join(line for line in lines if not re.search("[━╌]", line)).lstrip()


def _become(place: Path, width: int, words: tuple[str, ...]) -> NoReturn:
    try:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = ["touchline", *words]
        os.environ |= environment(place / "models", place / "cache", place / "history")
        os.environ.pop("COLUMNS", None)
        os.chdir(place)
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))
    finally:
        os._exit(99)


def _numbered(text: str) -> str:
    """Every number as 0: free disk space changes from one call to the next."""
    return re.sub(r"\d+(\.\d+)?", "0", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_longer_than_the_terminal_and_no_word_is_broken(place: Path, command: str) -> None:
    """The words of a narrow terminal are those of a wide one; a command to copy stays on one line."""
    code, whole = typed(place, WIDE, *COMMANDS[command])
    # What doctor finds depends on the machine.
    assert code == (1 if command in ("faults", "design") else code % 2 if command == "doctor" else 0), whole
    words = set(_numbered(whole).split())
    for width in (80, 120):
        _, text = typed(place, width, *COMMANDS[command])
        assert not re.search("[│┃┏└├]", text)
        for line in text.splitlines():
            is_one_word = len(line.split()) == 1
            assert len(line) <= width or is_one_word or re.match(r" *(\w+: )?touchline ", line), (width, line)
        narrow = {word for word in _numbered(text.partition("(not shown")[0]).split() if not word.endswith("…")}
        if command != "help":
            assert narrow <= words, narrow - words


def test_check_ends_with_one_line_that_counts_and_has_no_table(place: Path) -> None:
    """Three faults, each with its place and its hint; nothing has passed beside an error."""
    code, text = typed(place, 80, "check", "bad")
    assert code == 1
    assert text.count("error EX002: unknown key") == 3
    assert "3 errors" in text.splitlines()[-2]
    assert not re.search("PASS|FAIL|passed", text)


def test_the_first_lines_answer(place: Path) -> None:
    """Whether to pack, the scores in one form of interval, and losses that say what they are."""
    assert re.match("Do not pack|Packing (reduces|saves)", typed(place, 80, *COMMANDS["pack"])[1])
    results = typed(place, 120, "results", "one")[1]
    assert re.search(r"\d+\.\d% \(\d+\.\d to \d+\.\d; \d+/\d+\)", results)
    assert "train loss (mean of the last" in results
    assert "last loss" in typed(place, 120, "status", "one")[1]
    assert "local-" not in typed(place, 120, "status", "one")[1]
    assert typed(place, 80, *COMMANDS["compare"])[1].count("n/a (") <= 3
