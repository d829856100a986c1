"""`method: full`: both trainers train all weights alike; a checkpoint is the whole model, and what ends a training
changes nothing."""

import json
import runpy
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny_model import write_tiny_words
from tests.train import interruptions as halt
from tests.train.tiny_run import write_config
from tests.trainer_experiments import PlannedExperiment, metrics
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.data.checkpoints import read_checkpoints
from touchline.data.user_config import UserConfig
from touchline.evaluate.checkpoint import resolve_checkpoint
from touchline.evaluate.decoding import write_answers
from touchline.evaluate.weights import Weights, pick_device, pick_dtype
from touchline.train.attempt import MetricsLog, Stop
from touchline.train.hf import train_planned
from touchline.train.inputs import load_inputs, read_config
from touchline.train.loop import Training
from touchline.train.parallel import Processes
from touchline.train.process import run_training
from touchline.train.record import TrainingRecord
from touchline.train.setup import build_session

EXPERIMENT = """
name: whole
task: capitalization
models: [{model}]
data: {{path: words.json}}
train: {{epochs: 2, global_batch_size: 8, micro_batch_size: 4, learning_rate: 2e-3, max_seq_len: 96, packed: false,
         base_dtype: float32, validate_every_steps: 3, method: full,
         checkpoint: {{every: {{steps: 2}}, keep: 2, resume_minutes: {often}}}}}
pairs:
  - {{train.backend: peft}}
  - {{train.backend: trl}}
  - {{train.backend: peft, train.base_dtype: bfloat16}}
  - {{train.backend: peft, train.base_dtype: auto, train.gradient_checkpointing: true, train.optimizer: adamw_8bit}}
  - {{train.backend: peft, train.method: lora, train.lora.rank: 4, train.learning_rate: 1e-2}}
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> PlannedExperiment:
    base = tmp_path_factory.mktemp("whole")
    model = write_tiny_model(base / "models" / "Tiny-1M-Instruct")
    folder = base / "experiment"
    folder.mkdir()
    write_tiny_words(folder / "words.json", 27, 5, 4)
    (folder / "experiment.yaml").write_text(EXPERIMENT.format(model=model, often=halt.EVERY_STEP))
    settings = UserConfig(models_dir=base / "models", cache_dir=base / "cache", history_dir=base / "history")
    api.plan(folder, settings)
    return PlannedExperiment(folder, api.prepare(folder, settings).plan)


def train(folder: Path, stop: Stop | None = None) -> bool:
    """Train as the backend of a run folder does, in this process."""
    if (folder / "finetune.py").exists():
        return train_planned(runpy.run_path(str(folder / "finetune.py"))["train"], stop or Stop(), folder)
    return run_training(read_config(folder / "finetune.yaml"), folder, stop or Stop())


@pytest.fixture(scope="module")
def ours(experiment: PlannedExperiment) -> Path:
    _, folder = experiment.run(0)
    assert train(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(experiment: PlannedExperiment) -> Path:
    _, folder = experiment.run(1)
    assert train(folder)
    return folder


def test_both_trainers_do_the_same_training(ours: Path, theirs: Path) -> None:
    """Same losses, gradient norms and weights up to rounding; every parameter is trained and changes."""
    one, other = metrics(ours), metrics(theirs)
    assert len(one.steps) == len(other.steps) == 8
    assert [row.loss for row in other.steps] == pytest.approx([row.loss for row in one.steps], abs=1e-5)
    assert [row.grad_norm for row in other.steps] == pytest.approx([row.grad_norm for row in one.steps], rel=1e-4)
    assert [row.loss for row in other.validations] == pytest.approx([row.loss for row in one.validations], abs=1e-5)
    assert one.steps[-1].loss < one.steps[0].loss - 0.1
    base, first, second = (
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
        for folder in (read_config(ours / "finetune.yaml").model.path, ours / "epoch_1", theirs / "epoch_1")
    )
    assert all(not torch.equal(first[name], base[name]) for name in base)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4
    count = sum(tensor.numel() for name, tensor in base.items() if name != "lm_head.weight")
    assert one.attempts[0].trainable_parameters == other.attempts[0].trainable_parameters == count
    assert one.attempts[0].adapter_dtype == other.attempts[0].adapter_dtype == "float32"


def test_a_checkpoint_is_a_whole_model(experiment: PlannedExperiment, ours: Path, theirs: Path) -> None:
    """With tokenizer, configuration and marker; as many stay as `keep` says; the plan counts their bytes."""
    for index, folder in enumerate((ours, theirs)):
        run, _ = experiment.run(index)
        names = {"step_6", "epoch_1"}
        assert {each.name for each in read_checkpoints(folder, hashes=True) if each.complete} == names
        marker = json.loads((folder / "epoch_1" / "touchline.json").read_text())
        assert marker["kind"] == "full"
        assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= set(marker["files"])
        model = AutoModelForCausalLM.from_pretrained(folder / "epoch_1", dtype="auto")
        assert model.dtype == torch.float32
        assert model.config.use_cache
        assert GenerationConfig.from_pretrained(folder / "epoch_1").eos_token_id is not None
        assert AutoTokenizer.from_pretrained(folder / "epoch_1").chat_template
        assert not (folder / "resume").exists()
        saved = sum(path.stat().st_size for name in names for path in (folder / name).iterdir())
        rest = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        assert run.disk.high is not None
        assert saved < 1e6 * run.disk.high
        assert 1e6 * run.disk.value == pytest.approx(saved + rest, rel=0.15)


def test_the_checkpoint_answers_as_the_model_in_memory(experiment: PlannedExperiment, tmp_path: Path) -> None:
    """Bit by bit the same weights, and the same tokens."""
    _, planned = experiment.run(0)
    folder = halt.untrained_copy(planned, tmp_path)
    inputs = load_inputs(read_config(folder / "finetune.yaml"), folder)
    session = build_session(inputs, None)
    with MetricsLog(folder / "metrics.jsonl") as log:
        record = TrainingRecord(inputs, folder, log, None)
        record.begin(session.setup, time.monotonic())
        assert Training(session, record, Stop(), Processes()).run()
    found = resolve_checkpoint(str(folder / "epoch_1"))
    assert found.adapter is None
    cpu = pick_device("cpu")
    weights = Weights(found.model.path, pick_dtype("float32", cpu), cpu)
    trained, loaded = session.model.state_dict(), weights.model.state_dict()
    assert all(torch.equal(trained[name], loaded[name]) for name in loaded)
    prompts = [item.prompt_ids for item in session.inputs.validation]
    session.model.eval()
    own, read = (
        write_answers(model, prompts, max_new_tokens=12, stop_ids=frozenset({2}), pad_id=0)
        for model in (session.model, weights.model)
    )
    assert own == read


def test_going_on_gives_the_same_bytes(ours: Path, theirs: Path, tmp_path: Path) -> None:
    """The training state holds 12 bytes per parameter, as the plan counts it."""
    for acts in ([halt.Act(questions=3)], [halt.Act(questions=11)]):
        folder = halt.untrained_copy(ours, tmp_path / str(acts[0].questions))
        halt.interrupt(folder, ours, acts, _sized)
    folder = halt.untrained_copy(theirs, tmp_path / "theirs")
    halt.interrupt(folder, theirs, [halt.Act(questions=0)], train)


def _sized(folder: Path, stop: Stop) -> bool:
    """Train, and check the size of the state that a stop leaves."""
    done = train(folder, stop)
    for state in folder.glob("resume/step_*"):
        size = sum(path.stat().st_size for path in state.iterdir())
        parameters = metrics(folder).attempts[0].trainable_parameters
        moments = 0 if state.name == "step_00000000" else 8
        assert (4 + moments) * parameters < size < (4 + moments) * parameters + 40_000
    return done


@pytest.mark.thorough
def test_a_killed_process_loses_nothing(ours: Path, tmp_path: Path) -> None:
    """SIGKILL once a state is saved; the same command again gives the same bytes."""
    folder = halt.untrained_copy(ours, tmp_path)
    halt.signal_when(halt.start(folder), signal.SIGKILL, lambda: halt.state_of(folder))
    assert not (folder / "training.json").exists()
    assert train(folder)
    halt.assert_same(folder, ours)


def test_the_trained_dtype_follows_base_dtype(experiment: PlannedExperiment) -> None:
    """`bfloat16` trains and saves bfloat16; `auto` keeps float32 weights, whatever it computes in."""
    wanted = (("bfloat16", torch.bfloat16), ("float32", torch.float32))
    for index, (name, dtype) in zip((2, 3), wanted, strict=True):
        run, folder = experiment.run(index)
        assert train(folder)
        rows = metrics(folder)
        assert rows.attempts[0].adapter_dtype == name
        assert rows.validations[-1].loss < rows.validations[0].loss - 0.1
        assert AutoModelForCausalLM.from_pretrained(folder / "epoch_1", dtype="auto").dtype == dtype
        assert run.train.trained_dtype == name


@pytest.mark.thorough
def test_two_processes_train_as_one(experiment: PlannedExperiment, ours: Path, tmp_path: Path) -> None:
    """Data parallel sums the gradients of all weights."""
    folder = halt.untrained_copy(ours, tmp_path)
    config = read_config(ours / "finetune.yaml")
    config = replace(
        config, batches=replace(config.batches, data_parallel_size=2), train=replace(config.train, micro_batch_size=4)
    )
    write_config(folder, config)
    assert run_training(config, folder, Stop())
    assert [r.loss for r in metrics(folder).steps] == pytest.approx([row.loss for row in metrics(ours).steps], abs=1e-5)


def test_adapters_beside_it_stay_adapters(experiment: PlannedExperiment) -> None:
    run, folder = experiment.run(4)
    assert run.name.startswith("1M_rank4")
    assert train(folder)
    assert json.loads((folder / "epoch_1" / "touchline.json").read_text())["kind"] == "adapter"
