"""`touchline selftest`: checks of what this node computes."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.output import print_object, print_output

if TYPE_CHECKING:
    from touchline.core.quantity import Measured
    from touchline.history.selftest import NodeCheck, SelftestReport

COLUMNS = 80
_VERDICT_COLUMNS = 14
_NAME_COLUMNS = 24


def selftest(json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False) -> None:
    """Verify training, memory and speed on this machine."""
    from touchline import api
    from touchline.cli.progress import ProgressDisplay
    from touchline.history.selftest import SelftestReport

    with ProgressDisplay() as bars:
        report = api.selftest(on_progress=bars.update)
    if json:
        print_object(SelftestReport, report)
    else:
        show_report(report)
    if report.failed:
        raise typer.Exit(1)


def show_report(report: SelftestReport) -> None:
    """Print a line per check, and a summary."""
    from touchline.core.units import format_seconds, plural
    from touchline.history.selftest import Verdict

    print_output(f"touchline {report.touchline_version} on {report.machine}\n")
    for check in report.checks:
        print_output(_line(check))
    counts = {verdict: sum(check.verdict is verdict for check in report.checks) for verdict in Verdict}
    words = [f"{number} {verdict.value}" for verdict, number in counts.items()]
    print_output(f"\n{plural(len(report.checks), 'check')}: {', '.join(words)}; {format_seconds(report.seconds)}")


def _line(check: NodeCheck) -> str:
    """Return a check within 80 columns: verdict, name, figures or reason."""
    words = [_figure(name, value) for name, value in check.figures.items()]
    words += [check.message] if check.message else []
    words += [check.reason.missing] if check.reason is not None else []
    head = f"{check.verdict.value.ljust(_VERDICT_COLUMNS)}{check.name.ljust(_NAME_COLUMNS)} "
    return textwrap.fill(
        ", ".join(words), COLUMNS, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )


def _figure(name: str, value: Measured) -> str:
    """Return a figure: `loss 1.31 nats`."""
    from touchline.core.quantity import Missing

    if isinstance(value, Missing):
        return f"{name} n/a"
    text = f"{value.value:,.0f}" if value.value >= 1000 else f"{value.value:.3g}"
    return f"{name} {text}" + ("" if value.unit == "1" else f" {value.unit}")
