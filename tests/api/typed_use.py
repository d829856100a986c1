"""`import touchline` in a user's typed program: mypy reads this file with the source; nothing here runs."""

from pathlib import Path
from typing import assert_type

import touchline as tl
from touchline.report.compared import ComparedExperiments
from touchline.report.local.reporting import ReportFiles
from touchline.results.frame import Results
from touchline.run.loaded_plan import LoadedPlan


def typed_experiment() -> tl.Experiment:
    """Lists and mappings are taken; unknown keys and wrong types are not."""
    tl.Experiment(name="ranks", data={"path": "words.csv"}, sedes=[1])  # type: ignore[call-arg]
    tl.Experiment(name="ranks", data={"path": "words.csv"}, seeds=["1"])  # type: ignore[list-item]
    return tl.Experiment(
        name="ranks",
        models=["SmolLM2-135M-Instruct"],
        data={"path": "words.csv"},
        train={"epochs": 2, "lora": {"dropout": 0.1}},
        factors={"train.lora.rank": [4, 16]},
        seeds=range(2),
        controls=["base"],
        folder=Path("experiments") / "ranks",
    )


def typed_verbs(experiment: tl.Experiment, folder: Path) -> None:
    """Every verb has the types of its arguments and of what it returns."""
    assert_type(tl.plan(experiment, ["train.epochs=1"]), LoadedPlan)
    assert_type(tl.run("experiments/ranks", on_message=print), Results)
    assert_type(tl.results(folder), Results)
    assert_type(tl.report(experiment, out="report"), ReportFiles)
    assert_type(tl.compare([experiment, "other", folder]), ComparedExperiments)
    assert_type(tl.write_experiment(experiment), Path)
    assert_type(tl.read_experiment(folder), tl.Experiment)
    tl.plan(5)  # type: ignore[arg-type]
    tl.plan(experiment, alow=["EV201"])  # type: ignore[call-arg]
    for name, chart in tl.figures(folder).items():
        chart.save(f"{name}.html")
    tl.history().to_frame()
