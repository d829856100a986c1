"""Order of a dataset for which a next-fit packer reproduces our packed sequences.

The packer walks through the dataset once, before it shuffles: an example joins the pack at hand or opens the next one.
Written pack by pack, each pack's longest example first, a pack ends where ours ends whenever the longest of the next is
longer than the room left. Only packs with more room than the least of all longest examples can fail at that; they stand
last, in the order in which they were opened, in which none before has room for the longest of one after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchline.data.packing.assign import PackPlan
from touchline.data.packing.lengths import as_lengths
from touchline.data.packing.simple import next_fit


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Handoff:
    """Order of a dataset for a next-fit packer."""

    order: NDArray[np.int64]
    """Examples in writing order; shape [examples]."""
    planned_packs: int
    next_fit_packs: int
    """Packed sequences that next-fit makes of that order."""
    exact: bool
    """Whether these are the same sequences with the same examples."""

    @property
    def difference(self) -> int:
        """Return the number of sequences that next-fit makes more (or, below 0, fewer) than planned."""
        return self.next_fit_packs - self.planned_packs


def hand_off(plan: PackPlan, lengths: ArrayLike) -> Handoff:
    """Return the order for a plan, verified by a simulation of next-fit.

    Args:
        plan: the packs, from `pack`.

    Raises:
        ValueError: the lengths are not those of the plan.
    """
    array = as_lengths(lengths).astype(np.int64)
    if len(array) != len(plan.indices):
        raise ValueError(f"the plan holds {len(plan.indices)} examples, not {len(array)}")
    if not plan.packs:
        return Handoff(order=plan.indices, planned_packs=0, next_fit_packs=0, exact=True)
    longest = np.maximum.reduceat(array[plan.indices], plan.offsets[:-1])
    room = plan.max_seq_len - plan.tokens
    loose = room >= longest.min()
    # The tight ones keep the plan's random order, so that a trainer that does not shuffle sees no order by length.
    packs = np.concatenate([np.flatnonzero(~loose), plan.opened[loose[plan.opened]]])
    order, starts = _pack_by_pack(plan, packs, array)
    found = next_fit(array[order], plan.max_seq_len)
    return Handoff(
        order=order,
        planned_packs=plan.packs,
        next_fit_packs=found.rows,
        exact=np.array_equal(found.starts, starts),
    )


def _pack_by_pack(
    plan: PackPlan, packs: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    sizes = np.diff(plan.offsets)[packs]
    starts = np.cumsum(sizes) - sizes
    places = np.arange(len(plan.indices)) + np.repeat(plan.offsets[:-1][packs] - starts, sizes)
    order = plan.indices[places]
    number = np.repeat(np.arange(len(packs)), sizes)
    return order[np.lexsort((-lengths[order], number))], starts
