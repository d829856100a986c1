"""Next steps are computed from what is open, untried, unsaturated or broken, and come with what one types."""

import math
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.made_runs import STEP
from tests.report import made_gathered as made

from touchline.core.finding import Note, NoteCode, Severity
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.report.build import build_report
from touchline.report.issues import NO_EVALUATION
from touchline.report.next_steps import seeds_needed, untried_between
from touchline.report.report import Report
from touchline.results.figures import data_wait
from touchline.results.report_inputs import Issue, IssueRole, ReportInputs
from touchline.results.run_result import StepCurves
from touchline.results.verification_types import CheckpointFault, CheckpointFile, CheckpointKind
from touchline.statistics.closed_forms import smallest_seed_difference
from touchline.statistics.conclusions import Conclusion, Contrast, NextStep, SeedTest, SeedTestKind, WithItems

pytestmark = pytest.mark.planning


def step(report: Report, title: str) -> NextStep:
    return next(each for each in report.next_steps if each.title == title)


def titles(gathered: ReportInputs) -> list[str]:
    return [each.title for each in build_report(gathered).next_steps]


def test_open_contrasts_ask_for_as_many_seeds_as_their_spread_needs() -> None:
    """Three points between two ranks whose seeds differ by as much."""
    report = build_report(made.sweep([80, 83, 84], [85, 84, 88]))
    (contrast,) = report.analyses[0].effects[0].contrasts
    assert contrast.shown is Conclusion.NOT_ESTABLISHED
    needed = seeds_needed(contrast)
    assert needed is not None
    assert needed > 3
    assert f", {needed} would show it at 80% power" in step(report, f"Repeat with {needed} seeds").why


@given(value=st.floats(0.005, 0.5), spread=st.floats(0.001, 0.2), seeds=st.integers(2, 6))
def test_the_seeds_that_are_asked_for_are_the_fewest_that_do(value: float, spread: float, seeds: int) -> None:
    """One seed fewer would not show the difference, and so many do."""
    needed = seeds_needed(contrast_of(value, spread, seeds))
    if needed is None:
        most = smallest_seed_difference(20)
        assert most is not None
        assert most * spread > value
        return
    enough, fewer = smallest_seed_difference(needed), smallest_seed_difference(needed - 1)
    assert enough is not None
    assert enough * spread <= value
    assert needed == seeds or fewer is None or fewer * spread > value


@given(value=st.floats(0.005, 0.5), spread=st.floats(0.001, 0.2), seeds=st.integers(2, 6), family=st.integers(2, 90))
def test_a_larger_family_needs_no_fewer_seeds(value: float, spread: float, seeds: int, family: int) -> None:
    alone, among = (seeds_needed(contrast_of(value, spread, seeds), each) for each in (1, family))
    assert (among or 21) >= (alone or 21)


def test_more_seeds_do_not_replace_items() -> None:
    """A difference of three errors over items is not shown by seeds that do not differ much."""
    assert seeds_needed(contrast_of(0.3, 0.01, 3, over_items=0.01)) is not None
    assert seeds_needed(contrast_of(0.3, 0.01, 3, over_items=0.2)) is None
    assert seeds_needed(contrast_of(0.3, 0.01, 3, units=5)) is None


def contrast_of(value: float, spread: float, seeds: int, over_items: float = 0.0, units: int = 99) -> Contrast:
    """Seeds with this standard deviation at each of two levels."""
    error = spread * math.sqrt(2 / seeds)
    wide = WithItems(
        error=math.hypot(error, over_items), freedom=seeds - 1, units=units, p_value=0.5, p_adjusted=0.5, low=-1, high=1
    )
    means = (0.5,) * seeds
    test = SeedTest(
        kind=SeedTestKind.PAIRED, seeds=tuple(range(seeds)), reference_seeds=tuple(range(seeds)), means=means,
        reference_means=means, statistic=0.0, freedom=seeds - 1, error=error,
    )  # fmt: skip
    return Contrast(
        factor=made.RANK, level="64", reference="4", value=value, low=-1.0, high=1.0, p_value=0.5, p_adjusted=0.5,
        seeds=seeds, strata=1, items_low=None, items_high=None, shown=Conclusion.NOT_ESTABLISHED, reason="",
        smallest=Quantity(value=0.1, unit="1"), with_items=wide, test=test,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tried", "best", "level"),
    [
        ((4.0, 64.0), 64.0, 16.0),
        ((4.0, 64.0), None, 16.0),
        ((4.0, 16.0, 64.0), 64.0, 32.0),
        ((4.0, 8.0, 16.0), 16.0, 32.0),
        ((4.0, 8.0, 16.0), 4.0, 2.0),
        ((4.0, 8.0, 16.0), 8.0, None),
        ((1.0, 2.0), 1.0, None),
        ((0.0001, 0.001), 0.001, 0.0003),
        ((0.0001, 0.0002), 0.0002, 0.0004),
        ((0.0, 0.1), 0.1, None),
    ],
)
def test_levels_that_nobody_tried(tried: tuple[float, ...], best: float | None, level: float | None) -> None:
    """In the middle of a wide gap, by factors; else beyond the end that does best; else nowhere."""
    assert untried_between(tried, best) == level


@given(levels=st.lists(st.integers(1, 4096), min_size=2, max_size=8, unique=True), pick=st.integers(0, 7))
def test_a_level_that_is_proposed_is_a_new_one(levels: list[int], pick: int) -> None:
    """Never one that was tried, never zero or below."""
    tried = [float(level) for level in levels]
    new = untried_between(tried, tried[pick % len(tried)])
    assert new is None or (new not in tried and new > 0)


def test_what_is_trained_and_not_evaluated_comes_first() -> None:
    """By hand where touchline made no plan, with the last sound checkpoint and the script that lies there."""
    seed = made.seed_002()
    verification = replace(
        made.NOTHING,
        checkpoints=(made.checkpoint("1B_rank4", "epoch_1"), made.checkpoint("1B_rank4", "epoch_2", sound=False)),
    )
    files = {"1B_rank4": (("evaluation script", "1B_rank4/eval.py"),)}
    report = build_report(replace(seed, verification=verification, files=files))
    assert [each.title for each in report.next_steps] == [
        "Evaluate what is trained",
        "Check corrupt checkpoints",
        "Evaluate the base models",
        "Try rank 16",
    ]
    assert report.next_steps[0].command == (
        "inspect eval 1B_rank4/eval.py --model hf/1B_rank4 -M model_path=1B_rank4/epoch_1 "
        "-M 'tokenizer_call_args={\"add_special_tokens\": false}' -M do_sample=false"
    )
    assert report.next_steps[1].command == "touchline report . --deep"


def test_failed_runs_point_to_their_output() -> None:
    """The command is quoted for a shell, whatever the folder is called."""
    failed = made.run("run one; rm -rf", status=RunStatus.FAILED, job_state=JobState.FAILED)
    report = build_report(made.gathered([replace(failed, outcome=TrainingOutcome.PARTIAL)]))
    command = step(report, "Find out why runs failed").command
    assert command is not None
    assert shlex.split(command)[-1] == "run one; rm -rf/slurm-*.out"


def test_a_rate_that_vanished_while_the_loss_still_fell_asks_for_another_schedule() -> None:
    points = made.points((0, 2.0), (500, 0.5), (1000, 0.4), (1500, 0.3))
    for last, asks in ((1e-6, True), (5e-4, False)):
        curves = StepCurves(steps=(1, 2, 3), learning_rate=(1e-4, 1e-3, last))
        gathered = made.gathered([made.run("a", validation_losses=points, curves=curves)])
        assert "Train for longer" in titles(gathered)
        assert ("Try another learning rate schedule" in titles(gathered)) is asks
    assert "Try another learning rate schedule" not in titles(made.gathered([made.run("a", validation_losses=points)]))


def test_a_run_without_a_score_for_a_reason_is_told_once() -> None:
    """Who reads its folder says why, and says it alone."""
    runs = [made.run("1B_rank4"), made.run("1B_rank64", rank="64")]
    told = Issue(
        weight=Severity.WARNING,
        subject="1B_rank4",
        title="scores cannot be read",
        text="Evaluate again.",
        role=IssueRole.EXPLAINS_NO_SCORE,
    )
    report = build_report(made.gathered(runs, issues=[told]))
    assert [each.subject for each in report.issues if each.title == NO_EVALUATION] == ["1B_rank64"]
    assert [each.title for each in report.issues if each.subject == "1B_rank4" and each.weight is Severity.WARNING] == [
        "scores cannot be read"
    ]


def test_metrics_that_cannot_be_read_are_one_issue() -> None:
    """Losses and steps that are missing for that reason are none of their own."""
    gone = Missing(missing="metrics.jsonl cannot be read")
    note = Note(NoteCode.METRICS_UNREAD, {"file": "metrics.jsonl", "reason": "Is a directory"})
    run = made.run("1B_rank4", notes=(note,), steps_done=0, steps_planned=1500, train=gone, val=gone)
    report = build_report(made.gathered([run]))
    assert [(each.title, each.text) for each in report.issues if each.title != NO_EVALUATION] == [
        ("metrics cannot be read", "Steps and losses are unknown: metrics.jsonl cannot be read (Is a directory).")
    ]


def test_a_training_whose_checkpoint_was_spoilt_was_not_interrupted() -> None:
    """Its job ended well and its steps are done; a score of the weights as they were saved counts."""
    record = replace(made.record("1B_rank4", "epoch_2", made.rights(80)), adapter_sha256="1" * 64)
    saved = replace(made.saved("epoch_2"), complete=False, problems=("cut",))
    run = made.run(
        "1B_rank4",
        evaluations=[record],
        status=RunStatus.INTERRUPTED,
        outcome=TrainingOutcome.PARTIAL,
        checkpoints=(saved,),
    )
    faults = tuple(
        CheckpointFault(code=code, message=f"{code} it is", file="adapter_model.safetensors")
        for code in ("truncated", "wrong-size")
    )
    broken = replace(made.checkpoint("1B_rank4", "epoch_2", sound=False), faults=faults)
    report = build_report(made.gathered([run], verification=replace(made.NOTHING, checkpoints=(broken,))))
    told = {each.title: each.text for each in report.issues}
    assert told["last checkpoint lost"].startswith("Every step is done and its job ended well, but its last checkpoint")
    assert told["checkpoint epoch_2 is corrupt"] == (
        "adapter_model.safetensors: truncated it is. It does not count as it is. Its score on record is of the weights "
        "as they were saved."
    )
    assert "interrupted" not in told


def test_a_checkpoint_whose_weights_are_sound_lacks_a_file_and_is_told_once() -> None:
    """A config or a tokenizer file can be written again; weights, an index or the adapter cannot."""
    verdicts = {
        "adapter_config.json": True,
        "tokenizer.json": True,
        "config.json": True,
        "chat_template.jinja": True,
        "adapter_model.safetensors": False,
        "model.safetensors.index.json": False,
        "model-00001-of-00002.safetensors": False,
        "adapter_model.pt": True,  # a copy of the adapter, which is whole
        "pytorch_model.bin": False,  # the model's only weights
        "optimizer.pt": False,
        None: False,
    }
    files = tuple(
        CheckpointFile(name=name, size_bytes=9, role=role)
        for name, role in (
            ("adapter_model.safetensors", "adapter"),
            ("adapter_model.pt", "adapter"),
            ("pytorch_model.bin", "model"),
            ("optimizer.pt", "optimizer"),
        )
    )
    for file, sound in verdicts.items():
        fault = CheckpointFault(code="missing-file", message="it is not there", file=file)
        broken = replace(made.checkpoint("1B_rank4", "epoch_2", sound=False), faults=(fault,), files=files)
        assert broken.weights_sound is sound, file
        report = build_report(
            made.gathered([made.run("1B_rank4")], verification=replace(made.NOTHING, checkpoints=(broken,)))
        )
        told = [each for each in report.issues if "it is not there" in each.text.lower()]
        assert [each.weight for each in told] == [Severity.WARNING if sound else Severity.ERROR]
        assert ("the training counts" in told[0].text) is sound
        assert ("damaged copy" in told[0].title) is (file == "adapter_model.pt")
    nothing = replace(made.checkpoint("1B_rank4", "epoch_2", sound=False), faults=(), kind=CheckpointKind.UNKNOWN)
    assert not nothing.weights_sound


def test_why_a_run_is_not_complete_is_said_once() -> None:
    run = made.run("1B_rank4", status=RunStatus.FAILED, outcome=TrainingOutcome.PARTIAL)
    for title in ("complete log, corrupt checkpoint", "training not complete"):
        told = Issue(
            weight=Severity.ERROR, subject="1B_rank4", title=title, text="Cut.", role=IssueRole.EXPLAINS_NOT_DONE
        )
        report = build_report(made.gathered([run], issues=[told]))
        assert [each.title for each in report.issues if each.weight is Severity.ERROR] == [title]


def test_an_untrained_model_that_lacks_the_form_of_the_answers_is_told() -> None:
    """Its score may be 0 by the form alone; and that no trained run scored above it is said at the top."""
    runs = [made.run("1B_rank4", evaluations=[made.record("1B_rank4", "epoch_2", made.rights(0))])]
    talks = made.control("1B_base", rights=made.rights(0))
    (record,) = talks.evaluations
    wordy = replace(record, samples=tuple(replace(each, output="This word is a word.") for each in record.samples))
    for evaluation, titles in ((record, []), (wordy, ["answers of another form"])):
        report = build_report(made.gathered([*runs, replace(talks, evaluations=(evaluation,))]))
        assert [each.title for each in report.issues if each.subject == "1B_base"] == titles
        said = " ".join((report.answer.text, *report.answer.details))
        assert "Not established, and 1B_rank4 does not score above the untrained model" in said


def test_a_warning_on_answers_is_said_once_whatever_the_number_of_tasks() -> None:
    records = [made.record("1B_rank4", "epoch_2", made.rights(80), task=task) for task in ("one", "two", "three")]
    cut = [replace(each, samples=tuple(replace(item, stop="max_tokens") for item in each.samples)) for each in records]
    run = made.run("1B_rank4", evaluations=cut[:1], other_evaluations=tuple(cut[1:]))
    report = build_report(made.gathered([run]))
    (told,) = [each for each in report.issues if each.title == "answers cut"]
    assert all(f"{task}, epoch_2: 100 of 100" in told.text for task in ("one", "two", "three"))


def test_a_training_that_waited_for_its_images_is_named_above_five_percent() -> None:
    """By the mean over all steps that say it; steps without images say nothing."""
    run, steps = made.run("1B_rank4"), [(0.2, 2.0), (0.2, 2.0), (None, 9.0)]
    for share, (wait, wanted) in ((1.0, (10.0, ["10%"])), (0.4, (4.0, []))):
        rows = [replace(STEP, seconds=s, data_seconds=None if w is None else w * share) for w, s in steps]
        waited = data_wait(rows)
        assert isinstance(waited, Quantity)
        assert waited.value == pytest.approx(wait)
        issues = build_report(made.gathered([replace(run, data_wait=waited)])).issues
        assert [each.text.split()[0] for each in issues if each.title == "training waited for images"] == wanted
    assert data_wait([STEP]) == Missing(missing="no images were read")
