"""Models and micro-batches that the self-test of a node measures."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.errors import InputError
from touchline.core.estimate import MicroBatch
from touchline.core.quantity import Missing
from touchline.core.shape import ModelShape
from touchline.data.shapes import load_config, shape_of_folder
from touchline.data.user_config import UserConfig
from touchline.history.probe import ProbedModel

SHAPES = {"135M": "SmolLM2-135M", "1B": "Llama-3.2-1B", "3B": "Llama-3.2-3B", "8B": "Llama-3.1-8B"}
"""Sizes, each with the public model whose dimensions it has; the weights are random."""
LABEL_FRACTION = 0.25
"""Fraction of the tokens that are labels."""
LADDER_WIDTH = {"cpu": 64, "gpu": 2048}
LADDER_SIZES = tuple(2**power for power in range(10))
RUNGS = {True: (1, 4), False: (1, 4, 16)}
"""Micro-batch sizes of the ladder on a CPU, by `quick`. One of them is that of the short steps: a try measures both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredModel:
    """Model that is measured."""

    label: str
    """`1B`, or the name of the user's model."""
    model: ProbedModel
    """Folder with its config.json."""
    shape: ModelShape
    """Dimensions."""
    real: bool = False
    """Whether its own weights are loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredBatch:
    """Micro-batch whose speed is measured."""

    name: str
    """`short` or `packed 2,048`."""
    rows: int
    width: int
    examples_per_row: int = 1

    @property
    def batch(self) -> MicroBatch:
        """Return the micro-batch."""
        labels = max(int(self.rows * self.width * LABEL_FRACTION), self.rows * self.examples_per_row)
        return MicroBatch(rows=self.rows, width=self.width, label_tokens=labels)


SHORT = {
    "cpu": MeasuredBatch(name="short", rows=4, width=LADDER_WIDTH["cpu"]),
    "gpu": MeasuredBatch(name="short", rows=32, width=64),
}
PACKED = {
    ("cpu", True): (MeasuredBatch(name="packed 192", rows=1, width=192, examples_per_row=4),),
    ("cpu", False): (MeasuredBatch(name="packed 1,024", rows=1, width=1024, examples_per_row=8),),
    ("gpu", True): (MeasuredBatch(name="packed 2,048", rows=4, width=2048, examples_per_row=8),),
    ("gpu", False): (
        MeasuredBatch(name="packed 2,048", rows=4, width=2048, examples_per_row=8),
        MeasuredBatch(name="packed 4,096", rows=2, width=4096, examples_per_row=16),
    ),
}


def write_public_model(label: str, name: str, folder: Path, settings: UserConfig) -> MeasuredModel:
    """Write the config.json of a public model, of which nothing else is needed."""
    place = folder / name
    place.mkdir()
    (place / "config.json").write_text(json.dumps(dict(load_config(name, settings.models_dir))), encoding="utf-8")
    return replace(read_model(place), label=label, real=False)


def read_model(folder: Path) -> MeasuredModel:
    """Read the dimensions of a model in a folder.

    Raises:
        InputError: the folder holds no model.
    """
    shape = shape_of_folder(folder)
    if isinstance(shape, Missing):
        raise InputError(f"the model {str(folder)!r}: {shape.missing}", expected="a folder with a config.json")
    path = folder.resolve()
    return MeasuredModel(
        label=path.name,
        model=ProbedModel(name=path.name, path=str(path)),
        shape=shape,
        real=any(path.glob("*.safetensors")),
    )
