"""report.html as text: whole, small, escaped, with a policy that its own scripts pass and no other."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import some
from tests.report.made_report import ALERT, Make, fifty, made_report

from touchline.core.finding import Severity
from touchline.report.figures import Chart
from touchline.report.markdown import results_markdown
from touchline.report.page import report_html
from touchline.report.page.browser import BUDGET_CHARS, browser_data
from touchline.report.page.embedding import embedded_json
from touchline.report.report import Answer, Report
from touchline.results.report_inputs import Issue
from touchline.results.verification_types import Verification
from touchline.statistics.statements import Statement

pytestmark = pytest.mark.planning

SMALL = Make(steps=20, items=30)
CHART = Chart(
    name="scores",
    section="findings",
    title="Scores",
    caption="Each run.",
    spec={"datasets": {"rows": [{"run": ALERT}]}, "color": "#1d2430"},
)


class Page(HTMLParser):
    """What a browser would see: scripts, styles, attributes, tags that were opened and closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.inline: list[tuple[str, dict[str, str | None], str]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag in ("script", "style"):
            self._open = (tag, dict(attrs))
            self.inline.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        if self._open is not None and tag == self._open[0]:
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is None:
            self.text += data
            return
        tag, attributes, text = self.inline[-1]
        self.inline[-1] = (tag, attributes, text + data)

    def data(self, id: str) -> object:
        """The JSON of a data element."""
        return json.loads(next(text for _, attributes, text in self.inline if attributes.get("id") == id))


@pytest.fixture(scope="module")
def report() -> Report:
    """Fourteen runs with what goes wrong in real ones."""
    return made_report(replace(SMALL, faults=True))


def hashes(page: Page) -> set[str]:
    """Of what the policy must name: everything that runs or styles."""
    return {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for tag, attributes, text in page.inline
        if tag == "style" or "type" not in attributes
    }


def test_the_policy_names_what_is_in_the_page_and_allows_nothing_else(report: Report) -> None:
    page = Page(report_html(report, (), script="window.drawn = 1;"))
    policy = next(
        value for tag, name, value in page.attributes if tag == "meta" and name == "content" and "default" in str(value)
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert hashes(page) == set(re.findall(r"'sha256-[^']+'", policy))


def test_nothing_is_loaded_and_no_markup_carries_script(report: Report) -> None:
    page = Page(report_html(report, ()))
    for tag, name, value in some(page.attributes):
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "srcset", "action", "style"), (tag, name)
        if name == "href":
            assert str(value).startswith(("#", "./", "data:,")), value


def test_what_a_model_wrote_is_text(report: Report) -> None:
    text = report_html(report, (CHART,), script="'script'")
    page = Page(text)
    scripts = [body for tag, attributes, body in page.inline if tag == "script" and "type" not in attributes]
    assert all("alert" not in body for body in scripts)
    assert ALERT in json.dumps(page.data("samples-data"))
    assert text.count("</script>") == len([1 for tag, _, _ in page.inline if tag == "script"])


def test_foreign_words_in_every_place_are_escaped(report: Report) -> None:
    hostile = f'"><img src=x onerror=alert(3)>{ALERT}\x00\ud800'
    issue = Issue(weight=Severity.ERROR, subject=hostile, title=hostile, text=hostile, lines=(hostile,), where=hostile)
    said = Statement(topic=hostile, text=hostile, where=(hostile,))
    claim = replace(report.claims[0], topic=hostile, text=hostile, verdict=hostile, needed=hostile)
    changed = replace(
        report,
        experiment=hostile,
        question=hostile,
        design=hostile,
        task=hostile,
        decoding=hostile,
        answer=Answer(topic=hostile, text=hostile, details=(hostile,)),
        claims=(claim,),
        remarks=(said,),
        issues=(issue,),
        runs=tuple(replace(run, notes=(hostile,), model=hostile) for run in report.runs),
    )
    text = report_html(changed, ())
    text.encode("utf-8")
    page = Page(text)
    assert not [1 for tag, name, _ in page.attributes if name == "onerror" or tag == "img"]
    assert len([1 for tag, attributes, _ in page.inline if tag == "script" and "type" not in attributes]) == 1


@given(st.text() | st.sampled_from([ALERT, "<!--", "]]>", "\u2028", "\ud800"]))
def test_embedded_json_is_read_back_and_cannot_end_its_element(text: str) -> None:
    embedded = str(embedded_json({"text": text}))
    assert json.loads(embedded) == {"text": text}
    assert not set("<>&\u2028\u2029") & set(embedded)


def test_missing_figures_say_why(report: Report) -> None:
    text = html.unescape(report_html(report, ()))
    assert "not a number" in text
    assert "not evaluated" in text
    assert ">0.0%<" not in text


def test_every_run_issue_and_next_step_is_there(report: Report) -> None:
    page = Page(report_html(report, ()))
    rows = {value for tag, name, value in page.attributes if (tag, name) == ("tr", "data-run")}
    assert {run.name for run in report.runs} <= rows
    for issue in report.issues:
        assert issue.title in page.text
        assert issue.text in page.text
    for step in report.next_steps:
        assert step.title in page.text
    for command in report.commands:
        assert command.command in page.text
    assert page.text.index(report.answer.text) < page.text.index("Findings")
    for claim in report.claims:
        assert claim.text in page.text


def test_a_report_of_nothing_is_a_page_all_the_same(report: Report) -> None:
    storage = replace(report.verification.storage, runs=(), adapters=(), deletable=(), bases={})
    nothing = Verification(depth="headers", checkpoints=(), missing=(), storage=storage)
    empty = replace(
        report,
        runs=(),
        facts=(),
        analyses=(),
        answers=(),
        claims=(),
        remarks=(),
        issues=(),
        next_steps=(),
        commands=(),
        sources=(),
        estimates=(),
        packing=(),
        verification=nothing,
    )
    text = report_html(empty, ())
    assert "Nothing has been evaluated yet" in text
    assert "No checkpoint was found." in text


def test_links_lead_from_the_page_to_the_experiment(report: Report) -> None:
    assert 'href="./../exp%20a/1B_base/metrics.jsonl"' in report_html(report, (), base="../exp a")
    assert "metrics.jsonl</code></a>" not in report_html(report, (), base=None)


def test_the_same_report_gives_the_same_page(report: Report) -> None:
    assert report_html(report, (), script="1") == report_html(report, (), script="1")


# ---------------------------------------------------------------------------------------------------- sample browser


def test_items_on_which_runs_differ_are_there_with_every_answer() -> None:
    report = made_report(SMALL)
    data = browser_data(report, "samples.jsonl")
    assert data is not None
    runs, items = data["runs"], data["items"]
    assert isinstance(runs, list)
    assert isinstance(items, list)
    records = {run.name: run.evaluations[-1].samples for run in report.runs}
    differing = {
        sample.id
        for place, sample in enumerate(records["1B_base"])
        if len({samples[place].score for samples in records.values()}) > 1
    }
    assert differing <= {item[0] for item in items}
    assert data["differing"] == len(differing)
    asked = report.asked[report.runs[0].evaluations[-1].asked_key]
    for item_id, question, target, groups in items:
        assert question == asked[item_id].question
        told = {run for _, _, own in groups if own is not None for run in own}
        for text, score, own in groups:
            for number in own if own is not None else set(range(len(runs))) - told:
                sample = records[runs[number]][int(item_id)]
                assert (sample.target, sample.output, sample.score) == (target, text, score)


def test_left_out_items_are_counted_and_the_data_stays_within_its_budget() -> None:
    report = made_report(fifty(steps=4, items=200))
    long = [
        replace(
            run,
            evaluations=tuple(
                replace(
                    record,
                    samples=tuple(
                        replace(sample, output=f"{run.name} {sample.output} " + "x" * 5000) for sample in record.samples
                    ),
                )
                for record in run.evaluations
            ),
        )
        for run in report.runs
    ]
    data = browser_data(replace(report, runs=tuple(long)), "samples.jsonl")
    assert data is not None
    items, differing, missed = data["items"], data["differing"], data["missed"]
    assert isinstance(items, list)
    assert isinstance(differing, int)
    assert isinstance(missed, int)
    assert len(json.dumps(items, ensure_ascii=False, separators=(",", ":"))) < 1.02 * BUDGET_CHARS
    omitted, omitted_missed = data["omitted"], data["omitted_missed"]
    assert isinstance(omitted, int)
    assert isinstance(omitted_missed, int)
    assert omitted > 0
    assert len(items) == differing - omitted + missed - omitted_missed
    text = report_html(replace(report, runs=tuple(long)), ())
    assert f"{omitted:,} of the first" in text


@pytest.mark.slow
def test_fifty_runs_of_a_thousand_items_fit_into_the_page() -> None:
    text = report_html(made_report(fifty(steps=4, items=1000)), ())
    assert len(text.encode()) < 500_000


def test_page_and_markdown_have_the_same_tables(report: Report) -> None:
    """Each is declared once; RESULTS.md has rows of it, the page all."""
    text = results_markdown(report, ())
    page = Page(report_html(report, ())).text
    assert all(title in page for title in ("Losses and times", "Runs", "Predictions by run"))
    titles = re.findall(r"^### (Base models and adapters|Corrupt checkpoints)\n\n\| ", text, re.MULTILINE)
    assert len(titles) == 2
    assert all(title in page for title in titles)
