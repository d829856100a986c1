"""W&B: the summary that it prints when a run ends, and the files of its folder.

A summary holds the last value that was logged under each key, never a mean; only what a trainer logs once, at its end,
is of the whole run. On the console values are rounded to five decimals, so a small learning rate reads 0.
Source: wandb.sdk.wandb_run (_footer_history_summary_info), transformers.integrations.WandbCallback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from touchline.backends.logtext.numbers import not_a_number, to_count, to_number
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, Observation, Sign, SignKind

_LINE = re.compile(r"(?:^|[\s\])}])wandb:(?P<rest>.*)$")
_ENTRY = re.compile(r"^ +(?P<key>[A-Za-z_][\w./@-]*) (?P<value>\S+)\s*$")
_SUMMARY = re.compile(r"^ +Run summary:\s*$")
_MORE = re.compile(r"^ +\+\d+ \.\.\.\s*$")
_ROUNDED_BELOW = 5e-4
"""Below it five decimals leave more than one per cent of doubt."""
_TEXT_LIMIT = 300
_OF_A_TRAINER = frozenset({"train_runtime", "total_flos", "train/global_step", "train/train_runtime"})
"""Keys of the Hugging Face Trainer, which logs `train_loss` once, as the mean over the run; others log the last one."""
_LOSS = Observation(name="loss", value=0, line=0, unit="nats", aggregation="last")
_MEAN_LOSS = replace(_LOSS, name="mean_train_loss", aggregation="mean")
_EVAL_LOSS = replace(_LOSS, name="eval_loss")
_ALLOCATED = Observation(
    name="peak_memory", value=0, line=0, unit="GiB", aggregation="last", phase="step", kind="allocated"
)
_RATE = Observation(
    name="train_samples_per_second",
    value=0,
    line=0,
    unit="examples/s",
    aggregation="mean",
    inside=("evaluation", "saving"),
)
_MEANINGS: Mapping[str, Observation] = {
    "global_step": Observation(name="step", value=0, line=0, unit="steps", aggregation="last"),
    "epoch": Observation(name="epoch", value=0, line=0, unit="epochs", aggregation="last"),
    "loss": _LOSS,
    **dict.fromkeys(("val_loss", "eval_loss", "eval/loss"), _EVAL_LOSS),
    "train_loss": _MEAN_LOSS,
    "train_runtime": replace(_RATE, name="train_seconds", unit="s", aggregation=None),
    "train_samples_per_second": _RATE,
    "train_steps_per_second": replace(_RATE, name="train_steps_per_second", unit="steps/s"),
    "tokens_per_second_per_gpu": replace(_LOSS, name="tokens_per_second", unit="tokens/s/GPU", token_unit="label"),
    "peak_memory_active": _ALLOCATED,
    "peak_memory_alloc": _ALLOCATED,
    "peak_memory_reserved": replace(_ALLOCATED, kind="reserved"),
}
"""What a key measures, also behind `train/`; `_step` counts calls of `log`, `_runtime` is the life of the process."""


class WandbLines:
    """Collects the block under `Run summary:` and reads it when it is over: what a key means depends on the others."""

    words: ClassVar[frozenset[str]] = frozenset({"wandb", "mwandb"})

    def __init__(self) -> None:
        """Start a file."""
        self._block: dict[str, tuple[str, int]] | None = None
        self._cut = False

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Yield the events of the block before this line. Colours leave `mwandb` as the word of such a line."""
        match = _LINE.search(text)
        if match is None:
            return
        rest = match.group("rest")
        if _SUMMARY.match(rest):
            yield from self._end()
            self._block, self._cut = {}, False
        elif self._block is not None:
            entry = _ENTRY.match(rest)
            if entry is not None:
                self._block[entry.group("key")] = (entry.group("value"), number)
            elif _MORE.match(rest):
                self._cut = True
            else:
                yield from self._end()

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return no events: the summary is not a dictionary."""
        del row, text, number
        return ()

    def _end(self) -> Iterator[Event]:
        block, self._block = self._block, None
        if block:
            yield from _facts(block, rounded=True, cut=self._cut)


def read_summary(name: str, document: Row) -> tuple[Event, ...] | None:
    """Return the events of wandb-summary.json, with values as they were logged; None for every other mapping."""
    ours = isinstance(document.get("_wandb"), Mapping) or {"_step", "_runtime", "_timestamp"} <= document.keys()
    if not ours or (name != "wandb-summary.json" and "_step" not in document):
        return None
    return tuple(_facts({str(key): (value, 0) for key, value in document.items()}, rounded=False, cut=False))


def read_metadata(name: str, document: Row) -> tuple[Event, ...] | None:
    """Return the machine of wandb-metadata.json, with the host's devices, used or not; None for other mappings."""
    if name != "wandb-metadata.json" and not {"executable", "program", "startedAt"} <= document.keys():
        return None
    listed = document.get("gpu_nvidia")
    devices = [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    names = {str(each["name"]) for each in devices if each.get("name")}
    gpu = document.get("gpu") or (names.pop() if len(names) == 1 else None)
    count = to_count(document.get("gpu_count")) or len(devices)
    size = to_number(devices[0].get("memoryTotal")) if devices else None
    events: list[Event] = []
    if isinstance(gpu, str):
        events.append(Observation(name="gpu", value=gpu, line=0, certain=False))
    if count:
        events.append(Observation(name="gpus", value=count, line=0, certain=False))
    if size:
        events.append(Observation(name="gpu_memory_total", value=size / 1024**3, line=0, unit="GiB", certain=False))
    return tuple(events)


def _facts(block: Mapping[str, tuple[object, int]], *, rounded: bool, cut: bool) -> Iterator[Event]:
    """Yield the facts of a whole summary.

    Args:
        block: values and their lines, by key.
        rounded: whether values have five decimals only.
        cut: whether keys were left out.
    """
    for key, (value, line) in block.items():
        meaning = _meaning(key, block, cut=cut)
        if meaning is None:
            continue
        if meaning.name == "loss" and not_a_number(value):
            yield Sign(kind=SignKind.NOT_A_NUMBER, line=line, text=f"wandb: {key} {value}"[:_TEXT_LIMIT])
        number = to_number(value)
        if number is None or (rounded and abs(number) < _ROUNDED_BELOW):
            continue
        yield replace(meaning, value=number, line=line)


def _meaning(key: str, block: Mapping[str, tuple[object, int]], *, cut: bool) -> Observation | None:
    """Return what a key measures among others; None for keys that may stand for anything."""
    if key == "train_loss" and _OF_A_TRAINER.isdisjoint(block):
        # The Trainer's other keys may be among those that were left out.
        return None if cut or "loss" in block or "train/loss" in block else _LOSS
    if key == "epoch" or (key == "peak_memory_active" and "peak_memory_alloc" in block):
        # What the allocator has in use comes close to what is allocated; it stands in only where that is missing.
        return None
    return _MEANINGS.get(key.removeprefix("train/"))
