"""sacct's answers saved in a file: `sacct -j 76 --format=JobID,State,AllocTRES > sacct.txt`.

Columns are parted by `|`, by the dashes under the header, or by blanks, as sacct's options had it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

SAVED_SACCT = re.compile(r"sacct[\w.-]*\.(?:txt|csv|tsv|out|log)", re.IGNORECASE)
"""Names of such files."""


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


def _cells(line: str, widths: list[tuple[int, int]]) -> list[str]:
    if "|" in line:
        return [cell.strip() for cell in line.split("|")]
    if widths:
        ends = [*(begin for begin, _ in widths[1:]), len(line)]
        return [line[begin:end].strip() for (begin, _), end in zip(widths, ends, strict=True)]
    return re.split(r"[,\t]| {1,}", line.strip())
