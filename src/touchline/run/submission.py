"""Submitting as a transaction: intent on disk, start, and what became of it; safe to be killed between any two.

    intent        a token, on disk before anything is started
    start         the executor is told the token with the job
    submitted     its id; or refused: nothing was started; or unclear: nobody knows

After a kill, or an unclear answer, an intent has no end. The next `begin` of that job, in whatever process, looks for
the token first: a job that has it is adopted, and only where there is none the job is started again, with a new token.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from touchline.core.errors import HostError, SubmissionLimitError, SubmissionUnknownError
from touchline.run.ledger import Ledger, open_intents
from touchline.run.protocol import Executor, Job


@runtime_checkable
class FindsByToken(Protocol):
    """An executor whose jobs can be found by their tokens after any unclear answer."""

    def find(self, tokens: Sequence[str], since_unix: float) -> Mapping[str, str]:
        """Return the ids of the jobs submitted with these tokens, or raise `SubmissionUnknownError`."""
        ...


def never() -> bool:
    """For work that is always to be done."""
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
    """Start a job unless it is at work already; give its id, or None when there was nothing to do.

    The caller holds the experiment (`steps.running.alone`); two that do not see each other's lock are kept apart by
    the lock in the run's folder, where the second job ends at once.

    Args:
        job: what to start.
        executor: how.
        ledger: the experiment's.
        gpus: ids of GPUs on this machine.
        after: ids of jobs that must have ended first.
        is_done: whether the work is there by now; asked when nothing of this job is at work any more, since it may have
            finished it while the scheduler took its time to answer.

    Raises:
        SubmissionRejectedError, SubmissionLimitError: nothing was started.
        SubmissionUnknownError: it may have been started; the next `begin` of this job looks for its token first.
        HostError: it cannot be started here at all.
    """
    settled = settle(job, executor, ledger)
    if settled:
        return settled
    view = executor.look([job]).get(job.name)
    if view is not None and view.active:
        ledger.record("adopted", job.name, job_id=view.job_id)
        return view.job_id
    if is_done():
        return None
    if executor.trouble:
        # What somebody else has put into the queue would not be seen.
        raise SubmissionLimitError(
            f"{job.name} is not submitted now: {executor.trouble}", hint="the same command later"
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
    return job_id


def settle(job: Job, executor: Executor, ledger: Ledger) -> str:
    """Find out what became of intents that have no end; give the id of the job that this one's was, or nothing.

    All open intents of the ledger are looked for together, since one query answers for all of them.

    Raises:
        SubmissionUnknownError: SLURM does not tell, and an intent of this very job is open.
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
