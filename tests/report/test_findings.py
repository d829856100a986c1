"""The answer, the claims and the remarks: each number is that of the analysis, and no claim outruns its data."""

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
from touchline.core.quantity import Missing, Quantity
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.answer import MOST_WORDS, answer, words
from touchline.report.build import build_report
from touchline.report.claims import claims as report_claims
from touchline.report.facts import p_text, relative
from touchline.report.markdown import results_markdown
from touchline.report.report import Claim, Report
from touchline.results.report_inputs import Issue
from touchline.results.run_result import RunResult
from touchline.results.scored import analyses
from touchline.statistics.conclusions import Conclusion
from touchline.statistics.items import holm

pytestmark = pytest.mark.planning

CAUSAL = re.compile(r"\b(because|due to|thanks to|leads? to|causes?|improves?|minimal|negligible|significant)\b", re.I)
"""Words that no computed sentence uses: one seed shows no cause, and 10% is not minimal."""
ESTABLISHED = (Conclusion.HIGHER, Conclusion.LOWER)


def claims(report: Report, topic: str) -> list[Claim]:
    return [each for each in report.claims if each.topic == topic]


def told(report: Report) -> list[str]:
    """Every computed sentence, and both sides of each claim."""
    texts = [each.text for each in (*report.remarks, *report.claims)]
    return [report.answer.text, *report.answer.details, *texts]


@pytest.mark.parametrize(
    ("low", "high", "shown", "text"),
    [
        ([85], [93], Conclusion.NOT_TESTABLE, "Not established. One seed cannot show an effect of the rank."),
        ([70, 71, 72], [92, 93, 93], Conclusion.HIGHER, "Established: rank 64 scores higher than rank 4."),
        ([92, 93, 93], [70, 71, 72], Conclusion.LOWER, "Established: rank 64 scores lower than rank 4."),
        ([80, 86, 90], [84, 83, 92], Conclusion.NOT_ESTABLISHED, "Not established. 3 seeds do not show an effect of "
         "the rank."),
        ([100], [100], Conclusion.NOT_TESTABLE, "All fine-tuned runs score 100%: this test cannot separate them."),
        ([100] * 3, [100] * 3, Conclusion.NOT_ESTABLISHED, "All fine-tuned runs score 100%: this test cannot separate "
         "them."),
        ([96], [98], Conclusion.NOT_TESTABLE, "All fine-tuned runs score 96% or more: this test can hardly separate "
         "them."),
        ([2], [3], Conclusion.LOWER, "Established: both fine-tuned runs score lower than the untrained model."),
    ],
)  # fmt: skip
def test_the_seeds_answer_for_the_setting(low: list[int], high: list[int], shown: Conclusion, text: str) -> None:
    """One seed answers nothing of the rank. Ends of the scale, and runs below their control, come first."""
    report = build_report(made.sweep(low, high, base=40))
    assert (report.answer.text, report.answer.shown) == (text, shown)
    (claim,) = claims(report, made.RANK)
    if low[0] != 2:
        assert claim.shown is shown
    value = sum(high) / len(high) - sum(low) / len(low)
    assert isinstance(claim.estimate, Quantity)
    assert claim.estimate.value == pytest.approx(value / 100)
    assert claim.verdict == {
        Conclusion.HIGHER: "established: higher",
        Conclusion.LOWER: "established: lower",
    }.get(claim.shown, "not established" if value else "tie, not established")
    assert bool(claim.needed) is (claim.shown not in ESTABLISHED)
    if "separate" in text:
        assert claim.needed == "a harder test"
        assert not any("seeds" in step.title for step in report.next_steps)
    elif len(low) == 1:
        assert claim.needed == "3 or more seeds"
        assert (claim.p, claim.estimate.low) == (Missing(missing="one seed"), None)


def test_a_spread_of_zero_proves_nothing() -> None:
    """Seeds that agree have no t-test: the items decide, and equal scores are no proof of equality."""
    report = build_report(made.sweep([70] * 3, [72] * 3))
    (claim,) = claims(report, made.RANK)
    wide = report.analyses[0].effects[0].contrasts[0].with_items
    assert wide is not None
    assert claim.shown is Conclusion.NOT_ESTABLISHED
    assert isinstance(claim.estimate, Quantity)
    assert isinstance(claim.p, Quantity)
    assert (claim.p.value, claim.estimate.low, claim.estimate.high) == (wide.p_adjusted, wide.low, wide.high)
    (claim,) = claims(build_report(made.sweep([100] * 3, [100] * 3)), made.RANK)
    assert isinstance(claim.p, Quantity)
    assert isinstance(claim.estimate, Quantity)
    assert (claim.p.value, claim.verdict) == (1.0, "tie, not established")
    assert (claim.estimate.low or 0.0) < -0.01 < 0.01 < (claim.estimate.high or 0.0)


def test_the_smallest_detectable_difference_is_next_to_not_established() -> None:
    """With seeds that were tested, and with items."""
    report = build_report(made.sweep([80, 86, 90], [84, 83, 92]))
    (claim,) = claims(report, made.RANK)
    (contrast,) = report.analyses[0].effects[0].contrasts
    assert isinstance(contrast.smallest, Quantity)
    assert claim.needed.endswith(f"a difference of {100 * contrast.smallest.value:.1f} points")
    report = build_report(made.sweep([21], [22]))
    (first, _) = report.analyses[0].comparisons
    assert isinstance(first.smallest, Quantity)
    assert claims(report, "control")[0].needed.endswith(f"a difference of {100 * first.smallest.value:.1f} points")


def test_contrasts_are_drawn_with_the_interval_of_their_claims() -> None:
    """Where one is claimed or measured: the plot has the ends that the sentence has."""
    pytest.importorskip("altair")
    from touchline.report.charts.parts import number
    from touchline.report.charts.scores import _contrast_row

    rng = np.random.Generator(np.random.PCG64(11))
    compared = 0
    for (design, tied), seeds in itertools.product(made.DESIGNS, (1, 2, 3)):
        report = build_report(made.factorial(rng, design, seeds, tied=tied))
        contrasts = [each for effect in report.analyses[0].effects for each in effect.contrasts]
        own = [each for each in report.claims if each.topic != "control"]
        for claim, contrast in zip(own[: len(contrasts)], contrasts, strict=True):
            if contrast.with_items is None or contrast.with_items.error <= 0:
                continue
            drawn = _contrast_row(contrast, share=True)
            assert drawn is not None
            assert isinstance(claim.estimate, Quantity)
            ends = (claim.estimate.low, claim.estimate.high)
            assert (drawn["low"], drawn["high"]) == tuple(number(100 * end) for end in ends if end is not None)
            compared += 1
    assert compared > 10


def test_claims_are_the_numbers_of_the_analyses() -> None:
    """Over many designs and seeds: value, ends and p of each, with the test that decides; several runs need all."""
    rng = np.random.Generator(np.random.PCG64(11))
    for (design, tied), seeds in itertools.product(made.DESIGNS, (1, 2, 3)):
        report = build_report(made.factorial(rng, design, seeds, tied=tied))
        (analysis,) = report.analyses
        contrasts = [each for effect in analysis.effects for each in effect.contrasts]
        own = [each for each in report.claims if each.topic != "control"]
        for claim, contrast in zip(own[: len(contrasts)], contrasts, strict=True):
            assert (claim.topic, claim.shown) == (contrast.factor, contrast.shown)
            assert isinstance(claim.estimate, Quantity)
            assert claim.estimate.value == contrast.value
            wide = contrast.with_items
            if wide is None or wide.error <= 0:
                assert isinstance(claim.p, Missing)
                continue
            by_seeds = contrast.p_adjusted
            decides = wide if by_seeds is None or by_seeds < 0.05 <= wide.p_adjusted else contrast
            assert isinstance(claim.p, Quantity)
            assert decides.low is not None
            assert decides.high is not None
            assert (claim.estimate.low, claim.estimate.high) == (max(-1, decides.low), min(1, decides.high))
            assert claim.p.value == decides.p_adjusted
            assert (claim.p.value < 0.05) is (claim.shown in ESTABLISHED)
        compared = {each.run: each for each in analysis.comparisons}
        controls = claims(report, "control")
        assert sorted(run for claim in controls for run in claim.runs) == sorted(compared)
        for claim in controls:
            found = [compared[run] for run in claim.runs]
            assert isinstance(claim.p, Quantity)
            assert claim.p.value == max(each.difference.p_adjusted for each in found)
            assert (claim.shown in ESTABLISHED) is (
                len({each.shown for each in found} & set(ESTABLISHED)) == 1
                and all(each.shown in ESTABLISHED for each in found)
            )


def test_the_claims_follow_from_the_table_of_conditions() -> None:
    """The printed means of the seeds give the difference, the interval and the p value of the claim next to them."""
    from scipy.stats import binomtest, ttest_rel

    text = results_markdown(build_report(made.sweep([80, 86, 90], [84, 83, 92])), ())
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        rows.setdefault(*((cells[0], cells[1:]) if (cells := cells_of(line)) else ("", [])))
    place = rows["condition"].index("by seed (1, 2, 3)")
    first, second = ([float(mean) for mean in rows[name][place].split(", ")] for name in ("rank 4", "rank 64"))
    assert (first, second) == ([80.0, 86.0, 90.0], [84.0, 83.0, 92.0])
    expected = ttest_rel(second, first)
    ends = expected.confidence_interval(0.95)
    assert rows["rank 64 against rank 4"][:4] == [
        "+1.0 points",
        f"({ends.low:+.1f} to {ends.high:+.1f})",
        f"{expected.pvalue:.2f}",
        "not established",
    ]
    text = results_markdown(build_report(made.sweep([25], [30])), ())
    rows = {}
    for line in text.splitlines():
        rows.setdefault(*((cells[0].strip("`"), cells[1:]) if (cells := cells_of(line)) else ("", [])))
    changed = [tuple(map(int, rows[name][3].split(" / "))) for name in ("1B_rank4_s1", "1B_rank64_s1")]
    expected_p = holm([binomtest(gained, gained + lost).pvalue for gained, lost in changed])
    shown = [rows[f"{name} against 1B_base"][2] for name in ("1B_rank4_s1", "1B_rank64_s1")]
    assert shown == [p_text(p).split()[-1] for p in expected_p]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []


def test_gpus_that_a_log_tells_of_are_counted() -> None:
    """A rate that is of one GPU already is divided by none."""
    runs = [made.run("a", seconds=3580.0), made.run("b", rank="64", seconds=3580.0)]
    per_gpu = Quantity(value=500.0, unit="tokens/s/GPU", token_unit="real", aggregation="mean")
    runs[1] = replace(runs[1], tokens_per_second=per_gpu)
    report = build_report(made.gathered([made.told(each, gpus=4) for each in runs]))
    assert [each.device_hours.value for each in report.facts if isinstance(each.device_hours, Quantity)] == [4.0, 4.0]
    rates = [each.tokens_per_second_per_gpu for each in report.facts]
    assert [each.value for each in rates if isinstance(each, Quantity)] == [306.0, 500.0]


def test_answers_of_a_no_op_adapter_are_an_issue_and_no_remark() -> None:
    """Scores that are alike say nothing of wrong answers that differ, and so the sentence says nothing of answers."""
    noop = made.run("1B_noop", rank=None, evaluations=[made.record("1B_noop", "noop", made.rights(20))])
    runs = [*made.sweep([85], [93]).runs, replace(noop, control=ControlKind.NO_OP)]
    changed = Issue(weight=Severity.ERROR, subject="1B_noop", title="the no-op adapter changes answers", text="3.")
    report = build_report(made.gathered(runs, issues=[changed]))
    assert [each for each in report.issues if "no-op" in each.title or "answer" in each.text] == [changed]
    (remark,) = [each.text for each in report.remarks if each.topic == "Other controls"]
    assert "answer" not in remark


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
    for text in told(report):
        assert not CAUSAL.search(text), text
    assert all(each.shown not in ESTABLISHED for each in claims(report, made.RANK))
    assert build_report(made.gathered(runs)) == report


def test_an_alpha_that_follows_the_rank_is_part_of_the_pair() -> None:
    """Twice the rank, or any other ratio, in settings or as a level: the claim is about the pair."""
    for ratio, tie in ((2.0, "alpha = 2 x rank"), (1.0, "alpha = 1 x rank"), (0.5, "alpha = 0.5 x rank")):
        for low, high in (([85], [93]), ([70, 71, 72], [92, 93, 93]), ([80, 86, 90], [84, 83, 92])):
            found = made.sweep(low, high)
            runs = [made.told(run, lora_alpha=ratio * (64 if "rank64" in run.name else 4)) for run in found.runs]
            report = build_report(replace(found, runs=tuple(runs)))
            assert not any("differ in" in text for text in told(report))
            assert claims(report, made.RANK)[0].text.endswith(f"rank 4 (with {tie})")
            assert f"(with {tie})" in report.answer.details[0]
    found = made.sweep([85], [93])
    runs = [made.told(run, lora_alpha=16.0 if "rank64" in run.name else 8.0) for run in found.runs]
    report = build_report(replace(found, runs=tuple(runs)))
    assert "differ in alpha (16 against 8) as well" in report.remarks[0].text
    fixed = [made.told(run, lora_alpha=16.0) for run in found.runs]
    assert "alpha" not in " ".join(told(build_report(replace(found, runs=tuple(fixed)))))


def test_the_answer_comes_first_and_has_fifteen_words_at_most() -> None:
    """Over many designs, seeds, controls and questions."""
    rng = np.random.Generator(np.random.PCG64(4))
    plan = made_plan()
    questions = (
        "",
        "Does a higher rank help?",
        "Does fine-tuning beat the base model at all?",
        "Is a larger learning rate better, and what do epochs and the base model change?",
    )
    for (design, tied), seeds, control, question in itertools.product(
        made.DESIGNS, (1, 2, 3), (True, False), questions
    ):
        found = made.factorial(rng, design, seeds, tied=tied, with_control=control)
        planned = replace(found, plan=replace(plan, question=question) if question else None)
        analysed = analyses(planned.runs, planned.factors)
        first = answer(planned, analysed, report_claims(planned, analysed))
        assert 1 < words(first.text) <= MOST_WORDS, first.text
        assert first.text.endswith((".", "...")), first.text
        assert first.text not in first.details
        assert 1 <= len(first.details) <= 4
        asked = [e for e in analysed[0].effects if question and factor_words(e.factor) in question]
        # Runs that are all below their control are the answer to any question.
        if question.startswith("Does a higher") and made.RANK in design and "lower than the" not in first.text:
            assert first.topic == made.RANK
        if question.startswith("Does fine-tuning") and control and "models" not in design:
            assert first.topic == "control"
        if question.startswith("Is a larger") and asked and "lower than the" not in first.text:
            assert first.topic in {each.factor for each in asked}


def test_settings_that_vary_as_pairs_are_named_as_the_pair() -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    found = made.factorial(rng, {made.RANK: ("4", "64"), "train.learning_rate": ("1e-3", "1e-4")}, 3, tied=1)
    report = build_report(found)
    (claim,) = [each for each in report.claims if each.topic != "control"]
    assert claim.text == "rank 64 with learning rate 1e-4 against rank 4 with learning rate 1e-3"
    assert not any("changes together" in text or "as well" in text for text in told(report))


def test_every_run_with_the_highest_score_is_named() -> None:
    """A tie is named as a tie."""
    runs = [run for run in made.sweep([85], [85]).runs if run.kind is RunKind.FINE_TUNED]
    report = build_report(made.gathered(runs))
    assert report.answer.details[0] == "Rank 64 against rank 4: a tie."
    assert report.answer.details[-1].endswith("1B_rank4_s1 and 1B_rank64_s1, a tie of 2 runs.")
    assert claims(report, made.RANK)[0].verdict == "tie, not established"


def test_no_sentence_has_a_second_phrase_for_not_established() -> None:
    rng = np.random.Generator(np.random.PCG64(6))
    for design, tied in made.DESIGNS:
        for seeds in (1, 2, 3):
            text = results_markdown(build_report(made.factorial(rng, design, seeds, tied=tied)), ())
            assert not re.search(r"not testable|cannot be tested|no significant|no difference was", text)


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
    assert "The rank changes together with the learning rate: this is the effect of both." in report.answer.details
    assert all(not effect.tied for effect in report.analyses[0].effects)
