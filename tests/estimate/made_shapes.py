"""Shapes of public models, made by hand from the dimensions in their config.json."""

from __future__ import annotations

from touchline.core.shape import Linear, ModelShape

LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QVO_MLP = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""torchtune's `q_proj, v_proj, output_proj` with `apply_lora_to_mlp`."""


def llama_like(
    name: str,
    *,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    tied: bool,
    context: int = 4096,
    head_dim: int | None = None,
    model_type: str = "llama",
    qkv_bias: bool = False,
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
            Linear(name="q_proj", inputs=hidden, outputs=q, bias=qkv_bias),
            Linear(name="k_proj", inputs=hidden, outputs=kv, bias=qkv_bias),
            Linear(name="v_proj", inputs=hidden, outputs=kv, bias=qkv_bias),
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
    *,
    layers: int,
    hidden: int,
    heads: int,
    vocab: int,
    context: int,
    kv_heads: int | None = None,
    model_type: str = "gpt_neox",
    tied: bool = False,
    biases: bool = True,
    norms: int = 2,
) -> ModelShape:
    """A decoder with one fused matrix for attention's inputs, GELU between two matrices, and LayerNorm."""
    width, inner = hidden // heads, 4 * hidden
    fused = hidden + 2 * (kv_heads or heads) * width
    return ModelShape(
        name=name,
        model_type=model_type,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_heads=heads,
        num_kv_heads=kv_heads or heads,
        head_dim=width,
        vocab_size=vocab,
        context_length=context,
        tied_embeddings=tied,
        gated=False,
        linears=(
            Linear(name="query_key_value", inputs=hidden, outputs=fused, bias=biases),
            Linear(name="dense", inputs=hidden, outputs=hidden, bias=biases),
            Linear(name="dense_h_to_4h", inputs=hidden, outputs=inner, bias=biases),
            Linear(name="dense_4h_to_h", inputs=inner, outputs=hidden, bias=biases),
        ),
        other_parameters_per_layer=2 * norms * hidden,
        other_parameters=2 * hidden,
        source="config.json of the model's repository",
        extrapolated="LayerNorm and no gate: read, not simulated",
    )


LLAMA_1B = llama_like(
    "Llama-3.2-1B",
    layers=16,
    hidden=2048,
    intermediate=8192,
    heads=32,
    kv_heads=8,
    vocab=128256,
    tied=True,
    context=131072,
)
LLAMA_3B = llama_like(
    "Llama-3.2-3B",
    layers=28,
    hidden=3072,
    intermediate=8192,
    heads=24,
    kv_heads=8,
    vocab=128256,
    tied=True,
    context=131072,
)
LLAMA_8B = llama_like(
    "Llama-3.1-8B",
    layers=32,
    hidden=4096,
    intermediate=14336,
    heads=32,
    kv_heads=8,
    vocab=128256,
    tied=False,
    context=131072,
)
_QWEN = {"model_type": "qwen", "qkv_bias": True, "tied": False, "context": 8192}
SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        LLAMA_1B,
        LLAMA_3B,
        LLAMA_8B,
        llama_like(
            "Qwen2.5-1.5B",
            layers=28,
            hidden=1536,
            intermediate=8960,
            heads=12,
            kv_heads=2,
            vocab=151936,
            tied=True,
            context=32768,
            model_type="qwen2",
            qkv_bias=True,
        ),
        llama_like(
            "SmolLM2-1.7B",
            layers=24,
            hidden=2048,
            intermediate=8192,
            heads=32,
            kv_heads=32,
            vocab=49152,
            tied=True,
            context=8192,
        ),
        llama_like(
            "SmolLM2-360M",
            layers=32,
            hidden=960,
            intermediate=2560,
            heads=15,
            kv_heads=5,
            vocab=49152,
            tied=True,
            context=8192,
        ),
        llama_like(
            "SmolLM2-135M",
            layers=30,
            hidden=576,
            intermediate=1536,
            heads=9,
            kv_heads=3,
            vocab=49152,
            tied=True,
            context=8192,
        ),
        llama_like(
            "TinyLlama-1.1B",
            layers=22,
            hidden=2048,
            intermediate=5632,
            heads=32,
            kv_heads=4,
            vocab=32000,
            tied=False,
            context=2048,
        ),
        llama_like(
            "Mistral-7B",
            layers=32,
            hidden=4096,
            intermediate=14336,
            heads=32,
            kv_heads=8,
            vocab=32000,
            tied=False,
            context=32768,
            model_type="mistral",
        ),
        llama_like(
            "Llama-2-7B", layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, vocab=32000, tied=False
        ),
        llama_like(
            "Llama-2-13B", layers=40, hidden=5120, intermediate=13824, heads=40, kv_heads=40, vocab=32000, tied=False
        ),
        llama_like(
            "Llama-2-70B", layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, vocab=32000, tied=False
        ),
        llama_like(
            "PowerLM-3B", layers=40, hidden=2304, intermediate=9216, heads=36, kv_heads=36, vocab=49152, tied=True
        ),
        llama_like(
            "Qwen-1.8B", layers=24, hidden=2048, intermediate=5504, heads=16, kv_heads=16, vocab=151936, **_QWEN
        ),
        llama_like("Qwen-7B", layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, vocab=151936, **_QWEN),
        llama_like(
            "Qwen-14B", layers=40, hidden=5120, intermediate=13696, heads=40, kv_heads=40, vocab=152064, **_QWEN
        ),
        llama_like(
            "Qwen-72B", layers=80, hidden=8192, intermediate=24576, heads=64, kv_heads=64, vocab=152064, **_QWEN
        ),
        llama_like("Yi-6B", layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=4, vocab=64000, tied=False),
        llama_like("Yi-34B", layers=60, hidden=7168, intermediate=20480, heads=56, kv_heads=8, vocab=64000, tied=False),
        llama_like(
            "OpenBuddy-Zephyr-7B",
            layers=32,
            hidden=4096,
            intermediate=14336,
            heads=32,
            kv_heads=8,
            vocab=36608,
            tied=False,
            model_type="mistral",
        ),
        llama_like(
            "Baichuan2-7B", layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, vocab=125696, tied=False
        ),
        llama_like(
            "Baichuan2-13B", layers=40, hidden=5120, intermediate=13696, heads=40, kv_heads=40, vocab=125696, tied=False
        ),
        llama_like(
            "ChatGLM3-6B",
            layers=28,
            hidden=4096,
            intermediate=13696,
            heads=32,
            kv_heads=2,
            vocab=65024,
            tied=False,
            qkv_bias=True,
        ),
        llama_like(
            "Gemma-2B",
            layers=18,
            hidden=2048,
            intermediate=16384,
            heads=8,
            kv_heads=1,
            vocab=256000,
            tied=True,
            context=8192,
            head_dim=256,
            model_type="gemma",
        ),
        neox_like("phi-1.5", layers=24, hidden=2048, heads=32, vocab=51200, context=2048, model_type="phi", norms=1),
        neox_like("phi-2", layers=32, hidden=2560, heads=32, vocab=51200, context=2048, model_type="phi", norms=1),
        neox_like("StableLM-Alpha-3B", layers=16, hidden=4096, heads=32, vocab=50688, context=4096),
        neox_like(
            "Falcon-7B",
            layers=32,
            hidden=4544,
            heads=71,
            kv_heads=1,
            vocab=65024,
            context=2048,
            model_type="falcon",
            tied=True,
            biases=False,
            norms=1,
        ),
        neox_like(
            "Falcon-40B",
            layers=60,
            hidden=8192,
            heads=128,
            kv_heads=8,
            vocab=65024,
            context=2048,
            model_type="falcon",
            tied=True,
            biases=False,
        ),
    )
}
