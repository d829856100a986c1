"""Resolution of dataset columns that were not given, by the same function as the data audit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from touchline.core.catalog import Example, ModelInfo
from touchline.core.errors import HostError, InputError
from touchline.core.files import sha256_file
from touchline.data.chats import Prompt
from touchline.data.columns import column_counts, resolve_columns
from touchline.data.dataset_cache import Columns, keep_columns, known_columns
from touchline.data.datasets import load_examples, load_rows
from touchline.data.models import load_renderer
from touchline.data.readers import read_rows
from touchline.experiment.experiment import DataConfig
from touchline.experiment.plan import ShownExample

_SHOWN_CHARACTERS = 3000
_KEPT_AT_THE_END = 600


def with_columns(data: DataConfig, given: Collection[str], base: Path, cache_dir: Path | None) -> DataConfig:
    """Return the data settings with the columns that were not given found in the file.

    A file that cannot be read leaves them as they are: its loader says what is wrong with it.
    """
    try:
        columns = _columns((base / Path(data.file).expanduser()).resolve(strict=True), cache_dir)
    except (InputError, HostError, OSError, RuntimeError, ValueError):
        return data
    counts = {name: sum(kinds.values()) for name, kinds in columns.items()}
    return resolve_columns(data, given, counts, {name: Counter(kinds) for name, kinds in columns.items()})


def _columns(path: Path, cache_dir: Path | None) -> Columns:
    if not path.is_file():
        raise InputError(f"{str(path)!r} is not a file")
    key = hashlib.sha256(f"{sha256_file(path)} {path.suffix.lower()}".encode()).hexdigest()
    kept = None if cache_dir is None else known_columns(cache_dir, key)
    if kept is not None:
        return kept
    _, kinds = column_counts(row.values for rows in read_rows(path).splits.values() for row in rows)
    found = {name: dict(each) for name, each in kinds.items()}
    if cache_dir is not None:
        keep_columns(cache_dir, key, found)
    return found


def shown_example(model: ModelInfo, data: DataConfig, base: Path, date: str, cluster: str | None) -> ShownExample:
    """Return the first training row as it is trained: prompt, label span and the columns used.

    Raises:
        InputError: dataset, tokenizer or chat template cannot be used.
    """
    example, *_ = load_examples(data, "train", base)
    renderer = load_renderer(model, date)
    rendered = renderer.example(example)
    used, unused = _used(data, base, cluster)
    return ShownExample(
        dataset=data.file,
        model=model.name,
        row=example.id,
        columns_used=used,
        columns_not_used=unused,
        prompt=_bounded(renderer.decode(rendered.prompt_ids, keep_special=True)),
        label=_bounded(renderer.decode(rendered.answer_ids, keep_special=True)),
        prompt_tokens=len(rendered.prompt_ids),
        label_tokens=len(rendered.answer_ids),
    )


def first_row(data: DataConfig, base: Path) -> tuple[Example, tuple[str, ...], tuple[str, ...]] | None:
    """Return the first training row as a chat, the columns used, and those not used. None without rows."""
    examples = load_examples(data, "train", base)
    return (examples[0], *_used(data, base, None)) if examples else None


def _used(data: DataConfig, base: Path, cluster: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    columns = dict.fromkeys(name for row in load_rows(data, "train", base) for name in row)
    roles = {data.output: "answer"} if data.messages is None else {data.messages: "chat"}
    if data.messages is None:
        shown = Prompt("{input}" if data.prompt is None else data.prompt, data.input).columns
        roles |= {name: "prompt" for name in columns if name in shown}
    if cluster is not None:
        roles.setdefault(cluster, "cluster")
    used = tuple(f"{name} ({roles[name]})" for name in columns if name in roles)
    return used, tuple(name for name in columns if name not in roles)


def _bounded(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    left_out = len(text) - _SHOWN_CHARACTERS
    begin = text[: _SHOWN_CHARACTERS - _KEPT_AT_THE_END]
    return f"{begin}\n[... {left_out:,} characters not shown ...]\n{text[-_KEPT_AT_THE_END:]}"
