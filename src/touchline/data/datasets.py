"""Datasets: splits, hashes, and validation of every row before training."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Concatenate, Generic, ParamSpec, TypeVar

import numpy as np

from touchline.core.catalog import SPLITS_IN_FILE, DatasetInfo, Example, Message, SplitInfo
from touchline.core.errors import InputError, PlanDriftError
from touchline.core.files import sha256_file
from touchline.core.finding import Finding, Location, Severity
from touchline.core.near import near_names
from touchline.core.text import shorten
from touchline.data.chats import Prompt, RowProblem, brace_faults, chat, cluster_of, instruction, is_chat
from touchline.data.dataset_cache import keep_dataset, known_dataset
from touchline.data.images import image_fault
from touchline.data.readers import FORMATS, WHOLE, RawDataset, SourceRow, read_rows, separator_hint
from touchline.data.rendering.chat import images_of
from touchline.data.row_problems import Tally
from touchline.data.words import count_words
from touchline.spec.experiment import DataConfig
from touchline.spec.tasks.capitalization import split_sizes

SPLITS = ("train", "validation", "test")
_GENERATED = re.compile(r"words_(\d+)L_(\d+(?:\.\d+)?)P_(\d+)\.json")
_QUOTED = 60
"""Characters of a text that a message shows."""
_SHOWN = 3
_COLUMNS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class _File:
    """State of a file; any write to it changes one of these."""

    path: Path
    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


_P = ParamSpec("_P")
_T = TypeVar("_T")
_KEPT_BYTES = 32 << 20
"""Bytes of the files whose rows stay in memory; the last two stay, whatever their size."""


class _KeptWhileSmall(Generic[_P, _T]):
    """Function of a file that keeps its last results, as long as their files are small.

    A command asks for the rows of each dataset a dozen times, and an experiment may have many datasets.
    """

    def __init__(self, function: Callable[Concatenate[_File, _P], _T]) -> None:
        self._function = function
        self._kept: dict[tuple[object, ...], tuple[int, _T]] = {}

    def __call__(self, file: _File, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        key = (file, *args, *kwargs.items())
        found = self._kept.pop(key, None) or (file.size_bytes, self._function(file, *args, **kwargs))
        self._kept[key] = found
        while len(self._kept) > 2 and sum(size for size, _ in self._kept.values()) > _KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
        return found[1]

    def cache_clear(self) -> None:
        """Forget all results."""
        self._kept.clear()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """Dataset and its rows."""

    info: DatasetInfo
    examples: dict[str, tuple[Example, ...]]
    cluster_faults: tuple[Finding, ...]
    """Problems of the cluster column."""


def load_dataset(data: DataConfig, base: Path, cache_dir: Path | None = None) -> DatasetInfo:
    """Return the description of a dataset; problems of its rows are in `findings`.

    Args:
        data: path, columns, prompt; a prompt that is not given is `{input}`.
        base: folder that a relative path is relative to.
        cache_dir: where what is known of files is kept, so that a million rows are parsed once; none: nowhere.

    Raises:
        InputError: it is missing or cannot be read at all; with findings and how to make it.
        HostError: it may not be read, or needs a package that is not installed.
    """
    return _info(_find(data, base), data, cache_dir)


def load_examples(data: DataConfig, split: str, base: Path, cluster: str | None = None) -> tuple[Example, ...]:
    """Return the rows of one split as chats. Empty if the split does not exist.

    Args:
        data: path, columns, prompt.
        split: its name.
        base: folder that a relative path is relative to.
        cluster: column that says which test rows belong together; none: they are not asked.

    Raises:
        InputError: the dataset is missing or invalid; with findings.
        HostError: it may not be read, or needs a package that is not installed.
    """
    loaded = _load(_find(data, base), data, cluster)
    found = (*loaded.info.findings, *loaded.cluster_faults)
    errors = [finding for finding in found if finding.severity is Severity.ERROR]
    if errors:
        raise InputError(f"{loaded.info.path!r} cannot be used", findings=errors)
    return loaded.examples.get(split, ())


def cluster_faults(data: DataConfig, base: Path, column: str) -> tuple[Finding, ...]:
    """Return the problems of the cluster column of the test rows: it is missing, or is not text.

    Raises:
        InputError: the dataset is missing or cannot be read at all; with findings.
        HostError: it may not be read, or needs a package that is not installed.
    """
    return _load(_find(data, base), data, column).cluster_faults


def load_clusters(data: DataConfig, base: Path, column: str, sha256: str) -> Mapping[str, str | None]:
    """Return the cluster of each test item by id. None for an item without one.

    Args:
        data: path, columns, prompt.
        base: folder that a relative path is relative to.
        column: the column that says it.
        sha256: `SplitInfo.sha256` of the test split that is meant.

    Raises:
        InputError: the dataset is missing or invalid; with findings.
        HostError: it may not be read, or needs a package that is not installed.
        PlanDriftError: its test split is another one.
    """
    found, clusters = _clusters(_find(data, base), data, column)
    if found != sha256:
        raise PlanDriftError(
            f"the test split of {data.path!r} is not the one that was planned", expected=f"hash {sha256[:12]}"
        )
    return clusters


def load_rows(data: DataConfig, split: str, base: Path) -> tuple[Mapping[str, object], ...]:
    """Return the unmodified rows of one split in file order. Empty if the split does not exist.

    Raises:
        InputError: the dataset is missing or invalid; with findings.
        HostError: it may not be read, or needs a package that is not installed.
    """
    load_examples(data, split, base)
    file = _find(data, base)
    rows, _ = _splits(_read(file), data, file.path, [])
    return tuple(row.values for row in rows.get(split, ()))


def _find(data: DataConfig, base: Path) -> _File:
    try:
        path = base / Path(data.path).expanduser()
        path = path.resolve(strict=True)
        stat = path.stat()
        if not path.is_file():
            there = sorted(name for name in _names(path) if FORMATS.get(PurePath(name).suffix.lower()))
            raise InputError(
                f"dataset {data.path!r} is a folder",
                expected="a file: JSON, JSONL, CSV or parquet; one with a column 'split', or an object "
                "{train: [...], test: [...]}, has its splits in one file",
                hint=f"data files there: {', '.join(there[:_COLUMNS_SHOWN])}" if there else None,
            )
    except (OSError, RuntimeError, ValueError):
        # Not there, a name of another user's home, too long a name, a ring of links: there is no such file.
        raise _missing(data, base) from None
    return _File(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


# A plan of a thousand runs reads each file once. Rows are large, so few files stay; what is known of a file is small.
@functools.lru_cache(maxsize=256)
def _info(file: _File, data: DataConfig, cache_dir: Path | None) -> DatasetInfo:
    if cache_dir is None:
        return _load(file, data, None).info
    sha256 = sha256_file(file.path)
    kept = known_dataset(cache_dir, file.path, data, sha256)
    # Images are files of their own, which may have gone since.
    if kept is not None and not kept.images:
        return kept
    info = _load(file, data, None).info
    if info.sha256 == sha256:
        keep_dataset(cache_dir, file.path, data, info)
    return info


# A report of a thousand runs asks for them a thousand times.
@functools.lru_cache(maxsize=32)
def _clusters(file: _File, data: DataConfig, column: str) -> tuple[str, Mapping[str, str | None]]:
    """Return the hash of the test split and the cluster of each of its items."""
    examples = load_examples(data, "test", file.path.parent, column)
    info = _load(file, data, column).info
    sha256 = next((split.sha256 for split in info.splits if split.name == "test"), "")
    return sha256, {example.id: example.cluster for example in examples}


@_KeptWhileSmall
def _load(file: _File, data: DataConfig, cluster: str | None) -> _Loaded:
    path, raw = file.path, _read(file)
    findings = list(raw.findings)
    rows, origin = _splits(raw, data, path, findings)
    tally = Tally(path)
    prompt = Prompt("{input}" if data.prompt is None else data.prompt, data.input)
    clusters = Tally(path)
    examples = {name: _examples(name, rows[name], data, prompt, tally, path.parent) for name in rows}
    if cluster is not None and "test" in rows:
        examples["test"] = _clustered(examples["test"], rows["test"], cluster, clusters)
    columns = dict.fromkeys(name for each in rows.values() for row in each[:1] for name in row.values)
    findings += [*tally.findings(), *_prompt_faults(data, prompt, path, columns)]
    if WHOLE not in raw.splits:
        findings += _split_faults(rows, path)
    # With one prompt for all rows every split overlaps; that has been said.
    if data.messages is not None or prompt.columns:
        findings += _overlaps(examples, path, made_here=WHOLE in raw.splits)
    info = DatasetInfo(
        path=str(path),
        format=raw.format,
        size_bytes=file.size_bytes,
        sha256=sha256_file(path),
        splits=tuple(SplitInfo(name=name, num_examples=len(rows[name]), sha256=_hash(rows[name])) for name in rows),
        split_origin=origin,
        about=raw.about,
        images=sum(len(images_of(example.prompt)) for each in examples.values() for example in each),
        findings=tuple(findings),
    )
    return _Loaded(info=info, examples=examples, cluster_faults=tuple(clusters.findings()))


@_KeptWhileSmall
def _read(file: _File) -> RawDataset:
    return read_rows(file.path)


def _splits(
    raw: RawDataset, data: DataConfig, path: Path, findings: list[Finding]
) -> tuple[dict[str, list[SourceRow]], str]:
    """Return the file's splits, train first, or random ones by `split_seed`."""
    if WHOLE not in raw.splits:
        return {name: raw.splits[name] for name in SPLITS if name in raw.splits}, SPLITS_IN_FILE
    rows = raw.splits[WHOLE]
    train, validation, test = split_sizes(len(rows), data.train_fraction)
    if min(train, test) < 1:
        count = "1 row is" if len(rows) == 1 else f"{len(rows)} rows are"
        message = f"{count} too few to make splits of at train_fraction {data.train_fraction:g}"
        findings.append(_error("DA104", path, message, "give more rows, or a file with splits"))
        return {"train": rows}, "none"
    order = np.random.Generator(np.random.PCG64(data.split_seed)).permutation(len(rows))
    shuffled = [rows[index] for index in order]
    made = {"train": shuffled[:train]}
    if validation:
        made["validation"] = shuffled[train : train + validation]
    made["test"] = shuffled[train + validation :]
    return made, f"random {train}/{validation}/{test} of the whole file, seed {data.split_seed}"


def _examples(
    name: str, rows: Sequence[SourceRow], data: DataConfig, prompt: Prompt, tally: Tally, folder: Path
) -> tuple[Example, ...]:
    """Return the rows as chats, with images by their absolute paths. Problems are added to `tally`."""
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
                    tally.add("DA105", "data", problem, line=row.line, row=number, hint=first, split=name)
            examples.append(Example(id=f"{name}-{number - 1}", prompt=turns, answer=built[1]))
            continue
        for fault in built:
            hint = _fault_hint(fault, row.values) if fault.columns else fault.hint
            tally.add("DA105", "data", fault.message, line=row.line, row=number, hint=hint, split=name)
    return tuple(examples)


def _located(turn: Message, root: str) -> Message:
    """Return a turn with the absolute paths of its images."""
    if not turn.images:
        return turn
    return replace(turn, images=tuple(_joined(root, path) for path in turn.images))


@functools.lru_cache(maxsize=1 << 16)
def _joined(folder: str, path: str) -> str:
    return str(Path(folder) / path)


def _clustered(
    examples: Sequence[Example], rows: Sequence[SourceRow], column: str, tally: Tally
) -> tuple[Example, ...]:
    """Return the test examples with their clusters. Problems are added to `tally`."""
    clusters: dict[str, str | None] = {}
    for number, row in enumerate(rows, 1):
        found = cluster_of(row.values, column)
        if not isinstance(found, RowProblem):
            clusters[f"test-{number - 1}"] = found
            continue
        hint = _column_hint(found.columns, row.values, "evaluate: {cluster: ...}") if found.columns else None
        tally.add("DA105", "data", found.message, line=row.line, row=number, hint=hint, split="test")
    return tuple(replace(example, cluster=clusters.get(example.id)) for example in examples)


def _fault_hint(fault: RowProblem, values: Mapping[str, object]) -> str:
    if fault.in_prompt:
        listed = ", ".join(f"{{{name}}}" for name in list(values)[:_COLUMNS_SHOWN])
        near = _near(fault.columns, values)
        guess = f"did you mean {{{near[0]}}}? " if near else ""
        return f"{guess}a name in braces in data.prompt is a column; here: {listed}, and {{input}} for data.input"
    return _column_hint(fault.columns, values)


def _column_hint(
    columns: Sequence[str], values: Mapping[str, object], key: str = "data: {input: ..., output: ...}"
) -> str:
    there = list(values)
    if (separated := separator_hint(there)) is not None:
        return separated
    chat = next((name for name, value in values.items() if is_chat(value)), None)
    if chat is not None:
        return f"column {chat!r} holds chats: data: {{messages: {chat}}}"
    listed = f"columns here: {', '.join(there[:_COLUMNS_SHOWN])}{', ...' if len(there) > _COLUMNS_SHOWN else ''}"
    if near := _near(columns, values):
        return f"did you mean {' and '.join(map(repr, near))}? {listed}"
    return f"{listed}; name them in {key}"


def _near(columns: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """Return existing columns with names similar to the missing ones."""
    found = [near_names(column, list(values), most=1, cutoff=0.5) for column in columns]
    return list(dict.fromkeys(name for near in found for name in near))


def _split_faults(rows: Mapping[str, Sequence[SourceRow]], path: Path) -> Iterable[Finding]:
    for name in ("train", "test"):
        if name not in rows:
            present = ", ".join(rows) or "none"
            message = f"there is no split {name}; splits here: {present}"
            yield _error("DA104", path, message, f"add the rows of {name}, or give one list to be split at random")
    for name in rows:
        if not rows[name]:
            yield _error("DA104", path, f"the split {name} is empty", "give it rows, or leave it out")


def _prompt_faults(data: DataConfig, prompt: Prompt, path: Path, columns: Iterable[str]) -> Iterable[Finding]:
    if data.messages is not None:
        return
    braces = list(brace_faults(data.prompt or "", ("input", *columns)))
    for message, hint, severity in braces:
        yield replace(
            _error("DA108", path, f"data.prompt {shorten(data.prompt or '', _QUOTED)!r}: {message}", hint),
            severity=severity,
        )
    if not prompt.columns and not braces:
        message = (
            f"data.prompt {shorten(data.prompt or '', _QUOTED)!r} shows no column, so all rows would be asked the same"
        )
        yield _error("DA108", path, message, "write {input} where the row's input belongs")
    if data.output in prompt.columns:
        message = f"the prompt shows the answer, column {data.output!r}; a model would only learn to copy it"
        written = data.prompt is not None and f"{{{data.output}}}" in data.prompt
        hint = "take it out of data.prompt" if written else "name another column as the input, or as the answer"
        yield _error("DA108", path, message, hint)


def _overlaps(examples: Mapping[str, Sequence[Example]], path: Path, *, made_here: bool) -> Iterable[Finding]:
    """Return the rows of one split whose prompt is also in another."""
    prompts = {name: dict.fromkeys(example.prompt for example in items) for name, items in examples.items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = [prompt for prompt in prompts.get(second, {}) if prompt in prompts.get(first, {})]
        if shared:
            shown = ", ".join(repr(shorten(_last(prompt), _QUOTED)) for prompt in shared[:_SHOWN])
            count = f"{len(shared):,} prompt{' is' if len(shared) == 1 else 's are'}"
            hint = f"take them out of {second}; a model that has seen the question is not tested by it"
            if made_here:
                hint = "the file has these prompts more than once: keep one row of each"
            yield _error("DA106", path, f"{count} both in {first} and in {second}, for example {shown}", hint)


def _last(prompt: tuple[Message, ...]) -> str:
    return prompt[-1].content if prompt else ""


def _missing(data: DataConfig, base: Path) -> InputError:
    """Return the error for a missing file, with the command that creates it if touchline can."""
    path = base / data.path
    hint = None
    if (made := _GENERATED.fullmatch(path.name)) is not None:
        length, percent, count = made.groups()
        there = count_words(int(length)) if len(length) < 4 else 0
        if int(count) > there:
            # A command that cannot succeed is no help: offer the largest set that exists.
            count = str(there)
        hint = (
            f"touchline data create capitalization --word-length {length} --num-words {count} "
            f"--train-fraction {float(percent) / 100:g} --out-dir {shlex.quote(str(path.parent))}"
        )
        if count != made.group(3):
            hint = f"only {int(count):,} words of {length} letters come with touchline: {hint}, or --words FILE"
        if not there:
            hint = "no word of that length comes with touchline: touchline data create capitalization --words FILE"
    elif near := near_names(path.name, _names(path.parent), most=3, cutoff=0.5):
        hint = f"near names there: {', '.join(near)}"
    finding = Finding(
        code="DA101",
        severity=Severity.ERROR,
        subject="data.path",
        message=f"dataset {data.path!r} does not exist (looked for {str(path)!r})",
        hint=hint,
    )
    return InputError(f"dataset {data.path!r} does not exist", findings=[finding])


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _hash(rows: Iterable[SourceRow]) -> str:
    """Return the hash of rows in order with sorted columns, equal for equal rows in any format."""
    encode = json.JSONEncoder(sort_keys=True, default=str).encode
    digest = hashlib.sha256()
    for row in rows:
        digest.update(encode(row.values).encode() + b"\n")
    return digest.hexdigest()


def _error(code: str, path: Path, message: str, hint: str | None = None) -> Finding:
    where = Location(path=str(path))
    return Finding(code=code, severity=Severity.ERROR, subject=path.name, message=message, where=where, hint=hint)
