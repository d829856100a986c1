"""Records: the same reading of the same files gives the same bytes; nothing in them tells of people."""

import json
import tempfile
from pathlib import Path, PurePath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.cases import parametrize
from tests.history.made import READINGS, TEXT, WORDS_OF_A_RUN, make_reading, make_record, make_source, number
from tests.history.sound import assert_sound

from touchline.core.errors import InputError
from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.core.quantity import Missing
from touchline.core.status import Outcome
from touchline.data.metrics_file import read_metrics_file
from touchline.history import records as stored
from touchline.history.facts import RUN_FACTS, facts, known
from touchline.history.own_metrics import own_events
from touchline.history.reading import EvidenceLine, Segment, SourcedText
from touchline.history.record import RECORD_SCHEMA_VERSION, RunRecord
from touchline.history.records import growth

pytestmark = pytest.mark.planning

SETTINGS = {
    "model": SourcedText(value="acme/Tiny-1B"),
    "method": SourcedText(value="lora"),
    "lora_rank": number(8),
    "target_modules": SourcedText(value="q_proj,v_proj"),
    "trainer": SourcedText(value="trl"),
    "versions": ("torch=2.7.1+cu126", "trl=0.20.0"),
    "gpu": SourcedText(value="NVIDIA A100-SXM4-80GB"),
    "micro_batch_size": number(4),
    "max_seq_len": number(2048),
    "packed": SourcedText(value="false"),
    "dtype": SourcedText(value="bfloat16"),
}


@pytest.mark.slow
@given(READINGS)
def test_a_record_goes_through_json_and_back(reading: RunRecord) -> None:
    """Whatever a reading holds: the bytes read back as the same record, strictly, and that gives the same bytes."""
    record = stored.record_of(reading, {"a.log": make_source(b"one\n", "a.log")}, reader_version=1)
    data = stored.to_json(record)
    again = stored.from_json(data)
    assert again == record
    assert stored.to_json(again) == data
    assert stored.to_json(stored.sealed(again)) == data


def test_the_same_sources_give_the_same_id_wherever_they_lie() -> None:
    def of(folder: str, order: int) -> str:
        files = {f"{folder}/a.out": make_source(b"out\n", "a.out"), f"{folder}/a.err": make_source(b"err\n", "a.err")}
        reading = make_reading(
            "a",
            seconds_per_step=number(0.5, "s", f"{folder}/a.err:12"),
            outcome=SourcedText(value="completed", where=f"{folder}/a.out:7"),
            segment_list=(
                Segment(
                    where=f"{folder}/a.err:1-99",
                    begins="fresh",
                    first_step=None,
                    last_step=9,
                    outcome=Outcome.COMPLETED,
                ),
            ),
            notes=(f"{folder}/a.err: cut",),
        )
        return stored.id_of(
            stored.to_json(stored.record_of(reading, dict(list(files.items())[::order]), reader_version=1))
        )

    assert of("/home/alice/runs", 1) == of("/scratch/bob/copy", -1) == of("runs", 1)


def test_numbers_that_are_none_become_missing() -> None:
    record = make_record(last_loss=number(float("nan")), train_seconds=number(float("inf"), "s"))
    assert isinstance(record.losses.last, Missing)
    assert isinstance(record.costs.train_seconds, Missing)


@parametrize(
    "data, reason",
    (b"", "not a run record"),
    (b"\xff\xfe", "not a run record"),
    (b"[]", "not a run record"),
    (b"[" * 100_000, "not a run record"),
    (b'{"schema_version": 99}', "schema version 99"),
    (b'{"schema_version": "1"}', "schema version '1'"),
    (json.dumps({"schema_version": RECORD_SCHEMA_VERSION}).encode(), "reader_version"),
)
def test_what_is_no_record_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        stored.from_json(data)


def test_a_record_with_a_key_too_many_or_a_number_as_text_is_refused() -> None:
    good = json.loads(stored.to_json(make_record(last_loss=number(2))))
    for change in ({"extra": 1}, {"part": "0"}, {"origin": "elsewhere"}, {"notes": "text"}):
        with pytest.raises(InputError):
            stored.from_json(json.dumps(good | change).encode())


def test_copied_text_keeps_no_way_to_a_persons_folder() -> None:
    for text, clean in [
        ("saved to /home/alice/out/model", "saved to …/model"),
        ("mv: '/scratch/alice/a b/x' and 'y' are the same file", "mv: '…/x' and 'y' are the same file"),
        ('  File "/home/alice/env/lib/train.py", line 3', '  File "…/train.py", line 3'),
        ("output_dir=/Users/alice/runs/7,seed=1", "output_dir=…/7,seed=1"),
        ("in ~alice/runs/7 and ~/runs/7", "in …/7 and …/7"),
        ("see file:///home/alice/x.log", "see file://…/x.log"),
        ("C:\\Users\\alice\\run.log", "…/run.log"),
        ("at https://hub.example/acme/tiny", "at https://hub.example/acme/tiny"),
        ("acme/Tiny-1B at 3.2 it/s, 4/8 steps", "acme/Tiny-1B at 3.2 it/s, 4/8 steps"),
        ("ratio 1/2/3", "ratio 1/2/3"),
        ("\x1b[31mred\x07", "red"),
    ]:
        assert stored.redact_paths(text) == clean, text


@given(TEXT)
@example("/a/b//c/d")
@example("'/a/b'/c/d")
def test_taking_people_out_twice_changes_nothing_more(text: str) -> None:
    once = stored.redact_paths(text)
    assert stored.redact_paths(once) == once


def test_no_field_of_a_record_keeps_a_user_name_or_a_secret() -> None:
    told = "failed: /home/alice/run/a.py with token hf_abcdefghijklmnopqrstuv"
    record = make_record(
        model=SourcedText(value="/home/alice/models/Tiny-1B", where="/home/alice/a.log:1"),
        exit=SourcedText(value=told),
        optimizer=SourcedText(value="adamw", method=told),
        proofs=(EvidenceLine(where="/home/alice/a.log:3", text=told, says="it failed"),),
        notes=(told,),
        versions=("torch=/home/alice/torch",),
        last_loss=Missing(missing="not in /home/alice/a.log"),
    )
    text = stored.to_json(record).decode()
    assert "alice" not in text
    assert text.count("hf_") == 1, "only a method is ours and is not searched for secrets"


def test_a_model_is_called_by_its_name() -> None:
    for said, kept in [
        ("acme/Tiny-1B-Instruct", "acme/Tiny-1B-Instruct"),
        ("Tiny-1B", "Tiny-1B"),
        ("/scratch/alice/models/Tiny-1B/", "Tiny-1B"),
        ("~/models/Tiny-1B", "Tiny-1B"),
        ("../models/Tiny-1B", "Tiny-1B"),
        ("D:\\models\\Tiny-1B", "Tiny-1B"),
        ("/home/a/.cache/huggingface/hub/models--acme--Tiny-1B/snapshots/0123abcd", "acme/Tiny-1B"),
    ]:
        assert stored.model_name(SourcedText(value=said)) == SourcedText(value=kept), said


def test_sources_are_named_from_the_folder_they_share() -> None:
    """One folder: base names. Several: from the deepest that holds all, unless people's folders would show."""
    assert stored.source_names([PurePath("/home/alice/run/a.log")]) == {"/home/alice/run/a.log": "a.log"}
    several = [PurePath("/home/alice/run/a.log"), PurePath("/home/alice/run/cfg/b.yaml")]
    assert list(stored.source_names(several).values()) == ["a.log", "cfg/b.yaml"]
    people = [PurePath("/home/alice/a.log"), PurePath("/home/bob/b.yaml")]
    assert list(stored.source_names(people).values()) == ["a.log", "b.yaml"]
    assert stored.source_names([]) == {}


def test_patch_versions_case_paths_and_order_do_not_part_runs() -> None:
    same = SETTINGS | {
        "model": SourcedText(value="/models/tiny-1b", where="x:1"),
        "target_modules": SourcedText(value="v_proj, q_proj"),
        "versions": ("trl=0.20.4", "torch=2.7.0"),
        "gpu": SourcedText(value="NVIDIA  A100-SXM4-80GB"),
        "learning_rate": number(3e-4),
        "steps_done": number(77),
    }
    assert make_record(**SETTINGS).fingerprint == make_record(**same).fingerprint


def test_settings_that_cost_time_or_memory_part_runs() -> None:
    for change in [
        {"lora_rank": number(16)},
        {"model": SourcedText(value="acme/Tiny-3B")},
        {"versions": ("torch=2.8.0", "trl=0.20.0")},
        {"gpu": SourcedText(value="NVIDIA H200")},
        {"gradient_checkpointing": SourcedText(value="true")},
        {"micro_batch_size": Missing(missing="no line says it")},
    ]:
        assert make_record(**SETTINGS).fingerprint != make_record(**(SETTINGS | change)).fingerprint, change


def test_what_the_fingerprint_does_not_know_is_named() -> None:
    unknown = make_record(**SETTINGS).fingerprint_unknown
    assert unknown == ("adapter_dtype", "attention", "gradient_checkpointing", "quantization")
    assert len(make_record().fingerprint_unknown) == 15


@given(st.lists(st.text("ab\t", max_size=4), max_size=200), st.text("ab\n\r", max_size=40))
def test_a_log_that_grew_begins_with_the_digests_it_had(lines: list[str], more: str) -> None:
    """Whatever is added, and also when its last line was only half written."""
    begun = "\n".join(lines).encode()
    assert growth("a.log", begun + more.encode()).startswith(growth("a.log", begun))


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=64), st.data())
def test_a_change_of_any_of_the_first_lines_changes_the_digests(lines: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(lines) - 1))
    other = [*lines[:at], lines[at] + "x", *lines[at + 1 :]]
    first, second = (growth("a.log", "".join(f"{line}\n" for line in text).encode()) for text in (lines, other))
    assert first[: 8 * at] == second[: 8 * at]
    assert first[8 * at :] != second[8 * at :]
    assert not second.startswith(first)


def test_of_a_trainers_state_the_history_grows_and_other_documents_do_not() -> None:
    rows = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.5}]
    early = json.dumps({"global_step": 10, "log_history": rows[:1]}).encode()
    late = json.dumps({"global_step": 20, "log_history": rows}).encode()
    assert growth("trainer_state.json", early)
    assert growth("trainer_state.json", late).startswith(growth("trainer_state.json", early))
    for broken in (b"", b"{", b'{"log_history": 3}', b'["log_history"]', b'{"log_history": ' + b"[" * 10_000):
        assert growth("trainer_state.json", broken) == ""
    assert growth("config.yaml", b"lr: 1\nseed: 2\n") == ""


def test_every_fact_of_a_reading_reaches_its_record() -> None:
    """What is read and not kept would be lost without a word."""
    names = [name for name in RUN_FACTS if name != "outcome"]
    given = {
        name: SourcedText(value=name) if name in WORDS_OF_A_RUN else number(n + 0.25) for n, name in enumerate(names)
    }
    record = make_record(**given)
    kept = [fact for _, fact in facts(record) if not isinstance(fact, Missing)]
    # The outcome is one more; how many segments there are is what the segments themselves tell.
    assert {fact.value for fact in kept} == {fact.value for fact in given.values()} | {"completed"}
    assert known(record) == len(kept)
    peak = number(9.5, "GiB", kind="reserved", phase="step")
    assert dict(facts(make_record(peak_memory=peak)))["costs.peak_memory.reserved"] == peak


FIXTURES = Path(__file__).parents[1] / "fixtures" / "logs" / "peft"


def read(text: str) -> list[Event]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_text(text, encoding="utf-8")
        return list(own_events(read_metrics_file(path).rows))


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


def seen(name: str) -> list[Observation]:
    return [event for event in read(fixture("metrics.jsonl")) if isinstance(event, Observation) and event.name == name]


def test_signs() -> None:
    signs = [event for event in read(fixture("metrics.jsonl")) if isinstance(event, Sign)]
    assert [(sign.kind, sign.step) for sign in signs] == [
        (SignKind.START, None),
        (SignKind.SAVED, 3),
        (SignKind.INTERRUPTED, 4),
        (SignKind.RESUMED, 3),
        (SignKind.SAVED, 6),
        (SignKind.TRAINED, 6),
        (SignKind.DONE, 6),
    ]


def test_rows_of_our_own_metrics() -> None:
    assert [(e.step, e.value) for e in seen("loss")] == [(step, 2.5 - 0.25 * step) for step in (1, 2, 3, 4, 4, 5, 6)]
    elapsed = seen("train_seconds")
    assert [(event.step, event.value) for event in elapsed] == [(step, 2.0 * step) for step in (1, 2, 3, 4, 4, 5, 6)]
    assert {(event.aggregation, event.inside) for event in elapsed} == {("sum", ())}
    memory = seen("peak_memory")
    assert {(event.value, event.unit, event.phase, event.kind) for event in memory} == {
        (3.0, "GiB", "step", "allocated"),
        (4.0, "GiB", "step", "reserved"),
    }
    assert sum(event.kind == "reserved" for event in memory) == 4, "a missing figure is none"
    assert [(event.step, event.value) for event in seen("eval_loss")] == [(3, 1.625), (6, 1.25)]
    assert [event.value for event in seen("eval_seconds")] == [1.5, 1.5]
    assert [event.value for event in seen("save_seconds")] == [0.75, 0.5]
    assert [(event.step, event.value, event.unit) for event in seen("checkpoint_size")] == [(6, 0.5, "GiB")]
    row = json.loads(fixture("metrics.jsonl").splitlines()[5])
    events = read(json.dumps({**row, "step": 0, "seconds": 0.0, "elapsed_seconds": 0.0, "taken_from": "another"}))
    assert [event.name for event in events if isinstance(event, Observation)] == ["eval_loss"]


def test_rates_and_losses_of_our_own_metrics() -> None:
    rates = seen("tokens_per_second")
    assert {(event.value, event.token_unit, event.aggregation) for event in rates} == {(350.0, "real", "mean")}
    assert [event.line for event in rates] == [6, 7, 8, 13, 14, 15]
    assert [event.value for event in seen("gpu_utilization_percent")][-1] == 85.0
    lines = fixture("metrics.jsonl").splitlines()
    events = read("\n".join([lines[0], *[lines[1]] * 120]))
    assert [e.line for e in events if isinstance(e, Observation) and e.name == "tokens_per_second"] == [51, 101]
    events = read(json.dumps({**json.loads(fixture("metrics.jsonl").splitlines()[1]), "loss": float("nan")}))
    assert [event.kind for event in events if isinstance(event, Sign)] == [SignKind.NOT_A_NUMBER]
    assert not any(isinstance(event, Observation) and event.name == "loss" for event in events)
    assert read(fixture("others.jsonl")) == []


@given(st.integers(0, 2**16))
def test_no_cut_raises_or_contradicts(end: int) -> None:
    text = fixture("metrics.jsonl")
    events = read(text[: end % (len(text) + 1)])
    assert events == read(text)[: len(events)]


@given(st.dictionaries(st.sampled_from(["attempt", "time_unix", "step", "steps", "loss", "seconds", "peak_memory",
    "elapsed_seconds", "real_tokens", "size_bytes", "reason", "versions", "run_digest", "layout", "gpu_percent"]),
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.just({"value": 1.0}) | st.integers(-5, 5)),
    st.integers(0, 14))  # fmt: skip
def test_any_row(members: dict[str, object], line: int) -> None:
    assert_sound(read(json.dumps({**json.loads(fixture("metrics.jsonl").splitlines()[line]), **members})), 1)
