"""`touchline selftest`: checks of what this node computes, holds and how fast it is."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.output import print_object, print_output, print_status

if TYPE_CHECKING:
    from touchline.core.quantity import Measured
    from touchline.history.selftest import NodeCheck, SelftestReport

COLUMNS = 80
_VERDICT_COLUMNS = 14
_NAME_COLUMNS = 24
NOTES = (
    "MFU counts 4 FLOPs per parameter and token, 2/3 of the usual 6, because LoRA",
    "computes no gradient of the base's weights. Memory in brackets: the estimate.",
)


def selftest(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes: under ten minutes on a GPU.")] = False,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FOLDER", help="Measure this model instead of random public shapes."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Prove this machine: correct steps, memory, speed."""
    from touchline import api
    from touchline.cli.progress import ProgressDisplay
    from touchline.data.user_config import load_settings
    from touchline.history.selftest import SelftestReport

    with ProgressDisplay() as bars:
        report = api.selftest(load_settings(), quick=quick, model=model, on_progress=bars.update)
    if json:
        print_object(SelftestReport, report)
    else:
        show_report(report)
    if report.failed:
        raise typer.Exit(1)


def show_report(report: SelftestReport) -> None:
    """Print a line per check, by section, and a summary."""
    from touchline.core.quantity import Missing
    from touchline.core.units import format_seconds, plural
    from touchline.history.selftest import Section, Verdict

    print_output(f"touchline {report.touchline_version} on {report.machine}")
    for section in Section:
        checks = [check for check in report.checks if check.section is section]
        print_output(f"\n{section.value.capitalize()}")
        for check in checks:
            print_output(_line(check))
        figures = [(name, value) for check in checks for name, value in check.figures.items()]
        for name, reason in dict.fromkeys((name, each.missing) for name, each in figures if isinstance(each, Missing)):
            print_output(f"{name} n/a: {reason}")
    print_output("\n" + "\n".join(NOTES))
    counts = {verdict: sum(check.verdict is verdict for check in report.checks) for verdict in Verdict}
    words = [f"{number} {verdict.value}" for verdict, number in counts.items()]
    print_output(f"{plural(len(report.checks), 'check')}: {', '.join(words)}; {format_seconds(report.seconds)}")
    print_status("memory and speed are in the history; plans for this machine are based on them")


def _line(check: NodeCheck) -> str:
    """Return a check within 80 columns: verdict, name, figures or reason."""
    words = [_figure(name, value, check.estimates.get(name)) for name, value in check.figures.items()]
    words += [check.message] if check.message else []
    words += [check.reason.missing] if check.reason is not None else []
    head = f"{check.verdict.value.ljust(_VERDICT_COLUMNS)}{check.name.ljust(_NAME_COLUMNS)} "
    return textwrap.fill(
        ", ".join(words), COLUMNS, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )


def _figure(name: str, value: Measured, estimated: Measured | None) -> str:
    """Return a figure with its estimate: `process 1.31 GiB (1.02 to 1.6)`."""
    from touchline.core.quantity import Missing

    if isinstance(value, Missing):
        return f"{name} n/a"
    text = f"{value.value:,.0f}" if value.value >= 1000 else f"{value.value:.3g}"
    text += "" if value.unit == "1" else f" {value.unit}"
    if estimated is not None and not isinstance(estimated, Missing):
        known = estimated.low is not None and estimated.high is not None
        text += f" ({estimated.low:.3g} to {estimated.high:.3g})" if known else f" ({estimated.value:.3g})"
    # Rates say what they are by their unit.
    return text if value.unit.endswith("/s") and name == "speed" else f"{name} {text}"
