"""Faults that only a config with its job script or its plan shows, and trainings that end, fill a disk or run twice."""

from __future__ import annotations

import json

from tests.faults.case import FaultCase, base, changed

FACTORY = base("llamafactory")
AXOLOTL = base("axolotl")
TRL = base("trl")
TUNE = base("torchtune")
STAGE = base("qlora_stage")
_SMALL = "Qwen/Qwen2.5-0.5B-Instruct"
_ROWS = [{"input": f"word{n}", "output": f"Word{n}"} for n in range(900)]
_SPLITS = json.dumps({"train": _ROWS[:700], "validation": _ROWS[700:800], "test": _ROWS[800:]})


def _case(name: str, code: str, file: str, text: str, fault: tuple[str, str], near: str, **more: str) -> FaultCase:
    """A config with one place wrong, and the same place right; the other files are the same."""
    others = {path.replace("__", "/").replace("_D_", "."): content for path, content in more.items()}
    return FaultCase(
        name=name,
        code=code,
        files={file: changed(text, *fault), **others},
        near_miss={file: changed(text, fault[0], near), **others},
    )


def _job(*commands: str, gpus: str = "gpu:1", tasks: int = 1, cores: int = 8, time: str = "08:00:00") -> str:
    header = (
        f"#!/bin/bash\n#SBATCH --job-name=train\n#SBATCH --nodes=1\n#SBATCH --ntasks={tasks}\n"
        f"#SBATCH --cpus-per-task={cores}\n#SBATCH --gres={gpus}\n#SBATCH --mem=200G\n#SBATCH --time={time}\n"
    )
    return header + "set -euo pipefail\n" + "\n".join(commands) + "\n"


def _jobs(name: str, code: str, config: tuple[str, str], fault: str, near: str, **more: str) -> FaultCase:
    """A config, once with a job script that is wrong for it and once with a right one."""
    return FaultCase(
        name=name,
        code=code,
        files={config[0]: config[1], "train.slurm": fault, **more},
        near_miss={config[0]: config[1], "train.slurm": near, **more},
    )


_LARGE_TRL = changed(TRL, "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-72B-Instruct")
_KIT = changed(
    changed(TUNE, "  split: train\n", "  field: train\n"),
    "seed: 14\n",
    "dataset_val:\n  _component_: torchtune.datasets.instruct_dataset\n  source: json\n"
    "  data_files: data/words.json\n  field: validation\nseed: 14\n",
)
_TUNE_RUN = "tune run lora_finetune_single_device --config finetune.yaml"


def _script(name: str, code: str, fault: str, near: str) -> FaultCase:
    return FaultCase(name=name, code=code, files={"train.slurm": fault}, near_miss={"train.slurm": near})


_SWEEP = """\
#!/bin/bash
for rank in 8 16 64; do
  {edit}
  sbatch train.slurm {config}
done
"""

CASES: list[FaultCase] = [
    _case(
        "adapters are written into the base model's folder",
        "CK015",
        "sft.yaml",
        changed(FACTORY, _SMALL, "models/Qwen2.5-0.5B-Instruct"),
        ("output_dir: saves/quotations", "output_dir: ./models//Qwen2.5-0.5B-Instruct/"),
        "output_dir: ./models//Qwen2.5-0.5B-Instruct-lora/",
    ),
    _case(
        "torchtune's output lies inside the folder of the checkpoint",
        "CK015",
        "finetune.yaml",
        TUNE,
        ("output_dir: runs/words_rank8", "output_dir: models/Llama-3.2-1B/words_rank8"),
        "output_dir: models/Llama-3.2-1B-words_rank8",
    ),
    _case(
        "TRL cuts packed examples anywhere",
        "BK021",
        "sft.yaml",
        TRL,
        ("packing: false", "packing: true\npacking_strategy: wrapped\neval_packing: false"),
        "packing: true\npacking_strategy: bfd\neval_packing: false",
    ),
    FaultCase(
        name="axolotl holds seventy billion parameters in 16 bits on each H100",
        code="ME020",
        files={
            "lora.yaml": changed(
                changed(AXOLOTL, "HuggingFaceTB/SmolLM2-135M-Instruct", "meta-llama/Llama-3.3-70B-Instruct"),
                "load_in_4bit: true\nadapter: qlora",
                "load_in_4bit: false\nadapter: lora",
            ).replace('special_tokens:\n  pad_token: "<|im_end|>"\n', "")
        },
        near_miss={
            "lora.yaml": changed(
                AXOLOTL, "HuggingFaceTB/SmolLM2-135M-Instruct", "meta-llama/Llama-3.3-70B-Instruct"
            ).replace('special_tokens:\n  pad_token: "<|im_end|>"\n', "")
        },
        options={"gpu": "H100"},
    ),
    FaultCase(
        name="a torchtune job of one GPU builds 70B",
        code="ME020",
        files={
            "finetune.yaml": changed(
                changed(TUNE, "llama3_2.lora_llama3_2_1b", "llama3_1.lora_llama3_1_70b"), "LLAMA3_2", "LLAMA3"
            ).replace("Llama-3.2-1B", "Llama-3.1-70B"),
            "train.slurm": _job(_TUNE_RUN, gpus="gpu:h100:1"),
        },
        near_miss={
            "finetune.yaml": changed(
                changed(TUNE, "llama3_2.lora_llama3_2_1b", "llama3_1.lora_llama3_1_8b"), "LLAMA3_2", "LLAMA3"
            ).replace("Llama-3.2-1B", "Llama-3.1-8B"),
            "train.slurm": _job(_TUNE_RUN, gpus="gpu:h100:1"),
        },
    ),
    _jobs(
        "seventy-two billion parameters on one GPU of no named kind",
        "ME021",
        ("sft.yaml", _LARGE_TRL),
        _job("CONFIG=sft.yaml", 'trl sft --config "$CONFIG"'),
        _job("CONFIG=sft.yaml", 'trl sft --config "$CONFIG"', gpus="gpu:8"),
    ),
    _jobs(
        "thirty-two data workers of a config that a variable names",
        "SL020",
        ("configs/sft.yaml", changed(FACTORY, "dataloader_num_workers: 2", "dataloader_num_workers: 32")),
        _job('CONFIG_FILE="configs/sft.yaml"', 'llamafactory-cli train "${CONFIG_FILE}"', cores=8),
        _job('CONFIG_FILE="configs/sft.yaml"', 'llamafactory-cli train "${CONFIG_FILE}"', cores=32),
    ),
    _case(
        "sixteen data workers of TRL on four cores",
        "SL020",
        "sft.yaml",
        TRL,
        ("dataloader_num_workers: 2", "dataloader_num_workers: 16"),
        "dataloader_num_workers: 4",
        train_D_slurm=_job("trl sft --config sft.yaml", cores=4),
    ),
    _case(
        "twelve data workers for each of two GPUs on sixteen cores",
        "SL020",
        "alpaca.yaml",
        AXOLOTL,
        ("logging_steps: 5", "logging_steps: 5\ndataloader_num_workers: 12"),
        "logging_steps: 5\ndataloader_num_workers: 8",
        train_D_slurm=_job("axolotl train alpaca.yaml", gpus="gpu:2", cores=16),
    ),
    _script(
        "sed changes the shared config that a variable names",
        "SL046",
        _job(
            "CONFIG_FILE=configs/base.yaml",
            'sed -i "s/learning_rate:.*/learning_rate: $LR/" "${CONFIG_FILE}"',
            "llamafactory-cli train ${CONFIG_FILE}",
        ),
        _job(
            "CONFIG_FILE=configs/base.$SLURM_JOB_ID.yaml",
            'sed "s/learning_rate:.*/learning_rate: $LR/" configs/base.yaml > "${CONFIG_FILE}"',
            "llamafactory-cli train ${CONFIG_FILE}",
        ),
    ),
    _script(
        "sed changes each config of a list",
        "SL046",
        _job(
            "CONFIGS=(easy.yaml hard.yaml)",
            'for config in "${CONFIGS[@]}"; do',
            "  sed -i -e 's/epochs: 1/epochs: 3/' $config",
            "  axolotl train $config",
            "done",
        ),
        _job(
            "CONFIGS=(easy.yaml hard.yaml)",
            'for config in "${CONFIGS[@]}"; do',
            "  cp $config copy.$SLURM_JOB_ID.yaml",
            "  sed -i -e 's/epochs: 1/epochs: 3/' copy.$SLURM_JOB_ID.yaml",
            "  axolotl train copy.$SLURM_JOB_ID.yaml",
            "done",
        ),
    ),
    FaultCase(
        name="a sweep changes one config while its jobs wait in the queue",
        code="SL046",
        files={
            "submit.sh": _SWEEP.format(edit='sed -i "s/lora_rank:.*/lora_rank: $rank/" base.yaml', config=""),
            "train.slurm": _job("llamafactory-cli train base.yaml"),
            "base.yaml": FACTORY,
        },
        near_miss={
            "submit.sh": _SWEEP.format(
                edit='cp base.yaml rank$rank.yaml; sed -i "s/lora_rank:.*/lora_rank: $rank/" rank$rank.yaml',
                config="rank$rank.yaml",
            ),
            "train.slurm": _job('llamafactory-cli train "$1"'),
            "base.yaml": FACTORY,
        },
    ),
    _jobs(
        "srun starts LLaMA-Factory once for each of two tasks",
        "SL019",
        ("sft.yaml", FACTORY),
        _job("srun llamafactory-cli train sft.yaml", gpus="gpu:2", tasks=2),
        _job("srun llamafactory-cli train sft.yaml", gpus="gpu:2", tasks=1),
    ),
    _jobs(
        "srun starts a Trainer's program twice without ranks",
        "SL019",
        ("sft.yaml", TRL),
        _job("srun python sft.py --config sft.yaml", gpus="gpu:2", tasks=2),
        _job("srun torchrun --nproc_per_node=2 sft.py --config sft.yaml", gpus="gpu:2", tasks=1),
    ),
    _script(
        "srun starts axolotl four times by its own option",
        "SL019",
        _job("srun -n 4 axolotl train alpaca.yaml", gpus="gpu:4", cores=16),
        _job("srun -n 1 axolotl train alpaca.yaml", gpus="gpu:4", cores=16),
    ),
    _case(
        "seven epochs and nothing held out",
        "TR025",
        "sft.yaml",
        changed(FACTORY, "num_train_epochs: 2.0", "num_train_epochs: 7.0"),
        ("val_size: 0.1", "val_size: 0.0"),
        "val_size: 0.05",
    ),
    _case(
        "TRL trains six epochs with validation off",
        "TR025",
        "sft.yaml",
        changed(changed(TRL, "load_best_model_at_end: true\n", ""), "num_train_epochs: 2", "num_train_epochs: 6"),
        ("eval_strategy: steps\neval_steps: 50\n", 'eval_strategy: "no"\n'),
        "eval_strategy: epoch\n",
    ),
    _case(
        "rank 32 in the folder of rank 64",
        "TR026",
        "1B_rank64/finetune.yaml",
        changed(changed(TUNE, "output_dir: runs/words_rank8", "output_dir: out"), "lora_alpha: 16", "lora_alpha: 64"),
        ("lora_rank: 8", "lora_rank: 32"),
        "lora_rank: 64",
    ),
    _case(
        "the output folder names another seed and rank",
        "TR026",
        "stage.yaml",
        changed(STAGE, "output_dir: models/stage1", "output_dir: models/stage1_rank8_seed7"),
        ("  seed: 42", "  seed: 42"),
        "  seed: 7",
    ),
    _case(
        "validation by the same key of one file as training",
        "BK024",
        "finetune.yaml",
        _KIT,
        ("  field: validation\n", "  field: train\n"),
        "  field: validation\n",
        data__words_D_json=_SPLITS,
    ),
    _case(
        "the key of the rows is one that the file does not have",
        "BK025",
        "finetune.yaml",
        _KIT,
        ("  field: validation\n", "  field: valid\n"),
        "  field: validation\n",
        data__words_D_json=_SPLITS,
    ),
]
