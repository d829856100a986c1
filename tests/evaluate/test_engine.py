"""The engine: batches, errors, memory; on the tiny model, with the loop replaced only where memory must run out."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_ai.log import EvalError, EvalLog, EvalSample
from tests.cases import parametrize, some
from transformers import PreTrainedModel

from touchline.core.errors import HostError, RunsFailedError
from touchline.data.machine import choose_base_dtype, cpu_flags
from touchline.evaluate import engine as engine_module
from touchline.evaluate.decoding import Generation, write_answers
from touchline.evaluate.engine import Decoding, Engine, Request
from touchline.evaluate.records import require_scores
from touchline.evaluate.weights import ActiveAdapter, Weights, pick_dtype
from touchline.experiment.answer_batches import BatchLimits, BatchSize

CPU = torch.device("cpu")
DECODING = Decoding(max_new_tokens=5, stop_ids=frozenset({2}), pad_id=0, batch_size=8)
PROMPTS = [tuple(range(3, 6 + i % 9)) for i in range(20)]


@pytest.fixture
def engine(tiny_base: Path):
    made = Engine(Weights(str(tiny_base), pick_dtype("float32", CPU), CPU))
    yield made
    made.close()


def ask(
    engine: Engine, worn: ActiveAdapter | None = None, prompts: list[tuple[int, ...]] = PROMPTS
) -> list[Generation]:
    futures = [engine.submit(Request(worn=worn, prompt=prompt, decoding=DECODING)) for prompt in prompts]
    return [future.result(timeout=60) for future in futures]


def test_every_request_gets_its_own_answer(engine: Engine) -> None:
    """Sorting by length inside does not mix answers up; progress counts every item once."""
    model = engine.weights.model
    expected = [write_answers(model, [p], max_new_tokens=5, stop_ids=DECODING.stop_ids, pad_id=0)[0] for p in PROMPTS]
    heard: list[int] = []
    engine.on_batch = lambda worn, count: heard.append(count)
    assert ask(engine) == expected
    engine.close()
    assert sum(heard) == sum(engine.batches) == len(PROMPTS)
    assert max(engine.batches) <= DECODING.batch_size


def test_a_batch_that_does_not_fit_is_halved_until_it_does(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for fifty tokens: all are answered, what fits is remembered, and short prompts get larger batches."""
    expected = ask(engine)
    tried: list[tuple[int, int]] = []

    def narrow(model: object, prompts: list[tuple[int, ...]], **options: object) -> list[Generation]:
        tried.append((len(prompts), len(prompts) * (max(map(len, prompts)) + DECODING.max_new_tokens)))
        if tried[-1][1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write_answers(model, prompts, **options)

    monkeypatch.setattr(engine_module, "write_answers", narrow)
    assert ask(engine) == expected
    assert [rows for rows, _ in tried[:3]] == [8, 4, 2]
    assert all(tokens <= 50 for _, tokens in tried[2:])
    assert max(rows for rows, _ in tried[2:]) > 2


@pytest.mark.parametrize("batch_size", ["auto", 8])
def test_batches_are_bounded_by_tokens(engine: Engine, batch_size: BatchSize, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longest first, each as large as its longest prompt allows."""
    expected = ask(engine)
    monkeypatch.setattr(engine, "_limits", BatchLimits(auto_rows=12, tokens=80))
    engine.batches.clear()
    decoding = replace(DECODING, batch_size=batch_size)
    futures = [engine.submit(Request(worn=None, prompt=prompt, decoding=decoding)) for prompt in PROMPTS]
    assert [future.result(timeout=60) for future in futures] == expected
    lengths = sorted((len(prompt) + decoding.max_new_tokens for prompt in PROMPTS), reverse=True)
    for rows in some(engine.batches):
        assert rows == min(80 // lengths[0], 8 if batch_size == 8 else 12, len(lengths))
        lengths = lengths[rows:]
    assert not lengths


def test_one_prompt_that_does_not_fit_is_a_fault_in_words(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing left to halve."""

    def full(*arguments: object, **options: object) -> list[Generation]:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(engine_module, "write_answers", full)
    with pytest.raises(HostError, match="not enough memory"):
        ask(engine, prompts=PROMPTS[:3])


def test_adapters_share_batches(engine: Engine, adapters: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads are two batches beside each other, with the answers, the order and the threads of one by one."""
    worn = ActiveAdapter(folder=adapters[0], merged=True)
    expected = []
    for each in (None, worn):
        engine.weights.activate(each)
        expected.append(
            write_answers(engine.weights.model, PROMPTS[:16], max_new_tokens=5, stop_ids=DECODING.stop_ids, pad_id=0)
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    both = threading.Barrier(2)
    shares: list[int] = []

    def meeting(model: PreTrainedModel, prompts: list[tuple[int, ...]], **settings: Any) -> list[Generation]:
        shares.append(torch.get_num_threads())
        both.wait(timeout=60)
        return write_answers(model, prompts, **settings)

    monkeypatch.setattr(engine_module, "write_answers", meeting)
    monkeypatch.setattr(engine_module, "LINGER_SECONDS", 60.0)
    try:  # The engine's thread starts with the first request, and has the threads of that moment.
        for each, answers in zip((None, worn), expected, strict=True):
            engine.batches.clear()
            engine.expected = 2 * DECODING.batch_size
            assert ask(engine, each, PROMPTS[:16]) == answers
            assert engine.batches == [8, 8]
        assert shares == [1] * 4
    finally:
        both.abort()
        torch.set_num_threads(threads)


def test_batches_at_once_have_no_more_tokens_than_one_may_have(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory holds one batch, they follow each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(engine_module, "ThreadPoolExecutor", lambda *each: pytest.fail("several batches at once"))
    engine._limits = BatchLimits(auto_rows=8, tokens=8 * 20)
    try:
        assert len(ask(engine)) == len(PROMPTS)
    finally:
        torch.set_num_threads(threads)


def test_a_closed_engine_answers_no_more(engine: Engine) -> None:
    """What still waits is cancelled rather than left hanging."""
    ask(engine, prompts=PROMPTS[:2])
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(Request(worn=None, prompt=(3,), decoding=DECODING))


X86 = "processor\t: 0\nmodel name\t: some\nflags\t\t: fpu sse avx512f avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"


@pytest.mark.parametrize(("text", "found"), [(X86, "avx512_bf16"), (ARM, "bf16")])
def test_the_kernels_list_of_flags_is_read(tmp_path: Path, text: str, found: str) -> None:
    """x86 calls them flags, Arm features."""
    path = tmp_path / "cpuinfo"
    assert cpu_flags(path) == frozenset()
    path.write_text(text)
    assert found in cpu_flags(path)


@parametrize(
    "capability, flags, dtype",
    (None, {"amx_bf16"}, "bfloat16"),
    (None, {"avx2", "fma"}, "float32"),
    (None, set(), "float32"),
    ((7, 5), {"avx512_bf16"}, "float32"),
    ((8, 0), set(), "bfloat16"),
    ((12, 0), set(), "bfloat16"),
)
def test_auto_follows_what_computes(capability: tuple[int, int] | None, flags: set[str], dtype: str) -> None:
    """The GPU decides where there is one; the processor's flags do not matter then."""
    choice = choose_base_dtype("auto", cuda_capability=capability, flags=frozenset(flags))
    assert choice.dtype == dtype
    assert choice.reason


def test_what_is_asked_for_is_taken() -> None:
    """Whatever the machine is."""
    assert choose_base_dtype("bfloat16", cuda_capability=(7, 0), flags=frozenset()).dtype == "bfloat16"


def stopped_log(*messages: str) -> EvalLog:
    """A log of an evaluation that was stopped by an error, with the errors of its samples."""
    errors = [EvalError(message=message, traceback="", traceback_ansi="") for message in messages]
    samples = [EvalSample.model_construct(id=number, error=error) for number, error in enumerate(errors)]
    return EvalLog.model_construct(status="error", error=None, samples=samples)


@parametrize("cancelled", "CancelledError('Cancelled via cancel scope 7f')", "CancelledError()", "Cancelled()")
def test_a_cancelled_sample_has_not_failed(cancelled: str) -> None:
    log = stopped_log(cancelled, "ValueError('a scorer')", cancelled)
    with pytest.raises(RunsFailedError, match=r"at least 1 of 8 answers failed, .*the first: ValueError\('a scorer'\)"):
        require_scores(log, 0.0, 8)


def test_an_error_that_speaks_of_a_cancellation_has_failed() -> None:
    with pytest.raises(RunsFailedError, match="at least 2 of 8 answers failed"):
        require_scores(stopped_log("CancelledErrorOfMine('x')", "the server said CancelledError()"), 0.0, 8)
