"""Trial of a scorer, a plain function (output, target) -> score, and rules on its result and on task files.

The made-up answers are right, empty, those of other items, the first half of the right ones, or nonsense. A task file
is Python, contains a task, and can be built; it is first read as text, without execution.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from touchline.core.finding import Finding, Location, Severity
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import EvaluationTask
from touchline.experiment.tasks.protocol import MetricField, Task
from touchline.experiment.tasks.ready_made import get_task
from touchline.lint.rule import Violation, rule

ProbeKind = Literal["right", "formatted", "empty", "shuffled", "truncated", "wrong"]
"""Kind of output: own target; formatted target; empty; another item's target; half the target; nonsense."""
ScorerKind = Literal["ready-made", "function", "inspect"]
"""Origin of a scorer: a task of touchline; a function of (output, target); an Inspect task."""

FULL = 0.99
"""Minimum score that counts as full marks."""
FORMS = ("ANSWER: {}", "Answer: {}", "\\boxed{{{}}}", "#### {}", "<answer>{}</answer>")
"""Forms in which scorers look for an answer."""
NONSENSE = "zqxv 7301 jkwp"
"""Answer that is right for no item."""
_LONG_ENOUGH = 6
"""Minimum number of characters from which half a word is distinguished from the whole."""
PROBED_ITEMS = 24
"""Number of items that are tried, from the first on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeUp:
    """Output to be scored."""

    kind: ProbeKind
    item: int
    output: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Output with the scorer's result."""

    kind: ProbeKind
    item: int
    output: str
    target: str
    score: float | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringView:
    """Scorer of a task."""

    task: str
    scorer: str
    kind: ScorerKind
    items: int
    probes: tuple[Probe, ...] = ()
    missing: str | None = None
    where: Location | None = None

    def of(self, *kinds: ProbeKind) -> list[Probe]:
        """Return the probes of some kinds that have a score."""
        return [probe for probe in self.probes if probe.kind in kinds and probe.score is not None]

    def mean(self, *kinds: ProbeKind) -> float | None:
        """Return the mean score of some kinds. None without any."""
        scores = [probe.score for probe in self.of(*kinds) if probe.score is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def lower_is_better(self) -> bool:
        """Return True if right answers score below nonsense, as with distances."""
        right, wrong = self.mean("right"), self.mean("wrong")
        return right is not None and wrong is not None and right < wrong


def made_up_outputs(targets: Sequence[str]) -> list[MadeUp]:
    """Make up outputs for items with these targets, always the same ones."""
    outputs: list[MadeUp] = []
    for item, target in enumerate(targets):

        def add(kind: ProbeKind, output: str, item: int = item) -> None:
            outputs.append(MadeUp(kind=kind, item=item, output=output))

        add("right", target)
        add("empty", "")
        add("wrong", NONSENSE)
        other = next((each for each in (*targets[item + 1 :], *targets[:item]) if plain(each) != plain(target)), None)
        if other is not None:
            add("shuffled", other)
        half = _first_half(target)
        if half is not None:
            add("truncated", half)
        for form in FORMS if item < 3 else ():
            add("formatted", form.format(target))
    return outputs


def probes_of(task: Task, targets: Sequence[str], *, items: int | None = None) -> list[ScoringView]:
    """Try a ready-made task's scorers on made-up outputs. Return one view per score.

    Args:
        items: items of the evaluation, where `targets` are only the first of them.
    """

    def scorer(field: MetricField) -> Callable[[str, str], float]:
        return lambda output, target: float(getattr(task.score(output, target), field))

    scorers = {field: scorer(field) for _, field in task.metrics}
    count = len(targets) if items is None else items
    return [
        ScoringView(task=task.name, scorer=name, kind="ready-made", items=count, probes=tried(score, targets))
        for name, score in scorers.items()
    ]


def tried(score: Callable[[str, str], float], targets: Sequence[str]) -> tuple[Probe, ...]:
    """Try a function of (output, target) on made-up outputs. Exceptions are recorded."""
    return tuple(_tried(score, made, targets[made.item]) for made in made_up_outputs(targets[:PROBED_ITEMS]))


def plain(text: str) -> str:
    """Normalize a text without case, white space, punctuation and signs, to compare answers.

    Coarser than scorers are: what is the same here is never called another answer.
    """
    return "".join(letter for letter in text.casefold() if letter.isalnum()) or text.strip()


def _first_half(target: str) -> str | None:
    """Return the first half of an answer, by words or characters. None if too little would be left or missing."""
    words, bare = target.split(), target.strip()
    if len(words) > 2:
        half = " ".join(words[: len(words) // 2])
    else:
        half = bare[: len(bare) // 2] if len(bare) >= _LONG_ENOUGH else ""
    # The removed part must be more than punctuation, which scorers may ignore.
    lost = any(letter.isalnum() for letter in bare[len(half) :])
    return half if half.strip() and lost and plain(half) != plain(target) else None


def shown(probe: Probe) -> str:
    """Describe a probe for a message."""
    return f"{probe.output[:60]!r} for {probe.target[:60]!r}"


def _each_kind(view: ScoringView, kind: ProbeKind) -> Iterator[Probe]:
    return (probe for probe in view.of(kind) if probe.score is not None and probe.score >= FULL)


def _tried(score: Callable[[str, str], float], made: MadeUp, target: str) -> Probe:
    value: float | None = None
    error: str | None = None
    try:
        value = float(score(made.output, target))
    except Exception as fault:  # noqa: BLE001 (a scorer is foreign code; any exception is recorded)
        error = f"{type(fault).__name__}: {fault}"[:200]
    return Probe(kind=made.kind, item=made.item, output=made.output, target=target, score=value, error=error)


_SOME = 0.1
"""Share of made-up answers with full marks from which a scorer is too lenient."""
_WRONG: dict[ProbeKind, str] = {
    "wrong": "nonsense",
    "shuffled": "the answer of another item",
    "truncated": "the first half of an answer",
}


@rule("EV201", Severity.ERROR)
def _empty_answers_score(view: ScoringView) -> Iterator[Violation]:
    if view.lower_is_better:
        return
    empty = [probe for probe in view.of("empty") if probe.target.strip()]
    scored = [probe for probe in empty if (probe.score or 0) > 0]
    if scored:
        mean = sum(probe.score or 0 for probe in empty) / len(empty)
        yield Violation(
            f"{_name(view)}: an empty answer scores {mean:.2f} on average, expected 0 (above 0 for"
            f" {len(scored)} of {len(empty)} items, for example {shown(scored[0])})",
            view.where,
            "score an empty answer zero first",
        )


@rule("EV206", Severity.WARNING)
def _right_answers_fail(view: ScoringView) -> Iterator[Violation]:
    if view.lower_is_better:
        return
    right = [probe for probe in view.of("right") if probe.target.strip()]
    wrong = [probe for probe in right if probe.score is None or probe.score < FULL]
    # A scorer may want its answer in a form, such as `ANSWER: x`.
    if wrong and not (len(wrong) == len(right) and any(_each_kind(view, "formatted"))):
        yield Violation(
            f"{_name(view)}: {len(wrong)} of {len(right)} targets do not score as right answers,"
            f" for example {shown(wrong[0])} ({wrong[0].score:g})",
            view.where,
            severity=None if view.kind == "inspect" else Severity.ERROR,
        )


@rule("EV207", Severity.ERROR)
def _wrong_answers_score(view: ScoringView) -> Iterator[Violation]:
    if view.lower_is_better:
        return
    for kind, what in _WRONG.items():
        scored, tried = list(_each_kind(view, kind)), view.of(kind)
        if scored and len(scored) > _SOME * len(tried):
            yield Violation(
                f"{_name(view)}: {what} is right for {len(scored)} of {len(tried)} items,"
                f" for example {shown(scored[0])}",
                view.where,
                severity=None if kind == "wrong" else Severity.WARNING,
            )


@rule("EV208", Severity.ERROR)
def _scorer_raises(view: ScoringView) -> Iterator[Violation]:
    raised = [probe for probe in view.probes if probe.error is not None]
    if raised:
        yield Violation(
            f"{_name(view)}: the scorer raises on {len(raised)} of {len(view.probes)} answers,"
            f" for example on {shown(raised[0])} ({raised[0].error})",
            view.where,
        )


@rule("EV217", Severity.INFO)
def _untested_scorer(view: ScoringView) -> Iterator[Violation]:
    missing = "the evaluation has no items" if view.items == 0 and view.missing is None else view.missing
    if missing is not None:
        yield Violation(f"not checked ({missing}): the scorer of {_name(view)}", view.where)


def _name(view: ScoringView) -> str:
    return view.task if view.scorer == view.task else f"{view.task}, scorer {view.scorer}"


TaskFault = Literal["import", "no task", "build"]
"""Step at which a task failed: importing the file, finding the task or function, building it."""
_DECORATOR = re.compile(r"^@(?:\w+\.)*task\b", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFileView:
    """Task file with the result of building it."""

    path: str
    text: str
    failed: tuple[TaskFault, str] | None = None
    """Step at which building failed, and its message; None: built, or not tried."""
    line: int | None = None


_FAILURES: dict[TaskFault, str] = {
    "import": "cannot be imported: ",
    "build": "does not build its task: ",
}


@rule("EV210", Severity.ERROR)
def _task_file_fails(view: TaskFileView) -> Iterator[Violation]:
    name = PurePath(view.path).name
    try:
        tree = ast.parse(view.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line, column = (error.lineno, error.offset) if isinstance(error, SyntaxError) else (None, None)
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        where = Location(path=view.path, line=line, column=column)
        yield Violation(f"{name} is not Python: {said}", where)
        return
    if view.failed is not None:
        kind, said = view.failed
        message = f"{name} {_FAILURES[kind]}{said}" if kind in _FAILURES else said
        yield Violation(message, Location(path=view.path, line=view.line))
        return
    if _uses_inspect(tree) and not has_task(tree):
        yield Violation(f"{name} has no function with @task", Location(path=view.path))


def _uses_inspect(tree: ast.AST) -> bool:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return any(name.partition(".")[0] == "inspect_ai" for name in names)


def has_task(tree: ast.AST) -> bool:
    """Return True if a module has a function with the decorator `task`, or calls it on one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(map(_is_task, node.decorator_list)):
            return True
        if isinstance(node, ast.Call) and _is_task(node.func):
            return True
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return True
    return False


def is_task_file(text: str) -> bool:
    """Return True if a Python file seems to define an Inspect task. Only the text is read, since a tree has many other
    files.
    """
    if "inspect_ai" not in text or not _DECORATOR.search(text):
        return False
    try:
        return _uses_inspect(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "import" in text


def _is_task(node: ast.expr) -> bool:
    target = node.func if isinstance(node, ast.Call) else node
    name = target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""
    return name == "task"


CODE = "EV305"


def prompt_findings(
    task: EvaluationTask, data: DataConfig, where: Location | None, *, is_own: bool, labels: Sequence[str] = ()
) -> Iterator[Finding]:
    """Yield differences between a task's prompts and those of training. Unknown prompts are reported as such."""

    def finding(severity: Severity, message: str, hint: str | None = None) -> Finding:
        subject = "task" if is_own else "evaluate.tasks"
        return Finding(code=CODE, severity=severity, subject=subject, message=message, where=where, hint=hint)

    if not task.is_file:
        own = get_task(task.name, labels).prompt
        if data.messages is None and data.prompt is not None and own != data.prompt:
            yield finding(
                Severity.INFO,
                f"the task {task.name} asks {own!r}, training asks {data.prompt!r}",
                f"data.prompt: {own!r}",
            )
        return
    same = f"system_message({data.system!r})" if data.system and not task.takes_data else None
    if changed := [call for call in dict.fromkeys(task.own_prompt) if call != same]:
        system = f" and has the system turn {data.system!r}" if data.system else ""
        trained = "chats" if data.messages is not None else repr(data.prompt or "{input}")
        yield finding(
            Severity.WARNING,
            f"the task {task.name} changes the prompt by {', '.join(changed)}, training asks {trained}{system}",
            "give training the same turns with data: {system: ..., prompt: ...}",
        )
    elif different := _other_prompts(task, data):
        prompt = different[0].replace("{}", "{input}", 1) if different[0].count("{}") == 1 else None
        yield finding(
            Severity.WARNING,
            f"the task {task.name} asks {different[0]!r}, training asks {data.prompt or '{input}'!r}",
            "use the input of each item as it is: it has training's prompt"
            if task.takes_data
            else f"data.prompt: {prompt!r}"
            if prompt
            else None,
        )
    elif not task.takes_data and not (task.prompts and data.messages is None and same is None):
        yield finding(
            Severity.INFO,
            f"the prompts of {task.name} are known only when it runs, so the evaluation compares them with training",
            "add an argument `data` to the task for the prompts of training",
        )


def _other_prompts(task: EvaluationTask, data: DataConfig) -> list[str]:
    """Return the prompts written in a task file whose text around the filled parts differs from training's."""
    if task.takes_data:
        # Its items hold training's prompt, to which it adds.
        return list(task.prompts)
    if data.messages is not None:
        return []
    trained = _affixes(_COLUMN.sub("{}", data.prompt or "{input}"))
    return [prompt for prompt in task.prompts if _affixes(prompt) != trained]


_COLUMN = re.compile(r"\{[^{}]*\}")


def _affixes(template: str) -> tuple[str, str]:
    return template.partition("{}")[0], template.rpartition("{}")[2]
