"""Section of RESULTS.md on trainings: losses, steps, speed, memory, durations, estimates, packing, attempts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.markup import code, escape, table
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.report import tables
from touchline.report.chart import Chart
from touchline.report.facts import curves_missing, evaluation_seconds, generalization_gap, lowest
from touchline.report.formatting import count, device_title, duration, finite, is_at_least
from touchline.report.markdown.estimates import estimates_part, memory_cell, packing_part
from touchline.report.markup import figures, shared, short
from touchline.report.report import Report, RunFacts
from touchline.report.table import to_markdown
from touchline.results.run_result import RunResult
from touchline.spec.runs import RunKind

_NAMES = 20
_NOTHING = Missing(missing="not measured")
_Trained = tuple[RunResult, RunFacts]


def training_section(report: Report, charts: Sequence[Chart]) -> Iterator[str]:
    """Yield the section on trainings."""
    yield "## Training results\n"
    trained = [
        (run, facts) for run, facts in zip(report.runs, report.facts, strict=True) if run.kind is RunKind.FINE_TUNED
    ]
    if not trained:
        yield "n/a (no run trains anything)\n"
        return
    silent = [run.name for run, _ in trained if _is_silent(run)]
    trained = [each for each in trained if not _is_silent(each[0])]
    if trained:
        yield from _losses(report, trained)
    if silent:
        more = f" and {len(silent) - _NAMES:,} more" if len(silent) > _NAMES else ""
        yield f"n/a (nothing was measured yet): {', '.join(map(code, silent[:_NAMES]))}{more}.\n"
    yield from figures(charts, "training")
    if missing := curves_missing(report.runs):
        yield f"{escape(missing)}\n"
    yield from _durations(report, trained)
    yield from estimates_part(report, charts)
    yield from packing_part(report)
    if attempts := tables.attempts(report):
        yield "### Attempts\n"
        yield to_markdown(attempts)


def _is_silent(run: RunResult) -> bool:
    """Return True if nothing was measured of a training."""
    figures = (run.final_train_loss, run.final_val_loss, run.train_seconds, run.tokens_per_second, run.peak_memory)
    return not run.steps_done and not run.attempt_list and all(isinstance(each, Missing) for each in figures)


def _losses(report: Report, trained: Sequence[_Trained]) -> Iterator[str]:
    speeds = [facts.tokens_per_second_per_gpu for _, facts in trained]
    token = shared(speeds, "token_unit")
    kind = shared([run.peak_memory for run, _ in trained], "kind")
    device = report.device
    header = (
        *(
            "run",
            "model",
            "settings",
            "epochs",
            "steps",
            "final train loss",
            "final val loss",
            "gap",
            "lowest val loss",
        ),
        f"{token + ' ' if token else ''}tokens/s per {device}",
        f"peak memory{f' ({kind})' if kind else ''}",
    )
    rows = [
        (
            code(run.name),
            escape(run.model),
            escape(facts.settings),
            _epochs(run),
            _steps(run),
            short(run.final_train_loss),
            short(run.final_val_loss),
            short(generalization_gap(run)),
            _lowest(run),
            _speed(facts.tokens_per_second_per_gpu, token is not None),
            memory_cell(run.peak_memory, kind is not None),
        )
        for run, facts in trained
    ]
    yield table(header, rows, right=(3, 4, 5, 6, 7, 8, 9, 10))
    yield " ".join(_legend([run for run, _ in trained], speeds)) + "\n"


def _legend(runs: Sequence[RunResult], speeds: Sequence[Measured]) -> Iterator[str]:
    """Yield the definitions of the columns, as the figures themselves state them."""
    train = _methods([run.final_train_loss for run in runs])
    yield f"Losses are means over the target tokens, in nats. Train loss: {train or 'as the log has it'}."
    yield f"Val loss: {_methods([run.final_val_loss for run in runs], 2) or 'as the log has it'}."
    yield "Gap: generalization gap, the final validation loss minus the final training loss."
    ways = _methods(speeds)
    sums = dict.fromkeys(each.aggregation for each in speeds if isinstance(each, Quantity) and each.aggregation)
    how = [*(each for each in sums if each not in ways), *([ways] if ways else [])]
    yield f"Tokens/s: {', '.join(how) or 'as the log has it'}."
    memory = [run.peak_memory for run in runs]
    phases = dict.fromkeys(each.phase for each in memory if isinstance(each, Quantity) and each.phase)
    if phases:
        words = {"step": "while steps ran", "after_init": "after initialisation", "eval": "during evaluation"}
        yield f"Peak memory: {', '.join(words[phase] for phase in phases)}."


def _methods(values: Sequence[Measured], most: int = 3) -> str:
    """Return the methods of figures. With many, only the first few."""
    ways = list(dict.fromkeys(each.method for each in values if isinstance(each, Quantity) and each.method))
    return escape("; ".join(ways[:most]) + (" ..." if len(ways) > most else ""))


def _durations(report: Report, trained: Sequence[_Trained]) -> Iterator[str]:
    header = ("run", "training steps", "validation", "saving", "evaluations", "all attempts", f"{report.device} time")
    rows = []
    for run, facts in trained:
        attempts = count(len(run.attempt_list), "attempt") if run.attempt_list else "n/a (none on record)"
        rows.append(
            (
                code(run.name),
                short(run.train_seconds),
                short(run.validation_seconds),
                short(run.saving_seconds),
                short(evaluation_seconds(run)),
                attempts,
                escape(duration(facts.device_hours)),
            )
        )
    for run, facts in zip(report.runs, report.facts, strict=True):
        if run.kind is RunKind.CONTROL:
            time = escape(duration(facts.device_hours))
            rows.append((code(run.name), "-", "-", "-", short(evaluation_seconds(run)), "-", time))
    yield "### Duration\n"
    yield table(header, rows, right=(1, 2, 3, 4, 6))
    times = "" if report.device != "GPU" else " times its GPUs"
    least = any(is_at_least(facts.device_hours) for facts in report.facts)
    yield (
        f"Wall time, as m:ss or h:mm:ss. {device_title(report.device)} time: of all attempts at the training{times}, "
        "start-up and lost work included, and of the evaluations."
        f"{' At least: an attempt whose length no file tells is not counted.' if least else ''}\n"
    )


def _epochs(run: RunResult) -> str:
    epochs = run.settings.get("epochs")
    return "n/a (not reported)" if epochs is None else str(epochs)


def _steps(run: RunResult) -> str:
    done = "n/a (not reported)" if run.steps_done is None else f"{run.steps_done:,}"
    return done if run.steps_planned is None else f"{done} of {run.steps_planned:,}"


def _lowest(run: RunResult) -> str:
    best = lowest(run.validation_losses)
    return "n/a (no validation)" if best is None else f"{best.loss:.4g} (step {best.step:,})"


def _speed(value: Measured, told: bool) -> str:
    known = finite(value)
    if isinstance(known, Missing):
        return escape(str(known))
    unit = "" if told or known.token_unit is None else f" {known.token_unit}"
    return f"{known.value:,.0f}{unit}" if known.value >= 100 else f"{known.value:.3g}{unit}"
