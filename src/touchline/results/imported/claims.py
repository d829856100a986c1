"""Check of claims in READMEs and earlier reports against the files.

Only recomputable claims are checked: examples against steps and batch size, sizes against files, losses, steps and
rates against logs. A sentence on cause or speed is quoted with what the runs can show.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from touchline.core.finding import Severity
from touchline.core.quantity import Quantity
from touchline.core.units import GIB, format_bytes, percent
from touchline.results.imported.design import Design, words_of
from touchline.results.imported.result import ImportedRun
from touchline.results.imported.text import below, bounded, clean_line
from touchline.results.report_inputs import Issue
from touchline.results.run_result import RunResult
from touchline.results.verification_types import VerifiedCheckpoint

_TEXT_LIMIT_BYTES = 1 << 20
_MOST_FILES = 20
_MOST_ISSUES = 40
_OURS = "touchline report"
_TEXTS = re.compile(r"(?:README|NOTES|.*(?:SUMMARY|REPORT|RESULTS).*)\.(?:md|txt)", re.IGNORECASE)
_EXAMPLES = re.compile(
    r"(?<![\w.,])(\d{1,3}(?:[,_]\d{3})+|\d{2,9})(k?)\s+(?:training\s+|train\s+)?(?:samples|examples|words|rows|instances)\b",
    re.IGNORECASE,
)
_IN_A_NAME = re.compile(r"(?<!\d)(\d{3,7})(?=\.(?:json|jsonl|parquet|csv)$)")
_SPEED = re.compile(
    r"\b(?:train(?:s|ed|ing)?\s+(?:\w+\s+){0,3}(?:faster|slower|quicker)|(?:faster|slower) than"
    r"|better (?:gpu |hardware )?utili[sz]ation|more efficient than)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"^~?\s*(?P<value>\d[\d,]*(?:\.\d+)?)\s*(?P<unit>[KMGT]i?B)?\b")
_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}
_SIZE_SLACK = 1.01
"""`ls -h` and `du -h` round up, so a claimed size may be one unit of its last digit too large."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedRun:
    """Run with the data its claims are compared with."""

    run: ImportedRun
    """Imported run."""
    result: RunResult
    """Its result."""


def claims_of(root: Path, held: Sequence[CheckedRun], design: Design) -> list[Issue]:
    """Return issues about claims in the texts of a folder.

    Args:
        root: folder whose texts are read.
        held: runs.
        design: factors and levels.
    """
    texts = list(_texts(root))
    issues = [*_copies(held), *_samples(texts, held, root)]
    for path, lines in texts:
        issues += _tables(path, lines, held, root)
        issues += _speeds(path, lines, held, root, design)
    return issues[:_MOST_ISSUES]


def _texts(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield READMEs and earlier reports of the folder; our own reports are skipped."""
    try:
        paths = sorted(path for path in root.iterdir() if _TEXTS.fullmatch(path.name) and not path.is_symlink())
    except OSError:
        return
    for path in paths[:_MOST_FILES]:
        text = bounded(path, _TEXT_LIMIT_BYTES)
        if text is not None and _OURS not in text:
            yield path, text.splitlines()


# ---- examples --------------------------------------------------------------------------------------------------------


def examples_of(held: CheckedRun) -> tuple[int, int, str] | None:
    """Return (fewest, most, calculation) of training examples per epoch from steps, batch size and epochs, or None if
    unknown.
    """
    values = held.run.settings.values
    steps, epochs, batch = held.result.steps_planned, values.get("epochs"), values.get("effective_batch_size")
    if steps is None or not isinstance(epochs, int) or not isinstance(batch, int) or values.get("packed") is True:
        return None
    if epochs < 1 or batch < 1 or steps % epochs:
        return None
    each = steps // epochs
    how = f"{steps:,} steps / {epochs} epochs x {batch} examples per step"
    return (each - 1) * batch + 1, (each + 1) * batch - 1, how


def _samples(texts: Sequence[tuple[Path, Sequence[str]]], held: Sequence[CheckedRun], root: Path) -> Iterator[Issue]:
    """Yield an issue if a claimed number of training examples contradicts steps and batch size."""
    known = [(each, found) for each in held if (found := examples_of(each)) is not None]
    if not known:
        return
    middle = {(low + high + 1) // 2 for _, (low, high, _) in known}
    said: list[tuple[int, str, str | None]] = []
    for path, lines in texts:
        for number, line in enumerate(lines, 1):
            for match in _EXAMPLES.finditer(line):
                count = int(re.sub(r"[,_]", "", match[1])) * (1000 if match[2] else 1)
                said.append((count, clean_line(line.strip()), f"{below(root, path)}:{number}"))
    for name in sorted({each.run.settings.dataset or "" for each, _ in known}):
        if (counted := _IN_A_NAME.search(name)) is not None:
            said.append((int(counted[1]), f"dataset {name}", None))
    wrong = [each for each in said if not any(low <= each[0] <= high for _, (low, high, _) in known)]
    near = [each for each in wrong if any(count / 3 <= each[0] <= count * 3 for count in middle)]
    if not near:
        return
    count, line, where = near[0]
    hows = "; ".join(sorted({f"{how} = {(low + high + 1) // 2:,}" for _, (low, high, how) in known})[:4])
    seen = " or ".join(f"{each:,}" for each in sorted(middle)[:3])
    share = count and min(middle) / count
    split = (
        f" It fits a training split of {percent(share, 0)} of {count:,}; the rest is not trained on."
        if len(middle) == 1 and share in (0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95)
        else ""
    )
    yield Issue(
        weight=Severity.WARNING,
        subject="experiment",
        title=f"{count:,} training examples are claimed, {seen} were trained on",
        text=f"The steps imply {seen} examples per epoch: {hows}.{split}",
        lines=tuple(dict.fromkeys(each[1] for each in near))[:3],
        where=where,
    )


# ---- sizes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of a run's checkpoints, in bytes."""

    count: int
    """Number of checkpoints."""
    models: int
    """Full models."""
    adapters: int
    """Adapters, one file per checkpoint."""
    copies: int
    """Further files with the same adapter weights."""

    @property
    def once(self) -> int:
        """Full models and adapters, each counted once."""
        return self.models + self.adapters

    @property
    def twice(self) -> int:
        """Total with copies."""
        return self.once + self.copies


def sizes_of(checkpoints: Sequence[VerifiedCheckpoint]) -> Sizes:
    """Return the sizes by file names, not by content."""
    models = adapters = copies = 0
    for checkpoint in checkpoints:
        models += sum(file.size_bytes for file in checkpoint.files if file.role == "model")
        own = sorted(
            (file for file in checkpoint.files if file.role == "adapter"),
            key=lambda file: (not file.name.endswith(".safetensors"), -file.size_bytes),
        )
        adapters += own[0].size_bytes if own else 0
        copies += sum(file.size_bytes for file in own[1:])
    return Sizes(count=len(checkpoints), models=models, adapters=adapters, copies=copies)


def _copies(held: Sequence[CheckedRun]) -> Iterator[Issue]:
    """Yield an issue if adapters are saved twice in every checkpoint."""
    sizes = {each.result.name: sizes_of(each.run.checkpoints) for each in held}
    double = {name: size for name, size in sizes.items() if size.copies and size.models}
    if not double:
        return
    rows = "; ".join(f"{name}: {_sum(size)}" for name, size in list(double.items())[:12])
    total = format_bytes(sum(size.copies for size in double.values()))
    yield Issue(
        weight=Severity.INFO,
        subject="experiment",
        title="adapters are saved twice",
        text=f"Each checkpoint holds its adapter as .safetensors and once more as .pt, {total} in all. Counted once: "
        f"{rows}.",
    )


def _sum(size: Sizes) -> str:
    """Format sizes: `3 x 6.1 GiB + 3 x 172 MiB = 18.8 GiB (19.3 GiB with the copies)`."""
    n = size.count
    return (
        f"{n} x {format_bytes(size.models / n)} + {n} x {format_bytes(size.adapters / n)} = {format_bytes(size.once)} "
        f"({format_bytes(size.twice)} with the copies)"
    )


# ---- tables of earlier reports ---------------------------------------------------------------------------------------


def _tables(path: Path, lines: Sequence[str], held: Sequence[CheckedRun], root: Path) -> Iterator[Issue]:
    """Yield issues for table rows about imported runs whose numbers differ from the files."""
    names = {_plain(each.result.name): each for each in held}
    header: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not header:
            header = cells
            continue
        each = names.get(_plain(cells[0]))
        if each is None:
            continue
        for title, cell in zip(header[1:], cells[1:], strict=False):
            wrong = _held_against(title.lower(), cell, each, held)
            if wrong is not None:
                yield Issue(
                    weight=Severity.WARNING,
                    subject=each.result.name,
                    title=f"an earlier report says {_short(cell)}",
                    text=f"{below(root, path)}, column {_short(title)!r}: {wrong}",
                    lines=(clean_line(line.strip()),),
                    where=f"{below(root, path)}:{number}",
                )


def _plain(name: str) -> str:
    """Normalize a run name from a table: remove markup, and unify `rank` and `r`."""
    return re.sub(r"rank[_-]?", "r", re.sub(r"[`*\s]", "", name).casefold())


def _short(text: str) -> str:
    return clean_line(text)[:60]


def _held_against(title: str, cell: str, each: CheckedRun, held: Sequence[CheckedRun]) -> str | None:
    """Return the problem of a cell; None if it agrees or cannot be checked."""
    match = _NUMBER.match(cell)
    if match is None:
        return None
    value, digits = float(match["value"].replace(",", "")), len(match["value"].partition(".")[2])
    unit = match["unit"]
    if unit is not None:
        return _size(title, value, digits, unit, each, held)
    for words, measured in (
        (("val",), each.result.final_val_loss),
        (("token",), each.result.tokens_per_second),
        (("loss",), each.result.final_train_loss),
    ):
        if any(word in title for word in words):
            if not isinstance(measured, Quantity) or abs(measured.value - value) <= _half(digits, value):
                return None
            return f"the log says {measured.value:.6g} ({measured.where})."
    if "step" in title and each.result.steps_done is not None and value != each.result.steps_done:
        return f"the log shows {each.result.steps_done:,} steps."
    return None


def _half(digits: int, value: float) -> float:
    """Return half a unit of the last digit plus float tolerance."""
    return 0.5 * 10.0**-digits + 1e-9 * abs(value)


def _size(title: str, value: float, digits: int, unit: str, each: CheckedRun, held: Sequence[CheckedRun]) -> str | None:
    sizes = sizes_of(each.run.checkpoints)
    if not sizes.count:
        return None
    adapters_only = "adapter" in title and "full" not in title
    wanted = (sizes.adapters,) if adapters_only else (sizes.once, sizes.models)
    # People write GB for what `du -h` counts in GiB: a size that fits either is right.
    fits = [
        size
        for size in wanted
        for base in (1024, 1000)
        if abs(value - size / base ** _UNITS[unit[0]]) <= _SIZE_SLACK * 10.0**-digits
        or (unit[0] != "G" and abs(value / (size / base ** _UNITS[unit[0]] or 1.0) - 1) < 0.05)
    ]
    if fits or not wanted[0]:
        return None
    shown = _sum(sizes) if sizes.models else f"{sizes.count} adapters take {format_bytes(sizes.adapters)}"
    also = ""
    if abs(value - sizes.twice / GIB) <= 10.0**-digits and unit[0] == "G" and sizes.copies:
        others = [
            f"{other.result.name} {format_bytes(found.twice)}"
            for other in held
            if other is not each and (found := sizes_of(other.run.checkpoints)).copies
        ]
        also = " That number counts every adapter twice, .pt and .safetensors" + (
            f"; counted so, the others take {', '.join(others[:6])}." if others else "."
        )
    return f"the files give {shown}.{also}"


# ---- sentences of cause and speed ------------------------------------------------------------------------------------


def _speeds(
    path: Path, lines: Sequence[str], held: Sequence[CheckedRun], root: Path, design: Design
) -> Iterator[Issue]:
    """Yield an issue for claims about training speed that these runs cannot support."""
    said = [
        (number, clean_line(line.strip())) for number, line in enumerate(lines, 1) if _SPEED.search(line) is not None
    ]
    if not said:
        return
    per_level: Mapping[tuple[str, ...], int] = _counts(design)
    reasons = []
    if per_level and all(count == 1 for count in per_level.values()):
        reasons.append("each setting was trained once, so that its time depends on the node and hour too")
    reasons += [
        f"the {words_of(each.setting)} changes with the {words_of(each.factor)}"
        for each in design.together
        if each.costs
    ][:1]
    if any(
        isinstance(each.result.tokens_per_second, Quantity) and each.result.tokens_per_second.aggregation == "last"
        for each in held
    ):
        reasons.append("the tokens/s in the logs are those of the last step, and no mean")
    if not reasons:
        return
    yield Issue(
        weight=Severity.WARNING,
        subject="experiment",
        title="claims of speed are not established",
        text=f"{below(root, path)} says what trains faster. These runs cannot show it: " + "; ".join(reasons) + ".",
        lines=tuple(line for _, line in said[:4]),
        where=f"{below(root, path)}:{said[0][0]}",
    )


def _counts(design: Design) -> dict[tuple[str, ...], int]:
    counts: dict[tuple[str, ...], int] = {}
    for levels in design.levels.values():
        key = tuple(level.value for level in levels)
        counts[key] = counts.get(key, 0) + 1
    return counts
