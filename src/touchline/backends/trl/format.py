"""Files of TRL's and the Trainer's arguments: `trl sft --config x.yaml`, HfArgumentParser's YAML and JSON, recipes.

TRL puts a config's values through argparse, which makes numbers of texts; HfArgumentParser takes JSON's values as
they are. Scripts add arguments of their own, so a key is only wrong here when it is surely a known one misspelt.
Source: trl.TrlParser (1.16), transformers.HfArgumentParser (5.23).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from touchline.backends.argument_tables import ArgumentTable, argument_table
from touchline.backends.config_reading import ConfigReader
from touchline.backends.formats import ConfigFormat, ConfigReading
from touchline.backends.trl.conflicts import check_trl
from touchline.backends.trl.habits import (
    MEANT,
    check_habits,
    check_meant,
    check_model_words,
    check_required,
)
from touchline.backends.trl.stated import state_training
from touchline.backends.trl.trainer import RENAMED, check_trainer
from touchline.core.finding import Severity
from touchline.core.near import nearest
from touchline.experiment.foreign import Dialect, ForeignDocument
from touchline.experiment.partial import StatedTraining

_OURS = frozenset(
    {
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
        *("num_train_epochs", "lr_scheduler_type", "per_gpu_train_batch_size", "save_total_limit"),
    }
)
"""Names that nothing but the Trainer's family uses."""
_FOREIGN = frozenset(
    {
        *("_component_", "tokenizer_config", "micro_batch_size", "sequence_len", "sample_packing", "adapter"),
        *("stage", "finetuning_type", "cutoff_len", "lora_rank_pattern", "export_dir", "model_name_or_path_list"),
        *("compute_environment", "zero_optimization", "train_micro_batch_size_per_gpu", "log_history", "best_metric"),
        *("train_type", "tuner_type", "sft_type", "defaults", "architectures", "global_step", "peft_type", "_n_gpu"),
        *("experiment", "config_groups", "hydra", "trial_name", "kt_optimize_rule", "swanlab_project_config"),
    }
)
"""Names that only files of other tools, or dumps of finished runs, have."""
_MISSPELT = frozenset(
    {
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "learning_rate"),
        *("weight_decay", "num_train_epochs", "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
        *("warmup_ratio", "logging_steps", "logging_strategy", "save_steps", "save_strategy", "save_total_limit"),
        *("save_only_model", "eval_steps", "eval_strategy", "evaluation_strategy", "output_dir", "max_grad_norm"),
        *("gradient_checkpointing", "gradient_checkpointing_kwargs", "dataloader_num_workers", "packing", "max_length"),
        *("max_seq_length", "model_name_or_path", "attn_implementation", "lora_alpha", "lora_dropout", "load_in_4bit"),
        *("lora_target_modules", "load_best_model_at_end", "metric_for_best_model", "resume_from_checkpoint"),
        *("assistant_only_loss", "completion_only_loss", "num_generations", "max_completion_length", "report_to"),
        *("dataset_name", "per_gpu_train_batch_size", "label_smoothing_factor", "torch_compile", "adam_epsilon"),
    }
)
"""Argument names for which a name with one typo is not a script's own argument."""
MANY_CLEARLY_OURS = 3


class TrlFormat:
    """A file of arguments."""

    name = "trl"
    title = "TRL or Trainer arguments"
    # TRL and HfArgumentParser call yaml.safe_load.
    dialect: Dialect = "pyyaml"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True for at least three known names, one of them unique to TRL, no other tool's, and no nested
        sections.
        """
        del file_name
        if not _FOREIGN.isdisjoint(data) or _OURS.isdisjoint(data):
            return False
        known = argument_table("trl").arguments
        named = [key for key in data if key in known]
        return len(named) >= MANY_CLEARLY_OURS and 2 * len(named) >= len(data)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training and the file's findings."""
        settings = ConfigReader(document)
        json = document.path.lower().endswith(".json")
        check_keys(settings, argument_table("trl"))
        known = argument_table("trl").arguments
        others = [key for key in settings.values if key not in known or (key in MEANT and known[key].last is not None)]
        if len(others) == 1:
            # A file of a script with arguments of its own has several names that TRL does not know.
            check_meant(settings, MEANT, known, "TRL refuses it", Severity.WARNING)
        settings.check_doubled(None)
        if json:
            _check_json_numbers(settings)
        else:
            _check_text_numbers(settings)
        settings.check_values(argument_table("trl"), "argparse")
        training = state_training(settings)
        check_trainer(settings, trainer_view(training))
        check_habits(settings)
        check_model_words(settings)
        check_required(settings, known)
        check_trl(settings, training)
        return ConfigReading(trainings=(training,), findings=tuple(settings.findings))


def check_keys(
    settings: ConfigReader,
    table: ArgumentTable,
    *,
    refused_by: str | None = None,
    skip: Container[str] = (),
    unknown: Severity = Severity.INFO,
) -> None:
    """Report misspelt names as BK011, and names that newer releases do not know as BK017.

    Args:
        settings: the file.
        table: the known arguments.
        refused_by: who refuses every name that it does not know; none: a script may have arguments of its own.
        skip: names that are judged elsewhere.
        unknown: how bad a name is that is like none of the known ones; forks and newer releases have more.
    """
    for key in settings.values:
        if key in table.arguments or key in skip:
            continue
        if refused_by is None:
            near = tuple(name for name in nearest(key, _MISSPELT) if name not in settings.values)
            if near:
                settings.misspelt(key, near, "TRL refuses it", Severity.ERROR)
            continue
        near = table.near(key, settings.values)
        if near:
            ignored = refused_by == "axolotl"
            who = "axolotl ignores it silently" if ignored else f"{refused_by} refuses it"
            settings.misspelt(key, near, who, Severity.ERROR)
        elif not key.startswith("_"):
            message = f"no argument of {refused_by} ({table.source})"
            settings.find("BK011", unknown, key, message, "take it out, unless your copy of it adds that argument")
    _check_old_names(settings, table, skip, every=refused_by is not None)


def _check_old_names(settings: ConfigReader, table: ArgumentTable, skip: Container[str], *, every: bool) -> None:
    """Report all old names of a file in one finding. They are valid if the installed release is as old."""
    old = [
        key
        for key in settings.values
        if (every or key in RENAMED)
        and key not in skip
        and key in table.arguments
        and table.arguments[key].last is not None
    ]
    if not old:
        return
    renamed = [f"{key} (now {RENAMED[key]})" if RENAMED.get(key) else f"{key} (gone)" for key in old]
    message = f"not known to {table.source}, only to older releases: {', '.join(renamed)}"
    settings.find("BK017", Severity.INFO, old[0], message, "take the new names when you move to these releases")


def _check_text_numbers(settings: ConfigReader) -> None:
    """Report 1e-4, which PyYAML reads as text, as BK014: TRL's parser converts it, HfArgumentParser's YAML does not."""
    for key, text in _texts_for_numbers(settings):
        message = (
            f"{text!r} is text to PyYAML; `trl` and other argparse-based readers make a number of it, "
            "HfArgumentParser.parse_yaml_file does not"
        )
        settings.find("BK014", Severity.INFO, key, message, f"{key}: {_as_number(text)}")


def _check_json_numbers(settings: ConfigReader) -> None:
    """Report a JSON text in place of a number, as BK014."""
    for key, text in _texts_for_numbers(settings):
        where = settings.where(key)
        line = settings.document.lines[where.line - 1] if where.line else ""
        rest = line[(where.column or 1) - 1 :]
        if re.match(r'"[^"]*"\s*:\s*"', rest) or not re.match(r'"[^"]*"\s*:\s*\S', rest):
            message = f"{text!r} is text; HfArgumentParser takes JSON's values as they are, and a number is expected"
            settings.find("BK014", Severity.ERROR, key, message, f'"{key}": {_as_number(text)}')


def _texts_for_numbers(settings: ConfigReader) -> Iterable[tuple[str, str]]:
    known = argument_table("trl").arguments
    for key, value in settings.values.items():
        if not isinstance(value, str) or key not in known or not known[key].kinds <= {"int", "float", "none"}:
            continue
        if settings.number(key) is not None:
            yield key, value


def _as_number(text: str) -> str:
    match = re.fullmatch(r"\s*([-+]?\d+)(\.\d*)?[eE]([-+]?\d+)\s*", text)
    if match is None:
        return text.strip()
    whole, fraction, exponent = match.groups()
    sign = "" if exponent.startswith(("-", "+")) else "+"
    return f"{whole}{fraction if fraction and fraction != '.' else '.0'}e{sign}{exponent}"


def trainer_view(training: StatedTraining) -> dict[str, Any]:
    """Build the input of `check_trainer`."""
    return {name: getattr(training, name) for name in _FIELDS}


_FIELDS = ("save_cadence", "save_steps", "eval_cadence", "eval_steps", "load_best", "max_steps", "data_workers")

FORMATS: tuple[ConfigFormat, ...] = (TrlFormat(),)
"""This backend's formats."""
