"""Small data files for experiments: the same words in several forms, each wrong or right for one rule."""

import functools
import json
import random
import string

TRAIN, VALIDATION, TEST = 160, 30, 80
_MORE = 2


@functools.cache
def experiment_files() -> dict[str, str]:
    """Data files by their path next to experiment.yaml.

    words.json is plain; words_copy.json is the same file laid out differently, words_reordered.json has the training
    rows in another order, more_words.json three times as many, other_words.json another test split,
    no_validation.json no validation rows, one_list.json no splits at all.
    """
    words = _words(TRAIN * (1 + _MORE) + VALIDATION + 2 * TEST)
    train, rest = words[:TRAIN], words[TRAIN:]
    validation, rest = rest[:VALIDATION], rest[VALIDATION:]
    test, rest = rest[:TEST], rest[TEST:]
    other_test, more = rest[:TEST], rest[TEST:]
    reordered = sorted(train, key=lambda row: row["output"])
    return {
        "data/words.json": _file(train, validation, test),
        "data/words_copy.json": _file(train, validation, test, indent=2),
        "data/words_reordered.json": _file(reordered, validation, test),
        "data/more_words.json": _file([*train, *more], validation, test),
        "data/other_words.json": _file(train[::-1][:-1] + more[:1], validation, other_test),
        "data/no_validation.json": _file(train, [], test),
        "data/one_list.json": json.dumps([*train, *validation, *test]),
    }


def _file(
    train: list[dict[str, str]], validation: list[dict[str, str]], test: list[dict[str, str]], indent: int | None = None
) -> str:
    splits = {"train": train, "validation": validation, "test": test}
    return json.dumps({name: rows for name, rows in splits.items() if rows}, indent=indent)


def _words(count: int) -> list[dict[str, str]]:
    generator = random.Random(5)
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(generator.choices(string.ascii_lowercase, k=generator.randint(4, 9)))] = None
    return [{"input": word, "output": word.capitalize()} for word in words]
