"""Scorers that are plain functions, tried in a process of their own; no framework is needed for them."""

import os
import sys
from pathlib import Path

import pytest
from tests.cases import parametrize, python_program, write
from tests.faults.case import base, changed
from tests.run.made_scorers import SMART, WORDS, data, serious

from touchline.backends.torchtune.checks import VALIDATOR
from touchline.core.errors import HostError
from touchline.core.finding import Finding, Severity
from touchline.core.quantity import Missing
from touchline.experiment.foreign import ForeignDocument, parse_foreign
from touchline.history.probe import StepCheck, Verdict
from touchline.lint.local import scoring as launch
from touchline.lint.local.programs import program_of, validate
from touchline.lint.local.scoring import file_findings, task_findings, text_findings
from touchline.run.failures import diagnose, newest_output
from touchline.tools.selftest import step_checks

pytestmark = pytest.mark.planning


def test_seed_004s_match_is_caught_as_a_plain_function(tmp_path: Path) -> None:
    """Without Inspect; the exact one beside it passes, and a function of other arguments is told."""
    path = write(tmp_path / "scoring.py", SMART)
    caught = serious(list(file_findings(f"{path}:smart_match")))
    assert caught["EV201"].severity is Severity.ERROR
    assert serious(list(file_findings(f"{path}:exact"))) == {}
    for name in ("three", "missing"):
        assert set(serious(list(file_findings(f"{path}:{name}")))) == {"EV210"}


@pytest.mark.slow
def test_a_scorer_that_never_ends_is_given_up(tmp_path: Path) -> None:
    path = write(tmp_path / "scoring.py", "def score(output, target):\n    while True:\n        pass\n")
    _, (view,) = launch.self_test(f"{path}:score", timeout=2)
    assert view.missing is not None
    assert "longer than 2 s" in view.missing


def test_a_file_that_takes_its_process_down_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "scoring.py", "import os\nos._exit(7)\n")
    (finding,) = file_findings(f"{path}:score")
    assert (finding.code, finding.severity) == ("EV217", Severity.INFO)
    assert "code 7" in finding.message


def test_a_ready_made_task_is_tried_on_the_runs_own_answers(tmp_path: Path) -> None:
    words = [f"{word}{end}" for word in WORDS for end in "xy"]
    good = data(tmp_path / "good", words, ["train"])
    assert list(task_findings("capitalization", good, tmp_path)) == []


def test_a_text_is_looked_at_without_being_run(tmp_path: Path) -> None:
    """A tree is not run only because it is checked."""
    mark = tmp_path / "ran"
    text = f"from inspect_ai import task\nopen({str(mark)!r}, 'w')\n@task\ndef a():\n    ...\n"
    path = write(tmp_path / "words" / "inspect.py", text)
    assert list(text_findings(path)) == []
    assert not mark.exists()


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


@parametrize(
    "behavior, message",
    ("sys.exit('touchline: error: the mask is wrong')", "the mask is wrong"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "it ended with signal 11"),
    ("raise RuntimeError('CUDA error')", "RuntimeError: CUDA error"),
    ("time.sleep(600)", "it did not end in time"),
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


TRACEBACK = """\
step 3/100 loss 1.2
Traceback (most recent call last):
  File "train.py", line 9, in <module>
    main()
  File "train.py", line 4, in main
    raise ValueError("bad row {number}")
ValueError: bad row {number}
"""


def output(folder: Path, text: str, name: str = "slurm-7.out") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_causes_and_their_proofs(tmp_path: Path) -> None:
    found = diagnose(output(tmp_path, TRACEBACK.format(number=5)), 1)
    assert found.cause.startswith("ValueError: bad row")
    assert any(line.startswith("slurm-7.out:7: ") for line in found.lines)
    assert not found.out_of_memory
    # Numbers in the message differ from attempt to attempt.
    first = diagnose(output(tmp_path, TRACEBACK.format(number=5)), 1)
    second = diagnose(output(tmp_path, TRACEBACK.format(number=6)), 1)
    assert first.cause == second.cause


@parametrize(
    "line",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB",
    "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch. Some of the step tasks have been OOM Killed.",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 400000000000 bytes. Error code 12 (Cannot allocate memory)",
)
def test_memory_is_told_from_any_trainers_log(tmp_path: Path, line: str) -> None:
    text = f'step 1/9 loss 1.0\nTraceback (most recent call last):\n  File "a.py", line 1, in <module>\n{line}\n'
    assert diagnose(output(tmp_path, text), 1).out_of_memory


def test_a_fault_that_our_own_programs_tell_is_the_cause(tmp_path: Path) -> None:
    """They say what, and not only that."""
    text = "touchline: run a: 10 steps from step 0\ntouchline: error: the dataset 'x' changed since it was planned\n"
    assert diagnose(output(tmp_path, text), 3).cause == "the dataset 'x' changed since it was planned"


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe binary", b"nothing special\n"])
def test_what_says_nothing_leaves_the_exit_code(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "slurm-1.out"
    path.write_bytes(content)
    assert diagnose(path, 3).cause == "exit code 3"
    assert diagnose(None, None).cause == "killed (no exit record)"


def test_the_output_of_the_job_itself_is_read(tmp_path: Path) -> None:
    """Another job's proves nothing; where the job is not known, the newest one is read."""
    old, new = output(tmp_path, "", "slurm-1.out"), output(tmp_path, "", "slurm-2.out")
    os.utime(old, (1, 1))
    assert newest_output(tmp_path, "1") == old
    assert newest_output(tmp_path, "9") is None
    assert newest_output(tmp_path) == new
    assert newest_output(tmp_path / "none") is None


BASE = base("torchtune")


def config(folder: Path, text: str = BASE) -> ForeignDocument:
    path = folder / "finetune.yaml"
    path.write_text(text, encoding="utf-8")
    return parse_foreign(text, str(path), "omegaconf")


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `tune` beside an interpreter; a test writes what it says into `answer.py`."""
    folder = tmp_path / "env" / "bin"
    folder.mkdir(parents=True)
    program = folder / "tune"
    python_program(program, f"import runpy\nrunpy.run_path({str(folder / 'answer.py')!r})\n")
    monkeypatch.setenv(VALIDATOR.python_variable, str(folder / "python"))
    assert program_of(VALIDATOR) == program
    return folder / "answer.py"


def asked(document: ForeignDocument, timeout: float = 30) -> tuple[Finding, ...]:
    found = validate(VALIDATOR, document, timeout=timeout)
    assert not isinstance(found, Missing), found
    return found


def test_a_config_that_it_likes_has_no_findings(tmp_path: Path, tune: Path) -> None:
    tune.write_text("import sys\nassert sys.argv[1] == 'validate', sys.argv\nprint('Config is well-formed!')\n")
    assert asked(config(tmp_path)) == ()


def test_its_complaint_is_a_finding(tmp_path: Path, tune: Path) -> None:
    complaint = "Config is not well-formed, found the following errors: TypeError: unexpected 'lora_rnk'"
    lines = f"usage: tune validate <config>\\ntune validate: error: {complaint}"
    tune.write_text(f'import sys\nsys.stderr.write("{lines}\\n")\nsys.exit(2)\n')
    (found,) = asked(config(tmp_path))
    assert (found.code, found.severity.value) == ("BK030", "error")
    assert found.message == f"tune validate: {complaint}"
    assert found.where.path.endswith("finetune.yaml")


def test_an_exception_of_the_config_is_a_finding(tmp_path: Path, tune: Path) -> None:
    lines = (
        'Traceback (most recent call last):\\n  File "/x/omegaconf/base.py", line 1, in f\\n'
        "omegaconf.errors.InterpolationKeyError: Interpolation key 'outdir' not found"
    )
    tune.write_text(f"import sys\nsys.stderr.write({lines!r}.replace('\\\\n', chr(10)))\nsys.exit(1)\n")
    (found,) = asked(config(tmp_path))
    assert "Interpolation key 'outdir' not found" in found.message


@parametrize(
    "answer",
    "raise ImportError('torchao not installed')\n",
    "print('this is another tune')\n",
    "import sys\nsys.exit(3)\n",
)
def test_what_is_no_answer_is_missing(tmp_path: Path, tune: Path, answer: str) -> None:
    """A broken install of torchtune, or another program of that name, says nothing of the config."""
    tune.write_text(answer)
    assert isinstance(validate(VALIDATOR, config(tmp_path)), Missing)


def test_it_is_given_up_after_a_time(tmp_path: Path, tune: Path) -> None:
    tune.write_text("import time\ntime.sleep(30)\n")
    found = validate(VALIDATOR, config(tmp_path), timeout=0.5)
    assert "longer than" in found.missing


def test_components_of_a_stranger_are_never_imported(tmp_path: Path, tune: Path) -> None:
    tune.write_text("raise SystemExit('was started')\n")
    found = validate(VALIDATOR, config(tmp_path, changed(BASE, "torch.optim.AdamW", "shutil.rmtree")))
    assert "would import shutil.rmtree" in found.missing


def test_it_is_missing_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VALIDATOR.python_variable, str(tmp_path / "bin" / "python"))
    assert isinstance(validate(VALIDATOR, config(tmp_path)), Missing)
    monkeypatch.delenv(VALIDATOR.python_variable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_of(VALIDATOR) is None
