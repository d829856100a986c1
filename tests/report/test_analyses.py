"""From results of runs to analyses: which evaluation counts, what is one item, who is whose control."""

from dataclasses import replace

import pytest
from numpy.random import PCG64, Generator
from tests.report.made_gathered import RANK, TASK, control, record, rights, run

from touchline.core.quantity import Quantity
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.facts import scale_of
from touchline.results.frame import Results
from touchline.results.run_result import RunResult
from touchline.results.scored import analyses, compared, last_of_each, scored_run
from touchline.statistics.conclusions import Conclusion

pytestmark = pytest.mark.planning

FACTORS = {RANK: ("4", "64")}


def of(name: str, right: int, **changes: object) -> RunResult:
    return run(name, evaluations=[record(name, "epoch_0", rights(right))], **changes)  # type: ignore[arg-type]


def sweep() -> list[RunResult]:
    return [of("r4", 60, rank="4"), of("r64", 90, rank="64"), control("base", rights=rights(50))]


def with_samples(result: RunResult, *samples: SampleScore) -> RunResult:
    (found,) = result.evaluations
    return replace(result, evaluations=(replace(found, samples=samples),))


def sample(item: str, value: float, **changes: object) -> SampleScore:
    made = SampleScore(id=item, target="x", output="y", exact=value == 1, match=value == 1)
    return replace(made, value=value, **changes)  # type: ignore[arg-type]


def test_a_sweep_becomes_one_analysis() -> None:
    (found,) = analyses(sweep(), FACTORS)
    assert (found.task, found.score, found.binary, found.family) == (TASK, "exact match", True, 2)
    assert {each.run: each.shown for each in found.comparisons} == {"r4": Conclusion.HIGHER, "r64": Conclusion.HIGHER}
    assert [score.run for score in found.scores] == ["r4", "r64", "base"]
    assert found.effects[0].contrasts[0].value == pytest.approx(0.3)
    assert found.effects[0].contrasts[0].shown is Conclusion.NOT_TESTABLE
    assert found.checkpoints == {"r4": "epoch_0", "r64": "epoch_0", "base": "base"}


def test_the_last_epoch_counts_however_well_another_did() -> None:
    """It was settled beforehand; the best one by these items would be too good. Epoch 10 comes after epoch 9."""
    records = [record("r4", f"epoch_{epoch}", rights(80 - epoch)) for epoch in (10, 9, 0)]
    (found,) = analyses([run("r4", evaluations=records)], {})
    assert found.checkpoints == {"r4": "epoch_10"}
    assert found.scores[0].value == 0.7
    assert not any("selected on test" in str(note) for note in found.notes)


def test_further_tasks_come_after_the_experiment_s_own() -> None:
    other = record("r4", "epoch_0", rights(30), task="spelling")
    runs = [replace(sweep()[0], other_evaluations=(other,)), *sweep()[1:]]
    assert [(each.task, len(each.scores)) for each in analyses(runs, FACTORS)] == [(TASK, 3), ("spelling", 1)]


def test_only_base_models_are_controls_and_only_what_was_asked_is_the_family() -> None:
    no_op = replace(control("noop", rights=rights(50)), control=ControlKind.NO_OP)
    shuffled = of("shuffled", 55, control=ControlKind.SHUFFLED)
    (found,) = analyses([*sweep(), no_op, shuffled], FACTORS)
    assert found.family == 2
    assert [each.run for each in found.comparisons] == ["r4", "r64", "noop", "shuffled"]
    assert all(each.difference.control == "base" for each in found.comparisons)
    assert {point.run for point in found.effects[0].points} == {"r4", "r64"}


def test_a_score_between_0_and_1_is_a_share_only_if_it_is_one_of_right_answers() -> None:
    """The table of results, its text, the analyses and a matrix have one scale."""
    for name, value, words in (("closeness", 0.5, "0.500"), ("accuracy", 0.5, "50.0%"), ("closeness", 1.0, "100.0%")):
        found = of("r4", 50)
        (own,) = found.evaluations
        own = replace(own, samples=tuple(replace(each, value=value, scores={name: value}) for each in own.samples))
        score = Quantity(value=value, unit="1", low=0.1, high=1.0)
        results = Results([replace(found, evaluations=(own,), metric=name, score=score)])
        assert words in repr(results)
        table = results.to_table()
        assert table is not None
        assert words in str(table.rows[0])
        (analysis,) = analyses(results, FACTORS)
        assert scale_of(replace(analysis, score=name)).value(value) == words


def test_results_of_before_have_no_kind_of_control() -> None:
    runs = [*sweep()[:2], replace(control("base", rights=rights(50)), control=None)]
    (found,) = analyses(runs, FACTORS)
    assert len(found.comparisons) == 2


def test_answers_to_one_item_are_averaged_first() -> None:
    """Four answers to two items are two observations, not eight."""
    samples = [sample(item, value, repeat=n) for item, row in (("a", (1, 1, 0, 0)), ("b", (1, 1, 1, 1)))
               for n, value in enumerate(row)]  # fmt: skip
    (found,) = analyses([with_samples(of("r4", 1), *samples)], {})
    assert not found.binary
    assert (found.scores[0].items, found.scores[0].value) == (2, 0.75)


@pytest.mark.parametrize("spoiled", [{"error": "out of memory"}, {"value": float("nan")}, {"value": float("inf")}])
def test_what_has_no_score_counts_as_wrong(spoiled: dict[str, object]) -> None:
    runs = [with_samples(of("r4", 1), sample("a", 1.0), replace(sample("b", 1.0), **spoiled))]  # type: ignore[arg-type]
    (found,) = analyses(runs, {})
    assert found.scores[0].value == 0.5


def test_the_order_of_the_answers_does_not_matter() -> None:
    (found,) = sweep()[0].evaluations
    turned = replace(sweep()[0], evaluations=(replace(found, samples=found.samples[::-1]),))
    assert analyses([turned, *sweep()[1:]], FACTORS) == analyses(sweep(), FACTORS)


def test_clusters_are_taken_from_the_items() -> None:
    samples = [sample(str(i), float(i % 2), cluster=None if i == 0 else f"d{i // 5}") for i in range(20)]
    scored = scored_run(*_first(with_samples(of("r4", 1), *samples)))
    assert scored.clusters is not None
    assert len(set(scored.clusters)) == 5
    alone = [sample(str(i), 1.0, cluster=f"d{i}") for i in range(5)]
    assert scored_run(*_first(with_samples(of("r4", 1), *alone))).clusters is None


def _first(result: RunResult) -> tuple[RunResult, EvaluationRecord]:
    return result, result.evaluations[0]


def test_half_of_the_runs_missing_and_other_items_are_no_obstacle() -> None:
    runs = [
        run("failed"),
        with_samples(of("empty", 60)),
        run("other", evaluations=[record("other", "epoch_0", rights(60), items="b")]),
        of("short", 60),
        control("base", rights=rights(50)),
    ]
    (found,) = analyses(runs, FACTORS)
    assert [score.run for score in found.scores] == ["other", "short", "base"]
    assert [(each.run, each.reason) for each in found.refusals] == [
        ("other", "the items differ: 100 and 100, 0 in both")
    ]
    assert [each.run for each in found.comparisons] == ["short"]


def test_nothing_evaluated_nothing_analysed() -> None:
    assert analyses([run("r4")], FACTORS) == ()
    assert analyses([], {}) == ()
    assert last_of_each([]) == {}


def test_collected_runs_carry_the_same_differences() -> None:
    """`touchline results` and the report have one way to compare."""
    results = [
        *sweep()[:2],
        of("shuffled", 55, control=ControlKind.SHUFFLED),
        run("other", evaluations=[record("other", "epoch_0", rights(60), items="b")]),
        sweep()[2],
    ]
    found = {result.name: result for result in compared(results)}
    (expected,) = analyses(results, FACTORS)
    assert {each.run: each.difference for each in expected.comparisons} == {
        name: result.difference for name, result in found.items() if result.difference is not None
    }
    assert tuple(map(str, found["other"].notes)) == (
        "not compared with base: the items differ: 100 and 100, 0 in both",
    )
    assert found["base"].difference is None
    assert found["r4"].kind is RunKind.FINE_TUNED


def test_many_runs_of_partial_scores_share_their_draws() -> None:
    """Nothing grows with the square of the runs: the draws are one product of matrices."""
    rng = Generator(PCG64(1))
    base = control("base", rights=rights(50))
    scores = rng.random((150, 100)).round(2)
    runs = [
        with_samples(of(f"r{n}", 1, seed=n), *(sample(f"a-{i}", float(value)) for i, value in enumerate(row)))
        for n, row in enumerate(scores)
    ]
    half = with_samples(base, *(sample(f"a-{i}", 0.5) for i in range(100)))
    (found,) = analyses([*runs, half], {})
    assert found.family == 150
    # Scores are uniform: no run is better or worse than one half on all items.
    assert sum(each.shown is not Conclusion.NOT_ESTABLISHED for each in found.comparisons) == 0
