"""The docs as a site: built without a warning, whole, without other hosts, and readable on a phone and in the dark."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cases import some

from tools import docs_site
from tools.chromium import REQUIRE, Tab, browser, unavailable

ROOT = Path(__file__).resolve().parents[2]
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+", re.IGNORECASE
)
"""Elements that a browser fetches by itself, from a host that they name."""
STYLED = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\"') ]+")
SHOWN = ("index", "tutorial", "reference/experiment", "rules/TR010")
PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once; a link, an anchor or a page of the navigation that leads nowhere is an error."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    docs_site.write(folder)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(folder / "mkdocs.yml")]
    # A build that asks another machine for something ends here.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder / "site"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One tab for all pictures."""
    reason = unavailable()
    if reason is not None:
        (pytest.fail if os.environ.get(REQUIRE) == "1" else pytest.skip)(reason)
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started.tab()


def test_every_document_is_a_page_and_the_guides_are_in_the_navigation(site: Path) -> None:
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    pages += [Path("rules") / page.name for page in (ROOT / "src/touchline/lint/pages").glob("*.md")]
    names = {page.parent / ("index.html" if page.stem == "README" else f"{page.stem}.html") for page in some(pages)}
    assert [name for name in sorted(names) if not (site / name).is_file()] == []
    guide = (site / "guides" / "design.html").read_text(encoding="utf-8")
    guides = sorted(name.name for name in names if name.parts[0] == "guides")
    assert [name for name in some(guides) if f'href="{name}"' not in guide and name != "design.html"] == []


def test_a_rule_page_has_its_severity_and_a_way_back(site: Path) -> None:
    """So has the navigation next to it."""
    page = (site / "rules" / "TR010.html").read_text(encoding="utf-8")
    assert '<span class="severity error">error</span>' in page
    assert 'href="index.html#tr-training"' in page
    assert "TR010 (error): no-optimizer-step" in page
    assert 'id="tr-training"' in (site / "rules" / "index.html").read_text(encoding="utf-8")


def test_the_search_finds_keys_and_no_page_of_a_rule_or_a_decision(site: Path) -> None:
    """Words are compared as the search compares them: titles count a thousand times."""
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    entries, separator = index["docs"], re.compile(index["config"]["separator"])
    places = {entry["location"].partition("#")[0] for entry in some(entries)}
    assert {place for place in places if place.startswith(("rules/", "decisions/"))} == {"rules/index.html"}
    assert all(entry["boost"] < 1 for entry in entries if entry["location"].startswith("rules/"))
    for query, place in (
        ("batch size", "reference/experiment.html#trainglobal_batch_size"),
        ("lora rank", "reference/experiment.html#trainlorarank"),
        ("deadline", "reference/experiment.html#computedeadline"),
    ):
        titles = {entry["location"]: separator.split(re.sub("<[^>]+>", "", entry["title"])) for entry in entries}
        assert next(at for at, words in titles.items() if set(query.split()) <= set(words)) == place


def test_pages_are_plain_markdown(site: Path) -> None:
    """Links lead to files of the folder: another generator of sites needs no plug-in."""
    link = re.compile(r"\]\((?![a-z]+:)([^)\s#]+)(?:#[^)\s]*)?\)")
    pages = some(sorted((site.parent / "docs").rglob("*.md")))
    links = ((page, target) for page in pages for target in link.findall(page.read_text(encoding="utf-8")))
    assert [f"{page}: {target}" for page, target in links if not (page.parent / target).exists()] == []


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    """Fonts, scripts, styles and pictures are the site's own; links that a reader follows may lead elsewhere."""
    found = [
        f"{path.relative_to(site)}: {match}"
        for pattern, names in ((FETCHED, "*.html"), (STYLED, "*.css"))
        for path in some(site.rglob(names))
        for match in pattern.findall(path.read_text(encoding="utf-8"))
    ]
    assert found == []
    for text in ('<script src="https://a.b/c.js">', "<link rel=x href=//a.b/c.css>", "<img alt='' src='http://a/b'>"):
        assert FETCHED.search(text), text


def test_pages_fit_phones_and_desks_in_light_and_dark(site: Path, tab: Tab, request: pytest.FixtureRequest) -> None:
    """The colors follow the system, nothing is wider than the screen, and no file of another host is asked for."""
    folder = request.config.rootpath / ".pytest_cache" / "site"
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHOWN:
        papers = []
        for scheme in ("light", "dark"):
            tab.media(scheme=scheme)
            for width in (PHONE, DESK):
                tab.size(width)
                tab.open(site / f"{name}.html")
                papers.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
                tab.screenshot(folder / f"{Path(name).name}-{scheme}-{width}.png")
                assert tab.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
                assert tab.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        assert papers[0] == papers[1] != papers[2] == papers[3]
    assert [address for address in some(tab.requests) if not address.startswith(site.as_uri())] == []


def test_the_search_works_without_a_server(site: Path, tab: Tab) -> None:
    tab.size(DESK)
    tab.open(site / "tutorial.html")
    tab.evaluate("document.querySelector('#__search').click()")
    tab.evaluate(
        "(() => { const field = document.querySelector('.md-search__input'); field.focus();"
        " field.value = 'lineage'; field.dispatchEvent(new Event('keyup', {bubbles: true}));"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    tab.wait("document.querySelectorAll('.md-search-result__item').length > 0")
    links = tab.evaluate("[...document.querySelectorAll('.md-search-result__link')].map((link) => link.href).join()")
    assert "guides/stage-chains.html" in links
    assert tab.errors == []
