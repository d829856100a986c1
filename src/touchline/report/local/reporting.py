"""Writing of RESULTS.md with its pictures, report.html, and samples.jsonl with every answer as a flat row."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from touchline.core.callbacks import ProgressCallback
from touchline.core.errors import PolicyError, TouchlineError, quoted
from touchline.core.files import disk_errors, read_bytes, read_text_bounded, write_atomic, write_if_changed
from touchline.core.json_text import parse_json
from touchline.report.local.gathering import collect_report_inputs
from touchline.report.report import Report

if TYPE_CHECKING:
    from touchline.report.figures import Chart
import filecmp
import secrets
from collections.abc import Iterable, Iterator

from touchline.core.text import valid_utf8
from touchline.data.scores import AskedItem, EvaluationRecord, SampleScore
from touchline.experiment.tasks.ready_made import TASKS
from touchline.report.facts import seeds_of
from touchline.results.run_result import RunResult

MARKDOWN, PAGE, SAMPLES, FIGURES = "RESULTS.md", "report.html", "samples.jsonl", "figures"
_OURS = "touchline report"  # Text in every RESULTS.md that touchline wrote, among its commands
_MARKDOWN_LIMIT_BYTES = 64 << 20
_SCRIPT_LIMIT_BYTES = 16 << 20
_DRAWN = ".drawn.json"
"""File under figures/ with the input hash of each picture. It avoids redrawing, the slowest step."""
_IGNORE = ".gitignore"
_IGNORED = """\
# Written by `touchline report`, once: what a repository of results does without. Change it as you like.
epoch_*/
step_*/
*.safetensors
*.bin
*.pt
resume/
superseded/
*.lock
"""
"""Patterns for weights, training states and locks. All other files are text, figures and evaluation logs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFiles:
    """Report and its files."""

    report: Report
    markdown: Path
    page: Path
    note: str
    """Reason why RESULTS.md has no pictures; empty if it has."""

    def __repr__(self) -> str:
        found = self.report
        return f"<report of {found.experiment!r}: {found.completed} of {len(found.runs)} runs complete; {self.page}>"

    def _repr_html_(self) -> str:
        from touchline.core.notebook import notebook_html
        from touchline.report.tables.conditions import overview

        return notebook_html(f"Report of {self.report.experiment}", overview(self.report), str(self.page))


def write_report(
    source: Path,
    *,
    out: Path | None = None,
    deep: bool = False,
    cache: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> ReportFiles:
    """Write the report's files; arguments and errors are those of `api.report`."""
    from touchline.report.build import build_report
    from touchline.report.charts import charts as charts_of
    from touchline.report.figures import figures_off, off_because
    from touchline.report.markdown import rebased, results_markdown
    from touchline.report.page import report_html

    gathered = collect_report_inputs(source, deep=deep, on_progress=on_progress)
    home = source if source.is_dir() else source.parent
    target = home if out is None else out
    base = "." if out is None else os.path.relpath(home.resolve(), out.resolve())
    if gathered.plan is None and out is None:
        _refuse_foreign(target / MARKDOWN, source)
    report = build_report(gathered)
    off = figures_off()
    written = ReportFiles(report=report, markdown=target / MARKDOWN, page=target / PAGE, note=off)
    drawn = _read_drawn(target / FIGURES / _DRAWN)
    charts: tuple[Chart, ...] = ()
    try:
        charts = charts_of(report)
    except (ImportError, MemoryError) as error:
        off = off_because(f"altair cannot be loaded ({type(error).__name__}: {error})")
    with disk_errors("report", target):
        target.mkdir(parents=True, exist_ok=True)
        drawing = _Drawing() if off else _draw(target / FIGURES, charts, drawn, _script_cache(cache))
        if any(run.evaluations or run.other_evaluations for run in report.runs):
            write_lines(sample_rows(report), target / SAMPLES)
        if gathered.plan is not None and out is None and not (target / _IGNORE).exists():
            write_atomic(target / _IGNORE, _IGNORED)
        page_off = off or ("" if drawing.script is not None or not charts else off_because(drawing.fault))
        page = report_html(report, charts, script=drawing.script, figures_off=page_off, base=base)
        write_if_changed(written.page, page)
        note = off or (off_because(drawing.fault) if drawing.fault else "")
        shown = [chart for chart in charts if chart.name in drawing.digests]
        text = results_markdown(report, shown, note)
        write_if_changed(written.markdown, rebased(text, base))
        state = json.dumps(drawing.digests, indent=1, sort_keys=True)
        write_if_changed(target / FIGURES / _DRAWN, f"{state}\n")
    return replace(written, note=note)


def _refuse_foreign(path: Path, source: Path) -> None:
    if path.is_file() and _OURS not in read_text_bounded(path, _MARKDOWN_LIMIT_BYTES):
        raise PolicyError(
            f"{str(path)!r} is there and was not written by touchline",
            expected="a folder without it, or another place for the report",
            hint=f"touchline report {quoted(str(source))} --out {quoted(str(source / 'touchline-report'))}",
        )


def _script_cache(cache: Path | None) -> Path | None:
    return None if cache is None else cache / "figures" / f"vega-{metadata.version('vl-convert-python')}.js"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Drawing:
    digests: dict[str, str] = field(default_factory=dict)
    script: str | None = None
    fault: str = ""


def _draw(folder: Path, charts: Sequence[Chart], drawn: Mapping[str, str], cache: Path | None) -> _Drawing:
    """Draw changed figures in a process of its own, and delete those that are no longer in the report."""
    from touchline.report.local.draw_process import draw

    digests = {
        chart.name: hashlib.sha256(json.dumps(chart.spec, sort_keys=True).encode()).hexdigest() for chart in charts
    }
    stale = [
        chart
        for chart in charts
        if drawn.get(chart.name) != digests[chart.name] or not (folder / f"{chart.name}.png").is_file()
    ]
    script = _kept(cache) if charts else None
    made = draw({chart.name: chart.spec for chart in stale}, script=bool(charts) and script is None)
    for name, picture in made.pictures.items():
        write_atomic(folder / f"{name}.png", picture)
    if made.script is not None and cache is not None:
        # A failed cache write only costs time.
        with suppress(OSError, TouchlineError):
            write_atomic(cache, made.script)
    lost = {chart.name for chart in stale} - made.pictures.keys()
    for name in (drawn.keys() - digests.keys()) | lost:
        (folder / f"{Path(name).name}.png").unlink(missing_ok=True)
    there = {name: digest for name, digest in digests.items() if name not in lost}
    return _Drawing(digests=there, script=script or made.script, fault=made.fault)


def _kept(cache: Path | None) -> str | None:
    if cache is None:
        return None
    try:
        return read_text_bounded(cache, _SCRIPT_LIMIT_BYTES)
    except (OSError, TouchlineError):
        return None


def _read_drawn(path: Path) -> dict[str, str]:
    try:
        drawn: object = parse_json(read_bytes(path))
    except (OSError, ValueError):
        return {}
    return {str(name): str(digest) for name, digest in drawn.items()} if isinstance(drawn, dict) else {}


Row = Mapping[str, object]  # Answer, as returned by `sample_rows`


def write_lines(rows: Iterable[Row], path: Path) -> int:
    """Write JSON lines atomically, unless the file holds them already. Return the number of rows."""
    count = 0
    temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(4)}.tmp"
    with disk_errors("file", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("x", encoding="utf-8") as stream:
                for row in rows:
                    stream.write(valid_utf8(json.dumps(row, ensure_ascii=False)) + "\n")
                    count += 1
                stream.flush()
                os.fsync(stream.fileno())
            if path.is_file() and filecmp.cmp(temporary, path, shallow=False):
                temporary.unlink()
            else:
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return count


def sample_rows(report: Report) -> Iterator[dict[str, object]]:
    """Yield the answers of all runs in the report's order: a run's own task first, by epoch, then its further tasks.

    `levels` maps factors to levels; every other value is a text, a number, a boolean or None. `question` is the item's
    input, `prompt` the full model input, None if it was not recorded. `score` is the primary score, `metric` its name.
    `exact` and `match` are None for a task with a score of its own.
    """
    seeds = seeds_of(report.runs)
    for result in report.runs:
        for record in (*result.evaluations, *result.other_evaluations):
            asked = report.asked.get(record.asked_key, {})
            for sample in record.samples:
                yield _row(result, seeds.get(result.name), record, sample, asked.get(sample.id))


def _row(
    result: RunResult, seed: int | None, record: EvaluationRecord, sample: SampleScore, asked: AskedItem | None
) -> dict[str, object]:
    own = sample.value is not None and record.task not in TASKS
    return {
        "run": result.name,
        "model": result.model,
        "levels": {level.factor: level.value for level in result.levels},
        "seed": seed,
        "task": record.label,
        "checkpoint": record.checkpoint,
        "item": sample.id,
        "repeat": sample.repeat,
        "question": None if asked is None else asked.question,
        "prompt": None if asked is None else asked.prompt,
        "target": sample.target,
        "output": sample.output,
        "score": sample.score,
        "exact": None if own else sample.exact,
        "match": None if own else sample.match,
        "stop": sample.stop,
        "error": sample.error,
        "parsed": sample.parsed,
        "cluster": sample.cluster,
        "metric": record.score,
        "label": sample.label,
        "decoding": record.decoding,
    }
