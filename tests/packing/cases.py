"""Length distributions that packers are held against, for the tests and for benchmarks/packing.py.

Narrow ones (capitalization prompts, 35 to 45 tokens), long-tailed ones (chats), wide ones, and those where lengths
combine badly. Each is drawn from a seed of its own, so that a case is the same wherever it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.uint32]
_SIGMA = 0.8
"""Of the logarithm; a coefficient of variation near 1, as chat data have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingCase:
    """Lengths and a row to pack them into."""

    name: str
    examples: int
    max_seq_len: int
    draw: Callable[[np.random.Generator, int, int], NDArray[np.integer]]
    """Lengths from a generator, the number of examples and the row."""

    def lengths(self) -> Lengths:
        """Tokens of each example, shape [examples]; the same each time."""
        generator = np.random.Generator(np.random.PCG64([self.examples, self.max_seq_len]))
        return self.draw(generator, self.examples, self.max_seq_len).astype(np.uint32)

    def __str__(self) -> str:
        return f"{self.name}, {self.examples:,} at {self.max_seq_len}"


def _uniform(low: int, high: int) -> Callable[[np.random.Generator, int, int], NDArray[np.integer]]:
    return lambda generator, count, row: generator.integers(low, high + 1, count)


def _lognormal(generator: np.random.Generator, count: int, row: int) -> NDArray[np.integer]:
    return np.clip(generator.lognormal(np.log(400) - _SIGMA**2 / 2, _SIGMA, count).round(), 8, row).astype(np.int64)


def _two(generator: np.random.Generator, count: int, row: int) -> NDArray[np.integer]:
    return generator.choice(np.array([130, 700]), count)


def _case(name: str, examples: int, max_seq_len: int) -> PackingCase:
    return PackingCase(name=name, examples=examples, max_seq_len=max_seq_len, draw=_KINDS[name])


_KINDS: dict[str, Callable[[np.random.Generator, int, int], NDArray[np.integer]]] = {
    "capitalization 35-45": _uniform(35, 45),
    "lognormal, mean 400": _lognormal,
    "uniform 1-2048": _uniform(1, 2048),
    "uniform 100-200": _uniform(100, 200),
    "uniform 300-700": _uniform(300, 700),
    "uniform 600-1000": _uniform(600, 1000),
    "uniform 700-1365": _uniform(700, 1365),
    "two lengths 130/700": _two,
}

CASES = (
    *(_case("capitalization 35-45", 8_000, row) for row in (512, 1024, 2048, 4096)),
    _case("lognormal, mean 400", 8_000, 2048),
    _case("lognormal, mean 400", 8_000, 4096),
    _case("uniform 1-2048", 1_000, 2048),
    _case("uniform 1-2048", 8_000, 2048),
    _case("uniform 1-2048", 8_000, 4096),
    _case("uniform 600-1000", 8_000, 2048),
    _case("two lengths 130/700", 8_000, 2048),
    _case("uniform 300-700", 20_000, 2048),
    _case("uniform 700-1365", 20_000, 4096),
    _case("uniform 100-200", 50_000, 2048),
)
"""Small enough for packers that take one example after the other."""

LARGE_CASES = (
    _case("capitalization 35-45", 100_000, 512),
    _case("lognormal, mean 400", 300_000, 2048),
    _case("uniform 1-2048", 100_000, 2048),
)
"""For packers that take some microseconds an example."""

MILLION_CASES = (
    _case("capitalization 35-45", 1_000_000, 2048),
    _case("lognormal, mean 400", 1_000_000, 2048),
    _case("lognormal, mean 400", 1_000_000, 4096),
    _case("uniform 1-2048", 1_000_000, 2048),
)
"""A million examples."""
