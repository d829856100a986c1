"""Faults of templates, tokenizers and scorers: what training shows a model is not what evaluation asks it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.faults.case import FaultCase, base, changed
from tests.faults.experiment_files import experiment_files
from tests.faults.models_d import CHATML, jsonl, model_files

EXPERIMENT = base("experiment")
WORDS = experiment_files()["data/words.json"]
WITHOUT_PROMPT = CHATML.partition("{% if add_generation_prompt")[0]
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
NAMES = ("needles", "clips", "polyps", "stones", "forceps", "scissors")
QUESTIONS = [
    {
        "question": f"How many {name} are shown here, in picture {number}?",
        "answer": f"{(7 * number + at) % 9 + 2} {name}",
    }
    for number in range(60)
    for at, name in enumerate(NAMES)
]
CAPITALS = [
    (f"Of which country is this the capital, case {number}? Answer:", ("France", "no", "yes")[number % 3])
    for number in range(240)
]
LLAMAFACTORY = """model_name_or_path: models/tiny
template: {template}
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
dataset: questions
dataset_dir: data
cutoff_len: 512
output_dir: saves/questions
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 1.0e-4
num_train_epochs: 1.0
"""
TRL = """model_name_or_path: models/tiny
dataset_name: data/questions.jsonl
max_length: 512
use_peft: true
lora_r: 8
learning_rate: 2.0e-4
num_train_epochs: 1
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
output_dir: runs/questions
report_to: none
"""
AXOLOTL = """base_model: models/tiny
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
datasets:
  - path: data/questions.jsonl
    type: chat_template
sequence_len: 512
micro_batch_size: 2
gradient_accumulation_steps: 2
num_epochs: 1
optimizer: adamw_torch
learning_rate: 0.0002
output_dir: outputs/questions
"""


def experiment(
    template: str | None = CHATML, *, text: str = EXPERIMENT, words: str = WORDS, **model: Any
) -> dict[str, str]:
    """The base experiment with a model of its own."""
    return {"experiment.yaml": text, "data/words.json": words} | model_files("models/tiny", template, **model)


def config(text: str, rows: Sequence[Mapping[str, object]], template: str | None = CHATML) -> dict[str, str]:
    """A config of another trainer with its model and its data."""
    registry = {"questions": {"file_name": "questions.jsonl", "columns": {"prompt": "question", "response": "answer"}}}
    return {
        "config.yaml": text,
        "data/questions.jsonl": jsonl(rows),
        "data/dataset_info.json": json.dumps(registry),
    } | model_files("models/tiny", template)


def torchtune(max_seq_len: str) -> dict[str, str]:
    """A config of torchtune for a model of the Qwen family."""
    text = changed(base("torchtune"), "llama3_2.lora_llama3_2_1b", "qwen2_5.lora_qwen2_5_1_5b_instruct")
    text = changed(text, "  path: models/Llama-3.2-1B/original/tokenizer.model\n",
                   "  path: models/tiny/vocab.json\n  merges_file: models/tiny/merges.txt\n")  # fmt: skip
    text = changed(text, "llama3.llama3_tokenizer", "qwen2_5.qwen2_5_tokenizer")
    text = changed(text, "checkpoint_dir: models/Llama-3.2-1B", "checkpoint_dir: models/tiny")
    text = changed(text, "model_type: LLAMA3_2", "model_type: QWEN2")
    text = changed(text, "max_seq_len: 2048", f"max_seq_len: {max_seq_len}")
    rows = [{"input": row["question"], "output": row["answer"]} for row in QUESTIONS]
    return {"finetune.yaml": text, "data/words.json": json.dumps(rows)} | model_files("models/tiny")


WITH_SYSTEM = changed(
    EXPERIMENT, "data: {path: data/words.json}", "data: {path: data/words.json, system: Answer with one word.}"
)
ASKED = [{"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
         for row in QUESTIONS]  # fmt: skip

CASES: list[FaultCase] = [
    FaultCase(
        name="the template writes no generation prompt",
        code="TK203",
        files=experiment(WITHOUT_PROMPT),
        near_miss=experiment(),
    ),
    FaultCase(
        name="a system turn for a template that refuses one",
        code="TK213",
        files=experiment(NO_SYSTEM, text=WITH_SYSTEM),
        near_miss=experiment(NO_SYSTEM),
    ),
    FaultCase(
        name="LLaMA-Factory's template brings a system turn that evaluation does not have",
        code="TK204",
        files=config(LLAMAFACTORY.format(template="qwen"), QUESTIONS),
        near_miss=config(LLAMAFACTORY.format(template="qwen3_nothink"), QUESTIONS),
    ),
    FaultCase(
        name="the answer's first token merges with the blank at the prompt's end",
        code="TK208",
        files=config(TRL, [{"prompt": f"{asked} ", "completion": answer} for asked, answer in CAPITALS]),
        near_miss=config(TRL, [{"prompt": asked, "completion": f" {answer}"} for asked, answer in CAPITALS]),
    ),
    FaultCase(
        name="chats for a base model without a chat template",
        code="TK212",
        files=config(AXOLOTL, ASKED, template=None),
        near_miss=config(AXOLOTL, ASKED),
    ),
    FaultCase(
        name="torchtune's tokenizer of Qwen masks the end of every answer",
        code="TK206",
        files=torchtune("512"),
        near_miss=torchtune("null"),
    ),
]
