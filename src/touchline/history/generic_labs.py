"""Trainers of laboratories and competitions: OLMo, verl, and the loops that came from modded-nanogpt.

Sources: olmo/train.py and olmo-core's console logger, verl/utils/logger/aggregate_logger.py and
trainer/ppo/metric_utils.py, modded-nanogpt/train_gpt.py and openai/parameter-golf/train_gpt.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from touchline.backends.logtext.numbers import NUMBER, to_count, to_number
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.history.generic_voice import Voice

_F = rf"(?:{NUMBER}|(?i:nan|-?inf))"
_TEXT_LIMIT = 300


class Olmo:
    """OLMo and OLMo-core: a block of `name=value` lines below `[step=10/1000,epoch=0]`; sizes are of 10**6 bytes."""

    _HEADER = re.compile(
        r"\[step=(?P<step>\d+)(?:/(?P<total>\d+))?(?:,epoch=(?P<epoch>\d+)(?:/(?P<epochs>\d+))?)?[\],]"
    )
    _ENTRY = re.compile(rf"^\s+(?P<name>[A-Za-z][\w /().@-]{{0,80}}?)\s?=\s?(?P<value>{_F})\s*$")
    _LOADING = re.compile(r"\bPeak GPU Memory \(MB\) (?:before|after) \w+: (?P<size>[\d,.]+)")
    _PARAMETERS = re.compile(r"\bTotal number of parameters: (?P<count>[\d,]+)\s*$")
    _SETTING = re.compile(r"(?<![\w.])(?P<name>[a-z_]+)=(?P<value>[\d.e+-]+)(?=[,)])")
    _SETTINGS: Mapping[str, tuple[ObservationName, str]] = {
        "global_train_batch_size": ("global_batch_size", "1"),
        "device_train_microbatch_size": ("micro_batch_size", "1"),
        "device_train_grad_accum": ("gradient_accumulation_steps", "1"),
        "max_sequence_length": ("max_seq_len", "tokens"),
        "learning_rate": ("learning_rate", "1"),
    }
    _LOSSES = frozenset({"train/CrossEntropyLoss", "train/CE loss", "train/ce loss"})

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice
        self._step: int | None = None

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        if "[step=" in text and (match := self._HEADER.search(text)) is not None:
            return list(self._header(match, number))
        if "=" in text and text[:1] in (" ", "\t") and (match := self._ENTRY.match(text)) is not None:
            return list(self._entry(match.group("name"), match.group("value"), text, number)) or None
        if "Peak GPU Memory (MB)" in text and (match := self._LOADING.search(text)) is not None:
            size = to_number(match.group("size"))
            return list(self._voice.memory((size or 0) / 1000, number, "GB", "allocated", phase="after_init"))
        if "number of parameters" in text and (match := self._PARAMETERS.search(text)) is not None:
            count = to_count(match.group("count"))
            return list(self._voice.once("total_parameters", count, number, unit="parameters"))
        if "TrainConfig(" in text and "run_name=" in text:
            return list(self._settings(text, number))
        return None

    def _settings(self, text: str, number: int) -> Iterator[Event]:
        yield from self._voice.once("trainer", "olmo", number)
        for match in self._SETTING.finditer(text):
            known = self._SETTINGS.get(match.group("name"))
            value = to_number(match.group("value"))
            if known is not None and value:
                yield from self._voice.once(known[0], value, number, unit=known[1])
        if (optimizer := re.search(r"OptimizerType\.(\w+)", text)) is not None:
            yield from self._voice.once("optimizer", optimizer.group(1), number)
        if (precision := re.search(r"precision='(?:amp_)?(bf16|fp16|fp32)'", text)) is not None:
            dtype = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[precision.group(1)]
            yield from self._voice.once("dtype", dtype, number)

    def _header(self, match: re.Match[str], number: int) -> Iterator[Event]:
        self._step = int(match.group("step"))
        yield from self._voice.once("trainer", "olmo", number)
        yield from self._voice.once("steps_total", to_count(match.group("total")), number, unit="steps")
        yield from self._voice.at_step(self._step, number)

    def _entry(self, name: str, value: str, text: str, number: int) -> Iterator[Event]:
        step, size = self._step, to_number(value)
        if step is None:
            if name == "System/Peak GPU Memory (MB)":
                yield from self._voice.memory((size or 0) / 1000, number, "GB", "allocated", phase="after_init")
            return
        if name in self._LOSSES:
            yield from self._voice.loss(value, number, text, trainer="olmo", step=step)
        elif name.startswith("eval/") and name.endswith(("/CrossEntropyLoss", "/CE loss")):
            yield from self._voice.eval_loss(value, number, step=step)
        elif name in ("throughput/device/tokens_per_second", "throughput/device/TPS"):
            yield from self._voice.measured(
                "tokens_per_second", size, number, "tokens/s/GPU", step=step, aggregation="mean", token_unit="padded"
            )
        elif name in ("throughput/device/batches_per_second", "throughput/device/BPS"):
            yield from self._voice.measured(
                "train_steps_per_second", size, number, "steps/s", step=step, aggregation="mean"
            )
        elif name in ("throughput/total_tokens", "throughput/total tokens") and size:
            yield Observation(
                name="tokens_seen", value=size, line=number, unit="tokens", step=step, token_unit="padded"
            )
        elif name == "System/Peak GPU Memory (MB)":
            yield from self._voice.memory((size or 0) / 1000, number, "GB", "allocated", step=step, phase="step")
        elif name in ("system/GPU active mem (GiB)", "gpu_memory/GPU active mem (GiB)"):
            yield from self._voice.memory(size, number, "GiB", "allocated", step=step, phase="step")


class Verl:
    """verl: `step:49 - actor/pg_loss:0.01 - timing_s/step:31.2 - perf/throughput:812.4`, one line a step."""

    _ROW = re.compile(r"(?:^|\s)step:(?P<step>\d+) - (?P<rest>[\w@/.-]+:\S.*)$")
    _PAIR = re.compile(rf"(?P<name>[\w@/.() -]+?):(?:np\.\w+\()?(?P<value>{_F})\)?$")
    _LOSSES = ("train/loss", "actor/loss", "actor/pg_loss")
    _PEAKS: tuple[tuple[str, Literal["allocated", "reserved"]], ...] = (
        ("perf/max_memory_allocated_gb", "allocated"),
        ("perf/max_memory_reserved_gb", "reserved"),
    )

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        match = self._ROW.search(text) if " - " in text and "step:" in text else None
        if match is None:
            return None
        found: dict[str, str] = {}
        for part in match.group("rest").split(" - "):
            pair = self._PAIR.match(part.strip())
            if pair is not None:
                found.setdefault(pair["name"], pair["value"])
        if not any("/" in name for name in found):
            return None
        return list(self._row(int(match.group("step")), found, text, number))

    def _row(self, step: int, found: Mapping[str, str], text: str, number: int) -> Iterator[Event]:
        yield from self._voice.once("trainer", "verl", number)
        loss = next((found[name] for name in self._LOSSES if name in found), None)
        trained = loss is not None or any(name.startswith(("timing_s/", "actor/", "train/")) for name in found)
        if step > 0 and trained:
            yield from self._voice.at_step(step, number)
        if loss is not None:
            yield from self._voice.loss(loss, number, text, trainer="verl", step=step)
        yield from self._voice.eval_loss(found.get("val/loss"), number, step=step)
        seconds = to_number(found.get("timing_s/step", found.get("perf/time_per_step")))
        yield from self._voice.measured("step_seconds", seconds, number, "s", step=step)
        rate = to_number(found.get("perf/throughput"))
        yield from self._voice.measured("tokens_per_second", rate, number, "tokens/s/GPU", step=step, token_unit="real")
        for name, kind in self._PEAKS:
            size = to_number(found.get(name))
            yield from self._voice.memory(size, number, "GiB", kind, step=step, phase="step")


class Speedrun:
    """modded-nanogpt and its offspring: `step:125/3040 val_loss:4.5 train_time:46186ms step_avg:369.49ms`."""

    _ROW = re.compile(r"^(?:step: ?)?(?P<step>\d+)/(?P<total>\d+) (?P<rest>[a-z_/]+: ?\S.*)$")
    _PAIR = re.compile(rf"(?P<name>[a-z_/]+): ?(?P<value>{_F})(?P<unit>[a-z]*)(?=\s|$)")
    _SHORT = re.compile(rf"^s:(?P<step>\d+) (?P<kind>trl|tel):(?P<loss>{_F})(?= |$)")
    _STOPPED = re.compile(r"^stopping_early: .*\bstep: ?(?P<step>\d+)/(?P<total>\d+)")
    _SECONDS: Mapping[str, float] = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        if rest.startswith("stopping_early") and (match := self._STOPPED.match(rest)) is not None:
            step = int(match.group("step"))
            sign = Sign(kind=SignKind.STOPPED, line=number, text=text.strip()[:_TEXT_LIMIT], step=step)
            pairs = {each["name"]: (each["value"], each["unit"]) for each in self._PAIR.finditer(rest)}
            seconds = self._seconds(pairs.get("train_time"))
            return [
                *self._voice.at_step(step, number),
                *self._voice.measured("train_seconds", seconds, number, "s", step=step, aggregation="last"),
                sign,
            ]
        if (match := self._SHORT.match(rest)) is not None:
            return list(self._short(match, text, number))
        if "train_time" not in rest and "step_avg" not in rest and "val_bpb" not in rest:
            return None
        match = self._ROW.match(rest)
        return None if match is None else list(self._row(match, text, number))

    def _short(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        """llm.c's log file: `s:250 trl:4.6 lr:0.0018 norm:0.5` for training, `tel` for validation."""
        step = int(match.group("step"))
        if match.group("kind") == "tel":
            yield from self._voice.eval_loss(match.group("loss"), number, step=step, certain=False)
        else:
            # The step is counted from 0.
            yield from self._voice.loss(
                match.group("loss"), number, text, trainer="generic", step=step + 1, certain=False
            )

    def _row(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        found = {each["name"]: (each["value"], each["unit"]) for each in self._PAIR.finditer(match.group("rest"))}
        step = int(match.group("step"))
        yield from self._voice.once("trainer", "generic", number, certain=False)
        yield from self._voice.once("steps_total", int(match.group("total")), number, unit="steps")
        loss, val = found.get("train_loss", found.get("loss")), found.get("val_loss")
        if loss is not None:
            yield from self._voice.loss(loss[0], number, text, trainer="generic", step=step, certain=False)
        elif step > 0:
            yield from self._voice.at_step(step, number)
        if val is not None:
            yield from self._voice.eval_loss(val[0], number, step=step, certain=False)
        clock = found.get("train_time", found.get("t"))
        seconds = self._seconds(clock)
        if seconds and step > 0 and clock is not None and clock[1] in ("ms", "s"):
            yield Observation(
                name="train_seconds", value=seconds, line=number, unit="s", step=step, aggregation="last", certain=False
            )
        yield from self._voice.measured(
            "step_seconds", self._seconds(found.get("step_avg")), number, "s", step=step, aggregation="mean"
        )
        rate = to_number(found["tok/s"][0]) if "tok/s" in found else None
        yield from self._voice.measured(
            "tokens_per_second", rate, number, "tokens/s", step=step, token_unit="padded", certain=False
        )

    def _seconds(self, found: tuple[str, str] | None) -> float | None:
        value = to_number(found[0]) if found is not None else None
        scale = self._SECONDS.get(found[1]) if found is not None else None
        return value * scale if value is not None and scale is not None else None


LABS: tuple[type[Olmo | Verl | Speedrun], ...] = (Olmo, Verl, Speedrun)
"""In the order in which they are asked."""
WORDS: frozenset[str] = frozenset(
    {
        *("crossentropyloss", "trainconfig", "tokens_per_second", "batches_per_second", "memory", "parameters", "ce"),
        *("epoch", "timing_s", "throughput", "step_avg", "train_time", "val_bpb", "stopping_early", "total_tokens"),
        *("tps", "bps", "mem", "trl", "tel"),
    }
)
"""Words of their lines."""
