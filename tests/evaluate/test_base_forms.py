"""The base of an evaluation divided over devices or quantized: what is answered, and what the records say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import read_eval_log
from tests.evaluate.tiny_evaluation import ALL_JOBS, evaluation_config, make_experiment, write_request, write_run

from touchline.core.errors import HostError
from touchline.data.evaluations import finished_evaluation, read_evaluation_config, read_evaluations, settings_sha256
from touchline.data.scores import EvaluationRecord
from touchline.evaluate import loading, weights
from touchline.evaluate.process import evaluate
from touchline.evaluate.wanted import needs_bitsandbytes, read_request
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.training import LoraConfig

# Inspect leaves its event loop's streams to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"), pytest.mark.slow]

NOOP = ("tiny_noop", "noop")


def experiment_of(root: Path, items: int = 40, **changes: object) -> Path:
    evaluate_config = EvaluateConfig(batch_size=8, max_new_tokens=6, **changes)
    made = make_experiment(root, items=items, evaluate=evaluate_config)
    noop = LoraConfig(rank=4, target_modules=("q_proj", "v_proj"))
    config = evaluation_config(root / "models" / "tiny", root / "words.json", NOOP[0], evaluate=evaluate_config)
    write_run(made, replace(config, control=True, no_op=noop))
    return made


def records(experiment: Path) -> dict[str, EvaluationRecord]:
    """Evaluate everything in float32; the record of each run."""
    evaluate(experiment, read_request(write_request(experiment, *ALL_JOBS, NOOP)))
    found = {run: read_evaluations(experiment / run) for run, _ in (*ALL_JOBS, NOOP)}
    assert all(len(each) == 1 for each in found.values())
    return {run: each[0] for run, each in found.items()}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def load(*arguments: Any) -> Any:
        found.append(loading.load_base(*arguments))
        return found[-1]

    monkeypatch.setattr(weights, "load_base", load)
    return found


def outputs(found: dict[str, EvaluationRecord]) -> dict[str, list[tuple[str, str, float]]]:
    return {run: [(item.id, item.output, item.score) for item in each.samples] for run, each in found.items()}


@pytest.mark.parametrize("items", [20, pytest.param(120, marks=pytest.mark.thorough)])
def test_devices_are_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[Any], items: int) -> None:
    """Every item of runs and controls, with adapters that one device shares batches of, or merges."""
    one = records(experiment_of(tmp_path / "one", items))
    divided = experiment_of(tmp_path / "several", items)
    # The embedding in memory, the layers on disk.
    monkeypatch.setattr(loading, "device_limits", lambda device, form: {"cpu": 150_000})
    several = records(divided)
    assert [loading.places_of(model) for model in loaded] == [set(), {"cpu", "disk"}]
    assert outputs(several) == outputs(one)
    assert len({str(outputs(one)[run]) for run in ("tiny_base", "tiny_rank4", "tiny_rank8")}) == 3
    assert several["tiny_base"].settings_sha256 == one["tiny_base"].settings_sha256


@pytest.mark.parametrize("form", ["nf4", pytest.param("int8", marks=pytest.mark.thorough)])
def test_runs_and_controls_are_scored_on_one_quantized_base(tmp_path: Path, loaded: list[Any], form: str) -> None:
    """Log and record name the form; its scores are not those of the whole base, nor the reverse."""
    experiment = experiment_of(tmp_path, quantization=form)
    assert needs_bitsandbytes(experiment, "tiny_rank4")
    found = records(experiment)
    assert [model.is_quantized for model in loaded] == [True]
    for run, record in found.items():
        log = read_eval_log(str(experiment / run / "eval" / record.log))
        assert log.eval.metadata["quantization"] == form
        assert f"{form} base, float32" in record.decoding
        config = read_evaluation_config(experiment / run / "eval.yaml")
        assert record.settings_sha256 == settings_sha256(config)
        whole = replace(config, evaluate=replace(config.evaluate, quantization="none"))
        assert settings_sha256(whole) != record.settings_sha256
        assert finished_evaluation(experiment / run, config, record.checkpoint, record.adapter_sha256) is not None
        assert finished_evaluation(experiment / run, whole, record.checkpoint, record.adapter_sha256) is None
    answers = outputs(found)
    assert answers["tiny_noop"] == answers["tiny_base"]
    assert answers["tiny_rank4"] != answers["tiny_base"]


def test_a_job_without_the_planned_gpus_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(HostError, match="planned for 2 GPUs, but 1 GPU can be seen"):
        loading.device_limits(torch.device("cuda"), loading.BaseForm(gpus=2))
