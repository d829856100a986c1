"""Generated datasets. Equal arguments give equal bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from touchline.core.errors import InputError, PolicyError
from touchline.core.files import disk_errors, read_bytes, write_atomic
from touchline.data.words import choose_words
from touchline.experiment.tasks.capitalization import dataset_file_name, generate_capitalization

GENERATOR_VERSION = 1
"""Version of the generator; it changes if the same arguments would give other words."""


def create_capitalization(
    out_dir: Path,
    *,
    word_length: int,
    num_words: int,
    train_fraction: float,
    seed: int,
    words: Path | None = None,
    force: bool = False,
) -> Path:
    """Write `words_8L_80P_2000.json` into `out_dir`, unless it exists.

    Raises:
        InputError: the word list has too few such words, a split would be empty, or the seed is negative.
        PolicyError: there is a file of that name with other content, and `force` is not given.
        HostError: the folder cannot be written to.
    """
    if seed < 0:
        raise InputError(f"the seed is {seed}", expected="0 or more", hint="--seed 14")
    chosen, origin = choose_words(word_length, num_words, words)
    splits = generate_capitalization(
        chosen,
        word_length=word_length,
        num_words=num_words,
        train_fraction=train_fraction,
        rng=np.random.Generator(np.random.PCG64(seed)),
    )
    about = {
        "generator": "touchline data create capitalization",
        "version": GENERATOR_VERSION,
        "word_list": origin,
        "word_length": word_length,
        "num_words": num_words,
        "train_fraction": train_fraction,
        "seed": seed,
        "splits": "random splits of one random choice of words; no word is in two of them",
    }
    content = (json.dumps({"about": about, **splits}, indent=1) + "\n").encode()
    path = out_dir / dataset_file_name(word_length, train_fraction, num_words)
    if not all(folder.is_dir() for folder in (out_dir, *out_dir.parents) if folder.exists()):
        raise InputError(f"{str(out_dir)!r} is not a directory", expected="a folder, which need not exist yet")
    with disk_errors("dataset", path):
        present = path.exists()
        # The size first: a file that only has the name may be of any size.
        if present and path.is_file() and path.stat().st_size == len(content) and read_bytes(path) == content:
            return path
    if present and (not force or not path.is_file()):
        raise PolicyError(
            f"{str(path)!r} exists with different content, for example from another seed",
            expected="no such file, or the same content",
            hint="replace it with --force, or choose another folder with --out-dir",
        )
    write_atomic(path, content)
    return path
