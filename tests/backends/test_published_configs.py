"""Published configs: what `touchline import` makes of each, against what its own trainer makes of it.

`tests/fixtures/published/TRAINER/NAME.yaml` is the config as published, `NAME.expected.json` what it means by its
trainer's parser and documentation, written down before the import read it: `settings` of experiment.yaml by dotted key,
and keys that must be `listed`; or `refused`, words of the error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.backends.config_files import format_of

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.backends.import_carrier import dotted, leaves
from touchline.core.errors import InputError
from touchline.core.finding import Severity
from touchline.data.user_config import UserConfig
from touchline.run.imports.importing import ImportReport
from touchline.spec.experiment import Experiment
from touchline.spec.foreign import ForeignDocument, parse_foreign
from touchline.spec.overlay import setting
from touchline.spec.read import read_experiment

pytestmark = pytest.mark.planning

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "published"
FILES = sorted(PUBLISHED.glob("*/*.yaml"))
EXPECTED = {file: json.loads(file.with_suffix(".expected.json").read_text(encoding="utf-8")) for file in FILES}
TRAINED = [file for file in FILES if "settings" in EXPECTED[file]]
REFUSED = [file for file in FILES if "refused" in EXPECTED[file]]


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def imported(file: Path, folder: Path) -> tuple[ImportReport, Experiment]:
    """Import a config into a folder, and read what was written."""
    report = api.import_experiment([file], folder / "experiment.yaml")
    return report, read_experiment(Path(report.path).read_text(encoding="utf-8"), report.path).experiment


def document_of(file: Path) -> ForeignDocument:
    return parse_foreign(file.read_text(encoding="utf-8"), str(file), format_of(file.parent.name).dialect)


def plain(value: object) -> object:
    """Return a setting as JSON has it."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    given = {"steps": getattr(value, "steps", None), "minutes": getattr(value, "minutes", None)}
    return {key: each for key, each in given.items() if each is not None} if any(given.values()) else value


@pytest.mark.parametrize("trainer", sorted({file.parent.name for file in FILES}))
def test_each_trainer_has_five_published_configs(trainer: str) -> None:
    files = [file for file in FILES if file.parent.name == trainer]
    assert len(files) >= 5
    for file in files:
        head = file.read_text(encoding="utf-8").splitlines()[:2]
        assert "https://" in head[0]
        assert "Licence" in head[1]


@pytest.mark.parametrize("file", TRAINED, ids=name_of)
def test_every_setting_means_the_same(file: Path, tmp_path: Path) -> None:
    """Field by field, the defaults of both tools included."""
    _, experiment = imported(file, tmp_path)
    wanted: Mapping[str, object] = EXPECTED[file]["settings"]
    found = {key: plain(setting(experiment, key)) for key in wanted}
    assert found == wanted


@pytest.mark.parametrize("file", TRAINED, ids=name_of)
def test_what_differs_is_listed(file: Path, tmp_path: Path) -> None:
    report, _ = imported(file, tmp_path)
    listed = {each.key for each in report.not_carried}
    assert set(EXPECTED[file]["listed"]) - listed == set()


@pytest.mark.parametrize("file", TRAINED, ids=name_of)
def test_every_key_is_in_the_file_or_in_the_list(file: Path, tmp_path: Path) -> None:
    """A key is in the file if a setting is named for it, and in the list with its own name or that of its group."""
    report, _ = imported(file, tmp_path)
    named = {part for each in report.carried for part in each.source.split(" x ")}
    named |= {each.key for each in report.not_carried}
    lost = []
    for path, _value in leaves(document_of(file).data):
        if not any(dotted(path[:end]) in named for end in range(1, len(path) + 1)):
            lost.append(dotted(path))
    assert lost == []


@pytest.mark.parametrize("file", REFUSED, ids=name_of)
def test_another_training_is_refused_with_what_to_do(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        api.import_experiment([file], tmp_path / "experiment.yaml")
    (finding,) = caught.value.findings
    assert EXPECTED[file]["refused"] in finding.message
    assert "touchline check" in (finding.hint or "")
    assert finding.where is not None
    assert finding.where.line is not None
    assert not (tmp_path / "experiment.yaml").exists()


@pytest.mark.parametrize("file", TRAINED, ids=name_of)
def test_check_does_not_refuse_what_import_wrote(file: Path, tmp_path: Path) -> None:
    """With a model and data of the file's own columns, planned for a GPU, `check` finds no error in the settings."""
    report, experiment = imported(file, tmp_path)
    model = tmp_path / "models" / experiment.models[0]
    write_tiny_model(model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 1 << 17
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rows = [row_of(experiment, number) for number in range(400)]
    data = tmp_path / experiment.data.path
    data.parent.mkdir(exist_ok=True)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = Path(report.path)
    text = path.read_text(encoding="utf-8")
    gpu = "  gpu: A100-80GB\n"
    text = text.replace("compute:\n", f"compute:\n{gpu}") if "\ncompute:\n" in text else f"{text}\ncompute:\n{gpu}"
    path.write_text(text, encoding="utf-8")
    settings = UserConfig(
        models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", history_dir=tmp_path / "history"
    )
    _, findings = api.check([path], settings)
    # Packages and environments of trainers are this machine's matter.
    of_the_machine = ("BK003", "BK004")
    assert [each for each in findings if each.severity is Severity.ERROR and each.code not in of_the_machine] == []


def row_of(experiment: Experiment, number: int) -> dict[str, object]:
    """Return a row with the columns that an experiment reads."""
    if experiment.data.messages is not None:
        turns = [{"role": "user", "content": f"what is {number}"}, {"role": "assistant", "content": f"{number % 7}"}]
        return {experiment.data.messages: turns}
    names = experiment.data.input if isinstance(experiment.data.input, tuple) else (experiment.data.input,)
    return {**{name: f"what is {number}" for name in names}, experiment.data.output: f"{number % 7}"}
