"""Readers of logs and documents: the backends' own, the scheduler's, and those of no backend."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from touchline.backends.logtext.events import DocumentReader, LogReader, Row
from touchline.backends.logtext.parts import NUMBER, not_a_number, read_stamp, strip_prefix, to_count, to_number
from touchline.backends.registry import document_readers, log_readers
from touchline.core.observation import Event, Observation, Sign, SignKind, Stamp
from touchline.history.faults import Faults
from touchline.history.loop_lines import TrainingLines
from touchline.history.slurm_lines import SlurmLines

READERS_VERSION = 10
"""Raised when a reader reads something else than before: files are then read again."""


@functools.cache
def line_readers() -> tuple[type[LogReader], ...]:
    """Return the readers of lines; make one instance of each for every file."""
    return (SlurmLines, Faults, PackingLines, WandbLines, TrainingLines, *log_readers())


@functools.cache
def documents() -> tuple[DocumentReader, ...]:
    """Return the readers of state files and configs; the first that knows a document reads it."""
    return (*document_readers(), read_summary, read_metadata)


# ---- lines on packing that recipes print -----------------------------------------------------------------------------


_N = r"\d{1,3}(?:[,_]\d{3})+|\d+"
_EXAMPLES = r"(?:training |train )?(?:examples|samples)"
_ROWS = r"(?:packed )?(?:sequences|packs|rows|bins)"
_IS = r"(?: is)?\s*[:=]?\s*"
_END = r"\s*[.!]?\s*$"
_UNITS = {
    "total_examples": "examples",
    "total_sequences": "sequences",
    "max_seq_len": "tokens",
    "packing_density": "examples/sequence",
    "packing_efficiency": "%",
}
_FORMS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"Packed (?P<total_examples>{_N}) {_EXAMPLES} into (?P<total_sequences>{_N}) {_ROWS}\b.{{0,80}}$",
        rf"(?:Dataset packed\s*[:,=]?\s*(?:into )?(?=.*{_ROWS})|Total (?:packed )?sequences\s*[:=]\s*)"
        rf"(?P<total_sequences>{_N})(?: (?:total )?{_ROWS})?{_END}",
        rf"Packing dataset with max[_ ]seq(?:uence)?[_ ]len(?:gth)?\s*[=:]?\s*(?P<max_seq_len>{_N})\b",
        rf"(?:(?:Average|Avg\.?|Mean) )?packing density{_IS}(?P<packing_density>{NUMBER})"
        rf"\s*(?:x|(?:examples|samples)\s*(?:/|per)\s*\w+)?{_END}",
        rf"packing efficiency{_IS}(?P<packing_efficiency>{NUMBER})\s*(?P<percent>%|percent)?"
        rf"(?:\s+\(?non-?padding(?: tokens)?\)?)?{_END}",
    )
)
"""Groups are named like the observations that they give."""
_LOADED = re.compile(
    rf"(?:(?:Dataset )?loaded\s*[:,=]?\s*(?=\S+ {_EXAMPLES})|Total examples\s*[:=]\s*)(?P<count>{_N})(?: {_EXAMPLES})?"
    rf"(?P<of> (?:from|for|of|in)\b.{{0,160}}?)?{_END}",
    re.IGNORECASE,
)
_NOT_TRAINED_ON = re.compile(
    r"(?<![a-z])(?:val|valid|validation|eval\w*|test\w*|dev|few.?shot|in.?context|held.?out)(?![a-z])", re.IGNORECASE
)
_PEAK = re.compile(
    r"Peak GPU memory(?: (?P<what>usage|use|used|allocated|allocation|reserved))?"
    rf"(?P<init> after (?:model )?(?:init\w*|load\w*))?{_IS}(?P<size>{NUMBER})\s*(?P<unit>GB|GiB|MiB)\b"
    r"(?:\s*(?:/|of)\s*[\d.]+ ?Gi?B)?(?:\s*\([^()]{0,40}\))?" + _END,
    re.IGNORECASE,
)
_COURSE = re.compile(
    r"(?:Fine-?tuning|Training) (?P<what>started|completed|finished|ended)\b"
    r"(?P<rest>\D{0,60}(?P<date>20\d\d[-/]\d\d[-/]\d\d[T _]\d\d:\d\d:\d\d)?.{0,20})$",
    re.IGNORECASE,
)
_BARE = re.compile(r"[\s.:!)(\]\[-]*$")
_DECORATION = re.compile(r"^[^\w\[({]{0,6}")
_LENGTH_LIMIT = 240


class PackingLines:
    """Reader of the forms above and near variants."""

    words: ClassVar[frozenset[str]] = frozenset(
        {"packed", "packing", "loaded", "sequences", "examples", "peak", "started", "completed", "finished", "ended"}
    )

    def __init__(self) -> None:
        self._loaded = False

    def line(self, text: str, number: int) -> Iterable[Event]:
        """Yield the events of a line."""
        if len(text) > _LENGTH_LIMIT or "%|" in text:
            return
        said = _DECORATION.sub("", strip_prefix(text)[1]).rstrip()
        for form in _FORMS:
            if (match := form.match(said)) is not None:
                yield from _figures(match, number)
        loaded = _LOADED.match(said)
        # A validation split that is loaded after the training split may not say so: the first one counts.
        if loaded is not None and not self._loaded and not _NOT_TRAINED_ON.search(loaded["of"] or ""):
            self._loaded = True
            count = to_number(loaded["count"]) or 0.0
            yield Observation(name="total_examples", value=count, line=number, unit="examples", certain=False)
        yield from _peak(said, number)
        yield from self._course(said, text, number)

    def row(self, row: Row, text: str, number: int) -> Iterable[Event]:
        """Return no events: these are sentences."""
        del row, text, number
        return ()

    def _course(self, said: str, text: str, number: int) -> Iterator[Event]:
        """Begin and end, with the time that stands behind them: at a line's beginning it is read with all others."""
        match = _COURSE.match(said)
        started = match is not None and match["what"].lower() == "started"
        # An end without a time is read with what else people write at the end.
        if match is None or not (match["date"] or (started and _BARE.match(match["rest"]))):
            return
        if started:
            self._loaded = False
        yield Sign(kind=SignKind.START if started else SignKind.TRAINED, line=number, text=text)
        unix = read_stamp(match["date"] or "")
        if unix is not None and read_stamp(text) is None:
            yield Stamp(unix, number)


def _figures(match: re.Match[str], number: int) -> Iterator[Observation]:
    """Yield the figures of a form; a share up to 1 without a sign is a fraction of the tokens."""
    groups = match.groupdict()
    for name, unit in _UNITS.items():
        value = to_number(groups.get(name))
        if name == "packing_efficiency" and value is not None and not groups.get("percent") and value <= 1:
            value *= 100
        if value and (unit != "%" or value <= 100):
            yield Observation(name=name, value=value, line=number, unit=unit)  # type: ignore[arg-type]
    if "total_sequences" in groups or "max_seq_len" in groups:
        yield Observation(name="packed", value="true", line=number)


def _peak(said: str, number: int) -> Iterator[Observation]:
    """Yield a peak of the GPU's memory.

    The plain form does not say which memory. It is none of `process`, which is host memory here. Of the two others it
    is taken for `allocated`, what most programs print under this name: were it the larger `reserved`, an estimate made
    from it would be too high, never too low. GB may be 10**9 or 2**30 bytes and stays GB.
    """
    match = _PEAK.match(said)
    size = to_number(match["size"]) if match is not None else None
    if match is None or not size:
        return
    unit = match["unit"].lower()
    yield Observation(
        name="peak_memory",
        value=size / 1024 if unit == "mib" else size,
        line=number,
        unit="GB" if unit == "gb" else "GiB",
        phase="after_init" if match["init"] else "step",
        kind="reserved" if (match["what"] or "").lower() == "reserved" else "allocated",
        aggregation="peak",
    )


# ---- W&B -------------------------------------------------------------------------------------------------------------


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
