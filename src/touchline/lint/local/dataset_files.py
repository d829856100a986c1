"""Files of a tree that can be checked, by name and within limits; the datasets among them by a few bytes of each."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from touchline.core.errors import InputError
from touchline.core.files import open_regular
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.data.columns import column_counts, find_layout
from touchline.data.readers import FORMATS, SPLIT_NAMES, WHOLE
from touchline.experiment.data_config import DataConfig

_HEAD_BYTES = 1 << 16
_SPLIT = re.compile(rf"(?:^|(?<=[_\-.]))(?:{'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?=$|[_\-.])", re.I)
_WIDE = ("\ufffd\ufffd", "\xff\xfe")
_BEFORE = re.compile(r"\A(?:\s*(?://|#|<<<<<<<)[^\n]*\n)+")
"""Lines that do not belong before JSON. The JSON reader reports them."""
_OPENS_ROWS = re.compile(r'\s*\[\s*\{\s*"')
_OPENS_SPLITS = re.compile(rf'\s*\{{\s*"(?:about|{WHOLE}|{"|".join(SPLIT_NAMES)})"\s*:', re.I)
_ABOUT_ROWS = re.compile(rf'"(?:{WHOLE}|{"|".join(SPLIT_NAMES)})"\s*:\s*\[\s*\{{\s*"', re.I)
_KEY = re.compile(r'"((?:[^"\\]|\\.){1,60})"\s*:\s*(?=(.))', re.S)
_KINDS = {'"': "text", "[": "list", "{": "object", "t": "bool", "f": "bool", "n": "null"}
_ROWS = 50
_WORD = re.compile(r"(?<!\w)[^\W\d_]{2,}(?!\w)")
_VAGUE = frozenset({"source", "src", "context", "ctx", "document"})
"""Names of prompt columns that other tables also have."""
_EMPTY_NAMES = re.compile(r"train|test|valid|dev|data|eval", re.I)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFiles:
    """Dataset: a file, or the files of its splits."""

    path: Path
    """File, or the folder of the splits."""
    files: dict[str, Path]
    """File by split; the one entry `all` for a file that may contain splits."""
    one_split_each: bool = False
    """Whether of a file with splits only the one is meant that it is named for."""


def files_of(data: DataConfig, base: Path) -> DatasetFiles:
    """Return the files that an experiment names; several test sets as `test`, `test 9L`."""
    if data.path is not None:
        return DatasetFiles(path=base / data.path, files={WHOLE: base / data.path})
    first = next(iter(data.test_sets), None)
    files = {"train": data.train, "validation": data.validation}
    files |= {"test" if name == first else f"test {name}": file for name, file in data.test_sets.items()}
    found = {split: base / Path(file).expanduser() for split, file in files.items() if file is not None}
    return DatasetFiles(path=found["train"], files=found, one_split_each=True)


def group_splits(files: Iterable[Path]) -> tuple[DatasetFiles, ...]:
    """Return the datasets among files: `train.jsonl` and `test.jsonl` of one folder are one, as are `x_train` and
    `x_test`.
    """
    groups: dict[tuple[Path, str, str], dict[str, Path]] = {}
    alone: list[DatasetFiles] = []
    for path in sorted(files):
        words = _SPLIT.findall(path.stem)
        if len(words) != 1:
            alone.append(DatasetFiles(path=path, files={WHOLE: path}))
            continue
        rest = _SPLIT.sub("", path.stem)
        group = groups.setdefault((path.parent, rest, path.suffix.lower()), {})
        split = SPLIT_NAMES[words[0].lower()]
        if split in group:  # val.jsonl beside validation.jsonl: ambiguous
            alone.append(DatasetFiles(path=path, files={WHOLE: path}))
        else:
            group[split] = path
    for (folder, _, _), group in groups.items():
        if len(group) == 1:
            (path,) = group.values()
            alone.append(DatasetFiles(path=path, files={WHOLE: path}))
        else:
            order: tuple[str, ...] = ("train", "validation", "test")
            alone.append(DatasetFiles(path=folder, files={name: group[name] for name in order if name in group}))
    return tuple(sorted(alone, key=lambda found: (str(found.path), str(next(iter(found.files.values()))))))


def is_dataset(path: Path) -> bool:
    """Return True if a file looks like training or test rows: its beginning has columns of a known layout.

    Logs, tables of results and configs do not count. An unreadable file does not count here. Its reader reports the
    reason.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        return False
    if form == "parquet":
        return True
    try:
        with open_regular(path) as stream:
            head = stream.read(_HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return False
    if head.startswith(_WIDE):
        # UTF-16 begins like this. The readers report that it is not UTF-8.
        return form != "json"
    if not head.strip():
        return form != "json" and _EMPTY_NAMES.search(path.stem) is not None
    if form == "json":
        return _is_json(head)
    return _is_csv(head) if form == "csv" else _is_jsonl(head)


def _is_jsonl(head: str) -> bool:
    if _OPENS_ROWS.match(head):
        # A list of rows under the wrong name. The reader reports it.
        return _is_json(head)
    for line in head.splitlines()[:5]:
        try:
            values = parse_json(line)
        except (ValueError, RecursionError):
            # A first line that is truncated or corrupt is identified by its keys.
            if line.lstrip().startswith("{") and _keys_tell(line):
                return True
            continue
        if isinstance(values, dict) and _fits(values):
            return True
    return False


def _is_log(counts: Counter[str]) -> bool:
    names = {name.casefold() for name in counts}
    return bool(names & {"timestamp", "time", "level", "step", "loss", "event", "predict", "prediction", "predictions"})


def _is_json(head: str) -> bool:
    head = _BEFORE.sub("", head)
    if _OPENS_ROWS.match(head):
        return _row_tells(head, head.index("{"))
    if _OPENS_SPLITS.match(head) is None or (begin := _ABOUT_ROWS.search(head)) is None:
        return False
    return _row_tells(head, head.index("{", begin.start()))


def _row_tells(head: str, at: int) -> bool:
    """Return True if the row that begins there has columns of a known layout. A truncated row counts by its keys."""
    try:
        values, _ = json.JSONDecoder().raw_decode(head, at)
    except (ValueError, RecursionError):
        return len(head) >= _HEAD_BYTES // 4 and _keys_tell(head[at:])
    return isinstance(values, dict) and _fits(values)


def _fits(values: dict[str, object]) -> bool:
    counts, kinds = column_counts([values])
    return find_layout(counts, kinds) is not None and not _is_log(counts)


def _keys_tell(head: str) -> bool:
    counts: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    for name, first in _KEY.findall(head[: _HEAD_BYTES // 4]):
        counts[name] += 1
        kinds.setdefault(name, Counter())[_KINDS.get(first, "number")] += 1
    return find_layout(counts, kinds) is not None and not _is_log(counts)


def _is_csv(head: str) -> bool:
    try:
        names = next(csv.reader(head.splitlines()), [])
    except csv.Error:
        return False
    if len(names) == 1 and (separator := next((each for each in ";\t|" if each in names[0]), None)) is not None:
        # Cells with another separator. Test the same columns with commas.
        return _is_csv(head.replace(separator, ","))
    counts = Counter(name.strip() for name in names)
    layout = find_layout(counts, {name: Counter({"text": 1}) for name in counts})
    if layout is None or layout.kind != "columns" or _is_log(counts) or layout.prompts[0].casefold() in _VAGUE:
        return False
    # A table of measurements may have an input and an output too. Prompts contain words.
    place = [name.strip() for name in names].index(layout.prompts[0])
    try:
        rows = list(csv.reader(head.splitlines()[1:_ROWS]))
    except csv.Error:
        return True
    return any(len(row) > place and _WORD.search(row[place]) for row in rows) or len(rows) == 0


FileKind = Literal["yaml", "json", "script", "rows", "python", "plan"]
"""Kind of a file by its name; the content decides what it is."""

FILE_LIMIT = 10_000
"""Limit on files per call; what is beyond is not checked, which is an error."""
_ENDINGS: dict[str, FileKind] = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".slurm": "script",
    ".sbatch": "script",
    ".sh": "script",
    ".jsonl": "rows",
    ".ndjson": "rows",
    ".csv": "rows",
    ".parquet": "rows",
    ".py": "python",
}
_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "node_modules", "site-packages", "wandb", "runs", "eval", "status", "resume", "venv", "logs"}
)
_SKIPPED_PREFIXES = (".", "checkpoint-", "epoch_")
_OF_A_MODEL = frozenset(
    {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"),
        *("special_tokens_map.json", "added_tokens.json", "preprocessor_config.json", "adapter_config.json"),
        *(
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
            "trainer_state.json",
            "processor_config.json",
        ),
        *("all_results.json", "train_results.json", "eval_results.json", "package.json", "package-lock.json"),
    }
)
"""JSON files of models, of finished runs, and of other tools."""
_OURS_WRITTEN = frozenset(
    {"ledger.jsonl", "metrics.jsonl", "runs_status.yaml", "run_metrics.yaml", "eval.yaml", "trainer_log.jsonl"}
)
"""Files that runs write, which users do not edit."""
PLANS = frozenset({"runs_plan.md", "plan.json"})
"""Files that list the planned runs, apart from their configs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """File to check."""

    path: Path
    kind: FileKind
    named: bool


def find_files(paths: Sequence[Path]) -> tuple[tuple[FoundFile, ...], tuple[Finding, ...]]:
    """Return the files to check under some paths, each once, in order, and problems of the tree.

    Raises:
        InputError: a path does not exist; all that do not are named.
    """
    absent = [path for path in paths if not _exists(path)]
    if absent:
        names = ", ".join(repr(str(path)) for path in absent)
        raise InputError(f"not found: {names}", expected="files and folders that exist")
    found: dict[str, FoundFile] = {}
    findings: list[Finding] = []
    for path in paths:
        for file in [_named(path)] if not path.is_dir() else _walk(path, findings):
            key = str(file.path.resolve())
            if key not in found and len(found) == FILE_LIMIT:
                findings.append(unfinished(path, f"more than {FILE_LIMIT:,} files: those beyond are not checked"))
                return tuple(found.values()), tuple(findings)
            found.setdefault(key, file)
    return tuple(found.values()), tuple(findings)


def unfinished(path: Path, message: str) -> Finding:
    """Return the error that something under a path was not checked."""
    return _finding(path, message, "name a folder of experiments or configs below it", Severity.ERROR)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # Too long a name, a ring of links, or a folder that may not be entered.
        return False


def _named(path: Path) -> FoundFile:
    kind = "plan" if path.name in PLANS else _ENDINGS.get(path.suffix.lower())
    return FoundFile(path=path, kind=kind or "yaml", named=True)  # a config may have any ending


def _walk(root: Path, findings: list[Finding]) -> Iterator[FoundFile]:
    for folder, names, files in os.walk(root, onerror=lambda error: findings.append(_closed(error))):
        here = Path(folder)
        for name in [name for name in names if (here / name).is_symlink() and _leads_up(here / name)]:
            findings.append(_ring(here / name))
        names[:] = sorted(
            name for name in names if name not in _SKIPPED_FOLDERS and not name.startswith(_SKIPPED_PREFIXES)
        )
        for name in sorted(files):
            kind = _kind(here / name)
            if (here / name).is_symlink() and _leads_up(here / name):
                findings.append(_ring(here / name))
            elif kind is not None:
                yield FoundFile(path=here / name, kind=kind, named=False)


def _kind(path: Path) -> FileKind | None:
    if path.name in PLANS:
        return "plan"
    if path.name in _OF_A_MODEL | _OURS_WRITTEN or path.name.startswith("."):
        return None
    return _ENDINGS.get(path.suffix.lower())


def _leads_up(link: Path) -> bool:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return True
    return target in (link.parent.resolve(), *link.parent.resolve().parents)


def _ring(link: Path) -> Finding:
    message = "a link that leads back to a folder above it, or nowhere, is not followed"
    return _finding(link, message, "remove the link: tools that follow links do not terminate here", Severity.WARNING)


def _closed(error: OSError) -> Finding:
    message, path = f"this folder was not read: {error.strerror or error}", str(error.filename or "")
    return _finding(Path(path), message, f"ls -ld {path!r}", Severity.WARNING)


def _finding(path: Path, message: str, hint: str, severity: Severity) -> Finding:
    where = Location(path=str(path))
    return Finding(code="EX012", severity=severity, subject=path.name, message=message, where=where, hint=hint)
