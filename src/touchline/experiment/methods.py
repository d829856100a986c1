"""Settings that do not go with `method: full`, with their places in the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.finding import Finding
from touchline.core.levels import STAGE
from touchline.experiment.document import Path, YamlDocument, error
from touchline.experiment.experiment import Experiment
from touchline.experiment.runs import RunSpec
from touchline.experiment.stages import stage_settings

_SAVE = "train.checkpoint.save"


def method_faults(runs: Sequence[RunSpec], experiment: Experiment, document: YamlDocument) -> list[Finding]:
    """Return an error for each setting of an adapter that is given to runs with `method: full`, and for each stage that
    would continue such a run.

    Keys of the file itself are for other runs, if there are any that train an adapter.

    Args:
        runs: fine-tuned runs.
        experiment: the experiment.
        document: where to point.
    """
    whole = [run for run in runs if run.train.trains_all]
    places: dict[str, Path] = {}
    if whole and len(whole) == len(runs):
        places |= {key: path for key, path in _written(document) if _of_adapter(key)}
    for run in whole:
        places |= {key: path for key, path in _own(run, experiment) if _of_adapter(key)}
    findings = [
        error(
            "EX003",
            key,
            f"{key} is given to a run with method: full, which has no adapter and saves the whole model",
            document.where(path),
            "take it out, or set method and rank together: pairs: [{train.method: full}, {train.lora.rank: 8}]",
        )
        for key, path in places.items()
    ]
    return findings + list(_stage_faults(runs, experiment, document))


def _stage_faults(runs: Sequence[RunSpec], experiment: Experiment, document: YamlDocument) -> Iterator[Finding]:
    trained = {run.name: run.train for run in runs}
    broken = {
        run.link.stage
        for run in runs
        if run.link is not None and (run.train.trains_all or trained[run.link.parent].trains_all)
    }
    for index, stage in enumerate(experiment.stages):
        if stage.name in broken:
            yield error(
                "EX003",
                "stages.continue",
                f"stage {stage.name} continues {stage.parent}, and one of them has method: full; only adapters are "
                "continued or merged",
                document.where(("stages", index, "continue")),
                "method: lora in both, or evaluate the trained model as `models: [.../epoch_N]` of a new experiment",
            )


def _of_adapter(key: str) -> bool:
    return key.startswith("train.lora.") or key == _SAVE


def _written(document: YamlDocument) -> Iterator[tuple[str, Path]]:
    """Yield the keys under `train` in the file and on the command line, with their places."""
    train = document.data.get("train")
    for key, value in train.items() if isinstance(train, dict) else ():
        for inner in value if isinstance(value, dict) else ():
            yield f"train.{key}.{inner}", ("train", key, inner)
    for path in document.overridden:
        yield ".".join(map(str, path)), path


def _own(run: RunSpec, experiment: Experiment) -> Iterator[tuple[str, Path]]:
    """Yield the keys that are set for a run alone: by a factor, a pair or its stage."""
    levels = {level.factor: level.value for level in run.levels}
    for key in levels:
        if key in experiment.factors:
            yield key, ("factors", key)
        for index, pair in enumerate(experiment.pairs):
            if key in pair and pair.get("train.method") == "full":
                yield key, ("pairs", index, key)
    for index, stage in enumerate(experiment.stages):
        if stage.name == levels.get(STAGE):
            for key in stage_settings(stage):
                yield key, ("stages", index, *key.split("."))
