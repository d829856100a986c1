"""Faults in the arithmetic of a training, in its batch against memory, and in what it leaves on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.faults.case import FaultCase, base, changed

TORCHTUNE, TRL, FACTORY, AXOLOTL = base("torchtune"), base("trl"), base("llamafactory"), base("axolotl")
STAGE = base("qlora_stage")
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu")


def _words(count: int) -> list[dict[str, str]]:
    """Rows that all differ."""
    size = len(SYLLABLES)
    words = [
        SYLLABLES[index % size] + SYLLABLES[index // size % size] + SYLLABLES[index // size**2 % size] + "n"
        for index in range(count)
    ]
    return [{"input": word, "output": word.capitalize()} for word in words]


def _case(
    name: str, code: str, file: str, wrong: str, right: str, *, data: dict[str, str] | None = None, **options: Any
) -> FaultCase:
    more = data or {}
    return FaultCase(
        name=name, code=code, files={file: wrong, **more}, near_miss={file: right, **more}, options=options
    )


def _of(text: str, file: str) -> Callable[..., FaultCase]:
    """Cases that put two things in one place of a base."""

    def case(name: str, code: str, old: str, wrong: str, right: str, **options: Any) -> FaultCase:
        return _case(name, code, file, changed(text, old, wrong), changed(text, old, right), **options)

    return case


_torchtune, _trl = _of(TORCHTUNE, "finetune.yaml"), _of(TRL, "sft.yaml")
_factory, _axolotl = _of(FACTORY, "train.yaml"), _of(AXOLOTL, "axolotl.yml")

_SMALL = changed(TORCHTUNE, "gradient_accumulation_steps: 4", "gradient_accumulation_steps: 8")
_PACKED = changed(
    changed(TORCHTUNE, "packed: False", "packed: True"),
    "enable_activation_checkpointing: True",
    "enable_activation_checkpointing: False",
)
_UNPACKED = changed(TORCHTUNE, "enable_activation_checkpointing: True", "enable_activation_checkpointing: False")
_ADAPTERS = changed(TORCHTUNE, "epochs: 1\n", "epochs: 100\n")
_STAGE_DATA = {
    "data/stage1/train.jsonl": "".join(json.dumps(row) + "\n" for row in _words(1341)),
    "data/stage1/validation.jsonl": "".join(json.dumps(row) + "\n" for row in _words(1400)[1341:]),
}

CASES: list[FaultCase] = [
    FaultCase(
        name="a dataset shorter than one accumulation window, which torchtune drops",
        code="TR010",
        files={"finetune.yaml": TORCHTUNE, "data/words.json": json.dumps(_words(12))},
        near_miss={"finetune.yaml": TORCHTUNE, "data/words.json": json.dumps(_words(320))},
    ),
    _case(
        "a slice of twenty rows and an accumulation of eight",
        "TR010",
        "finetune.yaml",
        changed(_SMALL, "split: train", "split: train[:20]"),
        changed(_SMALL, "split: train", "split: train[:2000]"),
    ),
    _factory("six optimizer steps in all", "TR011", "max_samples: 4000", "max_samples: 40", "max_samples: 400"),
    _trl(
        "warm-up longer than the training",
        "TR012",
        "warmup_steps: 20",
        "warmup_steps: 500\nmax_steps: 300",
        "warmup_steps: 50\nmax_steps: 300",
    ),
    _factory(
        "validation after the end",
        "TR016",
        "eval_steps: 100",
        "eval_steps: 5000\nmax_steps: 300",
        "eval_steps: 50\nmax_steps: 300",
    ),
    _case(
        "one epoch of 84 steps counted as 21, the accumulation taken twice",
        "TR017",
        "stage1.yaml",
        changed(STAGE, "eval_steps: 50", "eval_steps: 21"),
        changed(STAGE, "eval_steps: 50", "eval_steps: 84"),
        data=_STAGE_DATA,
    ),
    _factory(
        "a validation after every step",
        "TR018",
        "eval_steps: 100",
        "eval_steps: 1\nmax_steps: 1000",
        "eval_steps: 100\nmax_steps: 1000",
    ),
    _torchtune("no epoch", "TR020", "epochs: 1\n", "epochs: 0\n", "epochs: 2\n"),
    _trl("a learning rate of zero", "TR020", "learning_rate: 2.0e-4", "learning_rate: 0.0", "learning_rate: 1.0e-5"),
    _torchtune("a learning rate a thousand times too large", "TR031", "lr: 3e-4", "lr: 3e-1", "lr: 3e-3"),
    _trl("an adapter that is multiplied by nothing", "TR020", "lora_alpha: 32", "lora_alpha: 0", "lora_alpha: 8"),
    _factory(
        "a constant schedule, and warm-up",
        "TR037",
        "lr_scheduler_type: cosine",
        "lr_scheduler_type: constant",
        "lr_scheduler_type: constant_with_warmup",
    ),
    _torchtune(
        "rows longer than the model's context",
        "TR040",
        "  max_seq_len: 2048",
        "  max_seq_len: 200000",
        "  max_seq_len: 131072",
    ),
    _factory(
        "sixty-four workers on thirty-two cores",
        "TR055",
        "dataloader_num_workers: 2",
        "dataloader_num_workers: 64",
        "dataloader_num_workers: 16",
        cpus=32,
    ),
    _of(_PACKED, "finetune.yaml")(
        "the batch of an unpacked run, packed", "PK001", "batch_size: 4\n", "batch_size: 16\n", "batch_size: 4\n"
    ),
    _of(_PACKED, "finetune.yaml")(
        "a packed batch at the limit", "PK002", "batch_size: 4\n", "batch_size: 8\n", "batch_size: 4\n"
    ),
    _of(_UNPACKED, "finetune.yaml")(
        "an unpacked batch far over the limit", "PK003", "batch_size: 4\n", "batch_size: 128\n", "batch_size: 16\n"
    ),
    _axolotl(
        "packed examples that an eager kernel mixes",
        "PK007",
        "attn_implementation: flash_attention_2",
        "attn_implementation: eager",
        "attn_implementation: sdpa",
    ),
    _of(changed(TORCHTUNE, "packed: False", "packed: True"), "finetune.yaml")(
        "packed without a length", "PK008", "  max_seq_len: 2048", "  max_seq_len: null", "  max_seq_len: 1024"
    ),
    _torchtune(
        "eight billion parameters on a T4",
        "ME020",
        "torchtune.models.llama3_2.lora_llama3_2_1b",
        "torchtune.models.llama3_1.lora_llama3_1_8b",
        "torchtune.models.llama3_2.lora_llama3_2_1b",
        gpu="T4",
    ),
    _of(_ADAPTERS, "finetune.yaml")(
        "a hundred whole models on disk",
        "CK011",
        "save_adapter_weights_only: True",
        "save_adapter_weights_only: False",
        "save_adapter_weights_only: True",
    ),
    _factory(
        "goes on from checkpoints without the optimizer's state",
        "CK013",
        "save_total_limit: 2",
        "save_total_limit: 2\nsave_only_model: true\nresume_from_checkpoint: saves/quotations/checkpoint-100",
        "save_total_limit: 2\nsave_only_model: false\nresume_from_checkpoint: saves/quotations/checkpoint-100",
    ),
]
