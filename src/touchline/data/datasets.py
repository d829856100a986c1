"""Datasets: splits, hashes, and validation of every row before training."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.catalog import DataFile, DatasetInfo, Example, Message, SplitInfo
from touchline.core.errors import InputError, PlanDriftError
from touchline.core.files import sha256_file
from touchline.core.finding import Finding, Severity
from touchline.core.near import near_names
from touchline.core.text import first_of, shorten
from touchline.data.chats import Prompt, RowProblem, brace_faults, chat, cluster_of, instruction, is_chat
from touchline.data.data_files import (
    SPLITS,
    WITHOUT_TEST,
    FileState,
    FoundFiles,
    KeptWhileSmall,
    dataset_error,
    equal_sets,
    file_splits,
    find_files,
    keep_dataset,
    known_dataset,
    overlaps,
    separate_splits,
)
from touchline.data.images import image_fault
from touchline.data.readers import WHOLE, RawDataset, SourceRow, Tally, read_rows, separator_hint
from touchline.data.rendering.chat import images_of
from touchline.experiment.data_config import TRAINING_KEYS, DataConfig, is_test, shown_split, split_of

_QUOTED = 60
"""Characters of a text that a message shows."""
_COLUMNS_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    info: DatasetInfo
    examples: dict[str, tuple[Example, ...]]
    """Examples by split, or by name of a test set that has a file of its own: `train`, `validation`, `test.5L`."""
    rows: dict[str, list[SourceRow]]
    cluster_faults: tuple[Finding, ...]


def load_dataset(data: DataConfig, base: Path, cache_dir: Path | None = None) -> DatasetInfo:
    """Return the description of a dataset; problems of its rows are in `findings`.

    Args:
        cache_dir: where what is known of files is kept, so that a million rows are parsed once; none: nowhere.

    Raises:
        InputError: it is missing or cannot be read at all; with findings and how to make it.
        HostError: it may not be read, or needs a package that is not installed.
    """
    return _info(find_files(data, base), data, cache_dir)


def load_examples(data: DataConfig, split: str, base: Path, cluster: str | None = None) -> tuple[Example, ...]:
    """Return the rows of one split as chats. Empty if the split does not exist.

    Args:
        cluster: column that says which test rows belong together; none: they are not asked.

    Raises:
        InputError: the dataset is missing or invalid; with findings.
        HostError: it may not be read, or needs a package that is not installed.
    """
    loaded = _sound(find_files(data, base), data, cluster)
    return loaded.examples.get(_place(data, split), ())


def split_names(data: DataConfig) -> tuple[str, ...]:
    """Return the splits that a dataset may have: of several test sets `test` is the first, `test.9L` another one."""
    named = list(data.test_sets)[1:]
    return (*SPLITS, *(f"test.{name}" for name in named))


def cluster_faults(data: DataConfig, base: Path, column: str) -> tuple[Finding, ...]:
    """Return the problems of the cluster column of the test rows: it is missing, or is not text.

    Raises:
        InputError: the dataset is missing or cannot be read at all; with findings.
        HostError: it may not be read, or needs a package that is not installed.
    """
    return _load(find_files(data, base), data, column).cluster_faults


def load_clusters(data: DataConfig, base: Path, column: str, sha256: str) -> Mapping[str, str | None]:
    """Return the cluster of each test item by id. None for an item without one.

    Args:
        sha256: `SplitInfo.sha256` of the test rows that are meant.

    Raises:
        InputError: the dataset is missing or invalid; with findings.
        HostError: it may not be read, or needs a package that is not installed.
        PlanDriftError: its test rows are others.
    """
    found, clusters = _clusters(find_files(data, base), data, column)
    if found != sha256:
        raise PlanDriftError(f"{words_of_test(data)} differs from the planned one", expected=f"hash {sha256[:12]}")
    return clusters


def words_of_test(data: DataConfig) -> str:
    """Return the test rows in words: `the test split of 'a.json'`; of several test sets the one named first."""
    return f"the test split of {next(iter(data.test_sets.values()), data.file)!r}"


def load_rows(data: DataConfig, split: str, base: Path) -> tuple[Mapping[str, object], ...]:
    """Return the unmodified rows of one split in file order. Empty if the split does not exist.

    Raises:
        InputError: the dataset is missing or invalid; with findings.
        HostError: it may not be read, or needs a package that is not installed.
    """
    rows = _sound(find_files(data, base), data, None).rows
    return tuple(row.values for row in rows.get(_place(data, split), ()))


def data_sha256(data: DataConfig, base: Path) -> str:
    """Return `DatasetInfo.sha256` of the files as they are now, without parsing them.

    Raises:
        InputError: a file is missing.
        HostError: it may not be read.
    """
    return _joint_sha256({key: sha256_file(file.path) for key, file in find_files(data, base).by_key})


def _joint_sha256(hashes: Mapping[str, str]) -> str:
    """Return the hash of the file with all rows, or one over those that a training reads."""
    if "data.path" in hashes:
        return hashes["data.path"]
    read = [hashes.get(key, "") for key in TRAINING_KEYS]
    return hashlib.sha256("\n".join(read).encode()).hexdigest()


def _sound(files: FoundFiles, data: DataConfig, cluster: str | None) -> _Loaded:
    """Return a dataset without errors, its cluster column included."""
    loaded = _load(files, data, cluster)
    found = (*loaded.info.findings, *loaded.cluster_faults)
    # What lacks test rows can still be trained on.
    errors = [each for each in found if each.severity is Severity.ERROR and each.subject != WITHOUT_TEST]
    if errors:
        raise InputError(f"{loaded.info.path!r} cannot be used", findings=errors)
    return loaded


def _place(data: DataConfig, split: str) -> str:
    """Return the key of a split in `_Loaded`; `test` is the test set named first, of others `test.9L` is the key."""
    return f"test.{next(iter(data.test))}" if split == "test" and isinstance(data.test, dict) else split


# A plan of a thousand runs reads each file once. Rows are large, so few files stay; what is known of a file is small.
@functools.lru_cache(maxsize=256)
def _info(files: FoundFiles, data: DataConfig, cache_dir: Path | None) -> DatasetInfo:
    if cache_dir is None:
        return _load(files, data, None).info
    places = {key: str(file.path) for key, file in files.by_key}
    hashes = {key: sha256_file(file.path) for key, file in files.by_key}
    kept = known_dataset(cache_dir, places, data, hashes)
    # Images are files of their own, which may have gone since.
    if kept is not None and not kept.images:
        return kept
    info = _load(files, data, None).info
    if info.sha256 == _joint_sha256(hashes) and all(file.sha256 == hashes[file.key] for file in info.files):
        keep_dataset(cache_dir, places, data, hashes, info)
    return info


# A report of a thousand runs asks for them a thousand times.
@functools.lru_cache(maxsize=32)
def _clusters(files: FoundFiles, data: DataConfig, column: str) -> tuple[str, Mapping[str, str | None]]:
    loaded, place = _sound(files, data, column), _place(data, "test")
    examples = loaded.examples.get(place, ())
    return _hash(loaded.rows.get(place, ())), {example.id: example.cluster for example in examples}


@KeptWhileSmall
def _load(files: FoundFiles, data: DataConfig, cluster: str | None) -> _Loaded:
    path, raw = files.path, {key: _read(file) for key, file in files.by_key}
    findings = list(dict.fromkeys(finding for each in raw.values() for finding in each.findings))
    rows, origin = file_splits(raw["data.path"], data, path, findings) if "data.path" in raw else ({}, "")
    paths = dict.fromkeys(rows, path)
    if "data.path" not in raw:
        rows, origin = separate_splits(files, raw, findings)
        paths = {split_of(key): file.path for key, file in files.by_key}
    prompt = Prompt("{input}" if data.prompt is None else data.prompt, data.input)
    tallies, clusters = ({each: Tally(each) for each in paths.values()} for _ in range(2))
    examples = {
        name: _examples(name, rows[name], data, prompt, tallies[paths[name]], paths[name].parent) for name in rows
    }
    for name in rows:
        if cluster is not None and is_test(name):
            examples[name] = _clustered(name, examples[name], rows[name], cluster, clusters[paths[name]])
    columns = dict.fromkeys(name for each in rows.values() for row in each[:1] for name in row.values)
    findings += [*_all(tallies), *_prompt_faults(data, prompt, path, columns)]
    # With one prompt for all rows every split overlaps; that has been said.
    if data.messages is not None or prompt.columns:
        findings += overlaps(examples, paths, made_here="data.path" in raw and WHOLE in raw["data.path"].splits)
    hashes = {key: sha256_file(file.path) for key, file in files.by_key}
    splits = {name: SplitInfo(name=name, num_examples=len(rows[name]), sha256=_hash(rows[name])) for name in rows}
    sets = [
        replace(splits[place], name=name)
        for name in data.test_sets
        if (place := f"test.{name}" if isinstance(data.test, dict) else "test") in rows
    ]
    findings += equal_sets(sets, path)
    info = DatasetInfo(
        path=str(path),
        format=next(iter(raw.values())).format,
        size_bytes=files.size_bytes,
        sha256=_joint_sha256(hashes),
        splits=(*(splits[name] for name in SPLITS if name in splits and name != "test"), *_test(splits, sets)),
        split_origin=origin,
        files=tuple(
            DataFile(key=key, path=str(file.path), size_bytes=file.size_bytes, sha256=hashes[key])
            for key, file in files.by_key
            if key != "data.path"
        ),
        test_sets=tuple(sets),
        about=next(iter(raw.values())).about,
        images=sum(len(images_of(example.prompt)) for each in examples.values() for example in each),
        findings=tuple(findings),
    )
    return _Loaded(info=info, examples=examples, rows=rows, cluster_faults=_all(clusters))


def _all(tallies: Mapping[Path, Tally]) -> tuple[Finding, ...]:
    return tuple(finding for tally in tallies.values() for finding in tally.findings())


def _test(splits: Mapping[str, SplitInfo], sets: Sequence[SplitInfo]) -> tuple[SplitInfo, ...]:
    """Return the test split; of several test sets the one named first."""
    return tuple(replace(each, name="test") for each in sets[:1]) or tuple(splits[n] for n in splits if n == "test")


@KeptWhileSmall
def _read(file: FileState) -> RawDataset:
    return read_rows(file.path)


def _examples(
    name: str, rows: Sequence[SourceRow], data: DataConfig, prompt: Prompt, tally: Tally, folder: Path
) -> tuple[Example, ...]:
    examples: list[Example] = []
    root = str(folder / Path(data.image_root or "").expanduser())
    problem_of = functools.cache(image_fault)
    for number, row in enumerate(rows, 1):
        built = chat(row.values, data) if data.messages is not None else instruction(row.values, data, prompt)
        if isinstance(built, tuple):
            turns = tuple(_located(turn, root) for turn in built[0])
            for image in images_of(turns):
                if (problem := problem_of(image)) is not None:
                    first = f"the first is {image!r}"
                    tally.add("DA105", "data", problem, line=row.line, row=number, hint=first, split=shown_split(name))
            examples.append(Example(id=_id(name, number), prompt=turns, answer=built[1]))
            continue
        for fault in built:
            hint = _fault_hint(fault, row.values) if fault.columns else fault.hint
            tally.add("DA105", "data", fault.message, line=row.line, row=number, hint=hint, split=shown_split(name))
    return tuple(examples)


def _id(split: str, row: int) -> str:
    return f"{split.removeprefix('test.')}-{row - 1}"


def _located(turn: Message, root: str) -> Message:
    if not turn.images:
        return turn
    return replace(turn, images=tuple(_joined(root, path) for path in turn.images))


@functools.lru_cache(maxsize=1 << 16)
def _joined(folder: str, path: str) -> str:
    return str(Path(folder) / path)


def _clustered(
    name: str, examples: Sequence[Example], rows: Sequence[SourceRow], column: str, tally: Tally
) -> tuple[Example, ...]:
    clusters: dict[str, str | None] = {}
    for number, row in enumerate(rows, 1):
        found = cluster_of(row.values, column)
        if not isinstance(found, RowProblem):
            clusters[_id(name, number)] = found
            continue
        hint = _column_hint(found.columns, row.values, "evaluate: {cluster: ...}") if found.columns else None
        tally.add("DA105", "data", found.message, line=row.line, row=number, hint=hint, split=shown_split(name))
    return tuple(replace(example, cluster=clusters.get(example.id)) for example in examples)


def _fault_hint(fault: RowProblem, values: Mapping[str, object]) -> str:
    if fault.in_prompt:
        listed = ", ".join(f"{{{name}}}" for name in list(values)[:_COLUMNS_SHOWN])
        near = _near(fault.columns, values)
        guess = f"did you mean {{{near[0]}}}? " if near else ""
        return f"{guess}names in braces in data.prompt are columns: {listed}, and {{input}} for data.input"
    return _column_hint(fault.columns, values)


def _column_hint(
    columns: Sequence[str],
    values: Mapping[str, object],
    key: str = "data: {input: ..., output: ...}, or by --input and --output",
) -> str:
    there = list(values)
    if (separated := separator_hint(there)) is not None:
        return separated
    chat = next((name for name, value in values.items() if is_chat(value)), None)
    if chat is not None:
        return f"column {chat!r} holds chats: data: {{messages: {chat}}}"
    listed = f"columns here: {first_of(map(repr, there), _COLUMNS_SHOWN)}"
    if near := _near(columns, values):
        return f"did you mean {' and '.join(map(repr, near))}? {listed}"
    return f"{listed} (name them in {key})"


def _near(columns: Sequence[str], values: Mapping[str, object]) -> list[str]:
    found = [near_names(column, list(values), most=1, cutoff=0.5) for column in columns]
    return list(dict.fromkeys(name for near in found for name in near))


def _prompt_faults(data: DataConfig, prompt: Prompt, path: Path, columns: Iterable[str]) -> Iterable[Finding]:
    if data.messages is not None:
        return
    braces = list(brace_faults(data.prompt or "", ("input", *columns)))
    for message, hint, severity in braces:
        yield replace(
            dataset_error("DA108", path, f"data.prompt {shorten(data.prompt or '', _QUOTED)!r}: {message}", hint),
            severity=severity,
        )
    if not prompt.columns and not braces:
        message = (
            f"data.prompt {shorten(data.prompt or '', _QUOTED)!r} uses no column, so all rows would have the "
            "same prompt"
        )
        yield dataset_error("DA108", path, message, "write {input} where the row's input belongs")
    if data.output in prompt.columns:
        message = f"the prompt contains the answer, column {data.output!r}, so a model would only learn to copy it"
        written = data.prompt is not None and f"{{{data.output}}}" in data.prompt
        hint = "remove it from data.prompt" if written else "name another column as the input, or as the answer"
        yield dataset_error("DA108", path, message, hint)


def _hash(rows: Iterable[SourceRow]) -> str:
    """Return the hash of rows in order with sorted columns, equal for equal rows in any format."""
    encode = json.JSONEncoder(sort_keys=True, default=str).encode
    digest = hashlib.sha256()
    for row in rows:
        digest.update(encode(row.values).encode() + b"\n")
    return digest.hexdigest()
