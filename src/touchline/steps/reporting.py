"""Reporting: everything that was read of an experiment becomes one object, and that becomes files.

RESULTS.md and its pictures, report.html, and samples.jsonl with every answer. The folder may be one that touchline
planned, or any other with the logs and checkpoints of trainings.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from touchline.domain.plan import Plan, PlannedRun
from touchline.domain.report import Gathered, Report, Source
from touchline.domain.status import RunStatus
from touchline.errors import InputFault, PolicyFault, TouchlineError
from touchline.files import disk_faults, read_text_bounded, try_lock, write_atomic, write_if_changed
from touchline.launch.folders import ExperimentFolder
from touchline.results.collect import collect_results
from touchline.results.controls import no_op_issues
from touchline.results.folder_issues import folder_issues
from touchline.results.general import read_general
from touchline.results.run_metrics import run_metrics
from touchline.results.verification import verify_planned
from touchline.steps.outcomes import Counted
from touchline.units import format_bytes

if TYPE_CHECKING:
    from touchline.report.chart import Chart

MARKDOWN, PAGE, SAMPLES, FIGURES = "RESULTS.md", "report.html", "samples.jsonl", "figures"
_OURS = "touchline report"
"""Stands in every RESULTS.md of ours, among its commands."""
_MARKDOWN_LIMIT_BYTES = 64 << 20
_DRAWN = ".drawn.json"
"""Under figures/: hashes of what each picture, and the whole report, were made from; drawing takes the longest."""
_WHOLE = "."
"""Where it keeps the whole report's; no picture can be called that."""

_AT_WORK = frozenset({RunStatus.QUEUED, RunStatus.RUNNING})


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A report and its files."""

    report: Report
    """What it says."""
    markdown: Path
    """RESULTS.md."""
    page: Path
    """report.html."""
    note: str
    """Why there are no pictures in RESULTS.md; empty when there are."""


def gather(source: Path, *, deep: bool = False, say: Counted | None = None) -> Gathered:
    """Read everything that a report is made from.

    Args:
        source: experiment.yaml or its folder, or a folder with runs that touchline did not make.
        deep: read every value of every checkpoint, not only headers.
        say: hears how many checkpoints are verified, of how many.

    Raises:
        InputFault: there is neither an experiment nor any run.
    """
    if source.is_dir() and not (source / "experiment.yaml").is_file():
        return _found(source, deep=deep, say=say)
    folder = ExperimentFolder(source)
    plan = folder.read_plan()
    if plan is None:
        raise InputFault(f"{str(folder.root)!r} has no plan.json", hint=f"touchline plan {str(folder.yaml)!r}")
    runs = collect_results(plan, folder.root)
    planned = {run.name: run for run in plan.runs}
    return Gathered(
        experiment=plan.experiment,
        origin=f"planned by touchline {plan.touchline_version}",
        date=plan.date,
        root=str(source if source.is_dir() else source.parent),
        plan=plan,
        runs=tuple(runs),
        metrics=tuple(run_metrics(planned[run.name], run, folder.run(run.name)) for run in runs),
        factors=dict(plan.factors),
        datasets={run.name: run.dataset for run in plan.runs},
        verification=verify_planned(plan, folder.root, deep=deep, say=say),
        general=read_general(folder.root, runs),
        files={run.name: tuple(_files(folder.root, run)) for run in plan.runs},
        issues=(*folder_issues(folder.root, runs), *no_op_issues(runs)),
        sources=tuple(_sources(plan)),
    )


def write_report(
    source: Path,
    *,
    out: Path | None = None,
    deep: bool = False,
    cache: Path | None = None,
    refresh_seconds: int | None = None,
    say: Counted | None = None,
) -> Written:
    """Write the report's files beside the experiment, or into another folder.

    Args:
        source: experiment.yaml or its folder, or a folder with runs that touchline did not make.
        out: where to write; beside the experiment when None.
        deep: read every value of every checkpoint.
        cache: where the page's drawing program may be kept, which takes seconds to put together; none: nowhere.
        refresh_seconds: how often the page loads itself anew while runs are at work; none: never.
        say: hears how many checkpoints are verified, of how many.

    Raises:
        InputFault: there is neither an experiment nor any run.
        PolicyFault: a RESULTS.md is there that touchline did not write.
        EnvironmentFault: the folder cannot be written.
    """
    from touchline.report.build import build_report
    from touchline.report.charts import charts as charts_of
    from touchline.report.markdown import results_markdown
    from touchline.report.markup import rebased
    from touchline.report.page import report_html
    from touchline.report.pictures import figures_off

    gathered = gather(source, deep=deep, say=say)
    home = source if source.is_dir() else source.parent
    target = home if out is None else out
    base = "." if out is None else os.path.relpath(home.resolve(), out.resolve())
    if gathered.plan is None and out is None:
        _refuse_foreign(target / MARKDOWN, source)
    report = build_report(gathered)
    written = Written(report=report, markdown=target / MARKDOWN, page=target / PAGE, note=figures_off())
    state = target / FIGURES / _DRAWN
    refresh = refresh_seconds if refresh_seconds is not None and is_at_work(source, report) else None
    digest, drawn = _digest(report, base, refresh), _read_drawn(state)
    if drawn.get(_WHOLE) == digest and written.markdown.is_file() and written.page.is_file():
        return written
    charts = charts_of(report)
    with disk_faults("report", target):
        target.mkdir(parents=True, exist_ok=True)
        pictures = {} if written.note else _draw(target / FIGURES, charts, drawn)
        _write_samples(target / SAMPLES, report)
        page = report_html(report, charts, script=_script(charts, cache), refresh_seconds=refresh, base=base)
        write_if_changed(written.page, page)
        text = results_markdown(report, () if written.note else charts, written.note)
        write_if_changed(written.markdown, rebased(text, base))
        write_if_changed(state, json.dumps(pictures | {_WHOLE: digest}, indent=1, sort_keys=True) + "\n")
    return written


def is_at_work(source: Path, report: Report) -> bool:
    """Whether more will come by itself: a run at work or in the queue, or a command that starts them."""
    if any(run.status in _AT_WORK for run in report.runs):
        return True
    if source.is_dir() and not (source / "experiment.yaml").is_file():
        return False
    folder = ExperimentFolder(source)
    if not folder.lock.exists():
        return bool(folder.queued())
    descriptor = try_lock(folder.lock)
    if descriptor is None:
        return True
    os.close(descriptor)
    return bool(folder.queued())


def _found(source: Path, *, deep: bool, say: Counted | None) -> Gathered:
    from touchline.results.found import find

    def hear(done: int, total: int, what: str) -> None:
        del what
        if say is not None:
            say(done, total)

    return find(source, deep=deep, say=hear)


def _refuse_foreign(path: Path, source: Path) -> None:
    """A report that somebody else wrote is not written over."""
    if path.is_file() and _OURS not in read_text_bounded(path, _MARKDOWN_LIMIT_BYTES):
        raise PolicyFault(
            f"{str(path)!r} is there and was not written by touchline",
            expected="a folder without it, or another place for the report",
            hint=f"touchline report {str(source)!r} --out {str(source / 'touchline-report')!r}",
        )


def _script(charts: Sequence[Chart], cache: Path | None) -> str | None:
    """The program that draws in a browser, kept by the version that it comes from; none where nothing is drawn."""
    from touchline.report.page.scripts import figure_script

    if not charts:
        return None
    if cache is None:
        return figure_script()
    kept = cache / "figures" / f"vega-{metadata.version('vl-convert-python')}.js"
    try:
        return kept.read_text(encoding="utf-8")
    except (OSError, ValueError):
        script = figure_script()
    # A cache that cannot be written costs time and nothing else.
    with suppress(OSError, TouchlineError):
        write_atomic(kept, script)
    return script


def _digest(report: Report, base: str, refresh_seconds: int | None) -> str:
    """Of what a report says and of the code that says it; loading what draws takes a second, even for nothing."""
    digest = hashlib.sha256(TypeAdapter(Report).dump_json(report))
    digest.update(f"{base} {refresh_seconds}".encode())
    package = resources.files("touchline.report")
    with resources.as_file(package) as folder:
        for path in sorted(folder.rglob("*.*")):
            if path.suffix != ".pyc":
                digest.update(f"{path.name} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _draw(folder: Path, charts: Sequence[Chart], drawn: Mapping[str, str]) -> dict[str, str]:
    """Draw what has changed, drop what is no longer in the report; give the hash of what each was drawn from."""
    from touchline.report.pictures import png

    now: dict[str, str] = {}
    for chart in charts:
        digest = hashlib.sha256(json.dumps(chart.spec, sort_keys=True).encode()).hexdigest()
        path = folder / f"{chart.name}.png"
        if drawn.get(chart.name) != digest or not path.is_file():
            write_atomic(path, png(chart))
        now[chart.name] = digest
    for name in drawn.keys() - now.keys() - {_WHOLE}:
        (folder / f"{Path(name).name}.png").unlink(missing_ok=True)
    return now


def _read_drawn(path: Path) -> dict[str, str]:
    try:
        drawn: object = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(digest) for name, digest in drawn.items()} if isinstance(drawn, dict) else {}


def _write_samples(path: Path, report: Report) -> None:
    """Every answer, one a line; nothing is there where nothing was evaluated."""
    from touchline.report.samples import sample_rows

    lines = [json.dumps(row, ensure_ascii=False) for row in sample_rows(report)]
    if lines:
        write_if_changed(path, "\n".join(lines) + "\n")


def _files(root: Path, run: PlannedRun) -> Iterator[tuple[str, str]]:
    """Where a run's numbers can be looked up, as far as it is there."""
    folder = root / run.name
    single = (("settings", "finetune.yaml"), ("evaluation settings", "eval.yaml"), ("metrics", "metrics.jsonl"))
    for what, name in (*single, ("lineage", "lineage.json"), ("run metrics", "run_metrics.yaml")):
        if (folder / name).is_file():
            yield what, f"{run.name}/{name}"
    for what, pattern in (("log", "slurm-*.out"), ("evaluation", "eval/*.eval"), ("attempt", "status/exit.*.json")):
        for path in sorted(folder.glob(pattern)):
            yield what, str(path.relative_to(root))


def _sources(plan: Plan) -> Iterator[Source]:
    for data in plan.datasets.values():
        splits = ", ".join(f"{split.name} {split.num_examples:,}" for split in data.splits)
        facts = (("splits", splits), ("origin of the splits", data.split_origin), ("sha256", data.sha256))
        yield Source(kind="dataset", name=data.path, facts=facts)
    for model in plan.models.values():
        yield Source(
            kind="base model",
            name=model.name,
            facts=(
                ("parameters", f"{model.num_parameters:,}"),
                ("dtype on disk", model.dtype),
                ("weights", format_bytes(model.weight_bytes)),
                ("sha256 of the weights", model.weights_sha256),
            ),
        )
