"""`touchline --help` at 80 columns: five groups, every command in one of them, every summary whole."""

import re

import pytest
from typer import Context
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from touchline import __version__
from touchline.cli.commands import GROUPS, SUMMARY_CHARACTERS
from touchline.cli.estimates import ESTIMATE_PANELS
from touchline.cli.main import app
from touchline.cli.main import main as run_main
from touchline.cli.writing import INIT_PANELS

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
