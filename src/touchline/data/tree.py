"""Files in a folder tree that can be checked, by name and within limits, without following links out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from touchline.core.errors import InputError
from touchline.core.finding import Finding, Location, Severity

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
        names[:] = sorted(name for name in names if not _skipped(name))
        for name in sorted(files):
            kind = _kind(here / name)
            if (here / name).is_symlink() and _leads_up(here / name):
                findings.append(_ring(here / name))
            elif kind is not None:
                yield FoundFile(path=here / name, kind=kind, named=False)


def _skipped(name: str) -> bool:
    return name in _SKIPPED_FOLDERS or name.startswith(_SKIPPED_PREFIXES)


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
