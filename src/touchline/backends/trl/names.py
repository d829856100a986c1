"""Which model a run trains and with which versions, as far as a line says so beyond doubt; guesses are marked."""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.domain.observation import Event, Observation

_NAME = r"[A-Za-z0-9][\w.-]{1,80}"
_CACHED = re.compile(
    rf"loading (?:configuration file config\.json|weights file \S+) from cache at .*models--({_NAME}?)--({_NAME})/snapshots"
)
_DUMPED = re.compile(r'"_name_or_path":\s*"([^"]{2,200})"')
_VERSION = re.compile(r'"transformers_version":\s*"([\w.+-]+)"')
_HAND = re.compile(
    r"^\W{0,6}(?:\[\w+\]\s*)?(?:loading (?:the )?(?:base |pretrained |student )?model(?: and tokenizer)?(?: from)?"
    r"|base[ _]model(?: name| path)?|model(?:[ _]name(?:_or_path)?| id| path)?|training|fine-?tuning model|student"
    r"|加载模型|模型|基座模型|モデル|모델|modelo|modèle|modell|модель)\s*[:=]?\s*[`'\"]?"
    r"(/?[\w.~-]*(?:/[\w.~-]+)+|[\w.-]*\d(?:\.\d)?[bBmM]\b[\w.-]*)[`'\"]?\s*(?:\.\.\.|…|\(.*\))?\s*$",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"\.(?:jsonl?|csv|txt|py|parquet|pt|ya?ml|png|log|sh|zip|gz)$|^/?(?:home|tmp|root|data)/?$", re.IGNORECASE
)


def model_events(text: str, number: int) -> Iterator[Event]:
    """The model and the library's version, where a line tells them."""
    if match := _VERSION.search(text):
        yield Observation(name="version", value=f"transformers={match.group(1)}", line=number)
    if match := _CACHED.search(text):
        yield Observation(name="model", value=f"{match.group(1)}/{match.group(2)}", line=number)
    elif match := _DUMPED.search(text):
        yield Observation(name="model", value=match.group(1), line=number)
    elif (match := _HAND.match(text)) and not _NO_MODEL.search(match.group(1)):
        yield Observation(name="model", value=match.group(1), line=number, certain=False)
