"""Keys, components and values of a torchtune config: what is misspelt or missing, and what recipes use in another way.

Recipes read what they need and leave the rest, so an unknown key at the top says nothing unless it looks like one that
is not there. A component takes only its own arguments: `tune validate` refuses the others, at the top of the file.
`tune validate` imports every component that a config names, so it only runs on those of packages that come with it.
Source: recipes of 0.6.1; the Qwen tokenizers' `truncate(mask, max_seq_len, True)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from touchline.backends.external import Validator
from touchline.backends.fields import TEXT, TRUTH, dotted, new_value, number, shown, whole, wrong_value
from touchline.backends.torchtune.reading import (
    COMPONENT,
    OTHERS,
    RELEASED,
    Component,
    Config,
    Path,
    component,
    is_family,
    is_known,
    nearest_component,
    recipe_keys,
)
from touchline.core.finding import Severity
from touchline.core.near import misspelled
from touchline.core.quantity import Missing
from touchline.experiment.foreign import ForeignDocument

_TRUSTED = ("torchtune.", "torch.", "torchao.", "bitsandbytes.")
_FINE = "Config is well-formed!"
_COMPLAINS = "tune validate: error:"
_LONGEST = 400


def _refuses(document: ForeignDocument) -> str | None:
    own = sorted({name for name in _components(document.data) if not name.startswith(_TRUSTED)})
    return f"tune validate would import {own[0]}" if own else None


def _components(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        if COMPONENT in node:
            yield str(node[COMPONENT])
        for value in node.values():
            yield from _components(value)
    elif isinstance(node, list):
        for value in node:
            yield from _components(value)


def _verdict(status: int, out: str, err: str) -> str | Missing | None:
    """Return the error of a config. None for a valid config; Missing without a verdict."""
    if status == 0 and _FINE in out:
        return None
    lines = [line.strip() for line in err.strip().splitlines() if line.strip()]
    if _COMPLAINS in err:
        complaint = err.partition(_COMPLAINS)[2]
    else:
        last = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)), None)
        if last is None or not _is_of_config(err):
            reason = lines[-1][:_LONGEST] if lines else "no message"
            return Missing(missing=f"tune validate ended with status {status}: {reason}")
        complaint = last
    return " ".join(complaint.split())[:_LONGEST]


def _is_of_config(text: str) -> bool:
    """Return True if a traceback ends in reading the config, and not in an import of torchtune itself."""
    return any(
        mark in text for mark in ("torchtune/config/", "omegaconf/", "yaml/constructor.py", "InstantiationError")
    )


VALIDATOR = Validator(
    trainer="torchtune",
    command=("tune", "validate"),
    python_variable="TOUCHLINE_TORCHTUNE_PYTHON",
    refuses=_refuses,
    verdict=_verdict,
)


NEEDED = (
    *("output_dir", "model", "tokenizer", "checkpointer", "resume_from_checkpoint", "dataset", "seed", "shuffle"),
    *("batch_size", "optimizer", "loss", "epochs", "max_steps_per_epoch", "gradient_accumulation_steps"),
    *("metric_logger", "device", "dtype"),
)
"""Keys without a default in every recipe of supervised training, DPO and distillation, in all versions."""
_OTHER_RECIPE = 3
REINFORCEMENT = frozenset({"policy_model", "ppo_epochs", "ppo_batch_size", "grpo_samples", "num_steps"})
"""Keys of recipes that generate rows while they train."""
_SEVERAL = frozenset({"datasets", "dataloader"})
_OPTIONAL = frozenset({"enable_activation_checkpointing", "compile", "lr_scheduler", "clip_grad_norm"})
LOADING = frozenset(
    {
        *("data_files", "data_dir", "name", "field", "split", "revision", "streaming", "cache_dir", "num_proc"),
        *("token", "trust_remote_code", "download_mode", "verification_mode", "keep_in_memory", "features", "sep"),
        *("delimiter", "column_names", "names", "save_infos", "storage_options", "download_config", "encoding"),
    }
)
"""Arguments of datasets.load_dataset and its local-file builders, apart from a dataset's own."""


def is_training(data: Mapping[str, object]) -> bool:
    """Return True if a config is of a training, not of an evaluation, a generation or a quantization."""
    return bool({"optimizer", "epochs", "gradient_accumulation_steps", "dataset", "datasets"} & data.keys())


def is_reinforcement(data: Mapping[str, object]) -> bool:
    """Return True if rows are generated during training, by PPO or GRPO."""
    return bool(REINFORCEMENT & data.keys())


def check_keys(config: Config) -> None:
    """Report the findings of the top-level keys."""
    present = config.data.keys()
    known = recipe_keys() | {*NEEDED, *_OPTIONAL}
    meant: set[str] = set()
    for key in present - known:
        near = misspelled(key, known, present)
        if near is not None:
            meant.add(near)
            config.find_unknown((key,), f"{key}: no recipe reads this key, so it has no effect", near)
    if is_training(config.data) and not is_reinforcement(config.data):
        _missing(config, meant)


def _missing(config: Config, meant: set[str]) -> None:
    several = bool(_SEVERAL & config.data.keys())
    gone = [
        key
        for key in NEEDED
        if key not in config.data and key not in meant and not (several and key in ("dataset", "shuffle"))
    ]
    if len(gone) >= _OTHER_RECIPE:
        message = f"not a config of torchtune's own recipes, because {', '.join(gone)} are missing"
        config.find("BK013", (), message, severity=Severity.INFO)
        return
    for key in gone:
        message = f"{key} is missing, and the recipe has no default for it"
        config.find("BK013", (key,), message, f"write `{key}: ...`")


def check_components(config: Config) -> None:
    """Report the findings of the components and their arguments."""
    for path, section in config.components():
        named = section[COMPONENT]
        place = (*path, COMPONENT)
        if not is_known(named):
            continue
        if not isinstance(named, str) or not all(part.isidentifier() for part in named.split(".")):
            message = f"{dotted(place)}: {shown(named)} is not a dotted name of a function or class"
            config.find("BK018", place, message)
        elif named.startswith("torchtune.") and "._" not in named:
            found = component(named)
            if found is None:
                _unknown(config, place, named)
            else:
                _arguments(config, path, section, found)


def _unknown(config: Config, place: Path, named: str) -> None:
    near = nearest_component(named)
    if near is not None:
        edits = new_value(config.document, place, near)
        config.find("BK018", place, f"torchtune has no {named}", f"did you mean {near}?", edits=edits)
        return
    # Forks put components of their own under torchtune's name; into a model's folder they hardly ever do.
    severity = Severity.WARNING if is_family(named) else Severity.INFO
    message = f"torchtune 0.1 to {RELEASED} has no {named} (not checked further)"
    config.find("BK018", place, message, severity=severity)


def _arguments(config: Config, path: Path, section: Mapping[str, object], found: Component) -> None:
    loads = found.path.startswith("torchtune.datasets.") and found.takes_others
    known = (found.arguments - {OTHERS}) | (LOADING if loads else frozenset())
    for name in section.keys() - known - {COMPONENT}:
        near = misspelled(name, known, section.keys())
        place = (*path, name)
        if near is None and found.takes_others:
            continue
        others = f"it takes {', '.join(sorted(known))}"
        config.find_unknown(place, f"{dotted(place)}: {found.path} has no argument {name!r}", near, others)


_ADAPTED = ("q_proj", "k_proj", "v_proj", "output_proj")
"""Module names known to `lora_attn_modules`. Any other name silently gets no adapter."""
_ELSEWHERE = {
    **dict.fromkeys(("o_proj", "out_proj", "wo"), "output_proj"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "mlp"), "apply_lora_to_mlp: True"),
    **dict.fromkeys(("output", "lm_head"), "apply_lora_to_output: True"),
}
_KINDS: Final = (
    (whole(1), "batch_size epochs gradient_accumulation_steps model.lora_rank"),
    (whole(1), "max_steps_per_epoch? log_every_n_steps? run_val_every_n_steps? save_every_n_steps? batch_size_val?"),
    (whole(1), "tokenizer.max_seq_len? dataset.max_seq_len?"),
    (whole(0), "seed? lr_scheduler.num_warmup_steps"),
    (number(above=0), "optimizer.lr model.lora_alpha"),
    (number(least=0), "optimizer.weight_decay?"),
    (number(least=0, below=1), "model.lora_dropout?"),
    (TEXT, "checkpointer.checkpoint_dir tokenizer.path?"),
    (TRUTH, "shuffle? resume_from_checkpoint? save_adapter_weights_only? enable_activation_checkpointing?"),
    (TRUTH, "enable_activation_offloading? optimizer_in_bwd? dataset.packed? dataset.train_on_input?"),
    (TRUTH, "model.apply_lora_to_mlp? model.apply_lora_to_output? model.quantize_base? model.use_dora?"),
)
"""Kinds of values with the keys that take them. A key with `?` may be null."""
_GENERATED: Final = frozenset({"batch_size", "epochs", "gradient_accumulation_steps"})
"""Keys with another meaning where rows are generated."""

_MASKS_THE_END = frozenset({"qwen2_tokenizer", "qwen2_5_tokenizer", "qwen3_tokenizer"})
_SPLIT = re.compile(r"(\w+)(?:\[(\d*)(%?):(\d*)(%?)\])?")
_WHOLE: Final = 100
_ROWS_BY: Final = (
    *(COMPONENT, "source", "data_files", "name", "data_dir"),
    *("field", "revision", "filter_fn", "filter_kwargs"),
)
"""Settings that choose a dataset's rows apart from the split. `field` is the key of a JSON object that contains
them."""


def check_values(config: Config) -> None:
    """Report the findings of the values of a training's config."""
    for kind, names in _KINDS:
        for name in names.split():
            section, _, key = name.removesuffix("?").rpartition(".")
            if name in _GENERATED and is_reinforcement(config.data):
                continue
            for path in [found for found, _ in config.sections(section)] if section else [()]:
                place = (*path, key)
                value = config.get(*place)
                if config.has(*place) and not config.is_open(*place) and (value is not None or name[-1] != "?"):
                    config.findings.extend(wrong_value(config.document, place, value, kind))
    _adapted(config)
    if not is_reinforcement(config.data):
        _end_token(config)
        _overlap(config)


def _adapted(config: Config) -> None:
    found = component(config.component("model") or "")
    if found is None or "lora_attn_modules" not in found.arguments or not config.has("model", "lora_attn_modules"):
        return
    path = ("model", "lora_attn_modules")
    modules = config.get(*path)
    if config.is_open(*path):
        return
    if not isinstance(modules, list) or not modules:
        config.find("BK012", path, f"{dotted(path)}: expected a list of {', '.join(_ADAPTED)}, got {shown(modules)}")
        return
    for index, module in enumerate(modules):
        if module not in _ADAPTED:
            meant, known = _ELSEWHERE.get(str(module)), ", ".join(_ADAPTED)
            message = f"{dotted(path)}: {shown(module)} gets no adapter and no message, expected {known}"
            config.find("BK012", (*path, index), message, f"did you mean {meant!r}?" if meant else None)


def _end_token(config: Config) -> None:
    """Report a masked end token. These tokenizers mask the last token of every row if rows may be truncated."""
    if config.last("tokenizer") not in _MASKS_THE_END:
        return
    if not (config.component("tokenizer") or "").startswith("torchtune."):
        return
    limit = config.get("tokenizer", "max_seq_len")
    if isinstance(limit, int) and not config.last("dataset").startswith("text_completion"):
        config.find(
            "BK019",
            ("tokenizer", "max_seq_len"),
            f"with max_seq_len set, {config.last('tokenizer')} removes the end token from the loss of every "
            "example, so the model does not learn to stop",
            "max_seq_len: null if packed is false, else check how answers end",
            severity=Severity.WARNING,
        )


def _overlap(config: Config) -> None:
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
        config.find("BK024", where, message, "slices that do not overlap: train[:95%] and train[95%:]")


def _bounds(match: re.Match[str]) -> tuple[int, int] | None:
    """Return the bounds of a slice in percent. Return None if it counts rows."""
    if match[0] == match[1]:
        return 0, _WHOLE
    if (match[2] and not match[3]) or (match[4] and not match[5]):
        return None
    return int(match[2] or 0), int(match[4] or _WHOLE)
