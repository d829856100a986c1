"""Assignment of SLURM jobs to our jobs, by the ledger, run folders and squeue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from touchline.core.files import is_other_folder
from touchline.core.status import EXIT_ALREADY_RUNNING, Attempt, JobState
from touchline.run.ledger import LedgerEntry
from touchline.run.protocol import Job
from touchline.run.slurm_queries import Queue, SacctJob
from touchline.run.statusfiles import read_attempts, read_exit
from touchline.slurm.job_view import JobView
from touchline.slurm.queue import QueueRow
from touchline.slurm.states import read_job_id


@dataclass(frozen=True, kw_only=True, slots=True)
class JobMatches:
    """SLURM jobs ever started for one of our jobs."""

    job: Job
    """Our job."""
    folder: str
    """Its folder without links, as in SLURM."""
    ids: tuple[str, ...]
    """SLURM ids, oldest first."""
    tokens: Mapping[str, str]
    """Tokens of its intents with their ids, empty if unknown."""
    attempts: Mapping[str, Attempt]
    """Last attempt of each id."""
    by_hand: tuple[Attempt, ...]
    """Attempts without SLURM: `bash finetune.slurm` on a login node."""
    recorded: Mapping[str, JobView]
    """Ends recorded in the ledger."""
    events: Sequence[LedgerEntry]

    def rows(self, queue: Queue, job_id: str) -> tuple[QueueRow, ...]:
        """Return squeue's rows of an id, unless the id was reused for another job."""
        identity = read_job_id(job_id)
        rows = queue.by_id.get(job_id if identity is None else identity.whole, ())
        return tuple(row for row in rows if self._is_ours(job_id, row.comment, row.folder, row.script))

    def accounted(self, known: SacctJob | None, job_id: str) -> SacctJob | None:
        """Return sacct's row of an id, unless it is of another job with that id."""
        if known is None:
            return None
        row = known.row
        line = f"{row.comment} {row.submit_line}"
        script = row.submit_line.rpartition("/")[2] if self.job.script is None else self.job.script
        is_ours = not row.folder or self._is_ours(job_id, line, row.folder, script)
        return known if is_ours else None

    def _is_ours(self, job_id: str, comment: str, folder: str, script: str) -> bool:
        if folder in (self.folder, str(self.job.folder)):
            return True
        if any(token in comment for token in self.tokens):
            # A copied experiment has the ledger of the original, whose jobs stay the original's. The job of a cohort
            # has the folder of another run.
            beside = is_other_folder(str(PurePath(folder).parent), self.job.folder.parent)
            return not (beside and is_other_folder(folder, self.job.folder))
        if job_id in self.attempts:  # a task or a step, started from a folder above, or a cohort's, from beside
            above = PurePath(self.folder).parents
            return PurePath(folder) in above or PurePath(folder).parent == above[0]
        # Another node may call the same folder by another path.
        return (PurePath(folder).name, PurePath(script).name) == (self.job.folder.name, self.job.script)

    def without_held(self, queue: Queue) -> tuple[str, ...]:
        """Return its ids without those that ended at once because another attempt was active; all if none worked.

        The SLURM state of such a job is not the state of ours, even while it is ending.
        """
        if len(self.ids) == 1:
            return self.ids
        return tuple(job_id for job_id in self.ids if not self._is_held(job_id, queue)) or self.ids

    def _is_held(self, job_id: str, queue: Queue) -> bool:
        last = -1 if (attempt := self.attempts.get(job_id)) is None else attempt.start.restart
        numbers = [
            int(number)
            for path in self.job.status.glob(f"exit.{job_id}.*.json")
            if (number := path.name.split(".")[-2]).isdigit() and int(number) > last
        ]
        end = read_exit(self.job.status, job_id, max(numbers)) if numbers else None
        if end is None or end.code != EXIT_ALREADY_RUNNING:
            return False
        # Queued again since, it may find the folder free.
        return not any(not row.state.ended and (row.restarts or 0) > end.restart for row in self.rows(queue, job_id))


def candidates(job: Job, events: Sequence[LedgerEntry], queue: Queue, executor: str) -> JobMatches:
    """Return all SLURM jobs known to be this job's."""
    tokens: dict[str, str] = {}
    listed: list[str] = []
    recorded: dict[str, JobView] = {}
    refused: set[str] = set()
    for entry in events:
        if entry.executor != executor:
            continue
        if entry.event == "refused":
            refused.add(entry.token)
        if entry.token:
            tokens[entry.token] = entry.job_id or tokens.get(entry.token, "")
        if entry.event in ("submitted", "adopted") and read_job_id(entry.job_id) is not None:
            if entry.job_id in listed:
                listed.remove(entry.job_id)
            listed.append(entry.job_id)
            recorded.pop(entry.job_id, None)
        elif entry.event == "ended" and entry.job_id:
            recorded[entry.job_id] = _recorded(entry)
    listed = [job_id for job_id in listed if not _is_of_other_folder(job, job_id, queue)]
    attempts: dict[str, Attempt] = {}
    by_hand: list[Attempt] = []
    for attempt in read_attempts(job.status):
        if _is_of_other_folder(job, attempt.start.job_id, queue):
            continue
        if read_job_id(attempt.start.job_id) is None:
            by_hand.append(attempt)
        elif (other := attempts.get(attempt.start.job_id)) is None or other.start.restart <= attempt.start.restart:
            attempts[attempt.start.job_id] = attempt
    folder = str(job.folder.resolve())
    known = {*listed, *attempts}
    # Of a job that it refuses for its size the controller keeps a record of a failed one, which never was a job.
    found = [
        row.job_id
        for row in _rows_of(job, folder, tokens, queue)
        if not {row.job_id, row.raw_id, row.array_id} & known and row.comment not in refused
    ]
    return JobMatches(
        job=job,
        folder=folder,
        ids=_in_order(listed, dict.fromkeys([*attempts, *found])),
        tokens=tokens,
        attempts=attempts,
        by_hand=tuple(by_hand),
        recorded=recorded,
        events=events,
    )


def _recorded(entry: LedgerEntry) -> JobView:
    try:
        state = JobState(entry.state)
    except ValueError:
        state = JobState.UNKNOWN
    return JobView(job_id=entry.job_id, state=state, active=False, source="ledger", reason=entry.reason)


def _is_of_other_folder(job: Job, job_id: str, queue: Queue) -> bool:
    """Return True for a queued job started from another folder with a run of the same name.

    Its records came here with a copy of the experiment.
    """
    identity = read_job_id(job_id)
    rows = queue.by_id.get(job_id if identity is None else identity.whole, ())
    return any(PurePath(row.folder).name == job.folder.name and is_other_folder(row.folder, job.folder) for row in rows)


def _rows_of(job: Job, folder: str, tokens: Mapping[str, str], queue: Queue) -> list[QueueRow]:
    """Return the jobs in squeue submitted with our tokens, or by hand from the job's folder."""
    found = [
        row
        for token in tokens
        for row in queue.by_comment.get(token, ())
        if not is_other_folder(row.folder, job.folder)
    ]
    for each in dict.fromkeys((folder, str(job.folder))):
        found += [row for row in queue.by_folder.get(each, ()) if _is_our_script(job, row)]
    return found


def _is_our_script(job: Job, row: QueueRow) -> bool:
    """Return True if a row is of our script; a run's training and evaluation share a folder."""
    return Path(row.script).name == job.script if row.script and job.script else row.name == job.name


def _in_order(listed: Sequence[str], others: Mapping[str, None]) -> tuple[str, ...]:
    """Sort ids, oldest first: the ledger's in its order, others between them by number.

    SLURM ids increase; only if the ledger shows a restart of the count do later ids mean older jobs.
    """
    ranks: dict[str, tuple[int, int, int]] = {}
    era, highest = 0, -1
    for job_id in listed:
        number, task = _numbers(job_id)
        era += number < highest
        highest = number
        ranks[job_id] = (era, number, task)
    for job_id in others:
        ranks.setdefault(job_id, (era, *_numbers(job_id)))
    return tuple(sorted(ranks, key=lambda each: ranks[each]))


def _numbers(job_id: str) -> tuple[int, int]:
    identity = read_job_id(job_id)
    if identity is None:
        return int(job_id.partition("_")[0]), 0
    return identity.job, identity.task or 0
