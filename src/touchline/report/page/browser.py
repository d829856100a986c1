"""Data of the sample browser: items on which runs differ and items that all miss, limited by the page size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from touchline.data.scores import EvaluationRecord, SampleScore
from touchline.report.facts import is_asked_about
from touchline.report.report import Report
from touchline.results.run_result import RunResult

BUDGET_CHARS = 420_000
"""Budget of all items together, as JSON. A page of 2 MB also holds the drawing program."""
MISSED_SHARE = 0.2
"""Share of the budget for items that every run misses."""
OUTPUT_CHARS = 320
"""Maximum length of one answer. The full one is in samples.jsonl."""
QUESTION_CHARS = 2_000
"""Maximum length of one question. The full one is in samples.jsonl, with the prompt."""
_RIGHT = 0.5
"""Score from which an answer counts as right, if scores are not binary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """Answer of a run to an item."""

    run: int
    text: str
    score: float


@dataclass(kw_only=True, slots=True)
class _Item:
    """Item with the answers of all runs that had it."""

    id: str
    target: str
    question: str = ""
    answers: list[_Answer] = field(default_factory=list)

    @property
    def right(self) -> int:
        return sum(answer.score >= _RIGHT for answer in self.answers)

    @property
    def differs(self) -> bool:
        return len({answer.score for answer in self.answers}) > 1


def browser_data(report: Report, sample_file: str) -> dict[str, object] | None:
    """Return the data of the page's script. None if fewer than two runs were evaluated."""
    evaluated = [(run, record) for run in report.runs if (record := _record(report, run)) is not None]
    if len(evaluated) < 2:
        return None
    items = _items(report, evaluated)
    controls = {facts.run: facts.control for facts in report.facts}
    names = [run.name for run, _ in evaluated]
    differing = sorted((item for item in items if item.differs), key=_evenness)
    missed = [item for item in items if item.right == 0 and not item.differs]
    kept, left = _within(differing, len(names), BUDGET_CHARS * (1 - MISSED_SHARE))
    kept_missed, left_missed = _within(missed, len(names), BUDGET_CHARS * MISSED_SHARE)
    return {
        "runs": names,
        "first": _best(report, names),
        "controls": [names.index(c) if (c := controls.get(name)) in names else None for name in names],
        "checkpoints": [record.checkpoint for _, record in evaluated],
        "task": evaluated[0][1].label,
        "items": [_packed(item, len(names)) for item in items if id(item) in kept | kept_missed],
        "total": len(items),
        "differing": len(differing),
        "missed": len(missed),
        "omitted": left,
        "omitted_missed": left_missed,
        "file": sample_file,
    }


def _record(report: Report, run: RunResult) -> EvaluationRecord | None:
    """Return the evaluation that the report's scores come from."""
    checkpoint = report.analyses[0].checkpoints.get(run.name) if report.analyses else None
    own = [record for record in run.evaluations if record.samples]
    return next((record for record in own if record.checkpoint == checkpoint), own[-1] if own else None)


def _best(report: Report, names: Sequence[str]) -> int:
    """Return the run that is shown first: the highest one that is not a control."""
    asked = {run.name for run in report.runs if is_asked_about(run)}
    scores = report.analyses[0].scores if report.analyses else ()
    known = [score for score in scores if score.run in names and score.run in asked]
    best = max(known, key=lambda score: score.value, default=None)
    return 0 if best is None else names.index(best.run)


def _items(report: Report, evaluated: Sequence[tuple[RunResult, EvaluationRecord]]) -> list[_Item]:
    """Return the items in the order of the first run that has them. Other data makes another item of the same id."""
    found: dict[tuple[str, str], _Item] = {}
    for number, (_, record) in enumerate(evaluated):
        asked = report.asked.get(record.asked_key, {})
        for samples in _repeats(record).values():
            first = samples[0]
            item = found.setdefault((record.data_sha256, first.id), _Item(id=first.id, target=first.target))
            score = sum(sample.score for sample in samples) / len(samples)
            if not item.question and (own := asked.get(first.id)) is not None:
                item.question = own.question
            item.answers.append(_Answer(run=number, text=_text(samples), score=round(score, 4)))
    return list(found.values())


def _repeats(record: EvaluationRecord) -> dict[str, list[SampleScore]]:
    made: dict[str, list[SampleScore]] = {}
    for sample in record.samples:
        made.setdefault(sample.id, []).append(sample)
    return made


def _text(samples: Sequence[SampleScore]) -> str:
    first = samples[0]
    text = first.output if first.error is None else f"[not generated: {first.error}]"
    more = f"\n[first of {len(samples)} answers]" if len(samples) > 1 else ""
    return _cut(text) + more


def _cut(text: str, limit: int = OUTPUT_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text):,} characters]"


def _evenness(item: _Item) -> float:
    """Return a sort key that puts items that half of the runs get right first. They are the most informative."""
    return abs(2 * item.right / len(item.answers) - 1)


def _within(items: Sequence[_Item], runs: int, budget: float) -> tuple[set[int], int]:
    """Return the identities of the items that fit, and the number of the others."""
    kept: set[int] = set()
    for item in items:
        budget -= len(json.dumps(_packed(item, runs), ensure_ascii=False, separators=(",", ":")))
        if budget < 0:
            break
        kept.add(id(item))
    return kept, len(items) - len(kept)


def _packed(item: _Item, runs: int) -> list[object]:
    """Return [id, question, target, [[answer, score, runs], ...]]. Equal answers are merged, the commonest first.

    If every run had the item, the runs of the commonest answer are omitted, since they are the rest.
    """
    groups: dict[tuple[str, float], list[int]] = {}
    for answer in item.answers:
        groups.setdefault((answer.text, answer.score), []).append(answer.run)
    ordered = sorted(groups.items(), key=lambda each: -len(each[1]))
    whole = len(item.answers) == runs
    rest = [[text, score, None if whole and place == 0 else own] for place, ((text, score), own) in enumerate(ordered)]
    return [_cut(item.id), _cut(item.question, QUESTION_CHARS), _cut(item.target), rest]
