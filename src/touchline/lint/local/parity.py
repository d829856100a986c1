"""Comparison of a training's rendering with evaluation's: from a config, a model folder and a data file."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchline.backends.registry import backend_names, training_row
from touchline.backends.run_config import build_run_config
from touchline.backends.simulation import RowSettings
from touchline.core.errors import TouchlineError
from touchline.core.files import read_json_object, read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.quantity import Missing
from touchline.data.datasets import load_examples
from touchline.data.images import read_image_rule
from touchline.data.readers import WHOLE
from touchline.data.rendering.chat import images_of
from touchline.data.rendering.text import ModelText, ShownRow, shown_row
from touchline.data.tokenizer import IsolatedTemplate, read_tokenizer
from touchline.experiment.data_config import DataConfig
from touchline.experiment.foreign import ForeignFileError, parse_foreign
from touchline.experiment.partial import Stated, StatedSource, StatedTraining
from touchline.experiment.training import DEFAULT_BACKEND
from touchline.lint.local.lookup import ROWS_LIMIT_BYTES, rows_of
from touchline.lint.rendering import RenderingView, SpecialInData, rendered, special_tokens_in
from touchline.lint.rule import check_view
from touchline.lint.training import DataFacts

_CONFIG_LIMIT_BYTES = 16 << 20
_SPLIT = re.compile(r"\w+")
_REGISTRY = "dataset_info.json"
_TEMPLATE_TOKENS = 256
"""The most that templates and system texts usually add to a row. A choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    path: Path
    rows: tuple[ShownRow, ...]
    is_planned: bool = False
    """Whether touchline renders the rows, for every backend alike."""


class Parity:
    """Comparison of trainings with their evaluation. Each tokenizer and each data file is read once.

    Args:
        models_dir: the folder of models that a config names without a path.
    """

    def __init__(self, models_dir: Path, date: str | None = None) -> None:
        self._models_dir = models_dir
        self._date = date or datetime.date.today().isoformat()  # noqa: DTZ011 (a template prints the day here)
        self._texts: dict[Path, tuple[ModelText | None, int | None, tuple[Finding, ...]]] = {}
        self._data: dict[tuple[Path, str, DataConfig | None], _Data | Missing] = {}
        self._special: dict[tuple[Path, int], tuple[SpecialInData, ...]] = {}
        self._views: dict[tuple[Path, int, str, RowSettings], RenderingView] = {}

    def findings(
        self, stated: StatedTraining, folder: Path, data: DataConfig | None = None, longest: int | None = None
    ) -> Iterator[Finding]:
        """Check the tokenizer and the rendering of one training; nothing if its model is not here.

        Args:
            data: how rows become chats, of an experiment or a finetune.yaml of ours; of other configs by the columns.
            longest: place of the row with the most tokens, where all rows are tokenized.
        """
        model = self._model(stated, folder)
        if model is None:
            return
        _, _, faults = self._text(model)
        yield from faults
        view = self.view(stated, folder, data, longest)
        if view is not None:
            yield from check_view(view, stated.where, stated.subject)

    def view(
        self, stated: StatedTraining, folder: Path, data: DataConfig | None = None, longest: int | None = None
    ) -> RenderingView | None:
        """Return both renderings of the shortest, a middle and the longest row. None if the model is not
        on this machine."""
        model = self._model(stated, folder)
        text, embedding_rows, _ = (None, None, ()) if model is None else self._text(model)
        if model is None or text is None:
            return None
        found = self._rows(stated, folder, data)
        where = stated.where if isinstance(found, Missing) else Location(path=str(found.path))
        settings = settings_of(stated)
        # The same rows are the same object, which is cached.
        key = (model, id(found), stated.backend, settings)
        if key in self._views:
            return replace(self._views[key], stated=stated)
        bare = RenderingView(
            text=text,
            settings=settings,
            backend=stated.backend,
            model=model.name,
            where_model=Location(path=str(model)),
            where_data=where,
            embedding_rows=embedding_rows,
            special_in_data=() if isinstance(found, Missing) else self._special_in(model, text, found),
            stated=stated,
        )
        if isinstance(found, Missing):
            return rendered(bare, (), found)
        render = training_row(DEFAULT_BACKEND if found.is_planned else stated.backend)
        view = self._views[key] = rendered(bare, _extremes(found.rows, longest), render)
        return view

    def with_longest_row(self, data: DataFacts, stated: StatedTraining, folder: Path) -> DataFacts:
        """Return the facts with the tokens of the longest training row, by bytes, if it can be rendered here.

        Without a tokenizer they are bounded: no token is shorter than a byte.
        """
        if sum(source.role == "train" for source in stated.sources) != 1:
            return data
        view = self.view(stated, folder)
        if view is None or not view.rows:
            found = self._rows(stated, folder, None)
            if isinstance(found, Missing) or any(row.media for row in found.rows):
                return data
            return replace(data, longest_evaluated=max(map(_length, found.rows)) + _TEMPLATE_TOKENS)
        trained = [row.trained.uncut for row in view.rows if not isinstance(row.trained, Missing)]
        if trained:
            return replace(data, longest_rendered=max(trained))
        stop = 1
        evaluated = max(len(row.prompt_ids) + len(view.text.ids(row.row.example.answer)) + stop for row in view.rows)
        return replace(data, longest_evaluated=evaluated)

    def _special_in(self, model: Path, text: ModelText, data: _Data) -> tuple[SpecialInData, ...]:
        key = (model, id(data))
        if key not in self._special:
            self._special[key] = special_tokens_in(text, data.rows)
        return self._special[key]

    def _model(self, stated: StatedTraining, folder: Path) -> Path | None:
        named = stated.model_path or stated.model
        if named is None:
            return None
        here = [folder / named.value, Path(named.value), self._models_dir / named.value]
        try:
            return next((path for path in here if (path / "tokenizer.json").is_file()), None)
        except (OSError, ValueError):
            return None

    def _text(self, model: Path) -> tuple[ModelText | None, int | None, tuple[Finding, ...]]:
        if model not in self._texts:
            faults: list[Finding] = []
            files = read_tokenizer(model, faults)
            errors = tuple(fault for fault in faults if fault.severity is Severity.ERROR)
            text = None
            if not errors and files.tokenizer_json is not None:
                images = read_image_rule(model)
                text = ModelText(
                    files.chat_template, files.tokenizer_json, files.tokens, self._date, IsolatedTemplate, images
                )
            self._texts[model] = (text, _embedding_rows(model), errors)
        return self._texts[model]

    def _rows(self, stated: StatedTraining, folder: Path, data: DataConfig | None) -> _Data | Missing:
        data, base = (data, folder) if data is not None else _own_data(stated)
        if data is not None:
            return self._examples(data, base)
        sources = [source for source in stated.sources if source.role == "train"]
        if not sources:
            return Missing(missing="the config names no data")
        path = _source_path(sources[0], folder)
        if path is None:
            return Missing(missing=f"{sources[0].name.value!r} is not a file on this machine")
        split = "" if sources[0].split is None else sources[0].split.value
        key = (path, split, None)
        if key not in self._data:
            self._data[key] = _read(path, split)
        return self._data[key]

    def _examples(self, data: DataConfig, base: Path) -> _Data | Missing:
        path = base / data.file
        key = (path, "train", data)
        if key not in self._data:
            try:
                examples = load_examples(data, "train", base)
                rows = tuple(
                    ShownRow(example=example, form="messages", media=bool(images_of(example.prompt)))
                    for example in examples
                )
                self._data[key] = (
                    _Data(path=path, rows=rows, is_planned=True) if rows else Missing(missing="no training rows")
                )
            except TouchlineError as fault:
                self._data[key] = Missing(missing=fault.message)
        return self._data[key]


def _extremes(rows: Sequence[ShownRow], longest: int | None = None) -> list[tuple[str, ShownRow]]:
    """Return the shortest, a middle and the longest row, by bytes; the longest by its place if that is known."""
    ordered = sorted(rows, key=_length)
    if longest is not None and len(ordered) > 2:
        ordered[-1] = rows[longest]
    if len(ordered) < 3:
        return list(zip(("shortest", "longest"), ordered, strict=False))
    return [("shortest", ordered[0]), ("middle", ordered[len(ordered) // 2]), ("longest", ordered[-1])]


def settings_of(stated: StatedTraining) -> RowSettings:
    """Collect a config's settings for rendering."""

    def value(setting: Stated[str] | None) -> str:
        return "" if setting is None else setting.value

    source = next((source for source in stated.sources if source.role == "train"), None)
    builder = "" if source is None or source.kind != "builder" else source.name.value
    limit, prompt = stated.max_seq_len, stated.trains_on_prompt
    if limit is not None and limit.key.startswith("dataset."):
        # A dataset's own limit is the length of its packed sequences. Where the tokenizer masks and truncates, it does
        # not use it.
        limit = None
    answers = prompt is not None and prompt.key.endswith("assistant_only_loss")
    return RowSettings(
        template=value(stated.template) or None,
        model=value(stated.model),
        dataset=builder if source is None or source.format is None else source.format.value,
        max_seq_len=None if limit is None else limit.value,
        trains_on_prompt=None if prompt is None or answers else prompt.value,
        answers_only=answers and prompt is not None and not prompt.value,
    )


def _length(row: ShownRow) -> int:
    texts = (*(turn.content for turn in row.example.prompt), row.example.answer)
    return sum(len(text.encode(errors="replace")) for text in texts)


def _read(path: Path, split: str) -> _Data | Missing:
    try:
        if path.stat().st_size > ROWS_LIMIT_BYTES:
            return Missing(missing=f"{path.name} is larger than {ROWS_LIMIT_BYTES >> 20} MiB")
        splits = rows_of(path).splits
    except (TouchlineError, OSError) as fault:
        return Missing(missing=f"{path.name} cannot be read: {fault}")
    wanted = match.group() if (match := _SPLIT.match(split)) is not None else "train"
    name = next((name for name in (wanted, WHOLE, "train") if name in splits), None)
    listed = splits.get(name, ()) if name is not None else ()
    shown = (shown_row(row.values, f"line {row.line}" if row.line else f"row {n}") for n, row in enumerate(listed, 1))
    rows = tuple(row for row in shown if row is not None)
    if not rows:
        what = "its columns are not a known chat format" if listed else "no row of it can be read"
        return Missing(missing=f"{path.name}: {what}")
    return _Data(path=path, rows=rows)


def _source_path(source: StatedSource, folder: Path) -> Path | None:
    """Return the file of a source, also of one that a dataset_info.json near the config registers."""
    name = source.name.value
    try:
        for base in (folder, Path()):
            if (path := base / name).is_file():
                return path
            for place in (base / _REGISTRY, base / "data" / _REGISTRY):
                if source.kind == "registered" and place.is_file() and (file := _registered(place, name)) is not None:
                    return file
    except (OSError, ValueError):
        pass
    return None


def _registered(registry: Path, name: str) -> Path | None:
    entry = (read_json_object(registry, _CONFIG_LIMIT_BYTES) or {}).get(name)
    file = entry.get("file_name") if isinstance(entry, dict) else None
    path = registry.parent / file if isinstance(file, str) else None
    return path if path is not None and path.is_file() else None


def _own_data(stated: StatedTraining) -> tuple[DataConfig | None, Path]:
    place = Path(stated.where.path)
    if stated.backend not in backend_names() or not place.is_file():
        return None, place.parent
    try:
        document = parse_foreign(read_text_bounded(place, _CONFIG_LIMIT_BYTES), str(place), "omegaconf")
        data = build_run_config(document.data, str(place)).data
    except (TouchlineError, ForeignFileError):
        return None, place.parent
    return data, place.parent


def _embedding_rows(model: Path) -> int | None:
    """Return `vocab_size` of config.json. For a model with several parts, use the part that generates text."""
    config = read_json_object(model / "config.json", _CONFIG_LIMIT_BYTES) or {}
    inner = config.get("text_config")
    size = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None
