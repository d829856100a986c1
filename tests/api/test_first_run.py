"""The first run of a model on a machine: some steps are measured before it is planned, once; nothing is left over."""

import collections
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tests.api.folders import command, interrupted, make_experiment, touchline
from tests.tiers import THOROUGH

from touchline import api
from touchline.core.errors import HostError
from touchline.core.quantity import Missing, Quantity
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.history.record import RunRecord
from touchline.history.records import contents, read_record
from touchline.run.folders import ExperimentFolder
from touchline.tools import probe_run as probing
from touchline.tools.probe_run import busy_load, measure_unknown, unmeasured


def records(tmp_path: Path) -> list[RunRecord]:
    found = [read_record(path) for path in contents(tmp_path / "history").records.values()]
    return [each for each in found if isinstance(each, RunRecord)]


def ratio(value: object) -> float:
    assert isinstance(value, Quantity)
    assert value.low
    assert value.high
    return value.high / value.low


@pytest.mark.thorough
def test_the_first_run_probes_says_so_and_plans_by_it(
    env: dict[str, str], settings: UserConfig, tmp_path: Path
) -> None:
    folder = make_experiment(tmp_path / "exp", n_train=64, ranks="[2]")
    small = ("train.epochs=1", "evaluate.samples=2", "controls=[]")
    (cold,) = api.plan(folder, settings, small, dry_run=True).plan.runs
    done = touchline("run", str(folder), *small, env=env)
    assert done.returncode == 0, done.stderr
    said = done.stderr
    assert "No measurements of Tiny-1M-Instruct on this machine" in said
    assert "--no-probe" in said
    assert said.index("probe: ") < said.index("1M_rank2: ")
    plan = ExperimentFolder(folder).planned()
    assert len(plan.revisions) == 1
    (run,) = plan.runs
    # A step, and on short trainings of a second the parts besides it as well.
    assert ratio(run.seconds_per_step) < ratio(cold.seconds_per_step)
    assert ratio(run.train_seconds) < ratio(cold.train_seconds)
    assert any(name.startswith("probe Tiny") for name in plan.evidence)
    (record,) = (record for record in records(tmp_path) if record.name.startswith("probe"))
    # A mean batch says nothing of the largest one's memory, nor of a validation's.
    assert isinstance(record.costs.peak_memory, Missing)
    assert isinstance(run.peak_memory, Quantity)
    assert run.peak_memory.where is None
    # Another experiment on this model knows it already, and asked not to measure it would not.
    for name, option in (("other", ()), ("third", ("--no-probe",))):
        other = make_experiment(tmp_path / name, n_train=32, ranks="[4]")
        metrics = other / "1M_rank4" / "metrics.jsonl"
        history = {"TOUCHLINE_HISTORY_DIR": str(tmp_path / ("empty" if option else "history"))}
        _, again = interrupted("run", str(other), *option, *small, env=env | history, when=metrics.exists)
        assert metrics.exists(), again
        assert "No measurements of" not in again
    assert sum(record.name.startswith("probe") for record in records(tmp_path)) == 1


@pytest.mark.slow
def test_a_killed_probe_leaves_nothing(env: dict[str, str], tmp_path: Path) -> None:
    for sent in (signal.SIGINT, signal.SIGKILL) if THOROUGH else (signal.SIGKILL,):
        folder = make_experiment(tmp_path / f"exp{int(sent)}", n_train=32)
        before = {path.relative_to(folder) for path in folder.rglob("*")}
        started = subprocess.Popen(
            command("run", str(folder)), env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert started.stderr is not None
        for line in started.stderr:
            if "No measurements of" in line:
                break
        deadline = time.monotonic() + 60
        while not (children := psutil.Process(started.pid).children()) and time.monotonic() < deadline:
            time.sleep(0.02)
        started.send_signal(sent)
        started.communicate(timeout=300)
        assert children
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
        left = {path.relative_to(folder) for path in folder.rglob("*")} - before
        assert {path.parts[0] for path in left} <= {".touchline"}, left
        assert not (folder / "plan.json").exists()
        assert not records(tmp_path)


def test_only_what_trains_here_and_is_unknown_is_measured(settings: UserConfig, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "exp", n_train=32)

    def planned(*overrides: str) -> Plan:
        return api.plan(folder, settings, overrides, dry_run=True).plan

    here = planned("compute.gpu=auto")
    assert [run.name for run in unmeasured(here, here.runs, settings)] in (["1M_rank2"], ["1M_rank4"])
    assert unmeasured(here, [], settings) == []
    assert unmeasured(here, [run for run in here.runs if run.train is None], settings) == []
    for elsewhere in (
        planned("compute.gpu=A100-80GB"),
        planned("compute={executor: slurm, gpu: cpu}"),
        planned("compute={executor: slurm, gpu: H100}"),
        replace(here, machine=replace(here.machine, threads=(here.machine.threads or 1) + 7)),
    ):
        assert unmeasured(elsewhere, elsewhere.runs, settings) == []


@pytest.mark.parametrize(
    ("device", "load", "threads", "told"), [("cpu", 7.0, 2, 7.0), ("cpu", 2.0, 2, None), ("cuda", 9.0, 1, None)]
)
def test_a_busy_machine_is_told_of(device: str, load: float, threads: int, told: float | None) -> None:
    machine = SimpleNamespace(device=device, threads=threads, load_1min=load)
    assert busy_load(SimpleNamespace(answer=SimpleNamespace(machine=machine))) == told  # type: ignore[arg-type]


def test_what_a_probe_cannot_do_stops_nothing(
    settings: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_experiment(tmp_path / "exp", n_train=32)
    plan = api.plan(folder, settings, dry_run=True).plan

    def cannot(*_: object) -> None:
        raise HostError("torch is not installed")

    monkeypatch.setattr(probing, "quick_probe", cannot)
    told: list[str] = []
    assert not measure_unknown(plan, ExperimentFolder(folder), settings, told.append)
    assert len(told) == 2
    assert "torch is not installed" in told[1]
    # What has started is no longer measured: its plan is settled.
    for name in ("1M_rank2", "1M_rank4"):
        (folder / name / "status").mkdir(parents=True)
        (folder / name / "status" / "start.1.0.json").write_text(json.dumps({}))
    assert not measure_unknown(plan, ExperimentFolder(folder), settings, told.append)
    assert len(told) == 2


COUNT_PARSES = """
import collections, json, os, sys
from touchline.core.files import FileCache
root = os.path.realpath(sys.argv[1])
parsed = collections.Counter()
call = FileCache.__call__
def counted(self, path):
    if not hasattr(self, "counted"):
        parse, self.counted = self._parse, True
        # The ends of files are read again while they grow: `touchline.run.tails`.
        whole = getattr(parse, "func", parse).__module__ != "touchline.run.tails"
        def counting(path):
            if whole and os.path.exists(path):
                parsed[os.path.relpath(os.path.realpath(path), root)] += 1
            return parse(path)
        self._parse = counting
    return call(self, path)
FileCache.__call__ = counted
"""
COUNT_OPENS = """
import collections, json, os, sys
root = os.path.realpath(sys.argv[1])
opened = collections.Counter()
def note(event, arguments):
    reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if reads and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(root + os.sep) and os.path.isfile(path):
            opened[os.path.relpath(path, root)] += 1
sys.addaudithook(note)
"""
COMMAND = """
from touchline.cli.main import main
folder, sys.argv = sys.argv[1], ["touchline", sys.argv[2], sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules
print("COUNTS", json.dumps(dict({counter})))
"""


def _counts(program: str, counter: str, verb: str, folder: Path, env: dict[str, str]) -> collections.Counter[str]:
    """Run a command in a process that counts, and return how often each file was read."""
    code = program + COMMAND.format(counter=counter)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), verb], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("COUNTS ")]
    return collections.Counter(json.loads(line.removeprefix("COUNTS ")))


@pytest.mark.slow
def test_each_file_is_read_once(env: dict[str, str], tmp_path: Path) -> None:
    """`run` on a planned experiment parses plan.json and each metrics.jsonl once; `report` opens each file once."""
    folder = make_experiment(tmp_path / "exp", n_train=16, n_test=8)
    assert touchline("plan", str(folder), env=env).returncode == 0

    parsed = _counts(COUNT_PARSES, "parsed", "run", folder, env)
    assert parsed["plan.json"] == 1
    metrics = {path: count for path, count in parsed.items() if path.endswith("metrics.jsonl")}
    assert len(metrics) == 2
    assert set(metrics.values()) == {1}

    (folder / "RESULTS.md").unlink()
    opened = _counts(COUNT_OPENS, "opened", "report", folder, env)
    read = {
        path: count for path, count in opened.items() if not path.startswith(("RESULTS.md", "report.html", "figures"))
    }
    assert {"plan.json", "experiment.yaml"} < read.keys()
    assert sum(path.endswith("metrics.jsonl") for path in read) == 2
    assert {path: count for path, count in read.items() if count > 1} == {}
