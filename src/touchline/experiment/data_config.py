"""Settings of the dataset: one file with all rows, or a file each for training, validation and test."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import MinLen

from touchline.experiment.value_types import Fraction, NonNegativeInt, Text

DATASET_KEYS = ("data.path", "data.train")
"""Keys whose file names the dataset; an experiment has one of them."""
TRAINING_KEYS = ("data.train", "data.validation")
"""Keys of the separate files that a training reads."""
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def split_of(key: str) -> str:
    """Return the split of a file by its dotted key: `train`, `test`, `test.5L`."""
    return key.removeprefix("data.")


def shown_split(name: str) -> str:
    """Return a split as tables and messages show it: `test 5L` of `test.5L`."""
    return name.replace(".", " ")


def is_test(split: str) -> bool:
    """Return True for a split of test rows: `test`, or `test.9L` of a further test set."""
    return split.partition(".")[0] == "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Dataset, in one file or in several, and the columns that form a chat."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    path: Text | None = None
    """File with all rows: JSON, JSONL, CSV or parquet, relative to experiment.yaml. Or give `train`, `validation` and
    `test`, a file each."""
    train: Text | None = None
    """File with the training rows. If a file contains splits, each of these keys takes the split of its name."""
    validation: Text | None = None
    """File with the validation rows. Without it there is no validation loss."""
    test: Text | dict[Text, Text] | None = None
    """File with the rows that the runs are scored on, or several by name, `{5L: five.json, 9L: nine.json}`. Claims are
    made on the first one."""
    input: Text | Annotated[tuple[Text, ...], MinLen(2)] = "input"
    """Column for the prompt's `{input}`, or a list of columns, `[instruction, input]`, that are joined line by line
    without the empty ones. If none of `input`, `output`, `messages` is given, they are found by the column names, and
    the plan shows them."""
    output: Text = "output"
    """Column with the answer; found by its name if not given."""
    messages: Text | None = None
    """Column with a chat, a list of {role, content} or {from, value} whose last turn is the answer. It replaces
    `input`, `output` and `prompt`."""
    prompt: str | None = None
    """The user's turn, with `{input}` or any other column in braces (default: the task's prompt)."""
    system: str | None = None
    """System turn before the user's turn."""
    images: Text | None = None
    """Column with a row's images: a path or a list of paths. They replace `<image>` or an `{type: image}` part of the
    text, and else come before it. Not needed for chats whose parts name their files, `{type: image, image:
    scan.png}`."""
    image_root: Text | None = None
    """Folder that image paths are relative to (default: the dataset's folder)."""
    train_fraction: Fraction = 0.8
    """Fraction of the rows used for training if the file has no splits. 25% of the remaining rows validate, 75%
    test."""
    split_seed: NonNegativeInt = 14
    """Seed of the random split."""

    def __post_init__(self) -> None:
        if self.path is not None and (self.train, self.validation, self.test) != (None, None, None):
            raise ValueError(
                "either path (one file with all rows) or train, validation and test (a file each), in factors "
                "and stages too"
            )
        if self.path is None and self.train is None:
            raise ValueError("path (one file with all rows), or train, validation and test (a file each)")
        if self.train is not None and (self.train_fraction, self.split_seed) != (
            0.8,
            14,
        ):
            raise ValueError("no train_fraction and no split_seed together with files of training and test rows")
        if isinstance(self.test, dict):
            folded = {name.casefold() for name in self.test}
            if not self.test or len(folded) < len(self.test) or not all(map(_SET_NAME.fullmatch, self.test)):
                raise ValueError(
                    "at most 40 test sets, named with letters, digits, `-` and `_`, different in more than case"
                )
            if len(set(self.test.values())) < len(self.test):
                raise ValueError("each test file under one name")

    def __hash__(self) -> int:
        return hash((self.file, self.validation, tuple(self.test_sets.items()), self.input, self.output, self.prompt))

    @property
    def file(self) -> str:
        """Return the file that names the dataset: the one with all rows, or that of the training rows."""
        return self.path or self.train or ""

    @property
    def file_key(self) -> str:
        """Return the dotted key of that file, `data.path` or `data.train`."""
        return DATASET_KEYS[self.path is None]

    @property
    def files(self) -> dict[str, str]:
        """Return every file by its dotted key: `data.path`, or `data.train`, `data.validation`, `data.test`, of several
        test sets `data.test.5L`."""
        if self.path is not None:
            return {self.file_key: self.path}
        named = isinstance(self.test, dict)
        tests = {f"data.test.{name}" if named else "data.test": file for name, file in self.test_sets.items()}
        validation = {} if self.validation is None else {"data.validation": self.validation}
        return {self.file_key: self.file, **validation, **tests}

    @property
    def test_sets(self) -> dict[str, str]:
        """Return the files of the test sets by name, in order; `test` if there is one. None where one file has all
        rows."""
        if isinstance(self.test, dict):
            return dict(self.test)
        return {} if self.test is None else {"test": self.test}

    def as_file(self, path: str) -> DataConfig:
        """Return the settings of one file with all rows; with an empty path what does not depend on the files."""
        return replace(self, path=path, train=None, validation=None, test=None)

    def with_files(self, place: Callable[[str], str]) -> DataConfig:
        """Return the settings with every file replaced by `place` of it."""
        test = self.test
        return replace(
            self,
            path=None if self.path is None else place(self.path),
            train=None if self.train is None else place(self.train),
            validation=None if self.validation is None else place(self.validation),
            test={name: place(file) for name, file in test.items()} if isinstance(test, dict) else test and place(test),
        )
