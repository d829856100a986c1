"""Only backends/ names a trainer: neither a string nor an identifier elsewhere does, in any module of the package.

A trainer's name is the name of its folder, or an alias below. Modules that may name one stand in `ALLOWED`, each with
the reason.
"""

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.planning

SOURCE = Path(__file__).resolve().parents[2] / "src" / "touchline"
BACKENDS = SOURCE / "backends"

NO_TRAINERS = {
    "local": "what touches this machine",
    "logtext": "parts of log readers",
    "plain": "a hand-written loop; an ordinary word",
    "peft": "a library too, which train/ and evaluate/ load; `BACKEND` finds where it stands for the backend",
}
ALIASES = {"llamafactory": "llama[-_ ]?factory", "litgpt": "lit[-_ ]?gpt", "swift": "(?:ms-)?swift"}
BACKEND = re.compile(r"^peft$|backends?[.:/ ]+peft")

ALLOWED = {
    ("experiment/training.py", "peft"): "the default of `train.backend`",
    ("data/public.py", "unsloth"): "the end of names of models",
    ("history/scan.py", "swift"): "a word of ordinary English",
    ("evaluate/checkpoint.py", "peft"): "the library",
    ("evaluate/records.py", "peft"): "the library",
    ("report/model_card.py", "peft"): "the library",
    ("tools/doctor.py", "peft"): "the library",
    ("tools/environments.py", "peft"): "the library",
    ("tools/probing.py", "peft"): "the library",
    ("run/loaded_plan.py", "peft"): "the library",
    **{
        (f"train/{name}.py", "peft"): "that backend's program"
        for name in (
            *("blockwise", "hf", "lineage", "loop", "machine", "model", "optimizers", "probe_steps", "proofs"),
            *("selftest_checks", "selftest_model", "setup", "target_loss"),
        )
    },
}


@functools.cache
def trainers() -> dict[str, re.Pattern[str]]:
    """Patterns of the trainers' names, by the names of their folders."""
    folders = {path.parent.name for path in BACKENDS.glob("*/__init__.py")} - NO_TRAINERS.keys()
    return {
        name: re.compile(rf"(?<![a-z])(?:{ALIASES.get(name, name.replace('_', '[-_ ]'))})(?![a-z])", re.IGNORECASE)
        for name in sorted(folders)
    }


def words(source: str) -> Iterator[tuple[int, str]]:
    """Strings, docstrings, identifiers and comments of a module, with their lines."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("utf-8", "replace")
            yield line, text
        elif isinstance(node, ast.ImportFrom):
            yield line, node.module or ""
        for field in ("id", "attr", "name", "arg", "asname"):
            if isinstance(found := getattr(node, field, None), str):
                yield line, found
    if any(each.search(source) for each in trainers().values()):  # a comment is on one line, so the text shows it
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def named(source: str) -> set[tuple[int, str]]:
    """Lines of a module that name a trainer, with its folder's name."""
    everything = list(words(source))
    whole = "\n".join(text for _, text in everything)
    patterns = {name: each for name, each in trainers().items() if each.search(whole)}
    found = {(line, name) for line, text in everything for name, each in patterns.items() if each.search(text)}
    # `import peft` is the library's; a string that is `peft` alone, or the backend's modules, are not told from it.
    library = {line for line, text in everything if re.fullmatch(r"peft(?:\.\w+)*", text)} & {
        node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return found | {(line, "peft") for line, text in everything if BACKEND.search(text) and line not in library}


def modules() -> Iterator[Path]:
    """Every module outside backends/ but the table of what was removed, which names trainers that are gone."""
    removed = SOURCE / "core" / "removed.py"
    yield from (path for path in sorted(SOURCE.rglob("*.py")) if BACKENDS not in path.parents and path != removed)


@pytest.mark.slow
def test_only_backends_names_a_trainer() -> None:
    found = {
        (path.relative_to(SOURCE).as_posix(), name): line
        for path in modules()
        for line, name in named(path.read_text(encoding="utf-8"))
    }
    strangers = [f"{path}:{line} names {name}" for (path, name), line in found.items() if (path, name) not in ALLOWED]
    assert strangers == []
    assert sorted(ALLOWED.keys() - found.keys()) == [], "no longer needed"


def test_every_trainer_has_a_pattern() -> None:
    assert {"torchtune", "axolotl", "llamafactory", "trl", "swift", "qlora_stage"} <= trainers().keys()
    assert all((BACKENDS / name / "__init__.py").is_file() for name in NO_TRAINERS)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ('if backend == "torchtune": pass', "torchtune"),
        ('x = f"of {y} by LLaMA-Factory"', "llamafactory"),
        ('def f():\n    """As TRL does."""', "trl"),
        ("x = b'axolotl train'", "axolotl"),
        ("def read_trl_rows(): ...", "trl"),
        ("TORCHTUNE_PYTHON = 1", "torchtune"),
        ("from touchline.backends.litgpt import MEMORY", "litgpt"),
        ("def f(unsloth=None): ...", "unsloth"),
        ("x = 1  # DeepSpeed shards it", "deepspeed"),
        ("x = view.megatron", "megatron"),
        ('x = "ms-swift"', "swift"),
        ('if backend == "peft": pass', "peft"),
        ('hint = "backend: peft"', "peft"),
        ("from touchline.backends.peft.config import TrainerConfig", "peft"),
    ],
)
def test_a_name_is_found_wherever_it_stands(source: str, name: str) -> None:
    assert name in {found for _, found in named(source)}


@pytest.mark.parametrize(
    "source",
    ["from peft import LoraConfig", "import peft", 'x = "control"', 'x = "ctrl"', 'x = "mnemonic"', "plain = 1"],
)
def test_libraries_and_ordinary_words_are_no_trainers(source: str) -> None:
    assert named(source) == set()
