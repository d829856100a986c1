"""Command `python -m touchline.train.selftest [--attached] FOLDER CHECK...`: check the trainer on this device.

For each check, a `NodeCheck` is written as one line to stdout. A check that cannot be completed ends the program, and
its caller starts it again for those after it. Exit codes: 0 all answered, 4 a package is missing, 1 any other error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from touchline.data.worker import prepare_worker, tell_fault

if __name__ == "__main__":
    prepare_worker()

from touchline.core.errors import HostError, TouchlineError, install_hint
from touchline.history.probe import NodeCheck, StepCheck
from touchline.train.probe import end_with_parent, take_stdout

_CHECK = TypeAdapter(NodeCheck)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m touchline.train.selftest", description="Check the trainer here.")
    parser.add_argument("folder", type=Path, help="empty folder for the models")
    parser.add_argument("checks", nargs="+", type=StepCheck, help="names of checks")
    parser.add_argument("--attached", action="store_true", help="end when stdin is closed")
    options = parser.parse_args(arguments)
    if options.attached:
        end_with_parent()
    answers = take_stdout()
    try:
        # Here, since these imports take seconds.
        from touchline.train.selftest_checks import Checks
    except ImportError as error:
        tell_fault(HostError(f"a package is missing: {error.msg}", hint=install_hint("train")))
        return HostError.exit_code
    checks = Checks(options.folder)
    for name in options.checks:
        try:
            found = checks.run(name)
        except TouchlineError as fault:
            tell_fault(fault)
            return 1
        os.write(answers, _CHECK.dump_json(found) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
