"""Memory and time without any past run, on rows that no constant was fitted to.

    python benchmarks/held_out.py [--verbose]

First the fitted constants of the memory formula: what the code has, what the fitted half of the published rows gives,
and how many rows and models that rests on. The halves are whole models, by their dimensions
(`tests/estimate/measured_rows.py`). Then error, coverage of 90 % intervals and their width, table by table: the half
that was held out, tables that nothing was fitted to, and the others apart. Last the same for seconds a step.
Exit code 1: a constant is not what its half gives, a held-out table holds less than 85 %, or a run that was out of
memory was said to fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.estimate.measured_rows import MeasuredRow, dimensions, measured_rows  # noqa: E402
from tests.estimate.time_rows import PublicRow, gpu_machine, public_rows  # noqa: E402

from touchline.backends.facts import MemoryCoefficients  # noqa: E402
from touchline.backends.registry import memory_coefficients  # noqa: E402
from touchline.core.estimate import MemoryEstimate, MemoryVerdict  # noqa: E402
from touchline.core.quantity import Missing  # noqa: E402
from touchline.core.units import GIB  # noqa: E402
from touchline.estimate import coefficients, spreads  # noqa: E402
from touchline.estimate.gpus import find_gpu  # noqa: E402
from touchline.estimate.local.past_runs import ScoredEstimate, score_step  # noqa: E402
from touchline.estimate.memory import memory_estimate  # noqa: E402
from touchline.estimate.parts import after_init_bytes, peak_parts  # noqa: E402
from touchline.estimate.spreads import contexts  # noqa: E402
from touchline.estimate.time import seconds_per_step  # noqa: E402
from touchline.statistics.closed_forms import wilson  # noqa: E402

KINDS = ("allocated", "reserved", "process")
FMS, QWEN, T4 = "fms_acceleration_a100", "qwen_readme_a100", "fitcheck_t4"
LITGPT, UNSLOTH = "litgpt_config_hub_a10g", "unsloth_notebooks"
Change = Callable[[MemoryCoefficients], MemoryCoefficients]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A fitted constant."""

    words: str
    in_code: tuple[float, ...]
    fitted: tuple[float, ...]
    rows: Sequence[MeasuredRow]

    @property
    def models(self) -> int:
        return len({dimensions(row.setup.shape) for row in self.rows})

    @property
    def agrees(self) -> bool:
        return all(abs(one - other) < 1e-9 for one, other in zip(self.in_code, self.fitted, strict=True))


def peak(row: MeasuredRow, coefficients: MemoryCoefficients | None = None) -> MemoryEstimate:
    """The estimate of a published peak, without evidence."""
    gpu = find_gpu(row.gpu)
    return memory_estimate(
        row.setup,
        row.batch,
        coefficients=coefficients or row.coefficients,
        gpu=None if isinstance(gpu, Missing) else gpu,
        outgrown=row.outgrown,
        with_what_ifs=False,
    )


def misfit(rows: Iterable[MeasuredRow], change: Change = lambda same: same) -> float:
    """Mean size of the logarithm of computed over measured, in the figure that each row has: the last of the kinds."""
    found = []
    for row in rows:
        kind = next(kind for kind in reversed(KINDS) if kind in row.gib)
        found.append(abs(math.log(getattr(peak(row, change(row.coefficients)), kind).value / row.gib[kind])))
    return statistics.mean(found)


def of_field(rows: Sequence[MeasuredRow], backend: str, field: str, values: Iterable[float]) -> Constant:
    """A field of a trainer's coefficients."""
    own = memory_coefficients(backend)
    assert isinstance(own, MemoryCoefficients)
    _, best = min(
        (misfit(rows, lambda same, value=value: dataclasses.replace(same, **{field: value})), value)  # type: ignore[misc]
        for value in values
    )
    return Constant(words=f"{backend} {field}", in_code=(getattr(own, field),), fitted=(best,), rows=rows)


def of_eager(rows: Sequence[MeasuredRow], element: int) -> Constant:
    """Bytes of eager attention's backward pass."""
    known = coefficients.EAGER_BACKWARD_BYTES
    kept, tried = known[element], []
    allocated = [dataclasses.replace(row, gib={"allocated": row.gib["allocated"]}) for row in rows]
    for value in range(10, 25):
        known[element] = float(value)
        tried.append((misfit(allocated), float(value)))
    known[element] = kept
    return Constant(words=f"EAGER_BACKWARD_BYTES[{element}]", in_code=(kept,), fitted=(min(tried)[1],), rows=rows)


def of_fragmentation(rows: Sequence[MeasuredRow]) -> Constant:
    """Reserved over allocated memory, and what the logits' share adds: typical."""
    tables = [[row for row in rows if row.file == file] for file in (FMS, QWEN)]
    kept, tried = (spreads.FRAGMENTATION, spreads.LOGITS_FRAGMENTATION), []
    for base, logits in itertools.product((1.03, 1.05, 1.07, 1.09, 1.11), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)):
        spreads.FRAGMENTATION, spreads.LOGITS_FRAGMENTATION = (base, *kept[0][1:]), (logits, *kept[1][1:])  # type: ignore[misc]
        tried.append((sum(misfit(table) for table in tables), base, logits))
    spreads.FRAGMENTATION, spreads.LOGITS_FRAGMENTATION = kept  # type: ignore[misc]
    return Constant(words="FRAGMENTATION, typical", in_code=(kept[0][0], kept[1][0]), fitted=min(tried)[1:], rows=rows)


def of_upper_end(rows: Sequence[MeasuredRow]) -> Constant:
    """The same, upper end: the line that 5 % of the ratios lie above, by the pinball loss."""
    points = []
    for row in rows:
        parts = peak_parts(row.setup, row.batch, row.coefficients)
        gpu = find_gpu(row.gpu)
        reserved = row.gib["process"] - contexts(None if isinstance(gpu, Missing) else gpu)[0]
        points.append((min(1.0, parts.at_loss / parts.total), reserved / row.gib["allocated"]))

    def lost(base: float, logits: float) -> float:
        over = [ratio - base - logits * share for share, ratio in points]
        return round(sum(0.95 * each if each > 0 else -0.05 * each for each in over), 12)

    found = min(
        (lost(base / 100, logits / 20), base / 100, logits / 20) for base in range(100, 130) for logits in range(21)
    )
    in_code = (coefficients.FRAGMENTATION[2], coefficients.LOGITS_FRAGMENTATION[2])
    return Constant(words="FRAGMENTATION, upper end", in_code=in_code, fitted=found[1:], rows=rows)


def of_reserves(rows: Sequence[MeasuredRow]) -> Constant:
    """Reserved over allocated memory of a hand-written loop: median, least, most."""
    ratios = sorted(row.gib["reserved"] / row.gib["allocated"] for row in rows)
    own = memory_coefficients("plain")
    assert isinstance(own, MemoryCoefficients)
    assert own.reserves is not None
    found = tuple(round(value, 2) for value in (statistics.median(ratios), ratios[0], ratios[-1]))
    return Constant(words="plain reserves", in_code=own.reserves, fitted=found, rows=rows)


def of_unsloths_reserves(rows: Sequence[MeasuredRow]) -> Constant:
    """Unsloth's reserved over allocated memory, typical."""
    own = memory_coefficients("unsloth")
    assert isinstance(own, MemoryCoefficients)
    assert own.reserves is not None
    ends = own.reserves[1:]
    _, best = min(
        (misfit(rows, lambda same, at=at: dataclasses.replace(same, reserves=(at / 100, *ends))), at / 100)  # type: ignore[misc]
        for at in range(100, 140, 2)
    )
    return Constant(words="unsloth reserves, typical", in_code=own.reserves[:1], fitted=(best,), rows=rows)


def of_dynamic(rows: Sequence[MeasuredRow]) -> Constant:
    """What Unsloth's dynamic 4-bit bases take more, bytes a parameter: by what was reserved before training."""
    found = []
    for row in rows:
        assert row.started_gib is not None
        plain = after_init_bytes(dataclasses.replace(row.setup, dynamic_4bit=False), row.coefficients)
        found.append((row.started_gib * GIB - plain) / row.setup.shape.linear_parameters)
    own = memory_coefficients("unsloth")
    assert isinstance(own, MemoryCoefficients)
    best = round(statistics.median(found), 2)
    return Constant(words="unsloth dynamic_extra", in_code=own.dynamic_extra[:1], fitted=(best,), rows=rows)


def constants() -> list[Constant]:
    """All fitted constants, each with what the fitted half gives."""
    rows = [row for row in measured_rows() if row.half == "fitted" and row.ran]
    of = {file: [row for row in rows if row.file == file] for file in (T4, FMS, QWEN, LITGPT, UNSLOTH)}
    eager = [row for row in of[T4] if row.setup.attention == "eager"]
    fused = [row for row in of[T4] if row.setup.attention == "fused"]
    methods = {method: [row for row in of[LITGPT] if row.setup.method == method] for method in ("lora", "qlora")}
    return [
        of_eager([row for row in eager if row.setup.method == "lora"], 2),
        of_eager([row for row in eager if row.setup.method == "qlora"], 4),
        of_fragmentation(of[FMS] + of[QWEN]),
        of_upper_end(of[FMS]),
        of_reserves(fused),
        of_field(methods["lora"], "litgpt", "vocab_bytes", [half / 2 for half in range(8, 25)]),
        of_field(methods["qlora"], "litgpt", "nf4_input_bytes", [float(value) for value in range(9)]),
        of_dynamic([row for row in of[UNSLOTH] if row.setup.dynamic_4bit]),
        of_unsloths_reserves(of[UNSLOTH]),
    ]


def line(label: str, scored: Sequence[ScoredEstimate]) -> tuple[str, float]:
    """A line of a table, and its coverage."""
    held = sum(each.held for each in scored)
    low, high = wilson(held, len(scored))
    errors = sorted(abs(each.error) for each in scored)
    ratio = statistics.median(each.estimate.high / each.estimate.low for each in scored)
    text = (
        f"{label:<54}{len(scored):>4}{statistics.median(errors):>8.1%}"
        f"{statistics.median(each.error for each in scored):>8.1%}{errors[round(0.95 * (len(errors) - 1))]:>8.1%}"
        f"{held / len(scored):>9.1%} {f'({low:.0%} to {high:.0%})':<14}{ratio:>6.2f}"
    )
    return text, held / len(scored)


def head(title: str, *others: str) -> None:
    """A table's head, with the names of further columns."""
    columns = "".join(f"{each:>9}" for each in others)
    print(
        f"\n{title:<54}{'n':>4}{'median':>8}{'bias':>8}{'p95':>8}{'coverage (of it 95 %)':>24}{'high/low':>9}{columns}"
    )


def memory(*, verbose: bool) -> bool:
    """Print error and coverage of every table; tell whether the held-out ones hold."""
    rows = list(measured_rows())
    good = True
    head("peak memory, nothing measured")
    for half in ("held out", "not fitted", "fitted", "seen"):
        for file in dict.fromkeys(row.file for row in rows):
            for kind in KINDS:
                of_kind = [row for row in rows if (row.file, row.half) == (file, half) and kind in row.gib]
                scored = [
                    ScoredEstimate(
                        quantity=kind, name=row.name, estimate=getattr(peak(row), kind), actual=row.gib[kind]
                    )
                    for row in of_kind
                ]
                if not scored:
                    continue
                text, coverage = line(f"{file}, {kind}, {half}", scored)
                print(text)
                good &= half not in ("held out", "not fitted") or coverage >= 0.85
                if verbose:
                    for row, each in zip(of_kind, scored, strict=True):
                        show(f"{row.setup.shape.name} {row.setup.method} {row.batch.rows}x{row.batch.width}", each)
    false_fits = [row.name for row in rows if not row.ran and peak(row).verdict is MemoryVerdict.FITS]
    print(f"runs out of memory that were said to fit: {len(false_fits)} of {sum(not row.ran for row in rows)}")
    return good and not false_fits


def times(*, verbose: bool) -> None:
    """Print error and coverage of seconds a step."""
    head("seconds a step, nothing measured")
    for file, words in (("unseen_times", "not fitted"), ("a100_times", "the rates' own sources")):
        rows: list[PublicRow] = public_rows(file)
        # Too few rows of each method were never seen.
        names = [f"{row.source} {row.point.setup.method}" if file == "a100_times" else row.source for row in rows]
        for name in dict.fromkeys(names):
            scored = []
            for row, own in zip(rows, names, strict=True):
                if own != name:
                    continue
                found = seconds_per_step(row.point.setup, row.point.work, machine=gpu_machine(row.point.machine))
                if isinstance(found, Missing):
                    raise SystemExit(f"{row.point.name}: {found}")
                scored.append(score_step(row.point, found.estimate))
            print(line(f"{name}, {words}", scored)[0])
            if verbose:
                for each in scored:
                    show(each.name, each)


def show(name: str, each: ScoredEstimate) -> None:
    """A row of a table."""
    found = each.estimate
    mark = " " if each.held else "*"
    print(
        f"  {mark} {name:<44} measured {each.actual:8.3f}, predicted {found.value:8.3f} [{found.low:8.3f}, "
        f"{found.high:8.3f}], {each.error:+.1%}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; tell whether they hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--verbose", action="store_true", help="each row")
    options = parser.parse_args(arguments)
    print(f"{'constant':<30}{'in the code':>16}{'fitted half':>16}{'rows':>6}{'models':>8}")
    found = constants()
    for each in found:
        texts = ["/".join(f"{value:g}" for value in values) for values in (each.in_code, each.fitted)]
        print(f"{each.words:<30}{texts[0]:>16}{texts[1]:>16}{len(each.rows):>6}{each.models:>8}")
    good = memory(verbose=options.verbose)
    times(verbose=options.verbose)
    return 0 if good and all(each.agrees for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
