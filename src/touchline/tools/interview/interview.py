"""State of an interview: the answers so far, and the evidence for the defaults of the next ones.

Evidence is the user's config, models and data on this machine, and the machine itself. It is read when a default needs
it, and once.
"""

from __future__ import annotations

import functools
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from touchline.core.catalog import DatasetInfo, ModelInfo
from touchline.core.clock import today
from touchline.core.errors import InputError
from touchline.core.finding import Finding, Severity
from touchline.core.machine import TargetMachine
from touchline.core.quantity import Missing
from touchline.data.create import create_capitalization
from touchline.data.datasets import load_dataset, load_examples
from touchline.data.machine import machine_here
from touchline.data.models import find_models
from touchline.data.planned_models import load_planned_model
from touchline.data.readers import read_rows
from touchline.data.resolving import with_columns
from touchline.data.user_config import UserConfig
from touchline.estimate.gpus import similar_gpus
from touchline.experiment.data_config import DataConfig
from touchline.experiment.tasks.classification import LISTED_LABELS
from touchline.experiment.tasks.ready_made import TASKS, get_task
from touchline.experiment.value_types import SlurmSite
from touchline.plan.local.lengths import training_lengths
from touchline.slurm.local.commands import RealCommands, ask_partitions
from touchline.slurm.site_facts import gpus_offered

DATA_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".parquet"})
"""Endings of data files."""
_OTHER_FILES = frozenset({"package.json", "package-lock.json", "plan.json", "tsconfig.json"})
_ROWS_PER_LABEL = 5
"""Minimum rows per distinct value for a column to count as labels."""
_LABEL_CHARACTERS = 60
_INSTRUCTION = "instruction"
"""Column of Alpaca files that says what to do in each row."""
_DATA = "data"
"""Folder of example data in an experiment's folder."""


class AnswerSource(StrEnum):
    """Origin of an answer."""

    FLAG = "flag"
    KEYBOARD = "keyboard"
    DEFAULT = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Answer to a question."""

    question: str
    """Name of the question."""
    flag: str
    """Flag that gives the same answer."""
    texts: tuple[str, ...]
    """The answer as typed; several entries where the flag is repeated."""
    source: AnswerSource
    """Origin of the answer."""
    reason: str
    """Evidence for a default; empty for other answers."""


class Interview:
    """Answers so far, and evidence for the next defaults."""

    def __init__(self, target: Path | None, settings: UserConfig) -> None:
        self.target = target
        self.settings = settings
        self.answers: dict[str, Answer] = {}
        self.columns_are_given = False
        """Whether answers name the columns, so that errors of other columns do not count."""
        self._values: dict[str, Any] = {}
        self._data: tuple[Path, ...] = ()
        self._drafts: tempfile.TemporaryDirectory[str] | None = None
        self._models: dict[str, ModelInfo] = {}

    # ---- answers ----------------------------------------------------------------------------------------------------

    def value(self, name: str) -> Any:
        """Return the value of an answer. None before it is given."""
        return self._values.get(name)

    def keep(self, answer: Answer, value: Any) -> None:
        """Keep an answer with the value that was read from it."""
        self._values[answer.question] = value
        self.answers[answer.question] = answer

    def reason(self, name: str) -> str:
        """Return the evidence for an answer that is a default. Empty for other answers."""
        return self.answers[name].reason if name in self.answers else ""

    # ---- folder -----------------------------------------------------------------------------------------------------

    @property
    def has_example_data(self) -> bool:
        """Return whether the data is created by touchline."""
        return self._drafts is not None

    @property
    def folder(self) -> Path:
        """Return the experiment's folder, named after the experiment or the data if none is given."""
        if self.target is not None:
            return self.target
        if (name := self.value("name")) is not None:
            return Path(name)
        is_own = self._data and not self.has_example_data
        return Path(plain_name(self._data[0].stem if is_own else "capitalization"))

    @property
    def is_folder_known(self) -> bool:
        """Return whether the folder depends on no further answer."""
        return self.target is not None or self.value("name") is not None or bool(self._data)

    @property
    def folder_name(self) -> str:
        """Return the folder's name as the name of an experiment."""
        return plain_name(self.folder.absolute().name)

    @property
    def question(self) -> str:
        """Return the question that the factors ask."""
        factors = [key for key, levels in (self.value("vary") or {}).items() if len(levels) > 1]
        names = [key.rpartition(".")[2].replace("_", " ") for key in factors]
        names += ["base model"] if len(self.value("model") or ()) > 1 else []
        if factors == ["train.lora.rank"] and len(names) == 1:
            return "Does a higher LoRA rank give better answers on unseen rows?"
        names += ["dataset"] if len(self._data) > 1 else []
        if not names:
            return "Does training give better answers on unseen rows?"
        return f"Which {' and '.join(names)} gives the best answers on unseen rows?"

    # ---- models -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def usable_models(self) -> list[ModelInfo]:
        """Models under models_dir that can be trained on such data."""
        return [model for model in find_models(self.settings.models_dir) if not model_errors(model)]

    def load_model(self, name: str) -> ModelInfo:
        """Return a model by name or path.

        Raises:
            InputError: it is a data file, is not on this machine, or has errors.
        """
        if name not in self._models:
            if Path(name).suffix.lower() in DATA_SUFFIXES:
                raise InputError(f"{name!r} is a data file", expected="a base model", hint=f"--data {name}")
            model = load_planned_model(name, self.settings.models_dir)
            if errors := model_errors(model):
                raise InputError(f"{model.name} cannot be used", findings=errors)
            self._models[name] = model
        return self._models[name]

    @property
    def models(self) -> list[ModelInfo]:
        """Return the base models of the answer."""
        return [self.load_model(name) for name in self.value("model")]

    # ---- machine ----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def machine(self) -> TargetMachine:
        """This machine."""
        return machine_here(1)

    @property
    def has_slurm(self) -> bool:
        """Return whether jobs can be submitted here."""
        return shutil.which("sbatch") is not None

    @property
    def is_slurm_configured(self) -> bool:
        """Return whether the user's config file has settings for SLURM."""
        return self.settings.slurm != SlurmSite()

    @property
    def has_cluster(self) -> bool:
        """Return whether jobs of a cluster can be submitted here, or the user's config file has settings for one."""
        return self.has_slurm or self.is_slurm_configured

    @functools.cached_property
    def offered_gpus(self) -> list[str] | Missing:
        """Known GPU types of the cluster, or why they are unknown."""
        partitions = ask_partitions(RealCommands())
        if isinstance(partitions, Missing):
            return partitions
        return [names[-1] for kind in gpus_offered(partitions) if (names := similar_gpus(kind))]

    # ---- data -------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def data_files(self) -> list[Path]:
        """Data files in the working directory, the largest first."""
        try:
            files = [path for path in Path().iterdir() if path.suffix.lower() in DATA_SUFFIXES and path.is_file()]
        except OSError:
            return []
        sizes = {path: path.stat().st_size for path in files if path.name not in _OTHER_FILES}
        return sorted((path for path in sizes if sizes[path]), key=lambda path: (-sizes[path], path.name))

    def read_data(self, paths: Sequence[Path] | None) -> tuple[Path, ...]:
        """Take datasets; create example data in a temporary folder for None.

        Raises:
            InputError: a dataset has errors that naming its columns does not fix.
        """
        drafts = None if paths is not None else tempfile.TemporaryDirectory(prefix="touchline-init-")
        found = (_create_words(Path(drafts.name)),) if drafts is not None else tuple(paths or ())
        for path in found:
            columns = self._columns_of(path, None, None)
            errors = self._errors(columns)
            if errors and not self.columns_are_given and self._names_columns(columns):
                raise _unusable(columns, errors)
        self._drafts, self._data = drafts, found
        return found

    @property
    def data(self) -> tuple[Path, ...]:
        """Return the datasets."""
        return self._data

    @property
    def column_names(self) -> list[str]:
        """Return the columns of the first dataset. Empty before there is one."""
        if not self._data:
            return []
        rows = [row for split in read_rows(self._data[0]).splits.values() for row in split[:20]]
        return list(dict.fromkeys(name for row in rows for name in row.values))

    @property
    def is_by_columns(self) -> bool:
        """Return whether the data has columns for prompt and answer, which the user has to confirm."""
        return not self._data or (not self.has_example_data and self.columns.messages is None)

    @property
    def has_columns(self) -> bool:
        """Return whether the columns of prompt and answer are known."""
        return bool(self._data) and self._names_columns(self.columns)

    @property
    def columns(self) -> DataConfig:
        """Return the data settings of the last dataset, its path absolute."""
        return self._columns_of(self._data[-1], self.value("input"), self.value("output"))

    def _columns_of(self, path: Path, inputs: Sequence[str] | None, output: str | None) -> DataConfig:
        data = DataConfig(path=str(path.absolute()))
        given: set[str] = set()
        if inputs:
            data = replace(data, input=inputs[0] if len(inputs) == 1 else tuple(inputs))
            given.add("data.input")
        if output is not None:
            data = replace(data, output=output)
            given.add("data.output")
        return with_columns(data, given, Path(), self.settings.cache_dir)

    def _names_columns(self, columns: DataConfig) -> bool:
        """Return False if a file has several columns but not those of the prompt and the answer."""
        inputs = (columns.input,) if isinstance(columns.input, str) else columns.input
        wanted = {*inputs, columns.output} if columns.messages is None else {columns.messages}
        rows = [row for split in read_rows(Path(columns.file)).splits.values() for row in split[:1]]
        return not any(len(row.values) > 1 and not row.values.keys() >= wanted for row in rows)

    def refuse_data(self, output: str) -> None:
        """Raise InputError if a dataset has errors with the columns of the answers."""
        for path in self._data:
            columns = self._columns_of(path, self.value("input"), output)
            if errors := self._errors(columns):
                raise _unusable(columns, errors)

    def _errors(self, columns: DataConfig) -> list[Finding]:
        info = load_dataset(columns, Path(), self.settings.cache_dir)
        return [finding for finding in info.findings if finding.severity is Severity.ERROR]

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """The last dataset and its splits."""
        return load_dataset(self.columns, Path(), self.settings.cache_dir)

    def split_rows(self, split: str) -> int:
        """Return the rows of a split of the last dataset."""
        return next((each.num_examples for each in self.info.splits if each.name == split), 0)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Distinct answers, if they are a few labels; else empty. Instructions of many kinds have no common labels."""
        inputs = (self.columns.input,) if isinstance(self.columns.input, str) else self.columns.input
        rows = [row.values for split in read_rows(self._data[-1]).splits.values() for row in split]
        asked = {str(row.get(_INSTRUCTION)) for row in rows} if _INSTRUCTION in inputs else set()
        answers = [example.answer for example in load_examples(self.columns, "train", Path())]
        labels = sorted(set(answers))
        is_few = 1 < len(labels) <= LISTED_LABELS and len(answers) >= _ROWS_PER_LABEL * len(labels)
        is_few = is_few and len(asked) <= len(labels)
        return tuple(labels) if is_few and all(len(label) <= _LABEL_CHARACTERS for label in labels) else ()

    @functools.cached_property
    def _lengths(self) -> list[Any]:
        """Token lengths of the training rows, for every model and dataset."""
        task = self.value("task")
        prompt = get_task(task, self.labels if task == "classification" else ()).prompt if task in TASKS else None
        found = []
        for path in self._data:
            columns = self._columns_of(path, self.value("input"), self.value("output"))
            asked = columns if columns.messages is not None else replace(columns, prompt=prompt)
            for model in self.models:
                found.append(training_lengths(model, asked, Path(), today(), self.settings))
        return found

    @property
    def row_tokens(self) -> tuple[int, float, int]:
        """Return the shortest, mean and longest training row in tokens."""
        rows = [lengths.prompt + lengths.answer for lengths in self._lengths]
        return (
            int(min(each.min() for each in rows)),
            float(sum(each.sum() for each in rows) / sum(len(each) for each in rows)),
            int(max(each.max() for each in rows)),
        )

    @property
    def answer_tokens(self) -> int:
        """Return the tokens of the longest answer in the training rows."""
        return int(max(lengths.answer.max() for lengths in self._lengths))

    # ---- files ------------------------------------------------------------------------------------------------------

    def written_data(self) -> list[Path]:
        """Return where the datasets will be: example data in the experiment's folder, others where they are."""
        return [self.folder / _DATA / path.name if self.has_example_data else path for path in self._data]

    def write_example_data(self) -> None:
        """Write the example data into the experiment's folder.

        Raises:
            PolicyError: there is a file of that name with other content.
        """
        if self.has_example_data:
            _create_words(self.folder / _DATA)

    def close(self) -> None:
        """Delete the temporary folder of example data."""
        if self._drafts is not None:
            self._drafts.cleanup()


def _create_words(folder: Path) -> Path:
    """Write words to capitalize, the same in every call."""
    return create_capitalization(folder, word_length=8, num_words=400, train_fraction=0.8, seed=14)


def plain_name(text: str) -> str:
    """Return a text as a name of a folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
    return name[:60] or "experiment"


def model_errors(model: ModelInfo) -> list[Finding]:
    """Return the errors of a model's folder."""
    return [finding for finding in model.findings if finding.severity is Severity.ERROR]


def _unusable(columns: DataConfig, errors: Sequence[Finding]) -> InputError:
    return InputError(f"{columns.path!r} cannot be used yet", findings=errors)


def as_findings(error: InputError, flag: str) -> list[Finding]:
    """Return what is wrong with an answer, each finding with its flag."""
    if error.findings:
        # The columns are checked before: what is wrong with the rows is a matter of the file.
        flags = ["--data" if finding.code.startswith("DA") else flag for finding in error.findings]
        named = zip(flags, error.findings, strict=True)
        return [replace(finding, subject=own, message=f"{own}: {finding.message}") for own, finding in named]
    expected = "" if error.expected is None else f", expected {error.expected}"
    finding = Finding(
        code="EX003",
        severity=Severity.ERROR,
        subject=flag,
        message=f"{flag}: {error.message}{expected}",
        hint=error.hint,
    )
    return [finding]
