"""Features that some trainers have: what each config says, what is refused and for what, memory and time."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import yaml
from tests.cases import parametrize
from tests.estimate.made_shapes import LLAMA_1B, LLAMA_8B
from tests.estimate.test_memory import coefficients_of
from tests.lint.trainings import WHERE, stated, view
from tests.run.made_plans import CPU, GPU, MODEL, made_plan, made_run

from touchline.backends.config_reading import argument_table
from touchline.backends.peft.data import PeftBatching
from touchline.backends.peft.layout import COMPILED_WIDTH, BatchLayout
from touchline.backends.planning import needed_kernels
from touchline.backends.protocol import Capabilities, setting_value, unsupported_settings
from touchline.backends.registry import backend_names, capabilities, get_backend, refused_settings
from touchline.core.catalog import Dimensions
from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.core.finding import Severity
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.data.packing.forecast import BatchSettings
from touchline.estimate.evidence_memory import stack_key
from touchline.estimate.memory import memory_estimate
from touchline.estimate.parts import after_init_bytes, peak_parts, vocab_bytes
from touchline.experiment.experiment import ComputeConfig, DataConfig
from touchline.experiment.stated import SettingSource, stated_settings
from touchline.experiment.training import LoraConfig, TrainConfig
from touchline.lint.memory import sharing
from touchline.plan.identity import _NEWER_KEYS, _train_identity
from touchline.plan.local.target import compiler_findings, kernel_findings

pytestmark = pytest.mark.planning

DIMENSIONS = Dimensions(
    num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=128, norm_eps=1e-5, rope_base=1e4, tied_embeddings=True
)
PICTURES = replace(MODEL, vision=True, architecture="Qwen2VLForConditionalGeneration")
LIGER = {f"liger_{part}" for part in ("rope", "rms_norm", "glu_activation", "fused_linear_cross_entropy")}


def train_of(backend: str, **changes: Any) -> TrainConfig:
    return TrainConfig(backend=backend, **{"max_seq_len": 64, "packed": False, **changes})


def rendered(backend: str, **changes: Any) -> dict[str, Any]:
    """The trainer's settings in finetune.yaml of a run with some settings."""
    run = made_run()
    assert run.train is not None
    run = replace(run, train=replace(run.train, backend=backend, packed=False, **changes))
    plan = replace(made_plan(run), models={MODEL.name: replace(MODEL, dimensions=DIMENSIONS)})
    found: dict[str, Any] = yaml.safe_load(get_backend(backend).files(run, plan)["finetune.yaml"])
    return {**found["model"], **found["sft"]} if backend == "trl" else found


@parametrize(
    "backend, key, words",
    ("trl", "attn_implementation", ("sdpa", "sdpa", "eager", "flash_attention_2")),
    ("llamafactory", "flash_attn", ("sdpa", "sdpa", "disabled", "fa2")),
    ("axolotl", "attn_implementation", ("sdpa", "sdpa", "eager", "flash_attention_2")),
)
def test_attention_is_written_in_the_trainers_words(backend: str, key: str, words: tuple[str, ...]) -> None:
    names = ("auto", "sdpa", "eager", "flash_attention_2")
    assert tuple(rendered(backend, attention=attention)[key] for attention in names) == words


@parametrize(
    "backend, changes, added",
    ("trl", {"kernels": "liger"}, {"use_liger_kernel"}),
    ("llamafactory", {"kernels": "liger"}, {"enable_liger_kernel"}),
    ("axolotl", {"kernels": "liger"}, {"plugins", *LIGER}),
    *((backend, {"compile": True}, {"torch_compile"}) for backend in ("trl", "llamafactory", "axolotl")),
    ("trl", {"sharding": "full"}, {"fsdp", "fsdp_config", "accelerator_config"}),
)
def test_a_feature_is_a_setting_that_the_trainer_knows(backend: str, changes: Any, added: set[str]) -> None:
    """Without it the config has no word of it."""
    config = rendered(backend, **changes)
    assert set(config) - set(rendered(backend)) == added
    assert added <= argument_table(backend).arguments.keys()
    if "fsdp" in added:
        assert (config["fsdp"], config["fsdp_config"]) == (True, {"version": 2})
        assert config["accelerator_config"] == {"gradient_accumulation_kwargs": {"sync_each_batch": True}}


def test_torchtune_compiles_by_a_key_that_is_always_there() -> None:
    assert [rendered("torchtune", compile=each)["compile"] for each in (True, False)] == [True, False]


def test_every_listed_setting_exists_and_its_default_is_supported_by_each_backend() -> None:
    assert capabilities()
    for name, each in capabilities().items():
        assert all(setting_value(TrainConfig(), key) in (*s, "auto") for key, s in each.values.items()), name
        assert list(unsupported_settings(name, TrainConfig(), capabilities())) == []


def test_an_unsupported_value_names_the_backend_that_supports_it_or_a_supported_value() -> None:
    known = {"plain": Capabilities(values={"quantization": ("none",), "lora.dora": (False,)}), "able": Capabilities()}
    found = list(unsupported_settings("plain", TrainConfig(quantization="nf4", lora=LoraConfig(dora=True)), known))
    assert [each.subject for each in found] == ["train.quantization", "train.lora.dora"]
    assert all(each.hint == "backend: able" for each in found)
    assert "quantization: nf4, expected none" in found[0].message
    only = {"only": Capabilities(values={"neftune_alpha": (None,), "dataloader_workers": (0,)})}
    found = list(unsupported_settings("only", TrainConfig(neftune_alpha=5.0, dataloader_workers=2), only))
    assert [each.hint for each in found] == ["neftune_alpha: none", "dataloader_workers: 0"]


@parametrize(
    "key, changes, lack",
    ("attention", {"attention": "flash_attention_2"}, {"peft", "torchtune"}),
    ("kernels", {"kernels": "liger"}, {"peft", "torchtune"}),
    ("sharding", {"sharding": "full"}, {"peft", "torchtune", "llamafactory", "axolotl"}),
    ("dataloader_workers", {"dataloader_workers": 2}, {"torchtune"}),
)
def test_what_a_trainer_lacks_is_refused_with_one_that_has_it(key: str, changes: Any, lack: set[str]) -> None:
    for backend in backend_names():
        found = refused_settings(MODEL, train_of(backend, **changes), 2)
        hints = [str(each.hint) for each in found if each.subject == f"train.{key}"]
        assert len(hints) == (backend in lack), (backend, found)
        assert all(hint.removeprefix("backend: ") in set(backend_names()) - lack for hint in hints)


@parametrize(
    "backend, changes, subject, words, devices",
    ("peft", {"quantization": "nf4", "lora": LoraConfig(init="pissa")}, "lora.init", "full weights", 1),
    ("peft", {"lora": LoraConfig(init="olora", dora=True)}, "lora.init", "DoRA adapter", 1),
    ("peft", {"quantization": "int8", "lora": LoraConfig(dora=True)}, "lora.dora", "8-bit weights", 1),
    ("peft", {"optimizer": "muon", "lora": LoraConfig(dora=True)}, "optimizer", "matrices only", 1),
    ("peft", {"compile": True, "quantization": "nf4"}, "compile", "compile: true", 1),
    ("trl", {"optimizer": "muon"}, "optimizer", "muon", 1),
    ("trl", {"sharding": "full", "compile": True}, "sharding", "compile: true", 2),
    ("trl", {"sharding": "full", "quantization": "nf4"}, "sharding", "quantized", 2),
    ("trl", {"sharding": "full", "optimizer": "adafactor"}, "sharding", "adafactor", 2),
    ("trl", {"sharding": "full", "kernels": "liger"}, "sharding", "liger", 2),
    ("trl", {"sharding": "full", "packed": True}, "sharding", "packed", 2),
    ("trl", {"sharding": "full", "method": "full", "base_dtype": "bfloat16"}, "sharding", "float32", 2),
    ("trl", {"sharding": "full"}, "sharding", "one device", 1),
    ("trl", {"kernels": "liger", "label_smoothing": 0.1}, "kernels", "label_smoothing", 1),
)
def test_settings_that_exclude_are_errors(backend: str, changes: Any, subject: str, words: str, devices: int) -> None:
    (found,) = refused_settings(MODEL, train_of(backend, **changes), devices)
    assert (found.code, found.subject, found.severity) == ("BK001", f"train.{subject}", Severity.ERROR)
    assert words in found.message
    assert found.hint


def test_what_depends_on_the_model_is_refused_and_the_rest_is_not() -> None:
    for train in (
        train_of("peft"), train_of("peft", attention="eager"), train_of("peft", compile=True), train_of("trl")
    ):  # fmt: skip
        assert refused_settings(MODEL, train) == ()
    assert refused_settings(MODEL, train_of("trl", sharding="full"), 2) == ()
    (liger,) = refused_settings(replace(MODEL, model_type="gpt2"), train_of("trl", kernels="liger"))
    assert "a gpt2, expected llama" in liger.message
    assert [each.subject for each in refused_settings(PICTURES, train_of("peft", compile=True))] == ["train.compile"]


def test_kernels_for_gpus_are_refused_before_a_run_on_a_cpu() -> None:
    """And where the package is not installed in this environment, which is that of TRL alone."""
    both = train_of("trl", attention="flash_attention_2", kernels="liger")
    found = list(kernel_findings([both, both], ComputeConfig(), CPU, None))
    # An imported file is not wrong where it is read on a login node.
    other = "; or name the GPU of the runs: compute.gpu=A100-80GB"
    assert [(each.code, each.subject, each.hint) for each in found] == [
        ("BK003", "train.attention", f"train.attention=sdpa{other}"),
        ("BK003", "train.kernels", f"train.kernels=none{other}"),
    ]
    absent = list(kernel_findings([both], ComputeConfig(), GPU, None))
    assert [str(e.hint).partition(";")[0] for e in absent] == ["pip install flash-attn", "pip install liger-kernel"]
    elsewhere = replace(both, backend="llamafactory")
    assert not list(kernel_findings([elsewhere], ComputeConfig(), GPU, None)), "its own environment is not this one"
    assert not list(kernel_findings([both], ComputeConfig(executor="slurm"), GPU, None)), "nor is that of a node"
    assert needed_kernels(TrainConfig()) == ()


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


def test_new_keys_leave_old_digests_alone() -> None:
    groups = {"train": TrainConfig, "train.lora": LoraConfig, "data": DataConfig}
    assert {f"{group}.{each.name}" for group, config in groups.items() for each in fields(config)} >= _NEWER_KEYS
    assert "sharding" not in _train_identity(train_of("trl"))
    assert _train_identity(train_of("trl", sharding="full"))["sharding"] == "full"


def test_memory_and_time_follow_kernels_and_compiling() -> None:
    """Plain attention keeps its matrix; liger keeps no logits."""
    for backend in ("trl", "llamafactory", "axolotl"):
        setups = [
            get_backend(backend).setup(train_of(backend, **changes), LLAMA_1B, GPU, 128)
            for changes in ({}, {"attention": "eager"}, {"kernels": "liger"})
        ]
        assert [setup.attention for setup in setups] == ["fused", "eager", "fused"]
        assert [setup.loss for setup in setups] == [None, None, "fused"]
    # TRL from 1.16 on, the oldest release that our script takes, holds none with its own loss either.
    own, smoothed = (
        get_backend("trl").setup(train_of("trl", label_smoothing=each), LLAMA_1B, GPU, 128) for each in (0.0, 0.1)
    )
    assert vocab_bytes(own, coefficients_of("trl")) == (0.0, 0.0, 2.0)
    assert vocab_bytes(smoothed, coefficients_of("trl"))[0] == 12.0
    ours = [get_backend("peft").setup(train_of("peft", attention=each), LLAMA_1B, CPU, 64) for each in ("auto", "sdpa")]
    assert [setup.attention for setup in ours] == ["eager", "fused"]
    for backend in ("peft", "trl", "torchtune"):
        trainer = get_backend(backend)
        compiled = [trainer.setup(train_of(backend, compile=e), LLAMA_1B, GPU, 128).compiled for e in (True, False)]
        assert compiled == [True, False]


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
        max_seq_len=256, packed=packed, micro_batch_size=4, gradient_accumulation_steps=2, epochs=1, seed=1
    )
    plain, compiled = (PeftBatching(compiled=each).forecast(lengths, settings) for each in (False, True))
    assert compiled.steps == plain.steps
    assert (compiled.micro_batch_tokens % COMPILED_WIDTH == 0).all()
    assert (compiled.micro_batch_tokens >= plain.micro_batch_tokens).all()
    assert compiled.largest.width % COMPILED_WIDTH == 0


@pytest.mark.parametrize("method", ["lora", "full"])
def test_each_device_holds_its_part_and_gathers_a_layer(method: Any) -> None:
    trl = coefficients_of("trl")
    alone = TrainingSetup(
        shape=LLAMA_8B,
        backend="trl",
        method=method,
        rank=0 if method == "full" else 16,
        target_modules=() if method == "full" else ("q_proj", "v_proj"),
        base_dtype="bfloat16",
        adapter_dtype="float32",
        gradient_checkpointing=True,
    )
    batch = MicroBatch(rows=1, width=512, label_tokens=512)
    whole, parts = peak_parts(alone, batch, trl), peak_parts(replace(alone, shards=4), batch, trl)
    assert parts.optimizer == pytest.approx(whole.optimizer / 4)
    assert after_init_bytes(replace(alone, shards=4), trl) == pytest.approx(after_init_bytes(alone, trl) / 4, rel=0.05)
    assert parts.other > whole.other + 2 * LLAMA_8B.linear_parameters / LLAMA_8B.num_layers * 2
    assert whole.total / 4 < parts.total < whole.total
    # More devices only shrink what is shared.
    assert peak_parts(replace(alone, shards=8), batch, trl).total < parts.total
    assert stack_key(alone) != stack_key(replace(alone, shards=4))


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_a_recipe_that_always_shards_is_planned_with_the_weights_shared(devices: int) -> None:
    """torchtune's recipe for several devices wraps every layer and the whole model in FSDP, adapters included."""
    train = TrainConfig(backend="torchtune", packed=False, global_batch_size=16, micro_batch_size=2)
    trainer, torchtune = get_backend("torchtune"), coefficients_of("torchtune")
    machine = TargetMachine(
        kind="gpu", name="A100-80GB", memory=Missing(missing=""), count=8, base_dtype="bfloat16", source="compute.gpu"
    )
    alone, shared = (trainer.setup(train, LLAMA_8B, machine, 512, count) for count in (1, devices))
    assert (alone.shards, shared.shards) == (1, devices)
    batch = MicroBatch(rows=2, width=512, label_tokens=64)
    one, each = (memory_estimate(setup, batch, coefficients=torchtune, gpu=None) for setup in (alone, shared))
    whole, part = peak_parts(alone, batch, torchtune), peak_parts(shared, batch, torchtune)
    for name in ("weights", "adapter", "optimizer"):
        assert getattr(part, name) == pytest.approx(getattr(whole, name) / devices), name
    # Each device computes its own micro-batch: nothing of the activations is shared.
    assert (part.layers, part.logits) == pytest.approx((whole.layers, whole.logits))
    assert (one.allocated.extrapolated, each.allocated.extrapolated) == (False, True)
    assert "not measured" in each.allocated.method
    assert each.process.high / each.process.value > one.process.high / one.process.value
    assert sharing(view(stated("torchtune", devices=devices, packed=False))) == "sharded"


@pytest.mark.parametrize(("how", "expected"), [("full", "sharded"), ("none", "unknown")])
def test_rules_know_that_a_run_shares_its_weights(how: Any, expected: str) -> None:
    said = stated_settings(
        backend="trl",
        subject="run",
        where=WHERE,
        model="m",
        data=None,
        train=train_of("trl", sharding=how),
        seed=1,
        place=lambda _: SettingSource(WHERE),
        devices=4,
    )
    assert sharing(view(said)) == expected
