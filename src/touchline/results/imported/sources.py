"""Dates, data, models and files of imported runs."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from touchline.core.units import plural
from touchline.results.imported.result import ImportedRun
from touchline.results.imported.text import below, bounded, clean_line
from touchline.results.report_inputs import ReportInput

_DATE = re.compile(r"(?<!\d)(20\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")
_READMES = ("readme.md", "readme", "readme.txt", "readme.rst")
_README_LIMIT_BYTES = 64 << 10
_NO_PROSE = ("#", "|", "```", "---", "===", "<", "![", "[!")
"""Beginnings of lines that are headings, tables, code, rules or pictures."""
_EVALUATION_SCRIPTS = ("eval.py", "inspect_task.py", "inspect.slurm", "eval.slurm")


def date_of(root: Path, runs: Sequence[ImportedRun]) -> str:
    """Return the day of the first log by its timestamps, else from the name of the folder or of W&B runs."""
    begun = [job.started_unix for run in runs for job in run.jobs if job.started_unix is not None]
    if begun:
        return datetime.datetime.fromtimestamp(min(begun), datetime.UTC).date().isoformat()
    names = [root.resolve().name, *sorted(path.name for run in runs for path in run.folder.wandb)]
    match = next((found for name in names if (found := _DATE.search(name)) is not None), None)
    return "" if match is None else "-".join(match.groups())


def files_of(root: Path, run: ImportedRun) -> Iterator[tuple[str, str]]:
    """Yield (kind, path) of a run's files; the decisive log comes last."""
    kinds = {"finetune.yaml": "settings", "setup_finetune.yaml": "settings", "adapter_config.json": "adapter settings"}
    counts = None if run.job is None else run.job.path
    for path in sorted(reversed(run.folder.logs), key=lambda each: each == counts):
        yield "log", below(root, path)
    for path in run.folder.documents:
        script = path.suffix in (".slurm", ".sbatch")
        yield kinds.get(path.name, "job script" if script else "trainer's state"), below(root, path)
    for path in (run.folder.path / name for name in _EVALUATION_SCRIPTS):
        if path.is_file() and not path.is_symlink():
            yield "evaluation script", below(root, path)
    for path in run.folder.evaluations:
        yield "evaluation", below(root, path)
    for path in run.folder.wandb:
        yield "wandb", below(root, path)


def description_of(root: Path) -> str:
    """Return a quote from the README of a folder: `README.md: "Capitalize words of 8 letters; 10,000 samples."`; empty
    if none.

    The quote is the first paragraph, or the title if there is none.
    """
    readmes = sorted(path for path in root.iterdir() if path.name.lower() in _READMES and not path.is_symlink())
    for path in readmes:
        title, paragraph, in_code = "", [], False
        for line in (bounded(path, _README_LIMIT_BYTES) or "").splitlines():
            text = line.strip()
            in_code ^= text.startswith("```")
            if in_code:
                continue
            if text and not text.startswith(_NO_PROSE):
                paragraph.append(text)
            elif paragraph:
                break
            elif text.startswith("#") and not title:
                title = text.lstrip("#").strip()
        if quote := clean_line(" ".join(paragraph) or title):
            return f'{below(root, path)}: "{quote}"'
    return ""


def sources_of(runs: Sequence[ImportedRun]) -> Iterator[ReportInput]:
    """Yield datasets and base models named by the runs' files."""
    datasets, models = Counter(run.settings.dataset for run in runs), Counter(run.settings.model for run in runs)
    for name, used in datasets.items():
        if name is not None:
            yield ReportInput(kind="dataset", name=name, facts=(("used by", _counted(used)),))
    for name, used in models.items():
        if name is not None:
            places = sorted({run.settings.model_where or "" for run in runs if run.settings.model == name} - {""})
            yield ReportInput(
                kind="base model",
                name=name,
                facts=(("used by", _counted(used)), *((("read from", ", ".join(places[:3])),) if places else ())),
            )


def _counted(runs: int) -> str:
    return plural(runs, "run")
