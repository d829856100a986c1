"""Segments of one file: its events in order, cut where an attempt, a resume or another run begins."""

from __future__ import annotations

import re

from touchline.core.observation import OVER, Event, Observation, ProgressBarEvent, Sign, SignKind, Stamp
from touchline.history.file_segment import (
    FileSegment,
    HeadTailBuffer,
    SegmentStart,
    Track,
    is_training_label,
    label_key,
)

CLOCK_BACK_SECONDS = 3600.0
"""A clock that jumps back further belongs to another execution, not to a corrected clock."""
_JOB = re.compile(r"(?:\bStepId=|\bJobId=|\*\*\* (?:JOB|STEP) |\b[Jj]ob |\bstep )(?P<job>\d+)")
_MOST_TRACKS = 4096
_MOST_HELD = 500
"""Events after a job's end that are not an echo of it: another job has begun."""
_ALIVE_LINES = 400
"""A process that has logged nothing for so many lines is over, as far as another one's rows may be taken for its."""
_OTHERS = 4
"""Number of earlier parts to which a row may belong."""
_FAULTS = frozenset({SignKind.EXCEPTION, SignKind.GPU_OOM, SignKind.HOST_OOM, SignKind.DISK_FULL})
_ENDS = frozenset(
    {
        *(SignKind.HOST_OOM, SignKind.TIME_LIMIT, SignKind.CANCELLED, SignKind.PREEMPTED, SignKind.NODE_FAILED),
        SignKind.TASK_FAILED,
    }
)
"""Signs of a scheduler that ends a job."""


class FileSegmenter:
    """Cutter of a file's events, in order, into segments."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.parts = [FileSegment(file)]
        self.part = self.parts[0]
        """The part that continues."""
        self.is_interleaved = False
        """Whether two processes were found to write the file at once, so that every row of it counts."""
        self._held: list[Event] | None = None

    def feed(self, event: Event) -> None:
        """Take the next event."""
        if self._held is not None:
            if self._begins_again(event):
                self._release(self._again())
            elif isinstance(event, Sign) and event.kind is SignKind.REQUEUED:
                self._release(None)
            else:
                self._held.append(event)
                return
        self._take(event)

    def close(self) -> None:
        """Close the file: what was held belongs to the part before it."""
        if self._held is not None:
            self._release(None)

    def _take(self, event: Event) -> None:
        if isinstance(event, ProgressBarEvent):
            self._progress(event)
        elif isinstance(event, Observation):
            self._observation(event)
        elif isinstance(event, Sign):
            self._sign(event)
        else:
            self._stamp(event)
        part = self.part
        part.first_line = part.first_line or event.line
        part.last_line = max(part.last_line, event.line)

    # ------------------------------------------------------------------------------------- events after a job's end

    def _begins_again(self, event: Event) -> bool:
        """Return True if an event shows that what was held since the job's end belongs to another one."""
        held = self._held or []
        if len(held) >= _MOST_HELD:
            return True
        if isinstance(event, Sign):
            ended = _job_of(event)
            known = self.part.ended_by
            return event.kind in (SignKind.START, SignKind.RESUMED) or (ended is not None and ended != known)
        if isinstance(event, ProgressBarEvent):
            track = self.part.open_tracks.get((label_key(event.label), event.total))
            return track is not None and event.done < track.last[0]
        if not isinstance(event, Observation):
            return False
        if event.name == "trainable_parameters":
            return True
        if event.name != "loss" or event.aggregation == "last":
            return False
        before = next((each for each in held if isinstance(each, Observation) and each.name == "loss"), None)
        if before is not None:
            return _position(event) > _position(before)
        return not self.part.losses.count or (
            bool(self.part.ended_line) and _position(event) < (self.part.at_step, self.part.at_epoch)
        )

    def _release(self, began: SegmentStart | None) -> None:
        """Take what was held: into another part, or, where None, into the one before it, losses left out."""
        held, self._held = self._held or [], None
        if began is not None:
            self._cut(began)
        for event in held:
            is_loss = isinstance(event, Observation) and event.name == "loss" and event.aggregation != "last"
            if began is not None or not is_loss:
                self._take(event)

    # ------------------------------------------------------------------------------------------------ where to cut

    def _cut(self, began: SegmentStart) -> None:
        self.part = FileSegment(self.file, began=began)
        self.parts.append(self.part)

    def _split(self, line: int) -> None:
        """Give what follows a line to a part of its own: a job that ended well does not fail afterwards."""
        old = self.part
        self._cut(self._again())
        signs, old.signs = old.signs, HeadTailBuffer()
        for sign in signs.all():
            (self.part if sign.line > line else old).signs.add(sign)
        self.part.kinds = {sign.kind for sign in self.part.signs.all()}
        for name in [name for name in old.seen if old.get(name)[-1].line > line]:
            known = old.seen.pop(name).all()
            for each in known:
                (self.part if each.line > line else old).seen.setdefault(name, HeadTailBuffer()).add(each)
        old.last_line, self.part.first_line = line, line + 1

    def _again(self) -> SegmentStart:
        """Return how a training begins after one that has shown progress."""
        return SegmentStart.ANOTHER_RUN if self.part.trained_line else SegmentStart.RESTARTED

    def _progress(self, bar: ProgressBarEvent) -> None:
        if bar.elapsed_seconds is None:
            return
        key = (label_key(bar.label), bar.total)
        track = self.part.open_tracks.get(key)
        if track is not None and bar.done < track.last[0]:
            longest = max(found.last[1] for found in self.part.tracks)
            restarted = not track.complete and track.last[1] >= longest and bar.elapsed_seconds < track.last[1]
            if restarted and is_training_label(bar.label) is not False:
                self._cut(self._again())
            track = None
        elif track is not None and bar.done > track.last[0] and is_training_label(bar.label) is not False:
            self.part.advance_line = bar.line
        if track is None:
            if len(self.part.tracks) >= _MOST_TRACKS:
                return
            track = Track(label=bar.label, total=bar.total, is_evaluation=self.part.is_evaluating(bar))
            self.part.tracks.append(track)
            self.part.open_tracks[key] = track
        track.add(bar.done, bar.elapsed_seconds, bar.line)
        if is_training_label(bar.label):
            self.part.progress_line = bar.line

    def _observation(self, found: Observation) -> None:
        if found.name == "loss" and found.aggregation != "last":
            if self._is_held(found):
                self._held = [found]
                return
            if self._is_copy(found):
                return
            self._loss(found)
        elif found.name == "step" and found.step:
            self._to_process(found)
            self.part.progress_line = max(self.part.progress_line, found.line)
        elif found.name == "exit_code":
            if found.value and self.part.exited_line:
                self._split(self.part.exited_line)
            elif not found.value and self.part.trained_line:
                self.part.exited_line = found.line
        elif found.name == "epoch":
            self.part.at_step = 0  # counters may begin again with each epoch
        elif found.name == "trainable_parameters" and self.part.trained_line and self.part.has_progress:
            # The next model is made ready after a training that is over.
            self._cut(SegmentStart.ANOTHER_RUN)
        part = self.part
        if found.name == "train_seconds" and found.step is not None and not isinstance(found.value, str):
            part.clock.add(found.step, found.value, found.line)
        part.seen.setdefault(found.name, HeadTailBuffer()).add(found)

    def _is_held(self, loss: Observation) -> bool:
        """Return True if a loss goes back after the end: a summary, unless later losses continue from it."""
        part = self.part
        if self._held is not None or not part.trained_line or loss.line <= part.trained_line:
            return False
        return not loss.certain and self._goes_back(loss)

    def _is_copy(self, loss: Observation) -> bool:
        """Return True if a loss that goes back repeats a row: a console and a logger's file in one log."""
        part = self.part
        is_copy = (
            part.rows.get((loss.step, loss.epoch)) == loss.value
            and part.trained_line < part.progress_line > part.fault_line
            and self._goes_back(loss)
        )
        # From here on every row is read: one that was passed over would not be known again.
        self.is_interleaved = self.is_interleaved or is_copy
        return is_copy

    def _goes_back(self, loss: Observation) -> bool:
        part = self.part
        # A program that caught a fault and tries again may log the same first step once more.
        again = part.fault_line > part.progress_line and part.losses.count > 0
        if loss.epoch is not None:
            # Loops that count the steps of each epoch go back in steps alone.
            return loss.epoch < part.at_epoch - 1e-9 or (again and loss.epoch <= part.at_epoch)
        return loss.step is not None and (loss.step < part.at_step or (again and loss.step <= part.at_step))

    def _loss(self, loss: Observation) -> None:
        self._to_process(loss)
        if self._goes_back(loss):
            self._cut(self._again())
        elif self.part.trained_line and loss.line > self.part.trained_line and self._is_further(loss):
            self._cut(SegmentStart.ANOTHER_RUN)
        part = self.part
        part.interval = max(0.0, _at(loss) - part.at) or part.interval
        part.at = _at(loss)
        part.at_epoch = max(part.at_epoch, loss.epoch or 0.0)
        part.at_step = max(part.at_step, loss.step or 0)
        part.losses.add(loss)
        part.rows[loss.step, loss.epoch] = loss.value
        if len(part.rows) > _MOST_TRACKS:
            del part.rows[next(iter(part.rows))]
        part.progress_line = loss.line
        part.row_lines.append(loss.line)
        if loss.step is not None and part.stamps is not None and part.stamps[1].line == loss.line:
            part.clock.add(loss.step, part.stamps[1].unix - part.stamps[0].unix, loss.line)

    def _to_process(self, found: Observation) -> None:
        """Turn to the part of the process that printed a row, where two of them write into one file."""
        if len(self.parts) == 1:
            return
        now, at = self.part, _at(found)
        gap = at - now.at
        if now.last_line == found.line or 0 <= gap <= 2 * now.interval:
            return
        for part in reversed(self.parts[-_OTHERS:]):
            if part is now or part.trained_line or part.ended_line or found.line - part.progress_line > _ALIVE_LINES:
                continue
            step = part.interval or (at - part.at if gap < 0 else now.interval)
            if step > 0 and abs(part.at + step - at) <= 0.25 * step:
                self.is_interleaved = True
                later = max(part, now, key=lambda each: each.first_line)
                later.began = SegmentStart.ANOTHER_RUN
                self.part = part
                return

    def _is_further(self, loss: Observation) -> bool:
        """Return True if a loss after the end belongs to another training: a summary repeats the last step."""
        part = self.part
        return (loss.epoch is not None and loss.epoch > 0 and loss.epoch < part.at_epoch) or (
            loss.step is not None and 0 < loss.step < part.at_step
        )

    def _sign(self, sign: Sign) -> None:
        if sign.kind is SignKind.REQUEUED:
            # The words belong to the attempt that ends; what follows them is the next one.
            self._keep(sign)
            if self.part.has_progress:
                self._cut(SegmentStart.RESTARTED)
            return
        if sign.kind in (SignKind.START, SignKind.RESUMED) and (self.part.has_progress or self._has_failed()):
            self._cut(SegmentStart.RESUMED if sign.kind is SignKind.RESUMED else self._again())
        if sign.kind is SignKind.RESUMED:
            self.part.began = SegmentStart.RESUMED
        if sign.kind in OVER:
            self.part.trained_line = sign.line
        if sign.kind is SignKind.NOT_A_NUMBER:
            self.part.progress_line = max(self.part.progress_line, sign.line)
            self.part.nan_step = sign.step or self.part.nan_step
        if sign.kind in _FAULTS and not sign.is_uncaught:
            self.part.fault_line = sign.line
        self._keep(sign)
        job = _job_of(sign)
        if job is not None:
            self.part.ended_line, self.part.ended_by = sign.line, job
            self._held = []

    def _has_failed(self) -> bool:
        """Return True if the part began a training and failed before its first step."""
        part = self.part
        return SignKind.START in part.kinds and not part.kinds.isdisjoint(_FAULTS)

    def _keep(self, sign: Sign) -> None:
        self.part.signs.add(sign)
        self.part.kinds.add(sign.kind)

    def _stamp(self, stamp: Stamp) -> None:
        known = self.part.stamps
        if known is not None and stamp.unix < known[1].unix - CLOCK_BACK_SECONDS:
            self._cut(SegmentStart.ANOTHER_RUN)
            known = None
        self.part.stamps = (known[0], stamp) if known is not None else (stamp, stamp)


def _job_of(sign: Sign) -> str | None:
    """Return the number of the job that the scheduler says it ended; None if it says nothing of that kind."""
    if sign.kind not in _ENDS:
        return None
    match = _JOB.search(sign.text)
    return None if match is None else match.group("job")


def _at(found: Observation) -> float:
    """Return the place of a row in its run: its step, else its epoch."""
    return float(found.step) if found.step is not None else found.epoch or 0.0


def _position(loss: Observation) -> tuple[int, float]:
    return loss.step or 0, loss.epoch or 0.0
