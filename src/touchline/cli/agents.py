"""`touchline skill` and `touchline mcp`: skills for coding agents, and a server of tools that they call."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from touchline.cli.commands import Source, api
from touchline.cli.output import confirm, print_output, print_status, print_table
from touchline.core.errors import PolicyError, quoted
from touchline.core.files import disk_errors, read_text_bounded, write_if_changed
from touchline.core.units import measured, plural
from touchline.data.user_config import load_settings

SKILL_FILE = "SKILL.md"
DEFAULT_FOLDER = Path(".agents/skills")
"""Folder that most coding agents read, from a project's root."""
_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Skill:
    """Skill of a coding agent."""

    name: str
    description: str
    """When an agent uses it."""
    text: str


def skills() -> tuple[Skill, ...]:
    """Return all skills, in alphabetical order."""
    folder = resources.files("touchline.agent") / "skills"
    names = sorted(each.name for each in folder.iterdir() if (each / SKILL_FILE).is_file())
    return tuple(_parse((folder / name / SKILL_FILE).read_text(encoding="utf-8")) for name in names)


def _parse(text: str) -> Skill:
    head = text.split("---\n", 2)[1]
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    return Skill(name=fields["name"], description=fields["description"], text=text)


def install_skills(folder: Path, *, force: bool = False) -> dict[Path, bool]:
    """Write every skill into a folder of its own. Return the files, and whether each was written.

    Args:
        folder: folder that a coding agent reads its skills from.
        force: whether to replace files with other content.

    Raises:
        PolicyError: a file has other content and `force` is not set; nothing is written.
    """
    files = {folder / skill.name / SKILL_FILE: skill.text for skill in skills()}
    other = [path for path, text in files.items() if path.exists() and read_text_bounded(path, _LIMIT_BYTES) != text]
    if other and not force:
        raise PolicyError(
            f"{', '.join(map(str, other))}: other content than this version writes",
            expected="no such file, or one of this version",
            hint=f"touchline skill install --dir {quoted(str(folder))} --force",
        )
    with disk_errors("folder", folder):
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        return {path: write_if_changed(path, text) for path, text in files.items()}


skill_app = typer.Typer(help="Install skills for coding agents.", no_args_is_help=True, rich_markup_mode=None)


@skill_app.command("install")
def skill_install(
    folder: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Folder of the agent's skills (default: .agents/skills)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that were edited.")] = False,
) -> None:
    """Write touchline's skills for a coding agent."""
    written = install_skills(folder or DEFAULT_FOLDER, force=force)
    for path in written:
        print_output(str(path))
    print_status(f"{sum(written.values())} of {len(written)} files written. The others are current.")


@skill_app.command("list")
def skill_list() -> None:
    """List the skills."""
    print_table(("skill", "description"), [(skill.name, skill.description.partition(". ")[0]) for skill in skills()])


mcp_app = typer.Typer(
    help="Serve tools to a coding agent; approve what it may run.", invoke_without_command=True, rich_markup_mode=None
)


@mcp_app.callback()
def mcp(context: typer.Context) -> None:
    """Serve tools to a coding agent over stdin and stdout, by the Model Context Protocol.

    Looking is open. An agent runs only plans that you approved, within the hours that you gave.
    """
    if context.invoked_subcommand is None:
        from touchline.agent.server import serve

        serve()


@mcp_app.command("approve")
def mcp_approve(
    source: Source,
    hours: Annotated[
        float,
        typer.Option("--gpu-hours", metavar="HOURS", help="Budget in hours of GPUs, or of the CPU where it trains."),
    ],
) -> None:
    """Approve a plan and its hours for an agent.

    Plans the experiment, shows the totals and asks. It needs a terminal.
    """
    from touchline.api.planning import plan_to_run
    from touchline.experiment.recorded import override_lines

    if not sys.stdin.isatty():
        raise PolicyError(
            "an approval is typed by the user",
            expected="a terminal as stdin",
            hint=f"in a terminal: touchline mcp approve {quoted(str(source))} --gpu-hours {hours:g}",
        )
    planned = plan_to_run(source, load_settings())
    plan = planned.plan
    for line in (*override_lines(plan), *planned.changes):
        print_output(line)
    print_output(f"{plan.experiment}: {plural(len(plan.runs), 'run')} on {plan.machine.name} ({plan.executor})")
    for path, sha256 in plan.code_files(plan.runs).items():
        print_output(f"runs the code of {path} (sha256 {sha256[:8]})")
    print_output(f"predicted: {measured(plan.gpu_hours)} of devices, {measured(plan.wall_seconds)} from start to end")
    confirm(f"May an agent run it, for at most {hours:g} device-hours?")
    api.approve(source, hours)
    print_status(f"approved: {hours:g} device-hours. A changed plan needs a new approval.")
