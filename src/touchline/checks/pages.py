"""The pages of all codes: of rules, and of what readers find before a rule could look."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator

from touchline.checks.documented import DOCUMENTED
from touchline.checks.documented_configs import DOCUMENTED_CONFIGS
from touchline.checks.documented_data import DOCUMENTED_DATA
from touchline.checks.documented_evaluation import DOCUMENTED_EVALUATION
from touchline.checks.documented_placement import DOCUMENTED_PLACEMENT
from touchline.checks.documented_runs import DOCUMENTED_RUNS
from touchline.checks.documented_site import DOCUMENTED_SITE
from touchline.checks.rule import Example, RulePage, all_rules, parse_page

SUBJECTS = {
    "PK": "packing",
    "ME": "memory",
    "DA": "data",
    "TK": "tokenizer and template",
    "TR": "training",
    "CK": "checkpoints and disk",
    "SL": "sbatch scripts",
    "EX": "experiments",
    "EV": "evaluation",
    "BK": "configs of backends",
    "PL": "placement",
    "US": "your settings",
    "RN": "runs at work",
}
"""What the two letters of a code stand for."""

_DOCUMENTED = (
    DOCUMENTED
    | DOCUMENTED_CONFIGS
    | DOCUMENTED_DATA
    | DOCUMENTED_EVALUATION
    | DOCUMENTED_PLACEMENT
    | DOCUMENTED_RUNS
    | DOCUMENTED_SITE
)


@functools.cache
def all_pages() -> dict[str, RulePage]:
    """Every code that a finding can have, in order.

    Raises:
        ValueError: a code has two pages.
    """
    pages = {code: rule.page for code, rule in all_rules().items()}
    for code, (severity, name, text) in _DOCUMENTED.items():
        if code in pages:
            raise ValueError(f"{code} has two pages")
        pages[code] = parse_page(code, name, severity, inspect.cleandoc(text))
    return dict(sorted(pages.items()))


_KINDS = {
    "data": "a data file",
    "sbatch": "a job script",
    "experiment": "experiment.yaml",
    "folder": "a folder with these files, each after its name",
    "rendering": "model, data and trainer",
    "scorer": "a scorer",
    "targets": "the data's right answers",
    "seen": "items that the task and the run share",
    "missing": "what a task lacks",
    "task": "a task file",
    "script": "a script that submits jobs",
}


_LANGUAGES = {
    "data": "json",
    "sbatch": "bash",
    "script": "bash",
    "scorer": "python",
    "task": "python",
    "targets": "json",
    "missing": "text",
    "folder": "text",
}


def page_text(page: RulePage) -> str:
    """A page as Markdown."""
    return "\n".join(_lines(page)) + "\n"


def list_text() -> str:
    """All codes by subject, as Markdown."""
    lines = [
        "# What `touchline check` finds",
        "",
        "Errors stop `plan`, `prepare` and `run`; warnings very probably are mistakes; the rest is worth knowing.",
        "`touchline check --explain CODE` prints a page, `--allow CODE` goes on in spite of an error.",
    ]
    for letters, subject in SUBJECTS.items():
        found = [page for code, page in all_pages().items() if code.startswith(letters)]
        if found:
            lines += ["", f"## {letters}: {subject}", "", "| Code | Usually | What it finds |", "|---|---|---|"]
            cells = ((p.code, p.severity.value, p.what.replace("|", "\\|")) for p in found)
            lines += [f"| [{code}]({code}.md) | {severity} | {what} |" for code, severity, what in cells]
    return "\n".join(lines) + "\n"


def _lines(page: RulePage) -> Iterator[str]:
    yield f"# {page.code}: {page.name}"
    yield ""
    yield f"{page.what} Usually: {page.severity.value}. Subject: {SUBJECTS[page.code[:2]]}."
    yield ""
    yield f"**Why it matters.** {page.why[:1].upper()}{page.why[1:]}"
    yield ""
    yield f"**What to do.** {page.fix[:1].upper()}{page.fix[1:]}"
    for title, examples in (("Found in", page.bad), ("Not found in", page.good)):
        for example in examples:
            yield ""
            yield f"{title} ({_kind(example)}):"
            yield ""
            yield f"```{_language(example)}"
            yield example.lines
            yield "```"


def _kind(example: Example) -> str:
    kind, _, options = example.kind.partition(" ")
    checked = f", checked with --{options.replace('=', ' ')}" if "=" in options else ""
    return _KINDS.get(kind, f"a config of {kind}") + checked


def _language(example: Example) -> str:
    if example.kind == "task failing":
        return "yaml"
    return _LANGUAGES.get(example.kind.partition(" ")[0], "yaml")
