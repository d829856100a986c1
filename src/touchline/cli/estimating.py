"""`touchline estimate` and `touchline pack`: what a training will take, before there is an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from touchline.cli.output import out, out_json, out_object, out_table, say

if TYPE_CHECKING:
    from touchline.domain.answers import EstimateAnswer
    from touchline.domain.probe import ProbeReport
    from touchline.domain.quantity import Measured

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def estimate(
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="A name, a model's folder, or a config.json.")],
    method: Annotated[str, typer.Option("--method", metavar="lora|qlora|full", help="What is trained.")] = "lora",
    rank: Annotated[int, typer.Option("--rank", min=0, help="Rank of the adapter.")] = 64,
    targets: Annotated[
        Optional[str],  # noqa: UP045 (typer reads the annotation when the command is built)
        typer.Option("--targets", metavar="A,B,...", help="Layers with an adapter; all linear ones when not given."),
    ] = None,
    backend: Annotated[str, typer.Option("--backend", metavar="NAME", help="The trainer.")] = "peft",
    micro_batch: Annotated[int, typer.Option("--micro-batch", min=1, help="Rows per forward pass.")] = 1,
    padded_length: Annotated[
        int, typer.Option("--padded-length", min=1, help="Tokens of a row, padding included; packed: max_seq_len.")
    ] = 2048,
    label_share: Annotated[
        float, typer.Option("--label-share", min=0.0, max=1.0, help="Share of the tokens with a loss.")
    ] = 1.0,
    accumulation: Annotated[int, typer.Option("--accumulation", min=1, help="Micro-batches per step.")] = 1,
    gpu: Annotated[str, typer.Option("--gpu", metavar="NAME", help="A100-80GB, ...; auto is the one here.")] = "auto",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Activations are computed again.")
    ] = False,
    base_dtype: Annotated[str, typer.Option("--base-dtype", metavar="DTYPE", help="Of the base.")] = "bfloat16",
    adapter_dtype: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--adapter-dtype", metavar="DTYPE", help="Of the adapter; as the trainer does when not given."),
    ] = None,
    optimizer: Annotated[str, typer.Option("--optimizer", metavar="NAME", help="The optimizer.")] = "adamw",
    attention: Annotated[str, typer.Option("--attention", metavar="fused|eager", help="Kind of kernel.")] = "fused",
    compiled: Annotated[bool, typer.Option("--compiled", help="torch.compile fuses the model.")] = False,
    examples: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--examples", min=1, help="Rows of an epoch, for the total."),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over them.")] = 1,
    prior: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--prior", metavar="FILE", help="Logs of past runs to rest on, besides the history; repeatable."),
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Run the model's own code on tensors without content; needs torch.")
    ] = False,
    json: Json = False,
) -> None:
    """Estimate memory, largest micro-batch and step time."""
    from touchline import workflow
    from touchline.catalog.settings import load_settings
    from touchline.domain.answers import EstimateAnswer
    from touchline.steps.estimating import EstimateRequest

    request = EstimateRequest(
        model=model,
        method=method,
        rank=rank,
        targets=tuple(part.strip() for part in targets.split(",") if part.strip()) if targets is not None else None,
        backend=backend,
        micro_batch=micro_batch,
        padded_length=padded_length,
        label_share=label_share,
        accumulation=accumulation,
        gpu=gpu,
        gradient_checkpointing=gradient_checkpointing,
        base_dtype=base_dtype,
        adapter_dtype=adapter_dtype,
        optimizer=optimizer,
        attention=attention,
        compiled=compiled,
        examples=examples,
        epochs=epochs,
        prior=tuple(prior or ()),
        simulate=simulate,
    )
    answer = workflow.estimate(request, load_settings())
    if json:
        out_object(EstimateAnswer, answer)
        return
    _show(answer)


def _show(answer: EstimateAnswer) -> None:
    memory = answer.memory
    out(f"{answer.model}: {answer.parameters:,} parameters, {answer.trained_parameters:,} trained ({answer.source})")
    out("  ".join(f"{name} {value}" for name, value in answer.settings.items()))
    rows = [
        ("verdict", f"{memory.verdict.value} on {_cell(memory.capacity_gib)}"),
        ("allocated", _cell(memory.allocated_gib)),
        ("reserved", _cell(memory.reserved_gib)),
        ("process", _cell(memory.process_gib)),
        ("before the first step", _cell(memory.after_init_gib)),
        ("parts, GiB", ", ".join(f"{name} {size:.2f}" for name, size in memory.breakdown.items() if size >= 0.005)),
        ("rests most on", memory.assumption),
        ("largest micro-batch", _cell(answer.largest_micro_batch)),
        ("time of a step", _cell(answer.seconds_per_step)),
        ("steps", _cell(answer.steps)),
        ("time in all", _cell(answer.total_seconds)),
        ("adapter on disk", _cell(answer.adapter_size)),
        ("simulated", _cell(answer.simulated_gib)),
    ]
    out_table(("", f"{answer.padded_tokens:,} padded tokens a micro-batch"), rows)
    if memory.what_ifs:
        out_table(
            ("what if", "reserved", "time of a step"),
            [
                (what.change, f"{what.reserved_gib:.2f} GiB", f"{100 * (what.step_time_factor - 1):+.0f} %")
                for what in memory.what_ifs
            ],
        )
    for note in answer.notes:
        say(f"note: {note}")


def _cell(value: Measured) -> str:
    from touchline.domain.quantity import Missing
    from touchline.markdown import measured

    text = measured(value)
    if not isinstance(value, Missing) and value.coverage is not None and value.low is not None:
        text += f", {100 * value.coverage:.0f} % interval"
    return text


def probe(
    source: Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="experiment.yaml, or its folder; planned.")],
    run: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--run", metavar="RUN", help="Which run; the one with the most memory when not given."),
    ] = None,
    limit: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--limit-gib", min=0.1, help="Memory that a try may take; most of what is free when not given."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a few real steps to measure memory and speed."""
    from touchline import workflow
    from touchline.catalog.settings import load_settings
    from touchline.domain.probe import ProbeReport
    from touchline.units import GIB

    limit_bytes = None if limit is None else int(limit * GIB)
    report = workflow.probe(source, load_settings(), run=run, limit_bytes=limit_bytes, say=say)
    if json:
        out_json(ProbeReport, report, "probe")
    else:
        _show_probe(report)
    if report.largest is None:
        raise typer.Exit(1)


def _show_probe(report: ProbeReport) -> None:
    from touchline.units import format_bytes

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
    header = ("micro-batch", "rows x tokens", "outcome", "process memory", "step", "tokens/s", "")
    out_table(header, rows, title=f"{report.request.model.name}: predicted {report.predicted or 'nothing'}")
    out(f"largest that fits: {report.largest or 'none'}; as fast as any larger one: {report.recommended or 'none'}")
    out(f"ended: {report.ended}")
    if report.recommended is not None:
        out(f"train.micro_batch_size: {report.recommended}")
