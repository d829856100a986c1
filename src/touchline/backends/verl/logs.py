"""Lines of verl: `step:49 - actor/pg_loss:0.01 - timing_s/step:31.2`, one per step, and the configuration before them.

Sources: verl/utils/logger/aggregate_logger.py and trainer/ppo/metric_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.emitter import EventEmitter
from touchline.backends.logtext.forms import VALUE, Figure, Form, FormReader, memory
from touchline.backends.logtext.numbers import to_number
from touchline.backends.logtext.prefixes import strip_prefix
from touchline.backends.logtext.settings import setting_events, setting_name
from touchline.core.observation import Event, ObservationName

_MODEL = re.compile(r"'model': \{")
_PATH = re.compile(r"'path': '(?P<path>[^']+)'")
_ENTRY = re.compile(r"'(?P<key>\w+)': (?P<value>[^\s{\[(][^,{}]*)")
_KEYS = frozenset(
    {
        *("ppo_micro_batch_size_per_gpu", "micro_batch_size_per_gpu", "lr", "lora_rank", "total_epochs"),
        *("total_training_steps", "optimizer", "enable_gradient_checkpointing"),
    }
)


class VerlLines(FormReader):
    """Reader of one file's lines."""

    trainer = "verl"
    words = frozenset(
        {
            *("timing_s", "throughput", "pg_loss", "actor_rollout_ref", "path", "nnodes", "n_gpus_per_node"),
            "train_batch_size",
        }
    )
    forms = (
        Form(
            hint="step:",
            pattern=re.compile(r"(?:^|\s)step:(?P<step>\d+)(?P<rest> - (?=.*\w/[\w/]+:)[\w@/.-]+:\S.*)$"),
            figures={
                **dict.fromkeys(("train/loss", "actor/loss", "actor/pg_loss"), Figure(name="loss")),
                "val/loss": Figure(name="eval_loss"),
                **dict.fromkeys(("timing_s/step", "perf/time_per_step"), Figure(name="step_seconds")),
                "perf/throughput": Figure(name="tokens_per_second", unit="tokens/s/GPU", token_unit="real"),
                "perf/max_memory_allocated_gb": memory("allocated", "GiB"),
                "perf/max_memory_reserved_gb": memory("reserved", "GiB"),
            },
            pairs=re.compile(rf" - (?P<name>[\w@/.() -]+?):(?:np\.\w+\()?(?P<value>{VALUE})\)?(?= - |$)"),
            names_trainer=True,
        ),
    )

    def __init__(self, emitter: EventEmitter) -> None:
        """Start a file."""
        super().__init__(emitter)
        self._config: _Config | None = None

    def line(self, text: str, rest: str, number: int) -> list[Event] | None:
        """Return the events of a row, or of a line of the configuration, which may take hundreds of lines."""
        events = super().line(text, rest, number)
        if events is not None or self.emitter.has_trained:
            return events
        body = strip_prefix(text)[1].strip()
        if not body.startswith(("'", "{'")) or (self._config is None and "'actor_rollout_ref'" not in body):
            return None
        named = [] if self._config is not None else list(self.emitter.once("trainer", self.trainer, number))
        self._config = self._config or _Config(self.emitter)
        return [*named, *self._config.line(body, number)]


class _Config:
    """Configuration that is printed as a dictionary, sorted by name: the actor's settings before the critic's."""

    def __init__(self, emitter: EventEmitter) -> None:
        """Start the dictionary."""
        self._emitter = emitter
        self._known: set[ObservationName] = set()
        self._in_model = False
        self._devices: list[float] = []

    def line(self, body: str, number: int) -> Iterator[Event]:
        """Yield the settings of one line; the first of a name is the actor's."""
        if "'critic'" in body[:12]:
            self._in_model = False
        self._in_model = self._in_model or ("model" not in self._known and bool(_MODEL.search(body)))
        path = _PATH.search(body) if self._in_model else None
        if path is not None:
            self._in_model = False
            yield from self._first("model", path["path"], number)
        for match in _ENTRY.finditer(body):
            key, value = match["key"], match["value"].strip().strip("'")
            count = to_number(value)
            if key == "train_batch_size" and count:
                yield from self._first("global_batch_size", count, number)
            elif key in ("n_gpus_per_node", "nnodes") and count:
                self._devices.append(count)
                if len(self._devices) == 2:
                    yield from self._first("gpus", self._devices[0] * self._devices[1], number)
            elif key in _KEYS and (name := setting_name(key)) is not None and name not in self._known:
                for event in setting_events(self._emitter, key, value, number, certain=True):
                    self._known.add(name)
                    yield event

    def _first(self, name: ObservationName, value: float | str, number: int) -> Iterator[Event]:
        if name not in self._known:
            self._known.add(name)
            yield from self._emitter.once(name, value, number)


FORMS: tuple[type[FormReader], ...] = (VerlLines,)
"""Readers of its lines."""
