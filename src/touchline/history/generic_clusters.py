"""Trainers for clusters: Megatron-LM, DeepSpeed, torchtitan, Composer.

Sources: megatron/training/training.py (training_log), deepspeed/runtime/{engine,pipe/engine}.py and utils/timer.py,
DeepSpeedExamples/applications/DeepSpeed-Chat, torchtitan/{train,components/metrics}.py,
composer/loggers/console_logger.py and callbacks/{speed_monitor,memory_monitor}.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.numbers import NUMBER, to_count, to_number
from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.history.generic_voice import Voice, trained

_F = rf"(?:{NUMBER}|(?i:nan|-?inf))"
_TEXT_LIMIT = 300


class Megatron:
    """Megatron-LM, GPT-NeoX and what is built on them: an iteration is an optimizer step."""

    _ROW = re.compile(r"\biteration +(?P<step>\d+)/ *(?P<total>\d+) \|(?P<rest>.*\|.*)$")
    _FIELD = re.compile(rf"(?P<name>[A-Za-z_][\w ()/]*?): +(?P<value>{_F}) *(?=\||$)")
    _VALIDATION = re.compile(
        rf"validation loss at (?P<at>iteration (?P<step>\d+)|the end of training)\b.*?\blm["
        rf" _]loss(?: value)?: *(?P<val>{_F})"
    )
    _MEMORY = re.compile(
        rf"\[Rank (?P<rank>\d+)\] \(after \d+ iterations\) memory \(MB\) \|.*?max allocated: (?P<allocated>{NUMBER})"
        rf" \|.*?max reserved: (?P<reserved>{NUMBER})"
    )
    _DONE = re.compile(r"\[after training is done\] datetime:")
    _MIB = 1 / 1024

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        if "elapsed time per iteration" in text and (match := self._ROW.search(text)) is not None:
            return list(self._row(match, text, number))
        if "validation loss at" in text and (match := self._VALIDATION.search(text)) is not None:
            return list(self._voice.eval_loss(match.group("val"), number, step=to_count(match.group("step"))))
        if "memory (MB)" in text and (match := self._MEMORY.search(text)) is not None:
            allocated, reserved = to_number(match.group("allocated")), to_number(match.group("reserved"))
            return [
                *self._voice.memory((allocated or 0) * self._MIB, number, "GiB", "allocated", phase="step"),
                *self._voice.memory((reserved or 0) * self._MIB, number, "GiB", "reserved", phase="step"),
            ]
        return [trained(text, number)] if "after training" in text and self._DONE.search(text) else None

    def _row(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        fields = {field["name"].strip(): field["value"] for field in self._FIELD.finditer(match.group("rest"))}
        step = int(match.group("step"))
        loss = fields.get("lm loss") or fields.get("lm_loss") or fields.get("loss")
        if loss is not None:
            yield from self._voice.loss(loss, number, text, trainer="megatron", step=step)
        else:
            # While the loss scale is sought, steps are skipped and no loss is printed.
            yield from self._voice.once("trainer", "megatron", number)
            yield from self._voice.at_step(step, number)
        yield from self._voice.once("steps_total", float(match.group("total")), number, unit="steps")
        batch = to_count(fields.get("global batch size") or fields.get("gloabl batch size"))
        yield from self._voice.once("global_batch_size", batch, number)
        ms = to_number(fields.get("elapsed time per iteration (ms)"))
        yield from self._voice.measured("step_seconds", (ms or 0) / 1000, number, "s", step=step, aggregation="mean")
        skipped = to_number(fields.get("number of nan iterations"))
        if loss is None and skipped:
            yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=text.strip()[:_TEXT_LIMIT], step=step)


class DeepSpeed:
    """DeepSpeed's own lines, which it prints within other trainers too, its pipeline engine and DeepSpeed-Chat."""

    _STEP = re.compile(r"\[Rank 0\] step=(?P<step>\d+), skipped=\d+, lr=\[")
    _TIMER = re.compile(
        rf"(?:global_step=|\b\d+/)(?P<step>\d+), RunningAvgSamplesPerSec=(?P<rate>{NUMBER}), CurrSamplesPerSec={_F}"
        rf"(?:, +MemAllocated={NUMBER}GB, MaxMemAllocated=(?P<size>{NUMBER})GB)?"
    )
    _PIPELINE = re.compile(
        rf"\bsteps?: +(?P<step>\d+)(?: / +(?P<total>\d+))? loss: (?P<loss>{_F}) .*?iter time \(s\):"
        rf" (?P<pace>{NUMBER}) "
        rf"samples/sec: (?P<rate>{NUMBER})"
    )
    _CHAT_ROW = re.compile(
        rf"^Epoch: (?P<epoch>\d+), Step: \d+, Rank: (?P<rank>\d+), loss = (?:tensor\()?(?P<loss>{_F})"
    )
    _CHAT_SPEED = re.compile(
        rf"^Model Parameters: {NUMBER} [KMBT], Latency: {NUMBER}s, TFLOPs: {_F}, Samples/sec: (?P<rate>{NUMBER}), .*?"
        r"Batch Size: (?P<micro>\d+)(?:, Sequence Length: (?P<length>\d+))?"
    )
    _CHAT_EPOCH = re.compile(r"^Beginning of Epoch \d+/(?P<epochs>\d+), Total Micro Batches \d+")
    _CHAT_VALIDATION = re.compile(rf"^(?:ppl|perplexity): {_F}, loss: (?P<val>{_F})\s*$")
    _MEMORY = re.compile(
        rf"\bMA {NUMBER} GB +Max_MA (?P<allocated>{NUMBER}) GB +CA {NUMBER} GB +Max_CA (?P<reserved>{NUMBER}) GB"
    )

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice
        self._rank: str | None = None

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        if "skipped=" in text and (match := self._STEP.search(text)) is not None:
            step = int(match.group("step"))
            return [Observation(name="step", value=step, line=number, unit="steps", step=step)]
        if "SamplesPerSec" in text and (match := self._TIMER.search(text)) is not None:
            return list(self._timer(match, number))
        if "Max_MA" in text and (match := self._MEMORY.search(text)) is not None:
            return [
                *self._voice.memory(to_number(match.group("allocated")), number, "GiB", "allocated"),
                *self._voice.memory(to_number(match.group("reserved")), number, "GiB", "reserved"),
            ]
        if "iter time (s)" in text and (match := self._PIPELINE.search(text)) is not None:
            return list(self._pipeline(match, text, number))
        return self._chat(text, rest, number)

    def _timer(self, match: re.Match[str], number: int) -> Iterator[Event]:
        step, rate = int(match.group("step")), to_number(match.group("rate"))
        yield Observation(name="step", value=step, line=number, unit="steps", step=step)
        yield from self._voice.measured(
            "train_samples_per_second", rate, number, "examples/s", step=step, aggregation="mean", certain=False
        )
        size = to_number(match.group("size"))
        yield from self._voice.memory(size, number, "GiB", "allocated", step=step, phase="step")

    def _pipeline(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        step, rate, pace = int(match.group("step")), to_number(match.group("rate")), to_number(match.group("pace"))
        yield from self._voice.loss(match.group("loss"), number, text, trainer="deepspeed", step=step)
        yield from self._voice.once("steps_total", to_count(match.group("total")), number, unit="steps")
        yield from self._voice.measured(
            "train_samples_per_second", rate, number, "examples/s", step=step, aggregation="mean"
        )
        yield from self._voice.measured("step_seconds", pace, number, "s", step=step, aggregation="mean")

    def _chat(self, text: str, rest: str, number: int) -> list[Event] | None:
        if "Rank: " in rest and (match := self._CHAT_ROW.match(rest)) is not None:
            self._rank = self._rank or match.group("rank")
            if match.group("rank") != self._rank:
                return []
            epoch = float(match.group("epoch"))
            return list(self._voice.loss(match.group("loss"), number, text, trainer="deepspeed", epoch=epoch))
        if "Latency: " in rest and (match := self._CHAT_SPEED.match(rest)) is not None:
            rate = to_number(match.group("rate"))
            return [
                *self._voice.once("micro_batch_size", to_count(match.group("micro")), number),
                *self._voice.once("max_seq_len", to_count(match.group("length")), number, unit="tokens"),
                *self._voice.measured("train_samples_per_second", rate, number, "examples/s", certain=False),
            ]
        if (match := self._CHAT_EPOCH.match(rest)) is not None:
            return list(self._voice.once("epochs", to_count(match.group("epochs")), number, unit="epochs"))
        if (match := self._CHAT_VALIDATION.match(rest)) is not None:
            return list(self._voice.eval_loss(match.group("val"), number))
        return None


class Titan:
    """torchtitan: the peak is the allocator's reserve since the last row, the rate that of one device."""

    _ROW = re.compile(
        rf"(?P<validate>validate )?step: +(?P<step>\d+) +loss: +(?P<loss>{_F}) .*?memory:"
        rf" +(?P<size>{NUMBER})GiB\({NUMBER}%\)"
        rf" +(?:tps|wps): +(?P<rate>{NUMBER})"
    )
    _BEGIN = re.compile(r"Training starts at step (?P<step>\d+)(?P<rest>[,.].*)?$")
    _SETTINGS = re.compile(r"(?P<name>local batch size|global batch size|sequence length|total steps) (?P<count>\d+)")
    _SIZE = re.compile(r"\bsize: (?P<count>[\d,]+) total parameters")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        if "loss:" in text and "GiB(" in text and (match := self._ROW.search(text)) is not None:
            return list(self._row(match, text, number))
        if "Training starts at step" in text and (match := self._BEGIN.search(text)) is not None:
            return list(self._begin(match, text, number))
        if "total parameters" in text and (match := self._SIZE.search(text)) is not None:
            count = to_count(match.group("count"))
            return list(self._voice.once("total_parameters", count, number, unit="parameters"))
        if "sequence length" in text and "total steps" in text:
            return list(self._settings(text, number))
        return None

    def _row(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        step = int(match.group("step"))
        if match.group("validate"):
            yield from self._voice.eval_loss(match.group("loss"), number, step=step)
            return
        if self._voice.is_echo(step, number):
            return
        yield from self._voice.loss(match.group("loss"), number, text, trainer="torchtitan", step=step)
        size, rate = to_number(match.group("size")), to_number(match.group("rate"))
        yield from self._voice.memory(size, number, "GiB", "reserved", step=step, phase="step")
        yield from self._voice.measured(
            "tokens_per_second", rate, number, "tokens/s/GPU", step=step, token_unit="padded"
        )

    def _begin(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        step = int(match.group("step"))
        kind = SignKind.RESUMED if step > 1 else SignKind.START
        yield Sign(kind=kind, line=number, text=text.strip()[:_TEXT_LIMIT], step=step - 1 if step > 1 else None)
        yield from self._settings(match.group("rest") or "", number)

    def _settings(self, text: str, number: int) -> Iterator[Event]:
        found = {match["name"]: to_count(match["count"]) for match in self._SETTINGS.finditer(text)}
        yield from self._voice.once("micro_batch_size", found.get("local batch size"), number)
        yield from self._voice.once("global_batch_size", found.get("global batch size"), number)
        yield from self._voice.once("max_seq_len", found.get("sequence length"), number, unit="tokens")
        yield from self._voice.once("steps_total", found.get("total steps"), number, unit="steps")


class Composer:
    """MosaicML's Composer and llm-foundry: a block of lines below `[batch=10/500]:`; sizes are divided by 10**9."""

    _HEADER = re.compile(
        r"\[(?:epoch=(?P<epoch>\d+)(?:/(?P<epochs>\d+))?\]\[)?batch=(?P<step>\d+)/(?P<total>\d+)\]:(?P<rest>.*)$"
    )
    _ENTRY = re.compile(rf"\b(?P<kind>Train|Eval) (?P<name>[\w/().-]+): (?P<value>{_F})(?=\s|$)")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice
        self._step: int | None = None

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        if "batch=" in text and (match := self._HEADER.search(text)) is not None:
            return [*self._header(match, number), *self._entries(match.group("rest"), number)]
        if self._step is not None and ("Train " in text or "Eval " in text) and ": " in text:
            return list(self._entries(text, number)) or None
        return None

    def _header(self, match: re.Match[str], number: int) -> Iterator[Event]:
        step, total = int(match.group("step")), int(match.group("total"))
        epoch, epochs = to_count(match.group("epoch")), to_count(match.group("epochs"))
        if epoch is not None:
            # The batches are those of the epoch there.
            step += max(0, epoch - 1) * total
            yield from self._voice.once("epochs", epochs, number, unit="epochs")
            yield from self._voice.once("steps_total", epochs * total if epochs else None, number, unit="steps")
        elif total < 10**8:
            yield from self._voice.once("steps_total", total, number, unit="steps")
        self._step = step

    def _entries(self, text: str, number: int) -> Iterator[Event]:
        for match in self._ENTRY.finditer(text):
            value = to_number(match.group("value"))
            step = self._step
            match (match.group("kind"), match.group("name")):
                case "Train", "loss/train/total":
                    yield from self._voice.loss(match.group("value"), number, text, trainer="llm-foundry", step=step)
                case "Train", "throughput/tokens_per_sec":
                    yield from self._voice.measured(
                        "tokens_per_second", value, number, "tokens/s", step=step, token_unit="real"
                    )
                case "Train", "throughput/samples_per_sec":
                    yield from self._voice.measured(
                        "train_samples_per_second", value, number, "examples/s", step=step, aggregation="mean"
                    )
                case "Train", "trainer/device_train_microbatch_size":
                    yield from self._voice.once("micro_batch_size", value, number)
                case "Train", "memory/peak_allocated_mem":
                    yield from self._voice.memory(value, number, "GB", "allocated", step=step, phase="step")
                case "Train", "memory/peak_reserved_mem":
                    yield from self._voice.memory(value, number, "GB", "reserved", step=step, phase="step")
                case "Eval", "metrics/eval/LanguageCrossEntropy":
                    yield from self._voice.eval_loss(match.group("value"), number, step=step)
                case _:
                    pass


CLUSTERS: tuple[type[Megatron | DeepSpeed | Titan | Composer], ...] = (Megatron, DeepSpeed, Titan, Composer)
"""In the order in which they are asked."""
WORDS: frozenset[str] = frozenset(
    {
        *("iteration", "skipped", "runningavgsamplespersec", "max_ma", "latency", "rank", "ppl", "perplexity", "batch"),
        *("loss", "starts", "parameters", "sequence", "tokens_per_sec", "peak_allocated_mem", "peak_reserved_mem"),
        *("device_train_microbatch_size", "samples_per_sec", "languagecrossentropy", "iterations", "micro", "datetime"),
    }
)
"""Words of their lines."""
