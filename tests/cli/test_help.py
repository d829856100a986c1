"""Help, completion, and names that were removed or renamed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.api.folders import make_experiment
from tests.cases import refusal, some
from typer import Context
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from touchline import __version__, api
from touchline.backends.registry import get_backend
from touchline.cli.commands import GROUPS, SUMMARY_CHARACTERS
from touchline.cli.estimates import ESTIMATE_PANELS
from touchline.cli.main import app, main
from touchline.cli.main import main as run_main
from touchline.cli.writing import INIT_PANELS
from touchline.core.errors import InputError
from touchline.core.near import REMOVED, Removed, RemovedKind, drop_removed, find_removed
from touchline.experiment.read import read_experiment
from touchline.lint.rule import RETIRED

pytestmark = pytest.mark.planning


def _commands(group: TyperGroup, path: str = "touchline") -> list[tuple[str, TyperCommand | TyperGroup]]:
    found: list[tuple[str, TyperCommand | TyperGroup]] = []
    for name, command in group.commands.items():
        found.append((f"{path} {name}", command))
        if isinstance(command, TyperGroup):
            found += _commands(command, f"{path} {name}")
    return found


def _help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["touchline", *words])
    with pytest.raises(SystemExit) as ended:
        run_main()
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_summary_is_one_short_sentence() -> None:
    """A verb first, at most sixty characters, and nothing cut."""
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    seen = _commands(root)
    assert len(seen) > 30
    for name, command in seen:
        summary = command.get_short_help_str(limit=1000)
        assert 0 < len(summary) <= SUMMARY_CHARACTERS, (name, summary)
        assert re.match(r"[A-Z][a-z]+,? .*\.$", summary), (name, summary)
        assert not re.match(r"(What|How|Whether|The) ", summary), (name, summary)


def test_help_lists_every_command_once_under_one_of_five_headings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the groups, within 80 columns."""
    text = _help(monkeypatch, capsys, "--help")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "..." not in text.replace("[ARGS]...", "")
    headings = [line.removesuffix(":") for line in text.splitlines() if line.removesuffix(":") in GROUPS]
    assert headings == list(GROUPS)
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    for group in text.split("\n\n"):
        assert group.count("\n") < 24, "a group fits a screen"
    listed = re.findall(r"^  ([a-z]+) {2,}\S", text, re.MULTILINE)
    assert sorted(listed) == sorted(root.list_commands(Context(root)))


@pytest.mark.parametrize("command", ["estimate", "init"])
def test_many_options_stand_in_panels(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each option once, under a heading; none of the named ones is unknown."""
    text = _help(monkeypatch, capsys, command, "--help")
    panels = ESTIMATE_PANELS if command == "estimate" else INIT_PANELS
    named = [name for names in panels.values() for name in names.split()]
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    assert set(named) <= {each.name for each in root.commands[command].params}
    assert len(named) == len(set(named))
    assert all(f"{heading}:" in text for heading in (*panels, "Options"))


@pytest.mark.parametrize("words", [("--version",), ("--version", "plan")])
def test_the_version_is_one_line(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _help(monkeypatch, capsys, *words) == f"touchline {__version__}\n"


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        (("evaluate",), "--epoch=last", "--epochs"),
        (("clean",), "--perform", "--delete"),
        (("check",), "--cpus=4", "--cpus-per-job"),
        (("optimize",), "--memory-gb=4", "--node-memory-gib"),
        (("place", "--gpus=1"), "--emit=mega", "--write-scripts"),
        (("history", "read"), "--all", "--show-missing"),
        (("history", "list"), "--all", "--include-superseded"),
        (("history", "add"), "--dry-run", "history import"),
        (("pack", "compare", "--max-seq-len=8"), "--micro-batch=2", "--micro-batch-size"),
        (("pack", "check"), "--json", "pack check-isolation"),
    ],
)
def test_old_names_parse_and_are_not_shown(
    command: tuple[str, ...], old: str, new: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = " ".join(_help(monkeypatch, capsys, *command, old, "--help").split())
    assert new in shown
    if new.startswith("--"):
        assert f"{old.partition('=')[0]} " not in shown
    else:
        assert f"touchline {' '.join(command)} [" not in shown


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


DOCS = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "migrating.md").read_text(encoding="utf-8")


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    monkeypatch.setattr("sys.argv", ["touchline", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("row", REMOVED, ids=lambda row: f"{row.kind}-{row.name}".replace(" ", "-"))
def test_a_removed_thing_is_refused_by_its_name(
    row: Removed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"`{row.name}`" in DOCS
    folder = make_experiment(tmp_path / "tiny")
    match row.kind:
        case RemovedKind.COMMAND | RemovedKind.OPTION | RemovedKind.ADAPTER:
            words = [*row.typed, "x"]
        case RemovedKind.KEY:
            words = ["plan", str(folder), f"{row.name}=1"]
        case RemovedKind.EXPORT_TARGET:
            words = ["export", str(folder), "--to", row.name]
            monkeypatch.setattr("touchline.api.outcomes.read_started", lambda source: _planned(folder))
        case RemovedKind.TRAINER:
            with pytest.raises(InputError, match=str(row)):
                get_backend(row.name)
            return
        case _:
            assert find_removed(row.kind, row.name) == row
            return
    code, said = typed(monkeypatch, capsys, *words)
    assert code == 2
    assert str(row) in said


def _planned(folder: Path) -> object:
    from types import SimpleNamespace

    return SimpleNamespace(plan=SimpleNamespace(runs=()))


def test_a_removed_key_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    """In the file, below the key, and as an override; each with its line."""
    text = (make_experiment(tmp_path) / "experiment.yaml").read_text()
    row = find_removed(RemovedKind.KEY, "evaluate.general")
    assert row is not None
    assert find_removed(RemovedKind.KEY, "evaluate.general.tasks") == row
    assert find_removed(RemovedKind.KEY, "evaluate.generally") is None
    written = text.replace("max_new_tokens: 12}", "max_new_tokens: 12, general: {tasks: [a]}}")
    for source, overrides in ((written, ()), (text, ("evaluate.general.limit=3",))):
        caught = refusal(read_experiment, source, "experiment.yaml", overrides)
        assert [finding.message for finding in caught.findings] == [str(row)]
    settings = {"evaluate": {"general": {"tasks": ["a"]}, "samples": 3}}
    assert drop_removed(settings) == (row,)
    assert settings == {"evaluate": {"samples": 3}}
    assert drop_removed({"evaluate": {"general": None}}) == ()


def test_a_removed_code_is_accepted_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_experiment(tmp_path) / "data" / "words.json"
    for option in ("--allow", "--select", "--ignore"):
        code, said = typed(monkeypatch, capsys, "check", str(data), option, min(RETIRED))
        assert code == 0
        assert f"note: {min(RETIRED)} was removed after 0.1.0" in said


def test_a_removed_code_of_the_file_is_a_note_of_its_check(tmp_path: Path) -> None:
    from touchline.data.user_config import UserConfig

    folder = make_experiment(tmp_path / "tiny")
    with (folder / "experiment.yaml").open("a") as stream:
        stream.write(f"allow: [{min(RETIRED)}]\n")
    settings = UserConfig(models_dir=tmp_path, cache_dir=tmp_path / "cache", history_dir=tmp_path / "history")
    found = api.check([folder], settings)[1]
    assert [str(each.severity) for each in found if "was removed after 0.1.0" in each.message] == ["info"]
