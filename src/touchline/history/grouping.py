"""Grouping of files into runs: the streams of one job, the state files of one output folder, the configs next to them.

Names decide, nothing is opened: `train_21.out` and `train_21.err` are one job, `trainer_log.jsonl` and
`all_results.json` of one folder are one run, a config is of the log with its name or of the only log in its folder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.history.run_facts import FACTS_FILE

LOG_SUFFIXES = frozenset({".out", ".err", ".log", ".txt", ".jsonl", ".stdout", ".stderr"})
DOCUMENT_SUFFIXES = frozenset({".json", ".yaml", ".yml"})
TABLE_NAMES = frozenset({"history.csv", "metrics.csv", "log_history.csv", "train_log.csv", "training_log.csv"})
"""Tables of metrics that trainers write; any other one is read when it is named."""
SAVED_SACCT = re.compile(r"sacct[\w.-]*\.(?:txt|csv|tsv|out|log)", re.IGNORECASE)
"""Names of files with saved answers of sacct, which are no logs."""
SCRIPT_SUFFIXES = frozenset({".slurm", ".sbatch", ".sh"})
_SCHEDULER = re.compile(r"\.[oe](\d+)(?:[.-]\d+)?$")
_ROLE = re.compile(
    r"(?:^|[._-])(?:stdout|stderr|out|err|trainer_log|running_log|logging|all_results|train_results|eval_results"
    r"|trainer_state|wandb-summary|wandb-metadata|output|metrics|run_metrics|training|touchline|plan|config|args|training_args"
    r"|sft_args|adapter_config|finetune|setup_finetune|log|sft|train)$",
    re.IGNORECASE,
)
_STATE = re.compile(
    r"(?:^|[._-])(?:trainer_state|all_results|train_results|eval_results|wandb-summary|wandb-metadata)$", re.IGNORECASE
)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
SKIPPED_FOLDERS = frozenset({".git", "__pycache__", "node_modules", ".venv", "venv", "site-packages", "superseded"})
NOT_OURS = frozenset(
    {
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "added_tokens.json"),
        *("generation_config.json", "model.safetensors.index.json", "requirements.txt", "ledger.jsonl", "plan.json"),
        *("runs_status.yaml", "run_metrics.yaml", "eval.yaml", "touchline.json", "training.json", "merges.txt"),
        FACTS_FILE,
    }
)
"""Names of files that hold no events of a run, or that touchline derives from files that do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileGroup:
    """The files of one run, before any of them is opened."""

    key: str
    files: tuple[Path, ...]
    """Logs first, then state files, then configs and scripts; each sorted."""
    facts: tuple[Path, ...] = ()
    """Files that state facts of them (`history/run_facts.py`), the farthest above them first."""

    @property
    def logs(self) -> tuple[Path, ...]:
        """Logs among the files."""
        return tuple(path for path in self.files if role_of(path) == "log")


def role_of(path: Path) -> str:
    """Return `log`, `table`, `document` or `script`, by the name alone."""
    suffix = _plain(path).suffix.lower()
    if suffix == ".csv":
        return "table"
    if suffix in DOCUMENT_SUFFIXES:
        return "document"
    return "script" if suffix in SCRIPT_SUFFIXES else "log"


def key_of(path: Path) -> str:
    """Return a file's name without its extension and without words for a stream or a role; may be empty."""
    name = _SCHEDULER.sub(r".\1", _plain(path).name)
    stem = Path(name)
    while stem.suffix.lower() in LOG_SUFFIXES | DOCUMENT_SUFFIXES | SCRIPT_SUFFIXES | {".csv"}:
        stem = stem.with_suffix("")
    return _ROLE.sub("", stem.name)


def group_files(paths: Sequence[Path]) -> tuple[FileGroup, ...]:
    """Group files and the contents of folders; a file that is named brings those of its own run in its folder along."""
    named = [path for path in paths if not path.is_dir()]
    walked = [found for path in paths if path.is_dir() for found in _walk(path)]
    by_folder: dict[Path, set[Path]] = defaultdict(set)
    for path in (*named, *walked):
        by_folder[path.parent].add(path)
    groups: list[FileGroup] = []
    for folder in sorted(by_folder):
        files = by_folder[folder]
        companions = _companions(folder, [path for path in named if path.parent == folder])
        facts = tuple(_facts_above(folder, [path for path in paths if path.is_dir()]))
        for group in _in_folder(files | companions):
            if any(path in files for path in group.files):
                groups.append(replace(group, facts=facts))
    return tuple(groups)


def _facts_above(folder: Path, roots: Sequence[Path]) -> list[Path]:
    """Return the files of facts of a folder and of those above it, up to one that was named; the farthest first."""
    root = next((each for each in roots if each == folder or each in folder.parents), folder)
    above = [folder, *folder.parents]
    found = [each / FACTS_FILE for each in above[: above.index(root) + 1] if (each / FACTS_FILE).is_file()]
    return found[::-1]


def _companions(folder: Path, named: Sequence[Path]) -> set[Path]:
    """Return the files next to the named ones that belong to the same runs."""
    if not named:
        return set()
    keys = {key_of(path) for path in named if path.exists()}
    if not keys:
        return set()
    return {path for path in _readable(folder) if key_of(path) in keys or (key_of(path) == "" and "" in keys)}


def _walk(folder: Path) -> Iterable[Path]:
    """Yield the files of a folder and below that may show a run; of checkpoints only the newest, and no links."""
    yield from _readable(folder)
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return
    checkpoints = [path for path in below if _CHECKPOINT.fullmatch(path.name)]
    for path in below:
        if path not in checkpoints and path.name not in SKIPPED_FOLDERS:
            yield from _walk(path)
    newest = max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if newest is not None and not (folder / "trainer_state.json").exists():
        yield from (path for path in _readable(newest) if path.name == "trainer_state.json")


def _readable(folder: Path) -> Iterable[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        suffix = _plain(path).suffix.lower()
        known = (
            path.name in TABLE_NAMES
            or suffix in LOG_SUFFIXES | DOCUMENT_SUFFIXES | SCRIPT_SUFFIXES
            or _SCHEDULER.search(path.name)
        )
        is_ours = path.name not in NOT_OURS and SAVED_SACCT.fullmatch(path.name) is None
        if known and is_ours and not path.name.startswith(".") and path.is_file():
            yield path


def _in_folder(files: set[Path]) -> list[FileGroup]:
    by_key: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(files):
        by_key[key_of(path)].append(path)
    runs = {
        key: found
        for key, found in by_key.items()
        if any(role_of(path) in ("log", "table") or _STATE.search(_plain(path).stem) for path in found)
    }
    others = [path for key, found in by_key.items() if key not in runs for path in found]
    if "" in runs and len(runs) == 2:
        # State files of the folder, and one log with a name of its own: one run.
        key = next(run for run in runs if run)
        runs[key] += runs.pop("")
    if not runs:
        return [FileGroup(key=key_of(path) or _folder_name(path), files=(path,)) for path in others]
    groups = []
    for key, found in runs.items():
        # A config of another name is of the folder's only run, or of all of them when it is the only config.
        shared = others if len(runs) == 1 or [role_of(path) for path in others] == ["document"] else []
        files_of = sorted({*found, *shared}, key=lambda path: (_order(path), path.name))
        groups.append(FileGroup(key=key or _folder_name(found[0]), files=tuple(files_of)))
    return groups


def _folder_name(path: Path) -> str:
    return path.absolute().parent.name or path.stem


def _order(path: Path) -> int:
    return ("log", "table", "document", "script").index(role_of(path))


def _plain(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path
