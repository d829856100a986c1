"""A tiny model folder and a tiny dataset of words, for the tests that train, evaluate or plan."""

import json
import random
import string
from pathlib import Path

from tools.tiny_model import write_tiny_model


def build_tiny_model(path: Path, seed: int = 0) -> Path:
    """Write a Llama-shaped model of some 90,000 random parameters into `path`, and give the folder."""
    return write_tiny_model(path, seed=seed)


def write_tiny_words(path: Path, n_train: int, n_val: int, n_test: int, *, seed: int = 0) -> Path:
    """Write a JSON file of invented words and their capitalized forms, with splits that share no word."""
    generator = random.Random(seed)
    words: list[str] = []
    while len(words) < n_train + n_val + n_test:
        word = "".join(generator.choices(string.ascii_lowercase, k=generator.randint(4, 9)))
        if word not in words:
            words.append(word)
    rows = [{"input": word, "output": word.capitalize()} for word in words]
    splits = {
        "train": rows[:n_train],
        "validation": rows[n_train : n_train + n_val],
        "test": rows[n_train + n_val :],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")
    return path
