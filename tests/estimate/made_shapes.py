"""Shapes of public models, made by hand from the dimensions in their config.json."""

from collections.abc import Iterator
from typing import Any

from touchline.core.estimate import TrainingSetup
from touchline.core.shape import Linear, ModelShape

LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QVO_MLP = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""torchtune's `q_proj, v_proj, output_proj` with `apply_lora_to_mlp`."""


def llama_like(
    name: str,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    *,
    tied: bool,
    context: int = 4096,
    head_dim: int | None = None,
    model_type: str = "llama",
    qkv_bias: int = 0,
    norms: int = 2,
) -> ModelShape:
    """A decoder with SwiGLU and RMSNorm in separate matrices."""
    width = head_dim or hidden // heads
    q, kv = heads * width, kv_heads * width
    return ModelShape(
        name=name,
        model_type=model_type,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width,
        vocab_size=vocab,
        context_length=context,
        tied_embeddings=tied,
        gated=True,
        linears=(
            Linear(name="q_proj", inputs=hidden, outputs=q, bias=bool(qkv_bias)),
            Linear(name="k_proj", inputs=hidden, outputs=kv, bias=bool(qkv_bias)),
            Linear(name="v_proj", inputs=hidden, outputs=kv, bias=bool(qkv_bias)),
            Linear(name="o_proj", inputs=q, outputs=hidden),
            Linear(name="gate_proj", inputs=hidden, outputs=intermediate),
            Linear(name="up_proj", inputs=hidden, outputs=intermediate),
            Linear(name="down_proj", inputs=intermediate, outputs=hidden),
        ),
        other_parameters_per_layer=norms * hidden + (2 * width if model_type.startswith("qwen3") else 0),
        other_parameters=hidden,
        source="config.json of the model's repository",
    )


def neox_like(
    name: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    *,
    tied: bool,
    context: int,
    model_type: str = "gpt_neox",
    biases: int = 1,
    norms: int = 2,
) -> ModelShape:
    """A decoder with one fused matrix for attention's inputs, GELU between two matrices, and LayerNorm."""
    width, inner = hidden // heads, 4 * hidden
    fused = hidden + 2 * kv_heads * width
    return ModelShape(
        name=name,
        model_type=model_type,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width,
        vocab_size=vocab,
        context_length=context,
        tied_embeddings=tied,
        gated=False,
        linears=(
            Linear(name="query_key_value", inputs=hidden, outputs=fused, bias=bool(biases)),
            Linear(name="dense", inputs=hidden, outputs=hidden, bias=bool(biases)),
            Linear(name="dense_h_to_4h", inputs=hidden, outputs=inner, bias=bool(biases)),
            Linear(name="dense_4h_to_h", inputs=inner, outputs=hidden, bias=bool(biases)),
        ),
        other_parameters_per_layer=2 * norms * hidden,
        other_parameters=2 * hidden,
        source="config.json of the model's repository",
        extrapolated="LayerNorm and no gate: read, not simulated",
    )


_LLAMA_LIKE = """
Llama-3.2-1B        16 2048  8192 32  8 128256 tied context=131072
Llama-3.2-3B        28 3072  8192 24  8 128256 tied context=131072
Llama-3.1-8B        32 4096 14336 32  8 128256 own  context=131072
Qwen2.5-1.5B        28 1536  8960 12  2 151936 tied context=32768 model_type=qwen2 qkv_bias=1
SmolLM2-1.7B        24 2048  8192 32 32  49152 tied context=8192
SmolLM2-360M        32  960  2560 15  5  49152 tied context=8192
SmolLM2-135M        30  576  1536  9  3  49152 tied context=8192
TinyLlama-1.1B      22 2048  5632 32  4  32000 own  context=2048
Mistral-7B          32 4096 14336 32  8  32000 own  context=32768 model_type=mistral
Llama-2-7B          32 4096 11008 32 32  32000 own
Llama-2-13B         40 5120 13824 40 40  32000 own
Llama-2-70B         80 8192 28672 64  8  32000 own
PowerLM-3B          40 2304  9216 36 36  49152 tied
Qwen-1.8B           24 2048  5504 16 16 151936 own  context=8192 model_type=qwen qkv_bias=1
Qwen-7B             32 4096 11008 32 32 151936 own  context=8192 model_type=qwen qkv_bias=1
Qwen-14B            40 5120 13696 40 40 152064 own  context=8192 model_type=qwen qkv_bias=1
Qwen-72B            80 8192 24576 64 64 152064 own  context=8192 model_type=qwen qkv_bias=1
Yi-6B               32 4096 11008 32  4  64000 own
Yi-34B              60 7168 20480 56  8  64000 own
OpenBuddy-Zephyr-7B 32 4096 14336 32  8  36608 own  model_type=mistral
Baichuan2-7B        32 4096 11008 32 32 125696 own
Baichuan2-13B       40 5120 13696 40 40 125696 own
ChatGLM3-6B         28 4096 13696 32  2  65024 own  qkv_bias=1
Gemma-2B            18 2048 16384  8  1 256000 tied context=8192 head_dim=256 model_type=gemma
"""
"""Name, layers, hidden and feed-forward width, heads, heads of keys, vocabulary, embeddings, and further settings."""
_NEOX_LIKE = """
phi-1.5             24 2048  32  32  51200 own  2048 model_type=phi norms=1
phi-2               32 2560  32  32  51200 own  2048 model_type=phi norms=1
StableLM-Alpha-3B   16 4096  32  32  50688 own  4096
Falcon-7B           32 4544  71   1  65024 tied 2048 model_type=falcon biases=0 norms=1
Falcon-40B          60 8192 128   8  65024 tied 2048 model_type=falcon biases=0
"""
"""Name, layers, hidden width, heads, heads of keys, vocabulary, embeddings, context, and further settings."""


def _rows(table: str, numbers: int) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Yield the name and numbers of each row, and its further settings."""
    for line in table.strip().splitlines():
        words = line.split()
        name, figures, rest = words[0], words[1 : numbers + 1], words[numbers + 1 :]
        settings = {"tied": "tied" in rest, "context": next((int(word) for word in rest if word.isdigit()), 4096)}
        more = (word.split("=") for word in rest if "=" in word)
        yield [name, *map(int, figures)], settings | {key: int(v) if v.isdigit() else v for key, v in more}


SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        *(llama_like(*figures, **settings) for figures, settings in _rows(_LLAMA_LIKE, 6)),
        *(neox_like(*figures, **settings) for figures, settings in _rows(_NEOX_LIKE, 5)),
    )
}
LLAMA_1B, LLAMA_3B, LLAMA_8B = (SHAPES[name] for name in ("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B"))
LORA = TrainingSetup(
    shape=LLAMA_1B, backend="torchtune", method="lora", rank=64, target_modules=QVO_MLP, base_dtype="bfloat16",
    adapter_dtype="bfloat16",
)  # fmt: skip
"""The seeds' training."""
