"""Backend `axolotl`: its planner interface, and axolotl 0.19.0 as a program in an environment of its own."""

from __future__ import annotations

from touchline.backends.axolotl.data import PAD_TO_MULTIPLE_OF
from touchline.backends.axolotl.format import ADAPTER_KEYS, IMPORTS, KEYS, LIGER, LIGER_PARTS
from touchline.backends.config_table import written
from touchline.backends.external import WORK_FOLDER, Environment, ExternalTrainer
from touchline.backends.hf_loop import HF_OPTIMIZERS
from touchline.backends.hf_program import HfProgram, HfProgramBackend, PlannedSettings
from touchline.backends.protocol import Backend, Capabilities


def training_config(planned: PlannedSettings) -> dict[str, object]:
    """Return the settings of `axolotl train`."""
    quantized, liger = planned.train.quantization == "nf4", planned.train.kernels == "liger"
    return written(
        {**KEYS, **ADAPTER_KEYS},
        planned.values(IMPORTS.keys),
        "model",
        {"adapter": "qlora" if quantized else "lora", "load_in_4bit": quantized},
        "rank alpha dropout target_modules peft_use_dora peft_use_rslora",
        # Kernels for CUDA alone, which axolotl takes without being asked where there is no dropout.
        dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False),
        {
            "datasets": [{"path": f"{WORK_FOLDER}/rows.jsonl", "ds_type": "json"}],
            "shuffle_merged_datasets": False,
            "dataset_prepared_path": f"{WORK_FOLDER}/prepared",
            "dataset_num_proc": 1,
            "val_set_size": 0,
        },
        "max_seq_len",
        {"sample_packing": False},
        "output_dir micro_batch_size gradient_accumulation_steps epochs learning_rate schedule warmup_steps",
        "warmup_fraction weight_decay max_grad_norm optimizer neftune_noise_alpha data_workers seed",
        "gradient_checkpointing attention",
        {"bf16": planned.base_dtype == "bfloat16", "fp16": False, "tf32": False, "logging_steps": 1},
        {"save_strategy": "epoch"},
        {"plugins": [LIGER], **dict.fromkeys(LIGER_PARTS, True)} if liger else {},
        "compiled",
    )


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
