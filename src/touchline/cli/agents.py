"""`touchline skill`: skills for coding agents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from touchline.cli.output import print_output, print_status, print_table

skill_app = typer.Typer(help="Install skills for coding agents.", no_args_is_help=True, rich_markup_mode=None)


@skill_app.command("install")
def skill_install(
    folder: Annotated[
        Optional[Path],  # noqa: UP045 (typer reads the annotation when the command is built)
        typer.Option("--dir", metavar="DIR", help="Folder of the agent's skills (default: .agents/skills)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that were edited.")] = False,
) -> None:
    """Write touchline's skills for a coding agent."""
    from touchline.agent.skill_files import DEFAULT_FOLDER, install_skills

    written = install_skills(folder or DEFAULT_FOLDER, force=force)
    for path in written:
        print_output(str(path))
    print_status(f"{sum(written.values())} of {len(written)} files written; the others are current")


@skill_app.command("list")
def skill_list() -> None:
    """List the skills and when an agent uses each."""
    from touchline.agent.skill_files import skills

    print_table(("skill", "description"), [(skill.name, skill.description) for skill in skills()])
