"""Process of a training: signals, exit codes and error messages.

Exit codes: 0 trained (now or before), 2 invalid file, 3 drift or refused, 4 the machine lacks something, 75 stopped by
TERM, INT or USR1 with its state saved (rerun to resume), 77 the parent checkpoint is missing, 78 the parent checkpoint
contradicts its records, 1 any other error.
"""

from __future__ import annotations

import errno
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from touchline.core.errors import LineageError, ParentNotReadyError, TouchlineError, install_hint
from touchline.core.status import EXIT_LINEAGE, EXIT_OUT_OF_MEMORY, EXIT_PARENT_NOT_READY, EXIT_STOPPED
from touchline.data.worker import prepare_worker, tell_fault
from touchline.train.parallel import ProcessLostError, is_member
from touchline.train.run import Stop

if TYPE_CHECKING:
    from touchline.train.hf_inputs import PlannedTraining

EXIT_CODES: dict[type[TouchlineError], int] = {ParentNotReadyError: EXIT_PARENT_NOT_READY, LineageError: EXIT_LINEAGE}
"""Exit codes of errors that later stages and job scripts must distinguish."""


def run_process(train: Callable[[PlannedTraining], bool], folder: Path | None = None) -> int:
    """Run a training script's function in its run folder. Return the exit code.

    Args:
        train: trains a planned run; returns True if the training is complete or paused.
        folder: run folder (default: the working directory).
    """

    def start(stop: Stop, place: Path) -> bool:
        from touchline.train.hf import train_planned

        return train_planned(train, stop, place)

    return exit_code_of(start, (folder or Path()).absolute())


def exit_code_of(train: Callable[[Stop, Path], bool], folder: Path) -> int:
    """Run a training, report its errors on stderr, and return the exit code of its process.

    Args:
        train: trains in a run folder until a stop is requested; returns True if the training is complete or paused.
    """
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
    """Install signal handlers that request a stop."""

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        stop.reason = signal.Signals(number).name

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, ask)
