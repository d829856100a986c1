"""Lines of OLMo and OLMo-core: a block of `name=value` below `[step=10/1000,epoch=0]`. It divides sizes by 10**6.

Source: olmo/train.py and the console logger of olmo-core.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader, memory
from touchline.backends.logtext.numbers import to_number
from touchline.core.observation import Event, ObservationName

_EVAL_LOSS = Figure(name="eval_loss")
_FIGURES = {
    **dict.fromkeys(("train/CrossEntropyLoss", "train/CE loss", "train/ce loss"), Figure(name="loss")),
    **dict.fromkeys(
        ("throughput/device/tokens_per_second", "throughput/device/TPS"),
        Figure(name="tokens_per_second", unit="tokens/s/GPU", aggregation="mean", token_unit="padded"),
    ),
    **dict.fromkeys(
        ("throughput/device/batches_per_second", "throughput/device/BPS"),
        Figure(name="train_steps_per_second", aggregation="mean"),
    ),
    "System/Peak GPU Memory (MB)": memory("allocated", "GB", scale=1e-3),
    **dict.fromkeys(("system/GPU active mem (GiB)", "gpu_memory/GPU active mem (GiB)"), memory("allocated", "GiB")),
}
_ENTRY = Form(
    hint="=",
    pattern=re.compile(rf"^\s+(?P<name>[A-Za-z][\w /().@-]{{0,80}}?)\s?=\s?(?P<value>{VALUE})\s*$"),
    in_block=True,
)
_CONFIG = Form(hint="TrainConfig(", pattern=re.compile(r"\brun_name="))
_SETTING = re.compile(r"(?<![\w.])(?P<name>[a-z_]+)=(?P<value>[\d.e+-]+)(?=[,)])")
_SETTINGS: Mapping[str, ObservationName] = {
    "global_train_batch_size": "global_batch_size",
    "device_train_microbatch_size": "micro_batch_size",
    "device_train_grad_accum": "gradient_accumulation_steps",
    "max_sequence_length": "max_seq_len",
    "learning_rate": "learning_rate",
}
_OPTIMIZER = re.compile(r"OptimizerType\.(\w+)")
_PRECISION = re.compile(r"precision='(?:amp_)?(bf16|fp16|fp32)'")
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class OlmoLines(FormReader):
    """Reader of one file's lines."""

    trainer = "olmo"
    words = frozenset(
        {
            *("crossentropyloss", "trainconfig", "tokens_per_second", "batches_per_second", "memory", "parameters"),
            *("ce", "epoch", "throughput", "total_tokens", "tps", "bps", "mem"),
        }
    )
    forms = (
        Form(
            hint="[step=",
            pattern=re.compile(r"\[step=(?P<step>\d+)(?:/(?P<steps_total>\d+))?(?:,epoch=\d+(?:/\d+)?)?[\],]"),
            opens_block=True,
            names_trainer=True,
        ),
        _ENTRY,
        Form(
            hint="Peak GPU Memory (MB)",
            pattern=re.compile(
                r"(?:^\s+System/Peak GPU Memory \(MB\)\s?=\s?|\bPeak GPU Memory \(MB\) (?:before|after) \w+: )"
                r"(?P<peak>[\d,.]+)"
            ),
            figures={"peak": memory("allocated", "GB", scale=1e-3, phase="after_init")},
        ),
        Form(
            hint="number of parameters",
            pattern=re.compile(r"\bTotal number of parameters: (?P<total_parameters>[\d,]+)\s*$"),
        ),
        _CONFIG,
    )

    def values(self, form: Form, match: re.Match[str]) -> list[tuple[Figure, str]]:
        """Return the figures of a line; every validation set has an entry of its own."""
        if form is not _ENTRY:
            return super().values(form, match)
        name = match["name"]
        if name.startswith("eval/") and name.endswith(("/CrossEntropyLoss", "/CE loss")):
            return [(_EVAL_LOSS, match["value"])]
        return [(_FIGURES[name], match["value"])] if name in _FIGURES else []

    def events(self, form: Form, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        """Yield the events of a line, or of the configuration that is printed on one line."""
        if form is not _CONFIG:
            yield from super().events(form, match, text, number)
            return
        once = self.emitter.once
        yield from once("trainer", self.trainer, number)
        for setting in _SETTING.finditer(text):
            name, value = _SETTINGS.get(setting["name"]), to_number(setting["value"])
            if name is not None and value:
                yield from once(name, value, number)
        if (optimizer := _OPTIMIZER.search(text)) is not None:
            yield from once("optimizer", optimizer.group(1), number)
        if (precision := _PRECISION.search(text)) is not None:
            yield from once("dtype", _DTYPES[precision.group(1)], number)


FORMS: tuple[type[FormReader], ...] = (OlmoLines,)
"""Readers of its lines."""
