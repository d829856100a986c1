"""Command `python -m touchline.evaluate`: evaluate checkpoints of an experiment.

`--experiment DIR --request REQUEST.json` evaluates the listed checkpoints on one base model; `--experiment DIR --run
NAME` evaluates the pending checkpoints of that run's eval.yaml.

Exit codes: 0 all evaluated (now or before), 1 some failed, 2 invalid file, 3 drift or refused, 4 the machine lacks
something, 75 stopped by TERM, INT or USR1 (rerun to continue), 77 the run is not or only partly trained; existing
checkpoints are evaluated first.
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
from touchline.core.status import EXIT_PARENT_NOT_READY, EXIT_STOPPED
from touchline.data.worker import bitsandbytes_left_out, prepare_worker, tell_fault
from touchline.evaluate.wanted import (
    EvaluationRequest,
    RequestedJob,
    find_pending_evaluations,
    needs_bitsandbytes,
    read_request,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m touchline.evaluate", description="Evaluate checkpoints.")
    parser.add_argument("--experiment", type=Path, required=True, help="the experiment's folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--request", type=Path, help="the jobs, as JSON")
    what.add_argument("--run", help="one run: the missing evaluations of its eval.yaml")
    options = parser.parse_args(arguments)
    _listen()
    prepare_worker()
    os.environ.setdefault("INSPECT_DISPLAY", "none")
    try:
        if options.run is not None:
            return _run(options.experiment.resolve(), options.run)
        request, experiment = read_request(options.request), options.experiment.resolve()
        _load_peft(experiment, request.jobs)
        from touchline.evaluate.process import evaluate

        evaluate(experiment, request)
    except TouchlineError as fault:
        tell_fault(fault)
        return fault.exit_code
    except ImportError as error:
        sys.stderr.write(f"touchline: error: a package is missing: {error.msg}\n  try: {install_hint('eval')}\n")
        return 4
    return 0


def _run(experiment: Path, run: str) -> int:
    """Evaluate the pending checkpoints of one run; frameworks are imported only if there are any."""
    wanted = find_pending_evaluations(experiment, run)
    if wanted.checkpoints:
        jobs = tuple(RequestedJob(run=run, checkpoint=name) for name in wanted.checkpoints)
        _load_peft(experiment, jobs)
        from touchline.evaluate.process import evaluate

        evaluate(experiment, EvaluationRequest(jobs=jobs))
    elif wanted.missing is None:
        sys.stderr.write(f"touchline: {run}: already evaluated\n")
    if wanted.missing is not None:
        sys.stderr.write(f"touchline: error: {wanted.missing}\n")
        return EXIT_PARENT_NOT_READY
    return 0


def _load_peft(experiment: Path, jobs: Sequence[RequestedJob]) -> None:
    """Import peft without bitsandbytes, unless the base is quantized. Own tasks still find it afterwards."""
    with bitsandbytes_left_out(unless=any(needs_bitsandbytes(experiment, job.run) for job in jobs[:1])):
        from peft.import_utils import is_bnb_available

        # It keeps the answer; otherwise the first adapter asks, and imports bitsandbytes.
        is_bnb_available()


def _listen() -> None:
    """Exit at once on a signal: run folders never hold partial files, and the next start clears the scratch folder."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        os.write(2, f"touchline: stopped by {signal.Signals(number).name}\n".encode())
        os._exit(EXIT_STOPPED)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
