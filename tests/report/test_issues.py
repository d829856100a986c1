"""Issues: what went wrong is told once, with its cause."""

from dataclasses import replace

import pytest
from tests.api.made_runs import STEP
from tests.report import made_gathered as made

from touchline.core.finding import Severity
from touchline.core.notes import Note, NoteCode
from touchline.core.quantity import Missing, Quantity
from touchline.core.status import RunStatus, TrainingOutcome
from touchline.report.build import build_report
from touchline.report.issues import NO_EVALUATION
from touchline.results.figures import data_wait
from touchline.results.report_inputs import Issue, IssueRole
from touchline.results.verification_types import CheckpointFault, CheckpointFile, CheckpointKind

pytestmark = pytest.mark.planning


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
