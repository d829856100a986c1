"""Base model in a log line: files that transformers loads, and messages about loading a model.

A name in a hand-written line is a guess, and only what looks like a model's name or path is taken. What is loaded
after a training is over belongs to an evaluation, until the next training begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.prefixes import strip_decoration
from touchline.core.model_size import states_size
from touchline.core.observation import Observation

_LOADING = re.compile(
    r"loading (?P<what>weights|configuration) file (?P<file>\S+)(?: from cache at (?P<cache>\S+))?\s*$"
)
_HUB = re.compile(r"(?:^|/)models--(?P<model>[\w.-]+?)/snapshots/")
_URL = re.compile(r"https://huggingface\.co/(?P<model>[\w./-]+)/resolve/")
_INITIALIZED = re.compile(
    r"Some weights of (?:the model checkpoint at (?P<used>\S+) were not used when initializing"
    r"|\w+ were not initialized from the model checkpoint at (?P<made>\S+) and are newly initialized)"
)
_SKIPPED_FILES = ("adapter_config.json", "preprocessor_config.json", "processor_config.json")
_SAID = re.compile(
    r"(?:(?:loading|load|using|downloading)(?: (?:the|base|student|pre-?trained|quantized))* (?:model|tokenizer)"
    r"(?:(?: and| &| \+|/) ?tokenizer)?(?: from(?: pretrained)?| for)?\s*[:=]?\s*"
    r"|(?:(?:base|student|pre-?trained)[ _-])?model(?:[ _-]?(?:name|id|path))?(?:_or_path)?\s*[:=]\s*"
    r"|(?:fine-?tuning|training)\s+(?=[\w.-]+/))"
    r"['\"`]?(?P<model>[\w~./][\w./~@+-]{2,200})['\"`]?\s*(?:\.\.\.|…|[.!,;])?\s*(?:\([^()]{0,80}\)[\s.…]*)?$",
    re.IGNORECASE,
)
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_LINE_LIMIT = 300
_FILES = re.compile(
    r"\.(?:jsonl?|ya?ml|csv|tsv|txt|py|sh|log|parquet|md|out|err|zip|gz|bin|pt|pth|safetensors)$", re.IGNORECASE
)
_OWN_WORK = re.compile(
    r"(?:^|/)(?:outputs?|results?|runs?|logs?|data|datasets?|checkpoints?|saves?|exps?|experiments?)(?:/|$)"
    r"|checkpoint|adapter|lora|fine-?tun|merged|(?<!pre)(?<!pre-)trained",
    re.IGNORECASE,
)


class Naming:
    """Follows which model is loaded; the first one counts."""

    def __init__(self) -> None:
        """Start with a new file."""
        self._certain = False
        self._guessed = False
        self._over = False
        self._waiting: list[Observation] = []

    def over(self) -> None:
        """End the training. Later models belong to another training, if there is one."""
        self._over, self._certain, self._guessed, self._waiting = True, False, False, []

    def begins(self) -> Iterator[Observation]:
        """Yield the model loaded for the training that begins or is active."""
        if self._over:
            self._over = False
            waiting, self._waiting = self._waiting, []
            for seen in waiting:
                self._certain, self._guessed = seen.certain, True
                yield seen

    def read(self, text: str, number: int) -> Iterator[Observation]:
        """Yield the model that a line names."""
        found = _certain_name(text)
        if found is not None:
            certain, model = True, found
        elif len(text) > _LINE_LIMIT or "%|" in text:
            return
        else:
            guess = handwritten_model(text)
            if guess is None:
                return
            certain, model = False, guess
        seen = Observation(name="model", value=model, line=number, certain=certain)
        if self._over:
            # Judges and the like are loaded before the next training's own model.
            self._waiting = [seen]
        elif not (self._certain or (self._guessed and not certain)):
            # A tokenizer's name is that of the model as a rule, until a line names the model itself.
            self._certain, self._guessed = certain, "tokenizer: " not in text
            yield seen


def _certain_name(text: str) -> str | None:
    if "loading " in text and (found := _LOADING.search(text)) is not None:
        return _of_file(found)
    if "Some weights of" in text and (found := _INITIALIZED.search(text)) is not None:
        model = (found["used"] or found["made"]).rstrip(":,")
        return None if _CHECKPOINT.search(model) else model
    return None


def _of_file(found: re.Match[str]) -> str | None:
    """Return the model of a file that transformers loads: its name on the hub, or its folder."""
    file, cache = found["file"], found["cache"] or ""
    if file.endswith(_SKIPPED_FILES):
        return None
    for place in (cache, file):
        hub = _HUB.search(place)
        if hub is not None:
            return hub["model"].replace("--", "/", 1)
        url = _URL.match(place)
        if url is not None:
            return url["model"]
    folder, _, _ = file.rpartition("/")
    if found["what"] == "weights" and folder and not cache and not _CHECKPOINT.search(folder):
        return folder
    return None


def handwritten_model(text: str) -> str | None:
    """Return the model of a hand-written line, or None."""
    found = _SAID.match(strip_decoration(text)[1].strip())
    model = found["model"].rstrip(".,/") if found is not None else ""
    return model if is_model(model) else None


def is_model(name: str) -> bool:
    """Return True if a word looks like a base model: a hub name with a number, or a name with a size."""
    owner, _, last = name.rpartition("/")
    if _FILES.search(name) or _OWN_WORK.search(name) or "//" in name:
        return False
    on_the_hub = bool(owner) and "/" not in owner and owner[0] not in ".~"
    return states_size(last) or (on_the_hub and any(character.isdigit() for character in last))
