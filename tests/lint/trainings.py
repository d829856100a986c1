"""Trainings made by hand, and what the rules say of them."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing
from touchline.data.shapes import load_shape
from touchline.experiment.partial import Stated, StatedSource, StatedTraining
from touchline.lint.rule import check_view
from touchline.lint.training import DataFacts, ModelContext, Surroundings, TrainingView

WHERE = Location(path="config.yaml", line=1)
PREFIXES = ("TR", "ME", "PK", "CK")
_COMMON: dict[str, Any] = {
    "method": "lora",
    "rank": 16,
    "alpha": 32.0,
    "micro_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "epochs": 1.0,
    "learning_rate": 2e-4,
    "max_seq_len": 2048,
    "packed": False,
    "dtype": "bfloat16",
    "gradient_checkpointing": False,
}


def stated(backend: str = "torchtune", **values: Any) -> StatedTraining:
    """A training; a value of None leaves a setting out."""
    fields = {**_COMMON, **values}
    sources = fields.pop("sources", ())
    said = {
        key: value if isinstance(value, Stated) else Stated(value, key, WHERE)
        for key, value in fields.items()
        if value is not None
    }
    return StatedTraining(backend=backend, where=WHERE, subject="run", sources=sources, **said)


@functools.cache
def model(name: str = "Llama-3.2-1B") -> ModelContext:
    shape = load_shape(name, Path("/nowhere"))
    return ModelContext(
        name=name,
        num_parameters=shape.num_parameters,
        source="catalogue",
        context_length=shape.context_length,
        shape=shape,
    )


def named(name: str, num_parameters: int | None) -> ModelContext:
    """A model of which nothing but a size is known."""
    return ModelContext(name=name, num_parameters=num_parameters, source="its name", shape=Missing(missing="no config"))


def source(split: str) -> StatedSource:
    """A dataset on a hub of which a split is taken."""
    return StatedSource(name=Stated("words", "dataset", WHERE), kind="hub", split=Stated(split, "split", WHERE))


def view(
    training: StatedTraining,
    *,
    base: ModelContext | Missing | None = None,
    rows: int | None = None,
    lengths: np.ndarray | None = None,
    validation: int | None = None,
    **around: Any,
) -> TrainingView:
    """A training with what is known around it: its model (Llama-3.2-1B), its rows or their lengths, `Surroundings`."""
    if lengths is not None:
        rows = len(lengths)
    data = (
        Missing(missing="it is not here")
        if rows is None
        else DataFacts(train_examples=rows, validation_examples=validation, lengths=lengths)
    )
    return TrainingView(
        stated=training, model=model() if base is None else base, data=data, around=Surroundings(**around)
    )


def found(seen: TrainingView) -> dict[str, Finding]:
    """What the rules of a training's arithmetic, memory and disk say, by code."""
    findings = [each for each in check_view(seen, WHERE, "run") if each.code[:2] in PREFIXES]
    by_code = {each.code: each for each in findings}
    assert len(by_code) == len(findings), [each.code for each in findings]
    return by_code


def severity(seen: TrainingView, code: str) -> Severity | None:
    """How grave the finding of that code is; None where there is none."""
    finding = found(seen).get(code)
    return None if finding is None else finding.severity
