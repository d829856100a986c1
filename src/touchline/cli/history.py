"""`touchline history`: what training logs really say, and the folder in which that is kept."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from touchline.cli.commands import DryRun, Json, api, stated_pairs, with_old_commands, with_old_names, with_request
from touchline.cli.output import (
    print_data,
    print_declared,
    print_json,
    print_object,
    print_output,
    print_status,
    print_table,
)
from touchline.cli.progress import progress_bar
from touchline.core.errors import InputError
from touchline.core.files import write_atomic
from touchline.core.quantity import TOKEN_WORDS, Missing, Quantity
from touchline.core.table import Column
from touchline.core.text import join_names
from touchline.core.units import bare, between, format_bytes, percent
from touchline.data.requests import StatedFacts
from touchline.data.user_config import load_settings

if TYPE_CHECKING:
    from touchline.history.adding import ImportSummary, IngestedRun
    from touchline.history.files import LoggedRun
    from touchline.history.index import Index
    from touchline.history.reading import SourcedText
    from touchline.history.record import RunRecord

history_app = typer.Typer(
    cls=with_old_commands({"add": "import"}),
    help="Read training logs and keep them as evidence for plans.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Paths = Annotated[list[Path], typer.Argument(metavar="PATH", help="Logs, state files, or folders with them.")]
IncludeSuperseded = Annotated[
    bool, typer.Option("--include-superseded", help="Include older records of the same runs.")
]
ShowMissing = Annotated[bool, typer.Option("--show-missing", help="Show a row for each missing field too.")]
History = Annotated[
    Path | None, typer.Option("--history", metavar="DIR", help="History folder (default: history_dir in your config).")
]
Facts = Annotated[
    list[str] | None,
    typer.Option("--fact", metavar="KEY=VALUE", help="Any other fact: micro_batch_size=4 (repeatable)."),
]
_SHOWN = 20
_NOTES_SHOWN = 3


@history_app.command("read", cls=with_old_names({"--all": "--show-missing"}))
def history_read(
    paths: Paths,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per run and line.")] = False,
    show_missing: ShowMissing = False,
    facts: Facts = None,
) -> None:
    """Read logs without storing anything.

    Print each number with its file and line, and each missing one with the reason.
    """
    from touchline.history.files import LoggedRun

    runs = 0
    with progress_bar("reading logs") as on_progress:
        # Beside a bar nothing can be printed; without one each run is shown as soon as it is read.
        found = api.history_read(paths, facts=stated_pairs(facts), on_progress=on_progress)
        items = found if on_progress is None else list(found)
    for item in items:
        if isinstance(item, LoggedRun):
            runs += 1
            _show_run(item, json, show_missing)
        else:
            print_status(f"{item.path}: no run: {item.reason}")
    if not runs:
        print_status("no run was found in a training log, a trainer_state.json or a metrics.jsonl")
        raise typer.Exit(1)


@history_app.command("import")
@with_request(StatedFacts)
def history_import(
    *,
    paths: Paths,
    history: History = None,
    request: StatedFacts,
    facts: Facts = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Add runs from logs and folders to the history.

    Unchanged files are not read again. Facts that a log lacks can be given here or in a file touchline-facts.yaml
    next to the logs. They never replace measured values.
    """
    from touchline.history.adding import ImportSummary

    stated = {**stated_pairs(facts), **{key: value for key, value in asdict(request).items() if value is not None}}
    with progress_bar("reading logs") as on_progress:
        added = api.history_import(paths, _folder(history), facts=stated, dry_run=dry_run, on_progress=on_progress)
    if json:
        print_json(ImportSummary, added, "added")
    else:
        _show_added(added, paths, stated, history)
    if not added.learned and not added.unchanged_runs:
        raise typer.Exit(1)


@history_app.command("list", cls=with_old_names({"--all": "--include-superseded"}))
def history_list(history: History = None, include_superseded: IncludeSuperseded = False, json: Json = False) -> None:
    """List the runs of the history."""
    from touchline import api
    from touchline.history.index import History, HistoryRow

    folder = _folder(history)
    index = api.history_list(folder)
    _say_broken(index)
    rows = index.rows(every=include_superseded)
    if json:
        print_json(list[HistoryRow], rows, "history")
        return
    if not rows:
        print_status(f"{folder}: no records yet, try `touchline history import FOLDER_WITH_LOGS`")
        return
    if table := History(rows).to_table():
        print_declared(replace(table, title=str(folder)))
    if index.newer and not include_superseded:
        print_status(f"{len(index.newer)} older records of the same runs are hidden (--include-superseded shows them)")


@history_app.command("show", cls=with_old_names({"--all": "--show-missing"}))
def history_show(
    wanted: Annotated[str, typer.Argument(metavar="ID|NAME", help="Name of a run, or the beginning of a record's id.")],
    history: History = None,
    json: Json = False,
    show_missing: ShowMissing = False,
) -> None:
    """Show one record, each fact with its file and line."""
    from touchline import api
    from touchline.history.facts import facts
    from touchline.history.record import RunRecord

    id_, record = api.history_show(_folder(history), wanted)
    if json:
        print_json(RunRecord, record, "record")
        return
    whose = f"{record.experiment}, run {record.run}" if record.experiment else "imported"
    _show_facts(f"{record.name}  ({whose}; {id_})", facts(record), show_missing)
    _show_lines("trained", _trained(record))
    _show_lines("validation losses", _validations(record))
    _show_lines("versions", [", ".join(record.stack.versions)])
    _show_lines("proof", (f"{proof.where}: {proof.says}: {proof.text}" for proof in record.course.proofs))
    _show_lines("note", record.notes)
    _show_lines("source", (f"{s.name}  {format_bytes(s.size_bytes)}  sha256 {s.sha256[:16]}" for s in record.sources))
    unknown = f" (not known: {', '.join(record.fingerprint_unknown)})" if record.fingerprint_unknown else ""
    print_output(f"settings that compare: {record.fingerprint[:16]}{unknown}")


@history_app.command("calibration")
def history_calibration(history: History = None, json: Json = False) -> None:
    """Score estimates: predicted against measured values.

    Every run is predicted from the others (leave-one-out), and compared with what its plan predicted.
    """
    from touchline import api

    found = api.history_calibration(_folder(history))
    if json:
        print_object(found)
    else:
        rows = [
            (
                row.quantity,
                "all" if row.rung is None else f"{row.rung.value} {row.rung.name.lower().replace('_', ' ')}",
                str(row.count),
                percent(row.coverage, 0) + between(*row.coverage_interval, lambda end: f"{100 * end:.0f}"),
                percent(row.promised, 0),
                percent(row.median_error),
                f"{row.median_ratio:.2f}",
            )
            for row in (*found.left_out, *found.planned)
        ]
        header = ("estimate", "based on", "runs", "coverage", "expected", "median error", "median high/low")
        if rows:
            print_table(header, rows)
        else:
            print_status(
                "no run of the history can be compared with an estimate yet (touchline run and probe make some)"
            )
        reasons: dict[str, int] = {}
        for reason in found.unused.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:_NOTES_SHOWN]:
            print_status(f"{count} not scored: {reason}")


@history_app.command("export", cls=with_old_names({"--all": "--include-superseded"}))
def history_export(
    history: History = None,
    form: Annotated[
        Literal["csv", "jsonl"], typer.Option("--format", help="csv: a table; jsonl: whole records.")
    ] = "csv",
    target: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Output file (default: stdout).")
    ] = None,
    include_superseded: IncludeSuperseded = False,
) -> None:
    """Write the records as CSV or JSON lines."""
    from touchline import api
    from touchline.history.facts import csv_text, jsonl_text

    if target is not None and target.is_dir():
        raise InputError(
            f"{str(target)!r} is a folder", expected="a file to write", hint=f"-o {target / 'history'}.{form}"
        )
    records = api.history_export(_folder(history), every=include_superseded)
    text = csv_text(records) if form == "csv" else jsonl_text(records)
    if target is None:
        if text:
            print_data(text)
    else:
        write_atomic(target, text)
        print_status(f"wrote {target}")


@history_app.command("rebuild")
def history_rebuild(history: History = None) -> None:
    """Rebuild the index from the records."""
    folder = _folder(history)
    index = api.history_rebuild(folder)
    _say_broken(index)
    print_output(
        f"{folder}: {len(index.lines)} records, {len(index.newer)} of them superseded, {len(index.broken)} broken files"
    )


# ---- what is shown ---------------------------------------------------------------------------------------------------


def _folder(history: Path | None) -> Path:

    return history if history is not None else load_settings().history_dir


def _show_run(run: LoggedRun, json: bool, show_missing: bool) -> None:
    from touchline.history.facts import line_of, read_facts

    if json:
        print_data(line_of(run.reading, run.files))
        return
    record = run.reading
    _show_facts(f"{record.name}  ({', '.join(run.files)})", read_facts(record), show_missing)
    _show_lines("proof", (f"{proof.where}: {proof.says}: {proof.text}" for proof in record.course.proofs))
    _show_lines("note", record.notes)
    print_output("")


def _show_facts(title: str, found: Iterable[tuple[str, Quantity | SourcedText | Missing]], show_missing: bool) -> None:
    """Print a table of known facts, and the missing ones in a line per reason or in the table."""
    rows: list[tuple[str, str, str]] = []
    missing: dict[str, list[str]] = {}
    for name, fact in found:
        if isinstance(fact, Missing):
            missing.setdefault(fact.missing, []).append(name)
            if show_missing:
                rows.append((name, str(fact), ""))
        else:
            rows.append((name, _fact(fact), fact.where or ""))
    print_table(("field", "value", Column("where", is_wide=True)), rows, title=title)
    if not show_missing:
        _show_lines("missing", (f"{', '.join(names)} ({reason})" for reason, names in missing.items()))


def _trained(record: RunRecord) -> Iterator[str]:
    """Yield what a record of our own run says of its place in the experiment."""
    if record.condition is not None:
        task = f"task {record.task}, " if record.task else ""
        yield f"{task}seed {record.seed}, condition {record.condition[:16]}"


def _validations(record: RunRecord) -> Iterator[str]:
    finite = [point for point in record.validation if point.loss is not None]
    if finite:
        lowest = min(finite, key=lambda point: (point.loss, point.step))
        shown = (("first", finite[0]), ("lowest", lowest), ("last", finite[-1]))
        texts = [f"{name} {point.loss:.4g} at step {point.step}" for name, point in shown]
        yield f"{len(record.validation)}: {', '.join(texts)}"


def _show_lines(what: str, texts: Iterable[str]) -> None:
    for text in texts:
        print_output(f"{what}: {text}")


def _show_added(added: ImportSummary, paths: list[Path], stated: dict[str, str], history: Path | None) -> None:

    if added.learned:
        wide = (Column(label, is_wide=True) for label in ("trainer", "model", "where"))
        header: tuple[Column | str, ...] = ("run", "steps", "s/step", "peak memory", "outcome", *wide)
        title = f"would learn, in {added.history}" if added.dry_run else f"learned, in {added.history}"
        print_table(header, [_learned(item) for item in added.learned], title=title)
        for item in added.learned[:_SHOWN]:
            for note in item.notes[:_NOTES_SHOWN]:
                print_status(f"note: {item.name}: {note}")
        _say_lacking(added, paths, stated, history)
    if added.refused:
        shown = added.refused[:_SHOWN]
        print_table(("refused", "why"), [(item.path, item.reason) for item in shown])
        if len(added.refused) > len(shown):
            print_status(f"and {len(added.refused) - len(shown)} more (--json names all of them)")
    new = sum(item.new for item in added.learned)
    print_output(
        f"{new} new records, {len(added.learned) - new} known already, {len(added.refused)} files refused; "
        f"{added.unchanged_files} unchanged files skipped, with {added.unchanged_runs} records"
        + (f" and {added.unchanged_refused} files without a run" if added.unchanged_refused else "")
    )


def _say_lacking(added: ImportSummary, paths: list[Path], stated: dict[str, str], history: Path | None) -> None:
    """Print the facts without which runs are no evidence, and the command that adds them to what was stated."""
    from touchline.history.run_facts import pasted

    groups: dict[tuple[tuple[str, ...], str, str], list[IngestedRun]] = {}
    for item in added.learned:
        if item.missing_facts:
            to_measure = item.to_measure if "dataset" in item.missing_facts else ""
            named = item.dataset.rpartition("/")[2]
            groups.setdefault((item.missing_facts, to_measure, named), []).append(item)
    for (keys, to_measure, named), items in groups.items():
        names = [item.name for item in items]
        path = _here(named, paths)
        print_status(
            f"{join_names(names, _NOTES_SHOWN)}: no estimate of time can use this run; missing: {', '.join(keys)}"
        )
        if to_measure:
            # The dataset is there and its model's tokenizer is not: the same options would not help.
            print_status(f"hint: {to_measure}; then the same command again")
            continue
        # A dataset counts for all files of a command, so that others are not in it.
        whole = len(items) == len(added.learned) and not added.unchanged_runs
        these = paths if whole else [file for item in items for file in item.files[:1]]
        files = " ".join(shlex.quote(str(path)) for path in these)
        known = {**({"dataset": path or named} if named else {}), **stated}
        options = pasted((*dict.fromkeys((*stated, *keys)),), known)
        folder = f" --history {shlex.quote(str(history))}" if history is not None else ""
        where = f" (the path of {named}, which is not here)" if "dataset" in keys and named and not path else ""
        print_status(f"hint: touchline history import {files} {options}{folder}{where}")


def _here(name: str, paths: list[Path]) -> str:
    """Return the path of a file of this name near the logs or in this folder; empty if there is none."""
    folders = (Path(), Path("data"), *paths, *(path.parent for path in paths))
    return next((str(folder / name) for folder in folders if name and (folder / name).is_file()), "")


def _learned(item: IngestedRun) -> tuple[str, ...]:
    from touchline.history.index import short, steps_text

    facts = (item.seconds_per_step, item.peak_memory, item.outcome)
    places = dict.fromkeys(place for fact in facts if (place := getattr(fact, "where", None)) is not None)
    return (
        item.name + ("" if item.new else " (known)"),
        steps_text(item.steps_done, item.steps_total),
        short(item.seconds_per_step),
        short(item.peak_memory),
        item.outcome.value,
        short(item.trainer),
        short(item.model),
        " ".join(places),
    )


def _fact(fact: Quantity | SourcedText) -> str:
    """Return a fact with its unit, kind and source."""
    if not isinstance(fact, Quantity):
        return re.sub(r",(?=\S)", ", ", fact.value) + (f"  ({fact.method})" if fact.method else "")
    tokens = f"{TOKEN_WORDS[fact.token_unit]} tokens" if fact.token_unit else None
    interval = between(fact.low, fact.high, lambda end: f"{end:g}").strip(" ()")
    labels = [text for text in (fact.aggregation, fact.phase, fact.kind, tokens, interval, fact.method) if text]
    return bare(fact, 6) + (f"  ({', '.join(labels)})" if labels else "")


def _say_broken(index: Index) -> None:
    for item in index.broken:
        print_status(f"skipped {item.path}: {item.reason}")
