"""Files of a tokenizer: tokenizer.json, special tokens, chat template."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from touchline.core.errors import HostError, InputError
from touchline.core.files import read_text_bounded
from touchline.core.finding import Finding, Location, Severity
from touchline.core.json_text import parse_json
from touchline.data.rendering.chat import SpecialTokens, parse_tokenizer
from touchline.data.rendering.sandbox import ChatTemplateError
from touchline.data.templates import IsolatedTemplate, expect_template

TOKENIZER = "tokenizer.json"
_LIMIT_BYTES = 256 << 20
_SAID_CHARACTERS = 300
_ANY_DATE = "2000-01-01"
"""Date for test compilations, which do not depend on it."""
_GET = "download the model's tokenizer files again"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFiles:
    """Tokenizer files of a model folder."""

    tokenizer_json: str | None
    """Content of tokenizer.json. None if it is missing or corrupt."""
    chat_template: str | None
    tokens: SpecialTokens
    sha256: str


def read_tokenizer(folder: Path, findings: list[Finding]) -> TokenizerFiles:
    """Read a tokenizer. Problems are added to `findings`."""
    config = _json(folder / "tokenizer_config.json", findings)
    special = _json(folder / "special_tokens_map.json", findings)
    template = _template(folder, config, findings)
    if template is not None:
        expect_template()
    path = folder / TOKENIZER
    text = _text(path, findings)
    tokenizer = None if text is None else _parsed(text, path, findings)
    names = {key: _token(config.get(f"{key}_token")) or _token(special.get(f"{key}_token")) for key in _SPECIAL}
    stops = () if tokenizer is None else _stops(tokenizer, _json(folder / "generation_config.json", findings))
    tokens = SpecialTokens(bos=names["bos"], eos=names["eos"], pad=names["pad"], unk=names["unk"], stops=stops)
    if tokenizer is not None:
        _check_stop(tokenizer, tokens, folder, findings)
    _check_template(template, folder, findings)
    digest = hashlib.sha256(json.dumps([text, template, str(tokens)]).encode()).hexdigest()
    return TokenizerFiles(
        tokenizer_json=None if tokenizer is None else text, chat_template=template, tokens=tokens, sha256=digest
    )


def read_chat_template(folder: Path) -> str | None:
    """Read only the chat template, without the vocabulary."""
    ignored: list[Finding] = []
    return _template(folder, _json(folder / "tokenizer_config.json", ignored), ignored)


_SPECIAL = ("bos", "eos", "pad", "unk")


def _parsed(text: str, path: Path, findings: list[Finding]) -> Tokenizer | None:
    try:
        return parse_tokenizer(text)
    except BaseException as error:
        # The library raises nothing narrower than Exception, and where its Rust code panics not even that.
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        findings.append(_error("TK101", path, f"tokenizer.json is invalid: {str(error)[:_SAID_CHARACTERS]}", _GET))
        return None


def _stops(tokenizer: Tokenizer, generation: dict[str, object]) -> tuple[str, ...]:
    ids = generation.get("eos_token_id")
    known = tokenizer.get_vocab_size(with_added_tokens=True)
    # Ids may have holes, so the bound is generous; beyond 32 bits the library refuses to look.
    listed = [i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int) and 0 <= i < 2 * known]
    return tuple(token for i in listed if (token := tokenizer.id_to_token(i)) is not None)


def _check_stop(tokenizer: Tokenizer, tokens: SpecialTokens, folder: Path, findings: list[Finding]) -> None:
    if any(token is not None and tokenizer.token_to_id(token) is not None for token in (tokens.eos, *tokens.stops)):
        return
    problem = "has no eos_token" if tokens.eos is None else f"has no token {tokens.eos!r}, its eos_token"
    hint = "set eos_token in tokenizer_config.json to the token that ends a turn"
    place = folder / "tokenizer_config.json"
    findings.append(_error("TK102", place, f"the tokenizer {problem}, so answers would not end", hint))


def _check_template(template: str | None, folder: Path, findings: list[Finding]) -> None:
    if template is None:
        findings.append(
            Finding(
                code="TK104",
                severity=Severity.INFO,
                subject=folder.name,
                message=f"model {folder.name}: no chat template, so chats are plain text",
                where=Location(path=str(folder)),
                hint="use an instruct model, which has a chat template",
            )
        )
        return
    try:
        IsolatedTemplate(template, _ANY_DATE)
    except ChatTemplateError as fault:
        findings.append(_error("TK103", folder, fault.message, _GET))


def _template(folder: Path, config: dict[str, object], findings: list[Finding]) -> str | None:
    """Return chat_template.jinja, as newer versions save it, else the entry of tokenizer_config.json."""
    apart = folder / "chat_template.jinja"
    if apart.is_file():
        return _text(apart, findings)
    inside = config.get("chat_template")
    if isinstance(inside, list):
        entries = [entry for entry in inside if isinstance(entry, dict)]
        inside = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    return inside if isinstance(inside, str) else None


def _token(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _json(path: Path, findings: list[Finding]) -> dict[str, object]:
    if not path.exists() or (text := _text(path, findings)) is None:
        return {}
    try:
        data = parse_json(text)
    except (ValueError, RecursionError) as error:
        findings.append(_error("TK103", path, f"{path.name} is not JSON: {error}", _GET))
        return {}
    if not isinstance(data, dict):
        findings.append(_error("TK103", path, f"{path.name} is not an object", _GET))
        return {}
    return data


def _text(path: Path, findings: list[Finding]) -> str | None:
    try:
        return read_text_bounded(path, _LIMIT_BYTES)
    except (InputError, HostError) as fault:
        findings.append(_error("TK101", path, fault.message, fault.hint or _GET))
        return None


def _error(code: str, path: Path, message: str, hint: str) -> Finding:
    name = path.name if path.is_dir() else path.parent.name
    return Finding(
        code=code,
        severity=Severity.ERROR,
        subject=name,
        message=f"model {name}: {message}",
        where=Location(path=str(path)),
        hint=hint,
    )
