"""Parts of a torchtune config that must be of one model: builder, tokenizer, checkpoint, and the files of each.

Nothing in torchtune compares them: a tokenizer of another family trains on other tokens, a checkpoint of another type
ends with a key error once it is loaded. Source: torchtune.models, torchtune.training.checkpointing 0.6.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from touchline.backends.torchtune.components import component
from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.torchtune.keys import is_reinforcement, is_training
from touchline.backends.torchtune.reading import Config
from touchline.core.finding import Finding, Severity
from touchline.core.near import misspelled

_MODELS: Final = "torchtune.models."
_VOCABULARY: Final = {
    **dict.fromkeys(("llama2", "code_llama2"), "llama2"),
    **dict.fromkeys(("llama3", "llama3_1", "llama3_2", "llama3_3", "llama3_2_vision"), "llama3"),
    **dict.fromkeys(("gemma", "gemma2"), "gemma"),
    **dict.fromkeys(("qwen2", "qwen2_5", "qwen3"), "qwen2"),
    **{name: name for name in ("mistral", "phi3", "phi4")},
}
"""By folder of models: whose vocabulary they have."""
_TYPES: Final = {
    **dict.fromkeys(("llama2", "code_llama2", "llama3", "llama3_1", "llama3_2", "llama3_3", "mistral"), "llama"),
    "llama3_2_vision": "llama3_vision",
    **dict.fromkeys(("qwen2", "qwen2_5"), "qwen2"),
    "qwen3": "qwen3",
    "phi3": "phi3",
    "phi4": "phi3",
    **dict.fromkeys(("gemma", "gemma2"), "gemma"),
}
"""By folder of models: the way in which their checkpoints are converted."""
_CONVERSIONS: Final = {
    **dict.fromkeys(("LLAMA2", "LLAMA3", "LLAMA3_2", "MISTRAL", "REWARD"), "llama"),
    "LLAMA3_VISION": "llama3_vision",
    "QWEN2": "qwen2",
    "QWEN3": "qwen3",
    **dict.fromkeys(("PHI3_MINI", "PHI4"), "phi3"),
    **dict.fromkeys(("GEMMA", "GEMMA2"), "gemma"),
}
_OTHER_TYPES: Final = frozenset({"CLIP_TEXT", "T5_ENCODER", "LLAMA4", "QWEN3_MOE", "FLUX"})
_SHARD = re.compile(r"(.*?)-(\d{5})-of-(\d{5})(\.\w+)")
_NEEDED: Final = {
    **dict.fromkeys(
        ("llama2", "llama3", "gemma", "mistral", "phi3_mini", "qwen2"),
        ("path",),
    ),
    "qwen2_5": ("path", "merges_file"),
}
"""By name of a tokenizer: arguments without a default."""
_OPTIMIZERS: Final = (
    *("AdamW", "Adam", "SGD", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "ASGD", "LBFGS"),
    *("SparseAdam", "Adafactor", "Muon"),
)
_BITS_AND_BYTES: Final = tuple(
    f"{paged}{name}{bits}"
    for name in ("AdamW", "Adam", "Lion", "AdEMAMix", "LAMB", "LARS", "SGD", "RMSprop", "Adagrad")
    for paged in ("", "Paged")
    for bits in ("", "8bit", "32bit")
)
_RATES: Final = frozenset({"learning_rate", "learningrate", "lr_rate", "base_lr", "step_size"})
_SPLIT = re.compile(r"(\w+)(?:\[(\d*)(%?):(\d*)(%?)\])?")
_WHOLE: Final = 100
_ROWS_BY: Final = (
    *(COMPONENT, "source", "data_files", "name", "data_dir"),
    *("field", "revision", "filter_fn", "filter_kwargs"),
)
"""Settings that choose a dataset's rows besides the split. `field` is the key of a JSON object that contains them."""
_VERSIONS: Final = re.compile(r"(?i)(code-?llama|llama-?[234]|qwen-?[123]|gemma|mistral|phi-?[34])")
_PLAIN: Final = {
    "codellama": "llama2",
    "llama2": "llama2",
    "llama3": "llama3",
    "llama4": "llama4",
    "qwen2": "qwen2",
    "qwen3": "qwen2",
    "qwen1": "qwen1",
    "gemma": "gemma",
    "mistral": "mistral",
    "phi3": "phi3",
    "phi4": "phi4",
}
"""Vocabulary family by the prefix of a model folder's name."""


def part_findings(config: Config) -> Iterator[Finding]:
    """Yield the findings of parts that do not fit together."""
    if not is_training(config.data):
        return
    folder = _folder(config, "model")
    yield from _optimizer(config)
    yield from _tokenizer(config, folder)
    yield from _model_type(config, folder)
    yield from _shards(config)
    if not is_reinforcement(config.data):
        yield from _overlap(config)


def _folder(config: Config, name: str) -> str | None:
    """Return `llama3_2` for `torchtune.models.llama3_2.lora_llama3_2_1b`."""
    named = config.component(name) or ""
    return named.removeprefix(_MODELS).partition(".")[0] if named.startswith(_MODELS) else None


def _optimizer(config: Config) -> Iterator[Finding]:
    named = config.component("optimizer") or ""
    module, _, name = named.rpartition(".")
    known = {"torch.optim": _OPTIMIZERS, "bitsandbytes.optim": _BITS_AND_BYTES}.get(module)
    if known is None:
        return
    near = misspelled(name, known) if name not in known else None
    if near is None and name not in known:
        near = next((each for each in known if each.casefold() == name.casefold()), None)
    if near is not None:
        place = ("optimizer", COMPONENT)
        yield config.finding("BK018", place, f"{module} has no {name}", f"did you mean {module}.{near}?")
    section = config.get("optimizer")
    for key in section.keys() & _RATES if isinstance(section, dict) and "lr" not in section else ():
        message = f"optimizer.{key}: {named} has no argument {key!r}"
        yield config.finding("BK011", ("optimizer", str(key)), message, "did you mean 'lr'?")


def _tokenizer(config: Config, folder: str | None) -> Iterator[Finding]:
    named = config.component("tokenizer") or ""
    own = _folder(config, "tokenizer")
    known = component(named)
    kind = config.last("tokenizer").removesuffix("_tokenizer")
    if own is None or known is None or (known.takes_others and kind not in _NEEDED):
        return
    section = config.get("tokenizer")
    for key in _NEEDED.get(kind, ()):
        if isinstance(section, dict) and key not in section and not any(misspelled(other, [key]) for other in section):
            message = f"tokenizer.{key} is missing; {named} has no default for it"
            yield config.finding("BK013", ("tokenizer", key), message, f"write `{key}: ...` under tokenizer")
    model, tokens = _VOCABULARY.get(folder or ""), _VOCABULARY.get(own)
    if model is not None and tokens is not None and model != tokens:
        message = f"{named} splits text as {tokens} does, and the model is {config.component('model')}"
        yield config.finding("BK016", ("tokenizer", COMPONENT), message, f"the tokenizer of {_MODELS}{folder}")
        return
    for keys in (("tokenizer", "path"), ("checkpointer", "checkpoint_dir")):
        place = config.get(*keys)
        others = {_PLAIN[_bare(word)] for word in _VERSIONS.findall(place)} if isinstance(place, str) else set()
        if model is not None and others and model not in others:
            message = f"{'.'.join(keys)}: {place} is of {', '.join(sorted(others))}, and the model is {folder}"
            yield config.finding("BK016", keys, message, severity=Severity.WARNING)


def _bare(word: str) -> str:
    return word.lower().replace("-", "")


def _model_type(config: Config, folder: str | None) -> Iterator[Finding]:
    stated = config.get("checkpointer", "model_type")
    if not isinstance(stated, str) or not (config.component("checkpointer") or "").startswith("torchtune."):
        return
    place, word = ("checkpointer", "model_type"), stated.upper().rpartition(".")[2]
    if word not in _CONVERSIONS:
        near = misspelled(word, _CONVERSIONS)
        sure = near is not None or word not in _OTHER_TYPES
        if sure:
            known = ", ".join(_CONVERSIONS)
            message = f"checkpointer.model_type: {stated} is none of torchtune's; they are {known}"
            # Forks bring types of their own.
            own = Severity.WARNING if folder in _TYPES else Severity.INFO
            severity = Severity.ERROR if near is not None else own
            yield config.finding("BK012", place, message, f"did you mean {near}?" if near else None, severity=severity)
        return
    wanted = _TYPES.get(folder or "")
    if wanted is not None and _CONVERSIONS[word] != wanted:
        message = f"checkpointer.model_type: {stated} converts other weights than those of {config.component('model')}"
        fitting = ", ".join(name for name, way in _CONVERSIONS.items() if way == wanted)
        yield config.finding("BK016", place, message, f"one of {fitting}")


def _shards(config: Config) -> Iterator[Finding]:
    """Yield an error unless a checkpoint in parts has all its files, each once."""
    place = ("checkpointer", "checkpoint_files")
    files = config.get(*place)
    named = [file for file in files if isinstance(file, str)] if isinstance(files, list) else []
    twice = sorted({each for each in named if named.count(each) > 1})
    parts = [match for each in named if (match := _SHARD.fullmatch(each)) is not None]
    message = None
    if twice:
        message = f"{twice[0]} is named twice"
    elif parts and len(parts) == len(named):
        totals = {int(match[3]) for match in parts}
        if len(totals) > 1:
            message = f"parts of checkpoints of {' and '.join(str(each) for each in sorted(totals))} files"
        else:
            (total,) = totals
            gone = sorted(set(range(1, total + 1)) - {int(match[2]) for match in parts})
            if gone and gone != list(range(1, total + 1)):
                message = f"part {', '.join(str(each) for each in gone)} of {total} is missing"
    if message is not None:
        hint = "name every part once, or take {filename_format, max_filename}"
        severity = Severity.ERROR if len(named) > 1 else Severity.WARNING
        yield config.finding("BK012", place, f"checkpointer.checkpoint_files: {message}", hint, severity=severity)


def _overlap(config: Config) -> Iterator[Finding]:
    """Yield an error if two slices of the same split overlap."""
    train, held = config.get("dataset"), config.get("dataset_val")
    if not isinstance(train, dict) or not isinstance(held, dict):
        return
    same = all(train.get(key) == held.get(key) for key in _ROWS_BY)
    one, other = (_SPLIT.fullmatch(str(each.get("split") or "train").strip()) for each in (train, held))
    if not same or one is None or other is None or one[1] != other[1]:
        return
    bounds = [_bounds(each) for each in (one, other)]
    if None in bounds:
        return
    (first, last), (begin, end) = (bound for bound in bounds if bound is not None)
    if max(first, begin) < min(last, end):
        message = f"validation on {other[0]} overlaps with training on {one[0]}: these rows are trained on"
        where = ("dataset_val", "split") if "split" in held else ("dataset_val",)
        yield config.finding("BK024", where, message, "slices that do not overlap: train[:95%] and train[95%:]")


def _bounds(match: re.Match[str]) -> tuple[int, int] | None:
    """Return the bounds of a slice in percent. Return None if it counts rows."""
    if match[0] == match[1]:
        return 0, _WHOLE
    if (match[2] and not match[3]) or (match[4] and not match[5]):
        return None
    return int(match[2] or 0), int(match[4] or _WHOLE)
