"""`touchline data audit`: what is wrong with a dataset, with lengths, answers and baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.output import print_object, print_output, print_status, print_table
from touchline.core.text import shorten
from touchline.core.units import percent, plural

if TYPE_CHECKING:
    from touchline.core.table import Value
    from touchline.lint.checked import Baseline, DataAudit

_LABELS = 12
_LABEL_CHARACTERS = 40


def audit(
    path: Annotated[
        Path,
        typer.Argument(help="JSON, JSONL, CSV or parquet; a folder of train and test files; or an experiment.yaml."),
    ],
    input_column: Annotated[str | None, typer.Option("--input", help="Column of the input.")] = None,
    output_column: Annotated[str | None, typer.Option("--output", help="Column of the answer.")] = None,
    messages: Annotated[str | None, typer.Option("--messages", help="Column of whole chats.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="The user's turn, with {input} in it.")] = None,
    media_root: Annotated[
        Path | None, typer.Option("--media-root", metavar="FOLDER", help="Root folder of images, videos and sounds.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Find problems: duplicates, leaks, labels, encoding, media."""
    from touchline.api import data_audit as run_audit
    from touchline.experiment.experiment import DataConfig
    from touchline.lint.checked import DataAudit
    from touchline.lint.local.audit import AuditRequest

    stated = (input_column, output_column, messages, prompt)
    data = None
    if any(each is not None for each in stated):
        data = DataConfig(
            path=str(path),
            input=input_column or "input",
            output=output_column or "output",
            messages=messages,
            prompt=prompt,
        )
    request = AuditRequest(data=data, given=stated_columns(input_column, output_column), media_root=media_root)
    found = run_audit(path, request)
    if json:
        print_object(DataAudit, found)
    else:
        _show(found)
    if found.failed:
        raise typer.Exit(1)


def stated_columns(input_column: str | None, output_column: str | None) -> frozenset[str]:
    """Return the dotted keys of the columns that were given as options."""
    options = {"data.input": input_column, "data.output": output_column}
    return frozenset(key for key, value in options.items() if value is not None)


def _show(found: DataAudit) -> None:
    from touchline.core.table import Column

    if found.splits:
        print_table(
            ("split", Column("rows", numeric=True), Column("answers", numeric=True)),
            [(split.name, f"{split.examples:,}", f"{split.distinct_answers:,}") for split in found.splits],
            title=f"{found.path} ({found.format})",
        )
        print_output(f"columns: {found.columns}")
    if found.labels and found.distinct_answers * 2 <= sum(split.examples for split in found.splits):
        names = [split.name for split in found.splits]
        print_output("")
        print_table(
            ("answer", *(Column(name, numeric=True) for name in (*names, "share"))),
            [
                (_cut(label.label), *(f"{label.counts.get(name, 0):,}" for name in names), percent(label.share))
                for label in found.labels[:_LABELS]
            ],
            title=f"{found.distinct_answers:,} different answers",
        )
    if found.baselines is not None:
        each = found.baselines
        print_output("")
        print_table(
            ("answers without a model", Column("right (95%)", numeric=True), Column("rows", numeric=True)),
            [
                ("always the most frequent" + _quoted(each.majority.answer), *_baseline(each.majority)),
                ("the most frequent of each question", *_baseline(each.majority_per_question)),
            ],
            title=f"baselines on {found.scored_split}",
        )
    for finding in found.findings:
        place = ":".join(str(part) for part in (finding.path, finding.line, finding.column) if part is not None)
        print_status(f"{place + ': ' if place else ''}{finding.severity.value} {finding.code}: {finding.message}")
        if finding.hint:
            print_status(f"    hint: {finding.hint}")
    print_status(
        ", ".join(
            plural(sum(finding.severity.value == name for finding in found.findings), name)
            for name in ("error", "warning")
        )
    )


def _cut(text: str) -> str:
    return shorten(" ".join(text.split()), _LABEL_CHARACTERS)


def _quoted(answer: str | None) -> str:
    return "" if answer is None else f", {_cut(answer)!r}"


def _baseline(each: Baseline) -> tuple[Value, str]:
    from touchline.core.quantity import Missing
    from touchline.core.units import Scale

    return Scale(share=True).quantity(each.score), "-" if isinstance(each.score, Missing) else f"{each.examples:,}"
