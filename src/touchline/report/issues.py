"""Issues and notes: failures, missing results, deviations from the plan. Exit codes decide nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from touchline.core.finding import NoteCode, Severity
from touchline.core.quantity import Missing, Quantity, finite
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.core.text import capital
from touchline.core.units import bare, percent, plural
from touchline.experiment.plan import Plan
from touchline.experiment.runs import RunKind
from touchline.plan.sections import revision_text
from touchline.report.facts import AnswerCounts, is_failed_exit, not_finite
from touchline.results.report_inputs import Issue, IssueRole, ReportInputs
from touchline.results.run_result import AttemptResult, RunResult
from touchline.results.verification_types import Verification, VerifiedCheckpoint
from touchline.statistics.conclusions import Analysis

FAILED_EXIT = "failed exit, complete training"
NO_EVALUATION = "no evaluation"
CUT = "cut by the strategy"
NOTE = "note"
EXPERIMENT = "experiment"
_WAITING_PERCENT = 5.0
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
_UNDER_WAY = {
    RunStatus.PLANNED: "not started",
    RunStatus.PREPARED: "not started",
    RunStatus.QUEUED: "in the queue",
    RunStatus.RUNNING: "at work",
    RunStatus.PAUSED: "paused",
}
_REPORTED_ELSEWHERE = frozenset(
    {
        NoteCode.FAILED_EXIT,
        NoteCode.CHECKPOINT_UNUSABLE,
        NoteCode.NOT_COMPARED,
        NoteCode.TRAINED_ON,
        NoteCode.ANSWERS_NOT_SCORED,
    }
)
"""Notes that another issue already reports with its numbers, or that are part of the provenance."""
_REPORTED_BY_ATTEMPTS = frozenset({NoteCode.ATTEMPTS_FAILED, NoteCode.ATTEMPTS_KILLED})
_WARNINGS = {
    NoteCode.NOT_EVALUATED: "an evaluation does not count",
    NoteCode.EVALUATIONS_LEFT_OUT: "evaluations are left out",
    NoteCode.METRICS_UNREAD: "metrics cannot be read",
}
"""Titles of issues from notes that are warnings."""


def _issue(
    weight: Severity, subject: str, title: str, text: str, role: IssueRole | None = None, where: str | None = None
) -> Issue:
    return Issue(weight=weight, subject=subject, title=title, text=text, role=role, where=where)


def issues(gathered: ReportInputs, analyses: Sequence[Analysis], answers: Sequence[AnswerCounts]) -> tuple[Issue, ...]:
    """Return all issues, the most severe first, then in the order of the runs."""
    computed = [
        *(issue for run in gathered.runs for issue in _of_run(run)),
        *checkpoint_issues(gathered.verification, {run.name: run for run in gathered.runs}),
        *_of_comparisons(analyses),
        *_of_answers(answers),
        *_of_plan(gathered.plan),
        *(issue for run in gathered.runs for issue in (*_of_prompts(run), *_of_form(run))),
        *(issue for run in gathered.runs for issue in _notes(run)),
    ]
    known = {(issue.subject, issue.title) for issue in gathered.issues}
    found = [*gathered.issues, *(issue for issue in computed if (issue.subject, issue.title) not in known)]
    explained = {issue.subject for issue in found if issue.role is IssueRole.EXPLAINS_NO_SCORE}
    unfinished = {issue.subject for issue in gathered.issues if issue.role is IssueRole.EXPLAINS_NOT_DONE}
    collected = [
        issue
        for issue in found
        if (issue.role is not IssueRole.NO_SCORE or issue.subject not in explained)
        and (issue.role is not IssueRole.NOT_DONE or issue.subject not in unfinished)
    ]
    return tuple(sorted(collected, key=lambda issue: _ORDER[issue.weight]))


def _of_run(run: RunResult) -> Iterator[Issue]:
    yield from _standing(run)
    yield from _attempts(run)
    if run.kind is RunKind.FINE_TUNED and run.outcome is TrainingOutcome.COMPLETE:
        yield from _measured(run)
    if bad := not_finite(run):
        first = next(
            point.step
            for point in (*run.train_losses, *run.validation_losses)
            if point.loss != point.loss or abs(point.loss) == float("inf")
        )
        text = (
            f"{plural(bad, 'loss', 'losses')} of the run {'is' if bad == 1 else 'are'} NaN or infinite, the first "
            f"at step {first:,}. The training diverged, and a score of this run is that of broken weights."
        )
        yield _issue(Severity.ERROR, run.name, "losses that are not numbers", text)
    waited = finite(run.data_wait)
    if isinstance(waited, Quantity) and waited.value > _WAITING_PERCENT:
        text = f"{waited.value:.0f}% of the time of its steps. More train.dataloader_workers read more images ahead."
        yield _issue(Severity.WARNING, run.name, "training waited for images", text)


def _of_prompts(run: RunResult) -> Iterator[Issue]:
    for record in (*run.evaluations[-1:], *run.other_evaluations):
        if record.prompt_difference is not None and run.kind is RunKind.FINE_TUNED:
            yield _issue(
                Severity.WARNING if record in run.evaluations else Severity.INFO,
                run.name,
                "a task asks otherwise than training",
                f"{record.label}: {record.prompt_difference}. The run is scored on prompts it was not taught.",
            )


def _of_form(run: RunResult) -> Iterator[Issue]:
    """Yield that an untrained model's answers do not have the form of the right ones, which alone may cost its score.

    An answer more than twice as long as every right one counts as another form.
    """
    samples = run.evaluations[-1].samples if run.kind is RunKind.CONTROL and run.evaluations else ()
    longest = max((len(sample.target.strip()) for sample in samples), default=0)
    other = [sample for sample in samples if len(sample.output.strip()) > 2 * longest and not sample.score]
    if longest and 2 * len(other) > len(samples):
        text = (
            f"{len(other):,} of {len(samples):,} answers are wrong and more than twice as long as every right "
            "one. Its score may show the form of its answers, not the task; the control `shuffled` separates the two."
        )
        yield _issue(Severity.INFO, run.name, "answers of another form", text)


def _measured(run: RunResult) -> Iterator[Issue]:
    if any(note.code is NoteCode.METRICS_UNREAD for note in run.notes):
        return
    if run.steps_done is not None and run.steps_planned is not None and run.steps_done < run.steps_planned:
        text = (
            f"{run.steps_done:,} of {run.steps_planned:,} steps are on record; the training's own marker says "
            "that it is complete."
        )
        yield _issue(Severity.WARNING, run.name, "fewer steps on record than planned", text)
    lacking: dict[str, list[str]] = {}
    for what, value in (("training", run.final_train_loss), ("validation", run.final_val_loss)):
        if isinstance(value, Missing):
            lacking.setdefault(value.missing, []).append(what)
    for why, names in lacking.items():
        title = f"no {' or '.join(names)} loss"
        yield _issue(Severity.INFO, run.name, title, f"{capital(why)}.")


def _standing(run: RunResult) -> Iterator[Issue]:
    """Yield the status of the run, unless it is simply complete. A cut run has ended as decided."""
    if run.cut_after_step is not None:
        text = (
            f"Cut after step {run.cut_after_step:,} of {run.steps_planned or 0:,} by its validation loss, as the "
            "strategy planned. Its checkpoints are kept. It was not evaluated, and no test includes it."
        )
        yield _issue(Severity.INFO, run.name, CUT, text)
        return
    steps = _steps(run)
    last = run.attempt_list[-1] if run.attempt_list else None
    how = "" if last is None else f" Its last attempt: {last.state.value}, {last.reason}."
    is_control, ended_well = run.kind is RunKind.CONTROL, last is not None and last.state is JobState.COMPLETED
    if is_failed_exit(run) and run.job_state is not None:
        text = (
            f"The job ended as {run.job_state.value}, but the training is complete{steps}: its checkpoints and "
            "its scores count. The exit code is reported, not believed."
        )
        yield _issue(Severity.INFO, run.name, FAILED_EXIT, text)
    if run.job_state is JobState.UNKNOWN and run.outcome is not TrainingOutcome.COMPLETE:
        text = "Neither its files nor the scheduler show whether its job still runs; nothing is concluded from that."
        yield _issue(Severity.WARNING, run.name, "job state unknown", text)
    match run.status:
        case RunStatus.FAILED:
            what = "evaluation" if is_control else "training"
            text = f"The {what} failed{steps}.{how} It has no result."
            role = None if is_control else IssueRole.NOT_DONE
            yield _issue(Severity.ERROR, run.name, f"{what} failed", text, role=role)
        case RunStatus.INTERRUPTED if ended_well and run.steps_done is not None and run.steps_done == run.steps_planned:
            text = (
                "Every step is done and its job ended well, but its last checkpoint is no longer valid. The training "
                "does not count as complete. `touchline resume` continues from the last valid state."
            )
            title = "last checkpoint lost"
            yield _issue(Severity.WARNING, run.name, title, text, role=IssueRole.NOT_DONE)
        case RunStatus.INTERRUPTED:
            text = f"It was interrupted{steps}.{how} `touchline resume` continues from the saved state."
            title = "interrupted"
            yield _issue(Severity.WARNING, run.name, title, text, role=IssueRole.NOT_DONE)
        case RunStatus.TRAINED:
            text = "The training is complete, but no checkpoint was evaluated: nothing is said of its score."
            title, role = NO_EVALUATION, IssueRole.NO_SCORE
            yield _issue(Severity.WARNING, run.name, title, text, role=role)
        case status if status in _UNDER_WAY:
            begun = run.status not in (RunStatus.PLANNED, RunStatus.PREPARED)
            how = f"is {_UNDER_WAY[status]}{steps}" if begun else "has not been started"
            text = f"The run {how}; it has no result yet."
            yield _issue(Severity.INFO, run.name, _UNDER_WAY[status], text)
        case _:
            pass


def _steps(run: RunResult) -> str:
    if run.steps_planned is None:
        return "" if not run.steps_done else f", {run.steps_done:,} steps done"
    return f", {run.steps_done or 0:,} of {run.steps_planned:,} steps done"


def _attempts(run: RunResult) -> Iterator[Issue]:
    """Yield attempts that failed, in one issue per run. The end of a cut run's last attempt was wanted."""
    ended = run.attempt_list[:-1] if is_failed_exit(run) else run.attempt_list
    if run.cut_after_step is not None:
        ended = ended[:-1]
    bad = [each for each in ended if each.state not in (JobState.COMPLETED, JobState.RUNNING)]
    if not bad:
        return
    total = len(run.attempt_list)
    went_on = run.outcome is TrainingOutcome.COMPLETE or run.cut_after_step is not None
    memory = any(each.state is JobState.OUT_OF_MEMORY for each in bad)
    title = f"attempt ended by {bad[0].state.value}" if len(bad) == 1 else f"{len(bad)} attempts failed"
    after = "The training was completed all the same." if went_on else "The training is not complete."
    if run.cut_after_step is not None:
        after = "It reached the point where it was cut all the same."
    again = " It was planned again with a smaller micro-batch." if memory and any(e.superseded for e in bad) else ""
    text = f"{plural(total, 'attempt')}: {'; '.join(_attempt(each) for each in bad)}.{again} {after}"
    yield _issue(Severity.INFO if went_on else Severity.WARNING, run.name, title, text)


def _attempt(each: AttemptResult) -> str:
    lasted = "" if isinstance(each.seconds, Missing) else f" after {bare(each.seconds)}"
    before = ", planned again since" if each.superseded else ""
    return f"job {each.job_id} {each.state.value}{lasted} ({each.reason}{before})"


def _of_comparisons(analyses: Sequence[Analysis]) -> Iterator[Issue]:
    tasks: dict[tuple[str, str, str], list[str]] = {}
    for analysis in analyses:
        for refusal in analysis.refusals:
            key = (refusal.run, refusal.other, refusal.reason.rstrip("."))
            tasks.setdefault(key, []).append(f"{analysis.task}, {analysis.score}")
    for (run, other, reason), where in tasks.items():
        yield _issue(
            Severity.WARNING, run, f"not compared with {other}", f"{'; '.join(dict.fromkeys(where))}: {reason}."
        )


def _of_answers(answers: Sequence[AnswerCounts]) -> Iterator[Issue]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for answer in answers:
        unread = 0 if answer.parsed is None else answer.answers - answer.errors - answer.parsed
        for number, title, meaning in (
            (answer.errors, "answers not generated", "They count as wrong, in the run and in every comparison."),
            (answer.cut or 0, "answers cut", "They ended at the token limit; a longer one may have been right."),
            (answer.empty, "empty answers", "The model wrote nothing, which counts as wrong."),
            (unread, "answers that could not be read", "The task found no answer in them, which counts as wrong."),
        ):
            if number > 0:
                share = f"{number:,} of {answer.answers:,} ({percent(number / answer.answers)})"
                found.setdefault((answer.run, title, meaning), []).append(
                    f"{answer.task}, {answer.checkpoint}: {share}"
                )
    for (run, title, meaning), where in found.items():
        yield _issue(Severity.WARNING, run, title, f"{'; '.join(where)}. {meaning}")


def _of_plan(plan: Plan | None) -> Iterator[Issue]:
    if plan is None:
        return
    for revision in plan.revisions[1:]:
        if not revision.runs:
            # Only the predictions differ, as after every finished run.
            continue
        text = f"Revision {revision.number}: {revision.reason}; {revision_text(revision)}."
        yield _issue(Severity.INFO, EXPERIMENT, f"plan revised on {revision.date}", text, where="plan.json")
    for run in plan.runs:
        if run.accepted:
            settings = ", ".join(f"{key}: {value}" for key, value in run.accepted.items())
            text = f"Accepted as edited, and so no longer those of the design: {settings}."
            yield _issue(
                Severity.INFO, run.name, "settings edited by hand", text, where=f"{run.name}/setup_finetune.yaml"
            )
    if plan.overrides:
        text = f"Given on the command line and not in experiment.yaml: {', '.join(plan.overrides)}."
        yield _issue(Severity.INFO, EXPERIMENT, "overrides in force", text, where="plan.json")
    quantized = [run.name for run in plan.runs if run.train is not None and run.train.quantization != "none"]
    scored = {run.evaluate.quantization for run in plan.runs} - {"none"}
    for quantization in scored:
        text = f"Runs and controls are scored on a base in {quantization}; on the whole one scores may differ."
        yield _issue(Severity.INFO, EXPERIMENT, f"all scores on the {quantization} base", text, where="plan.json")
    if quantized and not scored:
        text = f"Training and validation loss of {', '.join(quantized)} are on the quantized base, scores are not."
        yield _issue(
            Severity.INFO, EXPERIMENT, "quantized runs evaluated on the base in its own dtype", text, where="plan.json"
        )


def _notes(run: RunResult) -> Iterator[Issue]:
    for note in run.notes:
        if note.code in _REPORTED_ELSEWHERE or (run.attempt_list and note.code in _REPORTED_BY_ATTEMPTS):
            continue
        title = _WARNINGS.get(note.code)
        yield _issue(
            Severity.INFO if title is None else Severity.WARNING,
            run.name,
            title or NOTE,
            f"{capital(str(note).rstrip('.'))}.",
            role=IssueRole.EXPLAINS_NO_SCORE if note.code is NoteCode.EVALUATIONS_LEFT_OUT else None,
        )


_CUT, _SIZE = "truncated", "wrong-size"  # Codes of problems. A truncated file has the wrong size too


def checkpoint_issues(verification: Verification, runs: Mapping[str, RunResult]) -> Iterator[Issue]:
    """Yield corrupt checkpoints, then those that are missing though planned."""
    for checkpoint in verification.checkpoints:
        if checkpoint.sound:
            continue
        cut = {fault.file for fault in checkpoint.faults if fault.code == _CUT}
        faults = [fault for fault in checkpoint.faults if fault.code != _SIZE or fault.file not in cut]
        shown = "; ".join(
            f"{fault.file}: {fault.message}" if fault.file else capital(fault.message) for fault in faults[:4]
        )
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        if checkpoint.weights_sound:
            copies = {fault.file for fault in faults} <= set(checkpoint.damaged_copies)
            what = "has a damaged copy of" if copies else "lacks a valid file next to"
            again = f"the checkpoint can be used again with that file{_from_another(checkpoint, verification)}"
            yield _issue(
                Severity.WARNING,
                checkpoint.run,
                f"checkpoint {checkpoint.name} {what} its weights",
                f"{shown}{more}. Its weights are valid: the training counts, and "
                f"{'its safetensors files are whole' if copies else again}.",
                where=f"{checkpoint.run}/{checkpoint.name}",
            )
            continue
        scored = " Its score on record is of the weights as they were saved." if _is_scored(checkpoint, runs) else ""
        yield _issue(
            Severity.ERROR,
            checkpoint.run,
            f"checkpoint {checkpoint.name} is corrupt",
            f"{shown}{more}. It does not count as it is.{scored}",
            where=f"{checkpoint.run}/{checkpoint.name}",
        )
    for missing in verification.missing:
        if missing.expected:
            continue
        done = missing.run in runs and runs[missing.run].outcome is TrainingOutcome.COMPLETE
        text = f"{capital(missing.reason)}."
        yield _issue(
            Severity.ERROR if done else Severity.WARNING, missing.run, f"checkpoint {missing.name} is missing", text
        )


def _from_another(checkpoint: VerifiedCheckpoint, verification: Verification) -> str:
    """Return another checkpoint of the run that has all the invalid files."""
    lacking = {fault.file for fault in checkpoint.faults}
    for other in verification.checkpoints:
        if other.run == checkpoint.run and other.sound and lacking <= {file.name for file in other.files}:
            return f", which {other.name} has too"
    return ""


def _is_scored(checkpoint: VerifiedCheckpoint, runs: Mapping[str, RunResult]) -> bool:
    """Return True if an evaluation used the weights that the checkpoint's marker describes."""
    run = runs.get(checkpoint.run)
    weights = {} if run is None else {each.name: each.adapter_sha256 for each in run.checkpoints}
    saved = weights.get(checkpoint.name)
    return (
        run is not None
        and saved is not None
        and any((r.checkpoint, r.adapter_sha256) == (checkpoint.name, saved) for r in run.evaluations)
    )
