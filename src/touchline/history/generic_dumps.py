"""Configurations as programs dump them before a training: `seq_length ........ 1024`, `'lr': 1e-06,`, `epochs: 3`.

A name counts only as a whole, and before the first loss. Dotted dumps are Megatron's and DeepSpeed's own and certain;
all others are guesses that give way to what a trainer says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from touchline.backends.logtext.dicts import read_row
from touchline.backends.logtext.numbers import to_number
from touchline.backends.logtext.reader import Row
from touchline.core.observation import Event, ObservationName
from touchline.history.generic_voice import Voice
from touchline.history.tracebacks import unprefixed

_LENGTH_LIMIT = 400
_FEW = 2
_MEASURED = frozenset({"step", "global_step", "current_steps", "epoch", "train_runtime", "messages", "text", "prompt"})
"""Keys of rows of metrics or of data."""
_LINE_LIMIT = 20_000
_KEYS: Mapping[ObservationName, str] = {
    "micro_batch_size": (
        "micro_batch_size per_device_train_batch_size train_micro_batch_size_per_gpu micro_batch_size_per_gpu"
        " batch_size per_device_batch_size device_batch_size per_gpu_train_batch_size ppo_micro_batch_size_per_gpu"
        " micro_train_batch_size"
    ),
    "global_batch_size": "global_batch_size effective_batch_size total_batch_size global_train_batch_size",
    "gradient_accumulation_steps": (
        "gradient_accumulation_steps grad_accum_steps grad_accumulation_steps accumulation_steps"
        " accumulate_grad_batches gradient_accumulation grad_accum gradient_accumulation_iters"
    ),
    "epochs": "epochs num_epochs num_train_epochs max_epochs total_epochs n_epochs train_epochs",
    "steps_total": (
        "max_steps train_iters train_steps num_iterations iterations max_iters total_steps total_training_steps"
        " num_training_steps max_train_steps max_step max_iter total_step num_train_steps"
    ),
    "learning_rate": "learning_rate lr actor_learning_rate",
    "max_seq_len": (
        "seq_length max_seq_length max_seq_len sequence_length block_size context_length model_max_length cutoff_len"
        " max_sequence_length seq_len train_seq_len max_len"
    ),
    "lora_rank": "lora_r lora_rank lora_dim",
    "lora_alpha": "lora_alpha",
    "gpus": "world_size num_gpus n_gpus ngpus",
    "trainable_parameters": "trainable_params trainable_parameters",
    "total_parameters": "model_params num_params total_params n_params",
}
_NUMBERS: dict[str, ObservationName] = {key: name for name, keys in _KEYS.items() for key in keys.split()}
_WORD_KEYS: Mapping[str, ObservationName] = {
    **dict.fromkeys(("model_name_or_path", "model_name", "base_model", "pretrained_model_name_or_path"), "model"),
    **dict.fromkeys(("model_path", "model_id", "base_model_name", "pretrain"), "model"),
    **dict.fromkeys(("optimizer", "optim", "optimizer_name"), "optimizer"),
    **dict.fromkeys(("params_dtype", "torch_dtype", "dtype", "mixed_precision", "precision"), "dtype"),
}
_SWITCHES: Mapping[str, tuple[ObservationName, str]] = {
    "bf16": ("dtype", "bfloat16"),
    "fp16": ("dtype", "float16"),
    "bfloat16_enabled": ("dtype", "bfloat16"),
    "fp16_enabled": ("dtype", "float16"),
    "gradient_checkpointing": ("gradient_checkpointing", "true"),
    "enable_gradient_checkpointing": ("gradient_checkpointing", "true"),
}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "half": "float16", "bf16-true": "bfloat16"}
_DTYPES |= {"bf16-mixed": "bfloat16", "16-mixed": "float16", "amp_bf16": "bfloat16"}
_UNITS: Mapping[ObservationName, str] = {
    **{"epochs": "epochs", "steps_total": "steps", "max_seq_len": "tokens"},
    **{"trainable_parameters": "parameters", "total_parameters": "parameters"},
}
_DOTTED = re.compile(r"(?:^|[\s\]])(?P<key>[a-z][\w-]{1,60}) \.{3,} ?(?P<value>\S.*?)\s*$")
_PAIR = re.compile(
    r"^[^\w'\"{(\[]*[{(\[]*'?(?P<key>[A-Za-z]\w{0,60})'?(?:\s*[:=]\s*|\s{2,})(?P<value>['\"]?[^\s'\"{\[][^'\"{\[]*?['\"]?)"
    r"[,;)\]}]*\s*$"
)
_WITHIN = re.compile(r"(?<![\w.])(?P<key>[a-z_]\w{1,60})=(?P<value>'[^']*'|\"[^\"]*\"|[^\s,;()'\"]+)(?=[\s,;)]|$)")
_MODEL_ID = re.compile(r"[\w.~-]*(?:/[\w.-]+)+|[A-Za-z][\w.]*(?:-[\w.]+)+|gpt2|distilgpt2")
_NAMED = re.compile(r"[A-Za-z][\w-]{1,40}")
_JSON_BEGINS = re.compile(r"\[config\.py:\d+:print_user_config\]\s+json = \{")
"""DeepSpeed shows its user's configuration as JSON."""
_JSON_ENTRY = re.compile(
    r'\s*"(?P<key>train_batch_size|train_micro_batch_size_per_gpu|gradient_accumulation_steps)": (?P<value>\d+),?\s*$'
)
_JSON_LINES = 100
_SOURCE = re.compile(
    r"\s*(?:async )?def \w+\(|\s*class \w+[^:]{0,80}:\s*$|\s*self\.\w+ = |import \w+|from [\w.]+ import "
)
_SOURCE_LINES = 400
_LAUNCHERS_OWN = re.compile(r"\[config\.py:")
_OTHERS_OWN = re.compile(
    r"\b(?:v?LLM|sglang|engine|server)\b|TrainingArguments\(|\b[A-Z]{2,6}Config\(|\bLoraConfig\(", re.IGNORECASE
)
"""Lines of servers that generate text, and of arguments that have a reader of their own."""
_ENTRY = re.compile(r"'(?P<key>\w+)': (?P<value>[^\s{\[(][^,{}]*)")
_VERL_KEYS = frozenset(
    {
        *("ppo_micro_batch_size_per_gpu", "micro_batch_size_per_gpu", "lr", "lora_rank", "total_epochs"),
        *("total_training_steps", "optimizer", "enable_gradient_checkpointing"),
    }
)
_VERL_MODEL = re.compile(r"'model': \{")
_VERL_PATH = re.compile(r"'path': '(?P<path>[^']+)'")


class Dumps:
    """Reads one file's dumped configurations."""

    def __init__(self, voice: Voice) -> None:
        """Nothing was read."""
        self._voice = voice
        self._known: set[ObservationName] = set()
        self._is_dictionary = False
        self._in_model = False
        self._machine: list[float] = []
        self._source_line = 0
        self._json_line = 0

    def line(self, text: str, number: int) -> Iterator[Event]:
        """Events of one line; nothing once a loss was logged, for then names stand beside measurements."""
        if _SOURCE.match(text) is not None:
            self._source_line = number
        if self._voice.has_trained or len(text) > _LINE_LIMIT or "%|" in text or self.is_source(text, number):
            return
        if "...." in text and (match := _DOTTED.search(text)) is not None:
            is_launchers = _LAUNCHERS_OWN.search(text) is not None
            yield from self._dotted(match.group("key"), match.group("value"), number, is_launchers=is_launchers)
            return
        if _JSON_BEGINS.search(text) is not None:
            self._json_line = number
        if (
            self._json_line
            and number - self._json_line < _JSON_LINES
            and (match := _JSON_ENTRY.match(text)) is not None
        ):
            yield from self._dotted(match.group("key"), match.group("value"), number, is_launchers=True)
            return
        body = unprefixed(text)[1].strip()
        if body.startswith(("'", "{'")) or self._is_dictionary:
            yield from self._dictionary(body, number)
        if self._is_dictionary:
            return
        if body.endswith("}") and "{'" in body and (row := read_row(body)) is not None:
            yield from self.row(row, number)
            return
        if len(body) <= _LENGTH_LIMIT and (match := _PAIR.match(body)) is not None:
            yield from self._said(match.group("key"), match.group("value").strip().strip("'\""), number)
        elif body.count("=") >= 2 and _OTHERS_OWN.search(body) is None:
            pairs = [(match.group("key"), match.group("value").strip("'\"")) for match in _WITHIN.finditer(body)]
            known = [pair for pair in pairs if pair[0] in _NUMBERS or pair[0] in _WORD_KEYS or pair[0] in _SWITCHES]
            for key, value in known if len(known) > 1 else ():
                yield from self._said(key, value, number)

    def row(self, row: Row, number: int) -> Iterator[Event]:
        """Events of a dictionary that holds several settings and nothing that is measured."""
        keys = {str(key).lower() for key in row}
        known = keys & (_NUMBERS.keys() | _WORD_KEYS.keys() | _SWITCHES.keys())
        if self._voice.has_trained or len(known) < _FEW or any("loss" in key or key in _MEASURED for key in keys):
            return
        for key, value in row.items():
            if isinstance(value, int | float | str):
                yield from self._said(str(key), str(value), number)

    def is_source(self, text: str, number: int) -> bool:
        """Return True for a line that may be of a program's text, which some programs copy into their logs."""
        if not self._source_line or number - self._source_line >= _SOURCE_LINES or self._voice.has_trained:
            return False
        return text[:1] in (" ", "\t") or " = " in text or "(" in text or text.rstrip().endswith((":", ","))

    def _dotted(self, key: str, value: str, number: int, *, is_launchers: bool) -> Iterator[Event]:
        key = key.replace("-", "_")
        if is_launchers and key == "world_size":
            return  # DeepSpeed counts the data-parallel processes of its group there
        if key == "train_batch_size":
            key = "global_batch_size"
        yield from self._said(key, value, number, certain=True)

    def _dictionary(self, body: str, number: int) -> Iterator[Event]:
        """verl's configuration, sorted by name: the actor's settings stand before the critic's."""
        if "'actor_rollout_ref'" in body:
            self._is_dictionary = True
            yield from self._voice.once("trainer", "verl", number)
        if not self._is_dictionary:
            return
        if "'critic'" in body[:12]:
            self._in_model = False
        self._in_model = self._in_model or ("model" not in self._known and bool(_VERL_MODEL.search(body)))
        path = _VERL_PATH.search(body) if self._in_model else None
        if path is not None:
            self._in_model = False
            yield from self._once("model", path.group("path"), number, certain=True)
        for match in _ENTRY.finditer(body):
            key, value = match.group("key"), match.group("value").strip().strip("'")
            count = to_number(value)
            if key == "train_batch_size" and count:
                yield from self._once("global_batch_size", count, number, certain=True)
            elif key in ("n_gpus_per_node", "nnodes") and count:
                self._machine.append(count)
                if len(self._machine) == 2:
                    yield from self._once("gpus", self._machine[0] * self._machine[1], number, certain=True)
            elif key in _VERL_KEYS:
                yield from self._said(key, value, number, certain=True)

    def _said(self, key: str, value: str, number: int, *, certain: bool = False) -> Iterator[Event]:
        key = key.lower()
        switch = _SWITCHES.get(key)
        if switch is not None:
            if value.strip().rstrip(",").lower() == "true":
                yield from self._once(switch[0], switch[1], number, certain=certain)
            return
        name = _NUMBERS.get(key)
        count = to_number(value.rstrip(".")) if name is not None else None
        if name is not None:
            if count is not None and _is_plausible(name, count):
                yield from self._once(name, count, number, unit=_UNITS.get(name, "1"), certain=certain)
            return
        word = _WORD_KEYS.get(key)
        if word == "model" and _MODEL_ID.fullmatch(value) and _is_model(value):
            yield from self._once("model", value, number, certain=certain)
        elif word == "dtype":
            plain = value.removeprefix("torch.").lower()
            plain = _DTYPES.get(plain, plain)
            if plain in _DTYPES.values():
                yield from self._once("dtype", plain, number, certain=certain)
        elif word == "optimizer" and _NAMED.fullmatch(value) and value.lower() not in ("none", "null", "auto"):
            yield from self._once("optimizer", value.lower(), number, certain=certain)

    def _once(
        self, name: ObservationName, value: float | str, number: int, *, unit: str = "1", certain: bool = False
    ) -> Iterator[Event]:
        """A setting; in a dictionary the first of a name is the actor's."""
        if self._is_dictionary and (name in self._known or name == "lora_alpha"):
            return
        self._known.add(name)
        yield from self._voice.once(name, value, number, unit=unit, certain=certain)


def _is_plausible(name: ObservationName, count: float) -> bool:
    if name == "learning_rate":
        return 0 < count < 1
    return count >= 1 and (count == int(count) or name == "epochs")


def _is_model(name: str) -> bool:
    return not name.endswith(
        (".py", ".json", ".yaml", ".yml", ".txt", ".csv", ".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz")
    ) and ("/" in name or name in ("gpt2", "distilgpt2") or any(character.isdigit() for character in name))


WORDS: frozenset[str] = frozenset(
    {*(re.sub(r"\d+", "", key) for key in (*_NUMBERS, *_WORD_KEYS, *_SWITCHES)), "actor_rollout_ref", "nnodes"}
    | {"n_gpus_per_node", "train_batch_size", "path"}
) - {"", "dtype", "pretrain"} | {"def", "self", "import", "print_user_config"}
"""Words of their lines."""
