"""Faults in job scripts, the seeds' own among them."""

from __future__ import annotations

from tests.faults.case import FaultCase, base, changed

SCRIPT = base("sbatch")
_TIME = "#SBATCH --time=08:00:00"
_OUTPUT = "#SBATCH --output=slurm-%j.out"
_MEMORY = "#SBATCH --mem=64G"
_TRAIN = "python train.py --model_name_or_path /models/Llama-3.2-1B --learning_rate 2e-4 --output_dir out"
_PLACE = 'cd "$SLURM_SUBMIT_DIR"'
_ERREXIT = "set -euo pipefail"
_GPU = "#SBATCH --gres=gpu:1"


def _case(name: str, code: str, old: str, fault: str, near: str | None = None, start: str = SCRIPT) -> FaultCase:
    """A job script with one thing wrong, and the same place right."""
    return FaultCase(
        name=name,
        code=code,
        files={"train.slurm": changed(start, old, fault)},
        near_miss={"train.slurm": start if near is None else changed(start, old, near)},
    )


_FOUR = changed(changed(SCRIPT, _GPU, "#SBATCH --gres=gpu:a100:4"), "--cpus-per-task=8", "--cpus-per-task=32")
_CHAINS = """\
CUDA_VISIBLE_DEVICES=0 python train.py --config exp1.cfg --dataloader_num_workers {count} & first=$!
CUDA_VISIBLE_DEVICES=1 python train.py --config exp2.cfg --dataloader_num_workers {count} & second=$!
CUDA_VISIBLE_DEVICES=2 python train.py --config exp3.cfg --dataloader_num_workers {count} & third=$!
CUDA_VISIBLE_DEVICES=3 python train.py --config exp4.cfg --dataloader_num_workers {count} & fourth=$!
wait $first; wait $second; wait $third; wait $fourth
"""
_LABELLED = f"""\
(
  {_TRAIN} --stage 1
  {_TRAIN} --stage 2
) 2>&1 | sed 's/^/[exp3] /' & exp3=$!
wait $exp3
echo "exp3 ended with $?"
"""
_SUBMIT = """\
#!/bin/bash
cd 1B_rank4 && sbatch finetune.slurm && cd ..
cd 1B_rank64 && sbatch finetune.slurm && cd ..
cd 3B_rank4 && sbatch finetune.slurm && cd ..
"""
_SUBMIT_RIGHT = """\
#!/bin/bash
(cd 1B_rank4 && sbatch finetune.slurm)
(cd 1B_rank64 && sbatch finetune.slurm)
(cd 3B_rank4 && sbatch finetune.slurm)
"""

CASES: list[FaultCase] = [
    _case(
        "memory is asked for below the first command",
        "SL003",
        _ERREXIT,
        f"{_ERREXIT}\n#SBATCH --mem=200G",
        f"# the first command follows\n{_ERREXIT}",
    ),
    _case("an option of sbatch is misspelt", "SL005", _GPU, "#SBATCH --gpu-per-node=1", "#SBATCH --gpus-per-node=1"),
    _case("a time limit in hours", "SL006", _TIME, "#SBATCH --time=8h", "#SBATCH --time=0-8"),
    _case(
        "two words for a comment without quotes",
        "SL007",
        _MEMORY,
        f"{_MEMORY}\n#SBATCH --comment=second try",
        f'{_MEMORY}\n#SBATCH --comment="second try"  # in quotes',
    ),
    _case(
        "a shell variable in a directive",
        "SL008",
        _OUTPUT,
        "#SBATCH --output=$HOME/logs/%j.out",
        "#SBATCH --output=/home/me/logs/%u-%j.out",
    ),
    _case(
        "memory per node and per core together",
        "SL012",
        _MEMORY,
        f"{_MEMORY}\n#SBATCH --mem-per-cpu=8G",
        "#SBATCH --mem-per-cpu=8G",
    ),
    _case(
        "eight processes for four GPUs",
        "SL016",
        "python train.py",
        "torchrun --standalone --nproc_per_node 8 train.py",
        "torchrun --standalone --nproc_per_node 4 train.py",
        start=_FOUR,
    ),
    _case(
        "64 data workers on 32 cores",
        "SL020",
        _TRAIN + "\n",
        _CHAINS.format(count=16),
        _CHAINS.format(count=8),
        start=_FOUR,
    ),
    _case(
        "a pipe behind a chain of trainings hides its failure",
        "SL030",
        SCRIPT[SCRIPT.index(_ERREXIT) :],
        f"{_PLACE}\n{_LABELLED}",
        f"set -o pipefail\n{_PLACE}\n{_LABELLED}",
    ),
    _case(
        "the training runs in the background and nothing waits for it",
        "SL031",
        _TRAIN,
        f"{_TRAIN} > train.log 2>&1 &\necho started",
        f"{_TRAIN} > train.log 2>&1 &\nwait $!",
    ),
    _case(
        "the job changes a config that others read",
        "SL046",
        _TRAIN,
        f'sed -i "s|^prev_checkpoint:.*|prev_checkpoint: $BEST|" exp4_stage2.yaml\n{_TRAIN}',
        f'sed "s|^prev_checkpoint:.*|prev_checkpoint: $BEST|" exp4_stage2.yaml > stage2.$SLURM_JOB_ID.yaml\n{_TRAIN}',
    ),
    _case(
        "the parent's checkpoint is the one written last",
        "SL047",
        _TRAIN,
        f"BEST=$(ls -td exp4_stage1/checkpoint-* | head -1)\n{_TRAIN}",
        f"BEST=$(ls -d exp4_stage1/checkpoint-* | sort -V | tail -1)\n{_TRAIN}",
    ),
    FaultCase(
        name="one refused job sends all later ones to the wrong folder",
        code="SL049",
        files={"submit_all.sh": _SUBMIT},
        near_miss={"submit_all.sh": _SUBMIT_RIGHT},
    ),
]
