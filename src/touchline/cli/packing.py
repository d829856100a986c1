"""`touchline pack`: packed against unpacked, the hand-off to trainers that pack by next-fit, the self-test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from touchline.cli.commands import Json, with_old_commands, with_old_names, with_request
from touchline.cli.output import print_json, print_object, print_output, print_status, print_table
from touchline.cli.progress import progress_bar
from touchline.core.table import Column
from touchline.data.requests import PackRequest
from touchline.data.user_config import load_settings

if TYPE_CHECKING:
    from touchline.core.packing import PackingSummary


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


@pack_app.command(
    "compare",
    cls=with_old_names({"--micro-batch": "--micro-batch-size", "--accumulation": "--gradient-accumulation-steps"}),
)
@with_request(PackRequest)
def pack_compare(request: PackRequest, json: Json = False) -> None:
    """Compare packed and unpacked batching of a dataset."""
    from touchline import api

    with progress_bar("tokenizing") as on_progress:
        summary = api.pack(request, load_settings(), on_progress=on_progress)
    if json:
        print_object(summary)
    else:
        _show(summary)


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
    from touchline import api

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
    from touchline import api
    from touchline.data.packing.isolation import IsolationCheck

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


def _show(summary: PackingSummary) -> None:

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
