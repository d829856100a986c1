"""Paths of the angle between a vector of paired differences and (1, ..., 1) while seeds are added, on a grid.

`group_sequential` derives why this angle is a Markov chain and what Student's t has to do with it. The probability of a
cell of the grid is carried by two points, at one standard deviation to either side of the cell's mean angle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from touchline.statistics.items import Floats

MOST_SEEDS: Final = 64
"""Seeds at a last look; beyond them bounds of the normal distribution would do."""
_CELLS: Final = 400
"""Cells of the grid of angles."""
_LENGTH_STEP: Final = 0.08
"""Distance of the lengths of the vector of differences that likelihood ratios are averaged over."""
_TABLE: Final = 8192
"""Points at which the distribution of the step is tabulated."""

Cumulative = Callable[[Floats], Floats]
"""Probability that a path reaches a look and has an angle below this one there."""


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Paths up to a look, without a true effect."""

    seeds: int
    edges: Floats
    """Edges of the cells, increasing: those of the grid, and the two bounds."""
    masses: Floats

    def ratios(self, effect: float) -> Floats:
        """Return how many times as likely the paths of each cell are with an effect, in standard deviations."""
        if len(self.masses) == 1 and self.edges[0] == self.edges[1]:
            return np.zeros(1)
        ratios = np.zeros(len(self.masses))
        places, regular = _regular(self.edges)
        ratios[regular] = _ratios(self.seeds, effect)[places[regular]]
        for cell in np.flatnonzero(~regular):
            ratios[cell] = _likelihood_ratios(_points(self.seeds, self.edges[cell : cell + 2]), self.seeds, effect)[0]
        return ratios

    def chance(self, effect: float) -> float:
        """Return the probability of all these paths with an effect, in standard deviations."""
        return float(self.masses @ self.ratios(effect))


def angle_of_t(t: float, seeds: int) -> float:
    """Return the angle of a value of t, 0 to pi."""
    return math.atan2(math.sqrt(seeds - 1), t)


def first_angle(seeds: int, probability: float) -> float:
    """Return the angle below which so many seeds are with this probability, without earlier looks."""
    from scipy.special import stdtrit

    return angle_of_t(-float(stdtrit(seeds - 1, probability)), seeds)


def arrivals(paths: Paths | None, seeds: int) -> Cumulative:
    """Return the distribution of the angle at a look of these seeds; None for the paths before the first look."""
    if paths is None:
        return lambda angles: _alone(seeds, angles)
    for at in range(paths.seeds + 1, seeds):
        paths = Paths(at, _grid(), np.diff(_with_one_seed(paths, _grid())))
    return lambda angles: _with_one_seed(paths, angles)


def between(cumulative: Cumulative, seeds: int, low: float, high: float) -> Paths:
    """Return the paths whose angle at the look is between two."""
    if high <= low:
        return Paths(seeds, np.array([low, low]), np.zeros(1))
    grid = _grid()
    inside = (grid > low) & (grid < high)
    at_low, at_high = cumulative(np.array([low, high]))
    chances = np.concatenate([[at_low], cumulative(grid)[inside], [at_high]])
    return Paths(seeds, np.concatenate([[low], grid[inside], [high]]), np.maximum(np.diff(chances), 0.0))


@lru_cache(maxsize=1)
def _grid() -> Floats:
    """Return the edges of the cells, closer together at small angles, where the bounds are."""
    return np.asarray(math.pi * np.linspace(0.0, 1.0, _CELLS + 1) ** 2)


def _regular(edges: Floats) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the place in the grid of each cell, and whether it is a whole cell of the grid."""
    places = np.searchsorted(_grid(), edges[:-1])
    after = np.minimum(places + 1, _CELLS)
    return places, (_grid()[places] == edges[:-1]) & (_grid()[after] == edges[1:])


def _points(seeds: int, edges: Floats) -> Floats:
    """Return the two points of each cell, shape [2, cells].

    The mean angle is that of the density without earlier looks, proportional to sin(angle)^(seeds - 2).
    """
    nodes, shares = np.polynomial.legendre.leggauss(4)
    middles, halves = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    angles = middles + halves * nodes[:, None]
    densities = shares[:, None] * np.sin(angles) ** (seeds - 2)
    total = densities.sum(axis=0)
    means = np.divide((densities * angles).sum(axis=0), total, out=middles.copy(), where=total > 0)
    spread = np.minimum(halves / math.sqrt(3), np.minimum(means - edges[:-1], edges[1:] - means))
    return np.stack([means - spread, means + spread])


def _with_one_seed(paths: Paths, ends: Floats) -> Floats:
    """Return the chance of an angle below each of `ends` with one more seed."""
    places, regular = _regular(paths.edges)
    if ends is not _grid():
        return np.asarray(paths.masses @ _step(paths.seeds, _points(paths.seeds, paths.edges), ends))
    total = paths.masses[regular] @ _all_steps(paths.seeds)[places[regular]]
    for cell in np.flatnonzero(~regular):
        points = _points(paths.seeds, paths.edges[cell : cell + 2])
        total = total + paths.masses[cell] * _step(paths.seeds, points, ends)[0]
    return np.asarray(total)


def _alone(seeds: int, angles: Floats) -> Floats:
    """Return the chance of an angle below each of `angles` with so many seeds and no earlier look."""
    from scipy.special import stdtr

    inside = np.clip(angles, 1e-12, math.pi - 1e-12)
    chances = stdtr(seeds - 1, -math.sqrt(seeds - 1) / np.tan(inside))
    return np.asarray(np.where(angles <= 0, 0.0, np.where(angles >= math.pi, 1.0, chances)))


@lru_cache(maxsize=MOST_SEEDS)
def _all_steps(seeds: int) -> Floats:
    return _step(seeds, _points(seeds, _grid()), _grid())


def _step(seeds: int, points: Floats, ends: Floats) -> Floats:
    """Return the chance of an angle below each of `ends` with one seed more, from each cell, given its two points."""
    table, chances = _phi(seeds)
    along, across = math.sqrt(seeds / (seeds + 1)) * np.cos(points), math.sqrt(1 / (seeds + 1))
    radius, turn = np.hypot(along, across)[..., None], np.arctan2(across, along)[..., None]
    arm = np.arccos(np.clip(np.cos(ends) / radius, -1.0, 1.0))
    return np.asarray((np.interp(turn + arm, table, chances) - np.interp(turn - arm, table, chances)).mean(axis=0))


@lru_cache(maxsize=MOST_SEEDS)
def _phi(seeds: int) -> tuple[Floats, Floats]:
    """Return the distribution of phi, density proportional to cos(phi)^(seeds - 1), and its next turn from 3 pi/2."""
    from scipy.special import stdtr

    half = np.linspace(-math.pi / 2, math.pi / 2, _TABLE)
    once = stdtr(seeds, math.sqrt(seeds) * np.tan(np.clip(half, 1e-9 - math.pi / 2, math.pi / 2 - 1e-9)))
    once[0], once[-1] = 0.0, 1.0
    return np.concatenate([half, half + 2 * math.pi]), np.concatenate([once, once + 1.0])


@lru_cache(maxsize=1024)
def _ratios(seeds: int, effect: float) -> Floats:
    return _likelihood_ratios(_points(seeds, _grid()), seeds, effect)


def _likelihood_ratios(points: Floats, seeds: int, effect: float) -> Floats:
    """Return exp(effect * sum - seeds * effect^2 / 2) of each cell, given its two points.

    The sum is sqrt(seeds) * cos(angle) times the length of the vector of differences, and the ratio is averaged over
    that length: a chi distribution, independent of every angle.
    """
    from scipy.special import gammaln

    reach = effect * math.sqrt(seeds)
    # Beyond 7 standard deviations there is nothing.
    lengths = np.arange(_LENGTH_STEP, abs(reach) + math.sqrt(seeds) + 7.0, _LENGTH_STEP)
    log_density = (seeds - 1) * np.log(lengths) - lengths**2 / 2 - (seeds / 2 - 1) * math.log(2) - gammaln(seeds / 2)
    exponents = log_density + reach * np.cos(points)[..., None] * lengths - reach**2 / 2
    return np.asarray(np.exp(exponents).sum(axis=-1).mean(axis=0) * _LENGTH_STEP)
