"""What the Trainer, TRL and PEFT print: rows of metrics, the banner of a training, blocks of metrics, resumes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.backends.trl.names import model_events
from touchline.backends.trl.rows0 import is_trainer_row, row_events
from touchline.backends.trl.states import read_arguments, read_results, read_stage, read_state
from touchline.domain.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.logtext.dicts import read_row
from touchline.logtext.numbers import NUMBER, to_count, to_number, to_seconds
from touchline.logtext.reader import DocumentReader, LogReader, Row

_BANNER = re.compile(
    r"(Num examples|Num Epochs|Instantaneous batch size per device|Total train batch size[^=]*"
    r"|Gradient Accumulation steps|Total optimization steps|Number of trainable parameters)\s*=\s*([\d,]+)"
)
_BANNER_NAMES: dict[str, tuple[ObservationName, str]] = {
    "num examples": ("train_examples", "rows"),
    "num epochs": ("epochs", "epochs"),
    "instantaneous batch size per device": ("micro_batch_size", "1"),
    "total train batch size": ("global_batch_size", "1"),
    "gradient accumulation steps": ("gradient_accumulation_steps", "1"),
    "total optimization steps": ("steps_total", "steps"),
    "number of trainable parameters": ("trainable_parameters", "parameters"),
}
_BANNER_LINES = 40
"""The banner's lines stand within so many lines of its title; other programs print in between."""
_PARAMETERS = re.compile(r"trainable params:\s*([\d,_]+)\s*\|\|\s*all params:\s*([\d,_]+)", re.IGNORECASE)
_RESUMED = re.compile(
    r"will skip to saved global_step|Continuing training from global step (\d+)|Continuing training from epoch"
    r"|skip the first \d+ epochs then the first \d+ batches|Resuming training from (?:checkpoint|\S*checkpoint)"
    r"|arguments do not match the ones in the `trainer_state.json`"
)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_SAVING = re.compile(r"Saving model checkpoint to \S*?(?:checkpoint-(\d+))?\s*$")
_OUTPUT = re.compile(rf"TrainOutput\(global_step=(\d+), training_loss=({NUMBER}|nan)")
_METRIC = re.compile(rf"^\s*(train_loss|train_runtime|train_samples|eval_loss|epoch)\s*=\s*(\S+)\s*$")
_PIECE = re.compile(
    rf"^\s*[{{]?\s*['\"](train_runtime|train_loss|train_samples_per_second|train_steps_per_second)['\"]:"
)
_NOTEBOOK = re.compile(r"\[\s*(\d+)/(\d+) ((?:\d+:)?\d+:\d\d)(?: < [\d:]+)?(?:, [\d.]+ it/s)?, Epoch ([\d.]+)/(\d+)\]")


class TrainerLines:
    """Reads one file's lines of the Trainer, TRL and PEFT."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("loss", "eval_loss", "eval_runtime", "train_runtime", "train_loss", "train_samples", "trainoutput"),
            *("train_samples_per_second", "train_steps_per_second", "running", "examples", "epochs", "instantaneous"),
            *(
                "optimization",
                "accumulation",
                "trainable",
                "global_step",
                "skip",
                "resuming",
                "continuing",
                "completed",
            ),
            *("checkpoint", "trainer_state", "epoch", "batch", "metrics"),
            *("transformers_version", "_name_or_path", "snapshots", "sfttrainer", "sftconfig", "trl", "model"),
        }
    )

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._banner_line = 0
        self._closed = False
        self._named = False
        self._block = ""
        self._pieces: list[str] = []

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Events of one line."""
        yield from self._training_block(text, number)
        yield from self._metrics_block(text, number)
        if match := _PARAMETERS.search(text):
            yield self._count("trainable_parameters", match.group(1), number, "parameters")
            yield self._count("total_parameters", match.group(2), number, "parameters")
        if match := _RESUMED.search(text):
            step = match.group(1) or (_CHECKPOINT.search(text) or [None, None])[1]
            yield Sign(kind=SignKind.RESUMED, line=number, text=text[:300], step=int(step) if step else None)
        if match := _SAVING.search(text):
            step = int(match.group(1)) if match.group(1) else None
            yield Sign(kind=SignKind.SAVING, line=number, text=text[:300], step=step)
        if "Training completed. Do not forget" in text:
            yield Sign(kind=SignKind.TRAINED, line=number, text=text[:300])
        yield from self._output(text, number)
        yield from self._notebook(text, number)
        if "/trl/" in text or "SFTTrainer" in text or "SFTConfig" in text:
            yield Observation(name="trainer", value="trl", line=number)
        if not self._banner_line:
            yield from model_events(text, number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Events of a dictionary."""
        if not is_trainer_row(row):
            return
        if not self._named:
            self._named = True
            yield Observation(name="trainer", value="hf_trainer", line=number)
        if "train_runtime" in row and "loss" not in row:
            self._closed = True
        if "mean_token_accuracy" in row or "num_tokens" in row or any(key.startswith("rewards/") for key in row):
            yield Observation(name="trainer", value="trl", line=number)
        yield from row_events(row, text, number)

    def _training_block(self, text: str, number: int) -> Iterator[Event]:
        if "***** Running training *****" in text:
            self._banner_line = number
            self._closed = False
            yield Observation(name="trainer", value="hf_trainer", line=number)
            yield Sign(kind=SignKind.START, line=number, text=text[:300])
        elif "***** Running Evaluation" in text or "***** Running Prediction" in text:
            self._banner_line = 0
            yield Sign(kind=SignKind.EVALUATING, line=number, text=text[:300])
        elif self._banner_line and number - self._banner_line < _BANNER_LINES and (match := _BANNER.search(text)):
            key = match.group(1).split("(")[0].strip().lower()
            name, unit = _BANNER_NAMES[key]
            yield self._count(name, match.group(2), number, unit)

    def _metrics_block(self, text: str, number: int) -> Iterator[Event]:
        if "***** train metrics *****" in text or "***** eval metrics *****" in text:
            self._block = "train" if "train metrics" in text else "eval"
            return
        if not self._block or (match := _METRIC.match(text)) is None:
            return
        key, value = match.groups()
        if key == "eval_loss" and (loss := to_number(value)) is not None:
            yield Observation(name="eval_loss", value=loss, line=number, unit="nats")
        elif key == "train_samples" and (count := to_count(value)) is not None:
            yield Observation(name="train_examples", value=count, line=number, unit="rows")
        elif key == "train_loss" and not self._closed and (loss := to_number(value)) is not None:
            yield Observation(name="mean_train_loss", value=loss, line=number, unit="nats", aggregation="mean")
        elif key == "train_runtime" and not self._closed:
            seconds = to_seconds(value) or to_number(value)
            if seconds is not None:
                yield Observation(
                    name="train_seconds", value=seconds, line=number, unit="s", inside=("evaluation", "saving")
                )
                yield Sign(kind=SignKind.TRAINED, line=number, text=text[:300])

    def _output(self, text: str, number: int) -> Iterator[Event]:
        """What a notebook shows of `trainer.train()`, and closing rows that a printer broke over several lines."""
        if match := _OUTPUT.search(text):
            self._closed = True
            yield Observation(name="trainer", value="hf_trainer", line=number)
            yield Observation(name="step", value=int(match.group(1)), line=number, unit="steps")
            loss = to_number(match.group(2))
            metrics = read_row(text[: text.rfind("}") + 1]) or {}
            if loss is not None and "train_loss" not in metrics:
                yield Observation(name="mean_train_loss", value=loss, line=number, unit="nats", aggregation="mean")
            if "train_runtime" in metrics:
                yield from row_events(metrics, text, number)
            else:
                yield Sign(kind=SignKind.TRAINED, line=number, text=text[:300])
            return
        if _PIECE.match(text) and not text.rstrip().endswith("}") or (self._pieces and _PIECE.match(text)):
            self._pieces.append(text.strip().lstrip("{").rstrip("}"))
            if text.rstrip().endswith("}") or len(self._pieces) == 4:
                row = read_row("{" + " ".join(self._pieces).rstrip(",") + "}")
                self._pieces.clear()
                if row is not None and "train_runtime" in row and not self._closed:
                    self._closed = True
                    yield Observation(name="trainer", value="hf_trainer", line=number)
                    yield from row_events(row, text, number)

    def _notebook(self, text: str, number: int) -> Iterator[Event]:
        if (match := _NOTEBOOK.search(text)) is None:
            return
        done, total, clock, epoch, epochs = match.groups()
        yield Observation(name="trainer", value="hf_trainer", line=number)
        yield Observation(name="steps_total", value=int(total), line=number, unit="steps")
        yield Observation(name="step", value=int(done), line=number, unit="steps")
        yield Observation(name="epochs", value=int(epochs), line=number, unit="epochs")
        seconds = to_seconds(clock)
        if seconds is not None:
            yield Observation(
                name="train_seconds",
                value=seconds,
                line=number,
                unit="s",
                epoch=float(epoch),
                aggregation="last",
                inside=("evaluation", "saving"),
            )
        if done == total:
            yield Sign(kind=SignKind.TRAINED, line=number, text=text[:300])

    @staticmethod
    def _count(name: ObservationName, digits: str, number: int, unit: str) -> Observation:
        return Observation(name=name, value=int(re.sub(r"[,_]", "", digits)), line=number, unit=unit)


READERS: tuple[type[LogReader], ...] = (TrainerLines,)
DOCUMENTS: tuple[DocumentReader, ...] = (read_state, read_results, read_stage, read_arguments)
