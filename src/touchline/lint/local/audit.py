"""Audit of data: files to rows, rows to a view, the view to findings, baselines and counts."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded, sha256_file, write_atomic
from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.text import first_of
from touchline.data.columns import ColumnMapping, Values, column_counts, resolve_columns, stated_layout
from touchline.data.readers import FORMATS, WHOLE, separator_hint
from touchline.experiment.data_config import DataConfig
from touchline.experiment.read import read_experiment
from touchline.experiment.tasks.classification import merge_spellings
from touchline.experiment.tasks.ready_made import TASKS
from touchline.lint.checked import AuditedSplit, Baseline, Baselines, DataAudit, LabelCount, row_of
from touchline.lint.data_answers import most_frequent
from touchline.lint.data_view import DataRow, DataView, MissingMedia, data_rows, layout_of
from touchline.lint.local.dataset_files import DatasetFiles, files_of, group_splits, is_dataset
from touchline.lint.local.lookup import rows_of
from touchline.lint.rule import check_view
from touchline.statistics.closed_forms import wilson

REPORTED_BY_LOADER = frozenset({"DA301", "DA304", "DA312", "DA376"})
"""Codes of findings that the loader of experiments reports itself, as DA104, DA105 and DA106."""
LABELS_SHOWN = 20
MEDIA_LIMIT = 20_000
"""Maximum number of distinct media files looked up."""
_MEDIA_TRIED = 50
_VERSION = 6
"""Version of the rules; increase it if the result for the same file changes."""
_YAML_LIMIT = 1 << 20
_COVERAGE = 0.95
_SEPARATOR = "separator"
"""Subject of the finding that columns are unknown because of another separator."""
_FINDINGS = TypeAdapter(tuple[Finding, ...])
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}

ALL_GIVEN = frozenset({"data.input", "data.output"})
"""Keys of settings whose columns are all resolved."""
Read = dict[str, list[tuple[Values, int | None]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRequest:
    """Columns and task of an audit."""

    data: DataConfig | None = None
    """Columns and prompt of an experiment; None: derived from the column names."""
    given: frozenset[str] = ALL_GIVEN
    """Dotted keys of `data` that were given; other columns are derived by name."""
    task: str | None = None
    """Task that provides the prompt."""
    media_root: Path | None = None
    """Folder of media files; None: the data's own folder, or one above it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _AuditInputs:
    view: DataView | None
    """View of its rows; None if nothing could be read, or no columns are known."""
    findings: tuple[Finding, ...]
    forms: tuple[str, ...]


def audit(path: Path, request: AuditRequest | None = None) -> DataAudit:
    """Audit a file, a folder of split files, or the data of an experiment.

    Args:
        path: JSON, JSONL, CSV or parquet; a folder with `train.jsonl`, `test.jsonl`, ...; an experiment.yaml or the
            folder that it is in.

    Raises:
        InputError: the path is none of these, or an option is wrong.
        HostError: it may not be read, or needs a package that is not installed.
    """
    files, wanted = _source(path, request or AuditRequest())
    seen = _load_audit_inputs(files, wanted, path)
    return _to_data_audit(seen, path, wanted.task)


def _to_data_audit(seen: _AuditInputs, path: Path, task: str | None) -> DataAudit:
    view = seen.view
    findings = tuple(row_of(finding) for finding in seen.findings)
    audited = functools.partial(DataAudit, path=str(path), format=", ".join(seen.forms), findings=findings)
    if view is None:
        return audited(columns="none", scored_split="", splits=(), labels=(), distinct_answers=0, baselines=None)
    total = max(sum(view.all_labels.values()), 1)
    shown = sorted(view.all_labels.items(), key=lambda item: (-item[1], item[0]))[:LABELS_SHOWN]
    return audited(
        columns=view.layout.named(),
        scored_split=view.scored,
        splits=tuple(
            AuditedSplit(
                name=name,
                path=view.files.get(name, view.path),
                examples=len(rows),
                distinct_answers=len(view.labels[name]),
            )
            for name, rows in view.splits.items()
        ),
        labels=tuple(
            LabelCount(
                label=label[:200],
                counts={name: counts[label] for name, counts in view.labels.items() if counts[label]},
                share=count / total,
            )
            for label, count in shown
        ),
        distinct_answers=len(view.all_labels),
        baselines=_baselines(view, task) if view.layout.kind != "text" and view.all_labels else None,
    )


def data_findings(
    files: DatasetFiles, request: AuditRequest | None = None, cache_dir: Path | None = None
) -> tuple[Finding, ...]:
    """Check a dataset for `check`, `plan` and `run`; results are cached.

    Files that cannot be read at all are findings too, and nothing is raised for them.
    """
    wanted = request or AuditRequest()
    place: Path | None = None
    try:
        if cache_dir is not None:
            place = cache_dir / "audits" / f"{_key(files, wanted)}.json"
            kept = _FINDINGS.validate_json(read_text_bounded(place, 16 << 20), strict=True)
            return tuple(kept)
    except (InputError, HostError, OSError, ValidationError):
        pass
    try:
        found = _load_audit_inputs(files, wanted, files.path).findings
    except (InputError, HostError) as fault:
        message = f"not checked ({fault.message})"
        where = Location(path=str(files.path))
        return (Finding(code="DA102", severity=Severity.INFO, subject="data", message=message, where=where),)
    # Results that depend on files beside the data are not cached.
    if place is not None and not any(finding.code == "DA373" for finding in found):
        try:
            write_atomic(place, _FINDINGS.dump_json(found))
        except (HostError, OSError, PydanticSerializationError):
            # JSON holds no name that is not UTF-8.
            return found
    return found


def tree_findings(paths: Iterable[Path], cache_dir: Path | None = None) -> tuple[Finding, ...]:
    """Check the datasets among some files; other files are skipped."""
    groups = group_splits(path for path in paths if is_dataset(path))
    found = (finding for files in groups for finding in data_findings(files, cache_dir=cache_dir))
    # A table that was not named as a dataset may contain anything.
    return tuple(finding for finding in found if finding.code != "DA307" or finding.subject == _SEPARATOR)


def config_findings(
    data: DataConfig, base: Path, task: str | None = None, cache_dir: Path | None = None
) -> tuple[Finding, ...]:
    """Check an experiment's dataset for what its loader does not report; a missing file is skipped."""
    files = files_of(data, base)
    if not all(path.is_file() for path in files.files.values()):
        return ()
    found = data_findings(files, AuditRequest(data=data, task=task), cache_dir)
    return tuple(each for each in found if each.code not in REPORTED_BY_LOADER and not each.code.startswith("DA1"))


def _load_audit_inputs(files: DatasetFiles, request: AuditRequest, shown: Path) -> _AuditInputs:
    splits, findings, forms, origin = _read(files)
    if not splits:
        return _AuditInputs(view=None, findings=_ordered(findings or [_nothing(files)]), forms=forms)
    layout = _layout(splits, request)
    where = Location(path=str(next(iter(files.files.values()))))
    if layout is None:
        return _AuditInputs(view=None, findings=_ordered([*findings, _unknown(splits, where)]), forms=forms)
    rows = data_rows(splits, layout)
    view = DataView(
        path=str(shown),
        format=", ".join(forms),
        files={split: str(path) for split, path in origin.items()},
        splits=rows,
        layout=layout,
        media=_media(rows, files, request),
    )
    found = [*findings, *check_view(view, where, "data")]
    if any(finding.code == "DA102" for finding in findings):
        # Invalid UTF-8 was reported by line. The replacement characters are the reader's and not the file's.
        found = [finding for finding in found if finding.code != "DA360"]
    if findings and not view.count:
        # The reason for missing rows was already reported.
        found = list(findings)
    return _AuditInputs(view=view, findings=_ordered(found), forms=forms)


def _nothing(files: DatasetFiles) -> Finding:
    where = Location(path=str(files.path))
    return Finding(
        code="DA376", severity=Severity.ERROR, subject="data", message="the file has no splits and no rows", where=where
    )


def _unknown(splits: Read, where: Location) -> Finding:
    columns = sorted(column_counts(values for rows in splits.values() for values, _ in rows)[0])
    listed = first_of(map(repr, columns), 10)
    separated = separator_hint(columns)
    hint = separated or "name them with --input and --output"
    return Finding(
        code="DA307",
        severity=Severity.WARNING,
        subject="columns" if separated is None else _SEPARATOR,
        message=f"not checked (the columns {listed} do not look like a prompt and an answer)",
        where=where,
        hint=hint,
    )


def _read(files: DatasetFiles) -> tuple[Read, list[Finding], tuple[str, ...], dict[str, Path]]:
    splits: Read = {}
    findings: list[Finding] = []
    forms: list[str] = []
    origin: dict[str, Path] = {}
    for name, path in files.files.items():
        forms.append(FORMATS.get(path.suffix.lower(), "unknown"))
        try:
            raw = rows_of(path)
        except InputError as fault:
            findings += fault.findings
            continue
        findings += raw.findings
        own = name.partition(" ")[0] if files.one_split_each else None
        for split, rows in raw.splits.items():
            if own is not None and split not in (own, WHOLE):
                continue
            target = name if split in (own, WHOLE) else split
            splits.setdefault(target, []).extend((row.values, row.line) for row in rows)
            origin.setdefault(target, path)
    order = ("train", "validation", "test", WHOLE, *files.files)
    ordered = {name: splits[name] for name in order if name in splits}
    return ordered, findings, tuple(dict.fromkeys(forms)), origin


def _layout(splits: Read, request: AuditRequest) -> ColumnMapping | None:
    if not any(splits.values()):
        return ColumnMapping(kind="columns")
    data = request.data
    if data is None:
        return layout_of(splits)
    counts, kinds = column_counts(values for rows in splits.values() for values, _ in rows)
    data = resolve_columns(data, request.given, counts, kinds)
    template = data.prompt
    if template is None:
        template = TASKS[request.task].prompt if request.task in TASKS else "{input}"
    return stated_layout(counts, inputs=data.input, output=data.output, messages=data.messages, template=template)


def _media(rows: dict[str, tuple[DataRow, ...]], files: DatasetFiles, request: AuditRequest) -> MissingMedia | None:
    """Find which media files exist, under the folder that has most of the first ones."""
    paths = sorted({path for each in rows.values() for row in each for path in row.media})[:MEDIA_LIMIT]
    if not paths:
        return None
    first = next(iter(files.files.values())).resolve()
    stated = _media_root(first.parent, request)
    roots = [first.parent, *list(first.parents)[1:4]] if stated is None else [stated]
    step = max(1, len(paths) // _MEDIA_TRIED)
    tried = paths[::step]
    root = max(roots, key=lambda folder: sum(_size(folder, path) is not None for path in tried))
    sizes = {path: _size(root, path) for path in paths}
    missing = tuple(path for path, size in sizes.items() if size is None)
    known = stated is not None or len(missing) < len(paths)
    return MissingMedia(
        checked=len(paths),
        missing=missing,
        empty=tuple(path for path, size in sizes.items() if size == 0),
        root=str(root) if known else None,
        stated=stated is not None,
    )


def _media_root(folder: Path, request: AuditRequest) -> Path | None:
    if request.media_root is not None or request.data is None or request.data.image_root is None:
        return request.media_root
    return folder / Path(request.data.image_root).expanduser()


def _size(folder: Path, path: str) -> int | None:
    try:
        place = folder / path
        return place.stat().st_size if place.is_file() else None
    except (OSError, ValueError):
        return None


def _source(path: Path, request: AuditRequest) -> tuple[DatasetFiles, AuditRequest]:
    if not path.exists():
        raise InputError(
            f"{str(path)!r} does not exist", expected="a data file, a folder of them, or an experiment.yaml"
        )
    if path.is_dir() and (path / "experiment.yaml").is_file():
        path = path / "experiment.yaml"
    if path.suffix.lower() in (".yaml", ".yml"):
        read = read_experiment(read_text_bounded(path, _YAML_LIMIT), str(path))
        loaded = read.experiment
        if request.data is None:
            request = replace(request, data=loaded.data, given=read.given)
        files = files_of(loaded.data, path.parent)
        if absent := [str(file) for file in files.files.values() if not file.is_file()]:
            written = loaded.data.file if len(files.files) == 1 else absent[0]
            raise InputError(f"dataset {written!r} does not exist (looked for {', '.join(map(repr, absent))})")
        return files, replace(request, task=request.task or loaded.task)
    if path.is_file():
        return DatasetFiles(path=path, files={WHOLE: path}), request
    found = group_splits(each for each in sorted(path.iterdir()) if each.is_file() and is_dataset(each))
    if len(found) == 1:
        return found[0], request
    listed = ", ".join(" + ".join(each.name for each in one.files.values()) for one in found[:5])
    raise InputError(
        f"{str(path)!r} holds {len(found) or 'no'} datasets{f': {listed}' if listed else ''}",
        expected="one dataset: a file, or train, validation and test files of one name",
        hint=f"touchline data audit {next(iter(found[0].files.values()))}" if found else None,
    )


def _baselines(view: DataView, task: str | None) -> Baselines:
    is_labels = task == "classification" or (task is None and view.closed)
    merged = merge_spellings if is_labels else Counter[str]
    labels = merged(view.labels.get(view.scored, Counter()))
    questions = [merged(Counter(row.label for row in rows)) for rows in view.questions.values()]
    right = sum(max(counts.values()) for counts in questions)
    return Baselines(
        majority=_share(max(labels.values(), default=0), sum(labels.values()), "no answers", most_frequent(labels)),
        majority_per_question=_share(
            right, sum(counts.total() for counts in questions), "no question has five rows that differ"
        ),
    )


def _share(right: int, total: int, absent: str, answer: str | None = None) -> Baseline:
    if not total:
        return Baseline(score=Missing(missing=absent))
    ends = wilson(right, total, _COVERAGE)
    score = Quantity(value=right / total, unit="1", low=ends.low, high=ends.high, coverage=_COVERAGE, method="Wilson")
    return Baseline(score=score, examples=total, answer=None if answer is None else answer[:200])


def _ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: (_ORDER[finding.severity], finding.code)))


def _key(files: DatasetFiles, request: AuditRequest) -> str:
    # A set has another order in another process.
    settings = json.loads(TypeAdapter(AuditRequest).dump_json(request)) | {"given": sorted(request.given)}
    hashes = {name: [str(path), sha256_file(path)] for name, path in sorted(files.files.items())}
    return hashlib.sha256(json.dumps([_VERSION, hashes, settings], sort_keys=True).encode()).hexdigest()
