"""report.html as text: whole, small, escaped, with a policy that its own scripts pass and no other."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import some
from tests.report.made_report import ALERT, Make, fifty, made_report

from touchline.core.finding import Severity
from touchline.core.quantity import Quantity
from touchline.experiment.runs import RunKind
from touchline.report.figures import Chart
from touchline.report.page import cards, report_html
from touchline.report.page.parts import BUDGET_CHARS, browser_data, embedded_json
from touchline.report.report import Answer, Report
from touchline.report.tables.checkpoints import checkpoint_section, storage_section
from touchline.report.tables.runs import settings_section
from touchline.report.tables.scores import scores_section
from touchline.report.tables.training import cost_section, training_section
from touchline.results.report_inputs import Issue
from touchline.results.verification_types import Verification
from touchline.statistics.conclusions import Statement
from touchline.statistics.labels import label_report

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
    changed = replace(
        report,
        experiment=hostile,
        question=hostile,
        design=hostile,
        task=hostile,
        decoding=hostile,
        answer=Answer(topic=hostile, text=hostile, details=(hostile,)),
        claims=(replace(report.claims[0], text=hostile, verdict=hostile, needed=hostile),),
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
    for claim in report.claims:
        assert claim.text in page.text


ORDER = ('class="answer"', 'class="cards"', 'id="findings"', 'class="split"', 'id="next"', 'id="training"', 'id="runs"',
         'id="samples"', 'id="details"')  # fmt: skip


def test_the_answer_comes_first_then_findings_next_step_curves_runs_and_samples(report: Report) -> None:
    text = report_html(report, ())
    places = [text.index(each) for each in ORDER]
    assert places == sorted(places)


def test_all_else_is_closed_with_its_content_in_one_line(report: Report) -> None:
    text = html.unescape(report_html(report, ()))
    folds = re.findall(r'<details class="fold"( open)?><summary><h3>(.*?)</h3> <span>(.*?)</span>', text)
    assert not any(is_open or not summary for is_open, _, summary in some(folds))
    summaries = {title: summary for _, title, summary in folds}
    assert summaries["Cost and predictions"].endswith("predictions held")
    assert re.fullmatch(r"\d+ checkpoints valid, 1 corrupt, 1 missing, .* [MG]iB", summaries["Checkpoints and storage"])
    assert summaries["Training in numbers"].startswith("packed: ")
    # What is open inside a closed section is one click away; above them nothing is open.
    assert "<details open" not in text[: text.index('id="details"')]


def scored(report: Report, values: Sequence[float]) -> Report:
    """The report with these scores of its trained runs."""
    main = report.analyses[0]
    trained = {run.name for run in report.runs if run.kind is RunKind.FINE_TUNED}
    left = iter(values)
    scores = tuple(replace(each, value=next(left)) if each.run in trained else each for each in main.scores)
    return replace(report, analyses=(replace(main, scores=scores),))


def test_equal_scores_are_a_tie_and_none_is_the_highest() -> None:
    report = made_report(Make(models=1, seeds=1, steps=20, items=30))
    texts = {case: " ".join(f"{card.value} {card.label}" for card in cards(scored(report, case)))
             for case in ((1.0, 1.0, 1.0), (0.5, 0.9, 0.9), (0.5, 0.7, 0.9))}  # fmt: skip
    assert "3 runs tie at 100.0% exact match; control " in texts[1.0, 1.0, 1.0]
    assert "50.0 to 90.0% exact match of 3 runs, 2 tie at the top" in texts[0.5, 0.9, 0.9]
    assert "tie" not in texts[0.5, 0.7, 0.9]
    assert not any("highest" in text for text in texts.values())


def test_cards_give_answer_scores_cost_against_prediction_and_warnings(report: Report) -> None:
    planned = Quantity(value=0.05, unit="h", low=0.02, high=0.1)
    hours = Quantity(value=0.06, unit="h")
    made = cards(replace(report, device_hours=hours, device_hours_planned=planned, device="GPU"))
    assert [card.label.split(" ")[0] for card in made] == ["runs", "effect", "exact", "GPU", "errors,"]
    assert re.fullmatch(r"errors, \d+ warnings", made[-1].label)
    assert made[0].kind == "warn"
    assert (made[3].value, made[3].label) == ("3.6 min", "GPU time, predicted 3 min (1.2 to 6)")


def test_labels_are_closed_the_best_run_and_its_base_first() -> None:
    report = made_report(Make(models=1, seeds=1, steps=20, items=30))
    labels = label_report(("a", "b"), [("a", "a"), ("b", "a")])
    report = replace(report, runs=tuple(replace(run, labels=labels) for run in report.runs))
    best = max(report.analyses[0].scores, key=lambda score: score.value).run
    text = report_html(report, ())
    tables = re.findall(r"<details( open)?><summary>(\S+): (?:scores by label|confusion matrix)</summary>", text)
    assert [name for _, name in tables[:4]] == [best, best, "1B_base", "1B_base"]
    assert not any(is_open for is_open, _ in tables)


def test_settings_that_all_runs_share_are_one_line(report: Report) -> None:
    text = html.unescape(report_html(report, ()))
    runs = text[text.index('id="runs"') : text.index('id="samples"')]
    assert "The same in every run that has it: epochs 3, batch 16." in runs
    assert ">Epochs<" not in runs


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


def test_the_page_has_what_results_md_leaves_out(report: Report) -> None:
    page = Page(report_html(report, ())).text
    sections = (scores_section, training_section, cost_section, checkpoint_section, storage_section, settings_section)
    titles = {table.title for section in sections for table in section(report).tables if table.title}
    assert {"Losses and times", "Runs", "Predictions by run", "Base models and adapters"} <= titles
    for title in some(titles):
        assert title in page
