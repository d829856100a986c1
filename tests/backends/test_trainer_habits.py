"""Words and numbers that a trainer refuses late: each slip is found at its line, and the base files have none."""

from __future__ import annotations

import pytest
from tests.backends.config_files import read
from tests.faults.case import base, changed

from touchline.core.finding import Severity

pytestmark = pytest.mark.planning

SLIPS = [
    ("trl", "report_to: none", "report_to: tensorbord", "BK012"),
    ("trl", "save_total_limit: 2", "save_total_limit: 0", "BK019"),
    ("trl", "logging_steps: 10", "logging_steps: 0", "BK012"),
    ("trl", "eval_steps: 50", "eval_steps: -5", "BK012"),
    ("trl", "dtype: bfloat16", "dtype: bf16", "BK012"),
    ("trl", "flash_attention_2", "flash_attention2", "BK012"),
    ("trl", "flash_attention_2", "fa2", "BK012"),
    ("trl", "use_peft: true", "use_peft: true\nload_in_4bit: true\nload_in_8bit: true", "BK016"),
    ("trl", "bf16: true", "bf16: false\nfp16: true", "BK016"),
    ("trl", "[q_proj, k_proj, v_proj, o_proj]", "[]", "BK012"),
    ("trl", "num_train_epochs: 2", "num_epochs: 2", "BK011"),
    ("trl", "max_length: 1024", "max_seq_len: 1024", "BK011"),
    ("trl", "per_device_eval_batch_size: 4", "per_device_eval_batch_size: 0", "BK012"),
    ("trl", "dataset_name: trl-lib/Capybara\n", "", "BK013"),
    ("trl", "model_name_or_path: HuggingFaceTB/SmolLM2-135M-Instruct\n", "", "BK013"),
    ("axolotl", "sequence_len: 1024", "seq_len: 1024", "BK011"),
    ("axolotl", "pad_token:", "pad_tokn:", "BK011"),
    ("axolotl", "optimizer: adamw_bnb_8bit", "optimizer: adamw_bnb_8bits", "BK012"),
    ("axolotl", "optimizer: adamw_bnb_8bit", "optimizer: fastest", "BK012"),
    ("axolotl", "lr_scheduler: cosine", "lr_scheduler: cosinus", "BK012"),
    ("axolotl", "learning_rate: 0.0002", "learning_rate: 2e-4x", "BK012"),
    ("axolotl", "val_set_size: 0.05", "val_set_size: 1.5", "BK012"),
    ("axolotl", "gradient_checkpointing: true", "gradient_checkpointing: sometimes", "BK012"),
    ("axolotl", "lora_target_linear: true\n", "", "BK013"),
    ("axolotl", "lora_r: 16\n", "", "BK013"),
    ("axolotl", "bf16: true", "bf16: true\nfp16: true", "BK019"),
    ("axolotl", "bf16: true", "bf16: false", "BK016"),
    ("axolotl", "\nsample_packing: true", "\nsample_packing: false", "BK019"),
    ("axolotl", "logging_steps: 5", "logging_steps: 0", "BK012"),
    ("axolotl", "saves_per_epoch: 1", "save_strategy: epochs", "BK012"),
    ("llamafactory", "template: qwen", "template: llama3", "BK016"),
    ("llamafactory", "template: qwen", "template: of_nobody", "BK012"),
    ("llamafactory", "max_samples: 4000", "max_samples: 0", "BK012"),
    ("llamafactory", "val_size: 0.1", "val_size: 1.5", "BK012"),
    ("llamafactory", "lora_target: all", "lora_target: q_proj;v_proj", "BK012"),
    ("llamafactory", "stage: sft", "stage: sft\npref_beta: 0.1", "BK019"),
    ("llamafactory", "bf16: true", "bf16: true\nflash_attn: fa9", "BK012"),
    ("llamafactory", "bf16: true", "bf16: true\nquantization_bit: 4\nquantization_method: bnbb", "BK012"),
    ("llamafactory", "do_train: true", "do_train: false", "BK019"),
    ("llamafactory", "cutoff_len: 1024", "cutoff_length: 1024", "BK011"),
    ("llamafactory", "gradient_accumulation_steps: 4", "gradient_accumulation: 4", "BK011"),
    (
        "llamafactory",
        "report_to: none",
        "report_to: none\noverwrite_output_dir: true\nresume_from_checkpoint: saves/x",
        "BK016",
    ),
    ("torchtune", "  lr: 3e-4", "  learning_rate: 3e-4", "BK011"),
    ("torchtune", "torch.optim.AdamW", "torch.optim.AdamWW", "BK018"),
    ("torchtune", "torchtune.models.llama3.llama3_tokenizer", "torchtune.models.gemma.gemma_tokenizer", "BK016"),
    ("torchtune", "  path: models/Llama-3.2-1B/original/tokenizer.model\n", "", "BK013"),
    ("torchtune", "path: models/Llama-3.2-1B/", "path: models/Llama-2-7b-hf/", "BK016"),
    ("torchtune", "model_type: LLAMA3_2", "model_type: QWEN2", "BK016"),
    ("torchtune", "model_type: LLAMA3_2", "model_type: LAMA3_2", "BK012"),
    (
        "torchtune",
        "[model.safetensors]",
        "[model-00001-of-00003.safetensors, model-00003-of-00003.safetensors]",
        "BK012",
    ),
    ("torchtune", "[model.safetensors]", "[model.safetensors, model.safetensors]", "BK012"),
]


@pytest.mark.parametrize(("kind", "old", "new", "code"), SLIPS)
def test_a_slip_is_found(kind: str, old: str, new: str, code: str) -> None:
    text = base(kind)
    hard = {each.code for each in read(kind, text).findings if each.severity is not Severity.INFO}
    assert hard == set()
    found = [each for each in read(kind, changed(text, old, new)).findings if each.severity is not Severity.INFO]
    assert code in {each.code for each in found}, found


NO_SLIPS = [
    ("trl", "report_to: none", "report_to: [wandb, trackio]"),
    ("trl", "flash_attention_2", "kernels-community/flash-attn2"),
    ("trl", "num_train_epochs: 2", "num_train_epochs: 2\nmy_own: 1\nbatch_size: 4"),
    ("axolotl", "optimizer: adamw_bnb_8bit", "optimizer: muon"),
    ("axolotl", "val_set_size: 0.05", "val_set_size: 100"),
    ("axolotl", "gradient_checkpointing: true", "gradient_checkpointing: offload"),
    ("llamafactory", "template: qwen", "template: default"),
    ("llamafactory", "Qwen/Qwen2.5-0.5B-Instruct", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
    ("torchtune", "model_type: LLAMA3_2", "model_type: LLAMA3"),
    ("torchtune", "torch.optim.AdamW", "bitsandbytes.optim.PagedAdamW8bit"),
]


@pytest.mark.parametrize(("kind", "old", "new"), NO_SLIPS)
def test_what_is_right_is_left_alone(kind: str, old: str, new: str) -> None:
    found = [each for each in read(kind, changed(base(kind), old, new)).findings if each.severity is not Severity.INFO]
    assert found == []
