"""runs_plan.md: the plan for a person to read before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.domain.plan import Plan, PlannedRun
from touchline.domain.quantity import Missing
from touchline.domain.runs import RunKind
from touchline.markdown import code, escape, measured, table
from touchline.units import format_bytes


def design_line(plan: Plan) -> str:
    """`2 x 1 factorial: train.lora.rank; 2 fine-tuned + 1 control = 3 runs`."""
    trained = sum(run.kind is RunKind.FINE_TUNED for run in plan.runs)
    controls = len(plan.runs) - trained
    varied = {factor: levels for factor, levels in plan.factors.items() if len(levels) > 1}
    shape = " x ".join(str(len(levels)) for levels in varied.values())
    kind = (
        f"{shape} ({', '.join(varied)})"
        if len(varied) > 1
        else f"{shape} levels of {next(iter(varied))}"
        if varied
        else "one condition"
    )
    return f"{kind}; {trained} fine-tuned + {controls} control{'s' if controls != 1 else ''} = {len(plan.runs)} runs"


def run_rows(plan: Plan) -> list[Sequence[str]]:
    """The summary table's cells, plain text: #, run, model, rank, type, steps, time, memory, disk."""
    rows: list[Sequence[str]] = []
    for number, run in enumerate(plan.runs, 1):
        rank = "-" if run.train is None else str(run.train.lora.rank)
        steps = "-" if run.batches is None else str(run.batches.steps)
        time = "eval only" if run.train is None else measured(run.train_seconds)
        memory = measured(run.peak_memory) if run.train is not None else "-"
        rows.append((str(number), run.name, run.model, rank, run.kind.value, steps, time, memory, measured(run.disk)))
    return rows


RUN_HEADER = ("#", "run", "model", "LoRA rank", "type", "steps", "est. time", "est. peak memory", "est. disk")


def runs_plan_markdown(plan: Plan) -> str:
    """The whole text of runs_plan.md."""
    parts = [
        f"# Plan: {escape(plan.experiment)}\n",
        f"{escape(plan.question)}\n" if plan.question else "",
        f"**Design:** {escape(design_line(plan))}  \n**Task:** {code(plan.task)}  \n**Executor:** {plan.executor}\n",
        "## Variables\n",
        table(
            ("factor", "levels"), [(code(factor), escape(", ".join(levels))) for factor, levels in plan.factors.items()]
        ),
        "## Runs\n",
        table(RUN_HEADER, [tuple(escape(cell) for cell in row) for row in run_rows(plan)], right=(0, 3, 5)),
        _estimates(plan),
        "## Resources verified\n",
        _resources(plan),
        "## Batches and packing\n",
        _batches(plan),
        "## Folders\n",
        _folders(plan),
        "## Revisions\n",
        table(
            ("#", "date", "what", "runs"),
            [(str(r.number), r.date, escape(r.reason), escape(", ".join(r.runs) or "none")) for r in plan.revisions],
        ),
    ]
    return "\n".join(part for part in parts if part)


def _estimates(plan: Plan) -> str:
    missing = {run.train_seconds.missing for run in plan.runs if run.train and isinstance(run.train_seconds, Missing)}
    if not missing:
        return ""
    return (
        "Estimates come from measured runs only. Where there is no comparable one yet, the cell says so; "
        "the first run of this experiment will be the evidence for the next plan.\n"
    )


def _resources(plan: Plan) -> str:
    models = [
        (
            escape(model.name),
            code(model.path),
            model.architecture,
            f"{model.num_parameters / 1e6:,.1f} M",
            model.dtype,
            format_bytes(model.weight_bytes),
            f"{model.context_length:,}",
        )
        for model in plan.models.values()
    ]
    datasets = [
        (
            code(data.path),
            format_bytes(data.size_bytes),
            ", ".join(f"{split.name} {split.num_examples:,}" for split in data.splits),
            escape(data.split_origin),
            code(data.sha256[:12]),
        )
        for data in plan.datasets.values()
    ]
    model_header = ("model", "folder", "architecture", "parameters", "dtype", "weights", "context")
    data_header = ("dataset", "size", "splits", "origin of the splits", "sha256")
    return table(model_header, models) + "\n" + table(data_header, datasets)


def _batches(plan: Plan) -> str:
    header = (
        "run",
        "examples",
        "global batch",
        "micro-batch x accumulation",
        "steps",
        "longest example",
        "largest micro-batch",
        "packing",
    )
    rows = []
    for run in plan.runs:
        if run.batches is not None:
            b = run.batches
            rows.append(
                (
                    escape(run.name),
                    f"{b.num_examples:,}",
                    str(b.global_batch_size),
                    f"{b.micro_batch_size} x {b.gradient_accumulation_steps}",
                    f"{b.steps:,} ({b.steps_per_epoch:,} an epoch)",
                    f"{b.longest_example_tokens} tokens",
                    f"{b.largest_micro_batch_tokens:,} padded tokens",
                    escape(run.packed_reason or "-"),
                )
            )
    return table(header, rows)


def folder_lines(plan: Plan) -> list[str]:
    """Preview of the experiment's folder."""
    width = max(len(run.name) for run in plan.runs) + 1
    return [f"{plan.experiment}/", *(f"  {run.name + '/':<{width}}  {_contents(run)}" for run in plan.runs)]


def _folders(plan: Plan) -> str:
    return "```text\n" + "\n".join(folder_lines(plan)).replace("`", "'") + "\n```\n"


def _contents(run: PlannedRun) -> str:
    if run.train is None:
        return "eval.py  eval.slurm  eval/"
    last = run.train.epochs - 1
    epochs = "epoch_0/" if last == 0 else f"epoch_0/ ... epoch_{last}/"
    return f"setup_finetune.yaml  finetune.yaml  finetune.slurm  eval.py  eval.slurm  {epochs}  eval/"
