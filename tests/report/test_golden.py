"""RESULTS.md of each kind of experiment, as a whole: `python -m tests.report.test_golden` writes it anew."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report import made_gathered as made
from tests.report.made_report import Make, made_report
from tests.report.made_sets import FILES, TRAIN, crossed
from tests.run.made_plans import made_control, made_plan, made_run

from touchline.core.quantity import Missing, Quantity
from touchline.core.status import JobState, RunStatus, TrainingOutcome
from touchline.core.units import GIB
from touchline.data.scores import EvaluationRecord
from touchline.experiment.plan import Revision
from touchline.experiment.runs import ControlKind, RunKind
from touchline.report.build import build_report
from touchline.report.markdown import results_markdown
from touchline.report.report import Report
from touchline.results.report_inputs import ReportInputs
from touchline.results.run_result import RunResult, StepCurves
from touchline.results.verification_types import MissingCheckpoint, RunStorage

pytestmark = pytest.mark.planning

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "reports"
FALLING = made.points((0, 2.0), (500, 0.5), (1000, 0.4), (1500, 0.3))
RISING = made.points((0, 2.0), (500, 0.09), (900, 0.0812), (1500, 0.145))


def planned() -> ReportInputs:
    """One training on two GPUs and its control: two attempts, an estimate of each kind, an edit, an override."""
    record = made.record("1M_rank4", "epoch_1", made.rights(80))
    peak = Quantity(value=2.0 * GIB, unit="B", kind="process", aggregation="peak")
    attempts = (
        made.attempt("1", JobState.OUT_OF_MEMORY, "it did not fit", seconds=100.0, superseded=True),
        made.attempt("2", seconds=3520.0),
    )
    trained = made.run(
        "1M_rank4", evaluations=[record], peak_memory=peak, seconds=3500.0, attempt_list=attempts, attempts=2
    )
    storage = RunStorage(
        run="1M_rank4", checkpoints=2, total_bytes=9_900_000, checkpoint_bytes=9_000_000, adapter_bytes=8_000_000,
        full_model_bytes=Quantity(value=20_000_000, unit="B"), adapter_only_bytes=Quantity(value=8_000_000, unit="B"),
        forecast=Quantity(value=1e7, unit="B", low=9.7e6, high=1.03e7),
    )  # fmt: skip
    verification = replace(made.NOTHING, storage=replace(made.NOTHING.storage, runs=(storage,), total_bytes=9_900_000))
    plan = made_plan(replace(made_run(), accepted={"train.learning_rate": 0.01}), made_control())
    found = made.gathered(
        [trained, made.control("1M_base", rights=made.rights(20))],
        factors={made.RANK: ("4",)},
        verification=verification,
    )
    revisions = tuple(
        Revision(number=number, date="2026-01-02", reason=reason, runs=("1M_rank4",))
        for number, reason in ((1, "planned"), (2, "accepted: 1M_rank4"))
    )
    plan = replace(plan, overrides=("train.epochs=3",), revisions=revisions)
    return replace(found, plan=plan, origin="planned by touchline 0")


def unfinished() -> ReportInputs:
    """Beside two evaluated runs one failed, one at work, one not started; checkpoints that are broken and lost."""
    there = made.sweep([85], [93])
    failed = replace(
        made.run("3B_rank4", "3B", status=RunStatus.FAILED, job_state=JobState.OUT_OF_MEMORY),
        outcome=TrainingOutcome.PARTIAL,
        steps_done=12,
        attempt_list=(made.attempt("9", JobState.OUT_OF_MEMORY, "it did not fit, exit code 79", seconds=33.0),),
    )
    working = replace(
        made.run("3B_rank64", "3B", rank="64", status=RunStatus.RUNNING), outcome=TrainingOutcome.PARTIAL, steps_done=7
    )
    verification = replace(
        made.NOTHING,
        checkpoints=(
            made.checkpoint("1B_rank4_s1", "epoch_0"),
            made.checkpoint("1B_rank4_s1", "epoch_10"),
            made.checkpoint("1B_rank64_s1", "epoch_0", sound=False),
        ),
        missing=(
            MissingCheckpoint(run="1B_rank4_s1", name="epoch_2", reason="keep: best", expected=True),
            MissingCheckpoint(run="1B_rank64_s1", name="epoch_10", reason="not there", expected=False),
        ),
    )
    return made.gathered([*there.runs, failed, working, made.control("3B_base", "3B")], verification=verification)


def controls() -> ReportInputs:
    """A no-op adapter that answers otherwise, shuffled answers, a run on other items, a further task."""
    noop = made.run("1B_noop", rank=None, evaluations=[made.record("1B_noop", "noop", made.rights(30))])
    shuffled = made.run("1B_shuffled", evaluations=[made.record("1B_shuffled", "epoch_2", made.rights(30))])
    other = made.run("1B_rank8", rank="8", evaluations=[made.record("1B_rank8", "epoch_2", made.rights(9), items="b")])
    runs = [
        replace(run, other_evaluations=(made.record(run.name, "epoch_2", made.rights(40), task="mine"),))
        for run in made.sweep([85], [93]).runs
    ]
    odd = (replace(noop, control=ControlKind.NO_OP), replace(shuffled, control=ControlKind.SHUFFLED), other)
    return made.gathered([*runs, *odd])


def losses() -> ReportInputs:
    """Nothing evaluated: a loss that falls at the end, one that rose, one that is no number; GPUs that logs tell."""
    rates = StepCurves(steps=(1, 2, 3), learning_rate=(1e-4, 1e-3, 1e-6))
    first = replace(made.attempt("70", JobState.FAILED, "killed"), seconds=Missing(missing="no line tells"))
    runs = [
        made.run("falls", train=made.loss(0.2), val=made.loss(0.3), validation_losses=FALLING, curves=rates),
        made.run("rises", rank="64", train=made.loss(0.1), val=made.loss(0.145), validation_losses=RISING),
        made.run("spoilt", rank="8", train=made.loss(math.nan), train_losses=made.points((1, 2.0), (2, math.nan))),
        made.run("again", rank="16", attempt_list=(first, made.attempt("71", seconds=301.0)), attempts=2),
    ]
    return made.gathered([made.told(run, gpus=4, lora_alpha=16.0) for run in runs])


def between_models() -> ReportInputs:
    """Rank 64 gains 30 points with one model and loses 30 with the other; three seeds and two checkpoints each."""
    runs: list[RunResult] = []
    shares = {("1B", "4"): 50, ("1B", "64"): 80, ("3B", "4"): 80, ("3B", "64"): 50}
    for (model, rank), share in shares.items():
        for seed in (1, 2, 3):
            name = f"{model}_rank{rank}_s{seed}"
            right = 53 if not runs else share + seed % 2
            records = [made.record(name, f"epoch_{epoch}", made.rights(right - 9 + epoch)) for epoch in (0, 9)]
            runs.append(made.run(name, model, rank=rank, seed=seed, evaluations=records))
    return made.gathered(runs)


def unsettled() -> ReportInputs:
    """A run that answers as its control does but for a few items each way, with empty and truncated answers."""
    base = [True] * 60 + [False] * 40
    record = made.record("1B_rank4", "epoch_2", [True] * 58 + [False] * 2 + [True] * 3 + [False] * 37)
    return made.gathered([made.control("1B_base", rights=base), made.run("1B_rank4", evaluations=[_odd(record)])])


def _odd(record: EvaluationRecord) -> EvaluationRecord:
    samples = list(record.samples)
    samples[-9:] = [replace(each, output="", stop="max_tokens") for each in samples[-9:]]
    return replace(record, samples=tuple(samples))


def confounded() -> ReportInputs:
    """A context that differs with the rank, and an alpha that follows it; no control."""
    runs = [run for run in made.sweep([85], [93]).runs if run.kind is RunKind.FINE_TUNED]
    ratio = {"1B_rank4_s1": (128, 8.0), "1B_rank64_s1": (256, 128.0)}
    return made.gathered(
        [made.told(run, max_seq_len=ratio[run.name][0], lora_alpha=ratio[run.name][1]) for run in runs]
    )


CASES: Mapping[str, Callable[[], ReportInputs | Report]] = {
    "one_seed": lambda: made.sweep([85], [99]),
    "ceiling": lambda: made.sweep([100], [100]),
    "three_seeds": lambda: made.sweep([70, 71, 72], [92, 93, 93]),
    "three_seeds_open": lambda: made.sweep([80, 86, 90], [84, 83, 92]),
    "seed_002": made.seed_002,
    "planned": planned,
    "unfinished": unfinished,
    "controls": controls,
    "losses": losses,
    "between_models": between_models,
    "unsettled": unsettled,
    "confounded": confounded,
    "test_sets": lambda: made.gathered(crossed(), factors={TRAIN: FILES}),
    "faults": lambda: made_report(Make(steps=30, items=20, faults=True)),
    "controls_alone": lambda: made.gathered([made.run("a"), made.control("base", rights=made.rights(14))]),
    "nothing": lambda: made.gathered([]),
}


def text_of(case: str) -> str:
    found = CASES[case]()
    return results_markdown(found if isinstance(found, Report) else build_report(found), ())


@pytest.mark.parametrize("case", CASES)
def test_results_are_those_that_a_person_has_read(case: str) -> None:
    assert text_of(case) == (FOLDER / f"{case}.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in CASES:
        (FOLDER / f"{name}.md").write_text(text_of(name), encoding="utf-8")
