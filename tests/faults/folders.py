"""Examples of several files: `== path kind` begins a file; the lines below are merged into the base of that kind."""

import re

_BEGIN = re.compile(r"^== (\S+)(?: (\w+))?$", re.MULTILINE)


def parts_of(lines: str) -> list[tuple[str, str | None, str]]:
    """(path, kind, lines) of each file; no kind: the lines are the whole file.

    Raises:
        ValueError: something stands before the first file.
    """
    before, *rest = _BEGIN.split(lines)
    if before.strip():
        raise ValueError(f"before the first file stands {before!r}")
    return [
        (rest[index], rest[index + 1], rest[index + 2].strip("\n") + "\n" if rest[index + 2].strip() else "")
        for index in range(0, len(rest), 3)
    ]
