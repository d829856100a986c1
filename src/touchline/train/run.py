"""Single attempt at a run's training, from finetune.yaml to training.json. Torch is imported late."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from touchline.backends.run_config import RunConfig
from touchline.core.errors import PlanDriftError, RunsFailedError, TouchlineError, TrainingDivergedError
from touchline.core.status import TrainingEnd
from touchline.data.checkpoints import (
    RESUME_FOLDER,
    ResumeState,
    is_paused,
    read_export_marker,
    read_pause,
    read_training_marker,
)
from touchline.data.metrics import AttemptRow, TrainingMarker
from touchline.data.worker import tell_fault
from touchline.train.failures import refuse_out_of_memory
from touchline.train.folders import is_whole, remove_folder, remove_leftovers
from touchline.train.inputs import Inputs, load_inputs, read_config
from touchline.train.log import LOG, MetricsLog
from touchline.train.parallel import Processes, is_member, processes
from touchline.train.parent import Ancestry, resolve_parent
from touchline.train.resume import find_resume

MARKER = "training.json"
METRICS = "metrics.jsonl"

_TRAINING = TypeAdapter(TrainingMarker)


@dataclass(kw_only=True, slots=True)
class Stop:
    """Stop request, set by a signal and read between micro-batches."""

    reason: str | None = None
    """Signal name, such as `SIGTERM`; None if no stop is requested."""

    @property
    def asked(self) -> bool:
        """Return True if a stop is requested."""
        return self.reason is not None


def run_training(config: RunConfig, folder: Path, stop: Stop, config_name: str = "finetune.yaml") -> bool:
    """Train or resume in a run folder. Return True if the training is complete, or paused where pause.json asks for it.

    Args:
        config_name: file in the folder that holds the run, for the other processes of the training.

    Raises:
        TouchlineError: refused or failed.
    """
    begun = time.monotonic()
    if is_done(folder, config):
        LOG.info("run %s is already trained", config.run)
        remove_folder(folder / RESUME_FOLDER)
        return True
    if not is_member():
        remove_leftovers(folder)
    saved = find_resume(folder / RESUME_FOLDER, config.run_digest)
    if reached_pause(config, folder, saved):
        return True
    ancestry = resolve_parent(config, folder, resumes=saved is not None)
    inputs = load_inputs(config, folder)
    if stop.asked:
        return False
    command = (sys.executable, "-m", "touchline.train", "--config", config_name)
    with processes(config.batches.data_parallel_size, command, folder) as group:
        return _train(inputs, saved, ancestry, folder, stop, begun, group)


def _train(
    inputs: Inputs,
    saved: tuple[Path, ResumeState] | None,
    ancestry: Ancestry | None,
    folder: Path,
    stop: Stop,
    begun: float,
    group: Processes,
) -> bool:
    # Here, since these imports take seconds and everything before may already have said no.
    from touchline.train.loop import Training
    from touchline.train.record import TrainingRecord
    from touchline.train.setup import build_session

    session = build_session(inputs, saved, ancestry)
    group.share_parameters(session.parameters.values())
    with open_log(folder, group) as log:
        record = TrainingRecord(inputs, folder, log, session.state)
        _announce(record.begin(session.setup, begun, session.lineage))
        end = Training(session, record, stop, group, read_pause(folder)).run()
    if end is TrainingEnd.DONE and group.is_first:
        remove_folder(folder / RESUME_FOLDER)
    return end is not TrainingEnd.STOPPED


def reached_pause(config: RunConfig, folder: Path, saved: tuple[Path, ResumeState] | None) -> bool:
    """Return True, and say so, if a training is paused as pause.json asks."""
    if saved is None or not is_paused(saved[1], read_pause(folder)):
        return False
    LOG.info("run %s is paused after step %d, where runs are compared", config.run, saved[1].step)
    return True


def _announce(row: AttemptRow) -> None:
    LOG.info(
        "run %s: %d steps from step %d, %s on %s, %s, attention %s",
        row.run,
        row.steps,
        row.from_step,
        row.base_dtype,
        row.device,
        row.layout,
        row.attention,
    )


def run_cohort(folders: Sequence[Path], stop: Stop, config_name: str = "finetune.yaml") -> bool:
    """Train or resume several runs side by side on one base. Return True if all are complete, or paused as asked.

    A run that is refused or fails leaves the others alone; its error is raised when they have ended.

    Args:
        config_name: file in the folders that holds the run.

    Raises:
        TouchlineError: of the first run that was refused or failed.
    """
    begun = time.monotonic()
    members: dict[Path, tuple[Inputs, tuple[Path, ResumeState] | None]] = {}
    faults: list[TouchlineError] = []
    for folder in folders:
        try:
            config = read_config(folder / config_name)
            if is_done(folder, config):
                remove_folder(folder / RESUME_FOLDER)
                continue
            remove_leftovers(folder)
            saved = find_resume(folder / RESUME_FOLDER, config.run_digest)
            if not reached_pause(config, folder, saved):
                members[folder] = load_inputs(config, folder), saved
        except TouchlineError as fault:
            faults.append(fault)
            tell_fault(fault)
    if stop.asked:
        return False
    done = True
    if len(members) == 1:
        ((folder, (inputs, saved)),) = members.items()
        ancestry = resolve_parent(inputs.config, folder, resumes=saved is not None)
        done = _train(inputs, saved, ancestry, folder, stop, begun, Processes())
    elif members:
        done, failed = _train_cohort(members, stop, begun)
        faults += failed
    if faults and not stop.asked:
        first = faults[0]
        if isinstance(first, TrainingDivergedError) and len(folders) > 1:
            # The exit code is that of all runs; the one that diverged says so when it is trained alone.
            raise RunsFailedError(first.message, expected=first.expected, hint=first.hint) from first
        raise first
    return done and not faults


def _train_cohort(
    members: Mapping[Path, tuple[Inputs, tuple[Path, ResumeState] | None]], stop: Stop, begun: float
) -> tuple[bool, list[TouchlineError]]:
    # Here, since these imports take seconds and everything before may already have said no.
    from touchline.train.loop import Training, train_side_by_side
    from touchline.train.record import TrainingRecord
    from touchline.train.setup import build_cohort

    sessions, side_by_side = build_cohort(list(members.values()))
    with contextlib.ExitStack() as logs:
        trainings: dict[str, Training] = {}
        for folder, session in zip(members, sessions, strict=True):
            log = logs.enter_context(MetricsLog(folder / METRICS))
            record = TrainingRecord(session.inputs, folder, log, session.state)
            _announce(record.begin(session.setup, begun))
            trainings[session.adapter] = Training(session, record, stop, Processes(), read_pause(folder))
        try:
            ends, failed = train_side_by_side(trainings, side_by_side.add_gradients)
        except (MemoryError, RuntimeError) as error:
            runs = ", ".join(session.inputs.config.run for session in sessions)
            refuse_out_of_memory(error, runs, min(training.step for training in trainings.values()) + 1)
            raise
    for folder, session in zip(members, sessions, strict=True):
        if ends.get(session.adapter) is TrainingEnd.DONE:
            remove_folder(folder / RESUME_FOLDER)
    for fault in failed.values():
        tell_fault(fault)
    return TrainingEnd.STOPPED not in ends.values(), list(failed.values())


def open_log(folder: Path, group: Processes) -> contextlib.AbstractContextManager[MetricsLog | None]:
    """Open metrics.jsonl for the length of a block; None in a process that writes no files."""
    return MetricsLog(folder / METRICS) if group.is_first else contextlib.nullcontext()


def is_done(folder: Path, config: RunConfig) -> bool:
    """Return True if training.json is of this plan and its last checkpoint exists.

    Raises:
        PlanDriftError: it is of another plan of this run.
    """
    marker = read_training_marker(folder)
    if marker is None:
        return False
    if marker.run_digest != config.run_digest:
        raise PlanDriftError(
            f"{str(folder / MARKER)!r} belongs to another plan of this run",
            expected=f"run_digest {config.run_digest[:12]}, found {marker.run_digest[:12]}",
            hint="move the trained run to another folder",
        )
    if not marker.checkpoints:
        return True
    last = folder / Path(marker.checkpoints[-1]).name
    export = read_export_marker(last)
    if export is None:
        LOG.warning("%s is trained, but its checkpoint %s is missing: training again", config.run, last.name)
        return False
    return is_whole(last, export.files, hashes=False)


def training_text(marker: TrainingMarker) -> bytes:
    """Return the content of training.json."""
    return _TRAINING.dump_json(marker, indent=2) + b"\n"
