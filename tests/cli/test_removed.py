"""What version 0.1.0 had and this one has not is refused by its name, with what to use instead."""

from pathlib import Path

import pytest
from tests.api.folders import make_experiment
from tests.cases import refusal

from touchline import api
from touchline.backends.registry import get_backend
from touchline.cli.main import main
from touchline.core.errors import InputError
from touchline.core.near import REMOVED, Removed, RemovedKind, drop_removed, find_removed
from touchline.experiment.read import read_experiment
from touchline.lint.rule import RETIRED

pytestmark = pytest.mark.planning

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "migrating.md").read_text(encoding="utf-8")


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    monkeypatch.setattr("sys.argv", ["touchline", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("row", REMOVED, ids=lambda row: f"{row.kind}-{row.name}".replace(" ", "-"))
def test_a_removed_thing_is_refused_by_its_name(
    row: Removed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"`{row.name}`" in DOCS
    folder = make_experiment(tmp_path / "tiny")
    match row.kind:
        case RemovedKind.COMMAND | RemovedKind.OPTION | RemovedKind.ADAPTER:
            words = [*row.typed, "x"]
        case RemovedKind.KEY:
            words = ["plan", str(folder), f"{row.name}=1"]
        case RemovedKind.EXPORT_TARGET:
            words = ["export", str(folder), "--to", row.name]
            monkeypatch.setattr("touchline.api.outcomes.read_started", lambda source: _planned(folder))
        case RemovedKind.TRAINER:
            with pytest.raises(InputError, match=str(row)):
                get_backend(row.name)
            return
        case _:
            assert find_removed(row.kind, row.name) == row
            return
    code, said = typed(monkeypatch, capsys, *words)
    assert code == 2
    assert str(row) in said


def _planned(folder: Path) -> object:
    from types import SimpleNamespace

    return SimpleNamespace(plan=SimpleNamespace(runs=()))


def test_a_removed_key_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    """In the file, below the key, and as an override; each with its line."""
    text = (make_experiment(tmp_path) / "experiment.yaml").read_text()
    row = find_removed(RemovedKind.KEY, "evaluate.general")
    assert row is not None
    assert find_removed(RemovedKind.KEY, "evaluate.general.tasks") == row
    assert find_removed(RemovedKind.KEY, "evaluate.generally") is None
    written = text.replace("max_new_tokens: 12}", "max_new_tokens: 12, general: {tasks: [a]}}")
    for source, overrides in ((written, ()), (text, ("evaluate.general.limit=3",))):
        caught = refusal(read_experiment, source, "experiment.yaml", overrides)
        assert [finding.message for finding in caught.findings] == [str(row)]
    settings = {"evaluate": {"general": {"tasks": ["a"]}, "samples": 3}}
    assert drop_removed(settings) == (row,)
    assert settings == {"evaluate": {"samples": 3}}
    assert drop_removed({"evaluate": {"general": None}}) == ()


def test_a_removed_code_is_accepted_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_experiment(tmp_path) / "data" / "words.json"
    for option in ("--allow", "--select", "--ignore"):
        code, said = typed(monkeypatch, capsys, "check", str(data), option, min(RETIRED))
        assert code == 0
        assert f"note: {min(RETIRED)} was removed after 0.1.0" in said


def test_a_removed_code_of_the_file_is_a_note_of_its_check(tmp_path: Path) -> None:
    from touchline.data.user_config import UserConfig

    folder = make_experiment(tmp_path / "tiny")
    with (folder / "experiment.yaml").open("a") as stream:
        stream.write(f"allow: [{min(RETIRED)}]\n")
    settings = UserConfig(models_dir=tmp_path, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")
    found = api.check([folder], settings)[1]
    assert [str(each.severity) for each in found if "was removed after 0.1.0" in each.message] == ["info"]
