"""How long a report takes, and how large report.html gets: 50 runs of 2,000 steps and 1,000 items; 1,000 runs.

    python benchmarks/report.py [--runs 50|1000] [--keep DIR]

The results are made of seeded numbers, in the form in which they are collected. Timed is what a report does with them:
the statistics, the figures, the page, and drawing the pictures for RESULTS.md. Times are wall time, so the machine
should have nothing else to do; the load is printed. Exit code 1 when 50 runs take 10 s or more, when 1,000 take 60 s or
more, or when the page of 50 runs is 2 MB or more.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.report.made_report import Make, fifty, made_report, thousand  # noqa: E402

from touchline.report.charts import charts  # noqa: E402
from touchline.report.figures import figure_script, figures_off, png  # noqa: E402
from touchline.report.local.reporting import sample_rows  # noqa: E402
from touchline.report.page import report_html  # noqa: E402
from touchline.report.report import Report  # noqa: E402
from touchline.results.scored import analyses  # noqa: E402

MOST_SECONDS = {50: 10.0, 1000: 60.0}
MOST_BYTES = 2_000_000
SIZES: dict[int, Callable[[], Make]] = {50: fifty, 1000: thousand}
Result = TypeVar("Result")


class Timed:
    """What took how long, printed as it goes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, what: str, work: Callable[[], Result]) -> Result:
        begun = time.perf_counter()
        result = work()
        took = time.perf_counter() - begun
        self.seconds += took
        print(f"  {what:<28}{took:7.2f} s")
        return result


def measure(runs: int, keep: Path | None) -> bool:
    """Make one report; whether it is within its limits."""
    report: Report = made_report(SIZES[runs]())
    timed = Timed()
    print(f"{len(report.runs):,} runs")
    timed("statistics", lambda: analyses(report.runs, report.factors))
    found = timed("figures", lambda: charts(report))
    timed("the figures' program", figure_script)
    page = timed("report.html", lambda: report_html(report, found))
    pictures = timed("pictures", lambda: [png(chart.spec) for chart in found])
    timed("rows of samples.jsonl", lambda: sum(1 for _ in sample_rows(report)))
    size = len(page.encode())
    print(f"  in all {timed.seconds:.2f} s (at most {MOST_SECONDS[runs]:g}); report.html {size / 1e6:.2f} MB")
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"report-{runs}.html").write_text(page, encoding="utf-8")
        for chart, picture in zip(found, pictures, strict=True):
            (keep / f"{runs}-{chart.name}.png").write_bytes(picture)
    return timed.seconds < MOST_SECONDS[runs] and (runs > min(SIZES) or size < MOST_BYTES)


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, choices=sorted(SIZES), action="append")
    parser.add_argument("--keep", type=Path, help="keep the pages and pictures here")
    arguments = parser.parse_args()
    if off := figures_off():
        print(off, file=sys.stderr)
        return 2
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    within = [measure(runs, arguments.keep) for runs in arguments.runs or sorted(SIZES)]
    return 0 if all(within) else 1


if __name__ == "__main__":
    raise SystemExit(main())
