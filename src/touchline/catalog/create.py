"""Datasets that touchline makes itself; the same arguments give the same bytes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from touchline.catalog.words import AMERICAN_ENGLISH, load_words
from touchline.errors import PolicyFault
from touchline.files import write_atomic
from touchline.tasks.capitalization import dataset_file_name, generate_capitalization

GENERATOR_VERSION = 1


def create_capitalization(
    out_dir: Path, *, word_length: int, num_words: int, train_fraction: float, seed: int, force: bool = False
) -> Path:
    """Write `words_8L_80P_2000.json` into `out_dir`, unless it is there already.

    Raises:
        InputFault: the word list has too few such words, or a split would be empty.
        PolicyFault: there is a file of that name with other content, and `force` is not given.
    """
    splits = generate_capitalization(
        load_words(),
        word_length=word_length,
        num_words=num_words,
        train_fraction=train_fraction,
        rng=np.random.Generator(np.random.PCG64(seed)),
    )
    about = {
        "generator": f"touchline data create capitalization, version {GENERATOR_VERSION}",
        "word_list": asdict(AMERICAN_ENGLISH),
        "word_length": word_length,
        "num_words": num_words,
        "train_fraction": train_fraction,
        "seed": seed,
        "splits": "random splits of one random choice of words; no word is in two of them",
    }
    text = json.dumps({"about": about, **splits}, indent=1) + "\n"
    path = out_dir / dataset_file_name(word_length, train_fraction, num_words)
    if path.exists():
        if path.read_text(encoding="utf-8") == text:
            return path
        if not force:
            raise PolicyFault(
                f"{str(path)!r} exists with other content, made with another seed perhaps",
                expected="no such file, or the same content",
                hint="--force replaces it; --out-dir puts the new one elsewhere",
            )
    write_atomic(path, text)
    return path

