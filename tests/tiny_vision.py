"""A tiny vision-language model folder and image-text datasets, for the tests that train, evaluate or plan."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tools.tiny_model import write_tiny_model

IMAGE_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
COLORS = {"Red": (220, 20, 20), "Green": (20, 200, 20), "Blue": (20, 20, 220), "White": (240, 240, 240)}


def build_tiny_vision_model(folder: Path, seed: int = 0, scale: float = 1.0) -> Path:
    """Write a Qwen3-VL-shaped model of some 120,000 random parameters into `folder`, and give the folder.

    Small random weights attend to everything alike; with matrices `scale` times as large, positions and images count.
    """
    write_tiny_model(folder, seed=seed)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    first = max(token["id"] for token in tokenizer["added_tokens"]) + 1
    size = max(first, 1 + max(tokenizer["model"]["vocab"].values()))
    for number, token in enumerate(IMAGE_TOKENS):
        entry = {"id": size + number, "content": token, "special": True, "normalized": False}
        tokenizer["added_tokens"].append({**entry, "lstrip": False, "rstrip": False, "single_word": False})
        tokenizer["model"]["vocab"][token] = size + number
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    ids = {token: size + number for number, token in enumerate(IMAGE_TOKENS)}
    stop = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            **{"vocab_size": size + len(IMAGE_TOKENS), "hidden_size": 48, "intermediate_size": 96, "head_dim": 12},
            **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": rope},
            **{"max_position_embeddings": 512, "eos_token_id": stop, "pad_token_id": stop},
        },
        vision_config={
            **{"depth": 2, "hidden_size": 24, "intermediate_size": 48, "num_heads": 2, "patch_size": 4},
            **{"out_hidden_size": 48, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 256, "longest_edge": 1024}).save_pretrained(folder)
    return folder


def write_colors(folder: Path, count: int = 24) -> Path:
    """Write images of four colors in several sizes, and a dataset that asks for the color; give the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(5)
    rows = []
    for number in range(count):
        name, color = list(COLORS.items())[number % len(COLORS)]
        width, height = (int(generator.integers(12, 40)) for _ in range(2))
        noise = generator.integers(-15, 16, (height, width, 3))
        pixels = np.clip(np.asarray(color) + noise, 0, 255).astype(np.uint8)
        file = f"image_{number:02d}.{'png' if number % 2 else 'jpg'}"
        Image.fromarray(pixels).save(folder / file)
        rows.append({"image": file, "input": f"Color of picture {number}?", "output": name})
    third = count // 3
    splits = {"train": rows[: count - third], "validation": rows[count - third : count - third // 2]}
    splits["test"] = rows[count - third // 2 :]
    path = folder / "colors.json"
    path.write_text(json.dumps(splits), encoding="utf-8")
    return path
