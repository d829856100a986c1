"""Command `python -m touchline.train [--config finetune.yaml] [--folder DIR]`, run in a run folder.

Exit codes: 0 trained (now or before), 2 invalid file, 3 drift or refused, 4 the machine lacks something, 75 stopped by
TERM, INT or USR1 with its state saved (rerun to resume), 77 the parent checkpoint is missing, 78 the parent checkpoint
contradicts its records, 1 any other error.
"""

from __future__ import annotations

import argparse
import errno
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from touchline.core.errors import LineageError, ParentNotReadyError, TouchlineError, install_hint
from touchline.core.status import EXIT_LINEAGE, EXIT_OUT_OF_MEMORY, EXIT_PARENT_NOT_READY, EXIT_STOPPED
from touchline.data.worker import prepare_worker, tell_fault
from touchline.train.inputs import read_config
from touchline.train.run import Stop, run_training

EXIT_CODES: dict[type[TouchlineError], int] = {ParentNotReadyError: EXIT_PARENT_NOT_READY, LineageError: EXIT_LINEAGE}
"""Exit codes of errors that later stages and job scripts must distinguish."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m touchline.train", description="Train one run.")
    parser.add_argument("--config", type=Path, default=Path("finetune.yaml"), help="relative to the folder")
    parser.add_argument("--folder", type=Path, default=Path(), help="the run's folder (default: this one)")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="touchline: %(message)s")
    prepare_worker()
    stop = Stop()
    _listen(stop)
    folder = options.folder.absolute()
    try:
        return 0 if run_training(read_config(folder / options.config), folder, stop) else EXIT_STOPPED
    except TouchlineError as fault:
        tell_fault(fault)
        return EXIT_CODES.get(type(fault), fault.exit_code)
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
    """Install signal handlers that request a stop; the current step is dropped at its next micro-batch."""

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        stop.reason = signal.Signals(number).name

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, ask)


if __name__ == "__main__":
    sys.exit(main())
