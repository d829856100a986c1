"""Tasks section of the plan: prompts, scores, items, and the tasks that are code."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.core.table import Column
from touchline.core.units import plural
from touchline.experiment.evaluation import EvaluationTask, asked_items, set_label
from touchline.experiment.plan import Plan
from touchline.experiment.tasks.ready_made import TASKS, get_task
from touchline.plan.power import evaluated_items, number_of_contrasts

COLUMNS = ("task", "source", "scores (primary first)", Column("items", numeric=True), "sha256")
_LABELS_SHOWN = 20


def task_rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Yield a row for the experiment's own task, for each further task, and for each module that a task file
    imports."""
    own = plan.own_task or EvaluationTask(name=plan.task)
    metrics = {run.evaluate.metric for run in plan.runs}
    for task in (own, *plan.further_tasks):
        place = "the experiment's own: " if task is own else ""
        metric = next(iter(metrics)) if task is own and len(metrics) == 1 else None
        first = next((f", on {name}" for name, _ in set_items(plan)), "") if task is own else ""
        yield task.name, f"{place}{_place(task)}{first}", _scores(task, metric), _items(plan, task), _sha(task.sha256)
        if task is own:
            yield from _further_sets(plan, task, metric)
        for module, sha256 in task.modules.items():
            yield task.name, f"imports {module}", "-", "-", _sha(sha256)


def _further_sets(plan: Plan, own: EvaluationTask, metric: str | None) -> Iterator[tuple[str, ...]]:
    for name, items in set_items(plan)[1:]:
        yield set_label(own.name, name), "the experiment's own", _scores(own, metric), f"{items:,}", "-"


def set_items(plan: Plan) -> list[tuple[str, int]]:
    """Return the test sets that have names, in order, with their items that every run is asked."""
    found: dict[str, int] = {}
    for run in plan.runs:
        dataset = plan.datasets.get(run.dataset)
        if dataset is None or not run.is_evaluated or not isinstance(run.data.test, dict):
            continue
        for each in dataset.test_sets:
            asked = asked_items(run.evaluate, each.num_examples)
            found[each.name] = min(found.get(each.name, asked), asked)
    return list(found.items())


def _about_sets(plan: Plan) -> Iterator[str]:
    """Yield what is claimed on which test set, and the size of the other sets' family."""
    sets = set_items(plan)
    if not sets:
        return
    first, further = sets[0][0], [name for name, _ in sets[1:]]
    asked = ", ".join(f"{name} ({plural(items, 'item')})" for name, items in sets)
    yield f"Test sets: every run is evaluated on {asked}, with a log each. Claims are made on {first}, named first"
    # Where a strategy decides which runs are made, levels are not tested outside its own looks.
    if plan.strategy is None and (contrasts := number_of_contrasts(plan) * len(further)):
        names = ", ".join(further)
        yield f"The same contrasts on {names} are one family of their own, of {plural(contrasts, 'contrast')}"
    if further and plan.further_tasks:
        yield f"Further tasks ask {first} alone"


def task_notes(plan: Plan) -> Iterator[str]:
    """Yield notes on prompts, labels, code, and evaluations that are kept."""
    yield from _about_sets(plan)
    yield from _prompts(plan)
    yield from _labels(plan)
    own = plan.own_task
    if own is not None or any(task.is_file for task in plan.further_tasks):
        yield (
            "A task in a file is your own code and runs with your permissions: review it before you continue. If it or "
            "a module that it imports changes after this plan, the evaluation refuses it. Data that it reads is not "
            "checked, but runs with different items are never compared."
        )
    if any(task.is_file and not task.takes_data for task in (own, *plan.further_tasks) if task is not None):
        yield (
            "The number of items of such a file is unknown before it runs, so its time is predicted as for the test "
            "split. With an argument `data` it receives the path of the test items instead."
        )
    yield from plan.kept_evaluations


def _prompts(plan: Plan) -> Iterator[str]:
    """Yield the prompt that each dataset's items are asked with, which is the training prompt."""
    prompts: set[str] = set()
    for run in plan.runs:
        data = run.data
        if data.messages is not None:
            how = f"the chats of column {data.messages!r} , unchanged"
        else:
            how = repr(data.prompt or "{input}")
        system = f", after the system turn {data.system!r}" if data.system else ""
        prompts.add(f"{how}{system}")
    own = plan.own_task
    yield f"{'Prompt for training and evaluation' if own is None else 'Training prompt'}: {'; '.join(sorted(prompts))}"
    for task in (*([] if own is None else [own]), *plan.further_tasks):
        if task.is_file:
            yield f"Prompt of {task.name}: {_prompt_of(task)}"
        elif any(run.data.messages is None for run in plan.runs):
            labels = plan.labels[0].labels if plan.labels else ()
            yield f"Prompt of {task.name}: {get_task(task.name, labels).prompt!r}"


def _prompt_of(task: EvaluationTask) -> str:
    built = "the training prompt, from its argument data" if task.takes_data else "its own (known when it runs)"
    prompt = f"the task file builds its own, {' or '.join(map(repr, task.prompts))}" if task.prompts else built
    return prompt + (f", with {'; '.join(dict.fromkeys(task.own_prompt))}" if task.own_prompt else "")


def _labels(plan: Plan) -> Iterator[str]:
    for each in plan.labels:
        more = f" and {len(each.labels) - _LABELS_SHOWN} more" if len(each.labels) > _LABELS_SHOWN else ""
        yield f"Labels of {each.dataset}: {', '.join(each.labels[:_LABELS_SHOWN])}{more}"
        most = each.majority("test")
        if most is not None:
            label, number, rows_ = most
            yield (
                f"Majority baseline: {label!r} as the answer to every test item scores {100 * number / rows_:.1f}% "
                f"({number:,} of {rows_:,})"
            )


def _place(task: EvaluationTask) -> str:
    if task.file is None:
        return "ready-made"
    lines = "" if task.lines is None else f", {task.lines:,} lines"
    return f"{task.file}{lines}" if task.function is None else f"{task.file}, {task.function}{lines}"


def _scores(task: EvaluationTask, metric: str | None) -> str:
    if task.name in TASKS:
        ready = get_task(task.name)
        names = [name for name, _ in ready.metrics]
        first = ready.metric(metric)[0] if any(metric in each for each in ready.metrics) else names[0]
        return ", ".join(dict.fromkeys((first, *names)))
    listed = "; ".join(task.scorers) or "n/a (known when it runs)"
    return listed if metric is None else f"{metric} (evaluate.metric); declared: {listed}"


def _items(plan: Plan, task: EvaluationTask) -> str:
    items = evaluated_items(plan, task)
    return "n/a (defined by the task)" if items is None else f"{items:,}"


def _sha(sha256: str | None) -> str:
    return "-" if sha256 is None else sha256[:12]
