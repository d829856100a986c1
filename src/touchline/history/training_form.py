"""Settings of our own runs, in the words of records."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from touchline.core.quantity import Measured, Missing
from touchline.experiment.training import TrainConfig
from touchline.history.reading import OptionalText, SourcedText


def method_fact(train: TrainConfig, where: str | None = None) -> SourcedText:
    """Return the method; another kind of adapter than LoRA is named in its place, as PEFT names it."""
    if train.method == "full":
        return SourcedText(value="full", where=where)
    plain = "qlora" if train.quantization == "nf4" else "lora"
    return SourcedText(value="dora" if train.lora.dora else plain, where=where)


class StatedFacts(TypedDict):
    """Facts that follow from the settings; those of an adapter are missing if all weights are trained."""

    method: SourcedText
    rank: Measured
    alpha: Measured
    target_modules: OptionalText
    adapter_dtype: OptionalText
    dropout: Measured
    quantization: OptionalText
    compiled: SourcedText
    learning_rate: Measured


def facts_of_settings(
    train: TrainConfig, number: Callable[[float, str], Measured], where: str | None = None
) -> StatedFacts:
    """Return the facts that follow from the settings.

    Args:
        number: makes a fact of a number and its unit.
        where: place of the words.
    """
    lora, none = train.lora, Missing(missing="all weights are trained")
    modules = SourcedText(value=",".join(sorted(lora.target_modules)), where=where)
    return StatedFacts(
        method=method_fact(train, where),
        rank=none if train.trains_all else number(lora.rank, "1"),
        alpha=none if train.trains_all else number(lora.resolved_alpha, "1"),
        target_modules=none if train.trains_all else modules,
        adapter_dtype=SourcedText(value=train.trained_dtype, where=where),
        dropout=none if train.trains_all else number(lora.dropout, "1"),
        quantization=quantization_fact(train, where),
        compiled=SourcedText(value=str(train.compile).lower(), where=where),
        learning_rate=number(train.peak_learning_rate, "1"),
    )


def quantization_fact(train: TrainConfig, where: str | None = None) -> OptionalText:
    """Return the quantization of the base."""
    if train.quantization == "none":
        return Missing(missing="the base is not quantized")
    return SourcedText(value=train.quantization, where=where)
