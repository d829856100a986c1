"""One packer, driven over a pipe: `packing.py` starts this file with the interpreter that has the packer installed.

    python benchmarks/packing_peer.py NAME

Prints a line {"ready": version} or {"missing": why}, then answers each line {"file", "max_seq_len"} with {"packs",
"seconds"} or {"skipped": why}. Seconds are the process's processor time for the packing alone: what a packer wants as
its input (lists, tables, datasets) is made before. Nothing of touchline is needed but for our own packer.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402 (libraries read the environment when they are loaded)

Timed = Callable[[], int]
"""Packs, and gives how many packs there are; this is what is timed."""
Packer = Callable[[Any, int], Timed]
"""Lengths, shape [examples], and max_seq_len -> what is timed."""


class SkippedCaseError(Exception):
    """This packer cannot do this case here."""


def ours() -> tuple[str, Packer]:
    """The whole plan: every example assigned."""
    from touchline.data.packing.assign import pack

    def prepare(lengths: Any, max_seq_len: int) -> Timed:
        return lambda: pack(lengths, max_seq_len, seed=1).packs

    return importlib.metadata.version("touchline"), prepare


def ours_counts() -> tuple[str, Packer]:
    """How many packs, without saying which example goes where."""
    from touchline.data.packing.groups import count_lengths
    from touchline.data.packing.histogram import pack_histogram

    def prepare(lengths: Any, max_seq_len: int) -> Timed:
        return lambda: pack_histogram(count_lengths(lengths, max_seq_len), max_seq_len).packs

    return importlib.metadata.version("touchline"), prepare


def _table(lengths: Any) -> Any:
    """Examples of these lengths, a byte a token, so that a million of them fit into memory."""
    import pyarrow as pa

    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    values = pa.array(np.zeros(int(offsets[-1]), np.int8))
    return pa.table({"input_ids": pa.ListArray.from_arrays(pa.array(offsets), values)})


def trl() -> tuple[str, Packer]:
    """TRL's best-fit decreasing on the whole table."""
    from trl.data_utils import _pack_bfd

    def prepare(lengths: Any, max_seq_len: int) -> Timed:
        table = _table(lengths)
        return lambda: len(_pack_bfd(table, max_seq_len))

    return importlib.metadata.version("trl"), prepare


def trl_default() -> tuple[str, Packer]:
    """TRL as its trainer calls it: `datasets.map` in batches of 1,000."""
    import datasets
    from trl import pack_dataset

    datasets.disable_progress_bars()
    datasets.disable_caching()

    def prepare(lengths: Any, max_seq_len: int) -> Timed:
        if len(lengths) > 300_000:
            raise SkippedCaseError("more than 300,000 examples")
        dataset = datasets.Dataset(_table(lengths))
        return lambda: len(pack_dataset(dataset, seq_length=max_seq_len, strategy="bfd"))

    return importlib.metadata.version("trl"), prepare


def torchtune() -> tuple[str, Packer]:
    """torchtune's PackedDataset, which packs when it is made and holds every pack as tensors."""
    from torchtune.datasets import PackedDataset

    def prepare(lengths: Any, max_seq_len: int) -> Timed:
        size = int(lengths.sum()) * 1.3 * 3 * 8
        if size > 2e9:
            raise SkippedCaseError(f"would hold {size / 1e9:.0f} GB of tensors")
        samples = [{"tokens": [1] * length, "labels": [1] * length} for length in lengths.tolist()]
        return lambda: len(PackedDataset(samples, max_seq_len=max_seq_len))

    return importlib.metadata.version("torchtune"), prepare


def llamafactory() -> tuple[str, Packer]:
    """LLaMA-Factory's greedy_knapsack in its batches of 1,000 (preprocessing_batch_size).

    The file is loaded by its path: the package around it asks for all that training needs.
    """
    found = importlib.util.find_spec("llamafactory")
    if found is None or not found.submodule_search_locations:
        raise ImportError("No module named 'llamafactory'")
    path = Path(found.submodule_search_locations[0], "data", "processor", "processor_utils.py")
    spec = importlib.util.spec_from_file_location("llamafactory_processor_utils", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)

    def prepare(lengths: Any, max_seq_len: int) -> Timed:
        batches = [lengths[at : at + 1000].tolist() for at in range(0, len(lengths), 1000)]
        return lambda: sum(len(module.greedy_knapsack(batch, max_seq_len)) for batch in batches)

    return importlib.metadata.version("llamafactory"), prepare


def lightbinpack() -> tuple[str, Packer]:
    """lightbinpack's fastest best-fit decreasing, in C++."""
    from lightbinpack import obfd

    def prepare(lengths: Any, max_seq_len: int) -> Timed:
        numbers = lengths.tolist()
        return lambda: len(obfd(numbers, max_seq_len))

    return importlib.metadata.version("lightbinpack"), prepare


def nemo() -> tuple[str, Packer]:
    """NeMo's first-fit decreasing, which sums up every open pack for each example."""
    from nemo.utils.sequence_packing_utils import first_fit_decreasing

    def prepare(lengths: Any, max_seq_len: int) -> Timed:
        if len(lengths) > 20_000:
            raise SkippedCaseError("quadratic")
        numbers = lengths.tolist()
        return lambda: len(first_fit_decreasing(numbers, max_seq_len))

    return importlib.metadata.version("nemo-toolkit"), prepare


PACKERS: dict[str, Callable[[], tuple[str, Packer]]] = {
    "ours": ours,
    "ours, counts": ours_counts,
    "TRL, whole": trl,
    "TRL, per 1,000": trl_default,
    "torchtune": torchtune,
    "torchtune, our order": torchtune,
    "LLaMA-Factory, per 1,000": llamafactory,
    "lightbinpack": lightbinpack,
    "NeMo": nemo,
}


def main() -> int:
    """Serve."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    # What a library prints must not stand between the answers.
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")

    try:
        version, packer = PACKERS[sys.argv[1]]()
    except Exception as fault:  # noqa: BLE001 (whatever keeps a peer from being imported)
        answer(missing=f"{type(fault).__name__}: {fault}")
        return 1
    answer(ready=version)
    for line in sys.stdin:
        asked = json.loads(line)
        lengths = np.load(asked["file"])
        try:
            timed = packer(lengths, asked["max_seq_len"])
            began = time.process_time()
            packs = timed()
            answer(packs=packs, seconds=time.process_time() - began)
        except SkippedCaseError as reason:
            answer(skipped=str(reason))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
