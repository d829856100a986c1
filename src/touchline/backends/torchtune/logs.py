"""torchtune's lines: recipes on a console, and the files of its DiskLogger.

A step redraws a progress bar whose label is `epoch|step|Loss: value`; the bar counts the optimizer steps of one epoch,
the label those of the run. "Memory stats after model init" are taken before the first step and are never a training's
peak, and `tokens_per_second_per_gpu` counts the tokens with a loss (versions before 0.5 counted all positions).
Source: recipes/*.py, torchtune.training.memory, torchtune.training.metric_logging, _checkpoint_client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from touchline.backends.config_table import OBSERVED, names_of
from touchline.backends.logtext.events import (
    AttributesOfMemory,
    BarCount,
    DocumentReader,
    LoggedTrainer,
    LogReader,
    Row,
    figure,
)
from touchline.backends.logtext.parts import NUMBER, not_a_number, to_count, to_number
from touchline.backends.torchtune.format import ADAPTER_KEYS, BATCH_KEYS, BUILDER, KEYS, evidence, read_config
from touchline.backends.torchtune.reading import COMPONENT
from touchline.core.observation import Event, Observation, Sign, SignKind
from touchline.core.quantity import Phase

_BAR = re.compile(rf"(?<![\d|.])(\d{{1,6}})\|(\d{{1,12}})\|Loss: ({NUMBER}|-?nan|-?inf)(?=[:\s]|$)")
_DISK = re.compile(r"(?:^|[ \t])Step (\d{1,12}) \| (?P<pairs>[A-Za-z_]\w*:\S.*)$")
_PAIR = re.compile(r"(?:^|\s)([A-Za-z_]\w*):([^\s|]+)(?=\s|$)")
_DISK_ONLY = frozenset({"tokens_per_second_per_gpu", "peak_memory_active", "peak_memory_alloc", "gpu_resources"})
"""Keys that DiskLogger rows have and other trainers' `Step 3 | loss:2.1` do not."""
_MEMORY = re.compile(
    r"^(?:\[?[a-z]*\d+\]?:)?\W{0,12}[A-Z]{3,4} peak memory (?P<what>alloc|allocation|reserved): "
    rf"(?P<size>{NUMBER}) (?P<unit>GiB|GB)\s*$"
)
_BANNER = re.compile(r"(?:^|[\s:])Running (\w*Recipe\w*) with resolved config")
_NO_TRAINING = re.compile(r"Inference|Generat|Eval|Quantiz")
_LOGGER = re.compile(r"\btorchtune\.utils\._?logging\b")
_DTYPE = re.compile(r"(?:^|[\s:])Model is initialized with precision torch\.(bfloat16|float16|float32|float64)\b")
_VALIDATION = re.compile(rf"(?:^|[\s:])Validation loss: ({NUMBER})\s*$")
_BEGIN_SAVE = re.compile(
    r"(?:^|[\s:\]])(?:Starting checkpoint save for epoch \d+\.\.\.|Saving checkpoint\. This may take)"
)
_END_SAVE = re.compile(rf"(?:^|[\s:\]])Checkpoint saved in ({NUMBER}) seconds\.")
_INNER_SAVE = re.compile(rf"(?:^|[\s:\]])Saving checkpoint took ({NUMBER}) secs")
_SAVED_FILE = re.compile(
    rf"(?:^|[\s:\]])(?:Model|Adapter|Recipe) checkpoint (?:of size ({NUMBER}) (GiB|GB) )?saved to \S"
)
_LAUNCH = re.compile(r"^[+$\s]{0,4}tune run\b(?P<options>.{0,400})")
_PER_NODE = re.compile(r"--nproc[_-]per[_-]node[= ](\d{1,4})(?=\s|$)")
_NODES = re.compile(r"--nnodes[= ](\S+)")
_TEXT_LIMIT = 300
_STATS_LINES = 2


_RESUME, _MODULES, _FOLDER = "resume_from_checkpoint", "lora_attn_modules", "checkpoint_dir"
_APPLY = ("apply_lora_to_mlp", "apply_lora_to_output")
_READ: frozenset[str] = names_of({**KEYS, **BATCH_KEYS, **ADAPTER_KEYS}, OBSERVED) | {
    *("dtype", "dataset.packed", "dataset.data_files", "dataset.source", "model.quantize_base", "model.use_dora"),
    *(f"model.{key}" for key in _APPLY),
}
"""Dotted keys that are read of a printed config, next to components, layers, the base's folder and resuming."""
_WORDS: frozenset[str] = frozenset(
    {
        *(COMPONENT, _RESUME, _MODULES, _FOLDER, *(key.rpartition(".")[2] for key in _READ)),
        *("q_proj", "k_proj", "v_proj", "output_proj"),
    }
)
_LINE = re.compile(r"^(?P<indent>\s*)(?:- )?(?P<key>[A-Za-z_]\w*):(?:\s+(?P<value>\S.*?))?\s*$")
_ITEM = re.compile(r"^\s*- ([A-Za-z_]\w*)\s*$")
_RANK = re.compile(r"^(?:\[(?:rank|default)?\d{1,5}\]:? ?|\s{0,4}\d{1,5}: )")
_MOST_LINES = 400
"""A resolved config has some 80 lines; further down nothing is a setting."""


def _section_of(component: str) -> str:
    """Return the section of a component by its dotted path: losses, schedules and loggers are others."""
    path, _, last = component.rpartition(".")
    if "tokenizer" in last:
        return "tokenizer"
    if "dataset" in last:
        return "dataset"
    if ".models" in path or BUILDER.match(last):
        return "model"
    return "optimizer" if "optim" in path and "lr_scheduler" not in path else ""


class ResolvedConfig:
    """Reads the lines after `with resolved config:`; between runs it reads nothing.

    OmegaConf prints keys in alphabetical order, so the component of a section is its first line. Sections are known by
    their components, not by their indentation: notebooks and documents lose it. Of two models, a student and its
    teacher, or two datasets the first counts. Source: torchtune.config._utils.log_config.
    """

    def __init__(self) -> None:
        """Start outside a config."""
        self._until = 0
        self._adapter = False
        self._clear()

    def _clear(self) -> None:
        self._indent: int | None = None
        self._section = ""
        self._values: dict[str, Any] = {}
        self._lines: dict[str, int] = {}
        self._reported: set[tuple[str, object]] = set()
        self._modules: list[str] | None = None

    def begin(self, number: int, *, adapter: bool) -> None:
        """Start a config after this line. `adapter` is true if the recipe's name shows an adapter."""
        self._clear()
        self._until = number + _MOST_LINES
        self._adapter = adapter

    def end(self) -> None:
        """End the config: the training has begun."""
        self._until = 0

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Yield what a config line adds to the evidence. Yield nothing outside a config."""
        if number > self._until:
            return
        text = _RANK.sub("", text, count=1)
        if self._modules is not None:
            if (item := _ITEM.match(text)) is not None:
                self._modules.append(item.group(1))
                return
            modules, self._modules = self._modules, None
            if modules:
                yield from self._add("model", _MODULES, modules, number)
        match = _LINE.match(text)
        if match is None:
            return
        indent, key, value = len(match.group("indent")), match.group("key"), match.group("value")
        if self._indent is None:
            self._indent = indent
        if key == _MODULES:
            self._modules = [] if value is None and self._section == "model" else None
        else:
            yield from self._setting(key, value or "", number, top=indent <= self._indent)

    def _setting(self, key: str, value: str, number: int, *, top: bool) -> Iterator[Event]:
        if key == COMPONENT:
            section = _section_of(value)
            self._section = "" if section in self._values else section
            if self._section:
                yield from self._add(section, key, value, number)
        elif key == _FOLDER:
            yield from self._add("checkpointer", key, value, number)
        elif key == _RESUME:
            if top and value.lower() == "true":
                yield Sign(kind=SignKind.RESUMED, line=number, text=f"{key}: {value}")
        elif key in _READ:
            if top:
                yield from self._add("", key, value, number)
        elif f"{self._section}.{key}" in _READ:
            yield from self._add(self._section, key, value, number)

    def _add(self, section: str, key: str, value: object, number: int) -> Iterator[Observation]:
        dotted = f"{section}.{key}" if section else key
        if dotted in self._lines:
            return
        self._lines[dotted] = number
        (self._values.setdefault(section, {}) if section else self._values)[key] = value
        for each in evidence(self._values, self._lines):
            token = (each.name, each.value if each.name in ("model", "method") else None)
            if token not in self._reported and not (self._adapter and each.value == "full"):
                self._reported.add(token)
                yield each


class TorchtuneLines:
    """Reads what recipes print, and the rows of the DiskLogger."""

    words: ClassVar[frozenset[str]] = _WORDS | {
        *("loss", "val_loss", "lr", "torchtune", "resolved", "precision", "instantiating", "instantiation"),
        *("checkpoint", "peak", "peak_memory_alloc", "gpu_resources", "validation", "nproc_per_node", "nproc"),
    }

    def __init__(self) -> None:
        """Start without any line read."""
        self._known = False
        self._config = ResolvedConfig()
        self._at = (0, 0)
        self._steps_of_epoch = False
        self._saving: Literal["no", "inner", "outer"] = "no"
        self._saved: list[tuple[float, str]] | None = []
        self._unit: Literal["GiB", "GB"] = "GiB"
        self._stats_line = -_STATS_LINES - 1

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Yield the events of one line."""
        if "|Loss: " in text:
            self._config.end()
            yield from self._bars(text, number)
        elif "Step " in text and (match := _DISK.search(text)) is not None:
            yield from self._disk(int(match.group(1)), match.group("pairs"), number)
        elif "resolved config" in text and (match := _BANNER.search(text)) is not None:
            yield from self._begin(match.group(1), text, number)
        else:
            yield from self._config.line(text, number)
            yield from self._words_of(text, number)

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Read a row. The first versions print the memory after initialization as a dictionary, in units of 10**9
        bytes.
        """
        if "peak_memory_alloc" not in row or "loss" in row or number - self._stats_line > _STATS_LINES:
            return
        yield from _memory(row["peak_memory_alloc"], "GB", number, "allocated", None)
        yield from _memory(row.get("peak_memory_reserved"), "GB", number, "reserved", None)

    # ------------------------------------------------------------------------------------------------------ what it is

    def _trainer(self, number: int) -> Iterator[Event]:
        if not self._known:
            self._known = True
            yield Observation(name="trainer", value="torchtune", line=number)

    def _begin(self, recipe: str, text: str, number: int) -> Iterator[Event]:
        if _NO_TRAINING.search(recipe):
            self._config.end()
            if "Quantiz" not in recipe:
                yield Sign(kind=SignKind.EVALUATING, line=number, text=text[:_TEXT_LIMIT])
            return
        self._known = False
        self._at, self._steps_of_epoch, self._saving, self._saved = (0, 0), False, "no", []
        self._config.begin(number, adapter="lora" in recipe.lower())
        yield Sign(kind=SignKind.START, line=number, text=text[:_TEXT_LIMIT])
        yield from self._trainer(number)
        if "SingleDevice" in recipe:
            yield Observation(name="gpus", value=1, line=number)

    def _words_of(self, text: str, number: int) -> Iterator[Event]:
        if "torchtune" in text and _LOGGER.search(text):
            yield from self._trainer(number)
        if "heckpoint" in text:
            yield from self._saves(text, number)
        if "after model init" in text:
            self._stats_line = number
        elif "peak memory" in text and (match := _MEMORY.match(text)) is not None:
            self._unit = "GiB" if match.group("unit") == "GiB" else "GB"
            kind: Literal["allocated", "reserved"] = "reserved" if match.group("what") == "reserved" else "allocated"
            yield from _memory(match.group("size"), self._unit, number, kind, None)
        elif "precision torch." in text and (match := _DTYPE.search(text)) is not None:
            yield from self._trainer(number)
            yield Observation(name="dtype", value=match.group(1), line=number)
            yield Observation(name="adapter_dtype", value=match.group(1), line=number)
        elif self._known and "Validation loss" in text and (match := _VALIDATION.search(text)) is not None:
            yield from figure("eval_loss", match.group(1), number, unit="1")
        elif "nproc" in text and (match := _LAUNCH.match(text)) is not None:
            yield from _devices(match.group("options"), number)

    # --------------------------------------------------------------------------------------------------- what it did

    def _bars(self, text: str, number: int) -> Iterator[Event]:
        """Yield every label on the line. The shared reader reads the bar itself."""
        for match in _BAR.finditer(text):
            epoch, step = int(match.group(1)), int(match.group(2))
            if epoch > self._at[0] > 0 and step <= self._at[1]:
                # The first version counted the batches of each epoch; such a count is no step of the run.
                self._steps_of_epoch = True
            elif epoch < self._at[0] or (epoch == self._at[0] and step < self._at[1]):
                self._steps_of_epoch, self._known = False, False
            self._at = (epoch, step)
            known = None if self._steps_of_epoch else step
            if not_a_number(match.group(3)):
                yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=text[:_TEXT_LIMIT], step=known)
            else:
                yield from figure("loss", match.group(3), number, unit="1", step=known)
            # After the loss: one that goes back begins another attempt, whose trainer this is too.
            yield from self._trainer(number)
        # Bars go to stderr without a line's end, so the logger continues on the same line.
        if "heckpoint" in text:
            yield from self._saves(text, number)

    def _disk(self, step: int, pairs: str, number: int) -> Iterator[Event]:
        """Read a row of the DiskLogger or the StdoutLogger: `Step 3 | loss:0.5 lr:0.0001 `."""
        if "|" in pairs or "," in pairs.split("DTensor(")[0]:
            return
        values = dict(_PAIR.findall(pairs))
        if not _DISK_ONLY.isdisjoint(values):
            yield from self._trainer(number)
        elif values.keys().isdisjoint({"loss", "val_loss"}):
            return
        if not_a_number(values.get("loss")):
            yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=f"Step {step} | {pairs}"[:_TEXT_LIMIT], step=step)
        yield from figure("loss", values.get("loss"), number, unit="1", step=step)
        yield from figure("eval_loss", values.get("val_loss"), number, unit="1", step=step)
        rate, unit = values.get("tokens_per_second_per_gpu"), "tokens/s/GPU"
        yield from figure("tokens_per_second", rate, number, unit=unit, positive=True, step=step, token_unit="label")
        # Memory in use by the allocator is closest to what is allocated; it stands in only where that is missing.
        allocated = to_number(values.get("peak_memory_alloc")) or to_number(values.get("peak_memory_active"))
        yield from _memory(allocated, self._unit, number, "allocated", step)
        yield from _memory(values.get("peak_memory_reserved"), self._unit, number, "reserved", step)

    def _saves(self, text: str, number: int) -> Iterator[Event]:
        """Record a saved checkpoint file by file. Its size is known after the last file."""
        shown = text[:_TEXT_LIMIT]
        if (begin := _BEGIN_SAVE.search(text)) is not None:
            outer = self._saving == "outer" or "Starting" in begin.group()
            self._saving, self._saved = "outer" if outer else "inner", []
            yield Sign(kind=SignKind.SAVING, line=number, text=shown)
        elif (match := _SAVED_FILE.search(text)) is not None:
            size = to_number(match.group(1))
            if size is None:
                self._saved = None
            elif self._saved is not None:
                self._saved.append((size, match.group(2)))
            if self._saving == "no":
                yield Sign(kind=SignKind.SAVED, line=number, text=shown)
        else:
            # The recipe's own duration holds the inner one, where both are printed.
            end = _END_SAVE.search(text) or (_INNER_SAVE.search(text) if self._saving != "outer" else None)
            if end is not None:
                yield from figure("save_seconds", end.group(1), number)
                yield Sign(kind=SignKind.SAVED, line=number, text=shown)
                yield from self._size(number)

    def _size(self, number: int) -> Iterator[Event]:
        """Yield the size of a checkpoint's files. Yield nothing if a file's size was not printed."""
        # Where the beginning of the saving is missing, so may be the first of its files.
        files = self._saved if self._saving != "no" else None
        self._saved, self._saving = [], "no"
        units = {unit for _, unit in files or ()}
        if files and len(units) == 1:
            size = sum(size for size, _ in files)
            yield Observation(name="checkpoint_size", value=size, line=number, unit=units.pop(), aggregation="sum")


def _memory(
    size: object, unit: Literal["GiB", "GB"], number: int, kind: Literal["allocated", "reserved"], step: int | None
) -> Iterator[Observation]:
    """Record a peak. Without a step it belongs to the initialization. The counters are reset with every row."""
    phase: Phase = "after_init" if step is None else "step"
    more = AttributesOfMemory(step=step, phase=phase, kind=kind, aggregation="peak")
    yield from figure("peak_memory", size, number, unit=unit, positive=True, **more)


def _devices(options: str, number: int) -> Iterator[Observation]:
    each, nodes = _PER_NODE.search(options), _NODES.search(options)
    count = to_count(nodes.group(1)) if nodes is not None else 1
    if each is not None and count:
        yield Observation(name="gpus", value=int(each.group(1)) * count, line=number)


READERS: tuple[type[LogReader], ...] = (TorchtuneLines,)
DOCUMENTS: tuple[DocumentReader, ...] = (read_config,)
TRAINERS = (LoggedTrainer(name="torchtune", precedence=3, bar=BarCount.EPOCH_STEPS),)
