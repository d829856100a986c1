"""Backend torchtune: its recipes train for real in an environment of their own, planned and recorded as every run."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from peft import PeftModel
from tests.cases import until
from tests.train.interruptions import start as start_program
from tests.train.test_run import library_loss
from tests.trainer_environments import assert_torchtune_accepts, require_trainer
from tests.trainer_experiments import PlannedExperiment, metrics, plan_pairs, wait_while
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from touchline import api
from touchline.cli.main import app
from touchline.core.errors import RunsFailedError
from touchline.core.status import EXIT_STOPPED
from touchline.data.metrics import TrainingMarker
from touchline.data.user_config import UserConfig
from touchline.train.attempt import Stop
from touchline.train.external import run_external
from touchline.train.inputs import load_inputs, read_config
from touchline.train.process import RUN_VARIABLE, run_training

pytestmark = pytest.mark.thorough

PAIRS = (
    "train.backend: peft",
    "train.backend: torchtune",
    "train.backend: torchtune, train.global_batch_size: 4, train.micro_batch_size: 2, train.packed: true",
    "train.backend: torchtune, train.epochs: 24, train.checkpoint: {resume_minutes: 1e-9, keep: 1}",
    "train.backend: torchtune, data.path: without_validation.json",
)
TWO = (
    *("compute.gpu=cpu", "compute.gpus_per_run=2", "data.path=whole_steps.json", "train.epochs=10"),
    *("train.micro_batch_size=2", "train.checkpoint.resume_minutes=1e-9", "train.checkpoint.keep=1"),
)
"""Two processes, 30 steps of 2 x 2 micro-batches, and a training state after each step."""


@pytest.fixture(scope="module")
def python() -> str:
    return require_trainer("torchtune")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, python: str) -> PlannedExperiment:
    assert python
    base = tmp_path_factory.mktemp("trainers")
    return plan_pairs(base, PAIRS, "train.validate_every_steps=2", more_data=_without_validation)


def _without_validation(words: Path) -> None:
    splits = json.loads(words.read_text())
    del splits["validation"]
    words.with_name("without_validation.json").write_text(json.dumps(splits))


def _whole_steps(words: Path) -> None:
    splits = json.loads(words.read_text())
    words.with_name("whole_steps.json").write_text(json.dumps(splits | {"train": splits["train"][:24]}))


@pytest.fixture(scope="module")
def unpacked(experiment: PlannedExperiment) -> tuple[Path, Path]:
    """Folders of the runs of peft and of torchtune, trained."""
    (_, ours), (_, theirs) = experiment.run(0), experiment.run(1)
    assert run_training(read_config(ours / "finetune.yaml"), ours, Stop())
    assert run_external(theirs, Stop())
    return ours, theirs


def test_the_first_steps_are_those_of_our_own_trainer(unpacked: tuple[Path, Path]) -> None:
    """Same examples, label spans and initial adapter: equal losses up to the first step that it leaves out."""
    ours, theirs = map(metrics, unpacked)
    first = [row.loss for row in ours.steps[:3]]
    assert [row.loss for row in theirs.steps[:3]] == pytest.approx(first, abs=1e-4)
    assert theirs.validations[0].loss == pytest.approx(ours.validations[0].loss, abs=1e-4)
    assert theirs.validations[0].target_tokens == ours.validations[0].target_tokens
    one, other = ours.steps[0], theirs.steps[0]
    assert other.loss == pytest.approx(one.loss, abs=1e-4)
    assert (other.examples, other.real_tokens, other.target_tokens) == (
        one.examples,
        one.real_tokens,
        one.target_tokens,
    )
    assert ours.attempts[0].trainable_parameters == theirs.attempts[0].trainable_parameters
    assert ours.attempts[0].label_text == theirs.attempts[0].label_text
    assert ours.attempts[0].device == theirs.attempts[0].device, "times are looked up by it"
    assert theirs.validations[-1].loss < theirs.validations[0].loss - 0.05


def test_planned_batches_are_those_of_the_trainer(experiment: PlannedExperiment, unpacked: tuple[Path, Path]) -> None:
    """Steps, micro-batches, examples, packs and tokens; 27 examples make 3 steps of 8, and 3 examples are left out."""
    (plain, plain_folder), (packed, packed_folder) = experiment.run(1), experiment.run(2)
    assert run_external(packed_folder, Stop())
    for run, folder in ((plain, plain_folder), (packed, packed_folder)):
        steps = metrics(folder).steps
        assert len(steps) == run.batches.steps
        assert sum(row.micro_batches for row in steps) == run.batches.micro_batches
    inputs = load_inputs(read_config(plain_folder / "run.yaml"), plain_folder)
    used = [inputs.train[int(index)] for order in inputs.batches.orders for index in order[:24]]
    rows = metrics(plain_folder).steps
    assert (plain.batches.steps, sum(row.examples for row in rows)) == (6, 48)
    assert sum(row.real_tokens for row in rows) == sum(len(item.prompt_ids) + len(item.answer_ids) for item in used)
    assert sum(row.target_tokens for row in rows) == sum(len(item.answer_ids) for item in used)
    packs = metrics(packed_folder).steps
    assert {row.padded_tokens for row in packs} == {4 * 96}
    assert packed.batches.steps < 2 * 27 // 4
    assert all(row.examples > 4 for row in packs)


def test_the_saved_adapter_has_the_recorded_loss_in_transformers(unpacked: tuple[Path, Path]) -> None:
    """Conversion, configuration and markers are those of every run, so that it is evaluated as any other."""
    ours, theirs = unpacked
    one, other = (json.loads((folder / "training.json").read_text()) for folder in unpacked)
    assert other["checkpoints"] == one["checkpoints"] == ["epoch_0", "epoch_1"]
    assert TrainingMarker.__dataclass_fields__.keys() == other.keys()
    inputs = load_inputs(read_config(theirs / "run.yaml"), theirs)
    base = AutoModelForCausalLM.from_pretrained(inputs.config.model.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(theirs / "epoch_1"))
    assert library_loss(model, inputs.config, theirs) == pytest.approx(other["final_validation_loss"], abs=1e-4)
    assert (theirs / "epoch_1" / "tokenizer.json").read_bytes() == (ours / "epoch_1" / "tokenizer.json").read_bytes()
    assert not (theirs / "resume").exists()
    assert not (theirs / "trainer").exists()
    assert run_external(theirs, Stop()), "is already trained"


@pytest.mark.parametrize("index", [1, 4])
def test_a_prepared_folder_starts_by_hand(experiment: PlannedExperiment, python: str, index: int) -> None:
    """The command that finetune.yaml begins with, by touchline's recipe and by a stock one."""
    run, folder = experiment.run(index)
    copy = folder.with_name(f"by_hand_{index}")
    copy.mkdir()
    for name in ("run.yaml", *(path.name for path in folder.glob("*.py")), "finetune.yaml"):
        shutil.copy(folder / name, copy / name)
    command = (copy / "finetune.yaml").read_text().splitlines()[0].rpartition(": ")[2].split()
    assert command[0] == "tune"
    tune = Path(python).with_name("tune")
    done = subprocess.run([tune, *command[1:]], cwd=copy, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (copy / "trainer" / "log.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row["event"] == "step"]) == run.batches.steps
    assert list((copy / "trainer" / "output").glob("epoch_1/adapter_model.safetensors"))
    assert f" {command[2]} (" in (experiment.folder / "runs_plan.md").read_text()


def test_a_stock_recipe_trains_without_a_validation_split(experiment: PlannedExperiment) -> None:
    """The recipe of torchtune itself, by the same components and records; it stops when asked, and repeats an epoch.

    Its optimizer is slowed, so that the request always arrives before the last step.
    """
    run, folder = experiment.run(4)
    assert "tune run lora_finetune_single_device --config" in (folder / "finetune.yaml").read_text()
    assert not (folder / "lora_finetune_single_device_val.py").exists()
    components = folder / "run_components.py"
    text = components.read_text(encoding="utf-8")
    components.write_text(text + _SLOW_STEPS, encoding="utf-8")
    process = start(folder)
    wait_while(process, lambda: b'"start"' not in read_log(folder))
    process.terminate()
    assert process.wait(60) == EXIT_STOPPED
    components.write_text(text, encoding="utf-8")
    assert run_external(folder, Stop())
    found = metrics(folder)
    assert len(found.attempts) == 2
    assert len(found.steps) == run.batches.steps == 6
    assert found.validations == ()
    assert {"epoch_0", "epoch_1"} <= {row.name for row in found.checkpoints}


def test_a_copied_recipe_trains_to_the_report_and_resumes_where_its_epoch_ended(python: str, tmp_path: Path) -> None:
    """What `tune cp` gives, with a validation loss that it logs; killed in its second epoch, then run to the report."""
    recipe = tmp_path / "their recipe.py"
    tune = Path(python).with_name("tune")
    subprocess.run([tune, "cp", "lora_finetune_single_device", recipe], check=True, capture_output=True)
    text = recipe.read_text(encoding="utf-8")
    for line, changed in _LOGS_A_VALIDATION_LOSS.items():
        assert text.count(line) == 1
        text = text.replace(line, changed)
    recipe.write_text(text, encoding="utf-8")
    experiment = plan_pairs(tmp_path, [f"train.backend: torchtune, train.recipe: {recipe}"], *_THREE_EPOCHS)
    run, folder = experiment.run(0)
    assert (folder / "run_recipe.py").read_text(encoding="utf-8") == text
    components = folder / "run_components.py"
    slowed = components.read_text(encoding="utf-8")
    components.write_text(slowed + _SLOW_STEPS, encoding="utf-8")
    process = start(folder)
    until_saved(process, folder, 3)
    process.kill()
    process.wait()
    components.write_text(slowed, encoding="utf-8")
    folders = {f"{name}_dir": tmp_path / name for name in ("models", "cache", "history")}
    api.run(experiment.folder, UserConfig(**folders), probe=False)
    found = metrics(folder)
    assert (run.batches.steps, len(found.attempts)) == (9, 2)
    assert [row.step for row in found.steps] == list(range(1, 10))
    assert [(row.step, row.loss) for row in found.validations] == [(step, 1.5) for step in (3, 6, 9)]
    assert found.validations[0].target_tokens == sum(
        len(item.answer_ids) for item in load_inputs(read_config(folder / "run.yaml"), folder).validation
    )
    assert json.loads((folder / "training.json").read_text())["checkpoints"] == ["epoch_0", "epoch_1", "epoch_2"]
    assert "The only run is complete" in (experiment.folder / "RESULTS.md").read_text()


_THREE_EPOCHS = ("train.epochs=3", "train.validate_every_steps=3")
_LOGS_A_VALIDATION_LOSS = {
    "        self._compile = cfg.compile\n": """\
        self._compile = cfg.compile
        self._validates = "dataset_val" in cfg and cfg.run_val_every_n_steps is not None
""",
    "                self.epochs_run += 1\n": """\
                if self._validates:
                    self._metric_logger.log_dict({"val_loss": 1.5}, step=self.global_step)
                self.epochs_run += 1
""",
}
"""Changes of the recipe by which it logs a validation loss at the end of each epoch."""

_SLOW_STEPS = """
import time
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: time.sleep(2))
"""
"""Lines of a module that add two seconds to each step."""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return start_program(folder, (sys.executable, "-m", "touchline.train.external"))


def read_log(folder: Path) -> bytes:
    path = folder / "trainer" / "log.jsonl"
    return path.read_bytes() if path.exists() else b""


def until_saved(process: subprocess.Popen[bytes], folder: Path, steps: int) -> None:
    def saved() -> list[int]:
        return [int(path.name.rpartition("_")[2]) for path in folder.glob("resume/step_*")]

    wait_while(process, lambda: max(saved(), default=0) < steps)
    assert max(saved(), default=0) >= steps, "no training state was saved"


def programs(folder: Path) -> Iterator[psutil.Process]:
    psutil.process_iter.cache_clear()
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_VARIABLE) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


def test_kills_and_stops_lose_nothing(experiment: PlannedExperiment) -> None:
    """SIGTERM, then SIGKILL in the middle of an epoch, then to the end: the same losses as undisturbed."""
    _, folder = experiment.run(3)
    undisturbed = shutil.copytree(folder, folder.parent / "undisturbed")
    assert run_external(undisturbed, Stop())
    process = start(folder)
    until_saved(process, folder, 1)
    process.terminate()
    assert process.wait(60) == EXIT_STOPPED
    stopped = metrics(folder)
    assert stopped.end.reason == "stopped by SIGTERM"
    process = start(folder)
    until_saved(process, folder, len(stopped.steps) + 1)
    process.kill()
    process.wait()
    # The trainer ends with its driver.
    until(lambda: not list(programs(folder)), 30)
    assert not (folder / "training.json").exists()
    assert run_external(folder, Stop())
    found, wanted = metrics(folder), metrics(undisturbed)
    assert len(found.attempts) == 3
    assert [row.step for row in found.steps] == list(range(1, 73))
    assert [row.loss for row in found.steps] == pytest.approx([row.loss for row in wanted.steps], abs=1e-6)
    assert [row.loss for row in found.validations] == pytest.approx([row.loss for row in wanted.validations], abs=1e-6)
    assert [row.learning_rate for row in found.steps] == pytest.approx([row.learning_rate for row in wanted.steps])
    assert json.loads((folder / "training.json").read_text())["checkpoints"] == ["epoch_23"]


def test_two_processes_do_the_training_of_one_whatever_ends_them(python: str, tmp_path: Path) -> None:
    """SIGKILL of a device's process, SIGTERM and SIGKILL of the driver: no orphan, the losses of one `peft` process."""
    assert python
    experiment = plan_pairs(tmp_path, ("train.backend: peft", "train.backend: torchtune"), *TWO, more_data=_whole_steps)
    (run, alone), (other, folder) = experiment.run(0), experiment.run(1)
    assert run.batches is not None
    assert (other.batches.gradient_accumulation_steps, other.batches.steps) == (2, 30)
    config = read_config(alone / "finetune.yaml")
    assert run_training(replace(config, batches=replace(config.batches, data_parallel_size=1)), alone, Stop())

    process = start(folder)
    until_saved(process, folder, 1)
    members = {each.environ()["RANK"]: each for each in programs(folder) if "RANK" in each.environ()}
    assert members.keys() == {"0", "1"}
    members["1"].kill()
    assert process.wait(60) == 1
    assert list(programs(folder)) == []
    process = start(folder)
    until_saved(process, folder, len(metrics(folder).steps) + 1)
    process.terminate()
    assert process.wait(60) == EXIT_STOPPED
    assert list(programs(folder)) == []
    process = start(folder)
    until_saved(process, folder, len(metrics(folder).steps) + 1)
    process.kill()
    process.wait()
    until(lambda: not list(programs(folder)), 30)
    assert run_external(folder, Stop())

    found, wanted = metrics(folder), metrics(alone)
    assert [(row.gradient_accumulation_steps, row.data_parallel_size) for row in found.attempts] == 4 * [(2, 2)]
    assert [row.step for row in found.steps] == list(range(1, 31))
    for one, two in zip(wanted.steps, found.steps, strict=True):
        assert (two.loss, two.grad_norm) == pytest.approx((one.loss, one.grad_norm), abs=1e-4)
        assert two.learning_rate == pytest.approx(one.learning_rate)
        assert (two.examples, two.micro_batches, two.real_tokens, two.target_tokens) == (
            *(one.examples, one.micro_batches, one.real_tokens, one.target_tokens),
        )
    losses = [row.loss for row in wanted.validations]
    assert [row.loss for row in found.validations] == pytest.approx(losses, abs=1e-4)
    assert json.loads((folder / "training.json").read_text())["checkpoints"] == ["epoch_9"]


def test_the_trainers_own_error_is_named(experiment: PlannedExperiment, tmp_path: Path) -> None:
    """An error of the program ends the run with its type and text, and without a traceback of the driver."""
    run, folder = experiment.run(4)
    place = tmp_path / run.name
    place.mkdir()
    for name in ("run.yaml", "finetune.yaml", "run_components.py"):
        text = (folder / name).read_text()
        (place / name).write_text(text.replace("num_kv_heads: 2", "num_kv_heads: 3"))
    (tmp_path / "without_validation.json").write_bytes((experiment.folder / "without_validation.json").read_bytes())
    with pytest.raises(RunsFailedError, match=r"torchtune ended after step 0 of 6: \w+Error"):
        run_external(place, Stop())


def test_the_trainer_accepts_every_rendered_config(experiment: PlannedExperiment) -> None:
    """`tune validate`, in the run's folder, where its components are."""
    folders = [experiment.run(index)[1] for index in (1, 2, 4)]
    assert_torchtune_accepts(folders)
    result = CliRunner().invoke(app, ["check", *map(str, folders)])
    assert result.exit_code == 0, result.stdout
