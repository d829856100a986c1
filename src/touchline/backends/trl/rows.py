"""The Trainer's rows and its messages about its progress.

A row is a dictionary for a logging step, for an evaluation, or for the end of the training. Scripts without the
Trainer copy its banner word by word. Source: transformers.trainer, versions 3 to 5 (log, _maybe_log_save_evaluate,
evaluate, _finalize_training), trainer_utils.speed_metrics, trainer_callback.ProgressCallback (since version 5 numbers
are text of four digits), trl.trainer (what it adds).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from touchline.backends.logtext.events import Attributes, Row, figure, observed, to_sign
from touchline.backends.logtext.parts import NUMBER, not_a_number, to_count, to_number
from touchline.core.observation import Event, Inside, Observation, ObservationName, SignKind

INSIDE: tuple[Inside, ...] = ("evaluation", "saving")
"""The Trainer's clock runs on through both."""
TEXT = 300
_OTHERS_OWN = frozenset({"event", "current_steps"})
"""Keys of rows that repeat the Trainer's numbers and have readers of their own."""
_TRL_KEYS = frozenset(
    {
        *("mean_token_accuracy", "rewards/chosen", "rewards/accuracies", "rewards/margins", "logps/chosen"),
        *(
            "reward_std",
            "completion_length",
            "completions/mean_length",
            "completions/mean_terminated_length",
            "objective/kl",
        ),
    }
)
"""Numbers that TRL's trainers add."""
_AT = re.compile(r"(\d+)/\d+")
_EVAL_RUNTIME = re.compile(r"eval_(?:(?P<data>.+)_)?runtime")
_SAME = 2e-3
"""A row and its copy may be rounded differently."""


class TrainerRowParser:
    """Reads rows; remembers what decides how the next one is to be taken."""

    def __init__(self) -> None:
        """Start with a new file."""
        self.is_trl = False
        self.resumed = False
        self.has_trained = False
        """Whether a row of a logging step was read."""
        self._evaluated: tuple[float, float | None] | None = None

    def read(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Yield the events of a row. Yield nothing if it is not the Trainer's."""
        if not _OTHERS_OWN.isdisjoint(row):
            return
        if not _TRL_KEYS.isdisjoint(row):
            self.is_trl = True
        if is_training(row):
            self.has_trained = True
            yield from self._training(row, text, number)
        elif is_closing(row):
            yield from self.closing(row, text, number)
        if is_evaluation(row):
            yield from self._evaluation(row, number)

    def trainer(self, number: int) -> Observation:
        """Return the trainer that printed the row."""
        return Observation(name="trainer", value="trl" if self.is_trl else "hf_trainer", line=number)

    def _training(self, row: Row, text: str, number: int) -> Iterator[Event]:
        step, epoch = step_of(row), to_number(row.get("epoch"))
        yield from figure("loss", row.get("loss"), number, step=step, epoch=epoch)
        if not_a_number(row.get("loss")) or not_a_number(row.get("grad_norm")):
            yield to_sign(SignKind.NOT_A_NUMBER, text, number, step)
        if _prints_like_the_trainer(row):
            yield self.trainer(number)
        # Since the beginning of the training: it is in every row if tokens are counted.
        more = Attributes(step=step, epoch=epoch, aggregation="last", inside=INSIDE)
        yield from figure("train_seconds", row.get("train_runtime"), number, positive=True, **more)
        yield from self._tokens(row, number, step, epoch)

    def closing(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Read the last row, or a table or tuple that repeats it."""
        step, epoch = step_of(row), to_number(row.get("epoch"))
        yield self.trainer(number)
        more = Attributes(step=step, epoch=epoch, inside=INSIDE)
        yield from figure("train_seconds", row.get("train_runtime"), number, positive=True, **more)
        yield from mean_loss(row.get("train_loss"), text, number, epoch)
        yield from rates(row, number, epoch)
        yield from self._tokens(row, number, step, epoch)
        yield to_sign(SignKind.TRAINED, text, number, step)

    def _evaluation(self, row: Row, number: int) -> Iterator[Event]:
        """Yield one evaluation per validation set. A repeated print adds nothing."""
        step, epoch = step_of(row), to_number(row.get("epoch"))
        yield self.trainer(number)
        for key in evaluations(row):
            yield from figure("eval_loss", row.get(f"{key}_loss"), number, step=step, epoch=epoch)
            seconds = to_number(row.get(f"{key}_runtime"))
            if seconds is None or seconds <= 0 or self._is_copy(seconds, epoch):
                continue
            self._evaluated = (seconds, epoch)
            yield observed("eval_seconds", seconds, number, step=step, epoch=epoch)

    def _is_copy(self, seconds: float, epoch: float | None) -> bool:
        if self._evaluated is None:
            return False
        known, at = self._evaluated
        same_epoch = epoch is None or at is None or abs(epoch - at) <= _SAME * max(1.0, at)
        return same_epoch and abs(seconds - known) <= _SAME * known

    def _tokens(self, row: Row, number: int, step: int | None, epoch: float | None) -> Iterator[Observation]:
        if not self.resumed:
            # Until version 5 the tokens of before a resume are divided by the time since as well.
            more = Attributes(step=step, epoch=epoch, token_unit="padded", aggregation="mean", inside=INSIDE)
            rate = row.get("train_tokens_per_second")
            yield from figure("tokens_per_second", rate, number, positive=True, **more)


def is_training(row: Row) -> bool:
    """Return True for a row of a logging step. Other loops count steps but no epochs."""
    at = "epoch" in row or "global_step/max_steps" in row or _AT.fullmatch(str(row.get("iteration", ""))) is not None
    return "loss" in row and at and ("learning_rate" in row or "grad_norm" in row)


def is_closing(row: Row) -> bool:
    """Return True for the final row. Version 4.3 and earlier lack the mean loss."""
    return (
        "loss" not in row
        and to_number(row.get("train_runtime")) is not None
        and ("train_loss" in row or "train_samples_per_second" in row)
        and ("epoch" in row or "train_samples_per_second" in row or "train_steps_per_second" in row)
    )


def is_evaluation(row: Row) -> bool:
    """Return True for a row of an evaluation on validation data."""
    return any(True for _ in evaluations(row)) or ("eval_loss" in row and "epoch" in row)


def evaluations(row: Row) -> Iterable[str]:
    """Return the beginnings of the evaluations' keys in a row: `eval`, or `eval_` and the name of a validation set."""
    found = [match for key in row if (match := _EVAL_RUNTIME.fullmatch(key)) is not None]
    keys = [f"eval_{match['data']}" if match["data"] else "eval" for match in found]
    return keys or (["eval"] if "eval_loss" in row and "epoch" in row else [])


def step_of(row: Row) -> int | None:
    """Return the optimizer step of a row; None for the Trainer's own rows on standard output, which lack it."""
    for key in ("global_step/max_steps", "iteration"):
        found = _AT.fullmatch(str(row.get(key, "")))
        if found is not None:
            return int(found[1])
    return to_count(row.get("step", row.get("global_step")))


def mean_loss(value: object, text: str, number: int, epoch: float | None = None) -> Iterator[Event]:
    """Yield the mean training loss of the last row: over all planned steps, also after a resume."""
    yield from figure("mean_train_loss", value, number, epoch=epoch, aggregation="mean")
    if not_a_number(value):
        yield to_sign(SignKind.NOT_A_NUMBER, text, number)


def rates(row: Row, number: int, epoch: float | None = None) -> Iterator[Observation]:
    """Yield the rates of the last row. Before version 4.6 the value named samples per second is steps per second."""
    samples, steps = row.get("train_samples_per_second"), row.get("train_steps_per_second")
    if to_number(steps) is None:
        samples, steps = None, samples
    more = Attributes(epoch=epoch, aggregation="mean", inside=INSIDE)
    yield from figure("train_samples_per_second", samples, number, **more)
    yield from figure("train_steps_per_second", steps, number, **more)


def _prints_like_the_trainer(row: Row) -> bool:
    """Return True for the Trainer's order of keys. Other loops have another order, and no gradient."""
    keys = list(row)
    if "epoch" not in row or "learning_rate" not in row:
        return False
    return "grad_norm" in row or keys.index("loss") < keys.index("learning_rate") < keys.index("epoch")


_HEADER = re.compile(r"\*{5} Running (?P<what>[\w ]{1,40}) \*{5}\s*$", re.IGNORECASE)
_BANNER_LINES = 40
_NEXT_LINES = 3
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
_OTHERS_LINES = ("axolotl", ":swift]", "- swift -")
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
        self._cut: Observation | None = None

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
            yield to_sign(SignKind.TRAINED, text, number)
            if "best model" not in text:
                yield self._rows.trainer(number)

    def _header(self, what: str, text: str, number: int) -> Iterator[Event]:
        self._start, self._examples = 0, None
        if what == "training":
            self._start = number
            self._rows.resumed = False
            yield to_sign(SignKind.START, text, number)
            if _OTHER_LOOP.search(text) is None:
                certain = "trainer" in text.lower()
                yield Observation(name="trainer", value=self._rows.trainer(number).value, line=number, certain=certain)
        elif what in ("evaluation", "prediction", "test"):
            yield to_sign(SignKind.EVALUATING, text, number)

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
                yield to_sign(SignKind.START, text, number)
            self._start = number
            if count < _ENDLESS_EPOCHS:
                yield examples
        if not self._start or number - self._start > _BANNER_LINES:
            # Only a training prints these. Where the title and the lines before are cut off, two of them count.
            first, self._cut = self._cut, seen
            if first is None or not 0 < number - first.line <= _NEXT_LINES or first.name == name:
                return
            self._start = number
            yield to_sign(SignKind.START, text, number)
            yield first
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
            yield to_sign(SignKind.RESUMED, text, number, step or None)
        elif _TRAINED.search(text) is not None:
            yield to_sign(SignKind.TRAINED, text, number)
        elif not any(word in text for word in _OTHERS_LINES) and (found := _SAVING.search(text)) is not None:
            steps = _CHECKPOINT.findall(found["path"])
            yield to_sign(SignKind.SAVING, text, number, int(steps[-1]) if steps else None)
