"""Settings that a backend cannot do are errors that name a backend that can; new keys leave old digests alone."""

from __future__ import annotations

from dataclasses import fields

import pytest

from touchline.backends.capabilities import Capabilities, setting_value, unsupported_settings
from touchline.backends.registry import capabilities
from touchline.backends.training_limits import adapter_faults
from touchline.core.finding import Severity
from touchline.experiment.experiment import LoraConfig, TrainConfig
from touchline.plan.identity import _NEWER_KEYS

pytestmark = pytest.mark.planning


def test_every_listed_setting_exists_and_its_default_is_supported_by_each_backend() -> None:
    assert capabilities()
    for name, each in capabilities().items():
        assert all(
            setting_value(TrainConfig(), key) in (*supported, "auto") for key, supported in each.values.items()
        ), name
        assert list(unsupported_settings(name, TrainConfig(), capabilities())) == []


def test_an_unsupported_value_names_the_backend_that_supports_it() -> None:
    known = {"plain": Capabilities(values={"quantization": ("none",), "lora.dora": (False,)}), "able": Capabilities()}
    train = TrainConfig(quantization="nf4", lora=LoraConfig(dora=True))
    found = list(unsupported_settings("plain", train, known))
    assert [each.subject for each in found] == ["train.quantization", "train.lora.dora"]
    assert all(each.hint == "backend: able" for each in found)
    assert "quantization: nf4; expected none" in found[0].message


def test_without_an_able_backend_the_hint_is_a_supported_value() -> None:
    known = {"only": Capabilities(values={"neftune_alpha": (None,), "dataloader_workers": (0,)})}
    found = list(unsupported_settings("only", TrainConfig(neftune_alpha=5.0, dataloader_workers=2), known))
    assert [each.hint for each in found] == ["neftune_alpha: none", "dataloader_workers: 0"]


@pytest.mark.parametrize(
    ("name", "train", "hint"),
    [
        ("trl", TrainConfig(optimizer="muon"), "backend: peft"),
        ("torchtune", TrainConfig(dataloader_workers=2), "backend: peft"),
    ],
)
def test_what_a_trainer_lacks_another_has(name: str, train: TrainConfig, hint: str) -> None:
    (found,) = unsupported_settings(name, train, capabilities())
    assert found.hint == hint


@pytest.mark.parametrize(
    ("train", "subject", "words"),
    [
        (TrainConfig(quantization="nf4", lora=LoraConfig(init="pissa")), "train.lora.init", "full weights"),
        (TrainConfig(lora=LoraConfig(init="olora", dora=True)), "train.lora.init", "DoRA adapter"),
        (TrainConfig(quantization="int8", lora=LoraConfig(dora=True)), "train.lora.dora", "8-bit weights"),
        (TrainConfig(optimizer="muon", lora=LoraConfig(dora=True)), "train.optimizer", "matrices only"),
    ],
)
def test_settings_that_exclude_each_other_are_errors(train: TrainConfig, subject: str, words: str) -> None:
    (found,) = adapter_faults(train)
    assert (found.code, found.subject, found.severity) == ("BK001", subject, Severity.ERROR)
    assert words in found.message
    assert found.hint


def test_defaults_exclude_nothing() -> None:
    assert adapter_faults(TrainConfig()) == ()


def test_keys_that_the_digest_omits_at_their_default_have_one() -> None:
    for config, names in _NEWER_KEYS.items():
        defaults = {each.name: each.default for each in fields(config)}
        assert set(names) <= set(defaults)
