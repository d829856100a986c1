"""`touchline check`: errors in experiments, configs, job scripts and data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.output import print_data, print_object, print_output, print_status, print_table
from touchline.core.errors import finding_lines
from touchline.core.near import near_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from touchline.core.finding import Finding
    from touchline.lint.check import CheckReport

RENAMED_CHECK = {"--cpus": "--cpus-per-job"}
"""Old option names -> new names."""


def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH...", help="Experiments, run folders, trees, configs, scripts, data files."),
    ] = None,
    gpu: Annotated[
        str, typer.Option("--gpu", metavar="NAME", help="Target GPU, such as A100-80GB (default: the GPU here).")
    ] = "auto",
    cpus_per_job: Annotated[int | None, typer.Option("--cpus-per-job", min=1, help="CPUs per job.")] = None,
    select: Annotated[
        list[str] | None,
        typer.Option("--select", metavar="CODE", help="Report only these codes or prefixes (repeatable)."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="CODE", help="Skip these codes or prefixes (repeatable).")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="CODE", help="Do not count errors of these codes (repeatable)."),
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Apply safe fixes and show the diff.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show the changes of --fix without applying them.")] = False,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="CODE", help="Explain a code: meaning, reason and fix.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Check experiments, configs, job scripts and data.

    The exit code is 1 if there are errors.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.core.errors import InputError
    from touchline.data.user_config import load_settings
    from touchline.lint.checked import CheckRequest
    from touchline.lint.rule import retired_line

    if explain is not None:
        _explain(explain)
        return
    if not paths:
        raise InputError("nothing to check", expected="a file or a folder", hint="touchline check .")
    request = CheckRequest(
        gpu=gpu, cpus=cpus_per_job, select=_codes(select), ignore=_codes(ignore), allow=_codes(allow)
    )
    if line := retired_line((*request.select, *request.ignore, *request.allow)):
        print_status(f"note: {line}")
    if fix or diff:
        changes = api.check_fix(paths, load_settings(), request, print_status, write=fix)
        print_data(changes.text or "no safe fixes")
        for note in changes.notes:
            print_status(f"note: {note}")
        if diff:
            return
    with progress_bar("checking") as on_progress:
        report, findings = api.check(paths, load_settings(), request, print_status, on_progress)
    if json:
        from touchline.lint.check import CheckReport

        print_object(CheckReport, report)
    else:
        _show(report, findings)
    if report.errors:
        raise typer.Exit(1)


def _show(report: CheckReport, findings: Sequence[Finding]) -> None:
    from touchline.core.finding import Severity
    from touchline.core.units import plural

    gravest = sorted(findings, key=lambda finding: list(Severity).index(finding.severity))
    for line in finding_lines(gravest):
        print_output(line)
    others = len(findings) - report.errors - report.warnings
    read = f"{plural(report.files, 'file')}, {plural(len(report.configs), 'config')}"
    counts = f"{plural(report.errors, 'error')}, {plural(report.warnings, 'warning')}, {plural(others, 'note')}"
    print_output(f"{read} checked: {counts}")
    if gravest:
        print_status(f"touchline check --explain {gravest[0].code} explains a code")


def _codes(given: list[str] | None) -> tuple[str, ...]:
    """Return codes from repeated options and comma-separated lists.

    Raises:
        InputError: no code begins like that; with those that come near.
    """

    from touchline.core.errors import InputError
    from touchline.lint.rule import all_codes, is_known

    codes = tuple(code.strip().upper() for text in given or () for code in text.split(",") if code.strip())
    for code in codes:
        if not is_known(code):
            near = near_names(code, all_codes(), most=3, cutoff=0.4)
            raise InputError(f"unknown code {code!r}", hint=f"did you mean {', '.join(near)}?" if near else None)
    return codes


def _explain(code: str) -> None:
    from touchline.lint.rule import all_codes, load_page, retired_line

    (prefix, *_) = _codes([code])
    pages = [load_page(known) for known in all_codes() if known.startswith(prefix)]
    if not pages:
        print_output(retired_line([prefix]) or prefix)
        return
    if len(pages) > 1:
        print_table(("code", "severity", "reports"), [(p.code, p.severity.value, p.summary) for p in pages])
        return
    print_data(pages[0].text)
