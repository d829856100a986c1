"""Answer of `touchline design`: numbers of seeds and items, what they show and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from touchline.core.finding import Finding
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.core.table import Section
from touchline.statistics.spread_inputs import End
from touchline.statistics.spread_types import SpreadInput

if TYPE_CHECKING:
    import pandas

DESIGN_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignOption:
    """Numbers of seeds and items, with what they show and cost."""

    seeds: int
    """Training seeds per condition."""
    items: int
    """Test items per run."""
    runs: int
    """Runs of their plan, controls included."""
    power: Measured
    """Chance to establish the wanted difference, in %; the interval is over the ends of the inputs' intervals."""
    detectable: Measured
    """Difference established with 80% power, in points; the interval likewise."""
    device_hours: Measured
    """Predicted hours of devices for everything, evaluations included, as `touchline plan` counts them."""
    wall_seconds: Measured
    """Predicted time from start to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needed:
    """Cheapest numbers for one end of the inputs' intervals."""

    end: End
    """End that is counted with: small, expected or large spread."""
    seeds: int | Missing
    """Training seeds."""
    items: int | Missing
    """Test items."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """Best power for a number of device-hours."""

    device_hours: float
    """Device-hours."""
    seeds: int
    """Seeds that use them best."""
    items: int
    """Items that use them best."""
    power: float
    """Chance to establish the wanted difference, from 0 to 1."""
    low: float
    """The same where the spread is at the upper end of its interval."""
    high: float
    """The same where the spread is at the lower end of its interval."""


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
    conditions: int
    """Conditions that a level is averaged over."""
    most_items: int
    """Items that there are."""
    inputs: tuple[SpreadInput, ...]
    """Spread that is counted on, each value with its source."""
    now: DesignOption
    """The experiment as it is."""
    cheapest: DesignOption | Missing
    """Cheapest numbers that establish the difference with 80% power."""
    needed: tuple[Needed, ...]
    """The same numbers for small, expected and large spread."""
    within_budget: DesignOption | Missing | None
    """Numbers that show the smallest difference within the budget; None without a budget."""
    alternatives: tuple[DesignOption, ...]
    """Other numbers, by seeds."""
    balance: Measured
    """Items at which one more seed and more items are worth the same, by the closed form."""
    curve: tuple[CurvePoint, ...]
    """Best power by device-hours; empty where costs are not known."""
    findings: tuple[Finding, ...]
    """Reasons why there is no usable design; empty if there is one."""
    notes: tuple[str, ...]
    """Remarks."""
    looks: tuple[int, ...] = ()
    """Looks of `strategy.confirm` that need the fewest seeds on average and show what the proposed seeds show without
    looks; the last is the number of its seeds. Empty without such a strategy."""
    diff: str = ""
    """Unified diff of experiment.yaml with the chosen numbers; empty if it has them."""
    applied: bool = False
    """Whether the change has been written."""

    @property
    def chosen(self) -> DesignOption | None:
        """The numbers that are proposed: within the budget if there is one, else the cheapest; None without any."""
        found = self.cheapest if self.within_budget is None else self.within_budget
        return None if isinstance(found, Missing) else found

    def to_rows(self) -> list[dict[str, float | int | None]]:
        """Return one row per alternative; None stands for what is not known."""
        return [
            {
                "seeds": each.seeds,
                "items": each.items,
                "runs": each.runs,
                **_columns("power_percent", each.power),
                **_columns("detectable_points", each.detectable),
                **_columns("device_hours", each.device_hours),
                "wall_seconds": _value(each.wall_seconds),
            }
            for each in self.alternatives
        ]

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows of `to_rows` as a DataFrame, indexed by seeds.

        Raises:
            HostError: pandas is not installed.
        """
        from touchline.core.data_frame import data_frame

        return data_frame(self.to_rows(), index="seeds")

    def sections(self) -> tuple[Section, ...]:
        """Return the sections that commands and notebooks show."""
        from touchline.plan.design.sections import design_sections

        return design_sections(self)

    def __repr__(self) -> str:
        chosen = self.chosen
        found = "none" if chosen is None else f"{chosen.seeds} seeds x {chosen.items} items"
        return f"<design of {self.experiment!r} for {self.detect_points:g} points: {found}>"

    def _repr_html_(self) -> str:
        from touchline.core.html import notebook_html

        return notebook_html(f"Design of {self.experiment}", self.sections())


def _value(value: Measured) -> float | None:
    return value.value if isinstance(value, Quantity) else None


def _columns(name: str, value: Measured) -> dict[str, float | int | None]:
    if isinstance(value, Missing):
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
