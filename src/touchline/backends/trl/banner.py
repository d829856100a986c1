"""The Trainer's messages about its progress: the first banner, a resume, evaluations, saved checkpoints and the end.

Source: transformers.trainer, versions 3 to 5; scripts without the Trainer copy the banner word by word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.numbers import NUMBER, to_count
from touchline.backends.trl.rows import TEXT, TrainerRowParser
from touchline.core.observation import Event, Observation, ObservationName, Sign, SignKind

_HEADER = re.compile(r"\*{5} Running (?P<what>[\w ]{1,40}) \*{5}\s*$", re.IGNORECASE)
_BANNER_LINES = 40
_BANNER = re.compile(
    r"(?:^|[\s>:\]|-])(?P<label>Num examples|Num Epochs|Instantaneous batch size per device|Gradient Accumulation steps"
    r"|Total train batch size \(w\. parallel, distributed & accumulation\)|Total optimization steps)"
    rf"\s*=\s*(?P<value>{NUMBER})\s*$"
)
_LABELS: dict[str, tuple[ObservationName, str]] = {
    "Num examples": ("train_examples", "examples"),
    "Num Epochs": ("epochs", "epochs"),
    "Instantaneous batch size per device": ("micro_batch_size", "1"),
    "Total train batch size (w. parallel, distributed & accumulation)": ("global_batch_size", "1"),
    "Gradient Accumulation steps": ("gradient_accumulation_steps", "1"),
    "Total optimization steps": ("steps_total", "steps"),
}
_ENDLESS_EPOCHS = 1e9
"""Printed for a stream of data, whose examples are then made up as well."""
_OTHER_LOOP = re.compile(r"(?:- |INFO:|\[)(?:__main__|[\w.]*no_trainer)\b")
_STEP_OF_RESUME = re.compile(
    r"(?:Continuing training from global step|Resuming training from checkpoint with epoch \d+ and global step)"
    r" (?P<step>\d+)\s*$"
)
_RESUMED = re.compile(
    r"Continuing training from checkpoint, will skip to saved global_step"
    r"|Will skip the first \d+ epochs then the first \d+ batches"
    r"|The following arguments do not match the ones in the `trainer_state\.json` within the checkpoint directory"
)
_RESUMED_FROM = re.compile(
    r"(?<![\w'\"`])Resum(?:ing|ed)(?: the)?(?: \w+)? from(?: the)?(?: (?:last|latest|previous))?(?: checkpoint)?"
    r"\s{0,4}[:=]?\s{0,4}['\"]?(?:[\w.~/:@=+-]*/)?checkpoint-(?P<step>\d+)/?['\"]?[\s.!]*(?:\.\.\.)?\s*$",
    re.IGNORECASE,
)
_LOADED_FROM = re.compile(r"trainer\.py:\d+\].*>> Loading model from \S*checkpoint-(?P<step>\d+)/?\.?\s*$")
_SAVING = re.compile(r"(?:^|[\s>:\]|-])Saving model checkpoint to (?P<path>\S.*?)\s*$")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)(?:\b|$)")
_OTHERS_OWN = ("axolotl", ":swift]", "- swift -")
_TRAINED = re.compile(
    r"Training completed\. Do not forget to share your model on huggingface\.co/models"
    r"|Loading best model from \S.* \(score: "
)


class Banner:
    """Follows the course of a training by the Trainer's sentences."""

    def __init__(self, rows: TrainerRowParser) -> None:
        """Start with a new file. Resumes are reported to `rows`."""
        self._rows = rows
        self._start = 0
        self._examples: Observation | None = None

    def read(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of one line."""
        header = _HEADER.search(text) if "*****" in text else None
        if header is not None:
            yield from self._header(header["what"].strip().lower(), text, number)
        elif "=" in text and (found := _BANNER.search(text)) is not None and "| Num Epochs" not in text:
            yield from self._setting(found, text, number)
        elif "heckpoint" in text or "global step" in text or "skip the first" in text:
            yield from self._checkpoint(text, number)
        elif _TRAINED.search(text) is not None:
            self._start = 0
            yield self._sign(SignKind.TRAINED, text, number)
            if "best model" not in text:
                yield self._rows.trainer(number)

    def _header(self, what: str, text: str, number: int) -> Iterator[Event]:
        self._start, self._examples = 0, None
        if what == "training":
            self._start = number
            self._rows.resumed = False
            yield self._sign(SignKind.START, text, number)
            if _OTHER_LOOP.search(text) is None:
                certain = "trainer" in text.lower()
                yield Observation(name="trainer", value=self._rows.trainer(number).value, line=number, certain=certain)
        elif what in ("evaluation", "prediction", "test"):
            yield self._sign(SignKind.EVALUATING, text, number)

    def _setting(self, found: re.Match[str], text: str, number: int) -> Iterator[Event]:
        count = to_count(found["value"])
        if count is None:
            return
        name, unit = _LABELS[found["label"]]
        seen = Observation(name=name, value=count, line=number, unit=unit)
        if name == "train_examples":
            # An evaluation begins with the same words; only a training has epochs.
            self._examples = seen
            return
        examples, self._examples = self._examples, None
        if name == "epochs" and examples is not None and number - examples.line <= _BANNER_LINES:
            if not self._start:
                # The title is cut off.
                yield self._sign(SignKind.START, text, number)
            self._start = number
            if count < _ENDLESS_EPOCHS:
                yield examples
        if not self._start or number - self._start > _BANNER_LINES:
            return
        if count > 0 and (name != "epochs" or count < _ENDLESS_EPOCHS):
            yield seen

    def _checkpoint(self, text: str, number: int) -> Iterator[Event]:
        step: int | None = None
        for pattern in (_STEP_OF_RESUME, _RESUMED_FROM, _LOADED_FROM):
            found = pattern.search(text)
            if found is not None:
                step = int(found["step"])
                break
        if step or _RESUMED.search(text) is not None:
            self._rows.resumed = True
            yield self._sign(SignKind.RESUMED, text, number, step or None)
        elif _TRAINED.search(text) is not None:
            yield self._sign(SignKind.TRAINED, text, number)
        elif not any(word in text for word in _OTHERS_OWN) and (found := _SAVING.search(text)) is not None:
            steps = _CHECKPOINT.findall(found["path"])
            yield self._sign(SignKind.SAVING, text, number, int(steps[-1]) if steps else None)

    def _sign(self, kind: SignKind, text: str, number: int, step: int | None = None) -> Sign:
        return Sign(kind=kind, line=number, text=text.strip()[:TEXT], step=step)
