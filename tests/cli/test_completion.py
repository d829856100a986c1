"""Shell completion: commands, options and run names, with nothing that takes time to import."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cases import some

pytestmark = pytest.mark.planning

HEAVY = (
    "numpy",
    "scipy",
    "ruamel",
    "jinja2",
    "tokenizers",
    "torch",
    "touchline.api",
    "touchline.plan",
    "touchline.lint",
)
"""What no key press waits for. Pydantic is not among them: typer reads arguments with it."""
COMPLETE = f"""
import atexit, sys
atexit.register(lambda: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr))
from touchline.cli.main import main
sys.argv[0] = 'touchline'
main()
"""


def _complete(folder: Path, *words: str) -> list[str]:
    """The completions of the last word, as bash asks for them."""
    environment = os.environ | {
        "_TOUCHLINE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("touchline", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"
    return done.stdout.split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "plan.json").write_text(json.dumps({"runs": [{"name": "1M_rank4"}, {"name": "1M_rank8"}]}))
    return tmp_path


def test_commands_options_and_runs_are_completed(folder: Path) -> None:
    assert _complete(folder, "subm") == ["submit"]
    assert {"--run", "--retry"} <= {*_complete(folder, "submit", "exp", "--")}
    for source in some(("exp", "exp/experiment.yaml")):
        assert _complete(folder, "submit", source, "--run", "1M_rank") == ["1M_rank4", "1M_rank8"]
    assert _complete(folder, "logs", "exp", "--run", "1M_rank8") == ["1M_rank8"]


@pytest.mark.slow
def test_without_a_plan_nothing_is_offered(folder: Path) -> None:
    """Nor is anything said: a shell would show it in the middle of the line."""
    for text in some(("", "[]", "{", '{"runs": 1}', '{"runs": [3]}')):
        (folder / "exp" / "plan.json").write_text(text)
        assert _complete(folder, "submit", "exp", "--run", "") == []
    assert _complete(folder, "submit", "nowhere", "--run", "") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_takes_the_script(folder: Path) -> None:
    """What --show-completion prints is what --install-completion installs."""
    program = folder / "touchline"
    run = "import sys; sys.argv[0] = 'touchline'; from touchline.cli.main import main; main()"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{run}" "$@"\n')
    program.chmod(0o755)
    script = """
        set -e
        eval "$(touchline --show-completion bash)"
        COMP_WORDS=(touchline submit exp --run 1M_rank8); COMP_CWORD=4
        _touchline_completion touchline
        echo "${COMPREPLY[@]}"
    """
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("1M_rank8\n", "")
