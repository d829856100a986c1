"""Faults that several files show together: a config with its job script or its data, and the files of one dataset."""

import json

from tests.faults.case import FaultCase, base, changed

FACTORY = base("llamafactory")
AXOLOTL = base("axolotl")
TRL = base("trl")
TUNE = base("torchtune")
STAGE = base("qlora_stage")
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


_SWEEP = """\
#!/bin/bash
for rank in 8 16 64; do
  {edit}
  sbatch train.slurm {config}
done
"""

_ORGANS = ["background tissue", "kidney-parenchyma", "small-intestine"]


def _tissue(answer: str) -> str:
    """Answers out of a list that stands in the prompt."""
    rows = [
        {"prompt": f"Frame {n}: which tissue? Candidates: {_ORGANS}\nAnswer:", "completion": each}
        for n, each in enumerate([*_ORGANS, answer, *_ORGANS])
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _words(start: int, stop: int) -> str:
    return "".join(json.dumps(row) + "\n" for row in _ROWS[start:stop])


CASES: list[FaultCase] = [
    FaultCase(
        name="an answer with a space where the candidates in the prompt have a hyphen",
        code="DA330",
        files={"data/train.jsonl": _tissue("kidney parenchyma")},
        near_miss={"data/train.jsonl": _tissue("kidney-parenchyma")},
    ),
    FaultCase(
        name="a training question in the test file",
        code="DA312",
        files={"data/train.jsonl": _words(0, 8), "data/test.jsonl": _words(7, 12)},
        near_miss={"data/train.jsonl": _words(0, 8), "data/test.jsonl": _words(8, 12)},
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
        "TR055",
        ("configs/sft.yaml", changed(FACTORY, "dataloader_num_workers: 2", "dataloader_num_workers: 32")),
        _job('CONFIG_FILE="configs/sft.yaml"', 'llamafactory-cli train "${CONFIG_FILE}"', cores=8),
        _job('CONFIG_FILE="configs/sft.yaml"', 'llamafactory-cli train "${CONFIG_FILE}"', cores=32),
    ),
    _case(
        "sixteen data workers of TRL on four cores",
        "TR055",
        "sft.yaml",
        TRL,
        ("dataloader_num_workers: 2", "dataloader_num_workers: 16"),
        "dataloader_num_workers: 4",
        train_D_slurm=_job("trl sft --config sft.yaml", cores=4),
    ),
    _case(
        "twelve data workers for each of two GPUs on sixteen cores",
        "TR055",
        "alpaca.yaml",
        AXOLOTL,
        ("logging_steps: 5", "logging_steps: 5\ndataloader_num_workers: 12"),
        "logging_steps: 5\ndataloader_num_workers: 8",
        train_D_slurm=_job("axolotl train alpaca.yaml", gpus="gpu:2", cores=16),
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
