"""Sentences of PEFT, transformers and TRL, and of scripts that use them: parameters, versions, settings, models.

A model's name in a hand-written line is a guess, and only what looks like a model's name or path is taken. What is
loaded after a training is over belongs to an evaluation, until the next training begins.

Source: peft.PeftModel.print_trainable_parameters, peft.LoraConfig's text, transformers.TrainingArguments' text,
transformers.utils.import_utils.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.parts import NUMBER, strip_decoration, to_number
from touchline.backends.trl.format import READ_KEYS, evidence
from touchline.backends.trl.states import ANCHORS, flags
from touchline.core.observation import Event, Observation
from touchline.core.shape import states_size

_COUNT = r"(?:\d{1,3}(?:[,_]\d{3})+|\d+)(?:\.\d+)?"
_PEFT = re.compile(
    rf"trainable params: (?P<part>{_COUNT}) \|\| all params: (?P<whole>{_COUNT}) \|\| trainable(?:%|\(%\))?: ?[\d.]+",
    re.IGNORECASE,
)
_ALONE = re.compile(
    rf"(?<![\w.,])(?<!non[- ])(?:(?:total|number of|num|model|lora)\s+)*trainable (?:model )?param(?:eter)?s?\s*[:=]\s*"
    rf"(?P<part>{_COUNT}[KMB]?)\s*(?:\(\s*~?[\d.]+ ?%[^()]*\))?\s*\.?\s*$",
    re.IGNORECASE,
)
_VERSION = re.compile(
    r"(?:^\s*|[-:>|\]•*]\s*)(?P<library>PyTorch|Torch|Transformers|PEFT|TRL|Accelerate|bitsandbytes)"
    r"(?: version\s*[:=]?|\s*[:=]| )\s*v?(?P<version>\d+\.\d+(?:\.\d+)?(?:[\w.+-]*\w)?)(?P<rest>.{0,40})$",
    re.IGNORECASE,
)
_AFTER_VERSION = re.compile(r"[\s.,;)]*(?:available\.?|is available\.?|\(?cuda.*|\|.*)?\s*$", re.IGNORECASE)
_CONFIG_VERSION = re.compile(r"\s+\"transformers_version\": \"(?P<version>\d[\w.]*)\",?\s*")
_TRL = re.compile(
    r"[/\\]trl[/\\](?:trainer|scripts|commands|experimental)[/\\]"
    r"|\b(?:SFT|DPO|KTO|ORPO|CPO|GRPO|PPO(?:v2)?|RLOO|Reward|GKD|XPO|BCO|PRM|OnlineDPO|IterativeSFT)(?:Trainer|Config)\b"
)
_TRL_LINE_LIMIT = 400
_LORA = re.compile(r"\bLoraConfig\((?P<inside>.*)")
_LORA_PARTS = re.compile(
    r"\b(?:r=(?P<rank>\d+)|lora_alpha=(?P<alpha>[\d.]+)|lora_dropout=(?P<dropout>[\d.]+)|use_dora=(?P<dora>True)"
    r"|target_modules=[{\[](?P<targets>['\"\w.,\s]+)[}\]])"
)
_PRINTED = re.compile(r"\b(?:\w*TrainingArguments|(?:SFT|DPO|KTO|ORPO|CPO|GRPO|PPO|RLOO|Reward|GKD)Config)\(\s*$")
_ARGUMENT = re.compile(r"(?:.*?[\]:>] )?(?P<key>\w+)=(?P<value>.*),\s*")
_ECHO = re.compile(
    rf"['\"]?\b(?P<key>per_device_train_batch_size|gradient_accumulation_steps|num_train_epochs)['\"]?\s*[:=]\s*"
    rf"(?P<value>{NUMBER})\s*,?\s*"
)
_PRINTED_LINES = 400
_COMMAND_LINES = 40
_OTHERS_OWN = ("run sh:", "[INFO:swift]", "- swift -", "llamafactory", "llmtuner", "axolotl.")


class Words:
    """Reads sentences; follows a printed configuration and a command that takes several lines."""

    def __init__(self) -> None:
        """Start with a new file."""
        self._printed = 0
        self._has_steps = False
        self._command = 0
        self.is_trl = False

    def read(self, text: str, number: int) -> Iterator[Event]:
        """Yield the events of one line."""
        if "--" in text:
            yield from self._flags(text, number)
        if "=" in text or ":" in text or "(" in text:
            yield from self._argument(text, number)
        if "LoraConfig(" in text and not any(word in text for word in _OTHERS_OWN):
            yield from _lora(text, number)
        if "version" in text or "orch" in text or "ransformers" in text or "PEFT" in text or "TRL" in text:
            yield from _version(text, number)
        if not self.is_trl and len(text) <= _TRL_LINE_LIMIT and _TRL.search(text) is not None:
            self.is_trl = True
            yield Observation(name="trainer", value="trl", line=number)

    def _flags(self, text: str, number: int) -> Iterator[Event]:
        """Read a command line, as the shell or a launcher shows it. Later lines hold one argument each."""
        if any(word in text for word in _OTHERS_OWN):
            return
        found = flags(text)
        if not found:
            return
        if ANCHORS & found.keys():
            self._command = number
        elif not self._command or number - self._command > _COMMAND_LINES or not text.lstrip(" +").startswith("--"):
            return
        if len(found) == 1 and "model_name_or_path" in found:
            # Evaluations and exports are started with a model as well.
            return
        yield from evidence(found, number, certain=False)

    def _argument(self, text: str, number: int) -> Iterator[Event]:
        if _PRINTED.search(text) is not None:
            own = not any(word in text for word in _OTHERS_OWN)
            self._printed, self._has_steps = (number if own else 0), False
            return
        if self._printed and number - self._printed <= _PRINTED_LINES:
            found = _ARGUMENT.fullmatch(text)
            if found is not None and found["key"] in READ_KEYS:
                yield from self._printed_argument(found["key"], found["value"].strip("'\""), number)
                return
        echoed = _ECHO.fullmatch(text.strip())
        if echoed is not None:
            yield from evidence({echoed["key"]: echoed["value"]}, number, certain=False)

    def _printed_argument(self, key: str, value: str, number: int) -> Iterator[Event]:
        if key == "max_steps":
            self._has_steps = (to_number(value) or 0) > 0
        if key == "num_train_epochs" and self._has_steps:
            return
        if value != "None":
            yield from evidence({key: value}, number)


def parameters(text: str, number: int) -> Iterator[Observation]:
    """Yield the numbers of parameters with a gradient and of all."""
    if "-____-" in text:
        return
    found = _PEFT.search(text)
    alone = None if found is not None else _ALONE.search(text)
    part = _parameters((found or alone or {"part": ""})["part"])
    if part is None:
        return
    yield Observation(name="trainable_parameters", value=part, line=number)
    whole = _parameters(found["whole"]) if found is not None else None
    if whole is not None and whole >= part:
        yield Observation(name="total_parameters", value=whole, line=number)


def _parameters(written: str) -> float | None:
    """Read a count. A scaled count must have three digits, or its error exceeds one percent."""
    if written[-1:].isalpha() and len(re.sub(r"\D", "", written).lstrip("0")) < 3:
        return None
    number = to_number(written)
    return float(round(number)) if number is not None and number >= 1 else None


def _version(text: str, number: int) -> Iterator[Observation]:
    found = _CONFIG_VERSION.fullmatch(text)
    if found is not None:
        yield Observation(name="version", value=f"transformers={found['version']}", line=number)
        return
    match = _VERSION.search(text) if len(text) <= _TRL_LINE_LIMIT and "O^O" not in text else None
    if match is not None and _AFTER_VERSION.fullmatch(match["rest"]) is not None:
        library = match["library"].lower().replace("pytorch", "torch")
        yield Observation(name="version", value=f"{library}={match['version']}", line=number)


def _lora(text: str, number: int) -> Iterator[Observation]:
    found = _LORA.search(text)
    if found is None:
        return
    method = ""
    for part in _LORA_PARTS.finditer(found["inside"]):
        if part["rank"]:
            method = method or "lora"
            yield Observation(name="lora_rank", value=float(part["rank"]), line=number)
        elif part["alpha"]:
            yield Observation(name="lora_alpha", value=float(part["alpha"]), line=number)
        elif part["dropout"]:
            yield Observation(name="dropout", value=float(part["dropout"]), line=number)
        elif part["dora"]:
            method = "dora"
        else:
            modules = sorted(re.findall(r"[\w.]+", part["targets"]))
            if modules:
                yield Observation(name="target_modules", value=",".join(modules), line=number)
    if method:
        # Whether the base is quantised, it does not tell.
        yield Observation(name="method", value=method, line=number, certain=False)


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
