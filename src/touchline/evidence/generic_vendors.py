"""Trainers of firms and laboratories: mmengine and xtuner, PaddleNLP, MindFormers, fairseq, NeMo.

Sources: mmengine/runner/log_processor.py, paddlenlp/trainer/trainer.py, mindformers/core/callback,
fairseq/logging/progress_bar.py and fairseq_cli/train.py, nemo/lightning/pytorch/callbacks/progress_printer.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.domain.observation import Event, Observation
from touchline.evidence.generic_voice import Voice, trained
from touchline.logtext.numbers import NUMBER, to_count, to_number

_F = rf"(?:{NUMBER}|(?i:nan|-?inf))"


class MmEngine:
    """mmengine and xtuner, whose iterations are forward passes where gradients are accumulated."""

    _ROW = re.compile(r"\bIter\(train\) \[ *(?P<step>\d+)/(?P<total>\d+)\] (?P<rest>.*\bloss: .*)$")
    _EPOCH_ROW = re.compile(
        r"\bEpoch\(train\) +\[(?P<epoch>\d+)\]\[ *(?P<step>\d+)/(?P<total>\d+)\] (?P<rest>.*\bloss: .*)$"
    )
    _FIELD = re.compile(rf"(?:^|\s)(?P<name>[\w.]+): (?P<value>{_F})(?=\s|$)")
    _ACCUMULATION = re.compile(r"^\s*accumulative_counts ?= ?(?P<count>\d+),?\s*$")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice
        self._accumulated = 1

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        if "accumulative_counts" in text and (match := self._ACCUMULATION.match(text)) is not None:
            self._accumulated = int(match.group("count")) or 1
            return list(self._voice.once("gradient_accumulation_steps", float(self._accumulated), number))
        if "(train)" not in text:
            return None
        match = self._ROW.search(text) or self._EPOCH_ROW.search(text)
        return None if match is None else list(self._row(match, text, number))

    def _row(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        done, total = int(match.group("step")), int(match.group("total"))
        fields = {field["name"]: field["value"] for field in self._FIELD.finditer(match.group("rest"))}
        epoch, step, planned = None, None, None
        if "epoch" in match.groupdict():
            epoch = int(match.group("epoch")) - 1 + done / total if total else None
            step = (int(match.group("epoch")) - 1) * total + done
        else:
            step, planned = done, total
        if self._accumulated > 1:
            # Counters of forward passes are no steps; their place keeps attempts apart.
            epoch, step, planned = epoch if epoch is not None else done / total, None, None
        yield from self._voice.loss(fields.get("loss"), number, text, trainer="mmengine", step=step, epoch=epoch)
        yield from self._voice.once("steps_total", planned, number, unit="steps")
        mib = to_number(fields.get("memory"))
        yield from self._voice.memory((mib or 0) / 1024, number, "GiB", "allocated", step=step, phase="step")
        if self._accumulated == 1:
            pace = to_number(fields.get("time"))
            yield from self._voice.measured("step_seconds", pace, number, "s", step=step, aggregation="mean")


class Paddle:
    """PaddleNLP's Trainer, a relative of Hugging Face's that prints its rows without braces."""

    _ROW = re.compile(rf"(?:^|[\s\]-])loss: (?P<loss>{_F}), learning_rate: {_F}, (?P<rest>.*global_step: \d+.*)$")
    _CLOSING = re.compile(rf"\btrain_runtime: (?P<seconds>{NUMBER}), (?P<rest>.*\btrain_loss: (?P<mean>{_F}).*)$")
    _EVALUATION = re.compile(rf"(?:^|[\s\]-])eval_loss: (?P<val>{_F}), (?P<rest>.*eval_runtime: .*)$")
    _FIELD = re.compile(rf"(?:^|\s)(?P<name>\w+): (?P<value>{_F})(?=,|\s|$)")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        if "{" in text:
            return None
        if "interval_runtime: " in text and (match := self._ROW.search(text)) is not None:
            return list(self._row(match, text, number))
        if "train_runtime: " in text and (match := self._CLOSING.search(text)) is not None:
            return list(self._closing(match, text, number))
        if "eval_runtime: " in text and (match := self._EVALUATION.search(text)) is not None:
            seconds = to_number(self._fields(match.group("rest")).get("eval_runtime"))
            return [
                *self._voice.eval_loss(match.group("val"), number),
                *self._voice.measured("eval_seconds", seconds, number, "s"),
            ]
        return None

    def _fields(self, text: str) -> dict[str, str]:
        return {match["name"]: match["value"] for match in self._FIELD.finditer(text)}

    def _row(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        fields = self._fields(match.group("rest"))
        step = to_count(fields.get("global_step"))
        epoch = to_number(fields.get("progress_or_epoch", fields.get("epoch")))
        yield from self._voice.loss(match.group("loss"), number, text, trainer="paddlenlp", step=step, epoch=epoch)
        rate = to_number(fields.get("interval_steps_per_second"))
        yield from self._voice.measured(
            "train_steps_per_second", rate, number, "steps/s", step=step, aggregation="mean"
        )
        for key, kind in (("max_memory_allocated", "allocated"), ("max_memory_reserved", "reserved")):
            size = to_number(fields.get(key))
            yield from self._voice.memory(
                size, number, "GiB", "reserved" if kind == "reserved" else "allocated", step=step, phase="step"
            )

    def _closing(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        fields = self._fields(match.group("rest"))
        epoch = to_number(fields.get("progress_or_epoch", fields.get("epoch")))
        yield from self._voice.once("trainer", "paddlenlp", number)
        yield Observation(
            name="train_seconds",
            value=to_number(match.group("seconds")) or 0.0,
            line=number,
            unit="s",
            epoch=epoch,
            inside=("evaluation", "saving"),
        )
        mean = to_number(match.group("mean"))
        if mean is not None:
            yield Observation(name="mean_train_loss", value=mean, line=number, unit="nats", aggregation="mean")
        yield from self._voice.measured(
            "train_samples_per_second",
            to_number(fields.get("train_samples_per_second")),
            number,
            "examples/s",
            aggregation="mean",
        )
        yield from self._voice.measured(
            "train_steps_per_second",
            to_number(fields.get("train_steps_per_second")),
            number,
            "steps/s",
            aggregation="mean",
        )
        yield trained(text, number)


class MindFormers:
    """MindFormers: `{ Epoch:[  1/  3], step:[   10/  500], loss: 2.345, per_step_time: 1234ms`."""

    _ROW = re.compile(
        r"(?:Epoch: ?\[ *(?P<epoch>\d+)/ *(?P<epochs>\d+)\], *)?step: ?\[ *(?P<step>\d+)/ *(?P<total>\d+)\], *"
        rf"loss: *\[? *(?P<loss>{_F})(?:/ *{_F} *\])?, *per_step_time: *(?P<ms>\d+) ?ms"
    )

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        match = self._ROW.search(text) if "per_step_time" in text else None
        if match is None:
            return None
        step, total = int(match.group("step")), int(match.group("total"))
        epoch, epochs = to_count(match.group("epoch")), to_count(match.group("epochs"))
        if epoch:
            step += (epoch - 1) * total
        if self._voice.is_echo(step, number):
            return []
        planned = total * (epochs or 1)
        seconds = int(match.group("ms")) / 1000
        return [
            *self._voice.loss(match.group("loss"), number, text, trainer="mindformers", step=step),
            *self._voice.once("steps_total", planned, number, unit="steps"),
            *self._voice.once("epochs", epochs, number, unit="epochs"),
            *self._voice.measured("step_seconds", seconds, number, "s", step=step),
        ]


class Fairseq:
    """fairseq, whose losses are in bits."""

    _INNER = re.compile(rf"\btrain_inner \| .*?\bloss=(?P<loss>{_F}), .*?\bnum_updates=(?P<step>\d+)")
    _VALID = re.compile(rf"\bvalid \| epoch \d+ \| .*?\| loss (?P<val>{_F}) \|.*?\| num_updates (?P<step>\d+)")
    _EPOCH = re.compile(rf"\btrain \| epoch \d+ \| loss (?P<loss>{_F}) \|.*?\| num_updates (?P<step>\d+)")
    _PARAMETERS = re.compile(r"num\. (?:shared )?model params: (?P<all>[\d,]+) \(num\. trained: (?P<some>[\d,]+)\)")
    _DEVICES = re.compile(r"\btraining on (?P<count>\d+) devices \(GPUs")
    _DONE = re.compile(rf"\bdone training in (?P<seconds>{NUMBER}) seconds")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        if "num_updates" in text:
            if (match := self._VALID.search(text)) is not None:
                return list(self._voice.eval_loss(match.group("val"), number, step=int(match.group("step"))))
            if (match := self._INNER.search(text) or self._EPOCH.search(text)) is not None:
                step = int(match.group("step"))
                return list(self._voice.loss(match.group("loss"), number, text, trainer="fairseq", step=step))
        if "num. trained" in text and (match := self._PARAMETERS.search(text)) is not None:
            return [
                *self._voice.once("total_parameters", to_count(match.group("all")), number, unit="parameters"),
                *self._voice.once("trainable_parameters", to_count(match.group("some")), number, unit="parameters"),
            ]
        if "devices (GPUs" in text and (match := self._DEVICES.search(text)) is not None:
            return list(self._voice.once("gpus", to_count(match.group("count")), number))
        if "done training" in text and (match := self._DONE.search(text)) is not None:
            seconds = to_number(match.group("seconds"))
            return [*self._voice.measured("train_seconds", seconds, number, "s"), trained(text, number)]
        return None


class Nemo:
    """NeMo's printed rows; it counts the steps before a row. Its bars are read with those of others."""

    _ROW = re.compile(
        r"Training epoch (?P<epoch>\d+), iteration \d+/(?P<last>\d+) \| (?P<rest>.*reduced_train_loss: .*)$"
    )
    _FIELD = re.compile(rf"(?:^|\| )(?P<name>[\w ]+?): (?P<value>{_F})(?= \||\s*$)")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        match = self._ROW.search(text) if "reduced_train_loss: " in text else None
        if match is None:
            return None
        fields = {field["name"]: field["value"] for field in self._FIELD.finditer(match.group("rest"))}
        before = to_number(fields.get("global_step"))
        step = to_count(before + 1) if before is not None else None
        seconds = to_number(fields.get("train_step_timing in s"))
        return [
            *self._voice.loss(fields.get("reduced_train_loss"), number, text, trainer="nemo", step=step),
            *self._voice.eval_loss(fields.get("val_loss"), number, step=step),
            *self._voice.once("global_batch_size", to_count(fields.get("global_batch_size")), number),
            *self._voice.measured("step_seconds", seconds, number, "s", step=step),
        ]


VENDORS: tuple[type[MmEngine | Paddle | MindFormers | Fairseq | Nemo], ...] = (
    *(MmEngine, Paddle, MindFormers, Fairseq, Nemo),
)
"""In the order in which they are asked."""
WORDS: frozenset[str] = frozenset(
    {
        *("loss", "accumulative_counts", "interval_runtime", "train_runtime", "eval_runtime", "per_step_time"),
        *("num_updates", "num", "devices", "done", "reduced_train_loss"),
    }
)
"""Words of their lines."""
