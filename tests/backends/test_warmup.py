"""`train.warmup_steps`: every trainer's program raises the learning rate in as many steps as planned."""

import ast
import math
from collections.abc import Callable
from typing import Any

import pytest
from tests.cases import parametrize

from touchline.backends.package_files import package_text
from touchline.experiment.training import TrainConfig
from touchline.train.schedule import learning_rate

pytestmark = pytest.mark.planning
STEPS = 20


def function_of(backend: str, file: str, names: tuple[str, ...], **given: object) -> Callable[[int], float]:
    """Return a function of a program that trainers run, by its name and those of the functions around it."""
    nodes: list[ast.stmt] = ast.parse(package_text(backend, file)).body
    before: list[ast.stmt] = []
    for name in names:
        (found,) = (each for each in nodes if isinstance(each, ast.FunctionDef) and each.name == name)
        nodes = found.body
        before = [each for each in nodes if isinstance(each, ast.Assign)][:1] if name != names[-1] else before
    space: dict[str, Any] = {"math": math, **given}
    exec(compile(ast.Module([*before, found], []), file, "exec"), space)  # noqa: S102 (a file of this project)
    function: Callable[[int], float] = space[names[-1]]
    return function


@parametrize(
    "train, rising",
    (TrainConfig(warmup_fraction=0.1), 2),
    (TrainConfig(warmup_fraction=0.0), 0),
    (TrainConfig(warmup_steps=7), 7),
    (TrainConfig(warmup_fraction=0.5, warmup_steps=3), 3),
    (TrainConfig(warmup_steps=100), STEPS),
)
def test_the_rate_rises_in_as_many_steps_with_every_trainer(train: TrainConfig, rising: int) -> None:
    assert train.warmup(STEPS) == rising
    ours = [learning_rate(step, steps=STEPS, peak=1.0, warmup=rising, schedule=train.schedule) for step in range(STEPS)]
    assert all(ours[step] == (step + 1) / rising for step in range(rising))
    settings = {key: getattr(train, key) for key in ("warmup_fraction", "warmup_steps", "schedule")}
    recorded = function_of("", "hf_recorder.py.txt", ("factor",), TRAIN=settings, STEPS=STEPS)
    assert [recorded(step) for step in range(STEPS)] == ours
    given = {**settings, "warmup_steps": None if train.warmup_steps is None else rising}
    torchtune = function_of(
        "torchtune", "run_components.py.txt", ("planned_schedule", "factor"), num_training_steps=STEPS, **given
    )
    assert [torchtune(step) for step in range(STEPS)] == ours
