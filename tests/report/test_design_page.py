"""The page of a design in a real Chromium: readable on light and dark paper, and nothing leaves the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tools.chromium import REQUIRE, Browser, browser, unavailable
from touchline.core.quantity import Missing, Quantity
from touchline.plan.design.answer import CurvePoint, DesignAnswer, DesignOption, Needed
from touchline.report.local.design_page import write_design
from touchline.statistics.spread_inputs import End, spread_inputs

pytest.importorskip("altair")
pytest.importorskip("vl_convert")


def option(seeds: int, hours: float, power: float) -> DesignOption:
    return DesignOption(
        seeds=seeds,
        items=200,
        runs=2 * seeds + 1,
        power=Quantity(value=power, unit="%", low=power / 2, high=99.0),
        detectable=Quantity(value=400 / power, unit="points", low=2.0, high=9.0),
        device_hours=Quantity(value=hours, unit="h", low=0.8 * hours, high=1.3 * hours),
        wall_seconds=Quantity(value=3600 * hours, unit="s"),
    )


def made() -> DesignAnswer:
    options = (option(2, 1, 12), option(5, 2.5, 60), option(8, 4, 81))
    return DesignAnswer(
        experiment="made",
        detect_points=5,
        budget_hours=None,
        hours_unit="GPU-hours",
        contrasts=1,
        conditions=1,
        most_items=200,
        inputs=spread_inputs((), ()),
        now=options[0],
        cheapest=options[2],
        needed=tuple(Needed(end=end, seeds=8, items=200) for end in End),
        within_budget=None,
        alternatives=options,
        balance=Missing(missing="items cost nothing"),
        curve=tuple(
            CurvePoint(device_hours=hours, seeds=2, items=200, power=hours / 10, low=hours / 20, high=hours / 8)
            for hours in (1.0, 2.0, 4.0, 8.0)
        ),
        findings=(),
        notes=(),
    )


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    reason = unavailable()
    if reason is not None and os.environ.get(REQUIRE) == "1":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize(("width", "scheme"), [(1240, "light"), (1240, "dark"), (390, "dark")])
def test_it_is_drawn_in_the_colors_of_its_paper(chrome: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "design.html"
    write_design(replace(made(), experiment="<script>alert(1)</script>"), path)
    tab = chrome.tab(width=width)
    tab.media(scheme=scheme)
    tab.open(path)
    tab.wait("document.querySelectorAll('#figure svg path').length > 5")
    assert tab.errors == []
    assert all(address == path.as_uri() for address in tab.requests)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    paper = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == ("rgb(18, 22, 28)" if scheme == "dark" else "rgb(255, 255, 255)")
    title = tab.evaluate("getComputedStyle(document.querySelector('#figure svg .role-title-text text')).fill")
    assert title == ("rgb(230, 233, 238)" if scheme == "dark" else "rgb(29, 36, 48)")
