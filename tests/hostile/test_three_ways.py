"""The same hostile values through the command line, Python and an agent's server: three ways, one verdict."""

import inspect
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import make_experiment, tiny_settings
from tests.hostile.harness import call

from touchline import api
from touchline.agent.server import _TOOLS, Call, called
from touchline.core.errors import TouchlineError
from touchline.data.user_config import UserConfig, load_settings
from touchline.lint.local import checking
from touchline.lint.local import dataset_files as tree

pytestmark = pytest.mark.planning

VALUES: tuple[str, ...] = (
    *("", " ", "-", "--", "~", "../nowhere", "/dev/null", "a/../b", "a\nb", "\x1b[31mred", "\u202e\u2066"),
    *("x" * 300, "x" * 5000, "ä\u0301", "%s{x}$HOME", "'\"`;rm -rf", "\ufeff", "\U0001f4a5", "CON:", "*", "[a]"),
    "\udcff\udc80",
)
OVERRIDES: tuple[str, ...] = (
    *("train.epochs=\x1b[31m", "train.epochs=[1", "train.epochs=nan", "train.epochs=" + "9" * 5000, "=1", "train="),
    *("train.lora.rank=\udcff", "name=\u202ename", "name=a/b", "seeds=[1, 1]", "models=[[]]", "data.path=/dev/zero"),
    *("train.epochs=!!python/object:os.system x", "run_names={", "run_names={0.__class__}", "x"),
    *("train.learning_rate=1e-3", "train.lora.rank=2", "data.prompt='{x!r:>9999999}'"),
)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_settings(tmp_path, tiny_model)
    for name in ("models", "cache", "history"):
        monkeypatch.setenv(f"TOUCHLINE_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return make_experiment(tmp_path / "exp", ranks="[2]", n_train=16, n_test=4)


def by_python(verb: Callable[[UserConfig], object]) -> bool:
    """Return whether a verb accepts what it is given. It raises our errors and the system's, nothing else."""
    try:
        verb(load_settings())
    except (TouchlineError, OSError):
        return False
    return True


def by_server(tool: str, **arguments: Any) -> bool:
    """The same of a tool, whose answer is valid UTF-8."""
    answer = called(tool, arguments)
    assert isinstance(answer, dict)
    json.dumps(answer, ensure_ascii=False).encode()  # what a client is sent
    error = answer.get("error")
    assert "internal error" not in str(error)
    return error is None


@pytest.mark.parametrize("override", OVERRIDES, ids=range(len(OVERRIDES)))
def test_overrides(folder: Path, override: str) -> None:
    found = {
        "command": call("plan", folder, "--dry-run", override)[0] < 2,
        "python": by_python(lambda settings: api.plan(folder, settings, [override], dry_run=True)),
        "server": by_server("plan", experiment=str(folder), overrides=[override]),
    }
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
@pytest.mark.parametrize("verb", ["plan", "status", "results", "data"])
def test_paths(folder: Path, verb: str, value: str) -> None:
    """No path of these is an experiment or a dataset."""
    words: tuple[str, ...] = ("data", "show", "--", value) if verb == "data" else (verb, "--", value)
    assert call(*words)[0] >= 2
    python: dict[str, Callable[[UserConfig], object]] = {
        "plan": lambda settings: api.plan(Path(value), settings),
        "status": lambda settings: api.status(Path(value), settings),
        "results": lambda settings: api.results(Path(value)),
        "data": lambda settings: api.data_audit(Path(value)),
    }
    assert not by_python(python[verb])
    assert not by_server(verb, **{"path" if verb == "data" else "experiment": value})


def test_a_null_byte_has_no_way_in_but_python_and_the_server(folder: Path) -> None:
    assert not by_python(lambda settings: api.plan(Path(f"{folder}\0"), settings))
    for tool, declared in _TOOLS.items():
        for argument in inspect.signature(declared).parameters:
            for value in ("a\0", ["\0"], {"a": "\0"}, {"\0": 1}, "a\ud800"):
                answer = called(tool, {argument: value})
                assert isinstance(answer, dict)
                assert f"{argument}: it has a null byte" in answer["error"]["message"]


def test_a_name_that_is_no_utf_8_is_shown_escaped(folder: Path) -> None:
    """In answers that succeed as well, of every tool."""
    odd = folder.rename(folder.with_name("caf\udce9"))
    (odd / "d\udce9.yaml").write_text("a: [1")
    assert call("plan", odd)[0] < 2
    for tool, declared in _TOOLS.items():
        arguments = inspect.signature(declared).parameters
        values = {"paths": [str(odd)], "experiments": [str(odd)] * 2, "values": {"train.epochs": 2}}
        for name in ("experiment", "path", "data", "target", "model", "code"):
            values[name] = str(odd)
        known = {name: value for name, value in values.items() if name in arguments}
        good = by_server(tool, **known)
        assert good or tool not in ("plan", "status", "check", "edit", "models")


def test_keys_of_a_file_that_is_no_experiment_are_counted_and_not_shown(folder: Path) -> None:
    (folder / "shadow").write_text("root:*SECRET:20228:0:99999:7:::\ndaemon:*SECRET2:20228:0:99999:7:::\n")
    (folder / "key").write_text("SECRET: 1\nOTHER: SECRET\n")
    for name in ("shadow", "key"):
        path = str(folder / name)
        for tool in ("plan", "status", "results", "report", "logs", "edit", "data", "init", "estimate", "check", "fix"):
            key = {"data": "path", "init": "data", "estimate": "model", "check": "paths", "fix": "paths"}
            arguments = {key.get(tool, "experiment"): [path] if tool in ("check", "fix") else path}
            arguments |= {"values": {"name": "x"}} if tool == "edit" else {}
            assert "SECRET" not in str(called(tool, arguments)), tool
    assert "2 keys" in call("check", folder / "key")[1]


LOOPS = threading.Event()


def endless() -> Any:
    """Work that ends only when it is stopped."""
    LOOPS.set()
    while True:
        pass


class Timer(threading.Thread):
    """Timer that rings when the endless work has begun."""

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        super().__init__(target=lambda: ring() if LOOPS.wait(60) else None)
        assert seconds == 60
        LOOPS.clear()

    def cancel(self) -> None:
        LOOPS.set()


def test_a_call_is_stopped_and_gives_what_it_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = checking._Checker.file
    monkeypatch.setattr(
        checking._Checker, "file", lambda self, file: endless() if file.path.name == "z.yaml" else read(self, file)
    )
    monkeypatch.setattr(threading, "Timer", Timer)
    for name in ("a.yaml", "z.yaml"):
        (folder / name).write_text("a: [1")
    found = Call(lambda: called("check", {"paths": [str(folder)]}))()
    assert isinstance(found, dict)
    assert "60 s" in found["stopped"]
    (unfinished, *_) = [each for each in found["findings"] if each["code"] == "EX012"]
    assert unfinished["severity"] == "error"
    assert re.search(r"stopped when [1-9] of \d files were read", unfinished["message"])
    assert "a.yaml" in str(found["findings"])
    assert "without a result" in Call(endless)()["error"]["message"]
    assert "stopped" not in Call(lambda: called("explain", {"code": "EX110"}))()


def test_what_is_beyond_the_limit_of_files_is_an_error_that_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "FILE_LIMIT", 1)
    code, out, _ = call("check", folder)
    assert code == 1
    assert "EX012: more than 1 files: those beyond are not checked" in out
