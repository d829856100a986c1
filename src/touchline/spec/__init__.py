"""experiment.yaml to an `Experiment`, and an `Experiment` to its runs."""

from touchline.spec.expand import expand
from touchline.spec.names import ModelLabel, label_of
from touchline.spec.overlay import with_settings
from touchline.spec.read import LoadedExperiment, read_experiment, read_settings

__all__ = [
    "LoadedExperiment",
    "ModelLabel",
    "expand",
    "label_of",
    "read_experiment",
    "read_settings",
    "with_settings",
]
