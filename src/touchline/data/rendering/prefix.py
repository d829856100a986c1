"""Common prefix of prompts: the template's opening, the system turn, the task's instruction."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return the number of tokens that all prompts begin with, excluding at least the last token of each.

    The last token of a prompt predicts the first target, so it must stay the example's own.
    """
    if len(prompts) < 2:
        return 0
    # What the first and the last in order begin with, all between them begin with.
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    for index in range(limit):
        if first[index] != last[index]:
            return index
    return max(limit, 0)
