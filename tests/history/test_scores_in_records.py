"""Scores, outcomes of items, seed, condition and validation losses of a run: in its record, and back out of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api import made_runs
from tests.api.folders import make_experiment, tiny_settings
from tests.cases import parametrize
from tests.history.made import make_record, make_source, number, write_log

from touchline import api
from touchline.core.errors import InputError
from touchline.core.estimate import MicroBatch
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing, Quantity
from touchline.core.units import GIB
from touchline.data.metrics import EndRow
from touchline.data.user_config import UserConfig
from touchline.experiment.plan import Plan
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.history import probe as probing
from touchline.history import reading as facts_of
from touchline.history.facts import csv_text, facts
from touchline.history.files import LoggedRun, find_runs
from touchline.history.index import History, load_index
from touchline.history.probes import probe_record
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.history.records import contents, from_json, plain, read_record, record_of, sealed, store_record, to_json
from touchline.plan.identity import condition_digest

pytestmark = pytest.mark.planning


def score(right: list[bool], **changes: object) -> facts_of.ScoreFacts:
    made = facts_of.ScoreFacts(
        task="capitalization",
        score="exact match",
        checkpoint="epoch_0",
        value=Quantity(value=sum(right) / len(right) if right else 0.0, unit="1"),
        items=len(right),
        comparable="c" * 64,
        outcomes=facts_of.pack_outcomes(right),
    )
    return replace(made, **changes)


@given(st.lists(st.booleans(), max_size=70))
def test_every_outcome_comes_back_in_its_place(outcomes: list[bool]) -> None:
    kept = from_json(to_json(replace(make_record(), scores=(score(outcomes),))))
    assert facts_of.item_outcomes(kept.scores[0]) == tuple(outcomes)


@parametrize(
    "changes",
    {"items": 9},
    {"items": -1},
    {"items": 10**18},
    {"outcomes": "zz"},
    {"outcomes": "+f"},
    {"outcomes": "ff" * 10},
)
def test_outcomes_that_do_not_fit_the_items_are_missing_with_a_reason(changes: dict[str, object]) -> None:
    assert str(changes.get("items", 8)) in facts_of.item_outcomes(replace(score([True] * 8), **changes)).missing


PARTS = Missing(missing="an item can be partly correct")


@given(st.lists(st.floats(0, 1), max_size=70))
def test_scores_in_parts_come_back_from_a_record_within_a_510th(values: list[float]) -> None:
    made = score([True] * len(values), outcomes=PARTS, item_scores=facts_of.pack_item_scores(values))
    found = facts_of.read_item_scores(from_json(to_json(replace(make_record(), scores=(made,)))).scores[0])
    assert not isinstance(found, Missing)
    assert found == pytest.approx(values, abs=1 / 509)


def test_item_scores_are_those_of_the_outcomes_or_missing_with_a_reason() -> None:
    assert facts_of.read_item_scores(score([True, False])) == (1.0, 0.0)
    outside = facts_of.pack_item_scores([0.5, 1.5])
    assert isinstance(outside, Missing)
    assert facts_of.read_item_scores(score([True] * 2, outcomes=PARTS, item_scores=outside)) == outside
    assert "older" in facts_of.read_item_scores(score([True], outcomes=PARTS)).missing
    for text in ("0", "0000", "zz"):
        assert isinstance(facts_of.read_item_scores(score([True], outcomes=PARTS, item_scores=text)), Missing)


def test_outcomes_that_look_like_a_path_or_a_secret_stay_as_they_are() -> None:
    outcomes = [bool(number % 3) for number in range(400)]
    record = replace(make_record(), scores=(score(outcomes, task="tasks/mine.py@judge"),), condition="f" * 64)
    kept = from_json(to_json(record))
    assert (kept.scores, kept.condition) == (record.scores, "f" * 64)


def test_validation_losses_are_in_order_thinned_and_survive_storing(tmp_path: Path) -> None:
    points = facts_of.validation_points([(20, 2.0), (10, float("nan")), (20, 1.5), (30, float("inf"))])
    assert [(point.step, point.loss) for point in points] == [(10, None), (20, 1.5), (30, None)]
    stored = read_record(store_record(tmp_path, replace(make_record(), validation=points)))
    assert isinstance(stored, RunRecord)
    assert stored.validation == points
    thinned = facts_of.validation_points([(step, 1.0) for step in range(1, 10 * facts_of.MOST_VALIDATIONS)])
    assert facts_of.MOST_VALIDATIONS // 2 < len(thinned) <= facts_of.MOST_VALIDATIONS
    assert thinned[-1].step == 10 * facts_of.MOST_VALIDATIONS - 1
    assert facts_of.validation_points([]) == ()


def foreign(tmp_path: Path, text: str, name: str = "slurm-1.out") -> RunRecord:
    found = [each for each in find_runs([write_log(tmp_path, name, text.encode())]) if isinstance(each, LoggedRun)]
    assert len(found) == 1
    return record_of(found[0].reading, {name: make_source(text.encode(), name)}, reader_version=1)


def trl_log(epochs: int = 4) -> str:
    rows = [
        f"{{'loss': {3 - epoch / 2:.1f}, 'learning_rate': 1e-05, 'epoch': {epoch}.0}}\n"
        f"{{'eval_loss': {4 - epoch / 2:.1f}, 'eval_runtime': 1.0, 'epoch': {epoch}.0}}\n"
        f"{100 * epoch // epochs}%|####| {10 * epoch}/{10 * epochs} [00:{10 * epoch:02}<00:00,  1.0it/s]\n"
        for epoch in range(1, epochs + 1)
    ]
    return "".join(rows) + "{'train_runtime': 40.0, 'train_steps_per_second': 1.0, 'train_loss': 1.0, 'epoch': 4.0}\n"


STATE = {
    "global_step": 30,
    "max_steps": 30,
    "num_train_epochs": 3,
    "log_history": [{"step": step, "epoch": step / 10, "eval_loss": 2 - step / 100} for step in (10, 20, 30)],
}
NO_PLACE = "{'loss': 2.0, 'epoch': 1.0}\n{'eval_loss': 1.0, 'eval_runtime': 1.0, 'epoch': 1.0}\n"


@parametrize(
    "name, text, steps",
    ("slurm-1.out", trl_log(), [10, 20, 30, 40]),
    ("trainer_state.json", json.dumps(STATE), [10, 20, 30]),
    ("slurm-1.out", NO_PLACE, []),
    ids=["epochs are placed by steps", "a state has steps", "an epoch whose steps nobody states is no step"],
)
def test_validation_losses_of_a_log_have_steps(tmp_path: Path, name: str, text: str, steps: list[int]) -> None:
    points = foreign(tmp_path, text, name).validation
    assert [point.step for point in points] == steps
    assert [point.loss for point in points] == sorted((point.loss or 0 for point in points), reverse=True)


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path) -> UserConfig:
    return tiny_settings(tmp_path, tiny_model)


def trained(folder: Path, settings: UserConfig, text: str = "seeds: [1, 2]\n") -> Plan:
    """An experiment whose runs look trained and validated."""
    make_experiment(folder, ranks="[2]")
    with (folder / "experiment.yaml").open("a") as stream:
        stream.write(text)
    planned = api.plan(folder, settings)
    api.prepare(folder, settings)
    for run in planned.plan.runs:
        if run.batches is not None:
            place = folder / run.name
            made_runs.train(planned.plan, run, place)
            made_runs.begin(place)
            made_runs.end(place)
            count = run.batches.steps
            rows = [
                replace(made_runs.START, run=run.name, steps=count, run_digest=run.digest),
                *made_runs.steps(count),
                replace(made_runs.VALIDATION, step=count // 2, loss=0.5 + run.seed),
                replace(made_runs.VALIDATION, step=count, loss=0.25),
                EndRow(event="end", attempt=1, step=count, time_unix=2000.0, reason="done"),
            ]
            made_runs.write_metrics(place, rows)
    return planned.plan


def current(settings: UserConfig) -> list[RunRecord]:
    index = load_index(settings.history_dir)
    found = [read_record(contents(settings.history_dir).records[row.id]) for row in index.rows()]
    return [record for record in found if isinstance(record, RunRecord)]


def test_a_collected_run_teaches_seed_condition_scores_and_validation(tmp_path: Path, settings: UserConfig) -> None:
    folder = tmp_path / "tiny"
    plan = trained(folder, settings)
    for run in plan.runs:
        if run.batches is not None:
            made_runs.evaluate(plan, run, folder / run.name)
    api.collect(folder, settings)
    first, second = current(settings)
    assert ([first.seed, second.seed], first.condition) == ([1, 2], second.condition)
    assert first.run_digest != second.run_digest
    assert (first.task, first.control) == ("capitalization", None)
    assert ([first.position, second.position], first.started_unix) == ([0, 1], 1000.0)
    packed, unpacked = first.predicted.packed_tokens, first.predicted.unpacked_tokens
    assert 0 < packed.value < unpacked.value
    steps = plan.runs[0].batches.steps
    assert first.validation == (
        facts_of.ValidationPoint(step=steps // 2, loss=1.5),
        facts_of.ValidationPoint(step=steps, loss=0.25),
    )
    (found,) = first.scores
    assert (found.task, found.score, found.checkpoint) == ("capitalization", "exact match", "epoch_0")
    assert (found.value.value, found.items) == (1.0, 24)
    assert found.value.low is not None
    assert facts_of.item_outcomes(found) == (True,) * 24
    assert second.scores[0].comparable == found.comparable


def test_a_condition_is_the_settings_without_the_seed(tmp_path: Path, settings: UserConfig) -> None:
    text = "seeds: [1, 2]\n"
    plans = [
        trained(tmp_path / "one", settings, text),
        trained(tmp_path / "two", settings, "seeds: [7]\n"),
        trained(tmp_path / "three", settings, text + "stages: [{name: a}, {name: b, parent: a, continue: adapter}]\n"),
    ]
    found = [[condition_digest(plan, run) for run in plan.runs if run.batches is not None] for plan in plans]
    assert (len(set(found[0])), set(found[0])) == (1, set(found[1]))
    a, b = found[2][::2], found[2][1::2]
    assert len(set(a)) == len(set(b)) == 1
    assert a[0] != b[0]


def test_what_is_evaluated_later_replaces_what_was_stored_before(tmp_path: Path, settings: UserConfig) -> None:
    folder = tmp_path / "tiny"
    plan = trained(folder, settings, "seeds: [1]\n")
    run = next(run for run in plan.runs if run.batches is not None)
    seen = []
    for wrong in (None, 0, 3, 1, 2, 4):
        if wrong is not None:
            path = made_runs.evaluate(plan, run, folder / run.name)
            made = json.loads(path.read_bytes())
            for sample in made["samples"][:wrong]:
                sample |= {"output": "b", "exact": False, "match": False}
            path.write_text(json.dumps(made))
        api.collect(folder, settings)
        api.collect(folder, settings)
        (record,) = current(settings)
        seen.append(sum(facts_of.item_outcomes(record.scores[0])) if record.scores else None)
    assert seen == [None, 24, 21, 23, 22, 20]
    assert len(contents(settings.history_dir).records) == len(seen)


def test_list_show_and_export_tell_the_scores(tmp_path: Path) -> None:
    record = replace(
        make_record(), scores=(score([True, True, False]), score([True], task="number")), seed=3, condition="a" * 64
    )
    store_record(tmp_path, record)
    (row,) = load_index(tmp_path).rows()
    table = History([row]).to_table()
    assert (table.header[5], table.rows[0][5]) == ("score", "0.667 (+1)")
    assert isinstance(row.scores[0].outcomes, Missing)
    assert isinstance(row.scores[0].item_scores, Missing)
    assert History([row]).to_rows()[0]["score"] == pytest.approx(2 / 3)
    assert dict(facts(record))["scores.capitalization.exact match"] == record.scores[0].value
    header, cells = csv_text([("id", record)]).splitlines()
    named = dict(zip(header.split(","), cells.split(","), strict=True))
    assert named["scores.number.exact match"] == "1.0"
    assert (named["seed"], named["condition"]) == ("3", "a" * 64)


_NEW = ("seed", "condition", "task", "control", "scores", "validation", "position", "started_unix")


def test_an_older_record_reads_as_one_without_scores() -> None:
    old = plain(replace(make_record(last_loss=number(2.0, "nats")), scores=(score([True]),)))
    del old["scores"][0]["item_scores"]
    assert isinstance(from_json(json.dumps(old).encode()).scores[0].item_scores, Missing)
    for key in _NEW:
        del old[key]
    record = from_json(json.dumps(old).encode())
    assert (record.seed, record.condition, record.task, record.control) == (None,) * 4
    assert (record.scores, record.validation) == ((), ())


def test_an_older_index_is_made_again(tmp_path: Path) -> None:
    store_record(tmp_path, replace(make_record(), scores=(score([True]),)))
    (tmp_path / "index.jsonl").write_text('{"index_version": 2}\n{"row": {}}\n')
    assert load_index(tmp_path).rows()[0].scores[0].items == 1


def test_a_reading_of_one_more_fact_replaces_an_older_one_of_the_same_log(tmp_path: Path) -> None:
    old = make_record(content=b"a log\n", version=4)
    new = replace(make_record(content=b"a log\n", version=5), validation=(facts_of.ValidationPoint(step=1, loss=1.0),))
    store_record(tmp_path, old)
    store_record(tmp_path, new)
    (row,) = load_index(tmp_path).rows()
    assert read_record(contents(tmp_path).records[row.id]) == new


@parametrize(
    "change",
    {"seed": "1"},
    {"seed": 1.5},
    {"scores": {}},
    {"scores": [{}]},
    {"validation": [[1, 2.0]]},
    {"validation": [{"step": 1, "loss": "low"}]},
    {"control": "made up"},
)
def test_a_record_with_a_broken_new_field_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        from_json(json.dumps(plain(make_record()) | change).encode())


CPU = TargetMachine(
    kind="cpu",
    name="a processor",
    memory=Quantity(value=16, unit="GiB"),
    count=1,
    threads=2,
    base_dtype="float32",
    source="this machine",
)
REQUEST = probing.ProbeRequest(
    model=probing.ProbedModel(name="Some-1B", path="/home/somebody/models/Some-1B"),
    train=TrainConfig(
        learning_rate=2e-4, lora=LoraConfig(rank=8, target_modules=("v_proj", "q_proj")), max_seq_len=128
    ),
    seed=1,
    width=64,
    label_tokens=1,
    examples_per_row=2,
    micro_batches_per_step=2,
)


def answer(rows: int, *, cuda: bool = False) -> probing.ProbeAnswer:
    memory = probing.ProbeMemory(
        loaded_bytes=GIB,
        loading_bytes=2 * GIB,
        allocated_bytes=3 * GIB if cuda else None,
        reserved_bytes=4 * GIB if cuda else None,
        process_bytes=5 * GIB,
        method="as made up",
    )
    return probing.ProbeAnswer(
        outcome=probing.ProbeOutcome.FITS,
        machine=probing.ProbeMachine(
            device="cuda" if cuda else "cpu",
            name="a GPU" if cuda else "a processor",
            memory_bytes=16 * GIB,
            threads=2,
            base_dtype="bfloat16",
            versions={"torch": "2.13.0", "peft": "0.21.2"},
            load_1min=0.5,
        ),
        work=probing.ProbeWork(
            attention="eager",
            layout="packed",
            optimizer="AdamW, fused",
            base_parameters=1000,
            trainable_parameters=10,
            tokens_per_step=2 * rows * 64,
            examples_per_step=4 * rows,
        ),
        memory=memory,
        step_seconds=(9.0, 2.0, 4.0),
        setup_seconds=7.0,
        message="",
    )


def attempt(
    rows: int, outcome: probing.ProbeOutcome = probing.ProbeOutcome.FITS, *, cuda: bool = False
) -> probing.ProbeTry:
    return probing.ProbeTry(
        micro_batch_size=2 * rows,
        batch=MicroBatch(rows=rows, width=64, label_tokens=10 * rows),
        outcome=outcome,
        wall_seconds=30.0,
        seen_bytes=GIB,
        limit_bytes=6 * GIB,
        answer=answer(rows, cuda=cuda) if outcome is probing.ProbeOutcome.FITS else None,
        message="" if outcome is probing.ProbeOutcome.FITS else "it took too much",
    )


def record(one: probing.ProbeTry, machine: TargetMachine = CPU) -> RunRecord:
    found = probe_record(REQUEST, one, None, machine)
    assert isinstance(found, RunRecord)
    return found


def value(measured: object) -> float:
    return measured.value


def test_a_try_that_fits_tells_time_memory_and_batch() -> None:
    found = record(attempt(4))
    assert (value(found.costs.seconds_per_step), found.course.outcome.value) == (3.0, "completed")
    assert isinstance(found.costs.tokens_per_second, tuple)
    rates = {rate.token_unit: rate.value for rate in found.costs.tokens_per_second}
    assert rates == {"padded": 2 * 4 * 64 / 3.0, "label": 2 * 4 * 10 / 3.0}
    assert isinstance(found.costs.peak_memory, tuple)
    assert [(p.kind, p.phase, p.value, p.unit) for p in found.costs.peak_memory] == [("process", "step", 5.0, "GiB")]
    after = found.costs.memory_after_init
    assert (after.value, after.phase, after.kind) == (1.0, "after_init", "process")
    batching = found.batching
    sizes = (batching.micro_batch_size, batching.gradient_accumulation_steps, batching.global_batch_size)
    assert [value(size) for size in sizes] == [8, 2, 16]
    assert (value(found.packing.sequences), value(batching.longest_tokens), value(batching.max_seq_len)) == (4, 32, 128)
    assert (value(found.training.rank), value(found.training.alpha)) == (8, 16)
    assert isinstance(found.training.target_modules, SourcedText)
    assert found.training.target_modules.value == "q_proj,v_proj"
    assert found.stack.versions == ("peft=0.21.2", "torch=2.13.0")
    assert found.machine.key == CPU.key, "a processor is named with its threads, as a plan names it"
    assert isinstance(found.machine.gpu, Missing)


def test_of_a_gpu_all_three_kinds_of_memory_are_kept_apart() -> None:
    found = record(attempt(4, cuda=True), replace(CPU, kind="gpu", name="as planned", threads=None))
    assert isinstance(found.costs.peak_memory, tuple)
    assert {p.kind: p.value for p in found.costs.peak_memory} == {"allocated": 3.0, "reserved": 4.0, "process": 5.0}
    assert isinstance(found.machine.gpu, SourcedText)
    assert found.machine.gpu.value == "a GPU"


def records_of(*tries: probing.ProbeTry) -> list[RunRecord]:
    found = [probe_record(REQUEST, one, None, CPU) for one in tries]
    return [record for record in found if isinstance(record, RunRecord)]


@pytest.mark.parametrize("outcome", [probing.ProbeOutcome.HOST_OOM, probing.ProbeOutcome.GPU_OOM])
def test_what_does_not_fit_is_evidence_too(outcome: probing.ProbeOutcome) -> None:
    (second,) = records_of(attempt(8, outcome))
    assert second.course.outcome.value == outcome.value
    assert second.course.proofs[0].text == "it took too much"
    assert isinstance(second.costs.peak_memory, Missing)
    assert isinstance(second.costs.seconds_per_step, Missing)
    assert second.machine.key == CPU.key


@pytest.mark.parametrize("outcome", [probing.ProbeOutcome.TIMEOUT, probing.ProbeOutcome.CRASHED])
def test_what_proves_nothing_gives_no_record(outcome: probing.ProbeOutcome) -> None:
    assert records_of(attempt(4, outcome)) == []
    assert isinstance(probe_record(REQUEST, attempt(4, outcome), None, CPU), Missing)


def test_the_history_keeps_every_try_and_takes_none_for_a_newer_reading_of_another(tmp_path: Path) -> None:
    records = records_of(attempt(2), attempt(4), attempt(8, probing.ProbeOutcome.HOST_OOM))
    paths = [store_record(tmp_path, each) for each in records]
    assert [read_record(path) for path in paths] == [sealed(each) for each in records]
    assert sorted(row.name for row in load_index(tmp_path).rows()) == [f"probe Some-1B {rows}x64" for rows in (2, 4, 8)]
    assert not any(b"somebody" in path.read_bytes() for path in paths)


def test_a_probe_of_the_same_settings_can_be_compared_with_another() -> None:
    assert len({sealed(record(attempt(rows))).fingerprint for rows in (2, 2, 4)}) == 2
    assert sealed(record(attempt(2))).fingerprint_unknown == ("quantization",)
