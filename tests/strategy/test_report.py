"""The report of a strategy: looks that can be computed again, cut runs that enter nothing, cost, the bottom line."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from tests.report import made_gathered as made
from tests.strategy import made_strategy as ms

from touchline.core.quantity import Quantity
from touchline.core.table import Table, value_text
from touchline.core.units import Scale
from touchline.experiment.runs import Phase
from touchline.report.answer import MOST_WORDS, words
from touchline.report.build import build_report
from touchline.report.charts import charts
from touchline.report.compared import compare
from touchline.report.compared_settings import ExperimentSummary
from touchline.report.markdown import results_markdown
from touchline.report.page import cards, report_html
from touchline.report.report import Report
from touchline.report.tables.runs import runs_table
from touchline.results.run_result import RunResult
from touchline.statistics.conclusions import Conclusion, Verdict
from touchline.strategy.decisions import Choice, RunLoss, StopReason

pytestmark = pytest.mark.planning


def confirmed() -> Report:
    plan = ms.confirm_plan(ms.HIGH, ms.MIDDLE)
    return build_report(ms.gathered(plan, ms.two_contrasts(), {"64": 160}))


def explored(looks: int = 1) -> Report:
    return build_report(ms.gathered(ms.explore_plan(), ms.explored(looks=looks), {"64": 160}))


def table(report: Report, title: str) -> Table:
    section = report.strategy_section()
    return next(each for each in section.tables if each.title == title)


def rows(found: Table) -> list[dict[str, str]]:
    return [{c.label: value_text(value, c) for value, c in zip(row, found.columns, strict=True)} for row in found.rows]


def points(text: str) -> float:
    return float(text.removesuffix("%")) / 100


def sentences(report: Report, topic: str) -> list[str]:
    return [each.text for each in report.remarks if each.topic == topic]


def test_every_number_of_a_look_follows_from_the_table_of_seeds() -> None:
    """Difference, error, t and interval, as printed, from the means as printed and the bound beside them."""
    report = confirmed()
    seeds = rows(table(report, "Scores by seed"))
    found = rows(table(report, "Looks"))
    assert len(found) == 4
    for row in found:
        used = [e for e in seeds if e["contrast"] == row["contrast"] and int(e["from look"]) <= int(row["look"])]
        assert len(used) == int(row["seeds"])
        differences = [points(each["mean at the level"]) - points(each["mean against"]) for each in used]
        assert [points(each["difference (points)"]) for each in used] == pytest.approx(differences, abs=1e-6)
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        mean = statistics.fmean(differences)
        wide = 0.0 if row["wide error"] == "-" else points(row["wide error"])
        larger = max(error, wide)
        assert points(row["difference (points)"]) == pytest.approx(mean, abs=6e-5)
        assert points(row["error"]) == pytest.approx(error, abs=6e-6)
        assert float(row["t"]) == pytest.approx(mean / larger, rel=1e-3)
        low, high = (points(end) for end in row["repeated 95% interval"].split(" to "))
        assert (low, high) == pytest.approx(
            (mean - float(row["bound"]) * larger, mean + float(row["bound"]) * larger), abs=6e-5
        )
    assert [row["verdict"] for row in found] == ["undecided", "established", "undecided", "out of reach"]


def test_claims_name_look_seeds_and_repeated_interval() -> None:
    high, middle = sentences(confirmed(), "Contrasts at their looks")
    assert high == (
        "Established at look 2 of 3 (4 of 6 seeds): rank 64 scores 3.1 points above rank 4 (repeated 95% interval "
        "+0.5 to +5.7). With 4 seeds, failures in up to 53% of the runs can remain unseen."
    )
    assert middle.startswith(
        "Given up as out of reach at look 2 of 3 (4 of 6 seeds): rank 16 against rank 4, -0.3 points"
    )
    assert "scores" not in middle
    assert 'not "no difference"' in middle


def test_explore_that_chose_nothing_says_so() -> None:
    *before, choice = ms.explored(looks=0)
    names = [each.run for each in choice.choice.losses]
    nothing = replace(
        choice,
        choice=Choice(
            losses=(RunLoss(run=names[0], loss=0.6), RunLoss(run=names[1], loss=None)), chosen=(), contrasts=()
        ),
    )
    for confirm in (True, False):
        report = build_report(ms.gathered(ms.explore_plan(confirm=confirm), [*before, nothing, ms.stopped()]))
        told = " ".join([report.answer.text, *report.answer.details, *(each.text for each in report.remarks)])
        assert report.answer.text == "Explore chose no condition: nothing is tested."
        assert "has not chosen" not in told
        assert "Chosen by final validation loss" not in told
        assert not any(step.title == "Confirm what explore chose" for step in report.next_steps)


def test_the_bottom_line_answers_from_the_looks() -> None:
    report = confirmed()
    answer = report.answer
    assert answer.text == "Established: rank 64 scores higher than rank 4 (1 of 2 contrasts)."
    assert words(answer.text) <= MOST_WORDS
    assert answer.details[0] == (
        "Established: rank 64 above rank 4 by 3.1 points (+0.5 to +5.7, look 2). Others: 1 out of reach."
    )
    high, middle = [each for each in report.claims if each.topic == "strategy"]
    assert (high.verdict, middle.verdict) == ("established: higher, look 2 of 3", "out of reach, look 2 of 3")
    assert (high.shown, middle.shown) == (Conclusion.HIGHER, Conclusion.NOT_ESTABLISHED)
    assert (high.estimate.value, high.estimate.low) == pytest.approx((0.031, 0.0048), abs=2e-3)
    alone = ms.seen(ms.HIGH, ms.HIGH_SCORES, bound=6.5, futility=None, verdict=Verdict.NOT_ESTABLISHED)
    plan = ms.confirm_plan(ms.HIGH, looks=(4, 6))
    report = build_report(ms.gathered(plan, (ms.look(1, alone), ms.stopped())))
    assert report.answer.text == "Not established: the strategy ended after look 1 of 2."
    assert report.answer.details[0].startswith(
        "Not established at the last look (4 of 6 seeds): rank 64 against rank 4, +3.1 points"
    )


def test_before_the_first_look_nothing_is_claimed() -> None:
    """The next step says what the look needs, with the command of the executor."""
    report = build_report(ms.gathered(ms.confirm_plan(ms.HIGH), ()))
    assert report.answer.text == "No contrast is established yet: the first look needs 3 seeds per condition."
    step = report.next_steps[0]
    assert (step.title, step.command) == ("Take look 1 of 3", "touchline submit .")
    assert not any("Finish what is not finished" in each.title for each in report.next_steps)


def test_a_seed_that_diverged_is_named_and_counts_as_0() -> None:
    """In the sentence, and beside its mean of 0."""
    report = explored()
    (sentence,) = sentences(report, "Contrasts at their looks")
    name = ms.name_of("64", 13, Phase.CONFIRM)
    assert f"{name} diverged and counts as 0, by the planned rule." in sentence
    row = next(each for each in rows(table(report, "Scores by seed")) if each["seed"] == "13")
    assert (row["mean at the level"], row["diverged"]) == ("0%", f"{name}: counts as 0")
    # An interval of shares ends at 100 points in words; the table has the numbers as computed.
    assert "-100.0 to +100.0" in sentence


def test_effects_over_seeds_are_not_tested_where_stopping_is_optional() -> None:
    """Comparisons with the control stay for complete runs of confirm; explore is scored and compared with nothing."""
    report = explored()
    (analysis,) = report.analyses
    assert (analysis.effects, analysis.interactions) == ((), ())
    compared = {each.run for each in analysis.comparisons}
    assert compared == {run.name for run in report.runs if run.phase is Phase.CONFIRM and run.evaluations}
    assert analysis.family == len(compared)
    assert ms.name_of("64", 1, Phase.EXPLORE) in {score.run for score in analysis.scores}
    assert any("are not tested, because" in str(note) for note in analysis.notes)
    assert not any("outside the family" in str(note) for note in analysis.notes)


def test_cut_runs_are_listed_and_enter_nothing() -> None:
    gathered = ms.gathered(ms.explore_plan(), ms.explored(), {"64": 160})
    cut = {run.name for run in gathered.runs if run.cut_after_step is not None}
    assert cut == {ms.name_of("4", 1, Phase.EXPLORE), ms.name_of("16", 1, Phase.EXPLORE)}
    evaluated = tuple(
        replace(run, evaluations=(made.record(run.name, "epoch_0", made.rights(199, 200)),)) if run.name in cut else run
        for run in gathered.runs
    )
    report = build_report(replace(gathered, runs=evaluated))
    assert not cut & {score.run for score in report.analyses[0].scores}
    assert all("199" not in card.value and name not in card.label for card in cards(report) for name in cut)
    shown = runs_table(report)
    assert shown is not None
    by_run = {row["run"]: row for row in rows(shown)}
    first = by_run[ms.name_of("4", 1, Phase.EXPLORE)]
    assert (first["status"], first["phase"]) == ("cut after step 5", "explore")
    assert by_run[ms.name_of("64", 1, Phase.EXPLORE)]["phase"] == "explore, chosen"
    assert not any(name in each for name in cut for each in (report.answer.text, *report.answer.details))
    issues = {(issue.subject, issue.title) for issue in report.issues if issue.subject in cut}
    assert {title for _, title in issues} == {"cut by the strategy"}


def test_status_counts_cut_runs_apart() -> None:
    report = explored()
    text = results_markdown(report, ())
    assert "**Status:** ⚠ 9 of 11 runs complete (2 planned); 2 runs cut" in text
    assert cards(report)[0].label == "runs complete, 2 cut"
    assert not any("Finish what is not finished" in step.title for step in report.next_steps)


def test_the_losses_of_each_point_stand_beside_the_outcome() -> None:
    """A loss that is not finite says so; the reference and the choice are named."""
    found = {row["run"]: row for row in rows(table(explored(), "Explore"))}
    at = [list(row.values())[2:] for row in found.values()]
    assert at == [
        ["not finite", "-", "-", "cut after step 5"],
        ["0.9", "0.7", "0.6", "reference"],
        ["0.5", "0.45", "-", "cut after step 10"],
        ["0.4", "0.3", "0.25", "chosen by validation loss"],
    ]
    chosen = sentences(explored(), "Explore")[-1]
    assert chosen.startswith(f"Chosen by final validation loss, not by score: {ms.name_of('64', 1, Phase.EXPLORE)}")


def test_explore_alone_claims_no_score() -> None:
    decisions = tuple(each for each in ms.explored(looks=0))
    report = build_report(ms.gathered(ms.explore_plan(confirm=False), (*decisions, ms.stopped())))
    assert report.answer.text == "Explore chose by validation loss. No score is claimed."
    assert report.next_steps[0].title == "Confirm what explore chose"
    early = build_report(ms.gathered(ms.explore_plan(confirm=False), decisions[:2]))
    assert early.answer.details[0].startswith("Explore has not chosen yet (1 of 2 points decided, 1 run cut)")
    assert early.next_steps[0].title == "Train to point 2 of 2"


def test_cost_is_measured_and_predicted_without_stopping() -> None:
    """Explore to the end and 2 conditions x 6 seeds, with the controls."""
    report = explored()
    assert report.strategy is not None
    cost, hour, evaluation = report.strategy, 3600 / 3600, 600 / 3600
    runs = [run for run in report.runs if run.evaluations or run.steps_done]
    spent = sum(sum(a.seconds.value for a in run.attempt_list if isinstance(a.seconds, Quantity)) for run in runs)
    evaluated = sum(record.seconds for run in runs for record in run.evaluations)
    assert cost.spent.value == pytest.approx((spent + evaluated) / 3600)
    assert cost.without_stopping.value == pytest.approx((4 + 12) * (hour + evaluation) + evaluation)
    assert cost.without_stopping.low == pytest.approx((4 + 12) * (3000 + 500) / 3600 + 500 / 3600)
    assert report.device_hours_planned == cost.without_stopping
    text = " ".join(sentences(report, "Cost of the strategy"))
    share = cost.spent.value / cost.without_stopping.value
    assert f", {100 * share:.0f}% (" in text
    assert "without cuts and looks" in results_markdown(report, ())


def test_the_budget_names_what_more_would_cost() -> None:
    """Undecided contrasts are named; they are not called decided."""
    alone = ms.seen(ms.HIGH, ms.first(ms.HIGH_SCORES, 3), bound=16.3, futility=None, verdict=Verdict.UNDECIDED)
    plan = ms.confirm_plan(ms.HIGH, budget=5.0)
    decisions = (ms.look(1, alone), ms.stopped(StopReason.BUDGET, budget=5.0, more=2.5))
    report = build_report(ms.gathered(plan, decisions))
    step = report.next_steps[0]
    assert step.title == "Decide on a larger budget"
    assert "4 of 5 device-hours (CPU) spent, and the next runs would take 2.5 more" in step.why
    assert "Undecided: rank 64 against rank 4." in step.why
    assert "A larger `strategy.budget` in experiment.yaml continues" in step.why
    assert step.command == "touchline plan ."
    assert step.why.endswith("(plan it, then `touchline submit .`).")
    (sentence,) = sentences(report, "Contrasts at their looks")
    assert sentence.endswith("The budget stopped the strategy before the next look.")
    # The runs of the next look were not started.
    assert {run.seed for run in report.runs if run.phase is Phase.CONFIRM} == {11, 12, 13}


@pytest.mark.parametrize("made_of", [confirmed, explored])
def test_results_of_a_strategy_are_short_and_have_its_looks(made_of: Callable[[], Report]) -> None:
    text = results_markdown(made_of(), ())
    open_, folded = text.split("<details>")
    assert len(open_.splitlines()) <= 120
    assert len(folded.splitlines()) <= 120
    assert "### Looks" in folded


def test_the_report_as_json_has_decisions_and_cost() -> None:
    report = confirmed()
    read = json.loads(TypeAdapter(Report).dump_json(report))
    looks = [each["look"] for each in read["strategy"]["decisions"] if each["look"]]
    assert [look["seeds"] for look in looks] == [3, 4]
    assert looks[1]["contrasts"][0]["verdict"] == "established"
    assert read["strategy"]["without_stopping"]["value"] > 0
    assert TypeAdapter(Report).validate_python(read).strategy == report.strategy


def test_an_experiment_without_a_strategy_has_no_section() -> None:
    report = build_report(
        made.gathered([made.run("1B_rank4", evaluations=[made.record("1B_rank4", "epoch_1", made.rights(9, 10))])])
    )
    assert report.strategy_section() is None
    text = results_markdown(report, ())
    assert "## Strategy" not in text
    assert "phase" not in text.split("## Checkpoint")[0]
    assert "<h3>Strategy</h3>" not in report_html(report, ())


def summary(label: str, runs: Sequence[RunResult], left_out: tuple[str, ...] = ()) -> ExperimentSummary:
    settings = {r.name: {"train.lora.rank": r.levels[-1].value, "seeds": str(r.seed), "models": r.model} for r in runs}
    return ExperimentSummary(
        label=label, root=label, origin="planned", date="", runs=tuple(runs), settings=settings,
        left_out=left_out,
    )  # fmt: skip


def test_compare_names_the_cut_runs_of_a_strategy() -> None:
    own = [run for run in confirmed().runs if run.phase is not None]
    fixed = [replace(run, phase=None) for run in own]
    found = compare([summary("grid", fixed), summary("staged", own, ("x_rank4",))])
    assert sum(row.comparison is not None for row in found.runs) == len(own)
    assert "staged: cut by its strategy and not compared: x_rank4" in found.notes


@pytest.fixture
def drawn() -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")


def test_an_interval_of_shares_ends_where_differences_end() -> None:
    """Claims and table show the same part; the decision keeps the whole interval, and so do other scores."""
    whole = ms.seen(ms.HIGH, ms.first(ms.HIGH_SCORES, 3), bound=1000.0, futility=None, verdict=Verdict.UNDECIDED)
    assert whole.low < -1
    assert whole.high > 1
    report = build_report(ms.gathered(ms.confirm_plan(ms.HIGH), (ms.look(1, whole),)))
    (course,) = report.strategy.courses
    (look,) = course.looks
    assert look.found == whole
    assert look.interval(Scale(share=True)) == (-1, 1)
    assert look.interval(Scale(share=False)) == (whole.low, whole.high)
    (claim,) = sentences(report, "Contrasts at their looks")
    assert "(repeated 95% interval -100.0 to +100.0)" in claim
    (row,) = rows(table(report, "Looks"))
    assert [points(end) for end in row["repeated 95% interval"].split(" to ")] == [-1, 1]


@pytest.mark.usefixtures("drawn")
def test_curves_of_cut_runs_end_at_their_point() -> None:
    found = {chart.name: chart.spec["datasets"] for chart in charts(explored())}
    for name in ("validation_loss", "train_loss"):
        data = found[name]
        assert isinstance(data, dict)
        assert [row["step"] for row in data["cut"]] == [5, 10]


def test_no_command_changes_a_design_that_is_fixed() -> None:
    report = explored()
    commands = [*(step.command for step in report.next_steps), *(each.command for each in report.commands)]
    assert [command for command in commands if command is not None and "=" in command and " run " in command] == []
