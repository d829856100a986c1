"""The parent of the self-test's checks: a crash fails one check, and another process runs those after it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from touchline.core.errors import HostError
from touchline.history.selftest import StepCheck, Verdict
from touchline.run.selftest import step_checks

pytestmark = pytest.mark.planning

CHILD = """\
import json, os, signal, sys, time
folder, *names = sys.argv[1:]
open(folder + "/starts", "a").write("x")
def answer(name):
    print(json.dumps({"name": name, "verdict": "ok"}), flush=True)
for name in names:
"""
NAMES = (StepCheck.DEVICE, StepCheck.BFLOAT16, StepCheck.RESUME)


def child(folder: Path, behavior: str) -> list[str]:
    program = folder / "child.py"
    program.write_text(CHILD + "".join(f"    {line}\n" for line in behavior.splitlines()), encoding="utf-8")
    return [sys.executable, str(program)]


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("sys.exit('touchline: error: the mask is wrong')", "the mask is wrong"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "it ended with signal 11"),
        ("raise RuntimeError('CUDA error')", "RuntimeError: CUDA error"),
        ("time.sleep(600)", "it did not end in time"),
    ],
    ids=["fault", "signal", "exception", "hang"],
)
def test_one_broken_check_does_not_take_the_others_with_it(tmp_path: Path, behavior: str, message: str) -> None:
    command = child(tmp_path, f"if name == {StepCheck.BFLOAT16.value!r}: {behavior}\nanswer(name)")
    found = list(step_checks(NAMES, tmp_path, command=command, timeout_seconds=5.0))
    assert [check.name for check in found] == list(NAMES)
    assert [check.verdict for check in found] == [Verdict.OK, Verdict.FAILED, Verdict.OK]
    assert found[1].message == message
    assert (tmp_path / "starts").read_text() == "xx"


def test_without_the_packages_nothing_is_checked(tmp_path: Path) -> None:
    command = child(tmp_path, "sys.stderr.write('touchline: error: a package is missing: torch'); sys.exit(4)")
    with pytest.raises(HostError, match="a package is missing: torch"):
        list(step_checks(NAMES, tmp_path, command=command))
