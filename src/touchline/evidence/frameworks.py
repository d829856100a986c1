"""Lines of trainers that have no folder among the backends: each pattern is one program's own form.

Sources: litgpt/finetune/lora.py, mlx_lm/tuner/trainer.py, megatron/training/training.py, torchtitan/components/metrics.py,
mmengine/hooks/logger_hook.py, lightning/pytorch/trainer, keras/src/utils/progbar.py, llama-recipes train_utils.py,
nanoGPT/train.py, DeepSpeedExamples/applications/DeepSpeed-Chat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from touchline.domain.observation import Event, Observation, ObservationName, Sign, SignKind
from touchline.domain.quantity import Aggregation, MemoryKind, TokenUnit
from touchline.logtext.numbers import NUMBER, to_number
from touchline.logtext.reader import Row

_N = rf"({NUMBER})"
_V = rf"(nan|{NUMBER})"


class _Form:
    """One line's form: its pattern's named groups are the facts, `x_unit` of a name in `_UNITS`."""

    def __init__(self, trainer: str, needle: str, pattern: str) -> None:
        self.trainer = trainer
        self.needle = needle
        self.pattern = re.compile(pattern)


_FORMS = (
    _Form(
        "litgpt",
        "iter time:",
        rf"Epoch (?P<epoch>\d+) \| iter \d+ step (?P<step>\d+) \| loss train: (?P<loss>nan|{NUMBER}), *val: (?P<val>n/a|{NUMBER})",
    ),
    _Form("litgpt", "iter time:", rf"^iter \d+ step (?P<step>\d+): loss (?P<loss>nan|{NUMBER}), iter time:"),
    _Form("litgpt", "Training time:", rf"^Training time: (?P<seconds>{NUMBER})s\s*$"),
    _Form("litgpt", "Memory used:", rf"^Memory used: (?P<allocated>{NUMBER}) GB"),
    _Form("mlx", "It/sec", rf"^Iter (?P<step>\d+): Train loss (?P<loss>nan|{NUMBER}),.*?It/sec (?P<rate>{NUMBER})"),
    _Form("mlx", "Tokens/sec", rf"Tokens/sec (?P<label_tokens>{NUMBER})"),
    _Form("mlx", "Peak mem", rf"Peak mem (?P<peak_gb>{NUMBER}) GB"),
    _Form("mlx", "Val loss", rf"^Iter (?P<at>\d+): Val loss (?P<val>{NUMBER}), Val took (?P<val_seconds>{NUMBER})s"),
    _Form("mlx", "Starting training", r"^Starting training\.\.\., iters: (?P<total>\d+)"),
    _Form(
        "mlx",
        "Trainable parameters:",
        rf"^Trainable parameters: {NUMBER}% \((?P<trainable>{NUMBER}M)/(?P<all>{NUMBER}M)\)",
    ),
    _Form("mlx", "Saved final", r"^Saved final (?:adapter )?weights to (?P<trained>\S+)"),
    _Form(
        "megatron",
        "elapsed time per iteration",
        rf"iteration +(?P<step>\d+)/ *(?P<total>\d+) \|.*elapsed time per iteration \(ms\): (?P<ms>{NUMBER}) \|"
        rf"(?:.*?global batch size: +(?P<global>\d+) \|)?.*?(?:lm )?loss: (?P<loss>nan|{NUMBER})",
    ),
    _Form("megatron", "validation loss at", rf"validation loss at iteration \d+ .*?loss value: (?P<val>{NUMBER})"),
    _Form(
        "torchtitan",
        "tps:",
        rf"step: +(?P<step>\d+) +loss: +(?P<loss>nan|{NUMBER}).*?memory: +(?P<reserved>{NUMBER})GiB\(.*?tps: +(?P<padded_tokens>{NUMBER})",
    ),
    _Form("torchtitan", "Training completed", r"\[titan\].* - INFO - (?P<trained>Training completed)$"),
    _Form(
        "mmengine",
        "Iter(train)",
        rf"Iter\(train\) \[ *(?P<step>\d+)/(?P<total>\d+)\].*? time: (?P<pace>{NUMBER}) .*?memory: (?P<mib>\d+) .*?loss: (?P<loss>nan|{NUMBER})",
    ),
    _Form("nanogpt", "train loss", rf"^step (?P<at>\d+): train loss {NUMBER}, val loss (?P<val>{NUMBER})"),
    _Form("nanogpt", "time", rf"^iter (?P<step>\d+): loss (?P<loss>nan|{NUMBER}), time {NUMBER}ms"),
    _Form("mingpt", "iter_dt", rf"iter_dt {NUMBER}ms; iter (?P<step>\d+): train loss (?P<loss>nan|{NUMBER})"),
    _Form(
        "llama-recipes",
        "completed (loss:",
        rf"Training Epoch: (?P<epoch>\d+)(?:/(?P<epochs>\d+))?, step \d+/\d+ completed \(loss: (?P<loss>nan|{NUMBER})\)",
    ),
    _Form(
        "deepspeed",
        "Samples/sec",
        rf"^Model Parameters: .*?Samples/sec: (?P<samples>{NUMBER}),.*?Batch Size: (?P<micro>\d+)",
    ),
    _Form("deepspeed", "Rank:", rf"^Epoch: (?P<epoch>\d+), Step: \d+, Rank: \d+, loss = (?P<loss>nan|{NUMBER})"),
    _Form(
        "keras", "/step - ", rf"━+ .*?/step - .*?\bloss: (?P<loss>nan|{NUMBER})(?:.*?\bval_loss: (?P<val>{NUMBER}))?"
    ),
    _Form(
        "keras",
        "/step - ",
        rf"^\d+/\d+ \[=+>?\.*\] - .*?\bloss: (?P<loss>nan|{NUMBER})(?:.*?\bval_loss: (?P<val>{NUMBER}))?",
    ),
    _Form(
        "mindformers",
        "per_step_time",
        rf"Epoch:\[ *(?P<epoch>\d+)/ *(?P<epochs>\d+)\], *step:\[ *\d+/ *\d+\], *loss: *\[?(?P<loss>nan|{NUMBER})",
    ),
    _Form(
        "paddlenlp",
        "interval_runtime",
        rf"loss: (?P<loss>nan|{NUMBER}),.*?global_step: (?P<step>\d+),",
    ),
    _Form(
        "fairseq",
        "num_updates",
        rf"train_inner.*?\bloss=(?P<loss>nan|{NUMBER}),.*?num_updates=(?P<step>\d+)",
    ),
    _Form("lightning", "Trainable params", rf"^{_N} *(?P<unit>[KMB]?) +Trainable params$"),
    _Form(
        "lightning", "`Trainer.fit` stopped", r"`Trainer\.fit` stopped: `max_(?:epochs|steps)=\d+` (?P<trained>reached)"
    ),
)
_SIMPLE: dict[str, tuple[ObservationName, str]] = {
    "total": ("steps_total", "steps"),
    "epochs": ("epochs", "epochs"),
    "global": ("global_batch_size", "1"),
    "micro": ("micro_batch_size", "1"),
    "samples": ("train_samples_per_second", "rows/s"),
    "trainable": ("trainable_parameters", "parameters"),
    "all": ("total_parameters", "parameters"),
    "seconds": ("train_seconds", "s"),
    "val_seconds": ("eval_seconds", "s"),
    "rate": ("train_steps_per_second", "steps/s"),
}
_MEMORY: dict[str, tuple[MemoryKind, float, str]] = {
    "allocated": ("allocated", 1.0, "GB"),
    "peak_gb": ("allocated", 1.0, "GB"),
    "reserved": ("reserved", 1.0, "GiB"),
    "mib": ("allocated", 1 / 1024, "GiB"),
}
"""litgpt and MLX divide by 10⁹, torchtitan by 1024³; mmengine prints MiB."""
_TOKENS: dict[str, TokenUnit] = {"label_tokens": "label", "padded_tokens": "padded"}


def is_framework_line(text: str) -> bool:
    """Whether a line is in a framework's own form: no other reader takes losses from it."""
    return any(form.needle in text and form.pattern.search(text) for form in _FORMS)


class FrameworkLines:
    """Reads one file's lines of trainers that are no backend."""

    words: ClassVar[frozenset[str]] = frozenset(
        {
            *("iter", "iters", "sec", "mem", "trainable", "weights", "iteration", "tps", "iter_dt", "completed"),
            *(
                "memory",
                "samples",
                "rank",
                "titan",
                "step",
                "per_step_time",
                "interval_runtime",
                "num_updates",
                "fit",
                "time",
            ),
        }
    )

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Events of one line."""
        if len(text) > 1000:
            return
        for form in _FORMS:
            if form.needle in text and (match := form.pattern.search(text)) is not None:
                yield from self._facts(form.trainer, match, text, number)

    def row(self, row: Row, text: str, number: int) -> Iterator[Event]:
        """Nothing: rows of loops are read elsewhere."""
        del row, text, number
        return iter(())

    def _facts(self, trainer: str, match: re.Match[str], text: str, number: int) -> Iterator[Event]:
        found = {name: value for name, value in match.groupdict().items() if value is not None}
        step = int(found["step"]) if "step" in found else None
        epoch = float(found["epoch"]) if "epoch" in found else None
        yield Observation(name="trainer", value=trainer, line=number)
        if "unit" in found:
            scale = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}[found["unit"]]
            value = to_number(match.group(1))
            if value is not None:
                yield Observation(name="trainable_parameters", value=value * scale, line=number, unit="parameters")
        loss = to_number(found.get("loss"))
        if loss is not None:
            yield Observation(name="loss", value=loss, line=number, unit="nats", step=step, epoch=epoch)
        elif "loss" in found:
            yield Sign(kind=SignKind.NOT_A_NUMBER, line=number, text=text[:300], step=step)
        if (validation := to_number(found.get("val"))) is not None:
            yield Observation(name="eval_loss", value=validation, line=number, unit="nats", step=step, epoch=epoch)
        yield from self._measures(found, number, step)
        if "trained" in found or "seconds" in found:
            yield Sign(kind=SignKind.TRAINED, line=number, text=text[:300])

    @staticmethod
    def _measures(found: dict[str, str], number: int, step: int | None) -> Iterator[Event]:
        for key, (name, unit) in _SIMPLE.items():
            if (value := to_number(found.get(key))) is not None:
                mean: Aggregation | None = "mean" if unit.endswith("/s") else None
                yield Observation(name=name, value=value, line=number, unit=unit, aggregation=mean)
        for key, (kind, scale, unit) in _MEMORY.items():
            if (value := to_number(found.get(key))) is not None:
                yield Observation(
                    name="peak_memory",
                    value=value * scale,
                    line=number,
                    unit=unit,
                    phase="step",
                    kind=kind,
                    aggregation="peak",
                )
        for key, tokens in _TOKENS.items():
            if (value := to_number(found.get(key))) is not None:
                yield Observation(
                    name="tokens_per_second",
                    value=value,
                    line=number,
                    unit="tokens/s",
                    token_unit=tokens,
                    aggregation="mean",
                )
        for key, scale in (("ms", 1e-3), ("pace", 1.0)):
            if (value := to_number(found.get(key))) is not None and value > 0:
                yield Observation(
                    name="step_seconds", value=value * scale, line=number, unit="s", step=step, aggregation="mean"
                )
