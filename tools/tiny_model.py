"""A model folder in Hugging Face format, small enough to train in a second: for tests, benchmarks and the documents.

A Llama-shaped network of some 90,000 random parameters, a byte-level tokenizer and a ChatML template, written without
torch, so that planning can be tried where torch is not installed. What it answers is noise.

    python tools/tiny_model.py models/SmolLM2-135M-Instruct
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN = 48
LAYERS = 2
HEADS = 4
KEY_VALUE_HEADS = 2
INTERMEDIATE = 96
CONTEXT_LENGTH = 512
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Enough text for some merges, so that words of equal length differ in tokens as with a real tokenizer.
CORPUS = (
    "Return the word with its first letter as a capital. Write only the word, nothing else. system user assistant",
    "the quick brown fox jumps over the lazy dog; interest, standing, question, position, national, business",
)


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _weights(vocab_size: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (generator.standard_normal((rows, columns)) * 0.05).astype(np.float32)

    width = HIDDEN // HEADS
    weights = {
        "model.embed_tokens.weight": matrix(vocab_size, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            f"{prefix}self_attn.q_proj.weight": matrix(HIDDEN, HIDDEN),
            f"{prefix}self_attn.k_proj.weight": matrix(KEY_VALUE_HEADS * width, HIDDEN),
            f"{prefix}self_attn.v_proj.weight": matrix(KEY_VALUE_HEADS * width, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": matrix(HIDDEN, HIDDEN),
            f"{prefix}mlp.gate_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            f"{prefix}mlp.up_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            f"{prefix}mlp.down_proj.weight": matrix(HIDDEN, INTERMEDIATE),
            f"{prefix}input_layernorm.weight": np.ones(HIDDEN, np.float32),
            f"{prefix}post_attention_layernorm.weight": np.ones(HIDDEN, np.float32),
        }
    return weights


def write_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write the model into a folder, which is made; the same seed gives the same weights.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    stop = tokenizer.token_to_id("<|im_end|>")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "max_position_embeddings": CONTEXT_LENGTH,
        "vocab_size": tokenizer.get_vocab_size(),
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.token_to_id("<|im_start|>"),
        "eos_token_id": stop,
        "pad_token_id": stop,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": CONTEXT_LENGTH,
        "clean_up_tokenization_spaces": False,
    }
    generation_config = {"bos_token_id": config["bos_token_id"], "eos_token_id": stop, "pad_token_id": stop}
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", generation_config),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(_weights(tokenizer.get_vocab_size(), seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_tiny_model(Path(name))
