"""Sentences of PEFT, transformers and TRL, and of scripts that use them: parameters, versions, settings.

Source: peft.PeftModel.print_trainable_parameters, peft.LoraConfig's text, transformers.TrainingArguments' text,
transformers.utils.import_utils.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from touchline.backends.logtext.numbers import NUMBER, to_number
from touchline.backends.trl.arguments import ANCHORS, KEYS, flags, observations
from touchline.core.observation import Event, Observation

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
        yield from observations(found, number, certain=False)

    def _argument(self, text: str, number: int) -> Iterator[Event]:
        if _PRINTED.search(text) is not None:
            own = not any(word in text for word in _OTHERS_OWN)
            self._printed, self._has_steps = (number if own else 0), False
            return
        if self._printed and number - self._printed <= _PRINTED_LINES:
            found = _ARGUMENT.fullmatch(text)
            if found is not None and found["key"] in KEYS:
                yield from self._printed_argument(found["key"], found["value"].strip("'\""), number)
                return
        echoed = _ECHO.fullmatch(text.strip())
        if echoed is not None:
            yield from observations({echoed["key"]: echoed["value"]}, number, certain=False)

    def _printed_argument(self, key: str, value: str, number: int) -> Iterator[Event]:
        if key == "max_steps":
            self._has_steps = (to_number(value) or 0) > 0
        if key == "num_train_epochs" and self._has_steps:
            return
        if value != "None":
            yield from observations({key: value}, number)


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
