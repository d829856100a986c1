"""`python -m touchline.evaluate --experiment DIR --request REQUEST.json`: evaluate checkpoints of an experiment.

Exit codes: 0 all evaluated (now or before), 1 some failed, 2 a bad file, 3 drift or refused, 4 the machine lacks
something, 75 stopped by TERM, INT or USR1 (the same command goes on with what is missing).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from touchline.catalog.worker import prepare_worker, tell_fault
from touchline.errors import TouchlineError

EXIT_STOPPED = 75
"""sysexits.h calls it EX_TEMPFAIL, try again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m touchline.evaluate", description="Evaluate checkpoints.")
    parser.add_argument("--experiment", type=Path, required=True, help="the experiment's folder")
    parser.add_argument("--request", type=Path, required=True, help="the jobs, as JSON")
    options = parser.parse_args(arguments)
    _listen()
    prepare_worker()
    os.environ.setdefault("INSPECT_DISPLAY", "none")
    try:
        from touchline.evaluate.process import evaluate, read_request

        evaluate(options.experiment.resolve(), read_request(options.request))
    except TouchlineError as fault:
        tell_fault(fault)
        return fault.exit_code
    except ImportError as error:
        sys.stderr.write(f"touchline: a package is missing: {error.msg}\n  try: pip install 'touchline[eval]'\n")
        return 4
    return 0


def _listen() -> None:
    """End at once when asked: nothing half-written is ever in a run's folder, and the next start clears the scratch."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        os.write(2, f"touchline: stopped by {signal.Signals(number).name}\n".encode())
        os._exit(EXIT_STOPPED)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
