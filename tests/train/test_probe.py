"""The probe's child: real steps on a real model, honest numbers, clear faults, and no life of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tests.cases import parametrize, until
from tests.tiers import examples

from touchline.backends.peft.layout import arrange
from touchline.core.callbacks import ignore_message
from touchline.core.errors import InputError
from touchline.core.estimate import MicroBatch
from touchline.core.units import GIB, MIB
from touchline.data.worker import prepare_worker
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.history.probe import ProbedModel, ProbeOutcome, ProbeReply, ProbeRequest
from touchline.tools.probing import probe
from touchline.train import probe_steps
from touchline.train.machine import select_device
from touchline.train.model import attach_adapter, load_base, trainable
from touchline.train.probe_steps import invented, lacking, measure

WAIT_SECONDS = 120.0
LONG_SECONDS = 300.0
_REQUEST = TypeAdapter(ProbeRequest)
_REPLY = TypeAdapter(ProbeReply)


def tiny(path: Path, **changes: object) -> ProbeRequest:
    base = ProbeRequest(
        model=ProbedModel(name="Tiny", path=str(path)),
        train=TrainConfig(learning_rate=2e-4, lora=LoraConfig(rank=4), base_dtype="float32"),
        seed=1,
        rows=2,
        width=16,
        label_tokens=6,
    )
    return replace(base, **changes)


def program(request: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program on a request; its stdin stays open until it has answered."""
    command = [sys.executable, *(words or ("-m", "touchline.train.probe"))]
    with (
        tempfile.TemporaryFile() as talk,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=talk) as child,
    ):
        child.stdin.write(request + b"\n")
        child.stdin.flush()
        answer, code = child.stdout.read(), child.wait(WAIT_SECONDS)
        talk.seek(0)
        return subprocess.CompletedProcess(command, code, answer, talk.read())


@pytest.mark.thorough
def test_memory_grows_with_tokens_and_the_machine_survives_too_many(tiny_model: Path) -> None:
    """Three real processes: 128 times the tokens take more, and 4 million, some 60 GB, are ended at 900 MiB.

    What is measured inside agrees with what is seen from outside: the kernel's peak is at least every sample of it.
    """
    sizes = {size: MicroBatch(rows=size, width=64, label_tokens=16 * size) for size in (2, 256, 65_536)}
    limit_bytes = 900 * MIB
    report = probe(
        tiny(tiny_model),
        sizes,
        predicted=200,
        host_limit_bytes=limit_bytes,
        on_message=ignore_message,
        keep=[].append,
        timeout_seconds=LONG_SECONDS,
    )
    small, large, too_large = report.tries
    assert (small.outcome, large.outcome) == (ProbeOutcome.FITS, ProbeOutcome.FITS)
    peaks = []
    for one in (small, large):
        answer = one.answer
        assert answer.memory.process_bytes is not None
        assert answer.memory.loading_bytes is not None
        assert answer.memory.method == "resident set, as the kernel counts it"
        assert (answer.memory.allocated_bytes, answer.memory.reserved_bytes) == (None, None)
        assert answer.memory.loaded_bytes <= answer.memory.loading_bytes + 16 * MIB
        assert one.seen_bytes <= max(answer.memory.process_bytes, answer.memory.loading_bytes) + 16 * MIB
        assert len(answer.step_seconds) == 3
        assert min(answer.step_seconds) > 0
        assert answer.setup_seconds is not None
        assert answer.setup_seconds + sum(answer.step_seconds) < one.wall_seconds + 1.0
        peaks.append(answer.memory.process_bytes - answer.memory.loaded_bytes)
    # 16,256 tokens more, each with some 2 x (8 x 96 + 20 x 48) x 4 bytes kept for the backward pass.
    assert 0 < peaks[0] < peaks[1]
    assert peaks[1] - peaks[0] > 16_256 * 2 * (8 * 96 + 20 * 48) * 2
    assert (too_large.outcome, too_large.answer) == (ProbeOutcome.HOST_OOM, None)
    assert limit_bytes < too_large.seen_bytes < 4 * GIB
    assert report.largest == 256


def test_the_counts_are_the_trainers_own(tiny_model: Path) -> None:
    request = tiny(tiny_model, micro_batches_per_step=2, steps=2)
    answer = measure(request)
    model = attach_adapter(load_base(request, select_device("float32"), "eager"), request)
    assert answer.outcome is ProbeOutcome.FITS
    assert answer.work.trainable_parameters == sum(value.numel() for value in trainable(model).values())
    assert answer.work.base_parameters == 57_072
    assert (answer.work.tokens_per_step, answer.work.examples_per_step) == (2 * 2 * 16, 2 * 2)
    assert (answer.work.attention, answer.work.layout, answer.work.optimizer) == ("eager", "padded", "AdamW, fused")
    assert (answer.machine.device, answer.machine.base_dtype) == ("cpu", "float32")
    assert answer.machine.threads == torch.get_num_threads()
    assert answer.machine.memory_bytes == psutil.virtual_memory().total
    assert len(answer.step_seconds) == 2


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_and_checkpointing_are_tried_as_they_are(tiny_model: Path, checkpointing: bool) -> None:
    train = TrainConfig(
        learning_rate=2e-4,
        lora=LoraConfig(rank=4, dtype="bfloat16", target_modules=("q_proj",)),
        base_dtype="bfloat16",
        gradient_checkpointing=checkpointing,
    )
    answer = measure(tiny(tiny_model, train=train, examples_per_row=3, label_tokens=7))
    assert answer.outcome is ProbeOutcome.FITS
    assert answer.work.layout == "packed, rows of 16 tokens"
    assert (answer.work.tokens_per_step, answer.work.examples_per_step) == (32, 6)
    assert answer.machine.base_dtype == "bfloat16"


def test_a_model_without_weights_cannot_be_tried(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(InputError, match="cannot be loaded"):
        measure(tiny(tmp_path))


@settings(max_examples=examples(25))
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 70),
    each=st.integers(1, 5),
    share=st.floats(0, 1),
    seed=st.integers(0, 3),
)
def test_invented_examples_fill_the_rows_asked_for(rows: int, width: int, each: int, share: float, seed: int) -> None:
    each = min(each, width)
    most = rows * each * (width // each)
    labels = max(rows * each, round(share * most))
    request = tiny(Path("m"), rows=rows, width=width, label_tokens=labels, examples_per_row=each, seed=seed)
    examples, layout = invented(request, 50)
    laid = arrange(examples, layout)
    assert laid.token_ids.shape == (rows, width)
    assert (laid.segments >= 1).all(), "padding"
    assert (len(laid.labels), laid.masked) == (labels, each > 1)
    assert 0 <= laid.token_ids.min() <= laid.token_ids.max() < 50
    assert examples == invented(request, 50)[0]


@parametrize(
    "changes",
    {"label_tokens": 1},
    {"label_tokens": 33},
    {"examples_per_row": 17},
    {"examples_per_row": 4, "label_tokens": 7},
)
def test_rows_without_room_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="do not fit in"):
        invented(tiny(Path("m"), **changes), 50)


@parametrize(
    "error, device, outcome",
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "cuda", ProbeOutcome.GPU_OOM),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "cuda", ProbeOutcome.GPU_OOM),
    (RuntimeError("CUDA error: out of memory"), "cuda", ProbeOutcome.GPU_OOM),
    (MemoryError(), "cpu", ProbeOutcome.HOST_OOM),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "cpu", ProbeOutcome.HOST_OOM),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "cpu", None),
    (RuntimeError("CUDA error: device-side assert triggered"), "cuda", None),
)
def test_every_way_out_of_memory_is_known(error: BaseException, device: str, outcome: ProbeOutcome | None) -> None:
    assert lacking(error, device) is outcome


def test_an_allocation_that_the_system_refuses_is_an_answer(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch itself is asked for more than any machine has, in the midst of a step."""

    def too_much(*_: object) -> torch.Tensor:
        return torch.empty(1 << 50, dtype=torch.float32)

    monkeypatch.setattr(probe_steps, "add_gradient", too_much)
    answer = measure(tiny(tiny_model))
    assert answer.outcome is ProbeOutcome.HOST_OOM
    assert answer.memory is None
    assert answer.step_seconds == ()
    assert answer.work is not None
    assert answer.setup_seconds is not None
    assert answer.message


def test_another_error_is_no_lack_of_memory(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(probe_steps, "add_gradient", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measure(tiny(tiny_model))


@parametrize(
    "stdin, words",
    (b"{", "invalid request: Invalid JSON"),
    (b'{"model": {"name": "m", "path": "m"}, "train": {}, "seed": 1, "width": 0, "label_tokens": 1}', "width: "),
    (_REQUEST.dump_json(tiny(Path("nowhere"))), "nowhere' does not exist"),
    (b'{"model": {"name": "m", "path": "m"}, "train": {"lr": 1}, "seed": 1, "width": 1, "label_tokens": 1}', "lr"),
)
def test_garbage_is_a_fault_in_words(stdin: bytes, words: str) -> None:
    done = program(stdin)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    fault = _REPLY.validate_json(line).fault
    assert fault.kind == "input"
    assert words in fault.message


def test_the_users_own_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that grow, for trainings and probes alike, unless the user has chosen."""
    for own in ({}, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, {"PYTORCH_ALLOC_CONF": ""}):
        environment = dict(own)
        monkeypatch.setattr(os, "environ", environment)
        prepare_worker()
        found = {name: text for name, text in environment.items() if "ALLOC_CONF" in name}
        assert found == (own or {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})


ENDLESS = 1_000_000


def in_its_steps(pid: int) -> bool:
    """Whether the program has loaded what computes, by its memory."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return bool(process.memory_info().rss > 300 * MIB)
    return False


PARENT = """\
import sys
from pydantic import TypeAdapter
from touchline.history.probe import ProbeRequest
from touchline.core.estimate import MicroBatch
from touchline.tools.probing import try_batch
batch = MicroBatch(rows=2, width=16, label_tokens=6)
try_batch(TypeAdapter(ProbeRequest).validate_json(sys.argv[1]), 2, batch, 2**40, 600.0)
"""


def test_a_kill_of_the_parent_leaves_no_child(tiny_model: Path) -> None:
    """kill -9: the kernel tells the child, in the midst of its computing."""
    words = _REQUEST.dump_json(tiny(tiny_model, steps=ENDLESS)).decode()
    parent = psutil.Popen([sys.executable, "-c", PARENT, words])
    until(parent.children)
    (child,) = parent.children()
    until(lambda: in_its_steps(child.pid))
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.thorough
def test_a_closed_stdin_ends_it_where_no_kernel_does(tiny_model: Path) -> None:
    """Here the parent lives, so that the kernel has nothing to tell."""
    words = [sys.executable, "-m", "touchline.train.probe"]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child.stdin.write(_REQUEST.dump_json(tiny(tiny_model, steps=ENDLESS)) + b"\n")
    child.stdin.flush()
    until(lambda: in_its_steps(child.pid))
    child.stdin.close()
    assert child.wait(WAIT_SECONDS) == 128 + signal.SIGKILL
    assert child.stdout.read() == b""
    child.stdout.close()


def test_what_others_print_does_not_reach_stdout(tmp_path: Path) -> None:
    """A library that writes to stdout, by whichever way, does not spoil the answer."""
    code = (
        "import os, touchline.train.probe as p\n"
        "def noisy(request):\n"
        "    print('by print', flush=True); os.write(1, b'by descriptor'); os.system('echo by a shell')\n"
        "    raise p.InputError('nothing')\n"
        "p._measure = noisy\n"
        "p.main()\n"
    )
    done = program(_REQUEST.dump_json(tiny(tmp_path)), "-c", code)
    assert json.loads(done.stdout)["fault"]["message"] == "nothing"
    assert {b"by print", b"by a shell"} <= set(done.stderr.replace(b"by descriptor", b"").splitlines())
