"""ms-swift's own output and its args.json, apart from the Trainer's.

Source: swift.utils.logger (prefix), swift.trainers.patcher (rows), swift.arguments, swift.utils.transformers_utils.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from touchline.backends.config_table import method_of
from touchline.backends.logtext.events import (
    AttributesOfMemory,
    BarCount,
    DocumentReader,
    LoggedTrainer,
    LogReader,
    Row,
    figure,
    observed,
    to_sign,
)
from touchline.backends.logtext.parts import to_count, to_number
from touchline.core.observation import Event, Inside, Observation, ObservationName, SignKind

_PREFIX = re.compile(r"\[(?:DEBUG|INFO|WARNING|ERROR):swift\] ?(?P<message>.*)")
_ARGUMENT = re.compile(r"(?P<key>\w+)=(?P<value>.*),")
_FACTS = re.compile(
    r"rank: -?\d+, local_rank: -?\d+, world_size: (?P<gpus>\d+)|max_length: (?P<max_seq_len>\d+)\s*$"
    r"|Downloading the model from [\w ]+ Hub, model_id: (?P<model>\S+)\s*$"
    r"|model_parameter_info: \w+: (?P<total_parameters>[\d.]+M) Params \((?P<trainable_parameters>[\d.]+M) Trainable"
    r"|swift\.__version__: (?P<version>\d[\w.+]*)\s*$"
)
_INFERS = re.compile(r"args: (?:Infer|Eval|Deploy|Export)Arguments")
_ONE_LINE = re.compile(r"(?:\(|, )(?P<key>\w+)=(?P<value>'[^']*'|\[[^\]]*\]|[^,()\[\]]+)")
_SIGNS: tuple[tuple[str, SignKind], ...] = (
    ("The logging file will be saved in: ", SignKind.START),
    ("Saving model checkpoint to ", SignKind.SAVING),
    ("Merge LoRA...", SignKind.EXPORTING),
    ("Successfully merged LoRA and saved in ", SignKind.SAVED),
    ("End time of running main: ", SignKind.DONE),
)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\b")
_AT = re.compile(r"(?P<step>\d+)/(?P<total>\d+)")
_MEGATRON = frozenset({"train_speed(s/it)", "memory(GiB)"})
_ELAPSED = re.compile(r"(?:(\d+)d )?(?:(\d+)h )?(?:(\d+)m )?(\d+)s")
_INSIDE: tuple[Inside, ...] = ("evaluation", "saving")
_TUNERS = ("tuner_type", "train_type", "sft_type")
_SETTINGS: Mapping[str, ObservationName] = {
    **dict.fromkeys(("model", "model_id_or_path"), "model"),
    **dict.fromkeys(("per_device_train_batch_size", "batch_size"), "micro_batch_size"),
    **dict.fromkeys(_TUNERS, "method"),
    **dict.fromkeys(("torch_dtype", "dtype"), "dtype"),
    **{name: name for name in ("gradient_accumulation_steps", "learning_rate", "lora_rank", "lora_alpha")},
    **{"max_length": "max_seq_len", "max_steps": "steps_total", "num_train_epochs": "epochs", "packing": "packed"},
    **{"optim": "optimizer", "attn_impl": "attention", "gradient_checkpointing": "gradient_checkpointing"},
    **dict.fromkeys(("target_modules", "lora_target_modules"), "target_modules"),
    **{"global_world_size": "gpus", "swift_version": "version"},
}
_OF_LORA = ("lora_rank", "lora_alpha", "target_modules", "lora_target_modules")
_UNITS = {"max_seq_len": "tokens", "steps_total": "steps", "epochs": "epochs"}
_WORDS = {"flash_attn": "flash_attention_2", "bf16": "bfloat16", "fp16": "float16", "True": "true", "False": "false"}


class SwiftLines:
    """ms-swift's own lines, and what it puts into the Trainer's rows."""

    words: ClassVar[frozenset[str]] = frozenset(
        {"swift", "global_step", "train_speed", "resume_from_checkpoint", *_SETTINGS}
    )

    def __init__(self) -> None:
        """Start with a new file."""
        self._arguments: dict[str, tuple[object, int]] | None = None
        self._known = False
        self._trains = False

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of one line."""
        found = _PREFIX.search(text) if "swift" in text else None
        if found is None:
            argument = _ARGUMENT.fullmatch(text.strip()) if self._arguments is not None else None
            if argument is not None and self._arguments is not None:
                self._arguments.setdefault(argument["key"], (argument["value"], number))
            return
        # Another line shows that the printed arguments are complete.
        yield from _settings(self._arguments or {})
        message, self._arguments, self._known = found["message"].strip(), None, True
        yield Observation(name="trainer", value="swift", line=number)
        if message.startswith("args: ") and "Arguments(" in message:
            yield to_sign(SignKind.EVALUATING if _INFERS.match(message) else SignKind.START, text, number)
            self._arguments = {}
            for each in _ONE_LINE.finditer(message):
                self._arguments.setdefault(each["key"], (each["value"], number))
        for beginning, kind in _SIGNS:
            if message.startswith(beginning) and (self._trains or kind is not SignKind.DONE):
                self._trains = self._trains or kind is SignKind.START
                yield to_sign(kind, text, number, _step(message))
        facts = _FACTS.match(message)
        for name, value in facts.groupdict().items() if facts is not None else ():
            figure = to_number(value)
            if value and name in ("model", "version"):
                yield Observation(name=name, value=value if name == "model" else f"ms-swift={value}", line=number)  # type: ignore[arg-type]
            elif figure and (name != "trainable_parameters" or figure > 10_000):
                # One process may spread the model over several devices; weights of 4 bits are counted by their bytes.
                certain = name != "total_parameters" and (name != "gpus" or figure != 1)
                unit = _UNITS.get(name, "1")
                yield Observation(name=name, value=round(figure), line=number, unit=unit, certain=certain)  # type: ignore[arg-type]

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Yield the position, duration and memory of a row. The Trainer's reader yields its losses."""
        del text
        # Megatron names it `iteration`.
        at = row.get("global_step/max_steps") or (row.get("iteration") if not _MEGATRON.isdisjoint(row) else None)
        found = _AT.fullmatch(str(at))
        is_ours = self._known or found is not None or "memory(GiB)" in row or "last_model_checkpoint" in row
        step = int(found["step"]) if found is not None else to_count(row.get("global_step"))
        if step is None or not is_ours:
            return
        epoch = to_number(row.get("epoch"))
        yield Observation(name="trainer", value="swift", line=number)
        yield from figure("steps_total", found and found["total"], number, positive=True)
        yield observed("step", step, number, epoch=epoch)
        if not any(key.startswith("eval_") for key in row):
            # It is the highest since the beginning, also in rows of an evaluation, which may need more.
            size = row.get("memory" if "last_model_checkpoint" in row else "memory(GiB)")
            more = AttributesOfMemory(step=step, epoch=epoch, phase="step", kind="reserved", aggregation="peak")
            yield from figure("peak_memory", size, number, unit="GiB", positive=True, **more)
        elapsed = _ELAPSED.fullmatch(str(row.get("elapsed_time", "")))
        if elapsed is not None and "train_runtime" not in row:
            days, hours, minutes, seconds = (int(part or 0) for part in elapsed.groups())
            spent = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
            yield observed("train_seconds", spent, number, step=step, epoch=epoch, aggregation="last", inside=_INSIDE)


def read_config(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read ms-swift's saved arguments. Return None for any other mapping."""
    del name
    if not ("swift_version" in document or "sft_type" in document) or document.keys().isdisjoint(_TUNERS):
        return None
    values = _settings({key: (value, 0) for key, value in document.items()})
    return (Observation(name="trainer", value="swift", line=0), *values)


def _settings(values: Mapping[str, tuple[object, int]]) -> Iterator[Event]:
    """Yield the events of settings with their lines; text as `print` writes a value is understood."""
    plain = {key: (_plain(value), line) for key, (value, line) in values.items()}
    known = {key: (value, line) for key, (value, line) in plain.items() if value not in (None, "", "None", "auto")}
    path, at = known.get("resume_from_checkpoint", ("", 0))
    if path and known.get("resume_only_model", ("False", 0))[0] != "True":
        yield to_sign(SignKind.RESUMED, f"resume_from_checkpoint={path}", at, _step(str(path)))
    if (to_number(known.get("max_steps", (0, 0))[0]) or 0) > 0:
        known.pop("num_train_epochs", None)
    bits, at = known.get("quant_bits") or known.get("quantization_bit") or (None, 0)
    if (count := to_count(bits)) is not None and count > 0:
        word = str(known.get("bnb_4bit_quant_type", ("nf4", 0))[0]) if count == 4 else f"int{count}"
        yield Observation(name="quantization", value=word, line=at)
    if "lora" not in next((str(known[key][0]) for key in _TUNERS if key in known), "lora"):
        # Arguments of LoRA are printed for a full fine-tuning as well.
        known = {key: value for key, value in known.items() if key not in _OF_LORA}
    for key, (value, line) in known.items():
        name, figure = _SETTINGS.get(key), to_number(value)
        if name is None or (figure is not None and figure <= 0):
            continue
        word = _WORDS.get(str(value), str(value).removeprefix("torch."))
        if name == "version":
            word, figure = f"ms-swift={word}", None
        if name == "method" and word == "lora":
            dora = known.get("use_dora", ("False", 0))[0] == "True"
            word = "dora" if dora else method_of(adapter=True, bits=count or None)
        certain = name != "gpus" or figure != 1
        yield Observation(name=name, value=figure or word, line=line, unit=_UNITS.get(name, "1"), certain=certain)


def _plain(value: object) -> object:
    """Return a value as text without the syntax of `print`, a list as its entries."""
    text = str(value).strip()
    return ",".join(re.findall(r"[^\s,'\"\[\]]+", text)) if text.startswith("[") else text.strip("'\"")


def _step(path: str) -> int | None:
    steps = _CHECKPOINT.findall(path)
    return int(steps[-1]) if steps else None


READERS: tuple[type[LogReader], ...] = (SwiftLines,)
DOCUMENTS: tuple[DocumentReader, ...] = (read_config,)
TRAINERS = (LoggedTrainer(name="swift", precedence=4, bar=BarCount.RUN_STEPS),)
