"""RESULTS.md: what was tested, how it stands, what was measured, and what that does and does not show."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.domain.plan import Plan
from touchline.domain.quantity import Missing
from touchline.domain.results import Difference, Proportion, RunResult
from touchline.domain.runs import RunKind
from touchline.domain.status import JobState, RunStatus
from touchline.markdown import code, escape, measured, table
from touchline.plan.sections import design_line
from touchline.report.figures import Figure
from touchline.units import format_bytes

GOOD = (RunStatus.COMPLETED, RunStatus.COMPLETED_FAILED_EXIT)


def results_markdown(plan: Plan, results: Sequence[RunResult], figure: Figure) -> str:
    """The whole text of RESULTS.md; the same results give the same text."""
    done = sum(result.status in GOOD for result in results)
    parts = [
        f"# Results: {escape(plan.experiment)}\n",
        f"{escape(plan.question)}\n" if plan.question else "",
        f"**Status:** {done} of {len(results)} runs completed  \n"
        f"**Design:** {escape(design_line(plan))}  \n"
        f"**Task:** {code(plan.task)}, greedy decoding  \n"
        f"**Planned:** {plan.date} by touchline {plan.touchline_version}\n",
        "## In short\n",
        "\n".join(f"- {line}" for line in bottom_line(results)) + "\n",
        "## Runs\n",
        _runs(results),
        "## Accuracy on the test split\n",
        _accuracy(results),
        "## Training\n",
        _training(results),
        "![training and validation loss](figures/loss.png)\n" if figure.png is not None else "",
        f"{figure.note}\n",
        *_attempts(results),
        "## Checkpoints\n",
        _checkpoints(results),
        "## Data and models\n",
        _sources(plan),
        "## Notes\n",
        _notes(results),
        "## Commands\n",
        _commands(plan),
    ]
    return "\n".join(part for part in parts if part)


def bottom_line(results: Sequence[RunResult]) -> list[str]:
    """What the numbers say, computed; and what they do not say."""
    lines: list[str] = []
    compared = [result for result in results if result.difference is not None]
    for result in compared:
        d = result.difference
        if d is None or result.exact_match is None:
            continue
        verdict = "better than" if d.low > 0 else "worse than" if d.high < 0 else "not shown to differ from"
        lines.append(
            f"{code(result.name)} is {verdict} its control {code(d.control)}: exact match "
            f"{_percent(result.exact_match.value)}, difference {_points(d)}."
        )
    trained = [r for r in results if r.kind is RunKind.FINE_TUNED and r.exact_match is not None]
    if len(trained) > 1:
        low = max(r.exact_match.low for r in trained if r.exact_match)
        high = min(r.exact_match.high for r in trained if r.exact_match)
        if low <= high:
            lines.append("Fine-tuned runs were not tested against each other; their intervals overlap.")
    if trained and len({r.seed for r in trained}) == 1:
        lines.append("One seed each: this describes these checkpoints, not the settings in general.")
    waiting = [r.name for r in results if r.status not in GOOD]
    if waiting:
        lines.append(f"Not completed: {', '.join(code(name) for name in waiting)}.")
    return lines or ["Nothing has been evaluated yet."]


def _runs(results: Sequence[RunResult]) -> str:
    header = ("run", "type", "model", "settings", "seed", "status", "attempts")
    rows = [
        (
            escape(r.name),
            r.kind.value,
            escape(r.model),
            escape(", ".join(f"{level.factor}={level.value}" for level in r.levels if level.factor != "models") or "-"),
            str(r.seed) if r.kind is RunKind.FINE_TUNED else "-",
            r.status.value,
            str(r.attempts),
        )
        for r in results
    ]
    return table(header, rows, right=(4, 6))


def _accuracy(results: Sequence[RunResult]) -> str:
    header = (
        "run",
        "checkpoint",
        "exact match",
        "95 % interval",
        "correct",
        "normalised match",
        "difference to control",
        "gained / lost",
        "p (Holm)",
    )
    rows = []
    for r in results:
        checkpoint = r.evaluations[-1].checkpoint if r.evaluations else "-"
        d = r.difference
        if r.exact_match is None:
            rows.append((escape(r.name), checkpoint, *["n/a (not evaluated)"] * 4, "-", "-", "-"))
            continue
        rows.append(
            (
                escape(r.name),
                checkpoint,
                _percent(r.exact_match.value),
                _interval(r.exact_match),
                f"{r.exact_match.k} of {r.exact_match.n}",
                "n/a" if r.match is None else _percent(r.match.value),
                "-" if d is None else _points(d),
                "-" if d is None else f"{d.gained} / {d.lost}",
                "-" if d is None else "<0.001" if d.p_adjusted < 0.001 else f"{d.p_adjusted:.3f}",
            )
        )
    family = sum(r.difference is not None for r in results)
    legend = (
        "Exact match: equal to the target, character by character, without surrounding white space. Normalised match: "
        "punctuation and white space do not count, case does. Intervals: Wilson for a share, Newcombe for a paired "
        "difference on the same items. p: exact McNemar test, Holm-adjusted over "
        f"{family} comparison{'s' if family != 1 else ''}.\n"
    )
    return table(header, rows, right=(2, 4, 5, 8)) + "\n" + legend


def _training(results: Sequence[RunResult]) -> str:
    header = (
        "run",
        "steps",
        "training loss",
        "validation loss",
        "training",
        "validation",
        "evaluation",
        "real tokens per second",
        "peak memory",
        "adapter",
    )
    rows = []
    for r in results:
        if r.kind is RunKind.CONTROL:
            rows.append((escape(r.name), *["-"] * 5, measured(r.evaluate_seconds), "-", "-", "-"))
            continue
        rows.append(
            (
                escape(r.name),
                f"{r.steps_done if r.steps_done is not None else 0:,} of {r.steps_planned:,}"
                if r.steps_planned is not None
                else "-",
                measured(r.final_train_loss),
                measured(r.final_val_loss),
                measured(r.train_seconds),
                measured(r.validation_seconds),
                measured(r.evaluate_seconds),
                _figure_of(r, "tokens_per_second"),
                _memory(r),
                measured(r.adapter_size),
            )
        )
    legend = (
        "Training loss: mean over the last steps; validation loss: token-weighted mean over the validation split; both "
        "in nats per target token. Training and validation are wall time of the steps and of the validations in "
        "between.\n"
    )
    return table(header, rows, right=(1, 2, 3, 4, 5, 6, 7)) + "\n" + legend


def _figure_of(result: RunResult, name: str) -> str:
    value = getattr(result, name)
    return str(value) if isinstance(value, Missing) else f"{value.value:,.0f}"


def _memory(result: RunResult) -> str:
    value = result.peak_memory
    if isinstance(value, Missing):
        return str(value)
    return f"{measured(value, 3)} ({value.kind}, while steps ran)"


def _attempts(results: Sequence[RunResult]) -> list[str]:
    """A row for each attempt, where not every run came through at its first."""
    rows = [
        (
            escape(r.name),
            f"{number} of {len(r.attempt_list)}",
            escape(each.job_id) + (f", restart {each.restart}" if each.restart else ""),
            each.state.value,
            escape(each.reason) + ("; planned again since" if each.superseded else ""),
            measured(each.seconds),
        )
        for r in results
        if len(r.attempt_list) > 1 or any(each.state is not JobState.COMPLETED for each in r.attempt_list)
        for number, each in enumerate(r.attempt_list, 1)
    ]
    if not rows:
        return []
    return ["## Attempts\n", table(("run", "attempt", "job", "state", "how it ended", "lasted"), rows)]


def _checkpoints(results: Sequence[RunResult]) -> str:
    header = ("run", "checkpoint", "step", "size", "validation loss", "files")
    rows = [
        (
            escape(r.name),
            code(item.name),
            "n/a" if item.step is None else str(item.step),
            format_bytes(item.size_bytes),
            "n/a" if item.validation_loss is None else f"{item.validation_loss:.4g}",
            "complete" if item.complete else escape("; ".join(item.problems)),
        )
        for r in results
        for item in r.checkpoints
    ]
    return table(header, rows, right=(2, 3, 4)) if rows else "No checkpoint has been saved yet.\n"


def _sources(plan: Plan) -> str:
    datasets = [
        (
            code(data.path),
            ", ".join(f"{split.name} {split.num_examples:,}" for split in data.splits),
            escape(data.split_origin),
            code(data.sha256[:16]),
        )
        for data in plan.datasets.values()
    ]
    models = [
        (
            escape(model.name),
            f"{model.num_parameters / 1e6:,.1f} M",
            model.dtype,
            format_bytes(model.weight_bytes),
            code(model.weights_sha256[:16]),
        )
        for model in plan.models.values()
    ]
    return (
        table(("dataset", "splits", "origin of the splits", "sha256"), datasets)
        + "\n"
        + table(("base model", "parameters", "dtype on disk", "size", "weights' hash"), models)
    )


def _notes(results: Sequence[RunResult]) -> str:
    notes = [f"- {code(r.name)}: {escape(note)}" for r in results for note in r.notes]
    return "\n".join(notes) + "\n" if notes else "None.\n"


def _commands(plan: Plan) -> str:
    first = next((run.name for run in plan.runs), "RUN")
    return (
        "In this folder:\n\n```text\n"
        "touchline run .                   trains and evaluates what is missing; nothing twice\n"
        "touchline results . --json        every figure above, with unit, kind and origin\n"
        f"inspect view --log-dir {first}/eval".ljust(34)
        + "  every prompt and answer\n"
        "```\n"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(p: Proportion) -> str:
    return f"{100 * p.low:.1f} to {100 * p.high:.1f} %"


def _points(d: Difference) -> str:
    return f"{100 * d.value:+.1f} points ({100 * d.low:+.1f} to {100 * d.high:+.1f})"
