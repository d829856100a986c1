"""Search for run folders by file names; no file is opened.

A run folder holds checkpoints (`epoch_0`, `checkpoint-500`), job output (`slurm-12.out`), a trainer state or a trainer
config. Job output next to several such folders belongs to one of them, identified by its text. Links are not followed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from touchline.backends.logtext.parts import redact
from touchline.core.files import read_head
from touchline.core.finding import Severity
from touchline.core.text import one_line, valid_utf8
from touchline.core.units import plural
from touchline.history.grouping import SKIPPED_FOLDERS
from touchline.results.report_inputs import Issue

LINE_LIMIT = 300


def clean_text(text: str) -> str:
    """Return text with control and undecodable characters replaced."""
    return one_line(valid_utf8(text), "\ufffd")


def clean_line(text: str) -> str:
    """Return a copied line of at most 300 characters, secrets redacted."""
    return redact(clean_text(text.replace("\t", " ")))[:LINE_LIMIT]


def below(root: Path, path: Path) -> str:
    """Return a path relative to `root`; paths next to it begin with `..`."""
    return clean_text(Path(os.path.relpath(path, root)).as_posix())


def bounded(path: Path, limit_bytes: int) -> str | None:
    """Return the beginning of a text file; None if it cannot be read. Pipes and devices are not opened."""
    try:
        return read_head(path, limit_bytes).decode("utf-8-sig", "replace")
    except OSError:
        return None


DEEPEST = 8
"""Maximum depth below the given folder."""
MOST_FOLDERS = 50_000
"""Maximum number of folders that are searched."""
CHECKPOINT = re.compile(r"(?:epoch|step|checkpoint|ckpt)[_-](\d{1,12})")
SLURM_LOG = re.compile(r"slurm-(?P<job>\d{1,10}(?:_\d{1,10})?)(?:[.-][\w.-]*)?\.(?:out|err)")
_LOG_SUFFIXES = (".out", ".err", ".log")
_DISK_LOG = re.compile(r"log_\d{9,11}\.txt")
_STATES = frozenset({"trainer_state.json", "trainer_log.jsonl", "all_results.json", "train_results.json"})
_CONFIGS = frozenset({"finetune.yaml", "setup_finetune.yaml"})
_WEIGHTS = re.compile(r"adapter_model(?:\.[\w-]+)?\.(?:safetensors|pt|bin)|adapter_\d+\.pt")
_OF_A_RUN = frozenset(
    {"logs", "log", "eval", "evals", "evaluation", "wandb", "status", "runs", "tensorboard", "general"}
)
"""Folders inside a run folder."""
_NEVER = SKIPPED_FOLDERS | {"figures"}
_OURS = frozenset({"samples.jsonl", "metrics.jsonl"})
_LOOSE_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """Files of one run, unopened."""

    name: str
    """Run name: its folder's path below the root, or the log's name if a folder holds logs of several runs."""
    path: Path
    weights: Path
    """Folder with its checkpoints, mostly the same."""
    logs: tuple[Path, ...]
    """Job output and trainer logs, newest first."""
    documents: tuple[Path, ...]
    evaluations: tuple[Path, ...]
    checkpoints: tuple[Path, ...]
    wandb: tuple[Path, ...]


@dataclass(kw_only=True, slots=True)
class _Seen:
    path: Path
    logs: list[Path] = field(default_factory=list)
    documents: list[Path] = field(default_factory=list)
    evaluations: list[Path] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)
    wandb: list[Path] = field(default_factory=list)
    has_config: bool = False
    has_weights: bool = False
    below: list[_Seen] = field(default_factory=list)

    @property
    def is_run(self) -> bool:
        """Return True if the folder holds a run's own files."""
        return bool(self.checkpoints or self.has_config or self.has_weights or self.evaluations)


@dataclass(kw_only=True, slots=True)
class Walk:
    """Result of the search."""

    root: Path
    runs: list[RunFolder] = field(default_factory=list)
    loose: list[tuple[tuple[Path, ...], tuple[str, ...]]] = field(default_factory=list)
    """Logs next to several run folders, and the names of these runs."""
    loose_evaluations: list[Path] = field(default_factory=list)
    """Inspect logs next to several run folders."""
    issues: list[Issue] = field(default_factory=list)
    folders: int = 0
    links: int = 0
    """Number of symbolic links, which are not followed."""


def walk(root: Path) -> Walk:
    """Return every run folder under `root`, itself included."""
    found = Walk(root=root)
    seen = _look(found, root, 0)
    found.runs = sorted(_runs(found, seen), key=lambda run: _natural(run.name))
    if found.links:
        found.issues.append(_left_out("links not followed", f"{plural(found.links, 'symbolic link')} in this folder."))
    if found.folders > MOST_FOLDERS:
        found.issues.append(_left_out("too many folders", f"Only {MOST_FOLDERS:,} folders were read."))
    return found


def _left_out(title: str, text: str) -> Issue:
    return Issue(weight=Severity.WARNING, subject="experiment", title=title, text=text)


def newest_first(logs: Iterable[Path]) -> tuple[Path, ...]:
    """Sort logs by SLURM job id, newest first; others follow by modification time."""
    return tuple(
        sorted(logs, key=lambda path: (job_number(path) or (-1, 0), changed_unix(path), path.name), reverse=True)
    )


def job_id(path: Path) -> str | None:
    """Return the job id in an output file's name; None for other names."""
    match = SLURM_LOG.fullmatch(path.name)
    return None if match is None else match["job"]


def job_number(path: Path) -> tuple[int, int] | None:
    """Return the job and task numbers as a sort key."""
    found = job_id(path)
    if found is None:
        return None
    job, _, task = found.partition("_")
    return int(job), int(task or 0)


def changed_unix(path: Path) -> float:
    """Return when a file was changed last; 0 if it is unknown."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    parts = re.split(r"(\d{1,18})", name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def _look(found: Walk, folder: Path, depth: int) -> _Seen:
    seen = _Seen(path=folder)
    found.folders += 1
    if found.folders > MOST_FOLDERS or depth > DEEPEST:
        return seen
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: _natural(entry.name))
    except OSError as fault:
        found.issues.append(_unreadable(found.root, folder, fault))
        return seen
    below: list[Path] = []
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            below.append(path)
        elif entry.is_file(follow_symlinks=False):
            _file(seen, path)
        elif entry.is_symlink():
            found.links += 1
    for path in below:
        _folder(found, seen, path, depth)
    return seen


def _folder(found: Walk, seen: _Seen, path: Path, depth: int) -> None:
    name = path.name
    if CHECKPOINT.fullmatch(name):
        seen.checkpoints.append(path)
        seen.documents += [each for each in (path / "trainer_state.json",) if _is_file(each)]
    elif name.startswith(("offline-run-", "run-20")):
        seen.wandb.append(path)
        summary = path / "files" / "wandb-summary.json"
        seen.documents += [summary] if _is_file(summary) else []
    elif name not in _NEVER and not name.startswith("."):
        seen.below.append(_look(found, path, depth + 1))


def _file(seen: _Seen, path: Path) -> None:
    name = path.name
    if name in _OURS or name.startswith("."):
        return
    if name in _CONFIGS or name in _STATES:
        seen.documents.append(path)
        seen.has_config = True
    elif name == "adapter_config.json" or name.endswith((".slurm", ".sbatch")):
        seen.documents.append(path)
    elif _WEIGHTS.fullmatch(name):
        seen.has_weights = True
    elif name.endswith(".eval"):
        seen.evaluations.append(path)
    elif name.endswith(_LOG_SUFFIXES) or name.endswith(".out.gz") or _DISK_LOG.fullmatch(name):
        seen.logs.append(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink()
    except OSError:
        return False


def _runs(found: Walk, seen: _Seen) -> list[RunFolder]:
    own = _Seen(path=seen.path)
    inner: list[RunFolder] = []
    parts = [(each, _runs(found, each)) for each in seen.below if each.path.name not in _OF_A_RUN]
    for each in seen.below:
        # What lies in `logs` or `wandb` is of the folder around it.
        if each.path.name in _OF_A_RUN:
            _take(own, _flat(each))
    for each, runs in parts:
        if not runs:
            continue
        bare = each.has_weights and not (each.logs or each.has_config or each.checkpoints) and len(runs) == 1
        if bare and seen.checkpoints:
            continue  # The final adapter, exported once more beside its checkpoints.
        inner += runs
    _take(own, seen)
    logs = newest_first(own.logs)
    if len(inner) == 1 and not own.checkpoints and (logs or own.has_config) and not inner[0].logs:
        # A run whose trainer wrote into a folder of its own below.
        return [_run(found, own, inner[0])]
    if inner and not (own.checkpoints or own.has_weights):
        if logs:
            found.loose.append((logs, tuple(run.name for run in inner)))
        found.loose_evaluations += own.evaluations
        return inner
    return [*inner, _run(found, own, None)] if own.is_run or logs else inner


def _flat(seen: _Seen) -> _Seen:
    for each in seen.below:
        _take(seen, _flat(each))
    return seen


def _take(own: _Seen, other: _Seen) -> None:
    own.logs += other.logs
    own.documents += other.documents
    own.evaluations += other.evaluations
    own.wandb += other.wandb
    own.checkpoints += other.checkpoints
    own.has_config |= other.has_config
    own.has_weights |= other.has_weights


def _run(found: Walk, own: _Seen, output: RunFolder | None) -> RunFolder:
    parts: tuple[_Seen | RunFolder, ...] = (own,) if output is None else (own, output)
    return RunFolder(
        name=_name(found.root, own.path),
        path=own.path,
        weights=own.path if output is None else output.weights,
        logs=newest_first(own.logs),
        documents=_distinct(path for part in parts for path in part.documents),
        evaluations=_distinct(path for part in parts for path in part.evaluations),
        checkpoints=_distinct(path for part in parts for path in part.checkpoints),
        wandb=_distinct(path for part in parts for path in part.wandb),
    )


def _distinct(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(sorted(dict.fromkeys(paths), key=lambda path: _natural(str(path))))


def _name(root: Path, folder: Path) -> str:
    below = folder.relative_to(root).as_posix()
    return clean_text(root.resolve().name if below == "." else below)


def _unreadable(root: Path, folder: Path, fault: OSError) -> Issue:
    where = clean_text(folder.relative_to(root).as_posix())
    return Issue(
        weight=Severity.ERROR,
        subject="experiment",
        title="folder cannot be read",
        text=f"{where}: {fault.strerror or 'it cannot be read'}. Its content is missing from this report.",
        where=where,
    )


def named_run(text: str, names: Sequence[str]) -> str | None:
    """Return the run name that a text contains most often, as a path part or word; None if none or two tie."""
    counts = Counter(
        {name: len(re.findall(rf"(?<![\w.-]){re.escape(name.rpartition('/')[2])}(?![\w.-])", text)) for name in names}
    )
    ranked = counts.most_common(2)
    if not ranked or not ranked[0][1] or (len(ranked) > 1 and ranked[1][1] == ranked[0][1]):
        return None
    return ranked[0][0]


def with_loose(seen: Walk) -> tuple[list[RunFolder], list[Issue]]:
    """Return the runs with the logs next to their folders, assigned by the run names in their text."""
    runs = {run.name: run for run in _named_apart(seen.runs)}
    issues: list[Issue] = []
    for logs, names in seen.loose:
        for path in logs:
            owner = named_run(bounded(path, _LOOSE_LIMIT_BYTES) or "", names)
            if owner is None:
                issues.append(
                    Issue(
                        weight=Severity.INFO,
                        subject="experiment",
                        title="a log without a known run",
                        text=f"{below(seen.root, path)} is next to several runs and does not name exactly one.",
                        where=below(seen.root, path),
                    )
                )
            else:
                runs[owner] = replace(runs[owner], logs=newest_first((*runs[owner].logs, path)))
    return list(runs.values()), issues


def _named_apart(runs: Iterable[RunFolder]) -> Iterator[RunFolder]:
    """Yield runs with distinct names; undecodable bytes may make two names equal."""
    taken: Counter[str] = Counter()
    for run in runs:
        taken[run.name] += 1
        yield run if taken[run.name] == 1 else replace(run, name=f"{run.name}~{taken[run.name]}")
