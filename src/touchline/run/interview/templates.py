"""Templates of experiments: defaults of the interview's questions, and small example data.

Example data is the same in every call, so that two people who start from a template compare the same numbers.
"""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from touchline.core.files import write_atomic

_DATA = Path("data")
"""Folder of example data in an experiment's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """Starting point of an experiment."""

    name: str
    """Name, as `--template` takes it."""
    about: str
    """Purpose in a line."""
    create: Callable[[Path], tuple[Path, ...]]
    """Writes the example data into a folder; returns the datasets, one per stage."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Defaults of questions, by name."""
    is_chain: bool = False
    """Whether each dataset is a stage that continues from the one before."""
    has_images: bool = False
    """Whether it needs a vision-language model and a column of images."""


def _capitalization(folder: Path) -> tuple[Path, ...]:
    return (_words(folder, 8, 400),)


def _curriculum(folder: Path) -> tuple[Path, ...]:
    return _words(folder, 5, 400), _words(folder, 10, 400)


def _words(folder: Path, length: int, count: int) -> Path:
    from touchline.data.create import create_capitalization

    return create_capitalization(folder / _DATA, word_length=length, num_words=count, train_fraction=0.8, seed=14)


_PLACES = ("restaurant", "hotel", "museum", "bakery", "cinema", "library", "campsite", "theater", "garden", "market")
_OPINIONS = {
    "positive": ("was a delight", "exceeded our hopes", "made our day", "is worth every visit", "charmed us all"),
    "negative": ("was a letdown", "wasted our evening", "is best avoided", "left us cold", "was not worth the trip"),
    "neutral": ("is on the corner", "opens at nine", "has two floors", "was built in May", "is near the station"),
}


def _classification(folder: Path) -> tuple[Path, ...]:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("text", "label"))
    for place in _PLACES:
        for label, opinions in _OPINIONS.items():
            rows.writerows((f"The {place} {opinion}.", label) for opinion in opinions)
    return (_written(folder, "opinions.csv", text.getvalue()),)


_NOUNS = (
    *("apple", "bridge", "candle", "desert", "engine", "forest", "guitar", "hammer", "island", "jacket"),
    *("kettle", "ladder", "magnet", "napkin", "orange", "pencil", "rocket", "saddle", "tunnel", "violin"),
    *("window", "anchor", "basket", "copper", "dragon", "feather", "glacier", "harbor", "insect", "jungle"),
)
_ORDERS: Mapping[str, Callable[[str], str]] = {
    "Write the word backwards.": lambda word: word[::-1],
    "Write the first three letters of the word.": lambda word: word[:3],
    "Write the word in capital letters.": str.upper,
    "Write the word twice with a hyphen in between.": lambda word: f"{word}-{word}",
}


def _instruction(folder: Path) -> tuple[Path, ...]:
    rows = [
        {"instruction": order, "input": noun, "output": carry_out(noun)}
        for order, carry_out in _ORDERS.items()
        for noun in _NOUNS
    ]
    return (_written(folder, "instructions.jsonl", _lines(rows)),)


def _chat(folder: Path) -> tuple[Path, ...]:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"I have {first} books."},
                {"role": "assistant", "content": f"Noted: {first} books."},
                {"role": "user", "content": f"I buy {second} more. How many do I have?"},
                {"role": "assistant", "content": f"You have {first + second} books."},
            ]
        }
        for first in range(2, 14)
        for second in range(2, 12)
    ]
    return (_written(folder, "chats.jsonl", _lines(rows)),)


_COLORS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200), "white": (225, 225, 225)}
_PER_COLOR = 20


def _vision(folder: Path) -> tuple[Path, ...]:
    rows = []
    for number in range(_PER_COLOR):
        for name, (red, green, blue) in _COLORS.items():
            file = f"{name}_{number:02d}.png"
            pixel = (red + number, green + number, blue + number)
            write_atomic(folder / _DATA / file, _png(48 + 4 * number, 64, pixel))
            rows.append({"image": file, "input": "Which color is this picture?", "output": name})
    return (_written(folder, "colors.jsonl", _lines(rows)),)


def _png(width: int, height: int, pixel: tuple[int, int, int]) -> bytes:
    """Return a PNG file of one color."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\x00" + bytes(pixel) * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _lines(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _written(folder: Path, name: str, text: str) -> Path:
    path = folder / _DATA / name
    write_atomic(path, text)
    return path


TEMPLATES = {
    template.name: template
    for template in (
        Template(
            name="capitalization",
            about="write words with a capital letter, learned in minutes",
            create=_capitalization,
            defaults={"task": "capitalization", "learning_rate": "1e-3", "vary": "rank=4,64"},
        ),
        Template(
            name="classification",
            about="short texts with one of a few labels",
            create=_classification,
            defaults={"task": "classification"},
        ),
        Template(
            name="instruction",
            about="instruction, input and output columns",
            create=_instruction,
            defaults={"task": "exact_match", "vary": "learning_rate=1e-4,1e-3"},
        ),
        Template(
            name="chat",
            about="chats of several turns; the last one is the answer",
            create=_chat,
            defaults={"task": "exact_match"},
        ),
        Template(
            name="curriculum",
            about="a chain of trainings, each continuing from the one before",
            create=_curriculum,
            defaults={"task": "capitalization", "learning_rate": "1e-3", "vary": "none"},
            is_chain=True,
        ),
        Template(
            name="vision",
            about="images with a question and an answer",
            create=_vision,
            defaults={"task": "classification"},
            has_images=True,
        ),
    )
}
"""Templates by name."""
