"""The page of trends in a real Chromium: figures are drawn light, dark and narrow, and nothing leaves the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.history.made_sweeps import past_run

from tools.chromium import REQUIRE, Browser, browser, unavailable
from touchline.plan.trends import find_trends
from touchline.report.local.trending import write_trends

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

DRAWN = "document.documentElement.dataset.figures === 'drawn'"
NAMES = ("plain", "<script>alert(1)</script>", "a_very_long_name_of_an_experiment_that_fits_on_no_telephone" * 2)


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    reason = unavailable()
    if reason is not None and os.environ.get(REQUIRE) == "1":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [
        replace(
            past_run(f"run{n}", experiment="sweep", score=0.5 + n / 10, items=100),
            experiment=name,
            started_unix=1_750_000_000.0 + 86_400 * place,
        )
        for place, name in enumerate(NAMES)
        for n in range(3)
    ]
    path = tmp_path_factory.mktemp("page") / "trends.html"
    assert write_trends(find_trends(records, ()), path, cache=path.parent / "cache") == ""
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1240, "light"), (1240, "dark"), (390, "light")])
def test_it_fits_is_drawn_and_asks_for_nothing(chrome: Browser, page: Path, width: int, scheme: str) -> None:
    tab = chrome.tab(width=width)
    tab.media(scheme=scheme)
    tab.open(page)
    tab.wait(DRAWN)
    assert tab.errors == []
    assert all(address == page.as_uri() for address in tab.requests)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    drawn = "[...document.querySelectorAll('.plot')].map((each) => each.dataset.drawn).join()"
    assert tab.evaluate(drawn) == "yes,yes"
    assert tab.evaluate(
        "document.querySelectorAll('#figure-score_0_tiny_1b_capitalization_exact_match svg path').length"
    )
    paper = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == ("rgb(18, 22, 28)" if scheme == "dark" else "rgb(255, 255, 255)")


def test_a_heading_sorts_its_table(chrome: Browser, page: Path) -> None:
    tab = chrome.tab()
    tab.open(page)
    tab.wait(DRAWN)
    first = "document.querySelector('table tbody tr').cells[1].textContent"
    names = {str(tab.evaluate(first))}
    tab.evaluate("document.querySelectorAll('table th button')[1].click()")
    names.add(str(tab.evaluate(first)))
    tab.evaluate("document.querySelectorAll('table th button')[1].click()")
    names.add(str(tab.evaluate(first)))
    assert len(names) >= 2
