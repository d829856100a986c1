"""The options and values of SLURM's commands, as the fake reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.slurm.fake_jobs import FakeJob, Life
from tests.slurm.fake_text import Row

from touchline.slurm.local.commands import CommandResult


@dataclass(kw_only=True, slots=True)
class Options:
    """Options of one command, and the words that are none."""

    values: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    unknown: str = ""


def submit_line(words: Sequence[str]) -> str:
    """The words as SubmitLine keeps them: side by side."""
    return " ".join(words)


def said(code: int, *, out: str = "", err: str = "") -> CommandResult:
    return CommandResult(code=code, out=out, err=err)


def limit_text(failed: str) -> str:
    why = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    return f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{failed}{why}\n"


def read_options(
    words: Sequence[str],
    values: frozenset[str],
    flags: frozenset[str],
    short: dict[str, str],
    *,
    stop_at_word: bool = False,
) -> Options:
    found = Options()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            found.words.append(word)
            if stop_at_word:
                found.words += rest
                break
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name in values and (equals or name not in flags):
                found.values[name] = value if equals else rest.pop(0) if rest else ""
            elif name in flags and not equals:
                found.values[name] = ""
            else:
                found.unknown = found.unknown or word
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            name = short.get(letter, "")
            if name in values:
                found.values[name] = (letters or (rest.pop(0) if rest else "")).removeprefix("=")
                letters = ""
            elif name in flags:
                found.values[name] = ""
            else:
                found.unknown = found.unknown or f"-{letter}"
    return found


def directives(text: str) -> list[str]:
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith("#SBATCH "):
            found.append(line.removeprefix("#SBATCH "))
        elif line and not line.startswith("#"):
            break
    return found


def is_called(job: FakeJob, text: str) -> bool:
    if job.array is None:
        return text == str(job.raw)
    return text in (job.shown, str(job.array[0])) or (job.raw != 0 and text == str(job.raw))


def listed_rows(seen: Sequence[tuple[FakeJob, Life]]) -> list[Row]:
    """One row each, the waiting tasks of an array together."""
    rows: list[Row] = []
    for job, life in seen:
        if job.array is None or life.state != "PENDING" or job.earlier:
            rows.append(Row(job=job, life=life))
            continue
        tasks = [
            (other, state)
            for other, state in seen
            if other.array and other.array[0] == job.array[0] and state.state == "PENDING" and not other.earlier
        ]
        if tasks[0][0] is job:
            numbers = tuple(other.array[1] for other, _ in tasks if other.array is not None)
            rows.append(Row(job=job, life=life, tasks=numbers))
    return rows


def dependency(text: str) -> tuple[list[tuple[str, int]], bool]:
    pairs: list[tuple[str, int]] = []
    for part in filter(None, text.split(",")):
        kind, _, ids = part.partition(":")
        if kind not in ("after", "afterany", "afterok", "afternotok", "aftercorr") or not ids:
            return [], True
        for number in ids.split(":"):
            if not number.partition("_")[0].isdigit():
                return [], True
            pairs.append((kind, int(number.partition("_")[0])))
    return pairs, False


def read_numbers(text: str) -> tuple[list[int], int]:
    spec, _, most = text.partition("%")
    numbers: list[int] = []
    for part in spec.split(","):
        low, _, high = part.partition("-")
        numbers += range(int(low), int(high or low) + 1)
    return numbers, int(most or 0)


def minutes(text: str) -> float:
    """Minutes of `90`, `1:30:00` or `1-00:00`; negative for none."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()):
        return -1.0
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        return int(days) * 1440.0 + hours * 60 + minutes + seconds / 60
    if len(numbers) == 3:
        return numbers[0] * 60.0 + numbers[1] + numbers[2] / 60
    return numbers[0] + (numbers[1] / 60 if len(numbers) == 2 else 0.0)


def gpus(given: dict[str, str]) -> int:
    text = given.get("gpus") or given.get("gres", "").removeprefix("gpu").lstrip(":") or "0"
    number = text.rpartition(":")[2]
    return int(number) if number.isdigit() else 1


def megabytes(text: str) -> float:
    scale = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
    return float(text.rstrip("KMGT")) * scale.get(text[-1], 1.0)


def begin_time(text: str, now: float) -> float:
    match = re.fullmatch(r"now\+(\d+)(hours?|minutes?|seconds?|)", text)
    if match is None:
        return 0.0
    scale = {"h": 3600.0, "m": 60.0}.get(match[2][:1], 1.0)
    return now + float(match[1]) * scale


def signal_seconds(text: str) -> float | None:
    match = re.fullmatch(r"(?:B:)?(?:SIG)?USR1@(\d+)", text)
    return None if match is None else float(match[1])


def since_time(text: str | None, now: float) -> float:
    if text is None:
        return now - now % 86400
    match = re.fullmatch(r"now-(\d+)(days?|hours?|minutes?)", text)
    if match is not None:
        return now - float(match[1]) * {"d": 86400.0, "h": 3600.0, "m": 60.0}[match[2][0]]
    return float(text) if text.isdigit() else 0.0
