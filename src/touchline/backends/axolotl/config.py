"""axolotl's settings as evidence: its YAML file, and the same mapping as it prints it into the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from touchline.backends.axolotl.stated import ADAPTER_KEYS, ATTENTION, BITS, DTYPES, state_training
from touchline.backends.axolotl.stated import KEYS as STATED_KEYS
from touchline.backends.evidence import observations, reader_of
from touchline.backends.logtext.numbers import to_count
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, Observation
from touchline.experiment.partial import Stated

_COMPANIONS = frozenset({"micro_batch_size", "sequence_len", "sample_packing", "num_epochs", "val_set_size"})
"""Beside `base_model` they make a mapping axolotl's: tools that merge models have that key as well."""
KEYS: frozenset[str] = frozenset(
    {
        *(key for _, keys, _ in {**STATED_KEYS, **ADAPTER_KEYS}.values() for key in keys.split()),
        *("adapter", "peft_use_dora", "lora_target_linear", "world_size", *BITS, *DTYPES, *ATTENTION),
    }
)
"""The settings that are read."""


def read_config(name: str, document: Row) -> tuple[Event, ...] | None:
    """Read the training from axolotl's YAML file. Return None for any other mapping."""
    del name
    if not isinstance(document.get("base_model"), str) or _COMPANIONS.isdisjoint(document):
        return None
    return (Observation(name="trainer", value="axolotl", line=0), *settings(document, {}))


def settings(values: Row, lines: Mapping[str, int]) -> Iterator[Observation]:
    """Yield the observations of a mapping of settings.

    Args:
        values: the settings by axolotl's names.
        lines: line of each; 0 for those that are not there.
    """
    reader = reader_of(values)
    stated = state_training(reader)
    method, optimizer = stated.method, stated.optimizer
    if method is not None and method.is_default and stated.model is not None:
        method = replace(method, key="base_model", is_default=False)
    elif method is not None and reader.on("peft_use_dora"):
        stated, method = replace(stated, method=None), None
        yield Observation(name="method", value="dora", line=lines.get("adapter", 0))
    if optimizer is not None and not optimizer.is_default:
        optimizer = Stated(optimizer.value.removeprefix("OptimizerNames."), optimizer.key, optimizer.where)
    yield from observations(replace(stated, method=method, optimizer=optimizer), lines, exact=False)
    devices = to_count(values.get("world_size"))
    if devices:
        yield Observation(name="gpus", value=devices, line=lines.get("world_size", 0))
