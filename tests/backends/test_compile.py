"""`train.compile`: what each trainer's config says, what is refused, and what the plan counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from tests.estimate.made_shapes import LLAMA_1B
from tests.run.made_plans import CPU, GPU, MODEL, made_plan, made_run

from touchline.backends.argument_tables import argument_table
from touchline.backends.peft.batching import PeftBatching
from touchline.backends.peft.layout import COMPILED_WIDTH, BatchLayout
from touchline.backends.registry import get_backend, refused_settings
from touchline.core.catalog import Dimensions
from touchline.data.packing.forecast import BatchSettings
from touchline.experiment.experiment import ComputeConfig, TrainConfig
from touchline.plan.local.target import compiler_findings

pytestmark = pytest.mark.planning

DIMENSIONS = Dimensions(
    num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=128, norm_eps=1e-5, rope_base=1e4, tied_embeddings=True
)


def rendered(train: TrainConfig) -> dict[str, object]:
    """Settings of the trainer in finetune.yaml."""
    run = made_run()
    assert run.train is not None
    run = replace(run, train=replace(run.train, backend=train.backend, compile=train.compile, packed=False))
    plan = replace(made_plan(run), models={MODEL.name: replace(MODEL, dimensions=DIMENSIONS)})
    found: dict[str, object] = yaml.safe_load(get_backend(train.backend).files(run, plan)["finetune.yaml"])
    section = found["sft"] if train.backend == "trl" else found
    assert isinstance(section, dict)
    return section


@pytest.mark.parametrize("backend", ["trl", "llamafactory", "axolotl"])
def test_compiling_is_an_argument_that_the_trainer_knows(backend: str) -> None:
    """Without it the config has no word of it."""
    config, plain = rendered(TrainConfig(backend=backend, compile=True)), rendered(TrainConfig(backend=backend))
    assert set(config) - set(plain) == {"torch_compile"}
    assert config["torch_compile"] is True
    assert "torch_compile" in argument_table(backend).arguments


def test_torchtune_names_it_too() -> None:
    assert [rendered(TrainConfig(backend="torchtune", compile=each))["compile"] for each in (True, False)] == [
        True,
        False,
    ]


def test_what_was_not_tried_is_refused() -> None:
    compiled = TrainConfig(compile=True, max_seq_len=64)
    assert refused_settings(MODEL, compiled) == ()
    for backend, changes, devices in (
        ("peft", {"quantization": "nf4"}, 1),
        ("trl", {"sharding": "full"}, 2),
    ):
        train = replace(compiled, backend=backend, **changes)  # type: ignore[arg-type]
        (found,) = refused_settings(MODEL, train, devices)
        assert found.code == "BK001"
        assert "compile: true" in found.message
        assert str(found.hint).startswith("compile: false")
    picture = replace(MODEL, vision=True, architecture="Qwen2VLForConditionalGeneration")
    assert [each.subject for each in refused_settings(picture, compiled)] == ["train.compile"]


def test_a_machine_without_a_compiler_is_an_error_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the runs are on this machine; what a node has is not known here."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiled = TrainConfig(compile=True)
    (found,) = compiler_findings([TrainConfig(), compiled], ComputeConfig(), CPU, None)
    assert (found.code, found.subject) == ("BK003", "train.compile")
    assert "needs a C++ compiler" in found.message
    assert "train.compile=false" in str(found.hint)
    assert not list(compiler_findings([TrainConfig()], ComputeConfig(), CPU, None))
    assert not list(compiler_findings([compiled], ComputeConfig(executor="slurm"), CPU, None))
    assert not list(compiler_findings([replace(compiled, backend="axolotl")], ComputeConfig(), CPU, None))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (triton,) = compiler_findings([compiled], ComputeConfig(), GPU, None)
    assert "needs the package triton" in triton.message


def test_memory_and_time_know_that_a_run_is_compiled() -> None:
    for backend in ("peft", "trl", "torchtune"):
        setups = [
            get_backend(backend).setup(TrainConfig(backend=backend, compile=each), LLAMA_1B, GPU, 128)
            for each in (True, False)
        ]
        assert [setup.compiled for setup in setups] == [True, False]


def test_rows_are_padded_to_few_widths() -> None:
    layout = BatchLayout().for_training(compiled=True, max_seq_len=100)
    assert [layout.padded_width(tokens, apart=True) for tokens in (1, 64, 65, 100, 130)] == [64, 64, 100, 100, 130]
    assert [layout.padded_width(tokens, apart=False) for tokens in (65, 130)] == [128, 192]
    assert BatchLayout().for_training(compiled=False, max_seq_len=100) == BatchLayout()


@pytest.mark.parametrize("packed", [False, True])
def test_the_plan_counts_the_padded_widths(packed: bool) -> None:
    """Steps stay; real tokens stay; no row is narrower than its longest example."""
    lengths = np.asarray(np.random.default_rng(0).integers(5, 200, 64), dtype=np.uint32)
    settings = BatchSettings(
        max_seq_len=256,
        packed=packed,
        micro_batch_size=4,
        gradient_accumulation_steps=2,
        data_parallel_size=1,
        epochs=1,
        seed=1,
    )
    plain, compiled = (PeftBatching(compiled=each).forecast(lengths, settings) for each in (False, True))
    assert compiled.steps == plain.steps
    assert (compiled.micro_batch_tokens % COMPILED_WIDTH == 0).all()
    assert (compiled.micro_batch_tokens >= plain.micro_batch_tokens).all()
    assert compiled.largest.width % COMPILED_WIDTH == 0
