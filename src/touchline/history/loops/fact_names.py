"""Names under which scripts print facts of a training."""

from __future__ import annotations

from touchline.core.observation import ObservationName
from touchline.history.loops.vocabulary import words_of

_NAMES: dict[ObservationName, str] = {
    "micro_batch_size": (
        "batch size|per-device batch size|per device batch size|micro batch size|micro-batch size"
        "|train batch size|training batch size|batch size per device|batch size per gpu|per-gpu batch size"
        "|per device train batch size"
    ),
    "gradient_accumulation_steps": (
        "gradient accumulation|gradient accumulation steps|grad accumulation|grad accumulation steps"
        "|grad accum|grad accum steps|accumulation steps|accumulate grad iterations|gradient accum steps"
    ),
    "global_batch_size": "effective batch size|global batch size|total batch size|effective batch|global batch",
    "epochs": (
        "epochs|num epochs|number of epochs|total epochs|training epochs|train epochs|max epochs|num train epochs"
    ),
    "steps_total": (
        "total steps|max steps|total training steps|total train steps|total optimization steps"
        "|total optimizer steps|total optim steps|num training steps|number of training steps|training steps"
        "|max iterations|total iterations|max iters|total update steps|optimizer steps|estimated total steps"
    ),
    "train_examples": (
        "estimated samples|train samples|training samples|train examples|training examples|num train samples"
        "|number of training samples|number of training examples|num training examples|num train examples"
        "|number of train samples|train dataset size|training dataset size|train set size|training set size"
        "|train size|train dataset|training dataset|train set|training set|train rows|training rows"
        "|training data size|train data size"
    ),
    "lora_rank": "lora rank|lora r|lora rank r|lora rank (r)",
    "lora_alpha": "lora alpha",
    "max_seq_len": (
        "max seq length|max sequence length|maximum sequence length|max seq len|max length|sequence length"
        "|seq length|context length|max token length|max tokens per sample|block size"
    ),
    "gpus": "number of gpus|num gpus|gpus|gpu count|world size|number of devices|num devices",
    "trainable_parameters": (
        "trainable parameters|trainable params|number of trainable parameters|num trainable parameters"
        "|trainable|total trainable parameters|total trainable params"
    ),
    "total_parameters": "total parameters|total params|all parameters|number of parameters|model parameters",
}
FACTS_BY_NAME: dict[str, ObservationName] = {name: fact for fact, names in _NAMES.items() for name in names.split("|")}
"""Fact of each name in lower case."""
WORDS: frozenset[str] = words_of(
    "accum accumulation alpha batch completed dataset device devices duration epochs examples finished gpu"
    " gpu_peak_memory gpus highest iterations iters length lora loss lr max max_gpu_memory max_mem max_memory"
    " max_memory_allocated max_memory_reserved maximum model modules parameters params peak peak_gpu_mem"
    " peak_gpu_memory peak_gpu_memory_gb peak_gpu_memory_mb peak_mem peak_mem_gb peak_memory"
    " peak_memory_allocated peak_memory_gb peak_memory_gib peak_memory_mb peak_memory_mib peak_memory_reserved"
    " peak_vram peak_vram_gb rank rate rows runtime samples set size speed step steps throughput time tok tokens"
    " took train trainable trained tuned vram world"
)
"""Words of the lines that facts stand on."""
