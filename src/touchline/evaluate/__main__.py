"""Evaluate checkpoints of an experiment, in a process of their own.

    python -m touchline.evaluate --experiment DIR --request REQUEST.json    what the file lists, on one base model
    python -m touchline.evaluate --experiment DIR --run NAME                what that run's eval.yaml asks for

Exit codes: 0 all evaluated (now or before), 1 some failed, 2 a bad file, 3 drift or refused, 4 the machine lacks
something, 75 stopped by TERM, INT or USR1 (the same command goes on with what is missing), 77 the run is not trained,
or not all of what is asked for: what is there is evaluated first.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from touchline.core.errors import TouchlineError, install_hint
from touchline.core.status import EXIT_NO_PARENT, EXIT_STOPPED
from touchline.data.worker import prepare_worker, tell_fault
from touchline.evaluate.children import stop_children
from touchline.evaluate.wanted import find_pending_evaluations


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m touchline.evaluate", description="Evaluate checkpoints.")
    parser.add_argument("--experiment", type=Path, required=True, help="the experiment's folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--request", type=Path, help="the jobs, as JSON")
    what.add_argument("--run", help="one run: what its eval.yaml asks for and is not evaluated yet")
    options = parser.parse_args(arguments)
    _listen()
    prepare_worker()
    os.environ.setdefault("INSPECT_DISPLAY", "none")
    try:
        if options.run is not None:
            return _run(options.experiment.resolve(), options.run)
        from touchline.evaluate.process import evaluate, read_request

        evaluate(options.experiment.resolve(), read_request(options.request))
    except TouchlineError as fault:
        tell_fault(fault)
        return fault.exit_code
    except ImportError as error:
        sys.stderr.write(f"touchline: error: a package is missing: {error.msg}\n  try: {install_hint('eval')}\n")
        return 4
    return 0


def _run(experiment: Path, run: str) -> int:
    """Evaluate what is asked for of one run; what loads the frameworks waits until there is something to do."""
    wanted = find_pending_evaluations(experiment, run)
    if wanted.checkpoints:
        from touchline.evaluate.process import EvaluationRequest, RequestedJob, evaluate

        jobs = tuple(RequestedJob(run=run, checkpoint=name) for name in wanted.checkpoints)
        evaluate(experiment, EvaluationRequest(jobs=jobs))
    elif wanted.missing is None:
        sys.stderr.write(f"touchline: {run}: evaluated already\n")
    if wanted.missing is not None:
        sys.stderr.write(f"touchline: error: {wanted.missing}\n")
        return EXIT_NO_PARENT
    return 0


def _listen() -> None:
    """End at once when asked: nothing half-written is ever in a run's folder, and the next start clears the scratch."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        stop_children()
        os.write(2, f"touchline: stopped by {signal.Signals(number).name}\n".encode())
        os._exit(EXIT_STOPPED)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
