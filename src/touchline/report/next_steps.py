"""Next steps, computed: missing results, suspicious results, and ways to settle open comparisons.

Each step gives the numbers that justify it. Commands are relative to the experiment's folder.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from touchline.core.status import RunStatus, TrainingOutcome
from touchline.core.text import join_names
from touchline.core.units import plural
from touchline.report.appendix import evaluation_by_hand, every_epoch, with_setting
from touchline.report.facts import answer_counts, is_asked_about, is_base_control, lowest, risen
from touchline.report.formatting import relative, scale_of
from touchline.report.next_design import design_steps
from touchline.report.report import AnswerCounts
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult, StepCurves
from touchline.statistics.conclusions import Analysis, NextStep

_FALLING = 0.99
"""Ratio of the last validation loss to the one before it, below which the loss is still falling."""
_VANISHED = 0.05
"""Share of its peak below which a learning rate has almost no effect."""
_MANY, _FLOOR = 0.05, 0.05
"""Thresholds for inspection: share of answers that are empty, truncated or failed, and a low score."""


def next_steps(
    gathered: ReportInputs, analyses: Sequence[Analysis], decided: Sequence[NextStep] = ()
) -> tuple[NextStep, ...]:
    """Return the next steps, the most useful first: those of a strategy are `decided`."""
    main = analyses[0] if analyses else None
    found = [*decided, *_unfinished(gathered), *_answers(gathered, main), *_checkpoints(gathered), *_controls(gathered)]
    found += design_steps(gathered, main)
    return (*found, *_epochs(gathered))


def _unfinished(gathered: ReportInputs) -> Iterator[NextStep]:
    planned = gathered.plan is not None
    diverged = () if gathered.strategy is None else gathered.strategy.diverged
    left = [
        run.name
        for run in gathered.runs
        if run.outcome is not TrainingOutcome.COMPLETE
        and run.cut_after_step is None
        and run.name not in diverged
        and not run.status.is_complete
    ]
    failed = [run.name for run in gathered.runs if run.status is RunStatus.FAILED]
    if failed:
        log = shlex.quote(failed[0])
        yield NextStep(
            title="Find out why runs failed",
            why=f"{join_names(failed)} failed.",
            command=f"tail -n 40 {log}/slurm-*.out",
        )
    if left and planned and (gathered.strategy is None or gathered.strategy.has_ended):
        why = f"{plural(len(left), 'run')} of {len(gathered.runs)} not complete: {join_names(left)}."
        yield NextStep(title="Finish what is not finished", why=why, command="touchline resume .")
    open_ = [
        run.name
        for run in gathered.runs
        if is_asked_about(run) and run.outcome is TrainingOutcome.COMPLETE and not run.evaluations
    ]
    if open_:
        yield NextStep(
            title="Evaluate what is trained",
            why=f"{join_names(open_)}: trained and not evaluated. Begin with the last epoch of each; losses alone do "
            "not say which run does the task better.",
            command="touchline evaluate ." if planned else evaluation_by_hand(gathered, open_[0]),
        )


def _answers(gathered: ReportInputs, analysis: Analysis | None) -> Iterator[NextStep]:
    """Yield suspicious answers to inspect before using any number."""
    if analysis is None:
        return
    spoiled = [
        answer_count
        for answer_count in answer_counts(gathered.runs)
        if answer_count.answers and _spoiled(answer_count) / answer_count.answers > _MANY
    ]
    asked = {run.name for run in gathered.runs if is_asked_about(run)}
    own = [score for score in analysis.scores if score.run in asked]
    floor = own and all(score.value <= _FLOOR for score in own)
    if not spoiled and not floor:
        return
    why = []
    if spoiled:
        worst = max(spoiled, key=lambda each: _spoiled(each) / each.answers)
        why.append(
            f"{worst.run} ({worst.checkpoint}): {_spoiled(worst):,} of {plural(worst.answers, 'answer')} empty, cut or "
            f"not generated{f', and {len(spoiled) - 1} evaluations more with many' if len(spoiled) > 1 else ''}."
        )
    if floor:
        best = scale_of(analysis).value(max(score.value for score in own))
        why.append(f"No fine-tuned run scores above {best}: at the bottom of the scale no difference can show.")
    name = shlex.quote(f"{(spoiled[0].run if spoiled else own[0].run)}/eval")
    yield NextStep(title="Read the answers", why=" ".join(why), command=f"inspect view --log-dir {name}")


def _spoiled(each: AnswerCounts) -> int:
    # An answer can be both empty and cut.
    return min(each.answers, each.empty + each.errors + (each.cut or 0))


def _checkpoints(gathered: ReportInputs) -> Iterator[NextStep]:
    broken = [
        f"{checkpoint.run}/{checkpoint.name}"
        for checkpoint in gathered.verification.checkpoints
        if not checkpoint.sound
    ]
    if broken:
        yield NextStep(
            title="Check corrupt checkpoints",
            why=f"{join_names(broken)}: reading every value, and not headers alone, shows what else is wrong."
            if gathered.verification.depth == "headers"
            else f"{join_names(broken)} cannot be loaded as they are.",
            command="touchline report . --deep" if gathered.verification.depth == "headers" else None,
        )


def _controls(gathered: ReportInputs) -> Iterator[NextStep]:
    asked = [run for run in gathered.runs if is_asked_about(run)]
    bases = {run.model for run in gathered.runs if is_base_control(run)}
    without = [model for model in dict.fromkeys(run.model for run in asked) if model not in bases]
    if without:
        yield NextStep(
            title="Evaluate the base models",
            why=f"{join_names(without)}: no untrained control was evaluated, so that the gain over the base model "
            "is unknown.",
            command=None if gathered.plan is None else with_setting(gathered.plan, "controls", "[base]"),
        )


def _epochs(gathered: ReportInputs) -> Iterator[NextStep]:
    falling = [run for run in gathered.runs if _still_falling(run)]
    if falling:
        run = falling[0]
        last, before = run.validation_losses[-1], run.validation_losses[-2]
        also = f" So was that of {plural(len(falling) - 1, 'other run')}." if len(falling) > 1 else ""
        yield NextStep(
            title="Train for longer",
            why=f"The validation loss of {run.name} was still falling at the end. It is {last.loss:.4g} at "
            f"step {last.step:,}, {relative(last.loss, before.loss)} than at step {before.step:,}.{also} More epochs, "
            "or a larger dataset, give it more steps.",
        )
        yield from _schedule(gathered, falling)
    rising = [run for run in gathered.runs if risen(run) is not None and len(run.evaluations) < 2]
    if rising:
        names = [run.name for run in rising]
        yield NextStep(
            title="Compare the epochs",
            why=f"The validation loss rose again in {join_names(names)}: an earlier epoch may do better. Evaluate "
            "every epoch, and choose by validation loss.",
            command=None if gathered.plan is None else every_epoch(gathered.plan),
        )


def _schedule(gathered: ReportInputs, falling: Sequence[RunResult]) -> Iterator[NextStep]:
    """Yield another schedule, if the loss was still falling while the learning rate was almost zero."""
    ended = [
        run
        for run in falling
        if isinstance(run.curves, StepCurves)
        and run.curves.learning_rate[-1] < _VANISHED * max(run.curves.learning_rate)
    ]
    if ended:
        rates = ended[0].curves.learning_rate if isinstance(ended[0].curves, StepCurves) else ()
        plan = gathered.plan
        tried = {run.train.schedule for run in plan.runs if run.train is not None} if plan is not None else set()
        others = [each for each in ("cosine", "constant", "linear") if each not in tried]
        named = f" Tried: {join_names(sorted(tried))}; not tried: {join_names(others)}." if tried and others else ""
        yield NextStep(
            title="Try another learning rate schedule",
            why=f"The learning rate of {ended[0].name} fell from {max(rates):.3g} to {rates[-1]:.2g} while its "
            f"validation loss was still falling.{named}",
            command=with_setting(plan, "train.schedule", others[0]) if plan is not None and tried and others else None,
        )


def _still_falling(run: RunResult) -> bool:
    if run.outcome is not TrainingOutcome.COMPLETE or len(run.validation_losses) < 3:
        return False
    last, before = run.validation_losses[-1], run.validation_losses[-2]
    best = lowest(run.validation_losses)
    return best is not None and best.step == last.step and before.step > 0 and last.loss < _FALLING * before.loss
