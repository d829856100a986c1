"""A planned experiment's report: estimates beside measurements, packing, commands, provenance, deviations."""

import re
import shlex
from dataclasses import replace

import pytest
from tests.report import made_gathered as made
from tests.run.made_plans import CPU, GPU, made_control, made_plan, made_run

from touchline.core.notes import Note, NoteCode
from touchline.core.packing import PackingSide, PackingSummary
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, TrainingOutcome
from touchline.core.table import Column, value_text
from touchline.core.units import GIB
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import PlannedRun
from touchline.report.build import build_report
from touchline.report.markdown import results_markdown
from touchline.report.report import EstimateRow, Report
from touchline.report.tables.scores import scores_section
from touchline.report.tables.training import cost_section
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.results.verification_types import RunStorage

pytestmark = pytest.mark.planning

PEAK = Quantity(value=2.0 * GIB, unit="B", kind="process", phase=None, aggregation="peak")


def ours(run: RunResult | None = None, planned: PlannedRun | None = None, **changes: object) -> ReportInputs:
    """An experiment of one training and its control, planned by touchline."""
    record = made.record("1M_rank4", "epoch_1", made.rights(80))
    trained = run or made.run("1M_rank4", evaluations=[record], peak_memory=PEAK, seconds=3500.0)
    runs = [trained, made.control("1M_base", rights=made.rights(20))]
    plan = made_plan(planned or made_run(), made_control())
    found = made.gathered(runs, factors={"train.lora.rank": ("4",)})
    return replace(found, plan=replace(plan, **changes), origin="planned by touchline 0")  # type: ignore[arg-type]


def row(report: Report, quantity: str, run: str = "1M_rank4") -> EstimateRow:
    return next(each for each in report.estimates if (each.run, each.quantity) == (run, quantity))


def test_each_estimate_is_held_against_the_same_thing() -> None:
    """The whole attempt for the training, the process for its memory, all evaluations for the evaluation."""
    report = build_report(ours())
    training = row(report, "training")
    assert isinstance(training.measured, Quantity)
    assert (training.measured.value, training.inside) == (3520.0, True)
    memory = row(report, "peak memory")
    assert isinstance(memory.measured, Quantity)
    assert (memory.measured.value, memory.measured.unit, memory.inside) == (2.0, "GiB", True)
    assert row(report, "evaluation").inside is False
    assert row(report, "disk").measured == Missing(missing="nothing was read from disk")


def test_what_is_not_of_one_kind_is_not_judged() -> None:
    """Allocated against process memory; a training in two attempts; one that is not complete."""
    other = made.run("1M_rank4", peak_memory=replace(PEAK, kind="allocated"))
    assert row(build_report(ours(other)), "peak memory").inside is None
    twice = replace(other, attempt_list=(made.attempt("1", JobState.TIMEOUT, "stopped"), made.attempt("2")))
    again = row(build_report(ours(twice)), "training")
    assert (again.measured, again.inside) == (
        Quantity(value=600.0, unit="s", aggregation="sum", method="sum of 2 attempts"),
        None,
    )
    partial = row(build_report(ours(replace(other, outcome=TrainingOutcome.PARTIAL))), "training")
    assert partial.inside is None
    rows = {row[1]: row for row in cost_section(build_report(ours(twice))).tables[-2].rows}
    assert [value_text(rows[what][4], Column("")) for what in ("training", "peak memory")] == [
        "- (several attempts)",
        "- (another kind of memory)",
    ]


def test_several_gpus_share_the_tokens_and_add_the_hours() -> None:
    """Tokens/s per GPU, hours times GPUs, and the words for them."""
    report = build_report(ours(machine=GPU, gpus_per_run=2, compute=ComputeConfig(gpus_per_run=2)))
    facts = report.facts[0]
    assert (facts.gpus, report.device) == (2, "GPU")
    assert isinstance(facts.tokens_per_second_per_gpu, Quantity)
    assert facts.tokens_per_second_per_gpu.value == 612.0
    assert isinstance(facts.device_hours, Quantity)
    assert facts.device_hours.value == pytest.approx(2 * (3520 + 30) / 3600)
    text = results_markdown(report, ())
    assert "tokens/s (non-padding) per GPU" in text
    assert "**Cost:** 1.99 GPU-hours; predicted " in text


def in_slots(*starts: float) -> Report:
    """Two equal trainings of 3,500 s in two slots, begun at these times; the plan says 3,600 s and a gain of 1.4."""
    runs = [
        made.run(name, attempt_list=(replace(made.attempt("1", seconds=3500.0), started_unix=start),))
        for name, start in zip(("1M_rank4", "1M_rank8"), starts, strict=True)
    ]
    plan = made_plan(made_run(), made_run("1M_rank8"), made_control(), machine=replace(CPU, threads=2, slots=2))
    gain = Quantity(value=1.4, unit="times", low=1.2, high=1.6)
    return build_report(replace(made.gathered(runs), plan=replace(plan, slots_gain=gain), origin="planned"))


def test_the_gain_of_slots_is_held_against_the_time_of_all_trainings() -> None:
    """From the first start to the last end; one after the other is what the plan says, 1.4 times 3,600 s."""
    beside = row(in_slots(1000.0, 1100.0), "gain, 2 runs, 2 at a time")
    assert isinstance(beside.measured, Quantity)
    assert beside.measured.value == pytest.approx(1.4 * 3600 / 3600)
    assert beside.inside is True
    apart = row(in_slots(1000.0, 4600.0), "gain, 2 runs, 2 at a time")
    assert isinstance(apart.measured, Quantity)
    assert apart.measured.value == pytest.approx(1.4 * 3600 / 7100)
    assert apart.inside is False
    # Each held half of the CPU.
    hours = in_slots(1000.0, 1000.0).facts[0].device_hours
    assert isinstance(hours, Quantity)
    assert hours.value == pytest.approx(3500 / 2 / 3600, rel=0.02)


def test_disk_is_compared_in_bytes_when_the_training_is_whole() -> None:
    """The folder's size against the forecast."""
    storage = RunStorage(
        run="1M_rank4",
        checkpoints=2,
        total_bytes=9_900_000,
        checkpoint_bytes=9_000_000,
        adapter_bytes=8_000_000,
        full_model_bytes=made.UNKNOWN,
        adapter_only_bytes=made.UNKNOWN,
        forecast=Quantity(value=1e7, unit="B", low=9.7e6, high=1.03e7),
    )
    verification = replace(made.NOTHING, storage=replace(made.NOTHING.storage, runs=(storage,)))
    report = build_report(replace(ours(), verification=verification))
    assert row(report, "disk").inside is True
    partial = replace(ours().runs[0], outcome=TrainingOutcome.PARTIAL)
    report = build_report(replace(ours(partial), verification=verification))
    assert row(report, "disk").measured == Missing(missing="the training is not complete")


def test_packing_that_nobody_counted_is_as_the_plan_computed_it() -> None:
    """And says so; the plan's advice is repeated, and padding that packing would save is named."""
    side = PackingSide(
        packs=80, lower_bound=40, density=1.0, efficiency=55.0, steps_per_epoch=10, steps_per_epoch_low=10,
        steps_per_epoch_high=10, examples_per_step=8.0, largest_micro_batch_tokens=480, padded_tokens=9000,
        truncated=0, answers_cut=0, dropped=0,
    )  # fmt: skip
    summary = PackingSummary(
        backend="peft", max_seq_len=128, micro_batch_size=8, examples=80, packed=replace(side, density=2.0),
        unpacked=side, advice=("The plan's advice.",),
    )  # fmt: skip
    gathered = ours(planned=replace(made_run(), packing=summary))
    gathered = replace(gathered, runs=(made.told(gathered.runs[0], packed=False), *gathered.runs[1:]))
    report = build_report(gathered)
    (packing,) = report.packing
    assert packing.packed == "no"
    assert packing.density == Quantity(value=1.0, unit="examples/row", method="as the plan computed it")
    assert report.packing_advice == (
        "No run packed, and down to 55% of the computed positions held a token. Plan once with train.packed: true and "
        "compare examples/s.",
        "The plan's advice.",
    )


def test_ways_of_packing_that_runs_tried_are_compared_by_their_speed() -> None:
    """By model and micro-batch, of complete runs alone; within 5% none is faster."""

    def run(name: str, packed: bool, size: int, speed: float, model: str = "1B", **changes: object) -> RunResult:
        rate = Quantity(value=speed, unit="examples/s")
        trained = made.run(name, model, examples_per_second=rate, **changes)  # type: ignore[arg-type]
        return made.told(trained, packed=packed, batch_size=size)

    cut = run("f", False, 64, 99.0, outcome=TrainingOutcome.PARTIAL)
    first = (run("a", True, 4, 12.0), run("b", True, 4, 14.0), run("c", False, 16, 8.0), cut)
    report = build_report(made.gathered([*first, run("d", True, 2, 4.0, "3B"), run("e", False, 8, 4.1, "3B")]))
    assert report.packing_advice == (
        "1B: 13 examples/s packed with micro-batch 4 and 8 examples/s not packed with micro-batch 16 (means of "
        "complete runs, not tested): plan the next runs packed with micro-batch 4.",
        "3B: 4.1 examples/s not packed with micro-batch 8 and 4 examples/s packed with micro-batch 2 (means of "
        "complete runs, not tested): none is clearly faster.",
    )


def test_the_lowest_loss_is_held_against_the_best_score() -> None:
    """In one line, where several checkpoints of a run were evaluated and have a validation loss."""

    def run(name: str, losses: tuple[float, ...], rights: tuple[int, ...]) -> RunResult:
        own = [made.record(name, f"epoch_{number}", made.rights(right)) for number, right in enumerate(rights)]
        saved = (made.saved(f"epoch_{number}", loss) for number, loss in enumerate(losses))
        return made.run(name, evaluations=own, checkpoints=tuple(saved))

    runs = [run("a", (0.4, 0.3, 0.5), (50, 60, 60)), run("b", (0.4, 0.3, 0.5), (50, 60, 70)), run("c", (0.1,), (9,))]
    (table,) = (
        each for each in scores_section(build_report(made.gathered(runs))).tables if each.title == "By checkpoint"
    )
    assert table.notes[1:] == (
        "Lowest validation loss: epoch_1 in a (best score too); epoch_1 in b (best score: epoch_2).",
    )


def test_every_command_is_one_that_a_shell_reads() -> None:
    """Quoted, in the experiment's folder, with all groups; the mark by which our reports are known is there."""
    report = build_report(ours())
    assert list(dict.fromkeys(each.group for each in report.commands)) == [
        "View",
        "Evaluate",
        "Retrain",
        "Sync",
        "Commit",
    ]
    for each in report.commands:
        assert shlex.split(each.command)
    assert "touchline report ." in [each.command for each in report.commands]
    assert "sbatch" in " ".join(each.command for each in report.commands)


def test_seeds_are_no_setting() -> None:
    """They repeat a setting: no column of settings, no variant, no level to try."""
    from touchline.core.levels import Level

    runs = []
    for seed in (1, 2):
        name = f"1M_rank4_s{seed}"
        run = made.run(name, seed=seed, train=made.loss(0.1 * seed))
        runs.append(replace(run, levels=(*run.levels, Level(factor="seeds", value=str(seed)))))
    report = build_report(made.gathered(runs))
    assert [each.settings for each in report.facts] == ["rank 4", "rank 4"]
    assert not any("seeds" in each.text for each in (*report.remarks, *report.claims))
    assert not any("seeds" in each.title for each in report.next_steps)
    assert report.compared == "training seeds 1 and 2"


def test_notes_of_a_result_are_told_once_and_by_their_weight() -> None:
    """What concerns the scores is a warning; what other issues or the provenance say is not said again."""
    notes = (
        Note(NoteCode.NOT_EVALUATED, {"evaluation": "epoch_1"}),
        Note(NoteCode.EVALUATIONS_LEFT_OUT, {"evaluations": "2 evaluations"}),
        Note(NoteCode.ATTEMPTS_FAILED, {"count": 1, "reason": "failed", "code": 1}),
        Note(NoteCode.FAILED_EXIT),
        Note(NoteCode.ANSWERS_NOT_SCORED, {"evaluation": "epoch_1 on capitalization", "count": 3}),
        Note(NoteCode.TRAINED_ON, {"machine": "AMD EPYC, 2 threads"}),
        Note(NoteCode.STEPS_REPEATED, {"count": 12}),
    )
    report = build_report(ours(made.run("1M_rank4", notes=notes)))
    told = [(issue.weight.value, issue.title) for issue in report.issues if not issue.title.startswith("no ")]
    assert told == [
        ("warning", "an evaluation does not count"),
        ("warning", "evaluations are left out"),
        ("info", "note"),
    ]
    assert ("trained on", "AMD EPYC, 2 threads") in report.provenance


def test_a_next_step_prints_lines_of_the_file_and_no_override() -> None:
    """An override in a step would end with the runs of its plan. Those of the plan become lines too."""
    record = made.record("1M_rank4", "epoch_1", made.rights(80))
    other = replace(made.run("1M_rank64", rank="64", evaluations=[record]))
    gathered = ours(overrides=("train.epochs=3", "seeds=[7]"))
    gathered = replace(
        gathered,
        runs=(*gathered.runs, other),
        factors={"train.lora.rank": ("4", "64")},
    )
    report = build_report(gathered)
    (command,) = [step.command for step in report.next_steps if "seeds" in step.title]
    assert (command or "").splitlines() == [
        "# in experiment.yaml: seeds: [1, 2, 3]",
        "# in experiment.yaml, under train: epochs: 3   (so far an override)",
        "touchline plan . && touchline submit .",
    ]
    printed = [each.command or "" for each in (*report.next_steps, *report.commands)]
    lines = [line for text in printed for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if re.match(r"touchline (run|plan) .*=", line)]


def test_an_attempt_of_a_cohort_counts_once() -> None:
    """Each of its runs records it; each gets an equal part of its hours."""
    names = ("1M_rank4", "1M_rank8")
    runs = [
        made.run(
            name,
            cohort=tuple(other for other in names if other != name),
            attempt_list=(made.attempt("1", seconds=3600.0),),
        )
        for name in names
    ]
    plan = made_plan(made_run(), made_run("1M_rank8"))
    report = build_report(replace(made.gathered(runs), plan=plan, origin="planned"))
    assert isinstance(report.device_hours, Quantity)
    assert report.device_hours.value == pytest.approx(1.0)
    assert [fact.device_hours.value for fact in report.facts if isinstance(fact.device_hours, Quantity)] == [0.5, 0.5]
