"""`touchline submit` in a terminal shows what it would submit and asks; elsewhere, and with --yes, it does not."""

import re
from pathlib import Path

import pexpect
import pytest
from tests.api.folders import command, touchline, words_experiment
from tests.cases import python_program

pytestmark = pytest.mark.slow

TEXT = """\
name: tiny
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: words.json}
train: {epochs: 1, global_batch_size: 8, learning_rate: 1e-2, max_seq_len: 128, base_dtype: float32}
factors: {train.lora.rank: [2, 4]}
controls: [base]
compute: {executor: slurm, gpu: cpu, time_limit: 30min}
"""
NOTHING_QUEUED = """
import sys
from pathlib import Path
from tests.run.slurm_bench import simulated
from tests.slurm.fake_jobs import SimClock

words = [Path(sys.argv[0]).name, *sys.argv[1:]]
sys.stdout.write(simulated(SimClock()).run(words, timeout_seconds=1).out)
"""
ASKED = re.compile(
    r"5 jobs: 2 trainings, 3 evaluations\s+"
    r"predicted: .*\d.* of devices\s+"
    r"by their time limits, at most: [\d.:]+.* of devices\s+"
    r"Submit\? \[y/N\]: "
)


@pytest.mark.parametrize(
    ("options", "is_terminal", "answer", "submitted", "code"),
    [
        ((), True, "n", 0, 130),
        ((), True, "y", 5, 0),
        (("--yes",), True, None, 5, 0),
        ((), False, None, 5, 0),
    ],
    ids=["no", "yes", "--yes", "no-terminal"],
)
def test_submit_asks_in_a_terminal_alone(
    options: tuple[str, ...],
    is_terminal: bool,
    answer: str | None,
    submitted: int,
    code: int,
    tmp_path: Path,
    tiny_model: Path,
) -> None:
    folder, environment = words_experiment(tmp_path, tiny_model, TEXT, n_train=40)
    programs, log = tmp_path / "bin", tmp_path / "sbatch.log"
    programs.mkdir()
    (programs / "sbatch").write_text(f'#!/bin/sh\n[ "$1" = --test-only ] || {{ echo x >> {log}; wc -l < {log}; }}\n')
    for name in ("squeue", "sacct"):
        python_program(programs / name, NOTHING_QUEUED)
    for program in programs.iterdir():
        program.chmod(0o755)
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    assert touchline("plan", str(folder), env=environment).returncode == 0
    words = ("submit", str(folder), *options)
    if is_terminal:
        program, *arguments = command(*words)
        terminal = pexpect.spawn(program, arguments, env=environment, timeout=120, encoding="utf-8")  # type: ignore[arg-type]
        if answer is not None:
            terminal.expect(ASKED)
            assert not log.exists()
            terminal.sendline(answer)
        terminal.expect(pexpect.EOF)
        said = str(terminal.before)
        terminal.close()
        assert terminal.exitstatus == code, said
        assert "Submit?" not in said
    else:
        assert touchline(*words, env=environment).returncode == code
    assert (len(log.read_text().splitlines()) if log.exists() else 0) == submitted
