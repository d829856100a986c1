"""Queries of `touchline doctor` to the cluster. Each has a time limit and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from touchline.core.quantity import Missing
from touchline.slurm.doctor import ClusterFacts, PartitionFacts
from touchline.slurm.local.commands import CommandResult, Commands
from touchline.slurm.site_facts import SINFO_FORMAT, read_config, read_partitions

ANSWER_SECONDS = 30.0
"""Timeout of one query; a busy controller needs time."""

LISTING_SECONDS = 10.0
"""Timeout for the list of partitions while planning."""


def query_cluster(commands: Commands, options: Sequence[str]) -> ClusterFacts:
    """Query the cluster's partitions, its accounting, and whether sbatch accepts a job.

    Args:
        commands: how SLURM is asked.
        options: what a job of this user asks for, as words for sbatch.
    """
    problems: dict[str, str] = {}
    silent: list[CommandResult] = []

    def run(*words: str) -> CommandResult:
        # Who waited once in vain for the controller need not wait for each other command too.
        answer = silent[0] if silent else commands.run(words, timeout_seconds=ANSWER_SECONDS)
        if answer.code is None and words[0] != "sacctmgr":
            silent.append(answer)
        return answer

    def ask(*words: str) -> str:
        if silent:
            return ""
        answer = run(*words)
        if not answer.ok:
            problems[" ".join(words[:3])] = said(answer)
            return ""
        return answer.out

    partitions = read_partitions(ask("sinfo", "--noheader", f"--format={SINFO_FORMAT}"))
    config = read_config(ask("scontrol", "show", "config"))
    accounting = config.get("AccountingStorageType", "") not in ("", "(null)", "accounting_storage/none")
    if accounting:
        ask("sacctmgr", "--noheader", "--parsable2", "show", "cluster")
    asked = accounting and not any(command.startswith("sacctmgr") for command in problems)
    tried = ("sbatch", "--test-only", *options, "--wrap=true")
    taken = run(*tried)
    return ClusterFacts(
        version=config.get("SLURM_VERSION", ""),
        partitions=partitions,
        config=config,
        accounting=asked,
        tried=tried,
        taken=_taken(taken),
        answer=said(taken),
        problems=problems,
    )


def ask_partitions(commands: Commands) -> tuple[PartitionFacts, ...] | Missing:
    """Return the cluster's partitions with their GPUs, or why they are not known."""
    answer = commands.run(("sinfo", "--noheader", f"--format={SINFO_FORMAT}"), timeout_seconds=LISTING_SECONDS)
    if not answer.ok:
        return Missing(missing=said(answer))
    found = read_partitions(answer.out)
    return found or Missing(missing="sinfo lists no partition")


def said(answer: CommandResult) -> str:
    """Return a command's output on one line, stderr first."""
    lines = [line.strip() for line in (answer.err + "\n" + answer.out).splitlines() if line.strip()]
    return " ".join(lines) or ("nothing" if answer.code is not None else "it gave no answer")


_SILENT = ("Unable to contact", "Connection refused", "Socket timed out", "Slurm backup controller", "try again later")


def _taken(answer: CommandResult) -> bool | None:
    """Return whether sbatch accepts the job; None if the controller does not answer."""
    if answer.ok:
        return True
    return None if answer.code is None or any(words in answer.err for words in _SILENT) else False
