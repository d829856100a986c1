"""LLaMA-Factory's files: training, and beside it merging, inference, serving and scoring, which train nothing.

They are read by OmegaConf and handed as they are to dataclasses, which refuse every name that they do not know.
Source: llamafactory.hparams.parser (0.9.5).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from touchline.backends.argument_tables import argument_table
from touchline.backends.config_reading import ConfigReader
from touchline.backends.formats import ConfigFormat, ConfigReading
from touchline.backends.llamafactory import habits
from touchline.backends.llamafactory.conflicts import check_conflicts
from touchline.backends.llamafactory.stated import stage, state_training
from touchline.backends.package_files import package_text
from touchline.backends.trl.format import check_keys, trainer_view
from touchline.backends.trl.habits import MEANT as TRAINERS
from touchline.backends.trl.habits import check_habits
from touchline.backends.trl.trainer import check_trainer
from touchline.core.finding import Edit, Severity
from touchline.core.json_text import parse_json
from touchline.core.near import nearest
from touchline.experiment.foreign import Dialect, ForeignDocument

_STAGES = frozenset({"pt", "sft", "rm", "ppo", "dpo", "kto", "orpo"})
_OURS = frozenset(
    {
        *("finetuning_type", "stage", "cutoff_len", "lora_target", "template", "dataset_dir", "infer_backend"),
        *("export_dir", "quantization_method", "adapter_name_or_path", "do_train", "preprocessing_num_workers"),
        *("overwrite_cache", "plot_loss", "visual_inputs", "flash_attn", "max_samples", "export_size"),
    }
)
_OURS_ALONE = frozenset(
    {
        *("finetuning_type", "stage", "lora_target", "template", "infer_backend", "export_dir", "plot_loss"),
        *("quantization_method", "visual_inputs", "flash_attn", "export_size"),
    }
)
"""Of these one must be there: scripts of one's own have `do_train`, `cutoff_len` and `max_samples` too."""
_FOREIGN = frozenset(
    {
        *("_component_", "base_model", "micro_batch_size", "sequence_len", "compute_environment", "zero_optimization"),
        *("train_type", "tuner_type", "sft_type", "log_history", "architectures", "defaults"),
    }
)
_MEGATRON = frozenset(
    {
        *("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"),
        *("use_distributed_optimizer", "sequence_parallel", "virtual_pipeline_model_parallel_size"),
    }
)
"""Of the Megatron adapter, which brings arguments of its own."""
_EVALUATION = frozenset({"task", "task_dir", "batch_size", "lang", "n_shot", "save_dir", "download_mode"})
_SHARED = ("per_device", "num_train", "learning", "gradient", "lr_", "optim", "dataloader", "save_total", "max_grad")
"""Prefixes of the Trainer's arguments that LLaMA-Factory shares under the same names."""
MEANT: dict[str, str] = {
    **{name: new for name, new in TRAINERS.items() if new.startswith(_SHARED)},
    "lora_r": "lora_rank",
    "r": "lora_rank",
    "lora_target_modules": "lora_target",
    "target_modules": "lora_target",
    "micro_batch_size": "per_device_train_batch_size",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "num_epochs": "num_train_epochs",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "max_seq_length": "cutoff_len",
    "cutoff_length": "cutoff_len",
    "max_len": "cutoff_len",
    "max_seq_len": "cutoff_len",
    "sequence_len": "cutoff_len",
    "sample_packing": "packing",
    "base_model": "model_name_or_path",
    "model": "model_name_or_path",
    "model_name": "model_name_or_path",
    "datasets": "dataset",
    "val_set_size": "val_size",
    "load_in_4bit": "quantization_bit: 4",
    "load_in_8bit": "quantization_bit: 8",
    "attn_implementation": "flash_attn",
    "chat_template": "template",
    "grad_accum": "gradient_accumulation_steps",
    "save_limit": "save_total_limit",
}
"""LLaMA-Factory's names for settings of other trainers."""
_FORKS = frozenset(
    {
        *("sequence_parallel_size", "sequence_parallel_mode", "use_ray", "use_adaclip", "auto_padding", "use_optuna"),
        *("train_mm_proj_only", "enable_smart_padding", "visual_inputs", "image_resolution", "num_beams"),
    }
)
"""Names that forks are known to add."""


class LlamaFactoryFormat:
    """Format of LLaMA-Factory's files."""

    name = "llamafactory"
    title = "LLaMA-Factory config"
    dialect: Dialect = "omegaconf"

    def claims(self, data: Mapping[str, object], file_name: str) -> bool:
        """Return True for several of its own names; `stage` counts if it is one of its stages."""
        del file_name
        if not _FOREIGN.isdisjoint(data) and "finetuning_type" not in data:
            return False
        ours = _OURS & data.keys()
        if "stage" in data and str(data["stage"]) not in _STAGES and "finetuning_type" not in data:
            ours -= {"stage"}
        named = "model_name_or_path" in data or "finetuning_type" in data or "adapter_name_or_path" in data
        known = argument_table("llamafactory").arguments
        enough = 2 * sum(key in known for key in data) >= len(data)
        surely = not _OURS_ALONE.isdisjoint(ours)
        return named and enough and surely and (len(ours) >= 2 or "finetuning_type" in data)

    def read(self, document: ForeignDocument) -> ConfigReading:
        """Read the stated training, or None, with the file's findings."""
        settings = ConfigReader(document)
        settings.check_doubled("OmegaConf")
        trains = is_training(settings)
        _check_keys(settings, trains)
        _check_texts(settings)
        settings.check_values(argument_table("llamafactory"), "plain")
        _check_template(settings, trains)
        if settings.on("trust_remote_code"):
            message = "code that comes with the model is run on load"
            settings.find("BK020", Severity.INFO, "trust_remote_code", message)
        if settings.given("model_name_or_path") is None:
            # An empty value in a file that is passed around is for others to fill in.
            severity = Severity.WARNING if "model_name_or_path" in settings.values else Severity.ERROR
            settings.find("BK013", severity, "model_name_or_path", "missing: there is no base model")
        if not trains:
            habits.check_idle(settings)
            return ConfigReading(trainings=(), findings=tuple(settings.findings))
        if settings.flag("do_train") is None:
            message = "missing: without it `llamafactory-cli train` loads everything and trains nothing"
            settings.find("BK013", Severity.WARNING, "do_train", message, "do_train: true")
        training = state_training(settings)
        check_trainer(settings, trainer_view(training))
        check_habits(settings)
        habits.check_habits(settings)
        check_conflicts(settings, training)
        return ConfigReading(trainings=(training,), findings=tuple(settings.findings))


def is_training(settings: ConfigReader) -> bool:
    """Return True if the file trains: `do_train`, or settings that only a training has. Scoring and merging do not."""
    train = settings.flag("do_train")
    if train is not None:
        return train.value
    if settings.given("export_dir", "task", "infer_backend") and not settings.given("num_train_epochs"):
        return False
    if settings.on("do_predict") or settings.on("do_eval"):
        return False
    return settings.given("dataset") is not None and settings.given("output_dir", "num_train_epochs") is not None


def _check_keys(settings: ConfigReader, trains: bool) -> None:
    megatron = not _MEGATRON.isdisjoint(settings.values)
    meant = {}
    for key in list(settings.values):
        new = MEANT.get(key)
        unknown = key not in argument_table("llamafactory").arguments or (trains and key in _EVALUATION)
        if new is None or not unknown:
            continue
        meant[key] = new
        name = new.partition(":")[0]
        taken = name in settings.values
        settings.find(
            "BK011",
            Severity.ERROR,
            key,
            f"LLaMA-Factory refuses it; its name for that is {name!r}" + (", which is there too" if taken else ""),
            "take it out" if taken else new if ":" in new else f"{new}: {settings.values[key]}",
        )
    skipped = frozenset(meant) | _FORKS
    check_keys(settings, argument_table("llamafactory"), refused_by=None if megatron else "LLaMA-Factory", skip=skipped)


def _check_texts(settings: ConfigReader) -> None:
    """Report texts in place of numbers as BK014, and interpolations, which stay as written, as BK018."""
    known = argument_table("llamafactory").arguments
    for key, value in settings.values.items():
        if not isinstance(value, str):
            continue
        if "${" in value:
            # A name that is no key of the file is a shell's: a script fills the file in before it is read.
            own = any(name in settings.values for name in re.findall(r"\$\{(\w+)\}", value))
            message = f"{value!r} is taken as it stands: LLaMA-Factory resolves no interpolations"
            hint = "write the value out, or give it on the command line"
            settings.find("BK018", Severity.WARNING if own else Severity.INFO, key, message, hint)
        elif key in known and known[key].kinds <= {"int", "float", "none"} and settings.number(key) is not None:
            place = settings.where(key)
            line = settings.document.lines[place.line - 1] if place.line else ""
            new = line.replace(f'"{value}"', value).replace(f"'{value}'", value)
            edits = (Edit(path=place.path, line=place.line, old=line, new=new),) if place.line and new != line else ()
            message = f"{value!r} is text, and LLaMA-Factory takes it as it is; a number is expected"
            settings.find("BK014", Severity.ERROR, key, message, f"{key}: {value}", edits)


@functools.cache
def templates() -> frozenset[str]:
    """Return the names of the chat templates of all releases."""
    return frozenset(parse_json(package_text("llamafactory", "templates.json")))


def _check_template(settings: ConfigReader, trains: bool) -> None:
    stated = settings.text("template")
    if stated is None:
        if trains and stage(settings) != "pt" and "template" not in settings.values:
            message = "not given: the tokenizer's own chat template is taken, by older releases none"
            settings.find("BK013", Severity.INFO, "template", message, "template: default")
        return
    if stated.value in templates() or "${" in stated.value:
        return
    # Another number is another model's template, which a newer release may well have.
    bare = _letters(stated.value)
    others = [name for name in templates() if _letters(name) != bare or name.casefold() == stated.value.casefold()]
    near = min(nearest(stated.value, sorted(others), 1), key=len, default=None)
    newer = any(_letters(name) == bare for name in templates())
    severity = Severity.ERROR if near is not None else Severity.INFO if newer else Severity.WARNING
    message = f"{stated.value!r} is none of LLaMA-Factory's templates" + (f"; did you mean {near!r}?" if near else "")
    settings.find("BK012", severity, "template", message, f"template: {near}" if near else None)


def _letters(name: str) -> str:
    return re.sub(r"[\d._]+", "", name.casefold())


FORMATS: tuple[ConfigFormat, ...] = (LlamaFactoryFormat(),)
"""This backend's formats."""
