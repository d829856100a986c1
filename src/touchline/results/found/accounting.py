"""sacct's answers that somebody kept in a file: `sacct -j 76,77 --format=JobID,State,ExitCode > sacct.txt`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from touchline.domain.status import JobState
from touchline.results.found.text import below, bounded, clean_line
from touchline.slurmtext.states import ExitCode, read_exit_code, read_job_id, read_state

_NAME = re.compile(r"sacct[\w.-]*\.(?:txt|csv|tsv|out|log)", re.IGNORECASE)
_LIMIT_BYTES = 4 << 20
_MOST_FILES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounted:
    """What the accounting says of a job."""

    state: JobState
    """How it ended."""
    exit_code: ExitCode | None
    """Its exit code."""
    line: str
    """The line."""
    where: str
    """`file:line`."""


def accounting_of(root: Path) -> dict[str, Accounted]:
    """The jobs in the folder's own files of sacct's answers, by their id; of a job that comes twice the last counts."""
    found: dict[str, Accounted] = {}
    try:
        paths = sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink())
    except OSError:
        return found
    for path in paths[:_MOST_FILES]:
        text = bounded(path, _LIMIT_BYTES)
        if text is not None:
            found |= dict(_rows(text.splitlines(), below(root, path)))
    return found


def _rows(lines: list[str], file: str) -> Iterator[tuple[str, Accounted]]:
    header: Mapping[str, int] = {}
    widths: list[tuple[int, int]] = []
    for number, line in enumerate(lines, 1):
        cells = _cells(line, widths)
        folded = [cell.casefold() for cell in cells]
        if "jobid" in folded and "state" in folded:
            header = {name: index for index, name in reversed(list(enumerate(folded)))}
            widths = []
        elif header and line.strip() and not line.strip(" -"):
            widths = [match.span() for match in re.finditer(r"-+", line)]
        elif header:
            row = _row(cells, header)
            if row is not None:
                job, state, code = row
                yield (
                    job,
                    Accounted(state=state, exit_code=code, line=clean_line(line.strip()), where=f"{file}:{number}"),
                )


def _cells(line: str, widths: list[tuple[int, int]]) -> list[str]:
    """The columns: by `|`, by the dashes under the header, or by blanks."""
    if "|" in line:
        return [cell.strip() for cell in line.split("|")]
    if widths:
        ends = [*(begin for begin, _ in widths[1:]), len(line)]
        return [line[begin:end].strip() for (begin, _), end in zip(widths, ends, strict=True)]
    return re.split(r"[,\t]| {1,}", line.strip())


def _row(cells: list[str], header: Mapping[str, int]) -> tuple[str, JobState, ExitCode | None] | None:
    if len(cells) <= max(header["jobid"], header["state"]):
        return None
    job = read_job_id(cells[header["jobid"]])
    state = read_state(cells[header["state"]]) if cells[header["state"]] else JobState.UNKNOWN
    if job is None or job.step is not None or state is JobState.UNKNOWN:
        return None
    at = header.get("exitcode")
    code = read_exit_code(cells[at]) if at is not None and at < len(cells) else None
    return job.whole, state, code
