"""Ids of models on the Hugging Face Hub, and the command that downloads them."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

EXPORTABLE_MODEL = "SmolLM2-135M-Instruct"
"""Model that `touchline models get` can create."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ORGANISATIONS = (
    (r"smollm", "HuggingFaceTB"),
    (r"zephyr", "HuggingFaceH4"),
    (r"(?:meta-)?llama-?(?:2|3|4)|codellama", "meta-llama"),
    (r"tinyllama", "TinyLlama"),
    (r"(?:code|rec|pali|med)?gemma", "google"),
    (r"qwen|qwq", "Qwen"),
    (r"(?:mistral|mixtral|ministral|codestral|magistral|devstral)", "mistralai"),
    (r"phi-", "microsoft"),
    (r"olmo", "allenai"),
    (r"pythia|gpt-(?:neo|j)", "EleutherAI"),
    (r"gpt2|distilgpt2", "openai-community"),
    (r"gpt-oss", "openai"),
    (r"falcon", "tiiuae"),
    (r"deepseek", "deepseek-ai"),
    (r"granite", "ibm-granite"),
    (r"bloomz?", "bigscience"),
    (r"opt-", "facebook"),
    (r"yi-", "01-ai"),
)
_GATED = re.compile(
    r"meta-llama/.*|google/(?:code|rec|pali|med)?gemma.*|mistralai/(?:mixtral-8x22b|codestral|ministral|mistral-large).*"
    r"|bigcode/starcoder.*|deepmind/.*|coherelabs/.*",
    re.IGNORECASE,
)
"""Families whose license must be accepted on the Hub before a download."""


def is_hub_id(name: str) -> bool:
    """Return True if a name is `organisation/model` and not written as a path."""
    return _HUB_ID.fullmatch(name) is not None


def hub_id(name: str) -> str | None:
    """Return the Hub id of a model's name. None if its organization is unknown."""
    if is_hub_id(name):
        return name
    bare = Path(name).name
    found = next((place for known, place in _ORGANISATIONS if re.match(known, bare, re.IGNORECASE)), None)
    return None if found is None else f"{found}/{bare}"


def is_gated(identifier: str) -> bool:
    """Return True if the license must be accepted before the download."""
    return _GATED.fullmatch(identifier) is not None


def how_to_get(name: str, models_dir: Path) -> str:
    """Return the command that downloads a model to `models_dir`, and its requirements if it is gated."""
    bare = Path(name).name or name
    is_exportable = name in (EXPORTABLE_MODEL, f"HuggingFaceTB/{EXPORTABLE_MODEL}")
    # A folder that is there is not exported into, and a download completes it.
    if is_exportable and not (models_dir / bare).exists():
        return f"touchline models get {bare}"
    identifier = hub_id(name)
    command = (
        f"hf download {shlex.quote(identifier or f'ORG/{bare}')} --local-dir {shlex.quote(str(models_dir / bare))}"
    )
    if identifier is None:
        return f"{command} (ORG: its organisation on huggingface.co)"
    if is_gated(identifier):
        return f"{command} (gated: first accept its licence at huggingface.co/{identifier} and run `hf auth login`)"
    return command


def cached_snapshot(identifier: str) -> Path | None:
    """Return the folder of a model in the huggingface_hub cache. None if it is incomplete."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    try:
        folders = sorted((cache / f"models--{identifier.replace('/', '--')}" / "snapshots").iterdir())
        return next((folder for folder in reversed(folders) if (folder / "config.json").is_file()), None)
    except OSError:
        return None
