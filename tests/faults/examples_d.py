"""Examples of rules that look at a rendering, a scorer or a task file: made in memory, nothing is run or written."""

from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from tests.faults.models_d import rendering_of
from tests.faults.page_examples import RuleExample

from touchline.core.finding import Finding, Location
from touchline.lint.rule import check_view
from touchline.lint.scoring import ScoringView, TaskFileView, tried

TARGETS = (
    "none", "no", "nonsense words", "left kidney", "right kidney", " Paris ", "two polyps", "12", "Yes, it is there",
    "instrument shaft", "suturing the wound", "7.5", "The robotic arm holds a needle", "liver", "lime", "three",
    "tree", "threads", "Four clips", "five", "a scope", "gauze in the cavity", "seven", "eight",
)  # fmt: skip
"""Right answers on which an example's scorer is tried."""


def _rendering(lines: str) -> object:
    return rendering_of(lines)


def _scorer(lines: str) -> object:
    names: dict[str, Any] = {}
    exec(lines, names)  # noqa: S102 (the examples of our own pages)
    score: Callable[[str, str], float] = names["score"]
    return ScoringView(
        task="example", scorer="score", kind="function", items=len(TARGETS), probes=tried(score, TARGETS)
    )


def _missing(lines: str) -> object:
    return ScoringView(task="example", scorer="score", kind="inspect", items=0, missing=lines.strip())


def _task(lines: str) -> object:
    return TaskFileView(path="tasks/words/task.py", text=lines)


def _failing(lines: str) -> object:
    ((kind, said),) = YAML(typ="safe", pure=True).load(lines).items()
    return TaskFileView(path="tasks/words/task.py", text="", failed=(kind, said), line=3)


VIEWS: dict[str, Callable[[str], object]] = {
    "rendering": _rendering,
    "scorer": _scorer,
    "missing": _missing,
    "task": _task,
    "task failing": _failing,
}
"""What makes a view of an example, by its kind."""


def findings_of(example: RuleExample) -> list[Finding]:
    """What all rules say of an example of one of these kinds."""
    return list(check_view(VIEWS[example.kind](example.lines), Location(path="example"), "example"))
