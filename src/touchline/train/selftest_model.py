"""Tiny models of the trainer's self-test: random weights, a plain float32 pass to compare with, a short training."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from touchline.backends.peft.layout import BatchLayout
from touchline.backends.run_config import PlannedBatches, RunConfig
from touchline.core.catalog import RenderedExample
from touchline.core.files import sha256_file
from touchline.data.models import load_model
from touchline.data.packing.forecast import plan_batches
from touchline.experiment.data_config import DataConfig
from touchline.experiment.evaluation import planned_model
from touchline.experiment.training import CheckpointConfig, LoraConfig, TrainConfig
from touchline.history.probe import ProbedModel, ProbeRequest
from touchline.train.machine import Machine, select_device
from touchline.train.model import attach_adapter, attention_for, load_base, trainable
from touchline.train.target_loss import TargetLoss

VOCABULARY = 320
PACKED = BatchLayout(row_tokens=96)
PREFIX = BatchLayout(row_tokens=96, share_prefix=True)
_WEIGHTS = 3.0  # Factor of the initial weights: with larger ones attention is uneven, and a leak plain to see
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
FAMILIES = {"llama": "llama", "qwen": "qwen3", "gemma": "gemma3_text"}
"""Families of models, each with the `model_type` that stands for it."""
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ' ' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
)
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "ivory", "jolly", "kiosk", "lemon")
_DATE = "2026-01-01"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """Tiny model of a family, with what a plain float32 pass gives."""

    recipe: ProbeRequest
    adapter: dict[str, Tensor]
    loss: float
    """Mean loss over the label tokens, nats."""
    gradient: Tensor


@functools.cache
def make_reference(family: str, folder: Path) -> Reference:
    """Write the tiny model of a family, and compute loss and gradient example by example on the CPU."""
    place = folder / family
    config = AutoConfig.for_model(FAMILIES[family], **_SIZES)
    torch.manual_seed(1)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(_WEIGHTS)
    made.save_pretrained(place)
    recipe = ProbeRequest(
        model=ProbedModel(name=f"tiny {family}", path=str(place)),
        train=TrainConfig(learning_rate=1e-2, lora=LoraConfig(rank=4)),
        seed=1,
        width=1,
        label_tokens=1,
    )
    processor = replace(select_device("float32"), device=torch.device("cpu"))
    model = attach_adapter(load_base(recipe, processor, "eager"), recipe)
    generator = torch.Generator().manual_seed(2)
    adapter = {
        name: torch.randn(parameter.shape, generator=generator) * 0.05 for name, parameter in trainable(model).items()
    }
    _set_adapter(model, adapter)
    examples = make_examples()
    targets = sum(len(example.answer_ids) for example in examples)
    total = torch.zeros(())
    for example in examples:
        token_ids = torch.tensor([example.prompt_ids + example.answer_ids])
        labels = torch.tensor(example.answer_ids)
        logits = model(input_ids=token_ids, use_cache=False).logits[0, -len(labels) - 1 : -1]
        total = total + nn.functional.cross_entropy(logits, labels, reduction="sum") / targets
    total.backward()
    return Reference(recipe=recipe, adapter=adapter, loss=total.item(), gradient=read_gradient(model))


def load_on(machine: Machine, reference: Reference) -> tuple[PeftModel, TargetLoss]:
    """Return the reference's model on a device, with its loss as the trainer computes it."""
    base = load_base(reference.recipe, machine, attention_for(machine, PACKED.row_tokens or 0))
    model = attach_adapter(base, reference.recipe)
    _set_adapter(model, reference.adapter)
    return model, TargetLoss(model, machine)


def _set_adapter(model: PeftModel, adapter: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(adapter[name])


def read_gradient(model: PeftModel) -> Tensor:
    """Return the gradients of all adapter weights, in one vector."""
    found = [parameter.grad for parameter in trainable(model).values()]
    return torch.cat([grad.flatten().double().cpu() for grad in found if grad is not None])


def make_examples() -> list[RenderedExample]:
    """Return examples of several lengths behind a common beginning."""
    generator = np.random.default_rng(3)
    beginning = tuple(generator.integers(1, VOCABULARY, 9).tolist())
    examples = []
    for prompt, answer in ((5, 3), (9, 1), (2, 7), (14, 4), (7, 2)):
        ids = tuple(generator.integers(1, VOCABULARY, prompt + answer).tolist())
        examples.append(RenderedExample(prompt_ids=beginning + ids[:prompt], answer_ids=ids[prompt:]))
    return examples


def make_training(folder: Path) -> RunConfig:
    """Return a training of some steps on the tiny model, which gets a tokenizer of bytes."""
    if not (folder / "tokenizer.json").exists():
        _add_tokenizer(folder)
    rows = [{"input": word, "output": word.capitalize()} for word in _WORDS]
    words = folder / "words.json"
    words.write_text(json.dumps({"train": rows[:-4], "validation": rows[-4:-2], "test": rows[-2:]}), encoding="utf-8")
    train = TrainConfig(
        epochs=1,
        global_batch_size=2,
        micro_batch_size=1,
        learning_rate=1e-2,
        max_seq_len=256,
        packed=False,
        lora=LoraConfig(rank=4, dropout=0.1),
        checkpoint=CheckpointConfig(resume_minutes=1000),
    )
    batches = plan_batches(
        np.ones(len(rows) - 4, dtype=np.uint32), global_batch_size=2, micro_batch_size=1, epochs=1, seed=1
    )
    info = load_model(str(folder), folder.parent)
    return RunConfig(
        experiment="selftest",
        run="selftest",
        run_digest="0" * 64,
        model=planned_model(info),
        data=DataConfig(path=str(words), prompt="Capitalize: {input}"),
        data_sha256=sha256_file(words),
        date=_DATE,
        train=train,
        seed=1,
        batches=PlannedBatches(digest=batches.digest, steps=batches.steps, steps_per_epoch=batches.steps_per_epoch),
    )


def _add_tokenizer(folder: Path) -> None:
    special = ("<pad>", "<s>", "</s>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate((*special, *alphabet))}, merges=[]))
    tokenizer.add_special_tokens(list(special))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "chat_template": _CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
