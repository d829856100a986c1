"""Settings of a torchtune config that its recipes refuse together, and settings that do something else than they say.

Source: recipes and torchtune.datasets of 0.6.1; the Qwen tokenizers' `truncate(mask, max_seq_len, True)`.
"""

from __future__ import annotations

from collections.abc import Iterator

from touchline.backends.torchtune.components import component
from touchline.backends.torchtune.keys import is_reinforcement, is_training
from touchline.backends.torchtune.reading import Config
from touchline.core.finding import Finding, Severity

PACKED_COLLATOR = "padded_collate_packed"
_MASKS_THE_END = frozenset({"qwen2_tokenizer", "qwen2_5_tokenizer", "qwen3_tokenizer"})


def together_findings(config: Config) -> Iterator[Finding]:
    """Yield the findings of settings that conflict with each other."""
    if not is_training(config.data):
        return
    yield from _backward(config)
    yield from _offloading(config)
    yield from _packing(config)
    yield from _collator(config)
    yield from _validation(config)
    yield from _end_token(config)
    if config.get("log_peak_memory_stats") is True and config.get("device") == "cpu":
        yield config.finding(
            "BK019",
            ("log_peak_memory_stats",),
            "log_peak_memory_stats: true does nothing on a CPU; the recipe turns it off",
            severity=Severity.INFO,
        )


def _backward(config: Config) -> Iterator[Finding]:
    """Check an optimizer that steps in the backward pass: it has no gradients to accumulate or to clip."""
    if config.get("optimizer_in_bwd") is not True or is_reinforcement(config.data):
        return
    steps = config.get("gradient_accumulation_steps")
    if isinstance(steps, int) and steps > 1:
        yield config.finding(
            "BK016",
            ("gradient_accumulation_steps",),
            f"gradient_accumulation_steps: {steps} is refused with optimizer_in_bwd: true",
            "gradient_accumulation_steps: 1, or optimizer_in_bwd: False",
        )
    if config.get("clip_grad_norm") is not None:
        yield config.finding(
            "BK016",
            ("clip_grad_norm",),
            "clip_grad_norm is refused with optimizer_in_bwd: true",
            "clip_grad_norm: null, or optimizer_in_bwd: False",
        )


def _offloading(config: Config) -> Iterator[Finding]:
    if config.get("enable_activation_offloading") is not True:
        return
    place = ("enable_activation_offloading",)
    if config.get("device") in ("cpu", "mps"):
        yield config.finding(
            "BK016", place, f"enable_activation_offloading: true is refused with device: {config.get('device')}"
        )
    if config.get("enable_activation_checkpointing") is not True and not config.is_open(
        "enable_activation_checkpointing"
    ):
        yield config.finding(
            "BK016",
            place,
            "enable_activation_offloading: true is refused without enable_activation_checkpointing: true",
            "enable_activation_checkpointing: True",
        )


def _packing(config: Config) -> Iterator[Finding]:
    states: list[bool] = []
    for path, section in config.sections("dataset"):
        packed = section.get("packed")
        states.append(packed is True)
        known = component(config.component(*path) or "")
        limited = section.get("max_seq_len") is not None
        if packed is not True or known is None or "packed" not in known.arguments or limited:
            continue
        if config.get("tokenizer", "max_seq_len") is None and not config.is_open("tokenizer", "max_seq_len"):
            tokenizer = config.component("tokenizer") or ""
            if tokenizer.startswith("torchtune.models.") and component(tokenizer) is not None:
                yield config.finding(
                    "BK016",
                    (*path, "packed"),
                    "packed: true needs the length of a pack, but tokenizer.max_seq_len is not set",
                    "tokenizer: {max_seq_len: 2048}, or packed: False",
                )
    if any(states) and not all(states):
        yield config.finding(
            "BK016", ("dataset",), "some of the datasets are packed and some are not, which is refused"
        )


def _collator(config: Config) -> Iterator[Finding]:
    collator = config.get("collate_fn")
    if not isinstance(collator, str):
        return
    if "left_pad_sequence" in collator:
        yield config.finding("BK016", ("collate_fn",), "left_pad_sequence pads for generation; recipes refuse it")
        return
    packed = [path for path, section in config.sections("dataset") if section.get("packed") is True]
    if packed and not collator.endswith(PACKED_COLLATOR):
        yield config.finding(
            "BK019",
            ("collate_fn",),
            f"collate_fn: {collator} is not used: with packed: true the recipe takes {PACKED_COLLATOR}",
            severity=Severity.WARNING,
        )


def _validation(config: Config) -> Iterator[Finding]:
    every = config.get("run_val_every_n_steps")
    if every is not None and not config.has("dataset_val"):
        yield config.finding(
            "BK016", ("run_val_every_n_steps",), "run_val_every_n_steps needs dataset_val, which is not there"
        )


def _end_token(config: Config) -> Iterator[Finding]:
    """Report a masked end token. These tokenizers mask the last token of every row if rows may be truncated."""
    if config.last("tokenizer") not in _MASKS_THE_END or is_reinforcement(config.data):
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
