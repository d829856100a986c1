"""A run's segments become its reading: every field with its value and place, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from touchline.backends.logtext.events import BarCount
from touchline.backends.registry import logged_trainers
from touchline.core.observation import ObservationName, SignKind
from touchline.core.quantity import Measured, Missing, Quantity, number_of
from touchline.history.facts import RUN_FACTS, Fact, RunFact, record_from
from touchline.history.file_segment import Losses, SegmentStart
from touchline.history.outcome import Ending, ending_of
from touchline.history.reading import OptionalText, Segment, SourcedText
from touchline.history.record import RunRecord
from touchline.history.run_facts import FACTS
from touchline.history.run_view import RunSegment, RunView, SourcedObservation, is_library
from touchline.history.steps import Steps, bar_count, steps_of, validation_of

_LOOP_PRECEDENCE = -1
_USUAL_PRECEDENCE = 2
_ON_THE_WAY = ("last", "sum")
"""Aggregations of a duration that was logged during the training."""
_ENOUGH = 3
"""Logged losses that are enough for a mean."""
_FAR = 0.1
_WHOLE_EPOCH = 0.05
"""The Trainer drops a remainder of each epoch, so its last row may say 2.98 for 3."""


LOSS_NOT_A_NUMBER = Missing(missing="the loss is not a number")
"""Last loss of a run whose loss became NaN or infinite."""


def reading_of(name: str, view: RunView, notes: Sequence[str]) -> RunRecord:
    """Return everything that one run's files show."""
    trainer = _trainer(view)
    kind = trainer.value if isinstance(trainer, SourcedText) else None
    final = view.final
    steps = steps_of(view, final, kind)
    finished = bool(view.documents.all("train_seconds"))
    endings = [_ending(view, segment, kind, finished and segment is final) for segment in view.segments]
    remarks = [*notes, *_contradictions(view)]
    known: dict[str, Any] = {key: _read(view, key, fact) for key, fact in RUN_FACTS.items() if fact.read is not None}
    packed = known["packed"]
    examples, sequences, density = _packing(view, packed)
    epochs = _epochs(view, steps)
    validation = validation_of(view, steps, epochs, remarks)
    sources = (*view.segments, view.documents)
    known |= {
        "trainer": trainer,
        "steps_done": steps.done,
        "steps_total": steps.total,
        "epochs": epochs,
        "global_batch_size": _global_batch(view),
        "gpus": _gpus(view),
        "last_loss": _last_loss(view),
        "mean_train_loss": _mean_loss(view, steps, remarks),
        "train_seconds": _train_seconds(view, kind, steps),
        "seconds_per_step": steps.seconds,
        "seconds_per_step_without_pauses": steps.pace,
        "tokens_per_second": _tokens_per_second(view),
        "peak_memory": _peak_memory(view),
        "total_examples": examples,
        "total_sequences": sequences,
        "packing_density": density,
        "examples_per_second": _examples_per_second(view, packed, steps, remarks),
        "outcome": _outcome(endings[-1], final),
        "memory_after_init": _memory_after_init(view),
        "exit": endings[-1].exit,
        "versions": tuple(dict.fromkeys(str(each.seen.value) for source in sources for each in source.all("version"))),
        "segment_list": tuple(
            _segment(view, each, ending, kind) for each, ending in zip(view.segments, endings, strict=True)
        ),
        "proofs": endings[-1].proofs,
    }
    return record_from(name, known, notes=remarks, validation=validation)


def _read(view: RunView, key: str, fact: RunFact) -> Fact:
    name: ObservationName = fact.line or key  # type: ignore[assignment]
    match fact.read:
        case "word":
            return view.word(name, fact.missing)
        case "number":
            return view.count(name, fact.missing, fact.unit)
        case "sum":
            return _sum(view, name, fact.missing)
        case _:
            return _last(view, name, fact.missing)


def _contradictions(view: RunView) -> Iterator[str]:
    for key, fact in FACTS.items():
        pair = view.contradicted(fact.name)
        # A stated dataset is measured whatever the log calls it; whoever measures it names both.
        if pair is not None and key != "dataset":
            stated, read = pair
            yield (
                f"{key}: {read.seen.value} from the log ({read.where}) is used, not the stated "
                f"{stated.seen.value} ({stated.where})"
            )


def _trainer(view: RunView) -> OptionalText:
    found = [each for source in (*reversed(view.segments), view.documents) for each in source.all("trainer")]
    certain = [each for each in found if each.seen.certain]
    names = {str(each.seen.value): each for each in reversed([*certain, *found])}
    stated = view.stated_fact("trainer")
    if stated is not None and all(is_library(name) for name in names):
        return SourcedText(value=str(stated.seen.value), where=stated.where, method=stated.provenance)
    if not names:
        return Missing(missing="no line names the trainer")
    name = max(names, key=_precedence)
    return SourcedText(value=name, where=names[name].where)


def _precedence(trainer: str) -> int:
    known = logged_trainers().get(trainer)
    if known is not None:
        return known.precedence
    return _LOOP_PRECEDENCE if trainer == "generic" else _USUAL_PRECEDENCE


def _ending(view: RunView, segment: RunSegment, trainer: str | None, is_document: bool) -> Ending:
    steps = steps_of(view, segment, trainer)
    done = number_of(steps.done)
    total = number_of(steps.total)
    if done is None and total is None and bar_count(trainer) is not BarCount.RUN_STEPS:
        # Loops that tell their epochs only: the last loss says how many are done.
        loss, planned = segment.last_loss(), view.setting("epochs")
        done = loss.seen.epoch if loss is not None and loss.seen.step is None else None
        total = planned.number if planned is not None and done is not None else None
    return ending_of(segment, steps_done=done, steps_total=total, is_document=is_document)


def _segment(view: RunView, segment: RunSegment, ending: Ending, trainer: str | None) -> Segment:
    steps = steps_of(view, segment, trainer)
    return Segment(
        where=", ".join(f"{part.file}:{part.first_line}-{part.last_line}" for part in segment.parts),
        begins=SegmentStart.RESUMED if steps.resumed else segment.began,
        first_step=steps.resumed_at,
        last_step=round(steps.done.value) if isinstance(steps.done, Quantity) else None,
        outcome=ending.outcome,
    )


def _outcome(ending: Ending, final: RunSegment) -> SourcedText:
    where = ending.proofs[-1].where if ending.proofs else None
    if where is None and final.parts:
        where = f"{final.parts[-1].file}:{final.parts[-1].last_line}"
    return SourcedText(value=ending.outcome.value, where=where)


def _epochs(view: RunView, steps: Steps) -> Measured:
    found = view.setting("epochs")
    if found is not None and found.number is not None:
        return found.quantity(unit="epochs")
    if (steps.early_share or 1.0) < 1:
        return Missing(missing="no line states the planned epochs, and the run stopped before their end")
    closing = [
        each for each in view.measured("train_seconds") if each.seen.epoch and each.seen.aggregation not in _ON_THE_WAY
    ]
    if closing and closing[-1].seen.epoch is not None:
        done = closing[-1].seen.epoch
        if abs(done - round(done)) <= _WHOLE_EPOCH and round(done) >= 1:
            return closing[-1].quantity(value=float(round(done)), unit="epochs", method="epoch of the closing row")
    return Missing(missing="no line states the planned epochs")


def _global_batch(view: RunView) -> Measured:
    found = view.setting("global_batch_size")
    if found is not None and found.number is not None:
        return found.quantity()
    factors = [view.setting(name) for name in ("micro_batch_size", "gradient_accumulation_steps", "gpus")]
    numbers = [factor.number for factor in factors if factor is not None and factor.seen.certain and factor.number]
    if len(numbers) == 3:
        return Quantity(
            value=numbers[0] * numbers[1] * numbers[2],
            unit="1",
            method="micro-batch × accumulation × GPUs",
            where=factors[0].where if factors[0] is not None else None,
        )
    return Missing(missing="not in the log, and not all of its factors are known")


def _gpus(view: RunView) -> Measured:
    found = view.setting("gpus")
    if found is not None and found.number and found.seen.certain:
        return found.quantity()
    whole, micro, accumulation = (
        view.setting(name) for name in ("global_batch_size", "micro_batch_size", "gradient_accumulation_steps")
    )
    if whole and micro and accumulation and whole.number and micro.number and accumulation.number:
        devices = whole.number / (micro.number * accumulation.number)
        if all(each.seen.certain for each in (whole, micro, accumulation)) and devices >= 1 and devices == int(devices):
            return whole.quantity(value=devices, unit="1", method="global batch ÷ (micro-batch × accumulation)")
    return Missing(missing="no line states the number of GPUs")


def _last_loss(view: RunView) -> Measured:
    found = view.final.last_loss()
    if found is None:
        single = [each for each in view.measured("loss") if each.number is not None]
        found = single[-1] if single else None
    if found is None:
        nan = any(sign.kind is SignKind.NOT_A_NUMBER for sign, _ in view.final.signs())
        return LOSS_NOT_A_NUMBER if nan else Missing(missing="no step's loss was logged")
    return found.quantity(unit="nats", aggregation="last")


def _mean_loss(view: RunView, steps: Steps, remarks: list[str]) -> Measured:
    closing = [each for each in view.measured("mean_train_loss") if each.number is not None]
    if not closing:
        return Missing(missing="no line gives a mean over the run")
    losses = [part.losses for part in view.final.parts if part.losses.count]
    printed = closing[-1].number
    assert printed is not None
    share = steps.share
    if not steps.resumed or (losses and _agree(printed, losses[0], share)):
        return closing[-1].quantity(unit="nats", aggregation="mean")
    if share is not None and steps.resumed_at is not None:
        remarks.append(
            f"mean_train_loss: {printed:g} was printed, divided by all steps although only {share:.0%} were done"
        )
        return closing[-1].quantity(
            value=printed / share, unit="nats", aggregation="mean", method=f"printed value ÷ {share:.4f} (resumed)"
        )
    if losses and losses[0].count >= _ENOUGH:
        remarks.append(f"mean_train_loss: {printed:g} was printed after a resume, divided by all steps (not used)")
        return closing[-1].quantity(
            value=losses[0].total / losses[0].count,
            unit="nats",
            aggregation="mean",
            method=f"mean of {losses[0].count} logged losses since the resume",
        )
    return Missing(missing="printed after a resume, divided by all steps: refused")


def _agree(printed: float, losses: Losses, share: float | None) -> bool:
    """Return True if a printed mean is that of the logged losses: newer versions of the Trainer divide by the steps
    done.
    """
    if losses.count < _ENOUGH:
        return False
    logged = losses.total / losses.count
    if share is None:
        return abs(printed - logged) < _FAR * abs(printed)
    return abs(printed - logged) < abs(printed - logged * share)


def _examples_per_second(view: RunView, packed: OptionalText, steps: Steps, remarks: list[str]) -> Measured:
    found = [each for each in view.measured("train_samples_per_second") if each.number]
    if not found:
        return Missing(missing="not in the log")
    if isinstance(packed, SourcedText) and packed.value == "true":
        return Missing(missing="the printed rate counts packed rows, not examples")
    share = steps.share
    if share is None:
        return Missing(missing="printed after a resume, counting all steps: refused")
    printed = found[-1].number
    assert printed is not None
    if share < 1:
        remarks.append(f"examples_per_second: {printed:g} was printed, counting steps done before the resume")
        return found[-1].quantity(
            value=printed * share,
            unit="examples/s",
            aggregation="mean",
            method=f"printed value × {share:.4f} (resumed)",
        )
    if steps.early_share is not None and found[-1].seen.certain:
        remarks.append(f"examples_per_second: {printed:g} was printed, counting all planned steps")
        return found[-1].quantity(
            value=printed * steps.early_share,
            unit="examples/s",
            aggregation="mean",
            method=f"printed value × {steps.early_share:.4f} (stopped before its plan)",
        )
    return found[-1].quantity(unit="examples/s", aggregation="mean")


def _train_seconds(view: RunView, trainer: str | None, steps: Steps) -> Measured:
    found = [each for each in view.measured("train_seconds") if each.number is not None]
    closing = [each for each in found if each.seen.aggregation not in _ON_THE_WAY]
    if found:
        return (closing or found)[-1].quantity(unit="s")
    total = round(steps.total.value) if isinstance(steps.total, Quantity) else None
    done = steps.done.value if isinstance(steps.done, Quantity) else 0
    tracks = view.final.training_tracks(total) if total is not None and done >= total else []
    if tracks and (trainer is not None or view.final.last_loss() is not None):
        return Quantity(
            value=sum(track.last[1] for track, _ in tracks),
            unit="s",
            method="progress bar times, which may include evaluation and saving",
            where=f"{tracks[-1][1].file}:{tracks[-1][0].last[2]}",
        )
    for part in view.final.parts:
        begun = [sign.line for sign in part.signs.all() if sign.kind is SignKind.START]
        ended = [sign.line for sign in part.signs.all() if sign.kind is SignKind.TRAINED]
        if begun and ended and part.stamps and (part.stamps[0].line, part.stamps[1].line) == (begun[0], ended[-1]):
            seconds = part.stamps[1].unix - part.stamps[0].unix
            where = f"{part.file}:{begun[0]}-{ended[-1]}"
            return Quantity(value=seconds, unit="s", method="between the time stamps of start and end", where=where)
    return Missing(missing="no line states the training time")


def _tokens_per_second(view: RunView) -> Measured:
    found = [each for each in view.measured("tokens_per_second") if each.number is not None and each.seen.token_unit]
    if not found:
        return Missing(missing="not in the log")
    unit = found[-1].seen.unit if "/s" in found[-1].seen.unit else "tokens/s"
    return found[-1].quantity(unit=unit)


def _peak_memory(view: RunView) -> Measured:
    found = [each for each in view.measured("peak_memory") if each.number is not None]
    training = [each for each in found if each.seen.phase == "step"]
    for kind in ("allocated", "reserved", "process"):
        of_kind = [each for each in training if each.seen.kind == kind]
        if of_kind:
            return max(of_kind, key=lambda each: each.number or 0.0).quantity(aggregation="peak")
    early = [each for each in found if each.seen.phase == "after_init"]
    if early:
        size = f"{early[-1].number:g} {early[-1].seen.unit}"
        return Missing(missing=f"{size} was measured after initialization, not during training")
    return Missing(missing="no line states the memory during training")


def _memory_after_init(view: RunView) -> Measured:
    found = [each for each in view.measured("peak_memory") if each.seen.phase == "after_init"]
    found += view.measured("memory_before_training")
    found = [each for each in found if each.seen.certain] or found
    numbers = [each for each in found if each.number is not None]
    return numbers[0].quantity() if numbers else Missing(missing="not in the log")


def _packing(view: RunView, packed: OptionalText) -> tuple[Measured, Measured, Measured]:
    is_packed = isinstance(packed, SourcedText) and packed.value == "true"
    rows = view.setting("train_examples")
    examples = view.setting("total_examples") or (None if is_packed else rows)
    sequences = view.setting("total_sequences") or (rows if is_packed else None)
    density = view.setting("packing_density")
    found_examples = _number(examples, "examples", "not in the log")
    found_sequences = _number(sequences, "sequences", "no line states that examples were packed")
    found_density = _number(density, "examples/sequence", "not in the log")
    if density is not None or isinstance(found_examples, Missing) or isinstance(found_sequences, Missing):
        return found_examples, found_sequences, found_density
    if found_sequences.value > 0:
        found_density = Quantity(
            value=found_examples.value / found_sequences.value,
            unit="examples/sequence",
            method="examples ÷ sequences",
            where=found_sequences.where,
        )
    return found_examples, found_sequences, found_density


def _number(found: SourcedObservation | None, unit: str, reason: str) -> Measured:
    if found is None or found.number is None:
        return Missing(missing=reason)
    return found.quantity(unit=unit)


def _last(view: RunView, name: ObservationName, reason: str) -> Measured:
    found = [each for each in view.measured(name) if each.number is not None]
    return found[-1].quantity() if found else Missing(missing=reason)


def _sum(view: RunView, name: ObservationName, reason: str) -> Measured:
    found = [each for each in view.measured(name) if each.number is not None]
    if not found:
        return Missing(missing=reason)
    total = sum(each.number or 0.0 for each in found)
    return found[-1].quantity(value=total, unit="s", aggregation="sum", method=f"{len(found)} of them")
