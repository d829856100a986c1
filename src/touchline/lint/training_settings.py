"""Rules on settings of a training: learning rate, adapter, schedule, rows, packing, workers, names."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Final

from touchline.backends.registry import traits_of
from touchline.core.finding import Severity
from touchline.core.quantity import Missing
from touchline.experiment.partial import Stated, StatedTraining
from touchline.experiment.training import FAR, LORA_ALPHA_PER_RANK, rate_text
from touchline.lint.rule import Violation, rule
from touchline.lint.training import TrainingView, arithmetic

ADAPTER_RATES: Final = (5e-7, 1e-2)
"""Range of adapter learning rates in some 500 published configs, including the low ones of preference training."""
FULL_RATES: Final = (1e-8, 1e-3)
"""The same for full fine-tuning of models with a billion parameters or more."""
SMALL_FULL_RATE: Final = 1e-2
"""The same for smaller models, which are sometimes trained from scratch."""
SMALL: Final = 1_000_000_000
DEFAULT_FULL_RATE: Final = 2e-4
"""Highest default that full fine-tuning may be left with: ten times its usual rate."""
_ADAM = re.compile(r"adam", re.IGNORECASE)
_OTHER_SCALE = re.compile(r"dadapt|schedule_?free|prodigy|mini|adafactor|muon|lion|sgd|lomo", re.IGNORECASE)
"""Optimizers whose learning rate is on another scale."""
LEARNED_POSITIONS: Final = frozenset({"gpt2", "gpt_neo", "gpt_bigcode", "opt", "xglm", "biogpt", "openai-gpt"})
"""Families with learned position embeddings, which cannot be exceeded."""
MANY: Final = 0.1
"""Share of truncated rows above which they are not outliers."""
SMALL_BATCH: Final = 4
"""Rows of a micro-batch up to which packing is suggested."""
WORTH_PACKING: Final = 1.5
"""Examples per row from which packing saves computation."""


@rule("TR031", Severity.WARNING)
def _unusual_learning_rate(view: TrainingView) -> Iterator[Violation]:
    rate, method, optimizer = view.stated.learning_rate, view.stated.method, view.stated.optimizer
    if rate is None or method is None or not rate.value > 0:
        return
    if rate.is_default:
        if view.stated.rule_rate is None and method.value == "full" and rate.value > DEFAULT_FULL_RATE:
            message = f"the default learning rate of {rate.value:g} is for adapters, and all weights are trained"
            yield Violation(message, rate, f"{rate.key}: 1.0e-5")
        return
    if optimizer is not None and (_OTHER_SCALE.search(optimizer.value) or not _ADAM.search(optimizer.value)):
        return
    if (rule_rate := view.stated.rule_rate) is not None:
        if not 1 / FAR <= rate.value / rule_rate.value <= FAR:
            yield Violation(
                f"learning rate {rate_text(rate.value)} is more than {FAR:g} times off the published rule, {rule_rate}",
                rate,
                rate.line_with(rate_text(rule_rate.value)),
                severity=Severity.INFO if rule_rate.extrapolated else None,
            )
        return
    low, high = ADAPTER_RATES if _trains_adapter(view.stated) else FULL_RATES
    size = None if isinstance(view.model, Missing) else view.model.num_parameters
    if not _trains_adapter(view.stated) and (size is None or size < SMALL):
        high = SMALL_FULL_RATE
    if not low <= rate.value <= high:
        what = "an adapter" if _trains_adapter(view.stated) else "all weights"
        message = f"learning rate {rate.value:g} for {what}, expected {low:g} to {high:g}"
        yield Violation(message, rate, rate.line_with("2.0e-4" if _trains_adapter(view.stated) else "1.0e-5"))


@rule("TR037", Severity.WARNING)
def _constant_schedule_with_warmup(view: TrainingView) -> Iterator[Violation]:
    stated = view.stated
    if not traits_of(stated.backend).hf_loop or stated.schedule is None or stated.schedule.value != "constant":
        return
    for each in (stated.warmup_steps, stated.warmup_fraction):
        if each is not None and each.value > 0 and not each.is_default:
            message = f"{each.key} has no effect with the schedule `constant`"
            yield Violation(message, each, f"{stated.schedule.key}: constant_with_warmup")


def _trains_adapter(stated: StatedTraining) -> bool:
    return stated.method is not None and stated.method.value in ("lora", "qlora")


def _counts_epochs(stated: StatedTraining) -> bool:
    by_steps = traits_of(stated.backend).hf_loop and stated.max_steps is not None and stated.max_steps.value > 0
    return not by_steps


def _uses_alpha(stated: StatedTraining) -> bool:
    return _trains_adapter(stated) and not traits_of(stated.backend).zero_alpha_is_default


_POSITIVE: tuple[tuple[str, str | None, Callable[[StatedTraining], bool]], ...] = (
    ("epochs", "1", _counts_epochs),
    ("micro_batch_size", "1", lambda stated: True),
    ("gradient_accumulation_steps", "1", lambda stated: True),
    ("global_batch_size", "1", lambda stated: True),
    ("learning_rate", None, lambda stated: True),
    ("alpha", None, _uses_alpha),
    ("rank", "8", _trains_adapter),
)
"""Settings that must exceed 0, the suggested value, and whether they count in a training."""


@rule("TR020", Severity.ERROR)
def _non_positive_setting(view: TrainingView) -> Iterator[Violation]:
    for name, value, applies in _POSITIVE:
        setting: Stated[float] | None = getattr(view.stated, name)
        if setting is None or not applies(view.stated) or (math.isfinite(setting.value) and setting.value > 0):
            continue
        rank = view.stated.rank
        usual = f"{LORA_ALPHA_PER_RANK * rank.value:g}" if name == "alpha" and rank is not None else value
        hint = None if usual is None else f"{setting.key}: {usual}"
        yield Violation(f"{setting.key} is {setting.value:g}, expected more than 0", setting, hint)


@rule("TR040", Severity.WARNING)
def _sequence_beyond_context(view: TrainingView) -> Iterator[Violation]:
    stated, model, longest = view.stated, view.model, arithmetic(view).longest_row
    limit = stated.max_seq_len
    if limit is None or isinstance(model, Missing) or model.context_length is None or limit.is_default:
        return
    context = model.context_length
    if limit.value <= context or (longest is not None and longest <= context):
        return
    packed = stated.packed is not None and stated.packed.value
    learned = not isinstance(model.shape, Missing) and model.shape.model_type in LEARNED_POSITIONS
    fails = traits_of(stated.backend).fails_beyond_context
    certain = longest is not None or (packed and fails)
    otherwise = Severity.INFO if packed and not learned else None
    severity = Severity.ERROR if certain and (learned or fails) else otherwise
    message = f"sequences of up to {limit.value:,} tokens, but the context of {model.name} is {context:,}"
    yield Violation(message, limit, limit.line_with(context), severity=severity)


@rule("TR041", Severity.WARNING)
def _many_truncated_examples(view: TrainingView) -> Iterator[Violation]:
    data, limit = view.data, view.stated.max_seq_len
    if isinstance(data, Missing) or data.lengths is None or not len(data.lengths) or limit is None or limit.value < 1:
        return
    over = int((data.lengths > limit.value).sum())
    if not over:
        return
    share = over / len(data.lengths)
    longest = int(data.lengths.max())
    traits = traits_of(view.stated.backend)
    often = Severity.WARNING if share >= MANY else Severity.INFO
    yield Violation(
        f"{over:,} of {len(data.lengths):,} examples ({share:.1%}) are longer than {limit.value:,} tokens, up "
        f"to {longest:,}, and the trainer {traits.long_rows}",
        limit,
        limit.line_with(longest),
        severity=Severity.ERROR if traits.refuses_long_rows else often,
    )


@rule("PK005", Severity.INFO)
def _packing_not_used(view: TrainingView) -> Iterator[Violation]:
    stated = view.stated
    packed, micro = stated.packed, stated.micro_batch_size
    if packed is None or packed.value or micro is None or not 1 <= micro.value <= SMALL_BATCH:
        return
    if not traits_of(stated.backend).packs or stated.image_root is not None:
        return
    data, limit = view.data, stated.max_seq_len
    density = ""
    if not isinstance(data, Missing) and data.lengths is not None and len(data.lengths) and limit is not None:
        each = limit.value / max(float(data.lengths.mean()), 1.0)
        if each < WORTH_PACKING:
            return
        density = f" (about {each:.1f} examples fit in {limit.value:,} tokens)"
    message = f"not packed, with a micro-batch of {micro.value}{density}"
    yield Violation(message, packed, packed.line_with("true"))


@rule("PK007", Severity.WARNING)
def _packed_attention_leak(view: TrainingView) -> Iterator[Violation]:
    stated = view.stated
    packed, attention = stated.packed, stated.attention
    if packed is None or not packed.value:
        return
    leaks = traits_of(stated.backend).eager_attention_leaks
    if leaks and attention is not None and attention.value.lower() == "eager":
        message = f"{stated.backend} does not separate packed examples with {attention.value} attention"
        at = attention if not attention.is_default else packed
        yield Violation(message, at, "attn_implementation: flash_attention_2, or sdpa")


@rule("PK008", Severity.ERROR)
def _packed_without_length(view: TrainingView) -> Iterator[Violation]:
    stated = view.stated
    packed, key = stated.packed, traits_of(stated.backend).packing_needs
    if packed is not None and packed.value and stated.max_seq_len is None and key is not None:
        yield Violation(f"packed, but {key} is not set", packed, f"{key}: 2048")


@rule("TR055", Severity.WARNING)
def _more_workers_than_cpus(view: TrainingView) -> Iterator[Violation]:
    workers, cpus = view.stated.data_workers, view.around.cpus
    if workers is None or cpus is None or workers.is_default:
        return
    devices, runs = arithmetic(view).devices.low, view.around.at_once
    count = devices * runs
    if workers.value * count > cpus:
        times = (f" × {number} {name}" for number, name in ((devices, "devices"), (runs, "runs at once")) if number > 1)
        each = f" ({workers.value}{''.join(times)})" if count > 1 else ""
        message = f"{workers.value * count}{each} data-loading processes, but the job has {cpus} cores"
        yield Violation(message, workers, workers.line_with(max(cpus // count - 1, 0)))


_TOKEN: Final = r"(?:^|(?<=[^a-z0-9]))(?:{})(?=$|[^a-z0-9.]|\.(?!\d))"
_NUMBER: Final = r"\d+(?:\.\d+)?"
_IN_NAMES: Final = (
    ("rank", rf"(?:lora[-_]?)?rank[-_=]?({_NUMBER})|lora[-_]?r[-_=]?(\d+)|r(8|16|32|64|128|256)"),
    ("alpha", rf"lora[-_]?alpha[-_=]?({_NUMBER})"),
    ("learning_rate", rf"(?:lr|learning[-_]rate)[-_=]?({_NUMBER}e-?\d+|0?\.\d+)"),
    ("epochs", rf"({_NUMBER})[-_]?ep(?:ochs?)?"),
    ("seed", r"seed[-_=]?(\d+)"),
)
"""Settings in names, each with its usual spelling."""
_PATTERNS: Final = tuple((field, re.compile(_TOKEN.format(pattern))) for field, pattern in _IN_NAMES)
_RUN_FILES: Final = frozenset({"finetune.yaml", "setup_finetune.yaml"})
_NEAR: Final = 1e-6


@rule("TR026", Severity.WARNING)
def _name_setting_mismatch(view: TrainingView) -> Iterator[Violation]:
    stated = view.stated
    reported: set[str] = set()
    for name in _names(stated):
        for field, pattern in _PATTERNS:
            at: Stated[float] | None = getattr(stated, field)
            said = {next(group for group in match.groups() if group) for match in pattern.finditer(name.lower())}
            if at is None or len(said) != 1 or field in reported:
                continue
            (text,) = said
            if math.isclose(float(text), at.value, rel_tol=_NEAR):
                continue
            reported.add(field)
            yield Violation(f"{name} states {field.replace('_', ' ')} {text}, but {at} is trained", at)


def _names(stated: StatedTraining) -> list[str]:
    """Return the names of a training: its run's folder, and the last part of its output folder."""
    found = [stated.subject] if PurePosixPath(stated.where.path).name in _RUN_FILES else []
    if traits_of(stated.backend).is_ours:
        found = [stated.subject]
    if stated.output_dir is not None:
        found.append(PurePosixPath(stated.output_dir.value).name)
    return list(dict.fromkeys(found))


@rule("CK015", Severity.ERROR)
def _output_over_base_model(view: TrainingView) -> Iterator[Violation]:
    stated = view.stated
    output = stated.output_dir
    written = "$" if output is None else _plain(output.value)
    if output is None or "$" in written:
        return
    for base in (stated.model, stated.model_path):
        if base is None:
            continue
        place = _plain(base.value)
        if written == place:
            message = f"{output} is the folder of the base model ({base})"
            yield Violation(message, output, "output_dir: runs/...")
            return
        if base is stated.model_path and written.startswith(place + "/"):
            message = f"{output} is inside the folder of the base model ({base}), which {stated.backend} refuses"
            yield Violation(message, output, "output_dir: runs/...")
            return


def _plain(path: str) -> str:
    """Normalize a path: no doubled slashes, `.`, `..` or slash at its end; home written as `~`."""
    text = path.strip().removeprefix("file://")
    text = re.sub(r"^(?:\$\{?HOME\}?)(?=/|$)", "~", text)
    plain = posixpath.normpath(text)
    return plain[1:] if plain.startswith("//") else plain
