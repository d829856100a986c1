"""Files beside several run folders: logs and evaluations, assigned by their text, and saved sacct output."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.finding import Severity
from touchline.core.status import JobState
from touchline.history.saved_sacct import SAVED_SACCT, saved_rows
from touchline.results.imported.evaluations import EvalLogError, FoundEvaluation, read_eval_log
from touchline.results.imported.folders import RunFolder, Walk, newest_first
from touchline.results.imported.text import below, bounded, clean_line
from touchline.results.report_inputs import Issue
from touchline.slurm.states import ExitCode, read_exit_code, read_job_id, read_state

_LOOSE_LIMIT_BYTES = 4 << 20


def read_evaluations(root: Path, paths: Sequence[Path], subject: str) -> tuple[list[FoundEvaluation], list[Issue]]:
    """Read the scores of Inspect logs; return them with an issue for each log without scores."""
    found: list[FoundEvaluation] = []
    issues: list[Issue] = []
    for path in paths:
        try:
            found.append(read_eval_log(path))
        except EvalLogError as fault:
            issues.append(
                Issue(
                    weight=Severity.WARNING,
                    subject=subject,
                    title="an evaluation gives no score",
                    text=f"{path.name}: {fault}. Its scores are missing from this report.",
                    where=below(root, path),
                )
            )
    return found, issues


def evaluations_of(
    folder: RunFolder, folders: Sequence[RunFolder], loose: Sequence[FoundEvaluation]
) -> list[FoundEvaluation]:
    """Return the loose evaluations whose model names this run's folder."""
    names = [each.name for each in folders]
    return [each for each in loose if _told(each.model, names) == folder.name]


def _told(text: str, names: Sequence[str]) -> str | None:
    """Return the run name that a text contains most often, as a path part or word; None if none or two tie."""
    counts = Counter(
        {name: len(re.findall(rf"(?<![\w.-]){re.escape(name.rpartition('/')[2])}(?![\w.-])", text)) for name in names}
    )
    ranked = counts.most_common(2)
    if not ranked or not ranked[0][1] or (len(ranked) > 1 and ranked[1][1] == ranked[0][1]):
        return None
    return ranked[0][0]


def with_loose(seen: Walk) -> tuple[list[RunFolder], list[Issue]]:
    """Return the runs with the logs beside their folders, assigned by the run names in their text."""
    runs = {run.name: run for run in _distinct(seen.runs)}
    issues: list[Issue] = []
    for logs, names in seen.loose:
        for path in logs:
            owner = _told(bounded(path, _LOOSE_LIMIT_BYTES) or "", names)
            if owner is None:
                issues.append(
                    Issue(
                        weight=Severity.INFO,
                        subject="experiment",
                        title="a log of no known run",
                        text=f"{below(seen.root, path)} is beside several runs and names none of them, or two.",
                        where=below(seen.root, path),
                    )
                )
            else:
                runs[owner] = replace(runs[owner], logs=newest_first((*runs[owner].logs, path)))
    return list(runs.values()), issues


def _distinct(runs: Iterable[RunFolder]) -> Iterator[RunFolder]:
    """Yield runs with distinct names; undecodable bytes may make two names equal."""
    taken: Counter[str] = Counter()
    for run in runs:
        taken[run.name] += 1
        yield run if taken[run.name] == 1 else replace(run, name=f"{run.name}~{taken[run.name]}")


_LIMIT_BYTES = 4 << 20
_MOST_FILES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedSacctJob:
    """Accounting entry of a job."""

    state: JobState
    """Final state."""
    exit_code: ExitCode | None
    """Exit code."""
    line: str
    """Line of the file."""
    where: str
    """`file:line`."""


def accounting_of(root: Path) -> dict[str, SavedSacctJob]:
    """Return the jobs in the folder's saved sacct files, by id; the last entry of a job counts."""
    found: dict[str, SavedSacctJob] = {}
    try:
        paths = sorted(path for path in root.iterdir() if SAVED_SACCT.fullmatch(path.name) and not path.is_symlink())
    except OSError:
        return found
    for path in paths[:_MOST_FILES]:
        text = bounded(path, _LIMIT_BYTES)
        if text is not None:
            found |= dict(_rows(text.splitlines(), below(root, path)))
    return found


def _rows(lines: list[str], file: str) -> Iterator[tuple[str, SavedSacctJob]]:
    for number, cells in saved_rows(lines):
        job = read_job_id(cells.get("jobid", ""))
        state = read_state(cells["state"]) if cells.get("state") else JobState.UNKNOWN
        if job is None or job.step is not None or state is JobState.UNKNOWN:
            continue
        code = read_exit_code(cells["exitcode"]) if "exitcode" in cells else None
        line = clean_line(lines[number - 1].strip())
        yield job.whole, SavedSacctJob(state=state, exit_code=code, line=line, where=f"{file}:{number}")
