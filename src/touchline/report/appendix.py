"""Appendix of the report: shell commands in the experiment's folder to view, evaluate, repeat and export it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from touchline.experiment.plan import Plan
from touchline.experiment.runs import RunKind
from touchline.report.facts import is_asked_about
from touchline.report.report import Command
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult
from touchline.slurm.job_view import TRAINING_SCRIPT

VIEW, EVALUATE, RETRAIN, SYNC, COMMIT = "View", "Evaluate", "Retrain", "Sync", "Commit"
_RUNS = 4  # Maximum number of runs with a command of their own
_ONE_BEGINNING = 'tokenizer_call_args={"add_special_tokens": false}'
"""Option for tokenizers that would add a second begin-of-text token. The chat template already writes it."""
OFFLINE_RUN = "wandb"  # Value in `ReportInputs.files` for a folder that a tracker wrote offline


def commands(gathered: ReportInputs) -> tuple[Command, ...]:
    """Return all commands, by group."""
    runs = [run for run in gathered.runs if is_asked_about(run)] or list(gathered.runs)
    if gathered.plan is None:
        return tuple([*_view(gathered, runs), *_evaluate_found(gathered, runs), *_sync_found(gathered)])
    return tuple(_planned(gathered, gathered.plan, runs))


def _planned(gathered: ReportInputs, plan: Plan, runs: Sequence[RunResult]) -> Iterator[Command]:
    example = runs[0].name if runs else "RUN"
    folder = shlex.quote(example)
    yield from _view(gathered, runs)
    evaluated = next((run.name for run in gathered.runs if run.evaluations), None)
    if evaluated is not None:
        yield _command(VIEW, "every prompt and answer", f"inspect view --log-dir {shlex.quote(f'{evaluated}/eval')}")
    yield _command(EVALUATE, "what is trained and not evaluated", "touchline evaluate .")
    if plan.executor == "local" and (command := every_epoch(plan)):
        yield _command(EVALUATE, "every epoch that was kept", command)
    if (last := _checkpoint(gathered, example)) is not None:
        command = f"cd {folder} && inspect eval eval.py --model {shlex.quote(f'touchline/{last}')}"
        yield _command(EVALUATE, "one checkpoint, by hand", command)
    submit = "sbatch" if plan.executor == "slurm" else "bash"
    yield _command(RETRAIN, "one run, by hand", f"cd {folder} && {submit} {TRAINING_SCRIPT}")
    yield _command(SYNC, "write offline runs of Weights & Biases", "touchline export . --to wandb")
    yield _command(SYNC, "write TensorBoard events", "touchline export . --to tensorboard")
    yield from _sync_found(gathered)
    command = f"git add . && git commit -m {shlex.quote(f'Results of {plan.experiment}')}"
    yield _command(COMMIT, "everything but weights, training states and locks, which .gitignore leaves out", command)


def _view(gathered: ReportInputs, runs: Sequence[RunResult]) -> Iterator[Command]:
    yield _command(VIEW, "this report again, with every checkpoint verified", "touchline report .")
    logs = [log for run in runs[:_RUNS] if (log := _last(gathered, run.name, "log", without="eval")) is not None]
    if logs:
        yield _command(VIEW, "the ends of the logs", f"tail -n 40 {' '.join(map(shlex.quote, logs))}")
    elif gathered.plan is not None and runs:
        yield _command(VIEW, "a log", f"touchline logs . --run {shlex.quote(runs[0].name)}")
    saved = [run.name for run in runs if _checkpoint(gathered, run.name) is not None]
    if saved:
        yield _command(
            VIEW, "sizes of checkpoints", f"du -sh {' '.join(f'{shlex.quote(name)}/*/' for name in saved[:_RUNS])}"
        )


def _evaluate_found(gathered: ReportInputs, runs: Sequence[RunResult]) -> Iterator[Command]:
    for run in runs[:_RUNS]:
        command = evaluation_by_hand(gathered, run.name)
        if command is not None:
            yield _command(EVALUATE, f"the last valid checkpoint of {run.name}", command)


def with_setting(plan: Plan, key: str, value: str) -> str | None:
    """Return the line to put into experiment.yaml for another value of a setting, and the command that follows.

    The overrides of the plan are lines too: they end with its runs. None with a strategy, whose design is fixed by its
    first decision.
    """
    if plan.strategy is not None:
        return None
    others = [each.partition("=") for each in plan.overrides if each.partition("=")[0] != key]
    lines = [_edit(key, value), *(f"{_edit(other, own)}   (so far an override)" for other, _, own in others)]
    command = "touchline run ." if plan.executor == "local" else "touchline plan . && touchline submit ."
    return "\n".join((*lines, command))


def every_epoch(plan: Plan) -> str | None:
    """Return the command that evaluates every kept epoch. None on a cluster with a strategy."""
    if plan.executor == "local":
        return "touchline evaluate . --epochs all"
    return with_setting(plan, "evaluate.epochs", "all")


def _edit(key: str, value: str) -> str:
    """Return a shell comment with the line of a setting in experiment.yaml."""
    group, _, name = key.rpartition(".")
    if key.startswith("factors."):
        group, name = "factors", key.removeprefix("factors.")
    return f"# in experiment.yaml{f', under {group}' if group else ''}: {name}: {value}"


def evaluation_by_hand(gathered: ReportInputs, run: str) -> str | None:
    """Return the command for the evaluation script in an unplanned run's folder, on its last valid checkpoint."""
    script = next((path for _, path in gathered.files.get(run, ()) if path.endswith("eval.py")), None)
    last = _checkpoint(gathered, run)
    if script is None or last is None:
        return None
    return (
        f"inspect eval {shlex.quote(script)} --model {shlex.quote(f'hf/{run}')} "
        f"-M model_path={shlex.quote(f'{run}/{last}')} -M {shlex.quote(_ONE_BEGINNING)} -M do_sample=false"
    )


def _sync_found(gathered: ReportInputs) -> Iterator[Command]:
    paths = [path for run in gathered.runs for what, path in gathered.files.get(run.name, ()) if what == OFFLINE_RUN]
    if paths:
        yield _command(SYNC, f"written offline by {len(paths)} jobs", f"wandb sync {' '.join(map(shlex.quote, paths))}")


def _checkpoint(gathered: ReportInputs, run: str) -> str | None:
    sound = [
        checkpoint.name
        for checkpoint in gathered.verification.checkpoints
        if checkpoint.run == run and checkpoint.sound
    ]
    if sound:
        return sound[-1]
    result = next((each for each in gathered.runs if each.name == run and each.kind is RunKind.FINE_TUNED), None)
    kept = [] if result is None else [checkpoint.name for checkpoint in result.checkpoints if checkpoint.complete]
    return kept[-1] if kept else None


def _last(gathered: ReportInputs, run: str, kind: str, *, without: str = "/") -> str | None:
    found = [
        path for what, path in gathered.files.get(run, ()) if what == kind and without not in path.rpartition("/")[2]
    ]
    return found[-1] if found else None


def _command(group: str, text: str, command: str) -> Command:
    return Command(group=group, text=text, command=command)
