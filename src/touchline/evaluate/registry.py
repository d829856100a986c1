"""Inspect's entry point: registers the model provider `touchline`. Inspect imports it by itself, so no torch here."""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="touchline")
def touchline() -> type[ModelAPI]:
    """The provider's class; what it needs is imported when a model is asked for."""
    from touchline.evaluate.provider import TouchlineAPI

    return TouchlineAPI
