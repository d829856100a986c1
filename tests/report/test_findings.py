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
from touchline.core.levels import Level, factor_words
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.build import build_report
from touchline.report.facts import pareto
from touchline.report.findings import FindingInputs, headline
from touchline.report.formatting import level_of, p_text, relative
from touchline.report.markdown import results_markdown
from touchline.report.report import Report
from touchline.results.report_inputs import Issue, ReportInputs
from touchline.results.run_result import RunResult
from touchline.results.scored import analyses
from touchline.statistics.conclusions import Conclusion

pytestmark = pytest.mark.planning

CAUSAL = re.compile(r"\b(because|due to|thanks to|leads? to|causes?|improves?|minimal|negligible|significant)\b", re.I)
"""Words that no computed sentence uses: one seed shows no cause, and 10% is not minimal."""


def texts(report: Report, topic: str | None = None) -> list[str]:
    return [each.text for each in report.findings if topic is None or each.topic == topic]


def sweep(low: list[int], high: list[int], *, base: int = 20, n: int = 100) -> ReportInputs:
    """Rank 4 and rank 64, a seed each number of right items; harder items are right in better runs alone."""
    runs = [made.control("1B_base", rights=made.rights(base, n))]
    for rank, rights in (("4", low), ("64", high)):
        for seed, k in enumerate(rights, 1):
            name = f"1B_rank{rank}_s{seed}"
            record = made.record(name, "epoch_2", made.rights(k, n))
            runs.append(made.run(name, rank=rank, seed=seed, evaluations=[record]))
    return made.gathered(runs)


def test_all_runs_above_their_control_make_one_sentence_with_the_ends() -> None:
    """Two checkpoints far above the base: the summary, the single runs, and the open question about the setting."""
    report = build_report(sweep([85], [93]))
    assert texts(report, "Against the control") == [
        "Both fine-tuned runs score higher than the control 1B_base on the same 100 items: from +65.0 points (+54.0 to "
        "+73.0; 1B_rank4_s1) to +73.0 points (+62.3 to +80.3; 1B_rank64_s1); each p < 0.001 after Holm over 2 "
        "comparisons.",
        "1B_rank4_s1 scores higher than its control 1B_base: exact match 85.0% (85 of 100; 76.7 to 90.7%), +65.0 "
        "points (+54.0 to +73.0); 65 items gained, 0 lost, p < 0.001 after Holm over 2 comparisons.",
        "1B_rank64_s1 scores higher than its control 1B_base: exact match 93.0% (93 of 100; 86.3 to 96.6%), +73.0 "
        "points (+62.3 to +80.3); 73 items gained, 0 lost, p < 0.001 after Holm over 2 comparisons.",
    ]
    assert [each.shown for each in report.findings[:3]] == [Conclusion.HIGHER] * 3


def test_one_seed_answers_nothing_about_the_rank() -> None:
    """Eight points between two checkpoints are not established for the setting, whatever the items say."""
    report = build_report(sweep([85], [93]))
    (sentence,) = texts(report, made.RANK)
    assert sentence.startswith("A difference between rank 64 and rank 4 is not established: +8.0 points (by the items")
    assert sentence.endswith("over 1 training seed. One seed: describes these checkpoints, not the setting.")
    assert report.headline[0].text == (
        "A difference between rank 64 and rank 4 is not established: +8.0 points with one training seed, which "
        "describes these checkpoints and not the setting."
    )
    assert report.headline[1].text.startswith("Both fine-tuned runs score higher than the control")


def test_seeds_that_agree_establish_an_effect_with_its_interval() -> None:
    """Three seeds a rank, far apart."""
    report = build_report(sweep([70, 71, 72], [92, 93, 93]))
    (sentence,) = texts(report, made.RANK)
    assert re.fullmatch(
        r"Rank 64 scores higher than rank 4: \+21\.7 points \(\+20\.2 to \+23\.1; paired t-test over 3 training seeds; "
        r"t = 65, 2 degrees of freedom, p < 0\.001; p < 0\.001 after Holm over 1 contrast\)\.",
        sentence,
    )
    assert report.headline[0].text == (
        "Rank 64 scores higher than rank 4: +21.7 points (+20.2 to +23.1; paired t-test, 3 training seeds, p < 0.001 "
        "after Holm)."
    )


def test_seeds_that_differ_say_what_the_design_could_have_shown() -> None:
    """Two ranks within the spread of their seeds."""
    report = build_report(sweep([80, 86, 90], [84, 83, 92]))
    (sentence,) = texts(report, made.RANK)
    assert sentence.startswith("A difference between rank 64 and rank 4 is not established: +1.0 points (-")
    assert re.search(r"3 seeds, spread as these are, would have shown \d+\.\d points at 80% power\.$", sentence)
    assert "paired t-test over 3 training seeds; t = 0.48, 2 degrees of freedom, p = 0.68; p = 0.68 after" in sentence


def test_a_difference_that_is_not_there_is_called_not_established() -> None:
    """A run that answers as its control does, but for two items each way."""
    base = [True] * 60 + [False] * 40
    run = [True] * 58 + [False] * 2 + [True] * 3 + [False] * 37
    name = "1B_rank4"
    runs = [
        made.control("1B_base", rights=base),
        made.run(name, evaluations=[made.record(name, "epoch_2", run)]),
    ]
    report = build_report(made.gathered(runs))
    (sentence,) = texts(report, "Against the control")
    assert sentence.startswith(
        "A difference between 1B_rank4 and its control 1B_base is not established: exact match 61.0% (61 of 100; "
    )
    assert "+1.0 points (-3.8 to +5.8); 3 items gained, 2 lost, p = 1.00. These items would have shown" in sentence
    assert report.headline[0].text == (
        "A difference between 1B_rank4 and its control 1B_base is not established: +1.0 points (-3.8 to +5.8; "
        "p = 1.00, 100 items)."
    )


def test_other_items_are_refused_and_said_to_be() -> None:
    """A run on another test split is not compared, in the findings and among the issues."""
    runs = [
        made.control("1B_base", rights=made.rights(20)),
        made.run("1B_rank4", evaluations=[made.record("1B_rank4", "epoch_2", made.rights(80))]),
        made.run("1B_rank64", rank="64", evaluations=[made.record("1B_rank64", "epoch_2", made.rights(80), items="b")]),
    ]
    report = build_report(made.gathered(runs))
    assert any(text.startswith("1B_rank64 is not compared with 1B_base: ") for text in texts(report, "Limits"))
    assert [issue.subject for issue in report.issues if issue.title == "not compared with 1B_base"] == ["1B_rank64"]
    assert len(report.analyses[0].comparisons) == 1


def test_the_famous_example_claims_nothing() -> None:
    """Losses and times of four runs of one seed: told pair by pair, with 10% as 10%, and no effect claimed."""
    report = build_report(made.seed_002())
    assert texts(report, "Losses") == [
        "Final training loss, rank 64 against rank 4: 0.00036 against 0.00154 for 1B (lower by a factor of 4.3); "
        "0.00027 against 0.00031 for 3B (12.9% lower). One seed a setting: an effect of the rank on the loss is not "
        "established.",
        "Final training loss, 3B against 1B: 0.00031 against 0.00154 for rank 4 (lower by a factor of 5.0); 0.00027 "
        "against 0.00036 for rank 64 (25.0% lower). One seed a setting: an effect of the base model on the loss is "
        "not established. They differ in global batch size (8 against 16) as well, which is confounded with it.",
        "Final validation loss, rank 64 against rank 4: 0.02336 against 0.02345 for 1B (0.4% lower); 0.0183 against "
        "0.01656 for 3B (10.5% higher). The direction differs between them. One seed a setting: an effect of the rank "
        "on the loss is not established.",
        "Final validation loss, 3B against 1B: 0.01656 against 0.02345 for rank 4 (29.4% lower); 0.0183 against "
        "0.02336 for rank 64 (21.7% lower). One seed a setting: an effect of the base model on the loss is not "
        "established. They differ in global batch size (8 against 16) as well, which is confounded with it.",
    ]
    assert texts(report, "Training efficiency") == [
        "Training took from 4:41 (1B_rank4) to 22:34 (3B_rank4).",
        "Training time, rank 64 against rank 4: 4:54 against 4:41 for 1B (4.6% higher); 15:46 against 22:34 for 3B "
        "(30.1% lower). The direction differs between them. One seed a setting: whether the rank changes the time is "
        "not established.",
        "Training time, 3B against 1B: 22:34 against 4:41 for rank 4 (higher by a factor of 4.8); 15:46 against 4:54 "
        "for rank 64 (higher by a factor of 3.2). One seed a setting: whether the base model changes the time is not "
        "established. They differ in global batch size (8 against 16) as well, which is confounded with it.",
    ]
    assert report.completed == 4
    assert report.headline[0].text == (
        "4 trainings are complete, and nothing has been evaluated: no claim about scores can be made."
    )


def test_half_of_the_runs_missing_is_the_first_caveat() -> None:
    """The answer comes first, and at once what is not there."""
    there = sweep([85], [93])
    absent = [
        made.run(f"3B_rank{rank}", "3B", rank=rank, seconds=None, steps=None, status=RunStatus.PREPARED)
        for rank in ("4", "64")
    ]
    absent = [replace(run, outcome=TrainingOutcome.NOT_STARTED, job_state=None, attempt_list=()) for run in absent]
    report = build_report(made.gathered([*there.runs, *absent, made.control("3B_base", "3B")]))
    assert report.headline[1].text == (
        "3 of 6 runs are complete; not complete: 3B_rank4, 3B_rank64 and 3B_base. The rest of this report is of "
        "what is there."
    )
    assert report.headline[2].text.startswith("Both fine-tuned runs score higher")
    assert len(report.headline) == 3


def test_a_no_op_adapter_that_answers_otherwise_spoils_every_number() -> None:
    """The check on the loading of adapters speaks for itself, and is in no family of comparisons."""
    quiet = made.run("1B_noop", rank=None, evaluations=[made.record("1B_noop", "noop", made.rights(20))])
    loud = made.run("1B_noop", rank=None, evaluations=[made.record("1B_noop", "noop", made.rights(30))])
    said = []
    for noop in (quiet, loud):
        report = build_report(made.gathered([*sweep([85], [93]).runs, replace(noop, control=ControlKind.NO_OP)]))
        said += texts(report, "Other controls")
        assert report.analyses[0].family == 2
    assert said[0] == ("The no-op adapter 1B_noop has the score of 1B_base on every item, as it must.")
    assert said[1].startswith("The no-op adapter 1B_noop adds nothing and yet does not score as the base does: +10.0 ")


def test_answers_of_a_no_op_adapter_are_an_issue_and_no_finding() -> None:
    """Scores that are alike say nothing of wrong answers that differ, and so the sentence says nothing of answers."""
    noop = made.run("1B_noop", rank=None, evaluations=[made.record("1B_noop", "noop", made.rights(20))])
    runs = [*sweep([85], [93]).runs, replace(noop, control=ControlKind.NO_OP)]
    told = Issue(weight=Severity.ERROR, subject="1B_noop", title="the no-op adapter changes answers", text="3 of 100.")
    report = build_report(made.gathered(runs, issues=[told]))
    assert [each for each in report.issues if "no-op" in each.title or "answer" in each.text] == [told]
    assert "answer" not in " ".join(texts(report, "Other controls"))


def test_shuffled_labels_gain_form_and_not_the_task() -> None:
    """They are told apart from what the experiment asks about."""
    shuffled = made.run("1B_shuffled", evaluations=[made.record("1B_shuffled", "epoch_2", made.rights(30))])
    report = build_report(made.gathered([*sweep([85], [93]).runs, replace(shuffled, control=ControlKind.SHUFFLED)]))
    (sentence,) = texts(report, "Other controls")
    assert sentence.startswith("Trained on shuffled answers, 1B_shuffled scores +10.0 points (")
    assert "1B_shuffled" not in " ".join(texts(report, "Against the control"))


def test_overfitting_is_told_with_its_numbers() -> None:
    """The lowest validation loss, where it was, and what became of it."""
    curve = made.points((0, 2.0), (500, 0.09), (900, 0.0812), (1500, 0.145))
    report = build_report(made.gathered([made.run("1B_rank4", validation_losses=curve)]))
    assert texts(report, "Losses") == [
        "1B_rank4: validation loss was lowest at step 900 (0.0812) and 78.6% higher at step 1,500 (0.145): a sign of "
        "overfitting."
    ]
    assert report.facts[0].notes == ("overfitting: validation loss 0.0812 at step 900, 78.6% higher at the end",)


def test_losses_that_are_not_numbers_stop_no_report() -> None:
    """NaN is told as an issue, and compared with nothing."""
    curve = made.points((1, 2.0), (2, math.nan), (3, math.nan))
    nan = made.run("1B_rank4", train=made.loss(math.nan), val=made.loss(math.inf), train_losses=curve)
    report = build_report(made.gathered([nan, made.run("1B_rank64", rank="64", train=made.loss(0.1))]))
    assert texts(report, "Losses") == []
    (issue,) = [each for each in report.issues if each.title == "losses that are not numbers"]
    assert issue.text.startswith("2 losses of the run are NaN or infinite, the first at step 2")


def test_what_no_file_tells_is_not_said() -> None:
    """A run of unknown seed has none, and is no seed of a setting."""
    runs = [made.run("a", train=made.loss(0.2)), made.run("b", rank="64", train=made.loss(0.1))]
    runs = [replace(each, settings={k: v for k, v in each.settings.items() if k != "seed"}) for each in runs]
    report = build_report(made.gathered(runs))
    assert "| rank 4 | n/a (not reported) |" in results_markdown(report, (), "")
    assert "One training a setting: an effect of the rank on the loss" in texts(report, "Losses")[0]
    assert "seed" not in " ".join(each.text for each in report.findings)


def test_gpus_that_a_log_tells_of_are_counted() -> None:
    """Time counts each; a rate that is of one GPU already is divided by none."""
    runs = [made.run("a", seconds=3580.0), made.run("b", rank="64", seconds=3580.0)]
    per_gpu = Quantity(value=500.0, unit="tokens/s/GPU", token_unit="real", aggregation="mean")
    runs[1] = replace(runs[1], tokens_per_second=per_gpu)
    report = build_report(made.gathered([made.told(each, gpus=4) for each in runs]))
    assert report.device == "GPU"
    assert [each.gpus for each in report.facts] == [4, 4]
    assert [each.device_hours.value for each in report.facts if isinstance(each.device_hours, Quantity)] == [4.0, 4.0]
    rates = [each.tokens_per_second_per_gpu for each in report.facts]
    assert [each.value for each in rates if isinstance(each, Quantity)] == [306.0, 500.0]


def test_a_sum_of_attempts_without_one_of_them_is_at_least_that() -> None:
    """An attempt of unknown length took some time."""
    first, last = made.attempt("70", JobState.FAILED, "killed", seconds=1.0), made.attempt("71", seconds=301.0)
    run = made.run("a", attempt_list=(replace(first, seconds=Missing(missing="no line tells")), last), attempts=2)
    report = build_report(made.gathered([run, made.run("b", rank="64")]))
    text = results_markdown(report, (), "")
    assert "**Compute:** at least 0.17 device-hours; predicted n/a" in text
    assert "| 2 attempts | at least 0.0836 |" in text
    assert "| 1 attempt | 0.0836 |" in text
    assert "At least: an attempt of unknown length is not counted." in text


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


def test_without_a_control_nothing_is_said_of_a_gain() -> None:
    """The best score with its interval, and what it does not tell."""
    runs = [run for run in sweep([85], [93]).runs if run.kind is not RunKind.CONTROL]
    report = build_report(made.gathered(runs))
    assert report.headline[1].text == (
        "The highest exact match is 93.0% (1B_rank64_s1; 86.3 to 96.6%). No run was compared with a control, so that "
        "the gain from training is unknown."
    )
    assert "Evaluate the base models" in [each.title for each in report.next_steps]


def test_a_further_task_stands_under_its_own_name() -> None:
    """Its comparisons are a family of their own."""
    runs = []
    for run in sweep([85], [93]).runs:
        record = made.record(run.name, run.evaluations[-1].checkpoint, made.rights(40), task="mine")
        runs.append(replace(run, other_evaluations=(record,)))
    report = build_report(made.gathered(runs))
    (sentence, *_) = texts(report, "mine, exact match: Against the control")
    assert sentence.startswith("For neither of the 2 fine-tuned runs is a difference from its control established")
    assert report.headline[1].text.startswith("Both fine-tuned runs score higher")


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


def test_a_control_alone_says_nothing_of_training() -> None:
    """Its score is no highest one of anything that was trained."""
    report = build_report(made.gathered([made.run("1B_rank4"), made.control("1B_base", rights=made.rights(14))]))
    assert report.headline[0].text.startswith(
        "Only controls were evaluated; the highest exact match is 14.0% (1B_base;"
    )


def test_what_changes_with_a_factor_is_named_beside_its_effect_on_the_score() -> None:
    """A context that differs: the effect is that of both, whether it is established or not."""
    found = sweep([85], [93])
    told = [made.told(run, max_seq_len=256 if "rank64" in run.name else 128) for run in found.runs]
    report = build_report(replace(found, runs=tuple(told)))
    assert texts(report, made.RANK)[-1] == (
        "Runs of another rank differ in context (256 against 128) as well: what the rank does to the score cannot be "
        "separated from that."
    )
    assert not [text for text in texts(build_report(found), made.RANK) if "differ in" in text]


def test_an_alpha_that_follows_the_rank_is_part_of_the_pair() -> None:
    """Twice the rank, or any other ratio, in settings or as a level: the sentence is about the pair."""
    for ratio, words in ((2.0, "alpha = 2 x rank"), (1.0, "alpha = 1 x rank"), (0.5, "alpha = 0.5 x rank")):
        for low, high in (([85], [93]), ([70, 71, 72], [92, 93, 93]), ([80, 86, 90], [84, 83, 92])):
            found = sweep(low, high)
            told = [made.told(run, lora_alpha=ratio * (64 if "rank64" in run.name else 4)) for run in found.runs]
            report = build_report(replace(found, runs=tuple(told)))
            everything = [each.text for each in (*report.headline, *report.findings)]
            assert not any("differ in alpha" in text or "alpha (" in text for text in everything)
            assert (
                f"rank 4 (with {words})" in texts(report, made.RANK)[0] or f"(with {words})" in report.headline[0].text
            )
            assert f"(with {words})" in report.headline[0].text
    found = sweep([85], [93])
    told = [made.told(run, lora_alpha=16.0 if "rank64" in run.name else 8.0) for run in found.runs]
    report = build_report(replace(found, runs=tuple(told)))
    assert "differ in alpha (16 against 8) as well" in texts(report, made.RANK)[-1]
    fixed = [made.told(run, lora_alpha=16.0) for run in found.runs]
    assert "alpha" not in " ".join(texts(build_report(replace(found, runs=tuple(fixed))), made.RANK))


def factorial(
    rng: np.random.Generator, design: dict[str, tuple[str, ...]], seeds: int, *, tied: int = 0, control: bool = True
) -> ReportInputs:
    """Runs of every combination of levels and seeds; the last `tied` factors follow the first level for level."""
    keys = list(design)
    crossed = keys[: len(keys) - tied]
    runs: list[RunResult] = [made.control("1B_base", rights=made.rights(20, 40))] if control else []
    for number, places in enumerate(itertools.product(*(range(len(design[key])) for key in crossed))):
        level_at = dict(zip(crossed, places, strict=True))
        levels = [Level(factor=key, value=design[key][level_at.get(key, places[0])]) for key in keys]
        chance = rng.random()
        for seed in range(1, seeds + 1):
            name = f"run_{number}_s{seed}"
            record = made.record(name, "epoch_2", [bool(right) for right in rng.random(40) < chance])
            models = [level.value for level in levels if level.factor == "models"]
            run = made.run(name, models[0] if models else "1B", rank=None, seed=seed, evaluations=[record])
            runs.append(replace(run, levels=(*levels, *(() if models else run.levels))))
    return made.gathered(runs)


DESIGNS: list[tuple[dict[str, tuple[str, ...]], int]] = [
    ({made.RANK: ("4", "64")}, 0),
    ({made.RANK: ("4", "16", "64")}, 0),
    ({made.RANK: ("4", "64"), "train.learning_rate": ("1e-4", "1e-3")}, 0),
    ({made.RANK: ("4", "64"), "train.learning_rate": ("1e-4", "1e-3")}, 1),
    (
        {
            made.RANK: ("4", "16", "64"),
            "train.learning_rate": ("1e-3", "5e-4", "1e-4"),
            "train.epochs": ("1", "2", "3"),
        },
        2,
    ),
    ({"models": ("1B", "3B"), made.RANK: ("4", "64")}, 0),
    ({"models": ("1B", "3B", "8B"), "train.learning_rate": ("1e-3", "5e-4", "1e-4")}, 1),
    ({"train.lora.target_modules": ('["q_proj", "k_proj"]', '["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]')}, 0),
    (
        {
            "train.lora.target_modules": ('["q_proj", "k_proj", "v_proj", "o_proj"]', '["up_proj", "down_proj", "q"]'),
            "data.prompt": (
                "Write the word with a capital letter: {input}",
                "Please be so kind as to say {input} again",
            ),
        },
        1,
    ),
    ({"data.prompt": ("one two three four five six seven eight nine ten " * 3, "a b c d e f g h i j k l " * 4)}, 0),
    ({"models": ("a base model with a name of many words", "another one with still more of them")}, 0),
    ({}, 0),
]


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
    for design, tied in DESIGNS:
        for seeds, control, question in itertools.product((1, 2, 3), (True, False), questions):
            found = factorial(rng, design, seeds, tied=tied, control=control)
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
    assert checked == len(DESIGNS) * 24


def test_settings_that_vary_as_pairs_are_named_as_the_pair() -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    found = factorial(rng, {made.RANK: ("4", "64"), "train.learning_rate": ("1e-3", "1e-4")}, 3, tied=1)
    report = build_report(found)
    assert [effect.factor for effect in report.analyses[0].effects] == [made.RANK]
    assert re.search(r"ank 64 with learning rate 1e-4 .*rank 4 with learning rate 1e-3", report.headline[0].text)
    assert not any("confounded" in each.text or "changes together" in each.text for each in report.findings)


def test_an_effect_that_differs_between_base_models_is_the_first_caveat() -> None:
    """Rank 64 gains 30 points with one model and loses 30 with the other."""
    runs: list[RunResult] = []
    shares = {("1B", "4"): 50, ("1B", "64"): 80, ("3B", "4"): 80, ("3B", "64"): 50}
    for (model, rank), share in shares.items():
        for seed in (1, 2, 3):
            name = f"{model}_rank{rank}_s{seed}"
            record = made.record(name, "epoch_2", made.rights(share + seed % 2))
            runs.append(made.run(name, model, rank=rank, seed=seed, evaluations=[record]))
    # One run a point better, so that the seeds' effects spread.
    better = made.record(runs[0].name, "epoch_2", made.rights(53))
    runs[0] = replace(runs[0], evaluations=(better,))
    report = build_report(made.gathered(runs))
    assert report.headline[0].text.startswith("A difference between rank 64 and rank 4 is not established: ")
    assert re.match(
        r"The effect of the rank differs with the base model: rank 64 against rank 4 gives -30\.0 points with 3B and "
        r"\+29\.\d points with 1B, a difference of -59\.\d points \(.*paired t-test over 3 training seeds; t = "
        r".*1 interaction",
        report.headline[1].text,
    )
    assert report.headline[1] in report.findings


def test_the_seeds_means_stand_in_a_table_from_which_the_test_can_be_made_again() -> None:
    """The printed means, read back, give the printed t, degrees of freedom and p to their digits."""
    from scipy.stats import ttest_rel

    text = results_markdown(build_report(sweep([80, 86, 90], [84, 83, 92])), ())
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
        report = build_report(factorial(rng, {made.RANK: ("4", "64")}, 3))
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
    for design, tied in DESIGNS:
        for seeds in (1, 2, 3):
            text = results_markdown(build_report(factorial(rng, design, seeds, tied=tied)), ())
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


def test_losses_of_ranks_with_an_alpha_that_follows_are_those_of_the_pair() -> None:
    """Said once, and not as a confounder; a batch size that differs stays one."""
    found = made.seed_002()
    alphas = {"4": 8.0, "64": 128.0}
    told = [made.told(run, lora_alpha=alphas[level_of(run, made.RANK) or "4"]) for run in found.runs]
    losses = texts(build_report(replace(found, runs=tuple(told))), "Losses")
    about_rank = [text for text in losses if "rank 64 against rank 4" in text]
    assert about_rank
    assert all(text.endswith("Alpha is 2 x rank in each of them.") for text in about_rank)
    assert not any("differ in alpha" in text for text in losses)
    assert any("They differ in global batch size (8 against 16) as well" in text for text in losses)


def test_what_changes_with_the_factor_in_evaluated_runs_alone_is_the_first_caveat() -> None:
    """A crossed design of which only the diagonal was evaluated: no pair by design, and the effect is of both."""
    rng = np.random.Generator(np.random.PCG64(7))
    crossed = factorial(rng, {made.RANK: ("4", "64"), "train.learning_rate": ("1e-4", "1e-3")}, 3)
    runs = [
        run if run.name.startswith(("run_0", "run_3")) or run.kind is RunKind.CONTROL else replace(run, evaluations=())
        for run in crossed.runs
    ]
    report = build_report(made.gathered(runs, factors=crossed.factors))
    told = "The rank changes together with the learning rate: this is the effect of both."
    assert told in [each.text for each in report.headline[1:3]]
    assert all(not effect.tied for effect in report.analyses[0].effects)
