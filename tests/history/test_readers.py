"""Lines of recipes, of W&B and of trainers without a backend: what each form says, and what says nothing.

What whole fixtures say is in readings.txt.
"""

import datetime
import gzip
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.history.sound import read_lines
from tests.history.test_loops import read

from touchline.core.observation import Observation, Sign, SignKind, Stamp
from touchline.core.quantity import Missing, Quantity
from touchline.history.facts import fact_of, read_facts
from touchline.history.files import LoggedRun, find_runs
from touchline.history.readers import PackingLines, WandbLines, read_metadata, read_summary
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.history.run_view import GUESS
from touchline.history.scan import KEPT_BYTES, LINE_LIMIT_BYTES, LineFile, NotTextError

pytestmark = pytest.mark.planning

FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs"


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


def test_begin_and_end_carry_their_times() -> None:
    events = [e for e in read_lines(PackingLines, fixture("packing/stated.out")) if not isinstance(e, Observation)]
    kinds = [event.kind if isinstance(event, Sign) else "stamp" for event in events]
    assert kinds == [SignKind.START, "stamp", SignKind.TRAINED, "stamp"]
    first, last = (event for event in events if isinstance(event, Stamp))
    assert first.unix == datetime.datetime(2025, 10, 20, 14, 30, tzinfo=datetime.UTC).timestamp()
    assert last.unix - first.unix == 127 * 60
    assert (first.line, last.line) == (9, 11)


@parametrize(
    "line, value, unit, kind, phase",
    ("Peak GPU memory: 45.2 GB", 45.2, "GB", "allocated", "step"),
    ("INFO: peak gpu memory usage: 1,024 MiB", 1.0, "GiB", "allocated", "step"),
    ("Peak GPU memory reserved = 12.5GiB", 12.5, "GiB", "reserved", "step"),
    ("Peak GPU memory after model init: 2.5 GB", 2.5, "GB", "allocated", "after_init"),
    ("Peak GPU memory: 45.2 GB / 80 GB (56%)", 45.2, "GB", "allocated", "step"),
)
def test_peaks(line: str, value: float, unit: str, kind: str, phase: str) -> None:
    (event,) = read_lines(PackingLines, line)
    assert isinstance(event, Observation)
    assert (event.name, event.value, event.unit, event.kind, event.phase) == ("peak_memory", value, unit, kind, phase)


@parametrize(
    "line",
    "Packing dataset: 100%|██████████| 8000/8000 [00:01<00:00, 6478.45it/s]",
    "- **Packing density**: 2.8 examples a sequence is what we expect for short words",
    "Our packing density: 2.80 examples/sequence was better than that of others.",
    "The model answered: Packed 8000 examples into 2857 sequences",
    "Packing density: {avg_examples_per_sequence}",
    "Packing efficiency: 870%",
    "Max GPU memory: 80 GB",
    "Peak memory: 45.2 GB",
    "Loaded 500 examples from data/test.jsonl",
    "Loaded 3 few-shot examples",
    "Training started with 4 GPUs",
    "Training completed in 3 hours",
    "Training startedness 2025-10-20 14:30:00",
)
def test_what_says_nothing_of_packing(line: str) -> None:
    assert read_lines(PackingLines, line, every=True) == []


def test_facts_of_other_loops() -> None:
    text = "Loaded 8000 examples\nLoaded 500 examples\nTraining started\nLoaded 700 examples"
    assert [event.value for event in read_lines(PackingLines, text) if isinstance(event, Observation)] == [8000, 700]
    (found,) = read_lines(WandbLines, "wandb: Run summary:\nwandb: peak_memory_active 18.5\nwandb:\n")
    assert isinstance(found, Observation)
    assert (found.name, found.value, found.aggregation, found.line) == ("peak_memory", 18.5, "last", 2)
    events = read_lines(WandbLines, fixture("wandb/own_loop.out"))
    seen = [(each.name, each.value, each.aggregation, each.line) for each in events if isinstance(each, Observation)]
    assert seen == [("loss", 0.40625, "last", 4), ("eval_loss", 0.5625, "last", 5)]
    assert [(each.kind, each.line) for each in events if isinstance(each, Sign)] == [(SignKind.NOT_A_NUMBER, 13)]


@parametrize(
    "text",
    "wandb: Run history:\nwandb: loss 1\nwandb:\n",
    "wandb: loss 0.5\nwandb:\n",
    "wandb: Run summary:\nwandb: _step 5\nwandb: _runtime 90\nwandb: lr 0\nwandb: epoch 3\nwandb:\n",
    "wandb: Run summary:\nwandb: loss 0\nwandb: val_loss 0.00001\nwandb:\n",
    "wandb: Run summary:\nwandb: loss high\nwandb:\n",
    "wandb: Run summary:\nwandb:\nwandb: loss 0.5\nwandb:\n",
    "wandb: Run summary:\nwandb: loss 0.5\n",
    "wandb: Tracking run with wandb version 0.23.0\nwandb: ERROR loss 0.5\n",
    "notwandb: Run summary:\nnotwandb: loss 0.5\nnotwandb:\n",
)
def test_what_says_nothing_of_wandb(text: str) -> None:
    assert read_lines(WandbLines, text) == []


def test_the_documents_of_wandb() -> None:
    summary = read_summary("wandb-summary.json", json.loads(fixture("wandb/wandb-summary.json")))
    seen = {each.name: (each.value, each.aggregation) for each in summary or () if isinstance(each, Observation)}
    assert seen == {
        "step": (447, "last"),
        "loss": (1.18751, "last"),
        "mean_train_loss": (1.43752, "mean"),
        "train_seconds": (1803.2511, None),
        "eval_loss": (1.312504, "last"),
    }
    machine = read_metadata("wandb-metadata.json", json.loads(fixture("wandb/wandb-metadata.json")))
    devices = [each for each in machine or () if isinstance(each, Observation)]
    assert [(e.name, e.certain) for e in devices] == [(name, False) for name in ("gpu", "gpus", "gpu_memory_total")]
    assert devices[2].value == pytest.approx(79.6, abs=0.1)
    for content in ({}, {"loss": 0.5}, {"_step": 1, "_timestamp": 3.0}, {"gpu": "X", "gpu_count": 8}, {"program": 1}):
        assert all(reader("state.json", content) is None for reader in (read_summary, read_metadata))


def test_forward_passes_are_no_steps() -> None:
    row = b"Epoch 1 | iter 128 step 4 | loss train: 1.873, val: n/a | iter time: 212.11 ms (step)"
    assert [event.step for event in read(row) if isinstance(event, Observation) and event.name == "loss"] == [4]


def test_deepspeed_within_another_trainer_is_not_the_trainer() -> None:
    lines = (
        b"[2025-02-01 10:01:00,100] [INFO] [logging.py:96:log_dist] [Rank 0] "
        b"step=10, skipped=0, lr=[9e-06], mom=[(0.9, 0.95)]\n"
        b"[2025-02-01 10:01:00,101] [INFO] [timer.py:260:stop] epoch=0/micro_step=40/global_step=10, "
        b"RunningAvgSamplesPerSec=15.25, CurrSamplesPerSec=15.5, MemAllocated=4.25GB, MaxMemAllocated=30.5GB"
    )
    names = [event.name for event in read(lines) if isinstance(event, Observation)]
    assert names == ["step", "train_samples_per_second", "peak_memory"]


def test_memory_of_the_initialisation_is_none_of_a_step() -> None:
    line = b"MA 2.5 GB         Max_MA 2.75 GB         CA 3.0 GB         Max_CA 3 GB "
    loss = b"\nsteps: 20 loss: 2.3412 iter time (s): 1.234 samples/sec: 25.932\n"
    events = [event for event in read(line + loss + line) if isinstance(event, Observation)]
    assert [event.phase for event in events if event.name == "peak_memory"] == [*["after_init"] * 2, *["step"] * 2]


@parametrize(
    "line",
    b" iteration 10/ 200 | elapsed time per iteration (ms): 1520.4 | lm loss: NAN | number of nan iterations: 1 |",
    b"Epoch 1:  45%|####      | 450/1000 [01:15<01:32,  5.97it/s, loss=nan]",
)
def test_a_loss_that_is_no_number(line: bytes) -> None:
    assert [event.line for event in read(line) if not isinstance(event, Observation)] == [1]


def numbered(path: Path) -> tuple[LineFile, list[tuple[int, bytes]]]:
    file = LineFile(path=path)
    return file, [(number, line) for first, lines in file.chunks() for number, line in enumerate(lines, first)]


@given(text=st.binary(max_size=2000).map(lambda data: data.replace(b"\0", b"x")))
def test_numbers_are_those_of_an_editor(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.log"
    printable = bytes(byte if byte >= 32 or byte in (9, 10, 13) else 46 for byte in text)
    printable = b"log " + printable
    path.write_bytes(printable)
    file, lines = numbered(path)
    expected = printable.split(b"\n")
    assert file.unterminated == bool(expected[-1])
    if not expected[-1]:
        expected.pop()
    assert lines == list(enumerate(expected, 1))


def test_a_line_over_the_limit_keeps_head_and_tail_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"first\nHEAD" + b"x" * (5 * LINE_LIMIT_BYTES) + b"TAIL\nlast\n")
    file, lines = numbered(path)
    assert file.cut_lines == 1
    assert [number for number, _ in lines] == [1, 2, 3]
    assert lines[1][1].startswith(b"HEAD")
    assert lines[1][1].endswith(b"TAIL")
    assert len(lines[1][1]) < 3 * KEPT_BYTES
    assert lines[2] == (3, b"last")


def test_a_file_that_is_one_line_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with path.open("wb") as stream:
        for _ in range(64):
            stream.write(b"y" * (1 << 20))
    tracemalloc.start()
    file = LineFile(path=path)
    for _ in file.chunks():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (file.cut_lines, file.bytes_read) == (1, 64 << 20)
    assert peak < 12 << 20


def test_bars_on_one_endless_line_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "a.err"
    bars = b"\r".join(b" 50%%|#####     | %7d/9999999 [00:01<00:01,  1.00it/s]" % number for number in range(60_000))
    path.write_bytes(b"start\n" + bars + b"\nend\n")
    file, lines = numbered(path)
    whole = b"\r".join(line for number, line in lines if number == 2)
    assert file.cut_lines == 0
    assert whole.count(b"it/s]") == 60_000
    assert lines[-1] == (3, b"end")


def test_gzip_is_read_and_a_cut_one_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"line %d of a log\n" % number for number in range(100_000)))
    path = tmp_path / "a.log.gz"
    path.write_bytes(whole)
    file, lines = numbered(path)
    assert (len(lines), file.notes) == (100_000, [])
    path.write_bytes(whole[: len(whole) // 2])
    file, lines = numbered(path)
    assert 0 < len(lines) < 100_000
    assert "truncated" in file.notes[0]
    path.write_bytes(whole[: len(whole) // 2] + bytes(100) + whole[len(whole) // 2 :])
    file, lines = numbered(path)
    assert 0 < len(lines) < 100_000
    assert "corrupt" in file.notes[0]


def test_binary_files_are_refused_and_zeros_of_a_crash_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"")
    assert numbered(path)[1] == []
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(NotTextError):
        numbered(path)
    path.write_bytes(b"epoch 1 done, and so on, a line as long as others\n" * 100 + b"\0" * 100)
    assert len(numbered(path)[1]) == 101


TABLE = Path(__file__).parent / "readings.txt"
LOGS = sorted(path for path in FIXTURES.rglob("*") if path.suffix in (".out", ".err", ".log", ".txt", ".jsonl"))


def said(reading: RunRecord, file: str) -> str:
    """The known facts of a reading: `name=value unit kind @place`, a guess with a tilde; parted by semicolons."""
    facts: list[str] = []
    for field, fact in read_facts(reading):
        if not isinstance(fact, Quantity | SourcedText):
            continue
        value = f"{fact.value:.10g}" if isinstance(fact, Quantity) else fact.value
        kinds = (
            (fact.unit, fact.phase, fact.kind, fact.token_unit, fact.aggregation) if isinstance(fact, Quantity) else ()
        )
        words = [f"{field}={value}", *(word for word in kinds if word and word != "1")]
        place = (fact.where or "").removeprefix(file)
        facts.append(" ".join([*words, *([f"@{place}"] if place else []), *(["~"] if fact.method == GUESS else [])]))
    return "; ".join([*facts, *reading.stack.versions])


def readings(path: Path, folder: Path) -> list[str]:
    shutil.copyfile(path, folder / path.name)
    found = [each.reading for each in find_runs([folder / path.name]) if isinstance(each, LoggedRun)]
    return [f"{path.relative_to(FIXTURES)}: {said(reading, path.name)}" for reading in found]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: str(path.relative_to(FIXTURES)))
def test_a_fixture_says_what_the_table_says(path: Path, tmp_path: Path) -> None:
    name = f"{path.relative_to(FIXTURES)}: "
    expected = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith(name)]
    assert readings(path, tmp_path) == expected


def test_the_table_has_no_other_lines() -> None:
    names = tuple(f"{path.relative_to(FIXTURES)}: " for path in LOGS)
    assert [line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith(names)] == []


def read_tables(*paths: Path) -> RunRecord:
    (found,) = find_runs(paths)
    assert isinstance(found, LoggedRun), found
    return found.reading


def values(reading: RunRecord, *names: str) -> list[Any]:
    return [None if isinstance(fact := fact_of(reading, name), Missing) else fact.value for name in names]


def test_a_table_of_metrics_is_read(tmp_path: Path) -> None:
    """Of steps that count from 0, with a row of validation whose other cells are empty; the clock gives the pace."""
    rows = "".join(f"{i * 5.0},{(i + 1) * 10},{2 - i / 10},{1.25 if i == 9 else ''}\n" for i in range(10))
    (tmp_path / "history.csv").write_text("_runtime,train/global_step,train/loss,eval/loss\n" + rows)
    reading = read_tables(tmp_path / "history.csv")
    assert values(reading, "steps_done", "last_loss", "eval_loss") == [100, 1.1, 1.25]
    assert values(reading, "seconds_per_step") == [pytest.approx(0.5)]
