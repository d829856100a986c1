"""What the documents tell a reader to type works: it is run, or, where it takes long, its words are checked.

A fenced `console` block holds lines that begin with `$ ` and, below each, what it may print; lines of the plan's lists,
which begin with `- `, are printed as they stand, up to ` ...`. The blocks of a page run
in their order, in one shell, in a fresh folder with `examples/` and a tiny model under the name of the real one; a page
that names a Llama gets one of its true shape, without weights. A block after `<!-- slow -->` is not run: only its
commands, options and make targets must exist.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.api.seed_folders import BASES, HEAD_DIM, write_shape
from tests.cases import some
from tests.trainer_environments import require_trainer

from tools import docs
from tools.tiny_model import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<slow><!-- slow -->\s*)?^(?P<fence>```+)console\n(?P<body>.*?)^(?P=fence)$", re.DOTALL | re.MULTILINE
)
OTHER_PROGRAMS = frozenset(
    {"bash", "cat", "cd", "cp", "git", "head", "inspect", "ls", "pip", "python", "python3", "sbatch", "source", "srun"}
)
"""Programs that slow blocks may name besides touchline and make."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    page: Path
    """The document."""
    line: int
    """Where it stands in it."""
    text: str
    """The line without its prompt; a line that ends in a backslash goes on."""
    slow: bool
    """Whether it is only checked, not run."""


def commands_of(page: Path, text: str) -> list[Command]:
    found: list[Command] = []
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start("body")) + 1
        pending = ""
        for offset, line in enumerate(block["body"].splitlines()):
            if not pending and not line.startswith("$ "):
                continue
            pending += line.removeprefix("$ ") if not pending else line.removeprefix("> ")
            if pending.endswith("\\"):
                pending = pending[:-1]
                continue
            found.append(Command(page=page, line=first + offset, text=pending, slow=block["slow"] is not None))
            pending = ""
    return found


def shown_lines(text: str) -> list[str]:
    """The lines of lists that a document shows as printed, by blocks that are run."""
    blocks = [block["body"] for block in BLOCK.finditer(text) if block["slow"] is None]
    return [line.removesuffix(" ...") for body in blocks for line in body.splitlines() if line.startswith("- ")]


def _all() -> list[Command]:
    return [command for page in PAGES for command in commands_of(page, page.read_text(encoding="utf-8"))]


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def wrong_words(text: str) -> list[str]:
    """Words of a command line that name no command, option or make target."""
    words = shlex.split(text, comments=True)
    if not words:
        return []
    if words[0] == "make":
        return [word for word in words[1:] if "=" not in word and word not in _make_targets()]
    if words[0] != "touchline":
        return [] if words[0] in OTHER_PROGRAMS else [words[0]]
    known = dict(docs.commands())
    path: tuple[str, ...] = ()
    rest = words[1:]
    while rest and (*path, rest[0]) in known:
        path, rest = (*path, rest[0]), rest[1:]
    default = getattr(known[path], "default", None)
    if default is not None and rest and rest[0] not in ("-h", "--help"):
        path = (*path, default)
    if getattr(known[path], "commands", None) and rest and not rest[0].startswith("-"):
        return [rest[0]]
    options = {"--help", "-h"} | {option for parameter in known[path].params for option in parameter.opts}
    return [word for word in rest if word.startswith("-") and word.partition("=")[0] not in options]


def test_every_word_of_a_command_exists(subtests: pytest.Subtests) -> None:
    """Commands and options that were renamed are found, also in blocks that are too slow to run."""
    for command in some(_all()):
        with subtests.test(f"{command.page.relative_to(ROOT)}:{command.line}"):
            assert wrong_words(command.text) == []


def _pages_to_run() -> list[Path]:
    return sorted({command.page for command in _all() if not command.slow})


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, id=str(page.relative_to(ROOT)), marks=() if page.name == "README.md" else pytest.mark.thorough
        )
        for page in _pages_to_run()
    ],
)
def test_the_commands_of_a_page_work_in_their_order(page: Path, tmp_path: Path) -> None:
    """A reader who types them one after the other gets no error."""
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    shutil.copytree(ROOT / "examples", work / "examples")
    write_tiny_model(work / "models" / "SmolLM2-135M-Instruct")
    text = page.read_text(encoding="utf-8")
    typed = [command for command in commands_of(page, text) if not command.slow]
    if any("Llama-3.2-1B" in command.text for command in typed):
        write_shape(work / "models", BASES["1B"], HEAD_DIM["1B"])
    lines = ["set -eu"]
    for command in typed:
        lines += [f"echo {shlex.quote(f'{page.name}:{command.line}: {command.text}')} >&2", command.text]
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath, "/usr/local/bin"]),
        "HOME": str(home),
        "TOUCHLINE_MODELS_DIR": str(work / "models"),
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }
    if any("--trainer torchtune" in command.text for command in typed):
        environment["TOUCHLINE_TORCHTUNE_PYTHON"] = require_trainer("torchtune")
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert [line for line in shown_lines(text) if line not in done.stdout] == []


def test_the_readme_tells_the_way_to_the_first_report() -> None:
    """The first thing that a new user types stands in the README."""
    texts = {command.text for command in _all() if command.page.name == "README.md"}
    assert "make demo" in texts
    assert any(text.startswith("touchline plan") for text in texts)


def test_blocks_are_read_as_they_are_written() -> None:
    """Marks, prompts and continued lines; output and other fences are no commands."""
    page = Path("a.md")
    text = (
        "# A\n\n<!-- slow -->\n```console\n$ make demo\nreport: x\n```\n\n```console\n$ touchline plan \\\n>   a.yaml\n"
        "$ ls\n```\n\n```yaml\n$ not: this\n```\n"
    )
    found = [(command.line, command.text, command.slow) for command in commands_of(page, text)]
    assert found == [(5, "make demo", True), (11, "touchline plan   a.yaml", False), (12, "ls", False)]


@pytest.mark.parametrize(
    "text", ["make no-such-target", "touchline no-such-command", "touchline plan --no-such-option", "no-such-program a"]
)
def test_wrong_words_are_found(text: str) -> None:
    """A checker that finds nothing would pass everything."""
    assert wrong_words(text) != []
