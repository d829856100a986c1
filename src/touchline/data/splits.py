"""Splits of a dataset: those of its file, random ones, or a file each; and rows that are in several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from touchline.core.catalog import SEPARATE_FILES, SPLITS_IN_FILE, Example, Message, SplitInfo
from touchline.core.finding import Finding, Location, Severity
from touchline.core.text import shorten
from touchline.data.data_files import FoundFiles
from touchline.data.readers import WHOLE, RawDataset, SourceRow
from touchline.experiment.data_config import DataConfig, is_test, shown_split, split_of
from touchline.experiment.tasks.capitalization import split_sizes

SPLITS = ("train", "validation", "test")
WITHOUT_TEST = "data.test"
"""Subject of the error that there are no test rows, which a training does not need."""
_QUOTED = 60
"""Characters of a text that a message shows."""
_SHOWN = 3


def file_splits(
    raw: RawDataset, data: DataConfig, path: Path, findings: list[Finding]
) -> tuple[dict[str, list[SourceRow]], str]:
    """Return the file's splits, train first, or random ones by `split_seed`, and their origin in words."""
    if WHOLE not in raw.splits:
        found = {name: raw.splits[name] for name in SPLITS if name in raw.splits}
        findings += _faults_of_splits(found, path)
        return found, SPLITS_IN_FILE
    rows = raw.splits[WHOLE]
    train, validation, test = split_sizes(len(rows), data.train_fraction)
    if min(train, test) < 1:
        count = "1 row is" if len(rows) == 1 else f"{len(rows)} rows are"
        message = f"{count} too few to split at train_fraction {data.train_fraction:g}"
        findings.append(dataset_error("DA104", path, message, "give more rows, or a file with splits"))
        return {"train": rows}, "none"
    order = np.random.Generator(np.random.PCG64(data.split_seed)).permutation(len(rows))
    shuffled = [rows[index] for index in order]
    made = {"train": shuffled[:train]}
    if validation:
        made["validation"] = shuffled[train : train + validation]
    made["test"] = shuffled[train + validation :]
    return made, f"random {train}/{validation}/{test} of the whole file, seed {data.split_seed}"


def _faults_of_splits(rows: Mapping[str, Sequence[SourceRow]], path: Path) -> Iterable[Finding]:
    for name in ("train", "test"):
        if name not in rows:
            present = ", ".join(rows) or "none"
            message = f"the split {name} is missing (splits in the file: {present})"
            hint = f"add rows for {name}, or give one list to split at random"
            yield dataset_error("DA104", path, message, hint)
    for name in rows:
        if not rows[name]:
            yield dataset_error("DA104", path, f"the split {name} is empty", "give it rows, or leave it out")


def separate_splits(
    files: FoundFiles, raw: Mapping[str, RawDataset], findings: list[Finding]
) -> tuple[dict[str, list[SourceRow]], str]:
    """Return the rows of each file, by `split_of` its key, and their origin in words."""
    rows: dict[str, list[SourceRow]] = {}
    taken: dict[tuple[Path, str], str] = {}
    parts: list[str] = []
    for key, file in files.by_key:
        role, splits = split_of(key).partition(".")[0], raw[key].splits
        part = WHOLE if WHOLE in splits else role
        if part not in splits:
            message = f"{key}: {file.path.name} has the splits {', '.join(splits)}, but not {role}"
            hint = f"name a file with a split {role}, or a file with one list of rows"
            findings.append(dataset_error("DA104", file.path, message if splits else f"{key} has no rows", hint))
        elif (first := taken.setdefault((file.path, part), key)) != key:
            message = f"{first} and {key} are the same rows of {file.path.name}"
            hint = f"use data: {{path: ...}} to split one file, or give another file as {key}"
            findings.append(dataset_error("DA104", file.path, message, hint))
        elif not splits[part]:
            hint = "give it rows" if role == "train" else "give it rows, or leave it out"
            findings.append(dataset_error("DA104", file.path, f"{key}: {file.path.name} has no rows", hint))
        else:
            rows[split_of(key)] = splits[part]
            parts += [] if part == WHOLE else [f"split {part} of {file.path.name}"]
    if not any(is_test(split_of(key)) for key, _ in files.by_key):
        message = f"{files.path.name} has no test rows, so its runs cannot be scored"
        hint = "add data: {test: FILE}, or turn evaluation off with evaluate: {epochs: []}"
        if "test" in raw[files.by_key[0][0]].splits:
            hint = f"use data: {{path: ...}} for all splits of {files.path.name}, or {hint}"
        where = Location(path=str(files.path))
        findings.append(
            Finding(
                code="DA104", severity=Severity.ERROR, subject=WITHOUT_TEST, message=message, where=where, hint=hint
            )
        )
    return rows, "; ".join([SEPARATE_FILES, *parts])


def overlaps(
    examples: Mapping[str, Sequence[Example]], paths: Mapping[str, Path], *, made_here: bool
) -> Iterable[Finding]:
    """Yield the rows of one split whose prompt is also in another. Test sets may share rows."""
    prompts = {name: dict.fromkeys(example.prompt for example in items) for name, items in examples.items()}
    tests = [name for name in examples if is_test(name)]
    pairs = [("train", "validation"), *((first, name) for first in ("train", "validation") for name in tests)]
    for first, second in pairs:
        shared = [prompt for prompt in prompts.get(second, {}) if prompt in prompts.get(first, {})]
        if not shared:
            continue
        shown = ", ".join(repr(shorten(_last(prompt), _QUOTED)) for prompt in shared[:_SHOWN])
        count = f"{len(shared):,} prompt{' is' if len(shared) == 1 else 's are'}"
        hint = f"remove them from {shown_split(second)}: a prompt seen in training does not test the model"
        if made_here:
            hint = "keep one row for each prompt that the file repeats"
        names = [
            shown_split(name) if paths[name] == paths[other] else f"{shown_split(name)} ({paths[name].name})"
            for name, other in ((first, second), (second, first))
        ]
        message = f"{count} both in {names[0]} and in {names[1]}, for example {shown}"
        yield dataset_error("DA106", paths[second], message, hint)


def equal_sets(sets: Sequence[SplitInfo], path: Path) -> Iterable[Finding]:
    """Yield test sets with the same rows under two names: their evaluations could not be distinguished."""
    known: dict[str, str] = {}
    for each in sets:
        if (first := known.setdefault(each.sha256, each.name)) != each.name:
            message = f"the test sets {first} and {each.name} have the same rows"
            yield dataset_error("DA104", path, message, "remove one of them, or name another file")


def _last(prompt: tuple[Message, ...]) -> str:
    return prompt[-1].content if prompt else ""


def dataset_error(code: str, path: Path, message: str, hint: str | None = None) -> Finding:
    """Return an error of a file."""
    where = Location(path=str(path))
    return Finding(code=code, severity=Severity.ERROR, subject=path.name, message=message, where=where, hint=hint)
