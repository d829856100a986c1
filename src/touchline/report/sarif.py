"""Findings as SARIF 2.1.0, which code review tools show beside the source lines.

Source: OASIS Static Analysis Results Interchange Format (SARIF) Version 2.1.0.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence

from touchline import __version__
from touchline.core.finding import Finding, Severity
from touchline.lint.rule_pages import all_codes, load_page

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~/")
"""Characters of a path that are not escaped in a URI (RFC 3986, 2.3), and its separator."""
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def sarif_text(findings: Sequence[Finding]) -> str:
    """Return one SARIF run, with the rules that its results name."""
    codes = sorted({finding.code for finding in findings})
    driver = {
        "name": "touchline",
        "version": __version__,
        "rules": [_rule(code) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, codes.index(finding.code)) for finding in findings],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _rule(code: str) -> dict[str, object]:
    if code not in all_codes():
        return {"id": code}
    page = load_page(code)
    return {
        "id": code,
        "name": page.name,
        "shortDescription": {"text": page.summary},
        "fullDescription": {"text": page.why},
        "help": {"text": page.fix},
        "defaultConfiguration": {"level": _LEVELS[page.severity]},
    }


def _result(finding: Finding, index: int) -> dict[str, object]:
    text = finding.message if finding.hint is None else f"{finding.message} ({finding.hint})"
    result: dict[str, object] = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": text},
    }
    where = finding.where
    if where is not None:
        place: dict[str, object] = {"artifactLocation": {"uri": _uri(where.path)}}
        if where.line is not None:
            region = {"startLine": where.line}
            place["region"] = region if where.column is None else {**region, "startColumn": where.column}
        result["locations"] = [{"physicalLocation": place}]
    return result


def _uri(path: str) -> str:
    """Return a path as a relative URI reference. Other characters become %XX of their UTF-8 bytes."""
    return "".join(
        each if each in _UNRESERVED else "".join(f"%{byte:02X}" for byte in each.encode(errors="surrogateescape"))
        for each in path
    )
