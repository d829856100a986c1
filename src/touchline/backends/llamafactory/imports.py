"""Words and keys of LLaMA-Factory's configs for `touchline import`."""

from __future__ import annotations

from collections.abc import Mapping

from touchline.backends.argument_tables import argument_table
from touchline.backends.imports import (
    HF_KEYS,
    HF_NOTES,
    HF_OPTIMIZER_WORDS,
    HF_SAME,
    HF_SCHEDULES,
    DataColumns,
    ImportTable,
    Note,
    Reason,
    Refusal,
)
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource

_STAGES: Mapping[str, str] = {
    "pt": "on plain text, without answers",
    "rm": "a reward model",
    "ppo": "by rewards",
    "dpo": "on preference pairs",
    "kto": "on preferences",
}


def _refuses(document: ForeignDocument) -> Refusal | None:
    """Return the key by which a config trains in another way than supervised, or other parameters."""
    stage = document.get("stage")
    if isinstance(stage, str) and stage != "sft":
        return Refusal("stage", _STAGES.get(stage, "in another way than supervised"))
    if document.get("finetuning_type") not in (None, "lora", "full"):
        return Refusal("finetuning_type", "other parameters than all weights or a LoRA adapter")
    return None


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    """Return file and columns of a registered dataset."""
    found = DataColumns()
    entry = None if registry is None else registry.get(source.name.value)
    if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
        folder = str(document.data.get("dataset_dir", "data"))
        found.path = f"{folder.rstrip('/')}/{entry['file_name']}"
        columns = entry.get("columns")
        named = {str(key): str(value) for key, value in columns.items()} if isinstance(columns, dict) else {}
        if entry.get("formatting") == "sharegpt":
            found.settings = {"data.messages": named.get("messages", "conversations")}
        else:
            query = named.get("query", None if named else "input")
            prompt = named.get("prompt", "instruction")
            found.settings = {
                "data.input": prompt if query is None else [prompt, query],
                "data.output": named.get("response", "output"),
            }
        if "dataset_dir" in document.data:
            found.sources["dataset_dir"] = "data.path"
    return found


IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention={"auto": "auto", "sdpa": "sdpa", "disabled": "eager", "fa2": "flash_attention_2"},
    keys=HF_KEYS,
    words={
        "enable_liger_kernel": ("train.kernels", {"true": "liger", "false": "none"}),
        "pissa_init": ("train.lora.init", {"true": "pissa", "false": "default"}),
    },
    same={
        **HF_SAME,
        "stage": ("sft",),
        "do_train": (True,),
        "finetuning_type": ("lora", "full"),
        "quantization_method": ("bnb", "bitsandbytes"),
        "double_quantization": (True,),
        "packing": (True, False),
        "use_cpu": (False,),
        "predict_with_generate": (True,),
    },
    notes={
        **HF_NOTES,
        "dataset_dir": Note(Reason.NO_COUNTERPART, "data.path names the file itself"),
        "tokenized_path": Note(Reason.AUTOMATIC, "data is tokenized once and cached"),
        "do_eval": Note(Reason.AUTOMATIC, "validation is at each epoch's end"),
        "do_predict": Note(Reason.AUTOMATIC, "the test split is scored after training"),
    },
    unset={"train.warmup_fraction": 0.0},
    bfloat16_weights=frozenset({"pure_bf16"}),
    refuses=_refuses,
    knows=lambda key: key.partition(".")[0] in argument_table("llamafactory").arguments,
    columns=_columns,
)
"""What `touchline import` needs to know about its configs."""
