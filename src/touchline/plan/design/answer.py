"""Answer of `touchline design`: numbers of seeds and items, what they show and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Cell, Column, Section, Value, table_section
from touchline.core.units import between, device_hours, format_seconds, measured, plural
from touchline.statistics.power import POWER
from touchline.statistics.spread_types import SpreadInput, SpreadSource

DESIGN_SCHEMA_VERSION = 1
_NO_POWER, _FULL_POWER = 0.5, 99.5
"""Power in % below and above which a whole number would read as never and always."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignOption:
    """Numbers of seeds and items, with what they show and cost."""

    seeds: int
    """Training seeds per condition."""
    items: int
    """Test items per run."""
    power: Measured
    """Chance to establish the wanted difference, in %; the interval is over the ends of the inputs' intervals."""
    detectable: Measured
    """Difference established with 80% power, in points; the interval likewise."""
    device_hours: Measured
    """Predicted hours of devices for everything, evaluations included, as `touchline plan` counts them."""
    wall_seconds: Measured
    """Predicted time from start to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignAnswer:
    """Design of an experiment's sample sizes."""

    schema_version: int = DESIGN_SCHEMA_VERSION
    """Version of this format."""
    experiment: str
    """Name of the experiment."""
    detect_points: float
    """Difference to establish, in points."""
    budget_hours: float | None
    """Budget in device-hours; None without one."""
    hours_unit: str
    """Unit of the hours: `GPU-hours`, `device-hours (CPU)`."""
    contrasts: int
    """Contrasts of settings, over which p values are adjusted (Holm)."""
    inputs: tuple[SpreadInput, ...]
    """Spread that is counted on, each value with its source."""
    now: DesignOption
    """The experiment as it is."""
    cheapest: DesignOption | Missing
    """Cheapest numbers that establish the difference with 80% power."""
    within_budget: DesignOption | Missing | None
    """Numbers that show the smallest difference within the budget; None without a budget."""
    alternatives: tuple[DesignOption, ...]
    """Other numbers, by seeds."""
    notes: tuple[str, ...]
    """Remarks."""
    diff: str = ""
    """Unified diff of experiment.yaml with the chosen numbers; empty if it has them."""
    applied: bool = False
    """Whether the change has been written."""

    @property
    def chosen(self) -> DesignOption | Missing:
        """The numbers that are proposed: within the budget if there is one, else the cheapest."""
        return self.cheapest if self.within_budget is None else self.within_budget

    def mark(self, option: DesignOption) -> str:
        """Return what an option is: `now`, `cheapest`, `budget`, several of them, or nothing."""
        named = (("now", self.now), ("cheapest", self.cheapest), ("budget", self.within_budget))
        return ", ".join(name for name, other in named if other == option)

    def sections(self) -> tuple[Section, ...]:
        """Return the sections that commands and notebooks show."""
        numbers = ("power (%)", "detects (points)", f"{self.hours_unit.replace('-hours', ' time')}")
        columns = (Column(label, numeric=True) for label in numbers)
        header: tuple[Column | str, ...] = (
            "design",
            *columns,
            "",
            Column("wall-clock time", numeric=True, is_wide=True),
        )
        rows = (self._row(each) for each in self.alternatives)
        return (
            Section(title="Sample sizes", lines=tuple(self._lines())),
            table_section("Alternatives", header, rows, self._about()),
            Section(title="Notes", lines=self.notes),
        )

    def _lines(self) -> Iterator[str]:
        yield f"Cheapest for {self._wanted}: {self._words(self.cheapest)}"
        yield f"Now: {self._words(self.now)}"
        if self.within_budget is not None:
            hours = f"{self.budget_hours:.3g} {self.hours_unit}"
            yield f"Smallest difference within {hours}: {self._words(self.within_budget)}"
        target, holm = f"{100 * POWER:.0f}%", ""
        if self.contrasts > 1:
            holm = f", after Holm over {plural(self.contrasts, 'contrast')}"
        yield (
            f"Question: which numbers of seeds and items establish a true difference of {self._wanted} "
            f"between two levels with {target} power? Established: by both tests of the report at 5%{holm}"
        )
        for each in self.inputs:
            yield f"Counted on: {each.kind.value} {measured(each.quantity, 3)} ({each.source.value}; {each.basis})"
        if prior := [each.kind.value for each in self.inputs if each.source is SpreadSource.PRIOR]:
            yield (
                f"Not measured: {', '.join(prior)}. Two seeds of one condition, trained first, would measure them and "
                "narrow all ranges below"
            )

    def _words(self, option: DesignOption | Missing) -> str:
        if isinstance(option, Missing):
            return f"none ({option.missing})"
        shown, hours = option.detectable, option.device_hours
        detects = f"nothing ({shown.missing})" if isinstance(shown, Missing) else f"{self._points(shown)} points"
        cost = f"hours n/a ({hours.missing})" if isinstance(hours, Missing) else device_hours(hours, self.hours_unit)
        return f"{plural(option.seeds, 'seed')} x {plural(option.items, 'item')}; detects {detects}; {cost}"

    def _row(self, option: DesignOption) -> tuple[Value, ...]:
        power, shown, time = option.power, option.detectable, option.wall_seconds
        return (
            f"{option.seeds} x {option.items:,}",
            "-" if isinstance(power, Missing) else power_text(power.value) + between(power.low, power.high, power_text),
            "-" if isinstance(shown, Missing) else self._points(shown),
            "n/a" if isinstance(option.device_hours, Missing) else device_hours(option.device_hours),
            Cell(self.mark(option)),
            "n/a" if isinstance(time, Missing) else format_seconds(time.value),
        )

    @property
    def _wanted(self) -> str:
        return f"{self.detect_points:g} point{'' if self.detect_points == 1 else 's'}"

    def _points(self, shown: Quantity) -> str:
        """Return a detectable difference; one above the wanted difference never reads as that."""
        most = self.detect_points * (1 + 1e-9)

        def text(points: float) -> str:
            return _digits_that_keep(points, lambda value: value <= most)

        return text(shown.value) + between(shown.low, shown.high, text)

    def _about(self) -> Iterator[str]:
        yield (
            f"Design: seeds x items. Power: for {self._wanted}. Detects: the difference, in points, "
            f"that is established with {100 * POWER:.0f}% power. Each row has the fewest items that give its seeds "
            "this power, or all items where these are too few. Values are for the expected spread; in parentheses, all "
            "inputs at once at the ends of their intervals. Hours are those of a plan with these numbers."
        )

    def __repr__(self) -> str:
        chosen = self.chosen
        found = "none" if isinstance(chosen, Missing) else f"{chosen.seeds} seeds x {chosen.items} items"
        return f"<design of {self.experiment!r} for {self._wanted}: {found}>"

    def _repr_html_(self) -> str:
        from touchline.core.html import notebook_html

        return notebook_html(f"Design of {self.experiment}", self.sections())


def power_text(power: float) -> str:
    """Return a power in %; one below the target never reads as the target, nor any other as 0 or 100%."""
    if not _NO_POWER <= power <= _FULL_POWER:
        return "<1" if power < _NO_POWER else ">99"
    return _digits_that_keep(power, lambda value: value >= 100 * POWER, 1 if power < 10 - _NO_POWER else 2)


def _digits_that_keep(value: float, is_met: Callable[[float], bool], digits: int = 2) -> str:
    """Return a number in significant digits, in more of them where rounding would change whether a bound is met.

    79.6 is `80`, but `79.6` beside a target of 80.

    Args:
        digits: significant digits otherwise.
    """
    wanted = is_met(value)
    texts = [f"{float(f'{value:.{more}g}'):.{more}g}" for more in range(digits, digits + 4)]
    text = next((each for each in texts if is_met(float(each)) == wanted), repr(value))
    return f"{float(text):g}"
