"""Attention and kernels of a training: what each trainer's config says, what is refused, and what memory they take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from tests.estimate.made_shapes import LLAMA_1B
from tests.run.made_plans import CPU, GPU, MODEL, made_plan, made_run

from touchline.backends.argument_tables import argument_table
from touchline.backends.kernels import needed_kernels
from touchline.backends.memory import MemoryCoefficients
from touchline.backends.registry import backend_names, get_backend, memory_coefficients, refused_settings
from touchline.estimate.parts import vocab_bytes
from touchline.experiment.experiment import ComputeConfig, TrainConfig
from touchline.plan.local.target import kernel_findings

pytestmark = pytest.mark.planning


def rendered(train: TrainConfig) -> dict[str, object]:
    """finetune.yaml of a run with this training."""
    run = made_run()
    assert run.train is not None
    kept = {"backend": train.backend, "attention": train.attention, "kernels": train.kernels, "packed": False}
    run = replace(run, train=replace(run.train, **kept))
    found: dict[str, object] = yaml.safe_load(get_backend(train.backend).files(run, made_plan(run))["finetune.yaml"])
    return found


@pytest.mark.parametrize(
    ("backend", "key", "words"),
    [
        ("trl", "attn_implementation", ("sdpa", "sdpa", "eager", "flash_attention_2")),
        ("llamafactory", "flash_attn", ("sdpa", "sdpa", "disabled", "fa2")),
        ("axolotl", "attn_implementation", ("sdpa", "sdpa", "eager", "flash_attention_2")),
    ],
)
def test_attention_is_written_in_the_trainers_words(backend: str, key: str, words: tuple[str, ...]) -> None:
    found = []
    for attention in ("auto", "sdpa", "eager", "flash_attention_2"):
        config = rendered(TrainConfig(backend=backend, attention=attention))  # type: ignore[arg-type]
        section = config["model"] if backend == "trl" else config
        assert isinstance(section, dict)
        found.append(section[key])
    assert tuple(found) == words


@pytest.mark.parametrize("backend", ["trl", "llamafactory", "axolotl"])
def test_liger_is_a_setting_that_the_trainer_knows(backend: str) -> None:
    """Without it the config has no word of it."""
    config, plain = rendered(TrainConfig(backend=backend, kernels="liger")), rendered(TrainConfig(backend=backend))
    sections = [each["sft"] if backend == "trl" else each for each in (config, plain)]
    assert all(isinstance(each, dict) for each in sections)
    added = set(sections[0]) - set(sections[1])  # type: ignore[call-overload]
    parts = ("rope", "rms_norm", "glu_activation", "fused_linear_cross_entropy")
    assert (
        added
        == {
            "trl": {"use_liger_kernel"},
            "llamafactory": {"enable_liger_kernel"},
            "axolotl": {"plugins", *(f"liger_{part}" for part in parts)},
        }[backend]
    )
    assert added <= argument_table(backend).arguments.keys()


def test_what_a_trainer_lacks_is_refused_with_one_that_has_it() -> None:
    for backend in backend_names():
        flash = refused_settings(MODEL, TrainConfig(backend=backend, attention="flash_attention_2", max_seq_len=64))
        liger = refused_settings(MODEL, TrainConfig(backend=backend, kernels="liger", max_seq_len=64))
        lacks = backend in ("peft", "torchtune")
        for key, found in (("train.attention", flash), ("train.kernels", liger)):
            hints = [each.hint for each in found if each.subject == key]
            assert len(hints) == lacks, (backend, found)
            assert all(hint is not None and hint.startswith("backend: ") for hint in hints)
    assert refused_settings(MODEL, TrainConfig(attention="eager", max_seq_len=64)) == ()


def test_liger_needs_a_model_that_it_knows_and_its_own_loss() -> None:
    smoothed = TrainConfig(backend="trl", kernels="liger", label_smoothing=0.1, max_seq_len=64)
    (loss,) = refused_settings(MODEL, smoothed)
    assert "label_smoothing" in loss.message
    (model,) = refused_settings(replace(MODEL, model_type="gpt2"), replace(smoothed, label_smoothing=0.0))
    assert "a gpt2; expected llama" in model.message


def test_kernels_for_gpus_are_refused_before_a_run_on_a_cpu() -> None:
    """And where the package is not installed in this environment, which is that of TRL alone."""
    both = TrainConfig(backend="trl", attention="flash_attention_2", kernels="liger")
    found = list(kernel_findings([both, both], ComputeConfig(), CPU, None))
    # An imported file is not wrong where it is read on a login node.
    other = "; or name the GPU of the runs: compute.gpu=A100-80GB"
    assert [(each.code, each.subject, each.hint) for each in found] == [
        ("BK003", "train.attention", f"train.attention=sdpa{other}"),
        ("BK003", "train.kernels", f"train.kernels=none{other}"),
    ]
    assert all("planned for a CPU" in each.message for each in found)
    absent = list(kernel_findings([both], ComputeConfig(), GPU, None))
    assert [str(each.hint).partition(";")[0] for each in absent] == [
        "pip install flash-attn",
        "pip install liger-kernel",
    ]
    elsewhere = replace(both, backend="llamafactory")
    assert not list(kernel_findings([elsewhere], ComputeConfig(), GPU, None)), "its own environment is not this one"
    assert not list(kernel_findings([both], ComputeConfig(executor="slurm"), GPU, None)), "nor is that of a node"
    assert needed_kernels(TrainConfig()) == ()


def test_memory_follows_the_kernels() -> None:
    """Plain attention keeps its matrix; liger keeps no logits."""
    for backend in ("trl", "llamafactory", "axolotl"):
        setups = [
            get_backend(backend).setup(replace(train, backend=backend), LLAMA_1B, GPU, 128)
            for train in (TrainConfig(), TrainConfig(attention="eager"), TrainConfig(kernels="liger"))
        ]
        assert [setup.attention for setup in setups] == ["fused", "eager", "fused"]
        assert [setup.loss for setup in setups] == [None, None, "fused"]
    # TRL from 1.16 on, the oldest release that our script takes, holds none with its own loss either.
    own, smoothed = (
        get_backend("trl").setup(TrainConfig(backend="trl", label_smoothing=each), LLAMA_1B, GPU, 128)
        for each in (0.0, 0.1)
    )
    coefficients = memory_coefficients("trl")
    assert isinstance(coefficients, MemoryCoefficients)
    assert vocab_bytes(own, coefficients) == (0.0, 0.0, 2.0)
    assert vocab_bytes(smoothed, coefficients)[0] == 12.0
    ours = [get_backend("peft").setup(TrainConfig(attention=each), LLAMA_1B, CPU, 64) for each in ("auto", "sdpa")]  # type: ignore[arg-type]
    assert [setup.attention for setup in ours] == ["eager", "fused"]
