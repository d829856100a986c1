"""The first screen of a plan: what must be on it, and how little room it may take."""

import os
import pty
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from tests.api.folders import command, environment, make_experiment, touchline
from tests.run.made_plans import DATA, GPU, made_control, made_memory, made_plan, made_run

from tools.tiny_model import write_tiny_model
from touchline.core.catalog import SplitInfo
from touchline.core.estimate import MemoryVerdict
from touchline.core.levels import Level
from touchline.core.quantity import Missing, Quantity
from touchline.experiment.experiment import ComputeConfig
from touchline.experiment.plan import Plan, PlannedRun
from touchline.plan.conditions import condition_name, conditions
from touchline.plan.identity import RunMark
from touchline.plan.screen import screen_lines
from touchline.plan.sections import NAMES, check_names, runs_plan_markdown, sections
from touchline.statistics.spread import spread_inputs

pytestmark = pytest.mark.planning

QUESTIONS = ("fits", "Total", "Detectable", "Example", "runs (", "next: ")
"""Does it fit, how long, will it show anything, what does it learn from, what runs, what to type next."""


def run_of(rank: int, rate: str, seed: int) -> PlannedRun:
    levels = {"train.lora.rank": str(rank), "train.learning_rate": rate, "seeds": str(seed)}
    memory = replace(made_memory(2.0), verdict=MemoryVerdict.FITS)
    return replace(
        made_run(f"135M_rank{rank}_lr{rate}_seed{seed}"),
        levels=tuple(Level(factor=factor, value=value) for factor, value in levels.items()),
        train_seconds=Quantity(value=60.0 + rank, unit="s", low=50.0 - seed, high=90.0 + seed),
        memory=memory,
        peak_memory=memory.process.quantity(),
        seed=seed,
    )


def plan_of(ranks: Sequence[int], rates: Sequence[str], seeds: Sequence[int] = (1, 2, 3)) -> Plan:
    runs = [run_of(*each) for each in product(ranks, rates, seeds)]
    compute = ComputeConfig(executor="local", deadline="6h")
    plan = made_plan(*runs, replace(made_control("135M_base"), levels=()), compute=compute)
    factors = {"train.lora.rank": ranks, "train.learning_rate": rates, "seeds": seeds}
    data = replace(DATA, splits=(SplitInfo(name="test", num_examples=240, sha256="9" * 64),))
    wall = Quantity(value=9000.0, unit="s", low=8000.0, high=12000.0)
    return replace(
        plan,
        factors={name: tuple(map(str, levels)) for name, levels in factors.items()},
        datasets={DATA.path: data},
        spread=spread_inputs((), ()),
        wall_seconds=wall,
        gpu_hours=Quantity(value=2.5, unit="h", low=2.2, high=3.3),
        disk=Quantity(value=2097.152, unit="MB"),
    )


SWEEP = plan_of((4, 16, 64), ("1e-4", "3e-4", "1e-3"))
MANY = plan_of((1, 2, 4, 8, 16, 32, 64, 128), ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3"), (1,))


@pytest.mark.parametrize(("plan", "most"), [(SWEEP, 37), (MANY, 26)], ids=["28 runs", "40 conditions"])
@pytest.mark.parametrize("width", [60, 80])
def test_many_runs_fit_a_screen(plan: Plan, most: int, width: int) -> None:
    lines = screen_lines(plan, findings=(), width=width)
    assert max(map(len, lines)) <= width
    assert width < 80 or len(lines) <= most
    assert all(any(each in line for line in lines) for each in QUESTIONS[:3])
    assert lines == screen_lines(plan, findings=(), width=width)


def test_a_row_is_a_condition_and_covers_its_seeds() -> None:
    assert [len(each) for each in conditions(SWEEP)] == [3] * 9 + [1]
    text = "\n".join(screen_lines(SWEEP))
    row = re.search(r"^135M_rank4_lr1e-4 .*$", text, re.MULTILINE)
    assert "1:04 (47.0 s to 1:33)" in row[0]
    assert "run (x 3 seeds)" in text
    assert "28 runs (27 trained, 1 control)" in text
    assert "20 steps per run" in text, "a number that all runs share has no column"
    assert "(heaviest and lightest of 41 conditions, --show runs)" in "\n".join(screen_lines(MANY))
    assert condition_name([made_run("a_seed1_x"), made_run("a_seed2_x")]) == "a_x"
    assert condition_name([made_run("one"), made_run("two")]) == "one"


def test_what_does_not_fit_is_named_and_what_is_unknown_too() -> None:
    tight = replace(made_memory(70.0), verdict=MemoryVerdict.UNCERTAIN)
    runs = [replace(run, memory=tight) if "rank8_" in run.name else run for run in MANY.runs]
    text = "\n".join(screen_lines(replace(MANY, runs=tuple(runs), machine=GPU)))
    assert "Memory      135M_rank8_lr1e-5_seed1: UNCERTAIN" in text
    assert "4 more to look at" in text
    unknown = replace(MANY.runs[0], train_seconds=Missing(missing="no rate of this GPU"))
    assert "time of 1 run (no rate of this GPU)" in "\n".join(screen_lines(replace(MANY, runs=(unknown,))))
    assert "Memory" not in "\n".join(screen_lines(SWEEP))


def test_lines_that_change_a_decision_only_where_they_do() -> None:
    labels = ("Cohorts", "Slots", "Time limit", "Not here", "Packing", "Rate", "Scores", "Strategy", "override")
    assert not [label for label in labels if any(line.startswith(label) for line in screen_lines(SWEEP))]
    cluster = replace(SWEEP, executor="slurm", compute=ComputeConfig(executor="slurm"), deadline=None)
    assert any(line.startswith("Time limit  training") for line in screen_lines(cluster))
    overridden = replace(SWEEP, overrides=("train.epochs=2",), override_dates={"train.epochs=2": "2026-11-23"})
    assert "override: train.epochs = 2, given on 2026-11-23" in screen_lines(overridden)
    asked = replace(SWEEP, file_settings={"train": {"packed": "auto"}})
    assert "Packing     short rows (--show packing)" in screen_lines(asked)


def test_totals_count_what_is_left_to_do() -> None:
    names = [run.name for run in SWEEP.runs]
    some = dict.fromkeys(names, RunMark.TO_DO) | {names[0]: RunMark.DONE, names[1]: RunMark.TRAINED}
    text = "\n".join(screen_lines(SWEEP, marks=some))
    assert "Left to do  27 runs, " in text
    assert "1 of 3 done" in text
    assert "unchanged) on" in text
    assert any(
        "nothing, 28 runs done" in line for line in screen_lines(SWEEP, marks=dict.fromkeys(names, RunMark.DONE))
    )
    mixed = dict.fromkeys(names, RunMark.NEW) | {names[0]: RunMark.CHANGED, names[1]: RunMark.TO_DO}
    assert "26 new, 1 unchanged, 1 changed" in " ".join(screen_lines(SWEEP, marks=mixed)[:2])


def test_every_section_is_behind_show_and_the_file_begins_with_the_screen() -> None:
    everything = sections(SWEEP)
    assert [each.title for name in NAMES[:-2] for each in sections(SWEEP, [name])] != []
    for name in NAMES[:-2]:
        (first, *_) = sections(SWEEP, [name])
        assert first in everything or first.lines == ("nothing in this plan",), name
    text = runs_plan_markdown(SWEEP)
    assert text.split("```")[1] == "text\n" + "\n".join(screen_lines(SWEEP)) + "\n"
    with pytest.raises(Exception, match="'powers' is not a section") as error:
        check_names(["powers"])
    assert "power, examples" in str(error.value.expected)  # type: ignore[attr-defined]


def on_terminal(arguments: Sequence[str], env: dict[str, str], columns: int) -> list[str]:
    master, slave = pty.openpty()
    with subprocess.Popen(
        command(*arguments), stdin=slave, stdout=slave, stderr=slave, env=env | {"COLUMNS": str(columns), "LINES": "24"}
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                read = os.read(master, 65536)
            except OSError:
                break
            if not read:
                break
            shown += read
        process.wait()
    os.close(master)
    lines, row = [""], 0
    for text, code, argument in re.findall(
        r"([^\x1b\r\n]+|\r?\n)|\x1b\[(?=[0-9;?]*([AK]))([0-9;?]*)[AK]", shown.decode()
    ):
        row = max(0, row + ("\n" in text) - (int(argument or 1) if code == "A" else 0))
        lines += [""] * (row + 1 - len(lines))
        lines[row] = "" if code == "K" else lines[row] + text.strip("\r\n")
    return "\n".join(lines).strip("\n").split("\n")


@pytest.mark.slow
def test_the_next_command_fits_the_state(tmp_path: Path) -> None:
    """On a terminal of 80 columns, from the first plan to the last run."""
    write_tiny_model(tmp_path / "models" / "Tiny-1M-Instruct")
    env = environment(tmp_path / "models", tmp_path / "cache", tmp_path / "history")
    folder = make_experiment(tmp_path / "exp", n_train=32)
    assert touchline("plan", str(folder), "--dry-run", env=env).returncode == 0, "tokens are counted"
    lines = on_terminal(["plan", str(folder)], env, 80)
    written = next(place for place, line in enumerate(lines) if line.startswith("wrote"))
    # The path of the test's folder may take more than a line.
    assert written + 2 <= 24, "\n".join(lines)
    assert max(len(line) for line in lines[:written]) <= 80
    assert all(any(each in line for line in lines) for each in QUESTIONS), "\n".join(lines)
    assert " ".join(lines[-2:]).endswith(f"next: touchline run {folder}")
    again = touchline("plan", str(folder), "train.epochs=3", "--dry-run", env=env)
    assert again.stderr.endswith(f"next: touchline plan {folder} train.epochs=3\n")
    assert "override: train.epochs = 3, given on 20" in again.stdout
    for name in ("1M_rank2", "1M_rank4", "1M_base"):
        (folder / name / "eval").mkdir(parents=True)
        (folder / name / "eval" / "a.eval").write_text("")
        if "rank" in name:
            (folder / name / "training.json").write_text("{}")
    done = touchline("plan", str(folder), env=env)
    assert "nothing, 3 runs done" in done.stdout
    assert done.stderr.endswith(f"next: touchline report {folder}\n")
    shown = touchline("plan", str(folder), "--show", "power", "--show", "limits", env=env).stdout
    assert "Statistical power" in shown
    assert "All runs\n" not in shown
