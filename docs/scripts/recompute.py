"""python recompute.py samples.jsonl results.json"""

import json
import math
import sys
from collections import defaultdict

import numpy as np
from scipy import stats

CHECKED, WRONG, SKIPPED = [], [], []


def check(what, reported, found):
    """Compare as far as the report prints: 4 digits, and points to one decimal."""
    CHECKED.append(what)
    if reported is None or found is None:
        same = reported is found
    else:
        same = math.isclose(reported, found, rel_tol=5e-5, abs_tol=1e-9)
    if not same:
        WRONG.append(f"{what}: the report has {reported}, recomputed {found}")


def holm(p_values):
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def wilson(share, n, coverage):
    z = stats.norm.ppf(0.5 + coverage / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    arm = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - arm), min(1.0, middle + arm)


def clusters_of(names, items):
    """Numbers of the items' clusters; each item its own where none has one."""
    keys = [name if name is not None else ("item", item) for name, item in zip(names, items, strict=True)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])


def totals(values, clusters):
    """Sums over each cluster of what its items lie above the mean."""
    return np.bincount(clusters, weights=values - values.mean())


def squared_error(values, clusters):
    sums = totals(values, clusters)
    return float((sums**2).sum()) * len(sums) / (len(sums) - 1) / len(values) ** 2


def share_interval(values, clusters, coverage):
    """Wilson's, with the effective number of independent items (Korn and Graubard 1998)."""
    units, mean, error = clusters.max() + 1, float(values.mean()), squared_error(values, clusters)
    effective = mean * (1 - mean) / error if error > 1e-18 else float(units)
    if units < len(values) and error > 1e-18 and set(np.unique(values)) <= {0.0, 1.0}:
        effective = min(effective, float(len(values)))
    shrink = stats.norm.ppf(0.5 + coverage / 2) / stats.t.ppf(0.5 + coverage / 2, units - 1)
    return wilson(min(max(mean, 0.0), 1.0), effective * shrink**2, coverage)


def difference_interval(second, first, clusters, coverage):
    """Newcombe's interval of paired shares; of shares in part or in clusters that of Donner and Zou 2012."""
    n = len(second)
    if clusters.max() + 1 == n and set(np.unique([second, first])) <= {0.0, 1.0}:
        both, gained = int((second * first).sum()), int((second > first).sum())
        lost = int((second < first).sum())
        neither = n - both - gained - lost
        margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
        excess = both * neither - gained * lost
        phi = (max(excess - n / 2, 0.0) if excess > 0 else excess) / math.sqrt(margins) if margins else 0.0
        ends = [wilson(float(side.mean()), n, coverage) for side in (second, first)]
    else:
        one, other = totals(second, clusters), totals(first, clusters)
        spread = math.sqrt(float((one**2).sum()) * float((other**2).sum()))
        phi = float((one * other).sum()) / spread if spread > 0 else 0.0
        ends = [share_interval(side, clusters, coverage) for side in (second, first)]
    (low2, high2), (low1, high1) = ends
    a, b = float(second.mean()), float(first.mean())

    def arm(x, y):
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    return max(-1.0, a - b - arm(a - low2, high1 - b)), min(1.0, a - b + arm(high2 - a, b - low1))


def widened(error, freedom, second, first, clusters, coverage):
    """The test with the variation between items: scores at two levels, shape [seeds, items]."""

    def flips(side):
        rest = side - side.mean(0, keepdims=True) - side.mean(1, keepdims=True) + side.mean()
        return sum(squared_error(row, clusters) for row in rest) / (len(side) - 1) / len(side)

    discordant = flips(second) + flips(first)
    items = squared_error(second.mean(0) - first.mean(0), clusters)
    value = second.mean() - first.mean()
    wide = math.sqrt(max(error**2, discordant) + max(0.0, items - discordant))
    wide = wide if wide > 1e-9 * max(1.0, abs(second).max(), abs(first).max()) else 0.0
    freedom = min(freedom, max(int(clusters.max()), 1))
    arm = stats.t.ppf(0.5 + coverage / 2, freedom) * wide
    return 2 * stats.t.sf(abs(value) / wide, freedom) if wide else None, value - arm, value + arm


def over_seeds(name, contrast, second, first, clusters):
    """Check a test over seeds; scores shape [seeds, items]. Return both p values before Holm."""
    reported, wide, coverage = contrast["test"], contrast["with_items"], contrast["coverage"]
    own, other = second.mean(1), first.mean(1)
    for side, means in (("means", own), ("reference_means", other)):
        for at, mean in enumerate(means):
            check(f"{name}, {side}[{at}]", reported[side][at], float(mean))
    paired = reported["kind"] == "paired t-test"
    if paired:
        error = np.std(own - other, ddof=1) / math.sqrt(len(own))
    else:
        error = math.sqrt(np.var(own, ddof=1) / len(own) + np.var(other, ddof=1) / len(other))
    freedom, p_value = min(len(own), len(other)) - 1, None
    if error > 1e-9 * max(abs(own).max(), abs(other).max()):
        test = stats.ttest_rel(own, other) if paired else stats.ttest_ind(own, other, equal_var=False)
        ends = test.confidence_interval(coverage)
        p_value, freedom = float(test.pvalue), float(test.df)
        check(f"{name}, t", reported["statistic"], float(test.statistic))
        check(f"{name}, degrees of freedom", reported["freedom"], freedom)
        check(f"{name}, low", contrast["low"], float(ends.low))
        check(f"{name}, high", contrast["high"], float(ends.high))
    else:
        error = 0.0
    check(f"{name}, p", contrast["p_value"], p_value)
    check(f"{name}, independent items", wide["units"], int(clusters.max()) + 1)
    p_items, low, high = widened(error, freedom, second, first, clusters, coverage)
    if p_items is None:
        SKIPPED.append(f"{name} with items: neither seeds nor items differ")
        return p_value, wide["p_value"]
    check(f"{name}, p with items", wide["p_value"], float(p_items))
    check(f"{name}, low with items", wide["low"], float(low))
    check(f"{name}, high with items", wide["high"], float(high))
    return p_value, float(p_items)


def scores_at(chosen, seeds, of_run):
    """Mean scores by seed and item over conditions; `chosen` maps (condition, seed) to a run."""
    conditions = sorted({condition for condition, _ in chosen})
    return np.array([np.mean([of_run[chosen[c, seed]][0] for c in conditions], axis=0) for seed in seeds])


def levels_of(points, run_rows, factor, held):
    """By level: (condition, seed) to run; the condition is every other level, and the base model."""
    found = defaultdict(dict)
    for point in points:
        row = run_rows[point["run"]]
        others = {k: v for k, v in row["levels"].items() if k not in held and k != "seeds"}
        if "models" not in held:
            others["models"] = row["model"]
        found[point["level"]].setdefault((tuple(sorted(others.items())), point["seed"]), point["run"])
    return found


def complete(cells, seeds):
    return {c for c, _ in cells if all((c, seed) in cells for seed in seeds)}


def only(cells, conditions):
    return {key: run for key, run in cells.items() if key[0] in conditions}


def check_matrix(matrix, means):
    """Check the means of conditions on test sets over seeds; `means` has those of each run and set."""
    for row in matrix["rows"] if matrix is not None else ():
        for test_set, cell in row["scores"].items():
            own = [means[run, test_set] for run in row["runs"] if (run, test_set) in means]
            if not own:
                continue
            name = f"{row['training_set']}, {', '.join(row['runs'])} on {test_set}"
            check(f"mean of {name}", cell["value"], float(np.mean(own)))
            if len(own) > 1 and cell.get("low") is not None:
                low, high = stats.t.interval(cell["coverage"], len(own) - 1, np.mean(own), stats.sem(own))
                check(f"low end of {name}", cell["low"], float(low))
                check(f"high end of {name}", cell["high"], float(high))


def main(samples_path, results_path):
    with open(results_path, encoding="utf-8") as file:
        results = json.load(file)
    with open(samples_path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    asked = {r["name"] for r in results["runs"] if r["kind"] == "fine-tuned" and r["control"] is None}
    # The further test sets are one family; every other analysis is one by itself.
    made, means = defaultdict(lambda: {"comparisons": [], "contrasts": [], "interactions": []}), {}
    for number, analysis in enumerate(results["analyses"]):
        families = made[tuple(analysis["family_sets"]) or number]
        of_run, run_rows, by_run = {}, {}, defaultdict(lambda: defaultdict(list))
        for row in rows:
            is_here = row["task"] == analysis["task"] and row["metric"] == analysis["score"]
            if is_here and row["checkpoint"] == analysis["checkpoints"].get(row["run"]):
                by_run[row["run"]][row["item"]].append(row)
                run_rows[row["run"]] = row
        for run, items in by_run.items():
            names = sorted(items)
            values = np.array([np.mean([row["score"] for row in items[name]]) for name in names])
            of_run[run] = values, clusters_of([items[name][0]["cluster"] for name in names], names)
            means[run, analysis["test_set"]] = float(values.mean())

        for reported in analysis["scores"]:
            values, clusters = of_run[reported["run"]]
            check(f"score of {reported['run']}", reported["value"], float(values.mean()))
            if reported["proportion"] is not None:
                found = stats.binomtest(int(values.sum()), len(values)).proportion_ci(reported["coverage"], "wilson")
                low, high = found.low, found.high
            elif values.min() >= 0 and values.max() <= 1 and clusters.max() > 0:
                low, high = share_interval(values, clusters, reported["coverage"])
            else:
                SKIPPED.append(f"interval of {reported['run']}: {reported['method']}")
                continue
            check(f"low end of {reported['run']}", reported["low"], low)
            check(f"high end of {reported['run']}", reported["high"], high)

        for reported in (each["difference"] | {"run": each["run"]} for each in analysis["comparisons"]):
            (second, clusters), (first, _) = of_run[reported["run"]], of_run[reported["control"]]
            name = f"{reported['run']} against {reported['control']}"
            check(name, reported["value"], float((second - first).mean()))
            if analysis["binary"] and clusters.max() + 1 == len(second):
                gained, lost = int((second > first).sum()), int((second < first).sum())
                p_value = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
                check(f"{name}, p", reported["p_value"], float(p_value))
            else:
                p_value = reported["p_value"]
                SKIPPED.append(f"{name}, p: sign flips are drawn")
            if reported["method"].startswith("Newcombe"):
                low, high = difference_interval(second, first, clusters, reported["coverage"])
                check(f"{name}, low", reported["low"], low)
                check(f"{name}, high", reported["high"], high)
            else:
                SKIPPED.append(f"{name}, interval: {reported['method']}")
            if reported["run"] in asked:
                families["comparisons"].append((name, reported["p_adjusted"], p_value))

        points_of = {}
        for effect in analysis["effects"]:
            held = [effect["factor"], *effect["tied"], *effect["confounded_with"]]
            points_of[effect["factor"]] = effect
            cells = levels_of(effect["points"], run_rows, effect["factor"], held)
            for contrast in effect["contrasts"]:
                second, first = cells[contrast["level"]], cells[contrast["reference"]]
                name = f"{effect['factor']} {contrast['level']} against {contrast['reference']}"
                if contrast["test"] is None:
                    continue
                seeds, others = contrast["test"]["seeds"], contrast["test"]["reference_seeds"]
                shared = complete(second, seeds) & complete(first, others)
                of_items = {
                    len(of_run[run][0]) for run in [*only(second, shared).values(), *only(first, shared).values()]
                }
                if len(of_items) > 1:
                    SKIPPED.append(f"{name}: conditions with items of their own")
                    families["contrasts"].append(
                        (name, contrast, contrast["p_value"], contrast["with_items"]["p_value"])
                    )
                    continue
                two, one = (
                    scores_at(only(side, shared), at, of_run) for side, at in ((second, seeds), (first, others))
                )
                clusters = of_run[next(iter(second.values()))][1]
                p_values = over_seeds(name, contrast, two, one, clusters)
                families["contrasts"].append((name, contrast, *p_values))
        for each in analysis["interactions"]:
            contrast, effect, other = each["difference"], points_of[each["factor"]], points_of[each["other_factor"]]
            name = f"{each['factor']} at {each['other_factor']} {each['other_level']} against {each['other_reference']}"
            if contrast["test"] is None:
                continue
            held = [each["factor"], *effect["tied"], each["other_factor"], *other["tied"]]
            level_at = {point["run"]: point["level"] for point in other["points"]}
            sides, seeds = [], contrast["test"]["seeds"]
            for at in (each["other_level"], each["other_reference"]):
                cells = levels_of(
                    [p for p in effect["points"] if level_at[p["run"]] == at], run_rows, each["factor"], held
                )
                sides.append((cells[contrast["level"]], cells[contrast["reference"]]))
            shared = set.intersection(*(complete(cells, seeds) for side in sides for cells in side))
            second, first = (
                scores_at(only(two, shared), seeds, of_run) - scores_at(only(one, shared), seeds, of_run)
                for two, one in sides
            )
            clusters = of_run[next(iter(sides[0][0].values()))][1]
            families["interactions"].append((name, contrast, *over_seeds(name, contrast, second, first, clusters)))
    for families in made.values():
        compared = families.pop("comparisons")
        for (name, reported, _), found in zip(compared, holm([p for _, _, p in compared]), strict=True):
            check(f"{name}, p after Holm", reported, found)
        for family in families.values():
            by_seeds = holm([1.0 if p is None else p for _, _, p, _ in family])
            by_items = holm([min(p, 1.0) for _, _, _, p in family])
            for (name, reported, p, _), adjusted, wide in zip(family, by_seeds, by_items, strict=True):
                check(f"{name}, p after Holm", reported["p_adjusted"], None if p is None else adjusted)
                check(f"{name}, p with items after Holm", reported["with_items"]["p_adjusted"], wide)
                is_enough = reported["with_items"]["units"] >= 6
                claimed = is_enough and wide < 0.05 and (p is None or adjusted < 0.05)
                check(f"{name}, claimed", float(reported["shown"] in ("higher", "lower")), float(claimed))
    check_matrix(results["test_sets"], means)

    for line in WRONG:
        print("DIFFERS", line)
    for line in SKIPPED:
        print("not recomputed:", line)
    print(f"{len(CHECKED) - len(WRONG)} of {len(CHECKED)} numbers are as the report has them")
    return 1 if WRONG or not CHECKED else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
