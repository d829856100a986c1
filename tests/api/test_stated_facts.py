"""Facts that the user states of past runs: by options, in files beside the logs, and what a dataset's lengths add."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.api.folders import environment
from tests.cases import call_main
from tests.tiny_model import write_tiny_words

from touchline import api
from touchline.core.errors import InputError
from touchline.core.quantity import Missing, Quantity
from touchline.data.user_config import load_settings
from touchline.estimate.history_points import missing_facts
from touchline.estimate.local.past_runs import points_of
from touchline.history.padding import longest_of
from touchline.history.reading import SourcedText
from touchline.history.record import RunRecord
from touchline.history.run_facts import FACTS, OPTIONS
from touchline.plan.local.stating import read_stated

pytestmark = pytest.mark.planning

MODEL = "Tiny-1M-Instruct"
ROWS = 4


EXPERIMENT = (
    f"name: words\nquestion: Is it so?\ntask: capitalization\nmodels: [{MODEL}]\ndata: {{path: words.json}}\n"
    "train: {epochs: 1, global_batch_size: 8, max_seq_len: 64, lora: {rank: 4}}\ncompute: {executor: local}\n"
)


@pytest.fixture
def place(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a log that names neither model nor machine, a dataset, and settings that find the model."""
    for name, folder in environment(models, tmp_path / "cache", tmp_path / "history").items():
        monkeypatch.setenv(name, folder)
    write_tiny_words(tmp_path / "words.json", 60, 4, 4)
    write_log(tmp_path / "logs" / "night_21.out")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_log(path: Path, gpu: str = "") -> Path:
    """A log of a loop that prints its steps and little else."""
    lines = [f"GPU = {gpu}. Max memory = 79.3 GB."] if gpu else []
    lines += [
        "***** Running training *****",
        "  Num examples = 1,600",
        "  Num Epochs = 1",
        f"  Instantaneous batch size per device = {ROWS}",
    ]
    lines += ["  Gradient Accumulation steps = 2", "  Total optimization steps = 200"]
    for step in range(10, 201, 10):
        lines.append(
            f"{{'loss': {2 - step / 200:.4f}, 'grad_norm': 1.0, 'learning_rate': 1e-4, 'epoch': {step / 200}}}"
        )
        lines.append(f"{step // 2:3d}%|####| {step}/200 [00:{step // 4:02d}<00:10,  4.00it/s]")
    lines.append("{'train_runtime': 50.0, 'train_samples_per_second': 32.0, 'train_loss': 1.5, 'epoch': 1.0}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def whole(**changes: str) -> dict[str, str]:
    """All that the log lacks."""
    return {"gpu": "A100-80GB", "model": MODEL, "trainer": "trl", "method": "lora", "precision": "bf16"} | {
        "dataset": "words.json",
        **changes,
    }


def records(place: Path) -> list[RunRecord]:
    """The records of the history that count."""
    return [record for _, record in api.history_export(place / "history")]


def added(place: Path, **facts: str) -> list[RunRecord]:
    """Add the logs with these facts; give the records that count."""
    api.history_import([place / "logs"], place / "history", facts=facts)
    return records(place)


def add(place: Path, **facts: str) -> RunRecord:
    """The record of the one log."""
    (record,) = added(place, **facts)
    return record


def test_a_log_without_facts_is_no_evidence_and_with_them_it_is(place: Path) -> None:
    """The refusal names every fact that is missing, and these are enough."""
    added = api.history_import([place / "logs"], place / "history")
    lacking = added.learned[0].missing_facts
    assert set(lacking) == set(whole()) - {"trainer"}
    before = points_of(records(place), load_settings())
    assert not before.time
    (name, reason) = before.refused[0]
    assert name == "night_21"
    assert all(f"--{key}" in reason.missing for key in lacking)
    record = add(place, **{key: whole()[key] for key in lacking})
    assert missing_facts(record) == ()
    (point,) = points_of([record], load_settings()).time
    assert point.work.micro_batches == 2
    # Every batch is at least as wide as its mean example, and at most as the longest of all.
    mean, longest = record.batching.mean_tokens, record.batching.longest_tokens
    assert isinstance(mean, Quantity)
    assert isinstance(longest, Quantity)
    assert mean.value < point.work.tokens / (2 * ROWS) < longest.value
    assert (record.dataset.name.value, record.dataset.examples.value) == ("words.json", 60)  # type: ignore[union-attr]
    assert [note for note in record.notes if "1,600 examples" in note], "another dataset than the log's goes unnoticed"
    unknown = add(place, dataset="words.json", model="nobody/Unknown-7B")
    assert any("words.json was not measured" in note for note in unknown.notes)
    assert isinstance(unknown.work.padded_tokens, Missing)


def test_where_a_fact_was_stated_is_stored(place: Path) -> None:
    (place / "logs" / "touchline-facts.yaml").write_text("# mine\nprecision: bf16\ngpus: 1\n")
    record = add(place, gpu="A100-80GB")
    gpu, dtype, gpus = record.machine.gpu, record.training.base_dtype, record.machine.gpus
    assert isinstance(gpu, SourcedText)
    assert (gpu.value, gpu.where, gpu.method) == ("A100-80GB", "--gpu", "stated")
    assert isinstance(dtype, SourcedText)
    assert (dtype.value, dtype.where, dtype.method) == ("bfloat16", "touchline-facts.yaml:2", "stated")
    assert isinstance(gpus, Quantity)
    assert (gpus.value, gpus.where, gpus.method) == (1, "touchline-facts.yaml:3", "stated")
    assert "touchline-facts.yaml" in {source.name for source in record.sources}


@pytest.mark.parametrize(
    ("read", "stated", "kept", "contradicted"),
    [
        ("NVIDIA H100 80GB HBM3", "A100-80GB", "NVIDIA H100 80GB HBM3", True),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB", "NVIDIA A100-SXM4-80GB", False),
        ("NVIDIA A100", "A100-80GB", "A100-80GB", False),
    ],
)
def test_what_was_measured_counts(place: Path, read: str, stated: str, kept: str, contradicted: bool) -> None:
    """A statement may be more precise than the log; where it contradicts it, there is a note."""
    write_log(place / "logs" / "night_21.out", gpu=read)
    record = add(place, gpu=stated)
    assert isinstance(record.machine.gpu, SourcedText)
    assert record.machine.gpu.value == kept
    assert any("not the stated" in note for note in record.notes) is contradicted


def test_a_gpu_of_several_memories_must_be_stated_and_every_example_can_be(place: Path) -> None:
    write_log(place / "logs" / "night_21.out", gpu="NVIDIA A100")
    assert "gpu" in missing_facts(add(place))
    assert "gpu" not in missing_facts(add(place, gpu="A100-40GB"))
    (place / "words.json").rename(place / "data.json")
    stated = {key: fact.example for key, fact in FACTS.items()}
    assert set(OPTIONS) <= set(stated)
    (item,) = read_stated([place / "logs"], stated, load_settings())
    assert item.stated.dataset == Path("data.json")  # type: ignore[union-attr]


def test_nearer_statements_count_more(place: Path) -> None:
    """Options over files, the log's own folder over those above, a log's name over the folder, the history's least."""
    write_log(place / "logs" / "deep" / "day_3.out")
    (place / "touchline-facts.yaml").write_text("gpu: T4\n")
    (place / "logs" / "touchline-facts.yaml").write_text(
        "gpu: L4\nrank: 8\nlogs:\n  'night_*': {gpu: H100, rank: 16}\n"
    )
    (place / "logs" / "deep" / "touchline-facts.yaml").write_text("gpu: L40S\n")
    found = {item.reading.name: item.reading for item in api.history_read([place / "logs"])}  # type: ignore[union-attr]
    assert {name: (r.machine.gpu.value, r.training.rank.value) for name, r in found.items()} == {  # type: ignore[union-attr]
        "night_21": ("H100", 16),
        "day_3": ("L40S", 8),
    }
    (item,) = api.history_read([place / "logs" / "night_21.out"], facts={"rank": "32"})
    assert item.reading.training.rank.value == 32  # type: ignore[union-attr]
    (place / "history").mkdir()
    (place / "history" / "touchline-facts.yaml").write_text("gpu: T4\nprecision: fp16\n")
    machines = [(record.machine.gpu, record.training.base_dtype) for record in added(place)]
    found = sorted((gpu.value, dtype.value) for gpu, dtype in machines)  # type: ignore[union-attr]
    assert found == [("H100", "float16"), ("L40S", "float16")]


def test_a_statement_is_corrected_by_another_and_lost_by_none(place: Path) -> None:
    for gpu in ("A100-80GB", "H100", "A100-80GB"):
        record = add(place, gpu=gpu)
        assert isinstance(record.machine.gpu, SourcedText)
        assert record.machine.gpu.value == gpu
    again = api.history_import([place / "logs"], place / "history", facts={"gpu": "A100-80GB"})
    assert [item.new for item in again.learned] == [False]
    unchanged = add(place)
    assert isinstance(unchanged.machine.gpu, SourcedText)
    file = place / "logs" / "touchline-facts.yaml"
    for gpu in ("L4", "T4", "L4"):
        file.write_text(f"gpu: {gpu}\n")
        record = add(place)
        assert isinstance(record.machine.gpu, SourcedText)
        assert record.machine.gpu.value == gpu


def test_all_that_is_wrong_comes_at_once(place: Path) -> None:
    (place / "logs" / "touchline-facts.yaml").write_text("gpuu: T4\nprecision: bf17\nlogs: [1]\nmicro_batch_size: -3\n")
    facts = {"gpu": "A100", "dataset": "nowhere.json", "modle": "x", "gpus": "two"}
    with pytest.raises(InputError) as raised:
        api.history_import([place / "logs"], place / "history", facts=facts)
    findings = raised.value.findings
    assert len(findings) == 8
    assert {finding.code for finding in findings} == {"US135"}
    hints = {finding.hint for finding in findings}
    assert {"did you mean 'gpu'?", "did you mean 'model'?", "precision: bf16"} <= hints
    assert sum(finding.where is not None and finding.where.line is not None for finding in findings) == 4
    assert not (place / "history").exists()


def test_settings_that_a_log_leaves_open_are_stated_and_a_wrong_one_has_a_hint_to_type(place: Path) -> None:
    record = add(place, adapter_dtype="bf16", dropout="0", compiled="no")
    training = record.training
    assert isinstance(training.adapter_dtype, SourcedText)
    assert isinstance(training.dropout, Quantity)
    assert isinstance(training.compiled, SourcedText)
    assert (training.adapter_dtype.value, training.dropout.value, training.compiled.value) == ("bfloat16", 0, "false")
    wrong = {"adapter_dtype": "int7", "dropout": "1.5", "compiled": "perhaps"}
    with pytest.raises(InputError) as raised:
        api.history_import([place / "logs"], place / "history", facts=wrong)
    hints = [finding.hint for finding in raised.value.findings]
    assert hints == ["--fact adapter_dtype=float32", "--fact dropout=0.05", "--fact compiled=false"]
    assert "expected a number from 0 to 1" in raised.value.findings[1].message


def test_facts_of_every_type_are_refused_or_read(place: Path) -> None:
    """A number, a text or a truth value where the fact is one; every other value of YAML is refused."""
    values = ["~", "true", "3", "-1", "1e999", ".nan", "[1]", "{a: 1}", "2020-01-01", "' '", '"\\ud800"', "999" * 40]
    file = place / "logs" / "touchline-facts.yaml"
    read: set[tuple[str, ...]] = set()
    for key in (*FACTS, "logs"):
        taken = []
        for value in values:
            file.write_text(f"{key}: {value}\n")
            try:
                list(api.history_read([place / "logs"]))
            except InputError as fault:
                (finding,) = fault.findings
                assert "touchline-facts.yaml" in str(finding.where)
            else:
                taken.append(value)
        read.add(tuple(taken))
    assert read == {(), ("true",), ("3",), ("3", "-1", "2020-01-01")}


def test_the_widest_of_a_batch_follows_from_the_lengths() -> None:
    lengths = np.random.default_rng(4).integers(3, 400, size=500)
    drawn = np.random.default_rng(5).choice(lengths, size=(20000, 8)).max(axis=1)
    mean, square = longest_of(lengths, 8)
    assert mean == pytest.approx(drawn.mean(), rel=0.01)
    assert square == pytest.approx((drawn.astype(float) ** 2).mean(), rel=0.02)
    assert longest_of(np.array([7, 7]), 3) == pytest.approx((7, 49))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    return partial(call_main, monkeypatch, capsys)


def test_the_commands_say_and_take_the_facts(
    place: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str, str]]
) -> None:
    """`history import` prints the command that states what is missing; `estimate --evidence` takes the same facts."""
    code, _, talk = call("history", "add", "logs/night_21.out")
    assert code == 0
    hint = next(line for line in talk.splitlines() if line.startswith("hint: "))
    assert "--gpu A100-80GB" in hint
    assert "--dataset data.json" in hint
    monkeypatch.setenv("TOUCHLINE_HISTORY_DIR", str(place / "none"))
    ask = ("estimate", "--model", MODEL, "--backend", "trl", "--seq-len", "64", "--mean-length", "20", "--gpu", "T4")
    ask += ("--base-dtype", "float16")
    code, _, talk = call(*ask, "--prior", "logs/night_21.out")
    assert code == 2
    facts = whole(gpu="T4", precision="fp16")
    assert all(f"--evidence-fact {key}=" in talk for key in set(facts) - {"trainer"})
    stated = [word for key, value in facts.items() for word in ("--evidence-fact", f"{key}={value}")]
    # What lacks is the tokenizer, or the rows: to state the same dataset again would not help.
    other = whole(gpu="T4", precision="fp16", model="meta-llama/Llama-3.2-1B-Instruct")
    for changed, helps in ((other, "hf download"), ({**facts, "dataset": "bad.json"}, "touchline data show bad.json")):
        (place / "bad.json").write_text("[1, 2]")
        (place / "experiment.yaml").write_text(EXPERIMENT)
        options = [word for key, value in changed.items() for word in ("--evidence-fact", f"{key}={value}")]
        for command in ask, ("plan", "experiment.yaml"):
            code, _, talk = call(*command, "--evidence", "logs/night_21.out", *options)
            assert code == 2
            assert f"hint: {helps}" in talk, talk
    code, told, talk = call(*ask, "--evidence", "logs/night_21.out", *stated, "--json")
    assert code == 0, talk
    code, alone, _ = call(*ask, "--json")
    assert json.loads(told)["seconds_per_step"] != json.loads(alone)["seconds_per_step"], (told, alone)


def test_a_plan_takes_evidence_with_its_facts(place: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    """It is kept in the history; evidence that cannot be used is an error before anything is planned."""
    (place / "experiment.yaml").write_text(EXPERIMENT)
    code, _, talk = call("plan", "experiment.yaml", "--prior", "logs")
    assert code == 2
    assert "--evidence-fact gpu=A100-80GB" in talk
    assert not (place / "plan.json").exists()
    stated = [word for key, value in whole().items() for word in ("--evidence-fact", f"{key}={value}")]
    code, _, talk = call("plan", "experiment.yaml", "--evidence", "logs", *stated)
    assert code == 0, talk
    assert "1 new records in the history" in talk
    assert (place / "plan.json").exists()
    assert missing_facts(records(place)[0]) == ()
    code, _, talk = call("plan", "experiment.yaml", "--evidence", "logs", "--dry-run")
    assert code == 2
    assert "touchline history import" in talk
