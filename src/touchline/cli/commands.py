"""Classes of commands, options that several share, those of a request, and completion of run names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from touchline.core.errors import InputError, TouchlineError
from touchline.core.files import read_bytes
from touchline.core.json_text import parse_json
from touchline.core.near import near_names, refuse_removed_words
from touchline.core.options import Option
from touchline.core.text import has_control
from touchline.core.units import parse_duration, seconds_to_minutes

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

    from touchline import api as api
else:

    class _Verbs:
        """The module `touchline.api`, imported when the first verb is called."""

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("touchline.api"), name)

    api = _Verbs()

_LIMIT_BYTES = 32 << 20
"""Largest plan that a key press waits for."""


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the planned runs of the experiment on the command line that begin with `incomplete`; none without one."""
    # Behind an option that still lacks its value, arguments are not assigned yet.
    words = [ctx.params.get("source"), *(word for word in ctx.args if not word.startswith("-"))]
    source = next((word for word in words if word is not None), None)
    if source is None:
        return []
    path = Path(source).expanduser()
    plan = (path if path.is_dir() else path.parent) / "plan.json"
    try:
        names = [run["name"] for run in parse_json(read_bytes(plan, _LIMIT_BYTES))["runs"]]
    except (TouchlineError, OSError, ValueError, KeyError, TypeError):
        return []  # the command itself reports what is wrong
    return [name for name in names if isinstance(name, str) and name.startswith(incomplete) and not has_control(name)]


Source = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder.")]
SourceOrRun = Annotated[
    Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, its folder, or the folder of one run.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, for example train.epochs=2.")
]
Run = Annotated[str | None, typer.Option("--run", metavar="RUN", autocompletion=complete_run, help="Only this run.")]
Retry = Annotated[bool, typer.Option("--retry", help="Also retry runs that failed twice with the same error.")]
Probe = Annotated[bool, typer.Option("--probe/--no-probe", help="Measure a few steps of unmeasured models first.")]
Deep = Annotated[bool, typer.Option("--deep", help="Read every value of every checkpoint.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and show; write nothing.")]
Input = Annotated[str | None, typer.Option("--input", help="Column of the input.")]
Output = Annotated[str | None, typer.Option("--output", help="Column of the answer.")]
Messages = Annotated[str | None, typer.Option("--messages", help="Column of whole chats.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def parse_parts(text: str | None) -> tuple[str, ...] | None:
    """Return the parts between commas."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def parse_deadline(text: str | None) -> float | None:
    """Return the minutes of a duration such as `6h`.

    Raises:
        InputError: it is no duration.
    """
    return None if text is None else seconds_to_minutes(parse_duration(text))


def is_given(text: Literal["mega"] | None) -> bool:
    """Return True if a form of script is named."""
    return text is not None


def stated_pairs(texts: list[str] | None) -> dict[str, str]:
    """Return facts by key from `KEY=VALUE` texts.

    Raises:
        InputError: a text has no `=`.
    """
    from touchline.history.run_facts import FACTS

    if wrong := [text for text in texts or () if "=" not in text]:
        raise InputError(
            f"{', '.join(map(repr, wrong))}: not KEY=VALUE",
            expected=f"facts such as micro_batch_size=4; known: {', '.join(FACTS)}",
        )
    pairs = (text.partition("=") for text in texts or ())
    return {key.strip().replace("-", "_"): value.strip() for key, _, value in pairs}


def parse_codes(given: list[str] | None) -> tuple[str, ...]:
    """Return codes from repeated options and comma-separated lists.

    Raises:
        InputError: no code begins like that; with those that come near.
    """
    from touchline.lint.rule import all_codes, is_known

    codes = tuple(code.strip().upper() for text in given or () for code in text.split(",") if code.strip())
    for code in codes:
        if not is_known(code):
            near = near_names(code, all_codes(), most=3, cutoff=0.4)
            raise InputError(f"unknown code {code!r}", hint=f"did you mean {', '.join(near)}?" if near else None)
    return codes


def with_request(
    request: type, leave_out: tuple[str, ...] = (), **parse: Callable[[Any], Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the fields of a request the options of a command, in the place of its parameter `request`.

    Args:
        request: dataclass whose fields are annotated with `Option`, or are such dataclasses.
        leave_out: fields that keep their default. A parameter of the command with a field's name fills the field.
        parse: makes a field from what was typed: its first parameter has the type of the command line.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        taken = {*own, *leave_out}
        parameters = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in own.items()
            for each in (_parameters(request, taken, parse) if name == "request" else [parameter])
        ]

        @wraps(command)
        def call(**given: Any) -> None:
            kept = {name: given[name] for name in own if name != "request"}
            command(request=_made(request, given, parse), **kept)

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return call

    return decorate


def _made(request: type, given: Mapping[str, Any], parse: Mapping[str, Callable[[Any], Any]]) -> Any:
    values = {}
    for name, hint in get_type_hints(request, include_extras=True).items():
        if is_dataclass(hint):
            values[name] = _made(hint, given, parse)  # type: ignore[arg-type]
        elif name in given:
            typed = given[name]
            if get_origin(get_args(hint)[0]) is tuple and name not in parse:
                typed = tuple(typed or ())
            values[name] = parse[name](typed) if name in parse else typed
    return request(**values)


def _parameters(
    request: type, taken: set[str], parse: Mapping[str, Callable[[Any], Any]], defaults: object = None
) -> Iterator[inspect.Parameter]:
    """Yield the options of a request; `defaults` is the default of the field that holds it, if there is one."""
    hints = get_type_hints(request, include_extras=True)
    for each in fields(request):
        hint = hints[each.name]
        default = getattr(defaults, each.name, each.default)
        if is_dataclass(hint):
            yield from _parameters(hint, taken, parse, default)  # type: ignore[arg-type]
        elif each.name not in taken:
            kind, option = get_args(hint)
            if each.name in parse:
                kind, default = next(iter(get_type_hints(parse[each.name]).values())), None
            elif get_origin(kind) is tuple:
                kind, default = list[get_args(kind)[0]] | None, None  # type: ignore[misc]
            yield inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is MISSING else default,
                annotation=Annotated[kind, _typed(each.name, option)],
            )


def old_names(request: type) -> dict[str, str]:
    """Return the former names of a request's options -> their names."""
    found: dict[str, str] = {}
    for name, hint in get_type_hints(request, include_extras=True).items():
        if is_dataclass(hint):
            found |= old_names(hint)  # type: ignore[arg-type]
        elif (option := get_args(hint)[-1]).old is not None:
            found[option.old] = _flag(name, option)
    return found


def _flag(name: str, option: Option) -> str:
    return option.flag or f"--{name.replace('_', '-')}"


def _typed(name: str, option: Option) -> Any:
    if option.is_argument:
        return typer.Argument(metavar=option.metavar, help=option.help)
    return typer.Option(_flag(name, option), metavar=option.metavar, min=option.min, max=option.max, help=option.help)


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
