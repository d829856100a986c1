"""Token lengths of a million short examples: the first and the second time, and the ways of peers.

    python benchmarks/token_lengths.py [--rows 1000000] [--peer-rows 100000] [--model FOLDER]

Rows are one invented word and its capitalized form. Each part runs in a process of its own. Measured are seconds on the
wall clock and of all cores: reading and checking the rows, then `touchline`'s lengths with an empty cache, and both
again in another process with what the first one cached. The peers take the first rows of the same file, and their times
are scaled to all: one call of the tokenizer per text, on texts that jinja2 renders in the same process; and
`datasets.map` with one process per core that calls transformers' `apply_chat_template` and the tokenizer per example.
Without --model the model is SmolLM2-135M-Instruct of the user's models, or the tests' tiny model. Exits with 1 when a
length differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.tiny_model import write_tiny_model  # noqa: E402 (the path is set above)
from touchline.data.datasets import load_dataset, load_examples  # noqa: E402
from touchline.data.lengths import token_lengths  # noqa: E402
from touchline.data.models import read_model  # noqa: E402
from touchline.data.rendering.chat import variables_of  # noqa: E402
from touchline.data.rendering.sandbox import ChatTemplate  # noqa: E402
from touchline.data.tokenizer import read_tokenizer  # noqa: E402
from touchline.data.user_config import load_settings  # noqa: E402
from touchline.experiment.data_config import DataConfig  # noqa: E402

DATE = "2026-01-02"
PROMPT = "Capitalize the word: {input}"
PARTS = ("first", "second", "one by one", "datasets.map")
Lengths = tuple[list[int], list[int]]


def write_rows(path: Path, count: int) -> None:
    """Write the rows: all but the last ten are for training."""
    generator = random.Random(0)  # noqa: S311
    with path.open("w") as file:
        for number in range(count + 10):
            word = "".join(generator.choices(string.ascii_lowercase, k=generator.randint(5, 10)))
            split = "train" if number < count else "test"
            file.write(json.dumps({"input": word, "output": word.capitalize(), "split": split}) + "\n")


def _timed(name: str, work: Callable[[], Lengths | None], times: dict[str, list[float]]) -> Lengths | None:
    before = _cpu()
    start = time.perf_counter()
    found = work()
    times[name] = [time.perf_counter() - start, _cpu() - before]
    return found


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _ours(folder: Path, model: Path, times: dict[str, list[float]]) -> Lengths:
    data, cache = DataConfig(path="rows.jsonl", prompt=PROMPT), folder / "cache"
    info = read_model(model)

    def read() -> None:
        load_dataset(data, folder, cache)

    def lengths() -> Lengths:
        found = token_lengths(info, data, "train", folder, DATE, cache)
        return found.prompt.tolist(), found.answer.tolist()

    _timed("rows", read, times)
    return _timed("lengths", lengths, times) or ([], [])


def _cut(ids: list[int], stops: frozenset[int]) -> int:
    return next((at + 1 for at, id in enumerate(ids) if id in stops), len(ids))


def _one_by_one(folder: Path, model: Path, rows: int, times: dict[str, list[float]]) -> Lengths:
    from tokenizers import Tokenizer

    examples = load_examples(DataConfig(path="rows.jsonl", prompt=PROMPT), "train", folder)[:rows]
    files = read_tokenizer(model, [])
    template = ChatTemplate(files.chat_template or "", DATE)
    tokenizer = Tokenizer.from_str(files.tokenizer_json or "")
    stops = frozenset(tokenizer.token_to_id(token) for token in (files.tokens.eos, *files.tokens.stops) if token)

    def lengths() -> Lengths:
        prompts, answers = [], []
        for example in examples:
            prompt = template.render(**variables_of(example.prompt, files.tokens, True))
            turns = [*variables_of(example.prompt, files.tokens, True)["messages"]]  # type: ignore[misc]
            turns.append({"role": "assistant", "content": example.answer})
            chat = {**variables_of(example.prompt, files.tokens, False), "messages": turns}
            rest = template.render(**chat)[len(prompt) :]
            prompts.append(len(tokenizer.encode(prompt, add_special_tokens=False).ids))
            answers.append(_cut(tokenizer.encode(rest, add_special_tokens=False).ids, stops))
        return prompts, answers

    return _timed("lengths", lengths, times) or ([], [])


def _mapped(folder: Path, model: Path, rows: int, times: dict[str, list[float]]) -> Lengths:
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    names = read_tokenizer(model, []).tokens
    stops = frozenset(tokenizer.convert_tokens_to_ids(token) for token in (names.eos, *names.stops) if token)
    with (folder / "rows.jsonl").open() as file:
        read = [json.loads(line) for line, _ in zip(file, range(rows), strict=False)]
    data = datasets.Dataset.from_list([{"input": row["input"], "output": row["output"]} for row in read])

    def tokenized(row: dict[str, str]) -> dict[str, int]:
        turns = [{"role": "user", "content": PROMPT.format(**row)}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        turns.append({"role": "assistant", "content": row["output"]})
        rest = tokenizer.apply_chat_template(turns, tokenize=False)[len(prompt) :]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, rest)]
        return {"prompt": len(ids[0]), "answer": _cut(ids[1], stops)}

    def lengths() -> Lengths:
        found = data.map(tokenized, num_proc=len(os.sched_getaffinity(0)), load_from_cache_file=False)
        return list(found["prompt"]), list(found["answer"])

    return _timed("lengths", lengths, times) or ([], [])


def measure(part: str, folder: Path, model: Path, rows: int) -> None:
    """Measure one part; its lengths are written to the folder, its times to standard output."""
    times: dict[str, list[float]] = {}
    if part in ("first", "second"):
        found = _ours(folder, model, times)
    else:
        found = (_one_by_one if part == "one by one" else _mapped)(folder, model, rows, times)
    np.save(folder / f"{part}.npy", np.asarray(found, dtype=np.uint32))
    print(json.dumps(times))


def _parts(folder: Path, model: Path, peer_rows: int) -> Iterator[tuple[str, dict[str, list[float]]]]:
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--model", str(model)]
        if part == "datasets.map":
            environment["TOKENIZERS_PARALLELISM"] = "false"
        done = subprocess.run(
            [*command, "--peer-rows", str(peer_rows)], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        yield part, json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure all parts and compare their lengths."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part is not None:
        measure(given.part, given.folder, given.model, given.peer_rows)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        usual = load_settings().models_dir / "SmolLM2-135M-Instruct"
        model = given.model or (usual if usual.is_dir() else write_tiny_model(folder / "Tiny"))
        write_rows(folder / "rows.jsonl", given.rows)
        peer_rows = min(given.rows, given.peer_rows)
        print(f"{given.rows:,} rows, {model.name}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
        lengths: dict[str, np.ndarray] = {}
        seconds: dict[str, np.ndarray] = {}
        for part, times in _parts(folder, model, peer_rows):
            lengths[part] = np.load(folder / f"{part}.npy")
            scale = 1.0 if part in ("first", "second") else given.rows / peer_rows
            for what, (wall, cpu) in times.items():
                print(f"{part:14} {what:8} {wall * scale:9.3f} s wall, {cpu * scale:9.3f} s of the cores")
            seconds[part] = np.asarray(times["lengths"]) * scale
        for part in PARTS[2:]:
            wall, cpu = seconds[part] / seconds["first"]
            print(f"{part} over the first time: {wall:.1f} on the wall clock, {cpu:.1f} of the cores")
        print(f"first over the second time: {(seconds['first'] / seconds['second'])[0]:.0f}")
    equal = np.array_equal(lengths["first"], lengths["second"]) and all(
        np.array_equal(lengths["first"][:, :peer_rows], lengths[part]) for part in PARTS[2:]
    )
    print("lengths are equal" if equal else "lengths DIFFER")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
