"""Tables of a comparison of experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.table import Cell, Column, Section, Table, present, table_of
from touchline.core.units import plural
from touchline.report.compared import ComparedExperiments, ExperimentEffect, PairedRuns
from touchline.report.formatting import p_number, p_text

_VALUES = 6
"""Values of a setting that are shown of one experiment."""


def sections(found: ComparedExperiments) -> tuple[Section, ...]:
    """Return the experiments, the settings that differ, the runs side by side, and the differences between them."""
    first, *others = [side.label for side in found.experiments]
    effects = tuple(_effect(effect, first) for effect in found.effects)
    refusals = tuple(f"{each.experiment}, {each.condition}: {each.reason}" for each in found.refusals)
    return (
        Section(title="Experiments", tables=present(_experiments(found))),
        Section(title="Settings that differ", tables=present(_settings(found)), lines=(_same(found),)),
        Section(title="Runs side by side", tables=present(_runs(found))),
        *(
            Section(title=f"{label} minus {first}, on the same items", tables=present(_pairs(found.pairs, label)))
            for label in others
        ),
        Section(title="Differences over all conditions", lines=effects),
        Section(title="Not compared", lines=refusals),
    )


def evaluation_notes(found: ComparedExperiments) -> Iterator[str]:
    """Yield a note per experiment whose evaluation differs from that of the first."""
    differing = {pair.experiment: pair.evaluation_differs_in for pair in found.pairs if pair.evaluation_differs_in}
    first = found.experiments[0].label
    for label, keys in differing.items():
        yield f"{label} and {first} were not evaluated alike, so differences are also those of: {', '.join(keys)}"


def _experiments(found: ComparedExperiments) -> Table | None:
    columns = (
        "experiment",
        "folder",
        Column("runs", numeric=True),
        Column("evaluated", numeric=True),
        "date",
        "origin",
    )
    return table_of(
        columns,
        [(each.label, each.root, each.runs, each.evaluated, each.date, each.origin) for each in found.experiments],
    )


def _settings(found: ComparedExperiments) -> Table | None:
    rows = [
        (row.key, *("n/a (not reported)" if each is None else _several(each) for each in row.values))
        for row in found.settings
    ]
    return table_of(("setting", *(side.label for side in found.experiments)), rows)


def _same(found: ComparedExperiments) -> str:
    words = "settings are the same" if found.settings else "settings are all the same"
    once = f"; {len(found.known_once)} are known of one experiment only" if found.known_once else ""
    return f"{found.same_settings} {words}{once}."


def _several(values: Sequence[str]) -> str:
    more = f" and {len(values) - _VALUES} more" if len(values) > _VALUES else ""
    return " | ".join(values[:_VALUES]) + more


def _runs(found: ComparedExperiments) -> Table | None:
    """Return a row per run; the condition is shown once."""
    figures = ("score", "validation loss", "training", "memory")
    columns: tuple[Column | str, ...] = (
        *("condition", "experiment", "run", "status"),
        *(Column(label, numeric=True, interval=True) for label in figures),
    )
    rows = [
        (
            Cell(row.condition if number == 0 else ""),
            *(run.experiment, run.run, run.status.value),
            *(run.score, run.final_val_loss, run.train_seconds, run.peak_memory),
        )
        for row in found.rows
        for number, run in enumerate(run for runs in row.runs for run in runs)
    ]
    return table_of(columns, rows)


def _pairs(pairs: Sequence[PairedRuns], label: str) -> Table | None:
    labels = (Column(label, numeric=True) for label in ("difference", "gained", "lost", "p (Holm)"))
    columns: tuple[Column | str, ...] = ("condition", "task", *labels, "conclusion")
    rows = []
    for pair in pairs:
        if pair.experiment == label:
            each = pair.comparison.difference
            value = Cell(f"{each.value:+.4g}", each.value, interval=f"[{each.low:+.4g}, {each.high:+.4g}]")
            p = Cell(p_number(each.p_adjusted), each.p_adjusted)
            words = pair.comparison.shown.words
            rows.append((pair.condition, f"{pair.task}, {pair.score}", value, each.gained, each.lost, p, words))
    return table_of(columns, rows)


def _effect(found: ExperimentEffect, first: str) -> str:
    """Return a sentence on the overall difference between the experiments."""
    name = f"{found.experiment} against {first}, {found.task}, {found.score}"
    if not found.effect.contrasts:
        return f"{name}: n/a"
    contrast = found.effect.contrasts[0]
    if contrast.value is None:
        return f"{name}: {contrast.reason}"
    interval = "" if contrast.low is None else f" [{contrast.low:+.4g}, {contrast.high:+.4g}]"
    if contrast.test is not None and contrast.p_value is not None:
        interval += f" by {contrast.test.kind.value}, {p_text(contrast.p_value)},"
    reason = f"; {contrast.reason}" if contrast.reason else ""
    over = f"{plural(contrast.strata, 'condition')}, {plural(contrast.seeds, 'training seed')}"
    return f"{name}: {contrast.value:+.4g}{interval} over {over}: {contrast.shown.words}{reason}"
