"""Backend `axolotl`: its planner interface, and axolotl 0.19.0 as a program in an environment of its own."""

from __future__ import annotations

from touchline.backends.axolotl.batching import PAD_TO_MULTIPLE_OF
from touchline.backends.capabilities import Capabilities
from touchline.backends.external import WORK_FOLDER, Environment, ExternalTrainer
from touchline.backends.hf_loop import HF_OPTIMIZERS
from touchline.backends.hf_program import HfProgram, HfProgramBackend, PlannedSettings
from touchline.backends.planning import whole_alpha
from touchline.backends.protocol import Backend

_LIGER = "axolotl.integrations.liger.LigerPlugin"
_LIGER_PARTS = ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_fused_linear_cross_entropy")


def training_config(planned: PlannedSettings) -> dict[str, object]:
    """Return the settings of `axolotl train`."""
    train, batches, lora = planned.train, planned.batches, planned.train.lora
    quantized = train.quantization == "nf4"
    config: dict[str, object] = {
        "base_model": planned.model,
        "adapter": "qlora" if quantized else "lora",
        "load_in_4bit": quantized,
        "lora_r": lora.rank,
        "lora_alpha": whole_alpha(lora),
        "lora_dropout": lora.dropout,
        "lora_target_modules": list(lora.target_modules),
        "peft_use_dora": lora.dora,
        "peft_use_rslora": lora.rslora,
        # Kernels for CUDA alone, which axolotl takes without being asked where there is no dropout.
        **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False),
        "datasets": [{"path": f"{WORK_FOLDER}/rows.jsonl", "ds_type": "json"}],
        "shuffle_merged_datasets": False,
        "dataset_prepared_path": f"{WORK_FOLDER}/prepared",
        "dataset_num_proc": 1,
        "val_set_size": 0,
        "sequence_len": train.max_seq_len,
        "sample_packing": False,
        "output_dir": f"{WORK_FOLDER}/output",
        "micro_batch_size": batches.micro_batch_size,
        "gradient_accumulation_steps": batches.gradient_accumulation_steps,
        "num_epochs": train.epochs,
        "learning_rate": train.peak_learning_rate,
        "lr_scheduler": train.schedule if train.schedule != "constant" else "constant_with_warmup",
        **({} if train.warmup_steps is None else {"warmup_steps": train.warmup(batches.steps)}),
        "warmup_ratio": train.warmup_fraction if train.warmup_steps is None else None,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "optimizer": HF_OPTIMIZERS[train.optimizer],
        "neftune_noise_alpha": train.neftune_alpha,
        "dataloader_num_workers": train.dataloader_workers,
        "seed": planned.run.seed,
        "gradient_checkpointing": train.gradient_checkpointing,
        "attn_implementation": "sdpa" if train.attention == "auto" else train.attention,
        "bf16": planned.base_dtype == "bfloat16",
        "fp16": False,
        "tf32": False,
        "logging_steps": 1,
        "save_strategy": "epoch",
    }
    if train.kernels == "liger":
        config |= {"plugins": [_LIGER], **dict.fromkeys(_LIGER_PARTS, True)}
    if train.compile:
        config["torch_compile"] = True
    return {key: value for key, value in config.items() if value is not None}


BACKEND: Backend = HfProgramBackend(
    name="axolotl",
    title="axolotl",
    capabilities=Capabilities(
        shuffled_labels=True,
        pauses=True,
        packing_keeps_steps=False,
        values={
            "method": ("lora",),
            "quantization": ("none", "nf4"),
            "optimizer": tuple(HF_OPTIMIZERS),
            "packed": (False, "auto"),
            "label_smoothing": (0.0,),
            "lora.dtype": ("float32",),
            "sharding": ("none",),
            "lora.init": ("default",),
        },
        reasons={"packed": "isolation of its packed examples is not verified"},
    ),
    pad_to_multiple_of=PAD_TO_MULTIPLE_OF,
    settings=training_config,
)


TRAINER: ExternalTrainer = HfProgram(
    environment=Environment(
        name="axolotl",
        python_variable="TOUCHLINE_AXOLOTL_PYTHON",
        program="python",
        packages=("torch==2.13.0", "axolotl==0.19.0"),
    )
)
