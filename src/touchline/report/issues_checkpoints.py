"""Issues of checkpoints: corrupt, missing, and whether their scores still count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.core.finding import Severity
from touchline.core.status import TrainingOutcome
from touchline.report.formatting import capital
from touchline.results.report_inputs import Issue
from touchline.results.run_result import RunResult
from touchline.results.verification_types import Verification, VerifiedCheckpoint

_CUT, _SIZE = "truncated", "wrong-size"
"""Codes of problems. A truncated file has the wrong size too."""


def checkpoint_issues(verification: Verification, runs: Mapping[str, RunResult]) -> Iterator[Issue]:
    """Yield corrupt checkpoints, then those that are missing though planned."""
    for checkpoint in verification.checkpoints:
        if checkpoint.sound:
            continue
        cut = {fault.file for fault in checkpoint.faults if fault.code == _CUT}
        faults = [fault for fault in checkpoint.faults if fault.code != _SIZE or fault.file not in cut]
        shown = "; ".join(
            f"{fault.file}: {fault.message}" if fault.file else capital(fault.message) for fault in faults[:4]
        )
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        if checkpoint.weights_sound:
            yield Issue(
                weight=Severity.WARNING,
                subject=checkpoint.run,
                title=f"checkpoint {checkpoint.name} lacks a valid file beside its weights",
                text=f"{shown}{more}. Its weights are valid: the training counts, and the checkpoint can be used again "
                f"with that file{_from_another(checkpoint, verification)}.",
                where=f"{checkpoint.run}/{checkpoint.name}",
            )
            continue
        scored = " Its score on record is of the weights as they were saved." if _is_scored(checkpoint, runs) else ""
        yield Issue(
            weight=Severity.ERROR,
            subject=checkpoint.run,
            title=f"checkpoint {checkpoint.name} is corrupt",
            text=f"{shown}{more}. It does not count as it is.{scored}",
            where=f"{checkpoint.run}/{checkpoint.name}",
        )
    for missing in verification.missing:
        if missing.expected:
            continue
        done = missing.run in runs and runs[missing.run].outcome is TrainingOutcome.COMPLETE
        yield Issue(
            weight=Severity.ERROR if done else Severity.WARNING,
            subject=missing.run,
            title=f"checkpoint {missing.name} is missing",
            text=f"{capital(missing.reason)}.",
        )


def _from_another(checkpoint: VerifiedCheckpoint, verification: Verification) -> str:
    """Return another checkpoint of the run that has all the invalid files."""
    lacking = {fault.file for fault in checkpoint.faults}
    for other in verification.checkpoints:
        if other.run == checkpoint.run and other.sound and lacking <= {file.name for file in other.files}:
            return f", which {other.name} has too"
    return ""


def _is_scored(checkpoint: VerifiedCheckpoint, runs: Mapping[str, RunResult]) -> bool:
    """Return True if an evaluation used the weights that the checkpoint's marker describes."""
    run = runs.get(checkpoint.run)
    weights = {} if run is None else {each.name: each.adapter_sha256 for each in run.checkpoints}
    saved = weights.get(checkpoint.name)
    return (
        run is not None
        and saved is not None
        and any((r.checkpoint, r.adapter_sha256) == (checkpoint.name, saved) for r in run.evaluations)
    )
