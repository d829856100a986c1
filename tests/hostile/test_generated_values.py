"""Values of every type in every file that is read: a value is typed once, at its reader, or is a fault in words.

Each test draws documents from a seed; `TOUCHLINE_HOSTILE_SECONDS` has each go on for so long, with another seed.
"""

import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tests.hostile.conftest import RUN
from tests.hostile.harness import CODES, TEXTS, VALUES, call, mutated, mutated_text, to_json
from tests.hostile.test_irregular_files import verbs

from touchline.agent.server import called
from touchline.core.errors import InputError
from touchline.experiment.experiment import Experiment
from touchline.experiment.foreign import Dialect, ForeignFileError, parse_foreign
from touchline.experiment.read import read_experiment
from touchline.experiment.validate import dotted_keys

SECONDS = float(os.environ.get("TOUCHLINE_HOSTILE_SECONDS", "0"))
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
BASES = Path(__file__).resolve().parents[1] / "faults" / "bases"

VALUES_IN_YAML = (
    *("2024-01-01", "2024-01-01T10:00:00Z", "2024-13-45", "!!set {a, b}", "!!bool maybe", "!!int x", "!!float ''"),
    *("!!timestamp x", "!!binary x", "!!binary aGk=", "!!omap [a: 1]", "!!pairs [a: 1]", "!foo bar", "!foo {a: 1}"),
    *("!foo [1]", "!!python/object:os.system x", "{1: 2}", "{[1]: 2}", "{{a: 1}: 2}", "{null: 1}", "{2020-01-01: 1}"),
    *("&a [*a]", "&a {b: *a}", "&a [*a, *a]", "[" * 1000 + "]" * 1000, "[" * 95 + "]" * 95, ".nan", ".inf", "1e999"),
    *("9" * 30, "9" * 5000, "0x" + "f" * 5000, '"\\ud800"', '"\\0"', "*a", "? a", "a: b: c", "'", '"', "`", "@", "%"),
    *("", "~", "[]", "{}", "{a: 1}", "[[1]]", "yes", "-1", "1:30:00", "!!seq x", "!!map x", "{<<: 3}", "{<<: [1]}"),
    *("{a: 1, a: 2}", "&x {<<: *x}", "!!int 08", "0o17", "1_000", "|\n  x", "--- a\n--- b", "\t", "{a: [*b]}"),
    "\udcff",
)


def draws(seed: str, count: int) -> Iterator[random.Random]:
    end = time.monotonic() + SECONDS
    number = 0
    while number < count or time.monotonic() < end:
        yield random.Random(f"{seed} {number} {time.time_ns() if SECONDS and number >= count else ''}")
        number += 1


DIALECTS: tuple[Dialect, ...] = ("pyyaml", "omegaconf")


def is_read(text: str, overrides: list[str]) -> bool:
    """Whether an experiment can be read; one that cannot has findings that say why."""
    try:
        read_experiment(text, "experiment.yaml", overrides)
    except InputError as fault:
        found = fault.findings
    else:
        return True
    assert found, (text[-200:], overrides)
    return False


def test_every_key_takes_or_refuses_every_value(copied: Path) -> None:
    """On the command line and in the file, by our rules and by those of other tools' files."""
    text = (copied / "experiment.yaml").read_text()
    accepted = 0
    keys = (*dotted_keys(Experiment), "factors.train.lora.rank", "factors.seeds", "factors.", "pairs.x")
    # A key meets every fourth value, and its neighbours the others: what is read is decided by the type.
    for number, key in enumerate(keys):
        first, *rest = key.split(".")
        kept = "\n".join(line for line in text.splitlines() if not line.startswith(f"{first}:")) + "\n"
        for value in VALUES_IN_YAML if SECONDS else VALUES_IN_YAML[number % 4 :: 4]:
            lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate((first, *rest))]
            whole = kept + "\n".join(lines) + " " + value.replace("\n", "\n" + "  " * len(lines)) + "\n"
            accepted += is_read(text, [f"{key}={value}"])
            if key.count(".") == 1:
                accepted += is_read(whole, [])
                for dialect in DIALECTS:
                    with contextlib.suppress(ForeignFileError):
                        parse_foreign(whole, "config.yaml", dialect)
    assert accepted > 40


def test_overrides_reach_no_internal_error(copied: Path) -> None:
    """The same by the command, for those that look most like values."""
    for value in ("2024-01-01", "!!bool maybe", "{1: 2}", "&a [*a]", "[" * 1000, "!!set {a}", '"\\ud800"', "\udcff"):
        code, _, said = call("plan", copied, "--dry-run", f"train.epochs={value}")
        assert code == 2, said
        assert "train.epochs" in said


def survives(chance: random.Random, *commands: tuple[str | Path, ...]) -> None:
    """Call one of some commands, which does nothing that no command may do."""
    assert call(*chance.choice(commands))[0] in CODES


def changed(path: Path, chance: random.Random) -> bytes:
    """Other content for a file: another text altogether, other values in its structure, or other bytes."""
    raw = path.read_bytes()
    kind = chance.random()
    if kind < 0.1:
        return chance.choice(TEXTS).encode(errors="surrogatepass")
    # What is broken on purpose, or in another dialect, is changed as text.
    with contextlib.suppress(ValueError, TypeError, YAMLError):
        if kind >= 0.75:
            pass
        elif path.suffix == ".json":
            return to_json(mutated(json.loads(raw), chance))
        elif path.suffix in (".yaml", ".yml"):
            return to_json(mutated(YAML(typ="safe").load(raw), chance))
        elif path.suffix == ".jsonl" and raw.strip():
            lines = raw.splitlines()
            at = chance.randrange(len(lines))
            lines[at] = to_json(mutated(json.loads(lines[at]), chance))
            return b"\n".join(lines) + b"\n"
    return mutated_text(raw, chance)


def test_files_of_an_experiment(copied: Path) -> None:
    """plan.json, configs, status files, metrics, the ledger, scores, logs, checkpoints."""
    shutil.copytree(copied, copied.parent / "other")
    endings = {".json", ".jsonl", ".yaml", ".out", ".slurm", ".sh", ".safetensors", ".eval"}
    names = sorted(path.relative_to(copied) for path in copied.rglob("*") if path.suffix in endings and path.is_file())
    for chance in draws("experiment", 30):
        path = copied / chance.choice(names)
        if not path.is_file():
            shutil.rmtree(copied)
            shutil.copytree(copied.parent / "other", copied)
        kept = path.read_bytes()
        path.write_bytes(changed(path, chance))
        for words in chance.sample(verbs(copied), 2):
            assert call(*words)[0] in CODES
        if path.parent.is_dir():
            path.write_bytes(kept)


FOREIGN = sorted(
    path
    for folder in (FIXTURES, BASES)
    for path in folder.rglob("*")
    if path.suffix in {".yaml", ".yml", ".json", ".sh", ".slurm", ".log", ".out", ".txt", ".jsonl", ".csv"}
    and path.stat().st_size < 100_000
)


def test_files_of_other_tools(tmp_path: Path, copied: Path) -> None:
    """torchtune, axolotl, LLaMA-Factory, HF, swift: configs, scripts, states and logs, by both readers."""
    assert len(FOREIGN) > 20
    folder = tmp_path / "foreign"
    for chance in draws("foreign", 60):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        source = chance.choice(FOREIGN)
        content = changed(source, chance)
        (folder / source.name).write_bytes(content)
        survives(chance, ("check", folder), ("history", "read", folder), ("history", "read", folder / source.name))
    del copied


STATE: dict[str, Any] = {
    "global_step": 10,
    "epoch": 1.0,
    "max_steps": 10,
    "num_train_epochs": 1,
    "best_metric": None,
    "log_history": [{"loss": 1.5, "learning_rate": 1e-3, "epoch": 0.5, "step": 5, "grad_norm": 1.0}] * 2
    + [{"train_runtime": 12.5, "train_loss": 1.2, "epoch": 1.0, "step": 10, "train_samples_per_second": 3.0}],
}


def test_a_trainer_state(tmp_path: Path, copied: Path) -> None:
    for chance in draws("state", 25):
        path = tmp_path / "trainer_state.json"
        path.write_bytes(to_json(mutated(STATE, chance)))
        assert call("history", "read", path)[0] in CODES
    del copied


ROWS: tuple[Any, ...] = (
    {"train": [{"input": "ab", "output": "AB"}] * 8, "test": [{"input": "cd", "output": "CD"}] * 4},
    [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 8,
    [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}] * 8,
    [{"instruction": "a", "input": "", "output": "b"}] * 8,
    [{"prompt": "a", "completion": "b"}] * 8,
)


def rows_of(made: Any) -> list[Any]:
    if isinstance(made, list):
        return made
    return [row for part in made.values() if isinstance(part, list) for row in part]


def write_rows(path: Path, chance: random.Random) -> bool:
    """Write changed rows in the form that the file's ending says. Return False if no parquet file can hold them."""
    made = mutated(chance.choice(ROWS), chance)
    rows = rows_of(made)
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        try:
            parquet.write_table(pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)]), path)
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
            return False
    elif path.suffix == ".json":
        path.write_bytes(to_json(made))
    elif path.suffix == ".jsonl":
        path.write_bytes(b"\n".join(to_json(row) for row in rows) + b"\n")
    else:
        cells = [",".join(map(str, row.values())) if isinstance(row, dict) else str(row) for row in rows]
        path.write_bytes("\n".join(["input,output", *cells]).encode(errors="surrogatepass"))
    return True


def data_commands(copied: Path, path: Path) -> tuple[tuple[str | Path, ...], ...]:
    return (
        ("check", path),
        ("data", "show", path),
        ("data", "audit", path, "--json"),
        ("plan", copied, "--dry-run", f"data.path={path.relative_to(copied)}"),
        ("pack", "compare", path, "--tokenizer", "Tiny-1M-Instruct", "--max-seq-len", "64"),
    )


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet"])
def test_datasets(copied: Path, form: str) -> None:
    """Whole numbers beyond a float, halves of characters, nested cells."""
    path = copied / "data" / f"rows.{form}"
    for chance in draws(form, 15):
        if write_rows(path, chance):
            survives(chance, *data_commands(copied, path))


def test_integers_beyond_a_float_and_halves_of_characters_in_rows(copied: Path) -> None:
    """Where earlier versions ended with a fault of their own; the server's answers are valid UTF-8."""
    path = copied / "data" / "rows.json"
    for value in (10**400, -(10**400), "\ud800", "b\udfff", "\udc80c", ["\ud800"], {"\ud800": 1}):
        for column in ("input", "output", "other", "\ud800"):
            rows = [{"input": "a", "output": "b"}, {"input": "a", "output": "b", column: value}] * 6
            path.write_bytes(to_json({"train": rows, "test": rows} if column == "output" else rows))
            assert call("data", "audit", path)[0] in CODES
            assert call("plan", copied, "--dry-run", f"data.path=data/{path.name}")[0] in CODES
            found = called("data", {"path": str(path)}), called("check", {"paths": [str(path)]})
            found += (called("init", {"data": str(path), "target": str(copied / "new")}),)
            assert "internal error" not in json.dumps(found, ensure_ascii=False).encode().decode()


MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors")


def write_model(folder: Path, tiny_model: Path, chance: random.Random) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_model, folder)
    path = folder / chance.choice([name for name in MODEL_FILES if (folder / name).is_file()])
    path.write_bytes(changed(path, chance))


def model_commands(copied: Path, folder: Path) -> tuple[tuple[str | Path, ...], ...]:
    """Commands that read a model's folder."""
    words = copied / "data" / "words.json"
    return (
        ("models", "show", folder),
        ("plan", copied, "--dry-run", f"models=[{folder}]"),
        ("estimate", "--model", folder, "--gpu", "A100-80GB", "--padded-length", "64"),
        ("pack", "compare", words, "--tokenizer", folder, "--max-seq-len", "64"),
    )


def test_files_of_a_model(tiny_model: Path, copied: Path, tmp_path: Path) -> None:
    """config.json, tokenizer files, headers of weights."""
    folder = tmp_path / "other"
    for chance in draws("model", 25):
        write_model(folder, tiny_model, chance)
        survives(chance, *model_commands(copied, folder))


def test_lengths_and_tokens_that_no_tokenizer_may_have(tiny_model: Path, copied: Path, tmp_path: Path) -> None:
    """Negative lengths, numbers beyond 64 bits, halves of characters, prefixes at which the library panics."""
    folder = tmp_path / "other"
    cut = {"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}
    bad: list[tuple[str, str, Any]] = [
        ("tokenizer.json", "truncation", cut | {"max_length": v}) for v in (-1, 0, 2**64)
    ]
    bad += [("tokenizer.json", "truncation", cut | {"stride": v}) for v in (-1, 600, 1.5)]
    bad += [("tokenizer_config.json", "model_max_length", v) for v in (-1, 0, 10**400, "x", None)]
    bad += [
        ("tokenizer_config.json", f"{name}_token", v)
        for name in ("bos", "eos", "pad", "unk")
        for v in ("\ud800", {"content": "\ud800"}, 5, [])
    ]
    bad += [("generation_config.json", "eos_token_id", v) for v in (-1, 2**70, [True, "x", 1.5], {"a": 1})]
    for number, (name, key, value) in enumerate(bad):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_model, folder)
        path = folder / name
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.write_bytes(to_json(content | {key: value}))
        words: tuple[tuple[str | Path, ...], ...] = (
            ("plan", copied, "--dry-run", f"models=[{folder}]"),
            ("models", "show", folder),
            ("pack", "compare", copied / "data" / "words.json", "--tokenizer", folder, "--max-seq-len", "64"),
        )
        assert call(*words[number % len(words)])[0] in CODES
    shutil.copy(tiny_model / "tokenizer.json", folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["continuing_subword_prefix"] = "nan"
    (folder / "tokenizer.json").write_bytes(to_json(content))
    code, _, said = call(
        "pack", "compare", copied / "data" / "words.json", "--tokenizer", folder, "--max-seq-len", "64"
    )
    assert code == 2
    assert "tokenizer.json" in said


def test_records_of_the_history(copied: Path, tmp_path: Path) -> None:
    """The ledger of the history, its records and its caches."""
    assert call("history", "add", copied)[0] in CODES
    for chance in draws("history", 20):
        files = sorted(path for path in (tmp_path / "history").rglob("*") if path.is_file())
        path = chance.choice(files)
        kept = path.read_bytes()
        content = changed(path, chance)
        path.write_bytes(content)
        listed = (("history", word) for word in ("list", "calibration", "rebuild", "export"))
        survives(chance, *listed, ("history", "list", "--json"), ("plan", copied, "--dry-run"))
        path.write_bytes(kept)


def test_there_is_a_value_of_every_type() -> None:
    assert {type(value) for value in VALUES} == {type(None), bool, int, float, str, list, dict}
    assert RUN
