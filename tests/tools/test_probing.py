"""The probe's parent: what it believes, what it ends, and that nothing is left running, with a stand-in for a child."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.cases import parametrize, until

from touchline.core.callbacks import ignore_message
from touchline.core.errors import HostError, InputError, RunsFailedError, TouchlineError
from touchline.core.estimate import MicroBatch
from touchline.core.units import GIB, MIB
from touchline.estimate.bracket import SearchStop
from touchline.experiment.training import TrainConfig
from touchline.history.probe import ProbedModel, ProbeOutcome, ProbeReport, ProbeRequest, ProbeTry
from touchline.tools import probing
from touchline.tools.probing import describe, free_host_bytes, free_of_groups, probe, require_packages, try_batch

pytestmark = pytest.mark.planning

WAIT_SECONDS = 60.0
BEFORE = """\
import json, os, signal, sys, time
request = json.loads(sys.stdin.readline())
open({log!r}, "a").write(json.dumps({{"pid": os.getpid(), "request": request}}) + "\\n")
rows = request["rows"]
def answer(outcome="fits", seconds=(9.0, 0.5, 0.5), process_bytes=1000):
    machine = {{"device": "cpu", "name": "a processor", "memory_bytes": 1, "threads": 1, "base_dtype": "float32",
               "versions": {{"torch": "2.0"}}, "load_1min": None}}
    work = {{"attention": "eager", "layout": "padded", "optimizer": "AdamW", "base_parameters": 10,
            "trainable_parameters": 2, "tokens_per_step": rows * request["width"], "examples_per_step": rows}}
    memory = {{"loaded_bytes": 10, "loading_bytes": 20, "allocated_bytes": None, "reserved_bytes": None,
              "process_bytes": process_bytes, "method": "made up"}}
    print(json.dumps({{"answer": {{"outcome": outcome, "machine": machine, "work": work,
        "memory": memory if outcome == "fits" else None, "step_seconds": list(seconds), "setup_seconds": 1.0,
        "message": "" if outcome == "fits" else "no room"}}, "fault": None}}), flush=True)
def fault(kind):
    print(json.dumps({{"answer": None, "fault": {{"kind": kind, "message": "it cannot be", "expected": "another",
        "hint": "that"}}}}), flush=True)
"""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back the trainer's program after each test, and ask for none of its packages."""
    monkeypatch.setattr(probing, "PROGRAM", probing.PROGRAM)
    monkeypatch.setattr(probing, "require_packages", lambda: None)


class Child:
    """A program that stands in for the trainer's, and what it was asked."""

    def __init__(self, folder: Path, behaviour: str) -> None:
        self._log = folder / "asked.jsonl"
        program = folder / "child.py"
        program.write_text(BEFORE.format(log=str(self._log)) + behaviour, encoding="utf-8")
        self.command = probing.PROGRAM = [sys.executable, str(program)]

    def asked(self) -> list[dict[str, object]]:
        return [json.loads(line)["request"] for line in self._lines()]

    def pids(self) -> list[int]:
        return [json.loads(line)["pid"] for line in self._lines()]

    def _lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []


def request(**changes: object) -> ProbeRequest:
    base: dict[str, object] = {
        "model": ProbedModel(name="m", path="models/m"),
        "train": TrainConfig(learning_rate=2e-4),
        "seed": 1,
        "width": 1,
        "label_tokens": 1,
    }
    return ProbeRequest(**{**base, **changes})


def batches(*sizes: int) -> dict[int, MicroBatch]:
    return {size: MicroBatch(rows=size, width=32, label_tokens=3 * size) for size in sizes}


def search(
    *sizes: int, predicted: int, limit_bytes: int = GIB, kept: list[ProbeTry] | None = None, **more: Any
) -> ProbeReport:
    return probe(
        request(),
        batches(*sizes),
        predicted=predicted,
        host_limit_bytes=limit_bytes,
        keep=[].append if kept is None else kept.append,
        **{"on_message": ignore_message} | more,
    )


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_every_try_is_a_fresh_process_with_its_own_micro_batch(tmp_path: Path) -> None:
    child = Child(tmp_path, 'answer("fits" if rows <= 10 else "gpu_oom", seconds=(9, 0.1 * rows ** 0.5) * 1)')
    kept: list[ProbeTry] = []
    said: list[str] = []
    report = search(1, 2, 4, 8, 16, 32, predicted=16, on_message=said.append, kept=kept)
    assert [one.micro_batch_size for one in report.tries] == [8, 16]
    assert (report.largest, report.ended) == (8, SearchStop.BRACKETED.value)
    assert (report.predicted, report.sizes) == (16, (1, 2, 4, 8, 16, 32))
    assert [(a["rows"], a["width"], a["label_tokens"]) for a in child.asked()] == [(8, 32, 24), (16, 32, 48)]
    assert len(set(child.pids())) == 2
    assert tuple(kept) == report.tries
    assert [one.outcome for one in kept] == [ProbeOutcome.FITS, ProbeOutcome.GPU_OOM]
    assert said[1].startswith("  fits, 1000 B (process), 0.283 s per step, 905 tokens/s")
    assert said[-1] == "  gpu oom: no room"


def test_seconds_are_the_median_of_the_steps_after_the_first(tmp_path: Path) -> None:
    Child(tmp_path, "answer(seconds=(100.0, 3.0, 1.0, 2.0, 50.0))")
    (one,) = search(4, predicted=4).tries
    assert one.seconds_per_step == 2.5
    assert one.tokens_per_second == 4 * 32 / 2.5


def test_at_the_knee_the_search_ends(tmp_path: Path) -> None:
    Child(tmp_path, "answer(seconds=(1.0, 0.01 * rows, 0.01 * rows))")
    report = search(1, 2, 4, 8, 16, 32, 64, predicted=16)
    assert [one.micro_batch_size for one in report.tries] == [8, 16]
    assert (report.largest, report.recommended, report.ended) == (16, 8, SearchStop.KNEE.value)


@parametrize(
    "behaviour",
    "answer(); sys.exit(3)",
    "answer(); os.kill(os.getpid(), signal.SIGSEGV)",
    "print('fits')",
    "answer(); print('and more')",
    "sys.stderr.write('it went wrong\\n'); sys.exit(1)",
)
def test_nothing_but_an_orderly_answer_is_a_fit(tmp_path: Path, behaviour: str) -> None:
    """The search goes on below it, and does not say that memory was lacking."""
    Child(tmp_path, behaviour)
    report = search(1, 2, predicted=2)
    assert {one.outcome for one in report.tries} == {ProbeOutcome.CRASHED}
    assert (report.largest, report.recommended) == (None, None)
    assert report.ended == f"{SearchStop.NONE_FITS.value} (not caused by memory)"
    assert all(one.message for one in report.tries)


def test_the_last_words_of_a_crash_are_told(tmp_path: Path) -> None:
    Child(tmp_path, "sys.stderr.write('touchline: first\\nfree(): invalid pointer\\n'); os.abort()")
    (one,) = search(1, predicted=1).tries
    assert one.message == "it ended with signal 6 (Aborted) and no result: free(): invalid pointer"
    assert describe(one) == f"crashed: {one.message}"


def test_killed_from_outside_is_the_kernels_way_of_saying_that_memory_ran_out(tmp_path: Path) -> None:
    Child(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    report = search(1, predicted=1)
    assert report.tries[0].outcome is ProbeOutcome.HOST_OOM
    assert report.ended == SearchStop.NONE_FITS.value


def test_a_peak_between_two_looks_counts(tmp_path: Path) -> None:
    """The child's own account of its peak is held against the limit too."""
    Child(tmp_path, f"answer(process_bytes={2 * GIB})")
    report = search(1, predicted=1, limit_bytes=GIB)
    assert report.tries[0].outcome is ProbeOutcome.HOST_OOM
    assert report.largest is None


@parametrize("kind, expected", ("input", InputError), ("environment", HostError), ("other", RunsFailedError))
def test_a_fault_before_any_answer_ends_the_search(tmp_path: Path, kind: str, expected: type[TouchlineError]) -> None:
    Child(tmp_path, f"fault({kind!r}); sys.exit(2)")
    with pytest.raises(expected, match="it cannot be") as caught:
        search(1, 2, predicted=2)
    assert (caught.value.expected, caught.value.hint) == ("another", "that")


def test_a_fault_after_an_answer_loses_nothing_of_what_was_measured(tmp_path: Path) -> None:
    Child(tmp_path, "answer() if rows < 4 else fault('other')")
    report = search(1, 2, 4, predicted=4)
    assert [one.outcome for one in report.tries] == [ProbeOutcome.FITS, ProbeOutcome.CRASHED]
    assert (report.largest, report.tries[1].message) == (2, "it cannot be")


def test_a_child_that_takes_too_much_is_ended_before_it_has_it_all(tmp_path: Path) -> None:
    hungry = f"kept = [b'x' * {MIB} for _ in range(100)]\nwhile True: kept.append(b'x' * {MIB}); time.sleep(0.002)"
    child = Child(tmp_path, hungry)
    (one,) = search(1, predicted=1, limit_bytes=200 * MIB).tries
    assert one.outcome is ProbeOutcome.HOST_OOM
    assert one.message == "its process took more than 200 MiB and was killed"
    assert 200 * MIB < one.seen_bytes < 2 * GIB
    assert gone(child.pids()[0])


def test_a_child_that_does_not_end_is_ended(tmp_path: Path) -> None:
    child = Child(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)")
    report = search(1, predicted=1, timeout_seconds=1.0)
    assert report.tries[0].outcome is ProbeOutcome.TIMEOUT
    assert report.ended.endswith("not caused by memory)")
    assert all(gone(pid) for pid in child.pids())


def test_a_child_that_never_reads_its_request_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PROGRAM", [sys.executable, "-c", "raise SystemExit(5)"])
    one, fault = try_batch(request(), 1, batches(1)[1], GIB, 30.0)
    assert (one.outcome, one.answer, fault) == (ProbeOutcome.CRASHED, None, None)
    assert "code 5" in one.message


def test_a_try_in_a_slot_has_others_beside_it_that_end_with_it(tmp_path: Path) -> None:
    """Each has the threads of a slot; the others repeat their steps until the first has answered."""
    child = Child(
        tmp_path,
        "if request['steps'] > 1000: time.sleep(600)\n"
        "while open(" + repr(str(tmp_path / "asked.jsonl")) + ").read().count('\\n') < 3: time.sleep(0.01)\n"
        "answer(seconds=(9.0, float(os.environ['OMP_NUM_THREADS'])))",
    )
    batch = MicroBatch(rows=2, width=32, label_tokens=6)
    one, fault = try_batch(request(steps=5), 2, batch, GIB, 60.0, slots=3, threads=4)
    assert (one.outcome, fault, one.seconds_per_step) == (ProbeOutcome.FITS, None, 4.0)
    steps = [asked["steps"] for asked in child.asked()]
    assert sorted(steps)[0] == 5
    assert len(steps) == 3
    assert all(gone(pid) for pid in child.pids())


def test_a_try_whose_neighbor_ended_measured_nothing(tmp_path: Path) -> None:
    Child(
        tmp_path,
        "if request['steps'] > 1000: raise SystemExit(1)\n"
        "while open(" + repr(str(tmp_path / "asked.jsonl")) + ").read().count('\\n') < 2: time.sleep(0.01)\n"
        "time.sleep(1)\nanswer()",
    )
    batch = MicroBatch(rows=2, width=32, label_tokens=6)
    one, _ = try_batch(request(steps=5), 2, batch, GIB, 60.0, slots=2, threads=1)
    assert (one.outcome, one.seconds_per_step) == (ProbeOutcome.CRASHED, None)


PARENT = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests behind it ignores Ctrl-C for them
from touchline.experiment.experiment import TrainConfig
from touchline.history.probe import ProbedModel, ProbeRequest
from touchline.core.estimate import MicroBatch
from touchline.tools import probing
probing.PROGRAM = sys.argv[1:]
model = ProbedModel(name="m", path="m")
train = TrainConfig(learning_rate=2e-4)
batch = MicroBatch(rows=1, width=1, label_tokens=1)
probing.try_batch(ProbeRequest(model=model, train=train, seed=1, width=1, label_tokens=1), 1, batch, 2**40, 600.0)
"""


def test_ctrl_c_ends_the_child_and_is_passed_on(tmp_path: Path) -> None:
    child = Child(tmp_path, "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *child.command], stderr=subprocess.PIPE)
    until(child.pids)
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=WAIT_SECONDS)
    assert b"KeyboardInterrupt" in said
    until(lambda: gone(child.pids()[0]))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_parent_is_killed_the_child_hears_it(tmp_path: Path, number: signal.Signals) -> None:
    """Its stdin is closed, whatever the system; the trainer's program ends by it."""
    child = Child(tmp_path, "os.read(0, 1)")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *child.command])
    until(child.pids)
    parent.send_signal(number)
    assert parent.wait() == -number
    until(lambda: gone(child.pids()[0]))


def test_less_than_all_free_memory_is_given() -> None:
    assert 0 < free_host_bytes() < psutil.virtual_memory().total


@parametrize(
    "line, place, files",
    (
        "0::/job_7/step",
        "job_7",
        {"memory.max": "1000", "memory.current": "700", "memory.stat": "file 1\ninactive_file 50"},
    ),
    (
        "4:memory:/job_7/step",
        "memory/job_7",
        {
            "memory.limit_in_bytes": "1000",
            "memory.usage_in_bytes": "700",
            "memory.stat": "inactive_file 9\ntotal_inactive_file 50",
        },
    ),
)
def test_the_limit_of_a_group_above_counts(tmp_path: Path, line: str, place: str, files: dict[str, str]) -> None:
    """A SLURM job's limit is on the job's group, above the step's; cached files give way."""
    (tmp_path / "own").write_text(f"{line}\n9:cpuset:/elsewhere\n")
    folder = tmp_path / "groups" / place
    (folder / "step").mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    (folder / "step" / next(iter(files))).write_text("max\n")
    assert free_of_groups(tmp_path / "own", tmp_path / "groups") == [350]


def test_without_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert free_of_groups(tmp_path / "none", tmp_path) == []


def test_without_the_packages_that_train_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HostError, match="torch, transformers, peft"):
        require_packages()
