"""Labels of a dataset for `task: classification`, counted in its answers, and their problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from touchline.core.finding import Finding, Location, Severity
from touchline.data.datasets import load_dataset, load_examples, split_names
from touchline.experiment.experiment import DataConfig, is_test
from touchline.experiment.labels import LabelSet
from touchline.experiment.tasks.classification import indistinct, label_key, merge_spellings

CODE = "EV304"
LABELS_LIMIT = 500
"""Limit on the number of labels."""
_SHARE = 0.5
"""Limit on the ratio of labels to rows, if there are more than a few."""
_FEW = 20
_SHOWN = 5


def label_set(
    data: DataConfig, base: Path, given: Sequence[str | int] = ()
) -> tuple[LabelSet | None, tuple[Finding, ...]]:
    """Count the labels of a dataset. Return them, or None, and their problems.

    Answers that differ in case and spaces alone are one label, written as most of them are.

    Args:
        given: the labels that experiment.yaml names; all that the answers have when empty.

    Raises:
        InputError: the dataset is missing or invalid; with findings.
        HostError: it may not be read, or needs a package that is not installed.
    """
    # Answers do not depend on the prompt, which is made from the labels.
    bare = replace(data, prompt=None)
    path = load_dataset(bare, base).path
    answers = {
        name: [example.answer.strip() for example in load_examples(bare, name, base)] for name in split_names(data)
    }
    written = Counter(answer for split in answers.values() for answer in split)
    labels = _labels(written, [str(label).strip() for label in given])
    where = Location(path=path)
    findings = list(_faults(labels, written, answers, is_given=bool(given), where=where))
    if any(finding.severity is Severity.ERROR for finding in findings):
        return None, tuple(findings)
    places = {label_key(label): place for place, label in enumerate(labels)}
    counts: dict[str, tuple[int, ...]] = {}
    for name, split in answers.items():
        found = Counter(places[label_key(answer)] for answer in split)
        counts[name] = tuple(found[place] for place in range(len(labels)))
    column = data.messages if data.messages is not None else data.output
    return LabelSet(dataset=path, column=column, labels=labels, counts=counts), tuple(findings)


def _labels(written: Counter[str], given: Sequence[str]) -> tuple[str, ...]:
    """Return the given labels in their order, or those of the answers, sorted."""
    return tuple(given) or tuple(sorted(merge_spellings(written)))


def _faults(
    labels: Sequence[str],
    written: Counter[str],
    answers: dict[str, list[str]],
    *,
    is_given: bool,
    where: Location,
) -> Iterator[Finding]:
    def fault(message: str, hint: str | None = None, severity: Severity = Severity.ERROR) -> Finding:
        return Finding(
            code=CODE, severity=severity, subject="task: classification", message=message, where=where, hint=hint
        )

    known, rows = {label_key(label) for label in labels}, sum(written.values())
    if is_given:
        others = [answer for answer in written if label_key(answer) not in known]
        if others:
            yield fault(
                f"{len(others)} answers are not in evaluate.labels: {_shown(others)}",
                f"evaluate.labels: [{', '.join([*labels, *others[:_SHOWN]])}]",
            )
    elif len(labels) > LABELS_LIMIT or (len(labels) > _FEW and len(labels) > _SHARE * rows):
        yield fault(
            f"the {rows:,} answers have {len(labels):,} distinct texts ({_shown(labels)}), too many for labels",
            "task: exact_match",
        )
        return
    if len(labels) < 2:
        yield fault(f"there is only one label ({_shown(labels)})")
    if pair := indistinct(labels):
        yield fault(f"the labels {pair[0]!r} and {pair[1]!r} differ only in punctuation, which answer parsing ignores")
    spelled = Counter(label_key(answer) for answer in written)
    if several := [key for key, number in spelled.items() if number > 1]:
        same = [answer for answer in written if label_key(answer) == several[0]]
        yield fault(
            f"labels with several spellings count as one, for example {_shown(same)}",
            severity=Severity.WARNING,
        )
    trained = {label_key(answer) for answer in answers["train"]}
    asked = {label_key(answer) for name, split in answers.items() if is_test(name) for answer in split}
    if unseen := [label for label in labels if label_key(label) in asked - trained]:
        yield fault(f"labels in the test split without a training row: {_shown(unseen)}", severity=Severity.WARNING)


def _shown(labels: Sequence[str]) -> str:
    more = ", ..." if len(labels) > _SHOWN else ""
    return ", ".join(repr(label[:40]) for label in labels[:_SHOWN]) + more
