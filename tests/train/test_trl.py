"""Backend trl: SFTTrainer trains the planned examples for real, and its records equal those of the backend peft."""

import json
import runpy
import signal
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig
from safetensors.torch import load_file
from tests.tiny_model import write_tiny_words
from tests.train.interruptions import SCRIPT, rows_of, signal_when, start, state_of
from tests.trainer_experiments import PlannedExperiment, metrics, plan_pairs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from touchline import api
from touchline.core.errors import ParentNotReadyError, PlanDriftError
from touchline.core.status import EXIT_STOPPED
from touchline.data.metrics import TrainingMarker
from touchline.data.user_config import UserConfig
from touchline.plan.notes import quantization_notes
from touchline.train.attempt import Stop
from touchline.train.hf import train_planned
from touchline.train.hf_inputs import open_planned
from touchline.train.inputs import read_config
from touchline.train.process import run_training
from touchline.train.target_loss import IGNORED

PAIRS = (
    "train.backend: peft",
    "train.backend: trl",
    "train.backend: trl, train.packed: true",
    "train.backend: trl, train.quantization: nf4, train.base_dtype: bfloat16, train.lora.rslora: true",
    "train.backend: trl, train.checkpoint: {every: {steps: 2}, resume_minutes: 1e-9}",
    "train.backend: trl, train.epochs: 1, train.lora.rank: 8",
)
ALIKE = (
    "train.optimizer: adafactor, train.label_smoothing: 0.1, train.lora.dora: true, train.lora.rslora: true",
    "train.optimizer: adamw_8bit, train.lora.rank: 64, train.lora.init: pissa",
    "train.quantization: int8, train.lora.init: gaussian",
)
"""Settings that both trainers support and use alike."""


def train(folder: Path, stop: Stop | None = None) -> bool:
    """Run the script of a run folder in this process."""
    script = runpy.run_path(str(folder / "finetune.py"))
    return train_planned(script["train"], stop or Stop(), folder)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> PlannedExperiment:
    alike = [f"train.backend: {backend}, {settings}" for settings in ALIKE for backend in ("peft", "trl")]
    return plan_pairs(tmp_path_factory.mktemp("trainers"), [*PAIRS, *alike])


@pytest.fixture(scope="module")
def unpacked(experiment: PlannedExperiment) -> tuple[Path, Path]:
    """Folders of the runs of peft and of trl, trained."""
    (_, ours), (_, theirs) = experiment.run(0), experiment.run(1)
    assert run_training(read_config(ours / "finetune.yaml"), ours, Stop())
    assert train(theirs)
    return ours, theirs


def test_every_rendered_setting_is_an_argument_of_the_trainer(experiment: PlannedExperiment) -> None:
    """SFTConfig and LoraConfig take all keys; equal settings of the plan are equal there."""
    from trl import SFTConfig

    run, folder = experiment.run(3)
    settings = yaml.safe_load((folder / "finetune.yaml").read_text())
    arguments = SFTConfig(output_dir=str(folder / "unused"), **settings["sft"])
    adapter = LoraConfig(**settings["lora"])
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size) == (2, 4)
    assert arguments.gradient_accumulation_steps * arguments.per_device_train_batch_size == run.train.global_batch_size
    assert (adapter.r, adapter.lora_alpha, adapter.use_rslora) == (4, 8, True)
    assert settings["quantization"]["bnb_4bit_quant_type"] == "nf4"


def test_labels_equal_those_of_our_own_trainer_token_by_token(experiment: PlannedExperiment) -> None:
    """As they leave the collator of SFTTrainer: the answer and its stop token, nothing else."""
    _, folder = experiment.run(1)
    planned = open_planned(folder, Stop())
    rows = planned.dataset()
    for row, example in zip(rows, planned.inputs.train, strict=True):
        assert row["input_ids"] == [*example.prompt_ids, *example.answer_ids]
        with_loss = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
        assert with_loss == list(example.answer_ids)
        assert planned.inputs.renderer.decode(with_loss, keep_special=True).endswith("<|im_end|>")


def test_both_trainers_do_the_same_training(unpacked: tuple[Path, Path]) -> None:
    """Same examples in each step, same learning rates, same losses and gradient norms up to rounding."""
    ours, theirs = map(metrics, unpacked)
    assert len(ours.steps) == len(theirs.steps) == 8
    for one, other in zip(ours.steps, theirs.steps, strict=True):
        assert (one.step, one.epoch, one.examples, one.micro_batches) == (
            *(other.step, other.epoch, other.examples, other.micro_batches),
        )
        assert (one.real_tokens, one.target_tokens) == (other.real_tokens, other.target_tokens)
        assert other.learning_rate == pytest.approx(one.learning_rate)
        assert other.loss == pytest.approx(one.loss, abs=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    assert [row.step for row in ours.validations] == [row.step for row in theirs.validations] == [0, 3, 4, 6, 8]
    for first, second in zip(ours.validations, theirs.validations, strict=True):
        assert second.loss == pytest.approx(first.loss, abs=1e-5)


def test_a_second_run_takes_the_first_loss_over(experiment: PlannedExperiment, unpacked: tuple[Path, Path]) -> None:
    """From the run of the same trainer, with another rank."""
    (first, _), (_, folder) = experiment.run(1), experiment.run(5)
    assert train(folder)
    taken, computed = metrics(folder).validations[0], metrics(unpacked[1]).validations[0]
    assert (computed.taken_from, taken.taken_from) == (None, first.name)
    assert (taken.loss, taken.target_tokens) == (computed.loss, computed.target_tokens)
    assert metrics(folder).timed_validations[0].step > 0


@pytest.mark.filterwarnings("ignore:.*label_smoothing_factor:FutureWarning")
@pytest.mark.parametrize("index", range(len(ALIKE)), ids=ALIKE)
def test_both_trainers_use_the_settings_alike(experiment: PlannedExperiment, index: int) -> None:
    """The same losses, and checkpoints that give the same model. TRL keeps the adapter of a quantized base in bfloat16,
    which rounds it."""
    (_, ours), (run, theirs) = (experiment.run(len(PAIRS) + 2 * index + each) for each in (0, 1))
    assert run.train is not None
    assert run_training(read_config(ours / "finetune.yaml"), ours, Stop())
    assert train(theirs)
    one, other = metrics(ours), metrics(theirs)
    tolerance = 1e-5 if run.train.quantization == "none" else 5e-3
    assert [row.loss for row in other.steps] == pytest.approx([row.loss for row in one.steps], abs=tolerance)
    assert [r.loss for r in other.validations] == pytest.approx([row.loss for row in one.validations], abs=tolerance)
    first, second = (load_file(folder / "epoch_1" / "adapter_model.safetensors") for folder in (ours, theirs))
    assert {name: value.shape for name, value in first.items()} == {name: value.shape for name, value in second.items()}
    if run.train.quantization == "none":
        assert max(float((first[name] - second[name]).abs().max()) for name in first) < 5e-3


def test_the_plan_says_on_which_base_quantized_runs_are_evaluated(experiment: PlannedExperiment) -> None:
    """A line for each quantization."""
    notes = list(quantization_notes(experiment.plan))
    assert [note.split()[3] for note in notes] == ["nf4", "int8"]
    assert all("evaluated on the base in its own dtype" in note for note in notes)


def test_planned_batches_are_those_of_the_trainer(experiment: PlannedExperiment, unpacked: tuple[Path, Path]) -> None:
    """Steps, micro-batches, examples and tokens, unpacked and packed by TRL's own packer."""
    (plain, plain_folder), (packed, packed_folder) = experiment.run(1), experiment.run(2)
    assert train(packed_folder)
    for run, folder in ((plain, plain_folder), (packed, packed_folder)):
        found = metrics(folder).steps
        assert len(found) == run.batches.steps
        assert sum(row.micro_batches for row in found) == run.batches.micro_batches
        assert sum(row.examples for row in found) == 2 * run.batches.num_examples
        assert sum(row.real_tokens for row in found) == 2 * run.batches.real_tokens
        assert sum(row.target_tokens for row in found) == 2 * run.batches.target_tokens
    assert packed.batches.steps < plain.batches.steps
    assert sum(row.padded_tokens for row in metrics(packed_folder).steps) == 2 * packed.batches.real_tokens


def test_checkpoints_and_markers_are_those_of_every_run(unpacked: tuple[Path, Path]) -> None:
    """The adapter of the last epoch has the weights of the other trainer's; training.json names it."""
    ours, theirs = unpacked
    one, other = (json.loads((folder / "training.json").read_text()) for folder in unpacked)
    assert one.keys() == other.keys() >= {"checkpoints", "final_validation_loss"}
    assert other["checkpoints"] == one["checkpoints"] == ["epoch_0", "epoch_1"]
    assert TrainingMarker.__dataclass_fields__.keys() == other.keys()
    first, second = (load_file(folder / "epoch_1" / "adapter_model.safetensors") for folder in (ours, theirs))
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4
    assert not (theirs / "resume").exists()
    assert train(theirs), "is already trained"


def test_a_quantized_base_trains(experiment: PlannedExperiment) -> None:
    """QLoRA with the CPU kernels of bitsandbytes: validation in between does not change the training."""
    _, folder = experiment.run(3)
    assert train(folder)
    rows = metrics(folder)
    assert rows.attempts[0].adapter_dtype == "bfloat16"
    assert rows.validations[-1].loss < rows.validations[0].loss - 0.05
    assert rows.steps[-1].loss < rows.steps[0].loss


CHAIN = """
name: chain
task: capitalization
models: [{model}]
data: {{path: words.json}}
train: {{backend: trl, global_batch_size: 8, micro_batch_size: 4, learning_rate: 1e-2, max_seq_len: 96, packed: false,
         base_dtype: float32, lora: {{rank: 4}}}}
stages:
  - {{name: first}}
  - {{name: second, parent: first, continue: adapter, train: {{backend: peft}}}}
  - {{name: third, parent: second, continue: merge}}
"""


def test_a_chain_may_change_the_trainer(experiment: PlannedExperiment, tmp_path: Path) -> None:
    """Each stage proves that it starts from its parent's weights, whichever trainer made them."""
    (tmp_path / "words.json").write_bytes((experiment.folder / "words.json").read_bytes())
    (tmp_path / "experiment.yaml").write_text(CHAIN.format(model=next(iter(experiment.plan.models.values())).path))
    settings = UserConfig(models_dir=tmp_path, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")
    api.plan(tmp_path, settings)
    first, second, third = (tmp_path / run.name for run in api.prepare(tmp_path, settings).plan.runs)
    with pytest.raises(ParentNotReadyError, match=r"training\.json does not exist"):
        train(third)
    assert train(first)
    assert run_training(read_config(second / "finetune.yaml"), second, Stop())
    assert train(third)
    for stage, parent in ((second, first), (third, second)):
        lineage = json.loads((stage / "lineage.json").read_text())
        assert lineage["problems"] == []
        assert lineage["loss"]["found"] == pytest.approx(metrics(parent).validations[-1].loss, rel=1e-3)
    assert metrics(third).validations[-1].loss < metrics(first).validations[0].loss


def test_kills_and_stops_lose_nothing(experiment: PlannedExperiment, unpacked: tuple[Path, Path]) -> None:
    """SIGKILL in the middle, then SIGTERM to the process, then to the end: the same losses as undisturbed."""
    _, folder = experiment.run(4)
    signal_when(start(folder, SCRIPT), signal.SIGKILL, lambda: state_of(folder))
    first = metrics(folder)
    assert first.steps
    assert not (folder / "training.json").exists()
    rows = rows_of(folder)
    assert signal_when(start(folder, SCRIPT), signal.SIGTERM, lambda: rows_of(folder) > rows) == EXIT_STOPPED
    assert metrics(folder).end is not None
    assert train(folder)
    found, wanted = metrics(folder), metrics(unpacked[1])
    assert [row.step for row in found.steps] == list(range(1, 9))
    assert [row.loss for row in found.steps] == pytest.approx([row.loss for row in wanted.steps], abs=1e-6)
    assert len(found.attempts) == 3
    marker = json.loads((folder / "training.json").read_text())
    assert set(marker["checkpoints"]) == {"step_2", "epoch_0", "step_6", "epoch_1"}


def test_a_changed_dataset_is_refused(experiment: PlannedExperiment, tmp_path: Path) -> None:
    """The message names the file and the command; nothing is trained."""
    run, folder = experiment.run(4)
    place = tmp_path / "moved" / run.name
    place.mkdir(parents=True)
    (place / "run.yaml").write_bytes((folder / "run.yaml").read_bytes())
    (place / "finetune.yaml").write_bytes((folder / "finetune.yaml").read_bytes())
    write_tiny_words(place.parent / "words.json", 9, 2, 2)
    with pytest.raises(PlanDriftError, match=r"words\.json") as error:
        open_planned(place, Stop())
    assert "touchline plan" in str(error.value.hint)


@pytest.mark.parametrize("labels", [1.0, 0.25])
def test_the_loss_holds_no_logits_of_all_tokens(labels: float) -> None:
    """What `MEMORY.own_release` says of the installed TRL: a buffer of at most 32,768 entries of the vocabulary."""
    from trl.trainer.utils import add_fused_lm_head

    tokens, entries, largest = 64, 1 << 17, [0]
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=entries, num_key_value_heads=1, **shape))
    model.requires_grad_(False).model.norm.weight.requires_grad_(True)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    ids = torch.arange(tokens)[None]

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            sizes = (each.numel() for each in tree_leaves(made) if isinstance(each, torch.Tensor))
            largest[0] = max(largest[0], *sizes, 0)
            return made

    masked = ids.where(torch.rand(ids.shape, generator=torch.manual_seed(0)) < labels, IGNORED)
    with Sizes():
        model(input_ids=ids, labels=masked, fused_lm_head=True).loss.backward()
    assert entries * model.config.hidden_size <= largest[0] <= tokens * 32768
    assert largest[0] < tokens * entries
