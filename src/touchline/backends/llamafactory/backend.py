"""Backend `llamafactory`: its planner interface, and LLaMA-Factory 0.9.5 as a program in an environment of its own."""

from __future__ import annotations

from touchline.backends.config_table import written
from touchline.backends.external import WORK_FOLDER, Environment, ExternalTrainer
from touchline.backends.hf_loop import HF_OPTIMIZERS
from touchline.backends.hf_program import HfProgram, HfProgramBackend, PlannedSettings
from touchline.backends.llamafactory.data import BATCHING, PAD_TO_MULTIPLE_OF
from touchline.backends.llamafactory.format import ADAPTER_KEYS, IMPORTS, KEYS
from touchline.backends.protocol import Backend, Capabilities

_EXAMPLES = "planned"
"""Name of the examples. LLaMA-Factory asks for one, and reads `tokenized_path` alone."""
_ATTENTION = {"auto": "sdpa", "sdpa": "sdpa", "eager": "disabled", "flash_attention_2": "fa2"}


def training_arguments(planned: PlannedSettings) -> dict[str, object]:
    """Return the arguments of `llamafactory-cli train`."""
    train, values = planned.train, planned.values(IMPORTS.keys)
    four_bits = {"quantization_bit": 4, "quantization_method": "bnb", "double_quantization": True}
    values |= {
        "target_modules": ",".join(train.lora.target_modules),
        "attention": _ATTENTION[train.attention],
        "warmup_steps": train.warmup(planned.batches.steps),
    }
    return written(
        {**KEYS, **ADAPTER_KEYS},
        values,
        "model",
        {"stage": "sft", "do_train": True, "finetuning_type": "lora"},
        "rank alpha dropout target_modules use_dora use_rslora",
        {"dataset": _EXAMPLES, "tokenized_path": f"{WORK_FOLDER}/tokenized", "template": "empty"},
        "max_seq_len",
        # Examples of a pack do not attend to each other.
        {"packing": train.packed is True, "neat_packing": train.packed is True or None},
        "output_dir micro_batch_size gradient_accumulation_steps epochs learning_rate schedule warmup_steps",
        "weight_decay max_grad_norm optimizer label_smoothing_factor neftune_noise_alpha data_workers seed",
        {"disable_gradient_checkpointing": not train.gradient_checkpointing},
        "attention",
        {"bf16": planned.base_dtype == "bfloat16", "use_cpu": planned.on_cpu, "logging_steps": 1},
        {"save_strategy": "epoch", "eval_strategy": "no", "report_to": "none"},
        {"enable_liger_kernel": True} if train.kernels == "liger" else {},
        "compiled",
        four_bits if train.quantization == "nf4" else {},
    )


BACKEND: Backend = HfProgramBackend(
    name="llamafactory",
    title="LLaMA-Factory",
    capabilities=Capabilities(
        shuffled_labels=True,
        pauses=True,
        packing_keeps_steps=False,
        values={
            "method": ("lora",),
            "quantization": ("none", "nf4"),
            "optimizer": tuple(HF_OPTIMIZERS),
            "lora.dtype": ("float32",),
            "sharding": ("none",),
            "lora.init": ("default",),
        },
    ),
    pad_to_multiple_of=PAD_TO_MULTIPLE_OF,
    settings=training_arguments,
    packing=BATCHING,
)


TRAINER: ExternalTrainer = HfProgram(
    environment=Environment(
        name="llamafactory",
        python_variable="TOUCHLINE_LLAMAFACTORY_PYTHON",
        program="python",
        packages=("torch==2.13.0", "llamafactory==0.9.5", "bitsandbytes==0.50.2"),
    )
)
