"""scontrol and sinfo of the fake SLURM."""

from __future__ import annotations

import re
from pathlib import Path

from tests.slurm import fake_text
from tests.slurm.fake_cluster import FakeCluster
from tests.slurm.fake_jobs import SimClock
from tests.slurm.fake_words import is_called, listed_rows, read_options, said

from touchline.slurm.local.commands import CommandResult

INVALID = "Invalid job id specified"


class Control:
    """What the controller is asked and told, apart from submitting and cancelling."""

    clock: SimClock
    cluster: FakeCluster
    accounting: bool
    max_array: int
    partitions: tuple[str, ...]

    def scontrol(self, words: list[str], cwd: Path) -> CommandResult:
        del cwd
        line = "-o" in words or "--oneliner" in words
        words = [word for word in words if word not in ("-o", "--oneliner")]
        match words:
            case ["show", "job" | "jobs", *asked]:
                return self._show_job(asked, line)
            case ["show", "config"]:
                kind = "accounting_storage/slurmdbd" if self.accounting else "accounting_storage/none"
                pairs = {
                    "AccountingStorageType": kind,
                    "ClusterName": "fake",
                    "KillWait": f"{self.cluster.kill_wait:.0f} sec",
                }
                pairs |= {"MaxArraySize": str(self.max_array), "MinJobAge": f"{self.cluster.min_job_age:.0f} sec"}
                pairs |= {"SLURM_VERSION": "22.05.8"}
                head = f"Configuration data as of {int(self.clock.true)}\n"
                return said(0, out=head + "".join(f"{key:<23} = {value}\n" for key, value in pairs.items()) + "\n")
            case ["ping"]:
                return said(0, out="Slurmctld(primary) at login is UP\n")
            case ["requeue" | "hold" | "release" as verb, asked]:
                return self._change(verb, asked)
            case ["update", *pairs]:
                return self._update({key.lower(): value for key, _, value in (pair.partition("=") for pair in pairs)})
        return said(1, err=f"invalid entity:{words[1] if len(words) > 1 else ''} for keyword:{words[0]} \n")

    def _show_job(self, asked: list[str], line: bool) -> CommandResult:
        if asked and not re.fullmatch(r"\d+(_\d+)?", asked[0]):
            return said(1, err=f"scontrol_print_job error: {INVALID}\n")
        jobs = [job for job in self.cluster.jobs if job.listed and (not asked or is_called(job, asked[0]))]
        if not jobs:
            return (
                said(1, err=f"slurm_load_jobs error: {INVALID}\n") if asked else said(0, out="No jobs in the system\n")
            )
        out = ""
        for row in listed_rows([(job, job.life) for job in jobs]):
            lines = fake_text.show_job(row, self.clock.true)
            joined = [" ".join(words) for words in lines]
            out += " ".join(joined) + "\n" if line else "\n   ".join(joined) + "\n   \n\n"
        return said(0, out=out)

    def _change(self, verb: str, asked: str) -> CommandResult:
        jobs = [job for job in self.cluster.jobs if job.listed and is_called(job, asked)]
        if not jobs:
            second = "" if verb == "requeue" else f"slurm_suspend error: {INVALID}\n"
            return said(1, err=f"{INVALID} for job {asked}\n{second}")
        for job in jobs:
            if verb == "requeue":
                if not self.cluster.queue_again(job, self.clock.true):
                    return said(1, err=f"Requested operation is presently disabled for job {asked}\n")
            elif job.state == "PENDING":
                job.held = verb == "hold"
        self.cluster.touch()
        return said(0)

    def _update(self, pairs: dict[str, str]) -> CommandResult:
        node = pairs.get("nodename")
        if node is not None:
            if pairs.get("state", "").lower() == "down":
                self.cluster.fail_node(node, self.clock.true, at_once=True)
            else:
                self.cluster.restore_node(node)
            self.cluster.touch()
            return said(0)
        jobs = [job for job in self.cluster.jobs if job.listed and is_called(job, pairs.get("jobid", ""))]
        for job in jobs:
            if "endtime" in pairs and job.life.started is not None:
                end = self.clock.true + float(pairs["endtime"].removeprefix("now+"))
                job.limit_at = end + (-end % self.cluster.limit_grain if self.cluster.limit_grain else 0.0)
                job.limit_seconds = 60.0
            if "arraytaskthrottle" in pairs and job.array is not None:
                job.array = (*job.array[:2], int(pairs["arraytaskthrottle"]))
        self.cluster.touch()
        return (
            said(0)
            if jobs
            else said(1, err=f"{INVALID} for job {pairs.get('jobid', '')}\nslurm_update error: {INVALID}\n")
        )

    def sinfo(self, words: list[str], cwd: Path) -> CommandResult:
        del cwd
        options = read_options(
            words, frozenset({"format"}), frozenset({"noheader", "Node"}), {"o": "format", "h": "noheader", "N": "Node"}
        )
        format_ = options.values.get("format", "%P|%a|%D")
        out = ""
        for partition in self.partitions:
            star = "*" if partition == self.partitions[0] else ""
            cells = {"P": partition + star, "a": "up", "l": "infinite", "D": str(len(self.cluster.nodes)), "G": "gpu:4"}
            cells |= {"N": ",".join(self.cluster.nodes), "t": "idle", "c": "32", "m": "64000", "f": "(null)"}
            out += re.sub(r"%[.\d]*([a-zA-Z])", lambda match: cells.get(match[1], ""), format_) + "\n"  # noqa: B023
        return said(0, out=out)
