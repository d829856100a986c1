"""Exact token lengths of a split, by the model's tokenizer and template, cached; and files of lengths."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from pydantic import TypeAdapter

from touchline.core.callbacks import ProgressCallback
from touchline.core.catalog import Example, ModelInfo
from touchline.core.errors import HostError, InputError
from touchline.core.files import read_bytes, write_atomic
from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing
from touchline.data.datasets import load_dataset, load_examples
from touchline.data.images import read_image_rule
from touchline.data.models import load_renderer
from touchline.data.rendering.chat import ImageRule, common_prefix, images_of
from touchline.data.tokenizer import read_chat_template
from touchline.experiment.data_config import DataConfig

_VERSION = 5
"""Version of the cache; it changes if the same rows would render differently or the format changes."""
_FOLDER_LIMIT_BYTES = 256 << 20
"""Size limit of the cache; a million examples take 4 MB."""
_SAY_EVERY = 1000
"""Examples between two progress reports."""
_DATA = TypeAdapter(DataConfig)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenLengths:
    """Tokens of every example of a split, in dataset order."""

    prompt: NDArray[np.uint32]
    """Tokens per prompt; shape [examples]."""
    answer: NDArray[np.uint32]
    """Tokens per answer with its stop token; shape [examples]."""
    prefix: int = 0
    """Tokens of the common prefix of all prompts, excluding at least the last token of each."""
    patches: int = 0
    """Patches of all images, as the model's image processor scales them."""
    patch_squares: int = 0
    """Sum of the squared patches of each image."""


def token_lengths(
    model: ModelInfo,
    data: DataConfig,
    split: str,
    base: Path,
    date: str,
    cache_dir: Path,
    on_progress: ProgressCallback | None = None,
) -> TokenLengths:
    """Return the token lengths of one split.

    Args:
        split: `train`, `validation` or `test`; one that is not there has no lengths.
        cache_dir: where they are kept.

    Raises:
        InputError: dataset, tokenizer or chat template cannot be used.
    """
    dataset = load_dataset(data, base, cache_dir)
    info = next((item for item in dataset.splits if item.name == split), None)
    if info is None:
        return TokenLengths(prompt=np.empty(0, np.uint32), answer=np.empty(0, np.uint32))
    rule = read_image_rule(Path(model.path)) if dataset.images else None
    patches = _patches(rule, load_examples(data, split, base)) if isinstance(rule, ImageRule) else []
    identity = info.sha256 if rule is None else f"{info.sha256} {rule if isinstance(rule, Missing) else patches}"
    path = cache_dir / "lengths" / f"{_key(model, data, identity, date)}.npz"
    cached = _read(path, info.num_examples)
    if cached is not None:
        return replace(cached, patches=sum(patches), patch_squares=sum(count**2 for count in patches))
    renderer = load_renderer(model, date)
    examples = load_examples(data, split, base)
    counts = np.empty((2, len(examples)), dtype=np.uint32)
    ends: list[tuple[int, ...]] = []
    for number, rendered in enumerate(renderer.examples(examples)):
        counts[:, number] = len(rendered.prompt_ids), len(rendered.answer_ids)
        # What the first and the last in order begin with, all between them do.
        ends = [min(*ends, rendered.prompt_ids), max(*ends, rendered.prompt_ids)] if ends else [rendered.prompt_ids] * 2
        if on_progress is not None and number % _SAY_EVERY == 0:
            on_progress(number, len(examples))
    # The trainer shares no prefix in a model whose positions depend on images.
    shares = len(examples) > 1 and not model.vision
    prefix = min(common_prefix(ends), int(counts[0].min()) - 1) if shares else 0
    lengths = TokenLengths(
        prompt=counts[0].copy(),
        answer=counts[1].copy(),
        prefix=prefix,
        patches=sum(patches),
        patch_squares=sum(count**2 for count in patches),
    )
    _write(path, lengths)
    return lengths


def _patches(rule: ImageRule, examples: Iterable[Example]) -> list[int]:
    """Return the patches of each image: what the lengths depend on apart from the rows."""
    patches_of = functools.cache(rule.patches_of)
    return [patches_of(image) for example in examples for image in images_of(example.prompt)]


def _key(model: ModelInfo, data: DataConfig, rows: str, date: str) -> str:
    """Return the hash of everything that affects the lengths: rows, images, tokenizer and its library, template,
    columns, prompt, and for some the date."""
    settings = {**json.loads(_DATA.dump_json(data.as_file(""))), "train_fraction": 0, "split_seed": 0}
    dated = "strftime_now" in (read_chat_template(Path(model.path)) or "")
    identity = [_VERSION, tokenizers.__version__, rows, model.tokenizer_sha256, settings, date if dated else ""]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _write(path: Path, lengths: TokenLengths) -> None:
    # Two bytes where they do, and not compressed: unpacking a million lengths takes longer than reading them.
    longest = max(int(part.max(initial=0)) for part in (lengths.prompt, lengths.answer))
    dtype = np.uint16 if longest <= np.iinfo(np.uint16).max else np.uint32
    buffer = io.BytesIO()
    np.savez(
        buffer,
        prompt=lengths.prompt.astype(dtype),
        answer=lengths.answer.astype(dtype),
        prefix=np.array([lengths.prefix], dtype=np.uint32),
    )
    try:
        write_atomic(path, buffer.getvalue())
        _bound(path.parent, keep=path)
    except (HostError, OSError):
        # A cache that cannot be written costs time the next time, and nothing now.
        return


def _bound(folder: Path, keep: Path) -> None:
    """Delete the oldest files of the cache until it is within its limit."""
    found = [(path, path.stat()) for path in folder.glob("*.npz") if path != keep]
    total = keep.stat().st_size + sum(stat.st_size for _, stat in found)
    for path, stat in sorted(found, key=lambda each: each[1].st_mtime_ns):
        if total <= _FOLDER_LIMIT_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size


def _read(path: Path, count: int) -> TokenLengths | None:
    try:
        # From memory: given a path to a broken file, numpy leaves it open.
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            parts = file["prompt"], file["answer"]
            prefix = file["prefix"]
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, TypeError, AttributeError):
        return None
    except (zipfile.BadZipFile, zlib.error):
        return None
    if any(part.shape != (count,) or part.dtype not in (np.uint16, np.uint32) for part in parts):
        return None
    if prefix.shape != (1,) or prefix.dtype != np.uint32:
        return None
    return TokenLengths(prompt=parts[0].astype(np.uint32), answer=parts[1].astype(np.uint32), prefix=int(prefix[0]))


_LIMIT_BYTES = 4 << 30
_SHOWN = 10
_LONGEST = int(np.iinfo(np.uint32).max)
_EXPECTED = "a .npy array of integers, or a text file with one integer per line"


def read_lengths(path: Path) -> NDArray[np.uint32]:
    """Return the tokens of each example, in file order; shape [examples], each at least 1.

    Raises:
        InputError: there is no such file, it holds no lengths, or some are not positive integers; the first ten of them
            are named.
        HostError: it may not be read.
    """
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise InputError(f"{str(path)!r} is larger than 4 GiB", expected=_EXPECTED)
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise InputError(f"{str(path)!r} does not exist", expected=_EXPECTED) from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder", expected=_EXPECTED) from None
    except OSError as error:
        raise HostError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    lengths = _array(content, path) if content.startswith(b"\x93NUMPY") else _lines(content, path)
    if not len(lengths):
        raise InputError(f"{str(path)!r} contains no lengths", expected=_EXPECTED)
    return lengths


def _array(content: bytes, path: Path) -> NDArray[np.uint32]:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, MemoryError, SyntaxError) as error:
        raise InputError(f"{str(path)!r} is not a valid .npy file: {error}", expected=_EXPECTED) from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{str(path)!r} contains an array of shape {array.shape} and type {array.dtype}",
            expected="one dimension, integers",
        )
    wrong = np.flatnonzero((array < 1) | (array > _LONGEST))
    _refuse(path, [(f"element {index}", str(array[index])) for index in wrong[:_SHOWN]], len(wrong))
    lengths: NDArray[np.uint32] = array.astype(np.uint32)
    return lengths


def _lines(content: bytes, path: Path) -> NDArray[np.uint32]:
    found: list[int] = []
    wrong: list[tuple[str, str]] = []
    for number, line in enumerate(content.splitlines(), 1):
        text = line.strip()
        if not text:
            continue
        # Digits alone: int() would also take underscores, signs and the digits of other scripts.
        if text.isdigit() and 0 < (value := int(text[:20])) <= _LONGEST:
            found.append(value)
        else:
            wrong.append((f"line {number}", text[:40].decode("utf-8", "replace")))
    _refuse(path, wrong[:_SHOWN], len(wrong))
    return np.array(found, dtype=np.uint32)


def _refuse(path: Path, shown: list[tuple[str, str]], count: int) -> None:
    if not count:
        return
    findings = [
        Finding(
            code="PK010",
            severity=Severity.ERROR,
            subject=place,
            message=f"{place} is {text!r}, expected a positive integer",
            where=Location(path=str(path)),
        )
        for place, text in shown
    ]
    raise InputError(f"{str(path)!r}: {count:,} values are not lengths", expected=_EXPECTED, findings=findings)
