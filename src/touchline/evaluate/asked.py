"""Current sample (item, repeat, call) of an answer, which seeds reproducible sampling.

Inspect does not pass it to a model. A solver before the task's own records it, and the provider reads it in the same
context; without it (a foreign task run by Inspect's own command) calls with the same prompt are counted.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

from inspect_ai.solver import Generate, Solver, TaskState, solver

from touchline.evaluate.sampling import stream_of


@dataclass(slots=True)
class CurrentSample:
    """Sample in progress."""

    item: str
    repeat: int
    calls: Iterator[int] = field(default_factory=itertools.count)


_NOW: ContextVar[CurrentSample | None] = ContextVar("touchline_asked", default=None)
_SAME: dict[tuple[int, tuple[int, ...]], Iterator[int]] = defaultdict(itertools.count)


@solver
def note_item() -> Solver:
    """Record item and repeat for the provider."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        _NOW.set(CurrentSample(item=str(state.sample_id), repeat=state.epoch))
        return state

    return solve


def next_stream(seed: int | None, prompt: tuple[int, ...]) -> int:
    """Return the random stream of the next answer.

    Args:
        seed: configured seed; 0 if None.
    """
    now = _NOW.get()
    if now is not None:
        return stream_of("item", seed or 0, now.item, now.repeat, next(now.calls))
    return stream_of("prompt", seed or 0, prompt, next(_SAME[seed or 0, prompt]))
