"""Steps of a run: how many were planned and done, from where it was resumed, and how long one takes."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from touchline.backends.logtext.events import BarCount
from touchline.backends.registry import logged_trainers
from touchline.core.observation import OVER, SignKind
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.history.file_segment import KEPT, FileSegment, Losses, SegmentStart, Track
from touchline.history.reading import ValidationPoint, validation_points
from touchline.history.run_view import RunSegment, RunView, SourcedObservation

SHARE_ERROR = 0.05
"""A resume is placed between two logged rows when they lie no further apart than this share of what follows."""
_INTERVALS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000)
"""Steps between two logged rows, as people set them."""
EARLY = 0.98
"""A closing row that stands below this share of the planned steps is one of a training that was stopped."""
RATE_ERROR = 0.008
"""A count computed from a printed rate is given when the rate's digits leave no more than this relative error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """The steps of one segment."""

    done: Measured
    total: Measured
    seconds: Measured
    """Seconds per step, pauses included."""
    pace: Measured
    """Seconds per step between pauses."""
    resumed: bool
    resumed_at: int | None
    """Steps done before it; None if it was not resumed, or nothing shows where."""
    share: float | None
    """Share of all steps that this segment did itself; None where that is not known."""
    early_share: float | None
    """Share of the planned steps that were done, of a Trainer's run that is over and stopped before its plan; else
    None. The Trainer's closing row counts all planned ones."""


def bar_count(trainer: str | None) -> BarCount | None:
    """Return what a trainer's progress bar counts, or None if that is not known."""
    known = logged_trainers().get(trainer or "")
    return None if known is None else known.bar


def steps_of(view: RunView, segment: RunSegment, trainer: str | None) -> Steps:
    """Return the steps of one segment of a run."""
    total = _total(view, segment, trainer)
    tracks = _step_tracks(segment, trainer, total)
    resumed_at = _resumed_at(segment, [track for track, _ in tracks])
    resumed = resumed_at is not None or segment.began is SegmentStart.RESUMED
    done = _done(view, segment, tracks, total, trainer)
    share = _share(view, segment, total, resumed, resumed_at)
    return Steps(
        done=done,
        total=total,
        seconds=_seconds(view, segment, tracks, done, total, share),
        pace=_pace(view, segment, tracks),
        resumed=resumed,
        resumed_at=resumed_at,
        share=share,
        early_share=_early_share(view, segment, trainer, done, total),
    )


def _early_share(
    view: RunView, segment: RunSegment, trainer: str | None, done: Measured, total: Measured
) -> float | None:
    if bar_count(trainer) is not BarCount.RUN_STEPS or not _is_over(view, segment):
        return None
    if not isinstance(done, Quantity) or not isinstance(total, Quantity) or not 0 < done.value < EARLY * total.value:
        return None
    return done.value / total.value


def _share(view: RunView, segment: RunSegment, total: Measured, resumed: bool, resumed_at: int | None) -> float | None:
    if not resumed:
        return 1.0
    if resumed_at is not None and isinstance(total, Quantity) and total.value > resumed_at:
        return (total.value - resumed_at) / total.value
    epochs = [each.seen.epoch for each in view.measured("train_seconds") if each.seen.epoch]
    return _share_by_epochs(segment, epochs[-1] if epochs else None)


def _total(view: RunView, segment: RunSegment, trainer: str | None) -> Measured:
    said = segment.all("steps_total") or view.documents.all("steps_total")
    certain = [each for each in said if each.seen.certain]
    if certain and certain[-1].number:
        return certain[-1].quantity(unit="steps")
    tracks = [each for each in segment.training_tracks(None) if each[0].last[0] > 0 or not _is_over(view, segment)]
    counts = bar_count(trainer)
    if tracks and tracks[-1][0].total:
        track, part = tracks[-1]
        where = f"{part.file}:{track.first[2]}"
        if counts is BarCount.RUN_STEPS and track.total:
            return Quantity(value=track.total, unit="steps", method="the progress bar's total", where=where)
        epochs = view.setting("epochs")
        if counts is BarCount.EPOCH_STEPS and track.total and epochs is not None and epochs.number:
            return Quantity(
                value=track.total * epochs.number, unit="steps", method="steps per epoch × epochs", where=where
            )
        again = sum(other.total == track.total and other.complete for other, _ in tracks)
        if track.total and counts is not BarCount.EPOCH_STEPS and again < 2 and _counts_all_steps(track.label):
            return Quantity(value=track.total, unit="steps", method="the progress bar's total", where=where)
    guessed = [each for each in (*said, *view.documents.all("steps_total")) if each.number]
    if not guessed:
        return _from_rate(segment)
    done = max((each.seen.step or 0 for each in _losses_with_step(segment)), default=0)
    if done > (guessed[-1].number or 0):
        return Missing(missing="more steps were done than the only candidate for the planned steps")
    return guessed[-1].quantity(unit="steps")


def _is_over(view: RunView, segment: RunSegment) -> bool:
    """Return True if the training is over; a bar that never moved is then not its own."""
    over = any(sign.kind in OVER for sign, _ in segment.signs())
    return over or bool(view.documents.all("train_seconds"))


def _counts_all_steps(label: str) -> bool:
    """Return True if a bar of a home-made loop counts the steps of the whole run, and not those of an epoch."""
    return "epoch" not in label.lower() and not any(character.isdigit() for character in label)


def _from_rate(segment: RunSegment) -> Measured:
    """Return the steps by the closing rate and runtime, which count all planned steps, those before a resume too."""
    rates, seconds = segment.all("train_steps_per_second"), segment.all("train_seconds")
    if not rates or not seconds or rates[-1].seen.line != seconds[-1].seen.line:
        return Missing(missing="no line states the planned steps")
    rate, duration = rates[-1].number, seconds[-1].number
    if not rate or not duration:
        return Missing(missing="no line states the planned steps")
    error = 0.0005 / rate
    if error > RATE_ERROR:
        return Missing(missing=f"no line states the planned steps, and a rate of {rate:g} has too few digits")
    steps = max(1.0, float(round(rate * duration)))
    return rates[-1].quantity(
        value=steps,
        unit="steps",
        low=steps * (1 - error),
        high=steps * (1 + error),
        aggregation=None,
        method="printed steps per second × runtime",
    )


def _step_tracks(segment: RunSegment, trainer: str | None, total: Measured) -> list[tuple[Track, FileSegment]]:
    known = round(total.value) if isinstance(total, Quantity) else None
    tracks = segment.training_tracks(known)
    if bar_count(trainer) is not None:
        return list(tracks)
    return [track for track in tracks if track[0].total is not None and track[0].total == known]


def _resumed_at(segment: RunSegment, tracks: list[Track]) -> int | None:
    steps = [sign.step for sign, _ in segment.signs() if sign.kind is SignKind.RESUMED and sign.step]
    if steps:
        return steps[-1]
    skipped = [found for track in tracks if (found := track.skipped_until())]
    return skipped[0] if skipped and segment.began is SegmentStart.RESUMED else None


def _done(
    view: RunView, segment: RunSegment, tracks: list[tuple[Track, FileSegment]], total: Measured, trainer: str | None
) -> Measured:
    found: list[Quantity] = []
    for each in [*segment.all("step"), *_losses_with_step(segment)]:
        step = each.seen.step if each.seen.name == "loss" else each.number
        if step is not None:
            found.append(each.quantity(value=step, unit="steps", aggregation=None, token_unit=None))
    bar: Quantity | None = None
    if tracks and bar_count(trainer) is not BarCount.EPOCH_STEPS:
        track, part = tracks[-1]
        bar = Quantity(value=track.last[0], unit="steps", where=f"{part.file}:{track.last[2]}")
        found.append(bar)
    found += [
        Quantity(value=part.nan_step, unit="steps", where=f"{part.file}:{part.progress_line}")
        for part in segment.parts
        if part.nan_step
    ]
    found += [
        Quantity(value=sign.step, unit="steps", method="the last checkpoint's step", where=f"{part.file}:{sign.line}")
        for sign, part in segment.signs()
        if sign.kind is SignKind.SAVING and sign.step
    ]
    best = max(found, key=lambda each: each.value, default=None)
    trained = [(sign, part) for sign, part in segment.signs() if sign.kind in OVER]
    if not trained and not view.documents.all("train_seconds"):
        return best or Missing(missing="no line states the steps done")
    if best is not None and best.value == 0:
        best = None  # counted before the first step of a training that is over
    where = f"{trained[-1][1].file}:{trained[-1][0].line}" if trained else None
    return _done_at_end(view, segment, best, bar, total, where)


def _done_at_end(
    view: RunView, segment: RunSegment, best: Quantity | None, bar: Quantity | None, total: Measured, where: str | None
) -> Measured:
    """Return the steps of a training that is over: all that were planned, unless it stopped before."""
    if not isinstance(total, Quantity) or (best is not None and best.value >= total.value):
        return best or Missing(missing="no line states the steps done")
    whole = Quantity(
        value=total.value, unit="steps", method="training ended, so all planned steps", where=where or total.where
    )
    by_epoch = _steps_by_epoch(view, segment, total.value)
    if by_epoch is not None and by_epoch[1] and by_epoch[0] < EARLY * total.value:
        # The closing row stands in an earlier epoch than the last one that was planned.
        early = max(by_epoch[0], best.value if best is not None else 0)
        if best is not None and best.value >= EARLY * early:
            return best
        return Quantity(value=early, unit="steps", method="the closing row's epoch × steps per epoch", where=where)
    if by_epoch is not None and by_epoch[0] >= EARLY * total.value:
        return whole
    if best is None:
        return whole
    said = [each for each in segment.all("step") if each.number == best.value]
    bar_file, _, bar_place = ((bar.where if bar is not None else None) or ":0").rpartition(":")
    # Lines of different files follow no order.
    rows = [part.losses for part in segment.parts if part.losses.last is not None and part.file == bar_file]
    last = max((row.last.line for row in rows if row.last is not None and row.last.step is None), default=0)
    if said or (bar is not None and bar.value == best.value and best.value < total.value - 1):
        first = min((row.first.line for row in rows if row.first is not None), default=0)
        bar_line = int(bar_place)
        held_back = first > bar_line and _keeps_pace(rows, best.value)
        stale = bar is not None and not said and last > bar_line
        # Losses after the last bar mean that bars are missing, unless the training was stopped.
        return whole if stale and not _was_stopped(segment) and not held_back else best
    interval = max((part.interval for part in segment.parts), default=0.0)
    if best.value + max(interval, 1.0) >= total.value and not _was_stopped(segment):
        return whole
    return best


def _keeps_pace(rows: list[Losses], steps: float) -> bool:
    """Return True if so many steps make as many rows as were logged, at an interval that people choose."""
    per_row = steps / max((row.count for row in rows), default=1)
    return any(abs(per_row - interval) <= 0.05 * interval for interval in _INTERVALS)


def _was_stopped(segment: RunSegment) -> bool:
    return any(sign.kind is SignKind.STOPPED for sign, _ in segment.signs())


def _steps_by_epoch(view: RunView, segment: RunSegment, total: float) -> tuple[float, bool] | None:
    """Return the steps done by the closing row's epoch, and whether an epoch's steps are known; None without an epoch.

    The Trainer rounds its epochs up where `max_steps` ends the training: the total then gives no epoch's length.
    """
    epochs = view.setting("epochs")
    closing = [each.seen.epoch for each in view.measured("train_seconds") if each.seen.epoch]
    rows = [part.losses.last.epoch for part in segment.parts if part.losses.last is not None and part.losses.last.epoch]
    reached = max([*closing, *rows], default=None)
    if reached is None or epochs is None or not epochs.number:
        return None
    examples, batch = view.setting("train_examples"), view.setting("global_batch_size")
    if examples is not None and batch is not None and examples.number and batch.number:
        per_epoch = examples.number / batch.number
        if abs(per_epoch * epochs.number - total) <= max(epochs.number, 0.02 * total):
            return round(reached * total / epochs.number), True
        return round(reached * per_epoch), False
    is_known = total % epochs.number == 0 and (epochs.number > 1 or abs(reached - round(reached)) < 0.01)
    return round(reached * total / epochs.number), is_known


def _losses_with_step(segment: RunSegment) -> list[SourcedObservation]:
    last = [
        SourcedObservation(seen=part.losses.last, file=part.file)
        for part in segment.parts
        if part.losses.last is not None
    ]
    return [each for each in last if each.seen.step is not None]


def _seconds(
    view: RunView,
    segment: RunSegment,
    tracks: list[tuple[Track, FileSegment]],
    done: Measured,
    total: Measured,
    resumed_share: float | None,
) -> Measured:
    clocks = _clocks(view, segment, tracks)
    best = max(clocks, key=lambda each: each[0].last[0] - each[0].first[0], default=None)
    mean = best[0].mean_seconds_per_step() if best is not None else None
    if best is not None and mean is not None:
        seconds, first, last = mean
        return Quantity(
            value=seconds,
            unit="s",
            aggregation="mean",
            method=f"steps {first} to {last} by the clock{_inside(segment)}",
            where=best[1],
        )
    return _mean_seconds(view, segment, done, total, resumed_share)


def _inside(segment: RunSegment) -> str:
    """Return what else a clock counts: bars advance during evaluations; rows show what their time includes."""
    timed = segment.all("train_seconds")
    return "" if timed and not any(each.seen.inside for each in timed) else ", including evaluation and saving"


def _pace(view: RunView, segment: RunSegment, tracks: list[tuple[Track, FileSegment]]) -> Measured:
    """Return the time of a step when nothing else is done."""
    best = max(_clocks(view, segment, tracks), key=lambda each: each[0].last[0] - each[0].first[0], default=None)
    rate = best[0].seconds_per_step(pauses=bool(segment.all("eval_seconds"))) if best is not None else None
    if best is not None and rate is not None:
        middle, low, high, windows = rate
        return Quantity(
            value=middle,
            unit="s",
            low=low,
            high=high,
            coverage=0.5,
            aggregation="median",
            method=f"{windows} windows of steps after warmup",
            where=best[1],
        )
    timed = [each for each in segment.all("step_seconds") if each.number]
    if timed:
        middle = statistics.median(each.number or 0.0 for each in timed)
        return timed[-1].quantity(value=middle, unit="s", aggregation="median", method=f"{len(timed)} printed times")
    return Missing(missing="no two points in time after warmup")


def _clocks(view: RunView, segment: RunSegment, tracks: list[tuple[Track, FileSegment]]) -> list[tuple[Track, str]]:
    """Return everything that relates steps to time, with its place."""
    found = [(track, f"{part.file}:{track.first[2]}") for track, part in tracks]
    return found + [(part.clock, part.file) for part in (*segment.parts, *view.documents.parts) if part.clock.count > 2]


def _mean_seconds(
    view: RunView, segment: RunSegment, done: Measured, total: Measured, resumed_share: float | None
) -> Measured:
    """Return the seconds per step by the trainer's own timing, else by its runtime."""
    timed = [each for each in segment.all("step_seconds") if each.number]
    if timed:
        middle = statistics.median(each.number or 0.0 for each in timed)
        return timed[-1].quantity(value=middle, unit="s", aggregation="median", method=f"{len(timed)} printed times")
    rates = [each for each in segment.all("train_steps_per_second") if each.number and not each.seen.inside]
    if rates:
        middle = statistics.median(rate.number or 0.0 for rate in rates)
        return rates[-1].quantity(
            value=1 / middle, unit="s", aggregation="median", method=f"{len(rates)} printed rates"
        )
    durations = segment.all("train_seconds") or view.documents.all("train_seconds")
    steps = done if isinstance(done, Quantity) else total
    if not durations or not durations[-1].number or isinstance(steps, Missing) or not steps.value:
        return Missing(missing="no two points in time after warmup")
    if resumed_share is None:
        return Missing(missing="the runtime after a resume does not cover all steps")
    here = f" ({resumed_share:.0%} of them since the resume)" if resumed_share < 1 else ""
    return durations[-1].quantity(
        value=durations[-1].number / (steps.value * resumed_share),
        unit="s",
        aggregation="mean",
        method=f"runtime over steps{here}, including evaluation and saving",
    )


def _share_by_epochs(segment: RunSegment, final_epoch: float | None) -> float | None:
    """Return the share of the epochs since a resume: from half a logging interval before the first row on."""
    for part in segment.parts:
        first, second = part.losses.first, part.losses.second
        if first is None or second is None or first.epoch is None or second.epoch is None or not final_epoch:
            continue
        begun = first.epoch - (second.epoch - first.epoch) / 2
        if 0 < begun < final_epoch and (second.epoch - first.epoch) / (final_epoch - begun) < SHARE_ERROR:
            return (final_epoch - begun) / final_epoch
    return None


def validation_of(view: RunView, steps: Steps, epochs: Measured, remarks: list[str]) -> tuple[ValidationPoint, ...]:
    """Return the validation losses of all segments; of a step that was done twice the later one.

    A row with an epoch and no step is placed by the run's steps and epochs, where both are known.

    Args:
        remarks: gets the reason for leaving losses out.
    """
    found = [segment.all("eval_loss") for segment in view.segments]
    if not any(found):
        found = [view.documents.all("eval_loss")]
    if any(each.seen.certain for rows in found for each in rows):
        found = [[each for each in rows if each.seen.certain] for rows in found]
    if any(count >= 2 * KEPT for rows in found for count in Counter(each.file for each in rows).values()):
        remarks.append(f"validation losses not used: the log has {2 * KEPT} or more, and not all are kept")
        return ()
    total = steps.total.value if isinstance(steps.total, Quantity) else None
    per_epoch = total / epochs.value if total and isinstance(epochs, Quantity) and epochs.value > 0 else None
    pairs: list[tuple[int, float]] = []
    for rows in found:
        placed = list(_placed(rows, per_epoch))
        if any(later < earlier for (file, earlier, _), (same, later, _) in pairwise(placed) if file == same):
            remarks.append("validation losses not used: their steps decrease within an attempt")
            return ()
        pairs = [pair for pair in pairs if not placed or pair[0] < placed[0][1]]
        pairs += [(step, loss) for _, step, loss in placed]
    return validation_points([pair for pair in pairs if total is None or pair[0] <= math.ceil(total)])


def _placed(rows: Sequence[SourcedObservation], per_epoch: float | None) -> Iterator[tuple[str, int, float]]:
    for each in rows:
        if each.number is None:
            continue
        if each.seen.step is not None:
            yield each.file, each.seen.step, each.number
        elif each.seen.epoch is not None and per_epoch is not None:
            yield each.file, round(each.seen.epoch * per_epoch), each.number
