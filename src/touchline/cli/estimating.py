"""`touchline estimate` and `touchline pack`: what a training will take, before there is an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.completing import complete_run
from touchline.cli.output import print_json, print_object, print_output, print_status, print_table
from touchline.experiment.training import DEFAULT_BACKEND

if TYPE_CHECKING:
    from touchline.core.table import Value
    from touchline.history.probe import ProbeReport
    from touchline.plan.estimate_result import EstimateAnswer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


RENAMED_ESTIMATE = {
    "--padded-length": "--seq-len",
    "--micro-batch": "--micro-batch-size",
    "--accumulation": "--gradient-accumulation-steps",
    "--targets": "--target-modules",
    "--label-share": "--label-fraction",
    "--prior": "--evidence",
}
ESTIMATE_PANELS = {
    "Model and adapter": "model method rank target_modules adapter lora_dropout base_dtype adapter_dtype",
    "Batch and lengths": "micro_batch_size gradient_accumulation_steps seq_len mean_length lengths label_fraction "
    "image_tokens examples epochs",
    "Trainer and machine": "backend release gpu gradient_checkpointing optimizer loss attention compiled",
}
"""Headings of the help -> options."""
RENAMED_PROBE = {"--limit-gib": "--memory-limit-gib"}


def estimate(
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Model name, folder or config.json.")],
    method: Annotated[str, typer.Option("--method", metavar="lora|qlora|full", help="What is trained.")] = "lora",
    rank: Annotated[int, typer.Option("--rank", min=0, help="Adapter rank.")] = 64,
    target_modules: Annotated[
        str | None,
        typer.Option("--target-modules", metavar="A,B,...", help="Adapted layers (default: all linear layers)."),
    ] = None,
    adapter: Annotated[str, typer.Option("--adapter", metavar="lora|rslora|dora", help="Adapter type.")] = "lora",
    lora_dropout: Annotated[
        float | None, typer.Option("--lora-dropout", min=0.0, max=1.0, help="Adapter dropout (default: the trainer's).")
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", metavar="NAME", help="Trainer; plain is a hand-written loop.")
    ] = DEFAULT_BACKEND,
    release: Annotated[
        str | None, typer.Option("--backend-version", metavar="VERSION", help="Trainer version, such as 2024.8.")
    ] = None,
    micro_batch_size: Annotated[int, typer.Option("--micro-batch-size", min=1, help="Sequences per forward pass.")] = 1,
    seq_len: Annotated[
        int, typer.Option("--seq-len", min=1, help="Longest sequence in tokens, including padding (decides memory).")
    ] = 2048,
    mean_length: Annotated[
        float | None,
        typer.Option("--mean-length", min=1.0, help="Mean sequence length, including padding (time, reserved memory)."),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option("--lengths", metavar="FILE|A,B,...", help="Tokens of every example, instead of their mean."),
    ] = None,
    label_fraction: Annotated[
        float, typer.Option("--label-fraction", min=0.0, max=1.0, help="Fraction of tokens that are labels.")
    ] = 1.0,
    image_tokens: Annotated[int, typer.Option("--image-tokens", min=0, help="Image tokens per sequence.")] = 0,
    gradient_accumulation_steps: Annotated[
        int, typer.Option("--gradient-accumulation-steps", min=1, help="Micro-batches per step.")
    ] = 1,
    gpu: Annotated[str, typer.Option("--gpu", metavar="NAME", help="A100-80GB, ... (default: the GPU here).")] = "auto",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Recompute activations in the backward pass.")
    ] = False,
    base_dtype: Annotated[
        str | None,
        typer.Option("--base-dtype", metavar="DTYPE", help="Base dtype (default: as in a plan)."),
    ] = None,
    adapter_dtype: Annotated[
        str | None,
        typer.Option(
            "--adapter-dtype", metavar="DTYPE", help="Dtype of the trained parameters (default: the trainer's)."
        ),
    ] = None,
    optimizer: Annotated[str, typer.Option("--optimizer", metavar="NAME", help="Optimizer.")] = "adamw",
    loss: Annotated[
        str | None,
        typer.Option("--loss", metavar="full|chunked|fused", help="Loss computation (default: the trainer's)."),
    ] = None,
    attention: Annotated[str, typer.Option("--attention", metavar="fused|eager", help="Attention kernel.")] = "fused",
    compiled: Annotated[bool, typer.Option("--compiled", help="torch.compile is used.")] = False,
    examples: Annotated[
        int | None, typer.Option("--examples", min=1, help="Sequences per epoch, for the total time.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs.")] = 1,
    evidence: Annotated[
        list[Path] | None,
        typer.Option("--evidence", metavar="FILE", help="Log of a past run to use as evidence (repeatable)."),
    ] = None,
    evidence_facts: Annotated[
        list[str] | None,
        typer.Option(
            "--evidence-fact", metavar="KEY=VALUE", help="Fact that those logs lack: gpu=A100-80GB (repeatable)."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Estimate memory, largest micro-batch and step time."""
    options = {name: value for name, value in locals().items() if name != "json"}
    from touchline import api
    from touchline.cli.stating import stated_pairs
    from touchline.data.user_config import load_settings
    from touchline.plan.estimate_result import EstimateAnswer
    from touchline.plan.local.estimating import EstimateRequest

    lists = {
        "target_modules": _parts(target_modules),
        "evidence": tuple(evidence or ()),
        "evidence_facts": stated_pairs(evidence_facts or []),
    }
    request = EstimateRequest(**options | lists)
    answer = api.estimate(request, load_settings())
    if json:
        print_object(EstimateAnswer, answer)
        return
    _show(answer, "" if mean_length or lengths else ", rows of one length")


def _parts(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _show(answer: EstimateAnswer, alike: str) -> None:
    from touchline.core.quantity import Missing
    from touchline.core.table import Column
    from touchline.core.units import measured

    memory, settings = answer.memory, answer.settings
    print_output(f"{answer.model}: {answer.parameters:,} parameters, {answer.trained_parameters:,} trained")
    rows: list[tuple[Value, ...]] = [
        ("verdict", f"{memory.verdict.value} on {measured(memory.capacity_gib)}"),
        ("allocated", memory.allocated_gib),
        (f"reserved{alike}", memory.reserved_gib),
        (f"process{alike}", memory.process_gib),
        ("before the first step", memory.after_init_gib),
        ("parts, GiB", ", ".join(f"{name} {size:.2f}" for name, size in memory.breakdown.items() if size >= 0.005)),
        ("main assumption", memory.assumption),
        ("largest micro-batch", answer.largest_micro_batch),
        ("time of a step", answer.seconds_per_step),
        ("steps", answer.steps),
        ("time in all", answer.total_seconds),
        ("adapter on disk", answer.adapter_size),
        ("settings", ", ".join(f"{name} {str(value).replace(',', ' ')}" for name, value in settings.items())),
    ]
    known = [row for row in rows if not isinstance(row[1], Missing)]
    heading = f"{answer.padded_tokens:,} computed tokens per micro-batch, 90% intervals"
    print_table(("", Column(heading, interval=True)), known)
    for name, value in rows:
        if isinstance(value, Missing):
            print_output(f"{name}: {value}")
    if memory.what_ifs:
        print_table(
            ("what if", Column("reserved", numeric=True), Column("time of a step", numeric=True)),
            [
                (what.change, f"{what.reserved_gib:.2f} GiB", f"{100 * (what.step_time_factor - 1):+.0f}%")
                for what in memory.what_ifs
            ],
        )
    for note in answer.notes:
        print_status(f"note: {note}")


def probe(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder; planned.")],
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            autocompletion=complete_run,
            help="Which run; the one with the most memory when not given.",
        ),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option("--memory-limit-gib", min=0.1, help="Memory limit of a try (default: most of what is free)."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a few real steps to measure memory and speed."""
    from touchline import api
    from touchline.core.units import GIB
    from touchline.data.user_config import load_settings
    from touchline.history.probe import ProbeReport

    limit_bytes = None if limit is None else int(limit * GIB)
    report = api.probe(source, load_settings(), run=run, limit_bytes=limit_bytes, on_message=print_status)
    if json:
        print_json(ProbeReport, report, "probe")
    else:
        _show_probe(report)
    if report.largest is None:
        raise typer.Exit(1)


def _show_probe(report: ProbeReport) -> None:
    from touchline.core.table import Column
    from touchline.core.units import format_bytes

    rows = []
    for one in report.tries:
        memory = None if one.answer is None else one.answer.memory
        peak = "-" if memory is None else format_bytes(memory.process_bytes or 0)
        seconds, rate = one.seconds_per_step, one.tokens_per_second
        rows.append(
            (
                str(one.micro_batch_size),
                f"{one.batch.rows} x {one.batch.width:,}",
                one.outcome.value.replace("_", " "),
                peak,
                "-" if seconds is None else f"{seconds:.3g} s",
                "-" if rate is None else f"{rate:,.0f}",
                one.message,
            )
        )
    numbers = (Column(label, numeric=True) for label in ("process memory", "step", "tokens/s"))
    header: tuple[Column | str, ...] = ("micro-batch", "rows x tokens", "outcome", *numbers, "")
    print_table(header, rows, title=f"{report.request.model.name}: predicted {report.predicted or 'nothing'}")
    print_output(f"largest that fits: {report.largest or 'none'}")
    print_output(f"as fast as any larger one: {report.recommended or 'none'}")
    print_output(f"ended: {report.ended}")
    if report.recommended is not None:
        print_output(f"train.micro_batch_size: {report.recommended}")
