"""Model folders in Hugging Face format, read without torch: what they are, whether they are whole, how they render chats."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from touchline.catalog.shards import BrokenShard, Shard, read_shard
from touchline.catalog.tokenizer import TokenizerFiles, read_tokenizer
from touchline.domain.catalog import ModelInfo
from touchline.domain.finding import Finding, Severity, Where
from touchline.errors import InputFault
from touchline.files import read_text_bounded
from touchline.rendering import ChatRenderer
from touchline.spec.names import label_of

_JSON_LIMIT_BYTES = 64 << 20


def find_models(models_dir: Path) -> list[ModelInfo]:
    """Every folder under `models_dir` that has a config.json, by name."""
    if not models_dir.is_dir():
        return []
    folders = sorted(path for path in models_dir.iterdir() if (path / "config.json").is_file())
    return [read_model(folder) for folder in folders]


def load_model(name_or_path: str, models_dir: Path) -> ModelInfo:
    """A model by its name under `models_dir`, or by path.

    Raises:
        InputFault: it is not there; says what is, and how to get it.
    """
    for folder in (Path(name_or_path).expanduser(), models_dir / name_or_path):
        if (folder / "config.json").is_file():
            return read_model(folder)
    present = [path.name for path in models_dir.iterdir() if path.is_dir()] if models_dir.is_dir() else []
    near = difflib.get_close_matches(name_or_path, present, n=3, cutoff=0.5)
    name = Path(name_or_path).name
    listed = f"near names there: {', '.join(near)}" if near else f"there: {', '.join(sorted(present)) or 'nothing'}"
    get = f"touchline models get {name}" if name == "SmolLM2-135M-Instruct" else f"hf download ORG/{name} --local-dir {str(models_dir / name)!r}"
    raise InputFault(
        f"model {name_or_path!r} is not a folder with a config.json, here or under {str(models_dir)!r}; {listed}",
        hint=f"{get}    (or: models: [{near[0]}])" if near else get,
    )


def read_model(folder: Path) -> ModelInfo:
    """Read a model's folder; what is wrong with it is in `findings`."""
    folder = folder.resolve()
    findings: list[Finding] = []
    config_text, config = _config(folder, findings)
    shards = _shards(folder, findings)
    tokenizer = read_tokenizer(folder, findings)
    tensors = {name: entry for shard in shards for name, entry in shard.tensors.items()}
    parameters = sum(elements for _, elements in tensors.values())
    weight = Counter[str]()
    for dtype, elements in tensors.values():
        weight[dtype] += elements
    label = label_of(folder.name)
    size = label.size if label.size != label.name or not parameters else _size(parameters)
    return ModelInfo(
        name=folder.name,
        path=str(folder),
        architecture=_text((config.get("architectures") or [""])[0]),
        model_type=_text(config.get("model_type")),
        dtype=weight.most_common(1)[0][0] if weight else _text(config.get("dtype") or config.get("torch_dtype")),
        num_parameters=parameters,
        weight_bytes=sum(shard.size_bytes for shard in shards),
        context_length=_number(config, "max_position_embeddings", findings, folder),
        vocab_size=_number(config, "vocab_size", findings, folder),
        num_layers=_number(config, "num_hidden_layers", findings, folder),
        hidden_size=_number(config, "hidden_size", findings, folder),
        has_chat_template=tokenizer.chat_template is not None,
        stop_token=tokenizer.tokens.eos,
        config_sha256=hashlib.sha256(config_text.encode()).hexdigest(),
        tokenizer_sha256=tokenizer.sha256,
        weights_sha256=_weights_hash(shards),
        size_label=size,
        family=label.family,
        findings=tuple(findings),
    )


def load_renderer(model: ModelInfo, date: str) -> ChatRenderer:
    """What turns chats into this model's tokens.

    Raises:
        InputFault: the tokenizer is missing or broken.
    """
    findings: list[Finding] = []
    files: TokenizerFiles = read_tokenizer(Path(model.path), findings)
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors or files.tokenizer_json is None:
        raise InputFault(f"the tokenizer of {model.name} cannot be used", findings=errors)
    return ChatRenderer(files.chat_template, files.tokenizer_json, files.tokens, date)


def _config(folder: Path, findings: list[Finding]) -> tuple[str, dict[str, Any]]:
    path = folder / "config.json"
    try:
        text = read_text_bounded(path, _JSON_LIMIT_BYTES)
        data = json.loads(text)
    except InputFault as fault:
        findings.append(_error("CK101", folder, fault.message, path))
        return "", {}
    except (ValueError, RecursionError) as error:
        findings.append(_error("CK101", folder, f"config.json is not JSON: {error}", path))
        return text, {}
    if not isinstance(data, dict):
        findings.append(_error("CK101", folder, "config.json holds no object", path))
        return text, {}
    if "auto_map" in data:
        findings.append(
            Finding(
                code="CK105",
                severity=Severity.WARNING,
                subject=folder.name,
                message="config.json names code of its own (auto_map); touchline never runs it",
                where=Where(path=str(path)),
                hint="use a model that transformers has itself",
            )
        )
    return text, data


def _shards(folder: Path, findings: list[Finding]) -> list[Shard]:
    """The safetensors files that the index names, or the single one; what is missing or cut off is a finding."""
    index = folder / "model.safetensors.index.json"
    names: Iterable[str]
    if index.is_file():
        try:
            names = sorted({str(name) for name in json.loads(read_text_bounded(index, _JSON_LIMIT_BYTES))["weight_map"].values()})
        except (InputFault, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            findings.append(_error("CK102", folder, f"the index of the shards is broken: {error}", index))
            return []
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    names = [Path(name).name for name in names]
    if not names:
        pickled = any(folder.glob("*.bin"))
        message = "it has only .bin weights, which are pickles and are never opened" if pickled else "it has no weights"
        findings.append(_error("CK103", folder, message, folder, "download the .safetensors files of this model"))
    found: list[Shard] = []
    for name in names:
        path = folder / name
        try:
            shard = read_shard(path)
        except FileNotFoundError:
            findings.append(_error("CK104", folder, f"shard {name} is missing, and the index names it", path, "download it again"))
            continue
        except (BrokenShard, OSError) as error:
            findings.append(_error("CK104", folder, str(error), path, "download it again"))
            continue
        if shard.size_bytes != shard.expected_bytes:
            message = f"shard {name} has {shard.size_bytes:,} bytes, its header asks for {shard.expected_bytes:,}"
            findings.append(_error("CK104", folder, message, path, "download it again"))
        found.append(shard)
    return found


def _weights_hash(shards: list[Shard]) -> str:
    identity = [[shard.name, shard.size_bytes, shard.header_sha256] for shard in shards]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _number(config: dict[str, Any], key: str, findings: list[Finding], folder: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        findings.append(_error("CK101", folder, f"config.json: {key} is {value!r}, expected a positive integer", folder / "config.json"))
        return 1
    return value


def _size(parameters: int) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= scale:
            value = parameters / scale
            return f"{value:.0f}{unit}" if value >= 10 else f"{value:.1f}".removesuffix(".0") + unit
    return str(parameters)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _error(code: str, folder: Path, message: str, path: Path, hint: str | None = None) -> Finding:
    return Finding(
        code=code,
        severity=Severity.ERROR,
        subject=folder.name,
        message=f"model {folder.name}: {message}",
        where=Where(path=str(path)),
        hint=hint,
    )
