"""sacct's answers saved in a file: `sacct -j 76 --format=JobID,State,AllocTRES > sacct.txt`.

Columns are parted by `|`, by the dashes under the header, or by blanks, as sacct's options had it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from touchline.core.observation import Event, Observation
from touchline.slurm.states import read_job_id

SAVED_SACCT = re.compile(r"sacct[\w.-]*\.(?:txt|csv|tsv|out|log)", re.IGNORECASE)
"""Names of such files."""
_GPUS = re.compile(r"gres/gpu(?::(?P<kind>[\w.-]+))?[=:](?P<count>\d{1,5})")
_TRES = ("alloctres", "reqtres", "allocgres", "reqgres")


def saved_rows(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield the rows below a header with a job id: the line's number, and cells by the column's name in lower case."""
    header: list[str] = []
    widths: list[tuple[int, int]] = []
    for number, line in enumerate(lines, 1):
        cells = _cells(line, widths)
        folded = [cell.casefold() for cell in cells]
        if "jobid" in folded:
            header, widths = folded, []
        elif header and line.strip() and not line.strip(" -"):
            widths = [match.span() for match in re.finditer(r"-+", line)]
        elif header and line.strip():
            # Of columns with one name the first counts.
            yield number, dict(reversed(list(zip(header, cells, strict=False))))


def machine_events(text: str, names: Collection[str]) -> tuple[Event, ...]:
    """Return the GPUs that SLURM gave to a job: what it gives need not be used.

    Args:
        text: the file's text.
        names: names of the job's logs; its id stands in one of them. The only job of a file is the logs' in any case.
    """
    jobs: dict[str, list[Observation]] = {}
    for number, row in saved_rows(text.splitlines()):
        job = read_job_id(row.get("jobid", ""))
        if job is None or job.step is not None:
            continue
        found = jobs.setdefault(job.whole, [])
        given = [match for name in _TRES for match in _GPUS.finditer(row.get(name, ""))]
        for match in given[:1]:
            found.append(Observation(name="gpus", value=float(match["count"]), line=number, certain=False))
        kind = next((match["kind"] for match in given if match["kind"]), None)
        if kind is not None:
            found.append(Observation(name="gpu", value=kind, line=number, certain=False))
    ids = {digits for name in names for digits in re.findall(r"\d+(?:_\d+)?", name)}
    wanted = [job for job in jobs if job in ids] or (list(jobs) if len(jobs) == 1 else [])
    return tuple(jobs[wanted[-1]]) if wanted else ()


def _cells(line: str, widths: list[tuple[int, int]]) -> list[str]:
    if "|" in line:
        return [cell.strip() for cell in line.split("|")]
    if widths:
        ends = [*(begin for begin, _ in widths[1:]), len(line)]
        return [line[begin:end].strip() for (begin, _), end in zip(widths, ends, strict=True)]
    return re.split(r"[,\t]| {1,}", line.strip())
