"""Process of a training, from finetune.yaml to training.json: signals, exit codes, errors. Torch is imported late.

Exit codes: 0 trained, 2 invalid file, 3 drift or refused, 4 the machine lacks something, 75 stopped by TERM, INT or
USR1 with its state saved, 77 the parent checkpoint is missing, 78 it contradicts its records, 1 any other error.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import psutil

from touchline.backends.run_config import RunConfig
from touchline.core.errors import (
    LineageError,
    ParentNotReadyError,
    RunsFailedError,
    TouchlineError,
    TrainingDivergedError,
    install_hint,
)
from touchline.core.status import EXIT_LINEAGE, EXIT_OUT_OF_MEMORY, EXIT_PARENT_NOT_READY, EXIT_STOPPED, TrainingEnd
from touchline.core.units import plural
from touchline.data.checkpoints import RESUME_FOLDER, ResumeState, read_pause
from touchline.data.metrics import AttemptRow
from touchline.data.metrics_file import METRICS
from touchline.data.worker import die_with_parent, prepare_worker, tell_fault
from touchline.train.attempt import LOG, MetricsLog, Stop, open_log, refuse_out_of_memory
from touchline.train.folders import find_resume, is_done, reached_pause, remove_folder, remove_leftovers
from touchline.train.inputs import Inputs, load_inputs, read_config
from touchline.train.parallel import Processes, ProcessLostError, is_member, processes
from touchline.train.parent import Ancestry, resolve_parent

if TYPE_CHECKING:
    from touchline.train.hf_inputs import PlannedTraining


def run_training(config: RunConfig, folder: Path, stop: Stop, config_name: str = "finetune.yaml") -> bool:
    """Train or resume in a run folder. Return True if the training is complete, or paused where pause.json asks for it.

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


def _announce(row: AttemptRow) -> None:
    words = row.run, row.steps, row.from_step, row.base_dtype, row.device, row.layout, row.attention
    LOG.info("run %s: %d steps from step %d, %s on %s, %s, attention %s", *words)


def run_cohort(folders: Sequence[Path], stop: Stop, config_name: str = "finetune.yaml") -> bool:
    """Train or resume several runs side by side on one base. Return True if all are complete, or paused as asked.

    A run that is refused or fails leaves the others alone; its error is raised when they have ended.

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


EXIT_CODES: dict[type[TouchlineError], int] = {ParentNotReadyError: EXIT_PARENT_NOT_READY, LineageError: EXIT_LINEAGE}
"""Exit codes of errors that later stages and job scripts must distinguish."""


def run_process(train: Callable[[PlannedTraining], bool], folder: Path | None = None) -> int:
    """Run a training script's function in its run folder. Return the exit code."""

    def start(stop: Stop, place: Path) -> bool:
        from touchline.train.hf import train_planned

        return train_planned(train, stop, place)

    return exit_code_of(start, (folder or Path()).absolute())


def exit_code_of(train: Callable[[Stop, Path], bool], folder: Path) -> int:
    """Run a training, report its errors on stderr, and return the exit code of its process."""
    level = logging.ERROR if is_member() else logging.INFO
    logging.basicConfig(stream=sys.stderr, level=level, format="touchline: %(message)s")
    prepare_worker()
    stop = Stop()
    _listen(stop)
    try:
        return 0 if train(stop, folder) else EXIT_STOPPED
    except ProcessLostError as error:
        tell_fault(error)
        return error.code
    except TouchlineError as error:
        tell_fault(error)
        return EXIT_CODES.get(type(error), error.exit_code)
    except ImportError as error:
        sys.stderr.write(f"touchline: error: a package is missing: {error.msg}\n  try: {install_hint('train')}\n")
        return 4
    except MemoryError:
        sys.stderr.write("touchline: error: out of memory\n  try: a smaller train.micro_batch_size\n")
        return EXIT_OUT_OF_MEMORY
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(f"touchline: error: no space left on the disk of {folder}\n")
        return 4


def _listen(stop: Stop) -> None:
    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        stop.reason = signal.Signals(number).name

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, ask)


RUN_VARIABLE = "TOUCHLINE_RUN_FOLDER"
"""Environment variable that marks the trainer's processes with their run folder."""


@contextlib.contextmanager
def trainer_program(command: tuple[str, ...], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a process group of its own, which ends with this process and with the block."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {
        RUN_VARIABLE: str(folder),
        "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(  # noqa: S603 (our own words)
        list(command),
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 (this process has one thread)
    )
    try:
        yield process
    finally:
        # Once it is waited for, its number, and that of its group, may be another process's.
        if process.poll() is None:
            # A launcher gives the processes of its devices groups of their own.
            others = _descendants(process)
            _signal_group(process, signal.SIGKILL)
            for each in others:
                with contextlib.suppress(psutil.Error):
                    each.kill()
            process.wait()
            psutil.wait_procs(others, timeout=30)
        end_orphans(folder)


def ask_to_stop(process: subprocess.Popen[bytes], devices: int) -> None:
    """Ask a trainer to save and end."""
    if devices == 1:
        return _signal_group(process, signal.SIGTERM)
    # A launcher that is asked itself gives the processes of its devices half a minute.
    for child in _descendants(process):
        with contextlib.suppress(psutil.Error):
            child.terminate()
    return None


def _descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return []
    return found


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def end_orphans(folder: Path) -> int:
    """End the processes of a trainer that has ended in a run folder. Return their number."""
    left: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(RUN_VARIABLE) == str(folder):
                process.kill()
                left.append(process)
        except (psutil.Error, OSError):
            continue
    if left:
        LOG.warning("ended %s that the trainer left", plural(len(left), "process", "processes"))
        psutil.wait_procs(left, timeout=30)
    return len(left)
