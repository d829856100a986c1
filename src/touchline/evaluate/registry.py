"""Entry point for Inspect that registers the model provider `touchline`; torch is not imported."""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="touchline")
def touchline() -> type[ModelAPI]:
    """Return the provider class; its imports wait until a model is requested."""
    from touchline.evaluate.provider import TouchlineAPI

    return TouchlineAPI
