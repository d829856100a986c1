"""Values of a torchtune config that are of another kind than their key takes; `tune validate` looks at none of them."""

from __future__ import annotations

from collections.abc import Iterator

from touchline.backends.fields import (
    TEXT,
    TRUTH,
    ValueType,
    dotted,
    new_value,
    number,
    one_of,
    shown,
    whole,
    wrong_value,
)
from touchline.backends.torchtune.components import component
from touchline.backends.torchtune.keys import is_reinforcement, is_training
from touchline.backends.torchtune.reading import Config, Path
from touchline.core.finding import Finding

COUNT = whole(1)
"""A count."""
ADAPTED = ("q_proj", "k_proj", "v_proj", "output_proj")
"""Module names known to `lora_attn_modules`. Any other name silently gets no adapter."""
_ELSEWHERE = {
    "o_proj": "output_proj",
    "out_proj": "output_proj",
    "wo": "output_proj",
    "gate_proj": "apply_lora_to_mlp: True",
    "up_proj": "apply_lora_to_mlp: True",
    "down_proj": "apply_lora_to_mlp: True",
    "w1": "apply_lora_to_mlp: True",
    "w2": "apply_lora_to_mlp: True",
    "w3": "apply_lora_to_mlp: True",
    "mlp": "apply_lora_to_mlp: True",
    "output": "apply_lora_to_output: True",
    "lm_head": "apply_lora_to_output: True",
}
_CHECKPOINTERS = ("checkpointer", "teacher_checkpointer", "ref_checkpointer")
_DEVICES = ("cuda", "cpu", "mps", "xpu", "npu", "hpu", "meta", "xla")
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float": "fp32", "half": "fp16", "float64": "fp64"}
_CLIP = number(above=0)
_NORM = ValueType("a number of more than 0, or 'inf'", lambda value: value == "inf" or _CLIP.takes(value), True)
_COMPILE = ValueType("true or false, or parts with true or false", lambda value: isinstance(value, bool | dict))

_TOP: dict[str, tuple[ValueType, bool]] = {
    "batch_size": (COUNT, False),
    "epochs": (COUNT, False),
    "gradient_accumulation_steps": (COUNT, False),
    "max_steps_per_epoch": (COUNT, True),
    "log_every_n_steps": (COUNT, True),
    "run_val_every_n_steps": (COUNT, True),
    "save_every_n_steps": (COUNT, True),
    "batch_size_val": (COUNT, True),
    "seed": (whole(0), True),
    "clip_grad_norm": (_NORM, True),
    "compile": (_COMPILE, True),
    **dict.fromkeys(
        (
            "shuffle",
            "resume_from_checkpoint",
            "save_adapter_weights_only",
            "enable_activation_checkpointing",
            "enable_activation_offloading",
            "optimizer_in_bwd",
            "log_peak_memory_stats",
            "fsdp_cpu_offload",
        ),
        (TRUTH, True),
    ),
}
"""Keys at the top: what they take, and whether they may be null."""
_SECTIONS: dict[str, dict[str, tuple[ValueType, bool]]] = {
    "model": {
        "lora_rank": (COUNT, False),
        "lora_alpha": (number(above=0), False),
        "lora_dropout": (number(least=0, below=1), True),
        "apply_lora_to_mlp": (TRUTH, True),
        "apply_lora_to_output": (TRUTH, True),
        "quantize_base": (TRUTH, True),
        "use_dora": (TRUTH, True),
    },
    "tokenizer": {"max_seq_len": (COUNT, True), "path": (TEXT, True)},
    "optimizer": {"lr": (number(above=0), False), "weight_decay": (number(least=0), True)},
    "lr_scheduler": {"num_warmup_steps": (whole(0), False)},
    "checkpointer": {"checkpoint_dir": (TEXT, False)},
    "dataset": {"packed": (TRUTH, True), "train_on_input": (TRUTH, True), "max_seq_len": (COUNT, True)},
}


def value_findings(config: Config) -> Iterator[Finding]:
    """Yield the findings of the values of a training's config."""
    if not is_training(config.data):
        return
    for key, (kind, null) in _TOP.items():
        if key in ("batch_size", "epochs", "gradient_accumulation_steps") and is_reinforcement(config.data):
            continue
        yield from _value(config, (key,), kind, null=null)
    for name, keys in _SECTIONS.items():
        for path, _ in config.sections(name):
            for key, (kind, null) in keys.items():
                yield from _value(config, (*path, key), kind, null=null)
    yield from _device(config)
    yield from _dtype(config)
    yield from _adapted(config)
    yield from _files(config)


def _files(config: Config) -> Iterator[Finding]:
    """Check file patterns. An unquoted `00003` is the number 3 and loses its zeros."""
    for name in _CHECKPOINTERS:
        path = (name, "checkpoint_files", "max_filename")
        if not config.has(*path) or config.is_open(*path):
            continue
        last = config.get(*path)
        if not isinstance(last, str):
            yield config.finding(
                "BK012",
                path,
                f'{dotted(path)}: expected a text in quotes, such as "00003", got {shown(last)}',
                "put quotes around it",
            )


def _value(config: Config, path: Path, kind: ValueType, *, null: bool) -> Iterator[Finding]:
    if not config.has(*path) or config.is_open(*path):
        return
    value = config.get(*path)
    if value is None and null:
        return
    yield from wrong_value(config.document, path, value, kind)


def _device(config: Config) -> Iterator[Finding]:
    value = config.get("device")
    if value is None:
        return
    if not isinstance(value, str) or value.partition(":")[0] not in _DEVICES:
        yield config.finding(
            "BK012", ("device",), f"device: expected one of {', '.join(_DEVICES)}, got {shown(value)}", "device: cuda"
        )


def _dtype(config: Config) -> Iterator[Finding]:
    value = config.get("dtype")
    if value is None:
        return
    if value == "fp16":
        yield config.finding(
            "BK012", ("dtype",), "dtype: fp16 is refused by torchtune's recipes; expected bf16 or fp32", "dtype: bf16"
        )
        return
    kind = one_of("bf16", "fp32", "fp64")
    if kind.takes(value):
        return
    meant = _DTYPES.get(str(value).rpartition(".")[2])
    yield config.finding(
        "BK012",
        ("dtype",),
        f"dtype: expected {kind.expected}, got {shown(value)}",
        f"dtype: {meant}" if meant else None,
        edits=new_value(config.document, ("dtype",), meant) if meant else (),
    )


def _adapted(config: Config) -> Iterator[Finding]:
    found = component(config.component("model") or "")
    if found is None or "lora_attn_modules" not in found.arguments or not config.has("model", "lora_attn_modules"):
        return
    path = ("model", "lora_attn_modules")
    modules = config.get(*path)
    if config.is_open(*path):
        return
    if not isinstance(modules, list) or not modules:
        yield config.finding(
            "BK012", path, f"{dotted(path)}: expected a list of {', '.join(ADAPTED)}, got {shown(modules)}"
        )
        return
    for index, module in enumerate(modules):
        if module not in ADAPTED:
            meant = _ELSEWHERE.get(str(module))
            yield config.finding(
                "BK012",
                (*path, index),
                f"{dotted(path)}: {shown(module)} gets no adapter and no message; expected {', '.join(ADAPTED)}",
                f"write {meant}" if meant else None,
            )
