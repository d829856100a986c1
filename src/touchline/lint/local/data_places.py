"""Place of a run's dataset in experiment.yaml, and what its separate files lack there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from touchline.core.catalog import DatasetInfo
from touchline.core.finding import Finding, Location
from touchline.core.levels import STAGE
from touchline.data.data_files import WITHOUT_TEST
from touchline.experiment.document import error
from touchline.experiment.read import LoadedExperiment
from touchline.experiment.runs import RunKind, RunSpec
from touchline.experiment.stages import stage_places


def place_of_data(spec: RunSpec, loaded: LoadedExperiment) -> Location:
    """Return the location of a run's dataset."""
    stage = next((level.value for level in spec.levels if level.factor == STAGE), None)
    own = {} if stage is None else stage_places(loaded.document, stage)
    key = spec.data.file_key
    return loaded.document.where(own.get(key, key.split(".")))


def findings_of_files(
    info: DatasetInfo, first: Mapping[str, str], users: Sequence[RunSpec], loaded: LoadedExperiment
) -> Iterator[Finding]:
    """Yield the findings of a dataset. That it has no test rows is one only for runs that are evaluated.

    Args:
        first: `DataConfig.files` of the first runs with its training file; that file names the dataset.
    """
    place = place_of_data(users[0], loaded)
    evaluated = [spec for spec in users if spec.kind is RunKind.CONTROL or spec.evaluate.epochs != ()]
    for finding in info.findings:
        if finding.subject != WITHOUT_TEST:
            yield finding
        elif evaluated:
            yield replace(finding, where=place)
    files = users[0].data.files
    if list(files.items()) != list(first.items()):
        key = next(key for key in (*first, *files) if first.get(key) != files.get(key))
        one, other = (each.get(key, "no file") for each in (first, files))
        message = f"{users[0].data.file} is used with {one} and with {other} as {key}"
        hint = "make one experiment for each, or copy the training file under another name"
        yield error("EX003", key, message, place, hint)
