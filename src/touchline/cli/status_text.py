"""A run's standing as cells of a table and as one line; the same words on a terminal, in a pipe and in a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from touchline.core.quantity import Measured, Missing, number_of
from touchline.core.units import between, format_bytes, format_seconds, plural

if TYPE_CHECKING:
    from touchline.results.live_status import LiveRun

HEADER = ("run", "status", "job", "step", "last loss", "tokens/s", "memory", "left (low to high)", "waits for", "flags")
_ALWAYS = ("run", "status", "step")
_LEAST_FIRST = ("memory", "tokens/s", "job", "curve", "last loss", "waits for", "left (low to high)", "flags")
"""Columns that a narrow terminal leaves out, the least important first."""
_GAP = 2
LOCAL = "local-"
"""Beginning of the ids of jobs on this machine, which no scheduler knows."""
SHOWN_RUNS = 3
"""Names of runs that one flag lists before it counts the others."""
SHOWN_MESSAGES = 5
"""Sentences of one code before the others are counted: figures differ from run to run."""
_ORDER = {"error": 0, "warning": 1, "info": 2}


def cells(run: LiveRun) -> tuple[str, ...]:
    """Return a row of the table."""
    return (
        run.name,
        run.status.value,
        job(run),
        steps(run),
        loss(run),
        rate(run),
        memory(run),
        left(run),
        run.queue_reason or "-",
        " ".join(dict.fromkeys(flag.code for flag in run.flags)) or "-",
    )


def fitting_columns(rows: Sequence[Sequence[str]], width: int, header: Sequence[str] = HEADER) -> list[int]:
    """Return the columns of a header that fit side by side, in their order.

    Columns without a value are left out first, then the least important ones, until the rest fits. The run, its status
    and its steps always stay.

    Args:
        rows: the cells of every run.
    """
    kept = [n for n, name in enumerate(header) if name in _ALWAYS or any(row[n] != "-" for row in rows)]
    widths = [max([len(name), *(len(row[n]) for row in rows)]) + _GAP for n, name in enumerate(header)]
    for name in _LEAST_FIRST:
        if sum(widths[n] for n in kept) <= width:
            break
        kept = [n for n in kept if header[n] != name]
    return kept


def job(run: LiveRun) -> str:
    """Return the job of a scheduler as `76 RUNNING` or `eval 77 PENDING`, with the number of starts if above one."""
    view, what = run.job, ""
    if run.evaluation is not None and (view is None or not view.active):
        view, what = run.evaluation, "eval " if run.job is not None else ""
    if view is None:
        return "-" if run.job_state is None else run.job_state.value
    if view.job_id.startswith(LOCAL):
        return "-"
    again = f" (attempt {run.attempts})" if run.attempts > 1 and view is run.job else ""
    return f"{what}{view.job_id} {view.state.value}{again}".strip()


def steps(run: LiveRun) -> str:
    """Return steps as `40/100`; for an active evaluation, its items."""
    if run.items_planned is not None and not (run.job is not None and run.job.active):
        return f"{run.items_done}/{run.items_planned} items"
    return "-" if run.steps_planned is None else f"{run.steps_done or 0}/{run.steps_planned}"


def loss(run: LiveRun) -> str:
    """Return the loss with four digits, or a word if it is not a number."""
    value = number_of(run.loss)
    if value is not None:
        return f"{value:.4g}"
    return "NaN" if any(flag.code == "RN100" for flag in run.flags) else "-"


def rate(run: LiveRun) -> str:
    """Return tokens per second."""
    value = number_of(run.tokens_per_second)
    return "-" if value is None else f"{value:,.0f}"


def memory(run: LiveRun) -> str:
    """Return the peak memory so far."""
    value = number_of(run.memory)
    return "-" if value is None else format_bytes(value)


def left(run: LiveRun) -> str:
    """Return the time left as `4:41 (4:10 to 5:20)`."""
    return with_interval(run.seconds_left, "") or "-"


def with_interval(seconds: Measured, word: str) -> str:
    """Return `4:41 left (4:10 to 5:20)` with a word behind the value; empty if it is missing."""
    if isinstance(seconds, Missing):
        return ""
    return f"{format_seconds(seconds.value)} {word}".rstrip() + between(seconds.low, seconds.high, format_seconds)


def line(run: LiveRun) -> str:
    """Return one run as one line, for a log."""
    parts = [run.name, run.status.value, steps(run)]
    parts += [f"loss {loss(run)}"] if loss(run) != "-" else []
    parts += [f"{rate(run)} tokens/s"] if rate(run) != "-" else []
    parts += [f"{left(run)} left"] if run.status.value == "running" and left(run) != "-" else []
    parts += [f"waits for {run.queue_reason}"] if run.queue_reason else []
    return "  ".join(part for part in parts if part != "-")


def counts(runs: Sequence[LiveRun]) -> str:
    """Return counts as `6 runs: 3 completed · 2 running · 1 queued`."""
    found = Counter(run.status.value for run in runs)
    listed = " · ".join(f"{count} {status}" for status, count in found.most_common())
    return f"{plural(len(runs), 'run')}: {listed}"


def flag_lines(runs: Sequence[LiveRun]) -> list[tuple[str, str, str]]:
    """Return (severity, sentence, hint) of the flags; shared ones once, and a few of each code."""
    shared: dict[tuple[str, str, str], list[str]] = {}
    hints: dict[tuple[str, str, str], str] = {}
    for run in runs:
        for flag in run.flags:
            key = (flag.severity.value, flag.code, flag.message)
            shared.setdefault(key, []).append(run.name)
            hints.setdefault(key, flag.hint or "")
    lines: list[tuple[str, str, str]] = []
    printed: Counter[tuple[str, str]] = Counter()
    untold: Counter[tuple[str, str]] = Counter()
    for key in sorted(shared, key=lambda key: (_ORDER.get(key[0], len(_ORDER)), key[1])):
        severity, code, message = key
        names = shared[key]
        if printed[severity, code] == SHOWN_MESSAGES:
            untold[severity, code] += len(names)
            continue
        printed[severity, code] += 1
        more = f" and {len(names) - SHOWN_RUNS} more" if len(names) > SHOWN_RUNS else ""
        lines.append((severity, f"{', '.join(names[:SHOWN_RUNS])}{more}: {severity} {code}: {message}", hints[key]))
    for (severity, code), count in untold.items():
        lines.append((severity, f"{count} more with {severity} {code}: the column `flags` names them", ""))
    return lines
