"""The sampler sees all processes of an attempt and only its GPUs, and nothing that goes wrong with it harms the work.

No real GPU is looked at here: NVML is played by an object with its functions. The real library's names and types are
those of nvidia-ml-py.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter
from tests.cases import parametrize

from touchline.core.quantity import Missing, Quantity
from touchline.run import sampling
from touchline.run.resources import ResourceSummary
from touchline.run.sampling import OF_DEVICE, OF_PROCESSES, GpuMeter, ProcessTree, Sampler, open_gpus, resources_file

pytestmark = pytest.mark.planning

MIB = 1 << 20
WORK = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; b = bytearray(96 << 20); print('up', flush=True); sys.stdin.read()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("up", flush=True)
sys.stdin.read()
"""  # noqa: E501


@contextmanager
def work(code: str = WORK) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is up, and ends when it is left."""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def read(path: Path) -> ResourceSummary:
    return TypeAdapter(ResourceSummary).validate_json(path.read_bytes())


def value(fact: Quantity | Missing) -> float:
    assert isinstance(fact, Quantity), fact
    return fact.value


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class NVMLError(Exception):
    pass


class FakeNvml:
    """Four GPUs; `own` are (pid, bytes) on each of them."""

    NVMLError = NVMLError

    def __init__(self, own: dict[int, list[tuple[int, int | None]]] | None = None, refuses: str = "") -> None:
        self.own = own or {}
        self.refuses = refuses
        self.opened: list[int | str] = []
        self.closed = False

    def nvmlInit(self) -> None:  # noqa: N802
        if self.refuses == "nvmlInit":
            raise NVMLError("Driver/library version mismatch")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.closed = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 4

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index >= 4:
            raise NVMLError("Invalid Argument")
        self.opened.append(index)
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        self.opened.append(uuid)
        return 3

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return f"GPU of number {handle}".encode()

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=(handle + 1) * 1000 * MIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if self.refuses == "utilization":
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=10 * (handle + 1), memory=1)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.own.get(handle, [])]


def test_children_count_and_their_memory_is_in_the_sum(tmp_path: Path) -> None:
    path = resources_file(tmp_path, "76", 2)
    with work() as process, Sampler(tmp_path, "76", 2, process.pid, sample_seconds=0.02, write_seconds=0.05):
        until(lambda: path.exists() and read(path).samples > 3)
    seen = read(path)
    assert (seen.job_id, seen.restart, seen.schema_version) == ("76", 2, 1)
    assert value(seen.memory_peak) >= value(seen.memory_mean) > 96 * MIB
    assert value(seen.cpu_mean) >= 0
    assert (seen.memory_peak.kind, seen.memory_peak.unit) == ("process", "B")
    assert seen.memory_peak.aggregation == "peak"
    assert seen.gpus == ()
    assert seen.gpu_reason


def test_processor_time_is_that_of_all_processes_since_the_first_look() -> None:
    busy = "print('up', flush=True)\nwhile True: sum(range(1000))"
    process = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        tree = ProcessTree(process.pid)
        first = tree.look()
        assert first[2] == 0.0
        until(lambda: (seen := tree.look()) is not None and seen[2] > 0)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert tree.look() is None


def test_work_that_is_gone_before_the_first_look_is_missing_and_not_zero(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with Sampler(tmp_path, "1", 0, gone.pid):
        pass
    seen = read(resources_file(tmp_path, "1", 0))
    assert seen.samples == 0
    assert isinstance(seen.memory_peak, Missing)
    assert isinstance(seen.cpu_mean, Missing)


@pytest.mark.parametrize("broken", ["a file in its place", "no permission"])
def test_a_disk_that_takes_nothing_does_not_harm_the_work(tmp_path: Path, broken: str) -> None:
    status = tmp_path / "status"
    if broken == "a file in its place":
        status.write_text("")
    else:
        status = Path("/proc/status")
    with work() as process:
        with Sampler(status, "1", 0, process.pid, sample_seconds=0.01, write_seconds=0.0):
            time.sleep(0.1)
        assert process.poll() is None


def test_only_the_gpus_that_the_job_was_given_are_opened() -> None:
    library = FakeNvml()
    meter = GpuMeter(library, "2,GPU-abc")
    meter.sample([1], 1.0)
    assert library.opened == [2, "GPU-abc"]
    assert [gpu.id for gpu in meter.summaries()] == ["2", "GPU-abc"]
    assert meter.summaries()[0].name == "GPU of number 2"
    meter.close()
    assert library.closed


def test_memory_is_that_of_the_jobs_processes_where_the_driver_tells_it() -> None:
    library = FakeNvml({0: [(7, 500 * MIB), (8, 300 * MIB), (99, 9000 * MIB)]})
    meter = GpuMeter(library, "0")
    meter.sample([7, 8], 0.0)
    library.own = {0: [(7, 100 * MIB)]}
    meter.sample([7, 8], 2.0)
    library.own = {}
    meter.sample([7, 8], 2.0)
    gpu = meter.summaries()[0]
    assert value(gpu.memory_peak) == 800 * MIB
    assert value(gpu.memory_mean) == 100 * MIB
    assert gpu.memory_peak.method == OF_PROCESSES


@pytest.mark.parametrize("size", [None, (1 << 64) - 1])
def test_where_the_driver_does_not_tell_whose_memory_it_is_the_whole_device_says_so(size: int | None) -> None:
    meter = GpuMeter(FakeNvml({1: [(7, size)]}), "1")
    meter.sample([7], 1.0)
    gpu = meter.summaries()[0]
    assert value(gpu.memory_peak) == 2000 * MIB
    assert gpu.memory_peak.method == OF_DEVICE
    assert value(gpu.utilization_mean) == 20


def test_without_a_list_of_gpus_only_those_with_our_processes_count() -> None:
    meter = GpuMeter(FakeNvml({2: [(7, 5 * MIB)], 3: [(99, 5 * MIB)]}), None)
    meter.sample([7], 1.0)
    assert [gpu.id for gpu in meter.summaries()] == ["2"]


def test_what_the_driver_refuses_is_missing_in_its_own_words() -> None:
    assert "version mismatch" in GpuMeter(FakeNvml(refuses="nvmlInit"), "0").reason
    assert "Invalid Argument" in GpuMeter(FakeNvml(), "11").reason
    meter = GpuMeter(FakeNvml(refuses="utilization"), "0")
    meter.sample([1], 1.0)
    gpu = meter.summaries()[0]
    assert "Not Supported" in gpu.utilization_mean.missing
    assert isinstance(gpu.memory_mean, Quantity)


def test_a_driver_that_hangs_holds_the_sampler_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CLOSE_PATIENCE_SECONDS", 0.05)
    hangs, entered = threading.Event(), threading.Event()
    library = FakeNvml()

    def never(handle: int) -> SimpleNamespace:
        entered.set()
        hangs.wait()
        return SimpleNamespace(used=1)

    meter = GpuMeter(library, "0")
    library.nvmlDeviceGetMemoryInfo = never
    with work() as process:
        sampler = Sampler(tmp_path, "1", 0, process.pid, gpus=lambda: meter)
        with sampler:
            assert entered.wait(60)
    hangs.set()
    sampler._thread.join()


@parametrize(
    "visible, driver, reason",
    ("", True, "hides"),
    ("-1", True, "hides"),
    ("NoDevFiles", True, "hides"),
    ("0", False, "no NVIDIA driver"),
)
def test_no_gpu_is_told(
    visible: str, driver: bool, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(sampling, "_DRIVER", (tmp_path if driver else tmp_path / "no",))
    told = open_gpus()
    assert isinstance(told, str)
    assert reason in told


def test_the_real_library_is_asked_only_with_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(sampling, "_DRIVER", (tmp_path,))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    told = open_gpus()
    assert told == "the package nvidia-ml-py is not installed"
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert isinstance(open_gpus(), GpuMeter)


def test_gpus_reach_the_file(tmp_path: Path) -> None:
    with work() as process:
        meter = GpuMeter(FakeNvml({0: [(process.pid, 7 * MIB)]}), "0")
        path = resources_file(tmp_path, "1", 0)
        with Sampler(tmp_path, "1", 0, process.pid, gpus=lambda: meter, sample_seconds=0.01, write_seconds=0.01):
            until(lambda: path.exists() and read(path).samples > 2)
    seen = read(path)
    assert value(seen.gpus[0].memory_peak) == 7 * MIB
    assert seen.gpu_reason == ""


def test_the_sampler_loads_no_framework() -> None:
    code = "import sys, touchline.run.sampling; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pynvml", "transformers", "jinja2"} & set(loaded)
