"""Result of sbatch: an id, a rejection, or an unclear answer.

A refusal is the controller's word, or sbatch's own before it asked: nothing was started. Whatever else comes without an
id is unclear: the job may be in, though sbatch got no answer.
Source: messages of SLURM's src/common/slurm_errno.c, those marked in the tests seen on 22.05.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum


class SbatchResult(StrEnum):
    """Kind of result of a submission."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """Trying again gives the same answer."""
    LIMIT = "limit reached"
    """Not now; when other jobs have ended it may."""
    UNCLEAR = "unclear"
    """The job may have been submitted."""
    ABSENT = "absent"
    """There is no such command, or no folder to start it in; nothing was started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """An answer of `sbatch --parsable`."""

    verdict: SbatchResult
    job_id: str = ""
    cluster: str = ""
    """The cluster, where it names one: `76;north`."""
    reason: str = ""
    """The last words that name a reason, as they were written."""
    hint: str | None = None
    is_limited: bool = False
    """Whether the command was ended while it waited because there are too many jobs."""


_ID = re.compile(r"(\d{1,10})(?:;([^\s;]{1,200}))?")
_FAILED = re.compile(r"^\S*: error: Batch job submission failed: (?P<why>.+)$", re.MULTILINE)
_ERROR = re.compile(
    r"^(?:\S*: (?:error|fatal): |\S*: (?=unrecognized|invalid|option|ambiguous))(?P<why>.+)$", re.MULTILINE
)
_NOT_HEARD = re.compile(
    r"timed? ?out|unable to contact|connection|transport endpoint|zero bytes|message receive|unexpected message"
    r"|broken pipe|i/o error|header lengths|protocol version",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"temporarily unable to accept job|resource temporarily unavailable"
    r"|\b(?:QOS|Assoc)(?:Max|Grp)SubmitJobs?(?:Per\w+)?(?:Limit)?\b|MaxSubmitJob|MaxJobCount|job submit limit reached",
    re.IGNORECASE,
)
_ABSENT = re.compile(r"^\S+: (?:No such file or directory|Permission denied|Not a directory)$")

_NO_SUCH_OPTION = re.compile(r"(?:unrecognized|ambiguous|invalid) option.*test-only")
_TRIED = re.compile(r"^(?:\S*: error: )?allocation failure: (?P<why>.+)$", re.MULTILINE)
_NODES_NOT_FREE = "Requested node configuration is not available"
"""Answer of `--test-only` also where nodes are drained or the partition is down, for which a submitted job waits."""
_SOME_LIMIT = "Job violates accounting/QOS policy"
"""Begin of an answer that means a limit on jobs, for which jobs wait, unless another line names the limit."""

_HINTS = (
    (r"partition name|partition specified", "set slurm.partition in the config file (partitions: sinfo -s)"),
    (r"Max\w*Per\w*Limit|accounting/QOS policy", "request less (limits: sacctmgr show qos)"),
    (
        r"invalid account|association",
        "set slurm.account in the config file (your accounts: sacctmgr show associations user=$USER)",
    ),
    (r"qos specification", "set slurm.qos (yours: sacctmgr show associations user=$USER format=account,qos)"),
    (
        r"time limit is invalid|MaxWall|--time",
        "set another partition, or fewer epochs per run (limits: sinfo -o '%P %l')",
    ),
    (
        r"node configuration|memory specification|node count|more processors|feature|generic resource|\bgres\b|TRES",
        "request less, or set another partition or constraint (nodes: sinfo -o '%P %c %m %G %f')",
    ),
    (r"dependency", "check the jobs that it waits for with squeue --me"),
    (r"reservation", "scontrol show reservation"),
    (r"script|unable to open file", "write the scripts with touchline prepare"),
    (r"group not permitted|access|permission", "set another partition or account, or ask your cluster's support"),
    (r"credential|authentication|munge", "test munge -n | unmunge on this node, and contact your cluster's support"),
    (r"partition not available|not available in", "check which partitions are up with sinfo -s"),
)
_HINT_LATER = "submit the others with touchline resume when these have ended (or set slurm.max_submitted)"
_HINT_UNCLEAR = "see touchline status (the job is searched by its token before a new submission)"


def read_submission(out: str, err: str, code: int | None) -> Submission:
    """Read the output of `sbatch --parsable`.

    Args:
        code: its exit code; none when it gave none in time, was killed, or could not be started.
    """
    last = out.strip().rpartition("\n")[2].strip()  # a wrapper may greet before it
    match = _ID.fullmatch(last)
    if code == 0 and match is not None:
        return Submission(verdict=SbatchResult.ACCEPTED, job_id=match[1], cluster=match[2] or "")
    reason = _reason(err)
    if code is None and _ABSENT.fullmatch(err.strip()):
        return Submission(
            verdict=SbatchResult.ABSENT, reason=err.strip(), hint="sbatch on PATH, and the run's folder there"
        )
    if code is None or code <= 0 or (code > 128 and code != 255):
        # Killed or out of time; with code 0 an answer that holds no id. What it has said until then decides nothing,
        # except that it was waiting at a limit.
        message = reason or (
            f"sbatch ended with 0 and printed {last[:200]!r}" if code == 0 else "sbatch was killed by a signal"
        )
        limited = "temporarily unable to accept job" in err
        return Submission(verdict=SbatchResult.UNCLEAR, reason=message, hint=_HINT_UNCLEAR, is_limited=limited)
    if _LATER.search(err):
        return Submission(verdict=SbatchResult.LIMIT, reason=reason, hint=_HINT_LATER)
    failed = _FAILED.search(err)
    if _NOT_HEARD.search(failed["why"] if failed else err) or not reason:
        message = reason or f"sbatch ended with {code} without a message"
        return Submission(verdict=SbatchResult.UNCLEAR, reason=message, hint=_HINT_UNCLEAR)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, err, re.IGNORECASE)), None)
    return Submission(verdict=SbatchResult.REFUSED, reason=reason, hint=hint)


def read_trial(out: str, err: str, code: int | None) -> Submission:
    """Read the output of `sbatch --test-only`, which submits nothing.

    It is a refusal only where the same job would be refused when it is submitted.

    Args:
        code: its exit code; none when it gave none in time, was killed, or could not be started.
    """
    if code == 0:
        return Submission(verdict=SbatchResult.ACCEPTED)
    found = read_submission(out, err, code)
    if found.verdict is not SbatchResult.REFUSED:
        return found
    tried = _TRIED.search(err)
    why = "" if tried is None else tried["why"]
    is_unnamed = why.startswith(_SOME_LIMIT) and found.reason.startswith("allocation failure: ")
    if _NO_SUCH_OPTION.search(err) or why == _NODES_NOT_FREE or is_unnamed:
        return replace(found, verdict=SbatchResult.UNCLEAR)
    return replace(found, reason=found.reason.removeprefix("allocation failure: "))


def _reason(err: str) -> str:
    errors = [match["why"].strip().removeprefix("Batch job submission failed: ") for match in _ERROR.finditer(err)]
    return "; ".join(dict.fromkeys(errors))[:500] or " ".join(err.split())[:500]
