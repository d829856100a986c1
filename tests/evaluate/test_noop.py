"""A no-op control: a fresh adapter that goes the whole way of a trained one and changes no answer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.cases import parametrize
from tests.evaluate.tiny_evaluation import evaluation_config, write_run
from tests.tiny_model import build_tiny_model, write_tiny_words
from transformers import AutoModelForCausalLM

from touchline.core.errors import InputError, PlanDriftError
from touchline.data.checkpoints import read_checkpoints
from touchline.data.evaluations import finished_evaluation, read_evaluation_config
from touchline.data.scores import EvaluationRecord
from touchline.evaluate.checkpoint import WEIGHTS_NAME, write_no_op
from touchline.evaluate.process import evaluate
from touchline.evaluate.wanted import EvaluationRequest, RequestedJob, find_pending_evaluations
from touchline.experiment.evaluation import BASE_CHECKPOINT, NO_OP_CHECKPOINT, EvaluationConfig
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.training import LoraConfig

# Inspect leaves its event loop's streams to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")

LORA = LoraConfig(rank=3)


def make_controls(root: Path, items: int, no_op: LoraConfig = LORA) -> Path:
    """An experiment of a base control and a no-op control."""
    base = build_tiny_model(root / "models" / "tiny")
    words = write_tiny_words(root / "words.json", 8, 2, items)
    settings = EvaluateConfig(batch_size=8, max_new_tokens=6)
    write_run(root / "experiment", evaluation_config(base, words, "tiny_base", evaluate=settings))
    config = evaluation_config(base, words, "tiny_noop", evaluate=settings, control=True, no_op=no_op)
    write_run(root / "experiment", config)
    return root / "experiment"


def config_of(experiment: Path) -> EvaluationConfig:
    return read_evaluation_config(experiment / "tiny_noop" / "eval.yaml")


def evaluated(experiment: Path, dtype: str = "float32") -> tuple[EvaluationRecord, EvaluationRecord]:
    jobs = (
        RequestedJob(run="tiny_base", checkpoint=BASE_CHECKPOINT),
        RequestedJob(run="tiny_noop", checkpoint=NO_OP_CHECKPOINT),
    )
    evaluate(experiment, EvaluationRequest(jobs=jobs, dtype=dtype))
    (noop,) = read_checkpoints(experiment / "tiny_noop")
    base = finished_evaluation(
        experiment / "tiny_base", read_evaluation_config(experiment / "tiny_base" / "eval.yaml"), BASE_CHECKPOINT, None
    )
    found = finished_evaluation(experiment / "tiny_noop", config_of(experiment), noop.name, noop.adapter_sha256)
    assert base is not None
    assert found is not None
    return base, found


@parametrize(
    "items, dtype",
    (20, "float32"),
    (120, "bfloat16"),
    pytest.param(20, "bfloat16", marks=pytest.mark.thorough),
    pytest.param(120, "float32", marks=pytest.mark.thorough),
)
def test_it_scores_as_the_base_does(items: int, dtype: str, tmp_path: Path) -> None:
    """Beside the weights and merged into them, in both element types: every answer is the base's, token for token."""
    base, noop = evaluated(make_controls(tmp_path, items), dtype)
    assert (len(base.samples), noop.samples) == (items, base.samples)
    assert base.adapter_sha256 is None
    assert noop.adapter_sha256 is not None
    assert noop.settings_sha256 == base.settings_sha256


def test_its_adapter_is_like_a_trained_one(tmp_path: Path) -> None:
    """PEFT reads it; its second factor is zero, its first is not, and its shape is the experiment's."""
    experiment = make_controls(tmp_path, 10, LoraConfig(rank=5, alpha=7.0, target_modules=("q_proj", "up_proj")))
    folder = write_no_op(experiment / "tiny_noop", config_of(experiment))
    weights = load_file(folder / WEIGHTS_NAME)
    assert len(weights) == 2 * 2 * 2
    for name, tensor in weights.items():
        assert tensor.dtype is torch.float32
        assert bool(tensor.any()) is ("lora_A" in name)
        assert 5 in tensor.shape
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (5, 7.0, ["q_proj", "up_proj"])
    base = AutoModelForCausalLM.from_pretrained(config_of(experiment).model.path)
    PeftModel.from_pretrained(base, str(folder))


def test_it_is_written_once_and_alike_everywhere(tmp_path: Path) -> None:
    """Its hash tells whether an evaluation is of it, so it must not change from one start to the next."""
    experiment = make_controls(tmp_path, 10, LoraConfig(rank=2, dtype="bfloat16"))
    folder, config = experiment / "tiny_noop", config_of(experiment)
    place = write_no_op(folder, config)
    first = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in place.iterdir()}
    write_no_op(folder, config)
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in place.iterdir()} == first
    shutil.rmtree(place)
    write_no_op(folder, config)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {name: c for name, (_, c) in first.items()}
    assert load_file(place / WEIGHTS_NAME).popitem()[1].dtype is torch.bfloat16


@pytest.mark.parametrize("spoil", ["gone", "cut", "other plan"])
def test_a_broken_or_old_one_is_written_again(spoil: str, tmp_path: Path) -> None:
    """What a killed writer or another plan has left is not evaluated."""
    experiment = make_controls(tmp_path, 10)
    folder, config = experiment / "tiny_noop", config_of(experiment)
    place = write_no_op(folder, config)
    sound = (place / WEIGHTS_NAME).read_bytes()
    if spoil == "gone":
        (place / WEIGHTS_NAME).unlink()
    elif spoil == "cut":
        (place / WEIGHTS_NAME).write_bytes(sound[:-1])
    else:
        config = replace(config, run_digest="f" * 64)
    write_no_op(folder, config)
    assert (place / WEIGHTS_NAME).read_bytes() == sound
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    (found,) = read_checkpoints(folder, hashes=True)
    assert (found.complete, found.step, found.epoch) == (True, 0, None)


def test_what_is_left_to_do_is_told_from_the_folder(tmp_path: Path) -> None:
    """As eval.slurm asks: the no-op folder first, then nothing."""
    experiment = make_controls(tmp_path, 10)
    assert find_pending_evaluations(experiment, "tiny_noop").checkpoints == (NO_OP_CHECKPOINT,)
    evaluated(experiment)
    assert find_pending_evaluations(experiment, "tiny_noop").checkpoints == ()
    shutil.rmtree(experiment / "tiny_noop" / NO_OP_CHECKPOINT)
    assert find_pending_evaluations(experiment, "tiny_noop").checkpoints == (NO_OP_CHECKPOINT,)
    evaluated(experiment)
    assert find_pending_evaluations(experiment, "tiny_noop").checkpoints == ()


def test_layers_that_the_model_has_not_are_told(tmp_path: Path) -> None:
    """In words, and nothing is left behind."""
    experiment = make_controls(tmp_path, 10, LoraConfig(target_modules=("c_attn",)))
    with pytest.raises(InputError, match="does not fit the model tiny"):
        write_no_op(experiment / "tiny_noop", config_of(experiment))
    assert sorted(path.name for path in (experiment / "tiny_noop").iterdir()) == ["eval.py", "eval.yaml"]


def test_another_run_or_another_base_is_refused(tmp_path: Path) -> None:
    """Only a no-op control has a checkpoint of that name; an adapter of zeros on other weights would prove nothing."""
    experiment = make_controls(tmp_path, 10)
    config = config_of(experiment)
    write_run(experiment, replace(config, model=replace(config.model, weights_sha256="1" * 64)))
    base, noop = (
        EvaluationRequest(jobs=(RequestedJob(run=run, checkpoint=NO_OP_CHECKPOINT),))
        for run in ("tiny_base", "tiny_noop")
    )
    with pytest.raises(InputError, match="not a no-op control"):
        evaluate(experiment, base)
    with pytest.raises(PlanDriftError):
        evaluate(experiment, noop)
