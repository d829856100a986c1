"""Tables whose cells may hold anything: names with blanks, quotes, bars and line ends.

squeue, sacct and sinfo print names as they are. So every call uses a random separator, which cannot
be part of a name. An answer that is not whole gives no table: it must not be read as one without the rows it lacks.
"""

from __future__ import annotations


def read_closed_table(text: str, separator: str) -> list[list[str]] | None:
    """Read a table with the separator after every cell, header first; None if it is incomplete.

    `squeue --Format` writes it, where each field has the separator as its suffix.
    """
    header = text.partition("\n")[0].split(separator)
    columns = len(header) - 1
    parts = text.split(separator)
    if columns < 1 or header[-1] or parts[-1] != "\n" or (len(parts) - 1) % columns:
        return None
    rows = [parts[start : start + columns] for start in range(0, len(parts) - 1, columns)]
    if not all(row[0].startswith("\n") for row in rows[1:]):
        return None
    return [rows[0], *([row[0][1:], *row[1:]] for row in rows[1:])]


def read_table(text: str, separator: str, columns: int) -> list[list[str]] | None:
    """Read a table with `columns` cells per row, header first; None if it is incomplete.

    The separator stands between cells, as in sacct's `--parsable2`; a row's last cell must never hold a line end.
    """
    if not text.endswith("\n"):
        return None
    parts = text[:-1].split(separator)
    if columns < 2 or (len(parts) - 1) % (columns - 1) or len(parts) == 1:
        return None
    rows: list[list[str]] = []
    row = [parts[0]]
    for number, part in enumerate(parts[1:], 1):
        if number % (columns - 1) or number == len(parts) - 1:
            row.append(part)
            continue
        last, end, first = part.partition("\n")  # the end of one row and the beginning of the next
        if not end:
            return None
        rows.append([*row, last])
        row = [first]
    rows.append(row)
    return None if "\n" in row[-1] else rows
