"""W&B: the summary that it prints when a run ends, and the files of its folder.

A summary holds the last value that was logged under each key, never a mean; only what a trainer logs once, at its end,
is of the whole run. On the console values are rounded to five decimals, so a small learning rate reads 0.
Source: wandb.sdk.wandb_run (_footer_history_summary_info), transformers.integrations.WandbCallback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from touchline.backends.logtext.numbers import not_a_number, to_count, to_number
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, Inside, Observation, ObservationName, Sign, SignKind
from touchline.core.quantity import Aggregation, MemoryKind, Phase, TokenUnit

_LINE = re.compile(r"(?:^|[\s\])}])wandb:(?P<rest>.*)$")
_ENTRY = re.compile(r"^ +(?P<key>[A-Za-z_][\w./@-]*) (?P<value>\S+)\s*$")
_SUMMARY = re.compile(r"^ +Run summary:\s*$")
_MORE = re.compile(r"^ +\+\d+ \.\.\.\s*$")
_ROUNDED_BELOW = 5e-4
"""Below it five decimals leave more than one per cent of doubt."""
_TEXT_LIMIT = 300
_OF_A_TRAINER = frozenset(
    {"train_runtime", "train/train_runtime", "total_flos", "train/total_flos", "train/global_step"}
)
"""Keys of the Hugging Face Trainer, which logs `train_loss` once, as the mean over the run; others log the last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Meaning:
    """Meaning of a key."""

    name: ObservationName
    unit: str = "1"
    aggregation: Aggregation | None = "last"
    phase: Phase | None = None
    kind: MemoryKind | None = None
    token_unit: TokenUnit | None = None
    inside: tuple[Inside, ...] = ()


_OVER_THE_RUN: tuple[Inside, ...] = ("evaluation", "saving")
_MEAN_LOSS = _Meaning(name="mean_train_loss", unit="nats", aggregation="mean")
_LAST_LOSS = _Meaning(name="loss", unit="nats")
_ALLOCATED = _Meaning(name="peak_memory", unit="GiB", phase="step", kind="allocated")
_MEANINGS: dict[str, _Meaning] = {
    "global_step": _Meaning(name="step", unit="steps"),
    "train/global_step": _Meaning(name="step", unit="steps"),
    "train/epoch": _Meaning(name="epoch", unit="epochs"),
    "loss": _LAST_LOSS,
    "train/loss": _LAST_LOSS,
    "val_loss": _Meaning(name="eval_loss", unit="nats"),
    "eval_loss": _Meaning(name="eval_loss", unit="nats"),
    "eval/loss": _Meaning(name="eval_loss", unit="nats"),
    "train/train_loss": _MEAN_LOSS,
    "train_runtime": _Meaning(name="train_seconds", unit="s", aggregation=None, inside=_OVER_THE_RUN),
    "train/train_runtime": _Meaning(name="train_seconds", unit="s", aggregation=None, inside=_OVER_THE_RUN),
    "train_samples_per_second": _Meaning(
        name="train_samples_per_second", unit="examples/s", aggregation="mean", inside=_OVER_THE_RUN
    ),
    "train/train_samples_per_second": _Meaning(
        name="train_samples_per_second", unit="examples/s", aggregation="mean", inside=_OVER_THE_RUN
    ),
    "train_steps_per_second": _Meaning(
        name="train_steps_per_second", unit="steps/s", aggregation="mean", inside=_OVER_THE_RUN
    ),
    "train/train_steps_per_second": _Meaning(
        name="train_steps_per_second", unit="steps/s", aggregation="mean", inside=_OVER_THE_RUN
    ),
    "tokens_per_second_per_gpu": _Meaning(name="tokens_per_second", unit="tokens/s/GPU", token_unit="label"),
    "peak_memory_active": _ALLOCATED,
    "peak_memory_alloc": _ALLOCATED,
    "peak_memory_reserved": _Meaning(name="peak_memory", unit="GiB", phase="step", kind="reserved"),
}
"""Keys that show nothing of the training: `_step` counts calls of `log`, `_runtime` is the life of the process."""


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
    events: list[Event] = []
    gpu, count = document.get("gpu"), to_count(document.get("gpu_count"))
    if not isinstance(gpu, str) or not gpu:
        listed = document.get("gpu_nvidia") or document.get("gpu_devices")
        names = (
            {each.get("name") for each in listed if isinstance(each, Mapping)} if isinstance(listed, list) else set()
        )
        gpu, count = (
            (names.pop(), count or len(listed)) if len(names) == 1 and isinstance(listed, list) else (None, count)
        )
    if isinstance(gpu, str) and gpu:
        events.append(Observation(name="gpu", value=gpu, line=0, certain=False))
    if count:
        events.append(Observation(name="gpus", value=count, line=0, certain=False))
    devices = document.get("gpu_nvidia")
    device = devices[0] if isinstance(devices, list) and devices else None
    if isinstance(device, Mapping):
        size = to_number(device.get("memoryTotal")) or to_number(device.get("memory_total"))
        if size:
            events.append(Observation(name="gpu_memory_total", value=size / 1024**3, line=0, unit="GiB", certain=False))
    return tuple(events)


def plain_config(document: Mapping[str, object]) -> dict[str, object]:
    """Return W&B's config.yaml as the arguments that it holds, each under its key; another mapping as it is.

    An adapter's settings are one level deeper than in a config written by hand.
    """
    plain = dict(document)
    if not {"_wandb", "wandb_version"} & document.keys():
        return plain
    wrapped = {key: each["value"] for key, each in document.items() if isinstance(each, Mapping) and "value" in each}
    if not wrapped:
        return plain
    wrapped.pop("_wandb", None)
    adapters = wrapped.get("peft_config")
    if isinstance(adapters, Mapping) and isinstance(adapters.get("default"), Mapping):
        wrapped["peft_config"] = dict(adapters["default"])
    path = wrapped.get("_name_or_path")
    if isinstance(path, str) and path:
        wrapped.setdefault("model_name_or_path", path)
    return wrapped


def arguments_of(name: str, document: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments that wandb-metadata.json says a program was started with; of other files none."""
    words = document.get("args")
    if name != "wandb-metadata.json" or not isinstance(words, list):
        return {}
    found: dict[str, object] = {}
    given = [str(word) for word in words]
    for word, after in zip(given, [*given[1:], "--"], strict=True):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            found[key.replace("-", "_")] = value if equals else "true" if after.startswith("--") else after
    return found


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
        yield Observation(
            name=meaning.name,
            value=number,
            line=line,
            unit=meaning.unit,
            phase=meaning.phase,
            kind=meaning.kind,
            token_unit=meaning.token_unit,
            aggregation=meaning.aggregation,
            inside=meaning.inside,
        )


def _meaning(key: str, block: Mapping[str, tuple[object, int]], *, cut: bool) -> _Meaning | None:
    """Return the meaning of a key among others; None for keys that may stand for anything."""
    if key == "train_loss":
        if not _OF_A_TRAINER.isdisjoint(block):
            return _MEAN_LOSS
        # The Trainer's other keys may be among those that were left out.
        return None if cut or "loss" in block or "train/loss" in block else _LAST_LOSS
    if key == "peak_memory_active" and "peak_memory_alloc" in block:
        # What the allocator has in use comes close to what is allocated; it stands in only where that is missing.
        return None
    return _MEANINGS.get(key)
