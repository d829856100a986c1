"""Sharded trainings: what the trainer's config says, what is refused, and the memory of a device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from tests.estimate.made_shapes import LLAMA_8B
from tests.estimate.test_memory import coefficients_of
from tests.lint.trainings import WHERE, stated, view
from tests.run.made_plans import MODEL, made_plan, made_run

from touchline.backends.registry import backend_names, get_backend, refused_settings
from touchline.core.estimate import MicroBatch, TrainingSetup
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.estimate.evidence_memory import stack_key
from touchline.estimate.memory import memory_estimate
from touchline.estimate.parts import after_init_bytes, peak_parts
from touchline.experiment.experiment import TrainConfig
from touchline.experiment.stated import SettingSource, stated_settings
from touchline.lint.limits import sharing
from touchline.plan.identity import _train_identity

pytestmark = pytest.mark.planning

SHARDED = TrainConfig(backend="trl", sharding="full", packed=False, max_seq_len=64)


def test_only_one_trainer_takes_it_and_only_with_several_devices() -> None:
    for backend in backend_names():
        found = refused_settings(MODEL, replace(SHARDED, backend=backend), 2)
        hints = [each.hint for each in found if each.subject == "train.sharding"]
        assert hints == ([] if backend == "trl" else ["backend: trl"]), backend
    assert refused_settings(MODEL, SHARDED, 2) == ()
    (alone,) = refused_settings(MODEL, SHARDED, 1)
    assert (alone.subject, alone.hint) == ("train.sharding", "compute.gpus_per_run: 2, or train.sharding: none")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"quantization": "nf4"}, "quantized"),
        ({"optimizer": "adafactor"}, "adafactor"),
        ({"kernels": "liger"}, "liger"),
        ({"packed": True}, "packed"),
        ({"method": "full", "base_dtype": "bfloat16"}, "float32"),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes: dict[str, Any], word: str) -> None:
    found = refused_settings(MODEL, replace(SHARDED, **changes), 2)
    assert [word in each.message for each in found if each.subject == "train.sharding"] == [True]


def test_the_config_asks_for_it_and_older_digests_stay() -> None:
    run = made_run()
    assert run.train is not None

    def arguments(sharding: str) -> dict[str, Any]:
        changed = replace(run, train=replace(run.train, backend="trl", packed=False, sharding=sharding))  # type: ignore[type-var]
        found: dict[str, Any] = yaml.safe_load(get_backend("trl").files(changed, made_plan(changed))["finetune.yaml"])
        return found["sft"]  # type: ignore[no-any-return]

    plain, shared = arguments("none"), arguments("full")
    assert {key: shared[key] for key in shared.keys() - plain.keys()} == {
        "fsdp": True,
        "fsdp_config": {"version": 2},
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }
    assert "sharding" not in _train_identity(replace(SHARDED, sharding="none"))
    assert _train_identity(SHARDED)["sharding"] == "full"


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
    training = stated("torchtune", devices=devices, packed=False)
    assert sharing(view(training)) == "sharded"


@pytest.mark.parametrize(("how", "expected"), [("full", "sharded"), ("none", "unknown")])
def test_rules_know_that_a_run_shares_its_weights(how: Any, expected: str) -> None:
    said = stated_settings(
        backend="trl",
        subject="run",
        where=WHERE,
        model="m",
        data=None,
        train=replace(SHARDED, sharding=how),
        seed=1,
        place=lambda _: SettingSource(WHERE),
        devices=4,
    )
    assert sharing(view(said)) == expected
