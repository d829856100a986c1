"""Values of a torchtune config that its recipes refuse late or use in another way; `tune validate` reads none of them.

Source: recipes of 0.6.1; the Qwen tokenizers' `truncate(mask, max_seq_len, True)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from touchline.backends.fields import TEXT, TRUTH, ValueType, dotted, number, shown, whole, wrong_value
from touchline.backends.torchtune.components import component
from touchline.backends.torchtune.config import COMPONENT
from touchline.backends.torchtune.keys import is_reinforcement, is_training
from touchline.backends.torchtune.reading import Config, Path
from touchline.core.finding import Finding, Severity

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
"""Settings that choose a dataset's rows besides the split. `field` is the key of a JSON object that contains them."""


def value_findings(config: Config) -> Iterator[Finding]:
    """Yield the findings of the values of a training's config."""
    if not is_training(config.data):
        return
    for kind, names in _KINDS:
        for name in names.split():
            section, _, key = name.removesuffix("?").rpartition(".")
            if name in _GENERATED and is_reinforcement(config.data):
                continue
            for path in [found for found, _ in config.sections(section)] if section else [()]:
                yield from _value(config, (*path, key), kind, null=name.endswith("?"))
    yield from _adapted(config)
    if not is_reinforcement(config.data):
        yield from _end_token(config)
        yield from _overlap(config)


def _value(config: Config, path: Path, kind: ValueType, *, null: bool) -> Iterator[Finding]:
    if not config.has(*path) or config.is_open(*path):
        return
    value = config.get(*path)
    if value is None and null:
        return
    yield from wrong_value(config.document, path, value, kind)


def _adapted(config: Config) -> Iterator[Finding]:
    found = component(config.component("model") or "")
    if found is None or "lora_attn_modules" not in found.arguments or not config.has("model", "lora_attn_modules"):
        return
    path = ("model", "lora_attn_modules")
    modules = config.get(*path)
    if config.is_open(*path):
        return
    if not isinstance(modules, list) or not modules:
        yield config.finding(
            "BK012", path, f"{dotted(path)}: expected a list of {', '.join(_ADAPTED)}, got {shown(modules)}"
        )
        return
    for index, module in enumerate(modules):
        if module not in _ADAPTED:
            meant = _ELSEWHERE.get(str(module))
            yield config.finding(
                "BK012",
                (*path, index),
                f"{dotted(path)}: {shown(module)} gets no adapter and no message; expected {', '.join(_ADAPTED)}",
                f"write {meant}" if meant else None,
            )


def _end_token(config: Config) -> Iterator[Finding]:
    """Report a masked end token. These tokenizers mask the last token of every row if rows may be truncated."""
    if config.last("tokenizer") not in _MASKS_THE_END:
        return
    if not (config.component("tokenizer") or "").startswith("torchtune."):
        return
    limit = config.get("tokenizer", "max_seq_len")
    if isinstance(limit, int) and not config.last("dataset").startswith("text_completion"):
        yield config.finding(
            "BK019",
            ("tokenizer", "max_seq_len"),
            f"with max_seq_len set, {config.last('tokenizer')} takes the end token out of the loss of every example, "
            "also of those that are not cut, so the model does not learn to stop",
            "max_seq_len: null, where packed is false; check how answers end otherwise",
            severity=Severity.WARNING,
        )


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
