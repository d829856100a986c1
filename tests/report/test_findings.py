"""Key findings: every sentence says its numbers, what may be said of them, and nothing more."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report import made_gathered as made
from tests.run.made_plans import made_plan

from touchline.core.finding import Severity
from touchline.core.levels import factor_words
from touchline.core.quantity import Quantity
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.build import build_report
from touchline.report.facts import pareto
from touchline.report.findings import FindingInputs, headline
from touchline.report.formatting import p_text, relative
from touchline.report.markdown import results_markdown
from touchline.report.report import Report
from touchline.results.report_inputs import Issue
from touchline.results.run_result import RunResult
from touchline.results.scored import analyses
from touchline.statistics.conclusions import Conclusion

pytestmark = pytest.mark.planning

CAUSAL = re.compile(r"\b(because|due to|thanks to|leads? to|causes?|improves?|minimal|negligible|significant)\b", re.I)
"""Words that no computed sentence uses: one seed shows no cause, and 10% is not minimal."""


def texts(report: Report, topic: str | None = None) -> list[str]:
    return [each.text for each in report.findings if topic is None or each.topic == topic]


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        ([85], [93], Conclusion.NOT_TESTABLE),
        ([70, 71, 72], [92, 93, 93], Conclusion.HIGHER),
        ([92, 93, 93], [70, 71, 72], Conclusion.LOWER),
        ([80, 86, 90], [84, 83, 92], Conclusion.NOT_ESTABLISHED),
    ],
)
def test_the_seeds_answer_for_the_setting(low: list[int], high: list[int], shown: Conclusion) -> None:
    """One seed answers nothing of the rank, whatever the items say; sentences stand in the golden reports."""
    report = build_report(made.sweep(low, high))
    assert report.headline[0].shown is shown
    assert [each.shown for each in report.findings if each.topic == made.RANK] == [shown]
    family = [each.shown for each in report.findings if each.topic == "Against the control"]
    assert set(family) == {Conclusion.HIGHER}


def test_gpus_that_a_log_tells_of_are_counted() -> None:
    """A rate that is of one GPU already is divided by none."""
    runs = [made.run("a", seconds=3580.0), made.run("b", rank="64", seconds=3580.0)]
    per_gpu = Quantity(value=500.0, unit="tokens/s/GPU", token_unit="real", aggregation="mean")
    runs[1] = replace(runs[1], tokens_per_second=per_gpu)
    report = build_report(made.gathered([made.told(each, gpus=4) for each in runs]))
    assert [each.device_hours.value for each in report.facts if isinstance(each.device_hours, Quantity)] == [4.0, 4.0]
    rates = [each.tokens_per_second_per_gpu for each in report.facts]
    assert [each.value for each in rates if isinstance(each, Quantity)] == [306.0, 500.0]


def test_answers_of_a_no_op_adapter_are_an_issue_and_no_finding() -> None:
    """Scores that are alike say nothing of wrong answers that differ, and so the sentence says nothing of answers."""
    noop = made.run("1B_noop", rank=None, evaluations=[made.record("1B_noop", "noop", made.rights(20))])
    runs = [*made.sweep([85], [93]).runs, replace(noop, control=ControlKind.NO_OP)]
    told = Issue(weight=Severity.ERROR, subject="1B_noop", title="the no-op adapter changes answers", text="3 of 100.")
    report = build_report(made.gathered(runs, issues=[told]))
    assert [each for each in report.issues if "no-op" in each.title or "answer" in each.text] == [told]
    assert "answer" not in " ".join(texts(report, "Other controls"))


def test_what_no_file_tells_is_not_said() -> None:
    """A run of unknown seed has none, and is no seed of a setting."""
    runs = [made.run("a", train=made.loss(0.2)), made.run("b", rank="64", train=made.loss(0.1))]
    runs = [replace(each, settings={k: v for k, v in each.settings.items() if k != "seed"}) for each in runs]
    report = build_report(made.gathered(runs))
    assert "| rank 4 | n/a (not reported) |" in results_markdown(report, (), "")
    assert "One training a setting: an effect of the rank on the loss" in texts(report, "Losses")[0]
    assert "seed" not in " ".join(each.text for each in report.findings)


def test_the_front_holds_what_nothing_beats_for_less() -> None:
    """Score and time decide; another base model is another front."""
    runs = [
        made.run("cheap", seconds=100.0),
        made.run("dear_and_worse", seconds=200.0),
        made.run("dear_and_better", seconds=300.0),
        made.run("other", "3B", seconds=900.0),
        made.run("unscored", seconds=1.0),
    ]
    scores = {"cheap": 0.8, "dear_and_worse": 0.7, "dear_and_better": 0.9, "other": 0.1}
    hours = {run.name: run.train_seconds for run in runs}
    assert pareto(runs, scores, hours) == {"cheap", "dear_and_better", "other"}


@pytest.mark.parametrize(
    ("value", "reference", "words"),
    [
        (0.00036, 0.00154, "lower by a factor of 4.3"),
        (0.00027, 0.00031, "12.9% lower"),
        (1354.0, 281.0, "higher by a factor of 4.8"),
        (1.0, 1.0, "equal within 0.05%"),
        (0.0, 1.0, "not comparable"),
        (math.nan, 1.0, "not comparable"),
    ],
)
def test_how_much_two_numbers_differ(value: float, reference: float, words: str) -> None:
    """Per cent up to a factor of two, then the factor."""
    assert relative(value, reference) == words


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.0, "p < 0.001"), (0.0049, "p = 0.0049"), (0.0491, "p = 0.049"), (0.0512, "p = 0.051"), (1, "p = 1.00")],
)
def test_p_values_are_never_zero_and_never_rounded_over_the_level(p: float, words: str) -> None:
    """0.049 and 0.051 are on two sides of 0.05."""
    assert p_text(p) == words


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_sentence_claims_a_cause(seed: int) -> None:
    """Whatever the numbers: no word of cause, no adjective for a number, and one seed establishes nothing."""
    rng = np.random.Generator(np.random.PCG64(seed))
    runs: list[RunResult] = [made.control("1B_base", rights=made.rights(int(rng.integers(0, 41)), 40))]
    for rank in ("4", "16", "64"):
        name = f"1B_rank{rank}"
        record = made.record(name, "epoch_2", [bool(right) for right in rng.random(40) < rng.random()])
        curve = made.points(*((step, float(rng.random())) for step in range(0, 50, 10)))
        run = made.run(
            name, rank=rank, evaluations=[record] if rng.random() < 0.8 else [], train=made.loss(float(rng.random()))
        )
        runs.append(replace(run, validation_losses=curve))
    report = build_report(made.gathered(runs))
    for statement in (*report.headline, *report.findings):
        assert not CAUSAL.search(statement.text), statement.text
        assert re.search(r"\d|not established|nothing", statement.text), statement.text
    assert all(
        each.shown not in (Conclusion.HIGHER, Conclusion.LOWER) for each in report.findings if each.topic == made.RANK
    )
    assert build_report(made.gathered(runs)) == report


def test_an_alpha_that_follows_the_rank_is_part_of_the_pair() -> None:
    """Twice the rank, or any other ratio, in settings or as a level: the sentence is about the pair."""
    for ratio, words in ((2.0, "alpha = 2 x rank"), (1.0, "alpha = 1 x rank"), (0.5, "alpha = 0.5 x rank")):
        for low, high in (([85], [93]), ([70, 71, 72], [92, 93, 93]), ([80, 86, 90], [84, 83, 92])):
            found = made.sweep(low, high)
            told = [made.told(run, lora_alpha=ratio * (64 if "rank64" in run.name else 4)) for run in found.runs]
            report = build_report(replace(found, runs=tuple(told)))
            everything = [each.text for each in (*report.headline, *report.findings)]
            assert not any("differ in alpha" in text or "alpha (" in text for text in everything)
            assert (
                f"rank 4 (with {words})" in texts(report, made.RANK)[0] or f"(with {words})" in report.headline[0].text
            )
            assert f"(with {words})" in report.headline[0].text
    found = made.sweep([85], [93])
    told = [made.told(run, lora_alpha=16.0 if "rank64" in run.name else 8.0) for run in found.runs]
    report = build_report(replace(found, runs=tuple(told)))
    assert "differ in alpha (16 against 8) as well" in texts(report, made.RANK)[-1]
    fixed = [made.told(run, lora_alpha=16.0) for run in found.runs]
    assert "alpha" not in " ".join(texts(build_report(replace(found, runs=tuple(fixed))), made.RANK))


def test_the_answer_comes_first_and_has_forty_words_at_most() -> None:
    """Over many designs, seeds, controls and questions."""
    rng = np.random.Generator(np.random.PCG64(4))
    plan = made_plan()
    questions = (
        "",
        "Does a higher rank help?",
        "Does fine-tuning beat the base model at all?",
        "Is a larger learning rate better, and what do epochs and the base model change?",
    )
    checked = 0
    for design, tied in made.DESIGNS:
        for seeds, control, question in itertools.product((1, 2, 3), (True, False), questions):
            found = made.factorial(rng, design, seeds, tied=tied, with_control=control)
            planned = replace(found, plan=replace(plan, question=question) if question else None)
            told = analyses(planned.runs, planned.factors)
            answer, *caveats = headline(FindingInputs(gathered=planned, analyses=told, facts=(), estimates=()))
            assert 3 < len(answer.text.split()) <= 40, answer.text
            assert answer.text.endswith((".", "...")), answer.text
            assert answer.text not in [each.text for each in caveats]
            asked = [e for e in told[0].effects if question and factor_words(e.factor) in question]
            if question.startswith("Does a higher") and made.RANK in design:
                assert answer.topic == made.RANK
            if question.startswith("Does fine-tuning") and control and "models" not in design:
                assert answer.topic == "Against the control"
            if question.startswith("Is a larger") and asked:
                assert answer.topic in {each.factor for each in asked}
            checked += 1
    assert checked == len(made.DESIGNS) * 24


def test_settings_that_vary_as_pairs_are_named_as_the_pair() -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    found = made.factorial(rng, {made.RANK: ("4", "64"), "train.learning_rate": ("1e-3", "1e-4")}, 3, tied=1)
    report = build_report(found)
    assert [effect.factor for effect in report.analyses[0].effects] == [made.RANK]
    assert re.search(r"ank 64 with learning rate 1e-4 .*rank 4 with learning rate 1e-3", report.headline[0].text)
    assert not any("confounded" in each.text or "changes together" in each.text for each in report.findings)


def test_the_seeds_means_stand_in_a_table_from_which_the_test_can_be_made_again() -> None:
    """The printed means, read back, give the printed t, degrees of freedom and p to their digits."""
    from scipy.stats import ttest_rel

    text = results_markdown(build_report(made.sweep([80, 86, 90], [84, 83, 92])), ())
    (row,) = [line for line in text.splitlines() if line.startswith("| rank 64 - rank 4 ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    second, first = ([float(mean.removesuffix("%")) for mean in cell.split(", ")] for cell in cells[3:5])
    assert (second, first) == ([84.0, 83.0, 92.0], [80.0, 86.0, 90.0])
    expected = ttest_rel(second, first)
    ends = expected.confidence_interval(0.95)
    assert cells[1:3] == ["paired t-test", "1, 2, 3"]
    assert cells[6] == f"{ends.low:+.1f} to {ends.high:+.1f}"
    assert cells[7:10] == [f"{expected.statistic:.4g}", "2", f"{expected.pvalue:.2f}"]
    assert cells[12] == "not established"


def test_seeds_that_agree_too_well_are_not_called_established_beside_a_small_p() -> None:
    """Where only the variation between items takes the claim away, the answer gives that p value."""
    rng = np.random.Generator(np.random.PCG64(3))
    found = 0
    for _ in range(60):
        report = build_report(made.factorial(rng, {made.RANK: ("4", "64")}, 3))
        (contrast,) = report.analyses[0].effects[0].contrasts
        wide = contrast.with_items
        if contrast.p_adjusted is None or wide is None or not contrast.p_adjusted < 0.05 <= wide.p_adjusted:
            continue
        found += 1
        assert (
            f"with the variation between items, 3 training seeds, {p_text(wide.p_adjusted)}" in report.headline[0].text
        )
        assert "The seeds alone would show it" in texts(report, made.RANK)[0]
    assert found > 0


def test_no_sentence_has_a_second_phrase_for_not_established() -> None:
    rng = np.random.Generator(np.random.PCG64(6))
    for design, tied in made.DESIGNS:
        for seeds in (1, 2, 3):
            text = results_markdown(build_report(made.factorial(rng, design, seeds, tied=tied)), ())
            assert not re.search(r"not testable|cannot be tested|not tested|no significant|no difference was", text)


def test_scores_that_are_no_numbers_establish_nothing() -> None:
    from tests.statistics.made_scores import analysed, scored

    for bad in (math.nan, math.inf, -math.inf):
        runs = [
            scored(f"r{rank}{seed}", [0.1 * seed, bad, 0.3, 0.2], seed=seed, rank=rank)
            for rank in ("4", "64")
            for seed in (1, 2, 3)
        ]
        with np.errstate(all="ignore"):
            (effect,) = analysed(runs, rank=("4", "64")).effects
        assert effect.contrasts[0].shown is Conclusion.NOT_ESTABLISHED


def test_what_changes_with_the_factor_in_evaluated_runs_alone_is_the_first_caveat() -> None:
    """A crossed design of which only the diagonal was evaluated: no pair by design, and the effect is of both."""
    rng = np.random.Generator(np.random.PCG64(7))
    crossed = made.factorial(rng, {made.RANK: ("4", "64"), "train.learning_rate": ("1e-4", "1e-3")}, 3)
    runs = [
        run if run.name.startswith(("run_0", "run_3")) or run.kind is RunKind.CONTROL else replace(run, evaluations=())
        for run in crossed.runs
    ]
    report = build_report(made.gathered(runs, factors=crossed.factors))
    told = "The rank changes together with the learning rate: this is the effect of both."
    assert told in [each.text for each in report.headline[1:3]]
    assert all(not effect.tied for effect in report.analyses[0].effects)
