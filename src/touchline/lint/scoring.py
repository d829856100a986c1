"""Trial of a scorer, a plain function (output, target) -> score, on made-up answers, and the rules on its result.

The made-up answers are right, empty, those of other items, the first half of the right ones, or nonsense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from touchline.core.finding import Location, Severity
from touchline.experiment.tasks.protocol import MetricField, Task
from touchline.lint.rule import Violation, rule

ProbeKind = Literal["right", "formatted", "empty", "shuffled", "truncated", "wrong"]
"""Kind of output: own target; formatted target; empty; another item's target; half the target; nonsense."""
ScorerKind = Literal["ready-made", "function", "inspect"]
"""Origin of a scorer: a task of touchline; a function of (output, target); an Inspect task."""

FULL = 0.99
"""Minimum score that counts as full marks."""
FORMS = ("ANSWER: {}", "Answer: {}", "\\boxed{{{}}}", "#### {}", "<answer>{}</answer>")
"""Forms in which scorers look for an answer."""
NONSENSE = "zqxv 7301 jkwp"
"""Answer that is right for no item."""
_LONG_ENOUGH = 6
"""Minimum number of characters from which half a word is distinguished from the whole."""
PROBED_ITEMS = 24
"""Number of items that are tried, from the first on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeUp:
    """Output to be scored."""

    kind: ProbeKind
    item: int
    output: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Output with the scorer's result."""

    kind: ProbeKind
    item: int
    output: str
    target: str
    score: float | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringView:
    """Scorer of a task."""

    task: str
    scorer: str
    kind: ScorerKind
    items: int
    probes: tuple[Probe, ...] = ()
    missing: str | None = None
    where: Location | None = None

    def of(self, *kinds: ProbeKind) -> list[Probe]:
        """Return the probes of some kinds that have a score."""
        return [probe for probe in self.probes if probe.kind in kinds and probe.score is not None]

    def mean(self, *kinds: ProbeKind) -> float | None:
        """Return the mean score of some kinds. None without any."""
        scores = [probe.score for probe in self.of(*kinds) if probe.score is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def lower_is_better(self) -> bool:
        """Return True if right answers score below nonsense, as with distances."""
        right, wrong = self.mean("right"), self.mean("wrong")
        return right is not None and wrong is not None and right < wrong


def made_up_outputs(targets: Sequence[str]) -> list[MadeUp]:
    """Make up outputs for items with these targets, always the same ones."""
    outputs: list[MadeUp] = []
    for item, target in enumerate(targets):

        def add(kind: ProbeKind, output: str, item: int = item) -> None:
            outputs.append(MadeUp(kind=kind, item=item, output=output))

        add("right", target)
        add("empty", "")
        add("wrong", NONSENSE)
        other = next((each for each in (*targets[item + 1 :], *targets[:item]) if plain(each) != plain(target)), None)
        if other is not None:
            add("shuffled", other)
        half = first_half(target)
        if half is not None:
            add("truncated", half)
        for form in FORMS if item < 3 else ():
            add("formatted", form.format(target))
    return outputs


def probes_of(task: Task, targets: Sequence[str], *, items: int | None = None) -> list[ScoringView]:
    """Try a ready-made task's scorers on made-up outputs. Return one view per score.

    Args:
        items: items of the evaluation, where `targets` are only the first of them.
    """

    def scorer(field: MetricField) -> Callable[[str, str], float]:
        return lambda output, target: float(getattr(task.score(output, target), field))

    scorers = {field: scorer(field) for _, field in task.metrics}
    count = len(targets) if items is None else items
    return [
        ScoringView(task=task.name, scorer=name, kind="ready-made", items=count, probes=tried(score, targets))
        for name, score in scorers.items()
    ]


def tried(score: Callable[[str, str], float], targets: Sequence[str]) -> tuple[Probe, ...]:
    """Try a function of (output, target) on made-up outputs. Exceptions are recorded."""
    return tuple(_tried(score, made, targets[made.item]) for made in made_up_outputs(targets[:PROBED_ITEMS]))


def plain(text: str) -> str:
    """Normalize a text without case, white space, punctuation and signs, to compare answers.

    Coarser than scorers are: what is the same here is never called another answer.
    """
    return "".join(letter for letter in text.casefold() if letter.isalnum()) or text.strip()


def first_half(target: str) -> str | None:
    """Return the first half of an answer, by words or characters. None if too little would be left or missing."""
    words, bare = target.split(), target.strip()
    if len(words) > 2:
        half = " ".join(words[: len(words) // 2])
    else:
        half = bare[: len(bare) // 2] if len(bare) >= _LONG_ENOUGH else ""
    # The removed part must be more than punctuation, which scorers may ignore.
    lost = any(letter.isalnum() for letter in bare[len(half) :])
    return half if half.strip() and lost and plain(half) != plain(target) else None


def shown(probe: Probe) -> str:
    """Describe a probe for a message."""
    return f"{probe.output[:60]!r} for {probe.target[:60]!r}"


def each_kind(view: ScoringView, kind: ProbeKind) -> Iterator[Probe]:
    """Return the probes of a kind with full marks."""
    return (probe for probe in view.of(kind) if probe.score is not None and probe.score >= FULL)


def _tried(score: Callable[[str, str], float], made: MadeUp, target: str) -> Probe:
    value: float | None = None
    error: str | None = None
    try:
        value = float(score(made.output, target))
    except Exception as fault:  # noqa: BLE001 (a scorer is foreign code; any exception is recorded)
        error = f"{type(fault).__name__}: {fault}"[:200]
    return Probe(kind=made.kind, item=made.item, output=made.output, target=target, score=value, error=error)


_SOME = 0.1
"""Share of made-up answers with full marks from which a scorer is too lenient."""
_WRONG: dict[ProbeKind, str] = {
    "wrong": "nonsense",
    "shuffled": "the answer of another item",
    "truncated": "the first half of an answer",
}


@rule("EV201", Severity.ERROR)
def _empty_answers_score(view: ScoringView) -> Iterator[Violation]:
    if view.lower_is_better:
        return
    empty = [probe for probe in view.of("empty") if probe.target.strip()]
    scored = [probe for probe in empty if (probe.score or 0) > 0]
    if scored:
        mean = sum(probe.score or 0 for probe in empty) / len(empty)
        yield Violation(
            f"{_name(view)}: an empty answer scores {mean:.2f} on average, expected 0 (above 0 for"
            f" {len(scored)} of {len(empty)} items, for example {shown(scored[0])})",
            view.where,
            "score an empty answer zero first",
        )


@rule("EV206", Severity.WARNING)
def _right_answers_fail(view: ScoringView) -> Iterator[Violation]:
    if view.lower_is_better:
        return
    right = [probe for probe in view.of("right") if probe.target.strip()]
    wrong = [probe for probe in right if not _full(probe)]
    # A scorer may want its answer in a form, such as `ANSWER: x`.
    if wrong and not (len(wrong) == len(right) and any(each_kind(view, "formatted"))):
        yield Violation(
            f"{_name(view)}: {len(wrong)} of {len(right)} targets do not score as right answers,"
            f" for example {shown(wrong[0])} ({wrong[0].score:g})",
            view.where,
            severity=None if view.kind == "inspect" else Severity.ERROR,
        )


@rule("EV207", Severity.ERROR)
def _wrong_answers_score(view: ScoringView) -> Iterator[Violation]:
    if view.lower_is_better:
        return
    for kind, what in _WRONG.items():
        scored, tried = list(each_kind(view, kind)), view.of(kind)
        if scored and len(scored) > _SOME * len(tried):
            yield Violation(
                f"{_name(view)}: {what} is right for {len(scored)} of {len(tried)} items,"
                f" for example {shown(scored[0])}",
                view.where,
                severity=None if kind == "wrong" else Severity.WARNING,
            )


@rule("EV208", Severity.ERROR)
def _scorer_raises(view: ScoringView) -> Iterator[Violation]:
    raised = [probe for probe in view.probes if probe.error is not None]
    if raised:
        yield Violation(
            f"{_name(view)}: the scorer raises on {len(raised)} of {len(view.probes)} answers,"
            f" for example on {shown(raised[0])} ({raised[0].error})",
            view.where,
        )


@rule("EV217", Severity.INFO)
def _untested_scorer(view: ScoringView) -> Iterator[Violation]:
    missing = "the evaluation has no items" if view.items == 0 and view.missing is None else view.missing
    if missing is not None:
        yield Violation(f"not checked ({missing}): the scorer of {_name(view)}", view.where)


def _name(view: ScoringView) -> str:
    return view.task if view.scorer == view.task else f"{view.task}, scorer {view.scorer}"


def _full(probe: Probe) -> bool:
    return probe.score is not None and probe.score >= FULL
