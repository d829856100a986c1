"""What a plan decided, in words: its design, notes on controls and dtypes, and the defaults that had an effect."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence

from touchline.backends.planning import dtypes_of
from touchline.backends.registry import get_backend, recipe_text
from touchline.core.finding import Finding, Severity
from touchline.core.levels import SEEDS, STAGE
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Quantity
from touchline.core.text import first_of
from touchline.core.units import measured, plural
from touchline.experiment.plan import Assumption, Plan, PlannedRun
from touchline.experiment.settings import DEFAULTS
from touchline.experiment.training import rate_text

BACKEND = "train.backend"
_COSTS = 1.5
"""Time relative to the fast dtype above which a dtype is a warning."""
_SHOWN = 3


def dtype_findings(planned: Iterable[PlannedRun], machine: TargetMachine) -> Iterator[Finding]:
    """Yield a warning for each dtype that makes runs slower than the one that the machine is fast at."""
    slow: dict[str, list[PlannedRun]] = {}
    for run in planned:
        if _ratio(run) > _COSTS:
            slow.setdefault(_dtypes(run, machine)[0], []).append(run)
    for dtype, runs in slow.items():
        run, fast = max(runs, key=_ratio), machine.base_dtype
        assert run.train is not None
        assert run.fast_dtype_seconds is not None
        key = "train.lora.dtype" if run.train.base_dtype == "auto" else "train.base_dtype"
        yield Finding(
            code="TR057",
            severity=Severity.WARNING,
            subject=key,
            message=f"{dtype} takes {measured(run.train_seconds)} ({run.name}), {_ratio(run):.1f} times as long as "
            f"{fast}, {measured(run.fast_dtype_seconds)}; {key}={fast} is faster for "
            f"{first_of([each.name for each in runs], _SHOWN)}",
        )


def dtype_notes(plan: Plan) -> Iterator[str]:
    """Yield a note where the trainers that are compared have different dtypes."""
    found: dict[str, dict[str, None]] = {}
    for run in plan.runs:
        if run.train is not None and not run.train.trains_all:
            base, adapter = _dtypes(run, plan.machine)
            found.setdefault(run.train.backend, {})[f"base {base}, adapter {adapter}"] = None
    if BACKEND in plan.factors and len({tuple(each) for each in found.values()}) > 1:
        each = "; ".join(f"{name}: {' or '.join(dtypes)}" for name, dtypes in found.items())
        yield f"The trainers differ in dtype ({each}); train.base_dtype=float32 makes all of them equal"


def _dtypes(run: PlannedRun, machine: TargetMachine) -> tuple[str, str]:
    assert run.train is not None
    return dtypes_of(run.train, machine, get_backend(run.train.backend).capabilities)


def _ratio(run: PlannedRun) -> float:
    """Return the training time relative to that in the fast dtype; 0 if it is not known, or trained in it."""
    now, fast = run.train_seconds, run.fast_dtype_seconds
    return now.value / fast.value if isinstance(now, Quantity) and isinstance(fast, Quantity) else 0.0


_FROM_THE_FILE = ("data.train_fraction", "data.split_seed")
"""Settings that only apply if the dataset's file has no splits of its own."""


def assumptions(given: Collection[str], runs: Sequence[PlannedRun], *, splits_made: bool) -> tuple[Assumption, ...]:
    """Return one row for each default that had an effect.

    Args:
        given: the dotted keys that were written with a value, not with `auto`.
    """
    found = []
    for row in DEFAULTS:
        if row.key in given or (row.key in _FROM_THE_FILE and not splits_made):
            continue
        values = dict.fromkeys(text for run in runs if (text := _value(run, row.key)) is not None)
        found.append(Assumption(key=row.key, value=", ".join(values) or row.value, reason=row.reason))
    return tuple(found)


def _value(run: PlannedRun, key: str) -> str | None:
    """Return the value of a run under a dotted key as written in YAML. None if it has no such value."""
    node: object = run
    for part in key.split("."):
        node = getattr(node, part, None)
    if node is None or isinstance(node, dict):
        return None
    if isinstance(node, bool):
        return str(node).lower()
    if isinstance(node, float):
        return f"{node:g}"
    return ", ".join(str(item) for item in node) if isinstance(node, tuple) else str(node)


def design_line(plan: Plan) -> str:
    """Return `2 x 2 factorial (models, train.lora.rank); 4 fine-tuned + 2 controls = 6 runs`."""
    asked = plan.fine_tuned
    controls = len(plan.runs) - len(asked)
    # Seeds repeat a setting and stages follow each other; neither is asked about.
    varied = {name: levels for name, levels in plan.factors.items() if len(levels) > 1 and name not in (STAGE, SEEDS)}
    conditions = {tuple(sorted(found.items())) for run in asked if (found := _levels(run, varied))}
    follows = _following(varied, [dict(condition) for condition in conditions])
    crossed = {name: levels for name, levels in varied.items() if name not in follows}
    stages, seeds = len(plan.factors.get(STAGE, ())), len(plan.factors.get(SEEDS, ()))
    if not varied:
        kind = "one condition"
    elif len(crossed) == 1:
        kind = f"{len(conditions)} levels of {next(iter(crossed))}"
    elif len(conditions) == math.prod(map(len, crossed.values())):
        kind = f"{' x '.join(str(len(levels)) for levels in crossed.values())} factorial ({', '.join(crossed)})"
    else:
        kind = f"{len(conditions)} conditions of {', '.join(crossed)}, not fully crossed"
    kind += "".join(f"; {name} varies with {other}" for name, other in follows.items())
    if seeds > 1:
        kind += f", {seeds} seeds each"
    chained = f" in chains of {stages} stages" if stages > 1 else ""
    trained = f"{len(asked)} fine-tuned{chained}"
    runs = f"run{'s' if len(plan.runs) != 1 else ''}"
    if not controls:
        return f"{kind}; {len(asked)} fine-tuned {runs}{chained}, no control"
    return f"{kind}; {trained} + {plural(controls, 'control')} = {len(plan.runs)} {runs}"


def learning_rate_notes(plan: Plan) -> Iterator[str]:
    """Yield the learning rate that was left to `auto`, and its source."""
    rates = dict.fromkeys(
        (run.train.peak_learning_rate, run.learning_rate_reason)
        for run in plan.runs
        if run.train is not None and run.learning_rate_reason is not None
    )
    yield from (f"{rate_text(rate)} (auto: {reason})" for rate, reason in rates)


def _levels(run: PlannedRun, factors: Container[str]) -> dict[str, str]:
    return {level.factor: level.value for level in run.levels if level.factor in factors}


def _following(factors: Iterable[str], conditions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return each factor whose level is determined by another factor, as in `pairs`, with that factor."""
    found: dict[str, str] = {}
    for name in factors:
        for other in factors:
            if other == name or found.get(other) is not None:
                continue
            levels: dict[str | None, set[str | None]] = {}
            for condition in conditions:
                levels.setdefault(condition.get(other), set()).add(condition.get(name))
            mutual = len(levels) == len({next(iter(each)) for each in levels.values()})
            is_first = list(factors).index(name) < list(factors).index(other)
            if all(len(each) == 1 for each in levels.values()) and not (mutual and is_first):
                found[name] = other
                break
    return found


def recipe_notes(plan: Plan) -> Iterator[str]:
    """Yield the recipes that train the runs, for trainers that have recipes."""
    found = dict.fromkeys(recipe_text(run, plan) for run in plan.runs)
    if named := [text for text in found if text is not None]:
        yield f"Recipe: {'; '.join(named)}"


def quantization_notes(plan: Plan) -> Iterator[str]:
    """Yield notes on the base of evaluations: its devices and its form."""
    if plan.compute.evaluation_gpus > 1:
        yield (
            f"Evaluation: the layers of a base are divided among {plan.compute.evaluation_gpus} GPUs of a node; tested "
            "on CPU and disk, never on GPUs"
        )
    scored = {run.evaluate.quantization for run in plan.runs} - {"none"}
    for quantization in scored:
        yield f"Evaluation: all scores are on the {quantization} base, of runs and controls alike"
    used = {run.train.quantization: None for run in plan.runs if run.train is not None}
    for quantization in used:
        if quantization != "none":
            base = "same base as" if scored else "base in its own dtype, as"
            yield (
                f"Quantization: runs with {quantization} train and validate on the quantized base; their adapters are "
                f"evaluated on the {base} those of the other runs"
            )


def method_notes(plan: Plan) -> Iterator[str]:
    """Yield a note on the weights that are trained, for each dtype in which all of them are."""
    sizes = ", ".join(f"{model.num_parameters:,} of {model.name}" for model in plan.models.values())
    used = {run.train.trained_dtype: None for run in plan.runs if run.train is not None and run.train.trains_all}
    for dtype in used:
        rounded = " (a change below 1/256 of a weight is lost to rounding)" if dtype == "bfloat16" else ""
        yield (
            f"Method: full trains all parameters ({sizes}) in {dtype}{rounded}; every checkpoint is the whole model in "
            "that dtype"
        )
