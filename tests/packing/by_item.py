"""Packers by item, written as their definitions read, and what hypothesis draws for packers."""

from collections.abc import Sequence

from hypothesis import strategies as st


def best_fit_decreasing(lengths: Sequence[int], max_seq_len: int) -> int:
    """Packs: longest first, each into the fullest with room."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [(room, at) for at, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting)[1]] -= length
        else:
            rooms.append(max_seq_len - length)
    return len(rooms)


def first_fit_decreasing(lengths: Sequence[int], max_seq_len: int) -> int:
    """Packs: longest first, each into the first with room."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        at = next((at for at, room in enumerate(rooms) if room >= length), None)
        if at is None:
            rooms.append(max_seq_len - length)
        else:
            rooms[at] -= length
    return len(rooms)


def fewest(lengths: Sequence[int], max_seq_len: int) -> int:
    """Packs of a best packing, by trying all; for ten examples or so."""
    ordered = sorted(lengths, reverse=True)

    def fits(at: int, rooms: list[int]) -> bool:
        if at == len(ordered):
            return True
        tried = set()
        for number, room in enumerate(rooms):
            if room >= ordered[at] and room not in tried:
                tried.add(room)
                rooms[number] -= ordered[at]
                if fits(at + 1, rooms):
                    return True
                rooms[number] += ordered[at]
        return False

    packs = -(-sum(ordered) // max_seq_len)
    while not fits(0, [max_seq_len] * packs):
        packs += 1
    return packs


@st.composite
def problems(draw: st.DrawFn, most: int = 60) -> tuple[list[int], int]:
    max_seq_len = draw(st.integers(1, 80))
    low = draw(st.integers(1, max_seq_len))
    return draw(st.lists(st.integers(low, draw(st.integers(low, max_seq_len))), max_size=most)), max_seq_len
