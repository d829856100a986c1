"""What hypothesis draws for packers: rows and lengths that fit into them, many of them equal or close."""

from hypothesis import strategies as st


@st.composite
def problems(draw: st.DrawFn, most: int = 60) -> tuple[list[int], int]:
    max_seq_len = draw(st.integers(1, 80))
    low = draw(st.integers(1, max_seq_len))
    high = draw(st.integers(low, max_seq_len))
    return draw(st.lists(st.integers(low, high), max_size=most)), max_seq_len
