"""The history's verbs: any training log -> what it really says, and a folder of records that plans are made from.

The readers of every trainer's logs load when a verb is called, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import NamedProgressCallback
from touchline.data.user_config import load_settings

if TYPE_CHECKING:
    from touchline.estimate.local.calibration import Calibration
    from touchline.history.adding import ImportSummary
    from touchline.history.files import FileGroup, LoggedRun, SkippedFile
    from touchline.history.index import Index
    from touchline.history.record import RunRecord


def history_read(
    paths: Sequence[Path],
    *,
    facts: Mapping[str, str] | None = None,
    on_progress: NamedProgressCallback | None = None,
) -> Iterator[LoggedRun | SkippedFile]:
    """What logs, state files and whole folders say of their runs; nothing is stored.

    Args:
        paths: files and folders; a log's other stream, states and configs beside it are read with it.
        facts: what is stated of them, by the keys of `history/run_facts.py`.
        on_progress: receives the number of file groups done, their total and the next group.

    Raises:
        InputError: some of the paths do not exist or may not be read, or a stated fact is wrong; all of them are named.
    """
    from touchline.plan.local.stating import read_stated

    return read_stated(paths, facts or {}, load_settings(), on_progress)


def history_add(
    paths: Sequence[Path],
    history_dir: Path,
    *,
    facts: Mapping[str, str] | None = None,
    dry_run: bool = False,
    on_progress: NamedProgressCallback | None = None,
) -> ImportSummary:
    """Put the runs that logs and folders tell of into the history; files that are as they were are not opened.

    Args:
        paths: files and folders.
        history_dir: the history; made when it is not there.
        facts: what is stated of them, by the keys of `history/run_facts.py`.
        dry_run: read, and write nothing.
        on_progress: called as the work advances.

    Raises:
        InputError: some of the paths do not exist or may not be read, a stated fact is wrong, or the history is no
            folder.
        HostError: no space, or no permission to write.
    """
    from touchline.estimate.history_points import missing_facts
    from touchline.history import files
    from touchline.history.adding import add_groups, readable
    from touchline.history.run_facts import FACTS_FILE
    from touchline.plan.local.stating import load_stating, with_dataset

    settings = load_settings()
    groups = files.group_files(readable(paths))
    common = history_dir / FACTS_FILE
    if common.is_file():
        groups = tuple(replace(group, facts=(common, *group.facts)) for group in groups)
    stating = load_stating(groups, facts or {})

    def read(group: FileGroup) -> list[LoggedRun | SkippedFile]:
        return [with_dataset(item, settings) for item in files.read_group(group, stating.of(group))]

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
    """Add the runs that a plan is to rest on to the history; return what was added, in words.

    Raises:
        InputError: a path or a fact is wrong, nothing is a run, or each run lacks facts that estimates need.
    """
    from touchline.core.errors import InputError
    from touchline.history.run_facts import FACTS

    added = history_add(paths, history_dir, facts=facts)
    lacking = tuple(dict.fromkeys(key for item in added.learned for key in item.missing_facts))
    if not added.learned and not added.unchanged_runs:
        why = "; ".join(f"{item.path}: {item.reason}" for item in added.refused) or "no file was found"
        raise InputError(f"--evidence tells of no run: {why}", expected="the log of a training")
    if added.learned and all(item.missing_facts for item in added.learned):
        raise InputError(
            f"--evidence: no run in it can be used: they lack {', '.join(lacking)}",
            expected="the facts that they lack",
            hint=" ".join(f"--evidence-fact {key}={FACTS[key].example}" for key in lacking),
        )
    new = sum(item.new for item in added.learned)
    return (
        f"evidence: {new} new records in the history, {len(added.learned) - new + added.unchanged_runs} known already"
    )


def history_list(history_dir: Path) -> Index:
    """The history's index, brought up to date with its records."""
    from touchline.history.index import load_index

    return load_index(history_dir)


def history_show(history_dir: Path, wanted: str) -> tuple[str, RunRecord]:
    """The id and the record of a run's name, an id, or the beginning of one.

    Raises:
        InputError: there is none, or several; with those that come near.
    """
    from touchline.history.index import find_record, load_index

    return find_record(history_dir, load_index(history_dir), wanted)


def history_calibration(history_dir: Path, *, plot: Path | None = None) -> Calibration:
    """Estimates held against what happened; `plot` is a picture of predicted against measured.

    Raises:
        InputError: the history is no folder.
        HostError: a picture was asked for, and there is nothing to draw or to draw it with.
    """
    from touchline.estimate.local.calibration import calibrate
    from touchline.report.calibration import calibration_figure
    from touchline.report.local.drawing import write_picture

    found = calibrate(replace(load_settings(), history_dir=history_dir))
    if plot is not None:
        figure = calibration_figure(found.marks)
        write_picture(figure, plot)
    return found


def history_export(history_dir: Path, *, every: bool = False) -> Iterator[tuple[str, RunRecord]]:
    """The records with their ids, by name; superseded ones only when `every` is asked for."""
    from touchline.history.history import Broken, read_record, record_path
    from touchline.history.index import load_index

    for row in load_index(history_dir).rows(every=every):
        record = read_record(record_path(history_dir, row.id))
        if not isinstance(record, Broken):
            yield row.id, record


def history_rebuild(history_dir: Path) -> Index:
    """Read every record again and write the index anew."""
    from touchline.history.index import load_index

    return load_index(history_dir, rebuild=True)
