"""Model folders in Hugging Face format, read without torch: description, completeness and rendering."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from touchline.core.catalog import COPIED_FILES, Dimensions, ModelInfo
from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Severity
from touchline.core.json_text import parse_json
from touchline.core.near import near_names
from touchline.core.quantity import Missing
from touchline.data.images import read_image_rule
from touchline.data.public import cached_snapshot, how_to_get, is_hub_id
from touchline.data.rendering.chat import NO_IMAGES, ChatRenderer
from touchline.data.tokenizer import TOKENIZER, IsolatedTemplate, read_tokenizer
from touchline.data.user_config import load_settings
from touchline.data.weights import Shard, model_fault, read_shards
from touchline.experiment.names import ModelLabel, label_of

_CONFIG_LIMIT_BYTES = 16 << 20
# Older architectures have names of their own for the same things.
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_DIGITS = re.compile(r"\d+")


def find_models(models_dir: Path) -> list[ModelInfo]:
    """Return every folder under `models_dir` with a config.json, by name. Hidden ones are incomplete downloads."""
    return [read_model(folder) for folder in _folders(models_dir) if _is_model(folder)]


def load_model(name_or_path: str, models_dir: Path) -> ModelInfo:
    """Load a model by its name under `models_dir`, or by path.

    Raises:
        InputError: it is not there; says what is, and how to get it.
    """
    for folder in _candidates(name_or_path, models_dir):
        if _is_model(folder):
            return read_model(folder)
    raise _unknown(name_or_path, models_dir)


def locate_model(path: str, weights_sha256: str) -> str:
    """Return the folder on this machine of a model named in a plan or checkpoint.

    A recorded folder that is not here is looked for by its name under `models_dir`, and taken if its weights have the
    recorded hash.

    Args:
        weights_sha256: `ModelInfo.weights_sha256` as it was recorded.

    Returns:
        The folder, or `path` where there is no such model.
    """
    if _is_model(Path(path)):
        return path
    here = load_settings().models_dir / Path(path).name
    return str(here) if _is_model(here) and read_model(here).weights_sha256 == weights_sha256 else path


def read_model(folder: Path) -> ModelInfo:
    """Read a model folder; its problems are in `findings`."""
    # Not resolved: a link under models_dir gives the model the name that people call it by.
    folder = folder.absolute()
    findings: list[Finding] = []
    config_text, config = _config(folder, findings)
    shards = read_shards(folder, findings)
    tokenizer = read_tokenizer(folder, findings)
    findings += _disagreements(folder, config, shards, whole=not findings)
    parameters = _parameters(shards, config)
    label = label_of(folder.name)
    return ModelInfo(
        name=folder.name,
        path=str(folder),
        architecture=_architecture(config),
        model_type=_text(config.get("model_type")),
        dtype=_dtype(shards) or _text(config.get("dtype")) or _text(config.get("torch_dtype")),
        num_parameters=parameters,
        weight_bytes=sum(shard.size_bytes for shard in shards),
        context_length=_number(config, _CONTEXT, findings, folder),
        vocab_size=_number(config, ("vocab_size",), findings, folder),
        num_layers=_number(config, _LAYERS, findings, folder),
        hidden_size=_number(config, _HIDDEN, findings, folder),
        has_chat_template=tokenizer.chat_template is not None,
        stop_token=tokenizer.tokens.eos,
        config_sha256=hashlib.sha256(config_text.encode()).hexdigest(),
        tokenizer_sha256=tokenizer.sha256 if (folder / TOKENIZER).is_file() else Missing(missing="not here"),
        weights_sha256=_weights_hash(shards) if shards else Missing(missing="not here"),
        size_label=size_of_model(label, parameters),
        family=label.family,
        vision=isinstance(config.get("vision_config"), dict),
        copied_bytes=_copied_bytes(folder),
        dimensions=_dimensions(config),
        weight_files=tuple(shard.name for shard in shards),
        findings=tuple(findings),
    )


def _copied_bytes(folder: Path) -> int:
    total = 0
    for name in COPIED_FILES:
        with contextlib.suppress(OSError):
            total += (folder / name).stat().st_size
    return total


def load_renderer(model: ModelInfo, date: str) -> ChatRenderer:
    """Return the renderer of chats to this model's tokens.

    Raises:
        InputError: tokenizer or chat template is missing or broken.
    """
    findings: list[Finding] = []
    files = read_tokenizer(Path(model.path), findings)
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors or files.tokenizer_json is None:
        raise InputError(f"the tokenizer of {model.name} cannot be used", findings=errors)
    images = read_image_rule(Path(model.path)) if model.vision else NO_IMAGES
    return ChatRenderer(files.chat_template, files.tokenizer_json, files.tokens, date, IsolatedTemplate, images)


def _folders(models_dir: Path) -> list[Path]:
    try:
        return sorted(path for path in models_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        raise HostError(
            f"no permission to list {str(models_dir)!r}",
            expected="the folder with your models",
            hint="set TOUCHLINE_MODELS_DIR to another folder",
        ) from None


def _is_model(folder: Path) -> bool:
    try:
        return (folder / "config.json").is_file()
    except OSError:
        # A name that is too long for the file system, or a folder that may not be entered: no model for this user.
        return False


def _candidates(name_or_path: str, models_dir: Path) -> list[Path]:
    """Return possible folders of a model. A bare name means the one under `models_dir`."""
    try:
        here = Path(name_or_path).expanduser()
    except RuntimeError:
        here = Path(name_or_path)
    there = models_dir / name_or_path
    return [there, here] if Path(name_or_path).name == name_or_path else [here, there]


def _unknown(name_or_path: str, models_dir: Path) -> InputError:
    present = [folder.name for folder in _folders(models_dir)]
    name = Path(name_or_path).name or name_or_path
    get = how_to_get(name_or_path, models_dir)
    if name == name_or_path and name in present:
        # The folder is there and is not a model.
        problem = f"{str(models_dir / name)!r} has no config.json (incomplete download?)"
        return _not_here(name_or_path, problem, get)
    folded = {entry.casefold(): entry for entry in present}
    near = [folded[match] for match in near_names(name.casefold(), folded, most=3, cutoff=0.7)]
    listed = f"similar names: {', '.join(near)}" if near else f"models there: {', '.join(present) or 'none'}"
    # Other digits are another size or version, and no slip of the keyboard.
    same = [match for match in near if _DIGITS.findall(match) == _DIGITS.findall(name)]
    guess = f"did you mean {same[0]!r}? Otherwise: {get}" if same else get
    if not is_hub_id(name_or_path):
        problem = f"not a folder with a config.json, here or under {str(models_dir)!r} ({listed})"
        return _not_here(name_or_path, problem, guess)
    looked = ", ".join(repr(str(folder)) for folder in _candidates(name_or_path, models_dir))
    problem = f"a Hugging Face Hub id, but there is no folder {looked}, and touchline does not download models here"
    if _is_model(models_dir / name):
        return _not_here(name_or_path, f"{problem} ({name!r} is under models_dir)", f"models: [{name}]")
    if (cached := cached_snapshot(name_or_path)) is not None:
        return _not_here(name_or_path, f"{problem} (it is in the huggingface_hub cache)", f"models: [{cached}]")
    return _not_here(name_or_path, f"{problem} ({listed})", guess)


def _not_here(name: str, said: str, hint: str) -> InputError:
    wanted = f"models: [{Path(name).name}], once it is under models_dir"
    expected = wanted if is_hub_id(name) else "a model under models_dir, or a path"
    return InputError(f"model {name!r}: {said}", expected=expected, hint=hint)


def _config(folder: Path, findings: list[Finding]) -> tuple[str, dict[str, object]]:
    """Return config.json as text and as data; for a composite model, the text part."""
    path = folder / "config.json"
    text = ""
    try:
        text = read_text_bounded(path, _CONFIG_LIMIT_BYTES)
        data = parse_json(text)
    except (InputError, HostError) as fault:
        findings.append(model_fault("CK101", folder, fault.message, path))
        return text, {}
    except (ValueError, RecursionError) as error:
        findings.append(model_fault("CK101", folder, f"config.json is not JSON: {error}", path))
        return text, {}
    if not isinstance(data, dict):
        findings.append(model_fault("CK101", folder, "config.json is not an object", path))
        return text, {}
    if "auto_map" in data or data.get("trust_remote_code"):
        message = "config.json names custom code (auto_map), which touchline does not run"
        hint = "use a model that transformers supports without custom code"
        findings.append(model_fault("CK105", folder, message, path, hint, Severity.WARNING))
    inner = data.get("text_config")
    return text, {**inner, **data} if isinstance(inner, dict) else data


def _architecture(config: dict[str, object]) -> str:
    listed = config.get("architectures")
    return _text(listed[0]) if isinstance(listed, list) and listed else ""


def _number(config: dict[str, object], keys: Sequence[str], findings: list[Finding], folder: Path) -> int:
    key = next((name for name in keys if name in config), keys[0])
    value = config.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    # After a config.json that cannot be read at all, four more faults of it would tell nothing.
    if config:
        problem = "is missing" if key not in config else f"is {value!r}"
        message = f"config.json: {key} {problem}, expected a positive integer"
        findings.append(model_fault("CK101", folder, message, folder / "config.json"))
    return 1


def _dimensions(config: dict[str, object]) -> Dimensions | None:
    heads, hidden, inner = (config.get(key) for key in ("num_attention_heads", "hidden_size", "intermediate_size"))
    # transformers 5 writes the base into the scaling, earlier versions beside it.
    written = config.get("rope_parameters") or config.get("rope_scaling")
    scaling = dict(written) if isinstance(written, dict) else {}
    base = scaling.pop("rope_theta", None) or config.get("rope_theta", 10000.0)
    eps = config.get("rms_norm_eps")
    if not (isinstance(heads, int) and heads and isinstance(hidden, int) and isinstance(inner, int)):
        return None
    if not (isinstance(base, int | float) and isinstance(eps, int | float)):
        return None
    kv_heads, width = config.get("num_key_value_heads"), config.get("head_dim")
    return Dimensions(
        num_heads=heads,
        num_kv_heads=kv_heads if isinstance(kv_heads, int) else heads,
        head_dim=width if isinstance(width, int) else hidden // heads,
        intermediate_size=inner,
        norm_eps=float(eps),
        rope_base=float(base),
        rope_scaling={} if scaling.get("rope_type", scaling.get("type", "default")) == "default" else scaling,
        tied_embeddings=config.get("tie_word_embeddings") is True,
        biased=config.get("attention_bias") is True or config.get("mlp_bias") is True,
        windowed=config.get("use_sliding_window") is True or config.get("model_type") == "mistral",
    )


def _parameters(shards: Sequence[Shard], config: dict[str, object]) -> int:
    """Return the parameters of all shards; a tied output layer is counted once."""
    tensors = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    total = sum(tensor.elements for tensor in tensors.values())
    output = tensors.get("lm_head.weight")
    embeddings = [tensor.elements for name, tensor in tensors.items() if name.endswith("embed_tokens.weight")]
    if config.get("tie_word_embeddings") is True and output is not None and output.elements in embeddings:
        return total - output.elements
    return total


def _dtype(shards: Sequence[Shard]) -> str:
    """Return the dtype of most of the weights by size. Empty without weights."""
    weight = Counter[str]()
    for shard in shards:
        for tensor in shard.tensors.values():
            weight[tensor.dtype] += tensor.size_bytes
    return weight.most_common(1)[0][0] if weight else ""


def _weights_hash(shards: Sequence[Shard]) -> str:
    identity = [[shard.name, shard.size_bytes, shard.header_sha256] for shard in shards]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def size_of_model(label: ModelLabel, parameters: int) -> str:
    """Return the size in a model's name, else of its parameters: `135M` for 134,515,008, one decimal below ten."""
    if label.size != label.name or not parameters:
        return label.size
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= 0.9995 * scale:
            value = parameters / scale
            return f"{value:.0f}{unit}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0") + unit
    return str(parameters)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


_EMBEDDING = "model.embed_tokens.weight"
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
_AGAIN = "download config.json and weights of the same model again"


def _disagreements(
    folder: Path, config: Mapping[str, object], shards: Sequence[Shard], *, whole: bool
) -> Iterator[Finding]:
    """Return the contradictions between files of a model folder that break loading or training."""
    place = folder / "config.json"
    if config and not config.get("model_type"):
        yield model_fault("TK230", folder, "config.json has no model_type", place, _AGAIN)
    if whole and "quantization_config" not in config and "text_config" not in config:
        yield from (model_fault("TK230", folder, each, place, _AGAIN) for each in _sizes(config, shards))


def _sizes(config: Mapping[str, object], shards: Sequence[Shard]) -> Iterator[str]:
    hidden, vocabulary, layers = (_count(config, key) for key in ("hidden_size", "vocab_size", "num_hidden_layers"))
    tensors = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    embedding = tensors.get(_EMBEDDING)
    if embedding is not None and hidden and vocabulary and embedding.elements != hidden * vocabulary:
        yield (
            f"the weights' embedding has {embedding.elements:,} values, but config.json has vocab_size "
            f"{vocabulary} x hidden_size {hidden}"
        )
    numbers = [int(match.group(1)) for name in tensors if (match := _LAYER.match(name))]
    if numbers and layers and layers > max(numbers) + 1:
        yield f"config.json has num_hidden_layers {layers}, but the weights have {max(numbers) + 1} layers"


def _count(config: Mapping[str, object], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
