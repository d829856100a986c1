"""How much one log helps: each published row predicted with one other row of the same model and stack as its log.

    python benchmarks/one_log.py [--held-out]

The other row has another rank, other adapted layers, another batch or another length; a row is never its own log. For
each table of tests/data/measured and each kind of figure: the pairs, the median error without a log and with one, how
often 90 % intervals hold, and their ends' median ratio. `all` counts each pair once, by its most direct figure. Rows of
memory that a constant was fitted to are left out.
`--held-out` chooses the constants of the intervals anew for each table from the other tables alone, over a grid, by
the interval score (Gneiting and Raftery 2007, section 6.2), and tells how well they hold on the table left out.
Exit code 1: a bound of `BOUNDS` was missed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.estimate.one_log import OneLog, memory_pairs, time_pairs  # noqa: E402

from touchline.core.estimate import COVERAGE  # noqa: E402
from touchline.estimate import evidence_memory  # noqa: E402
from touchline.estimate.local.past_runs import ScoredEstimate  # noqa: E402

BOUNDS = {"memory": 0.05, "time": 0.15}
"""Largest median error over all pairs."""
HELD = (0.85, 0.95)
"""Bounds of the coverage over all pairs."""
GRID = {"DRIFT": (0.005, 0.01, 0.03, 0.06), "NOISE_OF_PROCESS": (0.01, 0.02, 0.04)}
"""Values that `--held-out` tries; of the pairs, those of reserved and process memory."""


def error(scored: Sequence[ScoredEstimate]) -> float:
    """Median size of the relative error."""
    return statistics.median(abs(each.error) for each in scored)


def held(scored: Sequence[ScoredEstimate]) -> float:
    """Share of the intervals that hold."""
    return statistics.mean(float(each.held) for each in scored)


def ratio(scored: Sequence[ScoredEstimate]) -> float:
    """Median ratio of an interval's ends."""
    return statistics.median(each.estimate.high / each.estimate.low for each in scored)


def line(label: str, pairs: Sequence[OneLog]) -> None:
    """Print a line of the table."""
    cold, warm = [pair.cold for pair in pairs], [pair.warm for pair in pairs]
    print(
        f"{label:<46}{len(pairs):>6}{error(cold):>9.1%}{error(warm):>9.1%}{held(cold):>9.0%}{held(warm):>9.0%}"
        f"{ratio(cold):>8.2f}{ratio(warm):>8.2f}"
    )


def table(what: str, pairs: Sequence[OneLog]) -> bool:
    """Print a table; tell whether its bounds hold."""
    pairs = [pair for pair in pairs if pair.unseen or what == "time"]
    print(f"\n{what:<46}{'pairs':>6}{'error':>9}{'1 log':>9}{'held':>9}{'1 log':>9}{'ratio':>8}{'1 log':>8}")
    for name in dict.fromkeys(f"{pair.table}, {pair.kind}" for pair in pairs):
        of_table = [pair for pair in pairs if f"{pair.table}, {pair.kind}" == name]
        line(name, of_table)
        methods = dict.fromkeys(pair.method for pair in of_table)
        for method in methods if len(methods) > 1 else ():
            line(f"  {method}", [pair for pair in of_table if pair.method == method])
    once = [pair for pair in pairs if pair.direct]
    line("all", once)
    warm = [pair.warm for pair in once]
    good = error(warm) <= BOUNDS[what] and HELD[0] <= held(warm) <= HELD[1]
    print(
        f"{'met' if good else 'MISSED'}: {what}, median error {error(warm):.1%} (at most {BOUNDS[what]:.0%}), held "
        f"{held(warm):.0%} ({HELD[0]:.0%} to {HELD[1]:.0%})"
    )
    return good


def score(scored: Sequence[ScoredEstimate]) -> float:
    """Mean interval score of logarithms: the width, and what misses it many times over."""
    total = 0.0
    for each in scored:
        low, high, actual = (math.log(value) for value in (each.estimate.low, each.estimate.high, each.actual))
        total += high - low + 2 / (1 - COVERAGE) * max(0.0, low - actual, actual - high)
    return total / len(scored)


def held_out() -> None:
    """Choose the constants of reserved and process memory without a table, and score them on it."""
    usual = {name: getattr(evidence_memory, name) for name in GRID}
    found: dict[tuple[object, ...], dict[str, list[ScoredEstimate]]] = {}
    for values in itertools.product(*GRID.values()):
        for name, value in zip(GRID, values, strict=True):
            setattr(evidence_memory, name, value)
        tables: dict[str, list[ScoredEstimate]] = {}
        for pair in memory_pairs():
            if pair.kind != "allocated":
                tables.setdefault(pair.table, []).append(pair.warm)
        found[values] = tables
    for name, value in usual.items():
        setattr(evidence_memory, name, value)
    print(f"\nreserved and process memory by constants from the other tables: {', '.join(GRID)}")
    for left_out in next(iter(found.values())):
        best = min(found, key=lambda values: sum(score(of) for name, of in found[values].items() if name != left_out))
        scored = found[best][left_out]
        print(
            f"{left_out:<46}{len(scored):>6}{'':>9}{error(scored):>9.1%}{'':>9}{held(scored):>9.0%}{'':>8}"
            f"{ratio(scored):>8.2f}  {best}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--held-out", action="store_true", help="also choose constants without each table (a minute)")
    options = parser.parse_args(arguments)
    good = [table("memory", memory_pairs()), table("time", time_pairs())]
    if options.held_out:
        held_out()
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
