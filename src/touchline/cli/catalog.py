"""`touchline models` and `touchline data`: models and datasets on disk, and how to get them there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.commands import Input, Json, Messages, Output
from touchline.cli.output import print_json, print_object, print_output, print_status, print_table, show_findings
from touchline.core.quantity import Missing
from touchline.core.table import Column, Value
from touchline.core.text import shorten
from touchline.core.units import format_bytes, percent, plural
from touchline.data.user_config import load_settings

if TYPE_CHECKING:
    from touchline.core.catalog import Example
    from touchline.lint.audited import Baseline, DataAudit

_LABELS = 12
_LABEL_CHARACTERS = 40


def audit(
    path: Annotated[
        Path,
        typer.Argument(help="JSON, JSONL, CSV or parquet; a folder of train and test files; or an experiment.yaml."),
    ],
    input_column: Input = None,
    output_column: Output = None,
    messages: Messages = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="The user's turn, with {input} in it.")] = None,
    media_root: Annotated[
        Path | None, typer.Option("--media-root", metavar="FOLDER", help="Root folder of images, videos and sounds.")
    ] = None,
    json: Json = False,
) -> None:
    """Find problems: duplicates, leaks, labels, encoding, media."""
    from touchline.api import data_audit as run_audit
    from touchline.experiment.experiment import DataConfig
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
        print_object(found)
    else:
        _show_audit(found)
    if found.failed:
        raise typer.Exit(1)


def stated_columns(input_column: str | None, output_column: str | None) -> frozenset[str]:
    """Return the dotted keys of the columns that were given as options."""
    options = {"data.input": input_column, "data.output": output_column}
    return frozenset(key for key, value in options.items() if value is not None)


def _show_audit(found: DataAudit) -> None:

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
    from touchline.core.scale import Scale

    return Scale(share=True).quantity(each.score), "-" if isinstance(each.score, Missing) else f"{each.examples:,}"


models_app = typer.Typer(
    help="List base models on this machine, show or fetch one.", no_args_is_help=True, rich_markup_mode=None
)
data_app = typer.Typer(help="Show, audit or create a dataset.", no_args_is_help=True, rich_markup_mode=None)
create_app = typer.Typer(help="Create a dataset.", no_args_is_help=True, rich_markup_mode=None)
data_app.add_typer(create_app, name="create")
data_app.command("audit")(audit)
_SHOWN_CHARACTERS = 2000


@models_app.command("list")
def models_list(json: Json = False) -> None:
    """List the models under models_dir."""
    from touchline.core.catalog import ModelInfo
    from touchline.data.models import find_models

    settings = load_settings()
    found = find_models(settings.models_dir)
    if json:
        print_json(list[ModelInfo], found, "models")
        return
    rows = [
        (
            m.name,
            m.size_label,
            _verdict(m.findings),
            format_bytes(m.weight_bytes),
            f"{m.context_length:,}",
            m.architecture,
            m.dtype,
        )
        for m in found
    ]
    numbers = (Column(label, numeric=True) for label in ("weights", "context"))
    wide = (Column(label, is_wide=True) for label in ("architecture", "dtype"))
    print_table(("model", "size", "state", *numbers, *wide), rows, title=str(settings.models_dir))
    if not found:
        print_status("no models there, try `touchline models get SmolLM2-135M-Instruct`")


@models_app.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="Name under models_dir, or a path.")], json: Json = False
) -> None:
    """Show one model, and what is wrong with it."""
    from touchline.data.models import load_model

    _show_model(load_model(model, load_settings().models_dir), json)


@models_app.command("get")
def models_get(
    model: Annotated[str, typer.Argument(help="For example SmolLM2-135M-Instruct.")], json: Json = False
) -> None:
    """Put a model under models_dir, or show how to get it."""
    from touchline.run.model_download import get_model

    _show_model(get_model(model, load_settings()), json)


@create_app.command("capitalization")
def data_create_capitalization(
    word_length: Annotated[int, typer.Option(help="Letters of every word.")] = 8,
    num_words: Annotated[int, typer.Option(help="Words in all splits together.")] = 1600,
    train_fraction: Annotated[float, typer.Option(help="Share that trains; of the rest a quarter validates.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed of the choice and of the splits.")] = 14,
    out_dir: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("data"),
    words: Annotated[
        Path | None,
        typer.Option("--words", metavar="FILE", help="Word list, one per line (default: the list shipped)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file with another content.")] = False,
) -> None:
    """Create words to capitalize, split from a list of real words."""
    options = {**locals()}
    from touchline.data.create import create_capitalization

    path = create_capitalization(**options)
    print_output(str(path))


@data_app.command("show")
def data_show(
    path: Annotated[Path, typer.Argument(help="JSON, JSONL, CSV or parquet.")],
    input_column: Input = None,
    output_column: Output = None,
    messages: Messages = None,
    json: Json = False,
) -> None:
    """Show splits, sizes, hash, first row and problems."""
    from touchline.core.catalog import DatasetInfo, Example
    from touchline.data.datasets import load_dataset
    from touchline.data.resolving import first_row, with_columns
    from touchline.experiment.experiment import DataConfig

    stated = DataConfig(
        path=str(path), input=input_column or "input", output=output_column or "output", messages=messages
    )
    data = with_columns(stated, stated_columns(input_column, output_column), Path(), None)
    info = load_dataset(data, Path())
    readable = not any(finding.severity == "error" for finding in info.findings)
    found = first_row(data, Path()) if readable else None
    example, used, unused = (None, (), ()) if found is None else found
    if json:
        print_json(
            DatasetInfo,
            info,
            "dataset",
            first_row=(Example | None, example),
            columns_used=(tuple[str, ...], used),
            columns_not_used=(tuple[str, ...], unused),
        )
    else:
        rows = [(split.name, f"{split.num_examples:,}", split.sha256[:16]) for split in info.named_splits]
        title = f"{info.path} ({info.format}, {format_bytes(info.size_bytes)})"
        print_table(("split", Column("examples", numeric=True), "sha256"), rows, title=title)
        print_output(f"splits: {info.split_origin}")
        if example is not None:
            print_output(f"columns used: {', '.join(used)}; not used: {', '.join(unused) or 'none'}")
            _show_row(example)
    show_findings(info.findings)
    if not readable:
        raise typer.Exit(1)


def _show_row(example: Example) -> None:
    print_output("first training row:")
    for turn in (*example.prompt, None):
        role, text = ("answer", example.answer) if turn is None else (turn.role, turn.content)
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} [...]"
        print_output(f"  {role}: {shown}".replace("\n", "\n    "))


def _show_model(model: object, json: bool) -> None:
    from touchline.core.catalog import ModelInfo

    if not isinstance(model, ModelInfo):
        raise TypeError(type(model).__name__)
    if json:
        print_json(ModelInfo, model, "model")
    else:
        rows = [
            ("folder", model.path),
            ("architecture", f"{model.architecture}, {model.num_layers} layers, hidden {model.hidden_size}"),
            ("parameters", f"{model.num_parameters:,} ({model.size_label})"),
            ("weights", f"{format_bytes(model.weight_bytes)}, {model.dtype}"),
            ("context", f"{model.context_length:,} tokens"),
            ("vocabulary", f"{model.vocab_size:,}"),
            ("chat template", "yes" if model.has_chat_template else "no"),
            ("stop token", model.stop_token or "none"),
            ("state", _verdict(model.findings)),
        ]
        print_table((model.name, ""), rows)
    show_findings(model.findings)
    if any(finding.severity == "error" for finding in model.findings):
        raise typer.Exit(1)


def _verdict(findings: tuple[object, ...]) -> str:
    errors = sum(getattr(finding, "severity", "") == "error" for finding in findings)
    return "complete" if not errors else plural(errors, "error")
