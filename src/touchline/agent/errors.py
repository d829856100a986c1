"""Errors as data, for agents."""

from __future__ import annotations

from typing import Any

from touchline.core.errors import TouchlineError
from touchline.core.json_text import answer_object
from touchline.lint.checked import FindingRow, row_of


def error_data(error: TouchlineError) -> dict[str, Any]:
    """Return `{"error": ...}` with the class of an error, its words and its findings."""
    return {
        "error": {
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "message": error.message,
            "expected": error.expected,
            "hint": error.hint,
            "findings": answer_object(list[FindingRow], [row_of(each) for each in error.findings]),
        }
    }
