"""Trainers for one machine that print lines of their own: Lightning, litgpt, MLX-LM, nanoGPT.

Sources: litgpt/finetune/lora.py and utils.py (create_finetuning_performance_report), mlx_lm/tuner/trainer.py,
nanoGPT/train.py, lightning/pytorch/utilities/model_summary and loops. Their forms are tried before those of loops that
nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from touchline.backends.logtext.numbers import NUMBER, to_count, to_number
from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.history.generic_voice import Voice, trained

_F = rf"(?:{NUMBER}|nan|-?inf)"
_TEXT_LIMIT = 300


class Framework(Protocol):
    """Reads the lines of one trainer."""

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of a line, `rest` of it without its prefix; None when it is none of this trainer's."""
        ...


class Lightning:
    """The table of parameters and the last words; its bars are read with those of others."""

    _PARAMETERS = re.compile(rf"^\s*(?P<size>{NUMBER}) *(?P<scale>[KMBT]?)\s+(?P<which>Trainable|Total) params\s*$")
    _STOPPED = re.compile(r"`Trainer\.fit` stopped: `max_(?P<what>epochs|steps)=(?P<count>\d+)` reached")
    _SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}  # noqa: RUF012

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        del rest
        if "params" in text and (match := self._PARAMETERS.match(text)) is not None:
            return list(self._parameters(match, number))
        if "Trainer.fit" in text and (match := self._STOPPED.search(text)) is not None:
            return list(self._stopped(match, text, number))
        return None

    def _parameters(self, match: re.Match[str], number: int) -> Iterator[Event]:
        size = to_number(match.group("size"))
        yield from self._voice.once("trainer", "lightning", number)
        if size:
            name = "trainable_parameters" if match.group("which") == "Trainable" else "total_parameters"
            value = round(size * self._SCALES[match.group("scale")])
            if name == "trainable_parameters":
                yield from self._voice.once("trainable_parameters", value, number, unit="parameters")
            else:
                yield from self._voice.once("total_parameters", value, number, unit="parameters")

    def _stopped(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        yield from self._voice.once("trainer", "lightning", number)
        if match.group("what") == "epochs":
            yield from self._voice.once("epochs", float(match.group("count")), number, unit="epochs")
        else:
            yield from self._voice.once("steps_total", float(match.group("count")), number, unit="steps")
        yield trained(text, number)


class LitGpt:
    """litgpt and its forerunners; a step is one of the optimizer, an iteration a forward pass."""

    _ROW = re.compile(
        rf"^Epoch (?P<epoch>\d+) \| iter +\d+ step +(?P<step>\d+) \| loss train: +(?P<loss>{_F})"
        rf"(?:, +val: +(?P<val>n/a|{_F}))? \| iter time:"
    )
    _OLD_ROW = re.compile(rf"^iter \d+ step (?P<step>\d+): loss (?P<loss>{_F}), iter time: {NUMBER} ?ms")
    _VALIDATION = re.compile(rf"^(?:step|iter) \d+: val loss (?P<val>{_F}), val time: {NUMBER} ?ms")
    _FINAL = re.compile(rf"^Final evaluation \| val loss: +(?P<val>{_F}) \| val ppl:")
    _TIME = re.compile(rf"^(?:\| - )?Training [Tt]ime *: +(?P<seconds>{NUMBER}) ?s\s*$")
    _RATE = re.compile(rf"^\| - Tok/sec *: +(?P<rate>{NUMBER}) tok/s\s*$")
    _MEMORY = re.compile(rf"^(?:\| - )?Memory [Uu]sed *: +(?P<size>{NUMBER}) GB\s*$")
    _PARAMETERS = re.compile(r"^Number of (?P<which>trainable|non-trainable) parameters: (?P<count>[\d,]+)\s*$")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice
        self._known = False
        self._trainable: int | None = None

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        if "loss" in rest:
            if (match := self._ROW.match(rest) or self._OLD_ROW.match(rest)) is not None:
                return list(self._row(match, text, number))
            if (match := self._VALIDATION.match(rest) or self._FINAL.match(rest)) is not None:
                return list(self._voice.eval_loss(match.group("val"), number))
            return None
        bare = text.strip()
        if "parameters:" in bare and (match := self._PARAMETERS.match(rest)) is not None:
            return list(self._parameters(match, number))
        if (match := self._TIME.match(bare)) is not None and (self._known or bare.startswith("|")):
            seconds = to_number(match.group("seconds"))
            return [*self._voice.measured("train_seconds", seconds, number, "s"), trained(text, number)]
        if (match := self._RATE.match(bare)) is not None:
            rate = to_number(match.group("rate"))
            return list(
                self._voice.measured(
                    "tokens_per_second", rate, number, "tokens/s", aggregation="mean", token_unit="padded"
                )
            )
        if (match := self._MEMORY.match(bare)) is not None and (self._known or bare.startswith("|")):
            return list(self._voice.memory(to_number(match.group("size")), number, "GB", "allocated", phase="step"))
        return None

    def _row(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        self._known = True
        found = match.groupdict()
        step = int(found["step"])
        if not self._voice.is_echo(step, number):
            yield from self._voice.loss(found["loss"], number, text, trainer="litgpt", step=step)
        # The validation loss of the last evaluation is repeated in every row.

    def _parameters(self, match: re.Match[str], number: int) -> Iterator[Event]:
        count = to_count(match.group("count"))
        if count is None:
            return
        if match.group("which") == "trainable":
            self._trainable = count
            yield from self._voice.once("trainable_parameters", count, number, unit="parameters")
        elif self._trainable is not None:
            yield from self._voice.once("trainer", "litgpt", number, certain=False)
            yield from self._voice.once("total_parameters", count + self._trainable, number, unit="parameters")


class Mlx:
    """MLX-LM. Its tokens are those with a loss; its sizes are divided by 10**9."""

    _ROW = re.compile(
        rf"Iter (?P<step>\d+): Train loss (?P<loss>{_F}), (?:Learning Rate {_F}, )?It/sec (?P<pace>{NUMBER}), "
        rf"Tokens/sec (?P<rate>{NUMBER})(?:, Trained Tokens (?P<seen>\d+))?(?:, Peak mem (?P<size>{NUMBER}) GB)?"
    )
    _VALIDATION = re.compile(rf"Iter (?P<step>\d+): Val loss (?P<val>{_F}), Val took (?P<seconds>{NUMBER})s")
    _BEGIN = re.compile(r"^Starting training\.\.\., iters: (?P<total>\d+)\s*$")
    _PARAMETERS = re.compile(rf"^Trainable parameters: {NUMBER}% \((?P<some>{NUMBER})M/(?P<all>{NUMBER})M\)")
    _END = re.compile(r"^Saved final (?:adapter )?weights to \S")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        if "Iter " in text:
            # A bar without a line's end may stand before the row.
            if (match := self._ROW.search(text)) is not None:
                return list(self._row(match, text, number))
            if (match := self._VALIDATION.search(text)) is not None:
                step = int(match.group("step"))
                seconds = to_number(match.group("seconds"))
                return [
                    *self._voice.eval_loss(match.group("val"), number, step=step),
                    *self._voice.measured("eval_seconds", seconds, number, "s", step=step),
                ]
            return None
        if (match := self._BEGIN.match(rest)) is not None:
            return [
                Sign(kind=SignKind.START, line=number, text=text[:_TEXT_LIMIT]),
                *self._voice.once("trainer", "mlx", number),
                *self._voice.once("steps_total", float(match.group("total")), number, unit="steps"),
            ]
        if (match := self._PARAMETERS.match(rest)) is not None:
            sizes = [to_number(match.group(name)) for name in ("some", "all")]
            return [
                *self._voice.once(
                    "trainable_parameters", round((sizes[0] or 0) * 1e6) or None, number, unit="parameters"
                ),
                *self._voice.once("total_parameters", round((sizes[1] or 0) * 1e6) or None, number, unit="parameters"),
            ]
        return [trained(text, number)] if self._END.match(rest) else None

    def _row(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        step = int(match.group("step"))
        yield from self._voice.loss(match.group("loss"), number, match.group(0), trainer="mlx", step=step)
        rate, pace = to_number(match.group("rate")), to_number(match.group("pace"))
        yield from self._voice.measured(
            "tokens_per_second", rate, number, "tokens/s", step=step, aggregation="mean", token_unit="label"
        )
        yield from self._voice.measured(
            "train_steps_per_second", pace, number, "steps/s", step=step, aggregation="mean"
        )
        seen = to_count(match.group("seen"))
        if seen:
            yield Observation(name="tokens_seen", value=seen, line=number, unit="tokens", step=step, token_unit="label")
        yield from self._voice.memory(
            to_number(match.group("size")), number, "GB", "allocated", step=step, phase="step"
        )


class NanoGpt:
    """nanoGPT: an iteration is an optimizer step; the losses of an evaluation are both estimates."""

    _ROW = re.compile(rf"^iter (?P<step>\d+): loss (?P<loss>{_F}), time (?P<ms>{NUMBER})ms(?:, mfu {_F}%)?\s*$")
    _EVALUATION = re.compile(rf"^step (?P<step>\d+): train loss (?P<loss>{_F}), val loss (?P<val>{_F})\s*$")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        match = self._ROW.match(rest) or self._EVALUATION.match(rest)
        if match is None:
            return None
        step, found = int(match.group("step")), match.groupdict()
        if self._voice.is_echo(step, number):
            return []
        is_mean = found.get("val") is not None
        return [
            *self._voice.loss(
                found["loss"],
                number,
                text,
                trainer="generic",
                step=step,
                aggregation="mean" if is_mean else None,
                certain=False,
            ),
            *self._voice.eval_loss(found.get("val"), number, step=step, certain=False),
        ]


FRAMEWORKS: tuple[type[Lightning | LitGpt | Mlx | NanoGpt], ...] = (*(LitGpt, Mlx, Lightning, NanoGpt),)
"""In the order in which they are asked."""
WORDS: frozenset[str] = frozenset(
    {
        *("params", "fit", "iter", "tok", "memory", "parameters", "iters", "weights", "loss", "val_loss"),
        "time",
    }
)
"""Words of their lines."""
