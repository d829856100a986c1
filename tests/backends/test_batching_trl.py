"""Trainers and torch do what their simulations say: packs, orders, micro-batches and steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.real_batching.cases import PEERS, ask, cases_for, lengths_of, simulated
from tests.cases import some
from tests.tiers import examples
from tests.tiny_model import build_tiny_model

from touchline.backends.registry import batching_of
from touchline.backends.simulation import permutation
from touchline.data.packing.forecast import BatchSettings


@given(st.integers(0, 3000), st.integers(0, 2**34))
@settings(max_examples=examples(25), deadline=None)
def test_orders_are_those_of_torch(count: int, seed: int) -> None:
    """Whatever else is simulated stands on this."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    assert permutation(count, seed).tolist() == torch.randperm(count, generator=generator).tolist()


@pytest.mark.thorough
@pytest.mark.parametrize("peer", PEERS)
def test_the_simulation_equals_the_trainers_own_code(peer: str) -> None:
    """Every pack and every micro-batch, on one device and on several, with examples packed by one process or three."""
    cases = cases_for(peer)
    found = ask(peer, cases)
    for case, answer in zip(some(cases), found["answers"], strict=True):
        for key, value in simulated(peer, case, answer).items():
            assert value == answer[key], (case["name"], key)
    assert len(found["answers"]) == len(cases)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize(("packed", "micro", "accumulation"), [(False, 4, 3), (True, 2, 4)])
def test_a_real_training_takes_the_steps_and_micro_batches_foretold(
    tiny_model: Path, tmp_path: Path, packed: bool, micro: int, accumulation: int
) -> None:
    """SFTTrainer from its dataset to its last step; also which examples it drops, and in which order it takes them."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    limit, epochs, seed = 24, 2, 7
    lengths = lengths_of(59, 3, 40, 11)
    labels = [min(3, length - 1) for length in lengths]
    rows = [
        {"input_ids": [5 + index % 50] * length, "labels": [-100] * (length - with_loss) + [5] * with_loss}
        for index, (length, with_loss) in enumerate(zip(lengths, labels, strict=True))
    ]
    seen: list[int] = []

    class Watched(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            seen.append(inputs["input_ids"].numel())
            return super().training_step(model, inputs, *rest)

    trainer = Watched(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        train_dataset=Dataset.from_list(rows),
        args=SFTConfig(
            output_dir=str(tmp_path),
            max_length=limit,
            packing=packed,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=epochs,
            seed=seed,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        ),
    )
    trainer.train()
    found = batching_of("trl").forecast(
        np.asarray(lengths, np.uint32),
        BatchSettings(
            max_seq_len=limit,
            packed=packed,
            micro_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            epochs=epochs,
            seed=seed,
        ),
        np.asarray(labels, np.uint32),
    )
    assert len(trainer.train_dataset) == found.rows
    assert trainer.state.global_step == found.steps
    assert seen[: len(found.micro_batch_tokens)] == found.micro_batch_tokens.tolist()
    assert len(seen) == epochs * len(found.micro_batch_tokens)
    assert max(seen) == found.largest.tokens
