"""A folder of run folders as users of torchtune leave it: four trainings whose jobs all failed by their last command.

Losses, steps, durations, rates and sizes are those that such a report was once made of; whatever is not known of them
(memory, loss curves, job ids) is made up. Weights are sparse files with true headers: 18 GiB by their sizes, nearly
nothing on the disk. Run as a program it writes the texts into `tests/fixtures/seed002`.
"""

from __future__ import annotations

import functools
import json
import math
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "cap_8L_llama32_lora_comparison_2025-10-18"
TEXTS = Path(__file__).parent.parent / "fixtures" / "seed002"
EPOCHS = 3
_HOME = f"/scratch/ada/{NAME}"
_EVERY = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A base model, whose vocabulary is such that its weights take what they are said to take."""

    name: str
    component: str
    hidden: int
    layers: int
    key_value: int
    inner: int
    vocabulary: int
    shards: int


B1 = Base(
    name="Llama-3.2-1B-Instruct", component="lora_llama3_2_1b",
    hidden=2048, layers=16, key_value=512, inner=8192, vocabulary=154_028, shards=1,
)  # fmt: skip
B3 = Base(
    name="Llama-3.2-3B-Instruct", component="lora_llama3_2_3b",
    hidden=3072, layers=28, key_value=1024, inner=8192, vocabulary=148_487, shards=2,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One training."""

    name: str
    base: Base
    rank: int
    batch: int
    steps: int
    loss: float
    validation: float
    rate: float
    seconds: int
    job: int
    memory: float


RUNS = (
    Run(name="1B_rank4", base=B1, rank=4, batch=16, steps=1500, loss=0.00154, validation=0.02345, rate=1224,
        seconds=281, job=61_000_501, memory=14.488),
    Run(name="1B_rank64", base=B1, rank=64, batch=16, steps=1500, loss=0.00036, validation=0.02336, rate=1252,
        seconds=294, job=61_000_502, memory=15.207),
    Run(name="3B_rank4", base=B3, rank=4, batch=8, steps=3000, loss=0.00031, validation=0.01656, rate=321,
        seconds=1354, job=61_000_503, memory=21.732),
    Run(name="3B_rank64", base=B3, rank=64, batch=8, steps=3000, loss=0.00027, validation=0.01830, rate=486,
        seconds=946, job=61_000_504, memory=23.118),
)  # fmt: skip


# ---- texts -----------------------------------------------------------------------------------------------------------


def write_texts(root: Path) -> None:
    """Logs, configs, a README, and the report that somebody has written by hand."""
    for run in RUNS:
        folder = root / run.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"slurm-{run.job}.out").write_text(log_of(run))
        (folder / "finetune.yaml").write_text(config_of(run))
        (folder / "setup_finetune.yaml").write_text(
            f"torchtune_model_name: {run.base.name}\ndataset_label: words_8L_80P_10000\ndataset_ext: .json\n"
            f"lora_rank: {run.rank}\nbatch_size: {run.batch}\nepochs: {EPOCHS}\nrun_val_every_n_steps: 50\n"
        )
        (folder / "finetune.slurm").write_text(
            f"#!/bin/bash\n#SBATCH --job-name={run.name}\n#SBATCH --gres=gpu:1\n#SBATCH --time=00:59:00\n\n"
            "tune run lora_finetune_single_device --config finetune.yaml\n"
            f"mv slurm-${{SLURM_JOB_ID}}.out {_HOME}/{run.name}/\n"
        )
        (folder / "eval.py").write_text("# an Inspect task\n")
        (folder / "logs" / "wandb" / f"offline-run-20251018_1{run.job % 10}2207-k{run.job}").mkdir(
            parents=True, exist_ok=True
        )
        (folder / "logs" / "wandb" / f"offline-run-20251018_1{run.job % 10}2207-k{run.job}" / "run.wandb").write_text(
            ""
        )
    (root / "3B_rank64" / "slurm-61000412.out").write_text(_out_of_memory())
    (root / "README.md").write_text(
        "# Ranks 4 and 64 on two models\n\nCapitalise words of 8 letters; 10,000 training samples, 3 epochs.\n"
    )
    (root / "EXPERIMENT_SUMMARY.md").write_text(_summary())


def config_of(run: Run) -> str:
    """The torchtune config of a run, which its log repeats."""
    shards = [f"model-{k:05}-of-{run.base.shards:05}.safetensors" for k in range(1, run.base.shards + 1)]
    files = "\n".join(f"  - {name}" for name in (shards if run.base.shards > 1 else ["model.safetensors"]))
    return f"""batch_size: {run.batch}
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: /scratch/ada/models/{run.base.name}/
  checkpoint_files:
{files}
  model_type: LLAMA3_2
  output_dir: {_HOME}/{run.name}
compile: false
dataset:
  _component_: torchtune.datasets.instruct_dataset
  data_files: /scratch/ada/data/words_8L_80P_10000.json
  field: train
  packed: false
  source: json
device: cuda
dtype: bf16
enable_activation_checkpointing: false
epochs: {EPOCHS}
gradient_accumulation_steps: 1
log_every_n_steps: 1
max_steps_per_epoch: null
metric_logger:
  _component_: torchtune.training.metric_logging.WandBLogger
  project: cap
model:
  _component_: torchtune.models.llama3_2.{run.base.component}
  apply_lora_to_mlp: true
  apply_lora_to_output: false
  lora_alpha: {2 * run.rank}
  lora_attn_modules:
  - q_proj
  - v_proj
  - output_proj
  lora_dropout: 0.0
  lora_rank: {run.rank}
optimizer:
  _component_: torch.optim.AdamW
  fused: true
  lr: 0.0003
output_dir: {_HOME}/{run.name}
resume_from_checkpoint: false
run_val_every_n_steps: 50
seed: null
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  max_seq_len: 2048
  path: /scratch/ada/models/{run.base.name}/original/tokenizer.model
"""


def log_of(run: Run, *, failing: bool = True) -> str:
    """The job's output: banner, bars, W&B's summary, and the command that failed."""
    parts = [
        "INFO:torchtune.utils._logging:Running LoRAFinetuneRecipeSingleDevice with resolved config:\n\n",
        config_of(run),
        "\nINFO:torchtune.utils._logging:Model is initialized with precision torch.bfloat16.\n",
        "INFO:torchtune.utils._logging:Memory stats after model init:\n",
        f"\tGPU peak memory allocation: {2.41 if run.base is B1 else 6.12:.2f} GiB\n",
        *_epochs(run),
        *_wandb(run),
    ]
    if failing:
        name = f"slurm-{run.job}.out"
        parts.append(f"mv: '{name}' and '{_HOME}/{run.name}/{name}' are the same file\n")
    return "".join(parts)


def _epochs(run: Run) -> Iterator[str]:
    each, before = run.steps // EPOCHS, 0
    for epoch in range(EPOCHS):
        lasts = run.seconds * (epoch + 1) // EPOCHS - before
        before += lasts
        bar: list[str] = []
        for done in range(_EVERY, each + 1, _EVERY):
            step, elapsed = epoch * each + done, max(1, lasts * done // each)
            share = 100 * done // each
            bar.append(
                f"{epoch + 1}|{step}|Loss: {_loss(run, step)}: {share:3d}%|{'█' * (share // 10):<10}| {done}/{each} "
                f"[{elapsed // 60:02d}:{elapsed % 60:02d}<{(lasts - elapsed) // 60:02d}:{(lasts - elapsed) % 60:02d}, "
                f"{done / elapsed:5.2f}it/s]"
            )
            if done % 250 == 0 and done < each:
                yield "\r".join(bar) + f"\nINFO:torchtune.utils._logging:Validation loss: {_validation(run, step)}\n"
                bar = []
        yield "\r".join(bar) + f"\nINFO:torchtune.utils._logging:Validation loss: {_validation(run, step)}\n"
        yield f"INFO:torchtune.utils._logging:Starting checkpoint save for epoch {epoch}...\n"
        yield "INFO:torchtune.utils._logging:Checkpoint saved in 11.75 seconds.\n"


def _loss(run: Run, step: int) -> str:
    """Falls from 2.3 to the run's last loss."""
    share = step / run.steps
    wobble = 1 + 0.2 * math.sin(step * 0.7) * (1 - share)
    return f"{run.loss * (2.3 / run.loss) ** ((1 - share) ** 2) * wobble:.7f}"


def _validation(run: Run, step: int) -> str:
    share = step / run.steps
    return f"{run.validation * (1.2 / run.validation) ** ((1 - share) ** 8):.5f}"


def _wandb(run: Run) -> Iterator[str]:
    rows = {
        "global_step": str(run.steps),
        "loss": f"{run.loss:.5f}",
        "lr": "0",
        "peak_memory_active": f"{run.memory + 0.03:.3f}",
        "peak_memory_alloc": f"{run.memory:.3f}",
        "peak_memory_reserved": f"{run.memory + 1.4:.3f}",
        "tokens_per_second_per_gpu": f"{run.rate:g}",
        "val_loss": f"{run.validation:.5f}",
    }
    yield "wandb:\nwandb: Run history:\nwandb:               global_step ▁▂▃▄▅▆▇█\nwandb:\nwandb: Run summary:\n"
    for key, value in rows.items():
        yield f"wandb: {key:>25} {value}\n"
    yield "wandb:\nwandb: You can sync this run to the cloud by running:\n"
    yield f"wandb: wandb sync {_HOME}/{run.name}/logs/wandb/offline-run-20251018_1{run.job % 10}2207-k{run.job}\n"


def _out_of_memory() -> str:
    """An attempt before, with twice the batch."""
    run = RUNS[3]
    return (
        "INFO:torchtune.utils._logging:Running LoRAFinetuneRecipeSingleDevice with resolved config:\n\n"
        + config_of(run).replace(f"batch_size: {run.batch}", "batch_size: 16")
        + "\nINFO:torchtune.utils._logging:Model is initialized with precision torch.bfloat16.\n"
        "1|1|Loss: 2.4107:   0%|          | 1/500 [00:01<08:19,  1.00it/s]\n"
        'Traceback (most recent call last):\n  File "/home/ada/recipe.py", line 701, in train\n    loss.backward()\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.91 GiB. GPU 0 has a total capacity of 39.39 "
        "GiB of which 1.20 GiB is free.\n"
    )


def _summary() -> str:
    """A report by hand, with the numbers that such reports hold, right and wrong ones."""
    return """# Rank 4 and rank 64

| Experiment | Steps | Final Loss | Val Loss | Tokens/sec/GPU |
|---|---|---|---|---|
| 1B_rank4 | 1500 | 0.00154 | 0.02345 | 1224 |
| 1B_rank64 | 1500 | 0.00036 | 0.02336 | 1252 |
| 3B_rank4 | 3000 | 0.00031 | 0.01656 | 321 |
| 3B_rank64 | 3000 | 0.00027 | 0.01830 | 486 |

| Experiment | 3 Epochs (Full Model) | 3 Epochs (Adapter Only) |
|---|---|---|
| 1B_rank4 | ~7.2 GB | ~16 MB |
| 1B_rank64 | ~7.5 GB | ~246 MB |
| 3B_rank4 | ~18.3 GB | ~33 MB |
| 3B_rank64 | ~19.3 GB | ~516 MB |

- On 3B, rank 64 trained faster than rank 4 (15.8 against 22.6 minutes): better GPU utilization.
"""


# ---- weights ---------------------------------------------------------------------------------------------------------


def write_weights(root: Path, *, archives: bool = True) -> None:
    """Three checkpoints of each run: the full model, the adapter, and the adapter once more as a .pt archive."""
    for run in RUNS:
        for epoch in range(EPOCHS):
            write_checkpoint(root / run.name / f"epoch_{epoch}", run, archives=archives)


def write_checkpoint(folder: Path, run: Run, *, archives: bool = True) -> None:
    """One checkpoint as torchtune writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    base, adapter = run.base, adapter_tensors(run)
    write_model(folder, base)
    sparse_safetensors(folder / "adapter_model.safetensors", adapter)
    if archives:
        sparse_archive(folder / "adapter_model.pt", "adapter_model", [2 * a * b for a, b in adapter.values()])
    config = {
        "r": run.rank,
        "lora_alpha": 2 * run.rank,
        "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "peft_type": "LORA",
        "base_model_name_or_path": f"/scratch/ada/models/{base.name}",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": base.hidden,
                "num_hidden_layers": base.layers, "num_attention_heads": base.hidden // 128 if base is B3 else 32,
                "num_key_value_heads": 8, "intermediate_size": base.inner, "vocab_size": base.vocabulary,
                "tie_word_embeddings": True, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
            }
        )
    )  # fmt: skip
    for name in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text("{}")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}')


def write_model(folder: Path, base: Base) -> None:
    tensors = model_tensors(base)
    if base.shards == 1:
        sparse_safetensors(folder / "model.safetensors", tensors)
        return
    names = list(tensors)
    cut = len(names) * 3 // 4
    index: dict[str, str] = {}
    for number, part in enumerate((names[:cut], names[cut:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        sparse_safetensors(folder / file, {name: tensors[name] for name in part})
        index |= dict.fromkeys(part, file)
    total = sum(2 * math.prod(shape) for shape in tensors.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )


def model_tensors(base: Base) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama with tied embeddings."""
    hidden, inner, kv = base.hidden, base.inner, base.key_value
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (base.vocabulary, hidden)}
    for layer in range(base.layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (hidden, hidden),
            f"{at}.self_attn.k_proj.weight": (kv, hidden),
            f"{at}.self_attn.v_proj.weight": (kv, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, hidden),
            f"{at}.mlp.gate_proj.weight": (inner, hidden),
            f"{at}.mlp.up_proj.weight": (inner, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, inner),
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
        }
    return shapes | {"model.norm.weight": (hidden,)}


def adapter_tensors(run: Run) -> dict[str, tuple[int, int]]:
    """Names and shapes of a LoRA adapter on q, v, o and the feed-forward part, as PEFT names them."""
    base, rank = run.base, run.rank
    modules = {
        "self_attn.q_proj": (base.hidden, base.hidden),
        "self_attn.v_proj": (base.hidden, base.key_value),
        "self_attn.o_proj": (base.hidden, base.hidden),
        "mlp.gate_proj": (base.hidden, base.inner),
        "mlp.up_proj": (base.hidden, base.inner),
        "mlp.down_proj": (base.inner, base.hidden),
    }
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(base.layers):
        for module, (inside, outside) in modules.items():
            at = f"base_model.model.model.layers.{layer}.{module}"
            shapes |= {f"{at}.lora_A.weight": (rank, inside), f"{at}.lora_B.weight": (outside, rank)}
    return shapes


def sparse_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A whole safetensors file in bfloat16 whose data is a hole."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)


def sparse_archive(path: Path, name: str, storages: list[int]) -> None:
    """An archive as torch.save writes them, stored entries of zeros, their bytes a hole; its pickle is empty."""
    entries = [(f"{name}/data.pkl", b"\x80\x02}.", 4), (f"{name}/version", b"3\n", 2)]
    entries += [(f"{name}/data/{number}", None, size) for number, size in enumerate(storages)]  # type: ignore[list-item]
    directory = b""
    with path.open("wb") as stream:
        for entry, data, size in entries:
            crc = zlib.crc32(data) if data is not None else _crc_of_zeros(size)
            at, raw = stream.tell(), entry.encode()
            fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, crc, size, size, len(raw), 0)
            stream.write(b"PK\x03\x04" + fields + raw)
            stream.write(data) if data is not None else stream.seek(size, 1)
            directory += b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, at) + raw
        begin = stream.tell()
        counts = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), begin, 0)
        stream.write(directory + b"PK\x05\x06" + counts)


@functools.cache
def _crc_of_zeros(size: int) -> int:
    return zlib.crc32(bytes(size))


def make(root: Path, *, weights: bool = True, archives: bool = True) -> Path:
    """The whole folder under `root`."""
    folder = root / NAME
    write_texts(folder)
    if weights:
        write_weights(folder, archives=archives)
    return folder


if __name__ == "__main__":
    write_texts(Path(sys.argv[1]) if len(sys.argv) > 1 else TEXTS)
