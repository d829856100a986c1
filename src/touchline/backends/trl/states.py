"""Arguments by their names, printed or in a file, and files that the Trainer, TRL and PEFT write.

Only what is written is given: a default may differ from version to version. The form with `lora`, `train` and `data`
is that of a script on the Trainer which our users have.
Source: transformers.TrainingArguments, TrainerState and trainer_pt_utils.save_metrics, trl's configs, peft.LoraConfig.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from touchline.backends.config_reading import flag_of
from touchline.backends.config_table import method_of, observations
from touchline.backends.logtext.events import Row
from touchline.backends.logtext.parts import to_count, to_number
from touchline.backends.qlora_stage.format import stated_stage
from touchline.backends.trl.format import READ_KEYS, evidence
from touchline.backends.trl.rows import TrainerRowParser, is_closing, is_evaluation, is_training
from touchline.core.observation import Event, Observation
from touchline.experiment.foreign import ForeignDocument
from touchline.experiment.partial import QLORA_BITS

ANCHORS: frozenset[str] = frozenset(
    {"per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "model_name_or_path"}
)
"""Keys of which at least one is needed, since the others have meanings elsewhere."""
_FLAG = re.compile(
    r"(?<![\w-])--(?P<key>[a-z][\w-]*)(?:(?:=|\s+|['\"],?\s*['\"])(?P<value>[^\s'\",\\-][^\s'\",\\]*))?(?=[\s'\",\\]|$)"
)


def flags(text: str) -> dict[str, object]:
    """Return the arguments of a command line, or of a printed list of its words. Without a value, one is true."""
    found: dict[str, object] = {}
    for match in _FLAG.finditer(text):
        key = match["key"].replace("-", "_")
        if key in READ_KEYS:
            found[key] = match["value"] if match["value"] is not None else "true"
    return found


_OF_OTHERS = frozenset({"_wandb", "_step", "_runtime", "_timestamp", "current_steps"})
_OTHERS_ARGUMENTS = (
    frozenset({"finetuning_type"}),
    frozenset({"stage", "template"}),
    frozenset({"base_model", "sequence_len"}),
    frozenset({"swift_version"}),
    frozenset({"tuner_type"}),
)
"""Arguments of programs that build on the Trainer and have readers of their own."""
_TRL_ARGUMENTS = frozenset({"dataset_text_field", "packing", "use_peft", "max_prompt_length", "num_generations"})
_ADAPTER_NESTS = ("lora", "peft", "lora_config", "peft_config", "adapter")


def read_trainer_state(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read `trainer_state.json`: every logged row with its step, and the training's position."""
    history, step = document.get("log_history"), to_count(document.get("global_step"))
    if not isinstance(history, list) or step is None:
        return None
    return tuple(_trainer_state(name, document, history, step))


def _trainer_state(name: str, document: Row, history: list[object], step: int) -> Iterator[Event]:
    rows = TrainerRowParser()
    logged: list[Row] = [row for row in history if isinstance(row, dict)]
    closing: Row | None = None
    for row in logged:
        if is_closing(row):
            closing = row
        elif is_training(row) or is_evaluation(row):
            yield from rows.read(row, name, 0)
    total, epochs = to_count(document.get("max_steps")), to_number(document.get("num_train_epochs"))
    if total:
        yield Observation(name="steps_total", value=total, line=0, unit="steps")
    if epochs is not None and 0 < epochs < 1e6:
        yield Observation(name="epochs", value=epochs, line=0, unit="epochs")
    batch = to_count(document.get("train_batch_size"))
    if batch:
        # With several GPUs in one process it is that of all of them.
        yield Observation(name="micro_batch_size", value=batch, line=0, certain=False)
    if closing is not None and to_count(closing.get("step")) in (None, step):
        yield from rows.closing(closing, name, 0)
    yield rows.trainer(0)
    epoch = to_number(document.get("epoch"))
    yield Observation(name="step", value=step, line=0, unit="steps", epoch=epoch, aggregation="last")


def read_results(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read `all_results.json`, `train_results.json` or `eval_results.json`: last rows of training and evaluation."""
    if not _OF_OTHERS.isdisjoint(document):
        return None
    closing = is_closing({key: value for key, value in document.items() if key != "loss"})
    if not closing and not ("eval_loss" in document and "eval_runtime" in document):
        return None
    rows = TrainerRowParser()
    events: list[Event] = []
    if is_evaluation(document):
        events += rows.read({key: value for key, value in document.items() if not key.startswith("train_")}, name, 0)
    if closing:
        events += rows.closing(document, name, 0)
    examples = to_count(document.get("train_samples"))
    if closing and examples:
        events.append(Observation(name="train_examples", value=examples, line=0, unit="examples"))
    return tuple(events)


def read_adapter(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read `adapter_config.json`: the adapter and its base."""
    del name
    if document.get("peft_type") != "LORA" or "r" not in document:
        return None
    return tuple(_adapter(document))


def _adapter(document: Row) -> Iterator[Event]:
    model = document.get("base_model_name_or_path")
    if isinstance(model, str) and model:
        yield Observation(name="model", value=model, line=0)
    # Whether the base was quantised while it trained, the file does not tell.
    yield Observation(
        name="method", value="dora" if flag_of(document.get("use_dora")) else "lora", line=0, certain=False
    )
    yield from _ranks(document)
    yield from evidence({key: document.get(key) for key in ("target_modules", "lora_dropout")})


def _ranks(values: Mapping[str, object]) -> Iterator[Event]:
    return evidence({"lora_r": values.get("r"), "lora_alpha": values.get("lora_alpha", values.get("alpha"))})


def read_stage(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read a script's file with `model_name` and the groups `lora`, `train` and `data`."""
    del name
    lora, train = document.get("lora"), document.get("train")
    if not isinstance(lora, dict) or not isinstance(train, dict) or not isinstance(document.get("model_name"), str):
        return None
    if not {"train_bs", "grad_accum"} & train.keys():
        return None
    stated = stated_stage(ForeignDocument(path="", data=dict(document), lines=()))
    return (
        Observation(name="trainer", value="hf_trainer", line=0, certain=False),
        *observations(replace(stated, quantization_bits=None), {}),
        # That the script quantises its base, the file does not tell.
        Observation(name="method", value=method_of(adapter=True, bits=QLORA_BITS), line=0, certain=False),
        Observation(name="quantization", value="nf4", line=0, certain=False),
    )


def read_arguments(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read arguments of the Trainer or of TRL's commands, in one level or in groups."""
    del name
    if any(keys <= document.keys() for keys in _OTHERS_ARGUMENTS):
        return None
    groups = {key: value for key, value in document.items() if isinstance(value, dict)}
    values: dict[str, object] = {}
    for group in groups.values():
        values |= {str(key): value for key, value in group.items() if key in READ_KEYS}
    values |= {key: value for key, value in document.items() if key in READ_KEYS}
    anchors = ANCHORS & values.keys()
    if not anchors or (anchors == {"model_name_or_path"} and not {"learning_rate", "max_steps"} & values.keys()):
        return None
    return tuple(_arguments(document, groups, values))


def _arguments(document: Row, groups: Mapping[str, Row], values: Mapping[str, object]) -> Iterator[Event]:
    every = {key for group in groups.values() for key in group} | document.keys()
    trainer = "trl" if _TRL_ARGUMENTS & every else "hf_trainer"
    yield Observation(name="trainer", value=trainer, line=0, certain=False)
    yield from evidence(values)
    for key in _ADAPTER_NESTS:
        group = groups.get(key)
        if group is not None and flag_of(group.get("enabled")) is not False and "r" in group:
            yield from _ranks(group)
            yield Observation(name="method", value="lora", line=0, certain=False)
            break
