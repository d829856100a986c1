"""`touchline data`, `touchline models` and `touchline pack`: datasets, models and packed sequences on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.commands import Input, Json, Messages, Output, api
from touchline.cli.output import print_json, print_object, print_output, print_status, print_table, show_findings
from touchline.core.quantity import Missing
from touchline.core.table import Column, Value
from touchline.core.text import shorten
from touchline.core.units import format_bytes, percent, plural
from touchline.data.user_config import load_settings

if TYPE_CHECKING:
    from touchline.core.catalog import Example
    from touchline.lint.checked import Baseline, DataAudit
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from touchline.cli.commands import old_names, with_old_commands, with_old_names, with_request
from touchline.cli.progress import progress_bar
from touchline.data.requests import PackRequest

if TYPE_CHECKING:
    from touchline.core.estimate import PackingSummary

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
    from touchline.experiment.data_config import DataConfig
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
    from touchline.core.units import Scale

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
    from touchline.data.user_config import load_settings
    from touchline.tools.environments import get_model

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
    from touchline.experiment.data_config import DataConfig

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


class DefaultGroup(TyperGroup):
    """A group with a default command: `touchline pack data.json` is `touchline pack compare data.json`."""

    default = "compare"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command unless a command or help is requested."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


pack_app = typer.Typer(
    cls=with_old_commands({"check": "check-isolation"}, DefaultGroup),
    help="Compare packed and unpacked batching of a dataset.\n\n`touchline pack DATASET` is short for `pack compare`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@pack_app.command("compare", cls=with_old_names(old_names(PackRequest)))
@with_request(PackRequest)
def pack_compare(request: PackRequest, json: Json = False) -> None:
    """Compare packed and unpacked batching of a dataset."""
    with progress_bar("tokenizing") as on_progress:
        summary = api.pack(request, load_settings(), on_progress=on_progress)
    if json:
        print_object(summary)
    else:
        _show_packing(summary)


@pack_app.command("write")
@with_request(PackRequest, leave_out=("backend", "micro_batch", "accumulation", "devices", "epochs"))
def pack_write(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="JSON, JSONL, CSV or parquet.")],
    to: Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="The file to write.")],
    request: PackRequest,
) -> None:
    """Write the training examples in packing order.

    A trainer that packs by next-fit then forms the same packed sequences.
    """
    with progress_bar("tokenizing") as on_progress:
        found = api.pack_write(request, to, load_settings(), on_progress=on_progress)
    exact = "the same packs" if found.exact else f"{found.difference:+d} packs"
    print_output(str(to))
    print_status(
        f"{found.planned_packs:,} packed sequences planned, next-fit in this order makes "
        f"{found.next_fit_packs:,}: {exact}"
    )
    print_status("keep the order: no shuffling before packing (shuffling the packs afterwards is fine)")


@pack_app.command("check-isolation")
def pack_check_isolation(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, a model's folder, or a config.json.")],
    json: Json = False,
) -> None:
    """Test for attention leaks between packed examples.

    The test runs on a small random model of the architecture. The exit code is 1 if there is a leak.
    """
    from touchline.data.packing.forecast import IsolationCheck

    found = api.pack_check_isolation(model, load_settings())
    if json:
        print_json(IsolationCheck, found, "isolation")
    else:
        rows = [
            (
                way.name,
                "isolated" if way.isolated else "LEAKS",
                "-" if way.leak is None else f"{way.leak:.2g}",
                "-" if way.difference is None else f"{way.difference:.2g}",
                way.used_by + (f" ({way.note})" if way.note else ""),
            )
            for way in found.ways
        ]
        numbers = (Column(label, numeric=True) for label in ("leak, nats", "off from alone, nats"))
        header: tuple[Column | str, ...] = (
            "given to the model",
            "verdict",
            *numbers,
            Column("who does it so", is_wide=True),
        )
        print_table(header, rows, title=f"{found.model_type}, {found.layers} layers, {found.attention} attention")
    if not found.ways[0].isolated:
        print_status(f"packing is not safe for {found.model_type}: even a block mask does not keep documents apart")
        raise typer.Exit(1)


def _show_packing(summary: PackingSummary) -> None:

    sides = (summary.packed, summary.unpacked)
    rows: list[tuple[str, ...]] = [
        ("sequences", *(f"{side.packs:,}" for side in sides)),
        ("examples per sequence", *(f"{side.density:.2f}" for side in sides)),
        ("non-padding tokens", *(f"{side.efficiency:.1f}%" for side in sides)),
        ("computed tokens per epoch", *(f"{side.padded_tokens:,}" for side in sides)),
        ("largest micro-batch, tokens", *(f"{side.largest_micro_batch_tokens:,}" for side in sides)),
        ("steps per epoch", *(_range(side.steps_per_epoch_low, side.steps_per_epoch_high) for side in sides)),
        ("examples per step", *(f"{side.examples_per_step:.1f}" for side in sides)),
    ]
    for name in ("truncated", "answers_cut", "dropped"):
        if any(counts := [getattr(side, name) for side in sides]):
            rows.append((name.replace("_", " "), *(f"{count:,}" for count in counts)))
    title = f"{summary.examples:,} examples, max_seq_len {summary.max_seq_len}, batching of {summary.backend}"
    for verdict in summary.advice[:1]:
        print_output(f"{verdict}\n")
    print_table(("", Column("packed", numeric=True), Column("unpacked", numeric=True)), rows, title=title)
    for line in dict.fromkeys((*summary.packed.notes, *summary.unpacked.notes, *summary.advice[1:])):
        print_output(f"- {line}")


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
