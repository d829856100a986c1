"""Training by a program of its own environment: `python -m touchline.train.external`. Torch is needed to merge only.

Writes the planned examples, starts the program, and turns its log into the records of a run (`backends.external`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from touchline.backends.external import (
    EXAMPLES,
    LOG_FILE,
    ORDERS_FILE,
    RECIPE_MODULE,
    TRAIN_FILE,
    VALIDATION_FILE,
    WORK_FOLDER,
    ExternalTrainer,
    Launch,
)
from touchline.backends.local.environments import require_environment
from touchline.backends.registry import external_trainer
from touchline.backends.run_config import RunConfig, read_run_config
from touchline.core.catalog import RenderedExample
from touchline.core.errors import InputError, RunsFailedError, TrainingOutOfMemoryError
from touchline.core.files import disk_errors, open_regular, read_bytes, read_text_bounded, sha256_file, write_atomic
from touchline.core.json_text import parse_json
from touchline.core.quantity import Measured, MemoryKind, Missing, Quantity
from touchline.core.status import TrainingEnd
from touchline.data.checkpoints import RESUME_FOLDER, read_pause, write_pause
from touchline.data.machine import cpu_name
from touchline.data.metrics_file import METRICS
from touchline.data.worker import stack_versions
from touchline.train.attempt import LOG, MetricsLog, Stop
from touchline.train.folders import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    adopt,
    find_resume,
    is_done,
    reached_pause,
    remove_folder,
    remove_leftovers,
)
from touchline.train.inputs import CONFIG_LIMIT_BYTES, Inputs, load_inputs, read_config, refuse_change
from touchline.train.process import ask_to_stop, end_orphans, exit_code_of, trainer_program
from touchline.train.record import AttemptSetup, Step, StepCounts, TrainingRecord, fields_of

LOOK_SECONDS = 0.1  # Seconds between two looks at the trainer's log
_IGNORED = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class _Started:
    event: Literal["start"]
    device: str
    device_kind: Literal["cpu", "cuda"]
    threads: int
    trainable_parameters: int
    base_dtype: str
    adapter_dtype: str
    attention: str
    optimizer: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step(StepCounts):
    event: Literal["step"]
    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    peak_memory: int | None
    peak_memory_reserved: int | None
    cpu_percent: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Validated:
    event: Literal["validation"]
    step: int
    loss: float
    seconds: float
    target_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Saved:
    event: Literal["saved"]
    step: int
    epoch: int | None
    adapter: str | None
    state: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failed:
    event: Literal["error"]
    kind: str
    out_of_memory: bool
    message: str


_Row = _Started | _Step | _Validated | _Saved | _Failed
_ROW: TypeAdapter[_Row] = TypeAdapter(_Row)


def run_external(folder: Path, stop: Stop) -> bool:
    """Train or resume in a run folder. Return True if it is complete, or paused where pause.json asks for it."""
    begun = time.monotonic()
    config = read_config(folder / "run.yaml")
    trainer = external_trainer(config.train.backend)
    if trainer is None:
        raise InputError(f"the backend {config.train.backend!r} has no command", expected="an external backend")
    end_orphans(folder)
    if is_done(folder, config):
        LOG.info("run %s is already trained", config.run)
        _remove_work(folder)
        return True
    if config.recipe_sha256 is not None:
        path = folder / f"{RECIPE_MODULE}.py"
        refuse_change("the recipe", str(path), config.recipe_sha256, sha256_file(path))
    program = require_environment(trainer.environment).program
    remove_leftovers(folder)
    saved = find_resume(folder / RESUME_FOLDER, config.run_digest)
    if reached_pause(config, folder, saved):
        return True
    inputs, pause_after = load_inputs(config, folder), read_pause(folder)
    with disk_errors("folder", folder / WORK_FOLDER):
        shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
        _write_inputs(folder, inputs)
        write_pause(folder / WORK_FOLDER, pause_after)
    if stop.asked:
        return False
    launch = Launch(
        program=program,
        model=_moved_model(config, folder),
        recipe=config.train.recipe if config.recipe_sha256 is None else RECIPE_MODULE,
        modules=frozenset(path.stem for path in folder.glob("*.py")),
        devices=config.batches.data_parallel_size,
        state=None if saved is None else str(saved[0]),
        step=0 if saved is None else saved[1].step,
    )
    with MetricsLog(folder / METRICS) as log:
        record = TrainingRecord(inputs, folder, log, None if saved is None else saved[1])
        end = Driver(inputs, folder, record, stop, begun, pause_after).run(trainer, launch)
    if end is TrainingEnd.DONE:
        _remove_work(folder)
    return end is not TrainingEnd.STOPPED


def _moved_model(config: RunConfig, folder: Path) -> str | None:
    planned = read_run_config(read_text_bounded(folder / "run.yaml", CONFIG_LIMIT_BYTES), "run.yaml").model.path
    return None if config.model.path == planned else config.model.path


class Driver:
    """Attempt at a training by another program."""

    def __init__(
        self,
        inputs: Inputs,
        folder: Path,
        record: TrainingRecord,
        stop: Stop,
        begun: float,
        pause_after: int | None = None,
    ) -> None:
        self._inputs, self._config = inputs, inputs.config
        self._folder, self._record, self._stop, self._begun = folder, record, stop, begun
        self._pause_after = pause_after
        self._state_step: int | None = None
        self._memory_kind: MemoryKind = "process"
        self._failed: _Failed | None = None

    def run(self, trainer: ExternalTrainer, launch: Launch) -> TrainingEnd:
        """Start the program and follow it to its end. Return how the training ended."""
        command = trainer.command(launch)
        LOG.info("run %s: %s", self._config.run, " ".join(command))
        with trainer_program(command, self._folder) as process:
            self._follow(process)
        if self._record.complete:
            self._record.finish()
            return TrainingEnd.DONE
        if self._pause_after is not None and self._record.step == self._state_step == self._pause_after:
            self._record.pause()
            return TrainingEnd.PAUSED
        if self._stop.asked:
            self._record.stop(self._stop)
            return TrainingEnd.STOPPED
        raise self._failure(trainer, process.returncode)

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        asked = False
        path = self._folder / LOG_FILE
        path.touch()
        with open_regular(path) as stream:
            rest = b""
            while True:
                ended = process.poll() is not None
                rest += stream.read()
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    self._take(line)
                if ended:
                    return
                if self._stop.asked and not asked:
                    asked = True
                    ask_to_stop(process, self._config.batches.data_parallel_size)
                if not lines:
                    time.sleep(LOOK_SECONDS)

    def _take(self, line: bytes) -> None:
        try:
            row = _ROW.validate_json(line)
        except ValidationError as error:
            message = f"run {self._config.run}: the trainer logged a row that cannot be read: {line[:200]!r}"
            raise RunsFailedError(message, expected=str(error.errors()[0]["msg"])) from error
        match row:
            case _Started():
                self._take_start(row)
            case _Step():
                self._take_step(row)
            case _Validated():
                self._record.end_validation(row.loss, row.target_tokens, row.seconds)
            case _Saved():
                self._take_saved(row)
            case _Failed() if self._failed is None or row.out_of_memory:
                # Of several processes the first to fail; the others then fail because of it.
                self._failed = row
            case _Failed():
                pass

    def _take_start(self, row: _Started) -> None:
        train = self._config.train
        self._memory_kind = "allocated" if row.device_kind == "cuda" else "process"
        own = fields_of(row) | {
            # The other side knows a CPU by its architecture alone; times are looked up by the name.
            "device": cpu_name() if row.device_kind == "cpu" else row.device,
            "versions": {**stack_versions(("touchline",), None), **row.versions},
        }
        del own["event"]
        setup = AttemptSetup(**own, row_tokens=train.max_seq_len if train.packed else None)
        self._record.begin(setup, self._begun)

    def _take_step(self, row: _Step) -> None:
        measured = {name: value for name, value in fields_of(row).items() if name not in ("event", "step")} | {
            "peak_memory": _peak(row.peak_memory, self._memory_kind),
            "peak_memory_reserved": _peak(row.peak_memory_reserved, "reserved"),
            "gpu_percent": Missing(missing="not measured by this trainer"),
        }
        self._record.end_step(row.step, Step(**measured))

    def _take_saved(self, row: _Saved) -> None:
        config, work = self._config, self._folder / WORK_FOLDER
        if row.adapter is not None:
            adapter = work / row.adapter
            self._record.export(row.epoch, lambda folder: _take_adapter(config, adapter, folder), row.seconds)
            shutil.rmtree(adapter, ignore_errors=True)
        if row.state is not None:
            state = work / row.state
            self._record.save(lambda folder: adopt(state, folder), seconds=row.seconds)
            self._state_step = self._record.step

    def _failure(self, trainer: ExternalTrainer, status: int) -> RunsFailedError:
        name, failed = trainer.environment.name, self._failed
        said = f"exit status {status}" if failed is None else f"{failed.kind}: {failed.message[:300]}"
        done = f"step {self._record.step} of {self._config.batches.steps}"
        message = f"run {self._config.run}: {name} ended after {done}: {said}"
        if failed is not None and failed.out_of_memory:
            return TrainingOutOfMemoryError(message, hint="a smaller train.micro_batch_size")
        return RunsFailedError(message, expected="the planned steps (saved checkpoints are kept)")


def _peak(size: int | None, kind: MemoryKind) -> Measured:
    if size is None:
        return Missing(missing="not measured on this machine")
    return Quantity(value=float(size), unit="B", phase="step", kind=kind, aggregation="peak")


def write_examples(folder: Path) -> bool:
    """Write the planned examples into `trainer/` for a trainer that is started by hand. Return True."""
    _write_inputs(folder, load_inputs(read_config(folder / "run.yaml"), folder))
    return True


def _write_inputs(folder: Path, inputs: Inputs) -> None:
    (folder / WORK_FOLDER).mkdir(exist_ok=True)
    for name, rows in ((TRAIN_FILE, inputs.train), (VALIDATION_FILE, inputs.validation)):
        with (folder / name).open("w", encoding="utf-8") as stream:
            stream.writelines(_row_text(row) for row in rows)
    orders = "".join(json.dumps(order.tolist()) + "\n" for order in inputs.batches.orders)
    write_atomic(folder / ORDERS_FILE, orders.encode())


def _row_text(row: RenderedExample) -> str:
    labels = [_IGNORED] * len(row.prompt_ids) + list(row.answer_ids)
    return json.dumps({"input_ids": [*row.prompt_ids, *row.answer_ids], "labels": labels}) + "\n"


def _remove_work(folder: Path) -> None:
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    remove_folder(folder / RESUME_FOLDER)


def _take_adapter(config: RunConfig, source: Path, target: Path) -> str:
    """Copy an adapter in PEFT's form, with a complete adapter_config.json. Return the hash of its weights file."""
    lora, path = config.train.lora, source / ADAPTER_FILE
    try:
        with safe_open(path, framework="numpy") as tensors:
            ranks = {tensors.get_slice(name).get_shape()[0] for name in tensors.keys() if "lora_A" in name}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunsFailedError(f"run {config.run}: the trainer's adapter {path} cannot be read: {error}") from error
    if ranks != {lora.rank}:
        found = ", ".join(map(str, sorted(ranks))) or "none"
        raise RunsFailedError(f"run {config.run}: the trainer saved an adapter of rank {found}, planned {lora.rank}")
    shutil.copyfile(path, target / ADAPTER_FILE)
    content = {
        **_read_object(source / ADAPTER_CONFIG_FILE),
        "base_model_name_or_path": config.model.path,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": lora.resolved_alpha,
        "lora_dropout": lora.dropout,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": sorted(lora.target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": lora.dora,
        "use_rslora": lora.rslora,
    }
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    (target / ADAPTER_CONFIG_FILE).write_text(text, encoding="utf-8")
    saved = sha256_file(target / ADAPTER_FILE)
    if config.train.saves == "merged":
        from touchline.train.model import merge

        merge(config, target)
    return saved


def _read_object(path: Path) -> dict[str, object]:
    try:
        found = parse_json(read_bytes(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main() -> int:
    """Train in the working directory, or write its examples. Return the exit code."""
    if EXAMPLES in sys.argv[1:]:
        return exit_code_of(lambda _, folder: write_examples(folder), Path().absolute())
    return exit_code_of(lambda stop, folder: run_external(folder, stop), Path().absolute())


if __name__ == "__main__":
    sys.exit(main())
