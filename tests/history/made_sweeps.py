"""Records of past sweeps, made by hand: losses, scores, costs and predictions as a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.history.made import make_record, number

from touchline.core.quantity import Missing, Quantity
from touchline.history.history import store_record
from touchline.history.reading import Outcome, Segment, SourcedText
from touchline.history.record import PredictedFacts, RunRecord, WorkFacts
from touchline.history.scores import ScoreFacts, ValidationPoint, pack_outcomes

MODEL = "Tiny-1B"
TASK = "capitalization"


def past_run(
    name: str,
    losses: Sequence[float | None] = (),
    *,
    experiment: str | None = "sweep",
    seed: int | None = 1,
    score: float | None = None,
    items: int = 10,
    comparable: str = "c" * 64,
    seconds: float | None = 3600.0,
    position: int | None = None,
    steps: int = 100,
    outcome: str = "completed",
    **changes: object,
) -> RunRecord:
    """The record of a finished run, with validation losses at equal distances and the last one at its last step."""
    every = steps // len(losses) if losses else 0
    points = tuple(ValidationPoint(step=every * place, loss=loss) for place, loss in enumerate(losses, 1))
    record = make_record(
        f"{experiment}_{name}_{seed}",
        model=SourcedText(value=MODEL),
        trainer=SourcedText(value="peft"),
        gpu=SourcedText(value="NVIDIA H100"),
        gpus=number(1),
        steps_total=number(steps, "steps"),
        steps_done=number(steps, "steps"),
        train_seconds=Missing(missing="not timed") if seconds is None else number(seconds, "s"),
        outcome=SourcedText(value=outcome),
        packed=SourcedText(value="false"),
        epochs=number(1, "epochs"),
        segment_list=(
            Segment(
                where="metrics.jsonl:1-9", begins="fresh", first_step=None, last_step=steps, outcome=Outcome.COMPLETED
            ),
        ),
    )
    made = replace(
        record,
        origin="touchline" if experiment else "imported",
        experiment=experiment,
        run=name if experiment else None,
        name=name,
        task=TASK if experiment else None,
        seed=seed if experiment else None,
        position=position,
        condition="a" * 64 if experiment else None,
        validation=points,
        dataset=replace(record.dataset, sha256=SourcedText(value="d" * 64)),
        scores=() if score is None else (score_of(score, items, comparable),),
        started_unix=1_750_000_000.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def score_of(value: float, items: int = 10, comparable: str = "c" * 64) -> ScoreFacts:
    right = round(value * items)
    return ScoreFacts(
        task=TASK,
        score="exact match",
        checkpoint="epoch_0",
        value=Quantity(value=value, unit="1", low=max(value - 0.1, 0.0), high=min(value + 0.1, 1.0), coverage=0.95),
        items=items,
        comparable=comparable,
        outcomes=pack_outcomes([place < right for place in range(items)]),
    )


def predicted(minutes: float) -> PredictedFacts:
    """What a plan predicted of a run's duration."""
    return PredictedFacts(train_seconds=Quantity(value=60 * minutes, unit="s"))


def lengths_known(packed: float, unpacked: float) -> PredictedFacts:
    """What a plan simulated of both ways to make batches."""
    return PredictedFacts(
        packed_tokens=Quantity(value=packed, unit="tokens"), unpacked_tokens=Quantity(value=unpacked, unit="tokens")
    )


def padded(tokens_per_step: float) -> WorkFacts:
    """What a step computed."""
    return WorkFacts(padded_tokens=Quantity(value=tokens_per_step, unit="tokens"))


def stored(history: Path, records: Sequence[RunRecord]) -> Path:
    """A history with these records."""
    for record in records:
        store_record(history, record)
    return history
