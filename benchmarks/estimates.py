"""Estimated against measured times: errors and coverage, beside the rules that people use, on the same rows.

    python benchmarks/estimates.py [--runs FILE] [--clock cpu|wall] [--verbose]

Without a file it makes the runs itself (`benchmarks/short_runs.py`, some minutes). Three questions are asked of them:
half of the runs predict the other half; two models predict the third; each run is predicted by all others. The rules:
`steps / it_per_s` takes the speed of an earlier run of the model as it is, whatever its batch; the scaling rule takes
that of another model times "3B is 2x slower, 7B 4 to 5x", which is the ratio of parameters to the power of 0.73.
Public rows from others follow: Qwen's README (A100), and litgpt's tables where TOUCHLINE_SAMPLES has them. Memory, and
both without any run: `benchmarks/held_out.py`. Both from one run: `benchmarks/one_log.py`.
Exit code 1: a goal was missed.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import held_out  # noqa: E402
from benchmarks.one_log import error, held, ratio  # noqa: E402
from benchmarks.short_runs import make  # noqa: E402
from tests.estimate.made_shapes import SHAPES  # noqa: E402
from tests.estimate.time_rows import cpu_runs, gpu_machine, public_rows  # noqa: E402

from touchline.core.estimate import Estimate, MicroBatch, TrainingSetup  # noqa: E402
from touchline.core.machine import TargetMachine  # noqa: E402
from touchline.core.quantity import Missing  # noqa: E402
from touchline.estimate.local.past_runs import ScoredEstimate, calibration, leave_one_out, score_step  # noqa: E402
from touchline.estimate.points import TimePoint  # noqa: E402
from touchline.estimate.time import seconds_per_step  # noqa: E402
from touchline.estimate.work import work_of  # noqa: E402

SPLITS = 20
SCALING = 0.73
"""log 2 / log 2.6: "3B is 2x slower than 1B", with 3.2 and 1.24 thousand million parameters."""
ALPACA_TOKENS = {1: 130, 2: 170, 4: 210}
"""Mean padded width of litgpt's rows by micro-batch: an assumption, since the table tells the longest example only."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure and what it must be."""

    words: str
    figure: float
    low: float
    high: float

    @property
    def met(self) -> bool:
        return self.low <= self.figure <= self.high


def answer(point: TimePoint, machine: TargetMachine, points: Sequence[TimePoint]) -> Estimate:
    """The estimate of a measured step from others."""
    found = seconds_per_step(point.setup, point.work, machine=machine, points=points)
    if isinstance(found, Missing):
        raise SystemExit(f"{point.name}: {found}")
    return found.estimate


def by_speed(point: TimePoint, points: Sequence[TimePoint], chooser: random.Random) -> float | None:
    """`steps / it_per_s` with the speed of an earlier run of the same model."""
    own = [other for other in points if other.setup.shape.name == point.setup.shape.name]
    return chooser.choice(own).seconds_per_step if own else None


def by_scaling(point: TimePoint, points: Sequence[TimePoint], chooser: random.Random) -> float | None:
    """The speed of an earlier run of another model, times the rule's factor for their sizes."""
    others = [other for other in points if other.setup.shape.name != point.setup.shape.name]
    if not others:
        return None
    other = chooser.choice(others)
    ratio = point.setup.shape.num_parameters / other.setup.shape.num_parameters
    return other.seconds_per_step * ratio**SCALING


def median_error(pairs: Iterable[tuple[float | None, float]]) -> float:
    """Median of the relative errors' sizes."""
    errors = [abs(predicted / actual - 1) for predicted, actual in pairs if predicted is not None]
    return statistics.median(errors) if errors else math.nan


def line(label: str, scored: Sequence[ScoredEstimate], rules: Sequence[float]) -> None:
    """One line of the table."""
    others = "".join(f"{rule:>9.0%}" if not math.isnan(rule) else f"{'-':>9}" for rule in rules)
    print(held_out.line(label, scored)[0] + others)


def head(title: str) -> None:
    """The table's head."""
    print(f"\n{title}", end="")
    held_out.head("", "it/s", "scaling")


Pick = Callable[[TimePoint], Sequence[TimePoint]]


def table(
    label: str, asked: Sequence[TimePoint], pick: Pick, machine: TargetMachine, chooser: random.Random
) -> list[ScoredEstimate]:
    """Ask for each run from what `pick` gives for it; a line of the table."""
    scored: list[ScoredEstimate] = []
    speed: list[tuple[float | None, float]] = []
    scaled: list[tuple[float | None, float]] = []
    for point in asked:
        known = pick(point)
        scored.append(score_step(point, answer(point, machine, known)))
        speed.append((by_speed(point, known, chooser), point.seconds_per_step))
        scaled.append((by_scaling(point, known, chooser), point.seconds_per_step))
    line(label, scored, (median_error(speed), median_error(scaled)))
    return scored


def halves(points: Sequence[TimePoint], machine: TargetMachine) -> list[ScoredEstimate]:
    """Half of the runs predict the other half, over many splits."""
    scored: list[ScoredEstimate] = []
    speed: list[tuple[float | None, float]] = []
    scaled: list[tuple[float | None, float]] = []
    for seed in range(SPLITS):
        chooser = random.Random(seed)  # noqa: S311 (which runs are known)
        known = chooser.sample(list(points), len(points) // 2)
        for point in points:
            if point not in known:
                scored.append(score_step(point, answer(point, machine, known)))
                speed.append((by_speed(point, known, chooser), point.seconds_per_step))
                scaled.append((by_scaling(point, known, chooser), point.seconds_per_step))
    line(f"half predicts half ({SPLITS} splits)", scored, (median_error(speed), median_error(scaled)))
    return scored


def own_runs(path: Path, clock: str, *, verbose: bool) -> list[Goal]:
    """The three questions on our own runs."""
    runs = cpu_runs(path, clock=clock)
    points, machine = runs.points, runs.machine
    models = list(dict.fromkeys(point.setup.shape.name for point in points))
    chooser = random.Random(0)  # noqa: S311
    head(f"{len(points)} short runs, {machine.key}, {clock}: error, coverage of 90 % intervals, error of the rules")
    table("nothing measured", points, lambda point: (), machine, chooser)
    half = halves(points, machine)
    unseen: list[ScoredEstimate] = []
    for model in models:
        known = [point for point in points if point.setup.shape.name != model]
        asked = [point for point in points if point.setup.shape.name == model]
        unseen += table(f"unseen size {model}", asked, lambda point, known=known: known, machine, chooser)  # type: ignore[misc]
    for count in (1, 2):
        scored: list[ScoredEstimate] = []
        for model in models:
            own = [point for point in points if point.setup.shape.name == model]
            for _ in range(SPLITS // 4):
                few = chooser.sample(own, count)
                scored += [score_step(p, answer(p, machine, few)) for p in own if p not in few]
        line(f"{count} run{'s' if count > 1 else ''} of the same model", scored, (math.nan, math.nan))
    left = leave_one_out(points, machine)
    line("each from all others", left, (math.nan, math.nan))
    if verbose:
        for each in left:
            mark = " " if each.held else "*"
            print(
                f"  {mark} {each.name:<24} measured {each.actual:8.4f} s, predicted {each.estimate.value:8.4f}"
                f" [{each.estimate.low:8.4f}, {each.estimate.high:8.4f}], {each.error:+.1%}, rung {each.estimate.rung}"
            )
    for row in calibration(left):
        rung = "all rungs" if row.rung is None else f"rung {row.rung}"
        print(f"  {rung}: {row.held} of {row.count} held, {row.too_low} too low, {row.too_high} too high")
    return [
        Goal(words="within a model, median error", figure=error(half), low=0, high=0.10),
        Goal(words="unseen size, median error", figure=error(unseen), low=0, high=0.20),
        Goal(words="half predicts half, coverage", figure=held(half), low=0.85, high=0.95),
        Goal(words="each from all others, coverage", figure=held(left), low=0.80, high=0.98),
        Goal(words="each from all others, median high/low", figure=ratio(left), low=1, high=2),
    ]


def a100() -> list[Goal]:
    """Public rows of one GPU."""
    rows, machine = public_rows(), gpu_machine()
    chooser = random.Random(0)  # noqa: S311
    head("public rows, A100-80GB")
    goals: list[Goal] = []
    for method in ("lora", "qlora"):
        points = [row.point for row in rows if row.source == "qwen" and row.point.setup.method == method]
        two: list[ScoredEstimate] = []
        speed: list[tuple[float | None, float]] = []
        for model in dict.fromkeys(point.setup.shape.name for point in points):
            own = [point for point in points if point.setup.shape.name == model]
            for known in itertools.combinations(own, 2):
                rest = [point for point in own if point not in known]
                two += [score_step(point, answer(point, machine, known)) for point in rest]
                speed += [(by_speed(point, known, chooser), point.seconds_per_step) for point in rest]
        line(f"two lengths, the other four, {method}", two, (median_error(speed), math.nan))
        unseen = table(
            f"held-out size, {method}",
            points,
            lambda point, points=points: [p for p in points if p.setup.shape.name != point.setup.shape.name],  # type: ignore[misc]
            machine,
            chooser,
        )
        if method == "lora":
            goals.append(Goal(words="Qwen, two lengths, median error", figure=error(two), low=0, high=0.10))
            goals.append(Goal(words="Qwen, held-out size, median error", figure=error(unseen), low=0, high=0.20))
    return goals


def litgpt(path: Path) -> None:
    """litgpt's tables: seconds of one of a thousand forward and backward passes; 128 rows a step."""
    names = {"phi-1.5": "phi-1.5", "StableLM Alpha": "StableLM-Alpha-3B"}
    sizes = {"7 B": "Llama-2-7B", "13 B": "Llama-2-13B"}
    points: list[TimePoint] = []
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.reader(stream):
            if row[0] != "Finetuning with LoRA on 1 GPU" or not row[-1].endswith("min") or row[3] == "bnb.nf4-dq":
                continue
            shape = SHAPES[sizes.get(row[1]) or names[row[2]]]
            rows, quantised = int(row[4]), row[3] != "None"
            batch = MicroBatch(rows=rows, width=ALPACA_TOKENS[rows], label_tokens=rows * ALPACA_TOKENS[rows])
            setup = TrainingSetup(
                shape=shape,
                backend="litgpt",
                method="qlora" if quantised else "lora",
                rank=8,
                target_modules=("q_proj", "v_proj") if "Llama" in shape.name else ("query_key_value",),
                base_dtype="bfloat16",
                adapter_dtype="bfloat16",
                dropout=0.05,
            )
            accumulation = 128 // rows
            points.append(
                TimePoint(
                    name=f"litgpt {shape.name} {setup.method} {rows}",
                    setup=setup,
                    machine="A100-40GB",
                    work=work_of([batch] * accumulation),
                    seconds_per_step=float(row[-1].split()[0]) * 60 / 1000 * accumulation,
                    steps=1000 // accumulation,
                )
            )
    machine, chooser = gpu_machine("A100-40GB"), random.Random(0)  # noqa: S311
    head(f"litgpt's tables, A100-40GB; widths assumed: {ALPACA_TOKENS}")
    table("nothing measured", points, lambda point: (), machine, chooser)
    lora = [point for point in points if point.setup.method == "lora"]
    table(
        "held-out size, lora",
        lora,
        lambda point: [p for p in lora if p.setup.shape.name != point.setup.shape.name],
        machine,
        chooser,
    )
    table("each from all others", points, lambda point: [p for p in points if p is not point], machine, chooser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; tell whether every goal was met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, help="a file of benchmarks/short_runs.py; none: make the runs now")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu", help="processor time, or wall time")
    parser.add_argument("--verbose", action="store_true", help="each run of the leave-one-out")
    options = parser.parse_args(arguments)
    clock = f"{options.clock}_seconds"
    if options.runs is not None:
        goals = own_runs(options.runs, clock, verbose=options.verbose)
    else:
        with tempfile.TemporaryDirectory() as text:
            path = Path(text) / "runs.json"
            path.write_text(json.dumps(make(Path(text), quick=False, threads=1)), encoding="utf-8")
            goals = own_runs(path, clock, verbose=options.verbose)
    goals += a100()
    tables = Path(os.environ.get("TOUCHLINE_SAMPLES", "")) / "est_litgpt_resource_tables.csv"
    if tables.is_file():
        litgpt(tables)
    else:
        print("\nlitgpt's tables: not read; TOUCHLINE_SAMPLES names no folder with est_litgpt_resource_tables.csv")
    print("\ngoals")
    for goal in goals:
        print(f"{'met   ' if goal.met else 'MISSED'} {goal.words}: {goal.figure:.3g} ({goal.low:g} to {goal.high:g})")
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
