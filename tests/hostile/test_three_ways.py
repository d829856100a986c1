"""The same hostile values through the command line, Python and an agent's server: three ways, one verdict."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.api.folders import make_experiment
from tests.hostile.harness import call

from touchline import api
from touchline.agent.server import called
from touchline.core.errors import TouchlineError
from touchline.data.user_config import UserConfig, load_settings

pytestmark = pytest.mark.planning

VALUES: tuple[str, ...] = (
    *(
        "",
        " ",
        "-",
        "--",
        "~",
        "../nowhere",
        "/dev/null",
        "a/../b",
        "a\nb",
        "\x1b[31mred",
        "\u202e\u2066",
        "\udcff\udc80",
    ),
    *("x" * 300, "x" * 5000, "ä\u0301", "%s{x}$HOME", "'\"`;rm -rf", "\ufeff", "\U0001f4a5", "CON:", "*", "[a]"),
)
OVERRIDES: tuple[str, ...] = (
    *(
        "train.epochs=\x1b[31m",
        "train.epochs=[1",
        "train.epochs=nan",
        "train.epochs=" + "9" * 5000,
        "=1",
        "train=",
        "x",
    ),
    *("train.lora.rank=\udcff", "name=\u202ename", "name=a/b", "seeds=[1, 1]", "models=[[]]", "data.path=/dev/zero"),
    *(
        "train.epochs=!!python/object:os.system x",
        "run_names={",
        "run_names={0.__class__}",
        "data.prompt='{x!r:>9999999}'",
    ),
    *("train.learning_rate=1e-3", "train.lora.rank=2"),
)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Tiny-1M-Instruct").symlink_to(tiny_model)
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
    assert not by_server("plan", experiment=f"{folder}\0")
    assert not by_server("check", paths=[f"{folder}\0"])


def test_a_name_that_is_no_utf_8_is_shown_escaped(folder: Path) -> None:
    """In answers that succeed as well."""
    odd = folder.rename(folder.with_name("caf\udce9"))
    assert call("plan", odd)[0] < 2
    for tool in ("plan", "status", "check"):
        assert by_server(tool, **({"paths": [str(odd)]} if tool == "check" else {"experiment": str(odd)}))
