"""Planning starts fast, and works where torch is not installed: what the command loads is counted, not timed."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.planning

HEAVY = (
    *("torch", "transformers", "peft", "inspect_ai", "pandas", "scipy", "numpy", "altair", "pydantic", "pyarrow"),
    "jinja2",
)
"""What neither importing the command nor its help may load; each costs a tenth of a second or more."""

FRAMEWORKS = ("torch", "transformers", "peft", "accelerate", "trl", "inspect_ai")
"""What no module outside the trainer and the evaluator may load."""


def _loaded_after(program: str) -> set[str]:
    """Names of top-level modules that a fresh interpreter holds after a program."""
    code = f"{program}\nimport sys\nprint('LOADED', *sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("LOADED ")
    return set(last.split()[1:])


def test_the_probe_sees_what_is_loaded() -> None:
    """Without this, a probe that always answers `nothing` would pass the tests below."""
    assert "numpy" in _loaded_after("import numpy")


COMMAND = """\
import sys
sys.argv = ['touchline', *{arguments!r}]
from touchline.cli.main import main
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
"""


@pytest.mark.parametrize(
    "program", ["import touchline.cli.main", COMMAND.format(arguments=["--help"])], ids=["import", "--help"]
)
def test_the_command_and_its_help_load_nothing_heavy(program: str) -> None:
    """Help is for people who wait for it, and for login nodes without torch."""
    assert sorted(_loaded_after(program) & set(HEAVY)) == []


@pytest.mark.parametrize("command", ["plan", "models"])
def test_help_of_a_command_loads_only_what_typer_needs_for_its_options(command: str) -> None:
    """Typer itself checks options with pydantic; nothing of ours comes on top."""
    assert sorted(_loaded_after(COMMAND.format(arguments=[command, "--help"])) & set(HEAVY) - {"pydantic"}) == []


@pytest.mark.parametrize("program", ["import touchline", "from touchline import *"])
def test_importing_the_package_loads_nothing_heavy(program: str) -> None:
    """A notebook that only wants to read results waits for neither tables nor frameworks."""
    assert sorted(_loaded_after(program) & {*FRAMEWORKS, "pandas", "scipy", "altair", "pyarrow"}) == []


def test_the_verbs_load_no_framework() -> None:
    """`touchline.api` reaches every package but the trainer and the evaluator; none of them loads a framework."""
    assert sorted(_loaded_after("import touchline.api") & set(FRAMEWORKS)) == []
