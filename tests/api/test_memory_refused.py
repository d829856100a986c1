"""Memory before anything starts: runs that cannot fit are refused."""

import json
from pathlib import Path

import pytest
from tests.api.seed_folders import seed_settings, write_experiment

from touchline import api
from touchline.core.errors import FindingsError
from touchline.core.finding import Finding
from touchline.data.user_config import UserConfig
from touchline.experiment.requests import CheckRequest
from touchline.lint.local import planned_experiment

pytestmark = pytest.mark.planning

FIXTURE = Path(__file__).parents[1] / "fixtures" / "seed002" / "1B_rank64"
PACKED = ("train.packed=true", "train.micro_batch_size=16", "factors={}", "models=[Llama-3.2-1B-Instruct]")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> UserConfig:
    return seed_settings(tmp_path_factory.mktemp("seed"))


@pytest.mark.slow
def test_a_plan_that_cannot_fit_is_refused_until_its_run_has_started(
    tmp_path: Path, settings: UserConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a plan of an earlier version, which did not judge memory."""
    folder = write_experiment(tmp_path / "exp")
    with monkeypatch.context() as earlier:
        earlier.setattr(planned_experiment, "memory_findings", lambda *_: ())
        (run,) = (run for run in api.plan(folder, settings, PACKED).plan.runs if run.train is not None)
        api.prepare(folder, settings)
    for verb in (api.prepare, api.submit):
        with pytest.raises(FindingsError) as refused:
            verb(folder, settings)
        (found,) = refused.value.findings
        assert (refused.value.exit_code, found.code) == (1, "PK001")
        assert "train.micro_batch_size=auto" in (found.hint or "")
    (folder / run.name / "metrics.jsonl").write_text("{}\n")
    api.prepare(folder, settings)


def _config(folder: Path, models: Path, *, packed: bool, rows: int) -> Path:
    """A finetune.yaml of seed 002 with its data beside it, and the model's folder of this machine."""
    text = (FIXTURE / "finetune.yaml").read_text().replace("/scratch/ada/models", str(models))
    text = text.replace("/scratch/ada/data/words_8L_80P_10000.json", "words.json")
    text = text.replace("packed: false", f"packed: {str(packed).lower()}").replace(
        "batch_size: 16", f"batch_size: {rows}"
    )
    folder.mkdir()
    words = [{"input": f"word{n}", "output": f"Word{n}"} for n in range(500)]
    (folder / "words.json").write_text(json.dumps({"train": words, "validation": words[:5], "test": words[:5]}))
    (folder / "finetune.yaml").write_text(text)
    return folder / "finetune.yaml"


def _memory(config: Path, settings: UserConfig, gpu: str) -> list[Finding]:
    found = api.check([config], settings, CheckRequest(gpu=gpu))[1]
    return [each for each in found if each.code in ("PK001", "PK002", "PK003", "PK004", "ME020")]


def test_rows_of_a_config_are_as_long_as_those_of_its_file(tmp_path: Path, settings: UserConfig) -> None:
    """16 rows of some 50 tokens fit, whatever max_seq_len is; 4,000 of them do not."""
    few, many = (_config(tmp_path / f"{rows}", settings.models_dir, packed=False, rows=rows) for rows in (16, 4000))
    assert _memory(few, settings, "A100-80GB") == []
    (over,) = _memory(many, settings, "A100-80GB")
    assert over.code == "PK003"
    assert "2,048" not in over.message
