"""Plans of `method: full`: names, settings, sizes, evidence, and the combinations that are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.estimate.made_shapes import LLAMA_1B
from tests.tiny_model import write_tiny_words

from tools.tiny_model import write_tiny_model
from touchline import api
from touchline.backends.facts import MemoryCoefficients
from touchline.backends.registry import get_backend, memory_coefficients
from touchline.core.errors import InputError
from touchline.core.estimate import MicroBatch
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Quantity
from touchline.data.user_config import UserConfig
from touchline.estimate import evidence_memory, points
from touchline.estimate.disk import disk_estimate, resume_bytes
from touchline.estimate.parts import peak_parts
from touchline.estimate.work import StepWork, step_flops
from touchline.experiment.plan import Plan
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.plan.sections import runs_plan_markdown
from touchline.plan.settings import collect_settings

pytestmark = pytest.mark.planning

GPU = TargetMachine(
    kind="gpu", name="A100-80GB", base_dtype="bfloat16", memory=Quantity(value=80, unit="GiB"), count=1, source="a test"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    write_tiny_model(folder / "models" / "Tiny-1M-Instruct")
    write_tiny_words(folder / "words.json", 27, 5, 4)
    return folder


def plan_of(base: Path, place: Path, train: str, rest: str = "") -> Plan:
    place.mkdir(parents=True, exist_ok=True)
    (place / "words.json").write_bytes((base / "words.json").read_bytes())
    (place / "experiment.yaml").write_text(
        f"name: full\ntask: capitalization\nmodels: [{base / 'models' / 'Tiny-1M-Instruct'}]\n"
        f"data: {{path: words.json}}\ntrain: {{max_seq_len: 96, global_batch_size: 8, packed: false, {train}}}\n{rest}"
    )
    settings = UserConfig(models_dir=base / "models", cache_dir=base / "cache", history_dir=base / "history")
    return api.plan(place, settings).plan


def test_runs_are_named_and_shown_without_an_adapter(base: Path, tmp_path: Path) -> None:
    plan = plan_of(base, tmp_path, "learning_rate: 1e-4", "factors: {train.method: [lora, full]}\n")
    assert [run.name for run in plan.runs] == ["1M_rank64", "1M_full"]
    lora, full = plan.runs
    assert plan.factors["train.method"] == ("lora", "full")
    rows = {row.key: row for row in collect_settings(plan)}
    assert rows["train.method"].values == {lora.name: "lora", full.name: "full"}
    assert {key for key in rows if full.name in rows[key].values and key.startswith("train.lora.")} == set()
    text = runs_plan_markdown(plan)
    assert "all weights" in text
    assert "Method: full trains all parameters" in text
    alone = plan_of(base, tmp_path / "alone", "method: full, learning_rate: 1e-4")
    assert not [row.key for row in collect_settings(alone) if "lora" in row.key]


def test_settings_of_adapters_are_not_part_of_a_whole_training(base: Path, tmp_path: Path) -> None:
    """Another rank for the other runs leaves the digest as it is."""
    rest = "factors: {train.method: [lora, full]}\n"
    one, other = (plan_of(base, tmp_path / str(rank), f"lora: {{rank: {rank}}}", rest) for rank in (4, 8))
    assert one.runs[0].digest != other.runs[0].digest
    assert one.runs[1].digest == other.runs[1].digest


@pytest.mark.parametrize(
    ("train", "rest", "message"),
    [
        ("method: full, lora: {rank: 8}", "", "train.lora.rank needs an adapter"),
        ("method: full, checkpoint: {save: merged}", "", "train.checkpoint.save needs an adapter"),
        (
            "epochs: 1",
            "factors: {train.method: [lora, full], train.lora.rank: [4, 8]}\n",
            "train.lora.rank needs an adapter",
        ),
        ("epochs: 1", "pairs: [{train.method: full, train.lora.rank: 8}]\n", "train.lora.rank needs an adapter"),
        ("method: full, quantization: nf4", "", "quantized weights cannot be trained"),
        ("method: full, optimizer: muon", "", "muon"),
        ("method: full, backend: axolotl", "", "does not support method: full"),
        ("method: full", "stages: [{name: a}, {name: b, parent: a, continue: adapter}]\n", "stage b continues a"),
        (
            "epochs: 1",
            "stages: [{name: a}, {name: b, parent: a, continue: merge, train: {method: full}}]\n",
            "stage b continues a",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused(base: Path, tmp_path: Path, train: str, rest: str, message: str) -> None:
    """Each with a message, and for keys of the file with its line."""
    with pytest.raises(InputError) as error:
        plan_of(base, tmp_path, train, rest)
    found = [each for each in error.value.findings if message in each.message]
    assert found, error.value.findings
    assert found[0].hint
    if found[0].code == "EX003":
        assert found[0].where.line


def test_pairs_compare_ranks_with_a_whole_training(base: Path, tmp_path: Path) -> None:
    plan = plan_of(base, tmp_path, "epochs: 1", "pairs: [{train.lora.rank: 4}, {train.method: full}]\n")
    assert [run.train.method for run in plan.runs if run.train is not None] == ["lora", "full"]


def test_sizes_follow_the_trained_dtype() -> None:
    """Weights and gradients in float32, two moments: 16 bytes per parameter; a training state takes 12, a checkpoint 4.
    In bfloat16, half of each."""
    parameters = LLAMA_1B.num_parameters
    for backend in ("peft", "trl"):
        for dtype, size in (("auto", 4), ("float32", 4), ("bfloat16", 2)):
            train = TrainConfig(method="full", base_dtype=dtype, backend=backend, micro_batch_size=1)  # type: ignore[arg-type]
            setup = get_backend(backend).setup(train, LLAMA_1B, GPU, 64)
            assert (setup.method, setup.rank, setup.target_modules) == ("full", 0, ())
            assert setup.trained_parameters == parameters
            assert resume_bytes(setup) == pytest.approx(3 * size * parameters, rel=1e-3)
            none, two = (disk_estimate(setup, save="full", checkpoints=each, steps=10).value for each in (0, 2))
            assert two - none == pytest.approx(2 * size * parameters / 1e6, rel=1e-3)


def test_buckets_of_several_devices_count() -> None:
    """DistributedDataParallel holds all gradients once more; touchline's own exchange does not."""
    train = TrainConfig(method="full", base_dtype="float32", micro_batch_size=1, global_batch_size=8)
    batch = MicroBatch(rows=1, width=64, label_tokens=16)
    more = {}
    for backend in ("peft", "trl"):
        coefficients = memory_coefficients(backend)
        assert isinstance(coefficients, MemoryCoefficients)
        one, two = (
            peak_parts(get_backend(backend).setup(train, LLAMA_1B, GPU, 64, devices), batch, coefficients).total
            for devices in (1, 2)
        )
        more[backend] = (two - one) / LLAMA_1B.num_parameters
    assert more == {"peft": 0.0, "trl": pytest.approx(4.0)}


def test_the_backward_pass_has_gradients_of_weights() -> None:
    """6 operations per parameter and token, and 4 with an adapter, besides attention and the adapter itself."""
    work = StepWork(micro_batches=1, tokens=1000.0, squares=1.0, label_tokens=1000.0)
    full, lora = (
        step_flops(get_backend("peft").setup(TrainConfig(method=method), LLAMA_1B, GPU, 64), work)  # type: ignore[arg-type]
        for method in ("full", "lora")
    )
    matrices = LLAMA_1B.linear_parameters + LLAMA_1B.vocab_size * LLAMA_1B.hidden_size
    assert full.linear + full.head == pytest.approx(6 * 1000 * matrices)
    assert lora.linear + lora.head == pytest.approx(4 * 1000 * matrices)


def test_one_method_is_no_evidence_for_the_other() -> None:
    """Neither for the time nor for the memory of a run; nor is one trained dtype for the other."""
    trains = (
        TrainConfig(),
        TrainConfig(method="full"),
        TrainConfig(method="full", base_dtype="bfloat16"),
        TrainConfig(lora=LoraConfig(dtype="bfloat16")),
    )
    setups = [get_backend("peft").setup(train, LLAMA_1B, GPU, 64) for train in trains]
    assert len({evidence_memory.stack_key(setup) for setup in setups}) == len(setups)
    assert len({(points.stack_key(setup), points.variant_key(setup)) for setup in setups}) == len(setups)
    assert points.stack_key(setups[0]) != points.stack_key(setups[1])


def test_the_plan_counts_whole_checkpoints(base: Path, tmp_path: Path) -> None:
    every, last = (
        plan_of(base, tmp_path / str(keep), f"method: full, epochs: 3, checkpoint: {{keep: {keep}}}").runs[0].disk
        for keep in ("all", 1)
    )
    model = next((base / "models").glob("*/model.safetensors")).stat().st_size / 1e6
    assert every.value - last.value == pytest.approx(2 * model, rel=0.15)
    assert replace(every, value=0.0).unit == "MB"
