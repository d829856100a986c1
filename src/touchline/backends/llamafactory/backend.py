"""Backend `llamafactory`: its planner interface, and LLaMA-Factory 0.9.5 as a program in an environment of its own."""

from __future__ import annotations

from touchline.backends.capabilities import Capabilities
from touchline.backends.external import WORK_FOLDER, Environment, ExternalTrainer
from touchline.backends.hf_loop import HF_OPTIMIZERS
from touchline.backends.hf_program import HfProgram, HfProgramBackend, PlannedSettings
from touchline.backends.llamafactory.batching import BATCHING, PAD_TO_MULTIPLE_OF
from touchline.backends.planning import whole_alpha
from touchline.backends.protocol import Backend

_EXAMPLES = "planned"
"""Name of the examples. LLaMA-Factory asks for one, and reads `tokenized_path` alone."""
_ATTENTION = {"auto": "sdpa", "sdpa": "sdpa", "eager": "disabled", "flash_attention_2": "fa2"}
"""Its names of attention kernels."""


def training_arguments(planned: PlannedSettings) -> dict[str, object]:
    """Return the arguments of `llamafactory-cli train`."""
    train, batches, lora = planned.train, planned.batches, planned.train.lora
    arguments: dict[str, object] = {
        "model_name_or_path": planned.model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": lora.rank,
        "lora_alpha": whole_alpha(lora),
        "lora_dropout": lora.dropout,
        "lora_target": ",".join(lora.target_modules),
        "use_dora": lora.dora,
        "use_rslora": lora.rslora,
        "dataset": _EXAMPLES,
        "tokenized_path": f"{WORK_FOLDER}/tokenized",
        "template": "empty",
        "cutoff_len": train.max_seq_len,
        "packing": train.packed is True,
        # Examples of a pack do not attend to each other.
        "neat_packing": True if train.packed is True else None,
        "output_dir": f"{WORK_FOLDER}/output",
        "per_device_train_batch_size": batches.micro_batch_size,
        "gradient_accumulation_steps": batches.gradient_accumulation_steps,
        "num_train_epochs": train.epochs,
        "learning_rate": train.peak_learning_rate,
        "lr_scheduler_type": train.schedule if train.schedule != "constant" else "constant_with_warmup",
        "warmup_steps": train.warmup(batches.steps),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "optim": HF_OPTIMIZERS[train.optimizer],
        "label_smoothing_factor": train.label_smoothing,
        "neftune_noise_alpha": train.neftune_alpha,
        "dataloader_num_workers": train.dataloader_workers,
        "seed": planned.run.seed,
        "disable_gradient_checkpointing": not train.gradient_checkpointing,
        "flash_attn": _ATTENTION[train.attention],
        "bf16": planned.base_dtype == "bfloat16",
        "use_cpu": planned.on_cpu,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "eval_strategy": "no",
        "report_to": "none",
    }
    if train.kernels == "liger":
        arguments["enable_liger_kernel"] = True
    if train.compile:
        arguments["torch_compile"] = True
    if train.quantization == "nf4":
        arguments |= {"quantization_bit": 4, "quantization_method": "bnb", "double_quantization": True}
    return {key: value for key, value in arguments.items() if value is not None}


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
