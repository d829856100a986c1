"""TRL's rows, computed without TRL, against the rows that SFTTrainer itself prepares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tests.faults.models_d import CHATML, model_files, text_of, tokenizer_json
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from touchline.backends.rendering import RowSettings, TrainedRow
from touchline.backends.trl.rendering import training_row
from touchline.data.rendering.rows import shown_row

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
    """A model folder that transformers loads."""
    bos = "<s>" if adds_bos else None
    files = model_files(
        "model", template, tokenizer=tokenizer_json(adds_bos=bos),
        tokens={"bos_token": bos, "tokenizer_class": "PreTrainedTokenizerFast"},
    )  # fmt: skip
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder / "model"


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
    text = text_of(template, bos="<s>" if adds_bos else None, adds_bos=adds_bos)
    ours = training_row(text, shown, settings)
    assert isinstance(ours, TrainedRow)
    assert list(ours.ids) == list(theirs["input_ids"])
    assert [label != -100 for label in theirs["labels"]] == list(ours.labels)
