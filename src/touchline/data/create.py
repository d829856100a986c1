"""Word lists, and the datasets generated from them. Equal arguments give equal bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from touchline.core.errors import HostError, InputError, PolicyError
from touchline.core.files import disk_errors, read_bytes, read_text_bounded, write_atomic
from touchline.experiment.tasks.ready_made import dataset_file_name, generate_capitalization

_LIMIT_BYTES = 64 << 20
"""Size of the largest word list that is read."""
AMERICAN_ENGLISH = {
    "name": "american-english (SCOWL, by Kevin Atkinson; Debian package wamerican)",
    "version": "2020.12.07-2",
    "licence": "SCOWL: use, copy, modify, distribute and sell with the copyright notice",
    "sha256": "2dcd1951cfcf1394f3ceafd0502ae095020778bcbeb84d1531a4662d2e7d8348",
    "selection": "words of 3 to 15 letters, a to z only, lower case in the source",
}
"""Origin of a word list, as a dataset made of it states it: name, version, licence, hash of the text, selection."""
AMERICAN_ENGLISH_HUGE = {
    **AMERICAN_ENGLISH,
    "name": "american-english-huge (SCOWL, by Kevin Atkinson; Debian package wamerican-huge)",
    "sha256": "5abebd7024688b2a29782d4f6ae2ec2a5c190ceb40dd4f17da257572529e8e53",
}
_FILES = {
    AMERICAN_ENGLISH["sha256"]: "american-english.txt",
    AMERICAN_ENGLISH_HUGE["sha256"]: "american-english-huge.txt.gz",
}


def load_words(words: Mapping[str, str] = AMERICAN_ENGLISH) -> list[str]:
    """Return the words of a list that comes with touchline, sorted.

    Raises:
        HostError: the installed file differs from the one that was shipped.
    """
    name = _FILES[words["sha256"]]
    data = (resources.files("touchline.data") / "wordlists" / name).read_bytes()
    try:
        data = gzip.decompress(data) if name.endswith(".gz") else data
    except (OSError, EOFError):
        data = b""
    if hashlib.sha256(data).hexdigest() != words["sha256"]:
        raise HostError(
            f"the installed word list {name} was changed, so its datasets would not be reproducible",
            expected=f"a file with the hash {words['sha256']}",
            hint="pip install --force-reinstall --no-deps touchline",
        )
    return data.decode("ascii").split()


def _choose_words(word_length: int, num_words: int, file: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """Return a word list and its origin: the given file, or the smaller of the two shipped lists that has enough words.

    Raises:
        InputError: the file is missing, is not UTF-8 text, or has no such words.
        HostError: a shipped list was changed.
    """
    if file is not None:
        return _read_list(file, word_length)
    words = load_words()
    if sum(len(word) == word_length for word in words) >= num_words:
        return words, AMERICAN_ENGLISH
    return load_words(AMERICAN_ENGLISH_HUGE), AMERICAN_ENGLISH_HUGE


def count_words(word_length: int) -> int:
    """Return the number of words of one length in the larger list that comes with touchline."""
    return sum(len(word) == word_length for word in load_words(AMERICAN_ENGLISH_HUGE))


def _read_list(file: Path, word_length: int) -> tuple[list[str], dict[str, str]]:
    """Return the words of a file that are in lower case and have letters only, in any script."""
    text = read_text_bounded(file, _LIMIT_BYTES)
    lines = {line.strip() for line in text.splitlines()}
    words = sorted(word for word in lines if word.isalpha() and word == word.lower() != word.capitalize())
    if not any(len(word) == word_length for word in words):
        lengths = Counter(len(word) for word in words)
        common = lengths.most_common(1)
        there = ", ".join(f"{length} letters: {lengths[length]:,}" for length in sorted(lengths))
        raise InputError(
            f"{str(file)!r} has no lower-case words of {word_length} letters",
            expected=f"one word per line (available: {there})" if lengths else "one word per line",
            hint=f"--word-length {common[0][0]}" if common else None,
        )
    about = {
        "name": file.name,
        "version": "",
        "licence": "not stated",
        "sha256": hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest(),
        "selection": "lower-case words of letters only",
    }
    return words, about


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
    chosen, origin = _choose_words(word_length, num_words, words)
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
