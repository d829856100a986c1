"""The files of a tokenizer: tokenizer.json, special tokens, chat template."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from touchline.domain.finding import Finding, Severity, Where
from touchline.errors import InputFault
from touchline.files import read_text_bounded
from touchline.rendering import SpecialTokens

_LIMIT_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFiles:
    """What a model's folder says of its tokenizer."""

    tokenizer_json: str | None
    """Content of tokenizer.json; none when it is missing or broken."""
    chat_template: str | None
    """The chat template; none for a base model."""
    tokens: SpecialTokens
    """The special tokens."""
    sha256: str
    """Hash over all of it."""


def read_tokenizer(folder: Path, findings: list[Finding]) -> TokenizerFiles:
    """Read a tokenizer; what is wrong with it is added to `findings`."""
    text = _text(folder / "tokenizer.json", findings, required=True)
    config = _json(folder / "tokenizer_config.json", findings)
    special = _json(folder / "special_tokens_map.json", findings)
    generation = _json(folder / "generation_config.json", findings)
    template = _template(folder, config, findings)
    if text is not None:
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # noqa: BLE001 (the library raises nothing narrower)
            findings.append(_error("TK101", folder, f"tokenizer.json is broken: {error}", folder / "tokenizer.json"))
            text = None
    stops: list[str] = []
    if text is not None:
        ids = generation.get("eos_token_id")
        listed = ids if isinstance(ids, list) else [ids]
        stops = [token for i in listed if isinstance(i, int) and (token := tokenizer.id_to_token(i)) is not None]
    named = {name: _token(config.get(f"{name}_token")) or _token(special.get(f"{name}_token")) for name in ("bos", "eos", "pad", "unk")}
    if text is not None and named["eos"] is None and not stops:
        findings.append(_error("TK102", folder, "the tokenizer names no eos_token, so no answer would ever end", folder / "tokenizer_config.json"))
    tokens = SpecialTokens(bos=named["bos"], eos=named["eos"], pad=named["pad"], unk=named["unk"], stops=tuple(stops))
    digest = hashlib.sha256(json.dumps([text, template, str(tokens)]).encode()).hexdigest()
    return TokenizerFiles(tokenizer_json=text, chat_template=template, tokens=tokens, sha256=digest)


def _template(folder: Path, config: dict[str, Any], findings: list[Finding]) -> str | None:
    """chat_template.jinja where there is one, as newer versions save it; else the entry of tokenizer_config.json."""
    apart = folder / "chat_template.jinja"
    if apart.is_file():
        return _text(apart, findings, required=False)
    inside = config.get("chat_template")
    if isinstance(inside, list):
        named = {entry.get("name"): entry.get("template") for entry in inside if isinstance(entry, dict)}
        inside = named.get("default")
    return inside if isinstance(inside, str) else None


def _token(value: object) -> str | None:
    """A token that is written as text, or as an object with its text as `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _json(path: Path, findings: list[Finding]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    text = _text(path, findings, required=False)
    try:
        data = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        findings.append(_error("TK103", path.parent, f"{path.name} is not JSON: {error}", path))
        return {}
    return data if isinstance(data, dict) else {}


def _text(path: Path, findings: list[Finding], *, required: bool) -> str | None:
    if not required and not path.exists():
        return None
    try:
        return read_text_bounded(path, _LIMIT_BYTES)
    except InputFault as fault:
        findings.append(_error("TK101", path.parent, fault.message, path, "download the model's tokenizer files"))
        return None


def _error(code: str, folder: Path, message: str, path: Path, hint: str | None = None) -> Finding:
    return Finding(
        code=code,
        severity=Severity.ERROR,
        subject=folder.name,
        message=f"model {folder.name}: {message}",
        where=Where(path=str(path)),
        hint=hint,
    )
