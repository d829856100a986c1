"""report.html in a real Chromium: every figure is drawn, a run is followed, tables sort, nothing leaves the page."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from tests.report.made_report import ALERT, Make, made_report
from tests.strategy import made_strategy
from tests.tiers import THOROUGH

from tools.chromium import REQUIRE, Browser, Tab, browser, unavailable
from touchline.data.scores import AskedItem
from touchline.plan.settings import Origin, RunSetting
from touchline.report.build import build_report
from touchline.report.charts import charts
from touchline.report.figures import figure_script
from touchline.report.page import report_html
from touchline.report.report import Report
from touchline.statistics.conclusions import NextStep

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

DRAWN = "document.documentElement.dataset.figures === 'drawn'"
RUN = "1B_rank16_s0"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    reason = unavailable()
    if reason is not None and os.environ.get(REQUIRE) == "1":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def report() -> Report:
    """Fourteen runs with hostile answers, NaN losses, runs that failed."""
    return made_report(Make(steps=300, items=120, faults=True))


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_html(report, charts(report), script=figure_script()), encoding="utf-8")
    return path


ALL_DRAWN = "[...document.querySelectorAll('.plot')].every((place) => place.dataset.drawn in {yes: 1, no: 1})"


def unfold(tab: Tab) -> None:
    """Open everything; a figure is drawn when its section opens."""
    tab.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    tab.wait(ALL_DRAWN)


def opened(chrome: Browser, page: Path) -> Tab:
    tab = chrome.tab()
    tab.open(page)
    tab.wait(DRAWN)
    unfold(tab)
    return tab


@pytest.fixture(scope="module")
def shared(chrome: Browser, page: Path) -> Tab:
    return opened(chrome, page)


@pytest.fixture
def tab(shared: Tab) -> Tab:
    """One tab for the tests that leave the page as it was; in front, since a hidden one draws no frame."""
    shared.send("Page.bringToFront")
    return shared


@pytest.fixture
def fresh(chrome: Browser, page: Path) -> Tab:
    return opened(chrome, page)


def followed(tab: Tab) -> str:
    """The run that the page follows."""
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return str(tab.evaluate("document.documentElement.dataset.followed || ''"))


def opacities(figure: str, marks: str) -> str:
    """An expression for the opacities of a figure's marks."""
    return (
        f"[...document.querySelectorAll('#figure-{figure} {marks}')].map((p) => Number(p.getAttribute('opacity') ?? 1))"
    )


def shot(tab: Tab, request: pytest.FixtureRequest, name: str) -> None:
    """Keep a screenshot beside the other things that tests leave for people to look at."""
    folder = request.config.rootpath / ".pytest_cache" / "report"
    folder.mkdir(parents=True, exist_ok=True)
    tab.screenshot(folder / f"{name}.png")


def test_every_figure_has_marks_and_nothing_is_asked_for(
    tab: Tab, report: Report, page: Path, request: pytest.FixtureRequest
) -> None:
    marks = tab.evaluate(
        "Object.fromEntries([...document.querySelectorAll('figure')].map((figure) => [figure.id, figure"
        ".querySelectorAll('.mark-symbol path, .mark-line path, .mark-rect path, .mark-rule line').length]))"
    )
    assert set(marks) == {f"figure-{chart.name}" for chart in charts(report)}
    assert all(count > 0 for count in marks.values()), marks
    shot(tab, request, "light")
    assert tab.requests == [page.resolve().as_uri()]
    assert tab.evaluate("violations") == []
    assert tab.errors == []


def test_a_phone_shows_the_answer_then_two_cards_a_row_and_closed_sections(
    chrome: Browser, page: Path, report: Report
) -> None:
    """Figures inside closed sections are drawn when they open, in the width that they then have."""
    tab = chrome.tab(width=400)
    tab.open(page)
    tab.wait(DRAWN)
    cards = "[...document.querySelectorAll('.card')].map((card) => Math.round(card.getBoundingClientRect().top))"
    tops = tab.evaluate(cards)
    assert tab.evaluate("document.querySelector('.answer').getBoundingClientRect().bottom") < min(tops)
    assert sorted({tops.count(top) for top in tops[: len(tops) // 2 * 2]}) == [2]
    assert tab.evaluate("document.querySelectorAll('details[open] details, .fold[open]').length") == 0
    assert tab.evaluate("document.documentElement.scrollWidth") == 400
    # A table that is wider than its box has a shadow at the side where more is.
    assert "linear-gradient" in tab.evaluate(
        "getComputedStyle(document.querySelector('#runs .scroll')).backgroundImage"
    )
    unfold(tab)
    widths = "[...document.querySelectorAll('.plot svg')].map((svg) => svg.getBoundingClientRect().width)"
    drawn = tab.evaluate(widths)
    assert len(drawn) == len(charts(report))
    assert all(250 < width <= 400 for width in drawn), drawn


def test_what_a_model_wrote_is_shown_and_does_nothing(fresh: Tab, report: Report) -> None:
    tab = fresh
    hostile = next(run for run in report.runs for e in run.evaluations if e.samples and e.samples[0].output == ALERT)
    number = tab.evaluate(
        f"[...document.querySelectorAll('#browser select')[0].options].findIndex(o => o.text === '{hostile.name}')"
    )
    tab.evaluate(
        f"(() => {{ const [run, kind] = document.querySelectorAll('#browser select'); run.value = '{number}';"
        " kind.value = 'wrong'; kind.dispatchEvent(new Event('change')); })()"
    )
    shown = tab.evaluate("document.querySelector('#browser table').textContent")
    assert ALERT in shown
    assert "<img src=x onerror=alert(2)>" in shown
    assert tab.evaluate("document.querySelectorAll('#browser img, #browser script').length") == 0
    assert tab.evaluate("asked") == []


def test_a_run_is_followed_from_the_table_through_the_figures(tab: Tab) -> None:
    faint = opacities("estimates", ".mark-symbol path") + ".filter((opacity) => opacity < 0.5).length"
    assert tab.evaluate(faint) == 0
    tab.move(*tab.middle(f'#runs tr[data-run="{RUN}"]'))
    assert followed(tab) == RUN
    tab.wait(f"{faint} > 0")
    assert tab.evaluate(f"document.querySelector('#runs tr[data-run=\"{RUN}\"]').className") == "followed"
    tab.move(*tab.middle("h1"))
    assert followed(tab) == ""
    tab.wait(f"{faint} === 0")


def test_a_run_is_followed_from_a_mark_into_tables_and_other_figures(tab: Tab) -> None:
    tab.move(*tab.middle(f'#figure-estimates .mark-symbol path[aria-label*="{RUN}"]'))
    tab.wait(f"document.documentElement.dataset.followed === '{RUN}'")
    assert tab.evaluate(f"document.querySelector('#runs tr[data-run=\"{RUN}\"]').className") == "followed"
    assert RUN in tab.evaluate("document.querySelector('#tip').textContent")
    tab.wait(opacities("train_loss", ".mark-line path") + ".filter((opacity) => opacity === 0.125).length > 5")


def test_a_kept_run_stays_until_escape(tab: Tab) -> None:
    where = tab.middle(f'#runs tr[data-run="{RUN}"]')
    tab.move(*where)
    tab.click(*where)
    tab.move(*tab.middle("h1"))
    assert followed(tab) == RUN
    tab.send("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert followed(tab) == ""


@pytest.mark.parametrize("heading", ["Rank", "Gap"])
def test_tables_sort_by_number_up_down_and_back(tab: Tab, heading: str) -> None:
    heads = tab.evaluate("[...document.querySelectorAll('#runs table.sticky th')].map((head) => head.textContent)")
    place = heads.index(heading)
    texts = f"[...document.querySelectorAll('#runs table.sticky tbody tr')].map((row) => row.cells[{place}].dataset.v)"
    button = f"document.querySelectorAll('#runs table.sticky th button')[{place}].click()"
    before = tab.evaluate(texts)
    tab.evaluate(button)
    up = [float(value) for value in tab.evaluate(texts) if value not in (None, "")]
    assert len(up) > 5
    assert up == sorted(up)
    tab.evaluate(button)
    down = tab.evaluate(texts)
    numbers = [float(value) for value in down if value not in (None, "")]
    assert numbers == sorted(up, reverse=True)
    # What is missing stands below, whichever way the rest is sorted.
    assert down[: len(numbers)] == [value for value in down if value not in (None, "")]
    tab.evaluate(button)
    assert tab.evaluate(texts) == before


def test_the_sample_browser_shows_what_was_gained_and_every_answer(fresh: Tab) -> None:
    tab = fresh
    count = "document.querySelectorAll('#browser tbody tr').length"
    assert tab.evaluate(count) > 3
    tab.click(*tab.middle("#browser tbody tr:first-child td"))
    told = tab.evaluate("document.querySelector('#browser tr.all').textContent")
    assert "1B_base" in told
    word = tab.evaluate("document.querySelector('#browser tbody tr.item td:nth-child(3)').textContent").lower()
    question = f"Capitalize the given word: {word}"
    assert tab.evaluate("document.querySelector('#browser tbody tr.item td:nth-child(2)').textContent") == question
    tab.evaluate(
        "(() => { const find = document.querySelector('#browser input'); find.value = 'no such answer';"
        " find.dispatchEvent(new Event('input')); })()"
    )
    assert tab.evaluate(count) == 0


def test_dark_paper_has_light_letters_in_figures_too(fresh: Tab, request: pytest.FixtureRequest) -> None:
    tab = fresh
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    letter = "getComputedStyle(document.querySelector('#figure-scores svg text')).fill"
    light = tab.evaluate(ground), tab.evaluate(letter)
    tab.media(scheme="dark")
    dark = tab.evaluate(ground), tab.evaluate(letter)
    assert bright(light[0]) > bright(light[1])
    assert bright(dark[0]) < bright(dark[1])
    shot(tab, request, "dark")
    tab.evaluate("document.getElementById('theme').click()")
    assert (tab.evaluate(ground), tab.evaluate(letter)) == light
    # Print is on white paper whatever the screen has.
    tab.media(scheme="dark", kind="print")
    assert tab.evaluate(ground) == light[0]
    shot(tab, request, "print")


def bright(colour: str) -> float:
    """Of `rgb(1, 2, 3)`."""
    return sum(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


WIDTHS = (320, 400, 800, 1400) if THOROUGH else (400,)
LONG = "x" * 180


def stretched(report: Report) -> Report:
    """The report with everything as long as it may come: names, levels, paths, prompts, words without a break."""
    names = {run.name: f"{run.name}_{'a_very_long_name_' * 5}{LONG[:60]}" for run in report.runs}
    renamed = json.loads(json.dumps(TypeAdapter(Report).dump_python(report, mode="json")))
    text = json.dumps(renamed)
    for old in sorted(names, key=len, reverse=True):
        text = text.replace(f'"{old}"', json.dumps(names[old]))
    made = TypeAdapter(Report).validate_json(text)
    key = next(iter(made.asked))
    asked = {
        item: AskedItem(question=f"{LONG}{each.question}{LONG * 4}", prompt=f"<|user|>{LONG}{each.question}{LONG * 4}")
        for item, each in made.asked[key].items()
    }
    path = f"/scratch/{LONG}/{LONG}/words.json"
    varying = [
        RunSetting(
            key=f"train.setting_{number}",
            name=f"setting {number}",
            origin=Origin.GIVEN,
            varies=True,
            values={run.name: f"{LONG[:40]}{number}" for run in made.runs},
        )
        for number in range(8)
    ]
    factors = {each.key: (*dict.fromkeys(map(str, each.values.values())), "other") for each in varying}
    source = replace(made.sources[0], name=path, facts=(("sha256", "0123456789abcdef" * 4), ("splits", LONG)))
    return replace(
        made,
        experiment=f"experiment_{LONG}",
        question=LONG,
        asked={key: asked},
        settings=(*varying, *made.settings),
        factors={**made.factors, **factors},
        sources=(source,),
        provenance=(("sha256 of experiment.yaml", "f" * 64), ("trained on", path)),
        compared=LONG,
        definition=f"name: {LONG}\nquestion: {LONG * 3}\n",
        issues=(replace(made.issues[0], text=LONG, lines=(LONG * 3,), where=path), *made.issues),
        next_steps=(NextStep(title=LONG, why=LONG, command=f"touchline run {path}"),),
    )


@pytest.mark.parametrize(
    "kind", ["stretched", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("as it is", "one run"))]
)
def test_no_window_is_scrolled_sideways(
    kind: str, chrome: Browser, report: Report, page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Everything unfolded, light and dark: wide tables and figures scroll in a box of their own, long words break."""
    path = page
    if kind != "as it is":
        made = stretched(report) if kind == "stretched" else made_report(Make(models=1, ranks=("4",), seeds=1, steps=9))
        path = tmp_path / "report.html"
        path.write_text(report_html(made, charts(made), script=figure_script()), encoding="utf-8")
    tab = chrome.tab()
    tab.open(path)
    tab.wait(DRAWN)
    unfold(tab)
    tab.evaluate("document.querySelector('#browser tr.item')?.click()")
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            tab.media(scheme=scheme)
            tab.size(width)
            tab.wait(f"innerWidth === {width} && document.scrollingElement.scrollWidth <= {width}", 20)
        # What sticks out is within a box that scrolls.
        out = tab.evaluate(
            "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1"
            " && !e.closest('.scroll, .plot, pre')).map((e) => `${e.tagName}.${e.className}`).slice(0, 5)"
        )
        assert out == [], width
    if kind == "as it is":
        tab.size(400)
        shot(tab, request, "narrow")


def test_a_page_without_figures_still_sorts_and_says_so(chrome: Browser, report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_html(report, ()), encoding="utf-8")
    tab = chrome.tab()
    tab.open(path)
    tab.evaluate("document.querySelector('#runs table.sticky th button').click()")
    assert tab.evaluate("document.querySelectorAll('#runs table.sticky th[aria-sort]').length") == 1
    assert tab.errors == []


def test_a_figure_that_cannot_be_drawn_says_so_and_the_others_are(
    chrome: Browser, report: Report, tmp_path: Path
) -> None:
    found = charts(report)
    spoiled = replace(found[0], spec={**found[0].spec, "layer": 7})
    path = tmp_path / "report.html"
    path.write_text(report_html(report, (spoiled, *found[1:]), script=figure_script()), encoding="utf-8")
    tab = chrome.tab()
    tab.open(path)
    tab.wait(DRAWN)
    unfold(tab)
    assert "could not be drawn" in tab.evaluate(f"document.getElementById('figure-{spoiled.name}').textContent")
    assert tab.evaluate("document.querySelectorAll('.plot[data-drawn=yes]').length") == len(found) - 1


def test_the_script_can_stand_in_a_page() -> None:
    script = figure_script()
    assert "</script" not in script.lower()
    assert len(script.encode()) < 1_000_000
    assert figure_script() is script


@pytest.mark.parametrize("width", [390, pytest.param(1240, marks=pytest.mark.thorough)])
def test_the_figures_of_a_strategy_are_drawn(
    chrome: Browser, tmp_path: Path, request: pytest.FixtureRequest, width: int
) -> None:
    """Cuts and looks, on a wide page and on a narrow dark one, which does not scroll sideways."""
    made = build_report(made_strategy.gathered(made_strategy.explore_plan(), made_strategy.explored(looks=2)))
    path = tmp_path / "report.html"
    path.write_text(report_html(made, charts(made), script=figure_script()), encoding="utf-8")
    tab = chrome.tab(width=width)
    tab.media(scheme="light" if width > 1000 else "dark")
    tab.open(path)
    tab.wait(DRAWN)
    unfold(tab)
    shot(tab, request, f"strategy_{width}")
    assert tab.errors == []
    assert "could not be drawn" not in tab.evaluate("document.body.innerText")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.querySelector('#details').innerText.includes('cut after step 10')")
