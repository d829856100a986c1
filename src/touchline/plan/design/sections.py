"""Sections of a design of sample sizes, for the terminal, notebooks and the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from touchline.core.markup import measured
from touchline.core.quantity import Missing, Quantity
from touchline.core.table import Column, Section, table_section
from touchline.core.units import digits_that_keep, format_seconds, plural
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
_NO_POWER, _FULL_POWER = 0.5, 99.5
"""Power in % below and above which a whole number would read as never and always."""
_WIDE = 3.0
"""Upper end of an interval over its value from which on a note warns of it."""


def power_text(power: float) -> str:
    """Return a power in %; one below the target never reads as the target, nor any other as 0 or 100%."""
    if not _NO_POWER <= power <= _FULL_POWER:
        return "<1" if power < _NO_POWER else ">99"
    digits = 1 if power < 10 - _NO_POWER else 2
    return digits_that_keep(power, lambda value: value >= 100 * POWER, digits)


def points_text(points: float, detect: float) -> str:
    """Return a detectable difference in points; one above the wanted difference never reads as that."""
    return digits_that_keep(points, lambda value: value <= detect * (1 + 1e-9))


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
    """Yield notes on inputs that are not measured, and on what their intervals mean."""
    prior = [each.kind.value for each in inputs if each.source is SpreadSource.PRIOR]
    if prior:
        yield (
            f"Not measured: {', '.join(prior)}. The prior range stands for them. Two seeds of one condition, trained "
            "first, would measure them and narrow all ranges below."
        )
    coverage = {each.quantity.coverage for each in inputs} - {None}
    for share in sorted(coverage, key=str):
        yield f"Intervals of measured inputs: {100 * (share or 0):g}%."
    for each in inputs:
        value, high = each.quantity.value, each.quantity.high
        if each.quantity.coverage is not None and high is not None and high > _WIDE * value:
            yield (
                f"The {each.kind.value}: few runs measure it, up to {measured(_upper(each.quantity), 2)} are possible. "
                "The numbers for the expected spread may be far too small: compare those for the large spread."
            )


def _upper(quantity: Quantity) -> Quantity:
    return Quantity(value=quantity.value if quantity.high is None else quantity.high, unit=quantity.unit)


def _lines(answer: DesignAnswer) -> Iterator[str]:
    if not answer.contrasts:
        return
    holm = "" if answer.contrasts == 1 else f", after Holm over {plural(answer.contrasts, 'contrast')}"
    yield (
        f"Question: which numbers of seeds and items establish a true difference of {answer.detect_points:g} points "
        f"between two levels with {100 * POWER:.0f}% power? Established: by both tests of the report at 5%{holm}"
    )
    yield f"Now: {_option(answer, answer.now)}"
    found = answer.cheapest
    if isinstance(found, Missing):
        yield f"Cheapest for {answer.detect_points:g} points: none ({found.missing})"
    else:
        yield f"Cheapest for {answer.detect_points:g} points: {_option(answer, found)}"
    if len({(str(each.seeds), str(each.items)) for each in answer.needed}) > 1:
        yield f"Cheapest by spread: {'; '.join(_needed(each) for each in answer.needed)}"
    if answer.budget_hours is not None:
        best = answer.within_budget
        within = f"Smallest difference within {answer.budget_hours:.3g} {answer.hours_unit}"
        if isinstance(best, Missing):
            yield f"{within}: none ({best.missing})"
        elif best is not None:
            yield f"{within}: {_option(answer, best)}"
    if answer.looks:
        yield (
            f"With looks at {', '.join(map(str, answer.looks))} seeds: the same difference with {100 * POWER:.0f}% "
            f"power or more, {answer.looks[-1]} seeds at most and fewer on average; strategy.confirm gets these"
        )
    if isinstance(answer.balance, Quantity):
        more = answer.balance.value > answer.most_items
        there = f", more than the {answer.most_items:,} that there are" if more else ""
        yield f"Items at which costs are balanced: about {answer.balance.value:,.0f}{there}; {answer.balance.method}"


def _option(answer: DesignAnswer, option: DesignOption) -> str:
    size = f"{plural(option.seeds, 'seed')} x {plural(option.items, 'item')}"
    shown = option.detectable
    detects = (
        f"detects nothing ({shown.missing})"
        if isinstance(shown, Missing)
        else f"detects {_points(answer, shown)[0]} points ({_points(answer, shown)[1]})"
    )
    if isinstance(option.device_hours, Missing):
        return f"{size}; {detects}; hours n/a ({option.device_hours.missing})"
    return f"{size}; {detects}; {_hours(option)} {answer.hours_unit}"


def _points(answer: DesignAnswer, shown: Quantity) -> tuple[str, str]:
    """Return a detectable difference and its range."""
    value, low, high = (points_text(each or 0.0, answer.detect_points) for each in (shown.value, shown.low, shown.high))
    return value, f"{low} to {high}"


def _hours(option: DesignOption) -> str:
    hours = option.device_hours
    if isinstance(hours, Missing):
        return "n/a"
    between = "" if hours.low is None or hours.high is None else f" ({hours.low:.2g} to {hours.high:.2g})"
    return f"{hours.value:.3g}{between}"


def _needed(each: Needed) -> str:
    if isinstance(each.seeds, Missing) or isinstance(each.items, Missing):
        return f"{_SPREADS[each.end]} none"
    return f"{_SPREADS[each.end]} {each.seeds} seeds x {each.items:,} items"


def _columns(answer: DesignAnswer) -> tuple[Column, ...]:
    """Return the columns; they fit 80 columns of a terminal."""
    return (
        Column("design"),
        Column("power (%)"),
        Column("detects"),
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
        f"{option.seeds} x {option.items:,}",
        "-"
        if isinstance(power, Missing)
        else f"{power_text(power.value)} ({power_text(power.low or 0)} to {power_text(power.high or 0)})",
        "-" if isinstance(shown, Missing) else "{} ({})".format(*_points(answer, shown)),
        _hours(option),
        "n/a" if isinstance(time, Missing) else format_seconds(time.value),
        ", ".join(name for name, marked in marks if marked == option) or None,
    )


def _about(answer: DesignAnswer) -> Iterator[str]:
    if not answer.alternatives:
        return
    target = f"{100 * POWER:.0f}%"
    yield (
        f"Design: seeds x items. Power: for {answer.detect_points:g} points. Detects: the difference, in points, that "
        f"is established with {target} power. Each row has the fewest items that give its seeds {target} power, or "
        "all items where these are too few. Values are for the expected spread; in parentheses, all inputs at once at "
        "the ends of their intervals. Hours are those of a plan with these numbers."
    )


def _chart(answer: DesignAnswer) -> Iterator[tuple[str, str]]:
    """Yield power against device-hours as bars of text, from where there is any power."""
    curve = [point for point in answer.curve if 100 * point.power >= _NO_POWER]
    if not curve:
        return
    points = curve[:: max(1, len(curve) // _BARS)]
    width = max(len(f"{point.device_hours:.3g}") for point in points)
    rows = [f"{'':{width}}  power  {'':{round(_BAR * POWER)}}{'80%':{_BAR - round(_BAR * POWER)}} seeds x items"]
    for point in points:
        filled = round(_BAR * point.power)
        bar = "".join("#" if place < filled else "|" if place == round(_BAR * POWER) else " " for place in range(_BAR))
        size = f"{point.seeds} x {point.items:,}"
        rows.append(
            f"{f'{point.device_hours:.3g}':>{width}}  {power_text(100 * point.power) + '%':>5}  {bar} {size}".rstrip()
        )
    yield (f"Best power for {answer.detect_points:g} points by {answer.hours_unit}:", "\n".join(rows))
