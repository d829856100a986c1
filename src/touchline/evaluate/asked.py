"""Which answer is being written: the item, its repeat and the call, so that drawn answers can be drawn again.

Inspect tells a model neither. A solver put before the task's own notes it, and the provider reads the note in the same
context; without it (a task of somebody else's, run by Inspect's own command) calls with the same prompt are counted.
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
    """The item that is worked on."""

    item: str
    repeat: int
    calls: Iterator[int] = field(default_factory=itertools.count)


_NOW: ContextVar[CurrentSample | None] = ContextVar("touchline_asked", default=None)
_SAME: dict[tuple[int, tuple[int, ...]], Iterator[int]] = defaultdict(itertools.count)


@solver
def note_item() -> Solver:
    """Note the item and the repeat for whoever draws its answer."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        _NOW.set(CurrentSample(item=str(state.sample_id), repeat=state.epoch))
        return state

    return solve


def next_stream(seed: int | None, prompt: tuple[int, ...]) -> int:
    """The random numbers of the next answer.

    Args:
        seed: what the settings say; 0 when nothing.
        prompt: the prompt's tokens.
    """
    now = _NOW.get()
    if now is not None:
        return stream_of("item", seed or 0, now.item, now.repeat, next(now.calls))
    return stream_of("prompt", seed or 0, prompt, next(_SAME[seed or 0, prompt]))
