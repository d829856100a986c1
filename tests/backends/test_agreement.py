"""Readers of one config agree: what rules and import read, and what the history takes as evidence."""

import importlib
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.backends.config_files import format_of, value_of
from tests.faults.case import base

from touchline.backends.config_table import OBSERVED
from touchline.backends.registry import config_formats, document_readers
from touchline.core.observation import Observation
from touchline.experiment.foreign import ForeignDocument, parse_foreign
from touchline.experiment.partial import StatedTraining

pytestmark = pytest.mark.planning

TRAINERS = ("axolotl", "llamafactory", "trl", "torchtune", "qlora_stage")
FOLDERS = (Path(__file__).parents[1] / "fixtures", Path(os.environ.get("TOUCHLINE_SAMPLES", "none")))
VALUES: Mapping[str, tuple[object, ...]] = {
    **{"text": ("a/b-1B", "adamw_torch"), "number": (1, 2e-4, 0.5), "whole": (1, 8, 64), "count": (1, 8, 64)},
    **{"flag": (True, False), "words": (["q_proj"], ["q_proj", "v_proj"])},
}
SWITCHES: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "axolotl": {
        **{"adapter": ("lora", "qlora", None), "load_in_4bit": VALUES["flag"], "load_in_8bit": VALUES["flag"]},
        "peft_use_dora": VALUES["flag"],
    },
    "llamafactory": {
        **{"finetuning_type": ("lora", "full"), "quantization_bit": (None, 2, 4, 8), "use_dora": VALUES["flag"]}
    },
    "trl": {key: VALUES["flag"] for key in ("use_peft", "load_in_4bit", "load_in_8bit", "use_dora")},
    "torchtune": {
        "model._component_": tuple(f"torchtune.models.llama3_2.{kind}llama3_2_1b" for kind in ("", "lora_", "qlora_")),
        **{"model.quantize_base": VALUES["flag"], "model.use_dora": VALUES["flag"]},
    },
}
NAMES = {
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    **{name: name for name in ("learning_rate", "micro_batch_size", "gradient_accumulation_steps", "max_seq_len")},
}
"""Fields of a stated training, and names of observations, of settings that are numbers."""


def generated(trainer: str, count: int = 300) -> Iterator[dict[str, Any]]:
    """Configs with random settings from the trainer's own table of keys."""
    module = importlib.import_module(f"touchline.backends.{trainer}.format")
    tables = [getattr(module, name, {}) for name in ("KEYS", "BATCH_KEYS", "ADAPTER_KEYS")]
    keys = {
        key: VALUES[kind]
        for table in tables
        for field in table
        for kind, names, _ in [table[field]]
        for key in names.split()
        if field in OBSERVED
    } | SWITCHES.get(trainer, {})
    chance = random.Random(trainer)
    for _ in range(count if keys else 1):
        data = parse_foreign(base(trainer), "f", format_of(trainer).dialect).data
        for key in chance.sample(sorted(keys), len(keys) // 2):
            *above, last = key.split(".")
            inner: Any = data
            for part in above:
                inner = inner.setdefault(part, {})
            inner[last] = chance.choice(keys[key])
        yield data


def observed(data: Mapping[str, object]) -> list[Observation]:
    found = next((events for each in document_readers() if (events := each("f.yaml", data)) is not None), ())
    return [event for event in found if isinstance(event, Observation)]


def check_agreement(stated: StatedTraining, data: Mapping[str, object]) -> None:
    events = observed(data)
    methods = {str(each.value) for each in events if each.name == "method"}
    method = value_of(stated.method)
    # DoRA is a form of LoRA; a Trainer's script may add an adapter where its arguments name none.
    assert methods <= {str(method), *(() if method == "full" else ("dora",))}, (method, methods)
    for field, name in NAMES.items():
        seen = {float(each.value) for each in events if each.name == name}
        assert seen <= {value_of(getattr(stated, field))}, (field, seen)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_readers_of_generated_configs_agree(trainer: str) -> None:
    for data in generated(trainer):
        for stated in format_of(trainer).read(ForeignDocument(path="f.yaml", data=data, lines=())).trainings:
            check_agreement(stated, data)


def test_readers_of_samples_agree() -> None:
    seen = 0
    for path in sorted(path for folder in FOLDERS for path in folder.rglob("*.y*ml")):
        for each in config_formats():
            document = parse_foreign(path.read_text(encoding="utf-8"), str(path), each.dialect)
            if each.name in TRAINERS and each.claims(document.data, path.name):
                for stated in each.read(document).trainings:
                    check_agreement(stated, document.data)
                    seen += 1
    assert seen >= 20
