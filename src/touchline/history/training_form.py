"""Method and quantization of our own trainings, in the words of records."""

from __future__ import annotations

from touchline.core.quantity import Missing
from touchline.history.reading import OptionalText, SourcedText
from touchline.spec.experiment import TrainConfig


def method_fact(train: TrainConfig, where: str | None = None) -> SourcedText:
    """Return the method; another kind of adapter than LoRA is named in its place, as PEFT names it."""
    if train.method == "full":
        return SourcedText(value="full", where=where)
    plain = "qlora" if train.quantization == "nf4" else "lora"
    return SourcedText(value="dora" if train.lora.dora else plain, where=where)


def quantization_fact(train: TrainConfig, where: str | None = None) -> OptionalText:
    """Return the quantization of the base."""
    if train.quantization == "none":
        return Missing(missing="the base is not quantised")
    return SourcedText(value=train.quantization, where=where)
