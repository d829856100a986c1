"""Secrets in lines that are copied out of a log: shown as `[redacted]`, whatever they were for."""

from __future__ import annotations

import re

_SECRETS = re.compile(
    r"""
      \b(?:hf_[A-Za-z0-9]{16,} | sk-[A-Za-z0-9_-]{16,} | gh[pousr]_[A-Za-z0-9]{20,} | glpat-[\w-]{16,}
        | AKIA[0-9A-Z]{12,} | xox[abprs]-[\w-]{10,} | AIza[\w-]{30,} | eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)
    | (?i:(?<=bearer\s)[\w.~+/=-]{8,})
    """,
    re.VERBOSE,
)
_ASSIGNED = re.compile(
    r"(?i)\b([\w-]*(?:token|api[_-]?key|secret|passwd|password|authorization|wandb_key)[\w-]*['\"]?\s*[=:]\s*['\"]?)"
    r"(?!\s|\d+\b|none\b|null\b|true\b|false\b)([^\s'\",;]{6,})"
)


def redact(text: str) -> str:
    """Return the text without keys, tokens and passwords."""
    return _ASSIGNED.sub(r"\1[redacted]", _SECRETS.sub("[redacted]", text))
