"""Help of `touchline` itself: commands in groups, each with its summary whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

EXPERIMENT = "Experiment"
LOOK = "Look"
CLUSTER = "Cluster"
DATA_AND_MODELS = "Data and models"
EVIDENCE = "Evidence"
GROUPS = (EXPERIMENT, LOOK, CLUSTER, DATA_AND_MODELS, EVIDENCE)
"""Groups in the order of the help."""
SUMMARY_CHARACTERS = 60
"""Length of the longest summary, so that none is cut at 80 columns."""


class GroupedCommands(TyperGroup):
    """Group whose help lists its commands under the headings of `GROUPS`, each in the order of its registration."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write one section per group."""
        width = max(len(name) for name in self.list_commands(ctx))
        for group in GROUPS:
            rows = [
                (name.ljust(width), command.get_short_help_str(limit=200))
                for name in self.list_commands(ctx)
                if (command := self.get_command(ctx, name)) is not None
                and not command.hidden
                and getattr(command, "rich_help_panel", None) == group
            ]
            with formatter.section(group):
                formatter.write_dl(rows)
