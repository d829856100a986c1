"""`touchline compare`: experiments beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchline.cli.output import print_object, print_output, print_status, print_table

if TYPE_CHECKING:
    from touchline.report.compared import (
        ComparedExperiments,
        ComparedRun,
        ExperimentEffect,
        PairedRuns,
        SettingRow,
    )

_VALUES = 6
"""Values of a setting that are shown of one experiment."""


def compare(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="EXPERIMENT EXPERIMENT...",
            help="Two or more: experiment.yaml, its folder, or a folder with runs that touchline did not make. "
            "The others are compared with the first.",
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Compare experiments: settings, scores, paired differences.

    Scores are compared where both runs answered the same items; where they did not, it says why.
    """
    from touchline import api
    from touchline.cli.progress import progress_bar
    from touchline.report.compared import ComparedExperiments

    with progress_bar("reading experiments") as on_progress:
        found = api.compare(sources, on_progress=on_progress)
    if json:
        print_object(ComparedExperiments, found)
        return
    _show(found)


def _show(found: ComparedExperiments) -> None:
    labels = [side.label for side in found.experiments]
    print_table(
        ("experiment", "folder", "runs", "evaluated", "date", "origin"),
        [
            (each.label, each.root, str(each.runs), str(each.evaluated), each.date or "-", each.origin)
            for each in found.experiments
        ],
    )
    print_output("")
    if found.settings:
        print_table(("setting", *labels), [_setting(row) for row in found.settings], title="Settings that differ")
    same = f"{found.same_settings} settings are the same"
    once = f"; {len(found.known_once)} are known of one experiment only" if found.known_once else ""
    print_output(f"{same if found.settings else same.replace('are', 'are all')}{once}.\n")
    rows = [row for condition in found.rows for row in _runs(condition.condition, condition.runs)]
    header = ("condition", "experiment", "run", "status", "score", "validation loss", "training", "memory")
    print_table(header, rows, title="Runs side by side")
    if found.pairs:
        columns = ("condition", "task", "difference", "95% interval", "gained", "lost", "p (Holm)", "shown")
        for label in labels[1:]:
            pairs = [_pair(pair) for pair in found.pairs if pair.experiment == label]
            if pairs:
                print_output("")
                print_table(columns, pairs, title=f"{label} minus {labels[0]}, on the same items")
    for effect in found.effects:
        print_output(f"\n{_effect(effect, labels[0])}")
    if found.refusals:
        print_output("\nNot compared")
        for each in found.refusals:
            print_output(f"- {each.experiment}, {each.condition}: {each.reason}")
    for note in (*_unlike(found), *found.notes):
        print_status(f"note: {note}")


def _setting(row: SettingRow) -> tuple[str, ...]:
    return (row.key, *("n/a (not reported)" if each is None else _several(each) for each in row.values))


def _several(values: Sequence[str]) -> str:
    more = f" and {len(values) - _VALUES} more" if len(values) > _VALUES else ""
    return " | ".join(values[:_VALUES]) + more


def _runs(condition: str, cells: Sequence[Sequence[ComparedRun]]) -> list[tuple[str, ...]]:
    """Return a row per run; the condition is shown once."""
    from touchline.core.markup import measured

    return [
        (
            condition if number == 0 else "",
            run.experiment,
            run.run,
            run.status.value,
            measured(run.score),
            measured(run.final_val_loss),
            measured(run.train_seconds),
            measured(run.peak_memory),
        )
        for number, run in enumerate(run for runs in cells for run in runs)
    ]


def _pair(pair: PairedRuns) -> tuple[str, ...]:
    from touchline.report.formatting import p_text

    found = pair.comparison.difference
    return (
        pair.condition,
        f"{pair.task}, {pair.score}",
        f"{found.value:+.4g}",
        f"{found.low:+.4g} to {found.high:+.4g}",
        str(found.gained),
        str(found.lost),
        p_text(found.p_adjusted).removeprefix("p ").removeprefix("= "),
        pair.comparison.shown.words,
    )


def _effect(found: ExperimentEffect, first: str) -> str:
    """Return a sentence on the overall difference between the experiments."""
    from touchline.report.formatting import p_text

    name = f"{found.experiment} against {first}, {found.task}, {found.score}"
    for contrast in found.effect.contrasts:
        if contrast.value is None:
            return f"{name}: {contrast.reason}"
        interval = "" if contrast.low is None else f" ({contrast.low:+.4g} to {contrast.high:+.4g})"
        reason = f"; {contrast.reason}" if contrast.reason else ""
        if contrast.test is not None and contrast.p_value is not None:
            interval += f" by {contrast.test.kind.value}, {p_text(contrast.p_value)},"
        conditions = f"{contrast.strata} condition{'' if contrast.strata == 1 else 's'}"
        seeds = f"{contrast.seeds} training seed{'' if contrast.seeds == 1 else 's'}"
        return f"{name}: {contrast.value:+.4g}{interval} over {conditions}, {seeds}: {contrast.shown.words}{reason}"
    return f"{name}: n/a"


def _unlike(found: ComparedExperiments) -> list[str]:
    """Return a sentence per experiment whose evaluation differs."""
    unlike = {pair.experiment: pair.evaluation_differs_in for pair in found.pairs if pair.evaluation_differs_in}
    first = found.experiments[0].label
    return [
        f"{label} and {first} were not evaluated alike, so differences are also those of: {', '.join(keys)}"
        for label, keys in unlike.items()
    ]
