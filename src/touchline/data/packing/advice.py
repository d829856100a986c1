"""Advice on the effects of packing on a training, with numbers and reasons.

Each rule is a function that returns advice or None. Sources of the thresholds: small datasets lose accuracy when
packing leaves few optimizer steps (1,000 examples on a 32B model: AIME24 36.7 unpacked, 13.3 packed, open-thoughts
issue 30; an issue of a trainer advises against it for 100 to 1,000 examples; "Packing Analysis", ACL Findings 2025: it
suits large models and large datasets). The others are choices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchline.core.estimate import PackingSide, PackingSummary
from touchline.core.finding import Severity
from touchline.core.units import percent
from touchline.data.packing.forecast import BatchForecast, BatchSettings
from touchline.data.packing.groups import count_lengths
from touchline.data.packing.histogram import pack_histogram

FEW_STEPS = 100
"""Optimizer steps below which a schedule leaves little room for warmup and decay."""
LARGE_WARMUP = 0.2
"""Fraction of the steps from which on warmup dominates a run."""
LITTLE_DENSITY = 1.2
"""Packing density below which packing has no benefit."""
MOSTLY = 0.9
"""Fraction of the examples that counts as nearly all."""
EFFICIENT = 0.85
"""Packing efficiency from which on there is little to save."""
LARGER = 1.5
"""Growth factor of a step or micro-batch that is worth reporting."""
WASTEFUL = 0.03
"""Fraction of packed sequences above the lower bound from which on another dataset order is worthwhile."""


Advice = tuple[Severity, str]
"""Advice with numbers, reason and remedy. Error: this training would do nothing. Warning: unexpected effect."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """Inputs of the rules."""

    lengths: NDArray[np.int64]
    """Tokens per example, shape [examples]."""
    labels: NDArray[np.int64] | None
    """Label tokens at the end of each example. None for all tokens."""
    settings: BatchSettings
    packed: BatchForecast
    unpacked: BatchForecast
    warmup_steps: int | None = None
    is_open: bool = False
    """Whether packing is still to be decided: the verdict comes first, and how to pack only where it saves compute."""

    @property
    def rows_per_step(self) -> int:
        """Return the sequences per optimizer step."""
        settings = self.settings
        return settings.micro_batch_size * settings.gradient_accumulation_steps * settings.data_parallel_size

    @property
    def growth(self) -> float:
        """Return the ratio of examples per step, packed to unpacked."""
        before, after = examples_per_step(self.unpacked), examples_per_step(self.packed)
        if before and after:
            return after / before
        return self.packed.density / self.unpacked.density if self.unpacked.density else 1.0


def examples_per_step(forecast: BatchForecast) -> float:
    """Return the mean examples per step; 0 if there is no step."""
    return forecast.examples / forecast.steps_per_epoch if forecast.steps_per_epoch else 0.0


def advise(case: Case) -> tuple[Advice, ...]:
    """Return all applicable advice, the most severe first. Empty without examples."""
    if not len(case.lengths):
        return ()
    saves = case.packed.efficiency > case.unpacked.efficiency
    how_to_pack = _HOW_TO_PACK if saves or not case.is_open else ()
    rules = (*_VERDICTS, *how_to_pack, (Severity.WARNING, _lost_tokens))
    found = [(severity, sentence) for severity, rule in rules if (sentence := rule(case)) is not None]
    first = 1 if case.is_open else 0
    return (*found[:first], *sorted(found[first:], key=lambda advice: list(Severity).index(advice[0])))


def _no_step(case: Case) -> str | None:
    without = [
        words for words, forecast in (("packed", case.packed), ("not packed", case.unpacked)) if forecast.steps_low == 0
    ]
    if not without:
        return None
    settings, forecast = case.settings, case.packed if case.packed.steps_low == 0 else case.unpacked
    factors = [f"micro-batches of {settings.micro_batch_size:,}"]
    if settings.gradient_accumulation_steps > 1:
        factors.append(f"{settings.gradient_accumulation_steps:,} accumulation steps")
    if settings.data_parallel_size > 1:
        factors.append(f"{settings.data_parallel_size:,} devices")
    return (
        f"There is no optimizer step when {' or '.join(without)}: an epoch has {_rows(forecast.rows)}, but a step "
        f"needs {case.rows_per_step:,} ({' × '.join(factors)}). Reduce gradient accumulation, the micro-batch size "
        "or max_seq_len."
    )


def _few_steps(case: Case) -> str | None:
    steps, before = case.packed.steps_low, case.unpacked.steps_low
    if not 0 < steps < min(FEW_STEPS, before):
        return None
    short = case.packed.rows < case.rows_per_step
    reason = (
        f"An epoch has {_rows(case.packed.rows)}, fewer than the {case.rows_per_step:,} of one step"
        if short
        else f"Fewer than {FEW_STEPS} steps leave little room for warmup and decay, and small datasets lost accuracy"
    )
    return (
        f"Packing reduces the run from {before:,} to {_steps(steps)}. {reason}. Use fewer sequences per step, a "
        "smaller max_seq_len, or do not pack."
    )


def _long_warmup(case: Case) -> str | None:
    steps = case.packed.steps_low
    if not case.warmup_steps or not steps or case.warmup_steps < LARGE_WARMUP * steps:
        return None
    return (
        f"Warmup takes {case.warmup_steps:,} of the {_steps(steps)} of the packed run "
        f"({percent(case.warmup_steps / steps, 0)}), so the full learning rate comes late or never. Set warmup as "
        "a fraction of the steps."
    )


def _larger_steps(case: Case) -> str | None:
    if case.growth < LARGER or 0 in (case.packed.steps_per_epoch, case.unpacked.steps_per_epoch):
        return None
    rows, growth, limit = case.rows_per_step, case.growth, case.settings.max_seq_len
    before, after = examples_per_step(case.unpacked), examples_per_step(case.packed)
    shorter = max(round(limit * rows / growth), int(case.lengths.max()))
    keep = ""
    if round(rows / growth) >= 1:
        keep = f"To keep it, use {_rows(round(rows / growth))} per step instead of {rows:,}. Otherwise "
    elif shorter < limit:
        keep = f"To keep it, use 1 sequence per step and max_seq_len near {shorter:,}. Otherwise "
    words = f"{keep}tune the learning rate: try"
    return (
        f"Packing raises the effective batch size from {before:,.0f} to {after:,.0f} examples "
        f"({case.packed.density:.1f} per sequence). {words[0].upper()}{words[1:]} ×1, ×{growth**0.5:.1f} (square "
        f"root) and ×{growth:.1f} (linear)."
    )


def _larger_micro_batch(case: Case) -> str | None:
    before, after = case.unpacked.largest, case.packed.largest
    if not before.tokens or after.tokens < LARGER * before.tokens:
        return None
    rows = max(1, before.tokens // max(after.width, 1))
    return (
        f"The largest micro-batch grows from {before.tokens:,} computed tokens ({before.rows:,} × "
        f"{before.width:,}) to {after.tokens:,} ({after.rows:,} × {after.width:,}), and activation memory "
        f"grows with it. A micro-batch of {_rows(rows)} is closest to the unpacked run."
    )


def _lost_tokens(case: Case) -> str | None:
    forecast = max((case.packed, case.unpacked), key=lambda one: len(one.truncated) + len(one.dropped))
    truncated, dropped, cut = forecast.truncated, forecast.dropped, forecast.answers_cut
    if not len(truncated) + len(dropped):
        return None
    limit, examples = case.settings.max_seq_len, len(case.lengths)
    lost = int(np.maximum(case.lengths[truncated] - limit, 0).sum()) + int(case.lengths[dropped].sum())
    parts = []
    if len(truncated):
        parts.append(f"{_share(len(truncated), examples)} are truncated")
    if len(dropped):
        parts.append(f"{_share(len(dropped), examples)} are dropped")
    words = " and ".join(parts)
    answers = ""
    if len(cut):
        gone = 0
        if case.labels is not None:
            gone = int((case.lengths[cut] - case.labels[cut] >= limit).sum())
        which = "They" if len(cut) == len(truncated) else f"{len(cut):,} of them"
        answers = f" {which} lose the end of the answer, which teaches the model to stop early"
        answers += f". {gone:,} lose the whole answer." if gone else "."
    return (
        f"With max_seq_len {limit:,}, {words}: {lost:,} of {int(case.lengths.sum()):,} tokens are "
        f"lost.{answers} The longest example has {int(case.lengths.max()):,} tokens, and 99% have at most "
        f"{int(np.quantile(case.lengths, 0.99, method='higher')):,}."
    )


def _no_gain(case: Case) -> str | None:
    limit = case.settings.max_seq_len
    long = float((case.lengths > limit // 2).mean())
    if (case.packed.density >= LITTLE_DENSITY and long <= MOSTLY) or long <= 1 / 2:
        return None
    longer = pack_histogram(count_lengths(np.minimum(case.lengths, 2 * limit), 2 * limit), 2 * limit, search=False)
    return (
        f"Packing has no benefit: a sequence holds {case.packed.density:.2f} examples, because {percent(long, 0)} "
        f"of them are longer than half of max_seq_len {limit:,}. With {2 * limit:,} it would hold "
        f"{longer.density:.2f}."
    )


def _what_is_saved(case: Case) -> str | None:
    packed, unpacked = case.packed, case.unpacked
    if not packed.padded_tokens or not unpacked.padded_tokens or case.packed.density < LITTLE_DENSITY:
        return None
    # Per token that is no padding, since rows that no step uses are computed on neither side.
    saved = 1 - unpacked.efficiency / packed.efficiency
    if saved <= 0:
        text = (
            f"Do not pack: packing computes {percent(abs(saved), 0)} more tokens. When packed "
            f"{percent(packed.efficiency)} of them are non-padding, {percent(unpacked.efficiency)} when not packed."
        )
    elif unpacked.efficiency >= EFFICIENT:
        text = (
            f"Packing saves only {percent(saved, 0)} of the compute: {percent(unpacked.efficiency)} of computed tokens "
            f"are non-padding when not packed, {percent(packed.efficiency)} when packed. Its larger steps are also "
            "available through a larger micro-batch."
        )
    else:
        text = (
            f"Packing reduces compute {packed.efficiency / unpacked.efficiency:.1f} times: "
            f"{percent(unpacked.efficiency)} of computed tokens are non-padding when not packed, "
            f"{percent(packed.efficiency)} when packed."
        )
    return text


def _wasteful_packer(case: Case) -> str | None:
    forecast = case.packed
    if case.growth < LITTLE_DENSITY:
        # Rows are made within a micro-batch and the steps stay: fewer rows over all would be another training.
        return None
    if forecast.rows - forecast.lower_bound <= WASTEFUL * forecast.lower_bound:
        return None
    kept = np.delete(np.minimum(case.lengths, case.settings.max_seq_len), forecast.dropped)
    ours = pack_histogram(count_lengths(kept, case.settings.max_seq_len), case.settings.max_seq_len)
    if ours.packs > (1 - WASTEFUL) * forecast.rows:
        return None
    return (
        f"This trainer's packer makes {_rows(forecast.rows)}, but {ours.packs:,} are "
        f"enough{', the fewest possible' if ours.optimal else ''} "
        f"({percent(1 - ours.packs / forecast.rows, 0)} fewer). A packer that keeps the dataset's order "
        "makes these if the dataset is written in packed order."
    )


_Rule = tuple[Severity, Callable[[Case], str | None]]
_VERDICTS: tuple[_Rule, ...] = (
    (Severity.ERROR, _no_step),
    (Severity.WARNING, _no_gain),
    (Severity.INFO, _what_is_saved),
)
_HOW_TO_PACK: tuple[_Rule, ...] = (
    (Severity.WARNING, _few_steps),
    (Severity.WARNING, _long_warmup),
    (Severity.WARNING, _larger_steps),
    (Severity.WARNING, _larger_micro_batch),
    (Severity.INFO, _wasteful_packer),
)


def _rows(count: int) -> str:
    return f"{count:,} sequence{'' if count == 1 else 's'}"


def _steps(count: int) -> str:
    return f"{count:,} optimizer step{'' if count == 1 else 's'}"


def _share(count: int, whole: int) -> str:
    return f"{count:,} of {whole:,} examples ({percent(count / whole)})"


def compare(
    lengths: NDArray[np.uint32],
    settings: BatchSettings,
    packed: BatchForecast,
    unpacked: BatchForecast,
    *,
    backend: str,
    labels: NDArray[np.uint32] | None = None,
    warmup_steps: int | None = None,
    packed_micro_batch_size: int | None = None,
    is_open: bool = False,
) -> PackingSummary:
    """Return both kinds of batching side by side, and advice.

    Args:
        lengths: tokens of each example, shape [examples].
        labels: of the lengths, tokens with a loss, the last ones of each example; shape [examples]. None: all.
        packed_micro_batch_size: rows per forward pass with packing. None: as in `settings`.
    """
    case = Case(
        lengths=lengths.astype(np.int64),
        labels=None if labels is None else labels.astype(np.int64),
        settings=settings,
        packed=packed,
        unpacked=unpacked,
        warmup_steps=warmup_steps,
        is_open=is_open,
    )
    return PackingSummary(
        backend=backend,
        max_seq_len=settings.max_seq_len,
        micro_batch_size=settings.micro_batch_size,
        examples=len(lengths),
        packed=side(packed, settings, packed_micro_batch_size),
        unpacked=side(unpacked, settings),
        advice=tuple(sentence for _, sentence in advise(case)),
    )


def side(forecast: BatchForecast, settings: BatchSettings, micro_batch_size: int | None = None) -> PackingSide:
    """Return one kind of batching, for one epoch."""
    epochs = max(settings.epochs, 1)
    return PackingSide(
        packs=forecast.rows,
        lower_bound=forecast.lower_bound,
        density=forecast.density,
        efficiency=100 * forecast.efficiency,
        steps_per_epoch=forecast.steps_per_epoch,
        steps_per_epoch_low=forecast.steps_low // epochs,
        steps_per_epoch_high=-(-forecast.steps_high // epochs),
        examples_per_step=forecast.examples * settings.epochs / forecast.steps if forecast.steps else 0.0,
        largest_micro_batch_tokens=forecast.largest.tokens,
        padded_tokens=forecast.padded_tokens,
        truncated=len(forecast.truncated),
        answers_cut=len(forecast.answers_cut),
        dropped=len(forecast.dropped),
        notes=forecast.notes,
        micro_batch_size=micro_batch_size or settings.micro_batch_size,
    )
