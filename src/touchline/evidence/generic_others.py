"""Further trainers for one machine: Keras, llama.cpp, llama-recipes.

Sources: keras/src/utils/progbar.py and the older generic_utils.py, llama.cpp/examples/finetune,
llama_recipes/utils/train_utils.py and memory_utils.py, whose sizes are whole GiB though they say GB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.domain.observation import Event, Observation
from touchline.evidence.generic_voice import Voice
from touchline.logtext.numbers import NUMBER, to_count, to_number, to_seconds

_F = rf"(?:{NUMBER}|nan|-?inf)"
_TEXT_LIMIT = 300


class Keras:
    """Keras: a batch is an optimizer step, the loss the mean of the epoch so far."""

    _HEADER = re.compile(r"^Epoch (?P<epoch>\d+)/(?P<epochs>\d+)\s*$")
    _ROW = re.compile(
        r"(?:^|[\s\x08])(?P<done>\d+)/(?P<total>\d+) (?:\[[=>.]{3,}\]|[━╸╺\s]{3,}?)(?P<rest>.*?\bloss: .*)$"
    )
    _LOSS = re.compile(rf"(?:^| )loss: (?P<loss>{_F})(?= |$)")
    _VALIDATION = re.compile(rf" - val_loss: (?P<val>{_F})(?= |$)")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice
        self._epoch = 0
        self._epochs = 0

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        if (match := self._HEADER.match(text.strip())) is not None:
            self._epoch, self._epochs = int(match.group("epoch")), int(match.group("epochs"))
            return None
        if "loss: " not in text or not ("[" in text or "━" in text):
            return None
        rows = list(self._ROW.finditer(text.replace("\x08", "\n").rpartition("\n")[2]))
        return None if not rows else list(self._row(rows[-1], text, number))

    def _row(self, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        done, total = int(match.group("done")), int(match.group("total"))
        if not 0 < done <= total:
            return
        loss, val = self._LOSS.search(match.group("rest")), self._VALIDATION.search(match.group("rest"))
        step = (self._epoch - 1) * total + done if self._epoch else None
        epoch = self._epoch - 1 + done / total if self._epoch else None
        if loss is not None:
            yield from self._voice.loss(
                loss.group("loss"), number, text[-_TEXT_LIMIT:], trainer="keras", step=step, epoch=epoch
            )
        if val is not None:
            yield from self._voice.eval_loss(val.group("val"), number, step=step, epoch=epoch)
        if self._epoch:
            yield from self._voice.once("epochs", float(self._epochs), number, unit="epochs")
            yield from self._voice.once("steps_total", float(self._epochs * total), number, unit="steps")


class LlamaCpp:
    """llama.cpp's `finetune`; before its first step it prints a loss of 0."""

    _ROW = re.compile(
        rf"train_opt_callback: iter= *(?P<step>\d+) sample=\d+/\d+ sched={_F} loss=(?P<loss>{_F})"
        r"(?: dt=(?P<pace>[\d:]+))?"
    )

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        match = self._ROW.search(text) if "train_opt_callback" in text else None
        if match is None:
            return None
        step = int(match.group("step"))
        events: list[Event] = list(self._voice.once("trainer", "llama.cpp", number))
        if step > 0:
            events += self._voice.loss(match.group("loss"), number, text, trainer="llama.cpp", step=step)
            seconds = to_seconds(match.group("pace") or "")
            events += self._voice.measured("step_seconds", seconds, number, "s", step=step)
        return events


class LlamaRecipes:
    """llama-recipes, whose step bars are read with those of others."""

    _EPOCH = re.compile(rf"^Epoch (?P<epoch>\d+): train_perplexity={_F}, train_epoch_loss=(?P<loss>{_F})")
    _EVALUATION = re.compile(rf"^eval_ppl=(?:tensor\()?{_F}\b.*\beval_epoch_loss=(?:tensor\()?(?P<val>{_F})")
    _MEMORY = re.compile(rf"^Max CUDA memory (?P<kind>allocated|reserved) was (?P<size>{NUMBER}) GB")
    _MEAN = re.compile(rf"^Key: avg_train_loss, Value: (?P<mean>{_F})\s*$")
    _ROWS = re.compile(r"^(?:--> )?Training Set Length = (?P<count>\d+)\s*$")

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Events of one line."""
        name = "llama-recipes"
        if "train_epoch_loss=" in rest and (match := self._EPOCH.match(rest)) is not None:
            return list(
                self._voice.loss(
                    match.group("loss"),
                    number,
                    text,
                    trainer=name,
                    epoch=float(match.group("epoch")),
                    aggregation="mean",
                )
            )
        if "eval_epoch_loss=" in rest and (match := self._EVALUATION.match(rest)) is not None:
            return list(self._voice.eval_loss(match.group("val"), number))
        if "CUDA memory" in rest and (match := self._MEMORY.match(rest)) is not None:
            size = to_number(match.group("size"))
            reserved = match.group("kind") == "reserved"
            return list(self._voice.memory(size, number, "GiB", "reserved" if reserved else "allocated", phase="step"))
        if (match := self._MEAN.match(rest)) is not None:
            mean = to_number(match.group("mean"))
            if mean is None:
                return []
            return [Observation(name="mean_train_loss", value=mean, line=number, unit="nats", aggregation="mean")]
        if (match := self._ROWS.match(rest)) is not None:
            return list(self._voice.once("train_examples", to_count(match.group("count")), number, unit="examples"))
        return None


OTHERS: tuple[type[Keras | LlamaCpp | LlamaRecipes], ...] = (Keras, LlamaCpp, LlamaRecipes)
"""In the order in which they are asked."""
WORDS: frozenset[str] = frozenset(
    {
        *("loss", "val_loss", "train_opt_callback", "epoch", "train_epoch_loss", "eval_epoch_loss", "cuda"),
        *("avg_train_loss", "length"),
    }
)
"""Words of their lines."""
