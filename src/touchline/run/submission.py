"""Transactional submission: intent on disk, start, result; safe to kill between any two.

`intent` puts a token on disk before the start; the start passes the token to the executor; the result is `submitted`
with an id, `refused` (nothing was started) or `unclear`. After a kill or an unclear answer an intent is open. The next
`begin` of that job, in whatever process, first searches for the token: a job that has it is adopted, otherwise the job
is started again with a new token.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from touchline.core.errors import HostError, SubmissionLimitError, SubmissionUnknownError
from touchline.run.ledger import Ledger, open_intents
from touchline.run.protocol import Executor, Job


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """Result of one job's submission."""

    job: str
    """Job name."""
    job_id: str
    """Job id; empty if there is none."""
    word: str
    """`submitted`, `in the queue already`, `refused`, `later`, `unclear`, `stopped`."""
    reason: str = ""
    """Reason if it was not accepted."""


@runtime_checkable
class FindsByToken(Protocol):
    """Executor that can find jobs by their tokens after an unclear answer."""

    def find(self, tokens: Sequence[str], since_unix: float) -> Mapping[str, str]:
        """Return the ids of the jobs submitted with these tokens, or raise `SubmissionUnknownError`."""
        ...


def never() -> bool:
    """Return False: the work is always to be done."""
    return False


def begin(
    job: Job,
    executor: Executor,
    ledger: Ledger,
    gpus: tuple[str, ...] = (),
    after: Sequence[str] = (),
    *,
    is_done: Callable[[], bool] = never,
) -> str | None:
    """Start a job unless it is active. Return its id, or None if there was nothing to do.

    The caller holds the experiment lock; two processes that do not share that lock are separated by the lock in
    the run folder, where the second job ends at once.

    Args:
        gpus: ids of local GPUs.
        after: ids of jobs that must have ended first.
        is_done: check for completed work, called when no job of it is active any more, because it may have finished
            while the scheduler answered.

    Raises:
        SubmissionRejectedError, SubmissionLimitError: nothing was started.
        SubmissionUnknownError: it may have been started; the next `begin` searches for its token first.
        HostError: it cannot be started here.
    """
    settled = settle(job, executor, ledger)
    if settled:
        return settled
    view = executor.query_jobs([job]).get(job.name)
    if view is not None and view.active:
        ledger.record("adopted", job.name, job_id=view.job_id)
        return view.job_id
    if is_done():
        return None
    if executor.trouble:
        # What somebody else has put into the queue would not be seen.
        raise SubmissionLimitError(
            f"{job.name} is not submitted now: {executor.trouble}", hint="retry in a few minutes"
        )
    token = secrets.token_hex(8)
    ledger.record("intent", job.name, token=token, gpus=gpus)
    try:
        job_id = executor.start(job, token, gpus, after)
    except SubmissionUnknownError as fault:
        ledger.record("unclear", job.name, token=token, reason=fault.message)
        raise
    except HostError as fault:  # SubmissionRejectedError and SubmissionLimitError among them: nothing was started
        ledger.record("refused", job.name, token=token, reason=fault.message)
        raise
    ledger.record("submitted", job.name, token=token, job_id=job_id, gpus=gpus)
    for name in job.cohort:
        ledger.record("adopted", name, token=token, job_id=job_id)
    return job_id


def settle(job: Job, executor: Executor, ledger: Ledger) -> str:
    """Resolve open intents. Return the id of this job's intent, or an empty string.

    All open intents of the ledger are searched together, because one query covers them.

    Raises:
        SubmissionUnknownError: SLURM gives no answer, and an intent of this job is open.
    """
    if not isinstance(executor, FindsByToken):
        return ""
    intents = open_intents(ledger.entries(), executor.name)
    if not any(intent.job == job.name for intent in intents.values()):
        return ""
    found = executor.find(tuple(intents), max(intent.time_unix for intent in intents.values()))
    for token, intent in intents.items():
        if token in found:
            ledger.record("submitted", intent.job, token=token, job_id=found[token], gpus=intent.gpus)
        else:
            ledger.record("not submitted", intent.job, token=token)
    own = [found[token] for token, intent in intents.items() if intent.job == job.name and token in found]
    return own[-1] if own else ""
