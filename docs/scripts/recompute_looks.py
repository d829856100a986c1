"""python recompute_looks.py ledger.jsonl plan.json"""

import json
import math
import sys
from functools import cache

import numpy as np
from scipy import optimize, stats

PATHS, LEVEL, GAMMA, GIVEN_UP = 200_000, 0.025, -2.0, 0.1
CHECKED, WRONG = [], []


def check(what, reported, found, within=1e-6):
    """Compare numbers, or anything else exactly."""
    CHECKED.append(what)
    numbers = isinstance(reported, (int, float)) and isinstance(found, (int, float))
    same = math.isclose(reported, found, rel_tol=within, abs_tol=1e-9) if numbers else reported == found
    if not same:
        WRONG.append(f"{what}: the ledger has {reported}, recomputed {found}")


def spent(share):
    """Hwang, Shih and DeCani: share of the level that is spent at a share of the seeds."""
    return (1 - math.exp(-GAMMA * share)) / (1 - math.exp(-GAMMA))


@cache
def draws(seeds):
    """Normal differences without an effect; the same for every bound."""
    return np.random.default_rng(1).normal(size=(PATHS, seeds))


def t_values(differences):
    seeds = differences.shape[1]
    return differences.mean(1) / differences.std(1, ddof=1) * math.sqrt(seeds)


def crossing(total, squares, seeds, bound):
    """Chance of t >= bound with one more normal difference, given sum and sum of squares of the others.

    t >= bound means sum >= u * sqrt(sum of squares) with the u below: a quadratic inequality in the last difference.
    """
    u2 = seeds * bound**2 / (seeds - 1 + bound**2)
    room = total**2 + squares * (1 - u2)
    root = math.sqrt(u2) * np.sqrt(np.maximum(room, 0.0))
    low, high = (total - root) / (u2 - 1), (total + root) / (u2 - 1)
    return np.where((total > 0) & (room > 0), stats.norm.cdf(high) - stats.norm.cdf(low), 0.0)


@cache
def efficacy(looks, level):
    """Bounds at which the simulated chance to cross is what the spending allows; look by look."""
    bounds, paths, done = [], draws(looks[-1]), 0.0
    active = np.ones(len(paths), dtype=bool)
    for seeds in looks:
        target = level * spent(seeds / looks[-1])
        if not bounds:
            bounds.append(float(stats.t.isf(target, seeds - 1)))
        else:
            before = paths[active, : seeds - 1]
            total, squares = before.sum(1), (before**2).sum(1)

            def excess(log_bound):
                chance = crossing(total, squares, seeds, math.exp(log_bound)).sum() / PATHS
                return chance - (target - done)

            bounds.append(math.exp(optimize.brentq(excess, math.log(1.001), math.log(1e5), xtol=1e-5)))
        done = target
        active &= t_values(paths[:, :seeds]) < bounds[-1]
    return tuple(bounds)


@cache
def shown_effect(looks, level):
    """The effect that crosses the bounds with 80 % power."""
    bounds = efficacy(looks, level)

    def excess(effect):
        paths = draws(looks[-1]) + effect
        return np.any([t_values(paths[:, :n]) >= c for n, c in zip(looks, bounds)], axis=0).mean() - 0.8

    return optimize.brentq(excess, 0.01, 30.0, xtol=1e-3)


@cache
def futility(looks, effect, level):
    """Values of t at or below which GIVEN_UP of the paths with the promised effect end, in proportion to the seeds."""
    effect = min(effect, shown_effect(looks, level))
    bounds, paths, done = [], draws(looks[-1]) + effect, 0.0
    active = np.ones(len(paths), dtype=bool)
    for seeds, upper in zip(looks[:-1], efficacy(looks, level)):
        t = t_values(paths[:, :seeds])
        active &= t < upper
        target = GIVEN_UP * seeds / looks[-1]
        rest = np.sort(t[active])
        bounds.append(float(min(rest[min(int((target - done) * PATHS), len(rest) - 1)], upper)))
        done = target
        active &= t > bounds[-1]
    return tuple(bounds)


def corrected(looks, observed, level):
    """The effect whose claims show the observed one on average (Troendle and Yu 1999); at least 0."""
    bounds, paths = efficacy(looks, level), draws(looks[-1])

    def excess(effect):
        claimed, active = [], np.ones(PATHS, dtype=bool)
        for seeds, bound in zip(looks, bounds):
            part = paths[active, :seeds] + effect
            is_claimed = t_values(part) >= bound
            claimed.append(part[is_claimed].mean(1))
            active[active] = ~is_claimed
        return np.concatenate(claimed).mean() - observed

    return 0.0 if excess(0.0) >= 0 else optimize.brentq(excess, 0.0, observed + 0.1, xtol=1e-3)


def recompute(look, number, strategy, contrasts, decided):
    """Check one look; `decided` gets its verdicts."""
    looks = tuple(strategy["looks"])
    seeds, is_last = looks[number], number == len(looks) - 1
    check(f"look {number}, seeds", look["seeds"], seeds)
    undecided = [name for name in contrasts if name not in decided]
    check(f"look {number}, contrasts", [each["contrast"] for each in look["contrasts"]], undecided)
    established = sum(verdict == "established" for verdict in decided.values())
    measured = []
    for reported in look["contrasts"]:
        pairs = reported["pairs"]
        name = f"look {number}, {reported['contrast']}"
        check(f"{name}, seeds", [pair["seed"] for pair in pairs], strategy["seeds"][:seeds])
        differences = np.array([pair["level"] - pair["against"] for pair in pairs])
        error = float(stats.sem(differences))
        error = error if error > max(1e-12, 1e-9 * abs(differences).max()) else 0.0
        mean, wide, units = float(differences.mean()), reported["wide_error"] or 0.0, reported.get("units")
        freedom = min(seeds, max(units or seeds, 2)) - 1
        t = [mean / error] if error else []
        if wide:
            # With fewer items than seeds: the t that has the same p value.
            t.append(math.copysign(stats.t.isf(stats.t.sf(abs(mean) / wide, freedom), seeds - 1), mean))
        t = min(t, key=abs, default=None)
        check(f"{name}, difference", reported["difference"], mean)
        check(f"{name}, error", reported["error"], error)
        check(f"{name}, t", reported["t"], t)
        check(f"{name}, p", reported["p_value"], None if t is None else float(stats.t.sf(t, seeds - 1)))
        measured.append((reported, name, t, (error, wide, freedom), units is None or units >= 6))
    lowest, is_open = None, True
    if strategy["seed_spread"] and not is_last:
        lowest = futility(looks, strategy["detect"] / strategy["seed_spread"], LEVEL / len(contrasts))[number]
    # Holm: the largest t first.
    measured.sort(key=lambda each: (not each[4], math.inf if each[2] is None else -each[2]))
    for reported, name, t, (error, wide, freedom), is_enough in measured:
        level = LEVEL / (len(contrasts) - established)
        bound = efficacy(looks, level)[number]
        check(f"{name}, level", reported["level"], level)
        check(f"{name}, bound", reported["bound"], bound, within=0.015)
        bound = reported["bound"]
        is_open = is_open and is_enough and t is not None and t >= bound
        established += is_open
        low = reported["futility"]
        check(f"{name}, futility is there", low is not None, lowest is not None)
        if low is not None and lowest is not None:
            check(f"{name}, futility within 0.05", abs(low - lowest) < 0.05 * (1 + abs(lowest)), True)
        verdict = "established" if is_open else "not established" if is_last else "undecided"
        if verdict == "undecided" and low is not None and t is not None and t <= low:
            verdict = "out of reach"
        check(f"{name}, verdict", reported["verdict"], verdict)
        for end, sign in (("low", -1), ("high", 1)):
            arm = max(bound * error, stats.t.isf(stats.t.sf(bound, seeds - 1), freedom) * wide)
            check(f"{name}, {end}", reported[end], None if t is None else reported["difference"] + sign * arm)
        if reported.get("corrected") is not None:
            deviation = reported["difference"] / t * math.sqrt(seeds)
            found = deviation * corrected(looks, reported["difference"] / deviation, level)
            apart = abs(reported["corrected"] - max(found, reported["low"]))
            check(f"{name}, corrected within 0.05 standard deviations", apart < 0.05 * deviation, True)
        if verdict != "undecided":
            decided[reported["contrast"]] = verdict


def main(ledger_path, plan_path):
    with open(plan_path, encoding="utf-8") as file:
        strategy = json.load(file)["strategy"]
    with open(ledger_path, encoding="utf-8") as file:
        decisions = [d for line in file if line.strip() and (d := json.loads(line).get("decision"))]
    contrasts, decided = [each["name"] for each in strategy["contrasts"]], {}
    for decision in decisions:
        if decision["kind"] == "choice":
            contrasts = [each["name"] for each in decision["choice"]["contrasts"]]
        if decision["kind"] == "look":
            recompute(decision["look"], decision["number"], strategy, contrasts, decided)
    for line in WRONG:
        print("DIFFERS", line)
    print(f"{len(CHECKED) - len(WRONG)} of {len(CHECKED)} numbers and verdicts are as the ledger has them")
    return 1 if WRONG or not CHECKED else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
