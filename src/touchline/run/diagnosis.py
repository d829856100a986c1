"""Cause of an attempt's end, from its output, using the log readers of all trainers and schedulers."""

from __future__ import annotations

import re
from pathlib import Path

from touchline.core.files import open_regular
from touchline.core.observation import Sign, SignKind
from touchline.core.status import KILLED
from touchline.plan.recovery import Diagnosis
from touchline.slurm.output import JOB_ID

_TAIL_BYTES = 1 << 20
"""Size of the read end of an output."""
_LINES = 3
_OUR_FAULT = re.compile(r"^touchline: error: (.+)$")
_MEMORY = frozenset({SignKind.HOST_OOM, SignKind.GPU_OOM})
_CAUSES = {
    SignKind.HOST_OOM: "out of memory",
    SignKind.GPU_OOM: "out of GPU memory",
    SignKind.DISK_FULL: "no space left on the disk",
    SignKind.NOT_A_NUMBER: "the loss is not finite",
}
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?")


def diagnose(output: Path | None, exit_code: int | None) -> Diagnosis:
    """Diagnose an attempt's end from its output.

    Args:
        output: output file; None if there is none.
        exit_code: exit code, used if the output shows no cause.
    """
    plain = Diagnosis(cause=KILLED if exit_code is None else f"exit code {exit_code}")
    if output is None:
        return plain
    own = _own_words(output)
    signs = _signs(output)
    memory = [sign for sign in signs if sign.kind in _MEMORY]
    causes = memory or [sign for sign in signs if sign.kind in _CAUSES]
    lines = tuple(f"{output.name}:{sign.line}: {sign.text}" for sign in (causes or signs)[-_LINES:])
    if causes:
        return Diagnosis(cause=_CAUSES[causes[-1].kind], lines=lines, out_of_memory=bool(memory))
    if own is not None:
        return Diagnosis(cause=own, lines=lines)
    if signs:
        return Diagnosis(cause=_NUMBERS.sub("N", signs[-1].text.strip()), lines=lines)
    return plain


def newest_output(folder: Path, job_id: str = "", pattern: str = "slurm-*.out") -> Path | None:
    """Return the output of a job in a run folder; the newest one if the job is unknown."""
    outputs = [path for path in folder.glob(pattern) if path.is_file()]
    named = [path for path in outputs if job_id and (job_id in path.stem or JOB_ID in path.stem)]
    return max(named if job_id else outputs, key=lambda path: path.stat().st_mtime_ns, default=None)


def _own_words(output: Path) -> str | None:
    """Return the last error printed by our own programs."""
    try:
        with open_regular(output) as stream:
            size = output.stat().st_size
            stream.seek(max(0, size - _TAIL_BYTES))
            text = stream.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return None
    found = [match.group(1).strip() for line in text.splitlines() if (match := _OUR_FAULT.match(line))]
    return found[-1] if found else None


def _signs(output: Path) -> list[Sign]:
    """Return error signs, in order."""
    # The readers of every trainer's logs are loaded when something failed, and not before.
    from touchline.history.lines import NotTextError
    from touchline.history.scan import Scan
    from touchline.history.segments import FileSegmenter

    segmenter = FileSegmenter(output.name)
    try:
        Scan(output, segmenter).run()
    except (NotTextError, OSError):
        return []
    wanted = {*_CAUSES, SignKind.EXCEPTION}
    signs = [sign for part in segmenter.parts for sign in part.signs.all() if sign.kind in wanted]
    return sorted(signs, key=lambda sign: sign.line)
