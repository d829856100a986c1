"""Rules: a scorer gives right answers full marks, and none to empty or wrong answers."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.lint.rule import Violation, rule
from touchline.lint.scoring import FULL, Probe, ProbeKind, ScoringView, each_kind, shown

_SOME = 0.1
"""Share of made-up answers with full marks from which a scorer is too lenient."""
_WRONG: dict[ProbeKind, str] = {
    "wrong": "nonsense",
    "shuffled": "the answer of another item",
    "truncated": "the first half of an answer",
}


@rule("EV201", Severity.ERROR)
def empty_answers_score(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that gives an empty answer more than zero."""
    if view.lower_is_better:
        return
    empty = [probe for probe in view.of("empty") if probe.target.strip()]
    scored = [probe for probe in empty if (probe.score or 0) > 0]
    if scored:
        mean = sum(probe.score or 0 for probe in empty) / len(empty)
        yield Violation(
            message=f"{_name(view)}: an empty answer scores {mean:.2f} on average, and above zero for {len(scored)} of"
            f" {len(empty)} items, for example {shown(scored[0])}; expected 0",
            at=view.where,
            hint="score an empty answer zero first",
        )


@rule("EV206", Severity.WARNING)
def right_answers_fail(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that does not give the target itself full marks."""
    if view.lower_is_better:
        return
    right = [probe for probe in view.of("right") if probe.target.strip()]
    wrong = [probe for probe in right if not _full(probe)]
    # A scorer may want its answer in a form, such as `ANSWER: x`.
    if wrong and not (len(wrong) == len(right) and any(each_kind(view, "formatted"))):
        yield Violation(
            message=f"{_name(view)}: of {len(right)} targets given as answers {len(wrong)} do not score as right,"
            f" for example {shown(wrong[0])}: {wrong[0].score:g}",
            at=view.where,
            severity=None if view.kind == "inspect" else Severity.ERROR,
        )


@rule("EV207", Severity.ERROR)
def wrong_answers_score(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that gives nonsense, other items' answers or half an answer full marks."""
    if view.lower_is_better:
        return
    for kind, what in _WRONG.items():
        scored, tried = list(each_kind(view, kind)), view.of(kind)
        if scored and len(scored) > _SOME * len(tried):
            yield Violation(
                message=f"{_name(view)}: {what} is right for {len(scored)} of {len(tried)} items,"
                f" for example {shown(scored[0])}",
                at=view.where,
                severity=None if kind == "wrong" else Severity.WARNING,
            )


@rule("EV208", Severity.ERROR)
def scorer_raises(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that raises on an answer."""
    raised = [probe for probe in view.probes if probe.error is not None]
    if raised:
        yield Violation(
            message=f"{_name(view)}: the scorer raises on {len(raised)} of {len(view.probes)} answers,"
            f" for example on {shown(raised[0])}: {raised[0].error}",
            at=view.where,
        )


@rule("EV212", Severity.WARNING)
def task_reads_other_data(view: ScoringView) -> Iterator[Violation]:
    """Report a task whose items are not the run's test items."""
    if view.seen_in is None:
        return
    seen = dict(view.seen_in)
    tested = len({probe.item for probe in view.probes})
    if not tested or seen.get("test"):
        return
    other = next((name for name, count in view.seen_in if count), None)
    if other is not None:
        yield Violation(
            message=f"{view.task}: {seen[other]} of the first {tested} items are rows of the {other} split of"
            f" {view.data}, none of its test split",
            at=view.where,
            severity=Severity.ERROR if other == "train" else None,
        )
    else:
        yield Violation(message=f"{view.task}: none of the first {tested} items is in {view.data}", at=view.where)


@rule("EV217", Severity.INFO)
def scorer_not_tried(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that could not be tried here."""
    missing = "the evaluation has no items" if view.items == 0 and view.missing is None else view.missing
    if missing is not None:
        yield Violation(message=f"not checked ({missing}): the scorer of {_name(view)}", at=view.where)


def _name(view: ScoringView) -> str:
    return view.task if view.scorer == view.task else f"{view.task}, scorer {view.scorer}"


def _full(probe: Probe) -> bool:
    return probe.score is not None and probe.score >= FULL
