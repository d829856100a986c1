"""View of the rules on an experiment's design: its file, runs and datasets; rules on the power of its evaluation."""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from touchline.backends.facts import TrainerTraits
from touchline.backends.registry import traits_of
from touchline.core.catalog import DatasetInfo
from touchline.core.finding import Location, Severity
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.experiment.document import Path, YamlDocument
from touchline.experiment.evaluation import asked_items
from touchline.experiment.experiment import Experiment
from touchline.experiment.runs import RunKind, RunSpec
from touchline.experiment.training import TrainConfig
from touchline.experiment.validate import adapter
from touchline.lint.rule import Violation, rule
from touchline.statistics.closed_forms import (
    ENOUGH_SEEDS,
    USUAL_FLIPS,
    items_for_paired_difference,
    smallest_seed_difference,
)

NO_DATASET = Missing(missing="the dataset was not read")

MODEL = "models"
"""Keys of the base model in pairs and levels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """Facts of a dataset."""

    train: int
    """Number of training rows."""
    validation: int
    """Number of validation rows."""
    test: int
    """Number of test rows."""
    train_sha256: str
    """Hash of the training rows in their order."""
    row_set_sha256: str | Missing = NO_DATASET
    """Hash of the training rows in any order, as `row_set_sha256` computes it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DesignView:
    """View of an experiment."""

    experiment: Experiment
    document: YamlDocument
    runs: tuple[RunSpec, ...]
    """Runs; for a chain, the runs without its stages on the data of the last one."""
    datasets: Mapping[str, DatasetFacts | Missing]
    """Facts of each dataset, by its path as written."""
    chained: tuple[RunSpec, ...] = ()
    """Runs of the stages; empty if the stages are not a chain."""

    def where(self, *path: str | int) -> Location:
        """Return the location of a key."""
        return self.document.where(path)

    @property
    def trained(self) -> tuple[RunSpec, ...]:
        """Return the runs that train, without controls."""
        return tuple(run for run in self.runs if run.kind is RunKind.FINE_TUNED and run.control is None)

    def dataset(self, path: str) -> DatasetFacts | None:
        """Return the facts of a dataset. None if it was not read."""
        found = self.datasets.get(path, NO_DATASET)
        return None if isinstance(found, Missing) else found


@dataclass(frozen=True, kw_only=True, slots=True)
class SweptLevel:
    """Value of a swept key."""

    value: object
    """Value as in the file."""
    place: Path


def dataset_facts(info: DatasetInfo, row_set: str | Missing = NO_DATASET) -> DatasetFacts:
    """Collect the facts of a dataset that rules on designs need."""
    splits = {split.name: split for split in info.splits}
    sizes = {name: split.num_examples for name, split in splits.items()}
    return DatasetFacts(
        train=sizes.get("train", 0),
        validation=sizes.get("validation", 0),
        test=sizes.get("test", 0),
        train_sha256=splits["train"].sha256 if "train" in splits else "",
        row_set_sha256=row_set,
    )


def row_set_sha256(rows: Iterable[Mapping[str, object]]) -> str:
    """Hash rows so that their order does not matter; a doubled row counts twice."""
    each = sorted(hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).digest() for row in rows)
    return hashlib.sha256(b"".join(each)).hexdigest()


def swept(view: DesignView) -> dict[str, tuple[SweptLevel, ...]]:
    """Collect what `factors` and `pairs` vary, each level once, in order of appearance."""
    found: dict[str, list[SweptLevel]] = {}

    def add(key: str, value: object, place: Path) -> None:
        levels = found.setdefault(key, [])
        if all(_text(level.value) != _text(value) for level in levels):
            levels.append(SweptLevel(value=value, place=place))

    for key, values in view.experiment.factors.items():
        for index, value in enumerate(values):
            add(key, value, ("factors", key, index))
    for index, pair in enumerate(view.experiment.pairs):
        for key, value in pair.items():
            add(key, model_of(value) if key == MODEL else value, ("pairs", index, key))
    return {key: tuple(levels) for key, levels in found.items()}


def model_of(value: object) -> object:
    """Return the model of an entry of pairs, which may be a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def place_of(view: DesignView, key: str) -> Location:
    """Return the location of a swept key."""
    if key in view.experiment.factors:
        return view.where("factors", key)
    index = next((i for i, pair in enumerate(view.experiment.pairs) if key in pair), 0)
    return view.where("pairs", index, key)


def no_effect_on_weights(view: DesignView, key: str) -> str | None:
    """Describe what a swept key changes instead of the weights, if so in every run's backend."""
    if key.startswith("evaluate."):
        return "only the evaluation"
    effects = {traits_of(run.train.backend).neutral_effect(key) for run in view.trained}
    return next(iter(effects)) if len(effects) == 1 else None


def setting_of(run: RunSpec, key: str) -> object:
    """Return a run's value of a dotted key."""
    if key == MODEL:
        return run.model
    node: object = run
    for part in key.split("."):
        node = getattr(node, part)
    return node


def same_path(path: str) -> str:
    """Normalize a path."""
    return posixpath.normpath(path)


def work_digest(run: RunSpec, datasets: Mapping[str, DatasetFacts | Missing]) -> str:
    """Return a digest that is equal for runs that train the same weights.

    It omits names and settings that the backend does not use. Data that was read counts by its rows, other data by its
    path.
    """
    traits = traits_of(run.train.backend)
    facts = datasets.get(run.data.file, NO_DATASET)
    of_rows = run.data.as_file(same_path(run.data.file) if isinstance(facts, Missing) else facts.train_sha256)
    data = adapter(type(run.data)).dump_python(of_rows, mode="json")
    if not isinstance(facts, Missing):
        data |= {"split_seed": None, "train_fraction": None}
    identity = [run.kind, same_path(run.model), data, dict(_weights_settings(run.train, traits)), run.seed]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _weights_settings(train: TrainConfig, traits: TrainerTraits) -> Iterator[tuple[str, object]]:
    lora = train.lora
    modules = tuple(sorted(lora.target_modules))
    whole = replace(train, lora=replace(lora, alpha=lora.resolved_alpha, target_modules=modules))
    yield from _flat(adapter(TrainConfig).dump_python(whole, mode="json"), "train", traits)


def _flat(node: Mapping[str, object], prefix: str, traits: TrainerTraits) -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        key = f"{prefix}.{name}"
        if traits.neutral_effect(key) is not None:
            continue
        if isinstance(value, dict):
            yield from _flat(value, key, traits)
        else:
            yield key, value


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


_NUMBER = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)[ -]?(?:%|percent(?:age points?)?\b|points?\b|pp\b)",
    re.IGNORECASE,
)
_CHANGE = re.compile(
    r"\b(improv\w*|increas\w*|rais\w*|gain\w*|better|worse|differ\w*|effect\w*|drop\w*|los[es]\w*|lower\w*|higher|"
    r"chang\w*|reduc\w*|add\w*|win\w*)\b",
    re.IGNORECASE,
)
_A_LEVEL = re.compile(r"\b(to|from|of|at|on|with|reach\w*|accuracy of|score of|over|above|below)\s*$", re.IGNORECASE)
_A_CHANGE_OF = re.compile(
    r"\b(gain|improvement|increase|difference|effect|drop|loss|change|reduction)s? of( at least)?\s*$", re.IGNORECASE
)
_A_PART = re.compile(r"^\s*(of\b|out\b|dropout|train\w*|data\b)", re.IGNORECASE)
_LARGEST_EFFECT = 0.5
_FAR_FROM = 2
"""Factor by which the required items are usually underestimated, so that a shortage is certain."""
_FEW_ITEMS = 50
_FEW_VALIDATION_ROWS = 20


@rule("EX108", Severity.INFO)
def _few_seeds(view: DesignView) -> Iterator[Violation]:
    count, strategy = len(view.experiment.seeds), view.experiment.strategy
    if strategy is not None and strategy.confirm is not None:
        return  # its seeds are those of the looks
    if count >= ENOUGH_SEEDS or not any(len(levels) > 1 for levels in swept(view).values()):
        return
    unit, enough = "standard deviations between seeds", f"{ENOUGH_SEEDS} seeds detect {detectable(ENOUGH_SEEDS)}"
    yield Violation(
        message=f"one seed compares checkpoints, not settings ({enough} {unit}, 80% power)"
        if count == 1
        else f"{count} seeds detect {detectable(count)} {unit} ({enough}, 80% power)",
        at=view.where("seeds"),
        subject="seeds",
        # A stated effect refers to the setting, and one seed cannot show it.
        severity=Severity.WARNING if count == 1 and stated_effect(view.experiment.question) is not None else None,
        hint="seeds: [1, 2, 3]" if strategy is None else "strategy.confirm, with fresh seeds",
    )


def detectable(seeds: int) -> str:
    """Return the smallest difference that so many seeds detect, in standard deviations between seeds."""
    return f"{smallest_seed_difference(seeds) or math.inf:.2g}"


@rule("EX109", Severity.WARNING)
def _too_few_items_for_effect(view: DesignView) -> Iterator[Violation]:
    effect, items = stated_effect(view.experiment.question), _test_items(view)
    if effect is None or items is None:
        return
    least = items_for_paired_difference(effect, effect)
    usual = items_for_paired_difference(effect, max(effect, USUAL_FLIPS))
    if items < least or items * _FAR_FROM < usual:
        message = f"{items:,} test items cannot show the {100 * effect:g} points of the question (80% power, 5% level)"
        hint = f"evaluate {least:,} items or more, {usual:,} if {100 * max(effect, USUAL_FLIPS):g}% are discordant"
        yield Violation(message, _items_place(view), hint, subject="evaluate.samples")


@rule("EX110", Severity.INFO)
def _minimum_detectable_difference(view: DesignView) -> Iterator[Violation]:
    effect, items = stated_effect(view.experiment.question), _test_items(view)
    if items is None or items < 1 or not any(len(levels) > 1 for levels in swept(view).values()):
        return
    from touchline.statistics.closed_forms import smallest_in_points

    if effect is None:
        yield Violation(
            f"{plural(items, 'test item')}: the minimum detectable difference of one comparison (80% power) is "
            f"{smallest_in_points(items, USUAL_FLIPS)} if {100 * USUAL_FLIPS:g}% are discordant",
            _items_place(view),
            subject="evaluate.samples",
        )


@rule("EX115", Severity.WARNING)
def _few_test_items(view: DesignView) -> Iterator[Violation]:
    items = _test_items(view)
    if items is not None and 0 < items < _FEW_ITEMS:
        message = (
            f"{plural(items, 'test item')}: the 95% interval of a score near 50% is about ±{98 / items**0.5:.0f} points"
        )
        hint = "evaluate: {samples: all}" if _all_test_rows(view) >= _FEW_ITEMS else "add test rows"
        yield Violation(message, _items_place(view), hint, subject="evaluate.samples")


@rule("EX116", Severity.ERROR)
def _best_checkpoint_selection(view: DesignView) -> Iterator[Violation]:
    key = "train.checkpoint.keep"
    place = place_of(view, key) if key in swept(view) else view.where(*key.split("."))
    asked = {run.data.file: (key, place) for run in view.trained if run.train.checkpoint.keep == "best"}
    runs = {run.name: run for run in view.chained}
    for link in (run.link for run in view.chained):
        if link is not None and link.parent_checkpoint == "best":
            index = [stage.name for stage in view.experiment.stages].index(link.stage)
            key = "parent_checkpoint"
            asked.setdefault(runs[link.parent].data.file, (f"stages.{key}", view.where("stages", index, key)))
    for path, (key, place) in asked.items():
        facts = view.dataset(path)
        if facts is None or facts.validation >= _FEW_VALIDATION_ROWS:
            continue
        message = (
            f"{key} is best, and {path} has "
            + (f"only {facts.validation} validation rows" if facts.validation else "no validation rows")
            + " to choose by"
        )
        hint = f"set {key.rpartition('.')[2]}: {'all' if key.endswith('keep') else 'last'}, or add validation rows"
        yield Violation(message, place, hint, subject=key, severity=None if facts.validation == 0 else Severity.WARNING)


@rule("EX119", Severity.ERROR)
def _evaluated_epoch_not_trained(view: DesignView) -> Iterator[Violation]:
    for run in view.trained:
        wanted = run.evaluate.epochs
        if isinstance(wanted, str) or all(epoch < run.train.epochs for epoch in wanted):
            continue
        beyond = ", ".join(str(epoch) for epoch in wanted if epoch >= run.train.epochs)
        message = f"{run.name} has the epochs 0 to {run.train.epochs - 1}, and evaluate.epochs names {beyond}"
        hint = f"evaluate: {{epochs: [{run.train.epochs - 1}]}}, or last"
        yield Violation(message, view.where("evaluate", "epochs"), hint, subject="evaluate.epochs")
        return


def stated_effect(question: str) -> float | None:
    """Parse the effect that a question names, as a share: 0.05 of `improve accuracy by 5 points`. None if none.

    A number counts only beside a word of change, and not where it is a level (`to 90%`) or a part (`5% of the data`).
    """
    for found in _NUMBER.finditer(question):
        before, after = question[: found.start()], question[found.end() :]
        value = float(found[1]) / 100
        level = _A_LEVEL.search(before) is not None and _A_CHANGE_OF.search(before) is None
        if level or _A_PART.match(after) or not 0 < value <= _LARGEST_EFFECT:
            continue
        if _CHANGE.search(before) or _CHANGE.search(after):
            return value
    return None


def _test_items(view: DesignView) -> int | None:
    counts: list[int] = []
    for run in view.runs:
        facts, samples = view.dataset(run.data.file), run.evaluate.samples
        if facts is not None:
            counts.append(asked_items(run.evaluate, facts.test))
        elif samples != "all":
            counts.append(samples)
    return min(counts, default=None)


def _all_test_rows(view: DesignView) -> int:
    facts = (view.dataset(run.data.file) for run in view.runs)
    return min((each.test for each in facts if each is not None), default=0)


def _items_place(view: DesignView) -> Location:
    written = view.document.data.get("evaluate")
    return (
        view.where("evaluate", "samples") if isinstance(written, dict) and "samples" in written else view.where("data")
    )
