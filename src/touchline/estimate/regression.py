"""A sum of positive terms fitted to measured times, with priors: one run already teaches something, none is no fault.

A time is a sum of terms, each an amount (layers, operations, bytes) times a rate in seconds; where a device works while
the host still launches, the larger of both counts, by a smooth maximum. Unknown are the logarithms of the rates. They
have normal priors, shared by all runs of one trainer on one machine; each model differs from the shared rates by some
per cent, each variant of the settings too, and each run by noise. That is a Gaussian process over the rates, linearised
where the fit ends (Gauss-Newton; Rasmussen and Williams 2006, chapter 2), so the error of a prediction is known, small
near what was measured and large away from it. Everything is on the log scale: errors are relative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_ROUNDS = 40
_CLOSE = 1e-9
_HALVINGS = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rates:
    """The terms, and what is known of their rates before anything is measured."""

    means: Floats
    """Logarithm of each rate in seconds per unit; shape [terms]."""
    sigmas: Floats
    """Standard deviation of each; shape [terms]."""
    host: NDArray[np.bool_]
    """Terms that run beside the others; shape [terms]."""
    alone: NDArray[np.bool_]
    """Terms that are added whatever runs beside; shape [terms]."""
    power: float
    """1: everything adds up. The larger, the more only the slower side counts."""
    model_sigma: float
    """How far a model's own time differs, as a whole."""
    rate_sigma: float
    """How far its single rates differ."""
    variant_sigma: float
    """How far a variant of the settings differs."""
    setting_sigma: float
    """What is peculiar to one setting, in all its runs."""
    weight: float
    """How many residuals these standard deviations are worth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One time, measured or asked for."""

    amounts: tuple[float, ...]
    """Amount of each term."""
    model: str
    """What shares a model's deviation."""
    variant: str
    """What shares a variant's."""
    setting: str
    """What shares all but noise."""
    noise: float
    """Standard deviation of its logarithm between runs."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fit:
    """What was learned."""

    rates: Rates
    """The prior."""
    rows: tuple[Row, ...]
    """The measured ones."""
    slopes: Floats
    """Share of each term in each row; shape [rows, terms]."""
    inverse: Floats
    """Inverse of the covariance of the measured logarithms; shape [rows, rows]."""
    weights: Floats
    """That inverse times what the prior did not expect; shape [rows]."""
    scale: float
    """Factor on all standard deviations: how much worse, or better, the prior fits than it says."""
    freedom: float
    """Degrees of freedom of that factor."""

    def predict(self, row: Row) -> tuple[float, float]:
        """Logarithm of the seconds, and its standard deviation for a new run.

        The rates are what the measured rows make of them; the time grows with every amount.
        """
        rates = self.rates
        value, slope = log_seconds(self._moved(row), row.amounts, rates)
        if not self.rows:
            return value, float(np.sqrt(_own(slope, row, rates)))
        shared, whole = _shared([row], self.rows, rates)
        cross = (shared[0] * self.slopes) @ slope + whole[0]
        cross += rates.setting_sigma**2 * np.array([other.setting == row.setting for other in self.rows])
        variance = _own(slope, row, rates) - float(cross @ self.inverse @ cross)
        # What noise a run has of its own never goes away; rounding must not make it less.
        return value, self.scale * float(np.sqrt(max(variance, row.noise**2)))

    def shares(self, row: Row) -> tuple[float, ...]:
        """Share of each term in the prediction; they sum to 1."""
        return tuple(float(share) for share in log_seconds(self._moved(row), row.amounts, self.rates)[1])

    def _moved(self, row: Row) -> Floats:
        """The rates that hold for a row, as what was measured makes them; shape [terms]."""
        if not self.rows:
            return self.rates.means
        shared, whole = _shared([row], self.rows, self.rates)
        moved: Floats = self.rates.means + (shared[0] * self.slopes).T @ self.weights + whole[0] @ self.weights
        return moved

    def left_out(self) -> tuple[Floats, Floats]:
        """For each measured row, its residual and standard deviation had it not been seen; shapes [rows].

        By the usual identity for Gaussian processes (Sundararajan and Keerthi 2001), at the rates of the whole fit.
        """
        precision = np.diag(self.inverse)
        return self.weights / precision, self.scale * np.sqrt(1 / precision)


def log_seconds(log_rates: Floats, amounts: Sequence[float], rates: Rates) -> tuple[float, Floats]:
    """Logarithm of the seconds, and its derivative by each logarithm of a rate: the terms' shares, which sum to 1."""
    parts = np.exp(log_rates) * np.asarray(amounts, dtype=float)
    base, host = parts[rates.alone].sum(), parts[rates.host].sum()
    device = parts.sum() - base - host
    if host <= 0 or device <= 0:
        overlapped, on_host, on_device = host + device, 1.0, 1.0
    else:
        # The larger is taken out, so that no power overflows.
        larger = max(host, device)
        inner = ((host / larger) ** rates.power + (device / larger) ** rates.power) ** (1 / rates.power)
        overlapped = larger * inner
        on_host = (host / overlapped) ** (rates.power - 1)
        on_device = (device / overlapped) ** (rates.power - 1)
    factors = np.where(rates.alone, 1.0, np.where(rates.host, on_host, on_device))
    total = base + overlapped
    return float(np.log(total)), parts * factors / total


def fit(rates: Rates, rows: Sequence[Row], logs: Sequence[float]) -> Fit:
    """Fit the rates to measured times; without any the prior stands.

    Args:
        rates: the terms and their prior.
        rows: what was measured.
        logs: logarithm of the seconds of each; shape [rows].
    """
    rows = tuple(rows)
    count, terms = len(rows), len(rates.means)
    if not rows:
        empty = np.zeros((0, 0))
        return Fit(
            rates=rates,
            rows=(),
            slopes=np.zeros((0, terms)),
            inverse=empty,
            weights=np.zeros(0),
            scale=1.0,
            freedom=rates.weight,
        )
    measured = np.asarray(logs, dtype=float)
    own = _noise(rows, rates)
    shared, whole = _shared(rows, rows, rates)
    moved = np.tile(rates.means, (count, 1))

    def linearised(at: Floats) -> tuple[Floats, Floats]:
        pairs = [log_seconds(at[index], row.amounts, rates) for index, row in enumerate(rows)]
        return np.array([value for value, _ in pairs]), np.array([slope for _, slope in pairs])

    def solved(slopes: Floats, values: Floats, at: Floats) -> tuple[Floats, Floats, Floats]:
        covariance = _covariance(slopes, shared, whole) + own
        surprise = measured - values + np.einsum("ik,ik->i", slopes, at - rates.means)
        inverse: Floats = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        return inverse, inverse @ surprise, surprise

    values, slopes = linearised(moved)
    for _ in range(_ROUNDS):
        inverse, weights, _ = solved(slopes, values, moved)
        pulled = slopes * weights[:, None]
        wanted = rates.means + np.einsum("ijk,jk->ik", shared, pulled) + (whole @ weights)[:, None]
        step = wanted - moved
        before = max(_misfit(measured - values, own), float(count))
        shorter = 0
        # A full step may overshoot where terms trade places; a shorter one then fits better.
        while shorter < _HALVINGS and _misfit(measured - linearised(moved + step / 2**shorter)[0], own) > before:
            shorter += 1
        moved = moved + step / 2**shorter
        values, slopes = linearised(moved)
        if float(np.abs(step).max()) < _CLOSE:
            break
    inverse, weights, surprise = solved(slopes, values, moved)
    freedom = rates.weight + count
    scale = float(np.sqrt((rates.weight + surprise @ weights) / freedom))
    return Fit(rates=rates, rows=rows, slopes=slopes, inverse=inverse, weights=weights, scale=scale, freedom=freedom)


def _same(ones: Sequence[Row], others: Sequence[Row], name: str) -> NDArray[np.bool_]:
    left = np.array([getattr(row, name) for row in ones], dtype=object)
    right = np.array([getattr(row, name) for row in others], dtype=object)
    equal: NDArray[np.bool_] = np.asarray(left[:, None] == right[None, :], dtype=np.bool_)
    return equal


def _shared(ones: Sequence[Row], others: Sequence[Row], rates: Rates) -> tuple[Floats, Floats]:
    """Covariance of the rates of two rows: of each rate, shape [ones, others, terms], and of all, [ones, others]."""
    model = _same(ones, others, "model").astype(float)
    variant = _same(ones, others, "variant").astype(float)
    each = rates.sigmas**2 + model[:, :, None] * rates.rate_sigma**2
    return each, model * rates.model_sigma**2 + variant * rates.variant_sigma**2


def _covariance(slopes: Floats, shared: Floats, whole: Floats) -> Floats:
    # The shares of a row sum to 1, so what all rates have in common comes in as it is.
    found: Floats = np.einsum("ik,ijk,jk->ij", slopes, shared, slopes) + whole
    return found


def _noise(rows: Sequence[Row], rates: Rates) -> Floats:
    peculiar = _same(rows, rows, "setting") * rates.setting_sigma**2
    own: Floats = np.diag([row.noise**2 for row in rows]) + peculiar
    return own


def _own(slope: Floats, row: Row, rates: Rates) -> float:
    """Variance of a row's logarithm before anything is measured, a new run's noise included."""
    each = rates.sigmas**2 + rates.rate_sigma**2
    whole = rates.model_sigma**2 + rates.variant_sigma**2 + rates.setting_sigma**2
    return float(slope @ (each * slope)) + whole + row.noise**2


def _misfit(residuals: Floats, own: Floats) -> float:
    return float(residuals @ np.linalg.solve(own, residuals))
