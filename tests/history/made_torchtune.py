"""Logs of torchtune in the form of its LoRA recipe, with the resolved config at their head."""

from pathlib import Path

_CONFIG = """Running LoRAFinetuneRecipeSingleDevice with resolved config:

batch_size: 16
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: {weights}
  checkpoint_files:
  - model.safetensors
  model_type: LLAMA3_2
  output_dir: /scratch/out/{size}_rank4
  recipe_checkpoint: null
dataset:
  _component_: torchtune.datasets.instruct_dataset
  column_map:
    input: input
    output: output
  data_files: {data}
  field: train
  packed: false
  source: json
  train_on_input: false
device: cuda
dtype: bf16
enable_activation_checkpointing: false
epochs: 1
gradient_accumulation_steps: 1
log_peak_memory_stats: true
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_{builder}
  apply_lora_to_mlp: true
  lora_alpha: 8
  lora_attn_modules:
  - q_proj
  - v_proj
  - output_proj
  lora_dropout: 0.0
  lora_rank: 4
optimizer:
  _component_: torch.optim.AdamW
  lr: 0.0003
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  max_seq_len: 2048
  path: {weights}original/tokenizer.model

Model is initialized with precision torch.bfloat16.
"""


def write_torchtune_log(
    path: Path,
    *,
    size: str = "1B",
    weights: str | None = None,
    data: str = "/scratch/data/words.json",
    steps: int = 109,
    steps_per_second: float = 4.3,
    peak_gib: float = 5.1,
) -> Path:
    """Write a finished training of Llama-3.2 of this size, as one SLURM output file."""
    folder = f"/scratch/models/Llama-3.2-{size}-Instruct/" if weights is None else f"{weights}/"
    rows = []
    for step in range(1, steps + 1):
        past, left = (round(count / steps_per_second) for count in (step, steps - step))
        rows.append(
            f"\n1|{step}|Loss: {0.2 + 10 * 0.95**step:.10f}: {100 * step // steps:3d}%|{'█' * (10 * step // steps):10}"
            f"| {step}/{steps} [{past // 60:02}:{past % 60:02}<{left // 60:02}:{left % 60:02},"
            f"  {steps_per_second:.2f}it/s]"
        )
    end = (
        f"\nStarting checkpoint save for epoch 0...\nCheckpoint saved in 33.06 seconds.\nwandb:\nwandb: Run summary:\n"
        f"wandb:               global_step {steps}\nwandb:        peak_memory_active {peak_gib}\nwandb:\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    config = _CONFIG.format(size=size, builder=size.lower(), weights=folder, data=data)
    path.write_text(config + "".join(rows) + end, encoding="utf-8")
    return path
