"""Packing of a dataset: token lengths, batches packed and unpacked, the packed order, and the isolation self-test."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from touchline.backends.protocol import ExampleLengths
from touchline.backends.registry import batching_of
from touchline.core.callbacks import ProgressCallback
from touchline.core.catalog import ModelInfo
from touchline.core.clock import today
from touchline.core.errors import HostError, InputError, install_hint
from touchline.core.estimate import PackingSummary
from touchline.core.files import write_atomic
from touchline.data.datasets import load_rows
from touchline.data.lengths import read_lengths
from touchline.data.machine import absent_packages
from touchline.data.models import load_model
from touchline.data.packing.advice import compare as side_by_side
from touchline.data.packing.assign import Handoff, OurBatching, hand_off, pack
from touchline.data.packing.forecast import Batching, BatchSettings, IsolationCheck
from touchline.data.planned_models import load_planned_model
from touchline.data.requests import OURS, PackRequest
from touchline.data.resolving import with_columns
from touchline.data.user_config import UserConfig
from touchline.data.worker import told_faults
from touchline.experiment.data_config import DataConfig
from touchline.plan.local.lengths import training_lengths


def load_lengths(request: PackRequest, settings: UserConfig, on_progress: ProgressCallback | None) -> ExampleLengths:
    """Return the token lengths of the training split by the model's own tokenizer, or those of the file.

    Raises:
        InputError: neither a dataset with a tokenizer nor a file of lengths was given, or one of them cannot be used.
    """
    if request.lengths is not None:
        total = read_lengths(request.lengths)
        return ExampleLengths(prompt=np.zeros_like(total), answer=total)
    return _counted(request, load_model(_tokenizer(request), settings.models_dir), settings, on_progress)


def assume_lengths(
    request: PackRequest, settings: UserConfig, on_progress: ProgressCallback | None
) -> tuple[ExampleLengths, tuple[str, ...]]:
    """Return the token lengths, also of a model whose tokenizer is not here, and a line on what is assumed then.

    Raises InputError: as `load_lengths`.
    """
    if request.lengths is not None:
        return load_lengths(request, settings, on_progress), ()
    model = load_planned_model(_tokenizer(request), settings.models_dir)
    assumed = model.absent.get("tokenizer")
    lines = () if assumed is None else (f"The tokenizer of {model.name} is not here; {assumed.missing}.",)
    return _counted(request, model, settings, on_progress), lines


def _tokenizer(request: PackRequest) -> str:
    if request.dataset is None or request.tokenizer is None:
        named = shlex.quote("data.json" if request.dataset is None else str(request.dataset))
        raise InputError(
            "the token lengths of the examples are unknown",
            expected="a dataset with --tokenizer MODEL, or --lengths FILE",
            hint=f"touchline pack {named} --tokenizer SmolLM2-135M-Instruct --max-seq-len {request.max_seq_len}",
        )
    return request.tokenizer


def _counted(
    request: PackRequest, model: ModelInfo, settings: UserConfig, on_progress: ProgressCallback | None
) -> ExampleLengths:
    found = training_lengths(model, data_config(request), Path(), today(), settings, on_progress)
    if not len(found.prompt):
        raise InputError(f"{str(request.dataset)!r} has no training rows")
    return found


def compare(request: PackRequest, lengths: ExampleLengths, assumed: Sequence[str] = ()) -> PackingSummary:
    """Simulate both packed and unpacked batching. The verdict comes first among the advice, then what is `assumed`.

    Raises InputError: that trainer's batching is unknown.
    """
    batching: Batching = OurBatching() if request.backend == OURS else batching_of(request.backend)
    wanted = BatchSettings(
        max_seq_len=request.max_seq_len,
        packed=True,
        micro_batch_size=request.micro_batch,
        gradient_accumulation_steps=request.accumulation,
        data_parallel_size=request.devices,
        epochs=request.epochs,
        seed=request.seed,
    )
    packed, unpacked = (
        batching.forecast(lengths.total, replace(wanted, packed=way), lengths.answer) for way in (True, False)
    )
    found = side_by_side(
        lengths.total, wanted, packed, unpacked, backend=request.backend, labels=lengths.answer, is_open=True
    )
    if lengths.ends is not None:
        low, high = (batching.forecast(each.total, wanted, each.answer).rows for each in lengths.ends)
        assumed = (*assumed, f"By the ends of these intervals there are {low:,} to {high:,} packed sequences.")
    return replace(found, advice=(*found.advice[:1], *assumed, *found.advice[1:]))


def write_in_packs(request: PackRequest, to: Path, lengths: ExampleLengths) -> Handoff:
    """Write the training examples in the order in which next-fit reproduces our packed sequences.

    Raises InputError: an example is longer than a row, or the dataset cannot be used.
    """
    total = lengths.total
    too_long = np.flatnonzero(total > request.max_seq_len)
    if len(too_long):
        raise InputError(
            f"{len(too_long)} of {len(total)} training examples are longer than {request.max_seq_len} tokens; the "
            f"first is row {int(too_long[0])} with {int(total[too_long[0]])}",
            hint=f"--max-seq-len {int(total.max())}, or shorter examples",
        )
    rows = load_rows(data_config(request), "train", Path())
    if len(rows) != len(total):
        raise InputError(
            f"{len(total):,} lengths for {len(rows):,} training rows", expected="one length per training example"
        )
    plan = pack(total, request.max_seq_len, seed=request.seed)
    found = hand_off(plan, total)
    text = "".join(json.dumps(rows[int(index)], ensure_ascii=False) + "\n" for index in found.order)
    write_atomic(to, text)
    return found


def data_config(request: PackRequest) -> DataConfig:
    """Return the dataset as experiment.yaml would describe it. Columns that are not given are found by name."""
    stated = DataConfig(
        path=str(request.dataset),
        input=request.input_column or "input",
        output=request.output_column or "output",
        messages=request.messages,
        prompt=request.prompt,
    )
    given = {
        key
        for key, column in (("data.input", request.input_column), ("data.output", request.output_column))
        if column is not None
    }
    return with_columns(stated, given, Path(), None)


_PROGRAM = "touchline.train.leaks"
_NEEDED = ("torch", "transformers")
_LIMIT_SECONDS = 600.0
_CHECK = TypeAdapter(IsolationCheck)
_USAGE = 2


def check_isolation(config: Mapping[str, object]) -> IsolationCheck:
    """Check whether examples in one packed sequence attend to each other, in the architecture of a config.json.

    Raises:
        InputError: no small model of it can be made.
        HostError: the packages that train are not installed, or the test did not end.
    """
    absent = absent_packages(_NEEDED)
    if absent:
        raise HostError(
            f"the self-test needs {', '.join(absent)}, which {'are' if len(absent) > 1 else 'is'} not installed",
            hint=install_hint("train"),
        )
    command = [sys.executable, "-m", _PROGRAM]
    try:
        done = subprocess.run(  # noqa: S603 (fixed arguments)
            command, check=False, capture_output=True, text=True, timeout=_LIMIT_SECONDS, input=json.dumps(config)
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"the self-test did not finish within {_LIMIT_SECONDS:.0f} s") from None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    faults = told_faults(done.stderr)
    if done.returncode == _USAGE:
        raise InputError((faults or lines or ["no answer"])[-1])
    try:
        return _CHECK.validate_json(done.stdout.strip().splitlines()[-1])
    except (ValidationError, IndexError):
        last = (faults or lines or ["no word"])[-1]
        raise HostError(f"the self-test failed with exit code {done.returncode}: {last}") from None
