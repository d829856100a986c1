"""Words and keys of TRL's and the Trainer's argument files for `touchline import`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.backends.argument_tables import argument_table
from touchline.backends.imports import (
    ALL_ROWS,
    ATTENTION,
    HF_AUTOMATIC,
    HF_KEYS,
    HF_OPTIMIZER_WORDS,
    HF_SAME,
    HF_SCHEDULES,
    DataColumns,
    ImportTable,
)
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import StatedSource, StatedTraining

_OTHERS = frozenset(
    {
        *("num_generations", "reward_funcs", "reward_weights", "reward_model_path", "scale_rewards", "num_iterations"),
        *("num_ppo_epochs", "kl_coef", "vf_coef", "cliprange", "total_episodes", "response_length", "rloo_k", "beta"),
        *("epsilon_high", "steps_per_generation", "missing_eos_penalty", "teacher_model_name_or_path", "lmbda"),
        *("seq_kd", "center_rewards_coefficient", "step_separator", "max_prompt_length", "max_completion_length"),
        *("precompute_ref_log_probs", "reference_free", "rpo_alpha", "ref_model_sync_steps", "ref_model_mixup_alpha"),
        *("sync_ref_model", "f_divergence_type", "desirable_weight", "undesirable_weight", "cpo_alpha", "simpo_gamma"),
        *("label_pad_token_id", "use_weighting", "loss_weights"),
    }
)
"""Arguments that SFTConfig does not have: of preferences, rewards and teachers (trl 1.16)."""
_ONE_CHAT_COLUMN = ["messages"]
_LOSS = (
    "TRL takes the loss on all tokens, unless rows are pairs of prompt and completion; here it is on the answer alone"
)


def _differs(stated: StatedTraining, document: ForeignDocument) -> Iterator[tuple[str, object, str]]:
    """Yield TRL's defaults that mean another training here."""
    data = document.data
    if not data.get("assistant_only_loss") and data.get("completion_only_loss") is None:
        yield "assistant_only_loss", False, _LOSS
    if stated.quantization_bits is not None and stated.quantization_bits.value == 4 and not data.get(_NESTED):
        yield _NESTED, False, "the scales of 4-bit blocks are themselves quantized here"
    if stated.validation_fraction is None and not any(source.role == "validation" for source in stated.sources):
        yield "dataset_train_split", data.get("dataset_train_split"), ALL_ROWS


_NESTED = "use_bnb_nested_quant"


def _columns(document: ForeignDocument, source: StatedSource, registry: Mapping[str, object] | None) -> DataColumns:
    """Return the columns that an entry of a mixture reads."""
    del registry
    found = DataColumns()
    *above, _ = source.name.key.split(".")
    columns = document.get(*(int(part) if part.isdigit() else part for part in above), "columns") if above else None
    if columns == _ONE_CHAT_COLUMN:
        found.settings = {"data.messages": "messages"}
        found.sources = {".".join((*above, "columns")): "data.messages"}
    return found


IMPORTS = ImportTable(
    schedules=HF_SCHEDULES,
    optimizers=HF_OPTIMIZER_WORDS,
    attention=ATTENTION,
    keys=HF_KEYS,
    words={
        "use_liger_kernel": ("train.kernels", {"true": "liger", "false": "none"}),
        "use_liger": ("train.kernels", {"true": "liger", "false": "none"}),
    },
    same={
        **HF_SAME,
        "bnb_4bit_quant_type": ("nf4",),
        _NESTED: (True,),
        "use_peft": (True, False),
        "train_sampling_strategy": ("random",),
        "truncation_mode": ("keep_start",),
        "lora_task_type": ("CAUSAL_LM",),
        "load_in_4bit": (False,),
        "load_in_8bit": (False,),
        "use_cpu": (False,),
        "do_train": (True,),
        "packing_strategy": ("bfd",),
        "padding_free": (False,),
        "loss_type": ("nll", "chunked_nll"),
        "dtype": ("auto", "bfloat16"),
        "torch_dtype": ("auto", "bfloat16"),
    },
    automatic=(
        *(*HF_AUTOMATIC, "dataset_test_split", "log_*", "project", "trackio_*", "remove_unused_columns", "local_rank"),
        *("skip_memory_metrics", "dataloader_*", "eval_do_concat_batches", "eval_delay", "length_column_name"),
    ),
    unset={
        "train.method": "full",
        "train.warmup_fraction": 0.0,
        "train.max_seq_len": 1024,
        "train.learning_rate": 2e-5,
        "train.packed": False,
    },
    adapter_unset={
        "train.lora.rank": 16,
        "train.lora.alpha": 32,
        "train.lora.dropout": 0.05,
        "train.lora.target_modules": ["q_proj", "v_proj"],
    },
    bfloat16_weights=frozenset({"dtype", "torch_dtype"}),
    refuses=lambda document: next(
        (key for key in document.data if key in _OTHERS and document.data[key] is not None), None
    ),
    differs=_differs,
    knows=lambda key: key.startswith("dataset_mix") or key.partition(".")[0] in argument_table("trl").arguments,
    columns=_columns,
)
"""What `touchline import` needs to know about these files. Unset values are those of trl.SFTConfig and ModelConfig."""
