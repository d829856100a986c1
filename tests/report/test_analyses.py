"""From results of runs to analyses: which evaluation counts, what is one item, who is whose control."""

from dataclasses import replace
from pathlib import Path

import pytest
from numpy.random import PCG64, Generator
from tests.report import made_gathered as made
from tests.report.made_gathered import RANK, TASK, control, points, record, rights, run

from touchline.core.levels import BACKEND, Level
from touchline.core.quantity import Missing, Quantity
from touchline.core.table import Table
from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.data.worker import stack_versions
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.build import build_report
from touchline.report.facts import compared_text, scale_of
from touchline.report.markdown import results_markdown
from touchline.report.page import report_html
from touchline.report.report import Report
from touchline.report.tables.training import agreement_table, step_differences
from touchline.results.frame import Results
from touchline.results.report_inputs import ReportInput
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


def of_trainer(name: str, trainer: str, *, seed: int = 1, rank: str = "4", **changes: object) -> RunResult:
    made = run(name, seed=seed, rank=rank, **changes)  # type: ignore[arg-type]
    return replace(made, levels=(*made.levels, Level(factor=BACKEND, value=trainer)))


def table(*runs: RunResult) -> Table:
    found = agreement_table(runs)
    assert found is not None
    return found


def cell(found: Table, row: int, label: str) -> object:
    return found.rows[row][found.header.index(label)]


def test_runs_are_paired_by_their_other_levels_and_seed() -> None:
    runs = [
        *(of_trainer("a1", "one"), of_trainer("a2", "one", seed=2), of_trainer("a64", "one", rank="64")),
        *(of_trainer("b1", "two"), of_trainer("b2", "two", seed=2), of_trainer("b3", "two", seed=3)),
    ]
    assert [(row[0], row[1]) for row in table(*runs).rows] == [("b1", "a1"), ("b2", "a2")]
    assert agreement_table([run("only")]) is None, "the trainer is no factor"


def test_differences_and_ratios() -> None:
    """Only steps that both have; the sign at the first step, the size of the largest; ratios of equal units."""
    one = of_trainer(
        *("a", "one"),
        train_losses=points((1, 2.0), (2, 1.5), (3, 1.0)),
        val=Quantity(value=0.5, unit="nats"),
        seconds_per_step=Quantity(value=2.0, unit="s"),
    )
    two = of_trainer(
        *("b", "two"),
        train_losses=points((1, 2.25), (2, 1.0), (4, 9.0)),
        val=Quantity(value=0.75, unit="nats"),
        seconds_per_step=Quantity(value=3.0, unit="s"),
        peak_memory=Quantity(value=20.5, unit="GiB", kind="process", phase="step", aggregation="peak"),
    )
    assert step_differences(two.train_losses, one.train_losses) == [0.25, -0.5]
    found = table(one, two)
    assert cell(found, 0, "steps") == 2
    for label, value in (("first step", 0.25), ("largest", 0.5), ("validation", 0.25), ("step time", 1.5)):
        quantity = cell(found, 0, label)
        assert isinstance(quantity, Quantity)
        assert quantity.value == pytest.approx(value)
    assert isinstance(cell(found, 0, "peak memory"), Missing), "allocated and process memory are not compared"


def test_without_a_common_step_the_reason_is_given() -> None:
    found = table(of_trainer("a", "one"), of_trainer("b", "two", train_losses=points((1, 2.0))))
    assert cell(found, 0, "largest") == Missing(missing="no step in common")
    assert cell(found, 0, "steps") == 0


OLD = {"python": "3.11.7", "torch": "2.12.0", "peft": "0.20.0"}
NEW = {"python": "3.11.7", "torch": "2.13.0", "peft": "0.20.0", "cuda": "12.4", "driver": "550.54.14"}


def stacks(report: Report) -> list[tuple[str, str]]:
    return [(what, value) for what, value in report.provenance if what.endswith(" stack")]


def scored(run: str, versions: dict[str, str]) -> EvaluationRecord:
    return replace(made.record(run, "epoch_2", made.rights(80)), versions=versions)


def test_versions_are_stated_and_by_run_where_they_differ() -> None:
    """As recorded; what was not recorded says so."""
    for trained, evaluated, wanted in (
        (
            {"a": OLD, "b": OLD},
            {"a": NEW, "b": NEW},
            [
                ("training stack", "python 3.11.7, torch 2.12.0, peft 0.20.0"),
                ("evaluation stack", "python 3.11.7, torch 2.13.0, peft 0.20.0, cuda 12.4, driver 550.54.14"),
            ],
        ),
        (
            {"a": OLD, "b": NEW},
            {"a": {}, "b": {}},
            [
                ("training stack", "python 3.11.7, torch 2.12.0, peft 0.20.0 (a)"),
                ("training stack", "python 3.11.7, torch 2.13.0, peft 0.20.0, cuda 12.4, driver 550.54.14 (b)"),
                ("evaluation stack", "n/a (no version was recorded)"),
            ],
        ),
    ):
        runs = [made.run(name, evaluations=[scored(name, evaluated[name])]) for name in ("a", "b")]
        report = build_report(made.gathered([replace(run, versions=trained[run.name]) for run in runs]))
        assert stacks(report) == wanted
        page = report_html(report, ())
        assert all(value in page for _, value in wanted)


def test_the_driver_is_read_from_the_kernel_and_a_missing_package_is_said(tmp_path: Path) -> None:
    driver = tmp_path / "version"
    lines = {
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC\nGCC": "535.104.05",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build\n": "550.54.14",
        "NVRM version: of another kind\n": None,
        "": None,
    }
    for text, version in lines.items():
        driver.write_text(text)
        assert stack_versions(("pytest", "no-such-package"), "12.4", driver).get("driver") == version
    found = stack_versions(("pytest", "no-such-package"), None, tmp_path / "none")
    assert list(found) == ["python", "pytest", "no-such-package"]
    assert found["no-such-package"] == "not installed"


def test_what_was_compared_names_levels_seeds_and_controls() -> None:
    runs = [
        made.control("1B_base"),
        replace(made.run("1B_shuffled"), kind=RunKind.CONTROL, control=ControlKind.SHUFFLED),
        *(made.run(f"1B_rank{rank}_s{seed}", rank=rank, seed=seed) for rank in ("4", "64") for seed in (1, 2)),
    ]
    factors = {"models": ("1B",), made.RANK: ("4", "64"), "seeds": ("1", "2")}
    seeds = {run.name: run.seed for run in runs}
    assert compared_text(runs, factors, seeds) == (
        "rank 4 and 64; training seeds 1 and 2; controls 1B_base (untrained base model) and 1B_shuffled (trained on "
        "shuffled answers)"
    )
    assert compared_text([made.run("a")], {}, {}) == "nothing varies between the runs"
    report = build_report(made.gathered(runs))
    assert f"**Compared:** {report.compared}" in results_markdown(report, ()).split("## Overview")[0]


def test_runs_that_nobody_evaluated_still_have_a_task() -> None:
    gathered = made.gathered([made.run("a")])
    source = ReportInput(kind="dataset", name="words_8L.json", facts=())
    told = build_report(replace(gathered, sources=(source,)))
    assert told.task == "not evaluated; trained on words_8L.json"
    assert build_report(replace(gathered, sources=())).task == "n/a (nothing was evaluated)"
