"""Datasets: splits, hashes, and every fault that would show only after an hour of training."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from touchline.catalog.readers import RawDataset, Row, read_rows
from touchline.domain.catalog import DatasetInfo, Example, Message, SplitInfo
from touchline.domain.experiment import DataConfig
from touchline.domain.finding import Finding, Severity, Where
from touchline.errors import InputFault
from touchline.files import sha256_file
from touchline.tasks.capitalization import split_sizes

SPLITS = ("train", "validation", "test")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_GENERATED = re.compile(r"words_(\d+)L_(\d+)P_(\d+)\.json")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    info: DatasetInfo
    examples: dict[str, tuple[Example, ...]]


def load_dataset(data: DataConfig, base: Path) -> DatasetInfo:
    """What a dataset is; what is wrong with its rows is in `findings`.

    Args:
        data: path, columns, prompt.
        base: folder that a relative path is relative to.

    Raises:
        InputFault: it is missing or cannot be read at all; with findings and how to make it.
    """
    return _load(data, base).info


def load_examples(data: DataConfig, split: str, base: Path) -> tuple[Example, ...]:
    """The rows of one split as chats; a split that is not there has none.

    Raises:
        InputFault: the dataset has faults.
    """
    loaded = _load(data, base)
    errors = [finding for finding in loaded.info.findings if finding.severity is Severity.ERROR]
    if errors:
        raise InputFault(f"{loaded.info.path} cannot be used", findings=errors)
    return loaded.examples.get(split, ())


def _load(data: DataConfig, base: Path) -> _Loaded:
    path = base / Path(data.path).expanduser()
    if not path.is_file():
        raise _missing(path, data.path)
    stat = path.stat()
    # The key holds what changes when the file does, so that a plan of a thousand runs reads each file once.
    return _cached(path.resolve(), data, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _cached(path: Path, data: DataConfig, size: int, modified_ns: int) -> _Loaded:
    del modified_ns
    raw = read_rows(path)
    findings = list(raw.findings)
    rows, origin = _splits(raw, data, path, findings)
    examples = {name: _examples(name, rows[name], data, path, findings) for name in SPLITS if name in rows}
    _check_splits(rows, examples, path, findings)
    splits = tuple(
        SplitInfo(name=name, num_examples=len(rows[name]), sha256=_split_hash(rows[name])) for name in SPLITS if name in rows
    )
    info = DatasetInfo(
        path=str(path),
        format=raw.format,
        size_bytes=size,
        sha256=sha256_file(path),
        splits=splits,
        split_origin=origin,
        about=raw.about,
        findings=tuple(findings),
    )
    return _Loaded(info=info, examples=examples)


def _splits(raw: RawDataset, data: DataConfig, path: Path, findings: list[Finding]) -> tuple[dict[str, list[Row]], str]:
    """The file's own splits, or random ones of the whole file by `split_seed`."""
    if "all" not in raw.splits:
        return raw.splits, "in the file"
    rows = raw.splits["all"]
    train, validation, test = split_sizes(len(rows), data.train_fraction)
    if min(train, test) < 1:
        findings.append(_error("DA104", path, f"{len(rows)} rows are too few to make splits of", "give more rows"))
    order = np.random.Generator(np.random.PCG64(data.split_seed)).permutation(len(rows))
    shuffled = [rows[index] for index in order]
    made = {"train": shuffled[:train], "validation": shuffled[train : train + validation], "test": shuffled[train + validation :]}
    return made, f"random {train}/{validation}/{test} of the whole file, seed {data.split_seed}"


def _examples(name: str, rows: Sequence[Row], data: DataConfig, path: Path, findings: list[Finding]) -> tuple[Example, ...]:
    """The rows as chats; wrong rows are told once a kind, with their number and the first of them."""
    wrong: dict[str, list[Row]] = {}
    examples: list[Example] = []
    for number, row in enumerate(rows):
        built = _chat(row, data) if data.messages is not None else _instruction(row, data)
        if isinstance(built, str):
            wrong.setdefault(built, []).append(row)
        else:
            examples.append(Example(id=f"{name}-{number}", prompt=built[0], answer=built[1]))
    for message, bad in wrong.items():
        line = bad[0].line
        where = Where(path=str(path), line=line)
        count = f" ({len(bad)} of {len(rows)} rows)" if len(bad) > 1 else ""
        hint = _column_hint(message, bad[0])
        findings.append(Finding(code="DA105", severity=Severity.ERROR, subject=name, message=f"{name}: {message}{count}", where=where, hint=hint))
    return tuple(examples)


def _instruction(row: Row, data: DataConfig) -> tuple[tuple[Message, ...], str] | str:
    template = data.prompt if data.prompt is not None else "{input}"
    values = {**row.values}
    if data.input in values:
        values.setdefault("input", values[data.input])
    for column in (data.input, data.output):
        if column not in row.values and not (column == data.input and "{input}" not in template):
            return f"there is no column {column!r}"
    absent = [name for name in _PLACEHOLDER.findall(template) if name not in values]
    if absent:
        return f"there is no column {absent[0]!r}, which the prompt asks for"
    answer = row.values[data.output]
    if not isinstance(answer, str | int | float) or isinstance(answer, bool) or not str(answer).strip():
        return f"the answer (column {data.output!r}) is empty or no text"
    # Plain replacement: str.format would let a template reach into objects.
    prompt = _PLACEHOLDER.sub(lambda found: str(values[found[1]]), template)
    if not prompt.strip():
        return "the prompt is empty"
    system = [Message(role="system", content=data.system)] if data.system else []
    return (*system, Message(role="user", content=prompt)), str(answer)


def _chat(row: Row, data: DataConfig) -> tuple[tuple[Message, ...], str] | str:
    turns = row.values.get(str(data.messages))
    if turns is None:
        return f"there is no column {data.messages!r}"
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except ValueError:
            return f"column {data.messages!r} is no chat"
    if not isinstance(turns, list) or len(turns) < 2:
        return f"column {data.messages!r} is no list of at least two turns"
    messages: list[Message] = []
    for turn in turns:
        role = turn.get("role") if isinstance(turn, dict) else None
        content = turn.get("content") if isinstance(turn, dict) else None
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            return "a turn is no {role: system | user | assistant, content: text}"
        messages.append(Message(role=role, content=content))
    if messages[-1].role != "assistant" or not messages[-1].content.strip():
        return "the last turn is no answer of the assistant"
    system = [Message(role="system", content=data.system)] if data.system and messages[0].role != "system" else []
    return (*system, *messages[:-1]), messages[-1].content


def _check_splits(
    rows: dict[str, list[Row]], examples: dict[str, tuple[Example, ...]], path: Path, findings: list[Finding]
) -> None:
    for name in ("train", "test"):
        if name not in rows:
            findings.append(_error("DA104", path, f"there is no split {name}", f"add a list {name!r} of rows to the file"))
    findings += [_error("DA104", path, f"the split {name} is empty", "give it rows, or leave it out") for name in rows if not rows[name]]
    seen = {name: {(example.prompt, example.answer): example.id for example in examples[name]} for name in examples}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = [key for key in seen.get(second, {}) if key in seen.get(first, {})]
        if shared:
            shown = ", ".join(repr(_short(key[0][-1].content)) for key in shared[:_SHOWN])
            findings.append(
                _error(
                    "DA106",
                    path,
                    f"splits overlap: {len(shared)} rows of {second} are in {first} too, for example {shown}",
                    f"take them out of {second}; a model that has seen the answer is not tested",
                )
            )


def _column_hint(message: str, row: Row) -> str | None:
    found = re.match(r"there is no column '(.*?)'", message)
    if found is None:
        return None
    columns = list(row.values)
    near = difflib.get_close_matches(found[1], columns, n=1, cutoff=0.5)
    listed = f"columns here: {', '.join(columns)}"
    return f"did you mean {near[0]!r}? {listed}" if near else f"{listed}; name them in data: {{input: ..., output: ...}}"


def _missing(path: Path, written: str) -> InputFault:
    """The fault for a file that is not there, with how to make it when touchline can."""
    hint = None
    if (made := _GENERATED.fullmatch(path.name)) is not None:
        length, percent, count = made.groups()
        hint = (
            f"touchline data create capitalization --word-length {length} --num-words {count} "
            f"--train-fraction {int(percent) / 100:g} --out-dir {str(path.parent)!r}"
        )
    else:
        present = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, present, n=3, cutoff=0.5)
        hint = f"near names there: {', '.join(near)}" if near else None
    finding = Finding(
        code="DA101", severity=Severity.ERROR, subject="data.path", message=f"dataset {written!r} does not exist (looked for {str(path)!r})", hint=hint
    )
    return InputFault(f"{path} does not exist", findings=[finding], hint=hint)


def _split_hash(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(dict(row.values), sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _error(code: str, path: Path, message: str, hint: str | None = None) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, subject=path.name, message=message, where=Where(path=str(path)), hint=hint)
