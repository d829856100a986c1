"""Verbs of the history: training logs to run records, the evidence of later plans.

Each verb imports what it needs when it is called, to keep other commands fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import NamedProgressCallback
from touchline.core.errors import InputError
from touchline.data.user_config import UserConfig, load_settings
from touchline.estimate.history_points import missing_facts
from touchline.history.index import Index, find_record, load_index
from touchline.history.records import Broken, read_record, record_path
from touchline.history.run_facts import FACTS, FACTS_FILE

if TYPE_CHECKING:
    from touchline.estimate.local.past_runs import Calibration
    from touchline.history.adding import ImportSummary
    from touchline.history.files import LoggedRun, SkippedFile
    from touchline.history.grouping import FileGroup
    from touchline.history.index import History
    from touchline.history.record import RunRecord

_OF_RUNS = frozenset({"log", "table"})
"""Roles of files that may hold a run by themselves."""


def history_read(
    paths: Sequence[Path], *, facts: Mapping[str, str] | None = None, on_progress: NamedProgressCallback | None = None
) -> Iterator[LoggedRun | SkippedFile]:
    """Read the runs in logs, state files and folders; store nothing.

    Args:
        paths: files and folders; stderr, states and configs next to a log are read with it.
        facts: facts stated by the user, by the keys of `history/run_facts.py`.
        on_progress: receives the number of file groups done, their total and the next group.

    Raises:
        InputError: paths are missing or not readable, or a stated fact is wrong; all are listed.
    """
    from touchline.plan.local.stating import read_stated

    return read_stated(paths, facts or {}, load_settings(), on_progress)


def history_import(
    paths: Sequence[Path],
    history_dir: Path,
    *,
    facts: Mapping[str, str] | None = None,
    dry_run: bool = False,
    on_progress: NamedProgressCallback | None = None,
) -> ImportSummary:
    """Add the runs in logs and folders to the history; skip unchanged files.

    Args:
        history_dir: the history; created if missing.
        facts: facts stated by the user, by the keys of `history/run_facts.py`.
        dry_run: read, and write nothing.

    Raises:
        InputError: paths are missing or not readable, a stated fact is wrong, or the history is not a folder.
        HostError: no space, or no permission to write.
    """
    from touchline.history import files
    from touchline.history.adding import add_groups, readable
    from touchline.history.files import SkippedFile
    from touchline.history.grouping import role_of
    from touchline.plan.local.stating import load_stating, with_dataset

    settings = load_settings()
    named = set(paths)
    groups = files.group_files(readable(paths))
    common = history_dir / FACTS_FILE
    if common.is_file():
        groups = tuple(replace(group, facts=(common, *group.facts)) for group in groups)
    stating = load_stating(groups, facts or {})

    def read(group: FileGroup) -> list[LoggedRun | SkippedFile]:
        found = files.read_group(group, stating.of(group))
        # A config that was met in a folder and has no run is of no interest; one that was named is.
        return [
            with_dataset(item, settings)
            for item in found
            if not isinstance(item, SkippedFile) or item.path in named or role_of(item.path) in _OF_RUNS
        ]

    return add_groups(
        history_dir,
        groups,
        read,
        dry_run=dry_run,
        again=stating.has_options,
        lacking=missing_facts,
        on_progress=on_progress,
    )


def add_evidence(paths: Sequence[Path], history_dir: Path, facts: Mapping[str, str]) -> str:
    """Add the runs given as evidence for a plan to the history; return a sentence on what was added.

    Raises:
        InputError: a path or a fact is wrong, there is no run, or every run lacks facts that estimates need.
    """
    added = history_import(paths, history_dir, facts=facts)
    lacking = tuple(dict.fromkeys(key for item in added.learned for key in item.missing_facts))
    if not added.learned and not added.unchanged_runs:
        why = "; ".join(f"{item.path}: {item.reason}" for item in added.refused) or "no file was found"
        raise InputError(f"no run found in --evidence: {why}", expected="the log of a run")
    if added.learned and all(item.missing_facts for item in added.learned):
        absent = [key for key in lacking if key not in facts]
        stated = {"dataset": added.learned[0].dataset.rpartition("/")[2], **facts}
        # A dataset that is there and was not measured lacks its model's tokenizer: to state it again would not help.
        to_measure = next((item.to_measure for item in added.learned if "dataset" in item.missing_facts), "")
        options = (f"--evidence-fact {key}={stated.get(key) or FACTS[key].example}" for key in (*facts, *absent))
        raise InputError(
            f"--evidence: its runs cannot be used, because they lack {', '.join(lacking)}",
            expected="the missing facts",
            hint=f"{to_measure}; then the same command again" if to_measure else " ".join(options),
        )
    new = sum(item.new for item in added.learned)
    return (
        f"evidence: {new} new records in the history, {len(added.learned) - new + added.unchanged_runs} already known"
    )


def history_list(history_dir: Path) -> Index:
    """Return the index of the history, updated from its records."""
    return load_index(history_dir)


def history_show(history_dir: Path, wanted: str) -> tuple[str, RunRecord]:
    """Return the id and the record for a run's name, an id, or the beginning of one.

    Raises:
        InputError: none or several match; close matches are listed.
    """
    return find_record(history_dir, load_index(history_dir), wanted)


def history_calibration(history_dir: Path) -> Calibration:
    """Score estimates: predicted against measured values.

    Raises:
        InputError: the history is not a folder.
    """
    from touchline.estimate.local.past_runs import calibrate

    return calibrate(replace(load_settings(), history_dir=history_dir))


def history_export(history_dir: Path, *, every: bool = False) -> Iterator[tuple[str, RunRecord]]:
    """Yield the ids and records by name; superseded ones only with `every`."""
    for row in load_index(history_dir).rows(every=every):
        record = read_record(record_path(history_dir, row.id))
        if not isinstance(record, Broken):
            yield row.id, record


def history_rebuild(history_dir: Path) -> Index:
    """Rebuild the index from the records."""
    return load_index(history_dir, rebuild=True)


def history(settings: UserConfig, history_dir: Path | None = None) -> History:
    """Return the records of past runs, by name; superseded ones are left out.

    Args:
        settings: where the history is.
        history_dir: another history.

    Raises:
        InputError: the history is not a folder.
    """
    from touchline.history.index import History

    return History(history_list(settings.history_dir if history_dir is None else history_dir).rows())
