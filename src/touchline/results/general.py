"""Scores of lm-evaluation-harness per run, each with its change from the run's control.

They are read from `general/` in a run folder: written by `touchline evaluate` for weights that the run still has, or
put there by the user.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.core.errors import TouchlineError
from touchline.core.quantity import Measured, Missing, Quantity
from touchline.data.benchmarks import (
    GENERAL_FOLDER,
    MARKER_SUFFIX,
    GeneralMarker,
    HarnessResults,
    HarnessScore,
    read_general_marker,
)
from touchline.experiment.runs import ControlKind, RunKind
from touchline.results.harness import Items, read_items, read_results
from touchline.results.report_inputs import GeneralScore
from touchline.results.run_result import RunResult
from touchline.statistics.paired import newcombe_paired
from touchline.statistics.proportion import normal_quantile, wilson

_COVERAGE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    """Metric of a run with its source."""

    score: HarnessScore
    results: HarnessResults
    path: Path
    verified: bool
    """Whether the scored weights are proved to be the run's."""
    items: Items | None = None
    """Score per item, if kept."""

    @property
    def key(self) -> tuple[str, str]:
        """Task and metric."""
        return self.score.task, self.score.metric


def read_general(root: Path, runs: Sequence[RunResult]) -> tuple[GeneralScore, ...]:
    """Return the scores of every scored run; a file that cannot be read becomes a row with the reason.

    Args:
        root: experiment folder.
        runs: runs in the order of the rows.
    """
    broken: dict[str, list[tuple[str, str]]] = {}
    found = {run.name: _of_run(root / run.name / GENERAL_FOLDER, run, broken) for run in runs}
    rows: list[GeneralScore] = []
    for run in runs:
        control = _control(run, runs, found)
        for scored in found[run.name].values():
            change: Measured
            if control is None or control == run.name:
                change = Missing(missing="it is the control" if control == run.name else "its control was not scored")
            else:
                change = _change(scored, found[control].get(scored.key), control, root)
            rows.append(
                GeneralScore(
                    run=run.name,
                    task=scored.score.task,
                    metric=scored.score.metric,
                    score=_own(scored, root),
                    change=change,
                    higher_is_better=scored.results.higher_is_better.get((scored.score.task, scored.score.key)),
                )
            )
        rows += [_unreadable(run.name, name, why) for name, why in broken.get(run.name, ())]
    return tuple(rows)


def _of_run(folder: Path, run: RunResult, broken: dict[str, list[tuple[str, str]]]) -> dict[tuple[str, str], _Scored]:
    """Return the newest score of each task and metric."""
    newest: dict[tuple[str, str], _Scored] = {}
    weights = {item.name: item.adapter_sha256 for item in run.checkpoints}
    for path in _files(folder):
        try:
            marker = _marker(folder, path)
            if marker is not None and marker.adapter_sha256 != weights.get(marker.checkpoint):
                broken.setdefault(run.name, []).append((path.name, "its weights differ from the run's"))
                continue
            results = read_results(path)
        except TouchlineError as fault:
            broken.setdefault(run.name, []).append((path.name, fault.message))
            continue
        for score in results.scores:
            scored = _Scored(score=score, results=results, path=path, verified=marker is not None)
            known = newest.get(scored.key)
            if known is None or known.results.date <= results.date:
                newest[scored.key] = scored
    return {key: replace(scored, items=read_items(scored.path, scored.score)) for key, scored in newest.items()}


def _files(folder: Path) -> Iterator[Path]:
    """Yield results files in `general/` or in a folder of it, the harness's own layout."""
    for path in _listed(folder):
        if path.is_dir():
            yield from (inner for inner in _listed(path) if inner.name.startswith("results") and _is_json(inner))
        elif _is_json(path):
            yield path


def _listed(folder: Path) -> list[Path]:
    """Return the entries of a folder without symbolic links; empty if it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.is_symlink())
    except OSError:
        return []


def _is_json(path: Path) -> bool:
    return path.suffix == ".json" and not path.name.endswith(MARKER_SUFFIX) and path.is_file()


def _marker(folder: Path, results: Path) -> GeneralMarker | None:
    """Return the marker of a results file that touchline let the harness write; None for other files."""
    if results.parent == folder:
        return None
    marker = read_general_marker(folder / f"{results.parent.name}{MARKER_SUFFIX}")
    return marker if marker is not None and marker.results == results.name else None


def _control(
    run: RunResult, runs: Sequence[RunResult], found: Mapping[str, Mapping[tuple[str, str], _Scored]]
) -> str | None:
    """Return the control of a run: a base model's own row. Plans of 0.1.0 do not name the control kind."""
    bases = [
        other.name
        for other in runs
        if other.model == run.model
        and other.kind is RunKind.CONTROL
        and other.control in (None, ControlKind.BASE)
        and found[other.name]
    ]
    return run.name if run.name in bases else next(iter(bases), None)


def _own(scored: _Scored, root: Path) -> Measured:
    """Return the score with its interval: Wilson for binary items, else from the harness's standard error."""
    score, task = scored.score, scored.results.tasks[scored.score.task]
    items = scored.items
    low = high = None
    how = ["no interval"]
    if items is not None and _is_binary(items):
        low, high = wilson(round(math.fsum(items.values())), len(items))
        how = ["Wilson"]
    elif score.standard_error is not None:
        reach = normal_quantile(_COVERAGE) * score.standard_error
        low, high = score.value - reach, score.value + reach
        how = ["standard error of the harness"]
    count = task.items if items is None else len(items)
    higher = scored.results.higher_is_better.get((score.task, score.key), True)
    how += [f"{count:,} items"] if count is not None else []
    how += [f"{task.num_fewshot}-shot", *([] if higher else ["lower is better"]), f"lm-eval {scored.results.version}"]
    how += [] if scored.verified else ["added by the user: the weights are unverified"]
    return Quantity(
        value=score.value,
        unit="1",
        low=low,
        high=high,
        coverage=None if low is None else _COVERAGE,
        aggregation="mean",
        method=", ".join(how),
        where=scored.path.relative_to(root).as_posix(),
    )


def _change(run: _Scored, control: _Scored | None, name: str, root: Path) -> Measured:
    """Return the score minus the control's, paired on the same items if both kept them."""
    if control is None:
        return Missing(missing=f"{name} has no such score")
    here, there = run.results.tasks[run.score.task], control.results.tasks[control.score.task]
    differs = [
        word
        for word, one, other in (
            ("the version of the task", here.version, there.version),
            ("the number of examples shown", here.num_fewshot, there.num_fewshot),
            ("the number of items", here.items, there.items),
            ("the items", here.docs, there.docs),
            ("the chat template", here.chat_template, there.chat_template),
        )
        if one != other
    ]
    if differs:
        return Missing(missing=f"not compared with {name}: {', '.join(differs)} differ")
    where = f"{run.path.relative_to(root).as_posix()}, {control.path.relative_to(root).as_posix()}"
    pairs = _pairs(run.items, control.items)
    if pairs is not None:
        return _paired(pairs, name, where)
    value, method = run.score.value - control.score.value, f"against {name}, as if on other items"
    errors = (run.score.standard_error, control.score.standard_error)
    if errors[0] is None or errors[1] is None:
        return Quantity(value=value, unit="1", method=f"{method}, no interval", where=where)
    reach = normal_quantile(_COVERAGE) * math.hypot(errors[0], errors[1])
    return Quantity(
        value=value, unit="1", low=value - reach, high=value + reach, coverage=_COVERAGE, method=method, where=where
    )


def _pairs(run: Items | None, control: Items | None) -> list[tuple[float, float]] | None:
    if run is None or control is None or run.keys() != control.keys():
        return None
    return [(value, control[key]) for key, value in run.items()]


def _paired(pairs: Sequence[tuple[float, float]], name: str, where: str) -> Quantity:
    count = len(pairs)
    if all(value in (0.0, 1.0) for pair in pairs for value in pair):
        gained, lost = pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0))
        value, low, high = newcombe_paired(pairs.count((1.0, 1.0)), gained, lost, pairs.count((0.0, 0.0)))
        method = f"against {name}, paired on {count:,} items, Newcombe; {gained} gained, {lost} lost"
        return Quantity(value=value, unit="1", low=low, high=high, coverage=_COVERAGE, method=method, where=where)
    differences = [one - other for one, other in pairs]
    value = math.fsum(differences) / count
    method = f"against {name}, paired on {count:,} items"
    if count < 2:
        return Quantity(value=value, unit="1", method=f"{method}, no interval", where=where)
    variance = math.fsum((difference - value) ** 2 for difference in differences) / (count - 1)
    reach = normal_quantile(_COVERAGE) * math.sqrt(variance / count)
    return Quantity(
        value=value, unit="1", low=value - reach, high=value + reach, coverage=_COVERAGE, method=method, where=where
    )


def _is_binary(items: Items) -> bool:
    return all(value in (0.0, 1.0) for value in items.values())


def _unreadable(run: str, name: str, why: str) -> GeneralScore:
    missing = Missing(missing=f"{name}: {why}")
    return GeneralScore(run=run, task="n/a", metric="n/a", score=missing, change=missing)
