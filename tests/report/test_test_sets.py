"""Several test sets with names: claims on the first, the others as one family, and the matrix."""

from dataclasses import replace

import pytest
from scipy import stats
from tests.report.made_gathered import gathered
from tests.report.made_sets import FILES, SETS, TRAIN, crossed

from touchline.core.quantity import Missing, Quantity
from touchline.core.table import section_markdown, table_markdown
from touchline.experiment.runs import ControlKind
from touchline.report.build import build_report
from touchline.report.claims import claims_section
from touchline.report.markdown import results_markdown
from touchline.report.report import Report
from touchline.report.tables.scores import scores_section
from touchline.results.frame import Results
from touchline.results.run_result import NOT_EVALUATED, RunResult
from touchline.results.scored import analyses, compared
from touchline.results.set_matrix import matrix_table, set_matrix, set_tables
from touchline.statistics.conclusions import Analysis
from touchline.statistics.items import holm

pytestmark = pytest.mark.planning

FACTORS = {TRAIN: FILES}
RANKED = {TRAIN: FILES, "train.lora.rank": ("4", "16")}


def report_of(results: list[RunResult]) -> Report:
    return build_report(gathered(results, factors=FACTORS))


def unnamed(results: list[RunResult]) -> list[RunResult]:
    """The same results of an experiment whose one test set has no name."""
    return compared(
        [
            replace(
                result,
                evaluations=tuple(replace(each, test_set=None) for each in result.evaluations),
                other_evaluations=(),
                set_scores={},
            )
            for result in results
        ]
    )


@pytest.mark.parametrize("ranks", [("4",), ("4", "16")])
@pytest.mark.parametrize("seed", range(3))
def test_the_claims_are_those_of_the_first_set_alone(seed: int, ranks: tuple[str, ...]) -> None:
    factors = FACTORS if len(ranks) == 1 else RANKED
    results = crossed(seed, ranks=ranks)
    first, *_ = analyses(results, factors)
    (alone,) = analyses(unnamed(results), factors)
    assert (first.task, first.test_set, first.family_sets) == ("capitalization on 5L", "5L", ())
    assert replace(first, task=alone.task, test_set=None) == alone
    for result, single in zip(results, unnamed(results), strict=True):
        assert (result.score, result.difference) == (single.score, single.difference)


@pytest.mark.parametrize(("sets", "contrasts"), [(("5L", "9L"), 2), (("5L", "9L", "13L"), 4)])
def test_all_other_sets_are_one_family(sets: tuple[str, ...], contrasts: int) -> None:
    first, *further = analyses(crossed(sets=sets), FACTORS)
    assert (first.effects_family, first.family) == (2, 9)
    assert [each.test_set for each in further] == list(sets[1:])
    assert {each.family_sets for each in further} == {tuple(sets[1:])}
    assert {(each.effects_family, each.family) for each in further} == {(contrasts, 9 * len(further))}
    every = [each for analysis in further for effect in analysis.effects for each in effect.contrasts]
    assert [each.p_adjusted for each in every] == pytest.approx(holm([each.p_value or 1.0 for each in every]))


def test_further_tasks_stay_families_of_their_own() -> None:
    results = crossed()
    with_task = [
        replace(
            each,
            other_evaluations=(
                *each.other_evaluations,
                *(replace(one, task="number", test_set=None) for one in each.evaluations),
            ),
        )
        for each in results
    ]
    found = analyses(with_task, FACTORS)
    assert [(each.task, len(each.family_sets)) for each in found] == [
        ("capitalization on 5L", 0),
        ("capitalization on 9L", 2),
        ("capitalization on 13L", 2),
        ("number", 0),
    ]
    assert found[:3] == analyses(results, FACTORS)


@pytest.mark.parametrize("seed", range(4))
def test_a_cell_is_the_mean_over_seeds_with_students_interval(seed: int) -> None:
    results = crossed(seed)
    matrix = set_matrix(results)
    assert matrix is not None
    assert (matrix.factor, matrix.test_sets, matrix.items) == (TRAIN, tuple(SETS), SETS)
    assert [row.training_set for row in matrix.rows] == [*FILES, "none (base model)"]
    by_name = {result.name: result for result in results}
    for row in matrix.rows[:3]:
        for name, cell in row.scores.items():
            own = [by_name[run].set_scores[name] for run in row.runs]
            values = [each.value for each in own if isinstance(each, Quantity)]
            assert isinstance(cell, Quantity)
            assert len(values) == 3
            if len(set(values)) == 1:
                assert (cell.value, cell.low) == (values[0], None)
                continue
            low, high = stats.t.interval(0.95, 2, sum(values) / 3, stats.sem(values))
            assert (cell.value, cell.low, cell.high) == pytest.approx((sum(values) / 3, low, high))


@pytest.mark.parametrize("place", [0, -1])
def test_the_items_of_a_set_are_those_that_every_run_answered(place: int) -> None:
    """Whichever run was asked fewer, as with `evaluate.samples` as a factor."""
    results = crossed()
    (own,) = results[place].evaluations
    results[place] = replace(results[place], evaluations=(replace(own, samples=own.samples[:11]),))
    matrix = set_matrix(results)
    assert matrix is not None
    assert matrix.items == SETS | {"5L": 11}


def test_a_single_seed_and_an_untrained_control_have_the_interval_over_items() -> None:
    matrix = set_matrix(crossed(seeds=(1,)))
    assert matrix is not None
    for row in matrix.rows:
        cell = row.scores["9L"]
        assert isinstance(cell, Quantity)
        assert (cell.method or "").startswith("one seed, interval over items: Wilson")
    table = matrix_table(matrix)
    assert table is not None
    assert "One seed: each cell describes one checkpoint" in table.notes[0]


def test_conditions_of_other_factors_are_rows_of_their_own() -> None:
    matrix = set_matrix(crossed(ranks=("4", "16")))
    assert matrix is not None
    rows = [(row.training_set, [level.value for level in row.condition], len(row.runs)) for row in matrix.rows]
    assert rows == [(file, [rank], 3) for file in FILES for rank in ("4", "16")] + [("none (base model)", [], 1)]
    assert "| train.lora.rank 16 |" in "".join(map(table_markdown, set_tables([], matrix)[-1:]))


def test_seeds_that_agree_have_no_interval_and_missing_ones_are_named() -> None:
    results = crossed()
    first = results[0]
    alike = [replace(each, set_scores=first.set_scores) if each.name.startswith("5L") else each for each in results]
    lacking = [
        replace(each, set_scores=each.set_scores | {"13L": NOT_EVALUATED}) if each.seed == 2 else each for each in alike
    ]
    matrix = set_matrix(lacking)
    assert matrix is not None
    cell, other = matrix.rows[0].scores["5L"], matrix.rows[1].scores["13L"]
    assert isinstance(cell, Quantity)
    assert (cell.low, cell.high) == (None, None)
    assert "no interval because they do not differ" in (cell.method or "")
    assert isinstance(other, Quantity)
    assert "1 seed not evaluated" in (other.method or "")
    none = [replace(each, set_scores=dict.fromkeys(SETS, NOT_EVALUATED)) for each in results]
    missing = set_matrix(none)
    assert missing is not None
    assert isinstance(missing.rows[0].scores["5L"], Missing)


def test_controls_are_named_for_what_they_are() -> None:
    results = crossed()
    shuffled = replace(results[0], name="shuffled", control=ControlKind.SHUFFLED)
    matrix = set_matrix([*results, shuffled])
    assert matrix is not None
    assert [row.training_set for row in matrix.rows[3:]] == ["none (base model)", "5L.json, answers shuffled"]


def test_test_sets_without_names_have_no_table() -> None:
    results = unnamed(crossed())
    assert set_matrix(results) is None
    assert set_tables(results, None) == ()
    assert "test set" not in section_markdown(scores_section(report_of(results)))


def test_one_set_with_a_name_is_beside_nothing() -> None:
    results = crossed(sets=("5L",))
    (matrix,) = set_tables(results, set_matrix(results))
    assert matrix.title.startswith("Training set x test set")
    (only,) = analyses(results, FACTORS)
    assert (only.test_set, only.family_sets) == ("5L", ())


def test_the_report_has_sets_side_by_side_the_matrix_and_the_family() -> None:
    report = report_of(crossed())
    text = section_markdown(scores_section(report))
    assert "### Scores by test set: exact match" in text
    assert "5L, n = 40" in text
    assert "### Training set x test set: exact match" in text
    assert "They are one family of their own, of 4 contrasts on the test sets 9L and 13L" in text
    assert "Holm over 9 comparisons." in " ".join(claims_section(report).tables[0].notes)
    claims, further = (table for table in scores_section(report).tables if table.title.startswith("Tests over"))
    assert (len(claims.rows), len(further.rows)) == (2, 4)
    further = [each for each in report.claims if each.text.startswith("capitalization on 13L, exact match: ")]
    assert len(further) == 5
    told = " ".join((report.answer.text, *report.answer.details))
    assert "9L" not in told.replace("9L.json", "")
    assert "40 test items of 5L;" in results_markdown(report, ())


def test_rows_for_csv_have_a_column_for_each_set() -> None:
    results = crossed()
    row = Results(results).to_rows()[0]
    score = results[0].set_scores["9L"]
    assert isinstance(score, Quantity)
    assert (row["score[9L]"], row["score_low[9L]"], row["score_high[9L]"]) == (score.value, score.low, score.high)
    assert row["score"] == row["score[5L]"]
    assert not any("[" in key for key in Results(unnamed(results)).to_rows()[0])


def names(found: tuple[Analysis, ...]) -> list[str]:
    return [each.task for each in found]


def test_a_run_that_lacks_a_set_is_left_out_there_alone() -> None:
    results = crossed()
    lacking = [
        replace(each, other_evaluations=each.other_evaluations[:1]) if each.seed == 3 else each for each in results
    ]
    found = analyses(lacking, FACTORS)
    assert names(found) == ["capitalization on 5L", "capitalization on 9L", "capitalization on 13L"]
    assert [len(each.scores) for each in found] == [10, 10, 7]
    assert found[2].family == found[1].family == 9 + 6


def test_a_set_that_was_named_first_afterwards_is_told() -> None:
    """The claims move to another set without a new evaluation, and the report says that they moved."""
    results = crossed()
    later = [
        replace(each, evaluations=tuple(replace(one, was_first=False) for one in each.evaluations)) for each in results
    ]
    usual = [
        replace(each, evaluations=tuple(replace(one, was_first=True) for one in each.evaluations)) for each in results
    ]
    found, as_planned = analyses(later, FACTORS), analyses(usual, FACTORS)
    (more,) = set(map(str, found[0].notes)) - set(map(str, as_planned[0].notes))
    assert more.startswith("5L was named first after 10 runs had been evaluated on it")
    assert as_planned == analyses(results, FACTORS)
    limits = [each.text for each in report_of(later).remarks if each.topic == "Limits"]
    assert any("was named first after" in text for text in limits)
