"""Adapters verified a minute, by their headers and by every value; and the kinds of damage that are found.

    python benchmarks/checkpoints.py [--adapters 300] [--deep 20] [--json]

Checkpoints have the shapes, the names and the sizes of SmolLM2-135M's: 420 tensors of rank 4 in float32, a tokenizer of
3.5 MB, a marker with hashes, and a base to be compared with. For headers the files are sparse, with true headers; for
values they are written in full. Seconds are processor time, wall time beside them. The kinds of damage are those of
`tests/results/corruptions.py`, each done to a sound checkpoint; `sound` counts the sound ones that were blamed.

Exits with 1 when fewer than 1,000 adapters a minute are verified by their headers, a kind is not found, or a sound
checkpoint is blamed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.estimate.made_shapes import LLAMA_TARGETS, SHAPES  # noqa: E402 (the path is set above)
from tests.results import corruptions as kinds  # noqa: E402
from tests.results.conftest import make_trained  # noqa: E402
from tests.results.made_checkpoints import remark  # noqa: E402
from tests.results.test_verification_corrupt import write_hf, write_torchtune  # noqa: E402

from touchline.estimate.disk import adapter_tensors  # noqa: E402
from touchline.results.checkpoint_folder import verify_folder  # noqa: E402
from touchline.results.checkpoint_weights import BaseTensors, Expected, read_base  # noqa: E402
from touchline.results.verification import verify_folders, verify_planned  # noqa: E402
from touchline.results.verification_types import Verification  # noqa: E402

FLOOR = 1000
TOKENIZER_BYTES = 3_522_871
RANK = 4
ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast adapters are verified."""

    read: str
    adapters: int
    megabytes_each: float
    seconds: float
    wall_seconds: float

    @property
    def a_minute(self) -> float:
        return 60 * self.adapters / max(self.seconds, self.wall_seconds)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found of damage."""

    kinds: int
    missed: tuple[str, ...]
    sound_blamed: int


def write_base(folder: Path) -> BaseTensors:
    """A folder with the base's true header and no bytes behind it."""
    shape = SHAPES["SmolLM2-135M"]
    folder.mkdir(parents=True)
    header: dict[str, object] = {}
    end = 0
    for name, rank, columns in adapter_tensors(shape, RANK, LLAMA_TARGETS):
        if name.endswith("lora_A.weight"):
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            linear = next(each for each in shape.linears if each.name == layer.rpartition(".")[2])
            size = 2 * linear.outputs * columns
            assert rank == RANK
            offsets = [end, end + size]
            header[f"{layer}.weight"] = {"dtype": "BF16", "shape": [linear.outputs, columns], "data_offsets": offsets}
            end += size
    sparse(folder / "model.safetensors", header, end)
    (folder / "tokenizer.json").write_text("{}")
    base = read_base(folder)
    assert base is not None
    return base


def sparse(path: Path, header: object, data_bytes: int) -> None:
    """A file that ends where its header says, without taking room."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + data_bytes)


def write_checkpoint(folder: Path, base: BaseTensors, *, full: bool, seed: int) -> None:
    """One checkpoint; a marker lists its files."""
    folder.mkdir(parents=True)
    tensors = sorted(adapter_tensors(SHAPES["SmolLM2-135M"], RANK, LLAMA_TARGETS))
    if full:
        generator = np.random.default_rng(seed)
        save_file(
            {name: generator.standard_normal((rows, columns), np.float32) for name, rows, columns in tensors},
            folder / ADAPTER,
            metadata={"format": "pt"},
        )
    else:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, rows, columns in tensors:
            offsets = [end, end + 4 * rows * columns]
            header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": offsets}
            end = offsets[1]
        sparse(folder / ADAPTER, header, end)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": sorted(LLAMA_TARGETS)}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base.path}))
    (folder / "tokenizer.json").write_bytes(b"{" + b" " * (TOKENIZER_BYTES - 2) + b"}" if full else b"")
    if not full:
        with (folder / "tokenizer.json").open("wb") as stream:
            stream.write(b"{")
            stream.seek(TOKENIZER_BYTES - 1)
            stream.write(b"}")
    files = {
        path.name: {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if full else "0" * 64,
        }
        for path in sorted(folder.iterdir())
    }
    marker = {
        "schema_version": 1, "experiment": "benchmark", "run": "run", "run_digest": "d", "kind": "adapter",
        "step": seed, "epoch": None, "validation_loss": 0.5, "base_path": base.path, "base_weights_sha256": "b",
        "adapter_sha256": files[ADAPTER]["sha256"], "files": files,
    }  # fmt: skip
    (folder / "touchline.json").write_text(json.dumps(marker))


def speed(folder: Path, base: BaseTensors, count: int, *, deep: bool) -> Speed:
    """Write that many and verify them."""
    places = [folder / f"step_{number}" for number in range(1, count + 1)]
    for number, place in enumerate(places, start=1):
        write_checkpoint(place, base, full=deep, seed=number)
    expected = Expected(run="run", planned=True, digest="d", base=base, saves="adapter")
    began, cpu = time.perf_counter(), time.process_time()
    found = [verify_folder(place, expected, deep=deep) for place in places]
    wall, seconds = time.perf_counter() - began, time.process_time() - cpu
    assert all(item.sound and item.tensors == 420 for item in found), found[0].faults
    shutil.rmtree(folder)
    return Speed(
        read="values" if deep else "headers",
        adapters=count,
        megabytes_each=found[0].size_bytes / 1e6,
        seconds=seconds,
        wall_seconds=wall,
    )


def damage(folder: Path) -> Found:
    """Every kind, done to a sound checkpoint."""
    trained = make_trained(folder / "made")
    write_torchtune(folder / "torchtune", trained.base)
    write_hf(folder / "hf", trained.base)
    missed: list[str] = []
    blamed = 0
    planned = {**kinds.ADAPTERS, **kinds.RESAVED, **kinds.DEEP, **kinds.DEEP_UNMARKED}
    foreign = {**kinds.MODELS, **kinds.MODELS_DEEP, **kinds.ARCHIVES, **kinds.ARCHIVES_DEEP}

    def one(
        kind: str,
        code: str,
        source: Path,
        name: str,
        spoil: Callable[[Path], None],
        look: Callable[[Path], Verification],
    ) -> None:
        nonlocal blamed
        copy = folder / "copy"
        shutil.copytree(source, copy, symlinks=True)
        spoil(copy / name)
        if kind in kinds.RESAVED or kind in kinds.DEEP:
            remark(copy / name)
        found = look(copy)
        of_it = next((item for item in found.checkpoints if f"{item.run}/{item.name}".endswith(name)), None)
        if of_it is None or code not in {fault.code for fault in of_it.faults}:
            missed.append(kind)
        blamed += sum(not item.sound for item in found.checkpoints if item is not of_it)
        shutil.rmtree(copy)

    def ours(root: Path) -> Verification:
        return verify_planned(trained.plan, root, deep=True)

    def theirs(root: Path) -> Verification:
        return verify_folders({root.name: root}, deep=True)

    for kind, (code, spoil) in planned.items():
        one(kind, code, trained.root, "1M_rank4/epoch_1", spoil, ours)
    for kind, (code, spoil) in foreign.items():
        one(kind, code, folder / "torchtune", "epoch_1", spoil, theirs)
    for kind, (code, spoil) in kinds.TRAINER.items():
        one(kind, code, folder / "hf", "checkpoint-20", spoil, theirs)
    return Found(kinds=len(planned) + len(foreign) + len(kinds.TRAINER), missed=tuple(missed), sound_blamed=blamed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Adapters verified a minute, and the damage that is found.")
    parser.add_argument("--adapters", type=int, default=300, help="how many by their headers")
    parser.add_argument("--deep", type=int, default=20, help="how many by every value")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="touchline-benchmark-") as name:
        folder = Path(name)
        base = write_base(folder / "SmolLM2-135M")
        speeds = [
            speed(folder / "run", base, chosen.adapters, deep=False),
            speed(folder / "run", base, chosen.deep, deep=True),
        ]
        found = damage(folder)
    if chosen.json:
        rows = [asdict(each) | {"a_minute": each.a_minute} for each in speeds]
        sys.stdout.write(json.dumps({"speed": rows, "damage": asdict(found)}, indent=2) + "\n")
    else:
        for each in speeds:
            sys.stdout.write(
                f"{each.read:8} {each.adapters:5} adapters of {each.megabytes_each:.2f} MB  "
                f"{each.seconds:6.2f} s processor  {each.wall_seconds:6.2f} s wall  {each.a_minute:9,.0f} a minute\n"
            )
        seen = found.kinds - len(found.missed)
        sys.stdout.write(f"damage   {seen} of {found.kinds} kinds found, {found.sound_blamed} sound blamed\n")
        for kind in found.missed:
            sys.stdout.write(f"         missed: {kind}\n")
    return int(speeds[0].a_minute < FLOOR or bool(found.missed) or found.sound_blamed > 0)


if __name__ == "__main__":
    sys.exit(main())
