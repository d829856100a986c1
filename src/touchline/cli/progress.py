"""Progress of running jobs: bars on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from touchline.cli.output import clean, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from touchline.launch.progress import JobProgress

PLAIN_SECONDS = 10.0
"""Between two plain lines of one job."""


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """What hears how many of something are done, of how many: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from touchline.launch.progress import JobProgress

    with Bars() as bars:
        yield lambda done, total: bars.update([JobProgress(name=what, done=done, total=total, text="")])


class Bars:
    """Context that draws; its `update` is what the verbs call `say`."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._said: dict[str, tuple[float, int]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._known: dict[str, JobProgress] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> Bars:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=False)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, jobs: Sequence[JobProgress]) -> None:
        """Show how far the running jobs are; a job that is gone from the list has ended."""
        gone = [name for name in self._known if name not in {job.name for job in jobs}]
        for job in jobs:
            self._known[job.name] = job
            self._bar(job) if self._progress is not None else self._line(job)
        for name in gone:
            self._ended(self._known.pop(name))

    def tell(self, sentence: str) -> None:
        """A sentence above the bars."""
        if self._progress is None:
            say(f"note: {sentence}")
            return
        from rich.text import Text

        self._progress.console.print(Text(clean(f"note: {sentence}")))

    def _bar(self, job: JobProgress) -> None:
        if self._progress is None:
            return
        if job.name not in self._tasks:
            self._tasks[job.name] = self._progress.add_task(clean(job.name), total=job.total or None, note="")
        self._progress.update(self._tasks[job.name], completed=job.done, total=job.total or None, note=clean(job.text))

    def _line(self, job: JobProgress) -> None:
        when, done = self._said.get(job.name, (0.0, -1))
        now = time.monotonic()
        if (job.done != done and now - when >= PLAIN_SECONDS) or done < 0:
            self._said[job.name] = (now, job.done)
            say(f"{job.name}: {job.done}/{job.total or '?'}  {job.text}  ({now - self._started:.0f} s in all)")

    def _ended(self, job: JobProgress) -> None:
        if self._progress is not None and job.name in self._tasks:
            self._progress.update(self._tasks[job.name], note="ended")
            self._progress.stop_task(self._tasks[job.name])
        else:
            say(f"{job.name}: ended after {time.monotonic() - self._started:.0f} s in all")
