"""Base model in a log line: files that transformers loads, and messages about loading a model.

A name in a hand-written line is a guess, and only what looks like a model's name or path is taken. What is loaded
after a training is over belongs to an evaluation, until the next training begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.core.model_size import states_size
from touchline.core.observation import Observation

_CONFIG = re.compile(r"Model config \w+ \{\s*$")
_CONFIG_LINES = 8
"""The name is among the first of the keys, which are sorted."""
_NAME_OR_PATH = re.compile(r"\s*\"_name_or_path\": \"(?P<model>[^\"]+)\",?\s*")
_LOADING = re.compile(
    r"loading (?P<what>weights|configuration) file (?P<file>\S+)(?: from cache at (?P<cache>\S+))?\s*$"
)
_HUB = re.compile(r"(?:^|/)models--(?P<model>[\w.-]+?)/snapshots/")
_URL = re.compile(r"https://huggingface\.co/(?P<model>[\w./-]+)/resolve/")
_INITIALIZED = re.compile(
    r"Some weights of (?:the model checkpoint at (?P<used>\S+) were not used when initializing"
    r"|\w+ were not initialized from the model checkpoint at (?P<made>\S+) and are newly initialized)"
)
_NO_PADDING = re.compile(
    r"^\s*(?:Unsloth: )?(?P<model>[\w.-]+/[\w.-]+) does not have a padding token! Will use pad_token"
)
_SKIPPED_FILES = ("adapter_config.json", "preprocessor_config.json", "processor_config.json")
_QUOTE = r"['\"`“]?"
_NAME = rf"{_QUOTE}(?P<model>[\w~./][\w./~@+-]{{2,200}}){_QUOTE}"
_END = (
    r"(?:\s*(?:\.\.\.|…|[.!,;])?\s*$|\s*\([^()]{0,80}\)\s*(?:\.\.\.|…)?\s*$|\s*(?:\.\.\.|…)"
    r"|,? (?:with|in|on|for|using|to|onto)\b.{0,120}$)"
)
_LOAD = r"(?:loading|load|using|downloading|fetching)"
_ADJECTIVES = r"(?: (?:the|pre-?trained|base|student|policy|hf|huggingface|4-bit|8-bit|quantized|language))*"
_SAID = tuple(
    re.compile(pattern + _NAME + _END, re.IGNORECASE)
    for pattern in (
        rf"{_LOAD}{_ADJECTIVES} (?:model|llm)(?:(?: and| &| \+|/) ?tokenizer)?(?: from(?: pretrained)?)?\s*[:=]?\s*",
        rf"{_LOAD} tokenizer(?: from| for)?\s*[:=]?\s*",
        r"(?:(?:base|student|pre-?trained|hf|policy|backbone)[ _-])?model"
        r"(?:[ _-]?(?:name|id|path|checkpoint))?(?:_or_path)?\s*[:=]\s*",
        r"(?:fine-?tuning|training|starting training of)(?: (?:of|model|base model))?\s*:?\s+",
    )
)
_PREFIX = re.compile(
    r"\s+|[^\w\s'\"`(./~]+|\[[^\]]{1,80}\]|\([^()]{0,40}(?:pid|rank)[^()]{0,40}\)|\d{1,4}[-/:.][\d\-/:.,TZ+]*"
    r"|(?:INFO|WARNING|WARN|DEBUG|ERROR|NOTE)\b|(?:__\w+__|[A-Za-z_]\w*(?:\.\w+)+)(?=\s*(?:[:|-]|$))|\d{1,2}(?=[.)]\s)"
)
_MOST_PREFIXES = 16
_LINE_LIMIT = 300
_FAMILY = re.compile(
    r"llama|qwen|mi[sx]tral|ministral|codestral|gemma|phi|gpt|bert|(?<![a-z])t5|bloom|falcon|(?<![a-z])opt(?![a-z])|pythia"
    r"|smol|deepseek|(?<![a-z])yi(?![a-z])|baichuan|glm|internlm|vicuna|zephyr|starcoder|granite|olmo|(?<![a-z])mpt"
    r"|stablelm|electra|(?<![a-z])xlm|minicpm|nemotron|command-r|(?<![a-z])aya|hunyuan|ernie|whisper|wav2vec|llava"
    r"|(?<![a-z])vit(?![a-z])|bart(?![a-z])|solar|openchat|hermes|kimi|exaone|jamba|mamba|rwkv|lfm",
    re.IGNORECASE,
)
_SIZE_WORD = re.compile(r"(?<![a-z])(?:tiny|mini|small|base|large|xl)(?![a-z])", re.IGNORECASE)
_FILES = re.compile(
    r"\.(?:jsonl?|ya?ml|csv|tsv|txt|py|sh|log|parquet|md|toml|out|err|arrow|zip|gz|pdf|bin|pt|safetensors|pth)$",
    re.IGNORECASE,
)
_OWN_WORK = re.compile(
    r"(?:^|/)(?:outputs?|results?|runs?|logs?|data|datasets?|checkpoints?|ckpts?|saves?|exps?|experiments?)(?:/|$)"
    r"|checkpoint|adapter|lora|fine-?tun|merged|(?<!pre)(?<!pre-)trained",
    re.IGNORECASE,
)


class Naming:
    """Follows which model is loaded; the first one counts."""

    def __init__(self) -> None:
        """Start with a new file."""
        self._config_line = 0
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
        found = self._certain_name(text, number)
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
            self._certain, self._guessed = certain, True
            yield seen

    def _certain_name(self, text: str, number: int) -> str | None:
        if "Model config" in text and _CONFIG.search(text) is not None:
            self._config_line = number
            return None
        if "_name_or_path" in text and number - self._config_line <= _CONFIG_LINES and self._config_line:
            found = _NAME_OR_PATH.fullmatch(text)
            return found["model"] if found is not None and not _CHECKPOINT.search(found["model"]) else None
        if "loading " in text and (found := _LOADING.search(text)) is not None:
            return _of_file(found)
        if "Some weights of" in text and (found := _INITIALIZED.search(text)) is not None:
            model = (found["used"] or found["made"]).rstrip(":,")
            return None if _CHECKPOINT.search(model) else model
        return None


_CHECKPOINT = re.compile(r"checkpoint-\d+")


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
    padding = _NO_PADDING.match(text)
    if padding is not None:
        return padding["model"]
    rest = text
    for _ in range(_MOST_PREFIXES):
        for pattern in _SAID:
            found = pattern.match(rest)
            if found is not None:
                model = found["model"].rstrip(".,/")
                return model if is_model(model) else None
        prefix = _PREFIX.match(rest)
        if prefix is None:
            return None
        rest = rest[prefix.end() :]
    return None


def is_model(name: str) -> bool:
    """Return True if a word looks like a base model: a hub name, a folder with such a name, or a name with a size."""
    parts = name.split("/")
    last = parts[-1]
    if len(last) < 3 or _FILES.search(name) or _OWN_WORK.search(name) or "//" in name:
        return False
    family, size = bool(_FAMILY.search(name)), states_size(last) or bool(_SIZE_WORD.search(last))
    if len(parts) == 2 and parts[0] and parts[0][0] not in ".~":
        return family or size
    return family and (size or bool(re.search(r"\d", last)))
