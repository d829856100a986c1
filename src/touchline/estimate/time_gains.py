"""Gains of training otherwise: compiled, several runs side by side in one process, and in slots of a machine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from touchline.core.estimate import Estimate, EvidenceLevel, TrainingSetup
from touchline.core.machine import TargetMachine, machine_text
from touchline.core.quantity import Missing
from touchline.core.units import plural
from touchline.estimate.coefficients import PRIOR_WEIGHT, SIDE_BY_SIDE_SIGMA, SLOTS_SIGMA
from touchline.estimate.intervals import half_width, spread
from touchline.estimate.points import TimePoint, stack_key
from touchline.estimate.terms import TERMS, place
from touchline.estimate.time import fit_to, same_model, seconds_per_step, time_request
from touchline.estimate.work import StepWork

_SIZE_OF_SLOTS = math.log(1.5)
"""Difference of the logarithm of the tokens per micro-batch up to which a measured gain of slots is used: larger
products use several threads better."""


def gain_compiled(
    setup: TrainingSetup,
    work: StepWork,
    uncompiled: StepWork,
    *,
    machine: TargetMachine,
    points: Sequence[TimePoint] = (),
) -> Estimate | Missing:
    """Estimate how many times as fast steps are compiled as uncompiled, from measured runs of both kinds.

    Args:
        uncompiled: the step that the same training has uncompiled, whose rows may be narrower.

    Returns:
        The ratio; missing unless runs of both kinds were measured on the machine, since no formula knows it.
    """
    found: dict[bool, Estimate] = {}
    for compiled, step in ((False, uncompiled), (True, work)):
        answer = seconds_per_step(dataclasses.replace(setup, compiled=compiled), step, machine=machine, points=points)
        if isinstance(answer, Missing) or answer.estimate.rung is EvidenceLevel.NOTHING:
            return Missing(missing=f"no {'compiled' if compiled else 'uncompiled'} run was measured on this machine")
        found[compiled] = answer.estimate
    plain, fused = found[False], found[True]
    ratio = plain.value / fused.value
    slower = math.hypot(math.log(plain.value / plain.low), math.log(fused.high / fused.value))
    faster = math.hypot(math.log(plain.high / plain.value), math.log(fused.value / fused.low))
    return Estimate(
        value=ratio,
        unit="times",
        low=ratio * math.exp(-slower),
        high=ratio * math.exp(faster),
        method="predicted step time uncompiled over compiled",
        rung=max(plain.rung, fused.rung),
        evidence=tuple(dict.fromkeys((*fused.evidence, *plain.evidence))),
        extrapolated=plain.extrapolated or fused.extrapolated,
    )


def gain_side_by_side(
    setup: TrainingSetup, work: StepWork, count: int, *, machine: TargetMachine, points: Sequence[TimePoint] = ()
) -> Estimate | Missing:
    """Estimate how many times as fast runs train side by side on one base as one after the other.

    S = K t(1) / t(K): the host's work of a step is done once for all K runs, operations and activations K times, and
    the optimizer steps K times.
    """
    asked = time_request(setup, work, machine, points)
    if isinstance(asked, Missing):
        return asked
    question, near, _, _ = asked
    found = fit_to(question, near)
    together = dataclasses.replace(
        work, tokens=count * work.tokens, squares=count * work.squares, label_tokens=count * work.label_tokens
    )
    alone = question.row(setting="asked")
    side_by_side = dataclasses.replace(question, work=together).row(setting="side by side")
    once_a_step = TERMS.index("step")
    side_by_side = dataclasses.replace(
        side_by_side,
        amounts=tuple(
            count * amount if term == once_a_step else amount for term, amount in enumerate(side_by_side.amounts)
        ),
    )
    log_ratio, sigma = found.predict_ratio(alone, side_by_side)
    if question.kind == "gpu" and not near:
        sigma = math.hypot(sigma, SIDE_BY_SIDE_SIGMA)
    # One after the other is at most K times as slow.
    middle, half = min(count * math.exp(log_ratio), count), half_width(sigma, found.freedom)
    evidence = tuple(point.name for point in near)
    return Estimate(
        value=middle,
        unit="times",
        low=middle * math.exp(-half),
        high=min(middle * math.exp(half), count),
        method=f"rates fitted to {plural(len(near), 'run')}" if near else "the machine's published figures",
        rung=EvidenceLevel.SAME_STACK if near else EvidenceLevel.NOTHING,
        evidence=evidence,
        extrapolated=not near,
    )


def gain_of_slots(
    setup: TrainingSetup, work: StepWork, *, machine: TargetMachine, points: Sequence[TimePoint] = ()
) -> Estimate | Missing:
    """Estimate how many times as fast runs train in the slots of a CPU as one after the other with all threads.

    S = N t(whole) / t(slot). Only probes that measured both count, with steps of the same model and about this size.
    """
    near = [
        (point.name, math.log(machine.slots * point.whole_seconds_per_step / point.seconds_per_step))
        for point in points
        if point.whole_seconds_per_step is not None
        and place(point.machine) == place(machine.key)
        and stack_key(point.setup) == stack_key(setup)
        and same_model(point, setup)
        and abs(math.log(point.work.tokens_per_micro_batch / work.tokens_per_micro_batch)) <= _SIZE_OF_SLOTS
    ]
    if not near:
        return Missing(missing=f"not measured on {machine_text(machine.key)}")
    logs = [log for _, log in near]
    middle = math.fsum(logs) / len(logs)
    residuals = [log - middle for log in logs] if len(logs) > 1 else []
    sigma, freedom = spread(residuals, prior_sigma=SLOTS_SIGMA, prior_weight=PRIOR_WEIGHT["cpu"])
    half = half_width(sigma * math.sqrt(1 + 1 / len(logs)), freedom)
    return Estimate(
        value=math.exp(middle),
        unit="times",
        low=math.exp(middle - half),
        high=math.exp(middle + half),
        method=f"steps measured with all threads and in {machine.slots} slots ({plural(len(logs), 'probe')})",
        rung=EvidenceLevel.SAME_MODEL,
        evidence=tuple(name for name, _ in near),
        extrapolated=False,
    )
