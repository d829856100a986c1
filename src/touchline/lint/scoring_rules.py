"""Rules: a scorer gives right answers full marks, and none to empty or wrong answers."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.finding import Severity
from touchline.lint.rule import Violation, rule
from touchline.lint.scoring import FULL, Probe, ProbeKind, ScoringView, each_kind, plain, shown

_SOME = 0.1
"""Share of made-up answers with full marks from which a scorer is too lenient."""
_MORE = 0.2
"""Extra share that one answer for all may reach. A scorer that searches for the target finds `no` in `none`."""
_ONE_ANSWER = 0.9
"""Share of items with the same target from which the task has only one answer."""
_FEW_ITEMS = 20
"""Number of items below which a single item is five points or more."""
_COMPARED = 5
"""Minimum number of items for reporting a share."""


@rule("EV201", Severity.ERROR)
def empty_answers_score(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that gives an empty answer more than zero."""
    if view.lower_is_better:
        return
    empty = [probe for probe in view.of("empty") if probe.target.strip()]
    scored = [probe for probe in empty if probe.score]
    if scored and any((probe.score or 0) > 0 for probe in scored):
        mean = sum(probe.score or 0 for probe in empty) / len(empty)
        yield Violation(
            message=f"{_name(view)}: an empty answer scores {mean:.2f} on average, and above zero for {len(scored)} of"
            f" {len(empty)} items, for example {shown(scored[0])}; expected 0",
            at=view.where,
            hint="score an empty answer zero first",
        )


@rule("EV202", Severity.WARNING)
def constant_answer_scores(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that gives one constant answer more than its share of the targets."""
    if view.lower_is_better:
        return
    for constant in dict.fromkeys(probe.output for probe in view.of("constant")):
        probes = [probe for probe in view.of("constant") if probe.output == constant]
        share = sum(plain(probe.target) == plain(constant) for probe in probes) / len(probes)
        full = sum(1 for probe in probes if _full(probe)) / len(probes)
        if len(probes) >= _COMPARED and full > share + _MORE:
            yield Violation(
                message=f"{_name(view)}: the answer {constant[:60]!r} for every item is right {full:.0%} of the time,"
                f" and {share:.0%} of the targets are that",
                at=view.where,
            )
            return


@rule("EV203", Severity.WARNING)
def constant_target(view: ScoringView) -> Iterator[Violation]:
    """Report items that nearly all have the same target."""
    targets = [plain(probe.target) for probe in view.probes if probe.kind == "empty"]
    if len(targets) < _COMPARED:
        return
    most = max(set(targets), key=targets.count)
    share = targets.count(most) / len(targets)
    if share >= _ONE_ANSWER:
        example = next(probe.target for probe in view.probes if plain(probe.target) == most)
        yield Violation(
            message=f"{view.task}: {share:.0%} of the first {len(targets)} targets are {example[:60]!r};"
            " an answer that never changes would be right as often",
            at=view.where,
        )


@rule("EV204", Severity.WARNING)
def other_answers_score(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that gives other items' answers full marks."""
    yield from _too_kind(view, "shuffled", "the answer of another item is right")


@rule("EV205", Severity.WARNING)
def truncated_answers_score(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that gives the first half of an answer full marks."""
    yield from _too_kind(view, "truncated", "the first half of an answer is right")


@rule("EV206", Severity.WARNING)
def right_answers_fail(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that does not give the target itself full marks."""
    if view.lower_is_better:
        return
    right = [probe for probe in view.of("right") if probe.target.strip()]
    wrong = [probe for probe in right if not _full(probe)]
    if not wrong or (len(wrong) == len(right) and _form(view) is not None):
        return
    yield Violation(
        message=f"{_name(view)}: of {len(right)} targets given as answers {len(wrong)} do not score as right,"
        f" for example {shown(wrong[0])}: {wrong[0].score:g}",
        at=view.where,
        severity=None if view.kind == "inspect" else Severity.ERROR,
    )


@rule("EV207", Severity.ERROR)
def nonsense_scores(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that gives nonsense full marks."""
    if view.lower_is_better:
        return
    scored = list(each_kind(view, "wrong"))
    tried = view.of("wrong")
    if scored and len(scored) > _SOME * len(tried):
        yield Violation(
            message=f"{_name(view)}: nonsense is right for {len(scored)} of {len(tried)} items,"
            f" for example {shown(scored[0])}",
            at=view.where,
        )


@rule("EV208", Severity.ERROR)
def scorer_raises(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that raises on an answer."""
    raised = [probe for probe in view.probes if probe.error is not None]
    if raised:
        first = raised[0]
        yield Violation(
            message=f"{_name(view)}: the scorer raises on {len(raised)} of {len(view.probes)} answers,"
            f" for example on {_KINDS[first.kind]}, {shown(first)}: {first.error}",
            at=view.where,
        )


@rule("EV209", Severity.WARNING)
def scores_out_of_range(view: ScoringView) -> Iterator[Violation]:
    """Report scores outside 0 to 1."""
    outside = [probe for probe in view.probes if probe.score is not None and not 0 <= probe.score <= 1]
    if outside:
        yield Violation(
            message=f"{_name(view)}: scores outside 0 to 1, for example {outside[0].score:g} of {shown(outside[0])}",
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


@rule("EV214", Severity.ERROR)
def no_items(view: ScoringView) -> Iterator[Violation]:
    """Report an evaluation without items."""
    if view.items == 0 and view.missing is None:
        yield Violation(message=f"{view.task}: the evaluation has no items", at=view.where)


@rule("EV215", Severity.WARNING)
def too_few_items(view: ScoringView) -> Iterator[Violation]:
    """Report an evaluation with too few items to show any difference."""
    if 0 < view.items < _FEW_ITEMS:
        yield Violation(
            message=f"{view.task}: {view.items} items, so that one of them is {100 / view.items:.0f} points",
            at=view.where,
        )


@rule("EV217", Severity.INFO)
def scorer_not_tried(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that could not be tried here."""
    if view.missing is not None:
        yield Violation(message=f"not checked ({view.missing}): the scorer of {_name(view)}", at=view.where)


@rule("EV219", Severity.INFO)
def required_answer_format(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that wants answers in a form such as `ANSWER: x`."""
    form = _form(view)
    bare = [probe for probe in view.of("right") if probe.target.strip()]
    if form is not None and bare and not any(_full(probe) for probe in bare) and not view.lower_is_better:
        yield Violation(
            message=f"{_name(view)}: the bare answer scores nothing, in the form {form.output[:60]!r} it is right",
            at=view.where,
        )


@rule("EV230", Severity.WARNING)
def inverted_scorer(view: ScoringView) -> Iterator[Violation]:
    """Report a scorer that gives the right answer 0 and all others 1."""
    right, others = view.of("right"), view.of("wrong", "empty")
    if len(right) < _COMPARED or not others:
        return
    if all(probe.score == 0 for probe in right if probe.target.strip()) and all(probe.score == 1 for probe in others):
        yield Violation(
            message=f"{_name(view)}: every right answer scores 0, and nonsense and empty answers score 1",
            at=view.where,
            hint="== and not !=",
        )


_KINDS: dict[ProbeKind, str] = {
    "right": "the target itself",
    "formatted": "the target in a form",
    "empty": "an empty answer",
    "constant": "a frequent target",
    "shuffled": "another item's answer",
    "truncated": "half an answer",
    "wrong": "nonsense",
}


def _name(view: ScoringView) -> str:
    return view.task if view.scorer == view.task else f"{view.task}, scorer {view.scorer}"


def _full(probe: Probe) -> bool:
    return probe.score is not None and probe.score >= FULL


def _form(view: ScoringView) -> Probe | None:
    return next(each_kind(view, "formatted"), None)


def _too_kind(view: ScoringView, kind: ProbeKind, what: str) -> Iterator[Violation]:
    if view.lower_is_better:
        return
    scored, tried = list(each_kind(view, kind)), view.of(kind)
    if scored and len(scored) > _SOME * len(tried):
        yield Violation(
            message=f"{_name(view)}: {what} for {len(scored)} of {len(tried)} items, for example {shown(scored[0])}",
            at=view.where,
        )
