"""Command classes: groups in the help, and old names of options and commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

from touchline.core.near import refuse_removed_words

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

EXPERIMENT = "Experiment"
RESULTS = "Results"
CLUSTER = "Cluster"
DATA_AND_MODELS = "Data and models"
ESTIMATES = "Estimates"
AGENTS = "Agents"
GROUPS = (EXPERIMENT, RESULTS, CLUSTER, DATA_AND_MODELS, ESTIMATES, AGENTS)
"""Groups in the order of the help."""
SUMMARY_CHARACTERS = 60
"""Length of the longest summary, so that none is cut at 80 columns."""


class GroupedCommands(TyperGroup):
    """Group whose help lists its commands under the headings of `GROUPS`, each in the order of its registration."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse the words of a command line; refuse what was removed by its name."""
        refuse_removed_words(args)
        return list(super().parse_args(ctx, args))

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


def with_old_names(names: Mapping[str, str], panels: Mapping[str, str] | None = None) -> type[TyperCommand]:
    """Return a command class that accepts old option names and shows its options in panels.

    Args:
        names: old name -> new name, both with their dashes.
        panels: heading -> names of parameters; the others stand under `Options`.
    """

    class Renamed(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, [_renamed(argument, names) for argument in args])

        def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
            if not panels:
                super().format_options(ctx, formatter)
                return
            headings = {name: heading for heading, inside in panels.items() for name in inside.split()}
            rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Arguments", *panels, "Options")}
            for each in self.get_params(ctx):
                if record := each.get_help_record(ctx):
                    heading = "Arguments" if each.param_type_name == "argument" else "Options"
                    rows[headings.get(each.name or "", heading)].append(record)
            for heading, records in rows.items():
                if records:
                    with formatter.section(heading):
                        formatter.write_dl(records)

    return Renamed


def with_old_commands(names: Mapping[str, str], group: type[TyperGroup] = TyperGroup) -> type[TyperGroup]:
    """Return a group class that accepts old command names."""

    class RenamedGroup(group):  # type: ignore[misc, valid-type]
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return list(super().parse_args(ctx, [*(names.get(name, name) for name in args[:1]), *args[1:]]))

    return RenamedGroup


def _renamed(argument: str, names: Mapping[str, str]) -> str:
    name, equals, value = argument.partition("=")
    return f"{names[name]}{equals}{value}" if name in names else argument
