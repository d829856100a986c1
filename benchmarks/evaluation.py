"""A control and adapters of one base, evaluated in one process of ours and by an Inspect `hf/` evaluation each.

    python benchmarks/evaluation.py [--model FOLDER] [--items 300] [--rounds 3] [--dtype float32]
    python benchmarks/evaluation.py --batches 1 16 64 [--items 300] [--dtype bfloat16]
    python benchmarks/evaluation.py --shared 8 16 32 [--rounds 2]

Each round evaluates the control and all adapters by `python -m touchline.evaluate`, then each by Inspect's command line
with its provider `hf` at its defaults, greedy; every second round in the opposite order. Wall-clock and CPU seconds of
the commands. Answers are compared item by item: in float32 a different one exits with 1, in bfloat16 they are counted.
With `--batches` only our loop runs, and the answers at each batch size are compared with those at the first one.
With `--shared` the control and all adapters answer so many items each in float32, in common batches, then one adapter
after the other; CPU seconds of one thread. A different answer exits with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from touchline.core.catalog import Message
from touchline.core.files import sha256_file
from touchline.data.create import load_words
from touchline.data.datasets import load_dataset
from touchline.data.metrics import ExportMarker, SavedFile
from touchline.data.models import load_model, load_renderer
from touchline.data.rendering.chat import ChatRenderer
from touchline.data.user_config import load_settings
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import EvaluationConfig, PlannedModel
from touchline.experiment.experiment import EvaluateConfig
from touchline.experiment.write import to_yaml

RANKS = (4, 8, 16, 32)
NEW_TOKENS = 12
BATCH_SIZE = 64
DATE = "2026-01-02"
PROMPT = "Capitalize the given word: {input}"
DIGEST = "d" * 64
TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import match
from inspect_ai.solver import generate

@task
def capitalization():
    return Task(dataset=json_dataset("items.jsonl"), solver=generate(), scorer=match("exact"))
"""
Answers = dict[tuple[str, str], str]
"""Output of each (run, item)."""


def some_words(count: int) -> list[str]:
    """Return drawn words, always the same ones."""
    words = sorted(word for word in load_words() if len(word) < 10)
    random.Random(0).shuffle(words)  # noqa: S311 (not for secrets)
    return words[:count]


def write_adapter(model: Path, folder: Path, rank: int) -> None:
    """Write a random adapter that changes the answers, with the tokenizer that Inspect's provider needs beside it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(rank)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=8, target_modules="all-linear")
    adapted = get_peft_model(base, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.003
    adapted.peft_config["default"].base_model_name_or_path = str(model.resolve())
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    weights, info = folder / "adapter_model.safetensors", load_model(str(model), model.parent)
    marker = ExportMarker(
        experiment="evaluation",
        run=folder.parent.name,
        run_digest=DIGEST,
        kind="adapter",
        step=1,
        epoch=0,
        validation_loss=None,
        base_path=info.path,
        base_weights_sha256=info.weights_sha256,
        adapter_sha256=sha256_file(weights),
        files={weights.name: SavedFile(size=weights.stat().st_size, sha256=sha256_file(weights))},
    )
    (folder / "touchline.json").write_bytes(TypeAdapter(ExportMarker).dump_json(marker))


def write_experiment(root: Path, model: Path, items: int) -> dict[str, str]:
    """Write the runs' folders, and the items for Inspect. Return the checkpoint of each run."""
    rows = [{"input": word, "output": word.capitalize()} for word in some_words(items + 12)]
    (root / "words.json").write_text(json.dumps({"train": rows[:8], "validation": rows[8:12], "test": rows[12:]}))
    data = DataConfig(path=str(root / "words.json"), prompt=PROMPT)
    test = next(split for split in load_dataset(data, root).splits if split.name == "test")
    info = load_model(str(model), model.parent)
    runs = {"base": "base"} | {f"rank{rank}": "epoch_0" for rank in RANKS}
    for run in runs:
        config = EvaluationConfig(
            experiment="evaluation",
            run=run,
            run_digest=DIGEST,
            task="capitalization",
            date=DATE,
            model=PlannedModel(
                name=info.name,
                path=info.path,
                weights_sha256=info.weights_sha256,
                tokenizer_sha256=info.tokenizer_sha256,
            ),
            data=data,
            data_sha256=test.sha256,
            evaluate=EvaluateConfig(max_new_tokens=NEW_TOKENS),
            control=run == "base",
        )
        folder = root / "ours" / run
        folder.mkdir(parents=True)
        (folder / "eval.yaml").write_text(to_yaml(json.loads(TypeAdapter(EvaluationConfig).dump_json(config))))
    for rank in RANKS:
        write_adapter(model, root / "ours" / f"rank{rank}" / "epoch_0", rank)
    theirs = root / "theirs"
    theirs.mkdir()
    (theirs / "task.py").write_text(TASK)
    lines = [
        json.dumps({"id": row["input"], "input": PROMPT.format(**row), "target": row["output"]}) for row in rows[12:]
    ]
    (theirs / "items.jsonl").write_text("\n".join(lines) + "\n")
    return runs


def timed(words: Iterable[str], folder: Path) -> tuple[float, float]:
    """Run a command. Return its wall-clock and CPU seconds."""
    env = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "INSPECT_DISPLAY": "none"}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([*words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, cpu


def evaluate_ours(root: Path, runs: Mapping[str, str], dtype: str) -> tuple[float, float]:
    """Evaluate all runs in one process."""
    for folder in (root / "ours").glob("*/eval"):
        shutil.rmtree(folder)
    jobs = [{"run": run, "checkpoint": checkpoint} for run, checkpoint in runs.items()]
    (root / "request.json").write_text(json.dumps({"jobs": jobs, "dtype": dtype}))
    words = ("-m", "touchline.evaluate", "--experiment", str(root / "ours"), "--request", str(root / "request.json"))
    return timed((sys.executable, *words), root)


def evaluate_theirs(root: Path, runs: Mapping[str, str], model: Path, dtype: str) -> tuple[float, float]:
    """Evaluate each run by Inspect's command line, one after the other."""
    spent = []
    for run, checkpoint in runs.items():
        logs = root / "theirs" / run
        shutil.rmtree(logs, ignore_errors=True)
        path = model if checkpoint == "base" else root / "ours" / run / checkpoint
        words = [*("-m", "inspect_ai", "eval", "task.py", "--model", f"hf/{run}", "--log-dir", str(logs))]
        words += ["-M", f"model_path={path}", "-M", "do_sample=false", "-M", f"dtype={dtype}"]
        spent.append(timed((sys.executable, *words, "--max-tokens", str(NEW_TOKENS)), root / "theirs"))
    return sum(wall for wall, _ in spent), sum(cpu for _, cpu in spent)


def read_answers(root: Path, runs: Iterable[str]) -> tuple[Answers, Answers]:
    """Read the answers of both sides from their logs."""
    from inspect_ai.log import read_eval_log

    found: list[Answers] = []
    for folder in (root / "ours", root / "theirs"):
        answers: Answers = {}
        for run in runs:
            (log,) = (folder / run).rglob("*.eval")
            samples = read_eval_log(str(log)).samples or []
            for sample in samples:
                question = sample.input if isinstance(sample.input, str) else sample.input[-1].text
                answers[run, question] = sample.output.completion.strip()
        found.append(answers)
    return found[0], found[1]


def compare_sides(root: Path, options: argparse.Namespace) -> int:
    """Measure both sides in turn. Return the exit code."""
    runs = write_experiment(root, options.model, options.items)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    unequal = 0
    for number in range(options.rounds):
        for side in ("ours", "theirs")[:: -1 if number % 2 else 1]:
            spent = (
                evaluate_ours(root, runs, options.dtype)
                if side == "ours"
                else evaluate_theirs(root, runs, options.model, options.dtype)
            )
            found[side].append(spent)
            print(f"round {number + 1}, {side}: {spent[0]:.1f} s, CPU {spent[1]:.1f} s", file=sys.stderr)
        ours, theirs = read_answers(root, runs)
        if ours.keys() != theirs.keys() or len(ours) != len(runs) * options.items:
            sys.exit(f"unequal work: {len(ours)} and {len(theirs)} answers")
        different = [key for key in ours if ours[key] != theirs[key]]
        unequal = max(unequal, len(different))
        for run, item in different[:3]:
            print(f"{run}: {item}: {ours[run, item]!r} and {theirs[run, item]!r}", file=sys.stderr)
    for place, what in enumerate(("wall-clock", "CPU")):
        a, b = (statistics.median(spent[place] for spent in found[side]) for side in ("ours", "theirs"))
        ratio = statistics.median(x[place] / y[place] for x, y in zip(found["ours"], found["theirs"], strict=True))
        print(f"{what}: one process of ours {a:.1f} s, {len(runs)} of Inspect's hf {b:.1f} s, ratio {ratio:.2f}")
    print(f"{options.dtype}: {unequal} of {len(runs) * options.items} answers differ")
    return 1 if unequal and options.dtype == "float32" else 0


def rendered(model: Path, items: int) -> tuple[ChatRenderer, list[tuple[int, ...]]]:
    """Return the renderer of a model and the tokens of its prompts."""
    renderer = load_renderer(load_model(str(model), model.parent), DATE)
    turns = [[Message(role="user", content=PROMPT.format(input=word))] for word in some_words(items)]
    return renderer, [renderer.encode(renderer.prompt_text(each)) for each in turns]


def compare_shared(root: Path, options: argparse.Namespace) -> int:
    """Compare common batches of all adapters with batches of each. Return the exit code."""
    import torch

    from touchline.evaluate.decoding import Generation
    from touchline.evaluate.engine import Decoding, Engine, Request
    from touchline.evaluate.weights import ActiveAdapter, Weights, pick_dtype

    torch.set_num_threads(1)
    for rank in RANKS:
        write_adapter(options.model, root / f"rank{rank}" / "epoch_0", rank)
    device = torch.device("cpu")
    engine = Engine(Weights(str(options.model), pick_dtype("float32", device), device))
    renderer, prompts = rendered(options.model, max(options.shared))
    decoding = Decoding(
        max_new_tokens=NEW_TOKENS, stop_ids=renderer.stop_ids, pad_id=renderer.pad_id, batch_size=BATCH_SIZE
    )
    adapters = [ActiveAdapter(folder=root / f"rank{rank}" / "epoch_0", merged=False) for rank in RANKS]

    def answer(worn: list[ActiveAdapter | None], items: int) -> list[Generation]:
        engine.expected = len(worn) * items
        futures = [
            engine.submit(Request(worn=each, prompt=prompt, decoding=decoding))
            for each in worn
            for prompt in prompts[:items]
        ]
        return [future.result() for future in futures]

    faults = 0
    everyone = [None, *adapters]
    answer(everyone, 1)
    for items in options.shared:
        for turn in range(options.rounds):
            spent: dict[str, float] = {}
            found: dict[str, list[Generation]] = {}
            for way in ("shared", "alone") if turn % 2 == 0 else ("alone", "shared"):
                begun = time.process_time()
                groups = [everyone] if way == "shared" else [[each] for each in everyone]
                found[way] = [each for group in groups for each in answer(group, items)]
                spent[way] = time.process_time() - begun
            unequal = sum(a != b for a, b in zip(found["shared"], found["alone"], strict=True))
            faults += unequal
            print(
                f"{items} items: {spent['shared']:.1f} s shared, {spent['alone']:.1f} s alone, "
                f"ratio {spent['shared'] / spent['alone']:.2f}; {unequal} of {len(found['alone'])} answers differ",
                flush=True,
            )
    engine.close()
    return 1 if faults else 0


def compare_batches(root: Path, options: argparse.Namespace) -> int:
    """Count the answers of the base and an adapter that depend on the batch size. Return the exit code."""
    import torch

    from touchline.evaluate.decoding import write_answers
    from touchline.evaluate.weights import ActiveAdapter, Weights, pick_dtype

    write_adapter(options.model, root / "rank8" / "epoch_0", 8)
    device = torch.device("cpu")
    weights = Weights(str(options.model), pick_dtype(options.dtype, device), device)
    renderer, prompts = rendered(options.model, options.items)
    prompts.sort(key=lambda each: (-len(each), each))
    faults = 0
    for name, worn in (("base", None), ("rank 8", ActiveAdapter(folder=root / "rank8" / "epoch_0", merged=True))):
        weights.activate(worn)
        first = None
        for size in options.batches:
            answers = [
                answer.ids
                for start in range(0, len(prompts), size)
                for answer in write_answers(
                    weights.model,
                    prompts[start : start + size],
                    max_new_tokens=NEW_TOKENS,
                    stop_ids=renderer.stop_ids,
                    pad_id=renderer.pad_id,
                )
            ]
            first = first or answers
            differ = sum(a != b for a, b in zip(answers, first, strict=True))
            faults += differ
            print(f"{options.dtype}, {name}, batch {size}: {differ} of {len(prompts)} answers differ", flush=True)
    return 1 if faults and options.dtype == "float32" else 0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=load_settings().models_dir / "SmolLM2-135M-Instruct")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--shared", type=int, nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compare = compare_batches if options.batches else compare_shared if options.shared else compare_sides
        return compare(Path(name), options)


if __name__ == "__main__":
    sys.exit(main())
