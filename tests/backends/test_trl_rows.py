"""TRL's rows, computed without TRL, against the rows that SFTTrainer itself prepares."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.real_batching.cases import PEERS, ask, cases_for, lengths_of, simulated
from tests.cases import some, write_files
from tests.faults.models_d import CHATML, model_files, text_of, tokenizer_json
from tests.tiers import examples
from tests.tiny_model import build_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from touchline.backends.registry import batching_of
from touchline.backends.simulation import RowSettings, TrainedRow, permutation
from touchline.backends.trl.data import training_row
from touchline.data.packing.forecast import BatchSettings
from touchline.data.rendering.text import shown_row

USER = {"role": "user", "content": "Capitalize the given word: quantity"}
ANSWER = {"role": "assistant", "content": "Quantity"}
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
OWN_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}" + CHATML
THINKING = CHATML.replace(
    "+ message['content']",
    "+ ('<think></think>' if loop.last and not add_generation_prompt else '') + message['content']",
)


def model(folder: Path, template: str | None, *, adds_bos: bool = False) -> Path:
    bos = "<s>" if adds_bos else None
    files = model_files(
        "model", template, tokenizer=tokenizer_json(adds_bos=bos),
        tokens={"bos_token": bos, "tokenizer_class": "PreTrainedTokenizerFast"},
    )  # fmt: skip
    return write_files(folder, files) / "model"


CASES: dict[str, tuple[str | None, bool, dict[str, Any], dict[str, Any], RowSettings]] = {
    "a chat": (CHATML, False, {"messages": [USER, ANSWER]}, {}, RowSettings()),
    "a chat, cut": (CHATML, False, {"messages": [USER, ANSWER]}, {"max_length": 9}, RowSettings(max_seq_len=9)),
    "a chat, answers only": (
        MARKED, False, {"messages": [USER, ANSWER]}, {"assistant_only_loss": True}, RowSettings(answers_only=True)
    ),
    "prompt and completion as chats": (CHATML, False, {"prompt": [USER], "completion": [ANSWER]}, {}, RowSettings()),
    "a template that puts thoughts before the last answer": (
        THINKING, False, {"prompt": [USER], "completion": [ANSWER]}, {}, RowSettings()
    ),
    "a system turn of the template's own": (
        OWN_SYSTEM, False, {"prompt": [USER], "completion": [ANSWER]}, {}, RowSettings()
    ),
    "two texts": (None, False, {"prompt": "Capital of France:", "completion": " Paris"}, {}, RowSettings()),
    "two texts that merge": (None, False, {"prompt": "Capital of France: ", "completion": "Paris"}, {}, RowSettings()),
    "two texts, begin token added": (None, True, {"prompt": "<s>Answer:", "completion": " yes"}, {}, RowSettings()),
    "two texts, loss on both": (
        None, False, {"prompt": "Answer:", "completion": " yes"}, {"completion_only_loss": False},
        RowSettings(trains_on_prompt=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rows_and_labels_are_those_of_the_trainer(name: str, tmp_path: Path) -> None:
    """Token for token and label for label."""
    template, adds_bos, row, arguments, settings = CASES[name]
    folder = model(tmp_path, template, adds_bos=adds_bos)
    arguments = {"max_length": None, **arguments}
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_list([row]),
        args=SFTConfig(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True, bf16=False, **arguments),
    )
    (theirs,) = trainer.train_dataset
    shown = shown_row(row, "row")
    assert shown is not None
    ours = training_row(text_of(template, bos="<s>" if adds_bos else None, adds_bos=adds_bos), shown, settings)
    assert isinstance(ours, TrainedRow)
    assert list(ours.ids) == list(theirs["input_ids"])
    assert [label != -100 for label in theirs["labels"]] == list(ours.labels)


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
def test_real_steps_are_foretold(tiny_model: Path, tmp_path: Path, packed: bool, micro: int, accumulation: int) -> None:
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
    assert (len(trainer.train_dataset), trainer.state.global_step) == (found.rows, found.steps)
    assert seen[: len(found.micro_batch_tokens)] == found.micro_batch_tokens.tolist()
    assert len(seen) == epochs * len(found.micro_batch_tokens)
    assert max(seen) == found.largest.tokens
