"""Words and keys of axolotl's configs for `touchline import`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.backends.argument_tables import argument_table
from touchline.backends.imports import (
    ATTENTION,
    HF_AUTOMATIC,
    HF_OPTIMIZER_WORDS,
    HF_SAME,
    HF_SCHEDULES,
    DataColumns,
    ImportTable,
)
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource, StatedTraining

_LIGER = '["axolotl.integrations.liger.LigerPlugin"]'
_PARTS = ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_fused_linear_cross_entropy")
_COLUMNS: Mapping[str, dict[str, object]] = {
    "alpaca": {"data.input": ["instruction", "input"], "data.output": "output"},
    "alpaca_chat": {"data.input": ["instruction", "input"], "data.output": "output"},
    "context_qa": {"data.input": ["context", "question"], "data.output": "answer"},
}
"""Columns by `type` of a dataset."""


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    """Return the columns that the type of a dataset reads."""
    del registry
    place = source.name.key.rpartition(".")[0]
    top, _, index = place.partition(".")
    entry = document.get(top, int(index)) if index.isdigit() else None
    found = DataColumns()
    if not isinstance(entry, dict):
        return found
    kind = entry.get("type")
    if isinstance(kind, str) and kind in _COLUMNS:
        found.settings = dict(_COLUMNS[kind])
        found.changed[f"{place}.type"] = (
            "columns are put into the model's chat template, without its own words around them"
        )
    elif kind == "chat_template":
        messages = entry.get("field_messages")
        found.settings = {"data.messages": messages if isinstance(messages, str) else "messages"}
        found.sources = {f"{place}.type": "data.messages"}
        if isinstance(messages, str):
            found.sources[f"{place}.field_messages"] = "data.messages"
    if entry.get("ds_type") in ("json", "csv", "parquet"):
        found.sources[f"{place}.ds_type"] = "data.path"
    if source.name.key.endswith(".data_files"):
        found.sources[f"{place}.path"] = "data.path"
    return found


def _refuses(document: ForeignDocument) -> str | None:
    """Return the key by which a config trains by rewards, on preferences or plain text, or another kind of adapter."""
    data = document.data
    if data.get("adapter") and data["adapter"] not in ("lora", "qlora"):
        return "adapter"
    others = ("rl", "reward_model", "process_reward_model", "pretraining_dataset", "unfrozen_parameters")
    return next((key for key in others if data.get(key)), None)


def _differs(stated: StatedTraining, document: ForeignDocument) -> Iterator[tuple[str, object, str]]:
    """Yield `bf16: auto` where all weights are trained, by which they are bfloat16 on GPUs that have it."""
    full = stated.method is not None and stated.method.value == "full"
    if full and stated.distributed is None and document.get("bf16") == "auto":
        yield "bf16", "auto", "weights are float32 here; train.base_dtype: bfloat16 trains in it"


IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention=ATTENTION,
    keys={
        "peft_use_dora": "train.lora.dora",
        "peft_use_rslora": "train.lora.rslora",
        "neftune_noise_alpha": "train.neftune_alpha",
        "label_smoothing_factor": "train.label_smoothing",
    },
    words={"plugins": ("train.kernels", {_LIGER: "liger"})},
    same={
        **HF_SAME,
        "bf16": ("auto",),
        "tf32": (False,),
        "adapter": ("lora", "qlora"),
        "load_in_4bit": (False,),
        "load_in_8bit": (False,),
        "chat_template": ("tokenizer_default",),
        **dict.fromkeys(_PARTS, (True,)),
    },
    automatic=(*HF_AUTOMATIC, "evals_per_epoch", "saves_per_epoch", "dp_replicate_size", "loss_watchdog_*"),
    bfloat16_weights=frozenset({"bf16", "bfloat16"}),
    refuses=_refuses,
    differs=_differs,
    knows=lambda key: key.partition(".")[0] in argument_table("axolotl").arguments,
    columns=_columns,
)
"""What `touchline import` needs to know about its configs."""
