"""Twelve tasks of an agent: each by the commands of skills alone, and by the tools of the MCP server alone.

Both ways end in the same fact, which the test knows.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.case import base, changed

TEXT = """
name: cap
task: capitalization
models: [Tiny-1M-Instruct]
data: {path: words.json}
train: {epochs: 1, global_batch_size: 8, micro_batch_size: 8, learning_rate: 1e-2, max_seq_len: 96, packed: false}
factors: {train.lora.rank: [2, 4]}
controls: [base]
"""
RUN = "1M_rank2"
MOST_CALLS = 8
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 21.95 GiB."
TRACEBACK = """\
Traceback (most recent call last):
  File "train.py", line 3, in <module>
    row["answer"]
KeyError: 'answer'
"""
SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=cap
echo starting
#SBATCH --time=1:00:00
python train.py
"""

Answers = Sequence[Any]
"""What each call gave: a JSON document, or the text of a command without one."""
Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Task, two ways to do it, and the fact that each has to find."""

    name: str
    commands: tuple[str, ...]
    calls: tuple[Call, ...]
    fact: object
    found: Callable[[Answers], object]
    """The fact in the answers of commands; in those of tools too, which have the same keys."""
    by_calls: Callable[[Answers], object] | None = None
    """The fact in the answers of tools, where it is another."""
    before: Callable[[Path], object] = lambda root: None
    after: Callable[[Path], bool] = lambda root: True
    executes: str = ""
    """Experiment that is executed, which the user approves for an agent with tools."""


def copied(root: Path, name: str) -> Path:
    """A copy of the finished experiment."""
    shutil.rmtree(root / name, ignore_errors=True)
    shutil.copytree(root / "experiment", root / name)
    return root / name


def untrained(folder: Path) -> Path:
    """The run as if its training had ended before anything was kept."""
    run = folder / RUN
    shutil.rmtree(run / "epoch_0")
    shutil.rmtree(run / "eval")
    (run / "training.json").unlink()
    return run


def failed(root: Path, name: str, output: str, code: int) -> None:
    """A copy in which the run ended with an exit code and these last words."""
    run = untrained(copied(root, name))
    (log,) = run.glob("slurm-*.out")
    log.write_text(output)
    (end,) = run.glob("status/exit.*.json")
    end.write_text(json.dumps(json.loads(end.read_text()) | {"code": code, "reason": "failed", "end": "failed"}))


def killed(root: Path) -> None:
    """A copy in which the run was killed, and left no exit record."""
    (end,) = untrained(copied(root, "killed")).glob("status/exit.*.json")
    end.unlink()


def unscored(root: Path) -> None:
    """A copy in which the run is trained and not evaluated."""
    shutil.rmtree(copied(root, "unscored") / RUN / "eval")


def run_of(answer: Any, name: str = RUN) -> Any:
    return next(each for each in answer["runs"] if each["name"] == name)


def states(answer: Any) -> dict[str, str]:
    """The state of every run."""
    return {each["name"]: each["status"] for each in answer["runs"]}


def codes(answer: Any) -> set[str]:
    return {each["code"] for each in answer["findings"] if each["severity"] == "error"}


def steps(answer: Any) -> dict[str, tuple[int, int]]:
    return {
        each["name"]: (each["steps_done"], each["steps_planned"])
        for each in answer["runs"]
        if each.get("steps_planned")
    }


COMPLETE = dict.fromkeys(("1M_rank2", "1M_rank4", "1M_base"), "completed")
TASKS = (
    Task(
        name="plan an experiment from data",
        before=lambda root: shutil.rmtree(root / "started", ignore_errors=True),
        commands=(
            "touchline models list --json",
            "touchline data audit experiment/words.json --json",
            "touchline init started --data experiment/words.json --model Tiny-1M-Instruct",
            "touchline check started --json",
            "touchline plan started --json",
        ),
        calls=(
            ("models", {}),
            ("data", {"path": "experiment/words.json"}),
            ("init", {"target": "started", "data": "experiment/words.json", "model": "Tiny-1M-Instruct"}),
            ("check", {"paths": ["started"]}),
            ("plan", {"experiment": "started"}),
        ),
        fact=(0, {"fine-tuned", "control"}, True),
        found=lambda a: (a[3]["errors"], {run["kind"] for run in a[4]["plan"]["runs"]}, "wall_seconds" in a[4]["plan"]),
    ),
    Task(
        name="fix a bad config",
        before=lambda root: (root / "stage.yaml").write_text(
            changed(base("qlora_stage"), "lr: 5.0e-5", "lr: 5e-5"), encoding="utf-8"
        ),
        commands=(
            "touchline check stage.yaml --json",
            "touchline check stage.yaml --fix",
            "touchline check stage.yaml --json",
        ),
        calls=(
            ("check", {"paths": ["stage.yaml"]}),
            ("fix", {"paths": ["stage.yaml"], "write": True}),
            ("check", {"paths": ["stage.yaml"]}),
        ),
        fact=({"BK014"}, set()),
        found=lambda a: (codes(a[0]), codes(a[2])),
        after=lambda root: (root / "stage.yaml").read_text(encoding="utf-8") == base("qlora_stage"),
    ),
    Task(
        name="explain an out of memory",
        before=lambda root: failed(root, "oom", OUT_OF_MEMORY, 79),
        commands=("touchline status oom --json", f"touchline logs oom --run {RUN} -n 50"),
        calls=(("explain", {"experiment": "oom", "run": RUN}),),
        fact=("OUT_OF_MEMORY", True),
        found=lambda a: (run_of(a[0])["job"]["state"], "CUDA out of memory" in a[1]),
        by_calls=lambda a: (
            a[0]["failures"][0]["failures"][-1]["state"],
            a[0]["failures"][0]["failures"][-1]["diagnosis"]["out_of_memory"],
        ),
    ),
    Task(
        name="resume after a kill",
        before=killed,
        executes="killed",
        commands=("touchline status killed --json", "touchline resume killed --json", "touchline status killed --json"),
        calls=(
            ("status", {"experiment": "killed"}),
            ("run", {"experiment": "killed", "wait_seconds": 600}),
            ("status", {"experiment": "killed"}),
        ),
        fact=("interrupted", COMPLETE),
        found=lambda a: (states(a[0])[RUN], states(a[2])),
    ),
    Task(
        name="compare two experiments",
        commands=("touchline compare experiment other --json",),
        calls=(("compare", {"experiments": ["experiment", "other"]}),),
        fact=(["experiment", "other"], True),
        found=lambda a: (
            [each["label"] for each in a[0]["experiments"]], any(each.get("comparison") for each in a[0]["runs"]),
        ),
    ),
    Task(
        name="write the report",
        before=lambda root: (root / "experiment" / "RESULTS.md").unlink(missing_ok=True),
        commands=("touchline report experiment --json",),
        calls=(("report", {"experiment": "experiment"}),),
        fact=(3, True),
        found=lambda a: (a[0]["report"]["completed"], a[0]["report"]["answer"]["text"] != ""),
        after=lambda root: (root / "experiment" / "RESULTS.md").is_file(),
    ),
    Task(
        name="estimate memory",
        commands=("touchline estimate --model Tiny-1M-Instruct --json",),
        calls=(("estimate", {"model": "Tiny-1M-Instruct"}),),
        fact=("Tiny-1M-Instruct", True),
        found=lambda a: (a[0]["model"], a[0]["memory"]["verdict"] in ("FITS", "UNCERTAIN", "OOM")),
    ),
    Task(
        name="find why a run failed",
        before=lambda root: failed(root, "broken", TRACEBACK, 1),
        commands=("touchline status broken --json", f"touchline logs broken --run {RUN} -n 50"),
        calls=(("explain", {"experiment": "broken", "run": RUN}), ("logs", {"experiment": "broken", "run": RUN})),
        fact=("FAILED", "KeyError: 'answer'"),
        found=lambda a: (run_of(a[0])["job"]["state"], a[1].strip().splitlines()[-1]),
        by_calls=lambda a: (a[0]["failures"][0]["failures"][-1]["state"], a[1]["lines"][-1]),
    ),
    Task(
        name="check a job script",
        before=lambda root: (root / "job.slurm").write_text(SCRIPT),
        commands=("touchline check job.slurm --json", "touchline check --explain SL003"),
        calls=(("check", {"paths": ["job.slurm"]}), ("explain", {"code": "SL003"})),
        fact=True,
        found=lambda a: "SL003" in codes(a[0]) and a[1].startswith("# SL003"),
        by_calls=lambda a: "SL003" in codes(a[0]) and a[1]["rule"]["code"] == "SL003",
    ),
    Task(
        name="list models and data",
        commands=("touchline models list --json", "touchline data audit experiment/words.json --json"),
        calls=(("models", {}), ("data", {"path": "experiment/words.json"})),
        fact=(["Tiny-1M-Instruct"], {"train": 16, "validation": 4, "test": 4}),
        found=lambda a: (
            [each["name"] for each in a[0]["models"]], {each["name"]: each["examples"] for each in a[1]["splits"]},
        ),
    ),
    Task(
        name="see progress",
        commands=("touchline status experiment --json",),
        calls=(("status", {"experiment": "experiment"}),),
        fact={"1M_rank2": (2, 2), "1M_rank4": (2, 2)},
        found=lambda a: steps(a[0]),
    ),
    Task(
        name="evaluate a checkpoint",
        before=unscored,
        executes="unscored",
        commands=(
            "touchline status unscored --json",
            "touchline evaluate unscored",
            "touchline results unscored --json",
        ),
        calls=(
            ("status", {"experiment": "unscored"}),
            ("evaluate", {"experiment": "unscored", "wait_seconds": 600}),
            ("results", {"experiment": "unscored"}),
        ),
        fact=("trained", True),
        found=lambda a: (states(a[0])[RUN], "value" in run_of(a[2])["score"]),
    ),
)  # fmt: skip
