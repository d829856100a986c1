"""The examples on which trainers' real batching and its simulation are compared, and how a trainer is asked."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from touchline.backends.llamafactory.data import LlamaFactoryBatching, shortened
from touchline.backends.registry import batching_of
from touchline.backends.trl.data import TrlBatching
from touchline.data.packing.forecast import BatchForecast, Batching, BatchSettings
from touchline.data.packing.simple import Filled, batch_edges, best_fit_decreasing, first_fit_decreasing, next_fit

HERE = Path(__file__).parent
PEERS = ("torchtune", "llamafactory", "axolotl", "trl")
"""The last one is a dependency of the tests; the others have environments of their own."""
Case = dict[str, Any]


def lengths_of(count: int, low: int, high: int, seed: int, *, skewed: bool = False) -> list[int]:
    """Lengths from a congruential generator, the same wherever they are made; skewed: mostly short."""
    state, found = seed, []
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2**31
        share = (state >> 8) / 2**23
        found.append(low + int((high - low + 1) * (share**3 if skewed else share)))
    return found


def cases() -> list[Case]:
    """Settings and examples; every number of examples crosses or does not cross a batch of 1000."""
    made = []
    shapes = [
        ("narrow", lengths_of(300, 35, 45, 1), 512),
        ("wide", lengths_of(400, 2, 128, 2), 128),
        ("cut", lengths_of(250, 2, 200, 3), 100),
        ("many", lengths_of(2300, 2, 160, 4, skewed=True), 160),
        ("few", lengths_of(7, 3, 30, 5), 64),
        ("crowded", lengths_of(1500, 3, 6, 6), 400),
    ]
    batches = [(1, 1, 1, 1), (4, 3, 1, 2), (4, 8, 2, 3)]
    for number, (name, lengths, limit) in enumerate(shapes):
        answers = lengths_of(len(lengths), 1, 40, 7 + number)
        for micro, accumulation, devices, epochs in batches:
            for packed in (False, True):
                made.append(
                    {
                        "name": f"{name} {micro}x{accumulation}x{devices} {'packed' if packed else 'apart'}",
                        "lengths": lengths,
                        "labels": [min(answer, length - 1) for answer, length in zip(answers, lengths, strict=True)],
                        "max_seq_len": limit,
                        "packed": packed,
                        "micro_batch_size": micro,
                        "gradient_accumulation_steps": accumulation,
                        "data_parallel_size": devices,
                        "epochs": epochs,
                        "seed": 42,
                        "num_proc": 3 if name == "many" and devices == 2 else None,
                    }
                )
    return made


def cases_for(peer: str) -> list[Case]:
    """Those cases in which this peer's part differs."""
    if peer == "llamafactory":
        # Only rows and widths are asked of it, which micro-batches do not change.
        return [case for case in cases() if case["micro_batch_size"] == 1 or case["num_proc"]]
    if peer == "axolotl":
        # Its filter is not asked, so only examples that pass it; several devices are accelerate's part.
        return [
            case
            for case in cases()
            if case["packed"] and case["data_parallel_size"] == 1 and max(case["lengths"]) <= case["max_seq_len"]
        ]
    return cases()


def python_of(peer: str) -> str | None:
    """The Python of the environment in which a peer is installed; none: there is none here."""
    if peer == "trl":
        return sys.executable
    return os.environ.get(f"TOUCHLINE_{peer.upper()}_PYTHON")


def ask(peer: str, asked: list[Case]) -> Any:
    """What the real code answers, and its versions. Skips the test where that peer is not installed."""
    python = python_of(peer)
    if python is None:
        pytest.skip(
            f"TOUCHLINE_{peer.upper()}_PYTHON names no Python that has {peer}; what it answered once is checked by "
            "test_batching.py"
        )
    done = subprocess.run(
        [python, "-W", "ignore", str(HERE / f"{peer}_batches.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def settings_of(case: Case) -> BatchSettings:
    names = ("max_seq_len", "packed", "micro_batch_size", "gradient_accumulation_steps", "data_parallel_size")
    return BatchSettings(**{name: case[name] for name in (*names, "epochs", "seed")})


def simulated(peer: str, case: Case, answer: dict[str, Any]) -> dict[str, Any]:
    """The simulation's answer to a case, as far as the trainer's can be foretold; `answer` is the trainer's."""
    lengths = np.asarray(case["lengths"], np.int64)
    labels = np.asarray(case["labels"], np.int64)
    batching = _batching(peer, case)
    # TRL and torchtune are asked without labels, so that TRL drops nothing here.
    told = None if peer == "trl" else labels.astype(np.uint32)
    found = batching.forecast(lengths.astype(np.uint32), settings_of(case), told)
    limit = case["max_seq_len"]
    if peer == "axolotl":
        return _axolotl(case, found, answer["packs"][0])
    if peer == "llamafactory":
        return _llamafactory(case, lengths, labels, found)
    pack = next_fit if peer == "torchtune" else best_fit_decreasing
    edges = () if peer == "torchtune" else (batch_edges(len(lengths), 1000, case["num_proc"]),)
    members = _members(pack(np.minimum(lengths, limit), limit, *edges)) if case["packed"] else None
    said = {
        "rows": found.rows,
        "members": members,
        "first_epoch": found.micro_batch_tokens.tolist(),
        "largest": found.largest.tokens,
    }
    if peer == "torchtune":
        return {**said, "steps": found.steps}
    return {**said, "batches_each": len(found.micro_batch_tokens) // case["data_parallel_size"]}


def _axolotl(case: Case, found: BatchForecast, taken: int) -> dict[str, Any]:
    """It takes no more packs than other orders gave, which cannot be foretold; those it takes can."""
    multiple = -(-case["max_seq_len"] // 64) * 64
    widths = (-(-found.row_tokens // multiple) * multiple).tolist()
    mine = found.micro_batch_tokens.tolist()
    assert mine == widths[: len(mine)]
    assert taken <= found.rows
    return {"row_tokens": found.row_tokens[:taken].tolist(), "first_epoch": widths[:taken]}


def _llamafactory(
    case: Case, lengths: NDArray[np.int64], labels: NDArray[np.int64], found: BatchForecast
) -> dict[str, Any]:
    limit = case["max_seq_len"]
    examples = shortened(lengths - labels, labels, limit - case["packed"])
    filled = (
        first_fit_decreasing(examples.tokens, limit - 1, batch_edges(len(lengths), 1000, case["num_proc"]))
        if case["packed"]
        else Filled(items=np.arange(len(lengths)), starts=np.arange(len(lengths)))
    )
    return {
        "rows": found.rows,
        "members": _members(filled),
        "row_tokens": found.row_tokens.tolist(),
        "row_labels": filled.sums(examples.labels).tolist(),
    }


def _batching(peer: str, case: Case) -> Batching:
    if peer == "trl":
        return TrlBatching(num_proc=case["num_proc"])
    if peer == "llamafactory":
        return LlamaFactoryBatching(preprocessing_num_workers=case["num_proc"])
    return batching_of(peer)


def _members(filled: Filled) -> list[list[int]]:
    return [part.tolist() for part in np.split(filled.items, filled.starts[1:])]


def short(value: Any) -> bool:
    """Whether an answer is kept as it is, not as a hash."""
    return not isinstance(value, list) or (len(value) <= 3 and all(isinstance(item, int) for item in value))


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()[:16]
