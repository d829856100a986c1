"""Data and packing across configs: rows of another run, no rows, repeated rows, contradicting plans."""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from touchline.core.finding import Severity
from touchline.lint.config_chains import ancestors_of, experiment_of, experiments_in, stage_of, stages_in
from touchline.lint.config_set import FolderView, Sibling, TextFile, planned_runs, run_name, runs_of
from touchline.lint.rule import Violation, rule
from touchline.spec.partial import StatedSource

_PACKING_WORD = re.compile(r"pack(ed|ing)", re.IGNORECASE)
_PACKING_SAID = re.compile(
    r"pack(?:ed|ing)\b[\s`*\"']*[:=|]?[\s`*\"']*(true|false|yes|no|on|off|enabled|disabled)\b", re.IGNORECASE
)
_WORD = re.compile(r"[\w.-]*\w")
_YES = frozenset({"true", "yes", "on", "enabled"})
_NO = frozenset({"false", "no", "off", "disabled"})


@rule("EX150", Severity.WARNING)
def data_of_another_run(view: FolderView) -> Iterator[Violation]:
    """Report data whose path names another experiment or stage than the config."""
    for each in runs_of(view):
        own = {"experiment": experiment_of(each), "stage": stage_of(each)}
        for source in each.stated.sources:
            if source.kind not in ("file", "folder"):
                continue
            path = source.name.value
            said = {"experiment": experiments_in(path), "stage": stages_in(path)}
            wrong = next((what for what in own if said[what] and own[what] not in {None, *said[what]}), None)
            if wrong is None:
                continue
            others = ", ".join(str(number) for number in sorted(said[wrong]))
            yield Violation(
                message=f"{run_name(each)} is {wrong} {own[wrong]} by its names, and its data is of {wrong} {others}: "
                f"{path}",
                at=source.name,
                hint=f"the data of {wrong} {own[wrong]}, unless the other is meant",
                severity=None if own["stage"] is not None else Severity.INFO,
            )
            break


@rule("EX151", Severity.ERROR)
def empty_data_file(view: FolderView) -> Iterator[Violation]:
    """Report data files without rows."""
    for each in runs_of(view):
        for source in each.stated.sources:
            known = each.data.get(source.name.value)
            if known is not None and known.rows == 0:
                yield Violation(
                    message=f"{source.name.value} has no rows, and {run_name(each)} "
                    + ("trains on it" if source.role == "train" else "validates on it"),
                    at=source.name,
                    hint="make the file, or take this config out",
                )


@rule("EX153", Severity.WARNING)
def packing_differs_from_plan(view: FolderView) -> Iterator[Violation]:
    """Report packing on which a plan and its config disagree."""
    names = frozenset(run_name(each) for each in runs_of(view)) if view.plans else frozenset()
    for each in runs_of(view) if view.plans else ():
        packed, plan = each.stated.packed, _plan_of(view, each)
        if packed is None or plan is None:
            continue
        said = _said_of(plan, each, names)
        place = f"{PurePath(plan.path).name}" + (f", line {said.line}," if said is not None and said.line else "")
        if said is not None and said.packed != packed.value:
            exact = said.of_this_run and (said.packed or plan.path.endswith(".json"))
            yield Violation(
                message=f"{place} states that {run_name(each) if said.of_this_run else 'the runs'} "
                f"{'pack' if said.packed else 'do not pack'}{'s' if said.packed and said.of_this_run else ''}, and the "
                f"config says {packed.key}: {str(packed.value).lower()}",
                at=packed,
                hint=f"{packed.line_with(str(said.packed).lower())}, or plan again",
                severity=Severity.ERROR if exact else None,
            )
        elif said is None and packed.value and not (plan.path.endswith(".json") or _PACKING_WORD.search(plan.text)):
            yield Violation(
                message=f"{run_name(each)} packs, but {PurePath(plan.path).name} does not mention packing: its batch "
                "sizes, steps and times are those of a training without",
                at=packed,
                hint="plan again with packing, or packed: false",
            )


@rule("EX156", Severity.WARNING)
def validation_is_training_data(view: FolderView) -> Iterator[Violation]:
    """Report validation data that is the training data."""
    for each in runs_of(view):
        trained = {_file_of(source, each): source for source in each.stated.sources if source.role == "train"}
        for source in each.stated.sources:
            same = _file_of(source, each)
            if source.role == "validation" and same in trained and source.kind == "file":
                yield Violation(
                    message=f"{run_name(each)} validates on the rows that it trains on, {source.name.value}",
                    at=source.name,
                    hint="a file, or a split, of its own",
                )


@rule("EX157", Severity.WARNING)
def validation_trained_by_parent(view: FolderView) -> Iterator[Violation]:
    """Report validation data that an earlier stage was trained on."""
    for each in runs_of(view):
        held = {_file_of(s, each): s for s in each.stated.sources if s.role == "validation" and s.kind == "file"}
        for parent in ancestors_of(view, each):
            for source in parent.stated.sources:
                found = held.get(_file_of(source, parent)) if source.role == "train" else None
                if found is not None:
                    yield Violation(
                        message=f"{run_name(each)} validates on {found.name.value}, on which its "
                        f"parent {run_name(parent)} was trained",
                        at=found.name,
                        hint="use the same held-out rows in every stage",
                    )


@dataclass(frozen=True, slots=True)
class _Said:
    """A plan's statement on packing."""

    packed: bool
    of_this_run: bool
    line: int | None


def _file_of(source: StatedSource, each: Sibling) -> tuple[str, ...]:
    """Return a source's identity: its content if known, else its path; and the split."""
    known = each.data.get(source.name.value)
    content = known.sha256 if known is not None and isinstance(known.sha256, str) else None
    split = "" if source.split is None else source.split.value
    subset = "" if source.field is None else source.field.value
    return (content or posixpath.normpath(source.name.value), split, subset)


def _plan_of(view: FolderView, each: Sibling) -> TextFile | None:
    """Find the nearest plan above a config; plan.json before runs_plan.md."""
    here = PurePath(each.path).parent
    above = [plan for plan in view.plans if here.is_relative_to(PurePath(plan.path).parent)]
    order = sorted(above, key=lambda plan: (-len(PurePath(plan.path).parts), not plan.path.endswith(".json")))
    return order[0] if order else None


def _said_of(plan: TextFile, each: Sibling, names: frozenset[str]) -> _Said | None:
    if plan.path.endswith(".json"):
        train = planned_runs(plan).get(run_name(each), {}).get("train")
        packed = train.get("packed") if isinstance(train, Mapping) else None
        return _Said(packed, of_this_run=True, line=None) if isinstance(packed, bool) else None
    statements = _statements(plan.text, names)
    own = [said for run, said in statements if run == run_name(each)]
    if own:
        return own[-1]
    general = [said for run, said in statements if run is None]
    return general[0] if len({said.packed for said in general}) == 1 else None


@functools.lru_cache(maxsize=8)
def _statements(text: str, names: frozenset[str]) -> tuple[tuple[str | None, _Said], ...]:
    """Return the statements on packing as (run or None for all, statement): `packed: true` under a
    heading, or a column."""
    found: list[tuple[str | None, _Said]] = []
    heading: str | None = None
    column: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        named = max(names.intersection(_WORD.findall(line)), key=len, default=None)
        if line.startswith("#"):
            heading, column = named, None
        if line.lstrip().startswith("|"):
            cells = [cell.strip(" `*") for cell in line.strip().strip("|").split("|")]
            if column is None:
                column = next((i for i, cell in enumerate(cells) if _PACKING_WORD.search(cell)), None)
            elif column < len(cells) and (word := cells[column].casefold()) in _YES | _NO and named is not None:
                found.append((named, _Said(word in _YES, of_this_run=True, line=number)))
            continue
        column = None
        if (said := _PACKING_SAID.search(line)) is not None:
            run = named or heading
            found.append((run, _Said(said[1].casefold() in _YES, of_this_run=run is not None, line=number)))
    return tuple(found)
