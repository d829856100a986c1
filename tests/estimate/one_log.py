"""Published rows, each predicted with exactly one other row of the same model and stack as its log."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tests.estimate.made_shapes import SHAPES
from tests.estimate.measured_rows import MeasuredRow, measured_rows
from tests.estimate.time_rows import gpu_machine, public_rows

from touchline.core.estimate import Estimate
from touchline.core.quantity import MemoryKind, Missing
from touchline.estimate.evidence_memory import MeasuredPoint
from touchline.estimate.gpus import find_gpu
from touchline.estimate.local.past_runs import ScoredEstimate
from touchline.estimate.memory import memory_estimate
from touchline.estimate.points import TimePoint, model_key
from touchline.estimate.time import StepTime, seconds_per_step

KINDS: tuple[MemoryKind, ...] = ("allocated", "reserved", "process")
"""From the most direct kind of figure to the least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OneLog:
    table: str
    """File that both rows stand in."""
    unseen: bool = False
    """Whether no constant of the formula was fitted to the row."""
    method: str
    kind: str
    direct: bool
    """Whether it is the most direct kind of the row, so that each pair counts once."""
    row: str
    log: str
    cold: ScoredEstimate
    warm: ScoredEstimate


def _shared(row: MeasuredRow) -> tuple[object, ...]:
    """Return what both rows of a pair have: all but rank, adapted layers, batch, version and the model's name."""
    plain = replace(row.setup, shape=SHAPES["Llama-2-7B"], rank=0, target_modules=(), release=None)
    return row.file, row.gpu, model_key(row.setup.shape), plain


def _pairs(rows: Sequence[MeasuredRow]) -> Iterator[tuple[MeasuredRow, MeasuredRow]]:
    """Yield each row with each other row that has another rank, other layers, another batch or another length."""
    for row, log in itertools.permutations(rows, 2):
        own = [(each.setup.rank, frozenset(each.setup.target_modules), each.batch) for each in (row, log)]
        if _shared(row) == _shared(log) and own[0] != own[1]:
            yield row, log


def memory_pairs() -> list[OneLog]:
    """Return all pairs of memory figures, each kind from the same kind."""
    found = []
    for row, log in _pairs([row for row in measured_rows() if row.gib]):
        gpu = find_gpu(row.gpu)
        direct = next(kind for kind in KINDS if kind in row.gib)
        for kind in KINDS:
            if kind not in row.gib or kind not in log.gib:
                continue
            point = MeasuredPoint(
                setup=log.setup,
                batch=log.batch,
                kind=kind,
                peak_gib=log.gib[kind],
                name=log.name,
                outgrown=log.outgrown,
            )
            cold, warm = (
                memory_estimate(
                    row.setup,
                    row.batch,
                    coefficients=row.coefficients,
                    gpu=None if isinstance(gpu, Missing) else gpu,
                    evidence=known,
                    outgrown=row.outgrown,
                    with_what_ifs=False,
                )
                for known in ((), (point,))
            )
            found.append(
                OneLog(
                    table=row.file,
                    unseen=row.half in ("held out", "not fitted"),
                    method=row.setup.method,
                    kind=kind,
                    direct=kind == direct,
                    row=row.name,
                    log=log.name,
                    cold=_scored(kind, row.name, getattr(cold, kind), row.gib[kind]),
                    warm=_scored(kind, row.name, getattr(warm, kind), row.gib[kind]),
                )
            )
    return found


def time_pairs() -> list[OneLog]:
    machine = gpu_machine()

    def step(point: TimePoint, *known: TimePoint) -> Estimate:
        found = seconds_per_step(point.setup, point.work, machine=machine, points=known)
        assert isinstance(found, StepTime), found
        return found.estimate

    found = []
    for one, other in itertools.permutations(public_rows(), 2):
        row, log = one.point, other.point
        if one.source == other.source and row.setup == log.setup and row.work != log.work:
            cold, warm = step(row), step(row, log)
            found.append(
                OneLog(
                    table="a100_times",
                    method=row.setup.method,
                    kind="seconds per step",
                    direct=True,
                    row=row.name,
                    log=log.name,
                    cold=_scored("seconds per step", row.name, cold, row.seconds_per_step),
                    warm=_scored("seconds per step", row.name, warm, row.seconds_per_step),
                )
            )
    return found


def _scored(quantity: str, name: str, estimate: Estimate, actual: float) -> ScoredEstimate:
    return ScoredEstimate(quantity=quantity, name=name, estimate=estimate, actual=actual)
