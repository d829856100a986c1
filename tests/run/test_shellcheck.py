"""Shell grammar of scripts: what ShellCheck reports, and what is left where it is not installed."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from touchline import api
from touchline.backends.registry import launch_commands
from touchline.core.finding import Severity
from touchline.data.user_config import UserConfig
from touchline.lint.checked import CheckRequest
from touchline.lint.local import checking
from touchline.lint.local.shellcheck import NOT_CHECKED, find_shellcheck, shell_findings
from touchline.slurm.script import read_script

pytestmark = pytest.mark.planning
JOB = "#!/bin/bash\n#SBATCH --time=01:00:00\n"
FAULTS = {
    "no interpreter": ("#SBATCH --time=01:00:00\nhostname\n", 2148),
    "Windows line ends": ((JOB + "hostname\n").replace("\n", "\r\n"), 1017),
    "spaces around =": (JOB + "HF_HUB_OFFLINE = 1\n", 2283),
    "broken continuation": (JOB + "python train.py \\ \n  --lr 1e-4\n", 1101),
    "open quote": (JOB + 'python train.py --out "a\n', 1073),
}


def fake_shellcheck(folder: Path, comments: list[dict[str, object]]) -> str:
    """Write a program that answers as ShellCheck does."""
    program = folder / "shellcheck"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{json.dumps({'comments': comments})}\nE\nexit 1\n")
    program.chmod(0o755)
    return str(program)


def test_levels_become_severities_and_a_code_is_reported_once(tmp_path: Path) -> None:
    def comment(code: int, level: str, line: int = 3) -> dict[str, object]:
        return {"code": code, "level": level, "line": line, "column": 1, "message": f"text of {code}"}

    comments = [comment(1101, "error"), comment(1101, "error", 9), comment(2068, "error"), comment(2164, "warning")]
    comments.append(comment(2148, "error", 1))
    findings = list(
        shell_findings(
            read_script(JOB + "hostname\n", "job.slurm", launch_commands()), fake_shellcheck(tmp_path, comments)
        )
    )
    assert {each.subject: each.severity for each in findings} == {
        "SC1101": Severity.ERROR,
        "SC2068": Severity.WARNING,
        "SC2164": Severity.INFO,
        "SC2148": Severity.ERROR,
    }
    assert {each.code for each in findings} == {"SL052"}
    assert [each.where and each.where.line for each in findings] == [3, 3, 3, 1]
    assert len(findings) == 4


def test_an_answer_that_is_not_shellchecks_is_no_finding(tmp_path: Path) -> None:
    program = tmp_path / "shellcheck"
    program.write_text("#!/bin/sh\necho broken\nexit 2\n")
    program.chmod(0o755)
    script = read_script(JOB + "hostname\n", "job.slurm", launch_commands())
    assert list(shell_findings(script, str(program))) == []
    assert list(shell_findings(script, str(tmp_path / "gone"))) == []


def test_bash_finds_syntax_errors_where_shellcheck_is_missing() -> None:
    texts = [JOB + 'echo "open\n', JOB + "if true; then\nhostname\n"]
    for text in texts:
        (finding,) = shell_findings(read_script(text, "job.slurm", launch_commands()), None)
        assert (finding.code, finding.severity) == ("SL052", Severity.ERROR)
    for text in (JOB + "hostname\n", JOB + "echo {{ name }} (\n", "#!/usr/bin/env python\nprint(\n"):
        assert list(shell_findings(read_script(text, "job.slurm", launch_commands()), None)) == []


@pytest.mark.skipif(find_shellcheck() is None, reason="ShellCheck is not installed")
def test_the_real_shellcheck_finds_what_our_own_rules_found() -> None:
    shellcheck = find_shellcheck()
    for name, (text, code) in FAULTS.items():
        found = {
            each.subject: each for each in shell_findings(read_script(text, "job.slurm", launch_commands()), shellcheck)
        }
        assert f"SC{code}" in found, (name, found)
        assert found[f"SC{code}"].severity is Severity.ERROR, name


def test_a_check_without_shellcheck_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "find_shellcheck", lambda: None)
    for name in ("a.slurm", "b.slurm"):
        (tmp_path / name).write_text(textwrap.dedent(JOB + "hostname\n"))
    settings = UserConfig(models_dir=tmp_path, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")
    messages: list[str] = []
    api.check([tmp_path], settings, CheckRequest(), messages.append)
    assert messages == [NOT_CHECKED]
