"""Words and numbers of LLaMA-Factory's file that its enums and loaders refuse, or that train something else.

Source: llamafactory.extras.constants, llamafactory.data.loader, llamafactory.hparams (0.9.5).
"""

from __future__ import annotations

import re
from typing import Final

from touchline.backends.config_reading import ConfigReader
from touchline.core.finding import Severity
from touchline.core.near import near_choice

_METHODS: Final = ("bnb", "bitsandbytes", "gptq", "awq", "aqlm", "quanto", "eetq", "hqq", "mxfp4", "fp8")
_KERNELS: Final = ("auto", "disabled", "sdpa", "fa2", "fa3", "flash_attention_2", "flash_attention_3", "off", "on")
_FAMILIES: Final = (
    ("qwen", re.compile(r"qwen|qwq|qvq"), re.compile(r"^qwen")),
    ("Llama 2", re.compile(r"llama-?2"), re.compile(r"^llama2")),
    ("Llama 3", re.compile(r"llama-?3"), re.compile(r"^llama3")),
    ("Mistral", re.compile(r"mistral|mixtral|ministral"), re.compile(r"^mistral|^ministral")),
    ("Gemma", re.compile(r"gemma"), re.compile(r"^gemma")),
    ("Phi", re.compile(r"(?<![a-z])phi-?[1-9]"), re.compile(r"^phi")),
    ("ChatGLM", re.compile(r"glm"), re.compile(r"glm")),
    ("Baichuan", re.compile(r"baichuan"), re.compile(r"^baichuan")),
    ("InternLM", re.compile(r"internlm"), re.compile(r"^intern")),
)
"""A family, how its models' names look, and how its templates' names begin."""


def check_habits(settings: ConfigReader) -> None:
    """Report wrong settings, each by itself, as BK012, BK016 and BK019."""
    method = settings.text("quantization_method")
    if method is not None and method.value not in _METHODS:
        near = near_choice(method.value, _METHODS)
        message = f"{method.value!r}; expected one of {', '.join(_METHODS)}"
        severity = Severity.ERROR if near else Severity.WARNING
        settings.find("BK012", severity, "quantization_method", message, f"quantization_method: {near}")
    kernel = settings.text("flash_attn")
    if kernel is not None and kernel.value not in _KERNELS:
        message = f"{kernel.value!r}; expected one of {', '.join(_KERNELS[:5])}"
        settings.find("BK012", Severity.WARNING, "flash_attn", message, "flash_attn: auto")
    rows = settings.number("max_samples")
    if rows is not None and rows.value <= 0:
        settings.find("BK012", Severity.ERROR, "max_samples", f"{rows.value:g} rows of each dataset are none")
    size = settings.number("val_size")
    if size is not None and (size.value < 0 or (size.value > 1 and size.value != int(size.value))):
        message = f"{size.value:g}; expected a share below 1, or a whole number of rows"
        settings.find("BK012", Severity.ERROR, "val_size", message, "val_size: 0.1")
    target = settings.text("lora_target")
    if target is not None and re.search(r"[;| ]", target.value.replace(", ", ",")) and "(" not in target.value:
        message = f"{target.value!r}; expected names with commas between them"
        settings.find("BK012", Severity.ERROR, "lora_target", message, "lora_target: q_proj,v_proj")
    stage = settings.values.get("stage")
    for key in ("pref_beta", "pref_loss") if stage in ("sft", "pt") else ():
        if settings.given(key):
            message = f"has no effect: it is of preference training, and stage is {stage}"
            settings.find("BK019", Severity.WARNING, key, message, "stage: dpo")
            break
    if settings.text("resume_from_checkpoint") is not None and settings.on("overwrite_output_dir"):
        message = "is to be resumed from, but overwrite_output_dir overwrites its folder"
        settings.find("BK016", Severity.WARNING, "resume_from_checkpoint", message, "overwrite_output_dir: false")
    _check_family(settings)


def check_idle(settings: ConfigReader) -> None:
    """Report a training with `do_train` off that does nothing else either, as BK019."""
    train = settings.flag("do_train")
    if train is None or train.value or any(settings.on(key) for key in ("do_predict", "do_eval")):
        return
    if settings.given("num_train_epochs", "learning_rate") and settings.given("dataset"):
        message = "nothing is trained, though the file gives data and a learning rate"
        settings.find("BK019", Severity.WARNING, "do_train", message, "do_train: true")


def _check_family(settings: ConfigReader) -> None:
    """Report a template of another family than the model's, if both names are clear."""
    template, model = settings.text("template"), settings.text("model_name_or_path")
    if template is None or model is None:
        return
    name, word = model.value.rpartition("/")[2].casefold(), template.value.casefold()
    models = [family for family, names, _ in _FAMILIES if names.search(name)]
    marks = [(family, names) for family, names, templates in _FAMILIES if templates.search(word)]
    if len(models) != 1 or len(marks) != 1 or marks[0][0] == models[0]:
        return
    message = f"{template.value} is written with marks of {marks[0][0]}, and the model is of {models[0]}"
    # A base model takes any template; one that was tuned with its own does not.
    tuned = re.search(r"instruct|chat|(?<![a-z])it(?![a-z])", name) is not None
    severity = Severity.WARNING if tuned else Severity.INFO
    settings.find("BK016", severity, "template", message, "the template that the model was tuned with")
