"""Design of a plan in words: the summary line, and notes on controls."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from touchline.backends.registry import recipe_text
from touchline.core.levels import SEEDS, STAGE
from touchline.core.units import plural
from touchline.experiment.learning_rate import rate_text
from touchline.experiment.plan import Plan, PlannedRun


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
