"""A folder of run folders as users of torchtune leave it: four trainings whose jobs all failed by their last command.

Losses, steps, durations, rates and sizes are those that such a report was once made of; whatever is not known of them
(memory, loss curves, job ids) is made up. Weights are sparse files with true headers: 18 GiB by their sizes, nearly
nothing on the disk.
"""

import functools
import json
import math
import shutil
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "cap_8L_llama32_lora_comparison_2025-10-18"
TEXTS = Path(__file__).parent.parent / "fixtures" / "seed002"
EPOCHS = 3


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


def log_of(run: Run, *, failing: bool = True) -> str:
    """The job's output: banner, bars, W&B's summary, and the command that failed."""
    text = (TEXTS / run.name / f"slurm-{run.job}.out").read_bytes().decode()
    return text if failing else text[: text.rindex("mv: ")]


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
        counts = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), stream.tell(), 0)
        stream.write(directory + b"PK\x05\x06" + counts)


@functools.cache
def _crc_of_zeros(size: int) -> int:
    return zlib.crc32(bytes(size))


def make(root: Path, *, weights: bool = True, archives: bool = True) -> Path:
    """The whole folder under `root`."""
    folder = root / NAME
    shutil.copytree(TEXTS, folder)
    if weights:
        write_weights(folder, archives=archives)
    return folder
