"""Checks of an experiment against this machine: layers of the model, lengths of answers, stages' rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from touchline.backends.protocol import ExampleLengths
from touchline.core.errors import TouchlineError
from touchline.core.finding import Finding, Severity
from touchline.data.datasets import load_examples, split_names
from touchline.data.weights import read_shards
from touchline.experiment.experiment import DataConfig, is_test
from touchline.experiment.runs import RunKind
from touchline.lint.local.inputs import ResolvedInputs
from touchline.plan.build import data_key

_SOME = 0.01
_MOST = 0.5


def module_findings(seen: ResolvedInputs) -> Iterator[Finding]:
    """Yield `target_modules` that are not layers of the model. peft skips them, and stops if none is one."""
    reported: set[tuple[str, tuple[str, ...]]] = set()
    for spec in seen.specs:
        model, wanted = seen.models.get(spec.model), tuple(spec.train.lora.target_modules)
        if model is None or (spec.model, wanted) in reported or spec.kind is not RunKind.FINE_TUNED:
            continue
        reported.add((spec.model, wanted))
        ignored: list[Finding] = []
        names = {
            name.removesuffix(".weight") for shard in read_shards(Path(model.path), ignored) for name in shard.tensors
        }
        if not names or ignored or wanted == ("all-linear",):
            continue
        lacking = [each for each in wanted if not any(name == each or name.endswith(f".{each}") for name in names)]
        layers = {name.rpartition(".")[2] for name in names if "norm" not in name and "embed" not in name}
        if lacking:
            yield Finding(
                code="EX180",
                severity=Severity.ERROR if len(lacking) == len(wanted) else Severity.WARNING,
                subject="train.lora.target_modules",
                message=f"{', '.join(map(repr, lacking))}: {model.name} has no such layer; it has"
                f" {', '.join(sorted(layers)[:12])}",
                where=seen.loaded.document.where(["train", "lora", "target_modules"]),
            )


def answer_findings(seen: ResolvedInputs, lengths: Mapping[tuple[str, str], ExampleLengths]) -> Iterator[Finding]:
    """Yield answers that evaluation truncates at `max_new_tokens`: of the test files, else of the training split."""
    reported: set[tuple[str, str, int]] = set()
    for spec in seen.specs:
        key, limit = (spec.model, data_key(spec.data)), spec.evaluate.max_new_tokens
        found = lengths.get(key)
        if found is None or (*key, limit) in reported or not len(found.answer):
            continue
        reported.add((*key, limit))
        what, answers = ("training" if found.of_tests is None else "test"), found.asked.answer
        # The stop token that the lengths count need not be written.
        cut = float(np.mean(answers.astype(np.int64) - 1 > limit))
        if cut > _SOME:
            yield Finding(
                code="EX181",
                severity=Severity.ERROR if cut > _MOST else Severity.WARNING,
                subject="evaluate.max_new_tokens",
                message=f"evaluation stops after {limit:,} tokens, and {cut:.0%} of the {what} answers are longer, up"
                f" to {int(answers.max()) - 1:,}",
                where=seen.loaded.document.where(["evaluate", "max_new_tokens"]),
                hint=f"max_new_tokens: {int(answers.max())}",
            )


def stage_leaks(seen: ResolvedInputs) -> Iterator[Finding]:
    """Yield questions of a stage's test split that another stage trains on."""
    if not seen.loaded.experiment.stages:
        return
    data = {data_key(spec.data): spec.data for spec in seen.specs if spec.data.file in seen.datasets}
    trains = {key: _questions(each, ("train",), seen.root) for key, each in data.items()}
    tests = {key: _questions(each, _tests(each), seen.root) for key, each in data.items()}
    for (first, trained), (second, tested) in itertools.permutations(data.items(), 2):
        if trained.file == tested.file:
            continue
        known, asked = trains[first], tests[second]
        both = [question for question in asked if question in known]
        if both:
            yield Finding(
                code="EX182",
                severity=Severity.ERROR,
                subject="stages",
                message=f"{len(both):,} of the {len(asked):,} test questions of"
                f" {', '.join(tested.test_sets.values()) or tested.file} are training rows of {trained.file}, which"
                f" another stage trains on, for example {both[0][-60:]!r}",
                where=seen.loaded.document.where(["stages"]),
                hint="take these rows out of one of the two files",
            )


def _tests(data: DataConfig) -> list[str]:
    return [name for name in split_names(data) if is_test(name)]


def _questions(data: DataConfig, splits: Sequence[str], root: Path) -> dict[str, None]:
    try:
        return {each.prompt[-1].content: None for split in splits for each in load_examples(data, split, root)}
    except TouchlineError:
        return {}
