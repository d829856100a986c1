"""Environments of trainers that live apart: found, refused where missing or incomplete, and made once."""

import json
from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest
from tests.run.made_plans import made_run
from typer.testing import CliRunner

from touchline.backends.external import Environment
from touchline.backends.local.environments import COMPLETE, environment_folder, find_environment
from touchline.backends.registry import environments
from touchline.cli.main import app
from touchline.core.errors import HostError, InputError, PolicyError
from touchline.core.files import try_lock
from touchline.core.quantity import Missing
from touchline.data import user_config
from touchline.data.user_config import load_settings
from touchline.run.launching import require_environments
from touchline.tools.environments import backend_states, install_environment

pytestmark = pytest.mark.planning

ENVIRONMENT = environments()["torchtune"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(ENVIRONMENT.python_variable, raising=False)
    monkeypatch.setattr(platformdirs, "user_data_path", lambda name: tmp_path / name)
    return tmp_path


def made(folder: Path, environment: Environment = ENVIRONMENT, **versions: str) -> Path:
    """A folder that looks like an environment with the pinned packages."""
    (folder / "bin").mkdir(parents=True)
    for name in ("python", environment.program):
        (folder / "bin" / name).write_text("#!/bin/sh\n")
        (folder / "bin" / name).chmod(0o755)
    for name, version in {**environment.versions, **versions}.items():
        place = folder / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def missing() -> str:
    found = find_environment(ENVIRONMENT)
    return found.missing


def test_an_environment_is_found_with_its_versions() -> None:
    folder = made(environment_folder(ENVIRONMENT), torch="2.13.0+cpu")
    assert "interrupted" in missing()
    (folder / COMPLETE).touch()
    found = find_environment(ENVIRONMENT)
    assert not isinstance(found, Missing)
    assert (found.python_version, found.versions["torch"]) == ("3.11", "2.13.0+cpu")
    assert found.program == str(folder / "bin" / "tune")
    assert install_environment("torchtune").python == found.python, "nothing is made again"


def test_half_an_environment_and_other_versions_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == "not installed"
    folder = made(home / "own", torchao="0.17.0")
    monkeypatch.setenv(ENVIRONMENT.python_variable, str(folder / "bin" / "python"))
    assert "torchao 0.17.0, expected torch==2.13.0, torchtune==0.6.1, torchao==0.15.0" in missing()
    half = made(home / "half")
    (half / "bin" / "tune").unlink()
    monkeypatch.setenv(ENVIRONMENT.python_variable, str(half / "bin" / "python"))
    assert "incomplete: tune is not installed" in missing()
    monkeypatch.setenv(ENVIRONMENT.python_variable, str(home / "nothing" / "bin" / "python"))
    assert "has no Python" in missing()
    run = made_run()
    assert run.train is not None
    with pytest.raises(HostError) as error:
        require_environments([replace(run, train=replace(run.train, backend="torchtune"))])
    assert error.value.hint == "touchline backend install torchtune"
    require_environments([run])


def test_the_config_file_names_environments(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group's own environment has the torch that its driver takes; what else it lacks is said at once."""
    own, bare = made(home / "own", torch="2.6.0"), made(home / "bare", torchao="0.9.0")
    (bare / "lib" / "python3.11" / "site-packages" / "torchdata-0.11.0.dist-info" / "METADATA").unlink()
    (bare / "lib" / "python3.11" / "site-packages" / "torchdata-0.11.0.dist-info").rmdir()
    config = home / "config.yaml"
    monkeypatch.setattr(user_config, "config_path", lambda: config)
    config.write_text(f"backends: {{folder: ~/envs, torchtune: {{python: {own}/bin/python}}}}\n")
    monkeypatch.setenv("HOME", str(home))
    found = find_environment(ENVIRONMENT)
    assert not isinstance(found, Missing)
    assert (found.program, found.versions["torch"]) == (str(own / "bin" / "tune"), "2.6.0")
    assert environment_folder(ENVIRONMENT) == home / "envs" / "torchtune"
    states = {state.name: state for state in backend_states()}
    assert "tested with torch 2.13.0" in str(states["torchtune"].note)
    config.write_text(f"backends: {{torchtune: {{python: {bare}/bin/python}}}}\n")
    assert "torchdata is not installed" in missing()
    assert "torchao 0.9.0, expected torch==2.13.0" in missing()
    answer = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    (check,) = [each for each in answer["checks"] if each["name"] == "backend torchtune"]
    assert check["status"] == "error"
    assert "torchdata is not installed" in check["message"]
    monkeypatch.setenv(ENVIRONMENT.python_variable, str(own / "bin" / "python"))
    assert not isinstance(find_environment(ENVIRONMENT), Missing), "the variable goes before the file"
    config.write_text("backends: {torchtun: {python: x}}\n")
    with pytest.raises(InputError, match="torchtun"):
        require_environments([])
    config.write_text("backends: {folder: 3, torchtune: x}\n")
    with pytest.raises(InputError) as error:
        load_settings()
    assert [each.subject for each in error.value.findings] == ["backends.folder", "backends.torchtune"]


@pytest.mark.slow
def test_without_an_index_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(HostError, match=r"cannot be installed: .*torch") as error:
        install_environment("torchtune")
    assert "with a network" in str(error.value.hint)
    assert not environment_folder(ENVIRONMENT).exists()


def test_two_installations_exclude_each_other() -> None:
    folder = environment_folder(ENVIRONMENT)
    folder.parent.mkdir(parents=True)
    lock = try_lock(folder.parent / ".torchtune.lock")
    assert lock is not None
    with pytest.raises(PolicyError, match="by another process"):
        install_environment("torchtune")
    with pytest.raises(InputError, match="no separate environment"):
        install_environment("peft")


def test_the_list_says_what_can_train_here() -> None:
    states = {state.name: state for state in backend_states()}
    assert not states["torchtune"].installed
    assert "touchline backend install torchtune" in str(states["torchtune"].problem)
    done = CliRunner().invoke(app, ["backend", "list", "--json"])
    assert done.exit_code == 0
    listed = {each["name"]: each for each in json.loads(done.stdout)["backends"]}
    assert listed.keys() == states.keys() >= {"peft", "torchtune", "trl"}
    assert "no longer maintained" in listed["torchtune"]["note"]
    shown = CliRunner().invoke(app, ["backend", "list"])
    assert "torchtune" in shown.stdout
