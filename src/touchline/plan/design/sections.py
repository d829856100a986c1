"""Sections of a design of sample sizes, for the terminal, notebooks and the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.markup import measured
from touchline.core.quantity import Missing, Quantity
from touchline.core.table import Column, Section, table_section
from touchline.core.units import format_seconds, plural
from touchline.plan.design.answer import DesignAnswer, DesignOption, Needed
from touchline.statistics.power import POWER
from touchline.statistics.spread_inputs import End
from touchline.statistics.spread_types import SpreadInput, SpreadSource

_BAR = 40
"""Width of a bar of the text chart for 100% power."""
_BARS = 8
"""Rows of the text chart."""
_SPREADS = {End.LOW: "small spread", End.VALUE: "expected spread", End.HIGH: "large spread"}
INPUT_COLUMNS = ("counted on", "value", "source", "basis")


def design_sections(answer: DesignAnswer) -> tuple[Section, ...]:
    """Return the sections of an answer: the design, its inputs, the alternatives and the power by cost."""
    return (
        Section(title="Sample sizes", lines=tuple(_lines(answer))),
        table_section("Inputs", INPUT_COLUMNS, input_rows(answer.inputs), input_notes(answer.inputs)),
        table_section(
            "Alternatives", _columns(answer), (_row(answer, each) for each in answer.alternatives), _about(answer)
        ),
        Section(title="Power by cost", blocks=tuple(_chart(answer))),
        Section(title="Notes", lines=answer.notes),
    )


def input_rows(inputs: Sequence[SpreadInput]) -> Iterator[tuple[str, ...]]:
    """Yield each input with its value, source and sample."""
    for each in inputs:
        yield each.kind.value, measured(each.quantity, 3), each.source.value, each.basis


def input_notes(inputs: Sequence[SpreadInput]) -> Iterator[str]:
    """Yield a note on inputs that nothing has measured."""
    prior = [each.kind.value for each in inputs if each.source is SpreadSource.PRIOR]
    if prior:
        yield (
            f"Not measured: {', '.join(prior)}. Two seeds of one condition measure them; until then the prior range "
            "stands for them, and the numbers below are as wide."
        )


def _lines(answer: DesignAnswer) -> Iterator[str]:
    if not answer.contrasts:
        return
    yield (
        f"Question: a true difference of {answer.detect_points:g} points between two levels, established with "
        f"{100 * POWER:.0f}% power by both tests of the report, after Holm over "
        f"{plural(answer.contrasts, 'contrast')}"
    )
    yield f"Now: {_option(answer, answer.now)}"
    found = answer.cheapest
    if isinstance(found, Missing):
        yield f"Cheapest for {answer.detect_points:g} points: none ({found.missing})"
    else:
        yield f"Cheapest for {answer.detect_points:g} points: {_option(answer, found)}"
    if len({(str(each.seeds), str(each.items)) for each in answer.needed}) > 1:
        yield f"By spread: {'; '.join(_needed(each) for each in answer.needed)}"
    if answer.budget_hours is not None:
        best = answer.within_budget
        within = f"Within {answer.budget_hours:.3g} {answer.hours_unit}"
        if isinstance(best, Missing):
            yield f"{within}: none ({best.missing})"
        elif best is not None:
            yield f"{within}: {_option(answer, best)}"
    if isinstance(answer.balance, Quantity):
        yield f"Items per seed that balance the costs: about {answer.balance.value:,.0f} = {answer.balance.method}"


def _option(answer: DesignAnswer, option: DesignOption) -> str:
    size = f"{plural(option.seeds, 'seed')} x {plural(option.items, 'item')}"
    shown = f"shows {measured(option.detectable, 2)}"
    if isinstance(option.detectable, Missing):
        shown = f"shows no difference ({option.detectable.missing})"
    if isinstance(option.device_hours, Missing):
        return f"{size}; {shown}; hours n/a ({option.device_hours.missing})"
    return f"{size}; {shown}; {_hours(option)} {answer.hours_unit}"


def _hours(option: DesignOption) -> str:
    hours = option.device_hours
    if isinstance(hours, Missing):
        return "n/a"
    between = "" if hours.low is None or hours.high is None else f" ({hours.low:.2g} to {hours.high:.2g})"
    return f"{hours.value:.3g}{between}"


def _needed(each: Needed) -> str:
    if isinstance(each.seeds, Missing) or isinstance(each.items, Missing):
        return f"{_SPREADS[each.end]} none"
    return f"{_SPREADS[each.end]} {each.seeds} x {each.items:,}"


def _columns(answer: DesignAnswer) -> tuple[Column, ...]:
    return (
        Column("seeds", numeric=True),
        Column("items", numeric=True),
        Column(f"power for {answer.detect_points:g}"),
        Column("shows (points)"),
        Column(answer.hours_unit),
        Column("time", is_wide=True),
        Column(""),
    )


def _row(answer: DesignAnswer, option: DesignOption) -> tuple[str | int | None, ...]:
    marks = (
        ("now", answer.now),
        ("cheapest", answer.cheapest),
        ("budget", answer.within_budget),
    )
    power, shown = option.power, option.detectable
    time = option.wall_seconds
    return (
        option.seeds,
        option.items,
        "-" if isinstance(power, Missing) else f"{power.value:.0f}% ({power.low or 0:.0f} to {power.high or 0:.0f})",
        "-" if isinstance(shown, Missing) else f"{shown.value:.2g} ({shown.low or 0:.2g} to {shown.high or 0:.2g})",
        _hours(option),
        "n/a" if isinstance(time, Missing) else format_seconds(time.value),
        ", ".join(name for name, marked in marks if marked == option) or None,
    )


def _about(answer: DesignAnswer) -> Iterator[str]:
    if not answer.alternatives:
        return
    yield (
        "Each row has the fewest items that give its seeds 80% power, or all items where these are too few. Power and "
        "difference: at the expected spread (at the large one to at the small one)."
    )


def _chart(answer: DesignAnswer) -> Iterator[tuple[str, str]]:
    """Yield power against device-hours as bars of text."""
    if not answer.curve:
        return
    points = answer.curve[:: max(1, len(answer.curve) // _BARS)]
    width = max(len(f"{point.device_hours:.3g}") for point in points)
    rows = [f"{'':{width}}  power  {'':{round(_BAR * POWER)}}80%"]
    for point in points:
        filled = round(_BAR * point.power)
        bar = "".join("#" if place < filled else "|" if place == round(_BAR * POWER) else " " for place in range(_BAR))
        size = f"{point.seeds} x {point.items:,}"
        rows.append(f"{f'{point.device_hours:.3g}':>{width}}  {100 * point.power:4.0f}%  {bar} {size}".rstrip())
    yield (
        f"Best power for {answer.detect_points:g} points by {answer.hours_unit}, with the seeds x items:",
        "\n".join(rows),
    )
