"""Words and keys of LLaMA-Factory's configs for `touchline import`."""

from __future__ import annotations

from collections.abc import Mapping

from touchline.backends.argument_tables import argument_table
from touchline.backends.imports import (
    HF_AUTOMATIC,
    HF_KEYS,
    HF_OPTIMIZER_WORDS,
    HF_SAME,
    HF_SCHEDULES,
    DataColumns,
    ImportTable,
)
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource


def _refuses(document: ForeignDocument) -> str | None:
    """Return the key by which a config trains in another way than supervised, or other parameters."""
    if document.get("stage") not in (None, "sft"):
        return "stage"
    return None if document.get("finetuning_type") in (None, "lora", "full") else "finetuning_type"


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
    automatic=(*HF_AUTOMATIC, "tokenized_path", "do_predict"),
    unset={"train.warmup_fraction": 0.0},
    bfloat16_weights=frozenset({"pure_bf16"}),
    refuses=_refuses,
    knows=lambda key: key.partition(".")[0] in argument_table("llamafactory").arguments,
    columns=_columns,
)
"""What `touchline import` needs to know about its configs."""
