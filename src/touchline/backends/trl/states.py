"""State files of the Trainer, and arguments of it, of TRL and of PEFT in JSON or YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from touchline.backends.trl.rows0 import row_events
from touchline.domain.observation import Event, Observation, ObservationName
from touchline.logtext.numbers import to_number
from touchline.logtext.reader import Row

_NUMBERS: tuple[tuple[str, ObservationName, str], ...] = (
    ("per_device_train_batch_size", "micro_batch_size", "1"),
    ("gradient_accumulation_steps", "gradient_accumulation_steps", "1"),
    ("num_train_epochs", "epochs", "epochs"),
    ("learning_rate", "learning_rate", "1"),
    ("max_length", "max_seq_len", "tokens"),
    ("max_seq_length", "max_seq_len", "tokens"),
    ("lora_r", "lora_rank", "1"),
    ("lora_alpha", "lora_alpha", "1"),
)
_WORDS: tuple[tuple[str, ObservationName], ...] = (
    ("model_name_or_path", "model"),
    ("optim", "optimizer"),
    ("attn_implementation", "attention"),
)
_FLAGS: tuple[tuple[str, ObservationName], ...] = (
    ("packing", "packed"),
    ("gradient_checkpointing", "gradient_checkpointing"),
)


def read_state(name: str, document: Row) -> tuple[Event, ...] | None:
    """trainer_state.json: the whole history, with digits that stdout has lost."""
    del name
    history = document.get("log_history")
    if not isinstance(history, list) or "global_step" not in document:
        return None
    return tuple(_state(document, [row for row in history if isinstance(row, Mapping)]))


def _state(document: Row, history: list[Mapping[str, object]]) -> Iterator[Event]:
    yield Observation(name="trainer", value="hf_trainer", line=0)
    for key, name in (("max_steps", "steps_total"), ("num_train_epochs", "epochs"), ("global_step", "step")):
        value = to_number(document.get(key))
        if value is not None and value > 0:
            yield Observation(name=name, value=value, line=0, unit="epochs" if name == "epochs" else "steps")  # type: ignore[arg-type]
    batch = to_number(document.get("train_batch_size"))
    if batch:
        # The Trainer writes the batch of a device here; with DataParallel it is that of all of them.
        yield Observation(name="micro_batch_size", value=batch, line=0, certain=False)
    for row in history:
        yield from row_events(row, "log_history", 0)


def read_results(name: str, document: Row) -> tuple[Event, ...] | None:
    """all_results.json, train_results.json, eval_results.json."""
    if not any(key in document for key in ("train_runtime", "eval_runtime")) or "log_history" in document:
        return None
    events = list(row_events({key: value for key, value in document.items() if key != "loss"}, name, 0))
    samples = to_number(document.get("train_samples"))
    if samples:
        events.append(Observation(name="train_examples", value=samples, line=0, unit="rows"))
    effective = to_number(document.get("effective_tokens_per_sec"))
    if effective:
        events.append(
            Observation(name="tokens_per_second", value=effective, line=0, unit="tokens/s", token_unit="real")
        )
    return tuple(events)


def read_stage(name: str, document: Row) -> tuple[Event, ...] | None:
    """The YAML of a QLoRA stage in a chain of a home-made trainer: model_name, lora, train, data."""
    del name
    lora, train = document.get("lora"), document.get("train")
    if "model_name" not in document or not isinstance(lora, Mapping) or not isinstance(train, Mapping):
        return None
    if "train_bs" not in train:
        return None
    names: tuple[tuple[Mapping[str, object], str, ObservationName, str], ...] = (
        (train, "train_bs", "micro_batch_size", "1"),
        (train, "grad_accum", "gradient_accumulation_steps", "1"),
        (train, "epochs", "epochs", "epochs"),
        (train, "lr", "learning_rate", "1"),
        (train, "max_seq_len", "max_seq_len", "tokens"),
        (lora, "r", "lora_rank", "1"),
        (lora, "alpha", "lora_alpha", "1"),
    )
    events: list[Event] = [
        Observation(name="trainer", value="hf_trainer", line=0, certain=False),
        Observation(name="model", value=str(document["model_name"]), line=0),
        Observation(name="method", value="qlora", line=0, certain=False),
    ]
    for table, key, observed, unit in names:
        value = to_number(table.get(key))
        if value is not None:
            events.append(Observation(name=observed, value=value, line=0, unit=unit))
    if isinstance(train.get("gradient_checkpointing"), bool):
        events.append(
            Observation(name="gradient_checkpointing", value=str(train["gradient_checkpointing"]).lower(), line=0)
        )
    events += _targets(lora.get("target_modules"))
    return tuple(events)


def read_arguments(name: str, document: Row) -> tuple[Event, ...] | None:
    """TrainingArguments, SFTConfig and script arguments; adapter_config.json of PEFT."""
    del name
    if any(key in document for key in ("finetuning_type", "stage", "base_model", "sequence_len", "_component_")):
        return None  # LLaMA-Factory's and axolotl's
    if "peft_type" in document and "r" in document:
        return tuple(_adapter(document))
    if "per_device_train_batch_size" not in document:
        return None
    return tuple(_arguments(document))


def _adapter(document: Row) -> Iterator[Event]:
    rank, alpha = to_number(document.get("r")), to_number(document.get("lora_alpha"))
    yield Observation(name="method", value="dora" if document.get("use_dora") else "lora", line=0)
    if rank is not None:
        yield Observation(name="lora_rank", value=rank, line=0)
    if alpha is not None:
        yield Observation(name="lora_alpha", value=alpha, line=0)
    if isinstance(document.get("base_model_name_or_path"), str):
        yield Observation(name="model", value=str(document["base_model_name_or_path"]), line=0)
    yield from _targets(document.get("target_modules"))


def _arguments(document: Row) -> Iterator[Event]:
    for key, name, unit in _NUMBERS:
        value = to_number(document.get(key))
        if value is not None and value > 0:
            yield Observation(name=name, value=value, line=0, unit=unit)
    most = to_number(document.get("max_steps"))
    if most is not None and most > 0:
        yield Observation(name="steps_total", value=most, line=0, unit="steps")
    for key, name in _WORDS:
        if isinstance(document.get(key), str) and document[key]:
            yield Observation(name=name, value=str(document[key]), line=0)
    for key, name in _FLAGS:
        if isinstance(document.get(key), bool):
            yield Observation(name=name, value=str(document[key]).lower(), line=0)
    yield from _targets(document.get("lora_target_modules"))


def _targets(value: object) -> list[Event]:
    if isinstance(value, list):
        value = ",".join(sorted(str(each) for each in value))
    return [Observation(name="target_modules", value=value, line=0)] if isinstance(value, str) and value else []
