"""Ready-made tasks by name, and the data of capitalization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from touchline.core.errors import InputError
from touchline.core.near import did_you_mean, near_names
from touchline.experiment.tasks.classification import CLASSIFICATION
from touchline.experiment.tasks.protocol import CHOICE, EXACT_MATCH, NUMBER, Task, score_text

CAPITALIZATION = Task(name="capitalization", prompt="Capitalize the given word: {input}", score=score_text)

Splits = dict[str, list[dict[str, str]]]


def split_sizes(count: int, train_fraction: float) -> tuple[int, int, int]:
    """Return (train, validation, test) of `count` rows; a quarter of the remainder validates, the rest tests.

    The test split gets more because intervals shrink with its size; a validation loss is a mean and needs fewer.
    """
    train = round(count * train_fraction)
    validation = (count - train) // 4
    return train, validation, count - train - validation


def generate_capitalization(
    words: Sequence[str], *, word_length: int, num_words: int, train_fraction: float, rng: np.random.Generator
) -> Splits:
    """Return random splits of one random choice of real words.

    Args:
        words: the word list, lower case.
        word_length: letters of every word.
        num_words: words in all splits together.
        train_fraction: share that trains.
        rng: makes the choice and the order.

    Raises:
        InputError: there are too few such words, or a split would be empty.
    """
    candidates = sorted({word for word in words if len(word) == word_length})
    if num_words > len(candidates):
        raise InputError(
            f"the word list has {len(candidates):,} words of {word_length} letters, but {num_words:,} were requested",
            expected=f"at most {len(candidates):,}",
            hint=f"--num-words {len(candidates)}, or another list: --words FILE" if candidates else "--word-length 8",
        )
    sizes = split_sizes(num_words, train_fraction) if 0 < train_fraction < 1 else (0, 0, 0)
    if min(sizes) < 1:
        raise InputError(
            f"{num_words} words at train fraction {train_fraction} leave a split empty",
            expected="at least one word in each of train, validation and test",
            hint="--num-words 2000 --train-fraction 0.8",
        )
    chosen = [candidates[index] for index in rng.permutation(len(candidates))[:num_words]]
    rows = [{"input": word, "output": word.capitalize()} for word in chosen]
    train, validation, _ = sizes
    return {"train": rows[:train], "validation": rows[train : train + validation], "test": rows[train + validation :]}


def dataset_file_name(word_length: int, train_fraction: float, num_words: int) -> str:
    """Return a file name, `words_8L_80P_2000.json`; a fractional percentage keeps its digits, `82.5P`."""
    percent = f"{100 * train_fraction:.6f}".rstrip("0").rstrip(".")
    return f"words_{word_length}L_{percent}P_{num_words}.json"


TASKS = {task.name: task for task in (CAPITALIZATION, CLASSIFICATION, EXACT_MATCH, NUMBER, CHOICE)}


def get_task(name: str, labels: Sequence[str] = ()) -> Task:
    """Return the task of that name.

    Args:
        name: as experiment.yaml has it.
        labels: the labels of the dataset, for a task that reads one of them.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS:
        raise InputError(
            f"there is no task {name!r}",
            expected=f"one of {', '.join(TASKS)}, or a file, tasks/mine.py@name",
            hint=did_you_mean(near_names(name, TASKS), "classification if the answers are labels, or exact_match"),
        )
    task = TASKS[name]
    return task if task.with_labels is None or not labels else task.with_labels(labels)
