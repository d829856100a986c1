"""Bayesian fit of step times as a sum of positive terms. It works from zero measurements on.

A time is a sum of terms, each an amount (layers, operations, bytes) times a rate in seconds; where the device works
while the host still launches, a smooth maximum of both counts. The logarithms of the rates are unknown, with normal
priors shared by all runs of one trainer on one machine. Models and variants of the settings deviate from the shared
rates, and each run has noise. This is a Gaussian process over the rates, linearized at the fit (Gauss-Newton;
Rasmussen and Williams 2006, chapter 2), so prediction errors are small near measurements and large away from them.
All errors are relative (log scale).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_ROUNDS = 40
_CLOSE = 1e-6
_HALVINGS = 8
_ENOUGH_TO_DOUBT = 10
"""Number of samples from which on outliers can be detected."""
_KNOWN = 2.0
"""Factor on a sample's noise within which the others must predict it to call it an outlier."""
_DOUBTFUL = 2.0
"""Standard deviations from which on a sample is an outlier."""
_DOUBTS = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rates:
    """Terms and the priors of their rates."""

    means: Floats
    """Logarithm of each rate in seconds per unit; shape [terms]."""
    sigmas: Floats
    """Standard deviation of each; shape [terms]."""
    host: NDArray[np.bool_]
    """Terms that overlap with the others; shape [terms]."""
    alone: NDArray[np.bool_]
    """Terms that never overlap; shape [terms]."""
    power: float
    """Power of the smooth maximum; 1 adds up everything, larger values count only the slower side."""
    model_sigma: float
    rate_sigma: float
    variant_sigma: float
    setting_sigma: float
    """Standard deviation of one setting, common to all its runs."""
    weight: int
    """Number of residuals that these standard deviations are worth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegressionSample:
    """Time, measured or to be predicted."""

    amounts: tuple[float, ...]
    model: str
    variant: str
    setting: str
    noise: float
    """Standard deviation of its logarithm between runs."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fit:
    """Fitted rates."""

    rates: Rates
    rows: tuple[RegressionSample, ...]
    slopes: Floats
    """Share of each term in each sample; shape [rows, terms]."""
    inverse: Floats
    """Inverse covariance of the measured logarithms; shape [rows, rows]."""
    weights: Floats
    """Inverse covariance times the deviation from the prior; shape [rows]."""
    extra: Floats
    """Variance added to the noise of outliers; shape [rows]."""
    scale: float
    """Factor on all standard deviations, from how well the prior fits."""
    freedom: int

    def predict(self, row: RegressionSample) -> tuple[float, float]:
        """Return the logarithm of the seconds and its standard deviation for a new run.

        The time increases with every amount.
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

    def predict_ratio(self, one: RegressionSample, other: RegressionSample) -> tuple[float, float]:
        """Return the logarithm of one time over another, and its standard deviation for two new runs.

        Errors of the rates that both times share cancel.
        """
        rates, logs, slopes = self.rates, [], []
        for row in (one, other):
            value, slope = log_seconds(self._moved(row), row.amounts, rates)
            logs.append(value)
            slopes.append(slope)
        shared, whole = _shared([one, other], [one, other], rates)
        covariance = _covariance(np.array(slopes), shared, whole) + _noise((one, other), rates)
        if self.rows:
            before, common = _shared([one, other], self.rows, rates)
            settings = rates.setting_sigma**2 * _same((one, other), self.rows, "setting")
            cross = np.einsum("ik,ijk,jk->ij", np.array(slopes), before, self.slopes) + common + settings
            covariance -= cross @ self.inverse @ cross.T
        variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        return logs[0] - logs[1], self.scale * float(np.sqrt(max(variance, one.noise**2 + other.noise**2)))

    def _moved(self, row: RegressionSample) -> Floats:
        if not self.rows:
            return self.rates.means
        shared, whole = _shared([row], self.rows, self.rates)
        moved: Floats = self.rates.means + (shared[0] * self.slopes).T @ self.weights + whole[0] @ self.weights
        return moved

    def left_out(self) -> tuple[Floats, Floats]:
        """Return for each measured sample its residual and standard deviation when left out; shapes [rows].

        Uses the identity for Gaussian processes (Sundararajan and Keerthi 2001) at the rates of the whole fit.
        """
        precision = np.diag(self.inverse)
        # A new run would be expected with its ordinary noise, whatever this one had.
        return self.weights / precision, self.scale * np.sqrt(np.maximum(1 / precision - self.extra, 1e-12))


def log_seconds(log_rates: Floats, amounts: Sequence[float], rates: Rates) -> tuple[float, Floats]:
    """Return the logarithm of the seconds, and its derivative by each log rate: the terms' shares, which sum to 1."""
    values, shares = _log_seconds(log_rates[None, :], np.asarray([amounts], dtype=float), rates)
    return float(values[0]), shares[0]


def _log_seconds(log_rates: Floats, amounts: Floats, rates: Rates) -> tuple[Floats, Floats]:
    """Return the same for many samples, each with its own rates; both of shape [rows, terms]."""
    parts = np.exp(log_rates) * amounts
    base, host = parts[:, rates.alone].sum(axis=1), parts[:, rates.host].sum(axis=1)
    device = parts[:, ~(rates.alone | rates.host)].sum(axis=1)
    # The larger is taken out, so that no power overflows.
    larger = np.maximum(np.maximum(host, device), np.finfo(float).tiny)
    overlapped = larger * ((host / larger) ** rates.power + (device / larger) ** rates.power) ** (1 / rates.power)
    below = np.maximum(overlapped, np.finfo(float).tiny)
    on_host, on_device = ((side / below) ** (rates.power - 1) for side in (host, device))
    factors = np.where(rates.alone, 1.0, np.where(rates.host, on_host[:, None], on_device[:, None]))
    total = base + overlapped
    return np.log(total), parts * factors / total[:, None]


def fit(rates: Rates, rows: Sequence[RegressionSample], logs: Sequence[float]) -> Fit:
    """Fit the rates to measured times. Without any, the prior remains.

    Args:
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
            extra=np.zeros(0),
            scale=1.0,
            freedom=rates.weight,
        )
    measured = np.asarray(logs, dtype=float)
    amounts = np.array([row.amounts for row in rows], dtype=float)
    problem = _Problem(rates=rates, rows=rows, measured=measured, amounts=amounts)
    found = problem.solved(np.zeros(count))
    if count >= _ENOUGH_TO_DOUBT:
        for _ in range(_DOUBTS):
            found = problem.solved(problem.excess(found))
    return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Problem:
    """Measured samples, and the fit to them with individual noise."""

    rates: Rates
    rows: tuple[RegressionSample, ...]
    measured: Floats
    amounts: Floats

    def solved(self, extra: Floats) -> Fit:
        """Return the fit with this variance added to each sample's noise; shape [rows]."""
        rates, rows, measured = self.rates, self.rows, self.measured
        noise = _noise(rows, rates)
        own = noise + np.diag(extra)
        weight = np.linalg.inv(own)

        def misfit(at: Floats) -> float:
            rest = measured - self._linearised(at)[0]
            return float(rest @ weight @ rest)

        shared, whole = _shared(rows, rows, rates)
        moved = np.tile(rates.means, (len(rows), 1))
        values, slopes = self._linearised(moved)
        for _ in range(_ROUNDS):
            inverse, weights, _ = self._weighed(slopes, values, moved, _covariance(slopes, shared, whole) + own)
            pulled = slopes * weights[:, None]
            wanted = rates.means + np.einsum("ijk,jk->ik", shared, pulled) + (whole @ weights)[:, None]
            step = wanted - moved
            before = max(misfit(moved), float(len(rows)))
            shorter = 0
            # A full step may overshoot where terms trade places; a shorter one then fits better.
            while shorter < _HALVINGS and misfit(moved + step / 2**shorter) > before:
                shorter += 1
            moved = moved + step / 2**shorter
            values, slopes = self._linearised(moved)
            if float(np.abs(step).max()) < _CLOSE:
                break
        covariance = _covariance(slopes, shared, whole)
        inverse, weights, surprise = self._weighed(slopes, values, moved, covariance + own)
        # How well all of it fits counts with every row at its full weight: the next run may be like the worst.
        surprises = float(surprise @ np.linalg.solve(covariance + noise, surprise))
        freedom = rates.weight + len(rows)
        return Fit(
            rates=rates,
            rows=rows,
            slopes=slopes,
            inverse=inverse,
            weights=weights,
            extra=extra,
            scale=float(np.sqrt((rates.weight + surprises) / freedom)),
            freedom=freedom,
        )

    def excess(self, found: Fit) -> Floats:
        """Return the variance that makes an outlier as likely as two standard deviations; zero for other samples."""
        residuals, sigmas = found.left_out()
        plain = sigmas / found.scale
        # A run that shared its machine is an outlier, and must not bend what the others tell.
        wanted = np.maximum(residuals**2 - (_DOUBTFUL * plain) ** 2, 0.0)
        # But where it alone tells of its surroundings, the others know no better.
        known = plain <= _KNOWN * np.sqrt(np.diag(_noise(self.rows, self.rates)))
        return np.where(known, wanted, 0.0)

    def _linearised(self, at: Floats) -> tuple[Floats, Floats]:
        return _log_seconds(at, self.amounts, self.rates)

    def _weighed(self, slopes: Floats, values: Floats, at: Floats, covariance: Floats) -> tuple[Floats, Floats, Floats]:
        surprise = self.measured - values + np.einsum("ik,ik->i", slopes, at - self.rates.means)
        inverse: Floats = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        return inverse, inverse @ surprise, surprise


def _same(ones: Sequence[RegressionSample], others: Sequence[RegressionSample], name: str) -> NDArray[np.bool_]:
    left = np.array([getattr(row, name) for row in ones], dtype=object)
    right = np.array([getattr(row, name) for row in others], dtype=object)
    equal: NDArray[np.bool_] = np.asarray(left[:, None] == right[None, :], dtype=np.bool_)
    return equal


def _shared(
    ones: Sequence[RegressionSample], others: Sequence[RegressionSample], rates: Rates
) -> tuple[Floats, Floats]:
    """Return the covariance of the rates of two samples: per rate, shape [ones, others, terms], and in total, [ones,
    others]."""
    model = _same(ones, others, "model").astype(float)
    variant = _same(ones, others, "variant").astype(float)
    each = rates.sigmas**2 + model[:, :, None] * rates.rate_sigma**2
    return each, model * rates.model_sigma**2 + variant * rates.variant_sigma**2


def _covariance(slopes: Floats, shared: Floats, whole: Floats) -> Floats:
    # The shares of a row sum to 1, so what all rates have in common comes in as it is.
    found: Floats = np.einsum("ik,ijk,jk->ij", slopes, shared, slopes) + whole
    return found


def _noise(rows: Sequence[RegressionSample], rates: Rates) -> Floats:
    peculiar = _same(rows, rows, "setting") * rates.setting_sigma**2
    own: Floats = np.diag([row.noise**2 for row in rows]) + peculiar
    return own


def _own(slope: Floats, row: RegressionSample, rates: Rates) -> float:
    each = rates.sigmas**2 + rates.rate_sigma**2
    whole = rates.model_sigma**2 + rates.variant_sigma**2 + rates.setting_sigma**2
    return float(slope @ (each * slope)) + whole + row.noise**2
